//! Upstreams that drain, fail and come back.

use super::*;
use crate::harness::{Reply, eventually};

const HEALTH: &str =
    "healthCheck: { path: /h, interval: 100ms, timeout: 500ms, healthy: 1, unhealthy: 1 }\n";

/// What the admin endpoint says of an upstream's state.
fn shown(gateway: &Gateway, id: &str) -> String {
    let upstream = gateway
        .api("GET", &format!("/api/upstreams/app/{id}"))
        .expect(200)
        .json();
    upstream["state"].as_str().expect("a state").to_owned()
}

/// A new client's home.
fn fresh(gateway: &Gateway) -> String {
    gateway.get("/").expect(200).text()
}

#[test]
fn a_draining_upstream_keeps_its_clients_and_gets_no_new_ones() {
    for encoding in ["secure", "hash", "plain"] {
        let farm = farm(3);
        let gateway = Gateway::start(&config(&refs(&farm), &cookies(encoding)));
        let mut clients = pinned(&gateway, 12);
        assert!(clients.iter().any(|(_, home)| home == "u2"));
        gateway.set_state("u2", "drain");
        eventually("no new client goes there", || {
            (0..12).all(|_| fresh(&gateway) != "u2").then_some(())
        });
        expect_home(&mut clients, 3);
        gateway.set_state("u2", "ready");
        eventually("it gets new ones again", || {
            (fresh(&gateway) == "u2").then_some(())
        });
        expect_home(&mut clients, 1);
    }
}

#[test]
fn table_pins_too_stay_through_a_drain() {
    let farm = farm(3);
    let gateway = Gateway::start(&config(
        &refs(&farm),
        "method: header\nheaderName: X-Cart\n",
    ));
    let send = |n: usize| {
        gateway
            .client()
            .request("GET", "/")
            .header("X-Cart", n.to_string())
            .send()
            .expect(200)
            .text()
    };
    let homes: Vec<String> = (0..12).map(send).collect();
    gateway.set_state("u1", "drain");
    eventually("no new client goes there", || {
        (0..12).all(|_| fresh(&gateway) != "u1").then_some(())
    });
    assert_eq!((0..12).map(send).collect::<Vec<_>>(), homes);
}

#[test]
fn a_drain_with_a_timeout_moves_its_clients_when_it_is_over() {
    let farm = farm(2);
    let gateway = Gateway::start(&config_with(
        &refs(&farm),
        &cookies("secure"),
        "drainTimeout: 2s\n",
        "",
    ));
    let mut clients = pinned(&gateway, 8);
    gateway.set_state("u1", "drain");
    let started = std::time::Instant::now();
    expect_home(&mut clients, 1);
    assert!(started.elapsed().as_secs_f64() < 1.8, "too slow to tell");
    eventually("all are at the other", || {
        clients
            .iter_mut()
            .all(|(client, _)| client.get("/").expect(200).text() == "u2")
            .then_some(())
    });
}

#[test]
fn a_drain_with_a_rate_moves_its_clients_bit_by_bit() {
    let farm = farm(2);
    let gateway = Gateway::start(&config_with(
        &refs(&farm),
        &cookies("secure"),
        "drainRate: 4\n",
        "",
    ));
    let mut clients = pinned(&gateway, 24);
    let there = clients.iter().filter(|(_, home)| home == "u1").count();
    assert!(there >= 8);
    gateway.set_state("u1", "drain");
    let started = std::time::Instant::now();
    eventually("all are at the other", || {
        clients
            .iter_mut()
            .all(|(client, _)| client.get("/").expect(200).text() == "u2")
            .then_some(())
    });
    assert!(
        started.elapsed().as_secs_f64() > 0.8,
        "{there} moved at once"
    );
}

#[test]
fn a_client_of_a_dead_upstream_is_bound_anew() {
    let mut farm = farm(3);
    let gateway = Gateway::start(&config_with(&refs(&farm), &cookies("secure"), HEALTH, ""));
    let mut clients = pinned(&gateway, 9);
    farm[0].stop();
    eventually("it is down", || {
        (shown(&gateway, "u1") == "down").then_some(())
    });
    for (client, home) in &mut clients {
        let response = client.get("/").expect(200);
        if home == "u1" {
            response.set_cookie(PIN);
            *home = response.text();
        }
        assert_eq!(&response.text(), home);
    }
    farm[0].restart();
    eventually("it is back", || {
        (shown(&gateway, "u1") == "ready").then_some(())
    });
    expect_home(&mut clients, 2);
    gateway.expect_at_least("affinity_misses_total", &["unavailable"], 1.0);
}

#[test]
fn without_health_checks_a_refused_connection_still_finds_another() {
    let mut farm = farm(3);
    let gateway = Gateway::start(&config(&refs(&farm), &cookies("secure")));
    let mut clients = pinned(&gateway, 9);
    farm[0].stop();
    for (client, home) in &mut clients {
        let now = client.get("/").expect(200).text();
        assert!(
            now != "u1" && (home == "u1" || home == &now),
            "{home} then {now}"
        );
    }
}

#[test]
fn a_hold_waits_for_the_upstream_to_come_back() {
    let mut farm = farm(2);
    let affinity = format!("{}onUnavailable: {{ hold: 10s }}\n", cookies("secure"));
    let gateway = Gateway::start(&config_with(&refs(&farm), &affinity, HEALTH, ""));
    let (mut client, _) = pinned(&gateway, 8)
        .into_iter()
        .find(|(_, home)| home == "u1")
        .expect("one of them");
    farm[0].stop();
    eventually("it is down", || {
        (shown(&gateway, "u1") == "down").then_some(())
    });
    let waiter = std::thread::spawn(move || client.get("/").expect(200).text());
    eventually("the other serves its own meanwhile", || {
        (fresh(&gateway) == "u2").then_some(())
    });
    farm[0].restart();
    assert_eq!(waiter.join().unwrap(), "u1");
}

