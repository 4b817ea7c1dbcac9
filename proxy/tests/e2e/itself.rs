//! The harness on itself, without a gateway: a tool that accepts everything proves nothing.

use crate::harness::http::{Framing, Head, Wire};
use crate::harness::jar::SetCookie;
use crate::harness::{Client, Connection, Gate, Reply, Upstream};

#[test]
fn the_client_reads_length_chunks_trailers_and_until_close() {
    let upstream = Upstream::new("a", |request| match request.head.target() {
        "/length" => Reply::ok("five!"),
        "/chunked" => Reply::chunked(["ab", "cde"]).trailer("X-Sum", "7"),
        _ => Reply::raw("HTTP/1.1 200 OK\r\n\r\nuntil the end").close(),
    });
    let mut client = Client::new(upstream.address().parse().unwrap());
    assert_eq!(client.get("/length").text(), "five!");
    let chunked = client.get("/chunked");
    assert_eq!(
        (chunked.text().as_str(), chunked.trailers.len()),
        ("abcde", 1)
    );
    let last = client.get("/close");
    assert_eq!(
        (last.text().as_str(), last.framing),
        ("until the end", Framing::UntilClose)
    );
    assert_eq!(upstream.accepted(), 1, "the connection was kept");
}

#[test]
fn interim_responses_are_told_apart_from_the_final_one() {
    let upstream = Upstream::new("a", |_| {
        Reply::raw("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    });
    let response = Client::new(upstream.address().parse().unwrap()).get("/");
    assert_eq!((response.status(), response.interim.len()), (204, 1));
}

#[test]
fn the_reader_is_strict() {
    let wrong: [&[u8]; 6] = [
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ];
    for bytes in wrong {
        let judged = Head::parse(bytes).and_then(|head| head.response_framing("GET"));
        assert!(judged.is_err(), "{:?}", String::from_utf8_lossy(bytes));
    }
    for body in [
        "5;x=1\r\nabcde\r\n0\r\n\r\n",
        "\r\n\r\n",
        "5\r\nabcdeX\r\n",
        " 5\r\nabcde\r\n0\r\n\r\n",
        "0x5\r\nabcde\r\n0\r\n\r\n",
    ] {
        assert!(
            Wire::new(body.as_bytes()).body(Framing::Chunked).is_err(),
            "{body:?}"
        );
    }
}

#[test]
fn an_upstream_stops_restarts_and_cuts() {
    let mut upstream = Upstream::named("a");
    let address = upstream.address().parse().unwrap();
    let mut kept = Connection::open(address);
    kept.exchange("GET /1 HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
    upstream.stop();
    kept.expect_close();
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "nobody listens"
    );
    upstream.restart();
    Client::new(address).get("/2").expect(200);
    assert_eq!(
        upstream
            .requests()
            .iter()
            .map(|r| r.head.target().to_owned())
            .collect::<Vec<_>>(),
        ["/1", "/2"]
    );
}

#[test]
fn a_gate_holds_a_reply_back() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |_| Reply::ok("late").after(&held));
    let mut connection = Connection::open(upstream.address().parse().unwrap());
    connection.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    upstream.wait_for(1);
    connection.patience(std::time::Duration::from_millis(50));
    assert!(
        connection.wire.fill().is_err(),
        "nothing before the gate opens"
    );
    gate.open();
    connection.patience(crate::harness::PATIENCE);
    assert_eq!(connection.response("GET").text(), "late");
}

#[test]
fn set_cookie_lines_are_taken_apart() {
    let set = SetCookie::parse("s=v=1; Path=/; Max-Age=0; HttpOnly");
    assert_eq!(
        (set.name.as_str(), set.value.as_str(), set.attribute("path")),
        ("s", "v=1", Some("/"))
    );
    assert!(set.has("httponly") && set.expires() && !set.has("secure"));
}

#[test]
fn the_handshake_of_the_rfc_is_reproduced() {
    use crate::harness::websocket::{HANDSHAKE_ACCEPT, HANDSHAKE_KEY, accept_for};
    assert_eq!(accept_for(HANDSHAKE_KEY), HANDSHAKE_ACCEPT);
}
