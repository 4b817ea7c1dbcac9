//! The policy of sessions, and what may be done to one: the vocabulary of a shard.
//!
//! Owns plain values only; made anywhere, read by shards. Invariants: a [`Policy`] is immutable and the
//! same for all shards of an instance, its seeds included. Deliberately absent: state. Tested through the
//! shard.

use std::collections::BTreeMap;

use holdfast_config::plan;

pub use holdfast_config::plan::{Eviction, OnMismatch};

use crate::fields::{self, Fields, Name};
use crate::id::{Digest, NodeTag, Secret, Sid};
use crate::record::Record;
use crate::rotation::RotationKeys;
use crate::shard::Attributes;
use crate::time;
use crate::token::{Keys, Kind, Presented, Token, TokenText};
use crate::traits::{Check, Traits};

/// Names that readers know as built in: no write reaches them.
pub const BUILT_IN: [&str; 5] = [
    "created",
    "lastAccess",
    "requestCount",
    "authenticated",
    "version",
];

/// What holds for all sessions of an instance.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Idle timeout, or lifetime where not rolling; ms, 0 is none.
    pub timeout: u64,
    /// Whether each request restarts `timeout`.
    pub rolling: bool,
    /// Lifetime from creation; ms, 0 is none.
    pub ttl: u64,
    /// Idle bound of cleanup; ms, 0 is none.
    pub inactive: u64,
    /// Sessions of the whole instance.
    pub max_sessions: u64,
    /// Bytes of memory of all sessions of the instance.
    pub max_bytes: u64,
    /// Who goes first.
    pub eviction: Eviction,
    /// First tokens are storeless until they return.
    pub confirm: bool,
    /// Tokens are signed.
    pub signed: bool,
    /// Names that may be written; `None` is any. Sorted.
    pub fields: Option<Vec<Name>>,
    /// Bytes of the JSON object of a session's data.
    pub max_size: usize,
    /// Fields that sessions are found by; the first is the subject. Never empty.
    pub index: Vec<Name>,
    /// First fields, by name: JSON with `${timestamp}` in it.
    pub defaults: Vec<(Name, String)>,
    /// Longest that a tombstone stands; ms.
    pub tombstone_ttl: u64,
    /// Tombstones of a shard.
    pub max_tombstones: usize,
    /// Age at which a secret is to be exchanged; ms, 0 is never.
    pub rotate_interval: u64,
    /// How long the old secret stays good after the first use of the new one; ms.
    pub rotate_grace: u64,
    /// What a client that looks like another does.
    pub on_mismatch: OnMismatch,
    /// The user agent is a check of its own, and not only part of the fingerprint.
    pub check_user_agent: bool,
    /// The tenant is checked.
    pub check_tenant: bool,
    /// What the use of a retired secret does.
    pub on_reuse: OnMismatch,
    /// Sessions of one subject, over all shards; 0 is no bound. A shard only tells who gained one.
    pub per_subject: u32,
    /// Keys of the secrets that are offered.
    pub rotation: RotationKeys,
    /// Table pins of a shard.
    pub max_pins: usize,
    /// Events that may wait in a shard; more are dropped and counted.
    pub max_events: usize,
    /// Keys of the hash of what clients choose: random, the same for all shards.
    pub seeds: [u64; 4],
}

impl Default for Policy {
    /// The documented defaults, without bounds that depend on the machine.
    fn default() -> Self {
        Self {
            timeout: 30 * 60_000,
            rolling: true,
            ttl: 24 * 3_600_000,
            inactive: 0,
            max_sessions: 1_000_000,
            max_bytes: 1 << 30,
            eviction: Eviction::Lru,
            confirm: false,
            signed: false,
            fields: None,
            max_size: 8192,
            index: vec![Name::new("userId")],
            defaults: Vec::new(),
            tombstone_ttl: 24 * 3_600_000,
            max_tombstones: 1_000_000,
            rotate_interval: 0,
            rotate_grace: 30_000,
            on_mismatch: OnMismatch::Refuse,
            check_user_agent: false,
            check_tenant: false,
            on_reuse: OnMismatch::Refuse,
            per_subject: 0,
            rotation: RotationKeys::default(),
            max_pins: 1_000_000,
            max_events: 65_536,
            seeds: [0; 4],
        }
    }
}

