//! What a ClientHello says, read from the bytes as they came.
//!
//! Owns the walk over a ClientHello: how far it is there, the name it asks for, and a digest that tells
//! client programs apart. Pure, on any thread, before and apart from the TLS library, which does not
//! show the extensions of a hello.
//!
//! Invariants: never more than [`MAX_HELLO`] bytes are looked at, and every length is checked; bytes of
//! a stranger never panic. The digest does not change with the order of extensions, nor with GREASE
//! (RFC 8701), ALPN, server name and pre-shared keys, which one program varies between connections.
//!
//! Deliberately absent: a judgement of the hello; that is the TLS library's. Tested below by tables and
//! random reorderings.

use aws_lc_rs::digest;

use super::record::{HEADER, MAX_PLAIN, header};

/// Longest hello that is read, in bytes with its records' headers.
pub const MAX_HELLO: usize = 32 * 1024;

const SERVER_NAME: u16 = 0;
const GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURES: u16 = 13;
const ALPN: u16 = 16;
const PADDING: u16 = 21;
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;
const VERSIONS: u16 = 43;
const COOKIE: u16 = 44;
const PSK_MODES: u16 = 45;

/// How much of a hello is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// More must be read.
    Part,
    /// All of it.
    Whole,
    /// A plain HTTP request.
    Http,
    /// Neither.
    Other,
    /// More than [`MAX_HELLO`] bytes, or in too many records.
    TooLong,
}

/// Most records that a hello may come in. Those of real clients come in one, or a few.
const MAX_RECORDS: usize = 1024;

/// What the first bytes of a connection are.
pub fn look(bytes: &[u8]) -> Seen {
    Look::default().at(bytes)
}

/// A look at the first bytes of a connection that goes on where it ended when more have come, so that
/// many small reads cost no more than one.
#[derive(Debug, Default)]
pub struct Look {
    /// Bytes of whole records.
    seen: usize,
    records: usize,
    /// Bytes of the message in them, and the first of these.
    have: usize,
    start: [u8; 4],
}

impl Look {
    /// What `bytes` are: those of the call before, and perhaps more.
    pub fn at(&mut self, bytes: &[u8]) -> Seen {
        match bytes.first() {
            None => return Seen::Part,
            Some(22) => {}
            Some(b'A'..=b'Z' | b'a'..=b'z') => return Seen::Http,
            Some(_) => return Seen::Other,
        }
        match self.is_whole(bytes) {
            Ok(true) => Seen::Whole,
            Ok(false) if bytes.len() >= MAX_HELLO || self.records >= MAX_RECORDS => Seen::TooLong,
            Ok(false) => Seen::Part,
            // What is wrong with it the TLS library says, by an alert.
            Err(()) => Seen::Whole,
        }
    }

    fn is_whole(&mut self, bytes: &[u8]) -> Result<bool, ()> {
        while self.records < MAX_RECORDS {
            if let Some(body) = self.have.checked_sub(self.start.len()) {
                let [kind, a, b, c] = self.start;
                let len = u32::from_be_bytes([0, a, b, c]) as usize;
                if kind != 1 || len > MAX_HELLO {
                    return Err(());
                }
                if body >= len {
                    return Ok(true);
                }
            }
            let rest = bytes.get(self.seen..).unwrap_or_default();
            let Some(payload) = record(rest)? else {
                return Ok(false);
            };
            let start = self.start.iter_mut().skip(self.have);
            start.zip(payload).for_each(|(to, from)| *to = *from);
            self.have += payload.len();
            self.seen += HEADER + payload.len();
            self.records += 1;
        }
        Ok(false)
    }
}

/// What is in the record at the front of `bytes`, once it is whole.
fn record(bytes: &[u8]) -> Result<Option<&[u8]>, ()> {
    let Some(head) = header(bytes) else {
        return Ok(None);
    };
    if head.content != 22 || head.payload == 0 || head.payload > MAX_PLAIN {
        return Err(());
    }
    Ok(bytes.get(HEADER..HEADER + head.payload))
}

