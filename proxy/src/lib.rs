//! Proxy.
pub mod pin;
