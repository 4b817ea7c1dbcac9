//! WebSockets and other tunnels of a session end with it; so do its pins.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::harness::websocket::{accept, frame, handshake, read_frame};
use crate::harness::{Connection, Gate, Link, PATIENCE, eventually, lock};

/// Frames that an application got: opcode and payload.
type Seen = Arc<Mutex<Vec<(u8, Vec<u8>)>>>;

/// The payload of the Close frame of a session that has ended: 1008.
const ENDED: &[u8] = b"\x03\xf0session ended";

/// Answers what is no handshake with the header line that the request names, until a handshake comes.
fn until_handshake(link: &mut Link) -> bool {
    while let Some(request) = link.request() {
        if request.head.has("upgrade") {
            return true;
        }
        let line = request.get("x-answer").unwrap_or("X-Nothing: 1");
        link.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{line}\r\n\r\n"
        ));
    }
    false
}

/// An application that echoes messages.
fn echo() -> (Upstream, Seen) {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let upstream = Upstream::raw("a", move |link| {
        if !until_handshake(link) {
            return;
        }
        link.send(accept());
        while let Ok((opcode, payload)) = read_frame(&mut link.wire) {
            lock(&kept).push((opcode, payload.clone()));
            if opcode == 8 {
                return;
            }
            link.send(frame(opcode, &payload, false));
        }
    });
    (upstream, seen)
}

#[track_caller]
fn login(gateway: &Gateway, user: &str) -> Client {
    let mut client = gateway.client();
    ask(
        &mut client,
        &format!("X-Session-Authenticate: {{\"userId\":\"{user}\"}}"),
    );
    client
}

#[track_caller]
fn begin(gateway: &Gateway, client: &Client) -> Connection {
    let cookie = client.jar.header().expect("a cookie");
    let mut connection = gateway.connect();
    let host = gateway.http.to_string();
    let lines = format!("Origin: http://{host}\r\nCookie: {cookie}\r\n");
    connection.send(handshake("/", &host, &lines));
    connection
}

#[track_caller]
fn open(gateway: &Gateway, client: &Client) -> Connection {
    let mut connection = begin(gateway, client);
    assert_eq!(connection.head().status(), 101);
    connection
}

#[track_caller]
fn says(socket: &mut Connection, word: &str) {
    socket.send(frame(1, word.as_bytes(), true));
    let (opcode, payload) = read_frame(&mut socket.wire).expect("an echo");
    assert_eq!((opcode, &*payload), (1, word.as_bytes()));
}

#[track_caller]
fn expect_ended(socket: &mut Connection) {
    let (opcode, payload) = read_frame(&mut socket.wire).expect("a Close frame");
    assert_eq!((opcode, &*payload), (8, ENDED));
    assert!(socket.drain().is_empty(), "nothing follows it");
}

#[test]
fn a_user_who_is_logged_out_everywhere_has_no_sockets_and_no_pins() {
    let (upstream, seen) = echo();
    // Connections stay where they came in, so sockets and sessions are on different cores.
    let gateway = with_more(
        &upstream,
        &format!("{COOKIE}data: {{ index: [userId] }}\n"),
        "runtime: { cores: 4, migrateConnections: false }\n\
         router: { sessionAffinity: { methods: [session] } }\n",
    );
    let clients: Vec<Client> = (0..10).map(|_| login(&gateway, "u1")).collect();
    let other = login(&gateway, "u2");
    let mut sockets: Vec<_> = clients.iter().map(|c| open(&gateway, c)).collect();
    let mut others = [open(&gateway, &other), open(&gateway, &other)];
    sockets.iter_mut().for_each(|socket| says(socket, "hello"));
    gateway.expect_metric("session_sockets", &[], 12.0);
    gateway.expect_metric("pins", &[], 11.0);
    let began = Instant::now();
    let answer = gateway.api("DELETE", "/api/sessions?userId=u1").expect(200);
    assert_eq!(answer.json()["destroyed"], 10);
    sockets.iter_mut().for_each(expect_ended);
    assert!(began.elapsed() < Duration::from_secs(1), "at once");
    gateway.expect_metric("session_sockets", &[], 2.0);
    gateway.expect_metric("session_sockets_ended_total", &[], 10.0);
    gateway.expect_metric("pins", &[], 1.0);
    eventually("the upstream is told of each", || {
        let seen = lock(&seen);
        let closes = seen.iter().filter(|(opcode, _)| *opcode == 8);
        (closes.filter(|(_, payload)| payload == ENDED).count() == 10).then_some(())
    });
    others
        .iter_mut()
        .for_each(|socket| says(socket, "still here"));
}

#[test]
fn a_destroy_by_the_application_ends_the_sockets_of_all_sessions_that_it_names() {
    let (upstream, _) = echo();
    let gateway = with_more(&upstream, COOKIE, "runtime: { cores: 2 }\n");
    let mut clients: Vec<Client> = (0..4).map(|_| login(&gateway, "u1")).collect();
    let mut sockets: Vec<_> = clients.iter().map(|c| open(&gateway, c)).collect();
    ask(&mut clients[0], "X-Session-Destroy: others");
    sockets[1..].iter_mut().for_each(expect_ended);
    says(&mut sockets[0], "spared");
    ask(&mut clients[0], "X-Session-Destroy: 1");
    expect_ended(&mut sockets[0]);
}

