//! The HTTP client of the webhook: POSTs over one kept connection, in plain text or TLS.
//!
//! Owns that connection. The webhook's task alone uses it. Invariants: an answer's head and body are
//! bounded; no redirect is followed, no proxy and no cookie used; a server's certificate is checked
//! against the system's authorities. How long a try may take is the caller's, who calls
//! [`Client::close`] when it has dropped one under way. Tested end to end.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Longest head of an answer.
const HEAD_BYTES: usize = 16 * 1024;
/// Longest body of an answer after which its connection is kept.
const ANSWER_BYTES: usize = 64 * 1024;

/// What to send.
pub struct Post<'a> {
    /// Where to.
    pub url: &'a str,
    /// Value of the signature header.
    pub signature: Option<String>,
    /// The batch.
    pub body: Bytes,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// See the module.
#[derive(Default)]
pub struct Client {
    /// The connection, and where it leads.
    open: Option<(String, SendRequest<Full<Bytes>>)>,
    tls: Option<Arc<ClientConfig>>,
}

impl Client {
    /// Forgets the connection.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// Sends, and reads the answer.
    ///
    /// # Errors
    /// Why there is none, in words without the URL, which may hold a secret.
    pub async fn post(&mut self, post: Post<'_>) -> Result<Answer, String> {
        let uri: Uri = post.url.parse().map_err(|_| "its URL is malformed")?;
        let kept = self.open.take().filter(|(to, _)| to == post.url);
        if let Some((_, sender)) = kept
            && let Ok(answer) = self.exchange(sender, &uri, &post).await
        {
            return Ok(answer);
        }
        // A kept connection may have been closed meanwhile: that alone is no failure of the receiver's.
        let sender = self.connect(&uri).await.map_err(|e| e.to_string())?;
        let exchanged = self.exchange(sender, &uri, &post).await;
        exchanged.map_err(|error| words(&error))
    }

    async fn exchange(
        &mut self,
        mut sender: SendRequest<Full<Bytes>>,
        uri: &Uri,
        post: &Post<'_>,
    ) -> hyper::Result<Answer> {
        sender.ready().await?;
        let response = sender.send_request(request(uri, post)).await?;
        let answer = Answer {
            status: response.status().as_u16(),
            retry_after: retry_after(&response),
        };
        let body = Limited::new(response.into_body(), ANSWER_BYTES);
        if body.collect().await.is_ok() {
            self.open = Some((post.url.to_owned(), sender));
        }
        Ok(answer)
    }

    async fn connect(&mut self, uri: &Uri) -> io::Result<SendRequest<Full<Bytes>>> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((bare, port)).await?;
        stream.set_nodelay(true)?;
        if !secure {
            return handshake(stream).await;
        }
        let config = match &self.tls {
            Some(config) => Arc::clone(config),
            None => {
                // Reads the authorities' files.
                let made = tokio::task::spawn_blocking(crate::tls::public_client).await;
                let config = made.map_err(io::Error::other)?.map_err(io::Error::other)?;
                Arc::clone(self.tls.insert(config))
            }
        };
        let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(config);
        handshake(connector.connect(name, stream).await?).await
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // It ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}

fn request(uri: &Uri, post: &Post<'_>) -> Request<Full<Bytes>> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| {
        let text = authority.as_str();
        text.rsplit_once('@').map_or(text, |(_, host)| host)
    });
    let mut request = Request::post(path)
        .header(header::HOST, host)
        .header(
            header::CONTENT_TYPE,
            "application/cloudevents-batch+json; charset=utf-8",
        )
        .header(
            header::USER_AGENT,
            concat!("holdfast/", env!("CARGO_PKG_VERSION")),
        );
    if let Some(signature) = &post.signature {
        request = request.header("X-Holdfast-Signature", signature);
    }
    // A URL that was parsed gives a request that can be made.
    request
        .body(Full::new(post.body.clone()))
        .unwrap_or_else(|_| Request::new(Full::new(post.body.clone())))
}

fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    super::retry_after(value, SystemTime::now())
}

/// What hyper says, with its causes.
fn words(error: &hyper::Error) -> String {
    let mut out = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        out = format!("{out}: {error}");
        cause = error.source();
    }
    out
}
