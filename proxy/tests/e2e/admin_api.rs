//! The description of the admin API against its answers, and `/metrics` against Prometheus' own reader.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, Response, Upstream, service};

fn start(upstream: &Upstream) -> Gateway {
    Gateway::start(&format!(
        "{}session:\n  identifier: {{ sources: [{{ type: cookie, name: sid, priority: 1 }}, {{ type: query, name: s, priority: 2 }}, {{ type: header, name: X-Token, priority: 3 }}] }}\n  \
         data: {{ index: [userId] }}\nrouter: {{ sessionAffinity: {{ methods: [cookie, sourceIP] }} }}\n",
        service(&[upstream])
    ))
}

/// Why a value is not what a schema says; `None` where it is. The words that the description uses.
fn wrong(whole: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(to) = schema.get("$ref").and_then(Value::as_str) {
        let schema = whole
            .pointer(&to[1..])
            .expect("a reference that leads somewhere");
        return wrong(whole, schema, value, at);
    }
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other} is not known here"),
    };
    let fits = match schema.get("type") {
        None => true,
        Some(Value::String(kind)) => is(kind),
        Some(kinds) => kinds
            .as_array()
            .expect("types")
            .iter()
            .any(|k| is(k.as_str().expect("a type"))),
    };
    if !fits {
        return Some(format!("{at}: {value} is not {}", schema["type"]));
    }
    if let Some(one) = schema.get("const").filter(|one| *one != value) {
        return Some(format!("{at}: {value} is not {one}"));
    }
    if let Some(all) = schema.get("enum").and_then(Value::as_array)
        && !all.contains(value)
    {
        return Some(format!("{at}: {value} is none of {all:?}"));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    if let (Some(properties), Some(members)) = (properties, value.as_object()) {
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().expect("a name");
            if !members.contains_key(name) {
                return Some(format!("{at}: {name} is missing"));
            }
        }
        for (name, member) in members {
            let Some(schema) = properties.get(name) else {
                return Some(format!("{at}: {name} is not described"));
            };
            let found = wrong(whole, schema, member, &format!("{at}.{name}"));
            if found.is_some() {
                return found;
            }
        }
    }
    let items = value.as_array().zip(schema.get("items"));
    let (values, schema) = items?;
    values
        .iter()
        .find_map(|value| wrong(whole, schema, value, &format!("{at}[]")))
}

/// Holds an answer against what is described of it.
#[track_caller]
fn held(api: &Value, path: &str, method: &str, response: &Response) {
    let what = format!("{method} {path}: {}", response.status());
    let operation = &api["paths"][path][method.to_ascii_lowercase()];
    let mut described = &operation["responses"][response.status().to_string()];
    if let Some(to) = described.get("$ref").and_then(Value::as_str) {
        described = api.pointer(&to[1..]).expect("a response");
    }
    assert!(
        described.is_object(),
        "{what} is not described\n{}",
        response.text()
    );
    let content = described["content"].as_object().expect("a content");
    let kind = response.get("content-type").expect("a type");
    let kind = kind.split(';').next().unwrap_or_default();
    let schema = content
        .get(kind)
        .unwrap_or_else(|| panic!("{what}: {kind} is not described"));
    if kind == "application/json" {
        let body = response.json();
        assert_eq!(
            wrong(api, &schema["schema"], &body, "$"),
            None,
            "{what}: {body}"
        );
    }
}

fn send(gateway: &Gateway, method: &str, target: &str, body: Option<&Value>) -> Response {
    let mut client = Client::new(gateway.admin);
    let request = client.request(method, target);
    match body {
        Some(body) => request
            .header("Content-Type", "application/json")
            .body(body.to_string())
            .send(),
        None => request.send(),
    }
}

