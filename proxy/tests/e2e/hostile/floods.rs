//! Crowds of clients that hold what they can: each is ended within its bound and counted, and the
//! rest of the traffic does not notice.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Connection, Gateway, Reply, Upstream, eventually, eventually_within, full, service,
};
use crate::tls::Certs;

/// How long one good request may take beside a flood. Far more than it does: the machine of a test
/// is busy with others, and what is to be seen is that nobody waits for a hostile client's end.
const UNTOUCHED: Duration = Duration::from_secs(3);

/// Sends good requests, over a kept connection and over a new one in turn, while `flood` is at work.
#[track_caller]
fn beside<T>(address: SocketAddr, flood: impl FnOnce() -> T) -> T {
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let mut client = Client::new(address);
    // Known to the gateway before the flood begins.
    client.get("/good").expect(200);
    let good = std::thread::spawn(move || {
        let (mut slowest, mut count) = (Duration::ZERO, 0);
        while !stop.load(Ordering::SeqCst) || count < 20 {
            let started = Instant::now();
            client.get("/good").expect(200);
            Client::new(address).get("/good").expect(200);
            slowest = slowest.max(started.elapsed());
            count += 1;
            std::thread::park_timeout(Duration::from_millis(5));
        }
        slowest
    });
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(flood));
    over.store(true, Ordering::SeqCst);
    let slowest = good.join().expect("every good request is answered");
    let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(slowest < UNTOUCHED, "a good request took {slowest:?}");
    result
}

/// Many connections that have each sent the same.
struct Crowd(Vec<TcpStream>);

impl Crowd {
    fn new(address: SocketAddr, count: usize, first: &[u8]) -> Self {
        let open = |_| {
            let mut stream = Connection::open(address).wire.stream;
            stream.write_all(first).expect("the gateway takes it");
            stream.set_nonblocking(true).expect("its mode");
            stream
        };
        Self((0..count).map(open).collect())
    }

    /// Sends `more` over each that is still open, reads at most `most` bytes of each, and gives up
    /// those that have ended; how many are left.
    fn turn(&mut self, more: &[u8], most: usize, said: &mut Vec<u8>) -> usize {
        let mut buffer = vec![0; most];
        self.0.retain_mut(|stream| {
            let sent = more.is_empty()
                || !matches!(stream.write(more), Err(e) if e.kind() != ErrorKind::WouldBlock);
            match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(n) => {
                    said.extend_from_slice(&buffer[..n]);
                    true
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => sent,
                Err(_) => false,
            }
        });
        self.0.len()
    }

    /// Waits until all have ended, each fed `more` all the while; what they were told.
    #[track_caller]
    fn ended(mut self, within: Duration, more: &[u8]) -> Vec<u8> {
        let (mut said, mut fed) = (Vec::new(), Instant::now());
        eventually_within(within, "every hostile connection is ended", || {
            let now = fed.elapsed() > Duration::from_millis(50);
            if now {
                fed = Instant::now();
            }
            let more = if now { more } else { b"" };
            (self.turn(more, 4096, &mut said) == 0).then_some(())
        });
        said
    }
}

/// Nothing is left of a crowd; the good client may be.
#[track_caller]
fn gone(gateway: &Gateway) {
    eventually("their connections are gone", || {
        (gateway.metric("connections_open", &[]) < 5.0).then_some(())
    });
}

fn with(upstreams: &[&Upstream], keys: &str) -> Gateway {
    Gateway::start(&format!("{}{keys}", service(upstreams)))
}

fn has_status(said: &[u8], status: u16) -> bool {
    let wanted = format!("HTTP/1.1 {status} ");
    said.windows(wanted.len()).any(|w| w == wanted.as_bytes())
}

#[test]
fn heads_that_trickle_in_hundreds_end_at_the_header_timeout() {
    let upstream = Upstream::named("a");
    let gateway = with(&[&upstream], "limits: { headerTimeout: 2s }\n");
    let started = Instant::now();
    let said = beside(gateway.http, || {
        let first = b"GET /slow HTTP/1.1\r\nHost: x\r\nX-Slow: ";
        Crowd::new(gateway.http, 300, first).ended(Duration::from_secs(12), b"x")
    });
    assert!(started.elapsed() > Duration::from_secs(1));
    assert!(said.is_empty() || has_status(&said, 408));
    gateway.expect_metric("requests_refused_total", &["timeout"], 300.0);
    only_good(&upstream);
    gone(&gateway);
}

#[test]
fn connections_that_say_nothing_in_hundreds_cost_no_task_and_end_at_the_header_timeout() {
    let upstream = Upstream::named("a");
    let gateway = with(&[&upstream], "limits: { headerTimeout: 4s }\n");
    let said = beside(gateway.http, || {
        let crowd = Crowd::new(gateway.http, 400, b"");
        gateway.expect_at_least("connections_parked", &[], 400.0);
        crowd.ended(Duration::from_secs(15), b"")
    });
    assert!(said.is_empty(), "nobody asked for anything");
    gone(&gateway);
}

#[test]
fn bodies_that_stall_in_hundreds_end_at_the_body_timeout_and_free_their_upstream() {
    let upstream = Upstream::named("a");
    let gateway = with(&[&upstream], "limits: { bodyTimeout: 2s }\n");
    let said = beside(gateway.http, || {
        let first = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nab";
        Crowd::new(gateway.http, 200, first).ended(Duration::from_secs(15), b"")
    });
    assert!(has_status(&said, 408));
    gateway.expect_metric("requests_refused_total", &["timeout"], 200.0);
    only_good(&upstream);
    eventually("their upstream connections are gone", || {
        (upstream.open() < 5).then_some(())
    });
    gone(&gateway);
}

