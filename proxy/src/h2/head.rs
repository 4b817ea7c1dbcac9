//! Heads between HTTP/2 and the text form that the path reads and writes.
//!
//! Owns nothing; pure. A head that comes as fields is written as HTTP/1.1 text and read by the same
//! strict parser as any other, so one reading holds for both versions; a head that goes out is made
//! from the text that the path wrote (RFC 9113, section 8).
//!
//! Invariants: what cannot be said in text without a second meaning is refused, never repaired; no
//! field that is about one connection crosses. Of a `:path`, the library drops a fragment (`#`) before it
//! gets here: no upstream sees one, but it is not refused as RFC 9113, 8.3.1 would have it.
//! Tested below and end to end.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_runtime::buffers::Buffer;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};

use crate::parse::{Name, NameRules};
use crate::text::{Sink, write_number};

/// A request's head that is refused before it is text.
pub type Fault = &'static str;

/// Fields that are about one connection (RFC 9113, 8.2.2). `te` has a rule of its own.
fn connection_specific(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE
    ) || matches!(
        name.as_str(),
        "keep-alive" | "proxy-connection" | "http2-settings"
    )
}

/// Writes the head of a client's request. `protocol` is that of an extended CONNECT (RFC 8441);
/// `end` says that no content follows; `key` is for the WebSocket handshake that we then begin.
///
/// # Errors
/// What is wrong with it.
pub fn request_text(
    request: &Request<()>,
    protocol: Option<&str>,
    end: bool,
    key: impl FnOnce() -> String,
    out: &mut Buffer,
) -> Result<(), Fault> {
    let uri = request.uri();
    let tunnel = protocol.is_some();
    let method = match protocol {
        Some(_) => Method::GET,
        None => request.method().clone(),
    };
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    // A plain CONNECT has none; the library keeps it only beside an `:authority`.
    let unsaid = *request.method() == Method::CONNECT || uri.authority().is_none();
    match uri.scheme_str() {
        Some("http" | "https") => {}
        None if unsaid => {}
        _ => return Err("scheme other than http and https"),
    }
    if let Some(protocol) = protocol
        && !protocol.eq_ignore_ascii_case("websocket")
    {
        return Err("protocol other than websocket");
    }
    out.put(method.as_str().as_bytes());
    out.put(b" ");
    out.put(target.as_bytes());
    out.put(b" HTTP/1.1\r\n");
    host(request, out)?;
    let fields = request.headers();
    for (name, value) in fields {
        if connection_specific(name) {
            return Err("connection-specific field");
        }
        match *name {
            header::HOST | header::COOKIE => continue,
            header::TE if value != "trailers" => return Err("TE other than trailers"),
            header::SEC_WEBSOCKET_KEY if tunnel => continue,
            header::CONTENT_LENGTH if tunnel => return Err("a length in extended CONNECT"),
            _ => {}
        }
        field(name.as_str().as_bytes(), value, out)?;
    }
    cookies(fields, out)?;
    if tunnel {
        out.put(b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ");
        out.put(key().as_bytes());
        out.put(b"\r\n");
    } else if !end && !fields.contains_key(header::CONTENT_LENGTH) {
        out.put(b"transfer-encoding: chunked\r\n");
    }
    out.put(b"\r\n");
    Ok(())
}

/// What an upstream answers the key of a WebSocket handshake with (RFC 6455, 4.2.2).
pub fn websocket_accept(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finish())
}

/// One Host line, of `:authority` where there is one (RFC 9113, 8.3.1).
fn host(request: &Request<()>, out: &mut Buffer) -> Result<(), Fault> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (said, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err("repeated Host");
    }
    let authority = request.uri().authority().map(|a| a.as_str().as_bytes());
    let host = match (authority, said.map(HeaderValue::as_bytes)) {
        (Some(authority), Some(said)) if !authority.eq_ignore_ascii_case(said) => {
            return Err("Host other than :authority");
        }
        (Some(host), _) | (None, Some(host)) => host,
        // The parser says what is missing.
        (None, None) => return Ok(()),
    };
    out.put(b"Host: ");
    out.put(host);
    out.put(b"\r\n");
    Ok(())
}

/// A cookie field may come in pieces (RFC 9113, 8.2.3); for everyone behind us it is one.
fn cookies(fields: &HeaderMap, out: &mut Buffer) -> Result<(), Fault> {
    let mut first = true;
    for value in fields.get_all(header::COOKIE) {
        check(value)?;
        out.put(if first { b"cookie: " } else { b"; " });
        out.put(value.as_bytes());
        first = false;
    }
    if !first {
        out.put(b"\r\n");
    }
    Ok(())
}

fn field(name: &[u8], value: &HeaderValue, out: &mut Buffer) -> Result<(), Fault> {
    check(value)?;
    out.put(name);
    out.put(b": ");
    out.put(value.as_bytes());
    out.put(b"\r\n");
    Ok(())
}