/// The secrets that keys of sessions are derived from, the one in force first: those of tokens, else of
/// sealing, else of replication, else `random`. The others follow: what was made under them before a
/// reload is still recognized.
pub fn root_keys<'a>(
    session: &'a plan::Session,
    random: &'a [u8; 32],
) -> impl Iterator<Item = &'a [u8]> {
    let peers = session.replication.iter().flat_map(|r| &r.secrets);
    let security = &session.security;
    let configured = security.token_keys.iter().chain(&security.data_keys);
    configured
        .chain(peers)
        .map(|key| key.0.as_slice())
        .chain([random.as_slice()])
}

fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Policy {
    /// As the configuration has it. `seeds` and `random`, a key, are random, once a process; `shards`
    /// divides what is bounded a shard.
    pub fn from_plan(
        session: &plan::Session,
        shards: usize,
        seeds: [u64; 4],
        random: &[u8; 32],
    ) -> Self {
        let subject = Name::new(&session.subject);
        let mut index = vec![subject];
        for name in session.data.index.iter().map(|n| Name::new(n)) {
            if !index.contains(&name) {
                index.push(name);
            }
        }
        let sorted = |names: &Vec<String>| {
            let mut names: Vec<_> = names.iter().map(|n| Name::new(n)).collect();
            names.sort();
            names
        };
        let mut defaults: Vec<_> = session
            .creation
            .defaults
            .iter()
            .map(|(name, json)| (Name::new(name), json.clone()))
            .collect();
        defaults.sort();
        defaults.dedup_by(|a, b| a.0 == b.0);
        let share = (session.storage.max_sessions / shards.max(1)).max(1024);
        Self {
            timeout: ms(session.timeout),
            rolling: session.rolling,
            ttl: ms(session.ttl),
            inactive: ms(session.cleanup.inactive),
            max_sessions: session.storage.max_sessions as u64,
            max_bytes: session.storage.max_bytes,
            eviction: session.storage.eviction,
            confirm: session.creation.confirm,
            signed: !session.security.token_keys.is_empty(),
            fields: session.data.fields.as_ref().map(sorted),
            max_size: session.data.max_size,
            index,
            defaults,
            max_tombstones: share,
            rotate_interval: session.security.rotate_interval.map_or(0, ms),
            rotate_grace: ms(session.security.rotate_grace),
            on_mismatch: session.security.on_mismatch,
            check_user_agent: session.security.check_user_agent,
            check_tenant: session.security.check_tenant,
            on_reuse: session.security.on_reuse,
            per_subject: session.sessions_per_subject,
            rotation: RotationKeys::new(root_keys(session, random)),
            max_pins: share,
            seeds,
            ..Self::default()
        }
    }

    /// The subject's field.
    pub fn subject(&self) -> &[u8] {
        self.index.first().map_or(&[], Name::as_bytes)
    }

    /// Whether upstreams and the API may write `name`.
    pub(crate) fn allows(&self, name: &Name) -> bool {
        !BUILT_IN.iter().any(|b| b.as_bytes() == name.as_bytes())
            && self
                .fields
                .as_ref()
                .is_none_or(|names| names.binary_search(name).is_ok())
    }

    /// The defaults of a session created at `created`, Unix ms.
    pub(crate) fn defaults_at(&self, created: u64) -> Fields {
        let stamp = time::rfc3339(created);
        let field = |(name, json): &(Name, String)| {
            let mut one = Fields::one("", &json.replace("${timestamp}", &stamp)).0;
            let value = one.pop().and_then(|f| f.value);
            fields::Field {
                name: name.clone(),
                value,
            }
        };
        Fields(self.defaults.iter().map(field).collect())
    }

    /// Appends the JSON object of a session that holds its defaults and the attributes of one request:
    /// what the request that creates a storeless one sees. Nothing where there are none. Returns
    /// whether there are.
    pub fn write_first(&self, issued: u32, attributes: &Attributes, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        let defaults = self.defaults_at(u64::from(issued) * 1000);
        let mut fields: BTreeMap<&[u8], Option<&[u8]>> = defaults
            .iter()
            .map(|f| (f.name.as_bytes(), f.value.as_deref()))
            .collect();
        for attribute in attributes.fields.iter().filter(|a| a.value.is_some()) {
            fields.insert(attribute.name.as_bytes(), attribute.value.as_deref());
        }
        for (name, value) in fields {
            if let Some(value) = value {
                out.extend_from_slice(if out.len() == before { b"{\"" } else { b",\"" });
                out.extend_from_slice(name);
                out.extend_from_slice(b"\":");
                out.extend_from_slice(value);
            }
        }
        if out.len() > before {
            out.push(b'}');
        }
        out.len() > before
    }
}

