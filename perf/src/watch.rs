//! A process's CPU time and memory, from `/proc`.
//!
//! Owns nothing; any thread. CPU is taken twice: `run` is the sum of `/proc/PID/task/*/schedstat`,
//! in nanoseconds, over all threads alive (io-wq workers too); `user` and `system` are those of
//! `/proc/PID/stat`, whole process, threads that ended included. The kernel scales the latter two
//! so that their sum is the precise run time too, but prints ticks of 10 ms, and their *split* is
//! sampled by the tick (4 ms here): for a split to 3 % a window must hold some thousand ticks.
//! Memory is `Rss` and `Anonymous` of `smaps_rollup`, which are exact (`VmRSS` lags by a few pages
//! a CPU). Does not follow children: name every pid. Tested here on ourselves.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::json::Object;

/// Usage.
pub const HELP: &str = "\
holdfast-perf watch --pid PID[,PID] [--for 5s]
  prints CPU used in that time and memory at its end, as JSON
";

/// Nanoseconds of one tick of `/proc/PID/stat`: USER_HZ is 100 on every Linux.
const TICK: u64 = 10_000_000;

/// What a set of processes has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Nanoseconds on a CPU, all threads alive.
    pub run: u64,
    /// Nanoseconds in user mode, in ticks.
    pub user: u64,
    /// Nanoseconds in the kernel, in ticks.
    pub system: u64,
}

impl Cpu {
    /// What was used since `before`.
    pub fn since(&self, before: &Cpu) -> Cpu {
        Cpu {
            run: self.run.saturating_sub(before.run),
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }

    /// The better of both sums: nanoseconds of all threads alive, or the ticks where a thread
    /// that ended took its share with it.
    pub fn total(&self) -> u64 {
        let ticks = self.user + self.system;
        if ticks > self.run + 2 * TICK {
            ticks
        } else {
            self.run
        }
    }
}

/// Bytes of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident and not of a file.
    pub anonymous: u64,
}

/// A named set of processes.
#[derive(Debug, Clone)]
pub struct Group {
    /// What the report calls it.
    pub name: String,
    /// The processes.
    pub pids: Vec<u32>,
}

impl Group {
    /// Reads `name=1,2,3`.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, pids) = text.split_once('=')?;
        let pids = pids
            .split(',')
            .map(|p| p.parse().ok())
            .collect::<Option<Vec<u32>>>()?;
        Some(Self {
            name: name.to_owned(),
            pids,
        })
    }

    /// Sums the CPU of all its processes.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn cpu(&self) -> io::Result<Cpu> {
        let mut sum = Cpu::default();
        for pid in &self.pids {
            let one = cpu(*pid)?;
            sum.run += one.run;
            sum.user += one.user;
            sum.system += one.system;
        }
        Ok(sum)
    }

    /// Sums the memory of all its processes.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn memory(&self) -> io::Result<Memory> {
        let mut sum = Memory::default();
        for pid in &self.pids {
            let one = memory(*pid)?;
            sum.rss += one.rss;
            sum.anonymous += one.anonymous;
        }
        Ok(sum)
    }
}

/// CPU used by a process so far.
///
/// # Errors
/// When the process is gone or `/proc` can't be read.
pub fn cpu(pid: u32) -> io::Result<Cpu> {
    let mut run = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
            run += first_number(&text);
        }
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command may hold spaces and parentheses: count from the last one.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after.split_ascii_whitespace().skip(11).map(first_number);
    let mut tick = || fields.next().unwrap_or(0) * TICK;
    Ok(Cpu {
        run,
        user: tick(),
        system: tick(),
    })
}

/// Memory of a process now.
///
/// # Errors
/// When the process is gone or isn't ours to read.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map_or(0, |rest| first_number(rest.trim_start()) * 1024)
    };
    Ok(Memory {
        rss: field("Rss:"),
        anonymous: field("Anonymous:"),
    })
}

fn first_number(text: &str) -> u64 {
    text.split_ascii_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// The report of one group over a window with `requests` in it.
pub fn report(cpu: &Cpu, memory: &Memory, window: Duration, requests: u64) -> Object {
    let each = |ns: u64| ns as f64 / 1e3 / requests as f64;
    let mut out = Object::new();
    out.number("cpu_us", each(cpu.total()))
        .number("run_us", each(cpu.run))
        .number("user_us", each(cpu.user))
        .number("system_us", each(cpu.system))
        .number("busy", cpu.total() as f64 / window.as_nanos() as f64)
        .integer("rss", memory.rss)
        .integer("anonymous", memory.anonymous);
    out
}

/// The subcommand.
///
/// # Errors
/// On wrong usage, or when the process is gone.
pub fn main(mut args: Args) -> Result<(), String> {
    let pids = args.value("--pid")?.ok_or("--pid is required")?;
    let window = args.duration("--for", Duration::from_secs(5))?;
    args.finish()?;
    let group = Group::parse(&format!("process={pids}")).ok_or("--pid: numbers and commas")?;
    let gone = |e: io::Error| format!("{pids}: {e}");
    let (before, from) = (group.cpu().map_err(gone)?, Instant::now());
    std::thread::sleep(window);
    let used = group.cpu().map_err(gone)?.since(&before);
    let window = from.elapsed();
    let memory = group.memory().map_err(gone)?;
    println!("{}", report(&used, &memory, window, 1).finish());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_work_is_seen() {
        let us = Group::parse(&format!("us={}", std::process::id())).unwrap();
        let before = us.cpu().unwrap();
        let start = Instant::now();
        let mut sum = 0u64;
        // Until the clock of threads says so, with a deadline: the machine may be shared.
        loop {
            for i in 0..100_000u64 {
                sum = std::hint::black_box(sum ^ i);
            }
            let used = us.cpu().unwrap().since(&before);
            if used.run > 30 * 1_000_000 {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{used:?}");
        }
        assert!(us.memory().unwrap().rss >= us.memory().unwrap().anonymous);
        assert!(us.memory().unwrap().anonymous > 0);
    }

    #[test]
    fn groups() {
        assert_eq!(Group::parse("a=1,22").unwrap().pids, [1, 22]);
        assert!(Group::parse("a").is_none());
        assert!(Group::parse("a=x").is_none());
        assert!(cpu(u32::MAX).is_err());
    }

    #[test]
    fn a_thread_that_ended_is_not_lost() {
        let alive = Cpu {
            run: 500_000_000,
            user: 100_000_000,
            system: 400_000_000,
        };
        assert_eq!(alive.total(), alive.run);
        let ended = Cpu {
            run: 300_000_000,
            ..alive
        };
        assert_eq!(ended.total(), 500_000_000);
    }
}
