//! Clocks and the texts of times.
//!
//! Owns no state but a cache of formatted texts a thread. Any thread may call. Invariants: monotonic
//! times never go back and share one origin over all threads; texts are always of their fixed length.
//! It deliberately knows no time zones. Tested below against known dates and the kernel's own clocks.

use std::cell::Cell;

fn gettime(clock: libc::clockid_t) -> (u64, u32) {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `t` is a valid timespec to write to. The call can only fail for an unknown clock, and
    // leaves zeros then.
    unsafe { libc::clock_gettime(clock, &mut t) };
    (t.tv_sec as u64, t.tv_nsec as u32)
}

/// Nanoseconds of CLOCK_MONOTONIC.
#[inline]
pub fn monotonic_ns() -> u64 {
    let (s, ns) = gettime(libc::CLOCK_MONOTONIC);
    s * 1_000_000_000 + u64::from(ns)
}

/// Milliseconds of CLOCK_MONOTONIC.
#[inline]
pub fn monotonic_ms() -> u64 {
    let (s, ns) = gettime(libc::CLOCK_MONOTONIC);
    s * 1_000 + u64::from(ns / 1_000_000)
}

/// Milliseconds of CLOCK_MONOTONIC as of the kernel's last tick (1 to 10 ms old): a third of the
/// price of [`monotonic_ms`].
#[inline]
pub fn coarse_ms() -> u64 {
    let (s, ns) = gettime(libc::CLOCK_MONOTONIC_COARSE);
    s * 1_000 + u64::from(ns / 1_000_000)
}

/// Milliseconds since 1970 of the wall clock. May go back.
#[inline]
pub fn wall_ms() -> u64 {
    let (s, ns) = gettime(libc::CLOCK_REALTIME);
    s * 1_000 + u64::from(ns / 1_000_000)
}

/// The same as of the kernel's last tick (1 to 10 ms old): a third of the price.
#[inline]
pub fn coarse_wall_ms() -> u64 {
    let (s, ns) = gettime(libc::CLOCK_REALTIME_COARSE);
    s * 1_000 + u64::from(ns / 1_000_000)
}

/// Year, month (1 to 12), day (1 to 31) of a day since 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: u64) -> (u64, usize, u64) {
    // Years begin in March here, so that the leap day is the last of its year.
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month as usize, day)
}

fn digits<const N: usize>(out: &mut [u8], mut value: u64) {
    for place in out.iter_mut().take(N).rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Length of an IMF-fixdate.
pub const HTTP_DATE_LEN: usize = 29;
/// Length of an RFC 3339 time with milliseconds, in UTC.
pub const RFC3339_LEN: usize = 24;

/// Seconds since 1970 as an IMF-fixdate (RFC 9110 section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn format_http_date(seconds: u64) -> [u8; HTTP_DATE_LEN] {
    const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    const MONTHS: [&[u8; 3]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov",
        b"Dec",
    ];
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    out[..3].copy_from_slice(DAYS[(days % 7) as usize]);
    digits::<2>(&mut out[5..], day);
    out[8..11].copy_from_slice(MONTHS[(month - 1) % 12]);
    digits::<4>(&mut out[12..], year);
    digits::<2>(&mut out[17..], rest / 3_600);
    digits::<2>(&mut out[20..], rest / 60 % 60);
    digits::<2>(&mut out[23..], rest % 60);
    out
}

/// Milliseconds since 1970 as an RFC 3339 time in UTC: `1994-11-06T08:49:37.000Z`.
pub fn format_rfc3339(ms: u64) -> [u8; RFC3339_LEN] {
    let (seconds, ms) = (ms / 1_000, ms % 1_000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"1970-01-01T00:00:00.000Z";
    digits::<4>(&mut out, year);
    digits::<2>(&mut out[5..], month as u64);
    digits::<2>(&mut out[8..], day);
    digits::<2>(&mut out[11..], rest / 3_600);
    digits::<2>(&mut out[14..], rest / 60 % 60);
    digits::<2>(&mut out[17..], rest % 60);
    digits::<3>(&mut out[20..], ms);
    out
}

thread_local! {
    static HTTP: Cell<(u64, [u8; HTTP_DATE_LEN])> = const { Cell::new((0, *b"Thu, 01 Jan 1970 00:00:00 GMT")) };
    static RFC: Cell<(u64, [u8; RFC3339_LEN])> = const { Cell::new((0, *b"1970-01-01T00:00:00.000Z")) };
}

/// [`format_http_date`], formatted once a second and thread.
pub fn http_date(wall_ms: u64) -> [u8; HTTP_DATE_LEN] {
    let second = wall_ms / 1_000;
    HTTP.with(|cache| {
        if cache.get().0 != second {
            cache.set((second, format_http_date(second)));
        }
        cache.get().1
    })
}

/// [`format_rfc3339`]; all but the milliseconds are formatted once a second and thread.
pub fn rfc3339(wall_ms: u64) -> [u8; RFC3339_LEN] {
    let second = wall_ms / 1_000;
    RFC.with(|cache| {
        if cache.get().0 != second {
            cache.set((second, format_rfc3339(second * 1_000)));
        }
        let mut text = cache.get().1;
        digits::<3>(&mut text[20..], wall_ms % 1_000);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(seconds: u64) -> String {
        String::from_utf8(format_http_date(seconds).to_vec()).unwrap()
    }

    #[test]
    fn known_dates() {
        assert_eq!(http(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(http(4_107_542_399), "Sun, 28 Feb 2100 23:59:59 GMT");
        assert_eq!(
            http(4_107_542_400),
            "Mon, 01 Mar 2100 00:00:00 GMT",
            "2100 is no leap year"
        );
        assert_eq!(
            &format_rfc3339(784_111_777_042),
            b"1994-11-06T08:49:37.042Z"
        );
        assert_eq!(
            &format_rfc3339(1_735_689_599_999),
            b"2024-12-31T23:59:59.999Z"
        );
    }

    #[test]
    fn caches_tell_what_the_formatters_tell() {
        for ms in [
            0,
            1,
            999,
            1_000,
            784_111_777_042,
            784_111_777_043,
            784_111_778_000,
            784_111_777_000,
        ] {
            assert_eq!(http_date(ms), format_http_date(ms / 1_000));
            assert_eq!(rfc3339(ms), format_rfc3339(ms));
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_last() {
        let mut last = civil(0);
        for day in 1..146_097 {
            let now = civil(day);
            let next_day = (last.0, last.1, last.2 + 1) == now;
            let next_month = (last.0, last.1 + 1, 1) == now && last.2 >= 28;
            let next_year = (last.0 + 1, 1, 1) == now && (last.1, last.2) == (12, 31);
            assert!(next_day || next_month || next_year, "{last:?} then {now:?}");
            last = now;
        }
        assert_eq!(last, (2369, 12, 31));
    }

    #[test]
    fn clocks_agree() {
        let (a, coarse, b) = (monotonic_ms(), coarse_ms(), monotonic_ns() / 1_000_000);
        assert!(a <= b);
        assert!(coarse <= b && b - coarse < 1_000);
        let std = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis() as u64;
        assert!(wall_ms().abs_diff(std) < 1_000);
    }
}
