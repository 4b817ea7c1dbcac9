//! Frames by hand, so that a test can say what no library would (RFC 9113; heads as RFC 7541 literals).

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use crate::harness::{Gateway, PATIENCE};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload: payload.as_ref().to_vec(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = (self.payload.len() as u32).to_be_bytes();
        let mut out = length[1..].to_vec();
        out.extend([self.kind, self.flags]);
        out.extend(self.stream.to_be_bytes());
        out.extend(&self.payload);
        out
    }

    /// The error code of RST_STREAM or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        let bytes = self.payload[at..at + 4].try_into().expect("four bytes");
        u32::from_be_bytes(bytes)
    }

    pub fn ends(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// A head as literals that are never indexed.
pub fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            length(text.len(), &mut out);
            out.extend(text.as_bytes());
        }
    }
    out
}

fn length(n: usize, out: &mut Vec<u8>) {
    if n < 127 {
        out.push(n as u8);
        return;
    }
    out.push(127);
    let mut rest = n - 127;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// The fields of a GET.
pub fn get(path: &str) -> Vec<(&str, &str)> {
    request("GET", path)
}

/// The pseudo-header fields of a request.
pub fn request<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "http"),
        (":authority", "x.test"),
        (":path", path),
    ]
}

/// A connection that sends what it is told and sorts what comes.
pub struct Peer {
    stream: TcpStream,
    seen: Vec<u8>,
    /// Frames by stream, in order.
    pub frames: HashMap<u32, Vec<Frame>>,
    /// Acknowledges settings and pings.
    pub polite: bool,
}

impl Peer {
    /// A client whose settings are these.
    #[track_caller]
    pub fn connect(gateway: &Gateway, settings: &[u8]) -> Self {
        let mut peer = Self::bare(gateway.http);
        peer.write(PREFACE);
        peer.send(SETTINGS, 0, 0, settings);
        peer
    }

    /// A connection on which nothing was said.
    #[track_caller]
    pub fn bare(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("a connection"))
    }

    pub fn over(stream: TcpStream) -> Self {
        drop(stream.set_read_timeout(Some(PATIENCE)));
        drop(stream.set_nodelay(true));
        Self {
            stream,
            seen: Vec::new(),
            frames: HashMap::new(),
            polite: true,
        }
    }

    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).expect("the gateway takes it");
    }

    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    #[track_caller]
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) {
        self.write(&Frame::new(kind, flags, stream, payload).bytes());
    }

    /// A whole head; `end` says that nothing follows.
    #[track_caller]
    pub fn head(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.send(HEADERS, flags, stream, head(fields));
    }

    pub fn finish(&mut self) {
        drop(self.stream.shutdown(std::net::Shutdown::Write));
    }

    /// The next frame; `None` at the end of the connection.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        while self.seen.len() < 9 {
            if !self.fill()? {
                return Ok(None);
            }
        }
        let length = u32::from_be_bytes([0, self.seen[0], self.seen[1], self.seen[2]]) as usize;
        while self.seen.len() < 9 + length {
            if !self.fill()? {
                return Ok(None);
            }
        }
        let bytes: Vec<u8> = self.seen.drain(..9 + length).collect();
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        let frame = Frame::new(bytes[3], bytes[4], stream, &bytes[9..]);
        if self.polite && frame.flags & ACK == 0 && matches!(frame.kind, SETTINGS | PING) {
            let payload = if frame.kind == PING {
                &frame.payload[..]
            } else {
                &[]
            };
            let ack = Frame::new(frame.kind, ACK, 0, payload).bytes();
            drop(self.stream.write_all(&ack));
        }
        Ok(Some(frame))
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.seen.extend(&buffer[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Reads until a frame is the one.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut is: impl FnMut(&Frame) -> bool) -> Frame {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = self
                .next()
                .unwrap_or_else(|e| panic!("{what}: {e}"))
                .unwrap_or_else(|| panic!("{what}: the connection ended; {:?}", self.frames));
            assert!(Instant::now() < deadline, "{what}: not in time");
            self.frames
                .entry(frame.stream)
                .or_default()
                .push(frame.clone());
            if is(&frame) {
                return frame;
            }
        }
    }

    /// Reads until a stream has ended, by its end or a reset; gives its content.
    #[track_caller]
    pub fn answer(&mut self, stream: u32) -> Answer {
        let ended = |f: &Frame| f.stream == stream && (f.ends() || f.kind == RST_STREAM);
        if !self
            .frames
            .get(&stream)
            .is_some_and(|all| all.iter().any(ended))
        {
            self.until(&format!("the end of stream {stream}"), ended);
        }
        Answer(self.frames.remove(&stream).unwrap_or_default())
    }

    /// Reads to the end of the connection; the last GOAWAY's code, if one came.
    #[track_caller]
    pub fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Ok(Some(frame)) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}

/// The frames of one stream.
#[derive(Debug)]
pub struct Answer(pub Vec<Frame>);

impl Answer {
    /// The status of the last head that has one, as far as it stands in the static table.
    pub fn status(&self) -> u16 {
        let first = self.heads().find_map(|h| match h.payload.first()? {
            0x88 => Some(200),
            0x89 => Some(204),
            0x8b => Some(304),
            0x8c => Some(400),
            0x8d => Some(404),
            0x8e => Some(500),
            _ => None,
        });
        first.unwrap_or(0)
    }

    pub fn heads(&self) -> impl Iterator<Item = &Frame> {
        self.0.iter().filter(|f| f.kind == HEADERS)
    }

    pub fn body(&self) -> Vec<u8> {
        let data = self.0.iter().filter(|f| f.kind == DATA);
        data.flat_map(|f| f.payload.clone()).collect()
    }

    /// The code of its reset.
    pub fn reset(&self) -> Option<u32> {
        let reset = self.0.iter().find(|f| f.kind == RST_STREAM);
        reset.map(Frame::code)
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!((self.status(), self.reset()), (status, None), "{self:?}");
        self
    }
}
