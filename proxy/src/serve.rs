//! THE path: what happens to one request, in order.
//!
//! Owns nothing. Runs on a data core, once a request. A request goes through its states by value
//! (`Parsed`, `Identified`, `Attached`, `Pinned`, `Answered`): none can be made without the step
//! before it. Whatever ends a request early is a [`Refusal`](crate::deliver::page::Refusal), and
//! becomes an answer in one place.

use crate::accept::{Conn, moving};
use crate::core::Core;
use crate::{deliver, forward, h2, identify, parse, pin, session};

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next request.
    Keep,
    /// Nothing more; all that was sent has been read.
    Close,
    /// Nothing more, and what the client still sends is to be read before the close.
    Linger,
    /// It is an HTTP/2 connection.
    Http2,
    /// Nothing was done yet: the connection goes on at the core that owns its session.
    Move(usize),
}

/// Serves the request whose first bytes are waiting on `conn`.
pub async fn serve(core: &'static Core, conn: &mut Conn) -> Next {
    let mut record = crate::accesslog::Record::default();
    match path(core, conn, &mut record).await {
        Ok(next) => next,
        Err(_) if !record.parsed && h2::begins(conn) => Next::Http2,
        Err(refusal) => Box::pin(deliver::page::refuse(core, conn, refusal, &mut record)).await,
    }
}

async fn path(
    core: &'static Core,
    conn: &mut Conn,
    record: &mut crate::accesslog::Record,
) -> Result<Next, deliver::page::Refusal> {
    let parsed = parse::read::read(core, conn, record).await?;
    let identified = identify::identify(core, conn, parsed, record)?;
    if let Some(owner) = moving::destination(core, conn, &identified) {
        return Ok(Next::Move(owner));
    }
    let attached = session::attach(core, conn, identified, record).await?;
    let pinned = pin::stage::pin(core, conn, attached, record).await?;
    let answered = forward::forward(core, conn, pinned, record).await?;
    deliver::deliver(core, conn, answered, record).await
}
