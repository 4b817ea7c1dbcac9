//! One active health check: connect, ask, judge the status.
//!
//! Owns nothing between checks: every check is a connection of its own, so it also tests that one can
//! be opened. Run by tasks of the control thread.
//!
//! Invariants: a check ends within the timeout of its plan, reads one response head of bounded size
//! and no body, and follows no redirect. What fails on our side (no descriptors, no local port) is no
//! verdict on the upstream.
//!
//! Deliberately not here: when to check, and what follows from it ([`super::health`]).
//! Tested below against real sockets.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Longest response head of a check.
const HEAD_BYTES: usize = 16 * 1024;

/// Addresses of one name that a check tries in turn.
const ADDRESSES: usize = 4;

/// PROXY protocol version 2, command LOCAL: "this connection is the proxy's own".
const PROXY_LOCAL: &[u8; 16] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Where an upstream is at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// These addresses, in order of preference; empty while a name does not resolve.
    Addresses(Arc<[SocketAddr]>),
    /// A unix stream socket.
    Unix(PathBuf),
}

/// What to ask.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Request target.
    pub path: String,
    /// Host header.
    pub host: String,
    /// Bound of the whole check.
    pub timeout: Duration,
    /// The upstream speaks HTTP/2: that it accepts a connection is all that is asked.
    pub connect_only: bool,
    /// The upstream speaks TLS.
    pub tls: Option<Tls>,
    /// The upstream expects a PROXY header.
    pub proxy_protocol: bool,
}

/// How a check speaks TLS.
#[derive(Clone)]
pub struct Tls {
    /// Authorities and our certificate.
    pub config: Arc<rustls::ClientConfig>,
    /// Name that the upstream's certificate must carry.
    pub name: rustls::pki_types::ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A status of 2xx or 3xx, or a connection where no more is asked.
    Healthy(String),
    /// 404: the upstream asks to be drained.
    Drain,
    /// Anything else.
    Unhealthy(String),
    /// The check could not be made, for a reason of ours.
    Unknown(String),
}

/// Makes one check.
pub async fn check(probe: &Probe, place: &Place) -> Found {
    match tokio::time::timeout(probe.timeout, attempt(probe, place)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) if is_ours(&error) => Found::Unknown(error.to_string()),
        Ok(Err(error)) => Found::Unhealthy(error.to_string()),
        Err(_) => Found::Unhealthy(format!("no answer within {:?}", probe.timeout)),
    }
}

