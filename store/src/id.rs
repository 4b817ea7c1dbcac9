//! Identities: the public name of a session, the secret that proves possession, its digest.
//!
//! Owns the newtypes and their text form (base64url without padding, canonical). Plain values, usable
//! anywhere. Invariants: a [`Secret`] and a [`Digest`] never print their value; digests are compared in
//! constant time; bits 0–11 of a sid are its slot in a cluster, so the shard of a core and the
//! position in an index come from other bits. Deliberately absent: making random bits (an argument).
//! Tested here.

use std::fmt;

use sha2::compress256;
use sha2::digest::generic_array::GenericArray;
use subtle::ConstantTimeEq;

use crate::{Entropy, Error};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// By character: its six bits, or 255.
const REVERSE: [u8; 256] = {
    let mut table = [255u8; 256];
    let mut i = 0;
    while i < 64 {
        table[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// Initial state of SHA-256 (FIPS 180-4, 5.3.3).
pub(crate) const SHA256_IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// One SHA-256 compression of `block` into `state`.
pub(crate) fn compress(state: &mut [u32; 8], block: &[u8; 64]) {
    compress256(state, std::slice::from_ref(GenericArray::from_slice(block)));
}

/// First 16 bytes of a SHA-256 state.
pub(crate) fn first16(state: &[u32; 8]) -> [u8; 16] {
    let mut out = [0; 16];
    for (bytes, word) in out.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    out
}

/// Writes base64url of `input` into `out`, which must be long enough; returns the length.
pub(crate) fn encode(input: &[u8], out: &mut [u8]) -> usize {
    let mut len = 0;
    let mut put = |bits: u32, chars: usize| {
        for i in 0..chars {
            out[len] = ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
            len += 1;
        }
    };
    let mut triples = input.chunks_exact(3);
    for t in &mut triples {
        put(
            u32::from(t[0]) << 16 | u32::from(t[1]) << 8 | u32::from(t[2]),
            4,
        );
    }
    match *triples.remainder() {
        [a] => put(u32::from(a) << 16, 2),
        [a, b] => put(u32::from(a) << 16 | u32::from(b) << 8, 3),
        _ => {}
    }
    len
}

/// Reads canonical base64url into exactly `out`. `None` for any other character, length, or spare bit.
pub(crate) fn decode(text: &[u8], out: &mut [u8]) -> Option<()> {
    if text.len() != (out.len() * 8).div_ceil(6) {
        return None;
    }
    let mut quads = text.chunks_exact(4);
    let mut triples = out.chunks_exact_mut(3);
    let mut bad = 0u8;
    for (q, t) in (&mut quads).zip(&mut triples) {
        let v = [
            REVERSE[q[0] as usize],
            REVERSE[q[1] as usize],
            REVERSE[q[2] as usize],
            REVERSE[q[3] as usize],
        ];
        bad |= v[0] | v[1] | v[2] | v[3];
        let bits =
            u32::from(v[0]) << 18 | u32::from(v[1]) << 12 | u32::from(v[2]) << 6 | u32::from(v[3]);
        t[0] = (bits >> 16) as u8;
        t[1] = (bits >> 8) as u8;
        t[2] = bits as u8;
    }
    let rest = triples.into_remainder();
    match (quads.remainder(), rest) {
        (&[a, b], [x]) => {
            let (a, b) = (REVERSE[a as usize], REVERSE[b as usize]);
            bad |= a | b | if b & 0x0f != 0 { 255 } else { 0 };
            *x = a << 2 | b >> 4;
        }
        (&[a, b, c], [x, y]) => {
            let (a, b, c) = (
                REVERSE[a as usize],
                REVERSE[b as usize],
                REVERSE[c as usize],
            );
            bad |= a | b | c | if c & 0x03 != 0 { 255 } else { 0 };
            *x = a << 2 | b >> 4;
            *y = b << 4 | c >> 2;
        }
        (&[], []) => {}
        _ => return None,
    }
    (bad < 64).then_some(())
}

/// A session's public name: 128 random bits. Stable for its life, safe to log, not a credential.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sid(pub [u8; 16]);

impl Sid {
    /// Characters of the text form.
    pub const TEXT: usize = 22;

    /// A random one.
    pub fn random(entropy: &mut impl Entropy) -> Self {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        Self(bytes)
    }

    /// The text form, on the stack.
    pub fn text(&self) -> [u8; Self::TEXT] {
        let mut out = [0; Self::TEXT];
        encode(&self.0, &mut out);
        out
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`Error::IdMalformed`] for anything but 22 canonical characters.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut bytes = [0; 16];
        decode(text, &mut bytes).ok_or(Error::IdMalformed)?;
        Ok(Self(bytes))
    }

    /// Bits 0–11: the slot that a cluster assigns to nodes.
    pub fn slot(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]]) >> 4
    }

    /// 64 random bits for an index: neither the slot's nor the shard's.
    pub(crate) fn index_bits(&self) -> u64 {
        let b = &self.0;
        u64::from_le_bytes([b[2], b[3], b[4], b[5], b[6], b[7], b[12], b[13]])
    }

    /// Eight bytes that stand for the sid in a tombstone.
    pub(crate) fn short(&self) -> u64 {
        let b = &self.0;
        u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]])
    }

    /// Four bytes that tell a reused slot from the session it once held.
    pub(crate) fn check(&self) -> u32 {
        u32::from_le_bytes([self.0[12], self.0[13], self.0[14], self.0[15]])
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sid({self})")
    }
}

