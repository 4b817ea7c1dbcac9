//! What chooses where no pin does.

use std::collections::HashMap;

use super::*;

/// Where each key goes, asked of a fresh gateway, so that no pin helps.
fn mapping(
    farm: &[&Upstream],
    algorithm: &str,
    header: &str,
    keys: usize,
) -> HashMap<String, String> {
    let affinity =
        format!("methods: [cookie]\ncookie: {{ key: \"{KEY}\" }}\nalgorithm: {algorithm}\n");
    let gateway = Gateway::start(&config_with(farm, &affinity, "", TRUSTING));
    let mut client = gateway.client();
    (0..keys)
        .map(|n| {
            let key = if header == "X-Forwarded-For" {
                format!("203.0.{}.{}", n / 200, n % 200)
            } else {
                format!("key-{n}")
            };
            let home = client
                .request("GET", "/")
                .header(header, &key)
                .bare()
                .send()
                .expect(200)
                .text();
            (key, home)
        })
        .collect()
}

fn shares(mapping: &HashMap<String, String>) -> HashMap<String, f64> {
    let mut counts: HashMap<String, f64> = HashMap::new();
    for home in mapping.values() {
        *counts.entry(home.clone()).or_default() += 1.0 / mapping.len() as f64;
    }
    counts
}

const CONSISTENT: &str = "{ type: consistent-hash, consistentHash: { replicas: 150 } }";

#[test]
fn consistent_hash_is_the_same_in_every_process_and_order() {
    let farm = farm(5);
    let one = mapping(&refs(&farm), CONSISTENT, "X-Forwarded-For", 100);
    let reversed: Vec<&Upstream> = farm.iter().rev().collect();
    assert_eq!(mapping(&reversed, CONSISTENT, "X-Forwarded-For", 100), one);
}

#[test]
fn consistent_hash_spreads_by_weight() {
    let farm = farm(3);
    let entries = [
        farm[0].entry_with("weight: 2"),
        farm[1].entry(),
        farm[2].entry(),
    ];
    let text = format!(
        "services: [{{ name: app, upstreams: [{}] }}]\nrouter: {{ sessionAffinity: {{ methods: [cookie], cookie: {{ key: \"{KEY}\" }}, algorithm: {CONSISTENT} }} }}\n{TRUSTING}",
        entries.join(", ")
    );
    let gateway = Gateway::start(&text);
    let mut client = gateway.client();
    let mut counts: HashMap<String, usize> = HashMap::new();
    for n in 0..800 {
        let address = format!("203.{}.{}.9", n / 200, n % 200);
        *counts
            .entry(
                client
                    .request("GET", "/")
                    .header("X-Forwarded-For", address)
                    .bare()
                    .send()
                    .text(),
            )
            .or_default() += 1;
    }
    let share = |id: &str| counts.get(id).copied().unwrap_or_default();
    assert!((280..=520).contains(&share("u1")), "{counts:?}");
    assert!(
        (120..=280).contains(&share("u2")) && (120..=280).contains(&share("u3")),
        "{counts:?}"
    );
}

#[test]
fn an_added_upstream_takes_its_share_and_moves_nothing_else() {
    let all = farm(5);
    let before = mapping(
        &all.iter().take(4).collect::<Vec<_>>(),
        CONSISTENT,
        "X-Forwarded-For",
        300,
    );
    let after = mapping(&refs(&all), CONSISTENT, "X-Forwarded-For", 300);
    let moved: Vec<_> = before
        .iter()
        .filter(|(key, home)| &after[*key] != *home)
        .collect();
    assert!(
        moved.iter().all(|(key, _)| after[*key] == "u5"),
        "only towards the new one"
    );
    assert!(
        moved.len() > 20 && moved.len() < 120,
        "{} of 300 moved",
        moved.len()
    );
}

