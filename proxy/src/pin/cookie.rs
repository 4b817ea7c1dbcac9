//! The pin cookie's value: three encodings of "this upstream, since then, last used then".
//!
//! | encoding | text |
//! | --- | --- |
//! | plain | percent-encoded id `.` issued `.` last use (decimal); unsigned |
//! | hash | base64url of: id digest (8) ‖ times (8) ‖ MAC (8): 32 characters |
//! | secure | base64url of: version (1) ‖ nonce (12) ‖ sealed id digest and times (16) ‖ tag (16): 60 characters |
//!
//! Times are two big-endian `u32` of Unix minutes. An *id digest* is the first 8 bytes of HMAC-SHA-256 over
//! the upstream's id under a key of the service, computed once. The MAC of `hash` is over digest and times,
//! under another key of the service, and compared in constant time. `secure` is AES-256-GCM with version and
//! service as associated data; its nonce is random, so one key should seal at most 2³² pins (NIST SP
//! 800-38D, 8.3): at a thousand new clients a second that is 50 days, a reason to change the key at times.
//!
//! A value in another encoding than the configured one is read, and renewed, where that encoding is signed:
//! so a change from `hash` to `secure` keeps every pin, and nobody gets an unsigned pin past a signed
//! encoding.
//!
//! Immutable after [`Codec::new`]; shared by all cores. Opening allocates nothing.

use std::time::Duration;

use aes_gcm::aead::AeadInPlace;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use holdfast_config::plan::PinEncoding;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::key::expand;

/// First byte of a sealed pin, and of its associated data.
const VERSION: u8 = 1;
const HASH_BYTES: usize = 24;
const HASH_CHARS: usize = 32;
const SECURE_BYTES: usize = 45;
const SECURE_CHARS: usize = 60;
/// A time further ahead than this is void: minutes of 24 h.
const AHEAD: u32 = 24 * 60;

/// A pin read from a cookie: good, and of an upstream that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its upstream's position.
    pub upstream: usize,
    /// When the pin was made, Unix minutes.
    pub issued: u32,
    /// When it was last renewed, Unix minutes.
    pub last_use: u32,
    /// It should be written anew: a tenth of its idle life has passed, or it is in another encoding.
    pub renew: bool,
}

/// Why a cookie's value is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Miss {
    /// Not of a form that we write.
    Undecodable,
    /// Of our form, and its signature is wrong: forged, of another service, or under an older key.
    Forged,
    /// Idle for longer than `duration`, or older than `maxLife`.
    Expired,
    /// Good, but its upstream is no longer configured.
    NoSuchUpstream,
    /// Its times are more than 24 h ahead.
    Future,
}

/// Reads and writes the pins of one service under one affinity. Immutable.
pub struct Codec {
    encoding: PinEncoding,
    mac: Hmac<Sha256>,
    cipher: Aes256Gcm,
    /// version ‖ service
    associated: Box<[u8]>,
    /// Id digests by position.
    digests: Box<[[u8; 8]]>,
    /// Digest to position, sorted.
    by_digest: Box<[([u8; 8], u32)]>,
    /// Percent-encoded ids by position.
    texts: Box<[Box<str>]>,
    /// Percent-encoded id to position, sorted.
    by_text: Box<[(Box<str>, u32)]>,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec")
            .field("encoding", &self.encoding)
            .field("upstreams", &self.texts)
            .finish_non_exhaustive()
    }
}

/// What all three encodings carry.
#[derive(Clone, Copy)]
struct Body {
    digest: [u8; 8],
    issued: u32,
    last_use: u32,
}

impl Body {
    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.digest);
        bytes[8..12].copy_from_slice(&self.issued.to_be_bytes());
        bytes[12..].copy_from_slice(&self.last_use.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, issued @ .., i, j, k, l] = *bytes;
        Self {
            digest: [a, b, c, d, e, f, g, h],
            issued: u32::from_be_bytes(issued),
            last_use: u32::from_be_bytes([i, j, k, l]),
        }
    }
}

