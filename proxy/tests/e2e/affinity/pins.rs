//! The pin cookie: what it says, what it hides, and what becomes of a bad one.

use super::*;
use crate::harness::Reply;

#[test]
fn a_cookie_pin_brings_every_client_back_in_each_encoding() {
    for encoding in ["secure", "hash", "plain"] {
        let farm = farm(5);
        let gateway = Gateway::start(&config(&refs(&farm), &cookies(encoding)));
        let mut clients = pinned(&gateway, 15);
        let homes: std::collections::HashSet<&String> =
            clients.iter().map(|(_, home)| home).collect();
        assert!(homes.len() >= 4, "{encoding}: spread over {homes:?}");
        expect_home(&mut clients, 4);
    }
}

#[test]
fn only_the_plain_encoding_names_the_upstream() {
    for encoding in ["secure", "hash", "plain"] {
        let upstream = Upstream::named("upstream-with-a-name");
        let gateway = Gateway::start(&config(&[&upstream], &cookies(encoding)));
        let mut client = gateway.client();
        let set = client.get("/").set_cookie(PIN);
        assert_eq!(
            set.value.contains("upstream-with-a-name"),
            encoding == "plain",
            "{encoding}: {set:?}"
        );
        assert_eq!(set.attribute("path"), Some("/"));
        assert!(
            !client.get("/").sets_cookies(),
            "{encoding}: not with every response"
        );
    }
}

#[test]
fn the_cookie_has_its_configured_name_and_attributes() {
    let farm = farm(2);
    let keys = "methods: [cookie]\ncookie: { name: stick, path: /app, maxAge: 3600, domain: .shop.test, sameSite: strict, secure: true, key: \"0123456789abcdef0123456789abcdef\" }\n";
    let gateway = Gateway::start(&config_with(&refs(&farm), keys, "", TRUSTING));
    let mut client = gateway.client();
    let request = client.request("GET", "/").host("www.shop.test");
    let set = request
        .header("X-Forwarded-Proto", "https")
        .send()
        .set_cookie("stick");
    assert_eq!(
        (set.attribute("path"), set.attribute("max-age")),
        (Some("/app"), Some("3600"))
    );
    assert!(
        set.attribute("domain")
            .is_some_and(|d| d.trim_start_matches('.') == "shop.test"),
        "{set:?}"
    );
    assert!(
        set.has("secure")
            && set
                .attribute("samesite")
                .is_some_and(|s| s.eq_ignore_ascii_case("strict")),
        "{set:?}"
    );
}

#[test]
fn a_pin_never_reaches_an_upstream_and_none_can_set_one() {
    let upstream = Upstream::new("a", |_| {
        Reply::ok("a")
            .header("Set-Cookie", "gateway-backend=mine; Path=/")
            .header("Set-Cookie", "other=1")
    });
    let gateway = Gateway::start(&config(&[&upstream], &cookies("secure")));
    let mut client = gateway.client();
    let set = client.get("/").set_cookie(PIN);
    assert_ne!(set.value, "mine");
    client.jar.set("a", "1");
    client.jar.set("z", "2");
    client.jar.remove("other");
    let response = client.get("/");
    assert_eq!(upstream.last().head.all("cookie"), ["a=1; z=2"]);
    assert_eq!(response.head.all("set-cookie"), ["other=1"]);
}

#[test]
fn a_response_that_sets_only_a_pin_is_private() {
    let upstream = Upstream::new("a", |_| {
        Reply::ok("a").header("Cache-Control", "public, max-age=60, s-maxage=600")
    });
    let gateway = Gateway::start(&config(&[&upstream], &cookies("secure")));
    let mut client = gateway.client();
    let control = client
        .get("/")
        .head
        .all("cache-control")
        .join(", ")
        .to_ascii_lowercase();
    let directives: Vec<&str> = control.split(',').map(str::trim).collect();
    assert!(
        directives.contains(&"private")
            && !directives.contains(&"public")
            && !control.contains("s-maxage"),
        "{control}"
    );
    assert!(
        directives.contains(&"max-age=60") && !directives.contains(&"no-store"),
        "{control}"
    );
    assert_eq!(
        client.get("/").head.all("cache-control"),
        ["public, max-age=60, s-maxage=600"]
    );
}

#[test]
fn a_pin_with_one_bit_turned_is_a_miss_and_replaced() {
    for encoding in ["secure", "hash"] {
        let farm = farm(3);
        let gateway = Gateway::start(&config(&refs(&farm), &cookies(encoding)));
        let good = gateway.get("/").set_cookie(PIN).value;
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            // The last character of base64 may carry unused bits; one that decodes to the same is no forgery.
            if at == good.len() - 1 {
                continue;
            }
            let bad = String::from_utf8(bytes).unwrap();
            let response = gateway
                .client()
                .request("GET", "/")
                .header("Cookie", format!("{PIN}={bad}"))
                .send()
                .expect(200);
            assert_eq!(
                response.set_cookies(PIN).len(),
                1,
                "{encoding}, character {at}: {:?}",
                response.head
            );
        }
        gateway.expect_metric("affinity_misses_total", &[], good.len() as f64 - 1.0);
    }
}

#[test]
fn nonsense_in_a_pin_harms_nobody() {
    for encoding in ["secure", "hash", "plain"] {
        let farm = farm(2);
        let mut gateway = Gateway::start(&config(&refs(&farm), &cookies(encoding)));
        for bad in [
            "",
            "x",
            "..",
            "u1",
            "u1.0.0",
            "u9.1.1",
            "%00",
            "\"u1\"",
            "u1.99999999999999999999.1",
            "u1.-1.-1",
            &"A".repeat(3000),
            "====",
            "\u{e9}",
        ] {
            let response = gateway
                .client()
                .request("GET", "/")
                .header("Cookie", format!("{PIN}={bad}"))
                .send();
            assert_eq!(response.status(), 200, "{encoding} {bad:?}");
        }
        assert!(gateway.lives());
    }
}

