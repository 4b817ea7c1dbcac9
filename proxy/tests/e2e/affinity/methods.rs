//! Where pins are kept, and which of several wins.

use std::collections::HashSet;

use super::*;
use crate::harness::eventually;

fn from(gateway: &Gateway, address: &str) -> String {
    gateway
        .client()
        .request("GET", "/")
        .header("X-Forwarded-For", address)
        .send()
        .expect(200)
        .text()
}

#[test]
fn a_source_address_goes_back_to_its_upstream() {
    let farm = farm(4);
    let gateway = Gateway::start(&config_with(
        &refs(&farm),
        "methods: [sourceIP]\n",
        "",
        &format!("{TRUSTING}runtime: {{ cores: 4 }}\n"),
    ));
    let addresses: Vec<String> = (1..=20).map(|n| format!("203.0.113.{n}")).collect();
    let homes: Vec<String> = addresses.iter().map(|a| from(&gateway, a)).collect();
    assert!(homes.iter().collect::<HashSet<_>>().len() >= 3, "{homes:?}");
    for _ in 0..4 {
        for (address, home) in addresses.iter().zip(&homes) {
            assert_eq!(&from(&gateway, address), home);
        }
    }
    assert!(!gateway.get("/").sets_cookies());
    gateway.expect_at_least("pins", &[], 20.0);
}

#[test]
fn an_ipv6_client_is_its_64() {
    let farm = farm(4);
    let gateway = Gateway::start(&config_with(
        &refs(&farm),
        "methods: [sourceIP]\n",
        "",
        TRUSTING,
    ));
    for net in 0..8 {
        let home = from(&gateway, &format!("2001:db8:0:{net}::1"));
        for host in ["0:0:0:2", "ffff:1:2:3", "8000::"] {
            let address = format!("2001:db8:0:{net}:{host}");
            assert_eq!(from(&gateway, &address), home, "{address}");
        }
    }
}

#[test]
fn a_stranger_cannot_choose_its_source_address() {
    let farm = farm(4);
    let gateway = Gateway::start(&config(&refs(&farm), "methods: [sourceIP]\n"));
    let homes: HashSet<String> = (1..=20)
        .map(|n| from(&gateway, &format!("203.0.113.{n}")))
        .collect();
    assert_eq!(homes.len(), 1, "the peer is one address, whatever it says");
}

#[test]
fn a_header_goes_back_to_its_upstream() {
    let farm = farm(4);
    let gateway = Gateway::start(&config_with(
        &refs(&farm),
        "method: header\nheaderName: X-Cart\n",
        "",
        "runtime: { cores: 4 }\n",
    ));
    let send = |cart: &str| {
        gateway
            .client()
            .request("GET", "/")
            .header("x-cart", cart)
            .send()
            .expect(200)
            .text()
    };
    let homes: Vec<String> = (0..20).map(|n| send(&format!("cart-{n}"))).collect();
    assert!(homes.iter().collect::<HashSet<_>>().len() >= 3);
    for _ in 0..4 {
        for (n, home) in homes.iter().enumerate() {
            assert_eq!(&send(&format!("cart-{n}")), home);
        }
    }
    for _ in 0..10 {
        gateway.get("/").expect(200);
    }
    let long = "k".repeat(7000);
    assert_eq!(send(&long), send(&long), "a key of any length");
}

#[test]
fn a_session_goes_back_to_its_upstream() {
    let farm = farm(4);
    let more = "runtime: { cores: 4 }\nsession: { identifier: { type: cookie, name: sid } }\n";
    let gateway = Gateway::start(&config_with(&refs(&farm), "methods: [session]\n", "", more));
    let mut clients = pinned(&gateway, 15);
    assert!(
        clients
            .iter()
            .map(|(_, home)| home)
            .collect::<HashSet<_>>()
            .len()
            >= 3
    );
    expect_home(&mut clients, 4);
    assert!(clients[0].0.jar.get(PIN).is_none(), "no cookie of its own");
}

