//! What a scripted upstream answers.

use super::Gate;

/// One answer, built up and written at once (or after a gate).
#[derive(Clone, Default)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) chunks: Option<Vec<Vec<u8>>>,
    pub(super) trailers: Vec<(String, String)>,
    pub(super) raw: Option<Vec<u8>>,
    pub(super) gate: Option<Gate>,
    pub(super) close: bool,
}

impl Reply {
    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// 200 with a body of known length.
    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self {
            status: 200,
            body: body.as_ref().to_vec(),
            ..Self::default()
        }
    }

    /// 200 with a chunked body.
    pub fn chunked<const N: usize>(chunks: [&str; N]) -> Self {
        Self {
            status: 200,
            chunks: Some(chunks.iter().map(|c| c.as_bytes().to_vec()).collect()),
            ..Self::default()
        }
    }

    /// These bytes and nothing else.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self {
            raw: Some(bytes.as_ref().to_vec()),
            ..Self::default()
        }
    }

    /// One more header line.
    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// One more trailer line (with [`Reply::chunked`]).
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Written only once the gate is open.
    pub fn after(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// The connection ends after it, without a word about that in the head.
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// The bytes, as an answer to `method`.
    pub fn render(&self, method: &str) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut out = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        let bodyless = self.status == 204 || self.status == 304 || self.status < 200;
        if self.chunks.is_some() {
            out.push_str("Transfer-Encoding: chunked\r\n");
        } else if !bodyless {
            out.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        out.push_str("\r\n");
        let mut out: Vec<u8> = out
            .chars()
            .map(|c| u8::try_from(c).expect("Latin-1"))
            .collect();
        if method == "HEAD" || bodyless {
            return out;
        }
        if let Some(chunks) = &self.chunks {
            for chunk in chunks {
                out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n");
            for (name, value) in &self.trailers {
                out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(&self.body);
        }
        out
    }
}
