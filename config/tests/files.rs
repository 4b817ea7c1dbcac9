//! Files that load: between them they use every key of the table, and mean what they say.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use holdfast_config::document::{Node, Value, parse};
use holdfast_config::keys::{Type, table};
use holdfast_config::plan::*;
use holdfast_config::report::Report;
use holdfast_config::{Mode, Outcome, describe, load_on, schema};

const FILES: [(&str, &str); 5] = [
    ("start.yaml", include_str!("configs/start.yaml")),
    ("gateway.yaml", include_str!("configs/gateway.yaml")),
    ("session.yaml", include_str!("configs/session.yaml")),
    ("redis.yaml", include_str!("configs/redis.yaml")),
    ("database.yaml", include_str!("configs/database.yaml")),
];

/// Marks of every secret in the files, so that a leak can be seen.
fn variables(name: &str) -> Option<String> {
    [
        "ADMIN_TOKEN",
        "JWT_SECRET",
        "PIN_KEY",
        "ID_SECRET",
        "REDIS_PASSWORD",
        "DATABASE_URL",
    ]
    .contains(&name)
    .then(|| format!("hush-hush-{name}"))
}

fn load_texts(texts: &[&str], mode: Mode) -> Outcome {
    let sources: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| holdfast_config::Source {
            name: format!("{i}.yaml"),
            text: (*text).to_owned(),
        })
        .collect();
    load_on("host-1", &sources, &variables, mode)
}

fn plan(text: &str) -> Plan {
    let out = load_texts(&[text], Mode::Run);
    let errors: Vec<String> = out.errors.iter().map(ToString::to_string).collect();
    out.plan.unwrap_or_else(|| panic!("{errors:#?}"))
}

fn file(name: &str) -> Plan {
    plan(
        FILES
            .iter()
            .find(|f| f.0 == name)
            .expect("a file of that name")
            .1,
    )
}

const APP: &str = "services: [{ name: app, upstreams: [{ address: '127.0.0.1:9001' }] }]";

/// A gateway with a service and these lines below `gateway:`.
fn with(lines: &str) -> Plan {
    plan(&format!("gateway:\n  {APP}\n{lines}"))
}

fn session(lines: &str) -> Session {
    with(&format!("  session:\n{lines}"))
        .session
        .expect("sessions are on")
}

fn patterns(node: &Node, pattern: &str, used: &mut BTreeSet<String>) {
    used.insert(pattern.to_owned());
    match &node.value {
        Value::Map(entries) => {
            let below = match table().get(pattern).map(|k| k.ty) {
                Some(Type::OneOrMany) => format!("{pattern}[]"),
                _ => pattern.to_owned(),
            };
            for e in entries {
                let name = if below.is_empty() {
                    e.key.clone()
                } else {
                    format!("{below}.{}", e.key)
                };
                patterns(&e.node, &name, used);
            }
        }
        Value::List(items) => items
            .iter()
            .for_each(|n| patterns(n, &format!("{}[]", pattern.trim_end_matches("[]")), used)),
        Value::Scalar(_) => {}
    }
}

#[test]
fn every_key_is_in_a_file_that_loads() {
    let mut used = BTreeSet::new();
    for (name, text) in FILES {
        let out = load_texts(&[text], Mode::Run);
        let errors: Vec<String> = out.errors.iter().map(ToString::to_string).collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
        let idle = |w: &&holdfast_config::Diagnostic| w.message.contains("is not used");
        assert_eq!(out.warnings.iter().find(idle), None, "{name}");
        let plan = out.plan.expect("a plan");
        for shown in [
            format!("{plan:?}"),
            describe(&plan),
            format!("{:?}", out.warnings),
        ] {
            assert!(!shown.contains("hush-hush"), "{name} shows a secret");
        }
        let root = parse(0, text, &mut Report::default()).expect("YAML");
        patterns(&root, "", &mut used);
    }
    let missing: Vec<&str> = table()
        .rows()
        .iter()
        .map(|r| r.pattern.as_str())
        .filter(|p| !used.contains(*p))
        .collect();
    assert!(missing.is_empty(), "no file uses {missing:#?}");
}

