//! Lines of a head, and what they say together about framing and the connection.

use super::{Framing, HeadLimits, Name, Refusal, Version, is_token, trim};

/// Most options that all `Connection` lines of a head may hold: each is compared with each line.
const MAX_OPTIONS: usize = 32;

/// One header line. Offsets are in bytes from the first of the buffer that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// First byte of the name, and of the line.
    pub start: u32,
    /// The colon.
    pub name_end: u32,
    /// First byte of the value, white space skipped.
    pub value_start: u32,
    /// After the last byte of the value, white space skipped.
    pub value_end: u32,
    /// After the line's CRLF.
    pub end: u32,
    /// What it is called.
    pub name: Name,
    /// A `Connection` line names it, and it may be so named ([`Name::nominable`]): not forwarded.
    pub nominated: bool,
}

impl Line {
    /// The name as it was written.
    pub fn name<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.start as usize..self.name_end as usize)
            .unwrap_or(&[])
    }

    /// The value without white space around it.
    pub fn value<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.value_start as usize..self.value_end as usize)
            .unwrap_or(&[])
    }

    /// The whole line with its CRLF, as it was written.
    pub fn bytes<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.start as usize..self.end as usize)
            .unwrap_or(&[])
    }

    /// Is it called `name`, whatever the case?
    pub fn is(&self, buf: &[u8], name: &[u8]) -> bool {
        self.name(buf).eq_ignore_ascii_case(name)
    }

    /// Never forwarded: made for one connection, by its name or by nomination.
    pub fn hop_by_hop(&self) -> bool {
        self.nominated || self.name.hop_by_hop()
    }

    /// Reads `buf[start..end]`, a line with its CRLF and without other control bytes, whose first
    /// colon is at `colon` (past the buffer: none).
    #[inline(always)]
    pub(super) fn read(
        buf: &[u8],
        start: usize,
        colon: usize,
        end: usize,
        limits: &HeadLimits,
    ) -> Result<Line, Refusal> {
        let Some(name) = buf.get(start..colon) else {
            return Err(without_colon(buf.get(start)));
        };
        let kind = limits.names.classify(name)?;
        let mut value_start = colon + 1;
        let mut value_end = end - 2;
        while value_start < value_end && matches!(buf.get(value_start), Some(b' ' | b'\t')) {
            value_start += 1;
        }
        while value_start < value_end && matches!(buf.get(value_end - 1), Some(b' ' | b'\t')) {
            value_end -= 1;
        }
        Ok(Line {
            start: start as u32,
            name_end: colon as u32,
            value_start: value_start as u32,
            value_end: value_end as u32,
            end: end as u32,
            name: kind,
            nominated: false,
        })
    }
}

#[cold]
fn without_colon(first: Option<&u8>) -> Refusal {
    Refusal::bad(match first {
        Some(b' ' | b'\t') => "folded header line",
        _ => "header line without a colon",
    })
}

/// Which names a head holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen(u64);

impl Seen {
    /// Adds a name; true if it was there.
    pub(super) fn insert(&mut self, name: Name) -> bool {
        let was = self.0 & name.bit() != 0;
        self.0 |= name.bit();
        was
    }

    pub(super) fn has(self, name: Name) -> bool {
        self.0 & name.bit() != 0
    }
}

/// The first line called `name`.
pub(super) fn find(lines: &[Line], seen: Seen, name: Name) -> Option<&Line> {
    if !seen.has(name) {
        return None;
    }
    lines.iter().find(|l| l.name == name)
}

/// `1*DIGIT` that fits, and nothing else (RFC 9110, section 8.6).
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() {
        return Err(Refusal::bad("empty Content-Length"));
    }
    let mut length = 0u64;
    for &b in value {
        if !b.is_ascii_digit() {
            return Err(Refusal::bad("Content-Length is not a number"));
        }
        length = length
            .checked_mul(10)
            .and_then(|n| n.checked_add(u64::from(b - b'0')))
            .ok_or(Refusal::bad("Content-Length too large"))?;
    }
    Ok(length)
}

