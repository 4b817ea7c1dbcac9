//! TLS 1.3 traffic secrets, caught as the TLS library derives them.
//!
//! Owns the one way by which they leave the library: its key log, asked for two labels, while a
//! handshake of this module is at work on this thread. They are needed to follow the peer's KeyUpdate,
//! and to hand a connection on. Nothing is written anywhere.
//!
//! Invariant: what is caught belongs to the handshake whose step runs within [`catching`].

use std::cell::RefCell;

use rustls::KeyLog;

use super::record::Secret;

/// The first traffic secrets of a connection.
#[derive(Debug, Default)]
pub struct Secrets {
    /// What the client's records are sealed with.
    pub client: Option<Secret>,
    /// What the server's are.
    pub server: Option<Secret>,
}

thread_local! {
    static CAUGHT: RefCell<Option<Secrets>> = const { RefCell::new(None) };
}

/// Runs one step of a handshake and adds what it derives to `secrets`.
pub fn catching<R>(secrets: &mut Secrets, step: impl FnOnce() -> R) -> R {
    CAUGHT.with(|caught| *caught.borrow_mut() = Some(std::mem::take(secrets)));
    let result = step();
    *secrets = CAUGHT
        .with(|caught| caught.borrow_mut().take())
        .unwrap_or_default();
    result
}

/// The key log that a configuration must have to be used here.
#[derive(Debug)]
pub struct Catch;

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

impl KeyLog for Catch {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        CAUGHT.with(|caught| {
            if let Some(secrets) = &mut *caught.borrow_mut() {
                match label {
                    CLIENT => secrets.client = Some(Secret::new(secret)),
                    SERVER => secrets.server = Some(Secret::new(secret)),
                    _ => {}
                }
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER) && CAUGHT.with(|caught| caught.borrow().is_some())
    }
}