/// The handshake message in the records at the front of `bytes`, without its own header. `None` while it
/// is not whole.
fn message(bytes: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    let mut joined = Vec::new();
    let mut rest = bytes;
    loop {
        if let [kind, a, b, c, body @ ..] = joined.as_slice() {
            let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if *kind != 1 || len > MAX_HELLO {
                return Err(());
            }
            if body.len() >= len {
                joined.drain(..4);
                joined.truncate(len);
                return Ok(Some(joined));
            }
        }
        let Some(payload) = record(rest)? else {
            return Ok(None);
        };
        joined.extend_from_slice(payload);
        rest = rest.get(HEADER + payload.len()..).unwrap_or_default();
    }
}

/// Reads off the front of a slice.
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(front)
    }

    fn u8(&mut self) -> Option<usize> {
        self.take(1).map(|b| usize::from(b[0]))
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    /// A vector with a length of one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let n = self.u8()?;
        self.take(n)
    }

    /// A vector with a length of two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }
}

/// GREASE: both bytes alike and of the form `?A` (RFC 8701, 2).
fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

/// Extensions that one program varies from connection to connection: the name and protocols it wants,
/// what it remembers of the server, and filling.
fn varies(extension: u16) -> bool {
    matches!(
        extension,
        SERVER_NAME | ALPN | PADDING | SESSION_TICKET | PRE_SHARED_KEY | EARLY_DATA | COOKIE
    ) || is_grease(extension)
}

/// What a ClientHello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// 16 bytes that tell client programs apart. Digested are the version, the cipher suites in the
    /// client's order (which is its preference), the set of extensions, and of those that list what a
    /// client can do (groups, point formats, signature schemes, versions, modes of keys) the content, all
    /// without GREASE.
    pub digest: [u8; 16],
    /// The name that it asks for, in lower case, if it could be a host's.
    pub server_name: Option<Box<str>>,
}

/// Reads the ClientHello in the records at the front of `bytes`. `None` where it is not whole or cannot
/// be read.
pub fn read(bytes: &[u8]) -> Option<Hello> {
    let message = message(bytes.get(..MAX_HELLO).unwrap_or(bytes)).ok()??;
    of_message(&message)
}

/// The first host name of a server_name extension (RFC 6066, 3).
fn host_name(content: &[u8]) -> Option<Box<str>> {
    let mut list = Walk(Walk(content).long()?);
    let (kind, name) = (list.u8()?, list.long()?);
    let fits = kind == 0
        && (1..=253).contains(&name.len())
        && name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(b));
    let name = std::str::from_utf8(name).ok().filter(|_| fits)?;
    Some(name.to_ascii_lowercase().into())
}

fn of_message(message: &[u8]) -> Option<Hello> {
    let mut walk = Walk(message);
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(walk.take(2)?);
    walk.take(32)?;
    walk.short()?;
    numbers(&mut hash, b'c', walk.long()?);
    walk.short()?;
    let mut extensions = Vec::new();
    let mut server_name = None;
    if !walk.0.is_empty() {
        let mut list = Walk(walk.long()?);
        while !list.0.is_empty() {
            let kind = list.u16()?;
            let content = list.long()?;
            if kind == SERVER_NAME {
                server_name = host_name(content);
            }
            if !varies(kind) {
                extensions.push((kind, content));
            }
        }
    }
    extensions.sort_unstable_by_key(|(kind, _)| *kind);
    for (kind, content) in extensions {
        hash.update(b"x");
        hash.update(&kind.to_be_bytes());
        let mut inner = Walk(content);
        match kind {
            GROUPS | SIGNATURES => numbers(&mut hash, b'n', inner.long()?),
            VERSIONS => numbers(&mut hash, b'n', inner.short()?),
            POINT_FORMATS | PSK_MODES => bytes_of(&mut hash, inner.short()?),
            _ => {}
        }
    }
    Some(Hello {
        digest: hash.finish().as_ref().get(..16)?.try_into().ok()?,
        server_name,
    })
}

