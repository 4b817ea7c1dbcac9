//! A static upstream that costs as little as it can: the same prepared bytes for every request.
//!
//! Owns its listeners and connections; one ring a thread, SO_REUSEPORT between threads. Each
//! listener has an id, sent as `X-Upstream`, so that affinity can be checked at the client. Request
//! bodies are read and dropped, pipelined requests answered in order. The prepared answers live as
//! long as the process. Bounded: a head by [`http::MAX_HEAD`], a connection by one read buffer;
//! the number of connections by the descriptor limit alone. No routes, no ranges, no HTTP/1.0
//! keep-alive. Tested here and by the smoke test.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};

use crate::args::{Args, address};
use crate::http::{self, Body, Framing};
use crate::ring;

/// Usage.
pub const HELP: &str = "\
holdfast-perf upstream --listen [ID=]ADDRESS:PORT [--listen ...]
  --size 600        bytes of the answer's body (64KiB, 1MiB)
  --chunked 16KiB   send it chunked, in chunks of that size
  --close           end the connection after each answer
  --delay 0ms       wait before answering
  --set new|always  answer with X-Session-Set: {\"userId\":\"u-N\",\"cartId\":\"c-N\",\"n\":N}, to requests
                    with X-Session-New or to all; N counts from 1
  --header 'A: b'   one more header of the answer (repeatable)
  --threads 1
  Prints `listening ID ADDRESS:PORT` for each (port 0 takes any), then runs until killed.
";

/// When to answer with `X-Session-Set`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetFields {
    /// Never.
    Off,
    /// Where the request says `X-Session-New`.
    New,
    /// Always.
    Always,
}

/// What to answer.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of body.
    pub size: usize,
    /// Chunk size, if chunked.
    pub chunked: Option<usize>,
    /// End the connection after each answer.
    pub close: bool,
    /// Wait before each answer.
    pub delay: Duration,
    /// Session fields.
    pub set: SetFields,
    /// More headers.
    pub headers: Vec<String>,
}

/// The bytes of one listener's answer.
struct Answer {
    head: &'static [u8],
    /// Head and body.
    whole: &'static [u8],
    body: &'static [u8],
    options: Options,
    counter: Arc<AtomicU64>,
}

