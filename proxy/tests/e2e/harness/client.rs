//! Clients: a raw connection with a strict reader, and one with a cookie jar above it.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;
use super::http::{Framing, Head, Wire, latin1};
use super::jar::{Jar, SetCookie};

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    pub head: Head,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The 1xx heads before it.
    pub interim: Vec<Head>,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> String {
        latin1(&self.body)
    }

    /// A header's first value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {}", self.text()))
    }

    /// Every `Set-Cookie` of that name.
    pub fn set_cookies(&self, name: &str) -> Vec<SetCookie> {
        self.head
            .all("set-cookie")
            .into_iter()
            .map(SetCookie::parse)
            .filter(|c| c.name == name)
            .collect()
    }

    /// The only `Set-Cookie` of that name.
    #[track_caller]
    pub fn set_cookie(&self, name: &str) -> SetCookie {
        let mut all = self.set_cookies(name);
        assert_eq!(all.len(), 1, "one Set-Cookie {name} in {:?}", self.head);
        all.remove(0)
    }

    /// Whether any `Set-Cookie` is there.
    pub fn sets_cookies(&self) -> bool {
        self.head.has("set-cookie")
    }

    /// Fails unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status(), status, "{:?}\n{}", self.head, self.text());
        self
    }
}

/// A raw connection to the gateway.
pub struct Connection {
    pub wire: Wire<TcpStream>,
}

impl Connection {
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("a deadline");
        stream.set_nodelay(true).expect("nodelay");
        Self {
            wire: Wire::new(stream),
        }
    }

    /// Writes all of it.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.wire
            .stream
            .write_all(bytes.as_ref())
            .expect("the gateway takes the bytes");
        self
    }

    /// Writes as much as the other side takes.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.stream.write_all(bytes.as_ref())
    }

    /// Says that nothing more will come.
    pub fn finish(&mut self) {
        drop(self.wire.stream.shutdown(Shutdown::Write));
    }

    /// The next response to a request of `method`.
    pub fn try_response(&mut self, method: &str) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let Some((_, head)) = self.wire.head()? else {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "closed without a response",
                ));
            };
            if head.status() < 200 && head.status() != 101 {
                interim.push(head);
                continue;
            }
            let framing = head.response_framing(method)?;
            let body = self.wire.body(framing)?;
            return Ok(Response {
                head,
                framing,
                body: body.data,
                trailers: body.trailers,
                interim,
            });
        }
    }

    /// The same, which must come.
    #[track_caller]
    pub fn response(&mut self, method: &str) -> Response {
        match self.try_response(method) {
            Ok(response) => response,
            Err(e) => panic!("no response: {e}; read: {:?}", latin1(&self.wire.seen)),
        }
    }

    /// Sends one request and reads its response.
    #[track_caller]
    pub fn exchange(&mut self, request: &str) -> Response {
        self.send(request);
        self.response(request.split(' ').next().unwrap_or_default())
    }

    /// A head without its body.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        self.wire
            .head()
            .expect("a head")
            .expect("a head before the end")
            .1
    }

    /// Waits for the end; nothing may come before it.
    #[track_caller]
    pub fn expect_close(&mut self) {
        match self.wire.rest() {
            Ok(rest) => assert!(rest.is_empty(), "before the end came {:?}", latin1(&rest)),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
            Err(e) => panic!("not closed: {e}"),
        }
    }

    /// All that comes until the end, whichever way it ends.
    #[track_caller]
    pub fn drain(&mut self) -> Vec<u8> {
        match self.wire.rest() {
            Ok(rest) => rest,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("not closed; read {:?}", latin1(self.wire.pending()))
            }
            Err(_) => self.wire.pending().to_vec(),
        }
    }

    /// Changes how long a read waits.
    pub fn patience(&mut self, bound: Duration) -> &mut Self {
        self.wire
            .stream
            .set_read_timeout(Some(bound))
            .expect("a deadline");
        self
    }
}

/// A client with a cookie jar, which keeps its connection alive where it can.
pub struct Client {
    address: SocketAddr,
    pub jar: Jar,
    headers: Vec<(String, String)>,
    connection: Option<Connection>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            jar: Jar::default(),
            headers: Vec::new(),
            connection: None,
        }
    }

    /// A header on every request.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same client, as another tab: its cookies, a connection of its own.
    pub fn tab(&self) -> Self {
        Self {
            address: self.address,
            jar: self.jar.clone(),
            headers: self.headers.clone(),
            connection: None,
        }
    }

    /// Gives up its connection.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// A request to be built up.
    pub fn request(&mut self, method: &str, target: &str) -> Request<'_> {
        Request {
            client: self,
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: None,
            host: None,
            cookies: true,
        }
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target).send()
    }

    #[track_caller]
    pub fn post(&mut self, target: &str, body: &str) -> Response {
        self.request("POST", target).body(body).send()
    }
}

/// A request of a [`Client`].
pub struct Request<'a> {
    client: &'a mut Client,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    host: Option<String>,
    cookies: bool,
}

impl Request<'_> {
    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    /// Another Host than the address.
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// Leaves the jar out: neither sent nor filled.
    pub fn bare(mut self) -> Self {
        self.cookies = false;
        self
    }

    fn render(&self) -> Vec<u8> {
        let client = &*self.client;
        let host = self
            .host
            .clone()
            .unwrap_or_else(|| client.address.to_string());
        let mut out = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\n",
            self.method, self.target
        );
        for (name, value) in client.headers.iter().chain(&self.headers) {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        if let (true, Some(cookies)) = (self.cookies, client.jar.header()) {
            out.push_str(&format!("Cookie: {cookies}\r\n"));
        }
        if let Some(body) = &self.body {
            out.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        out.push_str("\r\n");
        let mut out: Vec<u8> = out
            .chars()
            .map(|c| u8::try_from(c).expect("Latin-1"))
            .collect();
        out.extend_from_slice(self.body.as_deref().unwrap_or_default());
        out
    }

    /// Sends it and takes in the cookies of the answer.
    #[track_caller]
    pub fn send(self) -> Response {
        let bytes = self.render();
        let (method, cookies) = (self.method, self.cookies);
        let client = self.client;
        let kept = client.connection.take();
        let fresh = kept.is_none();
        let mut connection = kept.unwrap_or_else(|| Connection::open(client.address));
        let mut outcome = connection
            .try_send(&bytes)
            .and_then(|()| connection.try_response(&method));
        if outcome.is_err() && !fresh {
            // A kept connection may have been closed while it was idle; a client tries a new one, once.
            connection = Connection::open(client.address);
            outcome = connection
                .try_send(&bytes)
                .and_then(|()| connection.try_response(&method));
        }
        let response = outcome.unwrap_or_else(|e| {
            panic!(
                "no response to {:?}: {e}; read {:?}",
                latin1(&bytes),
                latin1(&connection.wire.seen)
            )
        });
        if cookies {
            for line in response.head.all("set-cookie") {
                client.jar.take(&SetCookie::parse(line));
            }
        }
        let closes =
            response.head.lists("connection", "close") || response.framing == Framing::UntilClose;
        if !closes && response.status() != 101 {
            connection.wire.forget();
            client.connection = Some(connection);
        }
        response
    }
}
