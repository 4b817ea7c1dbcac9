//! The secrets that come next: what a session's current secret may be exchanged for.
//!
//! Owns [`RotationKeys`]. The *pending* secret of a current one is the first 16 bytes of
//! HMAC-SHA-256(K, "rotate" ‖ sid ‖ digest of the current secret): every response and every instance offers
//! the same, and nothing is kept until a request presents it. Plain values; used by shards on their
//! threads.
//!
//! Invariants: without K nobody can tell a pending secret, whoever holds the current one included; K is
//! never printed. Deliberately absent: when an offer is made, and what becomes of the old secret (the
//! shard's). Tested here against a reference HMAC, and by the simulator of browsers and thieves.

use std::fmt;

use crate::id::{Digest, Secret, Sid};
use crate::token::Key;

/// What K is derived by from a configured secret.
const PURPOSE: &[u8] = b"holdfast rotation 1";

/// The keys of offers: the first makes them, all are recognized. Empty: no offers are made.
#[derive(Clone, Default)]
pub struct RotationKeys(Vec<Key>);

impl RotationKeys {
    /// From secrets of any length, the one that offers are made with first.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(Key::derived(secrets, PURPOSE))
    }

    /// The secret that is offered for the one with this digest. `None` without keys.
    pub fn pending(&self, sid: &Sid, current: &Digest) -> Option<Secret> {
        Some(pending(self.0.first()?, sid, current))
    }

    /// Whether `presented` is the digest of an offer for `current`, under any of the keys.
    pub fn offers(&self, sid: &Sid, current: &Digest, presented: &Digest) -> bool {
        self.0
            .iter()
            .any(|key| pending(key, sid, current).digest() == *presented)
    }
}

fn pending(key: &Key, sid: &Sid, current: &Digest) -> Secret {
    let mut message = [0; 38];
    message[..6].copy_from_slice(b"rotate");
    message[6..22].copy_from_slice(&sid.0);
    message[22..].copy_from_slice(&current.0);
    Secret(key.sign(&message))
}

impl fmt::Debug for RotationKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RotationKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, Mac};
    use sha2::Sha256;

    use super::*;

    fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(message);
        mac.finalize().into_bytes().to_vec()
    }

    #[test]
    fn an_offer_is_the_hmac_that_it_should_be() {
        let keys = RotationKeys::new([&b"first"[..], b"second"]);
        let (sid, current) = (Sid([1; 16]), Digest([2; 16]));
        let message = [&b"rotate"[..], &[1; 16], &[2; 16]].concat();
        let by = |secret: &[u8]| {
            let mac = hmac(&hmac(secret, PURPOSE), &message);
            Secret(*mac.first_chunk().unwrap())
        };
        assert_eq!(keys.pending(&sid, &current), Some(by(b"first")));
        for (secret, known) in [(&b"first"[..], true), (b"second", true), (b"third", false)] {
            assert_eq!(keys.offers(&sid, &current, &by(secret).digest()), known);
        }
        assert!(!keys.offers(&Sid([3; 16]), &current, &by(b"first").digest()));
        assert!(!keys.offers(&sid, &Digest([3; 16]), &by(b"first").digest()));
    }

    #[test]
    fn without_keys_nothing_is_offered_and_nothing_printed() {
        let (sid, current) = (Sid([1; 16]), Digest([2; 16]));
        assert_eq!(RotationKeys::default().pending(&sid, &current), None);
        let keys = RotationKeys::new([&b"secret"[..]]);
        assert_eq!(format!("{keys:?}"), "RotationKeys(1)");
    }
}
