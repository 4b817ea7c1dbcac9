//! Request heads (RFC 9112, sections 2 and 3).

use super::field::{self, Seen};
use super::path::{self, Normal};
use super::scan::Sink;
use super::{
    Framing, HeadLimits, HeadScan, Line, Method, Name, Progress, Refusal, Span, Version, valid_host,
};

/// The form of a request target. Authority-form goes with CONNECT, which is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// `/path?query`.
    #[default]
    Origin,
    /// `http://host/path?query`.
    Absolute,
    /// `*`, with OPTIONS alone.
    Asterisk,
}

/// A request head, as offsets into the buffer that it was read from. Reuse it: its vectors keep
/// their room. Its content is valid after [`Progress::Complete`] and until the buffer moves on.
#[derive(Debug, Clone, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The method's bytes.
    pub method_span: Span,
    /// The form of the target.
    pub form: Form,
    /// The target as it was sent.
    pub target: Span,
    /// The query, without its `?`. It is never changed, nor its escapes checked.
    pub query: Option<Span>,
    /// The host and port that the request is for: of an absolute target, else of the Host line.
    /// `None` only in HTTP/1.0.
    pub authority: Option<Span>,
    /// The version.
    pub version: Version,
    /// The header lines in order.
    pub lines: Vec<Line>,
    /// The body: none, a length, or chunked.
    pub framing: Framing,
    /// The client wishes to use the connection again.
    pub keep_alive: bool,
    /// The client waits for 100 (Continue) before it sends its body.
    pub expect_continue: bool,
    /// The protocol to switch to: one alone, without a body, and not `h2c`. Otherwise `Upgrade` is
    /// ignored, as any server may.
    pub upgrade: Option<Span>,
    /// `upgrade` is `websocket`.
    pub upgrade_websocket: bool,
    /// The client takes trailers (`TE: trailers`).
    pub te_trailers: bool,
    /// Position of the first `Host` line in `lines`.
    pub host: Option<u16>,
    /// Position of the first `Cookie` line in `lines`; there may be more.
    pub cookie: Option<u16>,
    /// Bytes of the head in the buffer, with empty lines skipped before it and the one after it.
    pub len: usize,
    path: Span,
    /// The normalised path, where it differs from what was sent.
    changed: Vec<u8>,
    seen: Seen,
}

