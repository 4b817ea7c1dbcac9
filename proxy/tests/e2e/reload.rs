//! Reload: the configuration taken again in a running process, all or nothing.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::websocket::{accept, handshake};
use crate::harness::{
    Client, Connection, Gate, Gateway, Launch, Reply, Upstream, eventually, full, service,
    service_with,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const SESSION: &str = "session: { identifier: { type: cookie, name: sid } }\n";
const PINS: &str = "router: { sessionAffinity: { methods: [cookie, sourceIP] } }\n";

/// Sessions and pins over these upstreams.
fn whole(upstreams: &[&Upstream], more: &str) -> String {
    format!("{}{SESSION}{PINS}{more}", service(upstreams))
}

fn changed(answer: &crate::harness::Response) -> Vec<String> {
    let answer = answer.json();
    let words = answer["changed"].as_array().expect("what changed");
    words
        .iter()
        .map(|w| w.as_str().expect("a text").to_owned())
        .collect()
}

#[test]
fn under_load_no_request_fails_and_every_client_keeps_session_and_upstream() {
    let farm: Vec<Upstream> = (1..=3).map(|i| Upstream::named(&format!("u{i}"))).collect();
    let late = Upstream::named("late");
    let all: Vec<&Upstream> = farm.iter().collect();
    let with_late: Vec<&Upstream> = farm.iter().chain([&late]).collect();
    let gateway = Arc::new(Gateway::start(&whole(&all, "")));
    let (stop, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            let mut client = Client::new(gateway.http);
            std::thread::spawn(move || {
                let home = client.get("/").expect(200).text();
                let sid = client.jar.get("sid").expect("a session").to_owned();
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get("/").expect(200);
                    assert_eq!(answer.text(), home);
                    assert!(answer.set_cookies("sid").is_empty(), "{:?}", answer.head);
                    served.fetch_add(1, Ordering::Relaxed);
                }
                assert_eq!(client.jar.get("sid"), Some(sid.as_str()));
            })
        })
        .collect();
    let rounds = if full() { 50 } else { 10 };
    for round in 0..rounds {
        let before = served.load(Ordering::Relaxed);
        eventually("requests go on", || {
            (served.load(Ordering::Relaxed) > before + 20).then_some(())
        });
        let limits = format!("limits: {{ headers: {} }}\n", 50 + round);
        let body = if round % 2 == 0 {
            whole(&with_late, &limits)
        } else {
            whole(&all, &limits)
        };
        gateway.reload(&body);
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client
            .join()
            .expect("every request of the client was served as it should be");
    }
    assert_eq!(gateway.metric("reloads_total", &["ok"]), f64::from(rounds));
    gateway.expect_metric("session_creates_total", &[], 4.0);
}

#[test]
fn an_upstream_comes_and_goes_and_the_others_keep_what_they_had() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let cores = "runtime: { cores: 1 }\n";
    let gateway = Gateway::start(&format!("{}{cores}", service(&[&a])));
    gateway.get("/").expect(200);
    gateway.set_state("a", "drain");
    let answer = gateway.reload(&format!("{}{cores}", service(&[&b, &a])));
    assert_eq!(changed(&answer), ["service app +b"]);
    let state = |id: &str| {
        gateway
            .api("GET", &format!("/api/upstreams/app/{id}"))
            .json()
    };
    assert_eq!(state("a")["admin"], "drain", "an operator's word holds on");
    assert_eq!(
        (&state("a")["requests"], &state("b")["requests"]),
        (&1.into(), &0.into())
    );
    for _ in 0..3 {
        assert_eq!(gateway.get("/").expect(200).text(), "b", "the other drains");
    }
    gateway.set_state("a", "ready");
    gateway.set_state("b", "maint");
    gateway.get("/").expect(200);
    assert_eq!(a.accepted(), 1, "its idle connection was kept");
    let answer = gateway.reload(&format!("{}{cores}", service(&[&b])));
    assert_eq!(changed(&answer), ["service app -a"]);
    eventually("idle connections to what is gone are closed", || {
        (a.open() == 0).then_some(())
    });
    gateway.set_state("b", "ready");
    assert_eq!(gateway.get("/").expect(200).text(), "b");
    assert_eq!(gateway.api("GET", "/api/upstreams/app/a").status(), 404);
}

