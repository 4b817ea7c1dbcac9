//! Where the admin endpoint's handlers ask the control loop.
//!
//! Owns a bounded queue of commands. The handlers hold a [`Desk`], the loop the other end: so the loop
//! alone touches its state, and no lock is needed.
//!
//! Invariants: every question ends within [`PATIENCE`], with an answer or an [`Unanswered`]; whoever
//! waits no longer costs nothing but a place in the loop's table until the core answers.
//! Tested through `admin` and `control`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use holdfast_store::id::Sid;
use holdfast_store::shard::{Answer, Ask};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::admin::error::ApiError;
use super::edit::Edit;
use super::events::Subscription;
use super::events::told::Told;
use super::events::webhook;
use super::reload::{Outcome, Reply};
use super::status::{Status, UpstreamStatus};
use crate::explain::Question;
use crate::pin::state::AdminState;
use crate::setup::{Setup, UpstreamId};
use crate::shared::Shared;

/// How long a handler waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long a handler waits for a reload: names are looked up and listeners bound.
pub const RELOAD_PATIENCE: Duration = Duration::from_secs(9);

/// Commands that may wait for the loop.
pub const QUEUE: usize = 256;

/// What a handler wants of the loop.
pub enum Command {
    /// Ask the shard of a core.
    Ask {
        /// Which core.
        core: usize,
        /// What.
        ask: Ask,
        /// Dropped unanswered where there is no room to ask.
        reply: oneshot::Sender<Answer>,
    },
    /// Follow the events.
    Subscribe {
        /// After this one.
        last: Option<String>,
        /// Told when the reader is too slow.
        end: Arc<Notify>,
        /// Dropped unanswered where there are too many streams.
        reply: oneshot::Sender<Subscription>,
    },
    /// Ask a core what would become of a request.
    Explain(Box<Question>),
    /// The journal of a session.
    Journal {
        /// Which.
        sid: Sid,
        /// Its events, oldest first.
        reply: oneshot::Sender<Vec<Arc<Told>>>,
    },
    /// Take the configuration again.
    Reload(Reply),
    /// Change the upstreams.
    Edit {
        /// How.
        edit: Edit,
        /// What came of it.
        reply: Reply,
    },
    /// Tell how everything is.
    Status(oneshot::Sender<Status>),
    /// Set an upstream's state, and tell what follows.
    SetState {
        /// Which.
        upstream: UpstreamId,
        /// To what.
        state: AdminState,
        /// Dropped unanswered where there is no such upstream.
        reply: oneshot::Sender<UpstreamStatus>,
    },
}

/// No answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// A queue or table was full.
    Busy,
    /// Not in time: the core is stalled or overloaded.
    Late,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "too many questions are waiting for an answer",
            Self::Late => "a core did not answer in time",
        })
    }
}

impl std::error::Error for Unanswered {}

impl From<Unanswered> for ApiError {
    fn from(unanswered: Unanswered) -> Self {
        Self::unavailable(unanswered.to_string())
    }
}

/// Counters of the admin endpoint.
#[derive(Debug, Default)]
pub struct DeskCounts {
    /// Answers that came too late.
    pub late: AtomicU64,
    /// Questions without room.
    pub busy: AtomicU64,
    /// Connections closed at once.
    pub refused: AtomicU64,
}

/// The handlers' end.
#[derive(Clone)]
pub struct Desk {
    commands: mpsc::Sender<Command>,
    setups: watch::Receiver<Arc<Setup>>,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// What is counted here.
    pub counts: Arc<DeskCounts>,
    /// What the webhook counts.
    pub webhook: Arc<webhook::Counts>,
}

impl Desk {
    /// A desk and the loop's end of it.
    pub fn new(
        shared: Arc<Shared>,
        setups: watch::Receiver<Arc<Setup>>,
        webhook: Arc<webhook::Counts>,
    ) -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(QUEUE);
        (
            Self {
                commands,
                setups,
                shared,
                counts: Arc::default(),
                webhook,
            },
            queue,
        )
    }

    /// The configuration that holds now.
    pub fn setup(&self) -> Arc<Setup> {
        Arc::clone(&self.setups.borrow())
    }

    /// Asks the shard of a core.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn ask(&self, core: usize, ask: Ask) -> Result<Answer, Unanswered> {
        self.wait(|reply| Command::Ask { core, ask, reply }).await
    }

    /// Follows the events, after `last` where one is named. `end` is told when the reader is too slow.
    ///
    /// # Errors
    /// [`Unanswered`]: busy where there are too many streams.
    pub async fn subscribe(
        &self,
        last: Option<String>,
        end: Arc<Notify>,
    ) -> Result<Subscription, Unanswered> {
        self.wait(|reply| Command::Subscribe { last, end, reply })
            .await
    }

    /// What would become of a request with this head, from this client.
    ///
    /// # Errors
    /// [`Unanswered`]; what is wrong with the head is an answer.
    pub async fn explain(
        &self,
        head: Vec<u8>,
        client: IpAddr,
    ) -> Result<Result<serde_json::Value, String>, Unanswered> {
        self.wait(|reply| {
            Command::Explain(Box::new(Question {
                head,
                client,
                reply,
            }))
        })
        .await
    }

    /// The journal of a session, oldest first.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn journal(&self, sid: Sid) -> Result<Vec<Arc<Told>>, Unanswered> {
        self.wait(|reply| Command::Journal { sid, reply }).await
    }

    /// Takes the configuration again.
    ///
    /// # Errors
    /// [`Unanswered`]; the outcome itself is the answer.
    pub async fn reload(&self) -> Result<Outcome, Unanswered> {
        self.wait_for(RELOAD_PATIENCE, Command::Reload).await
    }

    /// Changes the upstreams.
    ///
    /// # Errors
    /// [`Unanswered`]; the outcome itself is the answer.
    pub async fn edit(&self, edit: Edit) -> Result<Outcome, Unanswered> {
        self.wait_for(RELOAD_PATIENCE, |reply| Command::Edit { edit, reply })
            .await
    }

    /// How everything is.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn status(&self) -> Result<Status, Unanswered> {
        self.wait(Command::Status).await
    }

    /// Sets an upstream's state.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn set_state(
        &self,
        upstream: UpstreamId,
        state: AdminState,
    ) -> Result<UpstreamStatus, Unanswered> {
        self.wait(|reply| Command::SetState {
            upstream,
            state,
            reply,
        })
        .await
    }

    async fn wait<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Unanswered> {
        self.wait_for(PATIENCE, command).await
    }

    async fn wait_for<T>(
        &self,
        patience: Duration,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Unanswered> {
        let (reply, answer) = oneshot::channel();
        if self.commands.try_send(command(reply)).is_err() {
            self.counts.busy.fetch_add(1, Relaxed);
            return Err(Unanswered::Busy);
        }
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => {
                self.counts.busy.fetch_add(1, Relaxed);
                Err(Unanswered::Busy)
            }
            Err(_) => {
                self.counts.late.fetch_add(1, Relaxed);
                Err(Unanswered::Late)
            }
        }
    }
}
