//! Forwarding headers: who the client is, and what upstreams are told about it.
//!
//! A peer is *trusted* when its address is in the listener's `trustedProxies`. What an untrusted peer
//! says about others is not believed and not passed on: its `X-Forwarded-For`, `-Proto` and `-Host`
//! are replaced, `Forwarded` is left out. What a trusted one says is kept, and added to. `Via` is
//! left alone in both cases.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{trim, valid_host};

/// The client's address: from the peer on, and then along `X-Forwarded-For` from its right, the
/// first address that is not trusted. If all are trusted it is the left-most; at anything that is
/// not an address the walk stops at the last one that was.
///
/// `peer` is the address of the connection, or the one that the PROXY protocol gave. `lines` are
/// the values of all `X-Forwarded-For` lines in order. The result is canonical: an IPv4-mapped
/// address is an IPv4 one.
pub fn client_address<'a>(
    peer: IpAddr,
    lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted(client) {
        return client;
    }
    for element in lines.rev().flat_map(|line| line.rsplit(|&b| b == b',')) {
        let element = trim(element);
        if element.is_empty() {
            continue;
        }
        let Some(address) = address(element) else {
            return client;
        };
        client = address;
        if !trusted(client) {
            return client;
        }
    }
    client
}

/// Reads one element: an address, bare or quoted, an IPv6 one in brackets or not, with a port or
/// not. `unknown`, obfuscated names, zones and anything else are `None`.
pub fn address(element: &[u8]) -> Option<IpAddr> {
    let text = match element {
        [b'"', inner @ .., b'"'] => inner,
        other => other,
    };
    // The longest is an IPv6 address with an IPv4 tail, brackets and a port: 45 + 2 + 6.
    if text.len() > 53 {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (inner, port) = rest.split_once(']')?;
        if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
            return None;
        }
        IpAddr::V6(inner.parse::<Ipv6Addr>().ok()?)
    } else if let Ok(v6) = text.parse::<Ipv6Addr>() {
        IpAddr::V6(v6)
    } else {
        let host = match text.split_once(':') {
            Some((host, port)) if is_port(port) => host,
            Some(_) => return None,
            None => text,
        };
        IpAddr::V4(host.parse::<Ipv4Addr>().ok()?)
    };
    Some(address.to_canonical())
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Appends the value of the `X-Forwarded-For` that goes upstream: what a trusted peer sent, lines
/// joined, and the peer itself. For an untrusted peer hand in no lines.
pub fn write_for<'a>(peer: IpAddr, lines: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    use std::io::Write;
    for line in lines.filter(|l| !l.is_empty()) {
        out.extend_from_slice(line);
        out.extend_from_slice(b", ");
    }
    // A vector takes all that is written.
    let _ = write!(out, "{}", peer.to_canonical());
}

/// The scheme that the client used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn read(text: &[u8]) -> Option<Scheme> {
        match text {
            t if t.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
            t if t.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
            _ => None,
        }
    }
}

/// The scheme that a *trusted* peer vouches for: `proto` are its `X-Forwarded-Proto` lines; if it
/// sent none, `forwarded`, its `Forwarded` lines, are asked for `proto`. Where several schemes are
/// listed they must all agree, since the one nearest to the client may be the client's own
/// invention. `None`: it does not say; then the scheme of the connection holds.
pub fn scheme<'a>(
    proto: impl Iterator<Item = &'a [u8]>,
    forwarded: impl Iterator<Item = &'a [u8]>,
) -> Option<Scheme> {
    let mut proto = proto
        .flat_map(|l| l.split(|&b| b == b','))
        .map(trim)
        .peekable();
    if proto.peek().is_some() {
        return agreed(proto.map(Scheme::read));
    }
    let said = forwarded
        .flat_map(|l| l.split(|&b| b == b',' || b == b';'))
        .filter_map(|pair| parameter(pair, b"proto"));
    agreed(said.map(Scheme::read))
}

fn agreed(mut all: impl Iterator<Item = Option<Scheme>>) -> Option<Scheme> {
    let first = all.next()??;
    all.all(|s| s == Some(first)).then_some(first)
}

/// The value of `name=value`, unquoted. A comma or semicolon within quotes has split it before; it
/// then is no value that anyone reads here.
fn parameter<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let at = pair.iter().position(|&b| b == b'=')?;
    if !trim(&pair[..at]).eq_ignore_ascii_case(name) {
        return None;
    }
    Some(match trim(&pair[at + 1..]) {
        [b'"', inner @ .., b'"'] => inner,
        value => value,
    })
}

