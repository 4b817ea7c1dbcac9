//! Scripted upstreams: an HTTP/1.1 server of threads that writes down every byte it is given.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::http::{Head, Wire};
use super::{PATIENCE, Reply, lock};

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub head: Head,
    /// The head's bytes.
    pub raw_head: Vec<u8>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Received {
    /// A header's first value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }
}

/// A stream of either family.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(s) => Self::Tcp(s.try_clone()?),
            Self::Unix(s) => Self::Unix(s.try_clone()?),
        })
    }

    /// Ends both directions.
    pub fn shutdown(&self) {
        drop(match self {
            Self::Tcp(s) => s.shutdown(Shutdown::Both),
            Self::Unix(s) => s.shutdown(Shutdown::Both),
        });
    }

    fn set_read_timeout(&self, bound: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.set_read_timeout(Some(bound)),
            Self::Unix(s) => s.set_read_timeout(Some(bound)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(buf),
            Self::Unix(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write(buf),
            Self::Unix(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An accepted connection in the hands of a raw handler.
pub struct Link {
    pub wire: Wire<Stream>,
    inner: Arc<Inner>,
}

impl Link {
    /// The next head, without its body.
    pub fn head(&mut self) -> Option<Head> {
        self.wire.head().ok().flatten().map(|(_, head)| head)
    }

    /// The next request, whole, written down; `None` at the end.
    pub fn request(&mut self) -> Option<Received> {
        let result = self.try_request();
        // An end in the middle is a request given up; anything else is one that must never have been sent.
        if let Some(e) = result
            .as_ref()
            .err()
            .filter(|e| e.kind() == io::ErrorKind::InvalidData)
        {
            lock(&self.inner.faults).push(e.to_string());
        }
        result.ok().flatten()
    }

    fn try_request(&mut self) -> io::Result<Option<Received>> {
        let Some((raw_head, head)) = self.wire.head()? else {
            return Ok(None);
        };
        let framing = head.request_framing()?;
        if head
            .get("expect")
            .is_some_and(|v| v.eq_ignore_ascii_case("100-continue"))
        {
            self.send("HTTP/1.1 100 Continue\r\n\r\n");
        }
        let body = self.wire.body(framing)?;
        let received = Received {
            head,
            raw_head,
            body: body.data,
            trailers: body.trailers,
        };
        self.inner.record(received.clone());
        Ok(Some(received))
    }

    /// Writes, if the other side is still there.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.stream.write_all(bytes.as_ref()).is_ok()
    }
}

type Respond = Box<dyn Fn(&Received) -> Reply + Send + Sync>;
type Raw = Box<dyn Fn(&mut Link) + Send + Sync>;

enum Handler {
    Respond(Respond),
    Raw(Raw),
}

enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

struct Inner {
    id: String,
    place: Place,
    handler: Handler,
    received: Mutex<Vec<Received>>,
    bell: Condvar,
    /// Requests that the strict reader refused.
    faults: Mutex<Vec<String>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    live: Mutex<Vec<Stream>>,
    stopping: AtomicBool,
}

impl Inner {
    fn record(&self, received: Received) {
        lock(&self.received).push(received);
        self.bell.notify_all();
    }
}

/// A backend of a test. Stops when dropped.
pub struct Upstream {
    inner: Arc<Inner>,
    acceptor: Option<std::thread::JoinHandle<()>>,
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(l) => {
                let (stream, _) = l.accept()?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Self::Unix(l) => Stream::Unix(l.accept()?.0),
        })
    }
}

impl Upstream {
    /// One that answers each request by a closure.
    pub fn new(id: &str, respond: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::tcp(id, Handler::Respond(Box::new(respond)))
    }

    /// One that answers every request with its own id.
    pub fn named(id: &str) -> Self {
        let body = id.to_owned();
        Self::new(id, move |_| Reply::ok(&body))
    }

    /// One whose connections are in the hands of a closure.
    pub fn raw(id: &str, connection: impl Fn(&mut Link) + Send + Sync + 'static) -> Self {
        Self::tcp(id, Handler::Raw(Box::new(connection)))
    }

    /// As [`Upstream::new`], on a unix socket.
    pub fn unix(
        id: &str,
        path: &Path,
        respond: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).expect("a unix socket");
        Self::start(
            id,
            Place::Unix(path.to_owned()),
            Handler::Respond(Box::new(respond)),
            Acceptor::Unix(listener),
        )
    }

    fn tcp(id: &str, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        Self::start(id, Place::Tcp(address), handler, Acceptor::Tcp(listener))
    }

    fn start(id: &str, place: Place, handler: Handler, acceptor: Acceptor) -> Self {
        let inner = Arc::new(Inner {
            id: id.to_owned(),
            place,
            handler,
            received: Mutex::default(),
            bell: Condvar::new(),
            faults: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            live: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let acceptor = Some(spawn(inner.clone(), acceptor));
        Self { inner, acceptor }
    }

    /// A local port on which nothing listens. Kept from others only by luck, which is enough.
    pub fn dead_port() -> u16 {
        TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a port")
            .port()
    }

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        match &self.inner.place {
            Place::Tcp(address) => address.port(),
            Place::Unix(_) => 0,
        }
    }

    /// Its address as the configuration writes it.
    pub fn address(&self) -> String {
        match &self.inner.place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Its line in `upstreams`.
    pub fn entry(&self) -> String {
        self.entry_with("")
    }

    /// The same with further keys, such as `weight: 2`.
    pub fn entry_with(&self, keys: &str) -> String {
        let comma = if keys.is_empty() { "" } else { ", " };
        format!(
            "{{ id: {}, address: \"{}\"{comma}{keys} }}",
            self.inner.id,
            self.address()
        )
    }

    /// An application that answers with the header lines that the request names in `X-Answer`: see
    /// [`ask`](super::ask).
    pub fn obedient(id: &str) -> Self {
        Self::new(id, |request| {
            let lines = request
                .head
                .all("x-answer")
                .into_iter()
                .filter_map(|line| line.split_once(": "));
            lines.fold(Reply::ok("app"), |reply, (name, value)| {
                reply.header(name, value)
            })
        })
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Received> {
        lock(&self.inner.received).clone()
    }

    /// How many requests so far.
    pub fn count(&self) -> usize {
        lock(&self.inner.received).len()
    }

    /// The newest request.
    #[track_caller]
    pub fn last(&self) -> Received {
        lock(&self.inner.received)
            .last()
            .cloned()
            .unwrap_or_else(|| panic!("{} got no request", self.inner.id))
    }

    /// Waits for so many requests in all.
    #[track_caller]
    pub fn wait_for(&self, n: usize) -> Vec<Received> {
        let deadline = Instant::now() + PATIENCE;
        let mut received = lock(&self.inner.received);
        while received.len() < n {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{} got {} of {n} requests",
                self.inner.id,
                received.len()
            );
            received = self
                .inner
                .bell
                .wait_timeout(received, left)
                .map(|(g, _)| g)
                .unwrap_or_else(|e| e.into_inner().0);
        }
        received.clone()
    }

    /// What the strict reader refused: the gateway must never cause one.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.inner.faults).clone()
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.inner.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.inner.open.load(Ordering::SeqCst)
    }

    /// Ends every open connection, but goes on listening.
    pub fn cut(&self) {
        for stream in lock(&self.inner.live).drain(..) {
            stream.shutdown();
        }
    }

    /// Ends the listener and every connection.
    pub fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        self.inner.stopping.store(true, Ordering::SeqCst);
        match &self.inner.place {
            Place::Tcp(address) => drop(TcpStream::connect(address)),
            Place::Unix(path) => drop(UnixStream::connect(path)),
        }
        drop(acceptor.join());
        self.cut();
    }

    /// Listens again where it did.
    pub fn restart(&mut self) {
        assert!(self.acceptor.is_none(), "still running");
        self.inner.stopping.store(false, Ordering::SeqCst);
        let acceptor = match &self.inner.place {
            Place::Tcp(address) => {
                Acceptor::Tcp(TcpListener::bind(address).expect("the port again"))
            }
            Place::Unix(path) => {
                drop(std::fs::remove_file(path));
                Acceptor::Unix(UnixListener::bind(path).expect("the socket again"))
            }
        };
        self.acceptor = Some(spawn(self.inner.clone(), acceptor));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(inner: Arc<Inner>, acceptor: Acceptor) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while let Ok(stream) = acceptor.accept() {
            if inner.stopping.load(Ordering::SeqCst) {
                return;
            }
            inner.accepted.fetch_add(1, Ordering::SeqCst);
            inner.open.fetch_add(1, Ordering::SeqCst);
            if let Ok(copy) = stream.try_clone() {
                lock(&inner.live).push(copy);
            }
            let inner = inner.clone();
            std::thread::spawn(move || {
                drop(stream.set_read_timeout(4 * PATIENCE));
                let mut link = Link {
                    wire: Wire::new(stream),
                    inner: inner.clone(),
                };
                link.wire.forget();
                match &inner.handler {
                    Handler::Respond(respond) => serve(&mut link, respond),
                    Handler::Raw(raw) => raw(&mut link),
                }
                link.wire.stream.shutdown();
                inner.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    })
}

fn serve(link: &mut Link, respond: &Respond) {
    while let Some(received) = link.request() {
        let reply = respond(&received);
        if let Some(gate) = &reply.gate {
            gate.wait();
        }
        if !link.send(reply.render(received.head.method())) || reply.close {
            return;
        }
    }
}
