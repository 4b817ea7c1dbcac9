//! Reload: the files of the configuration taken again, all or nothing.
//!
//! Owns the state of the reload under way, and who waits for it. [`prepare`] does all that can fail or
//! take time, as a task beside the control loop: reading (certificates too), checking, looking names up, binding listeners,
//! opening the access log. Only when all of it has worked does the loop (`super::turn`) send the new
//! [`Setup`] to the cores; from there on nothing can fail.
//!
//! Invariants: one reload at a time, and one that is asked for meanwhile begins after it with the files
//! as they are then; whoever asked hears the outcome, with every error; a failure changes nothing and is
//! counted. A core that stands still delays the answer by `PATIENCE` at most.
//!
//! Deliberately not here: what of a change is refused, and how it is told ([`super::changes`]).
//! Tested end to end, and below without cores.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use holdfast_config::plan::{Plan, UpstreamAddress};
use holdfast_config::{Mode, Source};
use holdfast_runtime::socket::Group;
use tokio::sync::oneshot;

use super::changes;
use super::log::{LogWriter, Opened, Target};
use super::notify;
use crate::boot;
use crate::setup::Setup;

/// How long cores may take to take a configuration up.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long new names may take to resolve; they are looked up again later.
const LOOK_UP: Duration = Duration::from_secs(2);

/// Where names lead.
pub type Known = HashMap<(String, u16), Arc<[SocketAddr]>>;

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// Number of the configuration that holds now.
    pub number: u64,
    /// What changed, in words.
    pub changed: Vec<String>,
    /// What the check of the configuration warns of.
    pub warnings: Vec<String>,
}

/// The outcome for whoever asked: every error, if there are some.
pub type Outcome = Result<Reloaded, Vec<String>>;

/// Where an outcome is wanted.
pub type Reply = oneshot::Sender<Outcome>;

/// Everything that a reload needs, done and ready to be taken up.
pub struct Prepared {
    /// The new configuration.
    pub setup: Arc<Setup>,
    /// New listeners, each with its place.
    pub groups: Vec<(u16, Group)>,
    /// Where the access log goes, if that changes.
    pub log: Option<NewLog>,
    /// To be told.
    pub changed: Vec<String>,
    /// To be told.
    pub warnings: Vec<String>,
}

/// Another place for the access log.
pub enum NewLog {
    /// The first of this process.
    Start(LogWriter),
    /// Instead of the one that there is.
    Switch(Opened),
}

#[derive(Debug)]
enum Stage {
    Idle,
    Preparing,
    Taking {
        reloaded: Reloaded,
        missing: Vec<bool>,
        until: Instant,
    },
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Reloads that were carried out.
    pub done: u64,
    /// Reloads that changed nothing because of an error.
    pub failed: u64,
    /// When the configuration that holds was taken, Unix seconds.
    pub at: u64,
}

/// The reloads of a process.
#[derive(Debug)]
pub struct Reloader {
    files: Vec<String>,
    stage: Stage,
    /// Who waits for the reload under way.
    waiting: Vec<Reply>,
    /// Who asked since it began; `again` is also for signals, which wait for nothing.
    later: Vec<Reply>,
    again: bool,
    counts: Counts,
}

