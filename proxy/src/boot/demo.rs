//! `holdfast demo`: the gateway with two built-in upstreams, and no file.
//!
//! Owns the demo's configuration and its upstreams, each a small server on a port of its own, on one
//! thread beside the gateway's. Nothing of it is used by `run`.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use holdfast_config::{Mode, Source};

use crate::control::Options;
use crate::log;

/// Runs the demo.
pub fn run() -> u8 {
    let upstreams = match upstreams(["red", "blue"]) {
        Ok(upstreams) => upstreams,
        Err(error) => {
            log::error(format!("the demo's upstreams: {error}"));
            return 1;
        }
    };
    let text = configuration(&upstreams);
    let source = Source {
        name: "demo".into(),
        text,
    };
    let outcome = holdfast_config::load(&[source], &|_| None, Mode::Run);
    let Some(plan) = outcome.plan else {
        outcome
            .errors
            .iter()
            .for_each(|e| log::error(e.to_string()));
        return 2;
    };
    let options = Options {
        at_terminal: true,
        files: Vec::new(),
    };
    super::run(plan, options, |addresses| {
        if let Some(address) = addresses.first() {
            println!("{}", words(*address));
        }
    })
}

fn configuration(upstreams: &[(&str, SocketAddr)]) -> String {
    let mut list = String::new();
    for (id, address) in upstreams {
        list.push_str(&format!(
            "        - {{ id: {id}, address: \"{address}\" }}\n"
        ));
    }
    format!(
        "gateway:
  listeners:
    - address: \"127.0.0.1:8080\"
  admin:
    address: \"127.0.0.1:9901\"
  shutdown: {{ delay: 0s, timeout: 1s }}
  services:
    - name: demo
      upstreams:
{list}  session:
    identifier: {{ type: cookie, name: demo-session }}
  router:
    sessionAffinity:
      enabled: true
      methods: [cookie, sourceIP]
      cookie: {{ name: demo-backend }}
"
    )
}

fn words(address: SocketAddr) -> String {
    format!(
        "
Two upstreams, red and blue, are behind http://{address}. Try:

  curl -c jar -b jar http://{address}/                      # one of them, and the same one from now on
  curl -c jar -b jar 'http://{address}/login?user=ada'      # it logs you in: the cookie's secret changes
  curl -c jar -b jar 'http://{address}/cart?item=lantern'   # it keeps data in your session

What the gateway knows: http://127.0.0.1:9901/api/sessions and /metrics. Ctrl-C ends it.
"
    )
}

fn upstreams(ids: [&'static str; 2]) -> std::io::Result<Vec<(&'static str, SocketAddr)>> {
    let mut bound = Vec::new();
    let mut addresses = Vec::new();
    for id in ids {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        addresses.push((id, listener.local_addr()?));
        bound.push((id, listener));
    }
    std::thread::Builder::new()
        .name("demo-upstreams".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(serve(bound)),
                Err(error) => log::error(format!("the demo's upstreams: {error}")),
            }
        })?;
    Ok(addresses)
}

async fn serve(bound: Vec<(&'static str, std::net::TcpListener)>) {
    let mut servers = tokio::task::JoinSet::new();
    for (id, listener) in bound {
        servers.spawn(async move {
            let app = Router::new()
                .route("/", get(home))
                .route("/login", get(login))
                .route("/cart", get(cart))
                .with_state(id);
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, app).await
        });
    }
    while servers.join_next().await.is_some() {}
}

/// What an upstream sees of the session.
fn seen(id: &str, headers: &HeaderMap) -> String {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("-")
            .to_owned()
    };
    format!(
        "upstream: {id}\nsession:  {}\nversion:  {}\ndata:     {}\n",
        header("x-session-id"),
        header("x-session-version"),
        header("x-session-data")
    )
}

fn parameter(query: &RawQuery, name: &str) -> Option<String> {
    let value = query
        .0
        .as_deref()?
        .split('&')
        .find_map(|p| p.strip_prefix(name)?.strip_prefix('='))?;
    // Enough for a demo: nothing that would need escaping gets into a header.
    let clean: String = value
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(64)
        .collect();
    (!clean.is_empty()).then_some(clean)
}

async fn home(State(id): State<&'static str>, headers: HeaderMap) -> String {
    seen(id, &headers)
}

async fn login(State(id): State<&'static str>, query: RawQuery, headers: HeaderMap) -> Response {
    let Some(user) = parameter(&query, "user") else {
        return (
            axum::http::StatusCode::BAD_REQUEST,
            "user is missing: /login?user=ada\n",
        )
            .into_response();
    };
    let text = format!(
        "{}you are now {user}: look again at /\n",
        seen(id, &headers)
    );
    (
        [(
            "x-session-authenticate",
            format!("{{\"userId\":\"{user}\"}}"),
        )],
        text,
    )
        .into_response()
}

async fn cart(State(id): State<&'static str>, query: RawQuery, headers: HeaderMap) -> Response {
    let Some(item) = parameter(&query, "item") else {
        return (
            axum::http::StatusCode::BAD_REQUEST,
            "item is missing: /cart?item=lantern\n",
        )
            .into_response();
    };
    let text = format!(
        "{}{item} is in your session: look again at /\n",
        seen(id, &headers)
    );
    (
        [("x-session-set", format!("{{\"cart\":\"{item}\"}}"))],
        text,
    )
        .into_response()
}