#[test]
fn nothing_at_all_passes_a_check() {
    for text in ["", "# nothing\n", "---\n", "gateway: {}"] {
        let out = load_texts(&[text], Mode::Check);
        assert!(out.errors.is_empty(), "{text:?}: {:?}", out.errors);
        let plan = out.plan.expect("a plan");
        assert!(plan.services.is_empty() && plan.rules.is_empty() && plan.session.is_none());
        assert_eq!(plan.node, "host-1");
        assert_eq!(
            plan.listeners[0].address,
            (Ipv4Addr::UNSPECIFIED, 8080).into()
        );
        assert_eq!(
            plan.admin.expect("admin").address,
            (Ipv4Addr::LOCALHOST, 9901).into()
        );
        let run = load_texts(&[text], Mode::Run);
        assert_eq!(run.errors.len(), 1, "{:?}", run.errors);
        assert!(run.errors[0].message.starts_with("services is required"));
    }
    assert!(load_texts(&[], Mode::Check).plan.is_some());
}

#[test]
fn upstreams_are_all_that_is_needed_to_run() {
    let p = plan(
        "gateway: { services: [{ upstreams: [{ address: 'a:1' }] }], router: { rules: [{}] }, listeners: [{}] }",
    );
    assert_eq!(p.services[0].name, "service-1");
    assert_eq!(
        (
            p.rules[0].service,
            p.rules[0].path.as_str(),
            p.rules[0].prefix
        ),
        (0, "/", true)
    );
    assert_eq!(p.listeners[0].address.port(), 8080);
}

#[test]
fn defaults_of_a_short_file() {
    let p = file("start.yaml");
    assert_eq!(p.limits.header_bytes, 16 << 10);
    assert_eq!(p.limits.tunnel_timeout, Duration::from_secs(3600));
    assert_eq!(p.runtime.cores, Cores::Auto);
    assert_eq!(p.runtime.ring.entries, 4096);
    assert!(!p.runtime.ring.entries_explicit && p.runtime.ring.coop_taskrun.is_none());
    assert_eq!(p.runtime.max_connections, 100_000);
    assert!(p.metrics_endpoint && p.access_log.is_none() && p.jwt.is_none());
    assert_eq!(p.shutdown.timeout, Duration::from_secs(30));
    let s = &p.services[0];
    assert_eq!(s.balancing, Balancing::RoundRobin);
    assert_eq!(s.upstreams[1].id, "127.0.0.1-9002");
    assert_eq!(
        file("gateway.yaml").services[1].upstreams[0].id,
        "0-0-0-0-0-0-0-1-9002"
    );
    assert_eq!(s.retry.attempts, 2);
    assert!(
        s.control.create
            && s.control.set
            && s.control.authenticate
            && s.control.rotate
            && s.control.destroy
    );
    assert!(s.health.is_none() && s.passive.is_none() && s.tls.is_none());
    assert_eq!(p.rules.len(), 1);
    let rule = &p.rules[0];
    assert!(rule.prefix && rule.path == "/" && rule.service == 0);
    let a = rule.affinity.as_ref().expect("affinity");
    assert_eq!(a.methods, [AffinityMethod::Cookie]);
    assert_eq!(
        (a.encoding, a.on_unavailable),
        (PinEncoding::Secure, OnUnavailable::Rebind)
    );
    assert_eq!(a.cookie.name, "gateway-backend");
    assert!(a.algorithm.is_none() && a.cookie.key.is_none() && a.duration.is_zero());
    let s = p.session.expect("sessions");
    let Source::Cookie(c) = &s.sources[0] else {
        panic!("a cookie")
    };
    assert!(
        c.secure
            && c.http_only
            && c.same_site == SameSite::Lax
            && c.path == "/"
            && c.max_age.is_none()
    );
    assert_eq!(
        (s.timeout, s.ttl),
        (Duration::from_secs(1800), Duration::from_secs(86_400))
    );
    assert!(
        s.rolling && s.creation.first_request && !s.creation.authentication && !s.creation.confirm
    );
    assert_eq!(s.touch_interval, Duration::from_secs(60));
    assert_eq!(
        s.creation.limit,
        Some(Rate {
            count: 100,
            per: Duration::from_secs(1)
        })
    );
    assert_eq!(
        (s.storage.max_sessions, s.storage.max_bytes),
        (1_000_000, 1 << 30)
    );
    assert_eq!(s.data.max_size, 8192);
    assert_eq!(s.forward.expect("forward").prefix, "X-Session-");
    assert_eq!(s.security.ip_prefix, (24, 56));
    assert_eq!(s.data.index, ["userId"]);
}

