//! HTTP/1.1 messages as bytes: a strict reader for both ends of a test.
//!
//! It accepts only what RFC 9112 lets a sender generate, so that whatever the gateway emits is judged,
//! and never repairs anything. Text is Latin-1: each byte is one `char`, nothing is lost.

use std::io::{self, Read};

/// A start line and its header lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Request or status line.
    pub start: String,
    /// Names as they came, values without surrounding blanks.
    pub headers: Vec<(String, String)>,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// A body that arrived whole.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub data: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

/// Bytes to text, one `char` a byte.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Header or trailer lines, each ended by CRLF, without the empty one.
fn parse_lines(text: &str) -> io::Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for line in text.split_terminator("\r\n") {
        if line.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            return Err(bad(format!("control byte in {line:?}")));
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| bad(format!("no colon in {line:?}")))?;
        if !is_token(name) {
            return Err(bad(format!("not a field name: {name:?}")));
        }
        out.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
    Ok(out)
}

impl Head {
    /// Parses bytes that end in the empty line.
    pub fn parse(bytes: &[u8]) -> io::Result<Self> {
        let text = latin1(bytes);
        let text = text
            .strip_suffix("\r\n\r\n")
            .ok_or_else(|| bad("no empty line"))?;
        let (start, rest) = text.split_once("\r\n").unwrap_or((text, ""));
        if start.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err(bad(format!("control byte in {start:?}")));
        }
        Ok(Self {
            start: start.to_owned(),
            headers: parse_lines(rest)?,
        })
    }

    /// The first value of a header, names compared without case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect()
    }

    /// Whether the header is there.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether a comma-separated header has this element.
    pub fn lists(&self, name: &str, element: &str) -> bool {
        self.all(name)
            .iter()
            .flat_map(|v| v.split(','))
            .any(|e| e.trim().eq_ignore_ascii_case(element))
    }

    /// Method of a request line.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// Target of a request line.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Status of a status line.
    pub fn status(&self) -> u16 {
        self.start
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap_or_default()
    }

    fn length(&self) -> io::Result<Option<u64>> {
        match self.all("content-length").as_slice() {
            [] => Ok(None),
            [one] if one.bytes().all(|b| b.is_ascii_digit()) => {
                one.parse().map(Some).map_err(|_| bad("Content-Length"))
            }
            many => Err(bad(format!("Content-Length {many:?}"))),
        }
    }

    fn chunked(&self) -> io::Result<bool> {
        match self.all("transfer-encoding").as_slice() {
            [] => Ok(false),
            [one] if one.eq_ignore_ascii_case("chunked") => Ok(true),
            other => Err(bad(format!("Transfer-Encoding {other:?}"))),
        }
    }

    /// Framing of a request's body.
    pub fn request_framing(&self) -> io::Result<Framing> {
        match (self.length()?, self.chunked()?) {
            (Some(_), true) => Err(bad("Content-Length and Transfer-Encoding")),
            (_, true) => Ok(Framing::Chunked),
            (Some(0) | None, _) => Ok(Framing::None),
            (Some(n), _) => Ok(Framing::Length(n)),
        }
    }

    /// Framing of the body of a response to `method`.
    pub fn response_framing(&self, method: &str) -> io::Result<Framing> {
        let (length, chunked) = (self.length()?, self.chunked()?);
        let status = self.status();
        if chunked && length.is_some() {
            return Err(bad("Content-Length and Transfer-Encoding"));
        }
        if status == 204 && (chunked || length.is_some()) {
            return Err(bad("a 204 with framing headers"));
        }
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(Framing::None);
        }
        Ok(match (length, chunked) {
            (_, true) => Framing::Chunked,
            (Some(n), _) => Framing::Length(n),
            (None, _) => Framing::UntilClose,
        })
    }
}

/// A reader with a buffer, over any stream.
pub struct Wire<S> {
    pub stream: S,
    buffer: Vec<u8>,
    /// All that was ever read.
    pub seen: Vec<u8>,
    keep: bool,
}

impl<S: Read> Wire<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            seen: Vec::new(),
            keep: true,
        }
    }

    /// Forgets what has been consumed: for bodies that should not be held.
    pub fn forget(&mut self) {
        self.keep = false;
        self.seen = Vec::new();
    }

    /// Reads once; 0 is the end.
    pub fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 65536];
        let n = loop {
            match self.stream.read(&mut chunk) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.buffer.extend_from_slice(&chunk[..n]);
        if self.keep {
            self.seen.extend_from_slice(&chunk[..n]);
        }
        Ok(n)
    }

    /// Bytes read and not yet used.
    pub fn pending(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes exactly `n` bytes.
    pub fn take(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < n {
            if self.fill()? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("ended after {} of {n} bytes", self.buffer.len()),
                ));
            }
        }
        let rest = self.buffer.split_off(n);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// Takes all up to and with `mark`; `None` at a clean end.
    pub fn take_until(&mut self, mark: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buffer[from..]
                .windows(mark.len())
                .position(|w| w == mark)
            {
                return self.take(from + at + mark.len()).map(Some);
            }
            from = self.buffer.len().saturating_sub(mark.len());
            if self.fill()? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("ended within {:?}", latin1(&self.buffer)),
                ));
            }
        }
    }

    /// The next message's head, as bytes and parsed; `None` at a clean end.
    pub fn head(&mut self) -> io::Result<Option<(Vec<u8>, Head)>> {
        let Some(raw) = self.take_until(b"\r\n\r\n")? else {
            return Ok(None);
        };
        let head = Head::parse(&raw)?;
        Ok(Some((raw, head)))
    }

    /// All that is left until the other side ends.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? != 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// One body.
    pub fn body(&mut self, framing: Framing) -> io::Result<Body> {
        match framing {
            Framing::None => Ok(Body::default()),
            Framing::Length(n) => {
                let n = usize::try_from(n).map_err(|_| bad("length"))?;
                Ok(Body {
                    data: self.take(n)?,
                    trailers: Vec::new(),
                })
            }
            Framing::UntilClose => Ok(Body {
                data: self.rest()?,
                trailers: Vec::new(),
            }),
            Framing::Chunked => self.chunks(),
        }
    }

    /// The next chunk's data; `None` for the last one.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let eof = || io::Error::new(io::ErrorKind::UnexpectedEof, "ended before a chunk");
        let line = latin1(&self.take_until(b"\r\n")?.ok_or_else(eof)?);
        let digits = line.trim_end_matches("\r\n");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad(format!("chunk size {line:?}")));
        }
        let size =
            usize::from_str_radix(digits, 16).map_err(|_| bad(format!("chunk size {line:?}")))?;
        if size == 0 {
            return Ok(None);
        }
        let data = self.take(size)?;
        if self.take(2)? != b"\r\n" {
            return Err(bad("no CRLF after a chunk"));
        }
        Ok(Some(data))
    }

    fn chunks(&mut self) -> io::Result<Body> {
        let mut body = Body::default();
        while let Some(data) = self.chunk()? {
            body.data.extend_from_slice(&data);
        }
        body.trailers = self.trailers()?;
        Ok(body)
    }

    /// The lines after the last chunk, with the empty one.
    pub fn trailers(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut text = String::new();
        loop {
            let eof = || io::Error::new(io::ErrorKind::UnexpectedEof, "ended within trailers");
            let line = latin1(&self.take_until(b"\r\n")?.ok_or_else(eof)?);
            if line == "\r\n" {
                return parse_lines(&text);
            }
            text.push_str(&line);
        }
    }
}