#[test]
fn an_upstream_that_is_down_gets_nothing_after_a_reload_either() {
    let sick = Upstream::new("sick", |_| Reply::status(500));
    let well = Upstream::named("well");
    let check = "healthCheck: { interval: 50ms, timeout: 5s, unhealthy: 1 }\n";
    let body = |headers: u32| {
        let service = service_with(&[&sick, &well], check);
        format!("{service}limits: {{ headers: {headers} }}\nruntime: {{ cores: 1 }}\n")
    };
    let gateway = Gateway::start(&body(50));
    let down = ["upstream=\"sick\"", "state=\"down\""];
    gateway.expect_metric("upstream_state", &down, 1.0);
    for headers in 51..61 {
        gateway.reload(&body(headers));
        assert_eq!(gateway.metric("upstream_state", &down), 1.0);
        for _ in 0..4 {
            assert_eq!(gateway.get("/").expect(200).text(), "well");
        }
    }
    assert_eq!(
        gateway.metric("upstream_state_changes_total", &["upstream=\"sick\""]),
        1.0,
        "it is no news each time"
    );
}

#[test]
fn connections_made_in_another_way_are_not_used_again() {
    let upstream = Upstream::raw("a", |link| {
        let mut first = link.wire.pending().first().copied();
        while first.is_none() && link.wire.fill().is_ok_and(|n| n > 0) {
            first = link.wire.pending().first().copied();
        }
        let proxied = first == Some(b'\r');
        if proxied {
            let fixed = link.wire.take(16).expect("a header");
            link.wire.take(usize::from(fixed[15])).expect("its rest");
        }
        while let Some(received) = link.request() {
            let reply = Reply::ok(if proxied { "proxied" } else { "plain" });
            link.send(reply.render(received.head.method()));
        }
    });
    let plain = format!("{}runtime: {{ cores: 1 }}\n", service(&[&upstream]));
    let proxied = format!(
        "{}runtime: {{ cores: 1 }}\n",
        service_with(&[&upstream], "proxyProtocol: true\n")
    );
    let gateway = Gateway::start(&plain);
    let mut client = gateway.connect();
    assert_eq!(client.exchange(GET).expect(200).text(), "plain");
    gateway.reload(&proxied);
    assert_eq!(client.exchange(GET).expect(200).text(), "proxied");
    gateway.reload(&plain);
    assert_eq!(client.exchange(GET).expect(200).text(), "plain");
    assert_eq!((upstream.accepted(), upstream.count()), (3, 3));
    let requests = ["upstream=\"a\""];
    assert_eq!(gateway.metric("upstream_requests_total", &requests), 3.0);
}

#[test]
fn a_request_under_way_ends_as_it_began() {
    let gate = Gate::new();
    let held = gate.clone();
    let old = Upstream::new("old", move |_| Reply::ok("old").after(&held));
    let new = Upstream::named("new");
    let gateway = Gateway::start(&service(&[&old]));
    let mut connection = gateway.connect();
    connection.send(GET);
    old.wait_for(1);
    gateway.reload(&service(&[&new]));
    assert_eq!(gateway.get("/").expect(200).text(), "new");
    gate.open();
    assert_eq!(connection.response("GET").expect(200).text(), "old");
    assert_eq!(connection.exchange(GET).expect(200).text(), "new");
    eventually("its connection is not kept", || {
        (old.open() == 0).then_some(())
    });
    gateway.expect_metric("configurations_old", &[], 0.0);
}