#[test]
fn every_path_answers_as_it_is_described() {
    let upstream = Upstream::named("a");
    let gateway = start(&upstream);
    let api = gateway.api("GET", "/api/openapi.json").expect(200).json();
    assert_eq!(api["info"]["version"], env!("CARGO_PKG_VERSION"));
    gateway.get("/").expect(200);
    let made = send(
        &gateway,
        "POST",
        "/api/sessions",
        Some(&json!({"authenticate": {"userId": "u1"}})),
    );
    let sid = made.json()["sid"].as_str().expect("a sid").to_owned();
    let good: &[(&str, &str, &str, Option<Value>, u16)] = &[
        ("GET", "/", "/", None, 200),
        ("GET", "/healthz", "/healthz", None, 200),
        ("GET", "/readyz", "/readyz", None, 200),
        ("GET", "/metrics", "/metrics", None, 200),
        ("GET", "/api/openapi.json", "/api/openapi.json", None, 200),
        (
            "GET",
            "/api/sessions",
            "/api/sessions?limit=1&values=true",
            None,
            200,
        ),
        (
            "POST",
            "/api/sessions",
            "/api/sessions",
            Some(json!({"source": "query", "data": {"x": [1]}})),
            201,
        ),
        (
            "GET",
            "/api/sessions/{sid}",
            "/api/sessions/{sid}?values=true",
            None,
            200,
        ),
        (
            "PATCH",
            "/api/sessions/{sid}",
            "/api/sessions/{sid}",
            Some(json!({"data": {"x": 1}})),
            200,
        ),
        (
            "POST",
            "/api/sessions/{sid}/tokens",
            "/api/sessions/{sid}/tokens",
            Some(json!({})),
            201,
        ),
        (
            "GET",
            "/api/sessions/{sid}/journal",
            "/api/sessions/{sid}/journal",
            None,
            200,
        ),
        ("GET", "/api/upstreams", "/api/upstreams", None, 200),
        (
            "POST",
            "/api/upstreams/{service}",
            "/api/upstreams/app",
            Some(json!({"id": "b", "address": "127.0.0.1:9"})),
            201,
        ),
        (
            "GET",
            "/api/upstreams/{service}/{id}",
            "/api/upstreams/app/a",
            None,
            200,
        ),
        (
            "PUT",
            "/api/upstreams/{service}/{id}",
            "/api/upstreams/app/b",
            Some(json!({"state": "maint"})),
            200,
        ),
        (
            "DELETE",
            "/api/upstreams/{service}/{id}",
            "/api/upstreams/app/b",
            None,
            200,
        ),
        ("POST", "/api/reload", "/api/reload", None, 200),
        ("GET", "/api/config", "/api/config", None, 200),
        ("GET", "/api/cluster", "/api/cluster", None, 200),
        ("GET", "/api/explain", "/api/explain?path=/x", None, 200),
        (
            "POST",
            "/api/explain",
            "/api/explain",
            Some(json!({"headers": {"X-A": "b"}})),
            200,
        ),
        (
            "DELETE",
            "/api/sessions/{sid}",
            "/api/sessions/{sid}",
            None,
            200,
        ),
        (
            "DELETE",
            "/api/sessions",
            "/api/sessions?userId=u1",
            None,
            200,
        ),
    ];
    for (method, path, target, body, status) in good {
        let response = send(
            &gateway,
            method,
            &target.replace("{sid}", &sid),
            body.as_ref(),
        );
        assert_eq!(
            response.status(),
            *status,
            "{method} {target}: {}",
            response.text()
        );
        held(&api, path, method, &response);
    }
    // Nothing is described that was not asked for here, but the stream, which has tests of its own.
    for (path, methods) in api["paths"].as_object().expect("paths") {
        for method in methods
            .as_object()
            .expect("methods")
            .keys()
            .filter(|m| *m != "parameters")
        {
            let asked = good
                .iter()
                .any(|g| g.1 == path && g.0.eq_ignore_ascii_case(method));
            assert!(
                asked || path == "/api/events",
                "{method} {path} was not tried"
            );
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_as_it_is_described() {
    let upstream = Upstream::named("a");
    let gateway = start(&upstream);
    let api = gateway.api("GET", "/api/openapi.json").expect(200).json();
    let targets = [
        ("/api/sessions", "/api/sessions?limit=0"),
        ("/api/sessions", "/api/sessions?nothing=1"),
        ("/api/sessions/{sid}", "/api/sessions/short"),
        ("/api/sessions/{sid}", "/api/sessions/%ff"),
        (
            "/api/sessions/{sid}",
            "/api/sessions/AAAAAAAAAAAAAAAAAAAAAA",
        ),
        (
            "/api/sessions/{sid}/journal",
            "/api/sessions/AAAAAAAAAAAAAAAAAAAAAA/journal?values=2",
        ),
        (
            "/api/sessions/{sid}/tokens",
            "/api/sessions/AAAAAAAAAAAAAAAAAAAAAA/tokens",
        ),
        ("/api/events", "/api/events?type=nothing"),
        ("/api/upstreams/{service}", "/api/upstreams/nothing"),
        (
            "/api/upstreams/{service}/{id}",
            "/api/upstreams/app/nothing",
        ),
        ("/api/upstreams/{service}/{id}", "/api/upstreams/%ff/a"),
        ("/api/explain", "/api/explain?path=x"),
    ];
    let bodies = [
        None,
        Some(json!(null)),
        Some(json!([])),
        Some(json!({"nothing": 1})),
        Some(json!({"data": 7})),
        Some(json!({"source": "nothing"})),
        Some(json!({"weight": -1})),
        Some(json!({"state": "up"})),
        Some(json!({"path": "x"})),
    ];
    for (path, target) in targets {
        let methods = api["paths"][path].as_object().expect("methods").clone();
        for method in methods.keys().filter(|m| *m != "parameters") {
            let method = method.to_ascii_uppercase();
            let writes = matches!(method.as_str(), "POST" | "PUT" | "PATCH");
            for body in bodies.iter().take(if writes { bodies.len() } else { 1 }) {
                let response = send(&gateway, &method, target, body.as_ref());
                // A write to a good path whose target alone is bad may still be good.
                assert!(
                    response.status() < 500,
                    "{method} {target} {body:?}: {}",
                    response.text()
                );
                held(&api, path, &method, &response);
            }
        }
    }
    gateway.get("/").expect(200);
}

#[test]
fn the_metrics_pass_promtool() {
    let upstream = Upstream::named("a");
    let gateway = start(&upstream);
    gateway.get("/").expect(200);
    let text = gateway.api("GET", "/metrics").expect(200).text();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which .ci/tools installs");
    let mut input = promtool.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [&output.stderr[..], &output.stdout[..]].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// A form that is good may still mean nothing here: a field that is not indexed, an address that is none,
/// a weight of 1.0.
const SCHEMATHESIS: &str = r#"
[[operations]]
include-operation-id = ["deleteSessions", "explain", "explainPost", "addUpstream", "setUpstream"]
checks.positive_data_acceptance.enabled = false
"#;

#[test]
fn the_api_passes_schemathesis() {
    let upstream = Upstream::named("a");
    let gateway = start(&upstream);
    let words = gateway.dir().join("schemathesis.toml");
    std::fs::write(&words, SCHEMATHESIS).expect("a file");
    let output = Command::new("schemathesis")
        .arg("--config-file")
        .arg(&words)
        // The stream of events has no end.
        .args(["run", "--exclude-path", "/api/events", "--no-color"])
        // Settled, so that a run that passed passes again.
        .args(["--max-examples", "10", "--seed", "1"])
        .arg(format!("http://{}/api/openapi.json", gateway.admin))
        .current_dir(gateway.dir())
        .output()
        .expect("schemathesis, which .ci/tools installs");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    gateway.get("/").expect(200);
}
