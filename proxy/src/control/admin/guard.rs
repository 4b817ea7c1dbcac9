//! Who may talk to the admin endpoint: Host, Origin, Content-Type and bearer token of a request.
//!
//! Owns the endpoint's address and the digest of its token. Pure: headers in, a verdict out.
//!
//! Why each check is there. *Host*: a page of an attacker whose name is made to resolve to 127.0.0.1
//! (DNS rebinding) reaches a loopback endpoint from the operator's browser; it can't choose the Host.
//! *Origin* and *Content-Type*: a form or a script of another site can send a write, but not with our
//! own origin, and not as `application/json` without a preflight, which is never granted; a read with
//! a foreign Origin gets nothing either. *Token*:
//! everybody else. Tokens are compared as digests in constant time.
//!
//! Invariants: the token is never printed. `/healthz` and `/readyz` need none, so that a probe needs
//! no secret. Deliberately no accounts, roles or cookies.
//!
//! Tested below by tables.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, Method, StatusCode, header};
use holdfast_config::plan::Admin;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::ApiError;

/// The checks for one endpoint.
#[derive(Clone)]
pub struct Guard {
    address: SocketAddr,
    token: Option<[u8; 32]>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// For the address that is really bound, and the plan's token.
    pub fn new(address: SocketAddr, admin: &Admin) -> Self {
        Self {
            address,
            token: admin
                .token
                .as_ref()
                .map(|token| Sha256::digest(&token.0).into()),
        }
    }

    /// May this request be answered? `open`: it needs no token.
    ///
    /// # Errors
    /// 400 without exactly one Host, 403 for a foreign Host or Origin, 401 without the token, 415 for
    /// a write whose body isn't JSON.
    pub fn check(&self, method: &Method, headers: &HeaderMap, open: bool) -> Result<(), ApiError> {
        if open && !headers.contains_key(header::HOST) {
            // HTTP/1.0 probes of balancers. Browsers, whom the check is for, always send it.
            return Ok(());
        }
        let host = self.host(headers)?;
        let write = !matches!(*method, Method::GET | Method::HEAD);
        origin(headers, host)?;
        if write {
            site(headers)?;
        }
        if !open {
            self.token(headers)?;
        }
        if write {
            content_type(headers)?;
        }
        Ok(())
    }

    fn host<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, ApiError> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(ApiError::bad("exactly one Host header is needed"));
        };
        let host = host
            .to_str()
            .map_err(|_| ApiError::bad("the Host header is not text"))?;
        let (name, port) =
            split_host(host).ok_or_else(|| ApiError::bad("the Host header is malformed"))?;
        if self.is_ours(name, port) {
            Ok(host)
        } else {
            Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "this Host is not one of the admin endpoint's",
            ))
        }
    }

    fn is_ours(&self, name: &str, port: u16) -> bool {
        let ip = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(name)
            .parse::<IpAddr>()
            .ok();
        let ip = ip.map(|ip| ip.to_canonical());
        let local = self.address.ip().to_canonical();
        if !local.is_loopback() && self.token.is_some() {
            // Reached under names and addresses that we can't know; the token stops other people's pages.
            return true;
        }
        if port != self.address.port() {
            return false;
        }
        match ip {
            Some(ip) => {
                ip == local || (ip.is_loopback() && (local.is_loopback() || local.is_unspecified()))
            }
            None => local.is_loopback() && name.eq_ignore_ascii_case("localhost"),
        }
    }

    fn token(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(expected) = &self.token else {
            return Ok(());
        };
        let unauthorized = |text: &str| ApiError::new(StatusCode::UNAUTHORIZED, text);
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(unauthorized("a bearer token is needed"));
        };
        let presented = value
            .as_bytes()
            .split_at_checked(7)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, token)| token.trim_ascii())
            .ok_or_else(|| unauthorized("a bearer token is needed"))?;
        let presented: [u8; 32] = Sha256::digest(presented).into();
        if bool::from(presented.ct_eq(expected)) {
            Ok(())
        } else {
            Err(unauthorized("the bearer token is wrong"))
        }
    }
}

/// `name[:port]` or `[v6][:port]`; the port is 80 where there is none.
fn split_host(host: &str) -> Option<(&str, u16)> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')? + 2;
            (host.get(..end)?, host.get(end..)?)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if name.is_empty() || !name.chars().all(plain) {
        return None;
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => 80,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok()?
        }
        _ => return None,
    };
    Some((name, port))
}