#[test]
fn a_close_goes_between_frames() {
    let gate = Gate::new();
    let opened = gate.clone();
    let upstream = Upstream::raw("a", move |link| {
        if !until_handshake(link) {
            return;
        }
        let long = frame(2, &[7; 50_000], false);
        link.send(accept());
        link.send(&long[..20_000]);
        opened.wait();
        link.send(&long[20_000..]);
        link.send(frame(1, b"too late", false));
        drop(link.wire.rest());
    });
    let gateway = with_session(&upstream, COOKIE);
    let client = login(&gateway, "u1");
    let mut socket = open(&gateway, &client);
    while socket.wire.pending().len() < 20_000 {
        socket.wire.fill().expect("the first part");
    }
    gateway
        .api("DELETE", &format!("/api/sessions/{}", sid(&upstream)))
        .expect(200);
    gateway.expect_metric("session_sockets_ended_total", &[], 1.0);
    gate.open();
    let (opcode, payload) = read_frame(&mut socket.wire).expect("the whole frame");
    assert_eq!((opcode, payload.len()), (2, 50_000));
    expect_ended(&mut socket);
}

#[test]
fn a_frame_that_does_not_end_is_not_waited_for() {
    let upstream = Upstream::raw("a", move |link| {
        if until_handshake(link) {
            link.send(accept());
            link.send(&frame(2, &[7; 1000], false)[..10]);
            drop(link.wire.rest());
        }
    });
    let gateway = with_session(&upstream, COOKIE);
    let client = login(&gateway, "u1");
    let mut socket = open(&gateway, &client);
    let began = Instant::now();
    gateway
        .api("DELETE", &format!("/api/sessions/{}", sid(&upstream)))
        .expect(200);
    assert_eq!(socket.drain().len(), 10, "no Close within a frame");
    assert!(began.elapsed() < PATIENCE / 2);
    gateway.expect_metric("session_sockets", &[], 0.0);
}

#[test]
fn a_tunnel_of_another_protocol_is_closed() {
    let upstream = Upstream::raw("a", |link| {
        if until_handshake(link) {
            link.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: mine\r\nConnection: upgrade\r\n\r\nhi");
            drop(link.wire.rest());
        }
    });
    let gateway = with_session(&upstream, COOKIE);
    let client = login(&gateway, "u1");
    let cookie = client.jar.header().expect("a cookie");
    let mut tunnel = gateway.connect();
    tunnel.send(format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: mine\r\nConnection: upgrade\r\nCookie: {cookie}\r\n\r\n",
        gateway.http
    ));
    assert_eq!(tunnel.head().status(), 101);
    assert_eq!(tunnel.wire.take(2).unwrap(), b"hi");
    gateway
        .api("DELETE", &format!("/api/sessions/{}", sid(&upstream)))
        .expect(200);
    assert!(tunnel.drain().is_empty(), "no frame");
}

#[test]
fn a_session_that_ends_during_the_handshake_leaves_no_socket() {
    let gate = Gate::new();
    let opened = gate.clone();
    let upstream = Upstream::raw("a", move |link| {
        if until_handshake(link) {
            opened.wait();
            link.send(accept());
            drop(link.wire.rest());
        }
    });
    let gateway = with_more(
        &upstream,
        COOKIE,
        "runtime: { cores: 3, migrateConnections: false }\n",
    );
    let clients: Vec<_> = (0..6).map(|_| login(&gateway, "u1")).collect();
    let mut sockets: Vec<_> = clients.iter().map(|c| begin(&gateway, c)).collect();
    upstream.wait_for(12);
    gateway.api("DELETE", "/api/sessions?userId=u1").expect(200);
    gate.open();
    for socket in &mut sockets {
        assert_eq!(socket.head().status(), 101);
        expect_ended(socket);
    }
}

#[test]
fn messages_of_the_client_keep_its_session() {
    let (upstream, _) = echo();
    let gateway = with_more(
        &upstream,
        &format!("{COOKIE}options: {{ timeout: 3s }}\n"),
        "runtime: { cores: 2, migrateConnections: false }\n",
    );
    let client = login(&gateway, "u1");
    let mut socket = open(&gateway, &client);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        says(&mut socket, "there");
        // The silence between two messages.
        socket.patience(Duration::from_millis(300));
        assert!(socket.wire.fill().is_err(), "nothing is said unasked");
        socket.patience(PATIENCE);
    }
    says(&mut socket, "still there");
    expect_ended(&mut socket);
    assert!(began.elapsed() > Duration::from_secs(7), "idle for 3 s");
}

#[test]
fn sockets_may_outlive_their_session() {
    let (upstream, _) = echo();
    let gateway = with_more(&upstream, COOKIE, "websocket: { onSessionEnd: keep }\n");
    let client = login(&gateway, "u1");
    let mut socket = open(&gateway, &client);
    says(&mut socket, "hello");
    gateway.api("DELETE", "/api/sessions?userId=u1").expect(200);
    gateway.expect_metric("session_destroys_total", &[], 1.0);
    says(&mut socket, "still here");
    gateway.expect_metric("session_sockets", &[], 0.0);
}