#[test]
fn ip_hash_uses_the_client_address_only_where_told() {
    let farm = farm(4);
    let told = "{ type: ip-hash, ipHash: { useXForwardedFor: true } }";
    let spread = shares(&mapping(&refs(&farm), told, "X-Forwarded-For", 200));
    assert!(
        spread.len() == 4 && spread.values().all(|share| *share > 0.1),
        "{spread:?}"
    );
    assert_eq!(
        mapping(&refs(&farm), told, "X-Forwarded-For", 50),
        mapping(&refs(&farm), told, "X-Forwarded-For", 50)
    );
    let peer = shares(&mapping(
        &refs(&farm),
        "{ type: ip-hash }",
        "X-Forwarded-For",
        50,
    ));
    assert_eq!(peer.len(), 1, "the peer is one: {peer:?}");
}

#[test]
fn header_hash_goes_by_the_header() {
    let farm = farm(4);
    let algorithm = "{ type: header-hash, headerHash: { header: X-User-ID } }";
    let one = mapping(&refs(&farm), algorithm, "X-User-ID", 200);
    let spread = shares(&one);
    assert!(
        spread.len() == 4 && spread.values().all(|share| *share > 0.1),
        "{spread:?}"
    );
    assert_eq!(mapping(&refs(&farm), algorithm, "x-user-id", 200), one);
}

#[test]
fn without_the_header_header_hash_still_serves() {
    let farm = farm(2);
    let gateway = Gateway::start(&config(
        &refs(&farm),
        "methods: [cookie]\nalgorithm: { type: header-hash, headerHash: { header: X-User-ID } }\n",
    ));
    for _ in 0..10 {
        gateway.get("/").expect(200);
    }
}

#[test]
fn consistent_hash_takes_the_methods_key_first() {
    let farm = farm(4);
    let affinity = format!("method: header\nheaderName: X-Cart\nalgorithm: {CONSISTENT}\n");
    let ask = |key: &str| {
        let gateway = Gateway::start(&config(&refs(&farm), &affinity));
        gateway
            .client()
            .request("GET", "/")
            .header("X-Cart", key)
            .send()
            .expect(200)
            .text()
    };
    for key in ["a", "b", "c"] {
        assert_eq!(ask(key), ask(key), "two processes, one key");
    }
}

#[test]
fn a_pin_outlives_a_change_of_the_algorithm() {
    let farm = farm(4);
    let gateway = Gateway::start(&config(&refs(&farm), &cookies("secure")));
    let clients = pinned(&gateway, 10);
    let gateway = gateway.replace(&config(
        &refs(&farm),
        &format!("{}algorithm: {CONSISTENT}\n", cookies("secure")),
    ));
    for (client, home) in clients {
        let mut moved = gateway.client();
        moved.jar = client.jar.clone();
        assert_eq!(moved.get("/").text(), home);
    }
}

#[test]
fn bounded_load_passes_over_the_one_that_is_full() {
    let gate = crate::harness::Gate::new();
    let farm: Vec<Upstream> = (1..=3)
        .map(|i| {
            let (held, id) = (gate.clone(), format!("u{i}"));
            let body = id.clone();
            Upstream::new(&id, move |_| crate::harness::Reply::ok(&body).after(&held))
        })
        .collect();
    let affinity = format!(
        "methods: [cookie]\ncookie: {{ key: \"{KEY}\" }}\nalgorithm: {{ type: consistent-hash, consistentHash: {{ boundedLoad: 1.25 }} }}\n"
    );
    let gateway = Gateway::start(&config_with(&refs(&farm), &affinity, "", TRUSTING));
    // All from one address: without the bound all would wait at one upstream.
    let mut waiting: Vec<_> = (0..12)
        .map(|_| {
            let mut connection = gateway.connect();
            connection.send("GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n");
            connection
        })
        .collect();
    crate::harness::eventually("all twelve have arrived", || {
        (farm.iter().map(Upstream::count).sum::<usize>() == 12).then_some(())
    });
    let most = farm.iter().map(Upstream::count).max().unwrap();
    assert!(
        most <= 7,
        "{:?}",
        farm.iter().map(Upstream::count).collect::<Vec<_>>()
    );
    gate.open();
    for connection in &mut waiting {
        connection.response("GET").expect(200);
    }
}
