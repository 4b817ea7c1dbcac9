//! Load balancing without pins: round robin, least connections, two choices, weights, backups, queues.

use std::collections::HashMap;

use super::*;
use crate::harness::{Connection, Gate, Reply, eventually};

fn gateway(entries: &[String], keys: &str) -> Gateway {
    let keys: String = keys.lines().map(|line| format!("    {line}\n")).collect();
    Gateway::start(&format!(
        "services:\n  - name: app\n    upstreams: [{}]\n{keys}runtime: {{ cores: 1 }}\n",
        entries.join(", ")
    ))
}

fn counts(gateway: &Gateway, n: usize) -> HashMap<String, usize> {
    let mut client = gateway.client();
    let mut counts = HashMap::new();
    for _ in 0..n {
        *counts
            .entry(client.get("/").expect(200).text())
            .or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_is_even() {
    let farm = farm(3);
    let gateway = gateway(
        &farm.iter().map(Upstream::entry).collect::<Vec<_>>(),
        "loadBalancing: round-robin",
    );
    let counts = counts(&gateway, 30);
    assert!(
        counts.len() == 3 && counts.values().all(|n| *n == 10),
        "{counts:?}"
    );
}

#[test]
fn weights_are_shares_and_zero_is_none() {
    let farm = farm(3);
    let entries = [
        farm[0].entry_with("weight: 3"),
        farm[1].entry_with("weight: 1"),
        farm[2].entry_with("weight: 0"),
    ];
    for balancing in ["round-robin", "random-two", "least-connections"] {
        let gateway = gateway(&entries, &format!("loadBalancing: {balancing}"));
        let counts = counts(&gateway, 200);
        assert!(!counts.contains_key("u3"), "{balancing}: {counts:?}");
        if balancing == "round-robin" {
            assert_eq!((counts["u1"], counts["u2"]), (150, 50));
        }
    }
}

#[test]
fn random_two_uses_everybody() {
    let farm = farm(4);
    let gateway = gateway(
        &farm.iter().map(Upstream::entry).collect::<Vec<_>>(),
        "loadBalancing: random-two",
    );
    let counts = counts(&gateway, 200);
    assert!(
        counts.len() == 4 && counts.values().all(|n| *n > 15),
        "{counts:?}"
    );
}

fn held(id: &str, gate: &Gate) -> Upstream {
    let (held, body) = (gate.clone(), id.to_owned());
    Upstream::new(id, move |request| {
        if request.head.target() == "/hold" {
            Reply::ok(&body).after(&held)
        } else {
            Reply::ok(&body)
        }
    })
}

#[test]
fn least_connections_goes_where_there_is_less_to_do() {
    let gate = Gate::new();
    let farm = [held("u1", &gate), held("u2", &gate), held("u3", &gate)];
    let gateway = gateway(
        &farm.iter().map(Upstream::entry).collect::<Vec<_>>(),
        "loadBalancing: least-connections",
    );
    let mut waiting: Vec<Connection> = Vec::new();
    for n in 1..=9 {
        let mut connection = gateway.connect();
        connection.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
        waiting.push(connection);
        eventually("it has arrived", || {
            (farm.iter().map(Upstream::count).sum::<usize>() == n).then_some(())
        });
    }
    assert_eq!(
        farm.iter().map(Upstream::count).collect::<Vec<_>>(),
        [3, 3, 3]
    );
    gate.open();
    for connection in &mut waiting {
        connection.response("GET").expect(200);
    }
}

#[test]
fn a_backup_serves_only_while_no_other_can() {
    let mut main = Upstream::named("main");
    let spare = Upstream::named("spare");
    let health =
        "healthCheck: { path: /h, interval: 100ms, timeout: 500ms, healthy: 1, unhealthy: 1 }";
    let gateway = gateway(&[main.entry(), spare.entry_with("backup: true")], health);
    assert_eq!(counts(&gateway, 20).get("main"), Some(&20));
    main.stop();
    eventually("the spare serves", || {
        (gateway.get("/").text() == "spare").then_some(())
    });
    main.restart();
    eventually("the main one is back", || {
        (gateway.get("/").text() == "main").then_some(())
    });
}

#[test]
fn a_full_upstream_is_waited_for_and_then_given_up() {
    let gate = Gate::new();
    let upstream = held("u1", &gate);
    let gateway = gateway(
        &[upstream.entry()],
        "connections: { max: 2 }\nqueueTimeout: 10s",
    );
    let mut waiting: Vec<Connection> = (0..5).map(|_| gateway.connect()).collect();
    for connection in &mut waiting {
        connection.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    upstream.wait_for(2);
    eventually("three wait", || {
        (gateway.metric("queue_waits_total", &[]) >= 3.0).then_some(())
    });
    assert_eq!(upstream.count(), 2, "never more than two at once");
    gate.open();
    for connection in &mut waiting {
        connection.response("GET").expect(200);
    }
}

#[test]
fn the_wait_for_a_place_has_an_end() {
    let gate = Gate::new();
    let upstream = held("u1", &gate);
    let gateway = gateway(
        &[upstream.entry()],
        "connections: { max: 1 }\nqueueTimeout: 300ms\nretry: { attempts: 1 }",
    );
    let mut first = gateway.connect();
    first.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    upstream.wait_for(1);
    let started = std::time::Instant::now();
    let refused = gateway.get("/").expect(503);
    assert!(refused.head.has("retry-after"), "{:?}", refused.head);
    assert!(started.elapsed().as_millis() >= 250, "it did wait");
    gateway.expect_at_least("queue_timeouts_total", &[], 1.0);
    gate.open();
    first.response("GET").expect(200);
    gateway.get("/").expect(200);
}

#[test]
fn the_bound_of_connections_holds_over_all_cores() {
    let gate = Gate::new();
    let upstream = held("u1", &gate);
    let text = format!(
        "{}runtime: {{ cores: 8 }}\n",
        service_with(&[&upstream], "connections: { max: 3 }\nqueueTimeout: 10s\n")
    );
    let gateway = Gateway::start(&text);
    let mut waiting: Vec<Connection> = (0..24).map(|_| gateway.connect()).collect();
    for connection in &mut waiting {
        connection.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    eventually("all the others wait", || {
        (gateway.metric("queue_waits_total", &[]) >= 21.0).then_some(())
    });
    assert_eq!(upstream.count(), 3);
    gate.open();
    for connection in &mut waiting {
        connection.response("GET").expect(200);
    }
}

#[test]
fn a_client_that_leaves_the_queue_takes_no_place() {
    let gate = Gate::new();
    let upstream = held("u1", &gate);
    let gateway = gateway(
        &[upstream.entry()],
        "connections: { max: 1 }\nqueueTimeout: 10s",
    );
    let mut first = gateway.connect();
    first.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    upstream.wait_for(1);
    let leavers: Vec<Connection> = (0..5)
        .map(|_| {
            let mut connection = gateway.connect();
            connection.send("GET /left HTTP/1.1\r\nHost: x\r\n\r\n");
            connection
        })
        .collect();
    eventually("they wait", || {
        (gateway.metric("queue_waits_total", &[]) >= 5.0).then_some(())
    });
    drop(leavers);
    gate.open();
    first.response("GET").expect(200);
    assert_eq!(gateway.get("/after").expect(200).text(), "u1");
}
