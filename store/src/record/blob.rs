//! Fields packed into bytes: how an entry keeps its data, and the last part of an encoded record.
//!
//! Format: the number of stamps, the stamps (clock 8, tag 2, little-endian), then fields in order of
//! name, an attribute before the data of its name. A field: head = stamp index × 8 + 4 if removed +
//! kind; length of the name, name; of kind 3, an attribute that expires, the Unix second; unless removed,
//! length of the value, value. Numbers are LEB128.
//! Stamp index 0 is the session's creation, index n the n-th of the table; fields written together
//! share an entry.
//!
//! Invariants: reading never panics and ends at the first byte that makes no sense; packing the same
//! fields gives the same bytes. Deliberately absent: allocation (the arena's). Tested here.

use super::{FieldKind, RecordField};
use crate::fields::Name;
use crate::hlc::Stamp;

const STAMP: usize = 10;
const REMOVED: u64 = 4;
/// The kind, in packed bytes, of an attribute that expires.
const EXPIRING: u64 = 3;

/// One field, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldRef<'a> {
    /// Escaped name.
    pub name: &'a [u8],
    /// Where it comes from.
    pub kind: FieldKind,
    /// When it was written.
    pub stamp: Stamp,
    /// JSON, or nothing where removed.
    pub value: Option<&'a [u8]>,
    /// The Unix second from which an attribute is withheld; 0 is never.
    pub expires: u32,
}

impl<'a> FieldRef<'a> {
    /// The order of fields: by name, an attribute first.
    pub(crate) fn key(&self) -> (&'a [u8], bool) {
        (self.name, self.kind != FieldKind::Attribute)
    }

    /// What decides between two values of one field: stamp, then value.
    pub(crate) fn weight(&self) -> (Stamp, Option<&'a [u8]>, FieldKind, u32) {
        (self.stamp, self.value, self.kind, self.expires)
    }

    /// Whether readers must not see it at the Unix second `now`.
    pub(crate) fn is_withheld(&self, now: u32) -> bool {
        self.expires != 0 && self.expires <= now
    }

    /// An owned copy.
    pub fn to_owned(&self) -> RecordField {
        RecordField {
            name: Name(self.name.into()),
            kind: self.kind,
            stamp: self.stamp,
            value: self.value.map(Into::into),
            expires: self.expires,
        }
    }
}

impl RecordField {
    /// Borrowed.
    pub fn as_ref(&self) -> FieldRef<'_> {
        FieldRef {
            name: &self.name.0,
            kind: self.kind,
            stamp: self.stamp,
            value: self.value.as_deref(),
            expires: self.expires,
        }
    }
}

/// Appends `n` as LEB128.
pub(crate) fn put_number(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Takes a canonical LEB128 number of at most 9 bytes.
#[inline]
pub(crate) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    *bytes = rest;
    if first < 0x80 {
        return Some(u64::from(first));
    }
    let mut n = u64::from(first & 0x7f);
    for shift in (7..63).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return (byte != 0).then_some(n);
        }
    }
    None
}

/// Takes `len` bytes.
#[inline]
pub(crate) fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// Packed fields, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Blob<'a> {
    creation: Stamp,
    stamps: &'a [u8],
    fields: &'a [u8],
}

impl<'a> Blob<'a> {
    /// Over packed bytes; `creation` is what stamp index 0 means. Empty bytes hold no fields.
    pub fn new(bytes: &'a [u8], creation: Stamp) -> Self {
        let mut fields = bytes;
        let stamps = take_number(&mut fields)
            .and_then(|n| take(&mut fields, n.checked_mul(STAMP as u64)?))
            .unwrap_or_default();
        Self {
            creation,
            stamps,
            fields,
        }
    }

    /// All fields, removed ones included.
    pub fn fields(&self) -> impl Iterator<Item = FieldRef<'a>> + use<'a> {
        let blob = *self;
        let mut rest = blob.fields;
        std::iter::from_fn(move || blob.next(&mut rest))
    }

