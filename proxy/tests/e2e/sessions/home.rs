//! Connections that go home: to the core that owns their session.

use super::*;

/// A gateway on so many cores, and an upstream that tells of each request what it was.
fn on_cores(cores: usize, more: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::new("a", |request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        Reply::ok(format!("{} {body}", request.head.target()))
    });
    let keys = format!("runtime: {{ cores: {cores}{more} }}\n");
    let gateway = with_more(&upstream, COOKIE, &keys);
    (upstream, gateway)
}

/// Clients with a session each, and the Cookie line that they send.
fn clients(gateway: &Gateway, n: usize) -> Vec<String> {
    (0..n)
        .map(|_| {
            let mut client = gateway.client();
            client.get("/first").expect(200);
            client.jar.header().expect("a session cookie")
        })
        .collect()
}

/// Fails unless connections with a request each, with `more` in its head, stay and ask.
#[track_caller]
fn expect_to_stay(gateway: &Gateway, more: &str) {
    for cookie in clients(gateway, 24) {
        gateway
            .connect()
            .exchange(&format!(
                "GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n{more}\r\n"
            ))
            .expect(200);
    }
    gateway.expect_at_least("requests_crossed_cores_total", &[], 8.0);
    gateway.expect_metric("connections_moved_total", &[], 0.0);
}

#[test]
fn a_connection_with_one_session_crosses_no_cores() {
    let (upstream, gateway) = on_cores(8, "");
    let cookies = clients(&gateway, 40);
    let crossed = gateway.metric("requests_crossed_cores_total", &[]);
    let mut connections: Vec<_> = cookies.iter().map(|_| gateway.connect()).collect();
    for round in 0..5 {
        for (connection, cookie) in connections.iter_mut().zip(&cookies) {
            connection
                .exchange(&format!(
                    "GET /{round} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"
                ))
                .expect(200);
        }
    }
    assert_eq!(
        gateway.metric("requests_crossed_cores_total", &[]) - crossed,
        0.0
    );
    // Seven of eight connections came to a core that does not own their session.
    gateway.expect_at_least("connections_moved_total", &[], 20.0);
    let sids: std::collections::HashSet<String> = upstream
        .requests()
        .iter()
        .filter_map(|r| r.get("x-session-id").map(str::to_owned))
        .collect();
    assert_eq!(sids.len(), 40, "nobody lost a session");
    gateway.expect_metric("connections_open", &[], 40.0);
    drop(connections);
    gateway.expect_metric("connections_open", &[], 0.0);
}

#[test]
fn nothing_is_lost_or_doubled_while_a_connection_moves() {
    let (upstream, gateway) = on_cores(8, "");
    for (i, cookie) in clients(&gateway, 24).iter().enumerate() {
        let before = upstream.count();
        let mut connection = gateway.connect();
        // Three requests at once, the second with a body, of which the end comes later.
        connection.send(format!(
            "GET /{i}/1 HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n\
             POST /{i}/2 HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nContent-Length: 10\r\n\r\nhello"
        ));
        assert_eq!(connection.response("GET").text(), format!("/{i}/1 "));
        connection.send(format!(
            "world\
             GET /{i}/3 HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"
        ));
        assert_eq!(
            connection.response("POST").text(),
            format!("/{i}/2 helloworld")
        );
        assert_eq!(connection.response("GET").text(), format!("/{i}/3 "));
        assert_eq!(upstream.count() - before, 3);
    }
    gateway.expect_at_least("connections_moved_total", &[], 8.0);
}

#[test]
fn a_first_request_whose_body_is_cut_in_two_moves_with_it() {
    let (_upstream, gateway) = on_cores(8, "");
    for cookie in clients(&gateway, 16) {
        let mut connection = gateway.connect();
        connection.send(format!(
            "POST /b HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"
        ));
        connection.send("lo\r\n0\r\n\r\n");
        assert_eq!(connection.response("POST").text(), "/b hello");
    }
    gateway.expect_at_least("connections_moved_total", &[], 4.0);
}

#[test]
fn what_ends_with_its_first_request_stays_and_asks() {
    let (_upstream, gateway) = on_cores(8, "");
    expect_to_stay(&gateway, "Connection: close\r\n");
}

#[test]
fn a_connection_of_a_trusted_proxy_stays_and_asks() {
    let upstream = app();
    let text = format!(
        "{}session:\n{}runtime: {{ cores: 8 }}\n\
         listeners: [{{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.0/8\"] }}]\n",
        service(&[&upstream]),
        indent(COOKIE, 2)
    );
    let gateway = Gateway::start(&text);
    let mut connection = gateway.connect();
    // One connection, many clients.
    for cookie in clients(&gateway, 24) {
        connection
            .exchange(&format!(
                "GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"
            ))
            .expect(200);
    }
    gateway.expect_at_least("requests_crossed_cores_total", &[], 8.0);
    gateway.expect_metric("connections_moved_total", &[], 0.0);
}

#[test]
fn connections_stay_where_the_configuration_says_so() {
    let (_upstream, gateway) = on_cores(8, ", migrateConnections: false");
    expect_to_stay(&gateway, "");
}

#[test]
fn a_core_with_over_its_share_takes_no_more() {
    let (_upstream, gateway) = on_cores(4, "");
    let cookie = clients(&gateway, 1).remove(0);
    // All of one session: they would all go to one core.
    let mut connections: Vec<_> = (0..240).map(|_| gateway.connect()).collect();
    for connection in &mut connections {
        connection
            .exchange(&format!(
                "GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"
            ))
            .expect(200);
    }
    gateway.expect_at_least("connections_not_moved_total", &[], 50.0);
    gateway.expect_at_least("connections_moved_total", &[], 10.0);
}
