//! Finding the lines of a head, over as many reads as it takes.
//!
//! Owns the position in a head that is still arriving. Invariants: every byte is looked at once,
//! however it was split; a bare CR, a bare LF or another control byte is refused as soon as it is
//! seen, and a line as soon as it is complete; no head grows past the limits.

use holdfast_runtime::bytes::{BLOCK, marks};

use super::{HeadLimits, Progress, Refusal};

/// Most empty lines skipped before a request line (RFC 9112, section 2.2, asks for one).
const MAX_EMPTY: u8 = 4;

/// How far a head has been read. Make one for each direction of a connection, and hand it in again
/// with the longer buffer after [`Progress::Partial`]; the buffer must begin at the same byte.
/// After [`Progress::Complete`] or a refusal it starts anew by itself.
#[derive(Debug, Clone)]
pub struct HeadScan {
    /// Bytes looked at.
    pos: usize,
    /// Where the current line begins.
    start: usize,
    /// First colon of the current line, or [`NONE`].
    colon: usize,
    /// Lines completed, the start line included.
    lines: usize,
    /// Empty lines skipped.
    empty: u8,
}

/// No colon yet.
const NONE: usize = usize::MAX;

impl Default for HeadScan {
    fn default() -> HeadScan {
        HeadScan {
            pos: 0,
            start: 0,
            colon: NONE,
            lines: 0,
            empty: 0,
        }
    }
}

/// Who takes the lines.
pub(super) trait Sink {
    /// May empty lines stand before the first?
    const SKIPS_EMPTY: bool;
    /// Is there a start line? (Trailers have none.)
    const HAS_START: bool;
    /// The start line is `buf[start..end]`, CRLF excluded.
    fn first(
        &mut self,
        buf: &[u8],
        start: usize,
        end: usize,
        limits: &HeadLimits,
    ) -> Result<(), Refusal>;
    /// A header line is `buf[start..end]`, CRLF included; `colon` is its first colon, or past
    /// the buffer.
    fn line(
        &mut self,
        buf: &[u8],
        start: usize,
        colon: usize,
        end: usize,
        limits: &HeadLimits,
    ) -> Result<(), Refusal>;
    /// All is there: the head ends at `end`.
    fn finish(&mut self, buf: &[u8], end: usize) -> Result<(), Refusal>;
    /// What to say when the bound on bytes is passed within the start line.
    fn long_start(&self) -> Refusal;
}

impl HeadScan {
    /// At the start of a head.
    pub fn new() -> HeadScan {
        HeadScan::default()
    }

    /// Forgets a head that was begun.
    pub fn reset(&mut self) {
        *self = HeadScan::default();
    }

    /// Nothing has been looked at yet.
    pub fn is_fresh(&self) -> bool {
        self.pos == 0
    }

    /// Bytes of the buffer looked at so far.
    pub fn looked_at(&self) -> usize {
        self.pos
    }

    /// The start line has been read.
    pub fn has_start_line(&self) -> bool {
        self.lines > 0
    }

    pub(super) fn drive<S: Sink>(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        sink: &mut S,
    ) -> Result<Progress, Refusal> {
        let result = self.run(buf, limits, sink);
        if !matches!(result, Ok(Progress::Partial)) {
            self.reset();
        }
        result
    }

    fn run<S: Sink>(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        sink: &mut S,
    ) -> Result<Progress, Refusal> {
        // One byte more than allowed is enough to know.
        let seen = buf
            .get(..limits.header_bytes.saturating_add(1))
            .unwrap_or(buf);
        while let Some(rest) = seen.get(self.pos..).filter(|rest| !rest.is_empty()) {
            let base = self.pos;
            let (mut control, mut colons, len) = look(seen, rest);
            loop {
                if self.colon == NONE {
                    let next = (control | colons).trailing_zeros() as usize;
                    if next < BLOCK && colons >> next & 1 == 1 {
                        self.colon = base + next;
                    }
                }
                if control == 0 {
                    self.pos = base + len;
                    break;
                }
                let at = control.trailing_zeros() as usize;
                let cr = base + at;
                match (seen.get(cr), seen.get(cr + 1)) {
                    (Some(b'\r'), Some(b'\n')) => {}
                    (Some(b'\r'), None) => {
                        // Its LF is still to come: look at the CR again then.
                        self.pos = cr;
                        return self.partial(seen, limits, sink);
                    }
                    (byte, _) => {
                        self.check_start::<S>(cr, limits, sink)?;
                        return Err(wrong_control(byte));
                    }
                }
                if self.end_of_line(seen, cr, limits, sink)? {
                    return Ok(Progress::Complete);
                }
                if at + 2 >= BLOCK {
                    // The LF may be the first byte of the next block: begin behind it.
                    self.pos = cr + 2;
                    break;
                }
                let behind = u64::MAX << (at + 2);
                control &= behind;
                colons &= behind;
            }
        }
        self.partial(seen, limits, sink)
    }