    fn next(&self, rest: &mut &'a [u8]) -> Option<FieldRef<'a>> {
        let (head, name, expires, value) = next_raw(rest)?;
        Some(FieldRef {
            name: name.bytes,
            kind: kind(head),
            stamp: self.stamp(head >> 3)?,
            value: value.map(|v| v.bytes),
            expires,
        })
    }

    fn stamp(&self, index: u64) -> Option<Stamp> {
        let Some(index) = index.checked_sub(1) else {
            return Some(self.creation);
        };
        let at = usize::try_from(index).ok()?.checked_mul(STAMP)?;
        let (clock, rest) = self.stamps.get(at..)?.split_first_chunk()?;
        let tag = rest.first_chunk()?;
        Some(Stamp {
            clock: u64::from_le_bytes(*clock),
            tag: u16::from_le_bytes(*tag),
        })
    }

    /// The value under `name`, also where it is withheld: the attribute's, else the data's.
    pub fn get(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut rest = self.fields;
        while let Some((_, found, _, value)) = next_raw(&mut rest) {
            if let Some(value) = value.filter(|_| found.bytes == name) {
                return Some(value.bytes);
            }
        }
        None
    }

    /// Calls `emit` with the name and value of every field that readers see at the Unix second `now`.
    /// An attribute that is withheld still hides the data of its name.
    #[inline]
    fn visible(&self, now: u32, mut emit: impl FnMut(Piece<'a>, Piece<'a>)) {
        let mut rest = self.fields;
        let mut attribute: Option<&[u8]> = None;
        while let Some((head, name, expires, value)) = next_raw(&mut rest) {
            let Some(value) = value else { continue };
            if head & FieldKind::Attribute as u64 != 0 {
                attribute = Some(name.bytes);
                if expires != 0 && expires <= now {
                    continue;
                }
            } else if attribute == Some(name.bytes) {
                continue;
            }
            emit(name, value);
        }
    }

    /// Appends the members of a flat JSON object, without braces, as readers see them at the Unix second
    /// `now`; returns whether there were any.
    pub fn write_members(&self, now: u32, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        // Room at once: a member is one byte longer than its packed form.
        out.reserve(self.fields.len() + 64);
        self.visible(now, |name, value| {
            out.extend_from_slice(if out.len() > before { b",\"" } else { b"\"" });
            name.append_to(out);
            out.extend_from_slice(b"\":");
            value.append_to(out);
        });
        out.len() > before
    }

    /// Bytes of the JSON object that holds all fields, withheld ones included; 0 where there is none.
    pub fn json_len(&self) -> usize {
        let mut len = 1;
        self.visible(0, |name, value| {
            len += name.bytes.len() + value.bytes.len() + 4
        });
        if len == 1 { 0 } else { len }
    }
}

/// A name or a value within packed bytes.
#[derive(Debug, Clone, Copy)]
struct Piece<'a> {
    bytes: &'a [u8],
    /// It, and all that follows it.
    tail: &'a [u8],
}

impl<'a> Piece<'a> {
    #[inline]
    fn take(bytes: &mut &'a [u8], len: u64) -> Option<Self> {
        let tail = *bytes;
        let bytes = take(bytes, len)?;
        Some(Self { bytes, tail })
    }

    /// Appends it. One that is short, as most are, by copying a fixed number of bytes and keeping those
    /// that belong to it: two instructions instead of a call.
    #[inline]
    fn append_to(self, out: &mut Vec<u8>) {
        match self.tail.first_chunk::<16>() {
            Some(chunk) if self.bytes.len() <= chunk.len() => {
                let end = out.len() + self.bytes.len();
                out.extend_from_slice(chunk);
                out.truncate(end);
            }
            _ => out.extend_from_slice(self.bytes),
        }
    }
}

/// Head, name, expiry and value.
type RawField<'a> = (u64, Piece<'a>, u32, Option<Piece<'a>>);

/// Takes one field's head, name, expiry and value.
#[inline]
fn next_raw<'a>(rest: &mut &'a [u8]) -> Option<RawField<'a>> {
    let head = take_number(rest)?;
    let len = take_number(rest)?;
    let name = Piece::take(rest, len)?;
    let expires = if head & 3 == EXPIRING {
        // Zero has another form.
        u32::try_from(take_number(rest)?).ok().filter(|e| *e != 0)?
    } else {
        0
    };
    let value = if head & REMOVED == 0 {
        let len = take_number(rest)?;
        Some(Piece::take(rest, len)?)
    } else {
        None
    };
    Some((head, name, expires, value))
}

fn kind(head: u64) -> FieldKind {
    match head & 3 {
        0 => FieldKind::Data,
        1 => FieldKind::Default,
        _ => FieldKind::Attribute,
    }
}

