//! Units of time: how Unix milliseconds fit into the few bits of an entry.
//!
//! Owns conversions only. Callable anywhere. Invariants: every conversion is total (it clamps), and
//! converting to a coarse unit and back never moves a time into the future. It deliberately has no
//! clock. Tested here.

/// 2020-01-01T00:00:00Z in Unix milliseconds: the zero of every short time.
pub const EPOCH_MS: u64 = 1_577_836_800_000;
/// Milliseconds of one [`Quarter`].
pub const QUARTER_MS: u64 = 250;
/// Largest value of a creation time: 46 bits of milliseconds.
const MAX_MS: u64 = (1 << 46) - 1;

/// Milliseconds since 2020, in 46 bits (2,230 years).
pub fn short_ms(unix_ms: u64) -> u64 {
    unix_ms.saturating_sub(EPOCH_MS).min(MAX_MS)
}

/// A time in quarters of a second since 2020: 34 years in a u32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Quarter(pub u32);

impl Quarter {
    /// The quarter that `unix_ms` lies in.
    pub fn of(unix_ms: u64) -> Self {
        Self(u32::try_from(unix_ms.saturating_sub(EPOCH_MS) / QUARTER_MS).unwrap_or(u32::MAX))
    }

    /// Its first millisecond.
    pub fn start(self) -> u64 {
        EPOCH_MS + u64::from(self.0) * QUARTER_MS
    }

    /// The first millisecond after it: deadlines count from here, so that none comes early.
    pub fn end(self) -> u64 {
        self.start() + QUARTER_MS
    }
}

/// Whole seconds since 1970, to 2106.
pub fn unix_seconds(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / 1000).unwrap_or(u32::MAX)
}

/// Whole seconds since 2020.
pub fn short_seconds(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms.saturating_sub(EPOCH_MS) / 1000).unwrap_or(u32::MAX)
}

/// `2026-11-24T09:38:40Z`: RFC 3339 in UTC, whole seconds.
pub fn rfc3339(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// Proleptic Gregorian date of a day since 1970. Counts eras of 400 years from 1 March, so that the
/// leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (EPOCH_MS, "2020-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
        }
    }

    #[test]
    fn quarters_never_move_forward() {
        for ms in [EPOCH_MS, EPOCH_MS + 249, EPOCH_MS + 250, 1_800_000_000_123] {
            let q = Quarter::of(ms);
            assert!(q.start() <= ms && ms < q.end());
        }
        assert_eq!(Quarter::of(0), Quarter(0));
        assert_eq!(Quarter::of(u64::MAX), Quarter(u32::MAX));
    }
}