/// Whom `Destroy` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destroy {
    /// This session.
    This,
    /// The other sessions of its subject.
    Others,
    /// All sessions of its subject.
    All,
}

/// What a response asks for, as far as its service may.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commands {
    /// Create a session if there is none.
    pub create: bool,
    /// Merge into the data.
    pub set: Option<Fields>,
    /// `set` only if the version is this.
    pub if_version: Option<u64>,
    /// Merge, mark authenticated, create if there is none, rotate without grace.
    pub authenticate: Option<Fields>,
    /// The session's own idle timeout; ms, 0 is none.
    pub timeout: Option<u64>,
    /// Offer a new secret, from this response on until it is used.
    pub rotate: bool,
    /// Exchange the secret now: the old one is good no more.
    pub retire: bool,
    /// End sessions.
    pub destroy: Option<Destroy>,
}

impl Commands {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The session that commands are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// None: the request had no token, or a dead, refused or unsure one.
    None,
    /// One with a record. `digest` is that of the secret which the request presented; `None` for the
    /// administrator, who presented none.
    Session {
        /// Which.
        sid: Sid,
        /// Under which secret.
        digest: Option<Digest>,
    },
    /// One without a record yet: the request that made its first token.
    Storeless(Presented),
}

impl Target {
    /// Digest of the secret that the request presented.
    pub(crate) fn digest(&self) -> Option<Digest> {
        match self {
            Self::None => None,
            Self::Session { digest, .. } => *digest,
            Self::Storeless(token) => Some(token.digest),
        }
    }
}

/// Commands with their target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apply {
    /// For whom.
    pub target: Target,
    /// What.
    pub commands: Commands,
    /// What the client looks like, for a session that this makes.
    pub traits: Option<Traits>,
}

/// A secret to be set at a client, with all else that its token needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    /// The session.
    pub sid: Sid,
    /// Its secret: nowhere else.
    pub secret: Secret,
    /// Unix seconds.
    pub issued: u32,
    /// This node.
    pub tag: NodeTag,
    /// Its session has no record yet.
    pub unconfirmed: bool,
}

impl Fresh {
    fn token(&self, kind: Kind) -> Token {
        let Self {
            sid,
            secret,
            issued,
            tag,
            unconfirmed,
        } = *self;
        Token {
            kind,
            unconfirmed,
            issued,
            tag,
            sid,
            secret,
        }
    }

    /// The text for the client.
    pub fn encode(&self, kind: Kind, keys: &Keys) -> TokenText {
        self.token(kind).encode(keys)
    }

