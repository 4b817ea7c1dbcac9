//! Cores, rings and limits of the machine.

use crate::harness::{Gateway, Launch, Upstream, eventually, service};

#[test]
fn one_two_and_eight_cores_serve() {
    let upstream = Upstream::named("a");
    for cores in [1, 2, 8] {
        let gateway = Gateway::start(&format!(
            "{}runtime: {{ cores: {cores} }}\n",
            service(&[&upstream])
        ));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        gateway.get("/").expect(200);
                    }
                });
            }
        });
        gateway.expect_metric("cores", &[], f64::from(cores));
        gateway.expect_metric("cores_ready", &[], f64::from(cores));
        gateway.expect_metric("requests_total", &["2xx"], 80.0);
    }
}

#[test]
fn a_list_of_cores_with_overrides_is_shown_and_runs() {
    let upstream = Upstream::named("a");
    let one = "    - { cpu: 0, busyPoll: 77us, ring: { entries: 512 } }\n";
    let two = "    - { cpu: 1, ring: { entries: 1024 } }\n";
    let keys = |cores: &str| format!("{}runtime:\n  cores:\n{cores}", service(&[&upstream]));
    let said = Launch::new(&keys(&format!("{one}{two}"))).check();
    for word in ["77us", "512", "1024"] {
        assert!(
            said.code == 0 && said.stdout.contains(word),
            "{word}: {said:?}"
        );
    }
    let twice = Launch::new(&keys(&format!("{one}{one}"))).check();
    assert!(
        twice.code == 2 && twice.stderr.contains("gateway.runtime.cores"),
        "{twice:?}"
    );
    Gateway::start(&keys(one)).get("/").expect(200);
    if std::thread::available_parallelism().is_ok_and(|n| n.get() >= 2) {
        let gateway = Gateway::start(&keys(&format!("{one}{two}")));
        for _ in 0..10 {
            gateway.get("/").expect(200);
        }
    }
}

#[test]
fn each_data_core_is_a_thread_of_its_own() {
    let upstream = Upstream::named("a");
    let gateway = Gateway::start(&format!(
        "{}runtime: {{ cores: 2 }}\n",
        service(&[&upstream])
    ));
    let names: Vec<String> = std::fs::read_dir(format!("/proc/{}/task", gateway.pid()))
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .collect();
    assert!(names.len() >= 3, "two cores and control: {names:?}");
    let pinned = std::fs::read_dir(format!("/proc/{}/task", gateway.pid()))
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok())
        .filter(|status| {
            status
                .lines()
                .any(|l| l.starts_with("Cpus_allowed_list:") && !l.contains(['-', ',']))
        })
        .count();
    if std::thread::available_parallelism().is_ok_and(|n| n.get() >= 2) {
        assert!(
            pinned >= 2,
            "{pinned} threads are pinned to one CPU: {names:?}"
        );
    }
}

#[test]
fn a_small_soft_limit_of_files_is_raised() {
    let upstream = Upstream::named("a");
    let gateway = Launch::new(&service(&[&upstream]))
        .under(&["prlimit", "--nofile=64:4096"])
        .start();
    let mut kept: Vec<_> = (0..120).map(|_| gateway.connect()).collect();
    for connection in &mut kept {
        connection
            .exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect(200);
    }
}

#[test]
fn a_small_hard_limit_of_files_is_told_and_survived() {
    let upstream = Upstream::named("a");
    let mut gateway = Launch::new(&service(&[&upstream]))
        .under(&["prlimit", "--nofile=100:100"])
        .start();
    let text = gateway.stderr.text();
    assert!(
        text.contains("LimitNOFILE") || text.contains("RLIMIT_NOFILE"),
        "{text}"
    );
    let kept: Vec<_> = (0..200)
        .filter_map(|_| std::net::TcpStream::connect(gateway.http).ok())
        .collect();
    assert!(gateway.lives());
    drop(kept);
    eventually("it serves again", || {
        let mut connection = gateway.connect();
        drop(connection.try_send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        connection
            .try_response("GET")
            .ok()
            .filter(|r| r.status() == 200)
    });
}

/// Words that run a command as nobody, so that limits hold that root is exempt from.
fn as_nobody(launch: Launch, limits: &str) -> Launch {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(launch.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let words = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "prlimit",
        limits,
    ];
    launch.under(&words)
}

#[test]
fn too_little_locked_memory_steps_down_and_says_so() {
    if std::fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .unwrap_or(1)
        != 0
    {
        eprintln!("skipped: needs root to become nobody");
        return;
    }
    let upstream = Upstream::named("a");
    let gateway = as_nobody(
        Launch::new(&format!(
            "{}runtime: {{ cores: 2 }}\n",
            service(&[&upstream])
        )),
        "--memlock=65536:65536",
    )
    .start();
    gateway.get("/").expect(200);
    let text = gateway.stderr.text();
    assert!(
        text.contains("LimitMEMLOCK") || text.contains("RLIMIT_MEMLOCK"),
        "{text}"
    );
}

#[test]
fn no_locked_memory_at_all_still_serves() {
    if std::fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .unwrap_or(1)
        != 0
    {
        eprintln!("skipped: needs root to become nobody");
        return;
    }
    let upstream = Upstream::named("a");
    let gateway = as_nobody(
        Launch::new(&format!(
            "{}runtime: {{ cores: 2 }}\n",
            service(&[&upstream])
        )),
        "--memlock=0:0",
    )
    .start();
    for _ in 0..10 {
        gateway.get("/").expect(200);
    }
    assert!(
        gateway.stderr.text().contains("warn"),
        "{}",
        gateway.stderr.text()
    );
}
