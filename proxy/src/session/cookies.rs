//! Set-Cookie lines of session tokens (RFC 6265bis, 4.1).
//!
//! Pure.

use holdfast_config::plan::{SameSite, SessionCookie};
use holdfast_runtime::clock;

use crate::text::{Sink, write_number};

/// Writes the line that sets a token. `laptop`: without `Secure`, between two loopback ends.
pub fn set(cookie: &SessionCookie, token: &[u8], laptop: bool, out: &mut Vec<u8>) {
    start(cookie, token, out);
    attributes(cookie, cookie.domain.as_deref(), laptop, out);
    if let Some(age) = cookie.max_age {
        out.put(b"; Max-Age=");
        write_number(age, out);
    }
    out.put(b"\r\n");
}

/// Writes the line that ends the cookie at the client.
pub fn expire(cookie: &SessionCookie, laptop: bool, out: &mut Vec<u8>) {
    expire_form(cookie, cookie.domain.as_deref(), laptop, out);
}

/// Writes the lines that end both forms that a client may hold: host-only, and with the domain.
pub fn expire_both(cookie: &SessionCookie, laptop: bool, out: &mut Vec<u8>) {
    expire_form(cookie, None, laptop, out);
    if let Some(domain) = &cookie.domain {
        expire_form(cookie, Some(domain), laptop, out);
    }
}

fn expire_form(cookie: &SessionCookie, domain: Option<&str>, laptop: bool, out: &mut Vec<u8>) {
    start(cookie, b"", out);
    attributes(cookie, domain, laptop, out);
    out.put(b"; Max-Age=0; Expires=");
    out.put(&clock::format_http_date(0));
    out.put(b"\r\n");
}

fn start(cookie: &SessionCookie, value: &[u8], out: &mut Vec<u8>) {
    out.put(b"Set-Cookie: ");
    out.put(cookie.name.as_bytes());
    out.put(b"=");
    out.put(value);
}

fn attributes(cookie: &SessionCookie, domain: Option<&str>, laptop: bool, out: &mut Vec<u8>) {
    out.put(b"; Path=");
    out.put(cookie.path.as_bytes());
    if let Some(domain) = domain {
        out.put(b"; Domain=");
        out.put(domain.as_bytes());
    }
    if cookie.secure && !laptop {
        out.put(b"; Secure");
    }
    if cookie.http_only {
        out.put(b"; HttpOnly");
    }
    out.put(match cookie.same_site {
        SameSite::Strict => b"; SameSite=Strict".as_slice(),
        SameSite::Lax => b"; SameSite=Lax",
        // Browsers take None only with Secure; without it the attribute is left out.
        SameSite::None if laptop => b"",
        SameSite::None => b"; SameSite=None",
    });
    if cookie.partitioned && !laptop {
        out.put(b"; Partitioned");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie() -> SessionCookie {
        SessionCookie {
            name: "sid".into(),
            domain: None,
            path: "/".into(),
            same_site: SameSite::Lax,
            max_age: None,
            secure: true,
            http_only: true,
            partitioned: false,
        }
    }

    fn text(f: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        f(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn every_attribute_is_written() {
        assert_eq!(
            text(|o| set(&cookie(), b"T", false, o)),
            "Set-Cookie: sid=T; Path=/; Secure; HttpOnly; SameSite=Lax\r\n"
        );
        assert_eq!(
            text(|o| set(&cookie(), b"T", true, o)),
            "Set-Cookie: sid=T; Path=/; HttpOnly; SameSite=Lax\r\n"
        );
        let full = SessionCookie {
            domain: Some("example.com".into()),
            max_age: Some(60),
            same_site: SameSite::None,
            partitioned: true,
            ..cookie()
        };
        assert_eq!(
            text(|o| set(&full, b"T", false, o)),
            "Set-Cookie: sid=T; Path=/; Domain=example.com; Secure; HttpOnly; SameSite=None; Partitioned; Max-Age=60\r\n"
        );
    }

    #[test]
    fn ending_both_forms_takes_two_lines_where_there_is_a_domain() {
        assert_eq!(
            text(|o| expire_both(&cookie(), false, o))
                .matches("Set-Cookie: sid=;")
                .count(),
            1
        );
        let full = SessionCookie {
            domain: Some("example.com".into()),
            ..cookie()
        };
        let both = text(|o| expire_both(&full, false, o));
        assert_eq!(
            both.matches("Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT")
                .count(),
            2
        );
        assert_eq!(both.matches("Domain=").count(), 1);
    }
}