/// The `X-Forwarded-Host` that goes upstream: the one value of a trusted peer's lines if there is
/// exactly one and it is a valid host, else `authority`, the request's own. For an untrusted peer
/// hand in no lines.
pub fn host<'a>(mut lines: impl Iterator<Item = &'a [u8]>, authority: &'a [u8]) -> &'a [u8] {
    match (lines.next(), lines.next()) {
        (Some(line), None) if valid_host(line) => line,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn trusted(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => a.octets()[0] == 10,
            IpAddr::V6(a) => a.segments()[0] == 0xFD00,
        }
    }

    fn client(peer: &str, lines: &[&str]) -> IpAddr {
        client_address(ip(peer), lines.iter().map(|l| l.as_bytes()), trusted)
    }

    #[test]
    fn the_walk() {
        for (peer, lines, expected) in [
            ("1.2.3.4", &[][..], "1.2.3.4"),
            ("1.2.3.4", &["9.9.9.9"], "1.2.3.4"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", &["8.8.8.8, 9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", &["8.8.8.8, 9.9.9.9, 10.0.0.7"], "9.9.9.9"),
            (
                "10.0.0.1",
                &["8.8.8.8", "9.9.9.9,10.0.0.7", "10.0.0.8"],
                "9.9.9.9",
            ),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["9.9.9.9, junk, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["9.9.9.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["9.9.9.9, , 10.0.0.2,"], "9.9.9.9"),
            ("10.0.0.1", &["9.9.9.9:4711"], "9.9.9.9"),
            ("10.0.0.1", &["\"[2001:db8::1]:80\""], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["9.9.9.9, ::ffff:10.0.0.2"], "9.9.9.9"),
            ("::ffff:10.0.0.1", &["::ffff:9.9.9.9"], "9.9.9.9"),
            ("fd00::1", &["9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", &["09.9.9.9"], "10.0.0.1"),
            ("10.0.0.1", &["9.9.9.9:"], "10.0.0.1"),
            ("10.0.0.1", &["fe80::1%eth0"], "10.0.0.1"),
            ("10.0.0.1", &["[::1"], "10.0.0.1"),
            ("10.0.0.1", &["[::1]x"], "10.0.0.1"),
            ("10.0.0.1", &["_hidden", "\""], "10.0.0.1"),
        ] {
            assert_eq!(client(peer, lines), ip(expected), "{peer} {lines:?}");
        }
    }

    #[test]
    fn what_upstreams_are_told() {
        let mut out = Vec::new();
        write_for(
            ip("::ffff:1.2.3.4"),
            [&b"9.9.9.9, 8.8.8.8"[..], b"", b"7.7.7.7"].into_iter(),
            &mut out,
        );
        assert_eq!(out, b"9.9.9.9, 8.8.8.8, 7.7.7.7, 1.2.3.4");
        out.clear();
        write_for(ip("2001:db8::1"), std::iter::empty(), &mut out);
        assert_eq!(out, b"2001:db8::1");
        let one = |l: &'static str| host(std::iter::once(l.as_bytes()), b"own");
        assert_eq!(one("a.example:1"), b"a.example:1");
        assert_eq!(one("a.example, b"), b"own");
        assert_eq!(host([&b"a"[..], b"b"].into_iter(), b"own"), b"own");
        assert_eq!(host(std::iter::empty(), b"own"), b"own");
    }

    #[test]
    fn schemes() {
        let of = |proto: &[&'static str], forwarded: &[&'static str]| {
            scheme(
                proto.iter().map(|l| l.as_bytes()),
                forwarded.iter().map(|l| l.as_bytes()),
            )
        };
        assert_eq!(of(&["https"], &[]), Some(Scheme::Https));
        assert_eq!(of(&["HTTP"], &["proto=https"]), Some(Scheme::Http));
        assert_eq!(of(&["https, https"], &[]), Some(Scheme::Https));
        assert_eq!(of(&["https, http"], &[]), None);
        assert_eq!(of(&["https", "http"], &[]), None);
        assert_eq!(of(&["ftp"], &[]), None);
        assert_eq!(of(&[""], &["proto=https"]), None);
        assert_eq!(
            of(&[], &["for=1.2.3.4;proto=\"https\";by=x"]),
            Some(Scheme::Https)
        );
        assert_eq!(
            of(&[], &["for=1.2.3.4 ; Proto=https, for=x;proto=http"]),
            None
        );
        assert_eq!(of(&[], &["for=1.2.3.4"]), None);
    }
}
