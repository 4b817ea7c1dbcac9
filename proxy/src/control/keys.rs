//! Keys of tokens: the file that is read again when it changes, and the URL that is fetched.
//!
//! Owns the time of the last look and of the next. [`follow`] is a task of the control thread's runtime; what
//! it finds goes to the control loop, which passes it to the cores.
//!
//! Invariants: keys that can't be had leave those that there are; a fetch ends within `FETCH`, reads one
//! response of bounded size, follows no redirect, and comes at most once in `LEAST`, whoever asks; after
//! failures it waits longer each time. Every result names its source, so that one which comes late after a
//! reload is known.
//!
//! Deliberately not here: what a key set is ([`crate::attributes::keys`]). Tested end to end.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};

use crate::attributes::keys::{self, KeySet, MAX_SET};
use crate::setup::Setup;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long fetched keys stay before they are fetched again.
const REFRESH: Duration = Duration::from_secs(300);
/// Least time between two fetches that tokens of an unknown key ask for.
const LEAST: Duration = Duration::from_secs(10);
/// Longest fetch.
const FETCH: Duration = Duration::from_secs(10);
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// An `http` or `https` address.
    Url(String),
}

impl Source {
    /// Of a configuration.
    pub fn of(setup: &Setup) -> Option<Self> {
        let jwt = setup.plan.jwt.as_ref()?;
        match (&jwt.jwks_file, &jwt.jwks_url) {
            (Some(path), _) => Some(Self::File(path.clone())),
            (None, Some(url)) => Some(Self::Url(url.clone())),
            (None, None) => None,
        }
    }
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// Where.
    pub source: Source,
    /// The keys, or why there are none.
    pub keys: Result<Arc<KeySet>, String>,
}

/// Follows the source of the configuration that holds. Ends with the control thread.
pub async fn follow(
    mut setups: watch::Receiver<Arc<Setup>>,
    wanted: Arc<Notify>,
    found: mpsc::Sender<Found>,
) {
    loop {
        let source = Source::of(&setups.borrow_and_update());
        let following = async {
            match &source {
                None => std::future::pending().await,
                Some(Source::File(path)) => file(path, &found).await,
                Some(Source::Url(url)) => url_at(url, &wanted, &found).await,
            }
        };
        tokio::select! {
            () = following => return,
            changed = another(&mut setups, &source) => if !changed { return },
        }
    }
}

/// Waits for a configuration with another source; false at the end.
async fn another(setups: &mut watch::Receiver<Arc<Setup>>, source: &Option<Source>) -> bool {
    loop {
        if setups.changed().await.is_err() {
            return false;
        }
        if Source::of(&setups.borrow_and_update()) != *source {
            return true;
        }
    }
}

/// What tells that a file is another one: size, inode, time of change.
type Stamp = (u64, u64, i64, i64);

async fn file(path: &Path, found: &mpsc::Sender<Found>) {
    let mut known: Option<Stamp> = None;
    loop {
        let at = path.to_path_buf();
        let looked = tokio::task::spawn_blocking(move || {
            let of = std::fs::metadata(&at).ok()?;
            let stamp = (of.len(), of.ino(), of.mtime(), of.mtime_nsec());
            (known != Some(stamp)).then(|| (stamp, keys::read(&at)))
        });
        if let Ok(Some((stamp, read))) = looked.await {
            known = Some(stamp);
            let keys = read
                .map(Arc::new)
                .map_err(|error| format!("gateway.auth.jwt.jwksFile: {} {error}", path.display()));
            let source = Source::File(path.to_path_buf());
            if found.send(Found { source, keys }).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn url_at(url: &str, wanted: &Notify, found: &mpsc::Sender<Found>) {
    let mut wait = BACKOFF.0;
    loop {
        let fetched = tokio::time::timeout(FETCH, fetch(url)).await;
        let keys = fetched
            .unwrap_or_else(|_| Err("there was no answer in time".to_owned()))
            .and_then(|body| KeySet::parse(&body).map_err(str::to_owned))
            .map(Arc::new)
            .map_err(|error| format!("gateway.auth.jwt.jwksUrl: {url}: {error}"));
        let good = keys.is_ok();
        let source = Source::Url(url.to_owned());
        if found.send(Found { source, keys }).await.is_err() {
            return;
        }
        if good {
            wait = BACKOFF.0;
            tokio::time::sleep(LEAST).await;
            // A wish that came meanwhile is kept by the `Notify`.
            tokio::select! {
                () = tokio::time::sleep(REFRESH.saturating_sub(LEAST)) => {}
                () = wanted.notified() => {}
            }
        } else {
            // Spread over half of the time, so that instances don't come together.
            let spread = getrandom::u32().map_or(0.5, |n| f64::from(n) / f64::from(u32::MAX));
            tokio::time::sleep(wait.mul_f64(0.75 + spread / 2.0)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }
}

/// The body of a 200.
async fn fetch(url: &str) -> Result<Bytes, String> {
    let uri: hyper::Uri = url.parse().map_err(|_| "is no address".to_owned())?;
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host().ok_or("has no host")?.to_owned();
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let stream = TcpStream::connect((bare.as_str(), port))
        .await
        .map_err(|e| e.to_string())?;
    if !tls {
        return ask(&uri, stream).await;
    }
    let name = rustls::pki_types::ServerName::try_from(bare).map_err(|_| "has no host name")?;
    // The system's authorities are read from files.
    let config = tokio::task::spawn_blocking(crate::tls::public_client)
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|e| e.to_string())?;
    ask(&uri, stream).await
}

async fn ask(
    uri: &hyper::Uri,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Bytes, String> {
    let words = |error: hyper::Error| error.to_string();
    let authority = uri.authority().map_or("", |a| a.as_str());
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(
            header::USER_AGENT,
            concat!("holdfast/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(words)?;
    let mut connection = pin!(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(words)?;
        if response.status() != hyper::StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_SET);
        let whole = body.collect().await.map_err(|e| e.to_string())?;
        Ok(whole.to_bytes())
    };
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            // The answer may have been the last thing that came.
            Ok(()) => answer.await,
            Err(error) => Err(error.to_string()),
        },
    }
}
