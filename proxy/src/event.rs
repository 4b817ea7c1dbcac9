//! Events: what happened to sessions and pins, as the cores tell the control thread.
//!
//! Owns the names (one table). Made by the core that owns the session, once; read by the control
//! thread. A journal, webhooks and the stream of events build on it.

pub use holdfast_store::event::{Event, EventKind, NAMES, UpstreamName};