#[test]
fn the_plan_of_the_long_file() {
    let p = file("gateway.yaml");
    let Cores::List(cores) = &p.runtime.cores else {
        panic!("a list")
    };
    assert_eq!(cores.iter().map(|c| c.cpu).collect::<Vec<_>>(), [0, 2, 3]);
    assert_eq!((cores[0].ring.entries, cores[1].ring.entries), (1024, 4096));
    assert_eq!(
        (cores[0].ring.coop_taskrun, cores[1].ring.coop_taskrun),
        (Some(false), Some(true))
    );
    assert_eq!(cores[0].busy_poll, Duration::from_micros(20));
    assert_eq!(p.runtime.replication_cpu, Some(1));
    assert_eq!(p.limits.response_timeout, Duration::from_secs(90));
    assert_eq!(p.limits.idle_timeout, Duration::from_secs(60));
    assert!(p.listeners[0].raw_paths && !p.listeners[1].raw_paths);
    assert_eq!(p.listeners[2].tls.len(), 2);
    assert_eq!(p.listeners[0].trusted_proxies.len(), 3);
    assert_eq!(
        p.admin
            .as_ref()
            .and_then(|a| a.token.as_ref())
            .map(|t| t.0.as_slice()),
        Some(&b"hush-hush-ADMIN_TOKEN"[..])
    );
    let chat = &p.services[0];
    assert_eq!(
        chat.upstreams[1].address,
        UpstreamAddress::Unix("/run/chat.sock".into())
    );
    assert_eq!(chat.upstreams[2].id, "chat.internal-9003");
    assert!(chat.control.create && !chat.control.rotate && !chat.control.destroy);
    assert_eq!(chat.protocol, Protocol::H2);
    assert!(matches!(
        p.access_log.as_ref().map(|l| &l.format),
        Some(LogFormat::Template(_))
    ));
    // Longest path first; on one path the rule with a host first.
    let order: Vec<&str> = p.rules.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(order, ["rule-2", "chat", "fixed", "rest"]);
    let chat = p.rules[1].affinity.as_ref().expect("affinity");
    assert_eq!(chat.methods, [AffinityMethod::Header("x-room".into())]);
    assert_eq!(chat.on_unavailable, OnUnavailable::Reject(503));
    assert_eq!(p.rules[1].host.as_deref(), Some("*.example.com"));
    assert_eq!(p.rules[1].methods, ["GET", "POST"]);
    let cart = p.rules[0].affinity.as_ref().expect("affinity");
    assert_eq!(cart.methods, [AffinityMethod::SourceIp]);
    assert_eq!(
        cart.on_unavailable,
        OnUnavailable::Hold(Duration::from_secs(3))
    );
    assert_eq!(
        (cart.encoding, cart.duration),
        (PinEncoding::Hash, Duration::from_secs(7200))
    );
    assert!(!p.rules[0].prefix && p.rules[3].prefix);
    let fixed = p.rules[2].affinity.as_ref().expect("affinity");
    assert_eq!(fixed.on_unavailable, OnUnavailable::Reject(502));
    assert_eq!(fixed.methods.len(), 3);
    assert_eq!(
        fixed.algorithm,
        Some(Algorithm::ConsistentHash {
            replicas: 100,
            bounded_load: Some(1.25)
        })
    );
    assert!(p.rules[3].affinity.is_none());
    assert_eq!(p.websocket.allowed_origins, ["https://app.example.com"]);
    assert!(p.websocket.fresh_on_reconnect && p.websocket.keep_on_session_end);
    assert_eq!(p.websocket.failover, Some(false));
    assert!(p.session.is_none());
}