impl Codec {
    /// For the upstreams `ids` (by position) of a service.
    ///
    /// `key`: see [`super::key::derive`]. All keys used here are derived from it and the service's name.
    pub fn new<S: AsRef<str>>(
        service: &str,
        ids: &[S],
        encoding: PinEncoding,
        key: &[u8; 32],
    ) -> Self {
        let of_service = |label: &[u8]| {
            let mut mac = hmac(key);
            mac.update(label);
            mac.update(service.as_bytes());
            hmac(&mac.finalize().into_bytes())
        };
        let id_mac = of_service(b"pin id\0");
        let digests: Box<[[u8; 8]]> = ids
            .iter()
            .map(|id| first8(id_mac.clone().chain_update(id.as_ref().as_bytes())))
            .collect();
        let texts: Box<[Box<str>]> = ids.iter().map(|id| percent_encode(id.as_ref())).collect();
        let mut by_digest: Vec<_> = digests.iter().copied().zip(0u32..).collect();
        by_digest.sort_unstable();
        let mut by_text: Vec<_> = texts.iter().cloned().zip(0u32..).collect();
        by_text.sort_unstable();
        let mut associated = vec![VERSION];
        associated.extend_from_slice(service.as_bytes());
        Self {
            encoding,
            mac: of_service(b"pin mac\0"),
            cipher: Aes256Gcm::new(&expand(key, b"pin seal").into()),
            associated: associated.into_boxed_slice(),
            digests,
            by_digest: by_digest.into_boxed_slice(),
            texts,
            by_text: by_text.into_boxed_slice(),
        }
    }

    /// Reads a cookie's value.
    ///
    /// `duration` bounds the time since its last renewal and `max_life` the time since it was made; zero is
    /// no bound. Both are held to the minute, in the client's favour.
    ///
    /// # Errors
    /// Why it is no pin, for the miss counters.
    pub fn open(
        &self,
        value: &[u8],
        now_minute: u32,
        duration: Duration,
        max_life: Duration,
    ) -> Result<Opened, Miss> {
        let (found, issued, last_use, encoding) = self.decode(value)?;
        if issued.max(last_use) > now_minute.saturating_add(AHEAD) {
            return Err(Miss::Future);
        }
        let idle = now_minute.saturating_sub(last_use);
        let age = now_minute.saturating_sub(issued);
        if over(idle, duration) || over(age, max_life) {
            return Err(Miss::Expired);
        }
        let upstream = found.ok_or(Miss::NoSuchUpstream)? as usize;
        let renew = tenth_passed(idle, duration) || encoding != self.encoding;
        Ok(Opened {
            upstream,
            issued,
            last_use,
            renew,
        })
    }

    /// Appends a pin to `out`: `upstream` (a position) since `issued`, last used now.
    ///
    /// `nonce`: random, never used twice with one key; only `secure` uses it. Nothing is appended for a
    /// position that does not exist.
    pub fn seal(
        &self,
        upstream: usize,
        issued: u32,
        now_minute: u32,
        nonce: [u8; 12],
        out: &mut Vec<u8>,
    ) {
        let (Some(digest), Some(text)) = (self.digests.get(upstream), self.texts.get(upstream))
        else {
            return;
        };
        let body = Body {
            digest: *digest,
            issued,
            last_use: now_minute,
        };
        match self.encoding {
            PinEncoding::Plain => {
                let mut number = itoa::Buffer::new();
                out.extend_from_slice(text.as_bytes());
                out.push(b'.');
                out.extend_from_slice(number.format(issued).as_bytes());
                out.push(b'.');
                out.extend_from_slice(number.format(now_minute).as_bytes());
            }
            PinEncoding::Hash => {
                let mut bytes = [0; HASH_BYTES];
                bytes[..16].copy_from_slice(&body.bytes());
                bytes[16..].copy_from_slice(&self.mac_of(&body.bytes()));
                encode::<HASH_CHARS>(&bytes, out);
            }
            PinEncoding::Secure => {
                let mut sealed = body.bytes();
                let tag = self
                    .cipher
                    .encrypt_in_place_detached(&Nonce::from(nonce), &self.associated, &mut sealed)
                    .expect("16 bytes are within GCM's bound");
                let mut bytes = [VERSION; SECURE_BYTES];
                bytes[1..13].copy_from_slice(&nonce);
                bytes[13..29].copy_from_slice(&sealed);
                bytes[29..].copy_from_slice(&tag);
                encode::<SECURE_CHARS>(&bytes, out);
            }
        }
    }

    /// Position (if the upstream exists), issue and last use, and the encoding found; signature verified.
    fn decode(&self, value: &[u8]) -> Result<(Option<u32>, u32, u32, PinEncoding), Miss> {
        // The base64url alphabet has no dot, and a plain value has two.
        let sealed = self.encoding != PinEncoding::Plain || memchr::memchr(b'.', value).is_none();
        match value.len() {
            SECURE_CHARS if sealed => {
                let body = self.open_secure(value)?;
                return Ok((
                    self.find(body.digest),
                    body.issued,
                    body.last_use,
                    PinEncoding::Secure,
                ));
            }
            HASH_CHARS if sealed => {
                let body = self.open_hash(value)?;
                return Ok((
                    self.find(body.digest),
                    body.issued,
                    body.last_use,
                    PinEncoding::Hash,
                ));
            }
            _ => {}
        }
        if self.encoding != PinEncoding::Plain {
            return Err(Miss::Undecodable);
        }
        let (text, issued, last_use) = split_plain(value).ok_or(Miss::Undecodable)?;
        let at = self
            .by_text
            .binary_search_by(|entry| entry.0.as_bytes().cmp(text))
            .ok();
        let found = at.and_then(|at| self.by_text.get(at)).map(|entry| entry.1);
        Ok((found, issued, last_use, PinEncoding::Plain))
    }

