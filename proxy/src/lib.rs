//! Proxy.
pub mod pin;

pub mod parse;
