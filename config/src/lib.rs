//! Configuration.

pub mod plan;