    fn open_secure(&self, value: &[u8]) -> Result<Body, Miss> {
        let bytes: [u8; SECURE_BYTES] = decode_base64(value)?;
        let (version, rest) = bytes.split_first().ok_or(Miss::Undecodable)?;
        if *version != VERSION {
            return Err(Miss::Undecodable);
        }
        let (nonce, rest) = rest.split_first_chunk::<12>().ok_or(Miss::Undecodable)?;
        let (sealed, tag) = rest.split_first_chunk::<16>().ok_or(Miss::Undecodable)?;
        let tag: &[u8; 16] = tag.try_into().map_err(|_| Miss::Undecodable)?;
        let mut body = *sealed;
        self.cipher
            .decrypt_in_place_detached(
                Nonce::from_slice(nonce),
                &self.associated,
                &mut body,
                Tag::from_slice(tag),
            )
            .map_err(|_| Miss::Forged)?;
        Ok(Body::read(&body))
    }

    fn open_hash(&self, value: &[u8]) -> Result<Body, Miss> {
        let bytes: [u8; HASH_BYTES] = decode_base64(value)?;
        let (body, mac) = bytes.split_first_chunk::<16>().ok_or(Miss::Undecodable)?;
        if bool::from(self.mac_of(body).ct_eq(mac)) {
            Ok(Body::read(body))
        } else {
            Err(Miss::Forged)
        }
    }

    fn mac_of(&self, body: &[u8; 16]) -> [u8; 8] {
        first8(self.mac.clone().chain_update(body))
    }

    /// The digest is verified by now: an ordinary search may look at it.
    fn find(&self, digest: [u8; 8]) -> Option<u32> {
        let at = self
            .by_digest
            .binary_search_by(|entry| entry.0.cmp(&digest))
            .ok()?;
        self.by_digest.get(at).map(|entry| entry.1)
    }
}

/// A bound in whole minutes, rounded up; `None` for no bound.
fn minutes(bound: Duration) -> Option<u64> {
    (!bound.is_zero()).then(|| bound.as_secs().div_ceil(60).max(1))
}

/// Have more minutes passed than the bound allows?
fn over(passed: u32, bound: Duration) -> bool {
    minutes(bound).is_some_and(|bound| u64::from(passed) > bound)
}

/// Has a tenth of the bound passed, and at least a minute? Never without a bound.
pub(super) fn tenth_passed(passed: u32, bound: Duration) -> bool {
    passed > 0 && minutes(bound).is_some_and(|bound| u64::from(passed) * 10 >= bound)
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn first8(mac: Hmac<Sha256>) -> [u8; 8] {
    let full = mac.finalize().into_bytes();
    let mut first = [0; 8];
    first.copy_from_slice(&full[..8]);
    first
}

fn encode<const CHARS: usize>(bytes: &[u8], out: &mut Vec<u8>) {
    let mut text = [0; CHARS];
    let written = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).unwrap_or(0);
    debug_assert_eq!(written, CHARS, "the two constants belong together");
    out.extend_from_slice(&text);
}

fn decode_base64<const BYTES: usize>(value: &[u8]) -> Result<[u8; BYTES], Miss> {
    let mut bytes = [0; BYTES];
    match URL_SAFE_NO_PAD.decode_slice(value, &mut bytes) {
        Ok(written) if written == BYTES => Ok(bytes),
        _ => Err(Miss::Undecodable),
    }
}

/// `id.issued.last` from the right: an id may hold dots.
fn split_plain(value: &[u8]) -> Option<(&[u8], u32, u32)> {
    let last_dot = memchr::memrchr(b'.', value)?;
    let (rest, last) = (value.get(..last_dot)?, value.get(last_dot + 1..)?);
    let dot = memchr::memrchr(b'.', rest)?;
    Some((
        rest.get(..dot)?,
        minute(rest.get(dot + 1..)?)?,
        minute(last)?,
    ))
}

fn minute(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 10 {
        return None;
    }
    digits.iter().try_fold(0u32, |n, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

/// All but the unreserved characters of RFC 3986, section 2.3, as `%XX`: safe in a cookie's value.
fn percent_encode(id: &str) -> Box<str> {
    use std::fmt::Write;
    let mut text = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a String takes all");
        }
    }
    text.into_boxed_str()
}

#[cfg(test)]
#[path = "cookie_tests.rs"]
mod tests;
