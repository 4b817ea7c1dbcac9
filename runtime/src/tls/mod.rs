//! TLS, as a further kind of stream.
//!
//! Handshakes are rustls' ([`handshake`]); what follows is a record layer of our own ([`Channel`]) over
//! the keys that rustls agreed on, so that data is sealed and opened straight between our buffers, both
//! directions work at once, an idle connection holds keys and nothing else, and a connection is plain
//! data that moves between cores. [`hello`] reads a client's first words, [`tickets`] are the keys of
//! resumption.
//!
//! The cryptography is AWS-LC (`aws-lc-rs`): of the libraries that rustls supports it has the fastest
//! P-256 and AES-GCM, and it can open a record into another buffer than the one it came in.

mod channel;
pub mod handshake;
pub mod hello;
mod record;
mod secrets;
pub mod tickets;

pub use channel::Channel;
pub(crate) use channel::Took;
pub use record::Fault;
pub use rustls;
