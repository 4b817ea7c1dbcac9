//! The access log's writer: finished lines in, bytes out to stdout, stderr or a file.
//!
//! Owns the open file and a thread of its own, `holdfast-log`: a pipe that nobody reads, or a slow
//! disk, then stops neither health checks nor signals. Called by the control thread alone.
//!
//! Invariants: the queue to the thread holds [`QUEUE`] batches; one that finds it full is dropped and
//! its lines are counted. Every buffer taken comes back through [`LogWriter::poll_spent`], written or
//! not, so that the cores keep theirs. A failed write is told once, until writing works again, and
//! counted; after a torn line the next batch starts on a line of its own.
//!
//! It deliberately does not rotate, compress or sync: `reopen` (SIGUSR1) is for those who do.
//!
//! Tested below with real files: mode, append, reopen after a rename, a full device, a pipe that
//! nobody reads.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::log;

/// Batches that may wait for the writer.
pub const QUEUE: usize = 256;

/// Mode of a log file that is created: it names sessions and clients.
const MODE: u32 = 0o640;

/// Where the lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(PathBuf),
}

impl Target {
    /// Reads `accessLog.path`.
    pub fn parse(path: &str) -> Self {
        match path {
            "stdout" | "-" => Self::Stdout,
            "stderr" => Self::Stderr,
            path => Self::File(PathBuf::from(path)),
        }
    }

    fn open(&self) -> io::Result<Output> {
        Ok(match self {
            Self::Stdout => Output::Stdout,
            Self::Stderr => Output::Stderr,
            Self::File(path) => Output::File(
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(MODE)
                    .open(path)?,
            ),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A place for the log that could be opened.
pub struct Opened {
    target: Target,
    output: Output,
}

impl Opened {
    /// Opens it.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn new(target: Target) -> io::Result<Self> {
        let output = target.open()?;
        Ok(Self { target, output })
    }
}

enum Output {
    Stdout,
    Stderr,
    File(File),
}

impl Output {
    /// Writes all of `bytes`. On failure: how many were written, and why no more.
    fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        match self {
            // `Stdout` buffers up to the last line end; flushed, so that a batch is out when it is done.
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)
                    .and_then(|()| out.flush())
                    .map_err(|e| (0, e))
            }
            Self::Stderr => io::stderr().lock().write_all(bytes).map_err(|e| (0, e)),
            Self::File(file) => {
                let mut done = 0;
                while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
                    match file.write(rest) {
                        Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
                        Ok(n) => done += n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err((done, e)),
                    }
                }
                Ok(())
            }
        }
    }
}

/// What the writer counts; read by anyone.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Lines given up: the queue was full, or the write failed.
    pub dropped: AtomicU64,
    /// Writes and reopenings that failed.
    pub errors: AtomicU64,
}

enum Job {
    Batch { core: usize, bytes: Vec<u8> },
    Reopen,
    Switch(Opened),
}

/// The control thread's end of the writer. See the module.
pub struct LogWriter {
    jobs: SyncSender<Job>,
    spent: UnboundedReceiver<(usize, Vec<u8>)>,
    /// Sends buffers of batches that never reached the thread.
    unsent: UnboundedSender<(usize, Vec<u8>)>,
    ended: Receiver<()>,
    counters: Arc<LogCounters>,
    reopen_wanted: bool,
    switch: Option<Opened>,
}

