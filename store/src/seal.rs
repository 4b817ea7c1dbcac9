//! Sealing: what a record becomes where it leaves the process.
//!
//! Owns the format of a sealed record and its keys. Format: version 1 (1 byte) · key id (4) · epoch (4,
//! little-endian) · nonce (12) · AES-256-GCM ciphertext with its tag (16) behind it. Associated data:
//! version ‖ sid ‖ key id ‖ epoch, so that a record moved to another session, key or time does not open.
//! The key of an epoch is HKDF-SHA-256(master, "holdfast seal 1" ‖ epoch); epoch = floor(now / rotation).
//! The key id is the first four bytes of HKDF-SHA-256(master, "holdfast key id 1"): every instance opens
//! every record without coordination.
//!
//! Plain values, usable anywhere; a [`Sealer`] a thread. Invariants: opening never panics, says nothing of
//! why it failed, and shows no byte before the tag was compared, in constant time; a fresh nonce a record,
//! from the caller's randomness; keys are never printed and are wiped when they are dropped. The epoch of a
//! record is that of whoever sealed it: one ahead of our clock, or of years ago, opens like any other.
//!
//! Nonces are random, so one key should seal no more than 2^32 records (NIST SP 800-38D, 8.3): that is
//! what the rotation is for. It does not protect against a stolen master, nor an old record of the same
//! session from being put back, which versions of records do. Deliberately absent: who seals, and when
//! (stores and peers); how a key is written (the configuration's).
//! Tested here with golden bytes, and by property: every changed byte is refused.

use std::fmt;

use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::Entropy;
use crate::id::Sid;

/// The version that this build writes.
pub const VERSION: u8 = 1;
/// Bytes before the ciphertext.
const HEAD: usize = 1 + 4 + 4 + NONCE;
const NONCE: usize = 12;
const TAG: usize = 16;
/// Bytes that sealing adds.
pub const OVERHEAD: usize = HEAD + TAG;

/// Keys of epochs that a sealer keeps made: those of the records that it meets.
const KEPT: usize = 8;

/// Why sealing or opening failed: nothing is said about the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealError {
    /// No such key, or not what was sealed with it for this session.
    Refused,
    /// Sealed by a build that is newer.
    Version(u8),
    /// There is no master key, or more to be sealed than AES-GCM can.
    Unsealable,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("a sealed record does not open"),
            Self::Version(v) => write!(f, "sealed record of unknown version {v}"),
            Self::Unsealable => f.write_str("a record can't be sealed"),
        }
    }
}

impl std::error::Error for SealError {}

/// One master key.
#[derive(Clone)]
pub struct Master {
    id: [u8; 4],
    key: Zeroizing<[u8; 32]>,
}

impl Master {
    /// Of its 32 bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut id = [0; 4];
        derive(key, &[b"holdfast key id 1"], &mut id);
        Self {
            id,
            key: Zeroizing::new(*key),
        }
    }

    fn cipher(&self, epoch: u32) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; 32]);
        let info: [&[u8]; 2] = [b"holdfast seal 1", &epoch.to_le_bytes()];
        derive(&self.key, &info, &mut key);
        Aes256Gcm::new((&*key).into())
    }
}

/// HKDF-SHA-256 (RFC 5869) without a salt: the master is uniformly random, or was stretched.
fn derive<const N: usize>(master: &[u8; 32], info: &[&[u8]], out: &mut [u8; N]) {
    const { assert!(N <= 255 * 32) };
    // Only the length can be wrong, and it is not.
    let done = Hkdf::<Sha256>::new(None, master).expand_multi_info(info, out);
    debug_assert!(done.is_ok());
}

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Master(***)")
    }
}

/// The key of one epoch of one master, made.
struct Made {
    master: usize,
    epoch: u32,
    cipher: Aes256Gcm,
}

