//! A record as bytes, versioned: as it crosses a process boundary, before sealing.
//!
//! Format (numbers little-endian unless LEB128): version 1 · flags (1 signed, 2 idle, 4 destroyed, 8 traits) ·
//! sid 16 · created 6 · birth 2 · last access 4 · if destroyed: until 8 · if idle: ms 8, clock 8, tag 2 ·
//! if traits: eight digests of 8, major 2 ·
//! number of secrets (LEB128), each: digest 16, epoch 4, generation 4, clock 8, first use 4,
//! authenticated 1, subject 8 · number of counters (LEB128), each: tag 2, changes 4, requests 4 · packed
//! fields to the end (see `blob`).
//!
//! Invariants: decoding never panics, bounds all that it allocates, and accepts only what encoding
//! makes. Tested here with golden bytes and by property.

use super::blob::{self, Blob};
use super::{Counter, Idle, Record, RecordField, SECRETS, SecretEntry};
use crate::Error;
use crate::hlc::Stamp;
use crate::id::{Digest, NodeTag, Sid};
use crate::time::Quarter;
use crate::traits::Traits;

/// The version that this build writes.
pub const VERSION: u8 = 1;
/// Most counters that a record may hold: nodes that ever served the session.
const COUNTERS: u64 = 1024;

const SIGNED: u8 = 1;
const IDLE: u8 = 2;
const DESTROYED: u8 = 4;
const LOOK: u8 = 8;

/// Appends `record` to `out`.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.push(VERSION);
    out.push(
        flag(record.signed, SIGNED)
            | flag(record.idle.is_some(), IDLE)
            | flag(record.destroyed.is_some(), DESTROYED)
            | flag(record.traits.is_some(), LOOK),
    );
    out.extend_from_slice(&record.sid.0);
    out.extend_from_slice(&record.created.to_le_bytes()[..6]);
    out.extend_from_slice(&record.birth.get().to_le_bytes());
    out.extend_from_slice(&record.last_access.0.to_le_bytes());
    if let Some(until) = record.destroyed {
        out.extend_from_slice(&until.to_le_bytes());
    }
    if let Some(idle) = record.idle {
        out.extend_from_slice(&idle.ms.to_le_bytes());
        out.extend_from_slice(&idle.stamp.clock.to_le_bytes());
        out.extend_from_slice(&idle.stamp.tag.to_le_bytes());
    }
    if let Some(traits) = record.traits {
        for digest in traits.digests {
            out.extend_from_slice(&digest.to_le_bytes());
        }
        out.extend_from_slice(&traits.major.to_le_bytes());
    }
    blob::put_number(record.secrets.len() as u64, out);
    for secret in &record.secrets {
        out.extend_from_slice(&secret.digest.0);
        out.extend_from_slice(&secret.epoch.to_le_bytes());
        out.extend_from_slice(&secret.generation.to_le_bytes());
        out.extend_from_slice(&secret.clock.to_le_bytes());
        out.extend_from_slice(&secret.first_use.0.to_le_bytes());
        out.push(u8::from(secret.authenticated));
        out.extend_from_slice(&secret.subject.to_le_bytes());
    }
    blob::put_number(record.counters.len() as u64, out);
    for counter in &record.counters {
        out.extend_from_slice(&counter.tag.get().to_le_bytes());
        out.extend_from_slice(&counter.changes.to_le_bytes());
        out.extend_from_slice(&counter.requests.to_le_bytes());
    }
    let creation = Stamp::creation(record.created, record.birth.get());
    blob::pack(record.fields.iter().map(RecordField::as_ref), creation, out);
}

/// Reads one record, which is all of `bytes`.
///
/// # Errors
/// [`Error::RecordVersion`] for another version, [`Error::RecordMalformed`] for anything that
/// [`encode`] does not make.
pub fn decode(bytes: &[u8]) -> Result<Record, Error> {
    match bytes.first() {
        Some(&VERSION) => {}
        Some(&version) => return Err(Error::RecordVersion(version)),
        None => return Err(Error::RecordMalformed),
    }
    let record = read(bytes.get(1..).unwrap_or_default()).ok_or(Error::RecordMalformed)?;
    // One form for each record: what is not sorted, not minimal or not understood does not come back.
    let mut again = Vec::with_capacity(bytes.len());
    encode(&record, &mut again);
    if again != bytes || !sorted(&record) {
        return Err(Error::RecordMalformed);
    }
    Ok(record)
}

