//! The response head that goes to the client, built from the upstream's.
//!
//! Pure but for the core it reads. Lines that go through are copied in runs.
//!
//! Invariants: no `X-Session-*` of an upstream and no Set-Cookie with a name of ours gets through;
//! exactly one framing goes out; a response that sets a session cookie is never cached.

use holdfast_runtime::buffers::Buffer;

use crate::accept::Conn;
use crate::core::Core;
use crate::deliver::body::Plan;
use crate::identify::Identity;
use crate::metrics::Metric;
use crate::parse::{Line, Name, ResponseHead, Version, cookies};
use crate::session::Conclusion;
use crate::text::{Sink, write_number};

/// Does a line of the upstream's go through as it stands?
fn keep(
    core: &Core,
    identity: &Identity,
    line: &Line,
    buf: &[u8],
    caching: Caching,
    header_set: Option<&[u8]>,
) -> bool {
    match line.name {
        Name::ContentType | Name::Date | Name::Server => true,
        _ if line.hop_by_hop() => false,
        // Said anew: what we read, not what was written.
        Name::ContentLength => false,
        Name::Session | Name::Shadow | Name::AffinityClear => false,
        Name::SetCookie => {
            let ours = identity.is_our_cookie(cookies::set_cookie_name(line.value(buf)));
            if ours {
                core.metrics().count(Metric::ForeignSetCookie);
            }
            !ours
        }
        Name::CacheControl => caching == Caching::AsIs,
        _ => !header_set.is_some_and(|name| line.is(buf, name)),
    }
}

/// What the cookies of a response mean for caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caching {
    AsIs,
    /// A pin cookie: `private`.
    Private,
    /// A session cookie: `no-store`.
    NoStore,
}

/// Writes the whole head, blank line included.
pub fn write(
    core: &Core,
    conn: &Conn,
    input: &[u8],
    conclusion: &Conclusion,
    plan: &Plan,
    out: &mut Buffer,
) {
    let head = &conn.response;
    let identity = &conn.generation.identity;
    let caching = if conclusion.session_cookie {
        Caching::NoStore
    } else if conclusion.pin_cookie {
        Caching::Private
    } else {
        Caching::AsIs
    };
    status_line(head.status, head.reason.of(input), out);
    let header_set = conclusion.header.as_ref().map(|(name, _)| name.as_bytes());
    lines(&head.lines, input, out, |line| {
        keep(core, identity, line, input, caching, header_set)
    });
    if caching != Caching::AsIs {
        cache_control(&head.lines, input, caching, out);
    }
    hsts(conn, head, input, out);
    out.put(&conclusion.lines);
    if let Some((name, value)) = &conclusion.header {
        out.put(name.as_bytes());
        out.put(b": ");
        out.put(value.as_bytes());
        out.put(b"\r\n");
    }
    if plan.encodes() {
        out.put(b"Transfer-Encoding: chunked\r\n");
    } else if let Some(n) = head.content_length {
        out.put(b"Content-Length: ");
        write_number(n, out);
        out.put(b"\r\n");
    }
    if head.status == 101 {
        upgrade_lines(&head.lines, input, out);
    } else if !plan.keep {
        out.put(b"Connection: close\r\n");
    } else if conn.head.version == Version::Http10 {
        out.put(b"Connection: keep-alive\r\n");
    }
    out.put(b"\r\n");
}

/// Writes an interim response (1xx): what it says, without what is ours or hop-by-hop.
pub fn write_interim(core: &Core, conn: &Conn, input: &[u8], out: &mut Buffer) {
    let head = &conn.response;
    let identity = &conn.generation.identity;
    status_line(head.status, head.reason.of(input), out);
    lines(&head.lines, input, out, |line| {
        line.name != Name::SetCookie && keep(core, identity, line, input, Caching::AsIs, None)
    });
    out.put(b"\r\n");
}

/// Strict-Transport-Security, where it is configured and the upstream said nothing of it (RFC 6797, 7.1).
fn hsts(conn: &Conn, head: &ResponseHead, input: &[u8], out: &mut Buffer) {
    let name = b"strict-transport-security";
    if conn.secured.is_some()
        && let Some(server) = conn.generation.tls(conn.listener)
        && let Some(line) = &server.hsts
        && !head.lines.iter().any(|l| l.is(input, name))
    {
        out.put(line);
    }
}

fn status_line(status: u16, reason: &[u8], out: &mut Buffer) {
    out.put(b"HTTP/1.1 ");
    write_number(u64::from(status), out);
    out.put(b" ");
    out.put(reason);
    out.put(b"\r\n");
}

fn lines(lines: &[Line], input: &[u8], out: &mut Buffer, mut keep: impl FnMut(&Line) -> bool) {
    let Some(first) = lines.first() else { return };
    let mut run = first.start as usize;
    let mut end = run;
    for line in lines {
        if !keep(line) {
            out.put(&input[run..line.start as usize]);
            run = line.end as usize;
        }
        end = line.end as usize;
    }
    out.put(&input[run..end]);
}

fn upgrade_lines(lines: &[Line], input: &[u8], out: &mut Buffer) {
    out.put(b"Connection: Upgrade\r\n");
    for line in lines.iter().filter(|l| l.name == Name::Upgrade) {
        out.put(&input[line.start as usize..line.end as usize]);
    }
}

/// One Cache-Control line for all that the upstream sent (RFC 9111, 5.2.2): its directives without
/// those that would let a shared cache keep the cookie, and with the one that forbids it.
fn cache_control(lines: &[Line], input: &[u8], caching: Caching, out: &mut Buffer) {
    let (word, removed): (&[u8], &[&[u8]]) = match caching {
        Caching::NoStore => (
            b"no-store",
            &[b"no-store", b"public", b"max-age", b"s-maxage"],
        ),
        _ => (b"private", &[b"private", b"public", b"s-maxage"]),
    };
    out.put(b"Cache-Control: ");
    out.put(word);
    for line in lines.iter().filter(|l| l.name == Name::CacheControl) {
        for directive in line.value(input).split(|&b| b == b',') {
            let directive = directive.trim_ascii();
            let name = directive
                .split(|&b| b == b'=')
                .next()
                .unwrap_or_default()
                .trim_ascii();
            if name.is_empty() || removed.iter().any(|r| name.eq_ignore_ascii_case(r)) {
                continue;
            }
            out.put(b", ");
            out.put(directive);
        }
    }
    out.put(b"\r\n");
}
