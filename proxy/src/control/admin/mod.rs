//! The admin endpoint: probes, metrics, sessions, upstreams; HTTP/1.1 on an address of its own.
//!
//! Owns the listener, its connections and nothing of the gateway's state: handlers ask through
//! [`Desk`]. Runs on the control thread, off the request path.
//!
//! Invariants: at most [`CONNECTIONS`] connections, [`BODY`] bytes of a request body, `HEAD_TIME` for
//! a head (and between requests), `HANDLER_TIME` for an answer, `LIFE` for a connection. Every
//! request passes [`Guard`]; every write leaves a line. No answer holds a secret, and
//! values of sessions are masked unless asked for.
//!
//! Deliberately no TLS: it belongs on loopback or behind something that has it.
//! Tested below over real sockets.

pub mod error;
pub mod events;
pub mod explain;
pub mod exposition;
pub mod guard;
pub mod instance;
pub mod metrics;
pub mod page;
pub mod probes;
pub mod sessions;
pub mod upstreams;
pub mod writes;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, body::Body};
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use self::error::ApiError;
use self::guard::Guard;
use super::desk::{Desk, Unanswered};
use super::process;
use crate::log;

/// Connections at a time.
pub const CONNECTIONS: usize = 256;
/// Bytes of a request body.
pub const BODY: usize = 64 * 1024;
/// Time for a request's head, also between two requests.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Time from a request's head to the head of its answer, its body included.
const HANDLER_TIME: Duration = Duration::from_secs(10);
/// Age at which a connection takes no further request.
const LIFE: Duration = Duration::from_secs(600);
/// Time for the answer in flight then.
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const HEAD: usize = 32 * 1024;

/// What the handlers share.
#[derive(Clone)]
pub struct Admin {
    /// To the control loop.
    pub desk: Desk,
    /// Where the endpoint really listens.
    address: SocketAddr,
}

impl Admin {
    /// The checks, by the configuration that holds now: its token may have changed.
    fn check(&self, method: &Method, headers: &HeaderMap, open: bool) -> Result<(), ApiError> {
        match &self.desk.setup().plan.admin {
            Some(admin) => Guard::new(self.address, admin).check(method, headers, open),
            None => Err(no_such_path()),
        }
    }
}

/// Who sent a request; an extension of it.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

/// Ends the connection that a request came by, also while it hangs in a write; an extension of it.
#[derive(Debug, Clone)]
pub struct End(Arc<Notify>);

/// What a write did, for the audit line; an extension of a response.
#[derive(Debug, Clone)]
pub struct Audit(pub String);

/// The endpoint's routes, with all checks around them.
pub fn router(desk: Desk, address: SocketAddr) -> Router {
    let admin = Admin { desk, address };
    let router = Router::new()
        .route("/", get(page::dashboard))
        .route("/api/openapi.json", get(page::openapi))
        .route("/healthz", get(probes::healthz))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(scrape))
        .route(
            "/api/sessions",
            get(sessions::list)
                .post(writes::create)
                .delete(sessions::delete_by),
        )
        .route(
            "/api/sessions/{sid}",
            get(sessions::get)
                .patch(writes::patch)
                .delete(sessions::delete),
        )
        .route("/api/sessions/{sid}/tokens", post(writes::new_token))
        .route("/api/explain", get(explain::get).post(explain::post))
        .route("/api/config", get(instance::config))
        .route("/api/cluster", get(instance::cluster))
        .route("/api/upstreams/{service}", post(upstreams::add))
        .route("/api/sessions/{sid}/journal", get(events::journal))
        .route("/api/events", get(events::stream))
        .route("/api/reload", post(reload))
        .route("/api/upstreams", get(upstreams::list))
        .route(
            "/api/upstreams/{service}/{id}",
            get(upstreams::get)
                .put(upstreams::put)
                .delete(upstreams::remove),
        );
    router
        .fallback(async || no_such_path())
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not take that method",
            )
        })
        .layer(middleware::from_fn_with_state(admin.clone(), around))
        .with_state(admin)
}

