//! Drives the real binary: load, idle and relay against the static upstream, on ports of the
//! system's choice.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_holdfast-perf");

/// A server of ours, killed when dropped.
struct Server {
    child: Child,
    /// `address:port` of each listener.
    at: Vec<String>,
}

impl Server {
    fn start(arguments: &str) -> Self {
        let words: Vec<_> = arguments.split_whitespace().collect();
        let listeners = words.iter().filter(|w| **w == "--listen").count();
        let mut child = Command::new(BINARY)
            .args(&words)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let at = out
            .lines()
            .take(listeners)
            .map(|line| {
                let line = line.expect("a line");
                assert!(line.starts_with("listening "), "{line}");
                line.rsplit(' ').next().expect("an address").to_owned()
            })
            .collect();
        Self { child, at }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tool(arguments: &str) -> Output {
    Command::new(BINARY)
        .args(arguments.split_whitespace())
        .output()
        .expect("the binary runs")
}

fn json(arguments: &str) -> String {
    let out = tool(arguments);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{arguments}: {text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

fn number(json: &str, key: &str) -> f64 {
    let after = json
        .split_once(&format!("\"{key}\":"))
        .unwrap_or_else(|| panic!("no {key} in {json}"))
        .1;
    let end = after.find([',', '}']).unwrap_or(after.len());
    after[..end].parse().unwrap_or(f64::NAN)
}

#[test]
fn exactly_the_requests_asked_for_are_answered() {
    let upstream = Server::start("upstream --listen a=127.0.0.1:0 --size 600");
    let out = json(&format!(
        "load --to {} --connections 8 --threads 2 --requests 1001 --json",
        upstream.at[0]
    ));
    assert!(out.contains(r#""statuses":{"200":1001}"#), "{out}");
    assert!(out.contains(r#""errors":{}"#), "{out}");
    assert!(out.contains(r#""upstreams":{"a":1001}"#), "{out}");
    assert_eq!(number(&out, "body_bytes"), 600.0 * 1001.0);
    assert_eq!(number(&out, "connects"), 8.0);
    assert!(number(&out, "p50") > 0.0);
}

#[test]
fn chunked_large_and_close_answers() {
    for (serve, send, size) in [
        ("--size 100000 --chunked 777", "", 100_000.0),
        ("--size 1MiB", "--read-buffer 256KiB", 1_048_576.0),
        ("--size 5 --close", "", 5.0),
        ("--size 5", "--new-connections", 5.0),
        ("--size 5", "--body 100000", 5.0),
    ] {
        let upstream = Server::start(&format!("upstream --listen 127.0.0.1:0 {serve}"));
        let out = json(&format!(
            "load --to {} --connections 4 --requests 40 --json {send}",
            upstream.at[0]
        ));
        assert!(out.contains(r#""errors":{}"#), "{serve}: {out}");
        assert_eq!(number(&out, "body_bytes"), 40.0 * size, "{serve}: {out}");
        let connects = if serve.contains("close") || send.contains("new") {
            40.0
        } else {
            4.0
        };
        assert_eq!(number(&out, "connects"), connects, "{serve} {send}");
    }
}

#[test]
fn head_requests_have_no_body() {
    let upstream = Server::start("upstream --listen 127.0.0.1:0 --set always");
    let out = json(&format!(
        "load --to {} --connections 1 --requests 10 --method HEAD --json",
        upstream.at[0]
    ));
    assert!(
        out.contains(r#""errors":{}"#) && out.contains(r#""200":10"#),
        "{out}"
    );
    assert_eq!(number(&out, "body_bytes"), 0.0);
}

#[test]
fn a_constant_rate_is_kept_and_a_slow_server_is_seen() {
    let upstream = Server::start("upstream --listen 127.0.0.1:0");
    let out = json(&format!(
        "load --to {} --connections 8 --rate 500 --warm 200ms --duration 1s --json",
        upstream.at[0]
    ));
    let rate = number(&out, "rate");
    assert!((400.0..600.0).contains(&rate), "{out}");
    // One connection, 20 ms an answer: 50 a second of 200 due. Corrected latency grows to most of
    // the run; without the correction it would be 20 ms.
    let slow = Server::start("upstream --listen 127.0.0.1:0 --delay 20ms");
    let out = json(&format!(
        "load --to {} --connections 1 --rate 200 --duration 1s --json",
        slow.at[0]
    ));
    assert!(number(&out, "backlog") > 50.0, "{out}");
    assert!(number(&out, "p99") > 300_000.0, "{out}");
}

#[test]
fn cookies_are_learnt_and_given_back() {
    let upstream = Server::start(
        "upstream --listen a=127.0.0.1:0 --listen b=127.0.0.1:0 --header Set-Cookie:sid=x1",
    );
    let folder = tempfile::tempdir().expect("a folder");
    let jar = folder.path().join("jar");
    let out = json(&format!(
        "load --to {} --clients 50 --connections 4 --requests 100 --affinity --json --jar-out {}",
        upstream.at[1],
        jar.display()
    ));
    assert_eq!(number(&out, "cookies_stored"), 100.0);
    assert_eq!(number(&out, "clients_with_cookies"), 50.0);
    assert!(
        out.contains(r#""errors":{}"#) && out.contains(r#""b":100"#),
        "{out}"
    );
    let text = std::fs::read_to_string(&jar).expect("the jar");
    assert_eq!(text, "sid=x1\n".repeat(50));
    let out = json(&format!(
        "load --to {} --cookies {} --fixed-jar --requests 100 --json",
        upstream.at[0],
        jar.display()
    ));
    assert_eq!(number(&out, "cookies_stored"), 0.0);
}

#[test]
fn the_relay_relays_both_ways() {
    let upstream = Server::start("upstream --listen 127.0.0.1:0 --size 300000");
    let relay = Server::start(&format!(
        "relay --listen 127.0.0.1:0 --to {} --duplex --buffer 64KiB",
        upstream.at[0]
    ));
    let out = json(&format!(
        "load --to {} --connections 4 --requests 40 --body 100000 --json",
        relay.at[0]
    ));
    assert!(
        out.contains(r#""errors":{}"#) && out.contains(r#""200":40"#),
        "{out}"
    );
    let small = Server::start("upstream --listen 127.0.0.1:0");
    let relay = Server::start(&format!("relay --listen 127.0.0.1:0 --to {}", small.at[0]));
    let out = json(&format!(
        "load --to {} --connections 4 --requests 400 --json --watch relay={}",
        relay.at[0],
        relay.child.id()
    ));
    assert!(
        out.contains(r#""errors":{}"#) && out.contains(r#""200":400"#),
        "{out}"
    );
    assert!(number(&out, "cpu_us") > 0.0, "{out}");
    assert!(number(&out, "rss") > 0.0, "{out}");
}

#[test]
fn errors_are_told_by_kind() {
    let gone = Server::start("upstream --listen 127.0.0.1:0").at[0].clone();
    // The ring of a process that was killed keeps its listener for a moment.
    let begun = Instant::now();
    while std::net::TcpStream::connect(&gone).is_ok() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the listener stays"
        );
        std::thread::yield_now();
    }
    let out = tool(&format!(
        "load --to {gone} --connections 1 --requests 3 --json"
    ));
    assert!(!out.status.success());
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        text.contains(r#""errors":{"connect: ConnectionRefused":3}"#),
        "{text}"
    );
    let slow = Server::start("upstream --listen 127.0.0.1:0 --delay 60s");
    let begun = Instant::now();
    let out = tool(&format!(
        "load --to {} --connections 2 --requests 9 --timeout 300ms --json",
        slow.at[0]
    ));
    assert!(begun.elapsed() < Duration::from_secs(20));
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains(r#""errors":{"timeout":2}"#), "{text}");
    assert!(text.contains(r#""stuck":1"#), "{text}");
}

#[test]
fn idle_connections_are_counted_in_bytes() {
    let upstream = Server::start("upstream --listen 127.0.0.1:0");
    let out = json(&format!(
        "idle --to {} --connections 300 --hold 600ms --settle 100ms --json --watch u={}",
        upstream.at[0],
        upstream.child.id()
    ));
    assert!(out.contains(r#""connections":300,"lost":0"#), "{out}");
    // Our upstream keeps a 16 KiB buffer a connection, of which pages in use count.
    let opened = out.split_once(r#""opened":"#).expect("the stage").1;
    assert!(number(opened, "anonymous_each") > 1000.0, "{out}");
}

#[test]
fn usage() {
    assert!(tool("--help").status.success());
    for name in ["load", "idle", "upstream", "relay", "watch", "flame"] {
        let out = tool(&format!("{name} --help"));
        assert!(out.status.success() && out.stdout.starts_with(b"") && !out.stdout.is_empty());
    }
    assert_eq!(tool("bogus").status.code(), Some(2));
    assert_eq!(tool("load --to :1 --bogus").status.code(), Some(1));
}