/// What the lines say about the body: nothing, a length, or chunks.
///
/// Two framing lines of any kind are refused, also two that agree; so is every transfer coding but
/// one `chunked`, and any on HTTP/1.0 (RFC 9112, sections 6.1 and 6.3).
pub(super) fn framing(
    buf: &[u8],
    lines: &[Line],
    seen: Seen,
    version: Version,
) -> Result<Option<Framing>, Refusal> {
    if !seen.has(Name::ContentLength) && !seen.has(Name::TransferEncoding) {
        return Ok(None);
    }
    if seen.has(Name::ContentLength) && seen.has(Name::TransferEncoding) {
        return Err(Refusal::bad("both Content-Length and Transfer-Encoding"));
    }
    let mut found = None;
    for line in lines {
        let framing = match line.name {
            Name::ContentLength => Framing::Length(content_length(line.value(buf))?),
            Name::TransferEncoding if version == Version::Http10 => {
                return Err(Refusal::bad("Transfer-Encoding in HTTP/1.0"));
            }
            Name::TransferEncoding if line.value(buf).eq_ignore_ascii_case(b"chunked") => {
                Framing::Chunked
            }
            Name::TransferEncoding => {
                return Err(Refusal::bad("Transfer-Encoding other than chunked"));
            }
            _ => continue,
        };
        if found.replace(framing).is_some() {
            return Err(Refusal::bad(match framing {
                Framing::Chunked => "repeated Transfer-Encoding",
                _ => "repeated Content-Length",
            }));
        }
    }
    Ok(found)
}

/// What `Connection` lines say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Options {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
}

impl Options {
    /// May the connection be used again (RFC 9112, section 9.3)?
    pub(super) fn persists(self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// Reads all `Connection` lines and marks the lines that they nominate.
pub(super) fn connection(buf: &[u8], lines: &mut [Line], seen: Seen) -> Result<Options, Refusal> {
    let mut options = Options::default();
    if !seen.has(Name::Connection) {
        return Ok(options);
    }
    let mut count = 0;
    let mut at = 0;
    while let Some(next) = lines.get(at..).and_then(next_connection) {
        let Some(line) = lines.get(at + next) else {
            break;
        };
        at += next + 1;
        let value = line.value(buf);
        // What nearly every client sends.
        if value.eq_ignore_ascii_case(b"keep-alive") {
            options.keep_alive = true;
            continue;
        }
        for option in elements(value) {
            count += 1;
            if count > MAX_OPTIONS {
                return Err(Refusal::bad("too many Connection options"));
            }
            match option {
                o if o.eq_ignore_ascii_case(b"close") => options.close = true,
                o if o.eq_ignore_ascii_case(b"keep-alive") => options.keep_alive = true,
                o if o.eq_ignore_ascii_case(b"upgrade") => options.upgrade = true,
                o if !is_token(o) => return Err(Refusal::bad("malformed Connection")),
                o => nominate(buf, lines, o),
            }
        }
    }
    Ok(options)
}

fn next_connection(lines: &[Line]) -> Option<usize> {
    lines.iter().position(|l| l.name == Name::Connection)
}

fn nominate(buf: &[u8], lines: &mut [Line], option: &[u8]) {
    for line in lines.iter_mut() {
        if line.name.nominable() && line.is(buf, option) {
            line.nominated = true;
        }
    }
}

/// The elements of a comma-separated list that are not empty (RFC 9110, section 5.6.1), trimmed.
/// Quotes have no meaning here.
pub(super) fn elements(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value
        .split(|&b| b == b',')
        .map(trim)
        .filter(|e| !e.is_empty())
}

/// Is `element` in a comma-separated list, whatever its case?
pub(super) fn lists(value: &[u8], element: &[u8]) -> bool {
    elements(value).any(|e| e.eq_ignore_ascii_case(element))
}
