//! The webhook: events to somebody else's server, in batches, signed, tried again.
//!
//! Owns the queue between the control loop and a task of its own, which sends one batch at a time over
//! one kept connection ([`client`]). Runs on the control thread; a receiver that is slow or down costs a
//! place in the queue, never time.
//!
//! Invariants: events leave in the order in which they came, each batch only after the one before it was
//! taken or given up; at most [`QUEUE`] events and [`QUEUE_BYTES`] wait, and what has no room is dropped;
//! each event is counted once, as delivered or as dropped with a reason, when that is decided. A batch may
//! arrive twice (its answer was lost): its events have the same ids.
//!
//! A batch is a POST of `application/cloudevents-batch+json`. With a secret it has
//! `X-Holdfast-Signature: t=<Unix seconds>,v1=<hex>`, the HMAC-SHA-256 of `<t>.<body>`, made anew at each
//! try. 2xx takes it. 408, 425, 429, 5xx and no answer: tried again, for [`GIVE_UP`], after the longer of
//! `Retry-After` and a wait that doubles from [`FIRST_WAIT`] to [`LONGEST_WAIT`], less up to a half by
//! chance. Any other answer refuses it for good. No redirect is followed.
//!
//! Deliberately not here: a file to keep the queue in; it ends with the process.
//! Tested below where pure, and end to end.

pub mod client;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac as _};
use hyper::body::Bytes;
use sha2::Sha256;
use tokio::sync::{mpsc, watch};

use self::client::{Client, Post};
use super::told::{self, Told};
use crate::log;
use crate::setup::Setup;

/// Events that may wait, beside the batch under way.
pub const QUEUE: usize = 16_384;
/// Bytes of memory that they may take, about.
pub const QUEUE_BYTES: usize = 16 << 20;
/// Events of a batch.
pub const BATCH: usize = 100;
/// Bytes at which a batch takes no further event.
const BATCH_BYTES: usize = 256 * 1024;
/// Time for one try, from the connection to the answer.
const TRY_TIME: Duration = Duration::from_secs(10);
/// The wait after a first failure.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait of our own choice.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The longest that a receiver can make us wait by one `Retry-After`.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// Age at which a batch is given up.
pub const GIVE_UP: Duration = Duration::from_secs(900);

/// What was counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Events that a receiver took.
    pub delivered: AtomicU64,
    /// Events for which there was no room.
    pub full: AtomicU64,
    /// Events of batches that the receiver refused.
    pub refused: AtomicU64,
    /// Events of batches that nobody took in time.
    pub given_up: AtomicU64,
    /// Events that waited when a reload took the webhook away.
    pub removed: AtomicU64,
    /// Tries that failed.
    pub failures: AtomicU64,
    /// Events that wait, those of the batch under way included.
    pub waiting: AtomicUsize,
    bytes: AtomicUsize,
}

/// The control loop's end of the queue.
pub struct Queue {
    sender: Option<mpsc::Sender<Arc<Told>>>,
    counts: Arc<Counts>,
    on: bool,
}

impl Queue {
    /// An empty queue, and the sending task's end of it.
    pub fn new(counts: Arc<Counts>) -> (Self, mpsc::Receiver<Arc<Told>>) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let on = false;
        let sender = Some(sender);
        (Self { sender, counts, on }, queue)
    }

    /// Takes up a configuration.
    pub fn reload(&mut self, setup: &Setup) {
        self.on = url(setup).is_some();
    }

    /// Takes an event, or drops and counts it where there is no room.
    pub fn push(&mut self, told: Arc<Told>) {
        let Some(sender) = self.sender.as_ref().filter(|_| self.on) else {
            return;
        };
        let counts = &self.counts;
        let cost = told.cost();
        let room = counts.bytes.load(Relaxed).saturating_add(cost) <= QUEUE_BYTES;
        if room && sender.try_send(told).is_ok() {
            counts.bytes.fetch_add(cost, Relaxed);
            counts.waiting.fetch_add(1, Relaxed);
        } else {
            counts.full.fetch_add(1, Relaxed);
        }
    }

    /// No more come.
    pub fn close(&mut self) {
        self.sender = None;
    }
}

fn url(setup: &Setup) -> Option<&str> {
    let session = setup.plan.session.as_ref()?;
    session.events.webhook.as_deref()
}

/// Sends what is in the queue until it is closed and empty. A task of the control thread.
pub async fn run(
    mut queue: mpsc::Receiver<Arc<Told>>,
    mut setups: watch::Receiver<Arc<Setup>>,
    counts: Arc<Counts>,
) {
    let mut client = Client::default();
    while let Some(first) = queue.recv().await {
        let mut bytes = first.cost();
        let mut batch = vec![first];
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Ok(told) = queue.try_recv() else { break };
            bytes += told.cost();
            batch.push(told);
        }
        let decided = deliver(&batch, &mut client, &mut setups, &counts).await;
        counts.bytes.fetch_sub(bytes, Relaxed);
        counts.waiting.fetch_sub(batch.len(), Relaxed);
        decided.fetch_add(batch.len() as u64, Relaxed);
    }
}

