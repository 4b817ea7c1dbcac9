//! Sessions on the path: asking the owner of a token, creating, carrying out what upstreams ask.
//!
//! Owns the core's shard, the questions that it has open at others, and the rule when a token may be
//! set. Runs on a data core. The shard decides about sessions; this decides what of it is said to
//! upstream and client.
//!
//! Invariants: a request that was *refused* or *unsure* gets no Set-Cookie but for an explicit act; a
//! token is set only for a session that is still there when the response is released; sessions are
//! born in the shard of the core that creates them. Tested end to end, and the shard by its simulator.

mod address;
mod attach;
pub mod commands;
mod conclude;
pub mod cookies;
pub mod create;
pub mod headers;
pub mod holders;
pub mod look;
mod origin;
mod own;
mod set;
mod subject;

use holdfast_store::id::Sid;
use holdfast_store::session::{BuiltIn, Fresh, Target};
use holdfast_store::shard::SlotRef;
use smallvec::SmallVec;

use crate::accept::Conn;
use crate::core::Core;
use crate::identify::Request;
use crate::text::Sink;

pub use attach::attach;
pub use conclude::{Conclusion, conclude};
pub use own::Sessions;
pub use subject::given;

/// How what the request carried was judged, over all its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    None,
    /// Dead tokens only.
    Dead,
    /// A refused one.
    Refused,
    /// A valid one.
    Valid,
}

/// The session of a request.
#[derive(Debug)]
pub struct Live {
    /// Its name.
    pub sid: Sid,
    /// Index of the source that its token came through, or goes out by.
    pub source: usize,
    /// Version of its data.
    pub version: u64,
    /// Made by this request.
    pub new: bool,
    /// A secret made by this request: to be set at the client.
    pub fresh: Option<Fresh>,
    /// A conditional write of an earlier response was not done.
    pub conflict: bool,
    /// When the presented token was issued, Unix seconds.
    pub issued: u32,
    /// A new secret is to be offered with the response.
    offer: bool,
    target: Target,
    data: Data,
}

/// Where a session's JSON is.
#[derive(Debug)]
enum Data {
    /// In this core's shard.
    Here(SlotRef),
    /// Sent along by the owner; empty for none.
    Sent(Vec<u8>, BuiltIn),
}

/// A request whose session, if any, is known.
#[derive(Debug)]
pub struct Attached {
    /// Its facts.
    pub request: Request,
    /// Pin cookies, as (name, value) ranges of the input.
    pub pins: SmallVec<[(std::ops::Range<u32>, std::ops::Range<u32>); 2]>,
    /// How its tokens were judged.
    pub standing: Standing,
    /// Its session.
    pub live: Option<Live>,
    /// Sources of dead tokens.
    dead: SmallVec<[u8; 2]>,
    /// Source of two valid tokens of different sessions.
    doubled: Option<u8>,
    /// What the client looks like, where that is checked.
    look: look::Look,
    /// A token came that we cannot have issued.
    guessed: bool,
    /// The client of a session looks like another, which is an error.
    rejected: bool,
    /// A token gave the session its subject.
    gained: bool,
}

impl Attached {
    /// The session's name.
    pub fn sid(&self) -> Option<&Sid> {
        self.live.as_ref().map(|l| &l.sid)
    }

    /// Writes the session headers of the request that goes upstream.
    pub fn write_request_lines(
        &self,
        core: &Core,
        conn: &Conn,
        out: &mut holdfast_runtime::buffers::Buffer,
    ) {
        let Some(names) = &conn.generation.names else {
            return;
        };
        if self.standing == Standing::Refused && self.live.is_none() {
            out.put(&names.refused);
            return;
        }
        let Some(live) = &self.live else { return };
        names.write(core, conn, &self.request, live, out);
    }
}

impl Live {
    /// Whether the session may have no record yet.
    pub fn is_storeless(&self) -> bool {
        matches!(self.target, Target::Storeless(_))
    }

    /// What is built in of the session, as it is now.
    pub fn built_in(&self, core: &Core) -> BuiltIn {
        match &self.data {
            Data::Here(slot) => {
                let shard = core.sessions.shard.borrow();
                shard.built_in(*slot).unwrap_or_default()
            }
            Data::Sent(_, built_in) => *built_in,
        }
    }

    /// Appends the session's JSON; nothing where there is none.
    fn write_json(&self, core: &Core, out: &mut Vec<u8>) {
        match &self.data {
            Data::Here(slot) => {
                let shard = core.sessions.shard.borrow();
                shard.write_json(*slot, core.wall_ms(), out);
            }
            Data::Sent(json, _) => out.put(json),
        }
    }
}