#[test]
fn a_hold_that_is_over_chooses_anew() {
    let mut farm = farm(2);
    let affinity = format!("{}onUnavailable: {{ hold: 1s }}\n", cookies("secure"));
    let gateway = Gateway::start(&config_with(&refs(&farm), &affinity, HEALTH, ""));
    let (mut client, _) = pinned(&gateway, 8)
        .into_iter()
        .find(|(_, home)| home == "u1")
        .expect("one of them");
    farm[0].stop();
    eventually("it is down", || {
        (shown(&gateway, "u1") == "down").then_some(())
    });
    let started = std::time::Instant::now();
    assert_eq!(client.get("/").expect(200).text(), "u2");
    assert!(started.elapsed().as_millis() > 500, "it did hold");
}

#[test]
fn a_reject_answers_with_its_status() {
    let mut farm = farm(2);
    let affinity = format!("{}onUnavailable: {{ reject: 503 }}\n", cookies("secure"));
    let gateway = Gateway::start(&config_with(&refs(&farm), &affinity, HEALTH, ""));
    let (mut client, _) = pinned(&gateway, 8)
        .into_iter()
        .find(|(_, home)| home == "u1")
        .expect("one of them");
    farm[0].stop();
    eventually("it is down", || {
        (shown(&gateway, "u1") == "down").then_some(())
    });
    client.get("/").expect(503);
    assert!(client.jar.get(PIN).is_some(), "the pin stays");
    assert_eq!(fresh(&gateway), "u2");
    farm[0].restart();
    eventually("served by its own again", || {
        Some(client.get("/")).filter(|r| r.status() == 200 && r.text() == "u1")
    });
}

#[test]
fn maintenance_is_as_good_as_down() {
    let farm = farm(2);
    let gateway = Gateway::start(&config(&refs(&farm), &cookies("secure")));
    let mut clients = pinned(&gateway, 8);
    gateway.set_state("u1", "maint");
    eventually("everybody is at the other", || {
        clients
            .iter_mut()
            .all(|(client, _)| client.get("/").expect(200).text() == "u2")
            .then_some(())
    });
    gateway.set_state("u2", "maint");
    let response = eventually("nobody is left", || {
        Some(gateway.get("/")).filter(|r| r.status() == 503)
    });
    assert!(response.head.has("retry-after"), "{:?}", response.head);
    gateway.set_state("u1", "ready");
    eventually("served again", || {
        Some(()).filter(|()| gateway.get("/").status() == 200)
    });
}

#[test]
fn a_health_check_of_404_is_a_drain() {
    let draining = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = draining.clone();
    let leaving = Upstream::new("u1", move |request| {
        let drain = request.head.target() == "/h" && flag.load(std::sync::atomic::Ordering::SeqCst);
        if drain {
            Reply::status(404)
        } else {
            Reply::ok("u1")
        }
    });
    let other = Upstream::named("u2");
    let gateway = Gateway::start(&config_with(
        &[&leaving, &other],
        &cookies("secure"),
        HEALTH,
        "",
    ));
    let mut clients = pinned(&gateway, 8);
    assert!(clients.iter().any(|(_, home)| home == "u1"));
    draining.store(true, std::sync::atomic::Ordering::SeqCst);
    eventually("no new client goes there", || {
        (0..12).all(|_| fresh(&gateway) != "u1").then_some(())
    });
    expect_home(&mut clients, 2);
    draining.store(false, std::sync::atomic::Ordering::SeqCst);
    eventually("it gets new ones again", || {
        (fresh(&gateway) == "u1").then_some(())
    });
}

#[test]
fn health_checks_send_a_plain_request_and_count_in_a_row() {
    let upstream = Upstream::named("u1");
    let gateway = Gateway::start(&config_with(&[&upstream], &cookies("secure"), HEALTH, ""));
    let checks = upstream.wait_for(3);
    assert!(
        checks
            .iter()
            .all(|r| r.head.start == "GET /h HTTP/1.1" && r.head.has("host")),
        "{:?}",
        checks[0].head
    );
    assert!(
        shown(&gateway, "u1").contains("ready"),
        "{}",
        shown(&gateway, "u1")
    );
}

#[test]
fn a_pinned_client_waits_for_a_place_at_its_own_upstream() {
    let gate = crate::harness::Gate::new();
    let farm: Vec<Upstream> = ["u1", "u2"]
        .into_iter()
        .map(|id| {
            let held = gate.clone();
            Upstream::new(id, move |request| {
                if request.head.target() == "/hold" {
                    Reply::ok(id).after(&held)
                } else {
                    Reply::ok(id)
                }
            })
        })
        .collect();
    let gateway = Gateway::start(&config_with(
        &refs(&farm),
        &cookies("secure"),
        "connections: { max: 1 }\nqueueTimeout: 10s\n",
        "",
    ));
    let (mut client, home) = pinned(&gateway, 1).remove(0);
    let mut blocker = client.tab();
    let blocked = std::thread::spawn(move || blocker.get("/hold").expect(200).text());
    eventually("it holds the place", || {
        farm.iter()
            .any(|u| u.requests().iter().any(|r| r.head.target() == "/hold"))
            .then_some(())
    });
    let waiter = std::thread::spawn(move || client.get("/").expect(200).text());
    eventually("the second waits", || {
        (gateway.metric("queue_waits_total", &[]) >= 1.0).then_some(())
    });
    gate.open();
    assert_eq!(
        (blocked.join().unwrap(), waiter.join().unwrap()),
        (home.clone(), home)
    );
}
