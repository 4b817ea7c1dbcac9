//! One stream of a client: what stands where HTTP/1.1 has its socket.
//!
//! Owns the stream's two halves and its deadline. Used by the stream's own task.
//!
//! Invariants: the head of an answer goes out once, and content after it; a stream whose answer did
//! not go out whole is reset when its task ends, so that nobody takes a part for the whole; its slot
//! goes before the connection's descriptor does. Tested end to end.

use std::cell::{OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::{Expire, Slot};
use holdfast_runtime::stream::Stream;
use http::HeaderMap;

use super::flow::{Chunk, Inflow, Outflow, Pace};
use super::head;

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    slot: Slot,
    inflow: Inflow,
    respond: RefCell<SendResponse<Chunk>>,
    outflow: OnceCell<Outflow>,
    pace: std::cell::Cell<Option<Pace>>,
    state: std::cell::Cell<State>,
    /// Why the request is refused, if it could not be said as text.
    pub fault: Option<head::Fault>,
    /// It is an extended CONNECT (RFC 8441): any 2xx tells the client that its tunnel stands.
    pub tunnel: bool,
    /// Last: the descriptor outlives the slot.
    wire: Rc<Stream>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No head yet.
    Asked,
    /// The head is out.
    Answering,
    /// All is out.
    Ended,
}

impl Exchange {
    /// A stream that was just opened over the connection `wire`.
    pub fn new(
        wire: Rc<Stream>,
        body: RecvStream,
        respond: SendResponse<Chunk>,
        fault: Option<head::Fault>,
        tunnel: bool,
    ) -> Self {
        Self {
            slot: Slot::new(wire.raw_fd()),
            inflow: Inflow::new(body),
            respond: RefCell::new(respond),
            outflow: OnceCell::new(),
            pace: std::cell::Cell::new(None),
            state: std::cell::Cell::new(State::Asked),
            fault,
            tunnel,
            wire,
        }
    }

    /// The connection's socket.
    pub fn wire(&self) -> &Rc<Stream> {
        &self.wire
    }

    /// A deadline of its own for one who reads beside a writer.
    pub fn new_slot(&self) -> Slot {
        Slot::new(self.wire.raw_fd())
    }

    /// Sets the deadline of what is written.
    pub fn arm(&self, after: Duration) {
        self.pace.set(None);
        self.slot.arm(after, Expire::Wake);
    }

    /// Sets how fast the client must take what is written.
    pub fn arm_pace(&self, pace: Pace) {
        self.pace.set(Some(pace));
    }

    /// Takes it away.
    pub fn disarm(&self) {
        self.slot.disarm();
    }

    /// See [`Inflow::read`].
    pub async fn read(&self, slot: &Slot, input: Buffer) -> (io::Result<usize>, Buffer) {
        self.inflow.read(slot, input).await
    }

    /// Whether the request has ended.
    pub fn at_end(&self) -> bool {
        self.inflow.is_end()
    }

    /// See [`Inflow::trailers`].
    pub async fn trailers(&self, slot: &Slot) -> Option<HeaderMap> {
        self.inflow.trailers(slot).await
    }

    /// Sends an interim answer. What can't be said is not.
    pub fn send_interim(&self, text: &[u8]) {
        if let Some(response) = head::response(Bytes::copy_from_slice(text)) {
            // The stream may be gone: the answer's head will tell.
            let _ = self.respond.borrow_mut().send_informational(response);
        }
    }

    /// Sends the head of the answer; `end` says that nothing follows.
    ///
    /// # Errors
    /// HTTP/2 can't say it (`InvalidData`), or the stream is gone.
    pub fn send_head(&self, text: &[u8], end: bool) -> io::Result<()> {
        let response =
            head::response(Bytes::copy_from_slice(text)).ok_or(io::ErrorKind::InvalidData)?;
        let stream = self
            .respond
            .borrow_mut()
            .send_response(response, end)
            .map_err(|e| io::Error::new(io::ErrorKind::ConnectionReset, e))?;
        self.state
            .set(if end { State::Ended } else { State::Answering });
        // The head goes out once.
        let _ = self.outflow.set(Outflow::new(stream));
        Ok(())
    }

    /// Sends content; `end` says that nothing follows.
    ///
    /// # Errors
    /// See [`Outflow::write`].
    pub async fn write(&self, out: Buffer, end: bool) -> io::Result<()> {
        if self.state.get() == State::Ended && out.is_empty() {
            return Ok(());
        }
        let outflow = self.outflow.get().ok_or(io::ErrorKind::NotConnected)?;
        outflow.write(&self.slot, self.pace.get(), out, end).await?;
        if end {
            self.state.set(State::Ended);
        }
        Ok(())
    }

    /// Says that nothing more comes, but for these trailers.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn end(&self, trailers: Option<HeaderMap>) -> io::Result<()> {
        if self.state.get() == State::Ended {
            return Ok(());
        }
        let outflow = self.outflow.get().ok_or(io::ErrorKind::NotConnected)?;
        self.state.set(State::Ended);
        outflow.end(trailers)
    }

    /// Ends the stream; one that is not whole is reset. The last act of its task.
    pub fn close(&self) {
        if self.state.get() != State::Ended {
            self.reset(Reason::INTERNAL_ERROR);
        }
    }

    /// Resets the stream.
    pub fn reset(&self, reason: Reason) {
        self.state.set(State::Ended);
        match self.outflow.get() {
            Some(outflow) => outflow.reset(reason),
            None => self.respond.borrow_mut().send_reset(reason),
        }
    }

    /// Ready when the client has reset the stream, or its connection is gone.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.outflow.get() {
            Some(outflow) => outflow.poll_reset(cx),
            None => self.respond.borrow_mut().poll_reset(cx).map(drop),
        }
    }

    /// Waits for `work`, but not past the reset of the stream: then `None`, and `work` is dropped.
    pub async fn unless_gone<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_gone(cx).map(|()| None),
        })
        .await
    }
}
