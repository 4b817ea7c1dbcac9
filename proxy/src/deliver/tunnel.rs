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

use crate::accept::{Client, Conn};
use crate::accesslog::Record;
use crate::core::Core;
use crate::forward::Answered;
use crate::forward::link::Link;
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
    let (written, mut out) = conn.client.write(out, false).await;
    if written.is_err() {
        core.log(conn, record);
        return Next::Close;
    }
    conn.input.consume(answered.exchange.consumed);
    out.put(answered.exchange.input.as_slice());
    let carried = std::mem::take(&mut conn.input);
    answered.exchange.input = Buffer::empty();
    let Link::Socket(upstream) = &answered.exchange.up.link else {
        core.log(conn, record);
        return Next::Close;
    };
    let relay = Relay {
        limit: conn.generation.limits().tunnel_timeout,
        client: &conn.client,
        from_client: conn.client.new_slot(),
        upstream,
    };
    relay.touch();
    let (sent_up, sent_down) = (Cell::new(0), Cell::new(0));
    both(relay.up(carried, &sent_up), relay.down(out, &sent_down)).await;
    core.metrics().add(Metric::BytesFromClients, sent_up.get());
    core.metrics().add(Metric::BytesToClients, sent_down.get());
    record.bytes_in += sent_up.get();
    record.bytes_out += sent_down.get();
    core.log(conn, record);
    Next::Close
}

struct Relay<'a> {
    limit: Duration,
    client: &'a Client,
    /// The deadline of what is read from the client, where that is a stream.
    from_client: Slot,
    upstream: &'a Stream,
}

impl Relay<'_> {
    fn touch(&self) {
        if self.limit.is_zero() {
            return;
        }
        self.client.arm(self.limit);
        self.upstream.arm(self.limit, Expire::Both);
        if self.client.h2().is_some() {
            self.client.arm_read(&self.from_client, self.limit);
        }
    }

    /// From the client to the upstream.
    async fn up(&self, mut carried: Buffer, sent: &Cell<u64>) {
        loop {
            if !carried.is_empty() {
                let n = carried.len() as u64;
                let out = std::mem::take(&mut carried);
                if self.upstream.write_all(out).await.0.is_err() {
                    // Nobody reads what comes further: let the sender know.
                    self.client.shutdown(Shutdown::Both);
                    return;
                }
                sent.set(sent.get() + n);
                self.touch();
            }
            if let Client::Socket(client) = self.client
                && client.readable().await.is_err()
            {
                break;
            }
            let (read, buffer) = self.client.read(&self.from_client, Buffer::empty()).await;
            match read {
                Ok(n) if n > 0 => carried = buffer,
                Ok(_) => break,
                Err(_) => {
                    self.upstream.shutdown(Shutdown::Both).ok();
                    return;
                }
            }
        }
        self.upstream.shutdown(Shutdown::Write).ok();
    }

    /// From the upstream to the client.
    async fn down(&self, mut carried: Buffer, sent: &Cell<u64>) {
        loop {
            if !carried.is_empty() {
                let n = carried.len() as u64;
                let out = std::mem::take(&mut carried);
                if self.client.write(out, false).await.0.is_err() {
                    self.upstream.shutdown(Shutdown::Both).ok();
                    return;
                }
                sent.set(sent.get() + n);
                self.touch();
            }
            if self.upstream.readable().await.is_err() {
                break;
            }
            let (read, buffer) = self.upstream.read(Buffer::take()).await;
            match read {
                Ok(n) if n > 0 => carried = buffer,
                Ok(_) => break,
                Err(_) => {
                    self.client.shutdown(Shutdown::Both);
                    return;
                }
            }
        }
        match self.client {
            Client::Socket(client) => {
                client.shutdown(Shutdown::Write).ok();
            }
            Client::H2(client) => {
                client.end(None).ok();
            }
        }
    }
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
