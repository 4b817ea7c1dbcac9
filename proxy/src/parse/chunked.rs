//! Chunked bodies (RFC 9112, section 7.1): a strict decoder that copies no data, and an encoder.
//!
//! The gateway decodes and encodes again, so that no peer sees chunk lines that another wrote:
//! sizes are said anew, extensions end here, and of trailers only what may be one goes on.

use std::ops::Range;

use super::scan::Sink;
use super::{HeadLimits, HeadScan, Line, Progress, Refusal};

/// Most hexadecimal digits of a size; 16 fill a `u64`.
const MAX_DIGITS: u8 = 16;

/// Most bytes of extensions on one chunk line.
const MAX_EXTENSION: u32 = 256;

/// Most bytes that chunk lines may take beyond [`FREE`] and twice the data they carry, over a body:
/// tiny chunks with long extensions cost us much and their sender little.
const MAX_EXCESS: u64 = 16 * 1024;

/// Bytes of a chunk line that count for nothing.
const FREE: u64 = 16;

/// What one call of [`Decoder::decode`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the input that are used up. Not 0, unless the input is empty or the body is done.
    pub consumed: usize,
    /// Data within the input; may be empty.
    pub data: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a chunk's size.
    Size,
    /// Behind a `;`.
    Extension,
    /// The LF of a chunk line.
    SizeLf,
    /// In the data.
    Data,
    /// The CR behind the data.
    DataCr,
    /// The LF behind the data.
    DataLf,
    /// Behind the last chunk.
    Trailers,
    /// Behind the last empty line.
    Done,
}

/// Reads one chunked body, however it is split.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    /// Size of the chunk, then what is left of its data.
    left: u64,
    digits: u8,
    extension: u32,
    excess: u64,
    /// Faults are an upstream's.
    response: bool,
    trailers: Option<Box<Trailers>>,
}

/// Made when the first trailer comes; most bodies have none.
#[derive(Debug, Clone, Default)]
struct Trailers {
    bytes: Vec<u8>,
    scan: HeadScan,
    lines: Vec<Line>,
    end: usize,
    dropped: u32,
}

impl Decoder {
    /// For a request's body: faults are 400 and 431.
    pub fn request() -> Decoder {
        Decoder::new(false)
    }

    /// For a response's body: faults are 502.
    pub fn response() -> Decoder {
        Decoder::new(true)
    }

    fn new(response: bool) -> Decoder {
        Decoder {
            state: State::Size,
            left: 0,
            digits: 0,
            extension: 0,
            excess: 0,
            response,
            trailers: None,
        }
    }

    /// The body has ended; what follows in the input is not part of it.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Data that is still to come of the current chunk, in bytes: for whoever moves it without a
    /// look, and then tells [`Decoder::skip`].
    pub fn data_left(&self) -> u64 {
        if self.state == State::Data {
            self.left
        } else {
            0
        }
    }

    /// `n` bytes of the current chunk's data went by unseen; at most [`Decoder::data_left`].
    pub fn skip(&mut self, n: u64) {
        debug_assert!(n <= self.data_left());
        if self.state == State::Data {
            self.left = self.left.saturating_sub(n);
            if self.left == 0 {
                self.state = State::DataCr;
            }
        }
    }

