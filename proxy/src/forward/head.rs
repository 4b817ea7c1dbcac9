//! The request head that goes upstream, built from the one that came.
//!
//! Pure but for the core it reads. Lines that go through are copied in runs, as they stand; what is
//! hop-by-hop, ours, or forged is left out, and what the upstream is owed is added behind.
//!
//! Invariants: no line named `X-Session-*` of the client's, none of our cookies and no identifier
//! header gets through; exactly one framing goes out, the one that we read; a name that the client
//! nominated in `Connection` takes nothing away that we add (RFC 9110, 7.6.1).

use holdfast_runtime::buffers::Buffer;

use crate::accept::Conn;
use crate::core::Core;
use crate::identify::{Identity, Request};
use crate::parse::{Framing, Line, Name, Version};
use crate::session::Attached;

/// Whether a line of the client goes through as it stands.
enum Fate {
    Keep,
    Drop,
    /// Copied without our cookies.
    Cookie,
}

fn fate(identity: &Identity, request: &Request, line: &Line, buf: &[u8], upgrade: bool) -> Fate {
    match line.name {
        Name::Cookie if request.our_cookies => Fate::Cookie,
        Name::Upgrade if upgrade => Fate::Keep,
        _ if line.hop_by_hop() => Fate::Drop,
        // Said anew: what we read, not what was written.
        Name::ContentLength | Name::XForwardedFor => Fate::Drop,
        Name::XForwardedProto | Name::XForwardedHost | Name::XForwarded | Name::Forwarded
            if !request.trusted_peer =>
        {
            Fate::Drop
        }
        // One without a value is as good as none.
        Name::XRequestId if request.made_request_id.is_some() => Fate::Drop,
        Name::Session | Name::Shadow | Name::ProxyAuthorization | Name::ClientCertSubject => {
            Fate::Drop
        }
        Name::Expect if !request.expect_continue => Fate::Drop,
        _ if identity.is_identifier_header(line.name(buf)) => Fate::Drop,
        _ => Fate::Keep,
    }
}

/// Writes the whole head, blank line included, to `out`.
pub fn write(core: &Core, conn: &Conn, request: &Request, session: &Attached, out: &mut Buffer) {
    let buf = conn.input.as_slice();
    let head = &conn.head;
    let identity = &conn.generation.identity;
    request_line(conn, request, out);
    let upgrade = head.upgrade.is_some();
    let mut run = head.lines.first().map_or(0, |l| l.start as usize);
    let mut end = run;
    let mut seen = Seen::default();
    for line in &head.lines {
        end = line.end as usize;
        match line.name {
            Name::Host if request.rewrite_host => {}
            _ => {
                let fate = fate(identity, request, line, buf, upgrade);
                seen.note(line.name, &fate);
                match fate {
                    Fate::Keep => continue,
                    Fate::Drop => {}
                    Fate::Cookie => {
                        out.extend_from_slice(&buf[run..line.start as usize]);
                        run = end;
                        identity.write_cookie_line(line.value(buf), out);
                        continue;
                    }
                }
            }
        }
        out.extend_from_slice(&buf[run..line.start as usize]);
        run = end;
    }
    out.extend_from_slice(&buf[run..end]);
    if request.rewrite_host {
        line(out, b"Host", head.authority_bytes(buf));
    }
    added(conn, request, &seen, out);
    session.write_request_lines(core, conn, out);
    out.extend_from_slice(b"\r\n");
}

fn request_line(conn: &Conn, request: &Request, out: &mut Buffer) {
    let buf = conn.input.as_slice();
    out.extend_from_slice(conn.head.method_bytes(buf));
    out.extend_from_slice(b" ");
    out.extend_from_slice(request.path(conn));
    if let Some(query) = request.query(conn) {
        out.extend_from_slice(b"?");
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

#[derive(Default)]
struct Seen {
    forwarded_proto: bool,
    forwarded_host: bool,
}

impl Seen {
    fn note(&mut self, name: Name, fate: &Fate) {
        if !matches!(fate, Fate::Keep) {
            return;
        }
        match name {
            Name::XForwardedProto => self.forwarded_proto = true,
            Name::XForwardedHost => self.forwarded_host = true,
            _ => {}
        }
    }
}

fn line(out: &mut Buffer, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn added(conn: &Conn, request: &Request, seen: &Seen, out: &mut Buffer) {
    let buf = conn.input.as_slice();
    let head = &conn.head;
    out.extend_from_slice(b"X-Forwarded-For: ");
    if request.trusted_peer {
        for value in head.values(buf, Name::XForwardedFor) {
            if !value.is_empty() {
                out.extend_from_slice(value);
                out.extend_from_slice(b", ");
            }
        }
    }
    crate::text::write_ip(conn.peer.ip(), out);
    out.extend_from_slice(b"\r\n");
    if !seen.forwarded_proto {
        line(
            out,
            b"X-Forwarded-Proto",
            if request.secure { b"https" } else { b"http" },
        );
    }
    if !seen.forwarded_host {
        let host = head.authority_bytes(buf);
        if !host.is_empty() {
            line(out, b"X-Forwarded-Host", host);
        }
    }
    if let Some(id) = &request.made_request_id {
        line(out, b"X-Request-ID", id);
    }
    if let Some(subject) = conn.secured.as_ref().and_then(|s| s.subject.as_ref()) {
        line(
            out,
            Name::ClientCertSubject.as_str().as_bytes(),
            subject.as_bytes(),
        );
    }
    if head.upgrade.is_some() {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
    }
    if head.te_trailers {
        out.extend_from_slice(b"TE: trailers\r\n");
    }
    match head.framing {
        Framing::Length(n) => {
            out.extend_from_slice(b"Content-Length: ");
            crate::text::write_number(n, out);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    if head.version == Version::Http10 && !head.has(Name::Host) {
        // HTTP/1.0 needs no Host; the request that we send does (RFC 9112, 3.2).
        line(out, b"Host", &conn.generation.default_host);
    }
}
