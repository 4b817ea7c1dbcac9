//! What a run has seen, added up over threads and written as text or JSON.
//!
//! Owns the sums; main thread. Rates and CPU count the answers between the two samples of the
//! window; latencies are of requests started in the window. Tested here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::json::Object;
use crate::watch::{self, Cpu, Memory};

/// One watched set of processes.
#[derive(Debug)]
pub struct Watched {
    pub(crate) name: String,
    /// Used within the window.
    pub(crate) cpu: Cpu,
    pub(crate) before: Memory,
    pub(crate) after: Memory,
}

/// See the module.
#[derive(Debug)]
pub struct Totals {
    /// Length of the window.
    pub window: Duration,
    /// Answers within the window.
    pub window_requests: u64,
    /// Nanoseconds, of requests started in the window.
    pub latency: Histogram<u64>,
    /// Answers by status code, whole run.
    pub statuses: BTreeMap<u16, u64>,
    /// Errors by kind, whole run.
    pub errors: BTreeMap<String, u64>,
    /// Answers by `X-Upstream`, whole run.
    pub upstreams: BTreeMap<String, u64>,
    /// Bytes of body, whole run.
    pub body_bytes: u64,
    /// Connections opened, whole run.
    pub connects: u64,
    /// Cookies learnt and removed.
    pub cookies_stored: u64,
    /// Cookies that the server expired.
    pub cookies_expired: u64,
    /// Clients that have a cookie at the end.
    pub clients_with_cookies: u64,
    /// Requests due and not answered at the end (constant rate).
    pub backlog: u64,
    /// The run was ended because nothing was answered for the timeout.
    pub stuck: bool,
    pub(crate) watched: Vec<Watched>,
}

/// A histogram of nanoseconds: 1 µs to 10 minutes, three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("bounds are in order")
}

impl Totals {
    /// Nothing seen.
    pub fn new() -> Self {
        Self {
            window: Duration::ZERO,
            window_requests: 0,
            latency: histogram(),
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            body_bytes: 0,
            connects: 0,
            cookies_stored: 0,
            cookies_expired: 0,
            clients_with_cookies: 0,
            backlog: 0,
            stuck: false,
            watched: Vec::new(),
        }
    }

    /// Adds one thread's part.
    pub fn add(&mut self, part: Totals) {
        // Both have the same bounds, so that every value fits.
        let _ = self.latency.add(&part.latency);
        for (status, n) in part.statuses {
            *self.statuses.entry(status).or_default() += n;
        }
        for (kind, n) in part.errors {
            *self.errors.entry(kind).or_default() += n;
        }
        for (id, n) in part.upstreams {
            *self.upstreams.entry(id).or_default() += n;
        }
        self.body_bytes += part.body_bytes;
        self.connects += part.connects;
        self.cookies_stored += part.cookies_stored;
        self.cookies_expired += part.cookies_expired;
        self.clients_with_cookies += part.clients_with_cookies;
        self.backlog += part.backlog;
        self.stuck |= part.stuck;
    }

    /// Requests answered a second within the window.
    pub fn rate(&self) -> f64 {
        self.window_requests as f64 / self.window.as_secs_f64()
    }

    /// All errors.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    fn micros(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The report as JSON.
    pub fn json(&self) -> Object {
        let mut latency = Object::new();
        for (name, quantile) in QUANTILES {
            latency.number(name, self.micros(*quantile));
        }
        latency
            .number("mean", self.latency.mean() / 1e3)
            .number("max", self.latency.max() as f64 / 1e3);
        let mut out = Object::new();
        out.number("seconds", self.window.as_secs_f64())
            .integer("requests", self.window_requests)
            .number("rate", self.rate())
            .object("latency_us", &latency)
            .object("statuses", &counts(self.statuses.iter()))
            .object("errors", &counts(self.errors.iter()))
            .object("upstreams", &counts(self.upstreams.iter()))
            .integer("error_count", self.error_count())
            .integer("body_bytes", self.body_bytes)
            .integer("connects", self.connects)
            .integer("cookies_stored", self.cookies_stored)
            .integer("cookies_expired", self.cookies_expired)
            .integer("clients_with_cookies", self.clients_with_cookies)
            .integer("backlog", self.backlog)
            .integer("stuck", u64::from(self.stuck));
        let mut watched = Object::new();
        for group in &self.watched {
            let mut one =
                watch::report(&group.cpu, &group.after, self.window, self.window_requests);
            one.integer("rss_before", group.before.rss)
                .integer("anonymous_before", group.before.anonymous);
            watched.object(&group.name, &one);
        }
        out.object("watch", &watched);
        out
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "{} requests in {:.2} s: {:.0}/s, {} connections opened",
            self.window_requests,
            self.window.as_secs_f64(),
            self.rate(),
            self.connects
        );
        let _ = write!(out, "latency µs:");
        for (name, quantile) in QUANTILES {
            let _ = write!(out, " {name} {:.0}", self.micros(*quantile));
        }
        let _ = writeln!(out, " max {:.0}", self.latency.max() as f64 / 1e3);
        let _ = writeln!(out, "statuses: {:?}", self.statuses);
        if !self.upstreams.is_empty() {
            let _ = writeln!(out, "upstreams: {:?}", self.upstreams);
        }
        if self.cookies_stored + self.cookies_expired > 0 {
            let _ = writeln!(
                out,
                "cookies: {} stored, {} expired, {} clients have one",
                self.cookies_stored, self.cookies_expired, self.clients_with_cookies
            );
        }
        if self.backlog > 0 {
            let _ = writeln!(out, "not answered at the end: {}", self.backlog);
        }
        let _ = writeln!(
            out,
            "errors: {:?}{}",
            self.errors,
            if self.stuck { " STUCK" } else { "" }
        );
        for group in &self.watched {
            let each = |ns: u64| ns as f64 / 1e3 / self.window_requests as f64;
            let _ = writeln!(
                out,
                "{}: {:.2} µs of CPU a request ({:.2} user, {:.2} system), busy {:.0} %, RSS {} KiB",
                group.name,
                each(group.cpu.total()),
                each(group.cpu.user),
                each(group.cpu.system),
                group.cpu.total() as f64 * 100.0 / self.window.as_nanos() as f64,
                group.after.rss / 1024
            );
        }
        out
    }
}

impl Default for Totals {
    fn default() -> Self {
        Self::new()
    }
}

const QUANTILES: &[(&str, f64)] = &[
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

fn counts<'a, K: ToString + 'a>(of: impl Iterator<Item = (&'a K, &'a u64)>) -> Object {
    let mut out = Object::new();
    for (key, n) in of {
        out.integer(&key.to_string(), *n);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let part = || {
            let mut p = Totals::new();
            p.latency.record(2_000_000).unwrap();
            p.statuses.insert(200, 3);
            p.errors.insert("connect".into(), 1);
            p.upstreams.insert("u1".into(), 3);
            p
        };
        let mut all = Totals::new();
        all.add(part());
        all.add(part());
        all.window = Duration::from_secs(2);
        all.window_requests = 6;
        assert_eq!((all.rate(), all.error_count()), (3.0, 2));
        let json = all.json().finish();
        assert!(json.contains(r#""statuses":{"200":6}"#), "{json}");
        assert!(json.contains(r#""errors":{"connect":2}"#), "{json}");
        assert!(json.contains(r#""rate":3.0000"#), "{json}");
        assert!(all.text().contains("6 requests in 2.00 s: 3/s"));
    }
}