#[test]
fn a_pin_to_an_upstream_that_is_gone_is_bound_anew_and_table_pins_outlive_positions() {
    let (a, b, c) = (
        Upstream::named("a"),
        Upstream::named("b"),
        Upstream::named("c"),
    );
    let listener = "listeners: [{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.1\"] }]\n";
    let router =
        "router: { sessionAffinity: { methods: [sourceIP] }, rules: [{ path: /, serviceName: app }";
    let before = format!("{}{listener}{router}] }}\n", service(&[&a, &b]));
    let gateway = Gateway::start(&before);
    let ask = |address: &str| {
        let mut client = gateway.client().with("X-Forwarded-For", address);
        client.get("/").expect(200).text()
    };
    let addresses: Vec<String> = (1..=12).map(|i| format!("203.0.113.{i}")).collect();
    let homes: Vec<String> = addresses.iter().map(|a| ask(a)).collect();
    assert!(homes.contains(&"a".into()) && homes.contains(&"b".into()));
    // Another service comes before it, and another upstream instead of one.
    let other = format!(
        "services:\n  - name: other\n    upstreams: [{}]\n",
        a.entry()
    );
    let services = service(&[&c, &b]).replacen("services:\n", &other, 1);
    let after =
        format!("{services}{listener}{router}, {{ path: /other, serviceName: other }}] }}\n");
    gateway.reload(&after);
    let mut moved = Vec::new();
    for (address, home) in addresses.iter().zip(&homes) {
        let now = ask(address);
        if home == "b" {
            assert_eq!(now, "b");
        } else {
            assert!(now == "b" || now == "c", "{now}");
            moved.push((address, now));
        }
    }
    for (address, home) in moved {
        assert_eq!(ask(address), home, "bound anew, once");
    }
}

