//! A table of hostile requests. Each is followed by a request for `/smuggled-N` on the same
//! connection, which must not arrive where the first one was refused.

use std::collections::HashMap;

use super::one_reading;
use crate::harness::http::latin1;
use crate::harness::{Connection, Gateway, Reply, Upstream, service};

/// What must become of it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    /// 400 and the end of the connection; the upstream gets nothing whole.
    Refused,
    /// This status and the end of the connection.
    Status(u16),
    /// Accepted in one reading, with this body, and what follows is a request of its own.
    Once(&'static str),
    /// Either of these is sound.
    RefusedOrOnce,
}

use Fate::{Once, Refused, RefusedOrOnce, Status};

/// `/P` stands for the path of the entry.
#[rustfmt::skip]
const TABLE: &[(&str, &[u8], Fate)] = &[
    // Two kinds of framing.
    ("length and chunked", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("chunked and length", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", Refused),
    ("length of zero and chunked", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("length and chunked on a GET", b"GET /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("length and an unknown coding", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: xchunked\r\n\r\nabcde", Refused),
    ("length and identity", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: identity\r\n\r\nabcde", Refused),
    ("length and an empty coding", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding:\r\n\r\nabcde", Refused),
    // Content-Length.
    ("two lengths that differ", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", Refused),
    ("two equal lengths", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", Refused),
    ("a list of equal lengths", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nabcde", Refused),
    ("a list of lengths", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nabcde", Refused),
    ("two lengths in other spellings", b"POST /P HTTP/1.1\r\nHost: x\r\ncontent-length: 5\r\nCONTENT-LENGTH: 0\r\n\r\nabcde", Refused),
    ("a signed length", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde", Refused),
    ("a negative length", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\nabcde", Refused),
    ("a hexadecimal length", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nabcde", Refused),
    ("a length with a fraction", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5.0\r\n\r\nabcde", Refused),
    ("a length with blanks inside", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 1 0\r\n\r\nabcde", Refused),
    ("an empty length", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", Refused),
    ("a length of letters", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\nabcde", Refused),
    ("a length over 64 bits", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551621\r\n\r\nabcde", Refused),
    ("a length over any bits", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999999999999\r\n\r\nabcde", Refused),
    ("a length in quotes", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: \"5\"\r\n\r\nabcde", Refused),
    ("a length with a semicolon", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 5;\r\n\r\nabcde", Refused),
    ("a length with a vertical tab", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: \x0b5\r\n\r\nabcde", Refused),
    ("a length of other digits", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: \xd9\xa5\r\n\r\nabcde", Refused),
    ("a length with leading zeros", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 0005\r\n\r\nabcde", RefusedOrOnce),
    // Transfer-Encoding.
    ("a coding before chunked", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused),
    ("chunked before another coding", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", Refused),
    ("chunked twice", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Refused),
    ("two lines of chunked", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("chunked and identity in two lines", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", Refused),
    ("identity alone", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n", Refused),
    ("an unknown coding", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n", Refused),
    ("an empty coding", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", Refused),
    ("chunked in quotes", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Refused),
    ("chunked with a parameter", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", Refused),
    ("chunked with a vertical tab", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Refused),
    ("chunked after a comma", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", Refused),
    ("chunked with a byte after it", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\x80\r\n\r\n0\r\n\r\n", Refused),
    ("chunked from HTTP/1.0", b"POST /P HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("chunked in capitals", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: CHUNKED\r\n\r\n2\r\nab\r\n0\r\n\r\n", Once("ab")),
    // Field lines.
    ("a space before the colon", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nabcde", Refused),
    ("a tab before the colon", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("a folded line", b"POST /P HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\n\r\n", Refused),
    ("a framing header in a fold", b"POST /P HTTP/1.1\r\nHost: x\r\nX-A: b\r\n\tContent-Length: 5\r\n\r\nabcde", Refused),
    ("a folded coding", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Refused),
    ("a blank before the first header", b"GET /P HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n", Refused),
    ("a name with a blank", b"GET /P HTTP/1.1\r\nHost: x\r\nX A: b\r\n\r\n", Refused),
    ("an empty name", b"GET /P HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", Refused),
    ("a line without a colon", b"GET /P HTTP/1.1\r\nHost: x\r\nX-A\r\n\r\n", Refused),
    ("a name with a bracket", b"GET /P HTTP/1.1\r\nHost: x\r\nX(A): b\r\n\r\n", Refused),
    ("a name with a high byte", b"POST /P HTTP/1.1\r\nHost: x\r\n\xffTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("a name with NUL", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer\x00-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("NUL in a value", b"GET /P HTTP/1.1\r\nHost: x\r\nX-A: b\x00c\r\n\r\n", Refused),
    ("a control byte in a value", b"GET /P HTTP/1.1\r\nHost: x\r\nX-A: b\x01c\r\n\r\n", Refused),
    ("an escape in a value", b"GET /P HTTP/1.1\r\nHost: x\r\nX-A: b\x1bc\r\n\r\n", Refused),
    ("DEL in a value", b"GET /P HTTP/1.1\r\nHost: x\r\nX-A: b\x7fc\r\n\r\n", Refused),
    ("a bare CR in a value", b"POST /P HTTP/1.1\r\nHost: x\r\nX-A: b\rContent-Length: 5\r\n\r\nabcde", Refused),
    ("a bare CR before CRLF", b"GET /P HTTP/1.1\r\nHost: x\r\nX-A: b\r\r\n\r\n", Refused),
    ("a line that ends in LF", b"GET /P HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n", Refused),
    ("a request line that ends in LF", b"GET /P HTTP/1.1\nHost: x\r\n\r\n", Refused),
    ("a head that ends in LF LF", b"GET /P HTTP/1.1\r\nHost: x\r\nX-A: b\n\n", Refused),
    ("a head all in LF", b"GET /P HTTP/1.1\nHost: x\n\n", Refused),
    ("an empty line of LF", b"GET /P HTTP/1.1\r\nHost: x\r\n\n", Refused),
    ("a line that ends in CR", b"GET /P HTTP/1.1\rHost: x\r\n\r\n", Refused),
    // Host.
    ("no host", b"GET /P HTTP/1.1\r\nX-A: b\r\n\r\n", Refused),
    ("two hosts", b"GET /P HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", Refused),
    ("two equal hosts", b"GET /P HTTP/1.1\r\nHost: x\r\nhost: x\r\n\r\n", Refused),
    ("a host with a path", b"GET /P HTTP/1.1\r\nHost: x/y\r\n\r\n", Refused),
    ("a host with a blank", b"GET /P HTTP/1.1\r\nHost: x y\r\n\r\n", Refused),
    ("a list of hosts", b"GET /P HTTP/1.1\r\nHost: x, y\r\n\r\n", Refused),
    ("a host with a user", b"GET /P HTTP/1.1\r\nHost: a@x\r\n\r\n", Refused),
    ("no host although absolute", b"GET http://x/P HTTP/1.1\r\nX-A: b\r\n\r\n", Refused),
    ("a user in an absolute target", b"GET http://u:p@x/P HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("an absolute target of another scheme", b"GET ftp://x/P HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    // Request line.
    ("two blanks", b"GET  /P HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("a tab for a blank", b"GET\t/P HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("a blank within the target", b"GET /P /b HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("a blank at the end", b"GET /P HTTP/1.1 \r\nHost: x\r\n\r\n", Refused),
    ("a blank before the method", b" GET /P HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("no target", b"GET HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("no version", b"GET /P\r\nHost: x\r\n\r\n", Refused),
    ("HTTP/0.9", b"GET /P\r\n", Refused),
    ("a lower-case version", b"GET /P http/1.1\r\nHost: x\r\n\r\n", Refused),
    ("another protocol", b"GET /P HTCPCP/1.0\r\nHost: x\r\n\r\n", Refused),
    ("a method with a bracket", b"GE(T /P HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("an empty method", b" /P HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("a target without its slash", b"GET P HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("NUL in the target", b"GET /P\x00 HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("a control byte in the target", b"GET /P\x07 HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("a high byte in the target", b"GET /P\xff HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("a fragment in the target", b"GET /P#frag HTTP/1.1\r\nHost: x\r\n\r\n", Refused),
    ("a version of three digits", b"GET /P HTTP/1.10\r\nHost: x\r\n\r\n", Refused),
    ("a later minor version", b"GET /P HTTP/1.2\r\nHost: x\r\n\r\n", RefusedOrOnce),
    ("another major version", b"GET /P HTTP/3.0\r\nHost: x\r\n\r\n", Refused),
    ("nearly the preface of HTTP/2", b"PRI * HTTP/2.0\r\nHost: x\r\n\r\n", Refused),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", Refused),
    ("an empty line first", b"\r\nGET /P HTTP/1.1\r\nHost: x\r\n\r\n", RefusedOrOnce),
    ("a line of LF first", b"\nGET /P HTTP/1.1\r\nHost: x\r\n\r\n", RefusedOrOnce),
    // Chunks. The head is out when these are found, so the upstream may see a request that never ends.
    ("an empty chunk size", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n", Refused),
    ("a chunk size in decimal with a sign", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nab\r\n0\r\n\r\n", Refused),
    ("a negative chunk size", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nab\r\n0\r\n\r\n", Refused),
    ("a chunk size with 0x", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n", Refused),
    ("a chunk size over 64 bits", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nab\r\n0\r\n\r\n", Refused),
    ("a chunk size that is never reached", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab\r\n0\r\n\r\n", Status(408)),
    ("a chunk size of many zeros", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000000000000000000000000000002\r\nab\r\n0\r\n\r\n", RefusedOrOnce),
    ("a chunk size of letters", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\ng\r\nab\r\n0\r\n\r\n", Refused),
    ("a blank before a chunk size", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n 2\r\nab\r\n0\r\n\r\n", Refused),
    ("a blank after a chunk size", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nab\r\n0\r\n\r\n", RefusedOrOnce),
    ("a chunk size that ends in LF", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n", Refused),
    ("a chunk that ends in LF", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\n0\r\n\r\n", Refused),
    ("a chunk longer than said", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", Refused),
    ("a chunk shorter than said", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab\r\n0\r\n\r\n", Refused),
    ("a body that ends in LF", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\n\n", Refused),
    ("a last chunk that ends in LF", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n", Refused),
    ("a bare CR in a chunk extension", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;a\rb\r\nab\r\n0\r\n\r\n", Refused),
    ("a LF in a chunk extension", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;a\nb\r\nab\r\n0\r\n\r\n", Refused),
    ("NUL in a chunk extension", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;\x00\r\nab\r\n0\r\n\r\n", Refused),
    ("a chunk extension", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;name=value\r\nab\r\n0\r\n\r\n", Once("ab")),
    ("a trailer with a blank before its colon", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-A : b\r\n\r\n", Refused),
    ("a folded trailer", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-A: b\r\n c\r\n\r\n", Refused),
    ("a trailer with NUL", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-A: \x00\r\n\r\n", Refused),
    ("a framing header as trailer", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nContent-Length: 5\r\n\r\n", RefusedOrOnce),
    ("a host as trailer", b"POST /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nHost: evil\r\n\r\n", RefusedOrOnce),
    // One reading, and what follows stands by itself.
    ("a body on a GET", b"GET /P HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab", Once("ab")),
    ("chunked on a GET", b"GET /P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", Once("ab")),
    ("a body that looks like a request", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\nGET /evil HTTP/1.1\r\nA: b\r\n", Once("GET /evil HTTP/1.1\r\nA: b\r\n")),
    ("blanks around a length", b"POST /P HTTP/1.1\r\nHost: x\r\nContent-Length: \t 2 \t \r\n\r\nab", Once("ab")),
    ("framing with an underscore", b"POST /P HTTP/1.1\r\nHost: x\r\nContent_Length: 9\r\nTransfer_Encoding: chunked\r\nContent-Length: 2\r\n\r\nab", RefusedOrOnce),
    ("an upgrade to h2c", b"GET /P HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n", Once("")),
];

fn bytes_of(template: &[u8], n: usize) -> Vec<u8> {
    let at = template
        .windows(2)
        .position(|w| w == b"/P")
        .unwrap_or(template.len());
    let mut out = template[..at].to_vec();
    if at < template.len() {
        out.extend_from_slice(format!("/entry-{n}").as_bytes());
        out.extend_from_slice(&template[at + 2..]);
    }
    out.extend_from_slice(
        format!("GET /smuggled-{n} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
    );
    out
}

/// Statuses that came on the connection until it ended.
fn statuses(gateway: &Gateway, bytes: &[u8]) -> Result<Vec<u16>, String> {
    let mut connection: Connection = gateway.connect();
    drop(connection.try_send(bytes));
    let mut statuses = Vec::new();
    loop {
        match connection.try_response("GET") {
            Ok(response) => statuses.push(response.status()),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(statuses),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(statuses),
            Err(e) => {
                return Err(format!(
                    "{e} after {statuses:?}, read {:?}",
                    latin1(&connection.wire.seen)
                ));
            }
        }
    }
}

#[test]
fn every_entry_of_the_table_is_refused_or_read_once() {
    assert!(TABLE.len() >= 120, "{} entries", TABLE.len());
    let upstream = Upstream::new("a", |_| Reply::ok("x"));
    let mut gateway = Gateway::start(&format!(
        "{}limits: {{ headerTimeout: 2s, bodyTimeout: 2s }}\n",
        service(&[&upstream])
    ));
    let mut wrong: Vec<String> = Vec::new();
    let mut fates: HashMap<usize, Vec<u16>> = HashMap::new();
    for (n, (name, template, fate)) in TABLE.iter().enumerate() {
        let got = match statuses(&gateway, &bytes_of(template, n)) {
            Ok(got) => got,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        let sound = match fate {
            Refused => got == [400],
            Status(status) => got == [*status],
            Once(_) => got == [200, 200],
            RefusedOrOnce => got == [400] || got == [200, 200],
        };
        if !sound {
            wrong.push(format!("{name}: {fate:?}, got {got:?}"));
        }
        fates.insert(n, got);
    }
    let requests = upstream.requests();
    for (n, (name, _, fate)) in TABLE.iter().enumerate() {
        let arrived = |target: String| {
            requests
                .iter()
                .filter(|r| r.head.target() == target)
                .collect::<Vec<_>>()
        };
        let (own, smuggled) = (
            arrived(format!("/entry-{n}")),
            arrived(format!("/smuggled-{n}")),
        );
        let accepted = fates.get(&n).is_some_and(|got| got == &[200, 200]);
        if own.len() != usize::from(accepted) || smuggled.len() != usize::from(accepted) {
            wrong.push(format!(
                "{name}: arrived {} times, with {} smuggled",
                own.len(),
                smuggled.len()
            ));
        }
        if let (Once(body), Some(first)) = (fate, own.first())
            && first.body != body.as_bytes()
        {
            wrong.push(format!("{name}: body {:?}", latin1(&first.body)));
        }
    }
    let known = |target: &str| target.starts_with("/entry-") || target.starts_with("/smuggled-");
    for request in &requests {
        if !known(request.head.target()) {
            wrong.push(format!("a request of nobody: {:?}", request.head));
        }
        if let Err(e) = one_reading(request) {
            wrong.push(format!("{}: {e}", request.head.target()));
        }
    }
    wrong.extend(
        upstream
            .faults()
            .into_iter()
            .map(|f| format!("the upstream was sent {f}")),
    );
    assert!(gateway.lives(), "the process lives");
    gateway.get("/after").expect(200);
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn chunk_extensions_have_a_bound() {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = Gateway::start(&service(&[&upstream]));
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut one = gateway.connect();
    drop(one.try_send(format!(
        "{head}2;{}\r\nab\r\n0\r\n\r\n",
        "e".repeat(100_000)
    )));
    one.response("POST").expect(400);
    let mut many = gateway.connect();
    drop(many.try_send(head));
    for _ in 0..20_000 {
        if many
            .try_send(format!("1;{}\r\na\r\n", "e".repeat(60)))
            .is_err()
        {
            break;
        }
    }
    drop(many.try_send("0\r\n\r\n"));
    let said = many.drain();
    assert!(
        said.is_empty() || said.starts_with(b"HTTP/1.1 400 "),
        "{}",
        latin1(&said)
    );
    assert_eq!(upstream.count(), 0);
}

#[test]
fn trailers_have_a_bound() {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = Gateway::start(&service(&[&upstream]));
    let mut connection = gateway.connect();
    drop(connection.try_send(
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
    ));
    for n in 0..20_000 {
        if connection
            .try_send(format!("X-T-{n}: {}\r\n", "t".repeat(60)))
            .is_err()
        {
            break;
        }
    }
    drop(connection.try_send("\r\n"));
    let said = connection.drain();
    let refused = said.starts_with(b"HTTP/1.1 400 ") || said.starts_with(b"HTTP/1.1 431 ");
    assert!(said.is_empty() || refused, "{}", latin1(&said));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn random_bytes_and_mutated_requests_never_kill_the_gateway() {
    let upstream = Upstream::new("a", |_| Reply::ok("x"));
    let mut gateway = Gateway::start(&format!(
        "{}limits: {{ headerTimeout: 2s }}\n",
        service(&[&upstream])
    ));
    let base = b"POST /m?x=1 HTTP/1.1\r\nHost: app.test\r\nCookie: a=b; sid=c\r\nTransfer-Encoding: chunked\r\nX-Long: 12345678901234567890\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap_or_default() % below.max(1)
    };
    for round in 0..1500 {
        let mut bytes = base.to_vec();
        for _ in 0..=random(3) {
            bytes.extend_from_slice(b"\n");
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap_or_default(),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"\r\n\0 :;,\t\x0b=%"[random(11)]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut connection = gateway.connect();
        drop(connection.try_send(&bytes));
        connection.finish();
        drop(connection.drain());
        assert!(
            round % 100 != 0 || gateway.lives(),
            "died at {:?}",
            latin1(&bytes)
        );
    }
    assert!(gateway.lives());
    assert_eq!(upstream.faults(), Vec::<String>::new());
    for request in upstream.requests() {
        one_reading(&request).unwrap_or_else(|e| panic!("{e}: {:?}", latin1(&request.raw_head)));
    }
    gateway.get("/after").expect(200);
}
