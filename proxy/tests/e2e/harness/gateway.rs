//! The real binary, as a child process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::client::{Client, Connection, Response};
use super::{PATIENCE, eventually, indent, lock};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_holdfast");

/// Lines of a pipe, as they come.
#[derive(Clone, Default)]
pub struct Lines(
    Arc<(Mutex<Vec<String>>, Condvar)>,
    Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
);

impl Lines {
    /// Follows a pipe from a thread of its own.
    pub fn follow(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let copy = lines.clone();
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { return };
                lock(&copy.0.0).push(String::from_utf8_lossy(&line).into_owned());
                copy.0.1.notify_all();
            }
        });
        *lock(&lines.1) = Some(thread);
        lines
    }

    /// All lines of a process that has ended.
    fn finished(&self) -> String {
        if let Some(thread) = lock(&self.1).take() {
            drop(thread.join());
        }
        self.text()
    }

    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        lock(&self.0.0).clone()
    }

    /// All so far in one text.
    pub fn text(&self) -> String {
        self.all().join("\n")
    }

    /// Waits until a line gives a value.
    pub fn wait<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = lock(&self.0.0);
        loop {
            if let Some(value) = lines.iter().find_map(|line| find(line)) {
                return Some(value);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            lines = self
                .0
                .1
                .wait_timeout(lines, left)
                .map(|(g, _)| g)
                .unwrap_or_else(|e| e.into_inner().0);
        }
    }
}

/// How to start one.
pub struct Launch {
    files: Vec<String>,
    environment: Vec<(String, String)>,
    /// Commands such as `prlimit` that exec the binary.
    wrapper: Vec<String>,
    dir: tempfile::TempDir,
}

/// Whether the top of `body` has this key.
fn has_key(body: &str, key: &str) -> bool {
    body.lines()
        .any(|line| line.starts_with(&format!("{key}:")))
}

/// A whole configuration file from what stands under `gateway:`, with free ports where it names none.
pub fn complete(body: &str) -> String {
    let mut text = String::from("gateway:\n");
    if !has_key(body, "listeners") {
        text.push_str("  listeners: [{ address: \"127.0.0.1:0\" }]\n");
    }
    if !has_key(body, "admin") {
        text.push_str("  admin: { address: \"127.0.0.1:0\" }\n");
    }
    if !has_key(body, "shutdown") {
        text.push_str("  shutdown: { delay: 0s, timeout: 5s }\n");
    }
    text + &indent(body, 2)
}

impl Launch {
    /// With what stands under `gateway:`.
    pub fn new(body: &str) -> Self {
        Self::files(&[&complete(body)])
    }

    /// With whole files, in order.
    pub fn files(files: &[&str]) -> Self {
        Self {
            files: files.iter().map(|f| (*f).to_owned()).collect(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    /// With an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Under a command that execs its arguments.
    pub fn under(mut self, words: &[&str]) -> Self {
        self.wrapper.extend(words.iter().map(|w| (*w).to_owned()));
        self
    }

    /// Its directory, which lives as long as the gateway.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, verb: &str) -> Command {
        let mut words: Vec<String> = self.wrapper.clone();
        words.extend([BINARY.to_owned(), verb.to_owned()]);
        for (i, text) in self.files.iter().enumerate() {
            let path = self.dir.path().join(format!("config-{i}.yaml"));
            std::fs::write(&path, text).expect("a file");
            words.extend(["-c".to_owned(), path.display().to_string()]);
        }
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    /// Runs `check` (or another command that ends by itself) and gives what it said.
    pub fn check(&self) -> Said {
        Said::of(&mut self.command("check"))
    }

    /// Starts `run` and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Gateway {
        self.try_start().unwrap_or_else(|said| {
            panic!(
                "the gateway did not start ({}):\n{}",
                said.code, said.stderr
            )
        })
    }

    /// Starts `run`; an `Err` is what it said when it ended instead.
    #[track_caller]
    pub fn try_start(self) -> Result<Gateway, Said> {
        let mut command = self.command("run");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let stdout = Lines::follow(child.stdout.take().expect("stdout"));
        let stderr = Lines::follow(child.stderr.take().expect("stderr"));
        let gateway = Gateway {
            child,
            http: unset(),
            admin: unset(),
            listeners: Vec::new(),
            stdout,
            stderr,
            dir: self.dir,
        };
        gateway.await_ready()
    }
}

fn unset() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// What a command said that has ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Runs to the end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Both streams.
    pub fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// A running gateway. Killed when dropped; a failing test shows what it wrote.
pub struct Gateway {
    child: Child,
    /// Its first listener.
    pub http: SocketAddr,
    /// Its admin address.
    pub admin: SocketAddr,
    /// All its listeners.
    pub listeners: Vec<SocketAddr>,
    pub stdout: Lines,
    pub stderr: Lines,
    dir: tempfile::TempDir,
}

impl Gateway {
    /// Starts one with what stands under `gateway:`.
    #[track_caller]
    pub fn start(body: &str) -> Self {
        Launch::new(body).start()
    }

    #[track_caller]
    fn await_ready(mut self) -> Result<Self, Said> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return Err(Said {
                    code: status.code().unwrap_or(-1),
                    stdout: self.stdout.finished(),
                    stderr: self.stderr.finished(),
                });
            }
            let lines = self.stderr.all();
            if lines.iter().any(|l| l.trim_end().ends_with("ready")) {
                self.listeners = lines
                    .iter()
                    .filter_map(|l| address_after(l, "listening on "))
                    .collect();
                self.http = *self
                    .listeners
                    .first()
                    .expect("a line that says where it listens");
                if let Some(admin) = lines.iter().find_map(|l| address_after(l, "admin on ")) {
                    self.admin = admin;
                    eventually("readiness", || {
                        (self.api("GET", "/readyz").status() == 200).then_some(())
                    });
                }
                return Ok(self);
            }
            assert!(
                Instant::now() < deadline,
                "never said that it is ready:\n{}",
                lines.join("\n")
            );
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// A client with an empty jar.
    pub fn client(&self) -> Client {
        Client::new(self.http)
    }

    /// A raw connection.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(self.http)
    }

