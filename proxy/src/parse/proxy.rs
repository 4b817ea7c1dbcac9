//! The PROXY protocol, versions 1 and 2: who a connection that somebody passes on really comes from.
//!
//! Owns nothing: [`read`] and [`write_v2`] are plain functions of bytes, for any thread; the data cores
//! call them. The format is that of HAProxy's proxy-protocol.txt.
//!
//! Invariants: a header is of exactly one version and read in one way, whatever the reads that brought
//! it; nothing that can't begin one is waited on; a header takes at most [`MAX`] bytes; the bytes
//! behind it are never looked at. What a header says beside the source (the address that the client
//! came to, the TLVs of version 2) is skipped by its length and believed in nothing.
//!
//! It deliberately decides no policy: whether a listener takes headers at all, and what becomes of a
//! connection without a good one, is [`crate::accept`]'s. Tested by the tables and properties below
//! and by the fuzz target `proxy_header`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, its line end included.
pub const MAX_V1: usize = 107;
/// Longest header of version 2, TLVs included: those of TLS may carry a certificate.
pub const MAX: usize = 8 * 1024;

/// What a header of version 2 begins with: no request of any version of HTTP does.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What a header of version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// Signature, version and command, family and transport, length.
const FIXED: usize = 16;

const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const UNSPECIFIED: u8 = 0;
const INET: u8 = 1;
const INET6: u8 = 2;
const UNIX: u8 = 3;
const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its bytes: what comes behind them is the connection's own.
    pub len: usize,
    /// The client's address. `None`: the sender speaks for itself (LOCAL), or of a client without an
    /// IP address (UNKNOWN, a unix socket), so that the connection's real peer stands.
    pub source: Option<SocketAddr>,
}

/// No header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Reads the header that `input` begins with. `None`: more bytes are needed to tell.
///
/// # Errors
/// [`Malformed`]: no continuation can make a header of it.
pub fn read(input: &[u8]) -> Result<Option<Header>, Malformed> {
    if begins(input, &SIGNATURE) {
        if input.len() < FIXED {
            return early(input);
        }
        return version_2(input);
    }
    if begins(input, WORD) {
        return version_1(input);
    }
    Err(Malformed("the connection begins with something else"))
}

/// Whether what is there of `input` is what is there of `start`.
fn begins(input: &[u8], start: &[u8]) -> bool {
    let n = input.len().min(start.len());
    input[..n] == start[..n]
}

/// The fixed part of version 2 while it is not all there: what is wrong already is told at once.
fn early(input: &[u8]) -> Result<Option<Header>, Malformed> {
    if let Some(&byte) = input.get(12) {
        command(byte)?;
    }
    if let Some(&byte) = input.get(13) {
        family(byte)?;
    }
    Ok(None)
}

fn command(byte: u8) -> Result<u8, Malformed> {
    match (byte >> 4, byte & 15) {
        (2, command @ (LOCAL | PROXY)) => Ok(command),
        (2, _) => Err(Malformed("an unknown command")),
        _ => Err(Malformed("an unknown version")),
    }
}

/// The address family, and how many bytes its two addresses take.
fn family(byte: u8) -> Result<(u8, usize), Malformed> {
    let size = match (byte >> 4, byte & 15) {
        // Which transport an unspecified family has says nothing.
        (UNSPECIFIED, UNSPECIFIED..=DATAGRAM) => 0,
        // A datagram: HTTP/3, say, that the sender passes on over TCP.
        (INET, STREAM | DATAGRAM) => 12,
        (INET6, STREAM | DATAGRAM) => 36,
        (UNIX, STREAM | DATAGRAM) => 216,
        _ => return Err(Malformed("an unknown address family or transport")),
    };
    Ok((byte >> 4, size))
}

fn version_2(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let [.., command_byte, family_byte, high, low] = *input
        .first_chunk::<FIXED>()
        .ok_or(Malformed("a short header"))?;
    let command = command(command_byte)?;
    let (family, size) = family(family_byte)?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let len = FIXED + length;
    if len > MAX {
        return Err(Malformed("a header of over 8192 bytes"));
    }
    if command == PROXY && length < size {
        return Err(Malformed("a length under that of its addresses"));
    }
    let Some(body) = input.get(FIXED..len) else {
        return Ok(None);
    };
    // Of LOCAL, the addresses are to be ignored, and may be anything.
    let source = if command == PROXY {
        address(family, body)
    } else {
        None
    };
    Ok(Some(Header { len, source }))
}

