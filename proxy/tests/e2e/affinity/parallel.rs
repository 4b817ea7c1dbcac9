//! Many clients at once, on few cores and many: no request at a wrong upstream.

use super::*;
use crate::harness::full;

const SESSION: &str =
    "session: { identifier: { type: cookie, name: sid }, lifecycle: { creation: { limit: 0 } } }\n";

/// Every client makes its requests, on old and new connections in turn, and counts those that went astray.
fn crowd(affinity: &str, cores: usize) {
    let (clients, requests, upstreams) = if full() { (1000, 50, 5) } else { (96, 12, 5) };
    let farm = farm(upstreams);
    let gateway = Gateway::start(&config_with(
        &refs(&farm),
        affinity,
        "loadBalancing: round-robin\n",
        &format!("runtime: {{ cores: {cores} }}\n{TRUSTING}{SESSION}"),
    ));
    let workers = 16;
    let astray: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|worker| {
                let gateway = &gateway;
                scope.spawn(move || {
                    let own = (0..clients).filter(|n| n % workers == worker);
                    // No forwarding header vouches for TLS here: over HTTPS the cookie would be secure.
                    let mut crowd: Vec<(Client, Option<String>)> = own
                        .map(|n| {
                            let address = format!("203.{}.{}.9", n / 200, n % 200);
                            let client = gateway
                                .client()
                                .with("X-Cart", &format!("cart-{n}"))
                                .with("X-Forwarded-For", &address)
                                .with("X-Forwarded-Proto", "https");
                            (client, None)
                        })
                        .collect();
                    let mut astray = 0;
                    for round in 0..requests {
                        for (n, (client, home)) in crowd.iter_mut().enumerate() {
                            if (round + n) % 3 == 0 {
                                client.disconnect();
                            }
                            let went = client.get("/").expect(200).text();
                            astray += usize::from(home.as_ref().is_some_and(|home| home != &went));
                            home.get_or_insert(went);
                        }
                    }
                    astray
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("a worker"))
            .sum()
    });
    let served: Vec<usize> = farm.iter().map(Upstream::count).collect();
    assert_eq!(astray, 0, "of {} requests", clients * requests);
    assert_eq!(served.iter().sum::<usize>(), clients * requests);
    assert!(
        served
            .iter()
            .all(|n| *n > clients * requests / upstreams / 4),
        "spread: {served:?}"
    );
}

#[test]
fn sealed_cookies_on_two_cores() {
    crowd(&cookies("secure"), 2);
}

#[test]
fn sealed_cookies_on_eight_cores() {
    crowd(&cookies("secure"), 8);
}

#[test]
fn signed_cookies_on_two_cores() {
    crowd(&cookies("hash"), 2);
}

#[test]
fn signed_cookies_on_eight_cores() {
    crowd(&cookies("hash"), 8);
}

#[test]
fn plain_cookies_on_two_cores() {
    crowd(&cookies("plain"), 2);
}

#[test]
fn plain_cookies_on_eight_cores() {
    crowd(&cookies("plain"), 8);
}

#[test]
fn source_addresses_on_two_cores() {
    crowd("methods: [sourceIP]\n", 2);
}

#[test]
fn source_addresses_on_eight_cores() {
    crowd("methods: [sourceIP]\n", 8);
}

#[test]
fn headers_on_two_cores() {
    crowd("method: header\nheaderName: X-Cart\n", 2);
}

#[test]
fn headers_on_eight_cores() {
    crowd("method: header\nheaderName: X-Cart\n", 8);
}

#[test]
fn sessions_on_two_cores() {
    crowd("methods: [session]\n", 2);
}

#[test]
fn sessions_on_eight_cores() {
    crowd("methods: [session]\n", 8);
}

#[test]
fn all_methods_together_on_eight_cores() {
    crowd(
        &format!(
            "methods: [cookie, session, sourceIP, header]\nheaderName: X-Cart\ncookie: {{ key: \"{KEY}\" }}\n"
        ),
        8,
    );
}
