//! How the tests read: whole connections, to exhaustion, as the gateway would.

mod bodies;
mod corpora;
mod paths;
mod property;
mod requests;
mod responses;

use super::chunked::Decoder;
use super::*;

/// One request as it was read, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub head: Vec<u8>,
    pub path: Vec<u8>,
    pub host: Vec<u8>,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub keep_alive: bool,
}

/// What a connection's bytes come to: the requests, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    pub requests: Vec<Read>,
    /// A refusal, or the bytes left over that are no whole request.
    pub end: Result<usize, Refusal>,
}

/// Reads a body of `framing` from `input`: the data, and the bytes it took; `None` if it is not all
/// there.
pub(super) fn read_body(
    framing: Framing,
    input: &[u8],
    limits: &HeadLimits,
) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
    match framing {
        Framing::None => Ok(Some((Vec::new(), 0))),
        Framing::UntilClose => Ok(Some((input.to_vec(), input.len()))),
        Framing::Length(n) => {
            let n = usize::try_from(n).unwrap_or(usize::MAX);
            Ok(input.get(..n).map(|data| (data.to_vec(), n)))
        }
        Framing::Chunked => {
            let mut decoder = Decoder::request();
            let mut data = Vec::new();
            let mut at = 0;
            while !decoder.is_done() {
                let rest = &input[at..];
                if rest.is_empty() {
                    return Ok(None);
                }
                let piece = decoder.decode(rest, limits)?;
                assert!(piece.consumed > 0, "the decoder stands still");
                data.extend_from_slice(&rest[piece.data]);
                at += piece.consumed;
            }
            Ok(Some((data, at)))
        }
    }
}

/// Reads requests one after the other until a refusal, a close, or the end.
pub(super) fn read_connection(input: &[u8], limits: &HeadLimits) -> Connection {
    let mut scan = HeadScan::new();
    let mut head = RequestHead::default();
    let mut requests = Vec::new();
    let mut rest = input;
    loop {
        match request(rest, limits, &mut scan, &mut head) {
            Err(refusal) => {
                return Connection {
                    requests,
                    end: Err(refusal),
                };
            }
            Ok(Progress::Partial) => {
                return Connection {
                    requests,
                    end: Ok(rest.len()),
                };
            }
            Ok(Progress::Complete) => {}
        }
        let (bytes, after) = rest.split_at(head.len);
        let (body, used) = match read_body(head.framing, after, limits) {
            Err(refusal) => {
                return Connection {
                    requests,
                    end: Err(refusal),
                };
            }
            Ok(None) => {
                return Connection {
                    requests,
                    end: Ok(rest.len()),
                };
            }
            Ok(Some(body)) => body,
        };
        requests.push(Read {
            head: bytes.to_vec(),
            path: head.path(bytes).to_vec(),
            host: head.authority_bytes(bytes).to_vec(),
            framing: head.framing,
            body,
            keep_alive: head.keep_alive,
        });
        rest = &after[used..];
        if !head.keep_alive || rest.is_empty() {
            return Connection {
                requests,
                end: Ok(rest.len()),
            };
        }
    }
}

/// A request as an upstream would get it: path, host and framing said anew, hop-by-hop lines and
/// nominated ones left out, the body in one chunk or of the length said.
pub(super) fn write_request(buf: &[u8], head: &RequestHead, body: &[u8]) -> Vec<u8> {
    let mut out = head.method_bytes(buf).to_vec();
    out.push(b' ');
    out.extend_from_slice(head.path(buf));
    if let Some(query) = head.query_bytes(buf) {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    let host = head.authority_bytes(buf);
    out.extend_from_slice(if host.is_empty() { b"none" } else { host });
    out.extend_from_slice(b"\r\n");
    for line in &head.lines {
        let said_anew = matches!(line.name, Name::Host | Name::ContentLength | Name::Expect);
        if !line.hop_by_hop() && !said_anew && line.name != Name::Shadow {
            out.extend_from_slice(line.bytes(buf));
        }
    }
    match head.framing {
        Framing::Length(n) => {
            out.extend_from_slice(format!("Content-Length: {n}\r\n\r\n").as_bytes());
            out.extend_from_slice(body);
        }
        Framing::Chunked => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            if !body.is_empty() {
                chunked::write_chunk_header(body.len() as u64, &mut out);
                out.extend_from_slice(body);
                out.extend_from_slice(chunked::CRLF);
            }
            out.extend_from_slice(chunked::END);
        }
        _ => out.extend_from_slice(b"\r\n"),
    }
    out
}