fn sorted(record: &Record) -> bool {
    record.secrets.windows(2).all(|w| w[0].rank() > w[1].rank())
        && record.counters.windows(2).all(|w| w[0].tag < w[1].tag)
        && record
            .fields
            .windows(2)
            .all(|w| w[0].as_ref().key() < w[1].as_ref().key())
        && record.fields.iter().all(|f| {
            f.name
                .0
                .iter()
                .chain(f.value.as_deref().unwrap_or_default())
                .all(|b| (0x20..0x7f).contains(b))
        })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn secret(&mut self) -> Option<SecretEntry> {
        Some(SecretEntry {
            digest: Digest(self.array()?),
            epoch: self.u32()?,
            generation: self.u32()?,
            clock: self.u64()?,
            first_use: Quarter(self.u32()?),
            authenticated: self.u8()? != 0,
            subject: self.u64()?,
        })
    }

    fn counter(&mut self) -> Option<Counter> {
        Some(Counter {
            tag: NodeTag::new(self.u16()?),
            changes: self.u32()?,
            requests: self.u32()?,
        })
    }
}

fn read(bytes: &[u8]) -> Option<Record> {
    let mut r = Reader(bytes);
    let flags = r.u8()?;
    let sid = Sid(r.array()?);
    let created: [u8; 6] = r.array()?;
    let mut wide = [0; 8];
    wide[..6].copy_from_slice(&created);
    let mut record = Record::change(sid, u64::from_le_bytes(wide), NodeTag::new(r.u16()?));
    if record.created >> 46 != 0 {
        return None;
    }
    record.signed = flags & SIGNED != 0;
    record.last_access = Quarter(r.u32()?);
    if flags & DESTROYED != 0 {
        record.destroyed = Some(r.u64()?);
    }
    if flags & IDLE != 0 {
        let ms = r.u64()?;
        record.idle = Some(Idle {
            ms,
            stamp: Stamp {
                clock: r.u64()?,
                tag: r.u16()?,
            },
        });
    }
    if flags & LOOK != 0 {
        let mut traits = Traits::default();
        for digest in &mut traits.digests {
            *digest = r.u64()?;
        }
        traits.major = r.u16()?;
        record.traits = Some(traits);
    }
    let secrets = blob::take_number(&mut r.0).filter(|n| *n <= SECRETS as u64)?;
    record.secrets = (0..secrets).map(|_| r.secret()).collect::<Option<_>>()?;
    let counters = blob::take_number(&mut r.0).filter(|n| *n <= COUNTERS)?;
    record.counters = (0..counters).map(|_| r.counter()).collect::<Option<_>>()?;
    let creation = Stamp::creation(record.created, record.birth.get());
    record.fields = Blob::new(r.0, creation)
        .fields()
        .map(|f| f.to_owned())
        .collect();
    Some(record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::merge::tests::any_record;

    #[test]
    fn golden() {
        let mut record =
            Record::change(Sid(*b"0123456789abcdef"), 0x0102_0304_0506, NodeTag::new(7));
        let mut out = Vec::new();
        encode(&record, &mut out);
        assert_eq!(
            out,
            b"\x01\x000123456789abcdef\x06\x05\x04\x03\x02\x01\x07\0\0\0\0\0\0\0"
        );
        record.signed = true;
        record.last_access = Quarter(9);
        record.idle = Some(Idle {
            ms: 60_000,
            stamp: Stamp {
                clock: 2,
                tag: 0x8001,
            },
        });
        record.secrets.push(SecretEntry {
            epoch: 1,
            generation: 2,
            clock: 3,
            digest: Digest(*b"ABCDEFGHIJKLMNOP"),
            authenticated: true,
            subject: 4,
            first_use: Quarter(5),
        });
        record.counters.push(Counter {
            tag: NodeTag::new(7),
            changes: 8,
            requests: 9,
        });
        out.clear();
        encode(&record, &mut out);
        assert_eq!(
            out,
            b"\x01\x030123456789abcdef\x06\x05\x04\x03\x02\x01\x07\0\x09\0\0\0\
              \x60\xea\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\x80\
              \x01ABCDEFGHIJKLMNOP\x01\0\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0\x05\0\0\0\x01\x04\0\0\0\0\0\0\0\
              \x01\x07\0\x08\0\0\0\x09\0\0\0"
        );
        assert_eq!(decode(&out), Ok(record));
    }

    #[test]
    fn refused() {
        let mut out = Vec::new();
        encode(&Record::change(Sid([1; 16]), 1, NodeTag::new(1)), &mut out);
        assert!(decode(&out).is_ok());
        assert_eq!(decode(b""), Err(Error::RecordMalformed));
        assert_eq!(decode(b"\x02"), Err(Error::RecordVersion(2)));
        for len in 1..out.len() {
            assert_eq!(decode(&out[..len]), Err(Error::RecordMalformed), "{len}");
        }
        out.push(0);
        assert_eq!(decode(&out), Err(Error::RecordMalformed), "trailing byte");
    }

    proptest! {
        #[test]
        fn round_trips(record in any_record()) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            prop_assert_eq!(decode(&bytes), Ok(record));
        }

        #[test]
        fn what_decodes_is_canonical(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() { *first = VERSION; }
            if let Ok(record) = decode(&bytes) {
                let mut again = Vec::new();
                encode(&record, &mut again);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn damage_never_panics(record in any_record(), at: prop::sample::Index, byte: u8) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes);
        }
    }
}
