//! Where the key of pin cookies comes from.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;

/// Where a key came from, strongest claim first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource {
    /// `sessionAffinity.cookie.key`: the same in every process that has the configuration.
    Configured,
    /// Derived from the session encryption key: the same.
    Session,
    /// Random: pins end with the process. `check` and `run` warn.
    Random,
}

/// A key for [`super::cookie::Codec`]. Its `Debug` shows only the source.
#[derive(Clone)]
pub struct DerivedKey {
    /// The key.
    pub key: [u8; 32],
    /// Where it came from.
    pub source: KeySource,
}

impl fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DerivedKey")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// The key of pin cookies: from `cookie.key` (any string; the configuration's check asks for 16 bytes or
/// more), else from the session encryption key, else from `random`, which the caller draws once a process.
///
/// Through HKDF-SHA-256 (RFC 5869) with a label for each source, so that a pin never says anything about
/// another use of the same secret.
pub fn derive(
    cookie_key: Option<&[u8]>,
    session_key: Option<&[u8]>,
    random: &[u8; 32],
) -> DerivedKey {
    let (source, material, label): (_, &[u8], &[u8]) = match (cookie_key, session_key) {
        (Some(key), _) => (KeySource::Configured, key, b"holdfast pin v1 configured"),
        (None, Some(key)) => (KeySource::Session, key, b"holdfast pin v1 session"),
        (None, None) => (KeySource::Random, random, b"holdfast pin v1 random"),
    };
    DerivedKey {
        key: expand(material, label),
        source,
    }
}

/// One 32-byte key from `material` under `label`.
pub(super) fn expand(material: &[u8], label: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(None, material)
        .expand(label, &mut key)
        .expect("32 bytes are within HKDF's bound of 255 hashes");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_by_rank_and_never_equal() {
        let same = [7; 32];
        let configured = derive(Some(&same), Some(&same), &same);
        let session = derive(None, Some(&same), &same);
        let random = derive(None, None, &same);
        assert_eq!(configured.source, KeySource::Configured);
        assert_eq!(session.source, KeySource::Session);
        assert_eq!(random.source, KeySource::Random);
        assert_ne!(configured.key, session.key);
        assert_ne!(session.key, random.key);
        assert_eq!(
            derive(Some(&same), None, &[0; 32]).key,
            configured.key,
            "only the source counts"
        );
        assert_eq!(
            derive(None, Some(&same), &[0; 32]).key,
            session.key,
            "only the source counts"
        );
    }

    #[test]
    fn debug_is_silent() {
        let shown = format!("{:?}", derive(None, None, &[0xAB; 32]));
        assert_eq!(shown, "DerivedKey { source: Random, .. }");
    }
}
