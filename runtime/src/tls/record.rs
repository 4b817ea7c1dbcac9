//! The record layer of an established connection: one direction's keys, sealing and opening.
//!
//! Owns [`Keys`], what one direction needs after the handshake: AEAD key, nonce base, sequence number
//! and, in TLS 1.3, the traffic secret that the next key derives from. Pure; a value of it is used by
//! one task at a time, on any thread.
//!
//! Invariants: a nonce is used once (the sequence number goes up with every record and a key ends
//! before its bound); a record that does not authenticate yields nothing; no key is printed.
//!
//! Deliberately absent: handshakes, suites that are no AEAD, compression, padding of our own. Tested
//! below against itself in both directions, and end to end against OpenSSL.

use std::fmt;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use rustls::{CipherSuite, ConnectionTrafficSecrets, ProtocolVersion};

use crate::buffers::Buffer;

/// Bytes of a record's header.
pub const HEADER: usize = 5;
/// Most plaintext of a record (RFC 8446, 5.1).
pub const MAX_PLAIN: usize = 1 << 14;
/// Most that a record's payload may be longer than its plaintext: RFC 8446, 5.2, and RFC 5246, 6.2.3.
const MAX_EXPANSION_13: usize = 256;
const MAX_EXPANSION_12: usize = 2048;
/// Most that sealing adds to a record: header, explicit nonce, inner type, tag.
pub const OVERHEAD: usize = HEADER + EXPLICIT + 1 + TAG;
/// Bytes of the nonce that travel with a record of TLS 1.2 with AES-GCM.
const EXPLICIT: usize = 8;
const TAG: usize = 16;
/// Records under one key: AES-GCM is sound for 2^24.5 full ones (RFC 8446, 5.5).
const MAX_RECORDS: u64 = 1 << 24;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Application data.
    Data,
    /// A handshake message, or a part of one.
    Handshake,
    /// An alert.
    Alert,
}

impl Content {
    fn byte(self) -> u8 {
        match self {
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => 23,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        match byte {
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::Data),
            _ => None,
        }
    }
}

/// What is wrong with a record, or what the peer did wrong with one. The number is the alert's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// A record or message where none of its kind may be.
    Unexpected = 10,
    /// It does not authenticate.
    BadRecord = 20,
    /// It is longer than records may be.
    Overflow = 22,
    /// A message that cannot be read.
    Decode = 50,
    /// Ours: a key has served its time, or can't be made.
    Internal = 80,
}

impl Fault {
    /// In words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unexpected => "an unexpected TLS record",
            Self::BadRecord => "a TLS record does not authenticate",
            Self::Overflow => "a TLS record is too long",
            Self::Decode => "a TLS message cannot be read",
            Self::Internal => "a TLS key has served its time",
        }
    }
}

impl From<Fault> for std::io::Error {
    fn from(fault: Fault) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, fault.reason())
    }
}

/// How the records of a version and suite look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// TLS 1.3: the type is inside, the header is authenticated.
    V13,
    /// TLS 1.2 with AES-GCM: eight bytes of the nonce in front.
    Gcm12,
    /// TLS 1.2 with ChaCha20-Poly1305: nothing in front.
    ChaCha12,
}

/// A TLS 1.3 traffic secret.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// From the key schedule.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

/// One direction of a connection.
pub struct Keys {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    sequence: u64,
    layout: Layout,
    /// In TLS 1.3: what follows after this key.
    secret: Option<Secret>,
    hash: hkdf::Algorithm,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("sequence", &self.sequence)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label without context (RFC 8446, 7.1).
fn expand(hash: hkdf::Algorithm, secret: &[u8], label: &[u8], out: &mut [u8]) -> Result<(), Fault> {
    let length = (out.len() as u16).to_be_bytes();
    let label_length = [(6 + label.len()) as u8];
    hkdf::Prk::new_less_safe(hash, secret)
        .expand(
            &[&length, &label_length, b"tls13 ", label, &[0]],
            Length(out.len()),
        )
        .and_then(|okm| okm.fill(out))
        .map_err(|_| Fault::Internal)
}

/// Record of a header that stands at the front of `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The type as written.
    pub content: u8,
    /// Bytes behind the header.
    pub payload: usize,
}

/// Reads a header; `None` while it is not whole.
pub fn header(bytes: &[u8]) -> Option<Header> {
    match *bytes {
        [content, _, _, high, low, ..] => Some(Header {
            content,
            payload: usize::from(u16::from_be_bytes([high, low])),
        }),
        _ => None,
    }
}