    /// A CRLF at `cr` ends the current line. True at the end of the head.
    #[inline(always)]
    fn end_of_line<S: Sink>(
        &mut self,
        buf: &[u8],
        cr: usize,
        limits: &HeadLimits,
        sink: &mut S,
    ) -> Result<bool, Refusal> {
        let (start, colon, end) = (self.start, self.colon, cr + 2);
        self.start = end;
        self.colon = NONE;
        if end > limits.header_bytes {
            return Err(self.too_large(sink));
        }
        if self.lines == 0 && S::HAS_START {
            if start == cr {
                self.empty += 1;
                if !S::SKIPS_EMPTY || self.empty > MAX_EMPTY {
                    return Err(Refusal::bad("empty line before the start line"));
                }
                return Ok(false);
            }
            if cr - start > start_room(limits) {
                return Err(sink.long_start());
            }
            sink.first(buf, start, cr, limits)?;
        } else if start == cr {
            sink.finish(buf, end)?;
            return Ok(true);
        } else {
            if self.lines - usize::from(S::HAS_START) >= limits.headers {
                return Err(Refusal::with(431, "too many header lines"));
            }
            sink.line(buf, start, colon, end, limits)?;
        }
        self.lines += 1;
        Ok(false)
    }

    fn partial<S: Sink>(
        &self,
        seen: &[u8],
        limits: &HeadLimits,
        sink: &S,
    ) -> Result<Progress, Refusal> {
        if seen.len() > limits.header_bytes {
            return Err(self.too_large(sink));
        }
        // A target past its own bound need not be read to the bound of the head. The last byte may
        // be the CR behind a line that fits.
        self.check_start::<S>(seen.len().saturating_sub(1), limits, sink)?;
        Ok(Progress::Partial)
    }

    /// Refuses a start line that reaches past `at` and is too long by then. What a line is refused
    /// for must not hang on how it was split.
    #[inline(always)]
    fn check_start<S: Sink>(
        &self,
        at: usize,
        limits: &HeadLimits,
        sink: &S,
    ) -> Result<(), Refusal> {
        let long =
            S::HAS_START && self.lines == 0 && at.saturating_sub(self.start) > start_room(limits);
        if long { Err(sink.long_start()) } else { Ok(()) }
    }

    #[cold]
    fn too_large<S: Sink>(&self, sink: &S) -> Refusal {
        if self.lines == 0 && S::HAS_START {
            sink.long_start()
        } else {
            Refusal::with(431, "header lines too large")
        }
    }
}

/// Longest start line: a target, and a method and version around it.
fn start_room(limits: &HeadLimits) -> usize {
    limits.uri_bytes.saturating_add(64)
}

/// Control bytes and colons in the next block of `rest`, the end of `seen`, and its length.
#[inline(always)]
fn look(seen: &[u8], rest: &[u8]) -> (u64, u64, usize) {
    if let Some(block) = rest.first_chunk::<BLOCK>() {
        let marks = marks(block, b':');
        return (marks.control, marks.separator, BLOCK);
    }
    if let Some(block) = seen.last_chunk::<BLOCK>() {
        // A short rest: look at the last whole block, and forget what came before.
        let marks = marks(block, b':');
        let before = BLOCK - rest.len();
        return (
            marks.control >> before,
            marks.separator >> before,
            rest.len(),
        );
    }
    let mut block = [b' '; BLOCK];
    for (to, from) in block.iter_mut().zip(rest) {
        *to = *from;
    }
    let marks = marks(&block, b':');
    (marks.control, marks.separator, rest.len())
}

#[cold]
fn wrong_control(byte: Option<&u8>) -> Refusal {
    Refusal::bad(match byte {
        Some(b'\r') => "bare CR",
        Some(b'\n') => "bare LF",
        Some(0) => "NUL byte",
        _ => "control byte",
    })
}
