//! HTTP/1.1 as far as a load generator and a static server need it: message heads, body framing.
//!
//! Owns no bytes: it reads slices of a caller's buffer; any thread. A head is read line by line
//! with `memchr` and handed to the caller header by header, so that nothing is stored. Framing is
//! strict (RFC 9112 sections 2.2, 6, 7): bare LF, a space before the colon, Content-Length twice
//! with different values, with Transfer-Encoding, a bad chunk: each an [`Invalid`], never a guess.
//! Does not normalise, fold, or keep trailers (they are skipped, line by line). Tested here.

use memchr::{memchr, memmem};

/// The longest head that is waited for.
pub const MAX_HEAD: usize = 64 * 1024;
/// The longest line of a chunk size or a trailer.
const MAX_LINE: usize = 4096;

/// Why a message can't be read; the text is for the error count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid(pub &'static str);

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes; 0 for none.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Until the connection ends (responses only).
    UntilClose,
}

/// A response's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code, 100 to 599.
    pub status: u16,
    /// Bytes of the head with its empty line.
    pub len: usize,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the connection ends after this response.
    pub close: bool,
}

/// A request's head, as far as the static server cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// Bytes of the head with its empty line.
    pub len: usize,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the method is HEAD.
    pub head: bool,
    /// Whether the client asked to end the connection.
    pub close: bool,
}

#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

