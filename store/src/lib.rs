//! Sessions of the Holdfast gateway, as pure state machines.
//!
//! Owns: identities and tokens ([`id`], [`token`], [`rotation`]), what a client looks like ([`traits`]),
//! the clock of changes ([`hlc`]), the record of a session and how two records become one ([`record`],
//! [`merge`]), how it is sealed ([`seal`]), and one core's part of the session map with its table pins
//! ([`shard`], [`pins`]).
//!
//! Called by: the data core that owns a [`shard::Shard`], on its thread; every other module is plain
//! values and may be used anywhere.
//!
//! Invariants: time is an argument (`now`, Unix milliseconds) and randomness is an argument
//! ([`Entropy`]); bytes from outside never panic; every table has a bound and a counter for it; a
//! secret is never kept, only its digest, and neither is ever printed.
//!
//! Deliberately absent: clocks, sockets, locks, threads, async, `unsafe`, knowledge of HTTP.
//!
//! Tested by unit tests in each module, golden bytes of tokens and records, property tests of merge
//! and codecs, and the seeded simulator in `tests/sim`.

#![forbid(unsafe_code)]

pub mod event;
pub mod fields;
pub mod hlc;
pub mod id;
pub mod merge;
pub mod pins;
pub mod record;
pub mod rotation;
pub mod seal;
pub mod session;
pub mod shard;
pub mod time;
pub mod token;
pub mod traits;

/// A source of random bytes: the operating system's in the product, a seeded one in tests.
pub trait Entropy {
    /// Fills `out` with random bytes. Must not fail: a caller without entropy must not run.
    fn fill(&mut self, out: &mut [u8]);
}

/// What may be wrong with bytes that came from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Not a JSON object of fields.
    FieldsMalformed,
    /// Not an encoded record.
    RecordMalformed,
    /// An encoded record of a version that this build does not know.
    RecordVersion(u8),
    /// Not the text of an identity.
    IdMalformed,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FieldsMalformed => f.write_str("expected a JSON object"),
            Self::RecordMalformed => f.write_str("malformed session record"),
            Self::RecordVersion(v) => write!(f, "session record of unknown version {v}"),
            Self::IdMalformed => f.write_str("expected 22 characters of base64url"),
        }
    }
}

impl std::error::Error for Error {}