#[test]
fn the_plan_of_a_session() {
    let p = file("session.yaml");
    let s = p.session.expect("sessions");
    assert!(!s.rolling);
    assert_eq!(
        (s.timeout, s.ttl),
        (Duration::from_secs(3600), Duration::from_secs(12 * 3600))
    );
    assert_eq!(
        s.cleanup.inactive,
        Duration::from_secs(1200),
        "a fixed lifetime leaves the idle bound beside it"
    );
    assert_eq!(s.subject, "account");
    assert_eq!(s.data.index, ["userId", "account"]);
    assert_eq!(
        (s.storage.max_sessions, s.storage.eviction),
        (5000, Eviction::Lfu)
    );
    let defaults: Vec<(&str, &str)> = s
        .creation
        .defaults
        .iter()
        .map(|(n, j)| (n.as_str(), j.as_str()))
        .collect();
    assert_eq!(
        defaults,
        [
            ("created", "\"${timestamp}\""),
            ("requestCount", "0"),
            (
                "plan",
                r#"{"name":"free","seats":2.5,"tags":["a","1"],"trial":true,"until":null}"#
            ),
        ]
    );
    assert_eq!(s.security.token_keys.len(), 2);
    assert_eq!(s.security.data_keys.len(), 2);
    for key in &s.security.data_keys {
        assert_eq!(key.0.len(), 32, "a passphrase is no key");
    }
    assert_eq!(s.security.rotate_interval, Some(Duration::from_secs(600)));
    assert_eq!(s.security.on_reuse, OnMismatch::Destroy);
    assert_eq!(
        s.from_headers,
        [("x-tenant-id".to_owned(), "tenantId".to_owned(), false)]
    );
    let r = s.replication.expect("replication");
    assert_eq!((r.factor, r.is_async, r.regions.len()), (3, false, 2));
    let pin = p.rules[0].affinity.as_ref().expect("affinity");
    assert_eq!(
        pin.cookie.key,
        s.security.data_keys.first().cloned(),
        "a pin key comes from the session's"
    );
    assert_eq!(pin.methods, [AffinityMethod::Session]);
}

#[test]
fn sources_go_by_priority() {
    let p = file("redis.yaml");
    let Cores::List(cores) = &p.runtime.cores else {
        panic!("a list")
    };
    assert_eq!(
        cores.iter().map(|c| c.cpu).collect::<Vec<_>>(),
        [0, 1, 2, 3, 8]
    );
    let s = p.session.expect("sessions");
    assert!(matches!(
        s.sources.as_slice(),
        [
            Source::Cookie(_),
            Source::Header {
                generate_if_missing: true,
                ..
            },
            Source::Query { .. }
        ]
    ));
    let StorageKind::Redis(r) = &s.storage.kind else {
        panic!("redis")
    };
    assert_eq!(
        (r.sentinel.as_deref(), r.db, r.tls, r.replicas),
        (Some("main"), 2, true, 2)
    );
    assert!(
        s.replication
            .and_then(|r| r.redis)
            .is_some_and(|r| r.cluster)
    );
    let s = file("database.yaml").session.expect("sessions");
    assert_eq!(s.security.tenant_attribute, "tenant");
}

#[test]
fn the_earliest_time_wins() {
    let times = |lines: &str| {
        let s = session(lines);
        (
            s.timeout.as_secs(),
            s.ttl.as_secs(),
            s.cleanup.inactive.as_secs(),
        )
    };
    let strategies =
        |list: &str| format!("    lifecycle: {{ cleanup: {{ strategies: [{list}] }} }}\n");
    assert_eq!(times("    enabled: true\n"), (1800, 86_400, 0));
    assert_eq!(
        times(&strategies("{ type: inactive, inactiveTime: 10m }")),
        (600, 86_400, 0)
    );
    assert_eq!(
        times(&strategies("{ type: inactive, inactiveTime: 2h }")),
        (1800, 86_400, 0)
    );
    assert_eq!(
        times(&strategies(
            "{ type: ttl, ttl: 5m }, { type: ttl, ttl: 10m }"
        )),
        (300, 300, 0)
    );
    assert_eq!(
        times(&strategies("{ type: ttl, ttl: 7d }")),
        (1800, 604_800, 0)
    );
    assert_eq!(
        times(&(strategies("{ type: ttl, ttl: 0 }") + "    options: { timeout: 0 }\n")),
        (0, 0, 0)
    );
    assert_eq!(times("    options: { timeout: 0 }\n"), (86_400, 86_400, 0));
    assert_eq!(
        times(
            &(strategies("{ type: inactive }") + "    options: { timeout: 2h, rolling: false }\n")
        ),
        (7200, 86_400, 1800)
    );
}

