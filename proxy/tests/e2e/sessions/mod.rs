//! Sessions in memory: identity, tokens, control by responses, data, life and death.

mod attributes;
mod control;
mod cookies;
mod creation;
mod data;
mod destroy;
mod eviction;
mod forwarding;
mod home;
mod lifetime;
mod origin;
mod rotation;
mod signed;
mod sockets;
mod sources;
mod subject;
mod tokens;
mod validation;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::harness::{Client, Gateway, Reply, Response, Upstream, ask, indent, service};

/// The usual identifier of these tests.
const COOKIE: &str = "identifier: { type: cookie, name: sid }\n";
/// Sessions on demand only.
const ON_DEMAND: &str = "lifecycle: { creation: { triggers: [explicitCreate, authentication] } }\n";
/// Signed tokens.
const SIGNED: &str = "security: { encryption: { enabled: true, id: { enabled: true, secret: \"a secret for the tests, long enough\" } } }\n";

/// A gateway with these keys under `session:`.
#[track_caller]
fn with_session(upstream: &Upstream, keys: &str) -> Gateway {
    with_more(upstream, keys, "")
}

/// The same, with further keys under `gateway:`.
#[track_caller]
fn with_more(upstream: &Upstream, keys: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "{}session:\n{}{more}",
        service(&[upstream]),
        indent(keys, 2)
    ))
}

/// An application that answers as it is asked to.
fn app() -> Upstream {
    Upstream::obedient("a")
}

/// The sid that the upstream's newest request carried.
#[track_caller]
fn sid(upstream: &Upstream) -> String {
    let last = upstream.last();
    last.get("x-session-id")
        .unwrap_or_else(|| panic!("no session in {:?}", last.head))
        .to_owned()
}

/// The data that it carried; `null` for none.
fn data(upstream: &Upstream) -> serde_json::Value {
    upstream
        .last()
        .get("x-session-data")
        .map_or(serde_json::Value::Null, |text| {
            serde_json::from_str(text).expect("JSON")
        })
}

/// A client that has a session: its sid and itself.
#[track_caller]
fn signed_in(gateway: &Gateway, upstream: &Upstream) -> (Client, String) {
    let mut client = gateway.client();
    client.get("/").expect(200);
    client.get("/").expect(200);
    let sid = sid(upstream);
    (client, sid)
}

/// A token's bytes.
#[track_caller]
fn decode(token: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD
        .decode(token)
        .unwrap_or_else(|e| panic!("{e}: {token:?}"))
}

/// A token with its bytes changed.
fn altered(token: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = decode(token);
    change(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A request with exactly this cookie, outside any jar.
#[track_caller]
fn with_cookie(gateway: &Gateway, cookie: &str) -> Response {
    gateway
        .client()
        .request("GET", "/")
        .header("Cookie", cookie)
        .send()
        .expect(200)
}

/// Fails unless the upstream's newest request came without a session, in this state.
#[track_caller]
fn expect_state(upstream: &Upstream, state: Option<&str>) {
    let head = upstream.last().head;
    assert_eq!(head.get("x-session-state"), state, "{head:?}");
    for name in [
        "x-session-id",
        "x-session-new",
        "x-session-data",
        "x-session-version",
    ] {
        assert!(!head.has(name), "{name} in {head:?}");
    }
}