/// Packs `fields`, which are in order, onto `out`. Writes nothing for none.
pub fn pack<'a>(
    fields: impl Iterator<Item = FieldRef<'a>> + Clone,
    creation: Stamp,
    out: &mut Vec<u8>,
) {
    let mut stamps: smallvec::SmallVec<[Stamp; 8]> = smallvec::SmallVec::new();
    let mut any = false;
    for field in fields.clone() {
        any = true;
        if field.stamp != creation && !stamps.contains(&field.stamp) {
            stamps.push(field.stamp);
        }
    }
    if !any {
        return;
    }
    put_number(stamps.len() as u64, out);
    for stamp in &stamps {
        out.extend_from_slice(&stamp.clock.to_le_bytes());
        out.extend_from_slice(&stamp.tag.to_le_bytes());
    }
    for field in fields {
        let index = stamps
            .iter()
            .position(|s| *s == field.stamp)
            .map_or(0, |i| i as u64 + 1);
        let removed = if field.value.is_none() { REMOVED } else { 0 };
        // Attributes alone expire.
        let expires = match field.kind {
            FieldKind::Attribute => field.expires,
            FieldKind::Data | FieldKind::Default => 0,
        };
        let kind = if expires == 0 {
            field.kind as u64
        } else {
            EXPIRING
        };
        put_number(index << 3 | removed | kind, out);
        put_number(field.name.len() as u64, out);
        out.extend_from_slice(field.name);
        if expires != 0 {
            put_number(u64::from(expires), out);
        }
        if let Some(value) = field.value {
            put_number(value.len() as u64, out);
            out.extend_from_slice(value);
        }
    }
}