#[test]
fn the_smallest_number_of_sessions_wins() {
    let bound = |memory: &str, strategies: &str| {
        let s = session(&format!(
            "    storage: {{ memory: {{ {memory} }} }}\n    lifecycle: {{ cleanup: {{ strategies: [{strategies}] }} }}\n"
        ));
        (s.storage.max_sessions, s.storage.eviction)
    };
    let of = |max: u32, policy: &str| {
        format!("{{ type: maxSessions, maxSessions: {max}, evictPolicy: {policy} }}")
    };
    assert_eq!(bound("", ""), (1_000_000, Eviction::Lru));
    assert_eq!(
        bound("maxSessions: 10", &of(20, "lfu")),
        (10, Eviction::Lru)
    );
    assert_eq!(
        bound("maxSessions: 20, evictionPolicy: ttl", &of(10, "lfu")),
        (10, Eviction::Lfu)
    );
    assert_eq!(bound("", &of(2_000_000, "lfu")), (2_000_000, Eviction::Lfu));
    assert_eq!(
        bound(
            "evictionPolicy: ttl",
            "{ type: maxSessions, maxSessions: 7 }"
        ),
        (7, Eviction::Ttl)
    );
}

#[test]
fn sealing_and_signing() {
    let keys = |lines: &str| {
        let s = session(&format!("    security: {{ encryption: {lines} }}\n"));
        (
            s.security.token_keys.len(),
            s.security.data_keys.len(),
            s.creation.confirm,
        )
    };
    assert_eq!(
        keys("{ id: { secret: a-secret-of-some-length } }"),
        (1, 0, true)
    );
    assert_eq!(keys("{ id: {} }"), (1, 0, true), "a random key in memory");
    assert_eq!(keys("{ enabled: true }"), (0, 1, false));
    assert_eq!(
        keys("{ enabled: false, id: { secret: a-secret-of-some-length } }"),
        (0, 0, false)
    );
    assert_eq!(
        keys("{ data: { key: a-passphrase-of-20-characters } }"),
        (0, 1, false)
    );
    assert_eq!(keys("{ id: { enabled: false, secret: x } }"), (0, 0, false));
    let two = |text: &str| session(text).security.token_keys;
    let lines = "    security: { encryption: { id: {} } }\n";
    assert_ne!(two(lines), two(lines), "random keys differ");
}

#[test]
fn a_subject_is_what_sub_goes_to() {
    assert_eq!(session("    enabled: true\n").subject, "userId");
    let mapped = "    attributes: { fromAuth: [{ claim: sub, attribute: account }] }\n";
    assert_eq!(session(mapped).subject, "account");
    assert_eq!(
        session(&format!("{mapped}    subject: email\n")).subject,
        "email"
    );
}

#[test]
fn sessions_are_off_where_they_are_not_asked_for() {
    assert!(with("  node: a\n").session.is_none());
    assert!(
        with("  session: { enabled: false, metrics: { enabled: false } }\n")
            .session
            .is_none()
    );
    assert!(!with("  session: { enabled: false, metrics: { enabled: false } }\n").metrics_endpoint);
    assert!(with("  session: {}\n").session.is_some());
    assert!(with("  admin: { enabled: false }\n").admin.is_none());
    assert!(with("  accessLog: {}\n").access_log.is_some());
    assert!(
        with("  accessLog: { enabled: false }\n")
            .access_log
            .is_none()
    );
}

#[test]
fn later_files_win_and_errors_name_their_file() {
    let base = "gateway:\n  node: one\n  limits: { headers: 50, uriBytes: 4KB }\n  services: [{ name: app, upstreams: [{ address: 'a:1' }] }]\n";
    let over = "gateway:\n  node: two\n  limits: { headers: 60 }\n  services: [{ name: other, upstreams: [{ address: 'b:2' }] }]\n";
    let plan = load_texts(&[base, over], Mode::Run).plan.expect("a plan");
    assert_eq!(
        (
            plan.node.as_str(),
            plan.limits.headers,
            plan.limits.uri_bytes
        ),
        ("two", 60, 4096)
    );
    assert_eq!(
        plan.services
            .iter()
            .map(|s| s.name.as_str())
            .collect::<Vec<_>>(),
        ["other"]
    );
    let out = load_texts(&[base, "gateway:\n  limits: { headers: 0 }\n"], Mode::Run);
    assert_eq!(
        out.errors[0].to_string(),
        "1.yaml:2:22: gateway.limits.headers: expected a whole number from 1 to 1000, found 0"
    );
    // A value that a later file replaces is not looked at, nor its variables.
    let replaced = load_texts(&["gateway:\n  node: ${NOWHERE}\n", over], Mode::Run);
    assert!(replaced.errors.is_empty(), "{:?}", replaced.errors);
}

