//! Query strings: finding, removing and masking one parameter, all else byte for byte.
//!
//! Parameters are separated by `&`. A name matches when it is equal *after* escapes and `+` are
//! resolved, since an upstream would resolve them: `%73id=1` is `sid=1`.

use std::ops::Range;

use super::path::hex;

/// Parameters as ranges of the query: the whole, and where its value begins (at the end without `=`).
fn parameters(query: &[u8]) -> impl Iterator<Item = (Range<usize>, usize)> + '_ {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let start = next?;
        let rest = query.get(start..)?;
        let len = memchr::memchr(b'&', rest).unwrap_or(rest.len());
        next = (len < rest.len()).then_some(start + len + 1);
        let value = memchr::memchr(b'=', &rest[..len]).map_or(start + len, |at| start + at + 1);
        Some((start..start + len, value))
    })
}

/// Is this written name, escapes resolved, `name`?
fn is_named(written: &[u8], name: &[u8]) -> bool {
    if written == name {
        return true;
    }
    let mut written = written;
    let mut name = name.iter();
    while let Some((&first, tail)) = written.split_first() {
        let (byte, rest) = match (first, tail) {
            (b'%', [high, low, rest @ ..]) => match hex(*high).zip(hex(*low)) {
                Some((h, l)) => (h << 4 | l, rest),
                None => (first, tail),
            },
            (b'+', _) => (b' ', tail),
            _ => (first, tail),
        };
        if name.next() != Some(&byte) {
            return false;
        }
        written = rest;
    }
    name.next().is_none()
}

fn named<'a>(query: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = (Range<usize>, usize)> + 'a {
    parameters(query).filter(move |(range, value)| {
        let end = if *value > range.start && query.get(value - 1) == Some(&b'=') {
            value - 1
        } else {
            *value
        };
        query
            .get(range.start..end)
            .is_some_and(|written| is_named(written, name))
    })
}

/// The values of all parameters called `name`, as they were written (escapes not resolved).
pub fn values<'a>(query: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
    named(query, name).filter_map(|(range, value)| query.get(value..range.end))
}

/// The value of the first parameter called `name`.
pub fn find<'a>(query: &'a [u8], name: &'a [u8]) -> Option<&'a [u8]> {
    values(query, name).next()
}

/// Appends `query` to `out` without any parameter called `name`, and without the `&` that went with
/// each. False if there is none: then nothing is appended, and the query may be used as it is. An
/// empty result means that the `?` should go as well.
pub fn remove(query: &[u8], name: &[u8], out: &mut Vec<u8>) -> bool {
    if find(query, name).is_none() {
        return false;
    }
    let mut first = true;
    let mut gone = named(query, name).peekable();
    for (range, _) in parameters(query) {
        if gone.next_if(|(g, _)| *g == range).is_some() {
            continue;
        }
        if !first {
            out.push(b'&');
        }
        first = false;
        out.extend_from_slice(&query[range]);
    }
    true
}

/// Appends `query` to `out` with `***` for the values of parameters called `name`: for logs.
pub fn mask(query: &[u8], name: &[u8], out: &mut Vec<u8>) {
    let mut copied = 0;
    for (range, value) in named(query, name).filter(|(range, value)| *value < range.end) {
        out.extend_from_slice(&query[copied..value]);
        out.extend_from_slice(b"***");
        copied = range.end;
    }
    out.extend_from_slice(&query[copied..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(query: &str, name: &str) -> Option<String> {
        let mut out = Vec::new();
        remove(query.as_bytes(), name.as_bytes(), &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn removing() {
        for (query, rest) in [
            ("sid=1", Some("")),
            ("sid", Some("")),
            ("sid=", Some("")),
            ("a=1&sid=2&b=3", Some("a=1&b=3")),
            ("sid=2&b=3", Some("b=3")),
            ("a=1&sid=2", Some("a=1")),
            ("sid=1&sid=2&a", Some("a")),
            ("%73id=1&a=%zz&&", Some("a=%zz&&")),
            ("s%69D=1", None),
            ("xsid=1&sidx=2&a=sid", None),
            ("", None),
            ("a=1;sid=2", None),
            ("a&&sid=1&&b", Some("a&&&b")),
        ] {
            assert_eq!(removed(query, "sid").as_deref(), rest, "{query}");
        }
        assert_eq!(removed("a+b=1&c", "a b").as_deref(), Some("c"));
        assert_eq!(removed("100%=1", "100%").as_deref(), Some(""));
    }

    #[test]
    fn finding_and_masking() {
        assert_eq!(find(b"a=1&sid=x=y&sid=2", b"sid"), Some(&b"x=y"[..]));
        assert_eq!(
            values(b"sid=1&s%69d=2&sid", b"sid").collect::<Vec<_>>(),
            [&b"1"[..], b"2", b""]
        );
        assert_eq!(find(b"a=1", b"sid"), None);
        for (query, masked) in [
            ("a=1&sid=secret&b", "a=1&sid=***&b"),
            ("%73id=secret", "%73id=***"),
            ("sid&sid=&sid=x", "sid&sid=&sid=***"),
            ("a=1", "a=1"),
        ] {
            let mut out = Vec::new();
            mask(query.as_bytes(), b"sid", &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), masked);
        }
    }
}
