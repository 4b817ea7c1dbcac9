//! What the kernel knows of this process, for `/metrics`.
//!
//! Owns nothing; reads `/proc/self`. Called by the control thread, a few short reads a scrape. A
//! figure that can't be read is left out, never guessed. Tested below on the parsers and the process
//! that runs the test.

use std::fs;

/// Clock ticks of `/proc/self/stat` in a second: `USER_HZ`, 100 on every Linux architecture but Alpha.
const TICKS: f64 = 100.0;

/// The usual figures of a process. `None` where `/proc` did not say.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct ProcessFigures {
    /// User and system time of all threads, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// Address space, in bytes.
    pub virtual_bytes: Option<u64>,
    /// Open descriptors.
    pub open_fds: Option<u64>,
    /// The soft limit of descriptors.
    pub max_fds: Option<u64>,
    /// Start, in seconds since 1970.
    pub start_seconds: Option<f64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// Reads all of them now.
pub fn read() -> ProcessFigures {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let stat = text("/proc/self/stat");
    let status = text("/proc/self/status");
    ProcessFigures {
        cpu_seconds: cpu_seconds(&stat),
        resident_bytes: kib(&status, "VmRSS:"),
        virtual_bytes: kib(&status, "VmSize:"),
        open_fds: open_fds(),
        max_fds: max_fds(&text("/proc/self/limits")),
        start_seconds: start_seconds(&stat, &text("/proc/stat")),
        threads: stat_field(&stat, 20),
    }
}

/// Linux 6.2 and newer give the count as the directory's size; before that it is to be read through.
fn open_fds() -> Option<u64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        count => Some(count),
    }
}

/// Field `number` of proc_pid_stat(5), counted from 1. The name, field 2, may hold blanks and
/// parentheses: fields are counted behind its last `)`.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace()
        .nth(number.checked_sub(3)?)?
        .parse()
        .ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) as f64 / TICKS)
}

fn start_seconds(stat: &str, system: &str) -> Option<f64> {
    let booted: u64 = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(booted as f64 + stat_field(stat, 22)? as f64 / TICKS)
}

fn kib(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn max_fds(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_shifts_nothing() {
        let stat = "7 (a b) c)) S 1 7 7 0 -1 0 10 0 0 0 150 50 0 0 20 0 5 0 12345 0 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(stat_field(stat, 20), Some(5));
        assert_eq!(start_seconds(stat, "cpu 1\nbtime 1000\n"), Some(1123.45));
        assert_eq!(cpu_seconds("7 (cut"), None);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = read();
        assert!(figures.resident_bytes.unwrap() > 100_000);
        assert!(figures.virtual_bytes >= figures.resident_bytes);
        assert!(figures.open_fds.unwrap() >= 3);
        assert!(figures.max_fds.unwrap() >= figures.open_fds.unwrap());
        assert!(figures.threads.unwrap() >= 1);
        assert!(figures.cpu_seconds.is_some());
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let start = figures.start_seconds.unwrap();
        assert!(start < now + 5.0 && start > now - 86_400.0, "{start} {now}");
    }
}