/// The source of a header's addresses: source, destination, their ports.
fn address(family: u8, body: &[u8]) -> Option<SocketAddr> {
    let (ip, port): (IpAddr, _) = match family {
        INET => (
            Ipv4Addr::from(*body.first_chunk::<4>()?).into(),
            body.get(8..10)?,
        ),
        INET6 => (
            Ipv6Addr::from(*body.first_chunk::<16>()?).into(),
            body.get(32..34)?,
        ),
        _ => return None,
    };
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Some(SocketAddr::new(ip.to_canonical(), port))
}

fn version_1(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let window = &input[..input.len().min(MAX_V1)];
    let Some(end) = window.iter().position(|b| b.is_ascii_control()) else {
        return if window.len() == MAX_V1 {
            Err(Malformed("a line of over 107 bytes"))
        } else {
            Ok(None)
        };
    };
    match window[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if window.len() < MAX_V1 => return Ok(None),
        _ => return Err(Malformed("a control character within the line")),
    }
    let line = window
        .get(WORD.len()..end)
        .ok_or(Malformed("a short line"))?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed("a line that is no ASCII"))?;
    Ok(Some(Header {
        len: end + 2,
        source: line_source(line)?,
    }))
}

/// The source that a line of version 1 names, without its `PROXY` and line end.
fn line_source(line: &str) -> Result<Option<SocketAddr>, Malformed> {
    let mut words = line.split(' ');
    let protocol = words.next();
    // Whatever follows UNKNOWN is to be ignored.
    if protocol == Some("UNKNOWN") {
        return Ok(None);
    }
    let fields = [(); 4].map(|()| words.next().unwrap_or_default());
    if words.next().is_some() {
        return Err(Malformed("a line of too many words"));
    }
    let [source, destination, port, other_port] = fields;
    let ip = |text: &str| -> Option<IpAddr> {
        match protocol {
            Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let addresses = ip(source).zip(ip(destination));
    let ports = port_of(port).zip(port_of(other_port));
    match (addresses, ports) {
        (Some((ip, _)), Some((port, _))) => Ok(Some(SocketAddr::new(ip.to_canonical(), port))),
        _ => Err(Malformed("an unknown protocol, address or port")),
    }
}

/// A port in decimal, without sign or leading zeros.
fn port_of(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Longest header that [`write_v2`] writes.
pub const WRITTEN: usize = FIXED + 36;

/// Calls `put` with a header of version 2 that says: the client is `source`, and came to
/// `destination`. Of two families both are written as IPv6.
pub fn write_v2(source: SocketAddr, destination: SocketAddr, put: impl FnOnce(&[u8])) {
    let mut header = [0; WRITTEN];
    header[..12].copy_from_slice(&SIGNATURE);
    header[12] = 2 << 4 | PROXY;
    let ports = |from: SocketAddr, to: SocketAddr| {
        let ([a, b], [c, d]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
        [a, b, c, d]
    };
    let ports = ports(source, destination);
    let len = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header[13] = INET << 4 | STREAM;
            header[15] = 12;
            header[16..20].copy_from_slice(&from.octets());
            header[20..24].copy_from_slice(&to.octets());
            header[24..28].copy_from_slice(&ports);
            28
        }
        (from, to) => {
            header[13] = INET6 << 4 | STREAM;
            header[15] = 36;
            header[16..32].copy_from_slice(&wide(from).octets());
            header[32..48].copy_from_slice(&wide(to).octets());
            header[48..52].copy_from_slice(&ports);
            52
        }
    };
    put(&header[..len]);
}

fn wide(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((body.len() as u16).to_be_bytes());
        header.extend(body);
        header
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];

    #[track_caller]
    fn good(header: &[u8], source: Option<&str>) {
        let source = source.map(|s| s.parse().unwrap());
        let expected = Ok(Some(Header {
            len: header.len(),
            source,
        }));
        let shown = String::from_utf8_lossy(header);
        assert_eq!(read(header), expected, "{shown:?}");
        let mut more = header.to_vec();
        more.extend(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(read(&more), expected, "{shown:?} and a request");
        for n in 0..header.len() {
            assert_eq!(read(&header[..n]), Ok(None), "{n} bytes of {shown:?}");
        }
    }

    #[test]
    fn lines_of_version_1() {
        for (line, source) in [
            ("TCP4 192.0.2.7 10.0.0.1 56324 443", Some("192.0.2.7:56324")),
            (
                "TCP4 255.255.255.255 255.255.255.255 65535 65535",
                Some("255.255.255.255:65535"),
            ),
            ("TCP4 0.0.0.0 0.0.0.0 0 0", Some("0.0.0.0:0")),
            ("TCP6 2001:db8::7 2001:db8::1 1 2", Some("[2001:db8::7]:1")),
            ("TCP6 ::ffff:192.0.2.7 ::1 1 2", Some("192.0.2.7:1")),
            ("UNKNOWN", None),
            ("UNKNOWN ffff::1 whatever else stands here", None),
        ] {
            good(format!("PROXY {line}\r\n").as_bytes(), source);
        }
        let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
             ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(longest.len(), MAX_V1);
        good(longest.as_bytes(), None);
    }

    #[test]
    fn what_is_no_line_of_version_1() {
        for line in [
            "",
            "TCP4",
            "TCP4 ",
            "TCP4 192.0.2.7 10.0.0.1 56324",
            "TCP4 192.0.2.7 10.0.0.1 56324 443 ",
            "TCP4 192.0.2.7 10.0.0.1 56324 443 1",
            "TCP4  192.0.2.7 10.0.0.1 56324 443",
            "TCP4 192.0.2.07 10.0.0.1 56324 443",
            "TCP4 192.0.2 10.0.0.1 56324 443",
            "TCP4 192.0.2.7 10.0.0.1 056324 443",
            "TCP4 192.0.2.7 10.0.0.1 +1 443",
            "TCP4 192.0.2.7 10.0.0.1 65536 443",
            "TCP4 192.0.2.7 10.0.0.1 1 ",
            "TCP4 ::1 ::1 1 2",
            "TCP6 192.0.2.7 10.0.0.1 1 2",
            "TCP6 fe80::1%eth0 ::1 1 2",
            "tcp4 192.0.2.7 10.0.0.1 56324 443",
            "UDP4 192.0.2.7 10.0.0.1 56324 443",
            "UNKNOWNS",
            "TCP4 192.0.2.7\t10.0.0.1 1 2",
            "TCP4 192.0.2.7 10.0.0.1 1 2\rx",
            "TCP4 192.0.2.\u{e9}7 10.0.0.1 1 2",
        ] {
            let text = format!("PROXY {line}\r\n");
            assert!(read(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(read(b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\nGET").is_err());
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(MAX_V1));
        assert_eq!(read(&endless.as_bytes()[..MAX_V1 - 1]), Ok(None));
        assert!(read(&endless.as_bytes()[..MAX_V1]).is_err());
        let late = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_V1 - 15));
        assert_eq!(late.len(), MAX_V1 + 1);
        assert!(read(late.as_bytes()).is_err());
        assert!(read(&late.as_bytes()[..MAX_V1]).is_err());
    }

    #[test]
    fn headers_of_version_2() {
        good(&v2(0x21, 0x11, &V4), Some("192.0.2.7:8080"));
        // A datagram at the client's side, and TLVs, whole or not.
        good(&v2(0x21, 0x12, &V4), Some("192.0.2.7:8080"));
        for tlvs in [&b"\x01\0\x02h2"[..], b"\x04\0\0", b"\xff\xff\xff", b"\x20"] {
            good(
                &v2(0x21, 0x11, &[&V4, tlvs].concat()),
                Some("192.0.2.7:8080"),
            );
        }
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&[0, 9]);
        good(&v2(0x21, 0x21, &v6), Some("[2001:db8::7]:9"));
        v6[..16].copy_from_slice(&"::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets());
        good(&v2(0x21, 0x22, &v6), Some("192.0.2.7:9"));
        // No IP address: the real peer stands.
        good(&v2(0x21, 0x31, &[b'/'; 216]), None);
        good(&v2(0x21, 0x00, &[]), None);
        good(&v2(0x21, 0x01, b"\x04\0\0"), None);
        // LOCAL, with whatever it carries.
        good(&v2(0x20, 0x00, &[]), None);
        good(&v2(0x20, 0x11, &V4), None);
        good(&v2(0x20, 0x21, b"abc"), None);
        good(&v2(0x21, 0x11, &[7; MAX - FIXED]), Some("7.7.7.7:1799"));
    }

    #[test]
    fn what_is_no_header_of_version_2() {
        for header in [
            v2(0x11, 0x11, &V4),
            v2(0x31, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x10, &V4),
            v2(0x21, 0x13, &V4),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x03, &V4),
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x31, &[0; 215]),
            v2(0x21, 0x11, &[7; MAX - FIXED + 1]),
        ] {
            assert!(read(&header).is_err(), "{header:?}");
            assert!(read(&header[..FIXED]).is_err(), "{header:?}");
        }
        let mut wrong = v2(0x21, 0x11, &V4);
        wrong[11] = b'\r';
        assert!(read(&wrong).is_err());
    }

    #[test]
    fn anything_else_is_told_by_its_first_bytes() {
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"P",
            b"PRI * HTTP/2.0\r\n",
            b"PROXI",
            b"proxy ",
            b"\x16\x03\x01",
            b"\r\n\r\n\0\r\nQUIT\r",
            b"\n",
        ] {
            let told = (1..=other.len()).any(|n| read(&other[..n]).is_err());
            assert_eq!(told, other != b"P", "{other:?}");
        }
        assert_eq!(read(b""), Ok(None));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (source, destination, len) in [
            ("192.0.2.7:1", "10.0.0.1:443", 28),
            ("[2001:db8::7]:65535", "[::1]:0", 52),
            ("192.0.2.7:1", "[2001:db8::1]:443", 52),
            ("[::ffff:192.0.2.7]:1", "10.0.0.1:443", 28),
        ] {
            let mut header = Vec::new();
            let (source, to): (SocketAddr, SocketAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            write_v2(source, to, |bytes| header.extend_from_slice(bytes));
            assert_eq!(header.len(), len);
            let canonical = SocketAddr::new(source.ip().to_canonical(), source.port());
            let expected = Header {
                len,
                source: Some(canonical),
            };
            assert_eq!(read(&header), Ok(Some(expected)));
        }
    }

    /// What headers and attacks are made of.
    fn soup() -> impl Strategy<Value = Vec<u8>> {
        let known: &[&[u8]] = &[
            &SIGNATURE,
            b"PROXY ",
            b"TCP4 ",
            b"TCP6 ",
            b"UNKNOWN",
            b"192.0.2.7 ",
            b"::1 ",
            b"80 ",
            b"443",
            b"\r\n",
            b"\r",
            b"\n",
            b"\x21\x11\0\x0c",
            b"\x20\0\0\0",
            b"\x21\x21\0\x24",
            b"\x21\x31\0\xd8",
            &V4,
            &[0; 36],
            &[1; 216],
        ];
        let piece = prop_oneof![
            6 => prop::sample::select(known).prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_reads_like_the_whole(input in soup()) {
            let whole = read(&input);
            for n in 0..input.len() {
                let part = read(&input[..n]);
                match whole {
                    Ok(Some(header)) if n >= header.len => prop_assert_eq!(part, whole),
                    Ok(_) => prop_assert_eq!(part, Ok(None)),
                    Err(_) => prop_assert!(!matches!(part, Ok(Some(_)))),
                }
            }
            if let Ok(Some(header)) = whole {
                prop_assert!(header.len <= input.len() && header.len <= MAX);
            }
        }

        #[test]
        fn nothing_is_waited_on_for_ever(input in prop::collection::vec(any::<u8>(), MAX..MAX + 8), start in soup()) {
            let input = [start, input].concat();
            prop_assert!(read(&input) != Ok(None));
        }
    }
}
