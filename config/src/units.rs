//! Durations, sizes and rates as they are written.
//!
//! Pure functions from text. Everything is bounded: no duration over [`MAX_DURATION`], no size over
//! [`MAX_SIZE`], so sums of a few of them never overflow. Tested below.

use std::fmt::Write as _;
use std::time::Duration;

use crate::plan::Rate;

/// Ten years.
pub const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 3600);
/// 8 EiB less one: what an `i64` holds.
pub const MAX_SIZE: u64 = i64::MAX as u64;

const UNITS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// `500ms 30s 5m 2h 24h 7d 1h30m 0us`; a bare whole number is seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut micros = 0u64;
    // Units go from large to small, each once, so that `30m1h` and `1s1s` are not guessed at.
    let mut last = usize::MAX;
    while !rest.is_empty() {
        let (number, tail) = digits(rest)?;
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let index = match unit {
            "" if tail.is_empty() && last == usize::MAX => 2,
            _ => UNITS.iter().position(|(name, _)| *name == unit)?,
        };
        if index >= last {
            return None;
        }
        last = index;
        micros = micros.checked_add(number.checked_mul(UNITS.get(index)?.1)?)?;
        rest = tail;
    }
    let d = Duration::from_micros(micros);
    (last != usize::MAX && d <= MAX_DURATION).then_some(d)
}

/// `16KB`, `64 KiB`, `1GB`, `512`: bytes, all units binary.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = digits(text)?;
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KB" | "KiB" => 10,
        "MB" | "MiB" => 20,
        "GB" | "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift).filter(|n| *n <= MAX_SIZE)
}

/// `100/s`, `20/m`, `500/h`; `0` is none.
pub fn rate(text: &str) -> Option<Option<Rate>> {
    if text == "0" {
        return Some(None);
    }
    let (count, per) = text.split_once('/')?;
    let (count, rest) = digits(count.trim_end())?;
    let per = match per.trim_start() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let count = u32::try_from(count).ok()?;
    rest.is_empty().then_some((count > 0).then_some(Rate {
        count,
        per: Duration::from_secs(per),
    }))
}

fn digits(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.parse().ok()?, rest))
}

/// A duration as it would be written.
pub fn show_duration(d: Duration) -> String {
    let mut micros = u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    if micros == 0 {
        return "0".into();
    }
    let mut out = String::new();
    for (unit, length) in UNITS.iter().rev() {
        // Hours read better than days up to two of them: 24h, 36h.
        if *unit == "d" && (micros % length != 0 || micros < 2 * length) {
            continue;
        }
        if micros >= *length {
            let _ = write!(out, "{}{unit}", micros / length);
            micros %= length;
        }
    }
    out
}

/// A size as it would be written.
pub fn show_size(bytes: u64) -> String {
    for (unit, shift) in [("GB", 30), ("MB", 20), ("KB", 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// A rate as it would be written.
pub fn show_rate(rate: Option<Rate>) -> String {
    match rate {
        None => "0".into(),
        Some(r) => format!(
            "{}/{}",
            r.count,
            show_duration(r.per).trim_start_matches('1')
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, micros) in [
            ("500ms", 500_000),
            ("30s", 30_000_000),
            ("30", 30_000_000),
            ("0", 0),
            ("0us", 0),
            ("5m", 300_000_000),
            ("24h", 86_400_000_000),
            ("7d", 7 * 86_400_000_000),
            ("1h30m", 5_400_000_000),
            ("1d2h3m4s5ms6us", 93_784_005_006),
        ] {
            let d = duration(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(d, Duration::from_micros(micros), "{text}");
            assert_eq!(duration(&show_duration(d)), Some(d), "{text}");
        }
        for text in [
            "",
            "s",
            "5 m",
            "-5s",
            "1.5h",
            "5x",
            "30m1h",
            "1s1s",
            "1h30",
            "99999999999999999999s",
            "4000d",
            "5M",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("8KB", 8192),
            ("8KiB", 8192),
            ("8 KB", 8192),
            ("1MB", 1 << 20),
            ("2GiB", 2 << 30),
            ("7B", 7),
            ("0", 0),
            ("512", 512),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
            assert_eq!(size(&show_size(bytes)), Some(bytes));
        }
        for text in ["", "KB", "8kb", "8TB", "-1", "1.5MB", "99999999999GB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn rates() {
        let is = |count, secs| {
            Some(Some(Rate {
                count,
                per: Duration::from_secs(secs),
            }))
        };
        assert_eq!(rate("100/s"), is(100, 1));
        assert_eq!(rate("20/m"), is(20, 60));
        assert_eq!(rate("5 / h"), is(5, 3600));
        assert_eq!(rate("0"), Some(None));
        assert_eq!(rate("0/s"), Some(None));
        for r in ["100/s", "20/m", "7/h"] {
            assert_eq!(show_rate(rate(r).flatten()), r);
        }
        for text in [
            "",
            "100",
            "/s",
            "100/",
            "100/d",
            "x/s",
            "-1/s",
            "99999999999/s",
        ] {
            assert_eq!(rate(text), None, "{text}");
        }
    }
}
