//! Which CPUs there are for us, and who gets which.
//!
//! Owns no state. To be asked once, at boot, before any thread is pinned: a pinned thread sees only
//! its own CPU. Invariants: every CPU that is handed out is in the affinity mask of the process; the
//! replication core has a CPU of its own only if it is wanted and there are four or more.
//! It deliberately does not pin (the cores do) and does not watch for changes. Tested below, on
//! made-up cgroup trees and on this machine.

use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// What the configuration wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// As many as there are CPUs for us.
    Auto,
    /// So many, on the CPUs in turn; more than there are CPUs is allowed.
    Count(usize),
    /// These CPUs.
    List(Vec<usize>),
}

/// What is wanted for the replication core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// It has no work.
    Unwanted,
    /// A CPU of its own where there are enough.
    Auto,
    /// This CPU.
    Cpu(usize),
}

/// Where a core runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CorePlan {
    /// The CPU that it is pinned to; `None`: the scheduler decides.
    pub cpu: Option<usize>,
    /// That CPU's NUMA node, where the machine has several.
    pub node: Option<usize>,
}

/// Who gets which CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The data cores; never empty.
    pub cores: Vec<CorePlan>,
    /// The replication core.
    pub replication: CorePlan,
}

/// What there is.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// CPUs of the affinity mask, ascending; never empty.
    pub cpus: Vec<usize>,
    /// CPUs' worth of time that the control group allows, if it bounds it.
    pub quota: Option<f64>,
}

impl Machine {
    /// This machine, as far as this process may use it.
    ///
    /// # Errors
    /// The kernel does not tell the affinity mask.
    pub fn detect() -> io::Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Ok(Self {
            cpus: affinity()?,
            quota: quota(&groups, Path::new("/sys/fs/cgroup")),
        })
    }

    /// CPUs that can be kept busy: of the mask, and by the quota.
    pub fn usable(&self) -> usize {
        let by_quota = self
            .quota
            .map_or(usize::MAX, |quota| (quota.ceil() as usize).max(1));
        self.cpus.len().min(by_quota)
    }

    /// Lays out data cores and replication core.
    ///
    /// Under a quota that is less than the mask, automatic cores are not pinned: other containers
    /// with the same mask would choose the same CPUs.
    ///
    /// # Errors
    /// [`Error::Refused`]: a CPU that is not in the mask, or no core at all.
    pub fn resolve(&self, cores: &Cores, replication: Replication) -> Result<Layout, Error> {
        let usable = self.usable();
        let pinned = usable == self.cpus.len();
        let mut own = match replication {
            Replication::Cpu(cpu) => Some(self.known(cpu, "runtime.replicationCore")?),
            Replication::Auto | Replication::Unwanted => None,
        };
        let cpus: Vec<Option<usize>> = match cores {
            Cores::Auto => {
                let mut cpus: Vec<usize> = self
                    .cpus
                    .iter()
                    .copied()
                    .filter(|&cpu| Some(cpu) != own)
                    .collect();
                cpus.truncate(usable.max(1));
                if replication == Replication::Auto && usable >= 4 {
                    let last = cpus.pop();
                    own = last.filter(|_| pinned);
                }
                if cpus.is_empty() {
                    cpus.extend(own);
                }
                cpus.into_iter().map(|cpu| pinned.then_some(cpu)).collect()
            }
            Cores::Count(count) => (0..*count)
                .map(|i| Some(self.cpus[i % self.cpus.len()]))
                .collect(),
            Cores::List(list) => list
                .iter()
                .map(|&cpu| self.known(cpu, "runtime.cores").map(Some))
                .collect::<Result<_, _>>()?,
        };
        if cpus.is_empty() {
            return Err(Error::Refused(
                "runtime.cores: at least one core is needed".to_owned(),
            ));
        }
        if own.is_none()
            && replication == Replication::Auto
            && !matches!(cores, Cores::Auto)
            && usable >= 4
        {
            own = self
                .cpus
                .iter()
                .rev()
                .copied()
                .find(|&cpu| !cpus.contains(&Some(cpu)));
        }
        let plan = |cpu: Option<usize>| CorePlan {
            cpu,
            node: cpu.and_then(node_of),
        };
        Ok(Layout {
            cores: cpus.into_iter().map(plan).collect(),
            replication: plan(own),
        })
    }

    fn known(&self, cpu: usize, key: &str) -> Result<usize, Error> {
        if self.cpus.contains(&cpu) {
            return Ok(cpu);
        }
        Err(Error::Refused(format!(
            "{key}: CPU {cpu} is not among those that this process may use ({:?})",
            self.cpus
        )))
    }
}

/// The CPUs that this thread may run on, ascending.
fn affinity() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero set is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is writable memory of the size that is told.
    if unsafe { libc::sched_getaffinity(0, mem::size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every index is below the set's size.
    let cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect();
    if cpus.is_empty() {
        Err(io::ErrorKind::NotFound.into())
    } else {
        Ok(cpus)
    }
}

/// The NUMA node of a CPU; `None` where the kernel knows no nodes.
pub fn node_of(cpu: usize) -> Option<usize> {
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).ok()?;
    entries.flatten().find_map(|entry| {
        entry
            .file_name()
            .to_str()?
            .strip_prefix("node")?
            .parse()
            .ok()
    })
}

