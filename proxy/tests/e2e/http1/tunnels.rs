//! Upgrade: after 101 the bytes belong to the two ends.

use super::{noise, plain, plain_with};
use crate::harness::websocket::{HANDSHAKE_ACCEPT, accept, frame, handshake, read_frame};
use crate::harness::{Gateway, PATIENCE, Reply, Upstream, eventually};

/// Accepts every upgrade and sends back what it gets.
fn echo() -> Upstream {
    Upstream::raw("a", |link| {
        if link.request().is_none() {
            return;
        }
        link.send(accept());
        let early = link.wire.pending().to_vec();
        link.send(early);
        let mut seen = link.wire.pending().len();
        while link.wire.fill().is_ok_and(|n| n > 0) {
            let fresh = link.wire.pending()[seen..].to_vec();
            seen += fresh.len();
            if !link.send(fresh) {
                return;
            }
        }
        link.send("goodbye");
    })
}

fn upgraded(gateway: &Gateway) -> crate::harness::Connection {
    let mut connection = gateway.connect();
    connection.send(handshake("/socket", "x", ""));
    let head = connection.head();
    assert_eq!(head.status(), 101);
    assert!(
        head.lists("connection", "upgrade") && head.lists("upgrade", "websocket"),
        "{head:?}"
    );
    assert_eq!(head.get("sec-websocket-accept"), Some(HANDSHAKE_ACCEPT));
    connection
}

#[test]
fn an_upgrade_is_relayed_byte_for_byte() {
    let upstream = echo();
    let gateway = plain(&[&upstream]);
    let mut connection = upgraded(&gateway);
    let request = upstream.last();
    assert!(
        request.head.lists("connection", "upgrade") && request.head.lists("upgrade", "websocket"),
        "{:?}",
        request.head
    );
    for size in [1, 100, 70_000, 1_000_000] {
        let bytes = noise(size);
        let mut writer = connection.wire.stream.try_clone().unwrap();
        let sent = bytes.clone();
        let sender =
            std::thread::spawn(move || std::io::Write::write_all(&mut writer, &sent).unwrap());
        assert!(connection.wire.take(size).unwrap() == bytes, "{size} bytes");
        sender.join().unwrap();
    }
}

#[test]
fn each_direction_of_a_tunnel_ends_by_itself() {
    let upstream = echo();
    let gateway = plain(&[&upstream]);
    let mut connection = upgraded(&gateway);
    connection.send("last words");
    connection.finish();
    assert_eq!(
        connection.wire.rest().unwrap(),
        b"last wordsgoodbye",
        "the upstream speaks after the client has ended"
    );
}

#[test]
fn bytes_that_come_with_the_101_are_not_lost() {
    let upstream = Upstream::raw("a", |link| {
        if link.request().is_some() {
            link.send(format!("{}first frame", accept()));
            drop(link.wire.rest());
        }
    });
    let gateway = plain(&[&upstream]);
    let mut connection = upgraded(&gateway);
    assert_eq!(connection.wire.take(11).unwrap(), b"first frame");
}

#[test]
fn websocket_frames_pass_both_ways() {
    let upstream = Upstream::raw("a", |link| {
        if link.request().is_none() {
            return;
        }
        link.send(accept());
        while let Ok((opcode, payload)) = read_frame(&mut link.wire) {
            link.send(frame(opcode, &payload, false));
            if opcode == 8 {
                return;
            }
        }
    });
    let gateway = plain(&[&upstream]);
    let mut connection = upgraded(&gateway);
    for size in [0, 125, 126, 65_535, 65_536] {
        let payload = noise(size);
        connection.send(frame(2, &payload, true));
        assert!(
            read_frame(&mut connection.wire).unwrap() == (2, payload),
            "{size} bytes"
        );
    }
    connection.send(frame(8, &[3, 232], true));
    assert_eq!(read_frame(&mut connection.wire).unwrap(), (8, vec![3, 232]));
    connection.expect_close();
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_exchange() {
    let upstream = Upstream::new("a", |_| Reply::status(426).header("Upgrade", "other"));
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection
        .exchange(&handshake("/socket", "x", ""))
        .expect(426);
    connection
        .exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(426);
}

#[test]
fn an_idle_tunnel_ends_after_its_timeout() {
    let upstream = echo();
    let gateway = plain_with(&[&upstream], "limits: { tunnelTimeout: 1s }\n", "");
    let mut connection = upgraded(&gateway);
    connection.send("x");
    assert_eq!(connection.wire.take(1).unwrap(), b"x");
    let started = std::time::Instant::now();
    drop(connection.drain());
    assert!(started.elapsed().as_millis() >= 500, "not at once");
    eventually("the upstream's side ends as well", || {
        (upstream.open() == 0).then_some(())
    });
}

#[test]
fn response_and_idle_timeouts_do_not_cut_a_tunnel() {
    let upstream = echo();
    let gateway = plain_with(
        &[&upstream],
        "limits: { responseTimeout: 300ms, idleTimeout: 300ms, headerTimeout: 300ms, bodyTimeout: 300ms }\n",
        "",
    );
    let mut connection = upgraded(&gateway);
    connection.patience(std::time::Duration::from_millis(2500));
    let silence = connection
        .wire
        .fill()
        .expect_err("neither bytes nor the end");
    assert!(
        matches!(
            silence.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
        "{silence}"
    );
    connection.patience(PATIENCE).send("alive");
    assert_eq!(connection.wire.take(5).unwrap(), b"alive");
}

#[test]
fn many_tunnels_at_once_do_not_mix() {
    let upstream = echo();
    let gateway = plain(&[&upstream]);
    let mut tunnels: Vec<_> = (0..50).map(|_| upgraded(&gateway)).collect();
    for round in 0..3 {
        for (n, tunnel) in tunnels.iter_mut().enumerate() {
            tunnel.send(format!("{round:03}-{n:05}"));
        }
        for (n, tunnel) in tunnels.iter_mut().enumerate() {
            assert_eq!(
                tunnel.wire.take(9).unwrap(),
                format!("{round:03}-{n:05}").as_bytes()
            );
        }
    }
}