    /// The same as if the client had already presented it: the target of this request's commands.
    pub fn target(&self) -> Target {
        if self.unconfirmed {
            let kind = Kind::CookieOrHeader;
            Target::Storeless(
                self.token(kind)
                    .presented(crate::token::Signature::Verified, kind),
            )
        } else {
            Target::Session {
                sid: self.sid,
                digest: Some(self.secret.digest()),
            }
        }
    }
}

/// What commands did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The session that is in force afterwards, if there is one.
    pub session: Option<Sid>,
    /// Its version.
    pub version: u64,
    /// To be set at the client. Of a session that goes on, only where the request's secret is current (at
    /// an authentication, or in grace).
    pub token: Option<Fresh>,
    /// The client's token is to be expired.
    pub expire: bool,
    /// The target ended meanwhile: nothing was done.
    pub gone: bool,
    /// The version was another: `set` was not done.
    pub conflict: bool,
    /// The secret was no longer current: no new one was made (and for another subject nothing written).
    pub lost: bool,
    /// Over `maxSize`: the write was refused whole.
    pub too_large: bool,
    /// Fields not written because of their name.
    pub dropped: u32,
    /// Sessions destroyed in this shard.
    pub destroyed: u32,
    /// A session was created.
    pub created: bool,
    /// The shard can hold no more sessions.
    pub full: bool,
    /// What the other shards must do too, and this one where it has more.
    pub elsewhere: Option<Elsewhere>,
    /// JSON of the subject that the session has now and had not before, where that is bounded.
    pub gained: Option<Box<[u8]>>,
}

/// Sessions to be ended in the other shards too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The subject's JSON.
    pub subject: Box<[u8]>,
    /// But not this one.
    pub except: Option<Sid>,
    /// This shard has more of them, for another turn.
    pub here: bool,
}

/// Why a token is dead: as if none had been presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dead {
    /// Unsigned where its session's token was issued signed, or an unsigned first token.
    Forged,
    /// Destroyed.
    Destroyed,
    /// Expired.
    Expired,
    /// Not known here.
    Unknown,
}

/// Why a token is refused: its session, if any, is left alone and its cookie too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Once current, or once offered in the place of one that was.
    Retired,
    /// Matches nothing that the session ever had.
    UnknownSecret,
    /// A query token in a cookie, or the reverse.
    WrongKind,
    /// Its client looks like another.
    Mismatch(Check),
}

/// Why a session was destroyed: the word in its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An upstream's response.
    Upstream,
    /// The administrator.
    Admin,
    /// With its subject's others.
    Subject,
    /// Another instance.
    Peer,
    /// A retired secret was presented.
    Reuse,
    /// A client presented it that looks like another.
    Validation,
    /// Its subject has newer ones, as many as it may.
    SubjectLimit,
}

impl Reason {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Admin => "admin",
            Self::Subject => "subject",
            Self::Peer => "peer",
            Self::Reuse => "reuse",
            Self::Validation => "validation",
            Self::SubjectLimit => "sessionsPerSubject",
        }
    }
}

/// What every session has besides data and attributes, read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BuiltIn {
    /// Unix ms.
    pub created: u64,
    /// Unix ms, in quarters of a second.
    pub last_access: u64,
    /// Over all nodes.
    pub requests: u64,
    /// Whether the current secret is an authenticated one.
    pub authenticated: bool,
    /// Version of data and attributes, over all nodes.
    pub version: u64,
}

/// A session as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// All that is known, digests of secrets included: these are not for showing.
    pub record: Record,
    /// Unix ms.
    pub created: u64,
    /// Unix ms, in quarters of a second.
    pub last_access: u64,
    /// Unix ms; `None` is never.
    pub expires: Option<u64>,
    /// Over all nodes.
    pub requests: u64,
    /// Over all nodes.
    pub version: u64,
    /// Whether the current secret is an authenticated one.
    pub authenticated: bool,
    /// JSON of the subject.
    pub subject: Option<Box<[u8]>>,
    /// Flat JSON object of what upstreams see; empty where there is nothing.
    pub data: Vec<u8>,
}