/// What seals and opens: the first master seals, all open. One a thread.
pub struct Sealer {
    masters: Vec<Master>,
    /// Seconds of an epoch; 0 is one epoch for ever.
    rotation: u64,
    /// At most [`KEPT`], the one made first is given up first.
    made: Vec<Made>,
}

impl Sealer {
    /// For master keys, the one that seals first, and a time between two keys in seconds; 0 is none.
    pub fn new(masters: Vec<Master>, rotation: u64) -> Self {
        Self {
            masters,
            rotation,
            made: Vec::with_capacity(KEPT),
        }
    }

    fn epoch(&self, now: u64) -> u32 {
        let epoch = (now / 1000).checked_div(self.rotation).unwrap_or(0);
        u32::try_from(epoch).unwrap_or(u32::MAX)
    }

    fn cipher(&mut self, master: usize, epoch: u32) -> Option<&Aes256Gcm> {
        let known = |m: &Made| (m.master, m.epoch) == (master, epoch);
        let at = match self.made.iter().position(known) {
            Some(at) => at,
            None => {
                let cipher = self.masters.get(master)?.cipher(epoch);
                if self.made.len() >= KEPT {
                    self.made.remove(0);
                }
                self.made.push(Made {
                    master,
                    epoch,
                    cipher,
                });
                self.made.len() - 1
            }
        };
        self.made.get(at).map(|m| &m.cipher)
    }

    /// Seals `plain` for a session at `now` (Unix ms) and appends it to `out`.
    ///
    /// # Errors
    /// [`SealError::Unsealable`] without a master key, or for more than AES-GCM can seal at once; `out` is
    /// then as it was.
    pub fn seal(
        &mut self,
        sid: &Sid,
        plain: &[u8],
        now: u64,
        entropy: &mut impl Entropy,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let epoch = self.epoch(now);
        let id = self.masters.first().ok_or(SealError::Unsealable)?.id;
        let cipher = self.cipher(0, epoch).ok_or(SealError::Unsealable)?;
        let mut nonce = [0; NONCE];
        entropy.fill(&mut nonce);
        let start = out.len();
        out.reserve(plain.len() + OVERHEAD);
        out.push(VERSION);
        out.extend_from_slice(&id);
        out.extend_from_slice(&epoch.to_le_bytes());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let data = associated(sid, &id, epoch);
        let body = out.get_mut(start + HEAD..).unwrap_or_default();
        match cipher.encrypt_in_place_detached(&Nonce::from(nonce), &data, body) {
            Ok(tag) => out.extend_from_slice(&tag),
            Err(_) => {
                out.truncate(start);
                return Err(SealError::Unsealable);
            }
        }
        Ok(())
    }

    /// Opens what was sealed for a session, with any of the masters and of any epoch.
    ///
    /// # Errors
    /// [`SealError`], for whatever is not exactly what [`Self::seal`] made for this session.
    pub fn open(&mut self, sid: &Sid, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (version, rest) = sealed.split_first().ok_or(SealError::Refused)?;
        if *version != VERSION {
            return Err(SealError::Version(*version));
        }
        let (id, rest) = rest.split_first_chunk::<4>().ok_or(SealError::Refused)?;
        let (epoch, rest) = rest.split_first_chunk::<4>().ok_or(SealError::Refused)?;
        let (nonce, rest) = rest
            .split_first_chunk::<NONCE>()
            .ok_or(SealError::Refused)?;
        let (body, tag) = rest.split_last_chunk::<TAG>().ok_or(SealError::Refused)?;
        let (nonce, tag) = (Nonce::from(*nonce), Tag::from(*tag));
        let epoch = u32::from_le_bytes(*epoch);
        let data = associated(sid, id, epoch);
        // Two masters may have one id, once in four thousand million.
        for master in 0..self.masters.len() {
            if self.masters.get(master).is_none_or(|m| m.id != *id) {
                continue;
            }
            let cipher = self.cipher(master, epoch).ok_or(SealError::Refused)?;
            let mut plain = body.to_vec();
            if cipher
                .decrypt_in_place_detached(&nonce, &data, &mut plain, &tag)
                .is_ok()
            {
                return Ok(plain);
            }
        }
        Err(SealError::Refused)
    }

