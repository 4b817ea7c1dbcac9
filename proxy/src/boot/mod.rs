//! From a plan to running threads.
//!
//! Owns the order of the start: probe, CPUs, control's sockets, listeners, mesh, cores, replication
//! core, control. Runs on the main thread, which becomes the control thread.
//!
//! Invariants: whatever can fail is tried before the first client is served; a port that somebody
//! else serves is an error, never shared.

pub mod cli;
pub mod demo;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use holdfast_config::plan::{Cores, Plan, Ring, Rule, StorageKind};
use holdfast_runtime::data_core::{self, Driver, Spec};
use holdfast_runtime::probe::{self, Wanted};
use holdfast_runtime::{mesh, socket, topology};

use crate::control::shutdown::Exit;
use crate::control::{Control, Options};
use crate::core::{self, Parts};
use crate::log;
use crate::message::Message;
use crate::setup::Setup;
use crate::shared::Shared;

/// Messages between two threads that may wait before the sender's spill queue takes them.
const RING: usize = 1024;
/// How often is looked whether a core has ended.
const MOURN: std::time::Duration = std::time::Duration::from_millis(500);
/// Exit code after a core ended by a fault: EX_SOFTWARE of sysexits.h.
const CORE_DIED: u8 = 70;

/// Keys that the configuration does not give: drawn once a process.
#[derive(Clone)]
pub struct ProcessKeys {
    pin: [u8; 32],
    /// What keys of sessions derive from where nothing is configured.
    pub session: [u8; 32],
    /// Tag of this node in tokens and stamps.
    pub node: u16,
    /// Keys of the hashes of what clients choose, the same on all cores.
    pub seeds: [u64; 4],
}

impl std::fmt::Debug for ProcessKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProcessKeys")
    }
}

impl ProcessKeys {
    /// Draws them.
    pub fn new(plan: &Plan) -> Self {
        let mut entropy = crate::entropy::Entropy::default();
        Self {
            pin: entropy.bytes(),
            session: entropy.bytes(),
            node: node_tag(&plan.node),
            seeds: std::array::from_fn(|_| entropy.u64()),
        }
    }

    /// The key of a rule's pin cookies.
    pub fn pin_key(&self, plan: &Plan, rule: &Rule) -> [u8; 32] {
        let data = plan
            .session
            .as_ref()
            .and_then(|s| s.security.data_keys.first());
        let configured = rule.affinity.as_ref().and_then(|a| a.cookie.key.as_ref());
        crate::pin::key::derive(
            configured.map(|k| k.0.as_slice()),
            data.map(|key| key.0.as_slice()),
            &self.pin,
        )
        .key
    }
}

/// Fifteen bits of a node's name: what tokens say of where they were made.
fn node_tag(name: &str) -> u16 {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(name.as_bytes());
    u16::from_be_bytes([digest[0], digest[1]]) & 0x7fff
}

/// One data core as it is going to be.
#[derive(Debug, Clone)]
pub struct CorePlan {
    /// CPU that it is pinned to.
    pub cpu: Option<usize>,
    /// Its driver.
    pub driver: Driver,
    /// Its spin time.
    pub busy_poll: std::time::Duration,
}

/// What this machine gives for a plan.
#[derive(Debug)]
pub struct Machine {
    /// By data core.
    pub cores: Vec<CorePlan>,
    /// CPU of the replication core, if it has one for itself.
    pub replication_cpu: Option<usize>,
    /// Whether glommio can be started, else why not.
    pub replication: Result<(), String>,
    /// To be said loudly.
    pub warnings: Vec<String>,
    /// Demanded and not to be had.
    pub errors: Vec<String>,
}

fn wanted(ring: &Ring, rings: usize) -> Wanted {
    Wanted {
        entries: ring.entries,
        entries_explicit: ring.entries_explicit,
        coop_taskrun: ring.coop_taskrun,
        single_issuer: ring.single_issuer,
        defer_taskrun: ring.defer_taskrun,
        sqpoll: ring.sqpoll,
        rings,
        legacy: false,
    }
}