#[test]
fn a_pin_of_another_key_or_service_is_not_honoured() {
    let farm = farm(4);
    let gateway = Gateway::start(&config(&refs(&farm), &cookies("secure")));
    let foreign = gateway.get("/").set_cookie(PIN).value;
    let other_key = cookies("secure").replace(KEY, "some other key that is also long");
    let gateway = gateway.replace(&config(&refs(&farm), &other_key));
    let response = gateway
        .client()
        .request("GET", "/")
        .header("Cookie", format!("{PIN}={foreign}"))
        .send();
    response.set_cookie(PIN);
    gateway.expect_at_least("affinity_misses_total", &[], 1.0);
}

#[test]
fn hits_misses_and_first_choices_are_counted_apart() {
    let farm = farm(2);
    let gateway = Gateway::start(&config(&refs(&farm), &cookies("secure")));
    let mut client = gateway.client();
    for _ in 0..6 {
        client.get("/").expect(200);
    }
    gateway
        .client()
        .request("GET", "/")
        .header("Cookie", format!("{PIN}=junk"))
        .send()
        .expect(200);
    gateway.expect_metric("affinity_hits_total", &[], 5.0);
    gateway.expect_metric("affinity_misses_total", &[], 1.0);
}

#[test]
fn an_added_upstream_moves_no_pinned_client() {
    for encoding in ["secure", "hash", "plain"] {
        let all = farm(5);
        let before: Vec<&Upstream> = all.iter().take(3).collect();
        let gateway = Gateway::start(&config(&before, &cookies(encoding)));
        let mut clients = pinned(&gateway, 12);
        // One more, and in another order: a pin names an id, not a position.
        let after: Vec<&Upstream> = [4, 1, 3, 0, 2].iter().map(|&i| &all[i]).collect();
        let gateway = gateway.replace(&config(&after, &cookies(encoding)));
        for (client, home) in &mut clients {
            let mut moved = gateway.client();
            moved.jar = client.jar.clone();
            assert_eq!(&moved.get("/").expect(200).text(), home, "{encoding}");
        }
    }
}

#[test]
fn a_removed_upstream_moves_only_its_own_clients() {
    let all = farm(3);
    let gateway = Gateway::start(&config(&refs(&all), &cookies("secure")));
    let clients = pinned(&gateway, 15);
    let gateway = gateway.replace(&config(&[&all[0], &all[1]], &cookies("secure")));
    for (client, home) in clients {
        let mut moved = gateway.client();
        moved.jar = client.jar.clone();
        let response = moved.get("/").expect(200);
        if home == "u3" {
            response.set_cookie(PIN);
            let new = response.text();
            assert_eq!(moved.get("/").text(), new, "pinned anew");
        } else {
            assert_eq!(response.text(), home);
        }
    }
}

#[test]
fn several_services_have_a_cookie_each() {
    let (farm_a, farm_b) = (farm(3), farm(3));
    let entries = |farm: &[Upstream]| {
        farm.iter()
            .map(Upstream::entry)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let text = format!(
        "services:\n  - {{ name: one, upstreams: [{}] }}\n  - {{ name: two, upstreams: [{}] }}\nrouter:\n  sessionAffinity: {{ methods: [cookie], cookie: {{ key: \"{KEY}\" }} }}\n  \
         rules:\n    - {{ path: \"/one/*\", serviceName: one }}\n    - {{ path: \"/two/*\", serviceName: two }}\n",
        entries(&farm_a),
        entries(&farm_b)
    );
    let gateway = Gateway::start(&text);
    let mut client = gateway.client();
    let names: Vec<String> = ["/one/", "/two/"]
        .iter()
        .map(|path| {
            let response = client.get(path).expect(200);
            let line = response.get("set-cookie").expect("a pin").to_owned();
            line.split('=').next().unwrap().to_owned()
        })
        .collect();
    assert!(
        names.iter().all(|n| n
            .strip_prefix("gateway-backend.")
            .is_some_and(|hex| hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()))),
        "{names:?}"
    );
    assert_ne!(names[0], names[1]);
    let homes = [client.get("/one/").text(), client.get("/two/").text()];
    for _ in 0..10 {
        client.disconnect();
        assert_eq!(
            [client.get("/one/").text(), client.get("/two/").text()],
            homes
        );
    }
}

#[test]
fn an_upstream_may_end_its_clients_pin() {
    let farm: Vec<Upstream> = (1..=3)
        .map(|i| {
            let id = format!("u{i}");
            let body = id.clone();
            Upstream::new(&id, move |request| {
                let reply = Reply::ok(&body);
                if request.head.target() == "/leave" {
                    reply.header("X-Affinity-Clear", "1")
                } else {
                    reply
                }
            })
        })
        .collect();
    let gateway = Gateway::start(&config(&refs(&farm), &cookies("secure")));
    let mut client = gateway.client();
    let home = client.get("/").expect(200).text();
    assert_eq!(client.get("/").text(), home);
    let response = client.get("/leave").expect(200);
    assert!(
        response.set_cookie(PIN).expires() && !response.head.has("x-affinity-clear"),
        "{:?}",
        response.head
    );
    assert_eq!(client.jar.get(PIN), None);
    assert_eq!(client.get("/").set_cookies(PIN).len(), 1, "chosen anew");
}