    /// Whether a sealed record was sealed by another key than one that is written at `now` (Unix ms) would
    /// be: of an old master, or of another epoch.
    pub fn is_old(&self, sealed: &[u8], now: u64) -> bool {
        let epoch = self.epoch(now).to_le_bytes();
        let is = |m: &Master| sealed.get(1..5) == Some(&m.id) && sealed.get(5..9) == Some(&epoch);
        !self.masters.first().is_some_and(is)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({} keys)", self.masters.len())
    }
}

fn associated(sid: &Sid, id: &[u8; 4], epoch: u32) -> [u8; 25] {
    let mut data = [0; 25];
    data[0] = VERSION;
    data[1..17].copy_from_slice(&sid.0);
    data[17..21].copy_from_slice(id);
    data[21..].copy_from_slice(&epoch.to_le_bytes());
    data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;
    const DAY_MS: u64 = DAY * 1000;
    const NOW: u64 = 1_764_000_000_000;
    const SID: Sid = Sid(*b"0123456789abcdef");

    /// Bytes that count up, so that nonces differ and tests repeat.
    struct Counting(u8);

    impl Entropy for Counting {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(self.0);
            self.0 = self.0.wrapping_add(1);
        }
    }

    fn sealer(masters: &[u8]) -> Sealer {
        let masters = masters.iter().map(|b| Master::new(&[*b; 32])).collect();
        Sealer::new(masters, DAY)
    }

    fn sealed(sealer: &mut Sealer, plain: &[u8], now: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let mut entropy = Counting(7);
        sealer
            .seal(&SID, plain, now, &mut entropy, &mut out)
            .unwrap();
        out
    }

    /// Made by another implementation (Python's `cryptography`) from the description above.
    const GOLDEN: &str = "014e5fef0ec04f0000070707070707070707070707b651f7c7b602fefab411eddcb35e7d7078e1fd4236f05c1f";

    #[test]
    fn golden() {
        let bytes = sealed(&mut sealer(&[1]), b"a record", NOW);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(bytes.len(), 8 + OVERHEAD);
        assert_eq!(sealer(&[1]).open(&SID, &bytes).unwrap(), b"a record");
    }

    #[test]
    fn each_record_has_its_own_nonce() {
        let (mut s, mut entropy) = (sealer(&[1]), Counting(0));
        let mut seal = || {
            let mut out = Vec::new();
            s.seal(&SID, b"same", NOW, &mut entropy, &mut out).unwrap();
            out
        };
        let (one, two) = (seal(), seal());
        assert_eq!(one[..9], two[..9]);
        assert_ne!(one[9..HEAD], two[9..HEAD]);
        assert_ne!(one[HEAD..], two[HEAD..]);
    }

    #[test]
    fn the_first_master_seals_and_all_open_every_epoch() {
        let old = sealed(&mut sealer(&[1]), b"old", NOW);
        let mut both = sealer(&[2, 1]);
        let new = sealed(&mut both, b"new", NOW);
        assert_eq!(both.open(&SID, &old).unwrap(), b"old");
        assert_eq!(both.open(&SID, &new).unwrap(), b"new");
        assert_eq!(sealer(&[1]).open(&SID, &new), Err(SealError::Refused));
        assert!(both.is_old(&old, NOW) && !both.is_old(&new, NOW));
        assert!(both.is_old(&new[..4], NOW) && both.is_old(&[], NOW));
    }

    #[test]
    fn a_key_lasts_an_epoch_and_its_records_open_before_and_after() {
        let midnight = NOW / DAY_MS * DAY_MS;
        let mut s = sealer(&[1]);
        let epochs = [midnight - 1, midnight, midnight + DAY_MS - 1]
            .map(|now| sealed(&mut s, b"x", now)[5..9].to_vec());
        assert_ne!(epochs[0], epochs[1]);
        assert_eq!(epochs[1], epochs[2]);
        // One key would give one ciphertext, as the nonce is the same here.
        let bodies = [0, DAY_MS].map(|later| sealed(&mut s, b"x", NOW + later)[HEAD..].to_vec());
        assert_ne!(bodies[0], bodies[1]);
        // More epochs than are kept made, those of a clock ahead of ours and of the far past among them.
        for days in (0..2 * KEPT as u64).chain([20_000, 100_000]) {
            let there = sealed(&mut sealer(&[1]), b"x", days * DAY_MS);
            assert_eq!(s.open(&SID, &there).unwrap(), b"x", "day {days}");
            assert!(s.is_old(&there, NOW), "day {days}");
            assert!(s.made.len() <= KEPT);
        }
        let mut never = Sealer::new(vec![Master::new(&[1; 32])], 0);
        let there = sealed(&mut never, b"x", NOW);
        assert_eq!(there[5..9], [0; 4]);
        assert!(!never.is_old(&there, NOW + 1000 * DAY_MS));
        assert_eq!(s.open(&SID, &there).unwrap(), b"x", "another rotation");
    }

    #[test]
    fn another_session_version_or_no_key_is_refused() {
        let bytes = sealed(&mut sealer(&[1]), b"x", NOW);
        let other = sealer(&[1]).open(&Sid([9; 16]), &bytes);
        assert_eq!(other, Err(SealError::Refused));
        let newer = [&[2], &bytes[1..]].concat();
        assert_eq!(sealer(&[1]).open(&SID, &newer), Err(SealError::Version(2)));
        let (mut none, mut out) = (Sealer::new(Vec::new(), 0), b"kept".to_vec());
        let refused = none.seal(&SID, b"x", NOW, &mut Counting(0), &mut out);
        assert_eq!(refused, Err(SealError::Unsealable));
        assert_eq!(out, b"kept");
        assert_eq!(none.open(&SID, &bytes), Err(SealError::Refused));
    }

    #[test]
    fn keys_are_not_printed() {
        let shown = format!("{:?} {:?}", Master::new(&[0xab; 32]), sealer(&[0xab]));
        assert_eq!(shown, "Master(***) Sealer(1 keys)");
    }

    proptest! {
        #[test]
        fn round_trips(
            plain in proptest::collection::vec(any::<u8>(), 0..300), nonce: u8, now in 0u64..1 << 45,
        ) {
            let mut s = sealer(&[3]);
            let mut out = b"before".to_vec();
            s.seal(&SID, &plain, now, &mut Counting(nonce), &mut out).unwrap();
            prop_assert_eq!(&out[..6], b"before");
            prop_assert_eq!(s.open(&SID, &out[6..]).unwrap(), plain);
        }

        #[test]
        fn every_changed_byte_is_refused(
            plain in proptest::collection::vec(any::<u8>(), 0..40), change in 1u8..,
        ) {
            let mut s = sealer(&[3]);
            let bytes = sealed(&mut s, &plain, NOW);
            for at in 0..bytes.len() {
                let mut other = bytes.clone();
                other[at] ^= change;
                prop_assert!(s.open(&SID, &other).is_err(), "byte {}", at);
            }
            for len in 0..bytes.len() {
                prop_assert!(s.open(&SID, &bytes[..len]).is_err(), "cut to {}", len);
            }
            prop_assert!(s.open(&SID, &[&bytes[..], &[0]].concat()).is_err());
        }

        #[test]
        fn opening_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), ours: bool) {
            let mut s = sealer(&[3]);
            let mut bytes = bytes;
            // Else the first bytes would end it.
            let head = sealed(&mut s, b"", NOW);
            let known = if ours { 9.min(bytes.len()) } else { 0 };
            bytes[..known].copy_from_slice(&head[..known]);
            prop_assert!(s.open(&SID, &bytes).is_err());
        }
    }
}
