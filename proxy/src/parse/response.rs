//! Response heads (RFC 9112, section 4). Every refusal is a 502: an upstream is at fault.

use super::field::{self, Seen};
use super::scan::Sink;
use super::{Framing, HeadLimits, HeadScan, Line, Method, Name, Progress, Refusal, Span, Version};

/// Most interim (1xx) responses to take before the final one; past it the upstream is at fault.
/// Counting is the caller's: each is a head of its own.
pub const MAX_INTERIM: usize = 16;

/// What a response answers, as far as its reading depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The method of the request.
    pub method: Method,
    /// The request that was sent upstream asked for an upgrade, so a 101 may come.
    pub upgrade: bool,
}

impl From<&Method> for Asked {
    /// No upgrade was asked for.
    fn from(method: &Method) -> Asked {
        Asked {
            method: *method,
            upgrade: false,
        }
    }
}

impl From<Method> for Asked {
    fn from(method: Method) -> Asked {
        Asked {
            method,
            upgrade: false,
        }
    }
}

/// A response head, as offsets into the buffer that it was read from. Reuse it.
#[derive(Debug, Clone, Default)]
pub struct ResponseHead {
    /// The status: 100 to 599.
    pub status: u16,
    /// The reason phrase; may be empty.
    pub reason: Span,
    /// The version.
    pub version: Version,
    /// The header lines in order.
    pub lines: Vec<Line>,
    /// The body. [`Framing::None`] where the status or the request's method allows none, whatever
    /// the framing lines say; those then describe the body that is not there.
    pub framing: Framing,
    /// `Content-Length`, also where there is no body: to be written again for HEAD and 304. `None` in
    /// 1xx and 204, which must not have it.
    pub content_length: Option<u64>,
    /// The upstream connection may be used again once the body has ended.
    pub keep_alive: bool,
    /// Bytes of the head in the buffer.
    pub len: usize,
    seen: Seen,
}

impl ResponseHead {
    /// 1xx but for 101: another head follows.
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Is there a line of that name?
    pub fn has(&self, name: Name) -> bool {
        self.seen.has(name)
    }

    /// The first line of that name.
    pub fn line(&self, name: Name) -> Option<&Line> {
        field::find(&self.lines, self.seen, name)
    }

    /// The value of the first line of that name.
    pub fn value<'a>(&self, buf: &'a [u8], name: Name) -> Option<&'a [u8]> {
        self.line(name).map(|l| l.value(buf))
    }

    /// The values of all lines of that name, in order.
    pub fn values<'a>(
        &'a self,
        buf: &'a [u8],
        name: Name,
    ) -> impl DoubleEndedIterator<Item = &'a [u8]> + 'a {
        let lines: &[Line] = if self.seen.has(name) {
            &self.lines
        } else {
            &[]
        };
        lines
            .iter()
            .filter(move |l| l.name == name)
            .map(move |l| l.value(buf))
    }

    /// Empty again.
    pub fn clear(&mut self) {
        self.lines.clear();
        self.seen = Seen::default();
        self.len = 0;
        self.content_length = None;
    }

    fn status_line(&mut self, buf: &[u8], start: usize, end: usize) -> Result<(), Refusal> {
        let line = buf.get(start..end).unwrap_or(&[]);
        self.version = match line.first_chunk::<9>() {
            Some(b"HTTP/1.1 ") => Version::Http11,
            Some(b"HTTP/1.0 ") => Version::Http10,
            _ => return Err(Refusal::bad("malformed status line")),
        };
        let (digits, rest) = match line.get(9..).unwrap_or(&[]) {
            [a, b, c, rest @ ..] => ([*a, *b, *c], rest),
            _ => return Err(Refusal::bad("malformed status line")),
        };
        if !digits.iter().all(u8::is_ascii_digit) || !matches!(digits[0], b'1'..=b'5') {
            return Err(Refusal::bad("invalid status"));
        }
        self.status = digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
        // `HTTP/1.1 200` without the space after it is common, and reads one way only.
        self.reason = match rest {
            [] => Span::new(end, end),
            [b' ', ..] => Span::new(start + 13, end),
            _ => return Err(Refusal::bad("invalid status")),
        };
        Ok(())
    }

    fn complete(&mut self, buf: &[u8], asked: Asked) -> Result<(), Refusal> {
        if self.status == 101 && !asked.upgrade {
            return Err(Refusal::bad("101 without an upgrade asked for"));
        }
        let said = field::framing(buf, &self.lines, self.seen, self.version)?;
        let bodiless = self.status < 200 || self.status == 204;
        // RFC 9110, section 8.6, and RFC 9112, section 6.1, forbid both; a length of 0 is common,
        // and true.
        if bodiless && !matches!(said, None | Some(Framing::Length(0))) {
            return Err(Refusal::bad("body in a response that has none"));
        }
        if let (Some(Framing::Length(n)), false) = (said, bodiless) {
            self.content_length = Some(n);
        }
        let none = bodiless || self.status == 304 || asked.method == Method::Head;
        self.framing = match said {
            _ if none => Framing::None,
            Some(framing) => framing,
            None => Framing::UntilClose,
        };
        let options = field::connection(buf, &mut self.lines, self.seen)?;
        self.keep_alive = options.persists(self.version)
            && self.framing != Framing::UntilClose
            && self.status != 101;
        Ok(())
    }
}

/// Reads a response head from the start of `buf`, as far as it is there; see
/// [`request`](super::request()) for `scan` and `head`.
///
/// `asked` is the request's method, or an [`Asked`] where an upgrade was asked for. Any refusal has
/// status 502, and the upstream connection must be closed.
pub fn response(
    buf: &[u8],
    limits: &HeadLimits,
    scan: &mut HeadScan,
    asked: impl Into<Asked>,
    head: &mut ResponseHead,
) -> Result<Progress, Refusal> {
    if scan.is_fresh() {
        head.clear();
    }
    scan.drive(
        buf,
        limits,
        &mut Reader {
            head,
            asked: asked.into(),
        },
    )
    .map_err(Refusal::upstream)
}

struct Reader<'a> {
    head: &'a mut ResponseHead,
    asked: Asked,
}

impl Sink for Reader<'_> {
    const SKIPS_EMPTY: bool = false;
    const HAS_START: bool = true;

    fn first(
        &mut self,
        buf: &[u8],
        start: usize,
        end: usize,
        _: &HeadLimits,
    ) -> Result<(), Refusal> {
        self.head.status_line(buf, start, end)
    }

    #[inline]
    fn line(
        &mut self,
        buf: &[u8],
        start: usize,
        colon: usize,
        end: usize,
        limits: &HeadLimits,
    ) -> Result<(), Refusal> {
        let line = Line::read(buf, start, colon, end, limits)?;
        self.head.seen.insert(line.name);
        self.head.lines.push(line);
        Ok(())
    }

    fn finish(&mut self, buf: &[u8], end: usize) -> Result<(), Refusal> {
        self.head.len = end;
        self.head.complete(buf, self.asked)
    }

    fn long_start(&self) -> Refusal {
        Refusal::bad("status line too long")
    }
}