/// Errors that say something about this machine, not about the upstream.
fn is_ours(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

async fn attempt(probe: &Probe, place: &Place) -> io::Result<Found> {
    match place {
        Place::Unix(path) => ask(probe, UnixStream::connect(path).await?).await,
        Place::Addresses(addresses) => {
            let mut last = io::Error::other("its name does not resolve");
            for address in addresses.iter().take(ADDRESSES) {
                match TcpStream::connect(address).await {
                    Ok(stream) => return ask(probe, stream).await,
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

async fn ask(
    probe: &Probe,
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<Found> {
    if probe.proxy_protocol && (!probe.connect_only || probe.tls.is_some()) {
        stream.write_all(PROXY_LOCAL).await?;
    }
    let Some(Tls { config, name }) = probe.tls.clone() else {
        return request(probe, stream).await;
    };
    let connector = tokio_rustls::TlsConnector::from(config);
    request(probe, connector.connect(name, stream).await?).await
}

async fn request(
    probe: &Probe,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<Found> {
    if probe.connect_only {
        return Ok(Found::Healthy("accepts connections".into()));
    }
    let request = Request::get(&probe.path)
        .header(header::HOST, &probe.host)
        .header(
            header::USER_AGENT,
            concat!("holdfast/", env!("CARGO_PKG_VERSION"), " (health check)"),
        )
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let mut connection = pin!(connection);
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // The connection may end in the very turn that brought the head.
        _ = &mut connection => response.await,
    };
    let status = response
        .map_err(|error| io::Error::other(reason(&error)))?
        .status();
    Ok(match status.as_u16() {
        404 => Found::Drain,
        code @ 200..=399 => Found::Healthy(format!("status {code}")),
        code => Found::Unhealthy(format!("status {code}")),
    })
}

/// What hyper says, without the causes that it would print as well.
fn reason(error: &hyper::Error) -> &'static str {
    if error.is_parse() {
        "the answer is no HTTP/1.1"
    } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        "the connection was closed without an answer"
    } else {
        "the connection broke"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    fn probe() -> Probe {
        Probe {
            path: "/healthz?full=1".into(),
            host: "app:9001".into(),
            timeout: Duration::from_secs(10),
            connect_only: false,
            tls: None,
            proxy_protocol: false,
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// Answers one connection with `answer` once the request's head is there, and keeps what it read.
    async fn answering(answer: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&seen);
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
            *keep.lock().unwrap() = head;
            let _ = stream.write_all(answer).await;
        });
        (address, seen)
    }

    fn at(address: SocketAddr) -> Place {
        Place::Addresses(Arc::from([address]))
    }

    #[test]
    fn answers_and_what_they_mean() {
        let healthy = |code: &str| Found::Healthy(format!("status {code}"));
        let unhealthy = |why: &str| Found::Unhealthy(why.into());
        for (answer, expected) in [
            (
                &b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..],
                healthy("200"),
            ),
            (b"HTTP/1.1 204 No Content\r\n\r\n", healthy("204")),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nab",
                healthy("200"),
            ),
            (b"HTTP/1.0 200 OK\r\n\r\n", healthy("200")),
            (
                b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n",
                healthy("302"),
            ),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                healthy("200"),
            ),
            (
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
                Found::Drain,
            ),
            (
                b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
                unhealthy("status 500"),
            ),
            (
                b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
                unhealthy("status 401"),
            ),
            (b"SSH-2.0-x\r\n", unhealthy("the answer is no HTTP/1.1")),
            (
                b"",
                unhealthy("the connection was closed without an answer"),
            ),
            (
                b"HTTP/1.1 200",
                unhealthy("the connection was closed without an answer"),
            ),
        ] {
            let found = block_on(async {
                let (address, _) = answering(answer).await;
                check(&probe(), &at(address)).await
            });
            assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(answer));
        }
    }

    #[test]
    fn the_request_is_a_plain_get() {
        block_on(async {
            let (address, seen) = answering(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let with_header = Probe {
                proxy_protocol: true,
                ..probe()
            };
            check(&with_header, &at(address)).await;
            let seen = seen.lock().unwrap();
            let (proxy, head) = seen.split_at(16);
            assert_eq!(proxy, PROXY_LOCAL);
            let head = std::str::from_utf8(head).unwrap();
            assert!(
                head.starts_with("GET /healthz?full=1 HTTP/1.1\r\nhost: app:9001\r\n"),
                "{head}"
            );
            assert!(head.contains("connection: close\r\n"), "{head}");
        });
    }

    #[test]
    fn an_endless_head_is_refused() {
        let found = block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut answer = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
                while stream.write_all(&answer).await.is_ok() {
                    answer.fill(b'y');
                }
            });
            check(&probe(), &at(address)).await
        });
        assert!(matches!(found, Found::Unhealthy(_)), "{found:?}");
    }

    #[test]
    fn silence_runs_into_the_timeout() {
        let found = block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let short = Probe {
                timeout: Duration::from_millis(50),
                ..probe()
            };
            check(&short, &at(listener.local_addr().unwrap())).await
        });
        assert_eq!(found, Found::Unhealthy("no answer within 50ms".into()));
    }

    #[test]
    fn refused_connections_and_further_addresses() {
        block_on(async {
            let closed = {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                listener.local_addr().unwrap()
            };
            assert!(matches!(
                check(&probe(), &at(closed)).await,
                Found::Unhealthy(_)
            ));
            let (open, _) = answering(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let both = Place::Addresses(Arc::from([closed, open]));
            assert_eq!(
                check(&probe(), &both).await,
                Found::Healthy("status 200".into())
            );
            let none = Place::Addresses(Arc::from([]));
            assert_eq!(
                check(&probe(), &none).await,
                Found::Unhealthy("its name does not resolve".into())
            );
        });
    }

    #[test]
    fn unix_sockets_and_bare_connects() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        block_on(async {
            let place = Place::Unix(path.clone());
            assert!(matches!(check(&probe(), &place).await, Found::Unhealthy(_)));
            let listener = UnixListener::bind(&path).unwrap();
            let connect = Probe {
                connect_only: true,
                ..probe()
            };
            assert_eq!(
                check(&connect, &place).await,
                Found::Healthy("accepts connections".into())
            );
            drop(listener.accept().await.unwrap());
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut head).await.unwrap();
                }
                stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\n\r\n")
                    .await
                    .unwrap();
            });
            assert_eq!(check(&probe(), &place).await, Found::Drain);
        });
    }

    #[test]
    fn our_own_shortage_is_no_verdict() {
        assert!(is_ours(&io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(!is_ours(&io::Error::from_raw_os_error(libc::ECONNREFUSED)));
    }
}
