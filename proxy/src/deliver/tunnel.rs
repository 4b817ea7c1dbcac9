//! A connection that became something else (101): bytes go both ways until both ends are through.
//!
//! Owns both sockets from the 101 on. Runs on a data core. A half that ends is closed towards the
//! other; the tunnel ends when both are, or when nothing moved either way for `tunnelTimeout`.
//! It holds no buffer while nothing moves.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::Shutdown;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::{Expire, Slot};
use holdfast_runtime::stream::Stream;

use crate::accept::Conn;
use crate::accesslog::Record;
use crate::core::Core;
use crate::forward::Answered;
use crate::metrics::Metric;
use crate::serve::Next;
use crate::text::Sink;

/// Relays until the end.
pub async fn run(
    core: &'static Core,
    conn: &mut Conn,
    mut answered: Answered,
    out: Buffer,
    record: &mut Record,
) -> Next {
    core.metrics().count(Metric::Tunnels);
    let (written, mut out) = conn.stream.write_all(out).await;
    if written.is_err() {
        core.log(conn, record);
        return Next::Close;
    }
    conn.input.consume(answered.exchange.consumed);
    out.put(answered.exchange.input.as_slice());
    let carried = std::mem::take(&mut conn.input);
    answered.exchange.input = Buffer::empty();
    let clock = Clock {
        limit: conn.generation.limits().tunnel_timeout,
        client: conn.stream.slot(),
        upstream: answered.exchange.up.stream.slot(),
    };
    clock.touch();
    let (sent_up, sent_down) = (Cell::new(0), Cell::new(0));
    let up = half(
        &clock,
        &conn.stream,
        &answered.exchange.up.stream,
        carried,
        &sent_up,
    );
    let down = half(
        &clock,
        &answered.exchange.up.stream,
        &conn.stream,
        out,
        &sent_down,
    );
    both(up, down).await;
    core.metrics().add(Metric::BytesFromClients, sent_up.get());
    core.metrics().add(Metric::BytesToClients, sent_down.get());
    record.bytes_in += sent_up.get();
    record.bytes_out += sent_down.get();
    core.log(conn, record);
    Next::Close
}

struct Clock<'a> {
    limit: Duration,
    client: &'a Slot,
    upstream: &'a Slot,
}

impl Clock<'_> {
    fn touch(&self) {
        if !self.limit.is_zero() {
            self.client.arm(self.limit, Expire::Both);
            self.upstream.arm(self.limit, Expire::Both);
        }
    }
}

async fn half(
    clock: &Clock<'_>,
    from: &Stream,
    to: &Stream,
    mut carried: Buffer,
    sent: &Cell<u64>,
) {
    loop {
        if !carried.is_empty() {
            let n = carried.len() as u64;
            if to.write_all(std::mem::take(&mut carried)).await.0.is_err() {
                // Nobody reads what comes further: let the sender know.
                from.shutdown(Shutdown::Both).ok();
                return;
            }
            sent.set(sent.get() + n);
            clock.touch();
        }
        if from.readable().await.is_err() {
            break;
        }
        let (read, buffer) = from.read(Buffer::take()).await;
        match read {
            Ok(n) if n > 0 => carried = buffer,
            Ok(_) => break,
            Err(_) => {
                to.shutdown(Shutdown::Both).ok();
                return;
            }
        }
    }
    to.shutdown(Shutdown::Write).ok();
}

async fn both(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut a_done, mut b_done) = (false, false);
    poll_fn(|cx| {
        a_done = a_done || a.as_mut().poll(cx).is_ready();
        b_done = b_done || b.as_mut().poll(cx).is_ready();
        if a_done && b_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
