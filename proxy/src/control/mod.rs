//! The control thread: everything that is not a request.
//!
//! Owns the admin endpoint ([`admin`]), health of upstreams ([`health`], [`probe`]), their names
//! ([`resolve`]), reloads ([`reload`], [`changes`]), keys of tokens ([`keys`]), the access log's writer ([`log`]), signals and the end of the process ([`signals`],
//! [`shutdown`]), the watch over the cores ([`watch`]) and what is done with events ([`events`]).
//!
//! Boot calls [`Control::prepare`] before the cores are built, so that a taken port or a log that
//! can't be written is an error at the start, and [`Control::run`] on the main thread, which ends with
//! the process. Everything here runs on that one thread, in a tokio runtime of its own; only writing
//! the log and looking up names have threads beside it.
//!
//! Invariants: the loop (`turn`) alone touches its state, handlers ask through a [`desk`]; it never waits for
//! anything but its next input; every channel into it has a bound. What a core asks of it (a log
//! buffer given back) it answers, whatever else goes on.
//!
//! Deliberately not here: any decision about a request or a session. The hand-over to a new binary is not
//! built yet; its signal says so.
//!
//! Tested in `tests` with a mesh and cores that are played, over real sockets and with a real log.

pub mod admin;
pub mod changes;
pub mod desk;
pub mod edit;
pub mod events;
pub mod health;
pub mod keys;
pub mod log;
pub mod notify;
pub mod probe;
pub mod process;
pub mod reload;
pub mod resolve;
pub mod shutdown;
pub mod signals;
pub mod status;
mod turn;
pub mod watch;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use holdfast_runtime::mesh::Port;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use self::desk::Desk;
use self::events::{Hub, webhook};
use self::log::{LogWriter, Target};
use self::shutdown::Exit;
use self::signals::Signals;
use self::turn::{Loop, Sources};
use crate::log as say;
use crate::message::Message;
use crate::setup::Setup;
use crate::shared::Shared;

/// Threads for look-ups of names.
const LOOK_UPS: usize = 8;

/// How long the access log may take to write its rest at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long the webhook may take to send its rest at the end.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// How the control thread behaves, beside the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The files of the configuration, for reloads; none for the demo.
    pub files: Vec<String>,
    /// A person at a terminal: when it is closed (SIGHUP), the process ends.
    pub at_terminal: bool,
}

/// Why the control thread can't start.
#[derive(Debug)]
pub enum StartError {
    /// The admin endpoint can't listen.
    Admin(SocketAddr, io::Error),
    /// The access log can't be opened.
    AccessLog(String, io::Error),
    /// The runtime of the thread can't be made.
    Runtime(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin(address, error) => write!(f, "gateway.admin.address {address}: {error}"),
            Self::AccessLog(path, error) => write!(f, "gateway.accessLog.path {path}: {error}"),
            Self::Runtime(error) => write!(f, "the control thread's runtime: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Asks the control thread to end the process, as a signal does. Clones may go to any thread.
#[derive(Debug, Clone)]
pub struct Stopper(mpsc::Sender<bool>);

impl Stopper {
    /// Asks for it, as SIGTERM would, or (`hasty`) as a person at a terminal. A second time: at once.
    pub fn stop(&self, hasty: bool) {
        // Full: it has been asked for often enough.
        let _ = self.0.try_send(hasty);
    }
}

/// The control thread before it runs. See the module.
pub struct Control {
    shared: Arc<Shared>,
    setup: Arc<Setup>,
    options: Options,
    runtime: tokio::runtime::Runtime,
    listener: Option<(std::net::TcpListener, SocketAddr)>,
    log: Option<LogWriter>,
    sources: Sources,
    stopper: Stopper,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("admin", &self.admin_address())
            .finish_non_exhaustive()
    }
}

impl Control {
    /// Binds the admin endpoint, opens the access log, installs the signal handlers.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn prepare(
        shared: Arc<Shared>,
        setup: Arc<Setup>,
        options: Options,
    ) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(LOOK_UPS)
            .thread_name("holdfast-names")
            .build()
            .map_err(StartError::Runtime)?;
        let listener = match &setup.plan.admin {
            None => None,
            Some(admin) => {
                let bound = admin::bind(admin.address).and_then(|listener| {
                    let address = listener.local_addr()?;
                    Ok((listener, address))
                });
                Some(bound.map_err(|error| StartError::Admin(admin.address, error))?)
            }
        };
        let log = match &setup.plan.access_log {
            None => None,
            Some(log) => {
                let writer = LogWriter::start(Target::parse(&log.path));
                Some(writer.map_err(|error| StartError::AccessLog(log.path.clone(), error))?)
            }
        };
        let signals = {
            let _within = runtime.enter();
            Signals::install().map_err(StartError::Runtime)?
        };
        let (stop, stops) = mpsc::channel(2);
        Ok(Self {
            shared,
            setup,
            options,
            runtime,
            listener,
            log,
            sources: Sources { signals, stops },
            stopper: Stopper(stop),
        })
    }

    /// A way to end the process other than by a signal.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Where the admin endpoint listens, if it does: the port that was chosen where the plan said 0.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(|(_, address)| *address)
    }

    /// Runs until the process is to end. The cores have then been told so, and the log is written.
    /// `port` is the control thread's own.
    pub fn run(self, port: Port<Message>) -> Exit {
        let Self {
            shared,
            setup,
            options,
            runtime,
            listener,
            log,
            sources,
            // Held, so that its channel stays open.
            stopper: _stopper,
        } = self;
        let local = LocalSet::new();
        let (exit, log) = local.block_on(&runtime, async move {
            let (setups, current) = tokio::sync::watch::channel(Arc::clone(&setup));
            let sent = Arc::<webhook::Counts>::default();
            let (queue, queued) = webhook::Queue::new(Arc::clone(&sent));
            let sending = webhook::run(queued, current.clone(), Arc::clone(&sent));
            let sending = tokio::spawn(sending);
            let (desk, commands) = Desk::new(Arc::clone(&shared), current, Arc::clone(&sent));
            if let Some((listener, address)) = listener {
                serve_admin(listener, address, &desk);
            }
            let hub = Hub::new(&setup, queue);
            let mut all = Loop::new(shared, setups, options, port.local(), desk, log, hub);
            let exit = all.turn_until_the_end(commands, sources).await;
            all.last_words().await;
            all.local.close();
            last_events(sending, &sent).await;
            (exit, all.log)
        });
        // A look-up that hangs must not hold up the end.
        drop(local);
        runtime.shutdown_background();
        if let Some(log) = log
            && !log.finish(LAST_LINES)
        {
            say::warn("the access log did not take its last lines in time");
        }
        exit
    }
}

/// Lets the webhook send its rest, and says what it could not.
async fn last_events(sending: JoinHandle<()>, counts: &webhook::Counts) {
    let waiting = || counts.waiting.load(Relaxed);
    if waiting() > 0 {
        // The queue is closed: it ends when all is decided.
        let _ = tokio::time::timeout(LAST_EVENTS, sending).await;
    }
    if waiting() > 0 {
        say::warn(format!("webhook: {} events were not sent", waiting()));
    }
}

fn serve_admin(listener: std::net::TcpListener, address: SocketAddr, desk: &Desk) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => {
            let router = admin::router(desk.clone(), address);
            tokio::spawn(admin::serve(listener, router, desk.clone()));
        }
        Err(error) => say::error(format!(
            "the admin endpoint on {address} is not served: {error}"
        )),
    }
}
