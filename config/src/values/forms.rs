//! One parser for each form of text. Pure.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::MAX_CORES;
use crate::plan::{Cidr, UpstreamAddress};
use crate::units;

/// What `hold: 10s` or `reject: 503` says as one text.
pub(crate) enum Unavailable {
    Hold(Duration),
    Reject(u16),
}

/// `0-3,8`: CPUs in the order written.
pub(crate) fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    let number = |s: &str| s.trim().parse::<usize>().ok().filter(|n| *n <= 4095);
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((a, b)) => (number(a)?, number(b)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return None;
        }
        cpus.extend(first..=last);
        if cpus.len() > MAX_CORES {
            return None;
        }
    }
    Some(cpus)
}

/// Reads `hold: 10s` and `reject: 503`.
pub(crate) fn on_unavailable(text: &str) -> Option<Unavailable> {
    let (word, value) = text.split_once(':')?;
    let value = value.trim();
    match word.trim() {
        "hold" => units::duration(value)
            .filter(|d| !d.is_zero())
            .map(Unavailable::Hold),
        "reject" => value
            .parse()
            .ok()
            .filter(|s| (400..=599).contains(s))
            .map(Unavailable::Reject),
        _ => None,
    }
}

/// `127.0.0.1:8080`, `[::1]:8080`, `:8080` (all IPv4 addresses), `localhost:8080`.
pub(crate) fn socket(text: &str) -> Option<SocketAddr> {
    let full = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        },
    };
    full.parse().ok()
}

/// `host:port` with a port from 1.
pub(crate) fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = number_of_port(port)?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        // Four groups of digits that are no address would go to DNS otherwise.
        None => {
            is_host(host)
                && (host.parse::<IpAddr>().is_ok()
                    || !host.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
        }
    };
    good.then(|| (bare.unwrap_or(host).to_ascii_lowercase(), port))
}

fn number_of_port(text: &str) -> Option<u16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
        .filter(|p| *p > 0)
}

/// Where an upstream is.
pub(crate) fn upstream(text: &str) -> Option<UpstreamAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        // 107 bytes is what `sun_path` holds beside its end.
        return (path.starts_with('/') && path.len() <= 107)
            .then(|| UpstreamAddress::Unix(PathBuf::from(path)));
    }
    let (host, port) = host_port(text)?;
    Some(match host.parse::<IpAddr>() {
        Ok(ip) => UpstreamAddress::Ip(SocketAddr::new(ip, port)),
        Err(_) => UpstreamAddress::Name(host, port),
    })
}

/// `10.0.0.0/8`, or a lone address. Host bits are cleared.
pub(crate) fn cidr(text: &str) -> Option<Cidr> {
    let (ip, prefix) = match text.split_once('/') {
        Some((ip, prefix)) => (ip, Some(prefix)),
        None => (text, None),
    };
    let written: IpAddr = ip.parse().ok()?;
    let ip = written.to_canonical();
    // ::ffff:10.0.0.0/104 is 10.0.0.0/8.
    let mapped = if written.is_ipv6() && ip.is_ipv4() {
        96
    } else {
        0
    };
    let bits: u8 = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => {
            p.parse::<u8>().ok()?.checked_sub(mapped)?
        }
        Some(_) => return None,
        None => bits,
    };
    if prefix > bits {
        return None;
    }
    let network = match ip {
        IpAddr::V4(a) => IpAddr::from(
            (u32::from(a) & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
                .to_be_bytes(),
        ),
        IpAddr::V6(a) => IpAddr::from(
            (u128::from(a) & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0))
                .to_be_bytes(),
        ),
    };
    Some(Cidr { network, prefix })
}

/// A `tchar` of RFC 9110, section 5.6.2.
pub(super) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

pub(super) fn is_host(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

pub(super) fn is_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|r| {
        let host = r.split(['/', '?']).next().unwrap_or("");
        let host = host.rsplit('@').next().unwrap_or("");
        (is_host(host) || host_port(host).is_some())
            && text.bytes().all(|b| (0x21..0x7f).contains(&b))
    })
}

pub(super) fn is_rule_path(text: &str) -> bool {
    let path = text.strip_suffix("/*").unwrap_or(text);
    (path.is_empty() || path.starts_with('/'))
        && (!path.is_empty() || text.ends_with("/*"))
        && path
            .bytes()
            .all(|b| (0x21..0x7f).contains(&b) && !b"*?#\\".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_blocks_lose_their_host_bits() {
        let show = |t: &str| cidr(t).map(|c| format!("{}/{}", c.network, c.prefix));
        assert_eq!(show("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(show("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(show("::1").as_deref(), Some("::1/128"));
        assert_eq!(show("fd00:1::/8").as_deref(), Some("fd00::/8"));
        assert_eq!(show("::ffff:10.1.0.0/104").as_deref(), Some("10.0.0.0/8"));
        for text in [
            "10.0.0.0/33",
            "10.0.0/8",
            "x",
            "::1/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "::ffff:10.0.0.0/8",
        ] {
            assert_eq!(show(text), None, "{text}");
        }
    }

    #[test]
    fn upstream_addresses() {
        assert!(matches!(
            upstream("127.0.0.1:9001"),
            Some(UpstreamAddress::Ip(_))
        ));
        assert!(matches!(
            upstream("[::1]:9001"),
            Some(UpstreamAddress::Ip(_))
        ));
        assert_eq!(
            upstream("App.Internal:80"),
            Some(UpstreamAddress::Name("app.internal".into(), 80))
        );
        assert!(matches!(
            upstream("unix:/run/a.sock"),
            Some(UpstreamAddress::Unix(_))
        ));
        for text in [
            "app",
            "app:0",
            "app:99999",
            "unix:run",
            "999.1.1.1:80",
            ":80",
            "http://x:80",
            "::1:80",
            "a b:80",
        ] {
            assert_eq!(upstream(text), None, "{text}");
        }
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(cpu_list("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(cpu_list("5"), Some(vec![5]));
        for text in ["", "3-1", "a", "0-", "0,,1", "0-99999999"] {
            assert_eq!(cpu_list(text), None, "{text}");
        }
    }
}