/// A browser says which page's script a request comes from; anything but this very endpoint is refused.
fn origin(headers: &HeaderMap, host: &str) -> Result<(), ApiError> {
    for origin in headers.get_all(header::ORIGIN) {
        let authority = origin.to_str().ok().and_then(|origin| {
            origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"))
        });
        if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
            return Err(foreign());
        }
    }
    Ok(())
}

fn foreign() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "requests from another origin are refused",
    )
}

/// The same for the forms of pages. Not for reads: a link on another site may lead here.
fn site(headers: &HeaderMap) -> Result<(), ApiError> {
    for site in headers.get_all("sec-fetch-site") {
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return Err(foreign());
        }
    }
    Ok(())
}

/// A write with a body says that it is JSON.
fn content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let bodyless = !headers.contains_key(header::TRANSFER_ENCODING)
        && headers
            .get(header::CONTENT_LENGTH)
            .is_none_or(|length| length.as_bytes() == b"0");
    if bodyless {
        return Ok(());
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let json = match (types.next(), types.next()) {
        (Some(value), None) => {
            value
                .as_bytes()
                .split(|&b| b == b';')
                .next()
                .is_some_and(|essence| {
                    essence
                        .trim_ascii()
                        .eq_ignore_ascii_case(b"application/json")
                })
        }
        _ => false,
    };
    if json {
        Ok(())
    } else {
        Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type: application/json is needed",
        ))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use holdfast_config::plan::Secret;

    use super::*;

    fn guard(address: &str, token: Option<&str>) -> Guard {
        let address = address.parse().unwrap();
        Guard::new(
            address,
            &Admin {
                address,
                token: token.map(|t| Secret(t.as_bytes().to_vec())),
            },
        )
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let name = |n: &str| n.parse::<HeaderName>().unwrap();
        lines
            .iter()
            .map(|(n, v)| (name(n), v.parse().unwrap()))
            .collect()
    }

    fn status(guard: &Guard, method: Method, lines: &[(&str, &str)]) -> u16 {
        // `collect` keeps the last of doubled names; appended here instead.
        let mut map = HeaderMap::new();
        for (n, v) in lines {
            map.append(n.parse::<HeaderName>().unwrap(), v.parse().unwrap());
        }
        guard
            .check(&method, &map, false)
            .map_or_else(|e| e.status.as_u16(), |()| 200)
    }

    #[test]
    fn hosts() {
        let loopback = "127.0.0.1:9901";
        for (address, token, host, expected) in [
            (loopback, None, "127.0.0.1:9901", 200),
            (loopback, None, "127.0.0.2:9901", 200),
            (loopback, None, "localhost:9901", 200),
            (loopback, None, "LocalHost:9901", 200),
            (loopback, None, "[::1]:9901", 200),
            (loopback, None, "[::ffff:127.0.0.1]:9901", 200),
            (loopback, None, "localhost", 403),
            (loopback, None, "localhost:80", 403),
            (loopback, None, "localhost:9902", 403),
            (loopback, None, "127.0.0.1", 403),
            (loopback, None, "evil.example:9901", 403),
            (loopback, None, "localhost.evil.example:9901", 403),
            (loopback, None, "127.0.0.1.evil.example:9901", 403),
            (loopback, None, "10.0.0.1:9901", 403),
            (loopback, None, "[::2]:9901", 403),
            (loopback, Some("t"), "evil.example:9901", 403),
            (loopback, None, "", 400),
            (loopback, None, ":9901", 400),
            (loopback, None, "localhost:", 400),
            (loopback, None, "localhost:99011", 400),
            (loopback, None, "localhost:+9901", 400),
            (loopback, None, "localhost:9901:9901", 400),
            (loopback, None, "[::1", 400),
            (loopback, None, "[::1]9901", 400),
            (loopback, None, "user@localhost:9901", 400),
            (loopback, None, "localhost:9901/", 400),
            ("127.0.0.1:80", None, "localhost", 200),
            ("[::1]:9901", None, "127.0.0.1:9901", 200),
            ("10.1.2.3:9901", None, "10.1.2.3:9901", 200),
            ("10.1.2.3:9901", None, "10.1.2.4:9901", 403),
            ("10.1.2.3:9901", None, "localhost:9901", 403),
            ("10.1.2.3:9901", None, "127.0.0.1:9901", 403),
            ("10.1.2.3:9901", Some("t"), "admin.example", 200),
            ("0.0.0.0:9901", Some("t"), "10.9.9.9:30001", 200),
            ("0.0.0.0:9901", None, "127.0.0.1:9901", 200),
            ("0.0.0.0:9901", None, "10.9.9.9:9901", 403),
        ] {
            let guard = guard(address, token);
            let got = status(
                &guard,
                Method::GET,
                &[("host", host), ("authorization", "Bearer t")],
            );
            assert_eq!(got, expected, "{address} {host:?}");
        }
        let guard = guard(loopback, None);
        assert_eq!(status(&guard, Method::GET, &[]), 400);
        assert_eq!(
            status(
                &guard,
                Method::GET,
                &[("host", "localhost:9901"), ("host", "localhost:9901")]
            ),
            400
        );
    }

    #[test]
    fn origins() {
        let guard = guard("127.0.0.1:9901", None);
        for (lines, expected) in [
            (&[][..], 200),
            (&[("origin", "http://localhost:9901")], 200),
            (&[("origin", "https://LOCALHOST:9901")], 200),
            (&[("origin", "http://127.0.0.1:9901")], 403),
            (&[("origin", "http://localhost:9901.evil.example")], 403),
            (&[("origin", "http://evil.example")], 403),
            (&[("origin", "null")], 403),
            (
                &[
                    ("origin", "http://localhost:9901"),
                    ("origin", "http://evil.example"),
                ],
                403,
            ),
            (&[("sec-fetch-site", "cross-site")], 403),
            (&[("sec-fetch-site", "same-site")], 403),
            (&[("sec-fetch-site", "same-origin")], 200),
        ] {
            let all = [&[("host", "localhost:9901")], lines].concat();
            assert_eq!(status(&guard, Method::DELETE, &all), expected, "{lines:?}");
            assert_eq!(
                status(&guard, Method::GET, &all),
                if lines.iter().any(|(name, _)| *name == "origin") {
                    expected
                } else {
                    200
                },
                "a link may lead here: {lines:?}"
            );
        }
    }

    #[test]
    fn types_of_bodies() {
        let guard = guard("127.0.0.1:9901", None);
        for (lines, expected) in [
            (&[("content-length", "0")][..], 200),
            (&[("content-length", "2")], 415),
            (&[("transfer-encoding", "chunked")], 415),
            (
                &[("content-length", "2"), ("content-type", "text/plain")],
                415,
            ),
            (
                &[
                    ("content-length", "2"),
                    ("content-type", "application/json"),
                ],
                200,
            ),
            (
                &[
                    ("content-length", "2"),
                    ("content-type", "Application/JSON ; charset=utf-8"),
                ],
                200,
            ),
            (
                &[
                    ("content-length", "2"),
                    ("content-type", "text/plain; application/json"),
                ],
                415,
            ),
            (
                &[
                    ("content-length", "2"),
                    ("content-type", "application/json"),
                    ("content-type", "text/plain"),
                ],
                415,
            ),
        ] {
            let all = [&[("host", "localhost:9901")], lines].concat();
            assert_eq!(status(&guard, Method::PUT, &all), expected, "{lines:?}");
        }
    }

    #[test]
    fn tokens() {
        let guard = guard("10.0.0.1:1", Some("s3cret"));
        for (lines, expected) in [
            (&[][..], 401),
            (&[("authorization", "Bearer s3cret")], 200),
            (&[("authorization", "bearer s3cret ")], 200),
            (&[("authorization", "Bearer s3cre")], 401),
            (&[("authorization", "Bearer s3cret2")], 401),
            (&[("authorization", "Bearer ")], 401),
            (&[("authorization", "Basic s3cret")], 401),
            (&[("authorization", "s3cret")], 401),
            (
                &[
                    ("authorization", "Bearer s3cret"),
                    ("authorization", "Bearer x"),
                ],
                401,
            ),
        ] {
            let all = [&[("host", "x")], lines].concat();
            assert_eq!(status(&guard, Method::GET, &all), expected, "{lines:?}");
        }
        assert!(
            guard
                .check(&Method::GET, &headers(&[("host", "x")]), true)
                .is_ok(),
            "a probe needs none"
        );
        assert!(
            guard.check(&Method::GET, &headers(&[]), true).is_ok(),
            "nor a Host"
        );
        assert!(!format!("{guard:?}").contains("s3cret"));
    }
}