impl Keys {
    /// From what the handshake agreed on; `secret` in TLS 1.3. `None` for a suite that we don't know.
    pub fn new(
        version: ProtocolVersion,
        suite: CipherSuite,
        (sequence, keys): (u64, ConnectionTrafficSecrets),
        secret: Option<Secret>,
    ) -> Option<Self> {
        let v13 = version == ProtocolVersion::TLSv1_3;
        let (algorithm, key, iv, layout) = match &keys {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
                (&aead::AES_128_GCM, key, iv, Layout::Gcm12)
            }
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
                (&aead::AES_256_GCM, key, iv, Layout::Gcm12)
            }
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&aead::CHACHA20_POLY1305, key, iv, Layout::ChaCha12)
            }
            _ => return None,
        };
        if v13 != secret.is_some() {
            return None;
        }
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?),
            iv: iv.as_ref().try_into().ok()?,
            sequence,
            layout: if v13 { Layout::V13 } else { layout },
            secret,
            hash: if suite == CipherSuite::TLS13_AES_256_GCM_SHA384 {
                hkdf::HKDF_SHA384
            } else {
                hkdf::HKDF_SHA256
            },
        })
    }

    /// Whether these are keys of TLS 1.3.
    pub fn is_13(&self) -> bool {
        self.layout == Layout::V13
    }

    /// Goes on to the next key (RFC 8446, 7.2).
    pub fn update(&mut self) -> Result<(), Fault> {
        let secret = self.secret.as_ref().ok_or(Fault::Internal)?;
        let mut next = Secret(vec![0; secret.0.len()]);
        expand(self.hash, &secret.0, b"traffic upd", &mut next.0)?;
        let algorithm = self.key.algorithm();
        let mut key = Secret(vec![0; algorithm.key_len()]);
        expand(self.hash, &next.0, b"key", &mut key.0)?;
        expand(self.hash, &next.0, b"iv", &mut self.iv)?;
        let unbound = UnboundKey::new(algorithm, &key.0).map_err(|_| Fault::Internal)?;
        self.key = LessSafeKey::new(unbound);
        self.sequence = 0;
        self.secret = Some(next);
        Ok(())
    }

    /// Whether the key must be followed by another before more is sealed.
    pub fn is_spent(&self) -> bool {
        self.sequence >= MAX_RECORDS - 8
    }

    /// Whether more than half of what a key may do is done, and no other can follow it (TLS 1.2).
    pub fn is_worn(&self) -> bool {
        !self.is_13() && self.sequence >= MAX_RECORDS / 2
    }

    fn nonce(&self) -> [u8; aead::NONCE_LEN] {
        let mut nonce = self.iv;
        for (n, s) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *n ^= s;
        }
        nonce
    }

    fn aad_12(&self, content: u8, len: usize) -> [u8; 13] {
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&self.sequence.to_be_bytes());
        aad[8..11].copy_from_slice(&[content, 3, 3]);
        aad[11..].copy_from_slice(&(len as u16).to_be_bytes());
        aad
    }

    /// Appends one record with `plain` (at most [`MAX_PLAIN`] bytes) to `out`.
    pub fn seal(&mut self, content: Content, plain: &[u8], out: &mut Buffer) -> Result<(), Fault> {
        if plain.len() > MAX_PLAIN || self.sequence >= MAX_RECORDS {
            return Err(Fault::Internal);
        }
        let nonce = self.nonce();
        let (explicit, inner): (&[u8], &[u8]) = match self.layout {
            Layout::V13 => (&[], &[content.byte()]),
            Layout::Gcm12 => (&nonce[4..], &[]),
            Layout::ChaCha12 => (&[], &[]),
        };
        let outer = match self.layout {
            Layout::V13 => Content::Data.byte(),
            _ => content.byte(),
        };
        let payload = explicit.len() + plain.len() + inner.len() + TAG;
        let [high, low] = (payload as u16).to_be_bytes();
        let head = [outer, 3, 3, high, low];
        out.reserve(HEADER + payload);
        let (to, rest) = out.spare().split_at_mut(HEADER);
        to.copy_from_slice(&head);
        let (to, rest) = rest.split_at_mut(explicit.len());
        to.copy_from_slice(explicit);
        let (to, rest) = rest.split_at_mut(plain.len());
        let extra = &mut rest[..inner.len() + TAG];
        let unique = Nonce::assume_unique_for_key(nonce);
        let sealed = if self.layout == Layout::V13 {
            let aad = Aad::from(head);
            self.key
                .seal_out_of_place_scatter(unique, aad, plain, to, inner, extra)
        } else {
            let aad = Aad::from(self.aad_12(outer, plain.len()));
            self.key
                .seal_out_of_place_scatter(unique, aad, plain, to, inner, extra)
        };
        sealed.map_err(|_| Fault::Internal)?;
        self.sequence += 1;
        out.advance(HEADER + payload);
        Ok(())
    }

    /// Judges a header before its record is waited for.
    pub fn check(&self, header: Header) -> Result<(), Fault> {
        let (bound, known) = match self.layout {
            Layout::V13 => (
                MAX_PLAIN + MAX_EXPANSION_13,
                header.content == Content::Data.byte(),
            ),
            _ => (
                MAX_PLAIN + MAX_EXPANSION_12,
                Content::of(header.content).is_some(),
            ),
        };
        if !known {
            Err(Fault::Unexpected)
        } else if header.payload > bound {
            Err(Fault::Overflow)
        } else {
            Ok(())
        }
    }

    /// Opens the whole record `record` (header included) into the front of `out`, which must be as
    /// long as the record. Gives the kind and the length of the plaintext.
    pub fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<(Content, usize), Fault> {
        let (head, payload) = record.split_at_checked(HEADER).ok_or(Fault::Decode)?;
        let mut nonce = self.nonce();
        let sealed = if self.layout == Layout::Gcm12 {
            let (explicit, sealed) = payload.split_at_checked(EXPLICIT).ok_or(Fault::BadRecord)?;
            nonce[4..].copy_from_slice(explicit);
            sealed
        } else {
            payload
        };
        let len = sealed.len().checked_sub(TAG).ok_or(Fault::BadRecord)?;
        let (sealed, tag) = sealed.split_at(len);
        let out = out.get_mut(..len).ok_or(Fault::Internal)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = if self.layout == Layout::V13 {
            self.key
                .open_separate_gather(nonce, Aad::from(head), sealed, tag, out)
        } else {
            let aad = self.aad_12(head[0], len);
            self.key
                .open_separate_gather(nonce, Aad::from(aad), sealed, tag, out)
        };
        opened.map_err(|_| Fault::BadRecord)?;
        self.sequence += 1;
        let (content, len) = if self.layout == Layout::V13 {
            // Zeros behind the type are padding (RFC 8446, 5.4).
            let at = out.iter().rposition(|&b| b != 0).ok_or(Fault::Unexpected)?;
            (out[at], at)
        } else {
            (head[0], len)
        };
        if len > MAX_PLAIN {
            return Err(Fault::Overflow);
        }
        Ok((Content::of(content).ok_or(Fault::Unexpected)?, len))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rustls::crypto::cipher::{AeadKey, Iv};

    /// The same keys for both ends of one direction.
    pub fn pair(version: ProtocolVersion, suite: CipherSuite, len: usize) -> (Keys, Keys) {
        let make = || {
            let mut bytes = [0u8; 32];
            bytes[..len].copy_from_slice(&[7; 32][..len]);
            let key = AeadKey::from(bytes);
            let iv = Iv::copy(&[3; 12]);
            let secrets = match (suite, len) {
                (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, _) => {
                    ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }
                }
                _ => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            };
            let secret = (version == ProtocolVersion::TLSv1_3).then(|| Secret::new(&[9; 32]));
            Keys::new(version, suite, (0, secrets), secret).unwrap()
        };
        (make(), make())
    }

    fn suites() -> [(ProtocolVersion, CipherSuite); 4] {
        use ProtocolVersion::{TLSv1_2, TLSv1_3};
        [
            (TLSv1_3, CipherSuite::TLS13_AES_256_GCM_SHA384),
            (TLSv1_3, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
            (TLSv1_2, CipherSuite::TLS13_AES_256_GCM_SHA384),
            (TLSv1_2, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
        ]
    }

    #[test]
    fn what_was_sealed_opens_once_and_unchanged() {
        for (version, suite) in suites() {
            let (mut tx, mut rx) = pair(version, suite, 32);
            for len in [0, 1, 100, MAX_PLAIN] {
                let plain = vec![42; len];
                let mut wire = Buffer::empty();
                tx.seal(Content::Data, &plain, &mut wire).unwrap();
                assert!(wire.len() <= len + OVERHEAD);
                let head = header(wire.as_slice()).unwrap();
                assert_eq!(head.payload + HEADER, wire.len());
                rx.check(head).unwrap();
                let mut out = vec![0; wire.len()];
                let (content, n) = rx.open(wire.as_slice(), &mut out).unwrap();
                assert_eq!((content, &out[..n]), (Content::Data, &plain[..]));
                assert_eq!(
                    rx.open(wire.as_slice(), &mut out),
                    Err(Fault::BadRecord),
                    "a record that comes twice is forged"
                );
                assert!(
                    len > 0 || version == ProtocolVersion::TLSv1_2 || n == 0,
                    "padding is no data"
                );
            }
        }
    }

    #[test]
    fn keys_of_tls_1_2_wear_and_end_and_those_of_1_3_are_followed() {
        for (version, suite) in suites() {
            let (mut keys, _) = pair(version, suite, 32);
            let old = version == ProtocolVersion::TLSv1_2;
            let mut out = Buffer::empty();
            assert!(!keys.is_worn());
            keys.sequence = MAX_RECORDS / 2;
            assert_eq!(keys.is_worn(), old);
            keys.sequence = MAX_RECORDS;
            assert!(keys.is_spent());
            assert_eq!(
                keys.seal(Content::Data, b"x", &mut out),
                Err(Fault::Internal)
            );
            assert_eq!(keys.update().is_ok(), !old);
            assert_eq!(keys.is_spent(), old);
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        for (version, suite) in suites() {
            let (mut tx, _) = pair(version, suite, 32);
            let mut wire = Buffer::empty();
            tx.seal(Content::Data, b"hello", &mut wire).unwrap();
            for at in 0..wire.len() {
                let (_, mut rx) = pair(version, suite, 32);
                let mut copy = wire.as_slice().to_vec();
                copy[at] ^= 1;
                let mut out = vec![0; copy.len()];
                // The version in the header of TLS 1.2 and the length are not covered as written:
                // the length is what cut the record.
                let covered = version == ProtocolVersion::TLSv1_3 || !(1..HEADER).contains(&at);
                if covered {
                    assert!(rx.open(&copy, &mut out).is_err(), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn keys_follow_each_other_on_both_sides() {
        let (version, suite) = suites()[0];
        let (mut tx, mut rx) = pair(version, suite, 32);
        let mut out = vec![0; 64];
        for round in 0..3 {
            tx.update().unwrap();
            let mut wire = Buffer::empty();
            tx.seal(Content::Data, &[round], &mut wire).unwrap();
            assert!(rx.open(wire.as_slice(), &mut out).is_err(), "an old key");
            rx.sequence = 0;
            rx.update().unwrap();
            let opened = rx.open(wire.as_slice(), &mut out).unwrap();
            assert_eq!((opened, out[0]), ((Content::Data, 1), round));
        }
        let (mut old, _) = pair(ProtocolVersion::TLSv1_2, suite, 32);
        assert_eq!(old.update(), Err(Fault::Internal));
    }

    #[test]
    fn headers_that_may_not_be_are_refused() {
        let (v13, _) = pair(suites()[0].0, suites()[0].1, 32);
        let (v12, _) = pair(suites()[2].0, suites()[2].1, 32);
        let head = |content, payload| Header { content, payload };
        for (keys, header, expected) in [
            (&v13, head(23, MAX_PLAIN + 256), Ok(())),
            (&v13, head(23, MAX_PLAIN + 257), Err(Fault::Overflow)),
            (&v13, head(21, 2), Err(Fault::Unexpected)),
            (&v13, head(20, 1), Err(Fault::Unexpected)),
            (&v12, head(21, 26), Ok(())),
            (&v12, head(20, 1), Err(Fault::Unexpected)),
            (&v12, head(23, MAX_PLAIN + 2049), Err(Fault::Overflow)),
        ] {
            assert_eq!(keys.check(header), expected, "{header:?}");
        }
        assert_eq!(super::header(&[22, 3, 1, 2]), None);
    }

    #[test]
    fn a_key_ends_before_its_bound_and_is_not_printed() {
        let (mut tx, _) = pair(suites()[0].0, suites()[0].1, 32);
        tx.sequence = MAX_RECORDS - 8;
        assert!(tx.is_spent());
        tx.sequence = MAX_RECORDS;
        let mut out = Buffer::empty();
        assert_eq!(tx.seal(Content::Data, b"x", &mut out), Err(Fault::Internal));
        tx.update().unwrap();
        assert!(!tx.is_spent());
        assert!(!format!("{tx:?} {:?}", Secret::new(&[9; 32])).contains('9'));
    }
}