#[test]
fn the_cookie_is_preferred_and_the_address_is_the_fallback() {
    let farm = farm(5);
    let keys = format!("methods: [cookie, sourceIP]\ncookie: {{ key: \"{KEY}\" }}\n");
    let gateway = Gateway::start(&config_with(&refs(&farm), &keys, "", TRUSTING));
    for n in 1..=10 {
        let address = format!("203.0.113.{n}");
        let mut client = gateway.client().with("X-Forwarded-For", &address);
        let home = client.get("/").expect(200).text();
        assert_eq!(client.get("/").text(), home);
        assert_eq!(
            from(&gateway, &address),
            home,
            "the cookie does not come back, the address does"
        );
        let mut elsewhere = gateway.client().with("X-Forwarded-For", "198.51.100.77");
        elsewhere.jar = client.jar.clone();
        assert_eq!(
            elsewhere.get("/").text(),
            home,
            "the cookie counts, wherever it comes from"
        );
    }
}

#[test]
fn table_pins_expire_some_time_after_their_last_use() {
    let farm = farm(3);
    let gateway = Gateway::start(&config(
        &refs(&farm),
        "method: header\nheaderName: X-Cart\nduration: 1s\n",
    ));
    for n in 0..10 {
        gateway
            .client()
            .request("GET", "/")
            .header("X-Cart", n.to_string())
            .send()
            .expect(200);
    }
    gateway.expect_at_least("pins", &[], 9.5);
    eventually("they are gone", || {
        // A request wakes the sweep, should there be none of its own.
        gateway
            .client()
            .request("GET", "/")
            .header("X-Cart", "0")
            .send()
            .expect(200);
        (gateway.metric("pins", &[]) < 1.5).then_some(())
    });
}

#[test]
fn first_requests_in_parallel_agree() {
    let farm = farm(5);
    let gateway = Gateway::start(&config_with(
        &refs(&farm),
        "method: header\nheaderName: X-Cart\n",
        "loadBalancing: round-robin\n",
        "runtime: { cores: 8 }\n",
    ));
    for n in 0..20 {
        let cart = format!("cart-{n}");
        let homes: HashSet<String> = std::thread::scope(|scope| {
            let asks: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        gateway
                            .client()
                            .request("GET", "/")
                            .header("X-Cart", &cart)
                            .send()
                            .expect(200)
                            .text()
                    })
                })
                .collect();
            asks.into_iter().map(|ask| ask.join().unwrap()).collect()
        });
        assert_eq!(homes.len(), 1, "{cart} went to {homes:?}");
    }
}

#[test]
fn a_rule_overrides_the_router_key_by_key() {
    let farm = farm(4);
    let entries: Vec<String> = farm.iter().map(Upstream::entry).collect();
    let text = format!(
        "services: [{{ name: app, upstreams: [{}] }}]\nrouter:\n  sessionAffinity: {{ methods: [cookie], cookie: {{ name: general, key: \"{KEY}\" }} }}\n  rules:\n    \
         - {{ path: \"/*\", serviceName: app }}\n    \
         - {{ path: \"/cart/*\", serviceName: app, sessionAffinity: {{ method: header, headerName: X-Cart }} }}\n    \
         - {{ path: \"/named/*\", serviceName: app, sessionAffinity: {{ cookie: {{ name: special }} }} }}\n    \
         - {{ path: \"/free/*\", serviceName: app, sessionAffinity: {{ enabled: false }} }}\n",
        entries.join(", ")
    );
    let gateway = Gateway::start(&text);
    assert_eq!(gateway.get("/").set_cookies("general").len(), 1);
    assert_eq!(gateway.get("/named/x").set_cookies("special").len(), 1);
    let free: HashSet<String> = (0..20)
        .map(|_| {
            let response = gateway.get("/free/x");
            assert!(!response.sets_cookies());
            response.text()
        })
        .collect();
    assert_eq!(free.len(), 4, "no affinity: {free:?}");
    let cart = |key: &str| {
        let response = gateway
            .client()
            .request("GET", "/cart/")
            .header("X-Cart", key)
            .send()
            .expect(200);
        assert!(!response.sets_cookies());
        response.text()
    };
    let home = cart("k");
    assert!((0..10).all(|_| cart("k") == home));
}