#[test]
fn the_environment_fills_in_values_of_every_type() {
    let text = "gateway:\n  limits: { headers: '${N}', headerBytes: \"${S:-32KB}\", idleTimeout: '${D:-5m}' }\n  admin: { enabled: '${OFF}' }\n";
    let env = |name: &str| match name {
        "N" => Some("33".to_owned()),
        "OFF" => Some("false".to_owned()),
        _ => None,
    };
    let sources = [holdfast_config::Source {
        name: "a".into(),
        text: text.into(),
    }];
    let plan = load_on("h", &sources, &env, Mode::Check)
        .plan
        .expect("a plan");
    assert_eq!(
        (plan.limits.headers, plan.limits.header_bytes),
        (33, 32 << 10)
    );
    assert_eq!(plan.limits.idle_timeout, Duration::from_secs(300));
    assert!(plan.admin.is_none());
}

#[test]
fn the_plan_in_words() {
    let text = describe(&file("gateway.yaml"));
    for part in [
        "node gw-1",
        "0.0.0.0:8080  trusts 10.0.0.0/8",
        "0.0.0.0:9901  admin, with token",
        "CPU 0: ring 1024",
        "chat-service  least-connections",
        "chat-2  unix:/run/chat.sock, weight 1",
        "chat  /chat/* at *.example.com GET,POST -> chat-service, pinned by header x-room for 1h",
        "sessions\n  off",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let text = describe(&file("session.yaml"));
    for part in [
        "cookie __Secure-shop (path /shop, domain .example.com, secure, httpOnly)",
        "timeout 1h (from creation), ttl 12h, inactive 20m",
        "tokens signed (2 key(s))",
        "sessions 5000 and 100MB of data, evicted by lfu",
        "at most 20/m a client prefix",
        "events sessionCreated, sessionDestroyed, webhook to hooks.example.com (signed)",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let none = load_texts(&[""], Mode::Check).plan.expect("a plan");
    assert!(describe(&none).contains("none (`run` needs at least one)"));
}

#[test]
fn the_schema_knows_every_key() {
    let schema = schema();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    for row in table().rows() {
        let mut at = &schema;
        for part in row.pattern.split('.') {
            let (name, item) = match part.strip_suffix("[]") {
                Some(name) => (name, true),
                None => (part, false),
            };
            at = find(at, |o| o.get("properties")?.get(name))
                .unwrap_or_else(|| panic!("{} is not in the schema", row.pattern));
            if item {
                at = find(at, |o| o.get("items"))
                    .unwrap_or_else(|| panic!("{}: no items", row.pattern));
            }
        }
        let text = at["description"].as_str().expect("a description");
        assert!(text.starts_with(row.doc), "{}", row.pattern);
    }
    let name = &schema["properties"]["gateway"]["properties"]["services"]["items"];
    assert_eq!(name["required"], serde_json::json!(["upstreams"]));
    assert_eq!(name["additionalProperties"], false);
    let timeout = &schema["properties"]["gateway"]["properties"]["session"]["properties"]["options"]
        ["properties"]["timeout"];
    assert_eq!(
        (timeout["$ref"].as_str(), timeout["default"].as_str()),
        (Some("#/$defs/duration"), Some("30m"))
    );
}

/// What `f` finds in a schema or in one of its alternatives.
fn find<'a>(
    schema: &'a serde_json::Value,
    f: impl Fn(&'a serde_json::Value) -> Option<&'a serde_json::Value> + Copy,
) -> Option<&'a serde_json::Value> {
    f(schema).or_else(|| {
        schema
            .get("anyOf")?
            .as_array()?
            .iter()
            .find_map(|option| find(option, f))
    })
}
