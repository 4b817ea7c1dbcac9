//! What the tests stand on: the real binary, scripted upstreams, and a client that reads strictly.
//!
//! Blocking sockets and threads only. Nothing sleeps for a fixed time to let something happen: who
//! waits does so for a condition, with a deadline, and says what was missing when it passes.

pub mod client;
pub mod gateway;
pub mod http;
pub mod jar;
pub mod reply;
pub mod script;
pub mod signer;
pub mod upstream;
pub mod websocket;

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use client::{Client, Connection, Response};
pub use gateway::{Gateway, Launch, Lines};
pub use reply::Reply;
pub use upstream::{Link, Received, Upstream};

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Asks an [`Upstream::obedient`] to answer with this header line.
#[track_caller]
pub fn ask(client: &mut Client, answer: &str) -> Response {
    client
        .request("GET", "/")
        .header("X-Answer", answer)
        .send()
        .expect(200)
}

/// Waits until `condition` yields a value, and fails with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, condition)
}

/// As [`eventually`], with a bound of its own.
#[track_caller]
pub fn eventually_within<T>(
    bound: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {bound:?}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A door that a test opens once; who waits before it goes on then.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens it for good.
    pub fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open, at most twice [`PATIENCE`]; a test that fails must not hang its threads.
    pub fn wait(&self) {
        let guard = lock(&self.0.0);
        drop(
            self.0
                .1
                .wait_timeout_while(guard, 2 * PATIENCE, |open| !*open),
        );
    }
}

/// Locks even where another thread panicked: a failing test should say why, not "poisoned".
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether full sizes are wanted (`HOLDFAST_E2E_FULL=1`), rather than what a debug build does in seconds.
pub fn full() -> bool {
    std::env::var_os("HOLDFAST_E2E_FULL").is_some_and(|v| v != "0" && !v.is_empty())
}

/// The `services` block with one service `app`.
pub fn service(upstreams: &[&Upstream]) -> String {
    service_with(upstreams, "")
}

/// The same with further keys of the service, one a line.
pub fn service_with(upstreams: &[&Upstream], keys: &str) -> String {
    let entries: Vec<String> = upstreams.iter().map(|u| u.entry()).collect();
    format!(
        "services:\n  - name: app\n    upstreams: [{}]\n{}",
        entries.join(", "),
        indent(keys, 4)
    )
}

/// Every line of `text` moved to the right.
pub fn indent(text: &str, by: usize) -> String {
    text.lines()
        .map(|line| format!("{:by$}{line}\n", ""))
        .collect()
}

/// A folder of the material that is shared beside the repository, such as `spec/examples`; `None`,
/// said aloud, where it is not there (`HOLDFAST_SHARED` names another place).
pub fn shared(folder: &str) -> Option<std::path::PathBuf> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [root.join("../../shared"), root.join("../../../shared")];
    let given = std::env::var_os("HOLDFAST_SHARED").map(std::path::PathBuf::from);
    let found = given
        .into_iter()
        .chain(places)
        .map(|place| place.join(folder))
        .find(|path| path.is_dir());
    if found.is_none() {
        eprintln!("skipped: no {folder} (set HOLDFAST_SHARED)");
    }
    found
}
