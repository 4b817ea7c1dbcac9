//! End-to-end tests: the real `holdfast` binary between real sockets.
//!
//! One module a part of the product, one test a rule; the name of a test is the rule. `harness` has
//! the gateway, upstreams and clients. `HOLDFAST_E2E_FULL=1` runs the full sizes.

mod admin;
mod admin_api;
mod admin_writes;
mod affinity;
mod browser;
mod cli;
mod clients;
mod events;
mod events_told;
mod harness;
mod hostile;
mod http1;
mod http2;
mod itself;
mod reload;
mod sessions;
mod tls;