/// Sends a batch until it is decided what becomes of it: the counter of that.
async fn deliver<'a>(
    batch: &[Arc<Told>],
    client: &mut Client,
    setups: &mut watch::Receiver<Arc<Setup>>,
    counts: &'a Counts,
) -> &'a AtomicU64 {
    static FAILING: log::Limited = log::Limited::new(Duration::from_secs(60));
    let body = {
        let setup = setups.borrow();
        written(batch, &told::source(&setup.plan.node))
    };
    let began = Instant::now();
    let mut failures = 0;
    loop {
        let setup = Arc::clone(&setups.borrow_and_update());
        let Some(url) = url(&setup) else {
            return &counts.removed;
        };
        let post = Post {
            url,
            signature: signature(&setup, &body),
            body: body.clone(),
        };
        let answer = tokio::time::timeout(TRY_TIME, client.post(post)).await;
        let answer = answer.unwrap_or_else(|_| {
            client.close();
            Err(format!("no answer within {TRY_TIME:?}"))
        });
        let (why, asked) = match answer {
            Ok(answer) => match verdict(answer.status) {
                Verdict::Taken => return &counts.delivered,
                Verdict::Refused => {
                    FAILING.error(|| {
                        format!(
                            "webhook: status {}: {} events were refused and are dropped",
                            answer.status,
                            batch.len()
                        )
                    });
                    counts.failures.fetch_add(1, Relaxed);
                    return &counts.refused;
                }
                Verdict::Later => (format!("status {}", answer.status), answer.retry_after),
            },
            Err(why) => (why, None),
        };
        counts.failures.fetch_add(1, Relaxed);
        if began.elapsed() >= GIVE_UP {
            FAILING.error(|| {
                format!(
                    "webhook: {} events were taken by nobody in {GIVE_UP:?} and are dropped: {why}",
                    batch.len()
                )
            });
            return &counts.given_up;
        }
        let wait = wait(failures, asked, random());
        FAILING.warn(|| format!("webhook: {why}; trying again"));
        failures += 1;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // It may go elsewhere now.
            _ = setups.changed() => {}
        }
    }
}

fn written(batch: &[Arc<Told>], source: &str) -> Bytes {
    let mut out = Vec::with_capacity(batch.len() * 320);
    for (i, told) in batch.iter().enumerate() {
        out.push(if i == 0 { b'[' } else { b',' });
        told.write(source, true, &mut out);
    }
    out.push(b']');
    out.into()
}

fn signature(setup: &Setup, body: &[u8]) -> Option<String> {
    let secret = setup
        .plan
        .session
        .as_ref()?
        .events
        .webhook_secret
        .as_ref()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Some(signed(&secret.0, now.map_or(0, |now| now.as_secs()), body))
}

/// The value of the signature header.
fn signed(secret: &[u8], at: u64, body: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = format!("t={at},v1=");
    // HMAC takes keys of any length.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) {
        mac.update(format!("{at}.").as_bytes());
        mac.update(body);
        for byte in mac.finalize().into_bytes() {
            let _ = write!(out, "{byte:02x}");
        }
    }
    out
}

/// What a status means for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Taken,
    Later,
    Refused,
}

fn verdict(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Taken,
        408 | 425 | 429 | 500..=599 => Verdict::Later,
        _ => Verdict::Refused,
    }
}

/// The wait after so many failures before this one. `random` is any.
fn wait(failures: u32, asked: Option<Duration>, random: u32) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(2u32.saturating_pow(failures.min(16)));
    let longest = doubled.min(LONGEST_WAIT);
    let less = longest.mul_f64(0.5 * f64::from(random) / f64::from(u32::MAX));
    (longest - less).max(asked.unwrap_or_default().min(LONGEST_ASKED))
}

fn random() -> u32 {
    // Without random numbers the waits are not spread, which is no error.
    getrandom::u32().unwrap_or_default()
}

/// How long a `Retry-After` asks to wait, in seconds or until a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_hmac_sha256_over_time_and_body() {
        // Made with: printf '1700000000.[]' | openssl dgst -sha256 -hmac key
        assert_eq!(
            signed(b"key", 1_700_000_000, b"[]"),
            "t=1700000000,v1=2afce10b4f37880815b715635811bcfa4d5334e7213eea5bc2e130e1008055c3"
        );
    }

    #[test]
    fn waits_double_to_a_bound_and_are_spread() {
        for (failures, longest) in [(0, 500), (1, 1000), (3, 4000), (6, 30_000), (4000, 30_000)] {
            let longest = Duration::from_millis(longest);
            assert_eq!(wait(failures, None, 0), longest);
            assert_eq!(wait(failures, None, u32::MAX), longest / 2);
        }
    }

    #[test]
    fn what_the_receiver_asks_for_is_respected() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let asked = |value| retry_after(value, now);
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(
            asked("Sun, 06 Nov 1994 08:49:47 GMT"),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            asked("Sun, 06 Nov 1994 08:49:17 GMT"),
            Some(Duration::ZERO),
            "gone by"
        );
        for bad in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(asked(bad), None, "{bad}");
        }
        let long = Some(Duration::from_secs(120));
        assert_eq!(wait(0, long, 7), Duration::from_secs(120));
        assert_eq!(wait(6, Some(Duration::from_secs(1)), 0), LONGEST_WAIT);
        assert_eq!(wait(0, Some(Duration::MAX), 0), LONGEST_ASKED);
    }

    #[test]
    fn what_a_status_means() {
        for (status, means) in [
            (200, Verdict::Taken),
            (204, Verdict::Taken),
            (301, Verdict::Refused),
            (400, Verdict::Refused),
            (410, Verdict::Refused),
            (408, Verdict::Later),
            (429, Verdict::Later),
            (500, Verdict::Later),
            (503, Verdict::Later),
        ] {
            assert_eq!(verdict(status), means, "{status}");
        }
    }
}
