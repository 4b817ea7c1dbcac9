//! Paths: one spelling for each, so that what a rule matched is what an upstream serves.

use super::Refusal;

/// What [`normalise`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normal {
    /// The path is normal as it is; `out` is untouched.
    Same,
    /// `out` holds the normal path.
    Changed,
}

/// Control, space, `#`, DEL or not ASCII: stands in no target.
const BAD: u8 = 1;
const PERCENT: u8 = 2;
const BACKSLASH: u8 = 4;
const DOT: u8 = 8;

/// For each byte, what it is in a target.
static CLASS: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = match b as u8 {
            0..=b' ' | b'#' | 0x7F.. => BAD,
            b'%' => PERCENT,
            b'\\' => BACKSLASH,
            b'.' => DOT,
            _ => 0,
        };
        b += 1;
    }
    table
};

fn classes(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |all, &b| all | CLASS[b as usize])
}

const BAD_BYTE: Refusal = Refusal::bad("invalid character in the request target");

/// Refuses bytes that stand in no target.
pub(super) fn check_bytes(target: &[u8]) -> Result<(), Refusal> {
    if classes(target) & BAD == 0 {
        Ok(())
    } else {
        Err(BAD_BYTE)
    }
}

/// Normalises a path that begins with `/`: escapes of unreserved characters are resolved, then dot
/// segments removed (RFC 3986, sections 6.2.2.2 and 5.2.4; `..` above the root stays at the root).
/// Empty segments stay, and so does the case of the escapes that stay. `out` is used only when the
/// path changes.
///
/// `%2F`, `%5C`, `%00` and `\` hide separators and ends from those who look at other bytes than the
/// file system does: refused, unless `raw`. Malformed escapes are refused always.
///
/// Errors: 400, for those and for bytes that stand in no target.
pub fn normalise(path: &[u8], raw: bool, out: &mut Vec<u8>) -> Result<Normal, Refusal> {
    let all = classes(path);
    if all & BAD != 0 {
        return Err(BAD_BYTE);
    }
    if all & BACKSLASH != 0 && !raw {
        return Err(Refusal::bad("backslash in the path"));
    }
    if all & (PERCENT | DOT) == 0 || (all & PERCENT == 0 && !may_have_dots(path)) {
        return Ok(Normal::Same);
    }
    out.clear();
    out.reserve(path.len());
    resolve_escapes(path, raw, out)?;
    remove_dots(out);
    if out == path {
        out.clear();
        return Ok(Normal::Same);
    }
    Ok(Normal::Changed)
}

/// A segment begins with a dot.
fn may_have_dots(path: &[u8]) -> bool {
    path.windows(2).any(|w| w == b"/.")
}

fn resolve_escapes(path: &[u8], raw: bool, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mut rest = path;
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            out.push(first);
            rest = tail;
            continue;
        }
        let byte = match tail {
            [high, low, ..] => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        match byte {
            None => return Err(Refusal::bad("malformed escape in the path")),
            Some(b'/' | b'\\' | 0) if !raw => {
                return Err(Refusal::bad("escaped slash, backslash or NUL in the path"));
            }
            Some(b) if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') => {
                out.push(b);
            }
            Some(_) => out.extend_from_slice(&rest[..3]),
        }
        rest = &tail[2..];
    }
    Ok(())
}

/// The value of a hexadecimal digit.
pub(super) const fn hex(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

/// Removes dot segments in place. The path begins with `/`.
fn remove_dots(path: &mut Vec<u8>) {
    let mut read = 0;
    let mut write = 0;
    // Each turn takes one `/segment`.
    while read < path.len() {
        let end = path[read + 1..]
            .iter()
            .position(|&b| b == b'/')
            .map_or(path.len(), |n| read + 1 + n);
        let last = end == path.len();
        match &path[read..end] {
            b"/." => {
                if last {
                    path[write] = b'/';
                    write += 1;
                }
            }
            b"/.." => {
                write = path[..write].iter().rposition(|&b| b == b'/').unwrap_or(0);
                if last {
                    path[write] = b'/';
                    write += 1;
                }
            }
            segment => {
                let len = segment.len();
                path.copy_within(read..end, write);
                write += len;
            }
        }
        read = end;
    }
    path.truncate(write);
}
