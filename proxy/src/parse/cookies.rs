//! Cookies: finding ours, taking them out, and leaving everybody else's alone.
//!
//! A `Cookie` value is split at `;` and nowhere else: a quote means nothing, as in browsers, so a
//! stranger's `a="x; sid=1; y"` holds a cookie `sid`. A pair is split at its first `=`; spaces and
//! tabs around name and value are not part of them; a piece without `=` is a value without a name.
//! Names are compared byte by byte. Bytes beyond ASCII are common in other people's cookies and
//! pass unchanged.

use super::trim;

/// One piece of a `Cookie` value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The name, trimmed; empty for a piece without `=`.
    pub name: &'a [u8],
    /// The value, trimmed; quotes are part of it.
    pub value: &'a [u8],
}

impl<'a> Pair<'a> {
    /// Reads what stands between two `;`.
    fn read(piece: &'a [u8]) -> Pair<'a> {
        match memchr::memchr(b'=', piece) {
            Some(at) => Pair {
                name: trim(&piece[..at]),
                value: trim(&piece[at + 1..]),
            },
            None => Pair {
                name: &[],
                value: trim(piece),
            },
        }
    }
}

/// The pieces between semicolons, bytes as they are.
fn pieces(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let all = rest?;
        match memchr::memchr(b';', all) {
            Some(at) => {
                rest = Some(&all[at + 1..]);
                Some(&all[..at])
            }
            None => rest.take(),
        }
    })
}

/// The pairs of one `Cookie` value in order, blank pieces left out. For several `Cookie` lines
/// chain: `head.values(buf, Name::Cookie).flat_map(cookies::pairs)`.
pub fn pairs(value: &[u8]) -> impl Iterator<Item = Pair<'_>> {
    pieces(value)
        .filter(|p| !trim(p).is_empty())
        .map(Pair::read)
}

/// The values of all cookies called `name` in one `Cookie` value, in order.
pub fn values<'a>(value: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
    pairs(value)
        .filter(move |p| p.name == name)
        .map(|p| p.value)
}

/// What [`without`] made of a `Cookie` value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrite {
    /// No cookie of ours was in it: send it as it is. Nothing was appended.
    Unchanged,
    /// What is left was appended.
    Changed,
    /// Nothing is left: leave the line out. Nothing was appended.
    Empty,
}

/// Appends a `Cookie` value to `out` without the pairs whose name is `ours`.
///
/// The pieces that stay are written as they are, the spaces around them included, and joined by the
/// `;` that stood between them; so with a piece goes the `;` behind it, or the one before it if it
/// was the last. Spaces at the very beginning go if the first piece went: `a=1; sid=x; b=2` leaves
/// `a=1; b=2`, and `sid=x; b=2` leaves `b=2`.
pub fn without(value: &[u8], ours: impl Fn(&[u8]) -> bool, out: &mut Vec<u8>) -> Rewrite {
    let is_ours = |piece: &[u8]| {
        let pair = Pair::read(piece);
        !pair.name.is_empty() && ours(pair.name)
    };
    if !pieces(value).any(is_ours) {
        return Rewrite::Unchanged;
    }
    let begin = out.len();
    let mut first = true;
    let mut blank = true;
    let mut behind_ours = false;
    for piece in pieces(value) {
        if is_ours(piece) {
            behind_ours |= first;
            continue;
        }
        blank &= trim(piece).is_empty();
        if first {
            out.extend_from_slice(if behind_ours {
                trim_start(piece)
            } else {
                piece
            });
        } else {
            out.push(b';');
            out.extend_from_slice(piece);
        }
        first = false;
    }
    if blank {
        out.truncate(begin);
        return Rewrite::Empty;
    }
    Rewrite::Changed
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// The name under which the cookie of a `Set-Cookie` value would come back.
///
/// A browser sends a cookie that was set without a name as its value alone, so that `=sid=x` comes
/// back as a cookie `sid`: the name of such a line is `sid`.
pub fn set_cookie_name(value: &[u8]) -> &[u8] {
    let cookie = pieces(value).next().unwrap_or(&[]);
    let pair = Pair::read(cookie);
    if pair.name.is_empty() {
        Pair::read(pair.value).name
    } else {
        pair.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(value: &str) -> (Rewrite, String) {
        let mut out = b"Cookie: ".to_vec();
        let done = without(value.as_bytes(), |n| n == b"sid" || n == b"pin", &mut out);
        (done, String::from_utf8(out[8..].to_vec()).unwrap())
    }

    #[test]
    fn taking_ours_out() {
        for (value, left) in [
            ("a=1; sid=x; b=2", "a=1; b=2"),
            ("sid=x; b=2", "b=2"),
            ("b=2; sid=x", "b=2"),
            ("sid=x; sid=y; b=2; pin=z", "b=2"),
            ("a=1;sid=x;b=2", "a=1;b=2"),
            ("a=1;  b=\"q; sid=x; r\" ; c", "a=1;  b=\"q; r\" ; c"),
            ("  sid = x ;  a = 1 ;", "a = 1 ;"),
            ("  a=1; sid=x", "  a=1"),
            ("sid; sid=x", "sid"),
            (";; sid=x; a=1", ";; a=1"),
            ("a=1; sid=x;", "a=1;"),
            ("sid==; a==b==", "a==b=="),
        ] {
            assert_eq!(rewrite(value), (Rewrite::Changed, left.into()), "{value}");
        }
        for value in ["sid=x", " sid=x ; ", "sid=x; pin=y", "sid=;;;"] {
            assert_eq!(rewrite(value), (Rewrite::Empty, String::new()), "{value}");
        }
        for value in [
            "",
            "a=1",
            "Sid=x",
            "sid",
            "=sid=x",
            "xsid=1; sidx=2",
            "a=sid=x",
            ";;",
        ] {
            assert_eq!(
                rewrite(value),
                (Rewrite::Unchanged, String::new()),
                "{value}"
            );
        }
    }

    #[test]
    fn finding() {
        let value = b"a=1; sid=x; \"sid\"=no; sid = y ; b=\"; sid=\"z\"; Sid=no; sid";
        let found: Vec<_> = values(value, b"sid").collect();
        assert_eq!(found, [&b"x"[..], b"y", b"\"z\""]);
        let all: Vec<_> = pairs(b" ; nameless;=v; n= ")
            .map(|p| (p.name, p.value))
            .collect();
        assert_eq!(
            all,
            [(&b""[..], &b"nameless"[..]), (b"", b"v"), (b"n", b"")]
        );
    }

    #[test]
    fn names_of_set_cookie() {
        for (value, name) in [
            ("sid=x; Path=/", "sid"),
            (" sid = x", "sid"),
            ("sid", ""),
            ("=sid=x; Secure", "sid"),
            ("= sid = x", "sid"),
            ("==sid=x", ""),
            ("", ""),
            ("; sid=x", ""),
            ("a=\"; sid=x", "a"),
        ] {
            assert_eq!(
                set_cookie_name(value.as_bytes()),
                name.as_bytes(),
                "{value}"
            );
        }
    }
}