/// No white space around it (RFC 9113, 8.2.1); control bytes were refused when it was made.
fn check(value: &HeaderValue) -> Result<(), Fault> {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(b' ' | b'\t'), _) | (_, Some(b' ' | b'\t')) => Err("white space around a field"),
        _ => Ok(()),
    }
}

/// The lines of a head that is complete, its first line left out: name and value, sharing its memory.
fn lines(text: &Bytes) -> impl Iterator<Item = (Bytes, Bytes)> {
    let mut rest = text.clone();
    let mut first = true;
    std::iter::from_fn(move || {
        loop {
            let end = memchr::memchr(b'\n', &rest)?;
            let line = rest.split_to(end + 1);
            let line = line.slice(..line.len().saturating_sub(2));
            if std::mem::take(&mut first) {
                continue;
            }
            let colon = memchr::memchr(b':', &line)?;
            let name = line.slice(..colon);
            let value = line.slice(colon + 1..);
            let trimmed = crate::parse::trim(&value);
            return Some((name, value.slice_ref(trimmed)));
        }
    })
}

/// The fields of a head that the path wrote, without those about one connection; `switched` says that
/// it answered an Upgrade of ours, whose handshake ends here.
fn fields(text: &Bytes, switched: bool) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(16);
    for (name, value) in lines(text) {
        let name = HeaderName::from_bytes(&name).ok()?;
        if connection_specific(&name) || (switched && name == header::SEC_WEBSOCKET_ACCEPT) {
            continue;
        }
        map.try_append(name, HeaderValue::from_maybe_shared(value).ok()?)
            .ok()?;
    }
    Some(map)
}

/// The response that a head says which the path wrote. 101 becomes 200 (RFC 8441, section 5). `None`
/// where HTTP/2 can't say it.
pub fn response(text: Bytes) -> Option<Response<()>> {
    let status = StatusCode::from_bytes(text.get(9..12)?).ok()?;
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    let mut response = Response::new(());
    *response.headers_mut() = fields(&text, switched)?;
    *response.status_mut() = if switched { StatusCode::OK } else { status };
    Some(response)
}

/// The request that a head says which the path wrote for an upstream. `None` where HTTP/2 can't say it.
pub fn request(text: Bytes, scheme: &'static str) -> Option<Request<()>> {
    let end = memchr::memchr(b'\n', &text)?;
    let line = text.slice(..end.checked_sub(1)?);
    let space = memchr::memchr(b' ', &line)?;
    let target = line.slice(space + 1..line.len().checked_sub(b" HTTP/1.1".len())?);
    let method = Method::from_bytes(line.get(..space)?).ok()?;
    let mut map = fields(&text, false)?;
    let host = map.remove(header::HOST)?;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme.parse().ok()?);
    uri.authority = Some(http::uri::Authority::try_from(host.as_bytes()).ok()?);
    uri.path_and_query = Some(PathAndQuery::from_maybe_shared(target).ok()?);
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.headers_mut() = map;
    Some(request)
}

/// Writes the head of an upstream's response. Its end is where its stream ends, unless it says a
/// length.
pub fn response_text(response: &Response<()>, out: &mut Buffer) {
    out.put(b"HTTP/1.1 ");
    write_number(u64::from(response.status().as_u16()), out);
    out.put(b" ");
    out.put(
        response
            .status()
            .canonical_reason()
            .unwrap_or("")
            .as_bytes(),
    );
    out.put(b"\r\n");
    for (name, value) in response.headers() {
        if connection_specific(name) {
            continue;
        }
        out.put(name.as_str().as_bytes());
        out.put(b": ");
        out.put(value.as_bytes());
        out.put(b"\r\n");
    }
    out.put(b"\r\n");
}

/// Of trailers, those that may go on.
pub fn trailers(names: &NameRules, came: HeaderMap) -> Option<HeaderMap> {
    let mut map = came;
    let dropped: Vec<HeaderName> = map
        .keys()
        .filter(|name| !may_trail(names, name.as_str().as_bytes()))
        .cloned()
        .collect();
    for name in dropped {
        map.remove(name);
    }
    (!map.is_empty()).then_some(map)
}

/// Trailers of a chunked body, which were filtered when they were read.
pub fn trailers_of<'a>(lines: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        if !connection_specific(&name) {
            map.try_append(name, value).ok()?;
        }
    }
    (!map.is_empty()).then_some(map)
}

/// Writes the end of a chunked body, with these trailers.
pub fn write_end(trailers: Option<&HeaderMap>, out: &mut Buffer) {
    out.put(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        out.put(name.as_str().as_bytes());
        out.put(b": ");
        out.put(value.as_bytes());
        out.put(b"\r\n");
    }
    out.put(b"\r\n");
}

fn may_trail(names: &NameRules, name: &[u8]) -> bool {
    names.classify(name).is_ok_and(Name::trailer)
}
