//! What reading costs: nanoseconds for each head, chunk, cookie and path, best of several rounds.
//!
//! `cargo run --release -p holdfast --example parse_bench`

use std::hint::black_box;
use std::time::Instant;

use holdfast::parse::chunked::Decoder;
use holdfast::parse::{
    HeadLimits, HeadScan, Method, Progress, RequestHead, ResponseHead, cookies, path, query,
    request, response,
};

const REQUEST: &[u8] = b"GET /shop/cart/items?page=2&sort=price HTTP/1.1\r\n\
Host: shop.example.com\r\n\
Connection: keep-alive\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML) Chrome/126.0.0.0\r\n\
Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-Dest: document\r\n\
Referer: https://shop.example.com/shop\r\n\
Accept-Encoding: gzip, deflate, br\r\n\
Accept-Language: en-GB,en;q=0.9\r\n\
Cookie: theme=dark; sid=AWr3k1QABsmB2nFZ0m1l9kq3xH7c0dPpQm5b8sT2uVw4yZ; pin=q83vEjRWeJA\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Date: Tue, 01 Jul 2025 10:00:00 GMT\r\n\
Server: app\r\n\
Content-Type: text/html; charset=utf-8\r\n\
Content-Length: 600\r\n\
Cache-Control: private, max-age=0\r\n\
ETag: \"5f3c-1a2b3c\"\r\n\
Set-Cookie: theme=dark; Path=/\r\n\
X-Session-Set: {\"cartId\":\"c9\"}\r\n\
Vary: Accept-Encoding\r\n\r\n";

const COOKIE: &[u8] =
    b"theme=dark; _ga=GA1.2.1234567890.1234567890; sid=AWr3k1QABsmB2nFZ0m1l9kq3xH7c0dPpQm5b8sT2uVw4yZ; consent=\"a,b\"";

/// Best nanoseconds for one run of `work`.
fn measure(name: &str, mut work: impl FnMut()) {
    const RUNS: u32 = 100_000;
    let mut best = f64::MAX;
    for _ in 0..15 {
        let start = Instant::now();
        for _ in 0..RUNS {
            work();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(RUNS));
    }
    println!("{name:<44} {best:8.1} ns");
}

fn main() {
    let limits = HeadLimits::default();
    let mut scan = HeadScan::new();
    let mut head = RequestHead::default();
    let whole = format!("request head, {} bytes, 11 lines", REQUEST.len());
    measure(&whole, || {
        let read = request(black_box(REQUEST), &limits, &mut scan, &mut head);
        assert_eq!(read, Ok(Progress::Complete));
        black_box(&head);
    });
    measure("the same in two reads", || {
        let first = request(black_box(&REQUEST[..300]), &limits, &mut scan, &mut head);
        assert_eq!(first, Ok(Progress::Partial));
        let read = request(black_box(REQUEST), &limits, &mut scan, &mut head);
        assert_eq!(read, Ok(Progress::Complete));
    });
    let mut head = ResponseHead::default();
    let whole = format!("response head, {} bytes, 9 lines", RESPONSE.len());
    measure(&whole, || {
        let read = response(
            black_box(RESPONSE),
            &limits,
            &mut scan,
            Method::Get,
            &mut head,
        );
        assert_eq!(read, Ok(Progress::Complete));
        black_box(&head);
    });
    let mut chunk = b"258\r\n".to_vec();
    chunk.extend_from_slice(&[b'x'; 600]);
    chunk.extend_from_slice(b"\r\n0\r\n\r\n");
    measure("chunked body, one chunk of 600 bytes", || {
        let mut decoder = Decoder::response();
        let mut at = 0;
        while !decoder.is_done() {
            at += decoder
                .decode(black_box(&chunk[at..]), &limits)
                .expect("valid")
                .consumed;
        }
    });
    measure("cookie: find one of four", || {
        black_box(cookies::values(black_box(COOKIE), b"sid").next());
    });
    let mut out = Vec::with_capacity(512);
    measure("cookie: leave one of four out", || {
        out.clear();
        black_box(cookies::without(
            black_box(COOKIE),
            |n| n == b"sid",
            &mut out,
        ));
    });
    measure("path that is normal", || {
        let _ = black_box(path::normalise(
            black_box(b"/shop/cart/items.html"),
            false,
            &mut out,
        ));
    });
    measure("path that is not", || {
        let _ = black_box(path::normalise(
            black_box(b"/shop/%7Ex/../cart/./i"),
            false,
            &mut out,
        ));
    });
    measure("query: find one of three", || {
        black_box(query::find(black_box(b"page=2&sort=price&sid=abc"), b"sid"));
    });
    measure("for comparison: httparse, the same request", || {
        let mut lines = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut lines);
        assert!(
            request
                .parse(black_box(REQUEST))
                .is_ok_and(|r| r.is_complete())
        );
        black_box(&request);
    });
}