/// Merges two ordered lists of fields: of one field the heavier value stays. Returns whether anything
/// of `new` did. This is last write wins: it commutes, associates and repeats.
pub(crate) fn join<'a>(
    old: impl Iterator<Item = FieldRef<'a>>,
    new: impl Iterator<Item = FieldRef<'a>>,
    out: &mut smallvec::SmallVec<[FieldRef<'a>; 16]>,
) -> bool {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    let mut changed = false;
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changed,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.key().cmp(&b.key()),
        };
        let (a, b) = match order {
            std::cmp::Ordering::Less => (old.next(), None),
            std::cmp::Ordering::Greater => (None, new.next()),
            std::cmp::Ordering::Equal => (old.next(), new.next()),
        };
        match (a, b) {
            (Some(a), Some(b)) => {
                let heavier = b.weight() > a.weight();
                changed |= heavier;
                out.push(if heavier { b } else { a });
            }
            (Some(field), None) => out.push(field),
            (None, Some(field)) => {
                changed = true;
                out.push(field);
            }
            (None, None) => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const CREATION: Stamp = Stamp {
        clock: 7 << 18,
        tag: 3,
    };

    fn field(
        name: &'static str,
        kind: FieldKind,
        clock: u64,
        value: Option<&'static str>,
    ) -> FieldRef<'static> {
        let stamp = if clock == 0 {
            CREATION
        } else {
            Stamp { clock, tag: 3 }
        };
        FieldRef {
            name: name.as_bytes(),
            kind,
            stamp,
            value: value.map(str::as_bytes),
            expires: 0,
        }
    }

    fn expiring(expires: u32, field: FieldRef<'static>) -> FieldRef<'static> {
        FieldRef { expires, ..field }
    }

    fn packed(fields: &[FieldRef<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        pack(fields.iter().copied(), CREATION, &mut out);
        out
    }

    #[test]
    fn golden() {
        let fields = [
            field("a", FieldKind::Default, 0, Some("1")),
            field("b", FieldKind::Attribute, 9, Some("\"x\"")),
            field("b", FieldKind::Data, 9, None),
        ];
        let bytes = packed(&fields);
        assert_eq!(
            bytes,
            b"\x01\x09\0\0\0\0\0\0\0\x03\0\x01\x01a\x011\x0a\x01b\x03\"x\"\x0c\x01b"
        );
        assert!(Blob::new(&bytes, CREATION).fields().eq(fields));
        assert_eq!(packed(&[]), b"");
        let fields = [expiring(
            300,
            field("b", FieldKind::Attribute, 0, Some("1")),
        )];
        let bytes = packed(&fields);
        assert_eq!(bytes, b"\x00\x03\x01b\xac\x02\x011");
        assert!(Blob::new(&bytes, CREATION).fields().eq(fields));
    }

    #[test]
    fn what_has_expired_is_withheld_and_still_hides_the_data_of_its_name() {
        let bytes = packed(&[
            expiring(100, field("a", FieldKind::Attribute, 1, Some("1"))),
            field("a", FieldKind::Data, 1, Some("2")),
            field("b", FieldKind::Data, 1, Some("3")),
        ]);
        let blob = Blob::new(&bytes, CREATION);
        for (now, expected) in [
            (99, r#""a":1,"b":3"#),
            (100, r#""b":3"#),
            (u32::MAX, r#""b":3"#),
        ] {
            let mut out = Vec::new();
            blob.write_members(now, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "at {now}");
        }
        assert_eq!(blob.get(b"a"), Some(&b"1"[..]), "an index finds it");
        assert_eq!(blob.json_len(), r#"{"a":1,"b":3}"#.len());
    }

    #[test]
    fn readers_see_attributes_first_and_nothing_removed() {
        let bytes = packed(&[
            field("a", FieldKind::Data, 1, None),
            field("b", FieldKind::Attribute, 1, Some("1")),
            field("b", FieldKind::Data, 1, Some("2")),
            field("c", FieldKind::Attribute, 1, None),
            field("c", FieldKind::Data, 1, Some("3")),
        ]);
        let blob = Blob::new(&bytes, CREATION);
        let mut out = Vec::new();
        assert!(blob.write_members(0, &mut out));
        assert_eq!(out, br#""b":1,"c":3"#);
        assert_eq!(blob.json_len(), out.len() + 2);
        assert_eq!(
            (blob.get(b"a"), blob.get(b"b"), blob.get(b"c")),
            (None, Some(&b"1"[..]), Some(&b"3"[..]))
        );
        let empty = Blob::new(b"", CREATION);
        assert_eq!(
            (empty.write_members(0, &mut Vec::new()), empty.json_len()),
            (false, 0)
        );
    }

    #[test]
    fn three_small_fields_take_66_bytes() {
        let bytes = packed(&[
            field("cartId", FieldKind::Data, 9, Some("\"c-1234567\"")),
            field("n", FieldKind::Data, 9, Some("1234567")),
            field("userId", FieldKind::Data, 9, Some("\"u-1234567\"")),
        ]);
        assert!(bytes.len() <= 66, "{}", bytes.len());
    }

    /// Any fields, in order, each once.
    pub(crate) fn any_fields() -> impl Strategy<Value = Vec<RecordField>> {
        let kind = prop_oneof![
            Just(FieldKind::Data),
            Just(FieldKind::Default),
            Just(FieldKind::Attribute)
        ];
        let value = proptest::option::of(prop_oneof![Just("1"), Just("22"), Just("\"xyz\"")]);
        let one = ("[a-e]{1,2}", kind, 0u64..6, 0u16..3, value, 0u32..3);
        proptest::collection::vec(one, 0..8).prop_map(|fields| {
            let mut fields: Vec<_> = fields
                .into_iter()
                .map(|(name, kind, clock, tag, value, expires)| RecordField {
                    name: Name::new(&name),
                    kind,
                    stamp: Stamp { clock, tag },
                    value: value.map(|v| v.as_bytes().into()),
                    expires: if kind == FieldKind::Attribute {
                        expires
                    } else {
                        0
                    },
                })
                .collect();
            fields.sort_by(|a, b| a.as_ref().key().cmp(&b.as_ref().key()));
            fields.dedup_by(|a, b| a.as_ref().key() == b.as_ref().key());
            fields
        })
    }

    proptest! {
        #[test]
        fn round_trips(fields in any_fields()) {
            let creation = Stamp { clock: 2, tag: 1 };
            let mut bytes = Vec::new();
            pack(fields.iter().map(RecordField::as_ref), creation, &mut bytes);
            let back: Vec<_> = Blob::new(&bytes, creation).fields().map(|f| f.to_owned()).collect();
            prop_assert_eq!(back, fields);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let blob = Blob::new(&bytes, CREATION);
            let mut out = Vec::new();
            blob.write_members(7, &mut out);
            let _ = (blob.fields().count(), blob.json_len(), blob.get(b"a"));
        }

        #[test]
        fn numbers_round_trip_and_are_canonical(n in 0u64..1 << 62, bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut out = Vec::new();
            put_number(n, &mut out);
            prop_assert_eq!(take_number(&mut out.as_slice()), Some(n));
            let mut rest = bytes.as_slice();
            if let Some(n) = take_number(&mut rest) {
                let mut again = Vec::new();
                put_number(n, &mut again);
                prop_assert_eq!(&again, &bytes[..bytes.len() - rest.len()]);
            }
        }
    }
}
