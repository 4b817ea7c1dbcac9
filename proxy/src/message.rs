//! What threads say to each other: the only messages of the mesh.
//!
//! Owns no state. Made and read by every thread: the data cores (parties `0..cores`), the control
//! thread (party `cores`) and the replication core (party `cores + 1`).
//!
//! Invariants: a message owns all that it carries; an `Ask` is answered exactly once, by the party
//! that it was sent to; nothing here is ever dropped by the mesh (a full ring is backpressure).
//! Upstreams are named by [`UpstreamId`], which a reload gives to no other: a message that comes late
//! finds the right one or none. It deliberately has no broadcast: the sender loops.

use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_runtime::mesh::CallId;
use holdfast_runtime::socket::Bound;
use holdfast_store::shard::{Answer, Ask, Ends};

use crate::attributes::keys::KeySet;
use crate::pin::state::{AdminState, HealthState};
use crate::setup::{Setup, UpstreamId};

/// A place in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Party(pub usize);

/// One upstream of a configuration: a service and a position in its list. Means something only
/// together with the generation that it belongs to, so it is in no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamRef {
    /// Index into `Plan::services`.
    pub service: u32,
    /// Index into `Service::upstreams`.
    pub upstream: u32,
}

/// One message of the mesh.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "an Ask is the common case")]
pub enum Message {
    /// A question to the shard of a data core. The asker waits under `call`.
    Ask {
        /// The asker's waiting place.
        call: CallId,
        /// The question.
        ask: Ask,
    },
    /// The answer to an `Ask`.
    Answer {
        /// The asker's waiting place.
        call: CallId,
        /// The answer.
        answer: Answer,
    },
    /// Control to data core: the state of an upstream, as decided for the whole instance.
    State {
        /// Which.
        upstream: UpstreamId,
        /// What an operator set.
        admin: AdminState,
        /// What health checks and passive failures say.
        health: HealthState,
    },
    /// Control to data core: where an upstream with a DNS name is now.
    Addresses {
        /// Which.
        upstream: UpstreamId,
        /// Its addresses in the resolver's order; empty when the name does not resolve.
        addresses: Arc<[SocketAddr]>,
    },
    /// Data core to control: the outcome of an exchange, for passive health. Sent for every failure,
    /// and for a success only while failures of that upstream are remembered.
    Outcome {
        /// Which.
        upstream: UpstreamId,
        /// Whether it worked.
        ok: bool,
    },
    /// Data core to control: finished lines of the access log.
    Log(Vec<u8>),
    /// Control to data core: a buffer of `Log` given back for reuse, emptied.
    LogBuffer(Vec<u8>),
    /// Data core to control: events of sessions and pins, as the shard told them.
    Events(Vec<crate::event::Event>),
    /// Data core to data core: sessions have ended; for who holds something of theirs.
    Ends(Arc<Ends>),
    /// Control to data core: a new configuration, for all requests that begin from now on.
    Reload {
        /// The configuration.
        setup: Arc<Setup>,
        /// New listeners of this core, each with its place.
        listeners: Vec<(u16, Bound)>,
    },
    /// Data core to control: new requests go by this configuration.
    Reloaded {
        /// [`Setup::number`].
        number: u64,
    },
    /// Control to data core: other keys that tokens are verified with.
    Keys(Arc<KeySet>),
    /// Data core to control: a token named a key that is not known.
    KeysWanted,
    /// Data core to data core: a connection that goes home.
    Connection(Box<crate::accept::moving::Moving>),
    /// Control to data core: say what would become of a request.
    Explain(Box<crate::explain::Question>),
    /// Control to data core: stop accepting, finish what is in flight, close what is idle.
    Drain,
    /// Control to data core: end now.
    End,
    /// Data core to control: this core has nothing left to do.
    Drained,
    /// Data core to control: listening, ring built.
    Ready,
}
