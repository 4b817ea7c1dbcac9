//! Events: what happened to sessions and pins, and THE table of their names.
//!
//! Made once, by the shard that owns the session, and drained by its thread. Invariants: an event
//! holds no secret and no session data but the subject; its id depends only on what happened, so a
//! second telling of the same can be recognised. Deliberately absent: formats and transport. Tested here.

use sha2::Digest as _;

use crate::id::Sid;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "NAMES says what each is")]
#[repr(u8)]
pub enum EventKind {
    SessionCreated,
    SessionDestroyed,
    SessionExpired,
    SessionEvicted,
    SessionAuthenticated,
    SessionRotated,
    SessionValidationFailed,
    SessionHijackSuspected,
    AffinityEstablished,
    AffinityBroken,
    SocketParked,
    SocketResumed,
    SocketLost,
    UpstreamStateChanged,
}

/// Every kind with its public name.
pub const NAMES: &[(EventKind, &str)] = &[
    (EventKind::SessionCreated, "sessionCreated"),
    (EventKind::SessionDestroyed, "sessionDestroyed"),
    (EventKind::SessionExpired, "sessionExpired"),
    (EventKind::SessionEvicted, "sessionEvicted"),
    (EventKind::SessionAuthenticated, "sessionAuthenticated"),
    (EventKind::SessionRotated, "sessionRotated"),
    (
        EventKind::SessionValidationFailed,
        "sessionValidationFailed",
    ),
    (EventKind::SessionHijackSuspected, "sessionHijackSuspected"),
    (EventKind::AffinityEstablished, "affinityEstablished"),
    (EventKind::AffinityBroken, "affinityBroken"),
    (EventKind::SocketParked, "socketParked"),
    (EventKind::SocketResumed, "socketResumed"),
    (EventKind::SocketLost, "socketLost"),
    (EventKind::UpstreamStateChanged, "upstreamStateChanged"),
];

impl EventKind {
    /// Its public name.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| name)
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When, Unix ms.
    pub at: u64,
    /// To which session, if to one.
    pub sid: Option<Sid>,
    /// Why, in a word of a fixed set; empty where there is nothing to say.
    pub reason: &'static str,
    /// The session's subject, as JSON text, where it is known.
    pub subject: Option<Box<str>>,
    /// About which upstream, if about one.
    pub upstream: Option<Box<UpstreamName>>,
    /// Tells apart events of one kind and session that may happen several times: the session's version
    /// for a rotation, the upstream for a pin; without a session, a number that its maker gives once.
    pub ordinal: u64,
}

/// An upstream as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamName {
    /// Its service.
    pub service: Box<str>,
    /// Its id.
    pub id: Box<str>,
}

impl Event {
    /// The same for every telling of the same event.
    pub fn id(&self) -> [u8; 16] {
        let mut hash = sha2::Sha256::new();
        hash.update([self.kind as u8]);
        if let Some(sid) = &self.sid {
            hash.update(sid.0);
        }
        hash.update(self.ordinal.to_le_bytes());
        if let Some(upstream) = &self.upstream {
            for name in [&upstream.service, &upstream.id] {
                hash.update((name.len() as u64).to_le_bytes());
                hash.update(name.as_bytes());
            }
        }
        // Once in a session's life: not told apart by time, which two owners may judge differently.
        let once = matches!(
            self.kind,
            EventKind::SessionCreated | EventKind::SessionDestroyed | EventKind::SessionExpired
        );
        hash.update(if once { 0 } else { self.at }.to_le_bytes());
        let mut out = [0; 16];
        out.copy_from_slice(&hash.finalize()[..16]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_complete_and_distinct() {
        let mut names: Vec<_> = NAMES.iter().map(|(_, name)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EventKind::UpstreamStateChanged as usize + 1);
        for (i, (kind, name)) in NAMES.iter().enumerate() {
            assert_eq!(*kind as usize, i);
            assert_eq!(kind.name(), *name);
        }
    }

    #[test]
    fn ids_are_deterministic() {
        let event = |kind, at, ordinal| Event {
            kind,
            at,
            sid: Some(Sid([1; 16])),
            reason: "",
            subject: None,
            upstream: None,
            ordinal,
        };
        use EventKind::*;
        assert_eq!(
            event(SessionCreated, 1, 0).id(),
            event(SessionCreated, 2, 0).id()
        );
        assert_ne!(
            event(SessionRotated, 1, 1).id(),
            event(SessionRotated, 1, 2).id()
        );
        assert_ne!(
            event(SessionCreated, 1, 0).id(),
            event(SessionExpired, 1, 0).id()
        );
    }
}
