//! `holdfast demo`: no file, two upstreams of its own, three lines worth trying.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::gateway::{BINARY, Lines};
use crate::harness::{PATIENCE, eventually, eventually_within};

#[test]
fn the_demo_prints_three_curl_lines_that_work_and_ends_within_a_second() {
    for port in [8080, 9901] {
        eventually_within(4 * PATIENCE, "the demo's ports are free", || {
            std::net::TcpListener::bind(("127.0.0.1", port)).ok()
        });
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(BINARY)
        .arg("demo")
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdout, stderr) = (
        Lines::follow(child.stdout.take().unwrap()),
        Lines::follow(child.stderr.take().unwrap()),
    );
    let outcome = std::panic::catch_unwind(|| {
        let curls = eventually("three lines with curl", || {
            let all = [stdout.all(), stderr.all()].concat();
            let curls: Vec<String> = all
                .iter()
                .filter_map(|l| l.find("curl ").map(|at| l[at..].trim().to_owned()))
                .collect();
            (curls.len() >= 3).then_some(curls)
        });
        assert_eq!(curls.len(), 3, "{curls:?}");
        eventually("it listens", || {
            std::net::TcpStream::connect("127.0.0.1:8080").ok()
        });
        for line in &curls {
            let output = Command::new("sh")
                .args(["-c", line])
                .current_dir(dir.path())
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success() && !text.trim().is_empty(),
                "{line}: {output:?}"
            );
            assert!(
                !text.contains("HTTP/1.1 5") && !text.contains("HTTP/1.1 4"),
                "{line}: {text}"
            );
        }
        let jar = [
            "-s",
            "-c",
            "jar",
            "-b",
            "jar",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://127.0.0.1:8080/",
        ];
        for _ in 0..3 {
            let output = Command::new("curl")
                .args(jar)
                .current_dir(dir.path())
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "200");
        }
        assert!(
            std::fs::read_to_string(dir.path().join("jar"))
                .unwrap()
                .lines()
                .count()
                > 4,
            "cookies were set"
        );
    });
    drop(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status(),
    );
    let started = Instant::now();
    let mut ended = None;
    while ended.is_none() && started.elapsed() < Duration::from_secs(5) {
        ended = child.try_wait().unwrap();
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let took = started.elapsed();
    drop(child.kill());
    drop(child.wait());
    if let Err(panic) = outcome {
        eprintln!("{}\n{}", stdout.text(), stderr.text());
        std::panic::resume_unwind(panic);
    }
    assert!(
        ended.is_some() && took < Duration::from_millis(1500),
        "ended after {took:?}"
    );
}
