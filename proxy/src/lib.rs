//! Proxy.
pub mod log;
pub mod pin;

pub mod parse;
