//! How a process starts beside others.

use crate::harness::{Gateway, Launch, PATIENCE, Upstream, service};

#[test]
fn a_stale_instance_on_the_port_is_noticed_and_refused() {
    let upstream = Upstream::named("a");
    let first = Gateway::start(&service(&[&upstream]));
    let text = format!(
        "{}listeners: [{{ address: \"{}\" }}]\n",
        service(&[&upstream]),
        first.http
    );
    let said = Launch::new(&text)
        .try_start()
        .err()
        .expect("the second does not start");
    assert!(
        said.code != 0 && said.stderr.contains(&first.http.to_string()),
        "{said:?}"
    );
    for _ in 0..20 {
        first.get("/").expect(200);
    }
}

#[test]
fn a_port_of_somebody_else_is_told() {
    let upstream = Upstream::named("a");
    let text = format!(
        "{}listeners: [{{ address: \"{}\" }}]\n",
        service(&[&upstream]),
        upstream.address()
    );
    let said = Launch::new(&text)
        .try_start()
        .err()
        .expect("it does not start");
    assert!(
        said.code != 0 && said.stderr.contains(&upstream.address()),
        "{said:?}"
    );
    let text = format!(
        "{}admin: {{ address: \"{}\" }}\n",
        service(&[&upstream]),
        upstream.address()
    );
    let said = Launch::new(&text)
        .try_start()
        .err()
        .expect("it does not start");
    assert!(
        said.code != 0 && said.stderr.contains(&upstream.address()),
        "{said:?}"
    );
}

#[test]
fn a_port_is_free_again_right_after_the_end() {
    let upstream = Upstream::named("a");
    let first = Gateway::start(&service(&[&upstream]));
    let mut client = first.client();
    client.get("/").expect(200);
    let text = format!(
        "{}listeners: [{{ address: \"{}\" }}]\n",
        service(&[&upstream]),
        first.http
    );
    let second = first.replace(&text);
    second.get("/").expect(200);
}

#[test]
fn many_gateways_at_once_do_not_disturb_each_other() {
    let upstream = Upstream::named("a");
    let gateways: Vec<Gateway> = (0..4)
        .map(|_| {
            Gateway::start(&format!(
                "{}runtime: {{ cores: 1 }}\n",
                service(&[&upstream])
            ))
        })
        .collect();
    for gateway in gateways.iter().cycle().take(20) {
        gateway.get("/").expect(200);
    }
    assert_eq!(upstream.count(), 20);
}

#[test]
fn the_admin_endpoint_can_be_left_out() {
    let upstream = Upstream::named("a");
    let gateway = Gateway::start(&format!(
        "{}admin: {{ enabled: false }}\n",
        service(&[&upstream])
    ));
    gateway.get("/").expect(200);
    assert!(
        !gateway.stderr.text().contains("admin on"),
        "{}",
        gateway.stderr.text()
    );
}

#[test]
fn an_access_log_that_cannot_be_opened_is_told_at_start() {
    let upstream = Upstream::named("a");
    let text = format!(
        "{}accessLog: {{ path: /does/not/exist/access.log, format: json }}\n",
        service(&[&upstream])
    );
    let said = Launch::new(&text)
        .try_start()
        .err()
        .expect("it does not start");
    assert!(
        said.code != 0 && said.stderr.contains("/does/not/exist/access.log"),
        "{said:?}"
    );
}

#[test]
fn a_service_manager_is_told_and_its_watchdog_fed() {
    let upstream = Upstream::named("a");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    manager
        .set_read_timeout(Some(PATIENCE))
        .expect("a deadline");
    let mut gateway = Launch::new(&service(&[&upstream]))
        .env("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))
        .env("WATCHDOG_USEC", "10000000")
        .start();
    let told = || {
        let mut buffer = [0; 64];
        let n = manager.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    assert_eq!(told(), "READY=1");
    for _ in 0..2 {
        assert_eq!(told(), "WATCHDOG=1");
    }
    let next = || {
        let mut all = std::iter::repeat_with(told);
        all.find(|state| state != "WATCHDOG=1").expect("a datagram")
    };
    for text in [service(&[&upstream]), "services: 7\n".to_owned()] {
        gateway.rewrite(&text);
        gateway.signal("HUP");
        let begun = next();
        let time = begun
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .expect(&begun);
        assert!(
            time.parse::<u64>().is_ok_and(|micros| micros > 0),
            "{begun}"
        );
        assert_eq!(next(), "READY=1");
    }
    gateway.signal("TERM");
    assert_eq!(next(), "STOPPING=1");
    gateway.wait(PATIENCE);
}