/// Finds out what the kernel, the limits and the CPUs allow. Raises soft limits where it may.
pub fn machine(plan: &Plan) -> Machine {
    let runtime = &plan.runtime;
    let has_work = plan.session.as_ref().is_some_and(|s| {
        s.replication.is_some()
            || s.storage.snapshot.is_some()
            || !matches!(s.storage.kind, StorageKind::Memory)
    });
    let wanted_cores = match &runtime.cores {
        Cores::Auto => topology::Cores::Auto,
        Cores::Count(n) => topology::Cores::Count(*n),
        Cores::List(list) => topology::Cores::List(list.iter().map(|c| c.cpu).collect()),
    };
    let replication = match runtime.replication_cpu {
        Some(cpu) => topology::Replication::Cpu(cpu),
        None if has_work => topology::Replication::Auto,
        None => topology::Replication::Unwanted,
    };
    let mut machine = Machine {
        cores: Vec::new(),
        replication_cpu: None,
        replication: Ok(()),
        warnings: Vec::new(),
        errors: Vec::new(),
    };
    let layout = topology::Machine::detect()
        .map_err(|e| e.to_string())
        .and_then(|m| {
            m.resolve(&wanted_cores, replication)
                .map_err(|e| e.to_string())
        });
    let layout = match layout {
        Ok(layout) => layout,
        Err(error) => {
            machine.errors.push(error);
            return machine;
        }
    };
    machine.replication_cpu = layout.replication.cpu;
    let mut probed: Vec<(Ring, Driver)> = Vec::new();
    let count = layout.cores.len();
    for (position, core) in layout.cores.into_iter().enumerate() {
        let (ring, busy_poll) = match &runtime.cores {
            Cores::List(list) => (list[position].ring.clone(), list[position].busy_poll),
            _ => (runtime.ring.clone(), runtime.busy_poll),
        };
        let known = probed
            .iter()
            .find(|(r, _)| *r == ring)
            .map(|(_, d)| d.clone());
        let driver = known.unwrap_or_else(|| {
            let report = probe::run(&wanted(&ring, count));
            let driver = report.driver();
            for warning in report.warnings {
                if !machine.warnings.contains(&warning) {
                    machine.warnings.push(warning);
                }
            }
            machine.errors.extend(report.errors);
            machine.replication = report.glommio;
            probed.push((ring, driver.clone()));
            driver
        });
        machine.cores.push(CorePlan {
            cpu: core.cpu,
            driver,
            busy_poll,
        });
    }
    machine
}

impl Machine {
    /// As `check` prints it.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (i, core) in self.cores.iter().enumerate() {
            let cpu = core
                .cpu
                .map_or_else(|| "unpinned".to_owned(), |cpu| format!("cpu {cpu}"));
            let _ = write!(text, "  core {i}: {cpu}, {}", core.driver);
            if !core.busy_poll.is_zero() {
                let _ = write!(text, ", busyPoll {:?}", core.busy_poll);
            }
            text.push('\n');
        }
        let _ = match (&self.replication, self.replication_cpu) {
            (Ok(()), Some(cpu)) => writeln!(text, "  replication core: cpu {cpu}"),
            (Ok(()), None) => writeln!(
                text,
                "  replication core: shares the CPUs of the data cores"
            ),
            (Err(why), _) => writeln!(text, "  replication core: not to be started: {why}"),
        };
        text
    }
}

/// Binds a listener for every core.
///
/// # Errors
/// In words: the address can't be had, or connections can't be steered as the plan says.
pub fn listen(
    address: std::net::SocketAddr,
    plan: &Plan,
    cpus: &[Option<usize>],
) -> Result<socket::Group, String> {
    let group = socket::bind(address, cpus.len()).map_err(|e| e.to_string())?;
    if plan.runtime.steer_by_cpu {
        group
            .steer_by_cpu(cpus)
            .map_err(|e| format!("gateway.runtime.steering: {e}"))?;
    }
    Ok(group)
}

/// Runs the gateway until it is told to end. Returns the exit code.
pub fn run(plan: Plan, options: Options, announce: impl FnOnce(&[std::net::SocketAddr])) -> u8 {
    match start(plan, options, announce) {
        Ok(code) => code,
        Err(errors) => {
            for error in errors {
                log::error(error);
            }
            1
        }
    }
}

