//! Keys of session tickets: the same on all cores, new ones now and then.
//!
//! Owns a random AES-256-GCM key and the one before it. Shared by all cores behind an `Arc`, asked once
//! a handshake; the lock is for the change of keys.
//!
//! Invariants: a ticket opens for at least one and at most two [`PERIOD`]s after it was sealed; a key
//! that is past that exists nowhere, so tickets kept by an eavesdropper open nothing later. Bytes of a
//! stranger open only if they were sealed here.
//!
//! Deliberately absent: a key from the configuration. Tested below.

use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use crate::clock;

/// How long a key seals.
pub const PERIOD: Duration = Duration::from_secs(6 * 3600);
const NAME_LEN: usize = 8;
const TAG_LEN: usize = 16;

struct TicketKey {
    name: [u8; NAME_LEN],
    key: LessSafeKey,
}

impl TicketKey {
    fn new() -> Option<Self> {
        let (mut name, mut key) = ([0; NAME_LEN], [0; 32]);
        rand::fill(&mut name).ok()?;
        rand::fill(&mut key).ok()?;
        let unbound = UnboundKey::new(&AES_256_GCM, &key).ok();
        key.fill(0);
        std::hint::black_box(&key);
        Some(Self {
            name,
            key: LessSafeKey::new(unbound?),
        })
    }
}

struct Rotation {
    current: Option<TicketKey>,
    previous: Option<TicketKey>,
    since_ms: u64,
}

/// See the module.
pub struct Tickets(RwLock<Rotation>);

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self(RwLock::new(Rotation {
            current: TicketKey::new(),
            previous: None,
            since_ms: clock::monotonic_ms(),
        }))
    }
}

impl Tickets {
    fn rotate(&self, now_ms: u64) {
        let period = PERIOD.as_millis() as u64;
        let age = |r: &Rotation| now_ms.saturating_sub(r.since_ms);
        if age(&self.0.read().unwrap_or_else(PoisonError::into_inner)) < period {
            return;
        }
        let mut rotation = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let passed = age(&rotation);
        if passed < period {
            return;
        }
        let old = rotation.current.take();
        // After two periods without a handshake nothing old may open.
        rotation.previous = old.filter(|_| passed < 2 * period);
        rotation.current = TicketKey::new();
        rotation.since_ms = now_ms;
    }

    fn seal(&self, plain: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        self.rotate(now_ms);
        let rotation = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let TicketKey { name, key } = rotation.current.as_ref()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut out = Vec::with_capacity(NAME_LEN + NONCE_LEN + plain.len() + TAG_LEN);
        out.extend_from_slice(name);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let sealed = out.get_mut(NAME_LEN + NONCE_LEN..)?;
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name),
                sealed,
            )
            .ok()?;
        out.extend_from_slice(tag.as_ref());
        Some(out)
    }

    fn open(&self, ticket: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        self.rotate(now_ms);
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let rotation = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let TicketKey { key, .. } = [&rotation.current, &rotation.previous]
            .into_iter()
            .flatten()
            .find(|k| k.name == *name)?;
        let mut plain = sealed.to_vec();
        let len = key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(name),
                &mut plain,
            )
            .ok()?
            .len();
        plain.truncate(len);
        Some(plain)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        PERIOD.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, clock::monotonic_ms())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, clock::monotonic_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_for_one_to_two_periods() {
        let tickets = Tickets::default();
        let now = clock::monotonic_ms();
        let period = PERIOD.as_millis() as u64 + 1;
        let first = tickets.seal(b"state", now).unwrap();
        assert_eq!(tickets.open(&first, now).as_deref(), Some(&b"state"[..]));
        let second = tickets.seal(b"later", now + period).unwrap();
        assert_eq!(
            tickets.open(&first, now + period).as_deref(),
            Some(&b"state"[..]),
            "the key before the present one still opens"
        );
        assert_ne!(first[..NAME_LEN], second[..NAME_LEN]);
        assert_eq!(tickets.open(&first, now + 2 * period), None);
        assert!(tickets.open(&second, now + 2 * period).is_some());
        assert_eq!(tickets.open(&second, now + 5 * period), None);
    }

    #[test]
    fn forged_and_foreign_tickets_open_nothing() {
        let tickets = Tickets::default();
        let now = clock::monotonic_ms();
        let ticket = tickets.seal(b"state", now).unwrap();
        for at in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at] ^= 1;
            assert_eq!(tickets.open(&forged, now), None, "byte {at}");
            assert_eq!(tickets.open(&ticket[..at], now), None);
        }
        assert_eq!(Tickets::default().open(&ticket, now), None);
        assert_ne!(tickets.seal(b"state", now), Some(ticket));
    }
}