impl RequestHead {
    /// The normalised path: begins with `/`, has no dot segments, and no escapes of unreserved
    /// characters. Rules match it and upstreams get it. `*` for asterisk-form.
    pub fn path<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        if self.changed.is_empty() {
            self.path.of(buf)
        } else {
            &self.changed
        }
    }

    /// The path differs from what was sent.
    pub fn path_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The bytes of the method.
    pub fn method_bytes<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.method_span.of(buf)
    }

    /// The bytes of the query.
    pub fn query_bytes<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        self.query.map(|q| q.of(buf))
    }

    /// The bytes of the authority; empty without one.
    pub fn authority_bytes<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        self.authority.map_or(&[], |a| a.of(buf))
    }

    /// The `Host` line must be written anew from the authority: an absolute target stands above it
    /// (RFC 9112, section 3.2.2).
    pub fn host_differs(&self, buf: &[u8]) -> bool {
        self.form == Form::Absolute
            && self
                .line(Name::Host)
                .is_none_or(|l| l.value(buf) != self.authority_bytes(buf))
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
        self.changed.clear();
        self.seen = Seen::default();
        self.query = None;
        self.authority = None;
        self.host = None;
        self.cookie = None;
        self.len = 0;
    }

    fn request_line(
        &mut self,
        buf: &[u8],
        start: usize,
        end: usize,
        limits: &HeadLimits,
    ) -> Result<(), Refusal> {
        let line = buf.get(start..end).unwrap_or(&[]);
        let space = line.iter().position(|&b| b == b' ');
        let Some(space) = space else {
            return Err(Refusal::bad("malformed request line"));
        };
        // ` HTTP/1.1` stands at the end, so the target is what lies between: a space in it, or
        // around it, is found when its bytes are checked.
        let version = match line.last_chunk::<9>() {
            Some(b" HTTP/1.1") => Version::Http11,
            Some(b" HTTP/1.0") => Version::Http10,
            _ => return Err(wrong_version(line)),
        };
        if space + 9 >= line.len() {
            return Err(Refusal::bad("request without a target"));
        }
        self.version = version;
        self.method = Method::read(line.get(..space).unwrap_or(&[]))?;
        self.method_span = Span::new(start, start + space);
        if matches!(self.method, Method::Connect | Method::Trace) {
            return Err(Refusal::with(501, "CONNECT and TRACE are not supported"));
        }
        self.read_target(buf, start + space + 1, end - 9, limits)
    }

    fn read_target(
        &mut self,
        buf: &[u8],
        start: usize,
        end: usize,
        limits: &HeadLimits,
    ) -> Result<(), Refusal> {
        self.target = Span::new(start, end);
        let target = self.target.of(buf);
        if target.len() > limits.uri_bytes {
            return Err(too_long());
        }
        let (path, query) = match memchr::memchr(b'?', target) {
            Some(at) => (start + at, Some(Span::new(start + at + 1, end))),
            None => (end, None),
        };
        self.query = query;
        if let Some(query) = query {
            path::check_bytes(query.of(buf))?;
        }
        match target.first() {
            Some(b'/') => {
                self.form = Form::Origin;
                self.path = Span::new(start, path);
            }
            Some(b'*') if target.len() == 1 => {
                self.form = Form::Asterisk;
                self.path = self.target;
                return match self.method {
                    Method::Options => Ok(()),
                    _ => Err(Refusal::bad("asterisk target without OPTIONS")),
                };
            }
            None => return Err(Refusal::bad("request without a target")),
            Some(_) => {
                self.form = Form::Absolute;
                self.path = self.absolute(buf, start, path)?;
            }
        }
        if self.path.is_empty() {
            self.changed.push(b'/');
            return Ok(());
        }
        match path::normalise(self.path.of(buf), limits.raw_paths, &mut self.changed)? {
            Normal::Same => self.changed.clear(),
            Normal::Changed => {}
        }
        Ok(())
    }

    /// Reads scheme and authority of `buf[start..end]`; returns where its path is.
    fn absolute(&mut self, buf: &[u8], start: usize, end: usize) -> Result<Span, Refusal> {
        let target = buf.get(start..end).unwrap_or(&[]);
        path::check_bytes(target)?;
        let scheme = match target {
            t if starts_with(t, b"http://") => 7,
            t if starts_with(t, b"https://") => 8,
            _ => return Err(Refusal::bad("malformed request target")),
        };
        let rest = target.get(scheme..).unwrap_or(&[]);
        let slash = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
        let authority = Span::new(start + scheme, start + scheme + slash);
        if !valid_host(authority.of(buf)) {
            return Err(Refusal::bad("invalid authority in the request target"));
        }
        self.authority = Some(authority);
        Ok(Span::new(start + scheme + slash, end))
    }

    /// The whole head is there.
    fn complete(&mut self, buf: &[u8]) -> Result<(), Refusal> {
        self.check_host(buf)?;
        self.framing =
            field::framing(buf, &self.lines, self.seen, self.version)?.unwrap_or(Framing::None);
        let options = field::connection(buf, &mut self.lines, self.seen)?;
        self.keep_alive = options.persists(self.version);
        self.read_expect(buf)?;
        let te_trailers = self
            .values(buf, Name::Te)
            .any(|v| field::lists(v, b"trailers"));
        self.te_trailers = te_trailers;
        self.read_upgrade(buf, options.upgrade);
        Ok(())
    }

    fn check_host(&mut self, buf: &[u8]) -> Result<(), Refusal> {
        let Some(at) = self.host else {
            return match self.version {
                Version::Http10 => Ok(()),
                Version::Http11 => Err(Refusal::bad("missing Host")),
            };
        };
        let Some(line) = self.lines.get(usize::from(at)) else {
            return Ok(());
        };
        if !valid_host(line.value(buf)) {
            return Err(Refusal::bad("invalid Host"));
        }
        if self.authority.is_none() {
            self.authority = Some(Span {
                start: line.value_start,
                end: line.value_end,
            });
        }
        Ok(())
    }

    fn read_expect(&mut self, buf: &[u8]) -> Result<(), Refusal> {
        self.expect_continue = false;
        if self.version == Version::Http10 || !self.seen.has(Name::Expect) {
            return Ok(());
        }
        if !self
            .values(buf, Name::Expect)
            .all(|v| v.eq_ignore_ascii_case(b"100-continue"))
        {
            return Err(Refusal::with(417, "unknown expectation"));
        }
        // Without a body there is nothing to wait with.
        self.expect_continue = !matches!(self.framing, Framing::None | Framing::Length(0));
        Ok(())
    }

    fn read_upgrade(&mut self, buf: &[u8], option: bool) {
        self.upgrade = None;
        self.upgrade_websocket = false;
        if !option || !self.seen.has(Name::Upgrade) || self.version == Version::Http10 {
            return;
        }
        let mut lines = self.lines.iter().filter(|l| l.name == Name::Upgrade);
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return;
        };
        let value = line.value(buf);
        let single =
            !value.is_empty() && value.iter().all(|&b| super::TOKEN[b as usize] || b == b'/');
        // An upstream that speaks h2c would take what follows out of our sight.
        let h2c = value
            .get(..3)
            .is_some_and(|v| v.eq_ignore_ascii_case(b"h2c"));
        if single && !h2c && matches!(self.framing, Framing::None | Framing::Length(0)) {
            self.upgrade = Some(Span {
                start: line.value_start,
                end: line.value_end,
            });
            self.upgrade_websocket = value.eq_ignore_ascii_case(b"websocket");
        }
    }
}

