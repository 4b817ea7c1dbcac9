//! Whose page may open a WebSocket with a session cookie.
//!
//! Browsers send cookies with a handshake from any site and let its page read the answers (RFC 6455, 10.2),
//! so the gateway looks at `Origin`: it must be the host that the request is for, or one of
//! `websocket.allowedOrigins`. Pure; called on a data core once a session was found by its cookie.
//!
//! Invariants: no `Origin`, several, `null`, or another scheme than http and https is refused; over HTTPS a
//! page of plain HTTP is another origin. Where the gateway knows of no HTTPS, an undeclared proxy may have
//! ended it: both schemes are taken. Deliberately absent: handshakes whose token came in a header or query,
//! which no foreign page can add. Tested here and end to end.

use crate::accept::Conn;
use crate::identify::Request;
use crate::parse::Name;

/// An origin (RFC 6454, 4).
#[derive(Debug, PartialEq, Eq)]
struct Origin<'a> {
    https: bool,
    host: &'a [u8],
    port: u16,
}

impl Origin<'_> {
    fn is(&self, other: &Origin<'_>) -> bool {
        self.https == other.https
            && self.port == other.port
            && self.host.eq_ignore_ascii_case(other.host)
    }
}

/// Whether the `Origin` of this handshake may use a session that a cookie names.
pub fn is_allowed(conn: &Conn, request: &Request) -> bool {
    let buf = conn.input.as_slice();
    let mut values = conn.head.values(buf, Name::Origin);
    let (Some(origin), None) = (values.next(), values.next()) else {
        return false;
    };
    let host = conn.head.authority_bytes(buf);
    let more = &conn.generation.plan.websocket.allowed_origins;
    judge(origin, host, request.secure, more)
}

fn judge(origin: &[u8], host: &[u8], secure: bool, more: &[String]) -> bool {
    let Some(origin) = parse(origin) else {
        return false;
    };
    let own = authority(host, origin.https);
    let same = (origin.https || !secure) && own.is_some_and(|own| own.is(&origin));
    same || more
        .iter()
        .filter_map(|text| parse(text.as_bytes()))
        .any(|other| other.is(&origin))
}

fn parse(text: &[u8]) -> Option<Origin<'_>> {
    let after = |scheme: &[u8]| {
        let (head, rest) = text.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    match after(b"https://") {
        Some(rest) => authority(rest, true),
        None => authority(after(b"http://")?, false),
    }
}

/// A host, and a port where it is not that of the scheme.
fn authority(text: &[u8], https: bool) -> Option<Origin<'_>> {
    let colon = text.iter().rposition(|b| *b == b':');
    // A colon within brackets belongs to an IPv6 address.
    let colon = colon.filter(|at| !text.get(*at..).unwrap_or_default().contains(&b']'));
    let (host, port) = match colon.and_then(|at| text.split_at_checked(at)) {
        Some((host, port)) => (host, port.get(1..).unwrap_or_default()),
        None => (text, &[][..]),
    };
    let port = match port {
        [] if https => 443,
        [] => 80,
        digits if digits.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(digits).ok()?.parse().ok()?
        }
        _ => return None,
    };
    let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'@' | b'?' | b'#' | b',');
    let good = !host.is_empty() && host.iter().all(plain);
    good.then_some(Origin { https, host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_the_host_or_on_the_list() {
        let more = [
            "https://app.example.com".to_owned(),
            "http://dev:3000".to_owned(),
        ];
        for (origin, host, secure, expected) in [
            ("https://shop.test", "shop.test", true, true),
            ("HTTPS://Shop.test", "shop.TEST:443", true, true),
            ("https://shop.test:443", "shop.test", true, true),
            ("https://shop.test:8443", "shop.test:8443", true, true),
            ("https://shop.test", "shop.test:8443", true, false),
            ("https://shop.test:8443", "shop.test", true, false),
            ("http://shop.test", "shop.test", true, false),
            ("http://shop.test", "shop.test", false, true),
            ("http://shop.test", "shop.test:443", false, false),
            ("https://shop.test", "shop.test", false, true),
            ("https://[::1]:8443", "[::1]:8443", true, true),
            ("http://[::1]", "[::1]:80", false, true),
            ("https://shop.test.evil.test", "shop.test", true, false),
            ("https://evil.test", "shop.test", true, false),
            ("https://shop.test@evil.test", "shop.test", true, false),
            ("https://shop.test/", "shop.test", true, false),
            (
                "https://shop.test, https://evil.test",
                "shop.test",
                true,
                false,
            ),
            ("https://shop.test:99999", "shop.test", true, false),
            ("https://shop.test:+443", "shop.test", true, false),
            ("https://", "", true, false),
            ("null", "null", true, false),
            ("", "", false, false),
            ("shop.test", "shop.test", true, false),
            ("https:", "shop.test", true, false),
            ("ftp://shop.test", "shop.test", false, false),
            ("https://app.example.com", "shop.test", true, true),
            ("https://app.example.com:443", "shop.test", true, true),
            ("http://app.example.com", "shop.test", true, false),
            ("http://dev:3000", "shop.test", true, true),
            ("http://dev", "shop.test", true, false),
        ] {
            let found = judge(origin.as_bytes(), host.as_bytes(), secure, &more);
            assert_eq!(found, expected, "{origin} for {host}, secure {secure}");
        }
    }
}
