//! Every client goes back to its upstream.

mod algorithms;
mod balancing;
mod methods;
mod parallel;
mod pins;
mod states;

use crate::harness::{Client, Gateway, Upstream, indent, service_with};

/// Trusts the test as a proxy, so that clients may have addresses.
const TRUSTING: &str =
    "listeners: [{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.1/32\"] }]\n";
/// A fixed key, so that cookies outlive a process.
const KEY: &str = "a key for pin cookies in these tests";
/// The default name of the pin cookie.
const PIN: &str = "gateway-backend";

/// Upstreams `u1`, `u2`, …, each of which answers with its id.
fn farm(n: usize) -> Vec<Upstream> {
    (1..=n).map(|i| Upstream::named(&format!("u{i}"))).collect()
}

/// What stands under `gateway:` for one service and these affinity keys.
fn config(farm: &[&Upstream], affinity: &str) -> String {
    config_with(farm, affinity, "", "")
}

/// The same with further keys of the service and of the gateway.
fn config_with(farm: &[&Upstream], affinity: &str, service_keys: &str, more: &str) -> String {
    let router = format!("router:\n  sessionAffinity:\n{}", indent(affinity, 4));
    format!("{}{router}{more}", service_with(farm, service_keys))
}

fn refs(farm: &[Upstream]) -> Vec<&Upstream> {
    farm.iter().collect()
}

/// Cookie pins of this encoding, with the fixed key.
fn cookies(encoding: &str) -> String {
    format!("methods: [cookie]\nencoding: {encoding}\ncookie: {{ key: \"{KEY}\" }}\n")
}

/// Clients that have each made a first request, and where they went.
fn pinned(gateway: &Gateway, n: usize) -> Vec<(Client, String)> {
    (0..n)
        .map(|_| {
            let mut client = gateway.client();
            let home = client.get("/").expect(200).text();
            (client, home)
        })
        .collect()
}

/// Fails unless every client still goes where it went first.
#[track_caller]
fn expect_home(clients: &mut [(Client, String)], rounds: usize) {
    for round in 0..rounds {
        for (client, home) in clients.iter_mut() {
            if round % 2 == 1 {
                client.disconnect();
            }
            assert_eq!(&client.get("/").expect(200).text(), home, "round {round}");
        }
    }
}