impl Reloader {
    /// For the files that the process was started with; none for the demo.
    pub fn new(files: Vec<String>) -> Self {
        Self {
            files,
            stage: Stage::Idle,
            waiting: Vec::new(),
            later: Vec::new(),
            again: false,
            counts: Counts {
                done: 0,
                failed: 0,
                at: unix_now(),
            },
        }
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A reload is asked for. `Some`: these files are to be prepared now.
    pub fn want(&mut self, reply: Option<Reply>) -> Option<Vec<String>> {
        if !matches!(self.stage, Stage::Idle) {
            self.later.extend(reply);
            self.again = true;
            return None;
        }
        self.waiting.extend(reply);
        if self.files.is_empty() {
            self.failed(vec![
                "there is no file to reload: the process was started without one".to_owned(),
            ]);
            return None;
        }
        self.begin();
        Some(self.files.clone())
    }

    /// A change by an operator is asked for. True: it is to be prepared now. Otherwise another is under way,
    /// and whoever asked has been told.
    pub fn want_edit(&mut self, reply: Reply) -> bool {
        if !matches!(self.stage, Stage::Idle) {
            let _ = reply.send(Err(vec!["another change is under way".to_owned()]));
            return false;
        }
        self.waiting.push(reply);
        self.begin();
        true
    }

    fn begin(&mut self) {
        self.stage = Stage::Preparing;
        notify::reloading();
    }

    /// The reload under way failed: everything is as it was. Those who wait are told.
    pub fn failed(&mut self, errors: Vec<String>) {
        self.counts.failed += 1;
        if !matches!(std::mem::replace(&mut self.stage, Stage::Idle), Stage::Idle) {
            notify::notify("READY=1");
        }
        self.tell(&Err(errors));
    }

    /// The cores have been told of the new configuration.
    pub fn sent(&mut self, reloaded: Reloaded, cores: usize, now: Instant) {
        self.counts.done += 1;
        self.counts.at = unix_now();
        self.stage = Stage::Taking {
            reloaded,
            missing: vec![true; cores],
            until: now + PATIENCE,
        };
    }

    /// A core has taken a configuration up. True: it was the last that the reload waited for.
    pub fn taken(&mut self, core: usize, number: u64) -> bool {
        let Stage::Taking {
            reloaded, missing, ..
        } = &mut self.stage
        else {
            return false;
        };
        if number == reloaded.number
            && let Some(missing) = missing.get_mut(core)
        {
            *missing = false;
        }
        if missing.contains(&true) {
            return false;
        }
        self.end();
        true
    }

    /// Time passes. `Some`: the cores that have not taken it up in time; the reload is over all the same.
    pub fn late(&mut self, now: Instant) -> Option<Vec<usize>> {
        let Stage::Taking { missing, until, .. } = &self.stage else {
            return None;
        };
        if now < *until {
            return None;
        }
        let late = missing.iter().enumerate().filter(|(_, missing)| **missing);
        let late = late.map(|(core, _)| core).collect();
        self.end();
        Some(late)
    }

    /// Whether another was asked for meanwhile and can begin: `want` is to be called then.
    pub fn again(&mut self) -> bool {
        if !self.again || !matches!(self.stage, Stage::Idle) {
            return false;
        }
        self.again = false;
        self.waiting.append(&mut self.later);
        true
    }

    fn end(&mut self) {
        if let Stage::Taking { reloaded, .. } = std::mem::replace(&mut self.stage, Stage::Idle) {
            notify::notify("READY=1");
            self.tell(&Ok(reloaded));
        }
    }

    fn tell(&mut self, outcome: &Outcome) {
        for reply in self.waiting.drain(..) {
            // Whoever asked may be gone.
            let _ = reply.send(outcome.clone());
        }
    }
}

fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Reads and checks files.
///
/// # Errors
/// Every one, in the words of `check`.
pub fn read(files: &[String]) -> Result<(Plan, Vec<String>), Vec<String>> {
    let mut errors = Vec::new();
    let mut sources = Vec::new();
    for name in files {
        match std::fs::read_to_string(name) {
            Ok(text) => sources.push(Source {
                name: name.clone(),
                text,
            }),
            Err(error) => errors.push(format!("{name}: {error}")),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let outcome = holdfast_config::load(&sources, &|name| std::env::var(name).ok(), Mode::Run);
    let lines = |of: Vec<holdfast_config::Diagnostic>| of.iter().map(ToString::to_string).collect();
    match outcome.plan {
        Some(plan) => Ok((plan, lines(outcome.warnings))),
        None => Err(lines(outcome.errors)),
    }
}

/// Does all of a reload that can fail. `logs`: there is a writer of the access log. Changes nothing: what it opened is closed again if it is dropped.
/// A task of the control thread's runtime.
///
/// # Errors
/// Every one that can be found.
pub async fn prepare(
    files: Vec<String>,
    old: Arc<Setup>,
    cpus: Box<[Option<usize>]>,
    known: Known,
    logs: bool,
) -> Result<Prepared, Vec<String>> {
    let (plan, warnings) = aside(move || read(&files)).await?;
    prepare_plan(plan, warnings, old, cpus, known, logs).await
}

/// The same for a plan that is there already.
///
/// # Errors
/// Every one that can be found.
pub async fn prepare_plan(
    plan: Plan,
    warnings: Vec<String>,
    old: Arc<Setup>,
    cpus: Box<[Option<usize>]>,
    mut known: Known,
    logs: bool,
) -> Result<Prepared, Vec<String>> {
    let errors = changes::needs_restart(&old.plan, &plan);
    if !errors.is_empty() {
        return Err(errors);
    }
    look_up(&plan, &mut known).await;
    let changed = changes::told(&old.plan, &plan);
    aside(move || {
        let resolve = |host: &str, port: u16| known.get(&(host.to_owned(), port)).cloned();
        let tls = crate::tls::build_all(&plan)?;
        let token_keys = crate::attributes::keys::load(&plan)?;
        let setup = old
            .next(Arc::new(plan), cpus.len(), tls, &resolve)
            .with_keys(token_keys);
        if setup.listeners.len() > crate::setup::MAX_LISTENERS {
            return Err(vec![
                "gateway.listeners: so many addresses have been used that a restart is needed"
                    .to_owned(),
            ]);
        }
        let (groups, mut errors) = bind(&old, &setup, &cpus);
        let log = new_log(&old.plan, &setup.plan, logs).unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Prepared {
            setup: Arc::new(setup),
            groups,
            log,
            changed,
            warnings,
        })
    })
    .await
}

/// Runs what may block on a thread for such.
async fn aside<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, Vec<String>> + Send + 'static,
) -> Result<T, Vec<String>> {
    let done = tokio::task::spawn_blocking(what).await;
    done.unwrap_or_else(|_| Err(vec!["the reload broke off".to_owned()]))
}

/// Looks up the names that are new, so that their upstreams can serve from the first request on. One
/// that does not resolve is no error: it may later.
async fn look_up(plan: &Plan, known: &mut Known) {
    let mut look_ups = tokio::task::JoinSet::new();
    let mut asked = std::collections::HashSet::new();
    for upstream in plan.services.iter().flat_map(|s| &s.upstreams) {
        let UpstreamAddress::Name(host, port) = &upstream.address else {
            continue;
        };
        let key = (host.clone(), *port);
        if known.contains_key(&key) || !asked.insert(key.clone()) {
            continue;
        }
        look_ups.spawn(async move {
            let found = tokio::net::lookup_host((key.0.as_str(), key.1)).await;
            (found.map(Iterator::collect::<Vec<_>>), key)
        });
    }
    let all = async {
        while let Some(done) = look_ups.join_next().await {
            if let Ok((Ok(addresses), key)) = done
                && !addresses.is_empty()
            {
                known.insert(key, addresses.into());
            }
        }
    };
    let _ = tokio::time::timeout(LOOK_UP, all).await;
}

/// Binds the listeners that `new` has and `old` has not.
fn bind(old: &Setup, new: &Setup, cpus: &[Option<usize>]) -> (Vec<(u16, Group)>, Vec<String>) {
    let (mut groups, mut errors) = (Vec::new(), Vec::new());
    for (place, listener) in (0u16..).zip(&new.listeners) {
        let served = old
            .listeners
            .get(usize::from(place))
            .is_some_and(|l| l.serving);
        if !listener.serving || served {
            continue;
        }
        match boot::listen(listener.options.address, &new.plan, cpus) {
            Ok(group) => groups.push((place, group)),
            Err(error) => errors.push(error),
        }
    }
    (groups, errors)
}

fn new_log(old: &Plan, new: &Plan, logs: bool) -> Result<Option<NewLog>, String> {
    let path = |plan: &Plan| plan.access_log.as_ref().map(|log| log.path.clone());
    let Some(wanted) = path(new).filter(|wanted| path(old).as_ref() != Some(wanted)) else {
        return Ok(None);
    };
    let target = Target::parse(&wanted);
    let opened = if logs {
        Opened::new(target).map(NewLog::Switch)
    } else {
        LogWriter::start(target).map(NewLog::Start)
    };
    opened
        .map(Some)
        .map_err(|error| format!("gateway.accessLog.path {wanted}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reloaded(number: u64) -> Reloaded {
        Reloaded {
            number,
            changed: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn asked(reloader: &mut Reloader) -> (oneshot::Receiver<Outcome>, bool) {
        let (reply, outcome) = oneshot::channel();
        let begins = reloader.want(Some(reply)).is_some();
        (outcome, begins)
    }

    #[test]
    fn one_at_a_time_and_everybody_hears() {
        let now = Instant::now();
        let mut reloader = Reloader::new(vec!["f".into()]);
        let (mut first, begins) = asked(&mut reloader);
        assert!(begins);
        let (mut second, begins) = asked(&mut reloader);
        assert!(!begins && !reloader.again());
        reloader.sent(reloaded(2), 2, now);
        assert!(!reloader.taken(1, 2));
        assert!(!reloader.taken(0, 1), "of another reload");
        assert!(reloader.late(now).is_none() && first.try_recv().is_err());
        assert!(reloader.taken(0, 2));
        assert_eq!(first.try_recv().unwrap(), Ok(reloaded(2)));
        assert!(second.try_recv().is_err());

        assert!(reloader.again() && reloader.want(None).is_some());
        reloader.failed(vec!["a".into(), "b".into()]);
        let errors = Err(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(second.try_recv().unwrap(), errors);
        assert!(!reloader.again());
        let counts = reloader.counts();
        assert_eq!((counts.done, counts.failed), (1, 1));
    }

    #[test]
    fn a_core_that_stands_still_holds_nothing_up_for_ever() {
        let now = Instant::now();
        let mut reloader = Reloader::new(vec!["f".into()]);
        let (mut outcome, _) = asked(&mut reloader);
        reloader.sent(reloaded(2), 3, now);
        reloader.taken(1, 2);
        assert_eq!(reloader.late(now + PATIENCE), Some(vec![0, 2]));
        assert!(outcome.try_recv().unwrap().is_ok());
        assert!(asked(&mut reloader).1);
    }

    #[test]
    fn without_a_file_there_is_nothing_to_reload() {
        let mut reloader = Reloader::new(Vec::new());
        let (mut outcome, begins) = asked(&mut reloader);
        assert!(!begins);
        assert!(outcome.try_recv().unwrap().unwrap_err()[0].contains("no file"));
        assert!(!asked(&mut reloader).1, "and it is not stuck");
    }

    #[test]
    fn every_error_of_every_file_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let bad = file(
            "bad.yaml",
            "gateway: { limit: 1, runtime: { cores: -1 } }\n",
        );
        let errors = read(std::slice::from_ref(&bad)).unwrap_err();
        assert!(
            errors.len() >= 3 && errors.iter().all(|e| e.starts_with(&bad)),
            "{errors:?}"
        );
        let gone = folder.path().join("gone.yaml").display().to_string();
        let errors = read(&[bad, gone.clone()]).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].starts_with(&gone), "{errors:?}");
    }
}
