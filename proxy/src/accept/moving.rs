//! A connection that goes home: to the core that owns its session.
//!
//! Owns the decision when a connection moves, and the value that it moves as. Decided on the core that
//! took the connection, when the tokens of its first request have been found and before anything is
//! asked or sent; taken up by the owner, which reads the same head again. From then on the connection's
//! requests cross no cores.
//!
//! Invariants: a connection moves at most once, with no operation of the ring in flight; every byte
//! that was read moves along, as does the state of its TLS, so that nothing is lost or done twice; it stays counted in
//! `Shared::connections`, and while it is on its way no core takes itself for drained. It stays where it is when its first request ends it, when it comes from a
//! trusted proxy (which carries many clients), when its tokens have several owners, while the process
//! drains, and when the owner has more than half again its share of connections already.
//!
//! Deliberately absent: moving back, and HTTP/2, whose streams have sessions of several owners.
//! Tested end to end over many cores.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::stream::{Frozen, Stream};

use super::{Conn, Parked, closed, run};
use crate::core::Core;
use crate::identify::{Candidate, Identified};
use crate::metrics::Metric;

/// A core with fewer connections than this is never too full for one more.
const ALWAYS_ROOM: u64 = 64;

/// A connection between two cores.
#[derive(Debug)]
pub struct Moving {
    fd: OwnedFd,
    input: Vec<u8>,
    facts: Parked,
}

/// The core that `conn` is to move to, now that its request's tokens are known. It has set out then:
/// [`send`] must follow.
#[inline]
pub fn destination(core: &Core, conn: &Conn, identified: &Identified) -> Option<usize> {
    if conn.requests != 1 || core.shared.cores == 1 || conn.client.socket().is_none() {
        return None;
    }
    let owner = only_owner(core, identified)?;
    let stays = owner == core.index
        || !conn.generation.plan.runtime.migrate_connections
        || !conn.head.keep_alive
        || identified.request.trusted_peer
        || core.draining.get();
    if stays {
        return None;
    }
    if is_full(core, owner) || core.sessions.is_congested(core, owner) {
        core.metrics().count(Metric::ConnectionsStayed);
        return None;
    }
    core.shared
        .moves
        .begin(&core.shared.unready)
        .then_some(owner)
}

/// The one core that owns all tokens of a request.
fn only_owner(core: &Core, identified: &Identified) -> Option<usize> {
    let mut owners = identified
        .carried
        .iter()
        .filter_map(|c| match &c.candidate {
            Candidate::Token(presented) => Some(core.sessions.owner(&presented.sid)),
            _ => None,
        });
    let owner = owners.next()?;
    owners.all(|other| other == owner).then_some(owner)
}

fn is_full(core: &Core, owner: usize) -> bool {
    let held = core.shared.metrics[owner].get(Metric::ConnectionsOpen);
    let all = core.shared.connections.load(Relaxed) as u64;
    held >= ALWAYS_ROOM && held * 2 * core.shared.cores as u64 > all * 3
}

/// Sends `conn` to `owner`, its first request untouched.
pub fn send(core: &Core, mut conn: Conn, owner: usize) {
    let input = conn.input.as_slice().to_vec();
    conn.input = Buffer::empty();
    // It is counted again where it is served.
    conn.requests -= 1;
    let Some((fd, facts)) = conn.park() else {
        core.shared.moves.end();
        return closed(core);
    };
    core.metrics().count(Metric::ConnectionsMoved);
    core.opened(-1);
    let moving = Box::new(Moving { fd, input, facts });
    core.mesh
        .send(owner, crate::message::Message::Connection(moving));
}

/// Takes up a connection that another core sent.
pub fn arrive(core: &'static Core, moving: Moving) {
    core.opened(1);
    core.shared.moves.end();
    let place = moving.facts.listener;
    if core.knows(place) {
        return take_up(core, moving);
    }
    // It came by a listener of a configuration that its sender has taken up and this core has not yet.
    monoio::spawn(async move {
        core.until(|core| core.knows(place)).await;
        take_up(core, moving);
    });
}

fn take_up(core: &'static Core, moving: Moving) {
    let Moving {
        fd,
        input,
        mut facts,
    } = moving;
    let tls = facts.channel.take();
    let unix = facts.unix;
    let Ok(stream) = Stream::thaw(Frozen { fd, tls, unix }) else {
        return closed(core);
    };
    let mut conn = Conn::new(core, stream, facts);
    conn.input = Buffer::with_capacity(input.len());
    conn.input.extend_from_slice(&input);
    monoio::spawn(run(core, conn));
}