    /// One request on a connection of its own, without cookies.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.client().get(target)
    }

    /// One request to the admin endpoint.
    #[track_caller]
    pub fn api(&self, method: &str, target: &str) -> Response {
        Client::new(self.admin).request(method, target).send()
    }

    /// One write to the admin endpoint.
    #[track_caller]
    pub fn api_write(&self, method: &str, target: &str, body: &str) -> Response {
        Client::new(self.admin)
            .request(method, target)
            .header("Content-Type", "application/json")
            .body(body)
            .send()
    }

    /// The value of a series of `/metrics`, summed over all series of that name that have all `labels` as text.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.api("GET", "/metrics").expect(200).text();
        let series = text.lines().filter(|line| {
            let rest = line
                .strip_prefix("gateway_")
                .and_then(|l| l.strip_prefix(name))
                .unwrap_or("-");
            rest.starts_with([' ', '{']) && labels.iter().all(|label| rest.contains(label))
        });
        let values: Vec<f64> = series
            .filter_map(|line| line.rsplit(' ').next().and_then(|v| v.parse().ok()))
            .collect();
        assert!(
            !values.is_empty(),
            "no gateway_{name} with {labels:?} in\n{text}"
        );
        values.iter().sum()
    }

    /// How many sessions there are, as the shards themselves say (the gauge of `/metrics` may be a second old).
    #[track_caller]
    pub fn records(&self) -> usize {
        let (mut count, mut query) = (0, "?limit=500".to_owned());
        loop {
            let page = self
                .api("GET", &format!("/api/sessions{query}"))
                .expect(200)
                .json();
            count += page["sessions"].as_array().map_or(0, Vec::len);
            match page["next"].as_str() {
                Some(next) => query = format!("?limit=500&cursor={next}"),
                None => return count,
            }
        }
    }

    /// Waits until a series, which the cores bring up to date about once a second, has reached a value.
    #[track_caller]
    pub fn expect_metric(&self, name: &str, labels: &[&str], value: f64) {
        let what = format!("gateway_{name} with {labels:?} is {value}");
        eventually(&what, || {
            ((self.metric(name, labels) - value).abs() < 0.1).then_some(())
        });
    }

    /// Waits until a series has reached at least a value.
    #[track_caller]
    pub fn expect_at_least(&self, name: &str, labels: &[&str], value: f64) {
        let what = format!("gateway_{name} with {labels:?} is at least {value}");
        eventually(&what, || (self.metric(name, labels) >= value).then_some(()));
    }

    /// Sets an upstream of the service `app` to a state, and waits until that is shown.
    #[track_caller]
    pub fn set_state(&self, upstream: &str, state: &str) {
        let body = format!("{{\"state\":\"{state}\"}}");
        let response = self.api_write("PUT", &format!("/api/upstreams/app/{upstream}"), &body);
        assert!(
            response.status() < 300,
            "{:?} {}",
            response.head,
            response.text()
        );
    }

    /// Writes its configuration file anew, from what stands under `gateway:`.
    pub fn rewrite(&self, body: &str) {
        std::fs::write(self.file("config-0.yaml"), complete(body)).expect("the file");
    }

    /// The same, and takes it up.
    #[track_caller]
    pub fn reload(&self, body: &str) -> Response {
        self.rewrite(body);
        self.api_write("POST", "/api/reload", "").expect(200)
    }

    /// The errors of a file that must not be taken.
    #[track_caller]
    pub fn reload_refused(&self, body: &str) -> Vec<String> {
        self.rewrite(body);
        let answer = self.api_write("POST", "/api/reload", "").expect(422).json();
        let errors = answer["errors"].as_array().expect("errors");
        let text = |error: &serde_json::Value| error.as_str().expect("a text").to_owned();
        errors.iter().map(text).collect()
    }

    /// Where it said last that it listens.
    #[track_caller]
    pub fn newest_listener(&self) -> SocketAddr {
        eventually("a line that says where else it listens", || {
            let lines = self.stderr.all();
            let mut all = lines
                .iter()
                .filter_map(|l| address_after(l, "listening on "));
            all.next_back().filter(|newest| *newest != self.http)
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let text =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = text
            .lines()
            .find(|l| l.starts_with("VmRSS:"))
            .expect("VmRSS");
        line.split_whitespace()
            .nth(1)
            .and_then(|v| v.parse().ok())
            .expect("a number")
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("its descriptors")
            .count()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status()
            .expect("kill");
        assert!(status.success(), "kill -{name}");
    }

    /// Waits for its end, at most so long.
    #[track_caller]
    pub fn wait(&mut self, bound: Duration) -> ExitStatus {
        let child = &mut self.child;
        super::eventually_within(bound, "the end of the gateway", || {
            child.try_wait().expect("its state")
        })
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// Stops it, and starts another with this body.
    #[track_caller]
    pub fn replace(mut self, body: &str) -> Self {
        self.signal("TERM");
        self.wait(PATIENCE);
        Self::start(body)
    }
}

fn address_after(line: &str, words: &str) -> Option<SocketAddr> {
    line.find(words)
        .and_then(|at| line[at + words.len()..].trim().parse().ok())
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- stderr of the gateway ---\n{}", self.stderr.text());
        }
    }
}