/// Adds a list of 16-bit numbers, without GREASE.
fn numbers(hash: &mut digest::Context, mark: u8, list: &[u8]) {
    hash.update(&[mark]);
    let kept: Vec<u8> = list
        .chunks_exact(2)
        .filter(|n| !is_grease(u16::from_be_bytes([n[0], n[1]])))
        .flatten()
        .copied()
        .collect();
    bytes_of(hash, &kept);
}

fn bytes_of(hash: &mut digest::Context, bytes: &[u8]) {
    hash.update(&(bytes.len() as u32).to_be_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Extension = (u16, Vec<u8>);
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Vec<Extension>));

    /// A hello with these cipher suites and extensions, as a handshake message without its header.
    fn body(suites: &[u16], extensions: &[Extension]) -> Vec<u8> {
        let mut out = vec![3, 3];
        out.extend([5; 32]);
        out.push(2);
        out.extend([1, 2]);
        out.extend((suites.len() as u16 * 2).to_be_bytes());
        out.extend(suites.iter().flat_map(|s| s.to_be_bytes()));
        out.extend([1, 0]);
        let list: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, content)| {
                let mut one = kind.to_be_bytes().to_vec();
                one.extend((content.len() as u16).to_be_bytes());
                one.extend(content);
                one
            })
            .collect();
        out.extend((list.len() as u16).to_be_bytes());
        out.extend(list);
        out
    }

    /// In records of at most `cut` bytes.
    fn records(body: &[u8], cut: usize) -> Vec<u8> {
        let mut message = vec![1];
        message.extend(&(body.len() as u32).to_be_bytes()[1..]);
        message.extend(body);
        message
            .chunks(cut)
            .flat_map(|part| {
                let mut record = vec![22, 3, 1];
                record.extend((part.len() as u16).to_be_bytes());
                record.extend(part);
                record
            })
            .collect()
    }

    fn usual() -> Vec<Extension> {
        vec![
            (0, b"\0\x0c\0\0\x09localhost".to_vec()),
            (10, vec![0, 6, 0, 29, 0, 23, 0, 24]),
            (11, vec![1, 0]),
            (13, vec![0, 4, 4, 3, 8, 4]),
            (16, b"\0\x03\x02h2".to_vec()),
            (43, vec![4, 3, 4, 3, 3]),
            (45, vec![1, 1]),
            (51, vec![0, 2, 0, 0]),
        ]
    }

    fn of(suites: &[u16], extensions: &[Extension]) -> [u8; 16] {
        read(&records(&body(suites, extensions), MAX_PLAIN))
            .unwrap()
            .digest
    }

    #[test]
    fn a_look_that_goes_on_sees_the_same_and_little_records_have_an_end() {
        for cut in [1, 3, 60, MAX_PLAIN] {
            let all = records(&body(&[0x1301], &usual()), cut);
            let mut looks = Look::default();
            for n in 0..=all.len() {
                let seen = looks.at(&all[..n]);
                assert_eq!(seen, look(&all[..n]), "{n} bytes in records of {cut}");
                assert_eq!(seen == Seen::Whole, n == all.len(), "{n}, {cut}");
            }
        }
        let filled = (21, vec![0; MAX_RECORDS]);
        let all = records(&body(&[0x1301], &[filled]), 1);
        assert!(all.len() < MAX_HELLO);
        assert_eq!(look(&all), Seen::TooLong);
    }

    #[test]
    fn what_varies_changes_nothing_and_the_rest_does() {
        let suites = [0x1301, 0x1302, 0xc02b];
        let plain = of(&suites, &usual());
        let with = |change: &dyn Fn(&mut Vec<Extension>)| {
            let mut list = usual();
            change(&mut list);
            of(&suites, &list)
        };
        let same: [Case<'_>; 8] = [
            ("another name", &|l| l[0].1 = b"\0\x04\0\0\x01x".to_vec()),
            ("no name", &|l| drop(l.remove(0))),
            ("other protocols", &|l| {
                l[4].1 = b"\0\x09\x08http/1.1".to_vec()
            }),
            ("a ticket", &|l| l.push((35, vec![1; 200]))),
            ("a pre-shared key", &|l| l.push((41, vec![2; 300]))),
            ("padding", &|l| l.push((21, vec![0; 100]))),
            ("GREASE as an extension", &|l| l.insert(0, (0x3a3a, vec![]))),
            ("GREASE in a list", &|l| {
                l[1].1 = vec![0, 8, 0x1a, 0x1a, 0, 29, 0, 23, 0, 24]
            }),
        ];
        for (what, change) in same {
            assert_eq!(with(change), plain, "{what}");
        }
        let other: [Case<'_>; 5] = [
            ("a group less", &|l| l[1].1 = vec![0, 4, 0, 29, 0, 23]),
            ("groups in another order", &|l| {
                l[1].1 = vec![0, 6, 0, 23, 0, 29, 0, 24]
            }),
            ("an extension more", &|l| l.push((27, vec![2, 0, 2]))),
            ("an extension less", &|l| drop(l.remove(2))),
            ("a version less", &|l| l[5].1 = vec![2, 3, 3]),
        ];
        for (what, change) in other {
            assert_ne!(with(change), plain, "{what}");
        }
        assert_eq!(of(&[0x8a8a, 0x1301, 0x1302, 0xc02b], &usual()), plain);
        assert_ne!(of(&[0x1302, 0x1301, 0xc02b], &usual()), plain);
    }

    #[test]
    fn random_orders_of_extensions_have_one_digest() {
        let suites = [0x1301, 0xc02f];
        let expected = of(&suites, &usual());
        // xorshift64*: the test repeats.
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..1000 {
            let mut list = usual();
            for at in (1..list.len()).rev() {
                x ^= x >> 12;
                x ^= x << 25;
                x ^= x >> 27;
                list.swap(
                    at,
                    (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % (at + 1),
                );
            }
            assert_eq!(of(&suites, &list), expected, "{list:?}");
        }
    }

    #[test]
    fn a_hello_may_come_in_several_records_and_any_pieces() {
        let body = body(&[0x1301], &usual());
        let whole = records(&body, MAX_PLAIN);
        let expected = read(&whole).unwrap();
        assert_eq!(expected.server_name.as_deref(), Some("localhost"));
        for cut in [1, 3, 4, 50, 100] {
            let cut = records(&body, cut);
            assert_eq!(read(&cut).as_ref(), Some(&expected));
            for end in 0..cut.len() {
                assert_eq!(look(&cut[..end]), Seen::Part, "{end} of {}", cut.len());
                assert_eq!(read(&cut[..end]), None);
            }
            assert_eq!(look(&cut), Seen::Whole);
        }
    }

    #[test]
    fn first_bytes_tell_what_speaks() {
        assert_eq!(look(b"GET / HTTP/1.1\r\n"), Seen::Http);
        assert_eq!(look(b"post"), Seen::Http);
        assert_eq!(look(b"\x80\x2e\x01\x00\x02"), Seen::Other);
        assert_eq!(look(b"\0"), Seen::Other);
        assert_eq!(look(b""), Seen::Part);
        assert_eq!(look(b"\x16\x03"), Seen::Part);
        // No ClientHello, but TLS: the library has an alert for it.
        assert_eq!(look(b"\x16\x03\x01\0\x04\x02\0\0\x01"), Seen::Whole);
        assert_eq!(look(b"\x16\x03\x01\0\0"), Seen::Whole);
        let long = [&[22, 3, 1, 0x40, 0][..], &[1, 0, 0x70, 0], &[0; MAX_PLAIN]].concat();
        let mut long = long[..HEADER + MAX_PLAIN].to_vec();
        assert_eq!(look(&long), Seen::Part);
        long.extend([22, 3, 1, 0x40, 0]);
        long.resize(MAX_HELLO, 0);
        assert_eq!(look(&long), Seen::TooLong);
    }

    #[test]
    fn no_bytes_panic() {
        let whole = records(&body(&[0x1301], &usual()), MAX_PLAIN);
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                read(&changed);
                look(&changed);
            }
            assert_eq!(of_message(&whole[HEADER + 4..][..at.min(30)]), None);
        }
    }
}