/// Reads a request head from the start of `buf`, as far as it is there.
///
/// After [`Progress::Partial`] call again with the same `scan`, `head` and buffer, longer by what
/// has arrived; nothing is looked at twice. A fresh `scan` clears `head`. After a refusal answer
/// with its status and close: where the next request would begin is unknown.
pub fn request(
    buf: &[u8],
    limits: &HeadLimits,
    scan: &mut HeadScan,
    head: &mut RequestHead,
) -> Result<Progress, Refusal> {
    if scan.is_fresh() {
        head.clear();
    }
    scan.drive(buf, limits, head)
}

impl Sink for RequestHead {
    const SKIPS_EMPTY: bool = true;
    const HAS_START: bool = true;

    fn first(
        &mut self,
        buf: &[u8],
        start: usize,
        end: usize,
        limits: &HeadLimits,
    ) -> Result<(), Refusal> {
        self.request_line(buf, start, end, limits)
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
        let again = self.seen.insert(line.name);
        match line.name {
            Name::Host if again => return Err(Refusal::bad("repeated Host")),
            Name::Host => self.host = Some(self.lines.len() as u16),
            Name::Cookie if !again => self.cookie = Some(self.lines.len() as u16),
            _ => {}
        }
        self.lines.push(line);
        Ok(())
    }

    fn finish(&mut self, buf: &[u8], end: usize) -> Result<(), Refusal> {
        self.len = end;
        self.complete(buf)
    }

    fn long_start(&self) -> Refusal {
        too_long()
    }
}

fn too_long() -> Refusal {
    Refusal::with(414, "request target too long")
}

fn starts_with(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes
        .get(..prefix.len())
        .is_some_and(|b| b.eq_ignore_ascii_case(prefix))
}

/// What the end of a request line says, when it is none of our versions.
#[cold]
fn wrong_version(line: &[u8]) -> Refusal {
    let last = line.rsplit(|&b| b == b' ').next().unwrap_or(&[]);
    Refusal::bad(match last {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            "unsupported HTTP version"
        }
        _ => "malformed request line",
    })
}