    /// Reads on: up to the end of the input, of one piece of data, or of the body. Call again with
    /// what was not consumed until that is nothing, or [`Decoder::is_done`].
    ///
    /// `limits` bounds trailers. Errors: see the module; the connection is of no further use.
    pub fn decode(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Piece, Refusal> {
        let piece = self.read(input, limits);
        if self.response {
            piece.map_err(Refusal::upstream)
        } else {
            piece
        }
    }

    fn read(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Piece, Refusal> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Data => {
                    let have = (input.len() - at) as u64;
                    let take = have.min(self.left);
                    let end = at + take as usize;
                    self.skip(take);
                    return Ok(Piece {
                        consumed: end,
                        data: at..end,
                    });
                }
                State::Trailers => {
                    at += self.read_trailers(input.get(at..).unwrap_or(&[]), limits)?;
                    continue;
                }
                State::Done => break,
                State::Size => self.size(byte)?,
                State::Extension => self.extension(byte)?,
                State::SizeLf => self.end_of_size(byte)?,
                State::DataCr if byte == b'\r' => self.state = State::DataLf,
                State::DataLf if byte == b'\n' => self.state = State::Size,
                State::DataCr | State::DataLf => {
                    return Err(Refusal::bad("chunk data without its CRLF"));
                }
            }
            at += 1;
        }
        Ok(Piece {
            consumed: at,
            data: at..at,
        })
    }

    fn size(&mut self, byte: u8) -> Result<(), Refusal> {
        if let Some(digit) = super::path::hex(byte) {
            self.digits += 1;
            if self.digits > MAX_DIGITS {
                return Err(Refusal::bad("chunk size too large"));
            }
            self.left = self.left << 4 | u64::from(digit);
            return Ok(());
        }
        self.state = match byte {
            _ if self.digits == 0 => return Err(Refusal::bad("chunk without a size")),
            b'\r' => State::SizeLf,
            b';' => State::Extension,
            b'\n' => return Err(Refusal::bad("bare LF in a chunk line")),
            _ => return Err(Refusal::bad("malformed chunk size")),
        };
        Ok(())
    }

    fn extension(&mut self, byte: u8) -> Result<(), Refusal> {
        match byte {
            b'\r' => self.state = State::SizeLf,
            b'\n' => return Err(Refusal::bad("bare LF in a chunk line")),
            b'\t' | b' '..=b'~' | 0x80.. => {
                self.extension += 1;
                if self.extension > MAX_EXTENSION {
                    return Err(Refusal::bad("chunk extension too long"));
                }
            }
            _ => return Err(Refusal::bad("control byte in a chunk line")),
        }
        Ok(())
    }

    fn end_of_size(&mut self, byte: u8) -> Result<(), Refusal> {
        if byte != b'\n' {
            return Err(Refusal::bad("bare CR in a chunk line"));
        }
        let line = u64::from(self.digits) + u64::from(self.extension) + 2;
        let carried = FREE.saturating_add(self.left.saturating_mul(2));
        self.excess = (self.excess + line).saturating_sub(carried);
        if self.excess > MAX_EXCESS {
            return Err(Refusal::bad("too many bytes in chunk extensions"));
        }
        self.digits = 0;
        self.extension = 0;
        self.state = if self.left == 0 {
            State::Trailers
        } else {
            State::Data
        };
        Ok(())
    }

    /// Reads trailers; says how many bytes of the input they took.
    fn read_trailers(&mut self, input: &[u8], limits: &HeadLimits) -> Result<usize, Refusal> {
        if self.trailers.is_none() && input.starts_with(b"\r\n") {
            self.state = State::Done;
            return Ok(2);
        }
        let trailers = self.trailers.get_or_insert_default();
        let before = trailers.bytes.len();
        let room = limits.header_bytes.saturating_add(1).saturating_sub(before);
        let taken = input.get(..room).unwrap_or(input);
        trailers.bytes.extend_from_slice(taken);
        let bytes = std::mem::take(&mut trailers.bytes);
        let mut scan = std::mem::take(&mut trailers.scan);
        let progress = scan.drive(&bytes, limits, &mut **trailers);
        trailers.bytes = bytes;
        trailers.scan = scan;
        match progress? {
            Progress::Partial => Ok(taken.len()),
            Progress::Complete => {
                self.state = State::Done;
                let end = trailers.end;
                trailers.bytes.truncate(end);
                Ok(end - before)
            }
        }
    }

    /// The trailers that may go on, as name and value. Complete once the body [is done](Decoder::is_done).
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.trailers.iter().flat_map(|t| {
            t.lines
                .iter()
                .map(|l| (l.name(&t.bytes), l.value(&t.bytes)))
        })
    }

    /// Trailers left out because their name is one that steers messages or sessions.
    pub fn trailers_dropped(&self) -> u32 {
        self.trailers.as_ref().map_or(0, |t| t.dropped)
    }

    /// Appends the end of a chunked body: the last chunk, these trailers (if `with_trailers`: the
    /// recipient takes them), and the empty line.
    pub fn write_end(&self, with_trailers: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"0\r\n");
        if with_trailers {
            for (name, value) in self.trailers() {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl Sink for Trailers {
    const SKIPS_EMPTY: bool = false;
    const HAS_START: bool = false;

    fn first(&mut self, _: &[u8], _: usize, _: usize, _: &HeadLimits) -> Result<(), Refusal> {
        Ok(())
    }

    fn line(
        &mut self,
        buf: &[u8],
        start: usize,
        colon: usize,
        end: usize,
        limits: &HeadLimits,
    ) -> Result<(), Refusal> {
        let line = Line::read(buf, start, colon, end, limits)?;
        if line.name.trailer() {
            self.lines.push(line);
        } else {
            self.dropped += 1;
        }
        Ok(())
    }

    fn finish(&mut self, _: &[u8], end: usize) -> Result<(), Refusal> {
        self.end = end;
        Ok(())
    }

    fn long_start(&self) -> Refusal {
        Refusal::with(431, "trailers too large")
    }
}

/// The last chunk and the empty line of a body without trailers.
pub const END: &[u8] = b"0\r\n\r\n";

/// What follows the data of a chunk.
pub const CRLF: &[u8] = b"\r\n";

/// Appends the line before a chunk of `len` bytes, which must not be 0: that is the end, [`END`].
/// The data and [`CRLF`] follow.
pub fn write_chunk_header(len: u64, out: &mut Vec<u8>) {
    debug_assert!(len > 0);
    let mut shift = (63 - (len | 1).leading_zeros()) / 4 * 4;
    loop {
        out.push(b"0123456789abcdef"[(len >> shift & 15) as usize]);
        if shift == 0 {
            break;
        }
        shift -= 4;
    }
    out.extend_from_slice(CRLF);
}