impl Answer {
    fn new(id: &str, options: &Options, counter: Arc<AtomicU64>) -> Self {
        let mut head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Upstream: {id}\r\n");
        for header in &options.headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        if options.close {
            head.push_str("Connection: close\r\n");
        }
        match options.chunked {
            Some(_) => head.push_str("Transfer-Encoding: chunked\r\n\r\n"),
            None => head.push_str(&format!("Content-Length: {}\r\n\r\n", options.size)),
        }
        let payload: Vec<u8> = (0..options.size).map(|i| b'a' + (i % 26) as u8).collect();
        let body = match options.chunked {
            None => payload,
            Some(size) => {
                let mut out = Vec::new();
                for chunk in payload.chunks(size.max(1)) {
                    out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n\r\n");
                out
            }
        };
        let whole: &'static [u8] = [head.as_bytes(), &body].concat().leak();
        let (head, body) = whole.split_at(head.len());
        Self {
            head,
            whole,
            body,
            options: options.clone(),
            counter,
        }
    }

    /// Writes the answer to one request. `new`: it carried `X-Session-New`.
    async fn write(&self, stream: &mut TcpStream, to_head: bool, new: bool) -> io::Result<()> {
        if !self.options.delay.is_zero() {
            monoio::time::sleep(self.options.delay).await;
        }
        let set = match self.options.set {
            SetFields::Off => false,
            SetFields::New => new,
            SetFields::Always => true,
        };
        if set {
            let n = self.counter.fetch_add(1, Relaxed) + 1;
            let end = self.head.len().saturating_sub(2);
            let mut out = Vec::with_capacity(self.whole.len() + 96);
            out.extend_from_slice(self.head.get(..end).unwrap_or_default());
            out.extend_from_slice(
                format!(
                    "X-Session-Set: {{\"userId\":\"u-{n}\",\"cartId\":\"c-{n}\",\"n\":{n}}}\r\n\r\n"
                )
                .as_bytes(),
            );
            if !to_head {
                out.extend_from_slice(self.body);
            }
            return stream.write_all(out).await.0.map(drop);
        }
        let bytes = if to_head { self.head } else { self.whole };
        stream.write_all(bytes).await.0.map(drop)
    }
}

/// Serves one connection to its end.
async fn connection(mut stream: TcpStream, answer: Rc<Answer>) -> io::Result<()> {
    let mut buffer: Vec<u8> = Vec::with_capacity(16 * 1024);
    let mut start = 0;
    let mut body = Body::new(Framing::Length(0));
    let mut pending: Option<(bool, bool, bool)> = None;
    let bad = |e: http::Invalid| io::Error::new(io::ErrorKind::InvalidData, e.0);
    loop {
        // Everything that is complete in the buffer, in order.
        loop {
            let rest = buffer.get(start..).unwrap_or_default();
            if pending.is_none() {
                let new = Cell::new(false);
                let head = http::request_head(rest, |name, _| {
                    if name.len() == 13 && name.eq_ignore_ascii_case(b"x-session-new") {
                        new.set(true);
                    }
                });
                let Some(head) = head.map_err(bad)? else {
                    break;
                };
                start += head.len;
                body = Body::new(head.framing);
                pending = Some((head.head, head.close, new.get()));
            }
            start += body
                .feed(buffer.get(start..).unwrap_or_default())
                .map_err(bad)?;
            if !body.done() {
                break;
            }
            if let Some((to_head, close, new)) = pending.take() {
                answer.write(&mut stream, to_head, new).await?;
                if close || answer.options.close {
                    return stream.shutdown().await;
                }
            }
        }
        if start > 0 {
            buffer.drain(..start);
            start = 0;
        }
        if buffer.len() == buffer.capacity() {
            buffer.reserve(16 * 1024);
        }
        let filled = buffer.len();
        let (result, slice) = stream.read(buffer.slice_mut(filled..)).await;
        buffer = slice.into_inner();
        if result? == 0 {
            return Ok(());
        }
    }
}

async fn accept(listener: TcpListener, answer: Rc<Answer>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let answer = Rc::clone(&answer);
                monoio::spawn(async move {
                    // A client that goes away is its own affair.
                    let _ = connection(stream, answer).await;
                });
            }
            Err(error) => {
                eprintln!("accept: {error}");
                monoio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// The subcommand: never returns while all is well.
///
/// # Errors
/// On wrong usage, or when an address can't be bound.
pub fn main(mut args: Args) -> Result<(), String> {
    let listen = args.values("--listen")?;
    let threads = args.number("--threads", 1)?.max(1);
    let options = Options {
        size: args.size("--size", 600)?,
        chunked: args
            .value("--chunked")?
            .map(|text| crate::args::size(&text).ok_or(format!("--chunked: `{text}`")))
            .transpose()?,
        close: args.flag("--close"),
        delay: args.duration("--delay", Duration::ZERO)?,
        set: match args.value("--set")?.as_deref() {
            None | Some("off") => SetFields::Off,
            Some("new") => SetFields::New,
            Some("always") => SetFields::Always,
            Some(other) => return Err(format!("--set: new or always, not `{other}`")),
        },
        headers: args.values("--header")?,
    };
    args.finish()?;
    let mut wanted = Vec::new();
    for (number, text) in listen.iter().enumerate() {
        let (id, at) = match text.split_once('=') {
            Some((id, at)) => (id.to_owned(), at),
            None => (format!("u{}", number + 1), text.as_str()),
        };
        let at = address(at).ok_or_else(|| format!("--listen: `{text}`"))?;
        wanted.push((id, at));
    }
    if wanted.is_empty() {
        return Err("--listen [ID=]ADDRESS:PORT is required".into());
    }
    let counter = Arc::new(AtomicU64::new(0));
    // The first thread binds and finds out the ports, the others share them.
    let mut bound = Vec::new();
    for (id, at) in wanted {
        let listener = ring::listen(at, threads > 1).map_err(|e| format!("{at}: {e}"))?;
        let at = listener.local_addr().map_err(|e| e.to_string())?;
        println!("listening {id} {at}");
        bound.push((id, at, listener));
    }
    for _ in 1..threads {
        let mut mine = Vec::new();
        for (id, at, _) in &bound {
            mine.push((
                id.clone(),
                *at,
                ring::listen(*at, true).map_err(|e| e.to_string())?,
            ));
        }
        let (options, counter) = (options.clone(), Arc::clone(&counter));
        std::thread::spawn(move || serve(mine, &options, &counter));
    }
    serve(bound, &options, &counter);
    Ok(())
}

fn serve(
    bound: Vec<(String, SocketAddr, std::net::TcpListener)>,
    options: &Options,
    counter: &Arc<AtomicU64>,
) {
    ring::run(async {
        for (id, _, listener) in bound {
            let answer = Rc::new(Answer::new(&id, options, Arc::clone(counter)));
            match ring::adopt(listener) {
                Ok(listener) => drop(monoio::spawn(accept(listener, answer))),
                Err(error) => eprintln!("{id}: {error}"),
            }
        }
        std::future::pending::<()>().await;
    });
}
