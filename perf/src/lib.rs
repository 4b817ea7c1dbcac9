//! Holdfast's measuring tools.
//!
//! **Owns:** the load generator ([`load`]), the idle-connection holder ([`idle`]), the static
//! upstream ([`upstream`]), the bare byte relay that is the floor of every comparison ([`relay`]),
//! the reading of a process's CPU and memory ([`watch`]) and the drawing of flame graphs
//! ([`flame`]). One binary, `holdfast-perf`, with a subcommand for each; the scripts beside this
//! crate (`compare`, `record`, `stat`, `offcpu`, `latency`, `instructions`) drive it.
//!
//! **Threads:** load and upstream run one monoio ring a thread and share nothing between threads
//! but counters and a phase; the pacer of the constant rate is a plain thread of its own.
//!
//! **Invariants:** no `unsafe`. The peer's bytes never panic us: a bad answer is an error that is
//! counted by kind. In constant-rate mode a latency is measured from the moment the request was
//! *due*, so that a stall of the server is seen by every request that it delayed.
//!
//! **Does not:** TLS, HTTP/2, WebSockets; nor judge figures: it prints them.
//!
//! **Tested** by unit tests beside the code and by `tests/smoke.rs`, which drives the real binary.

pub mod args;
pub mod flame;
pub mod http;
pub mod idle;
pub mod jar;
pub mod json;
pub mod load;
pub mod pace;
pub mod relay;
pub mod ring;
pub mod upstream;
pub mod watch;