impl LogWriter {
    /// Opens `target` and starts the thread.
    ///
    /// # Errors
    /// When the file can't be opened or the thread not be started.
    pub fn start(target: Target) -> io::Result<Self> {
        let output = target.open()?;
        let (jobs, queue) = sync_channel(QUEUE);
        let (unsent, spent) = unbounded_channel();
        let (end, ended) = sync_channel(1);
        let counters = Arc::new(LogCounters::default());
        let mut thread = Thread {
            target,
            output,
            torn: false,
            failing: false,
            counters: Arc::clone(&counters),
            spent: unsent.clone(),
        };
        std::thread::Builder::new()
            .name("holdfast-log".into())
            .spawn(move || {
                thread.run(&queue);
                let _ = end.send(());
            })?;
        Ok(Self {
            jobs,
            spent,
            unsent,
            ended,
            counters,
            reopen_wanted: false,
            switch: None,
        })
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<LogCounters> {
        Arc::clone(&self.counters)
    }

    /// Takes finished lines of a core. Never waits: a full queue drops them, counted.
    pub fn write(&mut self, core: usize, bytes: Vec<u8>) {
        self.offer_reopen();
        match self.jobs.try_send(Job::Batch { core, bytes }) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                if let Job::Batch { core, bytes } = job {
                    let lines = count_lines(&bytes);
                    self.counters.dropped.fetch_add(lines, Relaxed);
                    let _ = self.unsent.send((core, emptied(bytes)));
                }
            }
        }
    }

    /// Opens the file anew behind the batches taken so far. Never waits: with a full queue the wish is
    /// kept for the next [`write`](Self::write).
    pub fn reopen(&mut self) {
        self.reopen_wanted = true;
        self.offer_reopen();
    }

    /// Writes to another place behind the batches taken so far. Never waits, as [`reopen`](Self::reopen).
    pub fn switch(&mut self, to: Opened) {
        self.switch = Some(to);
        self.offer_reopen();
    }

    fn offer_reopen(&mut self) {
        if let Some(opened) = self.switch.take()
            && let Err(TrySendError::Full(Job::Switch(opened))) =
                self.jobs.try_send(Job::Switch(opened))
        {
            self.switch = Some(opened);
        }
        if self.reopen_wanted && self.jobs.try_send(Job::Reopen).is_ok() {
            self.reopen_wanted = false;
        }
    }

    /// The next buffer to give back, emptied, and the core it belongs to.
    pub fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Vec<u8>)> {
        // `unsent` keeps the channel open, so `None` does not come.
        match self.spent.poll_recv(cx) {
            Poll::Ready(Some(spent)) => Poll::Ready(spent),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Lets the thread write what waits, for at most `limit`, and ends it. `true`: all is out.
    /// Blocks; called when the control loop has ended.
    pub fn finish(self, limit: Duration) -> bool {
        let Self { jobs, ended, .. } = self;
        // Without a sender the thread ends when its queue is empty.
        drop(jobs);
        ended.recv_timeout(limit).is_ok()
    }
}

struct Thread {
    target: Target,
    output: Output,
    /// The last batch stopped inside a line.
    torn: bool,
    /// The last write failed, and that was told.
    failing: bool,
    counters: Arc<LogCounters>,
    spent: UnboundedSender<(usize, Vec<u8>)>,
}

impl Thread {
    fn run(&mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            match job {
                Job::Batch { core, bytes } => {
                    self.batch(&bytes);
                    let _ = self.spent.send((core, emptied(bytes)));
                }
                Job::Reopen => self.reopen(),
                Job::Switch(Opened { target, output }) => {
                    (self.target, self.output) = (target, output);
                    (self.torn, self.failing) = (false, false);
                }
            }
        }
    }

    fn batch(&mut self, bytes: &[u8]) {
        if self.torn && self.output.write(b"\n").is_ok() {
            self.torn = false;
        }
        match self.output.write(bytes) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    log::info(format!("access log {}: writing again", self.target));
                }
            }
            Err((written, error)) => {
                let (out, rest) = bytes.split_at_checked(written).unwrap_or((bytes, &[]));
                self.torn |= out.last().is_some_and(|&b| b != b'\n');
                self.counters.dropped.fetch_add(count_lines(rest), Relaxed);
                self.counters.errors.fetch_add(1, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    log::error(format!(
                        "access log {}: {error}; lines are lost until it can be written",
                        self.target
                    ));
                }
            }
        }
    }

    fn reopen(&mut self) {
        match self.target.open() {
            Ok(output) => {
                self.output = output;
                self.torn = false;
                log::info(format!("access log {} reopened", self.target));
            }
            Err(error) => {
                self.counters.errors.fetch_add(1, Relaxed);
                log::error(format!(
                    "access log {} can't be reopened, the old file stays in use: {error}",
                    self.target
                ));
            }
        }
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

fn emptied(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    /// The next spent buffer, within a deadline.
    fn spent(writer: &mut LogWriter) -> (usize, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::timeout(
                Duration::from_secs(10),
                std::future::poll_fn(|cx| writer.poll_spent(cx)),
            )
            .await
            .expect("a buffer comes back")
        })
    }

    #[test]
    fn appends_and_reopens_after_a_rename() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        std::fs::write(&path, "old\n").unwrap();
        let mut writer = LogWriter::start(Target::File(path.clone())).unwrap();
        let mut buffer = Vec::with_capacity(999);
        buffer.extend_from_slice(b"one\n");
        writer.write(3, buffer);
        let (core, buffer) = spent(&mut writer);
        assert_eq!(core, 3);
        assert!(
            buffer.is_empty() && buffer.capacity() >= 999,
            "the same buffer, emptied"
        );

        let rotated = folder.path().join("access.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        writer.write(0, b"two\n".to_vec());
        writer.reopen();
        writer.write(0, b"three\n".to_vec());
        assert!(writer.finish(Duration::from_secs(10)));
        assert_eq!(
            std::fs::read_to_string(&rotated).unwrap(),
            "old\none\ntwo\n"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & !MODE, 0, "{mode:o}");
    }

    #[test]
    fn a_reopening_that_fails_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inner").join("access.log");
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        let mut writer = LogWriter::start(Target::File(path)).unwrap();
        let counters = writer.counters();
        std::fs::rename(folder.path().join("inner"), folder.path().join("moved")).unwrap();
        writer.reopen();
        writer.write(0, b"still\n".to_vec());
        assert!(writer.finish(Duration::from_secs(10)));
        assert_eq!(counters.errors.load(Relaxed), 1);
        assert_eq!(
            std::fs::read_to_string(folder.path().join("moved/access.log")).unwrap(),
            "still\n"
        );
    }

    #[test]
    fn a_file_that_can_not_be_opened_is_an_error_at_start() {
        let folder = tempfile::tempdir().unwrap();
        assert!(LogWriter::start(Target::File(folder.path().join("no/such/folder"))).is_err());
    }

    #[test]
    fn a_full_device_is_counted_and_gives_buffers_back() {
        let mut writer = LogWriter::start(Target::File("/dev/full".into())).unwrap();
        let counters = writer.counters();
        writer.write(1, b"a\nb\n".to_vec());
        assert_eq!(spent(&mut writer).0, 1);
        assert!(writer.finish(Duration::from_secs(10)));
        assert_eq!(counters.errors.load(Relaxed), 1);
        assert_eq!(counters.dropped.load(Relaxed), 2);
    }

    /// A fifo that nobody reads takes 64 KiB, then blocks the thread: the caller never waits.
    #[test]
    fn a_blocked_file_blocks_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap();
        assert!(made.success());
        // Opened for both, so that opening does not wait for a peer.
        let reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let mut writer = LogWriter::start(Target::File(path)).unwrap();
        let counters = writer.counters();
        let line = [vec![b'x'; 8191], b"\n".to_vec()].concat();
        let batches = QUEUE + 64;
        let begun = Instant::now();
        for _ in 0..batches {
            writer.write(0, line.clone());
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
        let dropped = counters.dropped.load(Relaxed);
        assert!(
            dropped >= 32,
            "the queue and the pipe hold no more: {dropped}"
        );
        for _ in 0..dropped {
            assert_eq!(spent(&mut writer).0, 0);
        }
        assert!(!writer.finish(Duration::from_millis(50)), "not all is out");
        drop(reader);
    }
}