/// Reads a response's head from the start of `bytes`; `None` if it isn't complete. Every header is
/// shown to `on_header` as name and trimmed value. `to_head`: whether the request was HEAD.
pub fn response_head(
    bytes: &[u8],
    to_head: bool,
    on_header: impl FnMut(&[u8], &[u8]),
) -> Result<Option<ResponseHead>, Invalid> {
    let Some((line, rest, len)) = head_lines(bytes)? else {
        return Ok(None);
    };
    let version_1_1 = line.starts_with(b"HTTP/1.1 ");
    if !version_1_1 && !line.starts_with(b"HTTP/1.0 ") {
        return Err(Invalid("status line"));
    }
    let status = match line.get(9..) {
        Some([a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', more @ ..])
            if more.is_empty() || more.starts_with(b" ") =>
        {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err(Invalid("status line")),
    };
    let fields = fields(rest, on_header)?;
    let framing = if to_head || status < 200 || status == 204 || status == 304 {
        Framing::Length(0)
    } else if fields.chunked {
        Framing::Chunked
    } else {
        fields.length.map_or(Framing::UntilClose, Framing::Length)
    };
    let close =
        fields.close || framing == Framing::UntilClose || !(version_1_1 || fields.keep_alive);
    Ok(Some(ResponseHead {
        status,
        len,
        framing,
        close,
    }))
}

/// Reads a request's head from the start of `bytes`; `None` if it isn't complete.
pub fn request_head(
    bytes: &[u8],
    on_header: impl FnMut(&[u8], &[u8]),
) -> Result<Option<RequestHead>, Invalid> {
    let Some((line, rest, len)) = head_lines(bytes)? else {
        return Ok(None);
    };
    let version_1_1 = line.ends_with(b" HTTP/1.1");
    if !version_1_1 && !line.ends_with(b" HTTP/1.0") {
        return Err(Invalid("request line"));
    }
    let fields = fields(rest, on_header)?;
    Ok(Some(RequestHead {
        len,
        framing: if fields.chunked {
            Framing::Chunked
        } else {
            Framing::Length(fields.length.unwrap_or(0))
        },
        head: line.starts_with(b"HEAD "),
        close: fields.close || !(version_1_1 || fields.keep_alive),
    }))
}

/// The first line, the header lines with their line ends, and the head's length.
#[allow(clippy::type_complexity)]
fn head_lines(bytes: &[u8]) -> Result<Option<(&[u8], &[u8], usize)>, Invalid> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        if bytes.len() > MAX_HEAD {
            return Err(Invalid("head too long"));
        }
        return Ok(None);
    };
    let head = bytes.get(..end + 2).unwrap_or_default();
    let first = memchr(b'\n', head).ok_or(Invalid("first line"))?;
    let line = head
        .get(..first)
        .and_then(|l| l.strip_suffix(b"\r"))
        .ok_or(Invalid("bare LF"))?;
    Ok(Some((
        line,
        head.get(first + 1..).unwrap_or_default(),
        end + 4,
    )))
}

fn fields(mut rest: &[u8], mut on_header: impl FnMut(&[u8], &[u8])) -> Result<Fields, Invalid> {
    let mut fields = Fields::default();
    while let Some(end) = memchr(b'\n', rest) {
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        let line = line.strip_suffix(b"\r\n").ok_or(Invalid("bare LF"))?;
        let colon = memchr(b':', line).ok_or(Invalid("header without colon"))?;
        let (name, value) = line.split_at(colon);
        if name.is_empty() || name.iter().any(|b| b.is_ascii_whitespace()) {
            return Err(Invalid("header name"));
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = decimal(value).ok_or(Invalid("content-length"))?;
                if fields.length.is_some_and(|before| before != length) {
                    return Err(Invalid("two content-lengths"));
                }
                fields.length = Some(length);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if fields.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Invalid("transfer-encoding"));
                }
                fields.chunked = true;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in value.split(|&b| b == b',') {
                    let option = option.trim_ascii();
                    fields.close |= option.eq_ignore_ascii_case(b"close");
                    fields.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            _ => {}
        }
        on_header(name, value);
    }
    if fields.chunked && fields.length.is_some() {
        return Err(Invalid("content-length with transfer-encoding"));
    }
    Ok(fields)
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|d| *d < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Follows a body through the reads that bring it.
#[derive(Debug)]
pub struct Body {
    state: State,
    /// Payload bytes seen so far.
    pub payload: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Bytes(u64),
    UntilClose,
    Chunk { line: Line, left: u64 },
    Done,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Line {
    Size,
    Data,
    DataEnd,
    Trailer,
}

impl Body {
    /// A body that starts at the next byte.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(n) => State::Bytes(n),
            Framing::UntilClose => State::UntilClose,
            Framing::Chunked => State::Chunk {
                line: Line::Size,
                left: 0,
            },
        };
        Self { state, payload: 0 }
    }

    /// Whether the body has ended.
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is the body's proper end.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Done)
    }

    /// Takes what belongs to the body from the start of `bytes`; the number of bytes used. What is
    /// not used (an incomplete line, or bytes after the end) stays with the caller.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Invalid> {
        match &mut self.state {
            State::Done => Ok(0),
            State::UntilClose => {
                self.payload += bytes.len() as u64;
                Ok(bytes.len())
            }
            State::Bytes(left) => {
                let used = (*left).min(bytes.len() as u64);
                *left -= used;
                self.payload += used;
                if *left == 0 {
                    self.state = State::Done;
                }
                Ok(usize::try_from(used).unwrap_or(bytes.len()))
            }
            State::Chunk { .. } => self.feed_chunks(bytes),
        }
    }

    fn feed_chunks(&mut self, bytes: &[u8]) -> Result<usize, Invalid> {
        let mut used = 0;
        while let State::Chunk { line, left } = &mut self.state {
            let rest = bytes.get(used..).unwrap_or_default();
            if *line == Line::Data {
                let take = (*left).min(rest.len() as u64);
                *left -= take;
                self.payload += take;
                used += usize::try_from(take).unwrap_or(rest.len());
                if *left > 0 {
                    break;
                }
                *line = Line::DataEnd;
                continue;
            }
            let Some(end) = memchr(b'\n', rest) else {
                if rest.len() > MAX_LINE {
                    return Err(Invalid("chunk line too long"));
                }
                break;
            };
            let text = rest
                .get(..end)
                .and_then(|l| l.strip_suffix(b"\r"))
                .ok_or(Invalid("bare LF in chunks"))?;
            used += end + 1;
            match *line {
                Line::Size => {
                    *left = chunk_size(text)?;
                    *line = if *left == 0 {
                        Line::Trailer
                    } else {
                        Line::Data
                    };
                }
                Line::DataEnd if text.is_empty() => *line = Line::Size,
                Line::DataEnd => return Err(Invalid("chunk end")),
                Line::Trailer if text.is_empty() => self.state = State::Done,
                Line::Trailer => {}
                Line::Data => {}
            }
        }
        Ok(used)
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Invalid> {
    let digits = line.split(|&b| b == b';').next().unwrap_or_default();
    if digits.is_empty() || digits.len() > 15 {
        return Err(Invalid("chunk size"));
    }
    digits.iter().try_fold(0u64, |sum, &byte| {
        let digit = char::from(byte).to_digit(16).ok_or(Invalid("chunk size"))?;
        Ok(sum * 16 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<ResponseHead>, Invalid> {
        response_head(text.as_bytes(), false, |_, _| {})
    }

    #[test]
    fn reads_status_framing_and_headers() {
        let mut seen = Vec::new();
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Upstream:  u1 \r\n\r\nhello";
        let got = response_head(text, false, |n, v| seen.push((n.to_vec(), v.to_vec())));
        assert_eq!(
            got,
            Ok(Some(ResponseHead {
                status: 200,
                len: text.len() - 5,
                framing: Framing::Length(5),
                close: false
            }))
        );
        assert_eq!(seen.last(), Some(&(b"X-Upstream".to_vec(), b"u1".to_vec())));
        for cut in 0..text.len() - 5 {
            assert_eq!(
                response_head(&text[..cut], false, |_, _| {}),
                Ok(None),
                "{cut}"
            );
        }
    }

    #[test]
    fn framing_follows_the_rfc() {
        let framing = |text: &str| head(text).map(|h| h.map(|h| (h.framing, h.close)));
        assert_eq!(
            framing(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x, Close\r\n\r\n"
            ),
            Ok(Some((Framing::Chunked, true)))
        );
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\n\r\n"),
            Ok(Some((Framing::UntilClose, true)))
        );
        assert_eq!(
            framing("HTTP/1.1 204 No\r\n\r\n"),
            Ok(Some((Framing::Length(0), false)))
        );
        assert_eq!(
            framing("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n"),
            Ok(Some((Framing::Length(1), true)))
        );
        let to_head = response_head(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            true,
            |_, _| {},
        );
        assert_eq!(
            to_head.map(|h| h.map(|h| h.framing)),
            Ok(Some(Framing::Length(0)))
        );
    }

    #[test]
    fn refuses_what_two_readers_could_read_in_two_ways() {
        for bad in [
            "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
        ] {
            assert!(head(bad).is_err(), "{bad:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(MAX_HEAD));
        assert_eq!(head(&long), Err(Invalid("head too long")));
    }

    #[test]
    fn requests() {
        let got = request_head(
            b"HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            |_, _| {},
        );
        assert_eq!(
            got,
            Ok(Some(RequestHead {
                len: 48,
                framing: Framing::Length(0),
                head: true,
                close: true
            }))
        );
        assert!(request_head(b"GET / HTTP/2\r\n\r\n", |_, _| {}).is_err());
    }

    /// Feeds `bytes` in pieces of `step`, keeping unused bytes as a connection would.
    fn feed(body: &mut Body, bytes: &[u8], step: usize) -> Result<usize, Invalid> {
        let (mut kept, mut used) = (Vec::new(), 0);
        for piece in bytes.chunks(step) {
            kept.extend_from_slice(piece);
            let n = body.feed(&kept)?;
            kept.drain(..n);
            used += n;
        }
        Ok(used)
    }

    #[test]
    fn bodies_end_where_they_should_however_they_are_cut() {
        let chunked = b"5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
        let mut wire = chunked.to_vec();
        wire.extend_from_slice(b"HTTP/1.1 200");
        for step in 1..wire.len() {
            let mut body = Body::new(Framing::Chunked);
            assert_eq!(
                feed(&mut body, &wire, step),
                Ok(chunked.len()),
                "step {step}"
            );
            assert!(body.done());
            assert_eq!(body.payload, 15);
            let mut body = Body::new(Framing::Length(20));
            assert_eq!(feed(&mut body, &wire, step), Ok(20));
            assert!(body.done());
        }
        let mut body = Body::new(Framing::UntilClose);
        assert_eq!(body.feed(b"abc"), Ok(3));
        assert!(!body.done() && body.ends_with_connection());
    }

    #[test]
    fn bad_chunks() {
        for bad in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "1\nab",
            "1\r\nabc\r\n",
            "1234567890abcdef0\r\n",
        ] {
            let mut body = Body::new(Framing::Chunked);
            assert!(body.feed(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
