//! The head of a stream, as fields, is refused or becomes text that has one reading: a head to its end,
//! with the same method and no field more than were said.
//!
//! The input is lines: method, scheme, authority, path, then `name:value`.
//!
//! `cargo +nightly fuzz run http2_head`

#![no_main]

use holdfast::h2::head::request_text;
use holdfast::parse::{HeadLimits, HeadScan, Progress, RequestHead, request};
use holdfast_runtime::buffers::Buffer;
use http::{HeaderName, HeaderValue, Request, Uri};
use libfuzzer_sys::fuzz_target;

fn message(input: &[u8]) -> Option<Request<()>> {
    let mut lines = input.split(|&b| b == b'\n');
    let method = http::Method::from_bytes(lines.next()?).ok()?;
    let (scheme, authority, path) = (lines.next()?, lines.next()?, lines.next()?);
    let mut uri = Uri::builder().path_and_query(path);
    if !scheme.is_empty() {
        uri = uri.scheme(scheme).authority(authority);
    }
    let mut message = Request::builder().method(method).uri(uri.build().ok()?);
    for line in lines {
        let at = line.iter().position(|&b| b == b':')?;
        let (name, value) = line.split_at(at);
        let name = HeaderName::from_lowercase(name).ok()?;
        message = message.header(name, HeaderValue::from_bytes(value.get(1..)?).ok()?);
    }
    message.body(()).ok()
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, input)) = data.split_first() else {
        return;
    };
    let Some(message) = message(input) else {
        return;
    };
    let protocol = (kind & 1 != 0).then_some("websocket");
    let mut out = Buffer::with_capacity(16 * 1024);
    if request_text(&message, protocol, kind & 2 != 0, || "key".into(), &mut out).is_err() {
        return;
    }
    let limits = HeadLimits {
        header_bytes: 64 * 1024,
        headers: 1000,
        uri_bytes: 64 * 1024,
        ..Default::default()
    };
    let mut head = RequestHead::default();
    if request(out.as_slice(), &limits, &mut HeadScan::new(), &mut head) == Ok(Progress::Complete) {
        assert_eq!(
            head.len,
            out.len(),
            "bytes behind the head would be another request"
        );
        let told = usize::from(protocol.is_some()) * 3 + 2;
        assert!(head.lines.len() <= message.headers().len() + told);
        if protocol.is_none() {
            assert!(
                out.as_slice()
                    .starts_with(message.method().as_str().as_bytes())
            );
        }
    }
});
