//! Holdfast: an HTTP gateway that owns the client's session.
//!
//! The path of a request is [`serve`], on one screen; each step has a module of its name: [`accept`],
//! [`parse`], [`identify`], [`session`], [`pin`], [`forward`], [`deliver`]; [`h2`] is HTTP/2. [`core`] is what a data
//! core holds, [`control`] is the thread that does everything else, [`boot`] starts them. [`message`]
//! is all that threads say to each other; [`metrics`] is all that is counted.

pub mod accept;
pub mod accesslog;
pub mod attributes;
pub mod boot;
pub mod boundary;
pub mod control;
pub mod core;
pub mod deliver;
pub mod entropy;
pub mod event;
pub mod explain;
pub mod forward;
pub mod generation;
pub mod h2;
pub mod identify;
pub mod log;
pub mod message;
pub mod metrics;
pub mod parse;
pub mod pin;
pub mod serve;
pub mod session;
pub mod setup;
pub mod shared;
pub mod sockets;
pub mod text;
pub mod tls;
pub mod wakers;
