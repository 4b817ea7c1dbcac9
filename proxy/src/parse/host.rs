//! Host and authority (RFC 9110, section 7.2; RFC 3986, section 3.2).

use std::net::Ipv6Addr;

/// Longest authority, in bytes: a DNS name of 253 and a port, with room.
const MAX_HOST: usize = 300;

/// May these bytes stand in a `Host` line: a DNS name or IP address, an IPv6 one in brackets, and a
/// port or not?
///
/// Narrower than RFC 3986: no user information, escapes or `sub-delims`. They name no host on the
/// Internet, and each has been used to make two readers see two hosts.
pub fn valid_host(bytes: &[u8]) -> bool {
    if bytes.is_empty() || bytes.len() > MAX_HOST {
        return false;
    }
    if bytes[0] == b'[' {
        return valid_v6(bytes);
    }
    let (name, port) = match memchr::memchr(b':', bytes) {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    !name.is_empty()
        && name.iter().fold(true, |all, &b| all & NAME[b as usize])
        && port.is_none_or(valid_port)
}

/// For each byte: may it stand in a DNS name or IPv4 address?
static NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        let byte = b as u8;
        table[b] = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
        b += 1;
    }
    table
};

fn valid_v6(bytes: &[u8]) -> bool {
    let Some(close) = bytes.iter().position(|&b| b == b']') else {
        return false;
    };
    let address = std::str::from_utf8(&bytes[1..close]).unwrap_or("");
    let rest = &bytes[close + 1..];
    let port_ok = match rest {
        [] => true,
        [b':', port @ ..] => valid_port(port),
        _ => false,
    };
    port_ok && address.parse::<Ipv6Addr>().is_ok()
}

/// Empty (RFC 3986 allows `host:`), or a number that fits.
fn valid_port(port: &[u8]) -> bool {
    port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && port.iter().fold(0u32, |n, d| n * 10 + u32::from(d - b'0')) <= 65535
}

#[cfg(test)]
mod tests {
    use super::valid_host;

    #[test]
    fn table() {
        for good in [
            "a",
            "example.com",
            "example.com.",
            "example.com:80",
            "example.com:",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:443",
            "[2001:db8::1]:",
            "my_host",
            "xn--bcher-kva.example",
            "A.B:65535",
        ] {
            assert!(valid_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a:b",
            "a:80:80",
            "a:65536",
            "a:000080",
            "user@a",
            "a/b",
            "a?b",
            "a#b",
            "a,b",
            "a;b",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:x",
            "[v1.a]",
            "[fe80::1%25eth0]",
            "a%41",
            "é",
            "a\tb",
            "a\\b",
            "[]",
            "a\"b",
            "a<b",
            "a'b",
            "*",
        ] {
            assert!(!valid_host(bad.as_bytes()), "{bad}");
        }
        assert!(!valid_host(&[b'a'; 301]));
    }
}