fn start(
    plan: Plan,
    options: Options,
    announce: impl FnOnce(&[std::net::SocketAddr]),
) -> Result<u8, Vec<String>> {
    let machine = machine(&plan);
    machine.warnings.iter().for_each(log::warn);
    if !machine.errors.is_empty() {
        return Err(machine.errors);
    }
    let tls = crate::tls::build_all(&plan)?;
    let token_keys = crate::attributes::keys::load(&plan)?;
    let plan = Arc::new(plan);
    let cores = machine.cores.len();
    let keys = Arc::new(ProcessKeys::new(&plan));
    let cpus = machine.cores.iter().map(|core| core.cpu).collect();
    let shared = Arc::new(Shared::new(cpus));
    let setup = Arc::new(Setup::first(Arc::clone(&plan), cores, tls).with_keys(token_keys));
    let control = Control::prepare(shared.clone(), setup.clone(), options)
        .map_err(|e| vec![e.to_string()])?;
    let (mut groups, mut addresses) = (Vec::new(), Vec::new());
    for listener in &plan.listeners {
        let group = listen(listener.address, &plan, &shared.cpus).map_err(|e| vec![e])?;
        addresses.extend(group.local_addr());
        groups.push(group.into_listeners().into_iter());
    }
    let mut ports = mesh::build::<Message>(cores + 2, RING);
    let replication_port = ports.pop();
    let control_port = ports
        .pop()
        .ok_or_else(|| vec!["the mesh has no place for the control thread".to_owned()])?;
    let mut handles = Vec::new();
    for (index, (port, core)) in ports.into_iter().zip(machine.cores).enumerate() {
        let listeners = groups.iter_mut().filter_map(Iterator::next).collect();
        let spec = Spec {
            name: format!("core-{index}"),
            cpu: core.cpu,
            driver: core.driver,
            busy_poll: core.busy_poll,
        };
        let parts = Parts {
            index,
            shared: shared.clone(),
            setup: setup.clone(),
            port,
            listeners,
            keys: keys.clone(),
        };
        let handle =
            data_core::spawn(spec, move || core::run(parts)).map_err(|e| vec![e.to_string()])?;
        for warning in &handle.got().warnings {
            log::warn(format!("core {index}: {warning}"));
        }
        handles.push(handle);
    }
    match (machine.replication, replication_port) {
        (Ok(()), Some(port)) => {
            if let Err(error) = holdfast_replicator::start(machine.replication_cpu, port) {
                log::warn(format!("the replication core did not start: {error}"));
            }
        }
        (Err(why), _) => log::warn(format!("no replication core: {why}")),
        _ => {}
    }
    for address in &addresses {
        log::info(format!("listening on {address}"));
    }
    if let Some(admin) = control.admin_address() {
        log::info(format!("admin on {admin}"));
    }
    announce(&addresses);
    let (ending, stopper) = (shared.clone(), control.stopper());
    let dead = mourn(
        handles,
        move || ending.unready.load(Relaxed),
        move || stopper.stop(true),
    );
    let exit = control.run(control_port);
    Ok(match exit {
        _ if dead.load(Relaxed) => CORE_DIED,
        Exit::Drained | Exit::TimedOut | Exit::Forced => 0,
    })
}

/// Watches for a core that ends before its time. Its shard is gone, and its listeners take connections
/// that nobody serves: whoever started the process must start it anew. The others get their moment to
/// finish (`stop`). Says whether it happened; while the process is `ending` it is no fault.
fn mourn(
    handles: Vec<data_core::Handle>,
    ending: impl Fn() -> bool + Send + 'static,
    stop: impl Fn() + Send + 'static,
) -> Arc<AtomicBool> {
    let dead = Arc::new(AtomicBool::new(false));
    let told = dead.clone();
    let watch = move || {
        loop {
            std::thread::sleep(MOURN);
            let mut ended = handles.iter().filter(|h| h.is_finished()).peekable();
            if ended.peek().is_none() {
                continue;
            }
            let names: Vec<&str> = ended.map(data_core::Handle::name).collect();
            if !ending() {
                log::error(format!(
                    "{} ended by a fault: the process ends, to be started anew",
                    names.join(", ")
                ));
                told.store(true, Relaxed);
                stop();
            }
            return;
        }
    };
    // Without it a dead core is still told of, as one that stands still.
    if let Err(error) = std::thread::Builder::new()
        .name("mourn".to_owned())
        .spawn(watch)
    {
        log::warn(format!("no thread to watch the cores: {error}"));
    }
    dead
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    fn core(name: &str, faulty: bool) -> data_core::Handle {
        let spec = Spec {
            name: name.to_owned(),
            cpu: None,
            driver: Driver::Legacy,
            busy_poll: Duration::ZERO,
        };
        let run = move || async move {
            assert!(!faulty, "a fault of a core");
            std::future::pending::<()>().await;
        };
        data_core::spawn(spec, run).expect("a core")
    }

    #[test]
    fn a_core_that_ends_by_a_fault_ends_the_process() {
        let (stop, stopped) = mpsc::channel();
        let handles = vec![core("sound", false), core("faulty", true)];
        let dead = mourn(
            handles,
            || false,
            move || stop.send(()).expect("the test waits"),
        );
        stopped
            .recv_timeout(Duration::from_secs(10))
            .expect("the process is told to end");
        assert!(dead.load(Relaxed));
    }
}
