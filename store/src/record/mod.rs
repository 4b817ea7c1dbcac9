//! The record: a session, or a change of one, as a value.
//!
//! Owns [`Record`] and its parts; `blob` packs the fields of an entry, `wire` encodes a whole record
//! for another process. Plain values, usable anywhere; made by a shard on its thread. Invariants: fields
//! are sorted by name with an attribute before the data of its name; secrets are sorted from the
//! current one down and are at most [`SECRETS`]; counters are sorted by node. A full record and a
//! change have one type: a change is a record that holds only what it changes. Deliberately absent:
//! what merging means (`merge`), sealing (where a record leaves the process).
//! Tested by golden bytes and properties in the submodules.

pub mod blob;
pub mod wire;

use std::fmt;

use crate::fields::Name;
use crate::hlc::Stamp;
use crate::id::{Digest, NodeTag, Sid};
use crate::time::Quarter;
use crate::traits::Traits;

/// Most secrets that a session remembers, the current one included.
pub const SECRETS: usize = 6;

/// Where a field comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldKind {
    /// Written by an upstream or the API.
    Data = 0,
    /// Written at creation by configuration.
    Default = 1,
    /// Derived from the request: hides data of the same name.
    Attribute = 2,
}

/// One field with its stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordField {
    /// Which.
    pub name: Name,
    /// Where it comes from.
    pub kind: FieldKind,
    /// When it was written.
    pub stamp: Stamp,
    /// Minified ASCII JSON; nothing where it was removed. A removed field stays until the session ends.
    pub value: Option<Box<[u8]>>,
    /// Of an attribute: the Unix second from which it is withheld from readers; 0 is never.
    pub expires: u32,
}

/// One secret of a session, known by its digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretEntry {
    /// Authentications before it and with it.
    pub epoch: u32,
    /// Rotations since that authentication.
    pub generation: u32,
    /// When it was made; decides between two of generation 0.
    pub clock: u64,
    /// Its digest.
    pub digest: Digest,
    /// Whether the session was authenticated under it.
    pub authenticated: bool,
    /// Eight bytes that stand for the subject that it was given to; zero for none.
    pub subject: u64,
    /// When it was first used.
    pub first_use: Quarter,
}

impl SecretEntry {
    /// What decides which is current. Two entries are one exactly if this is the same.
    pub(crate) fn rank(&self) -> (u32, u32, u64, [u8; 16], bool, u64) {
        let clock = if self.generation == 0 { self.clock } else { 0 };
        (
            self.epoch,
            self.generation,
            clock,
            self.digest.0,
            self.authenticated,
            self.subject,
        )
    }
}

impl fmt::Debug for SecretEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SecretEntry({}.{} {:?} authenticated {})",
            self.epoch, self.generation, self.first_use, self.authenticated
        )
    }
}

/// What one node has counted for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// Which node.
    pub tag: NodeTag,
    /// Writes of data and attributes.
    pub changes: u32,
    /// Requests.
    pub requests: u32,
}

/// A session's own idle timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Idle {
    /// When it was set.
    pub stamp: Stamp,
    /// Milliseconds; 0 is none.
    pub ms: u64,
}

/// A session, or a change of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which session.
    pub sid: Sid,
    /// When it was created: milliseconds since 2020, 46 bits.
    pub created: u64,
    /// The node that created it.
    pub birth: NodeTag,
    /// When it was last used.
    pub last_access: Quarter,
    /// Its token was issued signed: an unsigned one is a forgery.
    pub signed: bool,
    /// Its own idle timeout.
    pub idle: Option<Idle>,
    /// What its client looks like.
    pub traits: Option<Traits>,
    /// Secrets, the current one first.
    pub secrets: Vec<SecretEntry>,
    /// Counters, by node.
    pub counters: Vec<Counter>,
    /// Fields, by name.
    pub fields: Vec<RecordField>,
    /// Set where the session is destroyed: Unix ms until which that must be remembered.
    pub destroyed: Option<u64>,
}

impl Record {
    /// A change of a session that changes nothing yet.
    pub fn change(sid: Sid, created: u64, birth: NodeTag) -> Self {
        Self {
            sid,
            created,
            birth,
            last_access: Quarter(0),
            signed: false,
            idle: None,
            traits: None,
            secrets: Vec::new(),
            counters: Vec::new(),
            fields: Vec::new(),
            destroyed: None,
        }
    }

    /// Writes of data and attributes, over all nodes.
    pub fn version(&self) -> u64 {
        self.counters.iter().map(|c| u64::from(c.changes)).sum()
    }

    /// The secret that is current.
    pub fn current(&self) -> Option<&SecretEntry> {
        self.secrets.first()
    }
}
