//! The pin cookie's name and its `Set-Cookie` line.

use holdfast_config::plan::{PinCookie, SameSite};
use sha2::{Digest, Sha256};

/// The names under which a service's pin may come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieNames {
    /// The one that is written, and read first.
    pub own: String,
    /// The one that is read where `own` brings no pin, and replaced: the bare name where services have names
    /// of their own, and the service's own name where there is one service (so that a second service may come
    /// and go without ending a pin).
    pub other: String,
}

impl CookieNames {
    /// For a service of a router with `services` of them.
    pub fn new(base: &str, service: &str, services: usize) -> Self {
        let (bare, full) = (base.to_owned(), of_service(base, service));
        if services <= 1 {
            Self {
                own: bare,
                other: full,
            }
        } else {
            Self {
                own: full,
                other: bare,
            }
        }
    }
}

/// The pin cookie's name: `base` where the router has one service, else `base.` and 8 hexadecimal digits of
/// the service's hash (SHA-256 of its name).
pub fn cookie_name(base: &str, service: &str, services: usize) -> String {
    CookieNames::new(base, service, services).own
}

fn of_service(base: &str, service: &str) -> String {
    let hash = Sha256::digest(service.as_bytes());
    let digits = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    format!("{base}.{digits:08x}")
}

/// Appends the value of a `Set-Cookie` header (RFC 6265, section 4.1) that carries a pin: `name=value` and
/// attributes, without the header's name and without a line end.
///
/// `secure_attr`: whether `Secure` is written; the caller knows how the client came.
pub fn write_set_cookie(
    cookie: &PinCookie,
    name: &str,
    value: &[u8],
    secure_attr: bool,
    out: &mut Vec<u8>,
) {
    write_name(name, out);
    out.extend_from_slice(value);
    write_rest(cookie, secure_attr, out);
}

/// What stands before the value.
pub(super) fn write_name(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
}

/// What stands behind the value.
pub(super) fn write_rest(cookie: &PinCookie, secure_attr: bool, out: &mut Vec<u8>) {
    if cookie.max_age > 0 {
        out.extend_from_slice(b"; Max-Age=");
        out.extend_from_slice(itoa::Buffer::new().format(cookie.max_age).as_bytes());
    }
    write_attributes(cookie, secure_attr, out);
}

/// The same for a line that ends the cookie at the client.
pub fn write_expired_cookie(cookie: &PinCookie, name: &str, secure_attr: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
    write_attributes(cookie, secure_attr, out);
}

/// Path and domain must be the same when a cookie is set and when it is ended.
fn write_attributes(cookie: &PinCookie, secure_attr: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"; Path=");
    out.extend_from_slice(cookie.path.as_bytes());
    if let Some(domain) = &cookie.domain {
        out.extend_from_slice(b"; Domain=");
        out.extend_from_slice(domain.as_bytes());
    }
    if secure_attr {
        out.extend_from_slice(b"; Secure");
    }
    // No script has any use for a pin.
    out.extend_from_slice(match cookie.same_site {
        SameSite::Strict => b"; HttpOnly; SameSite=Strict".as_slice(),
        SameSite::Lax => b"; HttpOnly; SameSite=Lax",
        SameSite::None => b"; HttpOnly; SameSite=None",
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie() -> PinCookie {
        PinCookie {
            name: "gateway-backend".into(),
            path: "/".into(),
            domain: None,
            max_age: 3600,
            secure: true,
            same_site: SameSite::Lax,
            key: None,
        }
    }

    fn line(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names() {
        assert_eq!(cookie_name("pin", "chat", 1), "pin");
        // SHA-256("abc") begins with ba7816bf (FIPS 180-2, appendix B.1).
        assert_eq!(cookie_name("pin", "abc", 2), "pin.ba7816bf");
        let (one, two) = (
            CookieNames::new("pin", "abc", 1),
            CookieNames::new("pin", "abc", 2),
        );
        assert_eq!((&one.own, &one.other), (&two.other, &two.own));
    }

    #[test]
    fn set() {
        assert_eq!(
            line(|out| write_set_cookie(&cookie(), "pin", b"abc", true, out)),
            "pin=abc; Max-Age=3600; Path=/; Secure; HttpOnly; SameSite=Lax"
        );
        let other = PinCookie {
            max_age: 0,
            domain: Some("example.com".into()),
            path: "/chat".into(),
            same_site: SameSite::Strict,
            ..cookie()
        };
        assert_eq!(
            line(|out| write_set_cookie(&other, "pin", b"abc", false, out)),
            "pin=abc; Path=/chat; Domain=example.com; HttpOnly; SameSite=Strict"
        );
    }

    #[test]
    fn expired() {
        assert_eq!(
            line(|out| write_expired_cookie(
                &PinCookie {
                    same_site: SameSite::None,
                    ..cookie()
                },
                "pin",
                true,
                out
            )),
            "pin=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; Secure; HttpOnly; SameSite=None"
        );
    }
}