/// The checks before a handler, its time limit, and the line after a write.
async fn around(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let peer = request
        .extensions()
        .get::<Peer>()
        .map_or_else(|| "?".to_owned(), |peer| peer.0.to_string());
    let open = matches!(path.as_str(), "/" | "/healthz" | "/readyz");
    let mut response = match admin.check(&method, request.headers(), open) {
        Err(error) => error.into_response(),
        Ok(()) => match tokio::time::timeout(HANDLER_TIME, next.run(request)).await {
            Ok(response) => response,
            Err(_) => ApiError::unavailable("the request took too long").into_response(),
        },
    };
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if !matches!(method, Method::GET | Method::HEAD) {
        audit(&method, &path, &peer, &response);
    }
    response
}

/// The line that a write leaves, carried out or not. Refused ones, which anybody can send, are limited.
fn audit(method: &Method, path: &str, peer: &str, response: &Response) {
    static REFUSED: log::Limited = log::Limited::new(Duration::from_secs(1));
    let what = response
        .extensions()
        .get::<Audit>()
        .map_or("", |audit| audit.0.as_str());
    let blank = if what.is_empty() { "" } else { " " };
    let status = response.status().as_u16();
    let line = format!(
        "audit: {method} {} by {peer}: {status}{blank}{what}",
        path.chars().take(256).collect::<String>()
    );
    if response.status().is_success() {
        log::info(line)
    } else {
        REFUSED.warn(|| line)
    }
}

fn no_such_path() -> ApiError {
    ApiError::not_found("there is no such path; GET /api/openapi.json lists them")
}

async fn scrape(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let status = admin.desk.status().await?;
    if !metrics::enabled(&status.setup.plan) {
        return Err(no_such_path());
    }
    let desk = &admin.desk;
    let body = metrics::body(&desk.shared, &status, &desk.webhook, &process::read());
    Ok(([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], body).into_response())
}

/// POST /api/reload
async fn reload(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let outcome = admin
        .desk
        .reload()
        .await
        .map_err(|unanswered| match unanswered {
            Unanswered::Late => ApiError::unavailable("the reload is still under way"),
            busy => busy.into(),
        })?;
    let mut response = match outcome {
        Ok(done) => error::json(
            StatusCode::OK,
            &serde_json::json!({
                "configuration": done.number,
                "changed": done.changed,
                "warnings": done.warnings,
            }),
        ),
        Err(errors) => error::json(
            StatusCode::UNPROCESSABLE_ENTITY,
            &serde_json::json!({
                "error": "the configuration stays as it was",
                "errors": errors,
            }),
        ),
    };
    response.extensions_mut().insert(Audit("reload".to_owned()));
    Ok(response)
}

/// A plain answer.
fn plain(status: StatusCode, text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, text).into_response()
}

/// The body of a write.
///
/// # Errors
/// 413 past [`BODY`], 400 where it breaks off or isn't the JSON object wanted.
pub async fn body<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let bytes = axum::body::to_bytes(body, BODY).await.map_err(|error| {
        let error: &(dyn std::error::Error + 'static) = &error;
        let too_long = std::iter::successors(Some(error), |error| error.source())
            .any(|error| error.is::<http_body_util::LengthLimitError>());
        if too_long {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a body has at most {BODY} bytes"),
            )
        } else {
            ApiError::bad("the body broke off")
        }
    })?;
    // A list would be read as the fields of an object in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::bad("the body is to be a JSON object"));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad(format!("the body is not what is expected: {error}")))
}

/// Reads a part of a body that may be left out, but not be null: what is not meant is not written.
///
/// # Errors
/// Those of the part's own reader.
pub fn given<'de, D, T>(input: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    T::deserialize(input).map(Some)
}

/// Binds the endpoint, so that a taken port is an error at the start.
///
/// # Errors
/// Those of bind(2) and listen(2).
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until it is dropped. Within the control thread's runtime.
pub async fn serve(listener: TcpListener, router: Router, desk: Desk) {
    static FAILING: log::Limited = log::Limited::new(Duration::from_secs(60));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: an immediate retry would spin.
                FAILING.error(|| format!("the admin endpoint can't accept: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            desk.counts.refused.fetch_add(1, Relaxed);
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            connection(stream, peer, router).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let end = Arc::new(Notify::new());
    let ended = Arc::clone(&end);
    let with_peer =
        hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            request.extensions_mut().insert(End(Arc::clone(&end)));
            service.call(request)
        });
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), with_peer)
    );
    // How a connection ends is its client's business: no line, and the request's answer said the rest.
    let lived = tokio::select! {
        () = ended.notified() => return,
        lived = tokio::time::timeout(LIFE, connection.as_mut()) => lived,
    };
    if lived.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_ANSWER, connection).await;
    }
}