#[test]
fn rules_limits_and_services_change() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let gateway = Gateway::start(&service(&[&a]));
    let mut connection = gateway.connect();
    assert_eq!(
        connection
            .exchange("GET /b/1 HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect(200)
            .text(),
        "a"
    );
    let body = format!(
        "services:
  - {{ name: app, upstreams: [{}] }}
  - {{ name: other, upstreams: [{}] }}
router: {{ rules: [{{ id: one, path: \"/a/*\", serviceName: app }}, {{ path: \"/b/*\", serviceName: other }}] }}
limits: {{ uriBytes: 64 }}
",
        a.entry(),
        b.entry()
    );
    let answer = gateway.reload(&body);
    assert_eq!(changed(&answer), ["service +other", "rules", "limits"]);
    let mut get =
        |path: &str| connection.exchange(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(
        get("/b/1").expect(200).text(),
        "b",
        "on the connection that there was"
    );
    assert_eq!(get("/a/1").expect(200).text(), "a");
    get("/c").expect(404);
    get(&format!("/a/{}", "x".repeat(80))).expect(414);
    gateway.reload(&service(&[&a]));
    assert_eq!(gateway.get("/c").expect(200).text(), "a");
}

#[test]
fn a_bad_file_changes_nothing_and_every_error_is_told() {
    let a = Upstream::named("a");
    let good = service(&[&a]);
    let gateway = Gateway::start(&good);
    let errors = gateway.reload_refused(&format!(
        "{good}limit: {{}}\nlimits: {{ headers: none }}\nsession: {{ options: {{ timeout: soon }} }}\n"
    ));
    assert_eq!(errors.len(), 3, "{errors:?}");
    for (error, word) in errors
        .iter()
        .zip(["limit", "gateway.limits.headers", "timeout"])
    {
        assert!(
            error.contains("config-0.yaml:") && error.contains(word),
            "{error}"
        );
        let logged = gateway
            .stderr
            .wait(|line| line.contains(error).then_some(()));
        assert!(logged.is_some(), "{error} is logged");
    }
    let errors = gateway.reload_refused("services: [");
    assert!(errors[0].contains("config-0.yaml:"), "{errors:?}");
    std::fs::remove_file(gateway.file("config-0.yaml")).unwrap();
    let gone = gateway.api_write("POST", "/api/reload", "").expect(422);
    assert!(gone.text().contains("config-0.yaml: "), "{}", gone.text());
    assert_eq!(gateway.get("/").expect(200).text(), "a");
    assert_eq!(gateway.metric("reloads_total", &["failed"]), 3.0);
    assert_eq!(gateway.metric("configuration_number", &[]), 1.0);
    gateway.reload(&good);
    assert_eq!(gateway.metric("configuration_number", &[]), 2.0);
}

#[test]
fn what_needs_a_restart_is_refused_as_a_whole() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let gateway = Gateway::start(&format!("{}runtime: {{ cores: 1 }}\n", service(&[&a])));
    let errors = gateway.reload_refused(&format!(
        "{}runtime: {{ cores: 2, ring: {{ entries: 256 }} }}\nadmin: {{ address: \"127.0.0.1:1\" }}\n",
        service(&[&b])
    ));
    let keys = ["runtime.cores", "runtime.ring", "admin.address"];
    let expected =
        keys.map(|key| format!("gateway.{key}: a change of it takes effect only with a restart"));
    assert_eq!(errors, expected);
    assert_eq!(gateway.get("/").expect(200).text(), "a");
}

#[test]
fn sighup_reloads_as_well() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let gateway = Gateway::start(&service(&[&a]));
    gateway.rewrite(&service(&[&b]));
    gateway.signal("HUP");
    eventually("the new one serves", || {
        (gateway.get("/").expect(200).text() == "b").then_some(())
    });
    gateway.rewrite("services: 7\n");
    gateway.signal("HUP");
    gateway.expect_metric("reloads_total", &["failed"], 1.0);
    assert_eq!(gateway.get("/").expect(200).text(), "b");
    let said = gateway.stderr.text();
    assert!(
        said.contains("reloaded, configuration 2: service app +b -a"),
        "{said}"
    );
    assert!(
        said.contains("reload failed: the configuration stays as it was"),
        "{said}"
    );
}

#[test]
fn several_files_are_merged_again() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let base = crate::harness::gateway::complete(&service(&[&a]));
    let gateway = Launch::files(&[&base, "gateway: { limits: { headers: 50 } }\n"]).start();
    let over = format!("gateway:\n{}", crate::harness::indent(&service(&[&b]), 2));
    std::fs::write(gateway.file("config-1.yaml"), over).unwrap();
    gateway.api_write("POST", "/api/reload", "").expect(200);
    assert_eq!(gateway.get("/").expect(200).text(), "b");
}

#[test]
fn listeners_come_and_go_and_change_their_options() {
    let a = Upstream::named("a");
    let with = |listeners: &str| format!("listeners: [{listeners}]\n{}", service(&[&a]));
    let first = "{ address: \"127.0.0.1:0\" }";
    let gateway = Gateway::start(&with(first));
    let mut old = gateway.connect();
    old.exchange(GET).expect(200);
    gateway.reload(&with(&format!(
        "{first}, {{ address: \"127.0.0.2:0\", proxyProtocol: true }}"
    )));
    let second = gateway.newest_listener();
    assert!(second.ip().to_string() == "127.0.0.2", "{second}");
    for _ in 0..8 {
        let mut proxied = Connection::open(second);
        proxied.send(format!("PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n{GET}"));
        proxied.response("GET").expect(200);
        assert_eq!(a.last().get("x-forwarded-for"), Some("192.0.2.7"));
    }
    // One that is taken away serves the connections that it took, and takes no more.
    let mut kept = Connection::open(second);
    kept.send("PROXY TCP4 192.0.2.8 10.0.0.1 1 2\r\n")
        .exchange(GET)
        .expect(200);
    gateway.reload(&with(first));
    eventually("nobody listens there any more", || {
        TcpStream::connect(second).is_err().then_some(())
    });
    kept.exchange(GET).expect(200);
    assert_eq!(a.last().get("x-forwarded-for"), Some("192.0.2.8"));
    old.exchange(GET).expect(200);
    gateway.get("/").expect(200);
    // Options of one that stays.
    gateway.reload(&with(
        "{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.1\"] }",
    ));
    let from = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.5\r\n\r\n";
    old.exchange(from).expect(200);
    assert_eq!(
        a.last().get("x-forwarded-for"),
        Some("203.0.113.5, 127.0.0.1")
    );
}

#[test]
fn a_listener_that_can_t_be_had_refuses_the_whole() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let gateway = Gateway::start(&service(&[&a]));
    let taken = format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}, {{ address: \"{}\" }}]\n{}",
        a.address(),
        service(&[&b])
    );
    let errors = gateway.reload_refused(&taken);
    assert!(
        errors.len() == 1 && errors[0].contains(&a.address()),
        "{errors:?}"
    );
    assert_eq!(gateway.get("/").expect(200).text(), "a");
}

#[test]
fn a_shorter_timeout_holds_for_the_sessions_that_there_are() {
    let a = Upstream::named("a");
    let session = |keys: &str| {
        format!(
            "{}session:\n  identifier: {{ type: cookie, name: sid }}\n{keys}",
            service(&[&a])
        )
    };
    let gateway = Gateway::start(&session(""));
    let mut client = gateway.client();
    client.get("/").expect(200);
    client.get("/").expect(200);
    let sid = a.last().get("x-session-id").map(str::to_owned);
    gateway.reload(&session(
        "  options: { timeout: 1s }\n  data: { index: [team] }\n",
    ));
    client.get("/").expect(200);
    assert_eq!(
        a.last().get("x-session-id").map(str::to_owned),
        sid,
        "it is still there"
    );
    gateway.expect_at_least("session_expirations_total", &[], 0.0);
    eventually("it ends by the new policy", || {
        let page = gateway.api("GET", "/api/sessions").expect(200).json();
        page["sessions"]
            .as_array()
            .unwrap()
            .is_empty()
            .then_some(())
    });
    client.get("/").expect(200);
    assert_ne!(a.last().get("x-session-id").map(str::to_owned), sid);
    // Off and on again.
    gateway.reload(&service(&[&a]));
    gateway.get("/").expect(200);
    assert_eq!(a.last().get("x-session-id"), None);
    gateway.reload(&session(""));
    gateway.get("/").expect(200);
    assert!(a.last().get("x-session-id").is_some());
}

#[test]
fn a_websocket_lives_across_reloads() {
    let socket = Upstream::raw("a", |link| {
        if link.request().is_none() {
            return;
        }
        link.send(accept());
        while let Ok(bytes) = link.wire.take(4) {
            link.send(bytes);
        }
    });
    let other = Upstream::named("b");
    let gateway = Gateway::start(&service(&[&socket]));
    let mut tunnel = gateway.connect();
    tunnel.send(handshake("/", "x", ""));
    assert_eq!(tunnel.head().status(), 101);
    for round in 0..3 {
        gateway.reload(&format!(
            "{}limits: {{ headers: 5{round} }}\n",
            service(&[&other])
        ));
        tunnel.send("ping");
        assert_eq!(tunnel.wire.take(4).unwrap(), b"ping");
    }
    // It alone holds its configuration; those between are free.
    gateway.expect_metric("configurations_old", &[], 1.0);
    drop(tunnel);
    gateway.expect_metric("configurations_old", &[], 0.0);
}

#[test]
fn many_reloads_leave_nothing_behind() {
    let farm: Vec<Upstream> = (1..=4).map(|i| Upstream::named(&format!("u{i}"))).collect();
    let (ab, cd): (Vec<&Upstream>, Vec<&Upstream>) =
        (farm[..2].iter().collect(), farm[2..].iter().collect());
    let ring = "router: { sessionAffinity: { methods: [cookie], algorithm: { type: consistent-hash } } }\n";
    let bodies = [&ab, &cd].map(|upstreams| {
        let check = "healthCheck: { interval: 100ms, timeout: 50ms }\n";
        format!("{}{SESSION}{ring}", service_with(upstreams, check))
    });
    let gateway = Gateway::start(&bodies[0]);
    let mut kept = gateway.connect();
    let mut round = |n: usize| {
        for i in 0..n {
            gateway.reload(&bodies[(i + 1) % 2]);
            kept.exchange(GET).expect(200);
            gateway.get("/").expect(200);
        }
    };
    round(20);
    let settled = || {
        eventually("no check or connection is on its way", || {
            let open: usize = farm.iter().map(Upstream::open).sum();
            (open <= 2).then_some(())
        });
        (gateway.resident_kib(), gateway.descriptors())
    };
    let (memory, descriptors) = settled();
    round(50);
    let (memory_after, descriptors_after) = settled();
    assert!(
        descriptors_after <= descriptors + 4,
        "descriptors: {descriptors}, then {descriptors_after}"
    );
    assert!(
        memory_after <= memory + 4096,
        "KiB: {memory}, then {memory_after}"
    );
    gateway.expect_metric("configurations_old", &[], 0.0);
}

#[test]
fn the_access_log_moves_and_changes_its_form() {
    let a = Upstream::named("a");
    let logged = |name: &str, format: &str| {
        format!(
            "{}accessLog: {{ path: {name}, format: \"{format}\" }}\n",
            service(&[&a])
        )
    };
    let gateway = Gateway::start(&logged("one.log", "one {path}"));
    gateway.get("/first").expect(200);
    gateway.reload(&logged("two.log", "two {path}"));
    gateway.get("/second").expect(200);
    let lines = |name: &str| std::fs::read_to_string(gateway.file(name)).unwrap_or_default();
    eventually("the line in the new file", || {
        (lines("two.log") == "two /second\n").then_some(())
    });
    assert_eq!(lines("one.log"), "one /first\n");
    let errors = gateway.reload_refused(&logged("no/such/folder/x.log", "x {path}"));
    assert!(errors[0].contains("accessLog.path"), "{errors:?}");
    gateway.reload(&service(&[&a]));
    gateway.get("/third").expect(200);
    gateway.reload(&logged("two.log", "three {path}"));
    gateway.get("/fourth").expect(200);
    eventually("the line of another form", || {
        (lines("two.log") == "two /second\nthree /fourth\n").then_some(())
    });
}

#[test]
fn a_new_admin_token_holds_at_once() {
    let a = Upstream::named("a");
    let gateway = Gateway::start(&service(&[&a]));
    let token = "a-token-of-some-length-0123456789";
    let admin = format!("admin: {{ address: \"127.0.0.1:0\", token: {token} }}\n");
    gateway.reload(&format!("{}{admin}", service(&[&a])));
    assert_eq!(gateway.api("GET", "/metrics").status(), 401);
    let mut client = Client::new(gateway.admin).with("Authorization", &format!("Bearer {token}"));
    client.get("/metrics").expect(200);
    gateway.rewrite(&service(&[&a]));
    let reload = client
        .request("POST", "/api/reload")
        .header("Content-Type", "application/json");
    reload.body("").send().expect(200);
    gateway.api("GET", "/metrics").expect(200);
    assert!(!gateway.stderr.text().contains(token));
}

#[test]
fn upstream_names_are_known_from_the_first_request_on() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let gateway = Gateway::start(&service(&[&a]));
    let entry = b.entry().replace("127.0.0.1", "localhost");
    gateway.reload(&format!(
        "services:\n  - name: app\n    upstreams: [{entry}]\n"
    ));
    for _ in 0..4 {
        assert_eq!(
            gateway
                .connect()
                .patience(Duration::from_secs(30))
                .exchange(GET)
                .expect(200)
                .text(),
            "b"
        );
    }
}
