//! HTTP/1.1 between clients and upstreams, without sessions.

mod connections;
mod failures;
mod headers;
mod limits;
mod messages;
mod proxied;
mod routing;
mod streaming;
mod timeouts;
mod tunnels;

use crate::harness::{Gateway, Upstream, service, service_with};

/// A gateway with one service and nothing else.
#[track_caller]
fn plain(upstreams: &[&Upstream]) -> Gateway {
    Gateway::start(&service(upstreams))
}

/// The same with further keys under `gateway:` and in the service.
#[track_caller]
fn plain_with(upstreams: &[&Upstream], keys: &str, service_keys: &str) -> Gateway {
    Gateway::start(&format!("{}{keys}", service_with(upstreams, service_keys)))
}

/// Bytes that no compression or repetition could fake.
fn noise(n: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    })
    .flatten()
    .take(n)
    .collect()
}
