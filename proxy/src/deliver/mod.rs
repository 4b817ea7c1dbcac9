//! Answering the client: session headers carried out, head rewritten, body streamed.
//!
//! Owns the end of an exchange: what becomes of both connections. Runs on a data core.
//!
//! Invariants: what an upstream asks of the session is carried out before the first byte of its
//! response goes on; an upstream connection is kept only if both messages ended where they should.

pub mod body;
pub mod frames;
pub mod head;
pub mod page;
pub mod tunnel;

use std::pin::pin;

use holdfast_runtime::buffers::Buffer;

use crate::accept::{Client, Conn, farewell};
use crate::accesslog::Record;
use crate::core::Core;
use crate::forward::{Answered, Exchange, body_refusal, pool};
use crate::metrics::Metric;
use crate::parse::Framing;
use crate::serve::Next;
use crate::session;
use body::{End, Plan};
use page::Refusal;

/// Delivers an answer.
pub async fn deliver(
    core: &'static Core,
    conn: &mut Conn,
    mut answered: Answered,
    record: &mut Record,
) -> Result<Next, Refusal> {
    let tunnel = conn.client.h2().is_some_and(|client| client.tunnel);
    if tunnel && matches!(conn.response.status, 200..=299) {
        core.metrics().count(Metric::UpstreamMalformed);
        return Err(Refusal::upstream(
            502,
            "the upstream did not switch protocols",
        ));
    }
    let conclusion = session::conclude(core, conn, &mut answered, record).await?;
    let status = conn.response.status;
    record.status = status;
    let mut pump = answered.exchange.pump.take();
    if let Some(error) = pump.as_ref().and_then(|p| p.state.error.get())
        && error != crate::forward::body::BodyError::UpstreamGone
    {
        return Err(body_refusal(error));
    }
    let plan = Plan::new(core, conn, pump.as_ref().is_none_or(|p| p.done()));
    let mut out = Buffer::take();
    head::write(
        core,
        conn,
        answered.exchange.input.as_slice(),
        &conclusion,
        &plan,
        &mut out,
    );
    answered.exchange.input.consume(conn.response.len);
    let head_len = out.len() as u64;
    if let Client::H2(client) = &conn.client {
        let empty = match plan.framing {
            Framing::UntilClose => answered.exchange.up.link.h2().is_some_and(|up| up.at_end()),
            framing => matches!(framing, Framing::None | Framing::Length(0)),
        };
        let bare = empty && status != 101;
        if client.send_head(out.as_slice(), bare).is_err() {
            return Err(Refusal::gone());
        }
        core.metrics().add(Metric::BytesToClients, head_len);
        out.clear();
    }
    if status == 101 {
        return Ok(Box::pin(tunnel::run(core, conn, answered, out, record)).await);
    }
    let head_len = head_len.min(out.len() as u64);
    let input = std::mem::take(&mut answered.exchange.input);
    // Pinned in its place: a future that is passed on is stored once more for each hand.
    let end = {
        let mut sending = pin!(body::send(
            core,
            conn,
            &answered.exchange.up,
            &plan,
            input,
            out,
            &mut record.bytes_out,
        ));
        match pump.as_mut() {
            None => sending.as_mut().await,
            Some(pump) => pump.beside(sending.as_mut()).await,
        }
    };
    record.bytes_out = record.bytes_out.saturating_sub(head_len);
    Ok(finish(core, conn, answered, pump, &plan, end, record))
}

fn finish(
    core: &'static Core,
    conn: &mut Conn,
    answered: Answered,
    pump: Option<crate::forward::body::Pump>,
    plan: &Plan,
    end: End,
    record: &mut Record,
) -> Next {
    match end {
        End::Client => core.metrics().count(Metric::ClientAborted),
        End::Upstream => {
            core.metrics().count(Metric::UpstreamTruncated);
            record.truncated = true;
        }
        End::Whole(_) => {}
    }
    let request_done = pump.as_ref().is_none_or(|p| p.done());
    let whole = answered.exchange.consumed.saturating_sub(conn.head.len) as u64;
    record.bytes_in = pump.as_ref().map_or(whole, |p| p.state.bytes.get());
    core.log(conn, record);
    let Answered {
        at,
        pinned,
        exchange: Exchange { up, consumed, .. },
    } = answered;
    match &pump {
        None => conn.input.consume(consumed),
        Some(pump) => conn.input = pump.state.rest.take(),
    }
    drop(pump);
    drop(pinned);
    if end == End::Whole(true) && request_done && conn.response.keep_alive {
        pool::checkin(core, &conn.generation, at, up);
    }
    match end {
        End::Whole(_) if plan.keep && request_done => Next::Keep,
        // It asked for the close, so it sends nothing more that a reset could answer.
        End::Whole(_) if request_done && !conn.head.keep_alive && conn.input.is_empty() => {
            farewell(conn);
            Next::Close
        }
        End::Whole(_) => Next::Linger,
        // The client must notice that the answer is not whole: a close that is no end of chunks.
        End::Client | End::Upstream => Next::Close,
    }
}
