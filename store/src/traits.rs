//! What the client of a session looks like: keyed digests that its requests are compared by.
//!
//! Owns [`Traits`], what is kept (out of line, only where a check is on) and what each request is compared
//! with, and [`TraitKeys`], which make them. Plain values; the comparison is a shard's.
//!
//! Invariants: a trait that a request or a session lacks is not compared, but for the tenant of a session
//! that has one; the first value that a session sees is the one that it keeps; joining commutes,
//! associates and repeats; a digest tells nothing without its key. Deliberately absent: where the values
//! are found in a request (the proxy's). Tested here and through the shard.

use sha2::{Digest as _, Sha256};

use crate::token::Key;

/// What keys are derived by from a configured secret.
const PURPOSE: &[u8] = b"holdfast traits 1";
/// Bytes of a value that are digested as they are; longer ones by their SHA-256.
const SHORT: usize = 52;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Trait {
    /// Network of an IPv4 address.
    V4,
    /// Network of an IPv6 address.
    V6,
    /// Family and system of the browser, or its user agent as it is.
    Agent,
    /// `Sec-CH-UA-Platform`.
    Platform,
    /// `Sec-CH-UA-Mobile`.
    Mobile,
    /// The first language.
    Language,
    /// The ClientHello.
    Hello,
    /// The tenant.
    Tenant,
}

/// How many there are.
pub const TRAITS: usize = 8;

/// A check that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub enum Check {
    Ip,
    UserAgent,
    Fingerprint,
    Tenant,
}

impl Check {
    /// Its word in events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::UserAgent => "userAgent",
            Self::Fingerprint => "fingerprint",
            Self::Tenant => "tenant",
        }
    }
}

/// Digests of what a client looks like; 0 where it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traits {
    /// By [`Trait`].
    pub digests: [u64; TRAITS],
    /// Major version of the browser; 0 where it is not compared.
    pub major: u16,
}

impl Traits {
    /// Sets one.
    pub fn set(&mut self, of: Trait, digest: u64) {
        if let Some(place) = self.digests.get_mut(of as usize) {
            *place = digest;
        }
    }

