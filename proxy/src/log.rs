//! The process's own messages: one line each on stderr, `time level text`.
//!
//! Owns nothing but the way to stderr. Any thread may call it; a line is one write, so lines of
//! several threads never mix. Not to be confused with the access log, which `control` writes.
//!
//! Invariants: a line never spans two lines and never carries a control character, whatever a peer
//! sent (see [`line()`]); a failure to write is ignored, there is nowhere left to say it. What network
//! input can cause again and again goes through [`Once`] or [`Limited`].
//!
//! It deliberately has no levels to switch, no targets and no macros: the caller formats.
//!
//! Tested below: the time against known dates, escaping, and what the limits let through.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What an operator may want to know.
    Info,
    /// Something is not as it should be; the gateway goes on.
    Warn,
    /// Something asked for could not be done.
    Error,
}

impl Level {
    /// Its name in the line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Writes a line of level `info`.
pub fn info(text: impl AsRef<str>) {
    write(Level::Info, text.as_ref());
}

/// Writes a line of level `warn`.
pub fn warn(text: impl AsRef<str>) {
    write(Level::Warn, text.as_ref());
}

/// Writes a line of level `error`.
pub fn error(text: impl AsRef<str>) {
    write(Level::Error, text.as_ref());
}

fn write(level: Level, text: &str) {
    let line = line(SystemTime::now(), level, text);
    // Nowhere is left to report a failure of stderr.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// The line as it is written, its line end included. Control characters (C0, DEL, C1) and the Unicode
/// line separators are escaped, so that text from a peer can't forge a line or drive a terminal.
pub fn line(time: SystemTime, level: Level, text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 34);
    let _ = write!(out, "{} {:<5} ", Rfc3339(time), level.name());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('\n');
    out
}

/// A time as RFC 3339 in UTC with milliseconds, such as `2026-01-31T08:05:09.120Z`. Times before 1970
/// show as 1970.
#[derive(Debug, Clone, Copy)]
pub struct Rfc3339(pub SystemTime);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let of_day = seconds % 86_400;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60,
            since.subsec_millis()
        )
    }
}

/// The Gregorian date of a day counted from 1970-01-01. Counts from 0000-03-01 in eras of 400 years
/// (146,097 days), so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// A message that is worth saying once a process. Made for a `static`.
#[derive(Debug, Default)]
pub struct Once(AtomicBool);

impl Once {
    /// Not yet said.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Is this the first call? One relaxed load once it has been said.
    pub fn first(&self) -> bool {
        !self.0.load(Relaxed) && !self.0.swap(true, Relaxed)
    }

    /// Warns at the first call only; `text` is not made for the others.
    pub fn warn(&self, text: impl FnOnce() -> String) {
        if self.first() {
            warn(text());
        }
    }
}

/// A message that may be said once in a period; what was held back meanwhile is counted and told with
/// the next. Made for a `static`.
#[derive(Debug)]
pub struct Limited {
    period_ms: u64,
    /// Milliseconds since 1970 from which the next may pass.
    next: AtomicU64,
    held: AtomicU64,
}

impl Limited {
    /// At most one line a `period`.
    pub const fn new(period: Duration) -> Self {
        Self {
            period_ms: period.as_millis() as u64,
            next: AtomicU64::new(0),
            held: AtomicU64::new(0),
        }
    }

    /// May a line pass at `now`? `Some(n)`: yes, and `n` were held back before it.
    pub fn pass(&self, now: SystemTime) -> Option<u64> {
        let now = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis() as u64;
        let next = self.next.load(Relaxed);
        // Only one of several threads wins the exchange. A clock set back must not silence for long.
        let due = now >= next || next > now + self.period_ms;
        if due
            && self
                .next
                .compare_exchange(next, now + self.period_ms, Relaxed, Relaxed)
                .is_ok()
        {
            return Some(self.held.swap(0, Relaxed));
        }
        self.held.fetch_add(1, Relaxed);
        None
    }

    /// Warns, if the period allows; `text` is made only then.
    pub fn warn(&self, text: impl FnOnce() -> String) {
        self.say(Level::Warn, text);
    }

    /// The same as an error.
    pub fn error(&self, text: impl FnOnce() -> String) {
        self.say(Level::Error, text);
    }

    fn say(&self, level: Level, text: impl FnOnce() -> String) {
        match self.pass(SystemTime::now()) {
            Some(0) => write(level, &text()),
            Some(held) => write(
                level,
                &format!("{} (and {held} more like it before)", text()),
            ),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(ms)
    }

    #[test]
    fn known_dates() {
        for (seconds, ms, text) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, 7, "2000-02-29T00:00:00.007Z"),
            (951_868_799, 999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800, 0, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599, 120, "2024-12-31T23:59:59.120Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Rfc3339(at(seconds, ms)).to_string(), text);
        }
    }

    #[test]
    fn a_line_is_one_line_whatever_it_says() {
        let line = line(at(0, 0), Level::Warn, "a\r\nb\u{1b}[31m\0\u{2028}é\u{9b}");
        assert_eq!(
            line,
            "1970-01-01T00:00:00.000Z warn  a\\r\\nb\\u{1b}[31m\\u{0}\\u{2028}é\\u{9b}\n"
        );
    }

    #[test]
    fn once_is_once() {
        let once = Once::new();
        assert!(once.first());
        assert!(!once.first());
    }

    #[test]
    fn a_limit_counts_what_it_holds_back() {
        let limited = Limited::new(Duration::from_secs(10));
        assert_eq!(limited.pass(at(100, 0)), Some(0));
        assert_eq!(limited.pass(at(100, 0)), None);
        assert_eq!(limited.pass(at(109, 999)), None);
        assert_eq!(limited.pass(at(110, 0)), Some(2));
        // The clock was set back by a minute.
        assert_eq!(limited.pass(at(50, 0)), Some(0));
    }
}
