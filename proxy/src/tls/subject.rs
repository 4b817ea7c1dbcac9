//! The subject of a certificate in words.
//!
//! Pure. A bounded walk over DER that was verified before; what cannot be read yields nothing.

use std::fmt::Write as _;

use rustls::pki_types::CertificateDer;

/// Longest text that goes into a header.
const MAX_TEXT: usize = 2048;

const SET: u8 = 0x31;
const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;

/// Attribute types that have a name (RFC 2253, 2.3, and the usual one for mail addresses).
const NAMES: &[(&[u8], &str)] = &[
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 5], "serialNumber"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
        "DC",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1],
        "UID",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
        "emailAddress",
    ),
];

/// The subject in the form of RFC 2253, in ASCII: bytes outside it are escaped as `\XX`. `None` where it
/// cannot be read or is longer than a header should be.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let anchor = webpki::anchor_from_trusted_cert(certificate).ok()?;
    text(&anchor.subject)
}

/// Takes one element of DER off the front: its tag and content.
fn element<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], mut after) = rest.split_first_chunk::<2>()?;
    let mut len = usize::from(first);
    if first >= 0x80 {
        let (bytes, left) = after.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 2 {
            return None;
        }
        len = bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        after = left;
    }
    let (content, left) = after.split_at_checked(len)?;
    *rest = left;
    Some((tag, content))
}

fn text(mut name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !name.is_empty() {
        let (SET, mut set) = element(&mut name)? else {
            return None;
        };
        let mut pairs = Vec::new();
        while !set.is_empty() {
            let (SEQUENCE, mut pair) = element(&mut set)? else {
                return None;
            };
            let (OID, oid) = element(&mut pair)? else {
                return None;
            };
            let whole = pair;
            let (tag, value) = element(&mut pair)?;
            pairs.push(attribute(oid, tag, value, whole)?);
        }
        parts.push(pairs.join("+"));
    }
    // The last comes first (RFC 2253, 2.1).
    parts.reverse();
    let text = parts.join(",");
    (text.len() <= MAX_TEXT).then_some(text)
}

fn attribute(oid: &[u8], tag: u8, value: &[u8], whole: &[u8]) -> Option<String> {
    let mut out = String::new();
    let decoded = decode(tag, value);
    match (NAMES.iter().find(|(known, _)| *known == oid), decoded) {
        (Some((_, name)), Some(text)) => {
            let _ = write!(out, "{name}=");
            escape(text.as_bytes(), &mut out);
        }
        (named, _) => {
            match named {
                Some((_, name)) => out.push_str(name),
                None => dotted(oid, &mut out)?,
            }
            out.push_str("=#");
            for byte in whole {
                let _ = write!(out, "{byte:02X}");
            }
        }
    }
    Some(out)
}

/// The text of a string type of ASN.1.
fn decode(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        // UTF8String, NumericString, PrintableString, IA5String, VisibleString.
        0x0c | 0x12 | 0x13 | 0x16 | 0x1a => String::from_utf8(value.to_vec()).ok(),
        // TeletexString is taken for Latin-1, as everyone does.
        0x14 => Some(value.iter().map(|b| char::from(*b)).collect()),
        // BMPString.
        0x1e => {
            let units = value.chunks_exact(2);
            units.remainder().is_empty().then_some(())?;
            let units: Vec<u16> = units.map(|u| u16::from_be_bytes([u[0], u[1]])).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

fn escape(bytes: &[u8], out: &mut String) {
    let last = bytes.len().saturating_sub(1);
    for (i, &byte) in bytes.iter().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' if i == 0 => out.push_str("\\#"),
            b' ' if i == 0 || i == last => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\{byte:02X}");
            }
        }
    }
}

fn dotted(oid: &[u8], out: &mut String) -> Option<()> {
    let mut numbers = Vec::new();
    let mut number = 0u64;
    for &byte in oid {
        number = number.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    let (&first, rest) = numbers.split_first()?;
    let _ = write!(
        out,
        "{}.{}",
        (first / 40).min(2),
        first - 40 * (first / 40).min(2)
    );
    for number in rest {
        let _ = write!(out, ".{number}");
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match content.len() {
            n @ 0..=127 => out.push(n as u8),
            n => out.extend([0x82, (n >> 8) as u8, n as u8]),
        }
        out.extend(content);
        out
    }

    fn pair(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der(SEQUENCE, &[der(OID, oid), der(tag, value)].concat())
    }

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];

    #[test]
    fn subjects_in_words() {
        for (name, expected) in [
            (
                [
                    der(SET, &pair(O, 0x13, b"Example")),
                    der(SET, &pair(CN, 0x0c, b"a client")),
                ]
                .concat(),
                "CN=a client,O=Example",
            ),
            (
                der(SET, &[pair(CN, 0x0c, b"x"), pair(O, 0x0c, b"y")].concat()),
                "CN=x+O=y",
            ),
            (
                der(SET, &pair(CN, 0x0c, b" a,b+c\"d\\e<f>g;h# ")),
                "CN=\\ a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h#\\ ",
            ),
            (der(SET, &pair(CN, 0x0c, b"#x")), "CN=\\#x"),
            (
                der(SET, &pair(CN, 0x0c, "Zoë\r\n".as_bytes())),
                "CN=Zo\\C3\\AB\\0D\\0A",
            ),
            (der(SET, &pair(CN, 0x14, b"Zo\xeb")), "CN=Zo\\C3\\AB"),
            (der(SET, &pair(CN, 0x1e, &[0, 90, 0, 111])), "CN=Zo"),
            (
                der(SET, &pair(&[0x2a, 0x86, 0x48, 1], 0x0c, b"v")),
                "1.2.840.1=#0C0176",
            ),
            (Vec::new(), ""),
        ] {
            assert_eq!(text(&name).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let good = der(SET, &pair(CN, 0x0c, b"someone"));
        for end in 1..good.len() {
            assert_eq!(text(&good[..end]), None, "{end}");
        }
        for at in 0..good.len() {
            for value in [0, 0x7f, 0x80, 0x82, 0xff] {
                let mut changed = good.clone();
                changed[at] = value;
                text(&changed);
            }
        }
        assert_eq!(text(&der(SET, &pair(CN, 0x0c, &[b'x'; 3000]))), None);
    }
}