/// Fails where a hostile request reached the upstream.
#[track_caller]
fn only_good(upstream: &Upstream) {
    let requests = upstream.requests();
    assert!(requests.iter().all(|r| r.head.target() == "/good"));
}

/// Answers `/good` at once, and everything else without end.
fn endless() -> Upstream {
    Upstream::raw("a", |link| {
        while let Some(request) = link.request() {
            if request.head.target() == "/good" {
                link.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                continue;
            }
            let framing = match request.head.target() {
                "/length" => "Content-Length: 5000000000",
                _ => "Connection: close",
            };
            link.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
            while link.send([b'x'; 65536]) {}
        }
    })
}

#[test]
fn clients_that_trickle_their_reading_are_ended_by_the_minimum_rate() {
    let upstream = endless();
    let gateway = with(&[&upstream], "");
    for path in ["/length", "/close"] {
        beside(gateway.http, || {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            let mut crowd = Crowd::new(gateway.http, 20, request.as_bytes());
            let counted = gateway.metric("slow_readers_total", &[]);
            let (mut said, mut read) = (Vec::new(), Instant::now());
            // Each takes a byte in a tenth of a second, of the hundred a second that it must.
            eventually_within(Duration::from_secs(45), "all are ended", || {
                if read.elapsed() > Duration::from_millis(100) {
                    read = Instant::now();
                    crowd.turn(b"", 1, &mut said);
                }
                (gateway.metric("slow_readers_total", &[]) - counted > 19.9).then_some(())
            });
            // What was sent and not read is thrown away: nobody gets a part for the whole.
            eventually("their connections are reset", || {
                said.clear();
                (crowd.turn(b"", 1 << 20, &mut said) == 0).then_some(())
            });
        });
    }
    eventually("their upstream connections are gone", || {
        (upstream.open() < 5).then_some(())
    });
    gateway.expect_metric("slow_readers_total", &[], 40.0);
    gone(&gateway);
}

#[test]
fn a_client_that_reads_slowly_and_steadily_is_not_ended() {
    let upstream = endless();
    let gateway = with(&[&upstream], "");
    let mut connection = gateway.connect();
    connection.send("GET /length HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(connection.head().status(), 200);
    // Some 600 KB a second, from far behind: what is on its way is many seconds of it.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(26) {
        let wanted = started.elapsed().as_millis() as usize * 600;
        connection.wire.take(60_000).expect("more to come");
        connection.wire.forget();
        while (started.elapsed().as_millis() as usize * 600) < wanted + 60_000 {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
    gateway.expect_metric("slow_readers_total", &[], 0.0);
}

#[test]
fn a_flood_of_connections_past_their_bound_is_refused_and_harms_no_one_who_is_in() {
    let upstream = Upstream::named("a");
    let gateway = with(&[&upstream], "runtime: { cores: 2, maxConnections: 200 }\n");
    let mut good = gateway.client();
    good.get("/good").expect(200);
    let crowd = Crowd::new(gateway.http, 199, b"");
    gateway.expect_metric("connections_open", &[], 200.0);
    for _ in 0..3 {
        let started = Instant::now();
        let said = Crowd::new(gateway.http, 100, b"").ended(Duration::from_secs(10), b"");
        assert!(said.is_empty() && started.elapsed() < Duration::from_secs(10));
        good.get("/good").expect(200);
    }
    gateway.expect_metric("connections_refused_total", &[], 300.0);
    gateway.expect_metric("connections_open", &[], 200.0);
    drop(crowd);
    eventually("there is room again", || {
        (gateway.metric("connections_open", &[]) < 5.0).then_some(())
    });
    gateway.get("/good").expect(200);
}

#[test]
fn handshakes_that_stop_half_way_in_hundreds_end_in_time() {
    let (certs, upstream) = (Certs::new().localhost(), Upstream::named("a"));
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}, {{ address: \"127.0.0.1:0\", tls: {} }}]\n{}limits: {{ headerTimeout: 2s }}\n",
        certs.block("server", ""),
        service(&[&upstream])
    ));
    beside(gateway.http, || {
        // A hello of 512 bytes, of which a few come, and then one at a time.
        let first = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        Crowd::new(gateway.listeners[1], 300, first).ended(Duration::from_secs(15), b"h")
    });
    gateway.expect_metric("tls_handshake_failures_total", &["timeout"], 300.0);
    gone(&gateway);
}

#[test]
fn a_body_of_a_million_tiny_chunks_goes_through_and_delays_no_one() {
    let upstream = Upstream::new("a", |request| Reply::ok(request.body.len().to_string()));
    let gateway = with(&[&upstream], "runtime: { cores: 1 }\n");
    let chunks = if full() { 1_000_000 } else { 200_000 };
    let text = beside(gateway.http, || {
        let mut connection = gateway.connect();
        connection.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..chunks / 1000 {
            connection.send(b"1\r\nx\r\n".repeat(1000));
        }
        connection.send("0\r\n\r\n");
        connection.response("POST").expect(200).text()
    });
    assert_eq!(text, chunks.to_string());
}

#[test]
fn a_body_of_tiny_chunks_without_end_is_cut_at_its_bound() {
    let upstream = Upstream::named("a");
    let gateway = with(&[&upstream], "limits: { bodyBytes: 10KB }\n");
    beside(gateway.http, || {
        let first = b"POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let crowd = Crowd::new(gateway.http, 100, first);
        let said = crowd.ended(Duration::from_secs(20), &b"1\r\nx\r\n".repeat(1000));
        assert!(said.is_empty() || has_status(&said, 413));
    });
    gateway.expect_metric("requests_refused_total", &["too_large"], 100.0);
    only_good(&upstream);
    gone(&gateway);
}