/// CPUs' worth of time by the control groups, version 2 or 1: the tightest of ours and all above it.
fn quota(groups: &str, root: &Path) -> Option<f64> {
    let mut tightest: Option<f64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (base, version2) = if controllers.is_empty() {
            (root.to_owned(), true)
        } else if controllers.split(',').any(|c| c == "cpu") {
            let joined = root.join(controllers);
            (
                if joined.is_dir() {
                    joined
                } else {
                    root.join("cpu")
                },
                false,
            )
        } else {
            continue;
        };
        // Within a container the path may be one of the host: the root then stands for us.
        let mut here: PathBuf = base.join(path.trim_start_matches('/'));
        loop {
            let found = if version2 {
                quota_v2(&here)
            } else {
                quota_v1(&here)
            };
            if let Some(found) = found {
                tightest = Some(tightest.map_or(found, |t| t.min(found)));
            }
            if here == base || !here.pop() {
                break;
            }
        }
    }
    tightest
}

fn quota_v2(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota.parse().ok()?, period.parse().ok()?)
}

fn quota_v1(group: &Path) -> Option<f64> {
    let read = |name| {
        fs::read_to_string(group.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    ratio(read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)
}

/// A quota of -1 (version 1) is none.
fn ratio(quota: f64, period: f64) -> Option<f64> {
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: &[usize], quota: Option<f64>) -> Machine {
        Machine {
            cpus: cpus.to_vec(),
            quota,
        }
    }

    fn cpus(layout: &Layout) -> Vec<Option<usize>> {
        layout.cores.iter().map(|core| core.cpu).collect()
    }

    #[test]
    fn automatic_cores() {
        let (auto, no) = (Cores::Auto, Replication::Unwanted);
        let two = machine(&[0, 1], None);
        assert_eq!(cpus(&two.resolve(&auto, no).unwrap()), [Some(0), Some(1)]);
        let with = two.resolve(&auto, Replication::Auto).unwrap();
        assert_eq!(
            (cpus(&with), with.replication.cpu),
            (vec![Some(0), Some(1)], None),
            "too few for one of its own"
        );
        let four = machine(&[2, 3, 6, 7], None);
        let with = four.resolve(&auto, Replication::Auto).unwrap();
        assert_eq!(
            (cpus(&with), with.replication.cpu),
            (vec![Some(2), Some(3), Some(6)], Some(7))
        );
        let with = four.resolve(&auto, Replication::Cpu(3)).unwrap();
        assert_eq!(
            (cpus(&with), with.replication.cpu),
            (vec![Some(2), Some(6), Some(7)], Some(3))
        );
        let bounded = machine(&[0, 1, 2, 3], Some(1.5));
        assert_eq!(cpus(&bounded.resolve(&auto, no).unwrap()), [None, None]);
        let one = machine(&[5], None);
        assert_eq!(
            cpus(&one.resolve(&auto, Replication::Cpu(5)).unwrap()),
            [Some(5)]
        );
    }

    #[test]
    fn counted_and_listed_cores() {
        let two = machine(&[0, 1], None);
        let eight = two
            .resolve(&Cores::Count(8), Replication::Unwanted)
            .unwrap();
        assert_eq!(
            cpus(&eight).iter().filter(|cpu| **cpu == Some(1)).count(),
            4
        );
        let list = two
            .resolve(&Cores::List(vec![1]), Replication::Auto)
            .unwrap();
        assert_eq!((cpus(&list), list.replication.cpu), (vec![Some(1)], None));
        let four = machine(&[0, 1, 2, 3], None);
        let list = four
            .resolve(&Cores::List(vec![3, 0]), Replication::Auto)
            .unwrap();
        assert_eq!(
            (cpus(&list), list.replication.cpu),
            (vec![Some(3), Some(0)], Some(2))
        );
        let refused = two
            .resolve(&Cores::List(vec![0, 9]), Replication::Unwanted)
            .unwrap_err()
            .to_string();
        assert_eq!(
            refused,
            "runtime.cores: CPU 9 is not among those that this process may use ([0, 1])"
        );
        assert!(
            two.resolve(&Cores::Count(0), Replication::Unwanted)
                .is_err()
        );
        assert!(two.resolve(&Cores::Auto, Replication::Cpu(2)).is_err());
    }

    #[test]
    fn quotas_of_both_versions() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("a/cpu.max", "150000 100000\n");
        put("a/b/cpu.max", "max 100000\n");
        assert_eq!(
            quota("0::/a/b\n", root.path()),
            Some(1.5),
            "one above bounds it"
        );
        assert_eq!(quota("0::/elsewhere\n", root.path()), None);
        put("cpu.max", "400000 100000\n");
        assert_eq!(
            quota("0::/host/path\n", root.path()),
            Some(4.0),
            "the root of a container"
        );
        put("cpu,cpuacct/x/cpu.cfs_quota_us", "50000\n");
        put("cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
        put("cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
        put("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        assert_eq!(
            quota("4:cpu,cpuacct:/x\n1:name=systemd:/x\n", root.path()),
            Some(0.5)
        );
        assert_eq!(quota("nonsense\n", root.path()), None);
    }

    #[test]
    fn this_machine() {
        let machine = Machine::detect().unwrap();
        assert!(machine.usable() >= 1);
        let parallel = std::thread::available_parallelism().unwrap().get();
        assert!(machine.cpus.len() >= parallel.min(machine.cpus.len()));
        machine.resolve(&Cores::Auto, Replication::Auto).unwrap();
    }
}