/// The shard among `shards` that owns `sid`: hash(sid) mod shards, over bytes 8–11. `shards` ≥ 1.
pub fn shard_of(sid: &Sid, shards: usize) -> usize {
    let b = &sid.0;
    let random = u64::from(u32::from_be_bytes([b[8], b[9], b[10], b[11]]));
    // Multiply-shift: the high half of random × shards is uniform below `shards`.
    ((random * shards as u64) >> 32) as usize
}

/// 128 random bits that prove possession of a session. Never kept and never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

impl Secret {
    /// A random one.
    pub fn random(entropy: &mut impl Entropy) -> Self {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        Self(bytes)
    }

    /// What the gateway keeps of it.
    pub fn digest(&self) -> Digest {
        // One padded block: message, the bit 1, zeros, length in bits.
        let mut block = [0u8; 64];
        block[..16].copy_from_slice(&self.0);
        block[16] = 0x80;
        block[63] = 128;
        let mut state = SHA256_IV;
        compress(&mut state, &block);
        Digest(first16(&state))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// First 16 bytes of SHA-256 of a [`Secret`]. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Digest(pub [u8; 16]);

impl PartialEq for Digest {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        // As two words, not sixteen bytes: each comparison has a barrier against the optimiser.
        let halves = |d: &[u8; 16]| {
            let n = u128::from_le_bytes(*d);
            (n as u64, (n >> 64) as u64)
        };
        let (a, b) = (halves(&self.0), halves(&other.0));
        (a.0.ct_eq(&b.0) & a.1.ct_eq(&b.1)).into()
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(***)")
    }
}

/// The 15 bits that name a node in tokens, records and stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeTag(u16);

impl NodeTag {
    /// The low 15 bits of `value`.
    pub const fn new(value: u16) -> Self {
        Self(value & 0x7fff)
    }

    /// Its bits; the highest is 0.
    pub const fn get(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest as _;

    use super::*;

    #[test]
    fn digest_is_sha256() {
        for seed in 0..50u8 {
            let secret = Secret([seed.wrapping_mul(37); 16]);
            assert_eq!(secret.digest().0, sha2::Sha256::digest(secret.0)[..16]);
        }
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(
            format!("{:?}{:?}", Secret([7; 16]), Digest([7; 16])),
            "Secret(***)Digest(***)"
        );
    }

    #[test]
    fn sid_text_is_canonical() {
        let sid = Sid([0xff; 16]);
        assert_eq!(sid.to_string(), "_____________________w");
        assert_eq!(Sid::parse(b"_____________________w"), Ok(sid));
        // The same bits with spare ones set, a wrong length, a foreign character.
        for bad in [
            &b"_____________________x"[..],
            b"_____________________",
            b"____________________+w",
            b"",
            b"_____________________w=",
        ] {
            assert_eq!(Sid::parse(bad), Err(Error::IdMalformed));
        }
    }

    #[test]
    fn shards_are_even_and_ignore_the_slot_bits() {
        let mut counts = [0; 7];
        for i in 0..70_000u64 {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&sha2::Sha256::digest(i.to_le_bytes())[..16]);
            let sid = Sid(bytes);
            counts[shard_of(&sid, 7)] += 1;
            bytes[0] ^= 0xff;
            bytes[1] ^= 0xf0;
            assert_eq!(shard_of(&Sid(bytes), 7), shard_of(&sid, 7));
            assert_eq!(Sid(bytes).index_bits(), sid.index_bits());
        }
        assert!(
            counts.iter().all(|&n| (9_500..10_500).contains(&n)),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn base64_round_trips(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut text = vec![0; bytes.len() * 2 + 4];
            let len = encode(&bytes, &mut text);
            let mut back = vec![0; bytes.len()];
            prop_assert_eq!(decode(&text[..len], &mut back), Some(()));
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn base64_accepts_one_text_for_each_value(text in "[A-Za-z0-9_-]{22}") {
            if let Ok(sid) = Sid::parse(text.as_bytes()) {
                prop_assert_eq!(sid.to_string(), text);
            }
        }
    }
}
