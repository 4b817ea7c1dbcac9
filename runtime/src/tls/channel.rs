//! The TLS state of a stream whose handshake is done: what is on its way in and out.
//!
//! Owns both directions' keys, ciphertext that was read and not opened, and what is to be sent before
//! the next bytes. Belongs to one [`crate::stream::Stream`] and is used on its thread; it moves to
//! another with it, as plain data.
//!
//! Invariants: one reader and one writer may be at work at once: they share no state but what the
//! reader notes for the writer (an owed KeyUpdate), so nothing of one is lost by the other. Records are
//! sealed in the order in which they are written. No buffer is held while nothing is on its way. The end
//! of the bytes is an end only if the peer said so (close_notify); else it is an error.
//!
//! Deliberately absent: waiting (the stream's), renegotiation (refused), early data. Tested in `channel_tests`
//! with a peer made of the same parts, and end to end.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;

use super::record::{Content, Fault, HEADER, Keys, MAX_PLAIN, OVERHEAD, header};
use crate::buffers::Buffer;

/// Ciphertext that one read asks for at least: a record of the longest kind.
const READ: usize = MAX_PLAIN + 256 + HEADER;
/// Plaintext that goes out by one write: four records.
const WRITE: usize = 4 * MAX_PLAIN;
/// Longest message after the handshake: a ticket may hold a certificate chain. Servers get none but
/// KeyUpdate.
const MAX_MESSAGE: usize = 64 * 1024;
/// Records in a row that bring no data. More are an attack on our time.
const MAX_IDLE_RECORDS: u8 = 32;
/// KeyUpdates that a peer may send, one more for each [`UPDATE_PER`] bytes of data: each costs us more than
/// it costs the peer.
const MAX_UPDATES: u32 = 32;
const UPDATE_PER: u64 = 64 * 1024;
/// Tickets that a connection takes; then what they are made from is given up.
const MAX_TICKETS: u8 = 2;

const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
const NO_RENEGOTIATION: u8 = 100;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What a client remembers to take tickets with.
pub type Resumption = KernelConnection<ClientConnectionData>;

/// What reading came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// So many bytes of data.
    Bytes(usize),
    /// The peer said that no more comes.
    End,
    /// Ciphertext must be read.
    More,
}

struct Rx {
    keys: Keys,
    /// Ciphertext; at its front, `plain` bytes of data that were opened in place, and `trash` behind.
    carry: Buffer,
    plain: usize,
    trash: usize,
    /// A message after the handshake that is not whole.
    message: Vec<u8>,
    idle_records: u8,
    ended: bool,
    /// Bytes were lost, or the peer broke the rules: nothing more can be read.
    broken: Option<Fault>,
    /// A read is under way, or was dropped and took bytes with it.
    reading: bool,
    resumption: Option<Box<Resumption>>,
    tickets: u8,
    /// KeyUpdates so far, and bytes of data.
    updates: u32,
    data: u64,
}

struct Tx {
    keys: Keys,
    /// Sealed already, to be sent before all else: the end of a handshake.
    pending: Buffer,
    /// close_notify or a fatal alert is out.
    closed: bool,
}

/// See the module.
pub struct Channel {
    rx: RefCell<Rx>,
    tx: RefCell<Tx>,
    /// A write is under way, or was dropped half-way.
    writing: Cell<bool>,
    /// A KeyUpdate is owed (RFC 8446, 4.6.3).
    owes_update: Cell<bool>,
    /// no_renegotiation is owed (RFC 5246, 7.2.2).
    owes_refusal: Cell<bool>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}

impl Channel {
    /// After a handshake: `carry` are bytes that were read behind it, `pending` what is still to be sent.
    pub fn new(
        rx: Keys,
        tx: Keys,
        carry: Buffer,
        pending: Buffer,
        resumption: Option<Box<Resumption>>,
    ) -> Self {
        Self {
            rx: RefCell::new(Rx {
                keys: rx,
                carry,
                plain: 0,
                trash: 0,
                message: Vec::new(),
                idle_records: 0,
                ended: false,
                broken: None,
                reading: false,
                resumption,
                tickets: 0,
                updates: 0,
                data: 0,
            }),
            tx: RefCell::new(Tx {
                keys: tx,
                pending,
                closed: false,
            }),
            writing: Cell::new(false),
            owes_update: Cell::new(false),
            owes_refusal: Cell::new(false),
        }
    }

