//! Proxy.
pub mod log;
pub mod pin;

pub mod parse;
pub mod control;
pub mod event;
pub mod message;
pub mod metrics;
pub mod shared;