    fn get(&self, of: Trait) -> u64 {
        self.digests.get(of as usize).copied().unwrap_or(0)
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in what `seen` knows and this lacks, and the higher version; whether that was anything.
    pub(crate) fn bind(&mut self, seen: &Self) -> bool {
        let before = *self;
        for (ours, theirs) in self.digests.iter_mut().zip(seen.digests) {
            if *ours == 0 {
                *ours = theirs;
            }
        }
        self.major = self.major.max(seen.major);
        before != *self
    }

    /// What two instances that bound a session know together. Where they differ either may stay, but the
    /// same one everywhere.
    pub(crate) fn join(&mut self, other: &Self) {
        for (ours, theirs) in self.digests.iter_mut().zip(other.digests) {
            if theirs != 0 && (*ours == 0 || theirs < *ours) {
                *ours = theirs;
            }
        }
        self.major = self.major.max(other.major);
    }

    /// The first check that a request fails which looks like `seen`: the same look, under each key that
    /// the session may have been bound under. `agent` says that the user agent is a check of its own.
    pub(crate) fn mismatch(&self, seen: &[Self], agent: bool, tenant: bool) -> Option<Check> {
        let differs = |of: Trait| {
            let kept = self.get(of);
            kept != 0
                && seen.iter().all(|s| s.get(of) != 0)
                && seen.iter().all(|s| s.get(of) != kept)
        };
        let by_agent = if agent {
            Check::UserAgent
        } else {
            Check::Fingerprint
        };
        let older = seen.iter().all(|s| s.major != 0 && s.major < self.major);
        if differs(Trait::V4) || differs(Trait::V6) {
            Some(Check::Ip)
        } else if differs(Trait::Agent) || (older && !seen.is_empty()) {
            Some(by_agent)
        } else if [
            Trait::Platform,
            Trait::Mobile,
            Trait::Language,
            Trait::Hello,
        ]
        .into_iter()
        .any(differs)
        {
            Some(Check::Fingerprint)
        } else {
            let kept = self.get(Trait::Tenant);
            let strange = kept != 0 && seen.iter().all(|s| s.get(Trait::Tenant) != kept);
            (tenant && strange && !seen.is_empty()).then_some(Check::Tenant)
        }
    }
}

/// Keys of the digests: new ones are made with the first, those made with any are recognized.
#[derive(Clone, Default)]
pub struct TraitKeys(Vec<Key>);

impl TraitKeys {
    /// From secrets of any length.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(Key::derived(secrets, PURPOSE))
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The digest of a value under the key of this index; never 0 for a key that is there.
    pub fn digest(&self, key: usize, of: Trait, value: &[u8]) -> u64 {
        let Some(key) = self.0.get(key) else {
            return 0;
        };
        let mut message = [0u8; SHORT + 2];
        message[0] = of as u8;
        if value.len() <= SHORT {
            message[1] = value.len() as u8;
            message[2..2 + value.len()].copy_from_slice(value);
        } else {
            message[1] = u8::MAX;
            message[2..34].copy_from_slice(&Sha256::digest(value));
        }
        let mac = key.sign(&message);
        mac.first_chunk()
            .map_or(1, |b| u64::from_le_bytes(*b).max(1))
    }
}

impl std::fmt::Debug for TraitKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TraitKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pairs: &[(Trait, u64)], major: u16) -> Traits {
        let mut traits = Traits {
            major,
            ..Traits::default()
        };
        for (of, digest) in pairs {
            traits.set(*of, *digest);
        }
        traits
    }

    #[test]
    fn only_what_both_know_is_compared() {
        let kept = look(
            &[(Trait::V4, 1), (Trait::Agent, 2), (Trait::Language, 3)],
            100,
        );
        let check = |seen: Traits| kept.mismatch(&[seen], true, true);
        assert_eq!(check(Traits::default()), None);
        assert_eq!(check(look(&[(Trait::V6, 9), (Trait::Hello, 9)], 0)), None);
        assert_eq!(check(look(&[(Trait::V4, 9)], 0)), Some(Check::Ip));
        assert_eq!(check(look(&[(Trait::Agent, 9)], 0)), Some(Check::UserAgent));
        assert_eq!(
            check(look(&[(Trait::Language, 9)], 0)),
            Some(Check::Fingerprint)
        );
        let alone = kept.mismatch(&[look(&[(Trait::Agent, 9)], 0)], false, true);
        assert_eq!(alone, Some(Check::Fingerprint));
    }

    #[test]
    fn a_version_may_rise_and_not_fall() {
        let mut kept = look(&[(Trait::Agent, 2)], 100);
        assert!(kept.bind(&look(&[(Trait::Agent, 2)], 101)));
        let check = |major| kept.mismatch(&[look(&[(Trait::Agent, 2)], major)], true, false);
        assert_eq!(check(100), Some(Check::UserAgent));
        assert_eq!((check(101), check(140), check(0)), (None, None, None));
    }

    #[test]
    fn a_bound_tenant_must_come_with_each_request() {
        let mut kept = Traits::default();
        assert_eq!(
            kept.mismatch(&[look(&[(Trait::Tenant, 4)], 0)], false, true),
            None
        );
        kept.bind(&look(&[(Trait::Tenant, 4)], 0));
        for (seen, expected) in [
            (4, None),
            (5, Some(Check::Tenant)),
            (0, Some(Check::Tenant)),
        ] {
            let seen = look(&[(Trait::Tenant, seen)], 0);
            assert_eq!(kept.mismatch(&[seen], false, true), expected);
        }
        assert_eq!(kept.mismatch(&[Traits::default()], false, false), None);
    }

    #[test]
    fn any_of_the_keys_may_have_made_what_is_kept() {
        let keys = TraitKeys::new([&b"new"[..], b"old"]);
        let old = TraitKeys::new([&b"old"[..]]);
        let mut kept = Traits::default();
        kept.set(Trait::Agent, old.digest(0, Trait::Agent, b"a browser"));
        let seen = |value: &[u8]| {
            [0, 1].map(|k| look(&[(Trait::Agent, keys.digest(k, Trait::Agent, value))], 0))
        };
        assert_eq!(kept.mismatch(&seen(b"a browser"), true, false), None);
        assert_eq!(
            kept.mismatch(&seen(b"another"), true, false),
            Some(Check::UserAgent)
        );
    }

    #[test]
    fn digests_differ_by_key_trait_and_value() {
        let keys = TraitKeys::new([&b"one"[..], b"two"]);
        let long = [b'x'; 300];
        let mut seen = std::collections::HashSet::new();
        for key in 0..2 {
            for of in [Trait::Agent, Trait::Language] {
                for value in [&b""[..], b"a", b"a\0", &long[..52], &long[..53], &long] {
                    assert!(seen.insert(keys.digest(key, of, value)));
                }
            }
        }
        assert_eq!(keys.digest(2, Trait::Agent, b"a"), 0);
        assert_eq!(format!("{keys:?}"), "TraitKeys(2)");
    }
}