    /// Opens what is there into `out`.
    ///
    /// # Errors
    /// The peer broke the rules, or a read was dropped before.
    pub fn take(&self, out: &mut Buffer) -> io::Result<Took> {
        let mut rx = self.rx.borrow_mut();
        if let Some(fault) = rx.broken {
            return Err(fault.into());
        }
        match rx.take(out, self) {
            Ok(took) => Ok(took),
            Err(Failed::Fault(fault)) => {
                rx.broken = Some(fault);
                Err(fault.into())
            }
            Err(Failed::Alert) => {
                rx.broken = Some(Fault::Unexpected);
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    /// The alert to send after [`Channel::take`] has failed by the peer's fault.
    pub fn fault(&self) -> Option<Fault> {
        self.rx.borrow().broken
    }

    /// A buffer to read ciphertext into, with what is there of a record at its front. `wanted` is how
    /// much data the reader has room for. Comes back by `Channel::read`.
    pub fn begin_read(&self, wanted: usize) -> io::Result<Buffer> {
        let mut rx = self.rx.borrow_mut();
        if rx.reading {
            return Err(Fault::Internal.into());
        }
        rx.reading = true;
        let mut carry = std::mem::take(&mut rx.carry);
        if carry.capacity() == 0 {
            // More than a record at once where the reader has room for it.
            let more = if wanted > 2 * MAX_PLAIN {
                wanted + 4 * OVERHEAD
            } else {
                READ
            };
            carry = Buffer::with_capacity(more);
        }
        let missing = READ.saturating_sub(carry.len());
        carry.reserve(missing.max(1));
        Ok(carry)
    }

    /// Takes the buffer of [`Channel::begin_read`] back.
    pub fn end_read(&self, carry: Buffer) {
        let mut rx = self.rx.borrow_mut();
        rx.reading = false;
        rx.carry = carry;
        rx.release();
    }

    /// Whether a read would give something without waiting: data, the end, or an error.
    pub fn is_ready(&self) -> bool {
        let rx = self.rx.borrow();
        rx.plain > 0 || rx.ended || rx.broken.is_some() || rx.has_record()
    }

    /// Whether its keys should not be used for much longer and can't be changed: those of TLS 1.2.
    pub fn is_worn(&self) -> bool {
        self.rx.borrow().keys.is_worn() || self.tx.borrow().keys.is_worn()
    }

    /// Whether ciphertext is there that waits for more.
    pub fn has_part(&self) -> bool {
        !self.rx.borrow().carry.is_empty()
    }

    /// Takes ciphertext that came while nobody read. False if it was anything but messages of TLS
    /// itself, such as tickets.
    pub fn take_idle(&self, carry: Buffer) -> bool {
        self.end_read(carry);
        let mut none = Buffer::take();
        let quiet = matches!(self.take(&mut none), Ok(Took::More));
        quiet && none.is_empty()
    }

    /// Seals from the front of `data` what one write takes, behind what is owed. Call it until `data`
    /// is empty, and say [`Channel::end_write`] when all is out.
    ///
    /// # Errors
    /// The stream was closed for writing, or a write was dropped half-way.
    pub fn seal(&self, data: &mut Buffer) -> io::Result<Buffer> {
        let mut tx = self.tx.borrow_mut();
        if tx.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut out = std::mem::take(&mut tx.pending);
        let len = data.len().min(WRITE);
        let records = len.div_ceil(MAX_PLAIN) + 2;
        let size = out.len() + len + records * OVERHEAD;
        if out.capacity() < size {
            let mut larger = Buffer::with_capacity(size);
            larger.extend_from_slice(out.as_slice());
            out = larger;
        }
        tx.owed(self, &mut out)?;
        for plain in data.as_slice()[..len].chunks(MAX_PLAIN) {
            tx.keys.seal(Content::Data, plain, &mut out)?;
        }
        data.consume(len);
        Ok(out)
    }

    /// A write begins; false if another is under way or was dropped half-way.
    pub fn begin_write(&self) -> bool {
        !self.writing.replace(true)
    }

    /// A write has ended, and all that was sealed is out.
    pub fn end_write(&self) {
        self.writing.set(false);
    }

    /// The last bytes of this direction: what is pending, and close_notify or the alert of a fault.
    /// `None` where a write is under way, or they were made before.
    pub fn farewell(&self, fault: Option<Fault>) -> Option<Buffer> {
        if self.writing.get() {
            return None;
        }
        let mut tx = self.tx.borrow_mut();
        if std::mem::replace(&mut tx.closed, true) {
            return None;
        }
        let mut out = std::mem::take(&mut tx.pending);
        let alert = match fault {
            Some(fault) => [FATAL, fault as u8],
            None => [WARNING, CLOSE_NOTIFY],
        };
        tx.keys.seal(Content::Alert, &alert, &mut out).ok()?;
        Some(out)
    }

    /// Gives all buffers back that hold nothing, before the stream idles.
    pub fn release(&self) {
        self.rx.borrow_mut().release();
    }

    /// Fits what is still held into as little memory as can be, before it is parked or moved.
    pub fn shrink(&self) {
        let mut rx = self.rx.borrow_mut();
        rx.release();
        for buffer in [&mut rx.carry, &mut self.tx.borrow_mut().pending] {
            if !buffer.is_empty() {
                *buffer = buffer.exact();
            }
        }
        rx.message.shrink_to_fit();
    }
}

enum Failed {
    Fault(Fault),
    /// The peer's.
    Alert,
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Rx {
    fn has_record(&self) -> bool {
        let bytes = self
            .carry
            .as_slice()
            .get(self.plain + self.trash..)
            .unwrap_or_default();
        header(bytes).is_some_and(|h| bytes.len() >= HEADER + h.payload)
    }

    fn release(&mut self) {
        if self.carry.is_empty() && self.carry.capacity() > 0 {
            self.carry = Buffer::empty();
        }
    }

    fn take(&mut self, out: &mut Buffer, channel: &Channel) -> Result<Took, Failed> {
        let before = out.len();
        loop {
            if self.plain > 0 {
                let n = self.plain.min(out.spare_len());
                out.extend_from_slice(&self.carry.as_slice()[..n]);
                self.plain -= n;
                self.carry.consume(n);
                if self.plain > 0 {
                    break;
                }
                self.carry.consume(std::mem::take(&mut self.trash));
            }
            if self.ended {
                break;
            }
            let Some(head) = header(self.carry.as_slice()) else {
                break;
            };
            self.keys.check(head)?;
            let whole = HEADER + head.payload;
            if self.carry.len() < whole {
                break;
            }
            let taken = out.len() - before;
            if out.spare_len() >= head.payload {
                let record = &self.carry.as_slice()[..whole];
                let (content, n) = self.keys.open(record, out.spare())?;
                if content == Content::Data {
                    out.advance(n);
                    self.note_data(n)?;
                } else {
                    let message = out.spare()[..n].to_vec();
                    self.control(content, &message, channel)?;
                }
                self.carry.consume(whole);
            } else if taken > 0 {
                break;
            } else {
                self.open_aside(whole, channel)?;
            }
        }
        Ok(match out.len() - before {
            0 if self.ended => Took::End,
            0 => Took::More,
            n => Took::Bytes(n),
        })
    }

    /// Opens the record at the front where the reader has not room for all of it.
    fn open_aside(&mut self, whole: usize, channel: &Channel) -> Result<(), Failed> {
        let mut aside = Buffer::with_capacity(whole);
        let record = &self.carry.as_slice()[..whole];
        let (content, n) = self.keys.open(record, aside.spare())?;
        aside.advance(n);
        if content == Content::Data {
            self.note_data(n)?;
            self.carry.as_mut_slice()[..n].copy_from_slice(aside.as_slice());
            self.plain = n;
            self.trash = whole - n;
            if n == 0 {
                self.carry.consume(std::mem::take(&mut self.trash));
            }
        } else {
            self.control(content, aside.as_slice(), channel)?;
            self.carry.consume(whole);
        }
        Ok(())
    }

    fn note_data(&mut self, n: usize) -> Result<(), Fault> {
        if !self.message.is_empty() {
            // A message may not be interleaved with others (RFC 8446, 5.1).
            return Err(Fault::Unexpected);
        }
        if n > 0 {
            self.idle_records = 0;
            self.data += n as u64;
            Ok(())
        } else {
            self.note_idle()
        }
    }

    fn note_idle(&mut self) -> Result<(), Fault> {
        self.idle_records += 1;
        if self.idle_records > MAX_IDLE_RECORDS {
            return Err(Fault::Unexpected);
        }
        Ok(())
    }

    fn control(&mut self, content: Content, bytes: &[u8], channel: &Channel) -> Result<(), Failed> {
        self.note_idle()?;
        if content == Content::Alert {
            return self.alert(bytes);
        }
        if bytes.is_empty() || self.message.len() + bytes.len() > MAX_MESSAGE {
            return Err(Fault::Unexpected.into());
        }
        if !self.keys.is_13() {
            // A ClientHello or HelloRequest: the same handshake again, which we refuse.
            channel.owes_refusal.set(true);
            return Ok(());
        }
        self.message.extend_from_slice(bytes);
        let mut all = std::mem::take(&mut self.message);
        let mut at = 0;
        while let Some(&[kind, a, b, c]) = all.get(at..at + 4) {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            self.announced(kind, len)?;
            let Some(body) = all.get(at + 4..at + 4 + len) else {
                break;
            };
            at += 4 + len;
            let last = at == all.len();
            self.message_13(kind, body, last, channel)?;
        }
        all.drain(..at);
        self.message = all;
        Ok(())
    }

    /// Judges a message by its header, before the rest of it is waited for.
    fn announced(&self, kind: u8, len: usize) -> Result<(), Fault> {
        let client = self.resumption.is_some() || self.tickets > 0;
        match kind {
            KEY_UPDATE if len == 1 => Ok(()),
            NEW_SESSION_TICKET if client && len <= MAX_MESSAGE => Ok(()),
            KEY_UPDATE | NEW_SESSION_TICKET if client || kind == KEY_UPDATE => Err(Fault::Decode),
            _ => Err(Fault::Unexpected),
        }
    }

    fn note_update(&mut self) -> Result<(), Fault> {
        self.updates += 1;
        if u64::from(self.updates) > u64::from(MAX_UPDATES) + self.data / UPDATE_PER {
            return Err(Fault::Unexpected);
        }
        Ok(())
    }

    fn alert(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let &[level, description] = bytes else {
            return Err(Fault::Decode.into());
        };
        match description {
            CLOSE_NOTIFY => {
                self.ended = true;
                Ok(())
            }
            USER_CANCELED => Ok(()),
            _ if level == WARNING && !self.keys.is_13() => Ok(()),
            _ => Err(Failed::Alert),
        }
    }

    fn message_13(
        &mut self,
        kind: u8,
        body: &[u8],
        last: bool,
        channel: &Channel,
    ) -> Result<(), Failed> {
        match (kind, body) {
            // The key changes behind this record (RFC 8446, 5.1).
            (KEY_UPDATE, _) if !last => Err(Fault::Unexpected.into()),
            (KEY_UPDATE, &[asks @ (0 | 1)]) => {
                self.note_update()?;
                self.keys.update()?;
                if asks == 1 {
                    channel.owes_update.set(true);
                }
                Ok(())
            }
            (KEY_UPDATE, _) => Err(Fault::Decode.into()),
            (NEW_SESSION_TICKET, _) if self.resumption.is_some() => {
                if let Some(resumption) = &mut self.resumption {
                    // The library reads an upstream's bytes: whatever it does must not end the core.
                    catch_unwind(AssertUnwindSafe(|| {
                        resumption.handle_new_session_ticket(body)
                    }))
                    .map_err(|_| Fault::Internal)?
                    .map_err(|_| Fault::Decode)?;
                }
                self.tickets += 1;
                if self.tickets >= MAX_TICKETS {
                    self.resumption = None;
                }
                Ok(())
            }
            // One that comes after we have enough.
            (NEW_SESSION_TICKET, _) if self.tickets >= MAX_TICKETS => Ok(()),
            _ => Err(Fault::Unexpected.into()),
        }
    }
}

impl Tx {
    /// Seals what must go out before the next data.
    fn owed(&mut self, channel: &Channel, out: &mut Buffer) -> io::Result<()> {
        if channel.owes_refusal.take() {
            let alert = [WARNING, NO_RENEGOTIATION];
            self.keys.seal(Content::Alert, &alert, out)?;
        }
        let spent = self.keys.is_spent();
        if channel.owes_update.take() || (spent && self.keys.is_13()) {
            self.keys
                .seal(Content::Handshake, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
            self.keys.update()?;
        } else if spent {
            return Err(Fault::Internal.into());
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
