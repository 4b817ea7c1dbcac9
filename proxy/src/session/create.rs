//! Whether a first request gets a session: only one that can be delivered and kept.
//!
//! Pure but for the counters of [`Limiter`], which all cores share, and the making of the session.
//! Runs on data cores.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use holdfast_config::plan::{Rate, SameSite, Source};
use holdfast_store::session::BuiltIn;
use holdfast_store::shard::Attributes;

use super::attach::too_large;
use super::holders::made;
use super::{Attached, Data, Live};
use crate::accept::Conn;
use crate::core::Core;
use crate::identify::{Identity, Request};
use crate::metrics::Metric;
use crate::parse::{Method, Name};

/// The source that carries a new token: the lowest priority number that can, or, where query is the
/// only kind there is, that.
pub fn carrier(identity: &Identity) -> Option<usize> {
    let able = |source: &Source| match source {
        Source::Cookie(_) => true,
        Source::Header {
            generate_if_missing,
            ..
        } => *generate_if_missing,
        Source::Query { .. } => false,
    };
    identity
        .sources
        .iter()
        .position(|s| able(&s.source))
        .or_else(|| {
            let query_alone = identity
                .sources
                .iter()
                .all(|s| matches!(s.source, Source::Query { .. }));
            (query_alone && !identity.sources.is_empty()).then_some(0)
        })
}

/// Would the client keep and return what we set with this response?
pub fn deliverable(source: &Source, request: &Request) -> bool {
    match source {
        Source::Cookie(cookie) => !cookie.secure || request.secure || request.laptop,
        Source::Header { .. } | Source::Query { .. } => true,
    }
}

/// Is this a request that must not start a session by itself: a CORS preflight (Fetch, 3.2.2), a
/// prefetch or prerender, or one from another site where SameSite would have withheld the cookie?
pub fn passing(source: &Source, conn: &Conn) -> bool {
    let buf = conn.input.as_slice();
    let head = &conn.head;
    let value = |name: Name| head.value(buf, name);
    let preflight =
        head.method == Method::Options && value(Name::AccessControlRequestMethod).is_some();
    let ahead = |v: Option<&[u8]>| {
        v.is_some_and(|v| memchr::memmem::find(&v.to_ascii_lowercase(), b"pre").is_some())
    };
    if preflight || ahead(value(Name::SecPurpose)) || ahead(value(Name::Purpose)) {
        return true;
    }
    let Source::Cookie(cookie) = source else {
        return false;
    };
    let cross_site =
        value(Name::SecFetchSite).is_some_and(|v| v.eq_ignore_ascii_case(b"cross-site"));
    if !cross_site {
        return false;
    }
    match cookie.same_site {
        SameSite::None => false,
        SameSite::Strict => true,
        // Lax cookies come along with top-level navigations by a safe method (RFC 6265bis, 5.2).
        SameSite::Lax => {
            let navigates =
                value(Name::SecFetchMode).is_some_and(|v| v.eq_ignore_ascii_case(b"navigate"));
            !(navigates && matches!(head.method, Method::Get | Method::Head))
        }
    }
}

/// Is this a navigation of a browser's?
pub fn navigation(conn: &Conn) -> bool {
    let buf = conn.input.as_slice();
    let mode = conn.head.value(buf, Name::SecFetchMode);
    conn.head.method == Method::Get && mode.is_some_and(|v| v.eq_ignore_ascii_case(b"navigate"))
}

/// `creation.limit` and `guessLimit`: so many a client prefix in a time, over all cores.
///
/// A fixed table of cells, one atomic each: window (32 bits) and count (32 bits). Two prefixes may
/// share a cell, and then share the bound; the hash is keyed, so nobody can choose to.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    prefix: (u8, u8),
    hasher: ahash::RandomState,
    cells: Box<[AtomicU64]>,
}

const CELLS: usize = 32 * 1024;

impl Limiter {
    /// For a configured rate.
    pub fn new(rate: Rate, prefix: (u8, u8)) -> Self {
        Self {
            rate,
            prefix,
            hasher: ahash::RandomState::new(),
            cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether it is one for this rate and these prefixes.
    pub fn is(&self, rate: Rate, prefix: (u8, u8)) -> bool {
        self.rate == rate && self.prefix == prefix
    }

    /// Takes one for this client; false when there is none left in the present window.
    pub fn take(&self, client: IpAddr, now_ms: u64) -> bool {
        let window = (now_ms / (self.rate.per.as_millis() as u64).max(1)) as u32;
        let hash = self.hasher.hash_one(self.prefix_of(client)) as usize;
        let cell = &self.cells[hash % CELLS];
        cell.fetch_update(Relaxed, Relaxed, |packed| {
            let (at, count) = ((packed >> 32) as u32, packed as u32);
            let count = if at == window { count } else { 0 };
            (count < self.rate.count).then(|| (u64::from(window) << 32) | u64::from(count + 1))
        })
        .is_ok()
    }

    fn prefix_of(&self, client: IpAddr) -> (bool, u128) {
        match client.to_canonical() {
            IpAddr::V4(v4) => {
                let shift = 32 - u32::from(self.prefix.0.min(32));
                (
                    false,
                    u128::from(u32::from(v4).checked_shr(shift).unwrap_or(0)),
                )
            }
            IpAddr::V6(v6) => {
                let shift = 128 - u32::from(self.prefix.1.min(128));
                (true, u128::from(v6).checked_shr(shift).unwrap_or(0))
            }
        }
    }
}

/// The trigger `firstRequest`, and `authentication` by a token.
pub(super) fn first_request(
    core: &'static Core,
    conn: &Conn,
    attached: &mut Attached,
    said: Option<&Attributes>,
) {
    let identity = &conn.generation.identity;
    let Some(plan) = conn.generation.session() else {
        return;
    };
    let names_a_subject = said.is_some_and(|said| said.subject.is_some());
    if !(plan.creation.first_request || names_a_subject && plan.creation.authentication) {
        return;
    }
    let Some(source) = carrier(identity) else {
        return;
    };
    let carrier = &identity.sources[source].source;
    if !deliverable(carrier, &attached.request) || passing(carrier, conn) {
        return core.metrics().count(Metric::CreatesUndeliverable);
    }
    let client = attached.request.client;
    if conn
        .generation
        .setup
        .limiter
        .as_ref()
        .is_some_and(|l| !l.take(client, core.wall_ms()))
    {
        return core.metrics().count(Metric::CreatesLimited);
    }
    let now = core.wall_ms();
    let none = Attributes::default();
    let said = said.unwrap_or(&none);
    let mut shard = core.sessions.shard_mut();
    let (created, bound) = core.with_entropy(|entropy| shard.create_with(said, now, entropy));
    if bound.too_large {
        too_large(core);
    }
    attached.gained = bound.gained;
    let Some(created) = created else {
        return core.metrics().count(Metric::CreatesRejected);
    };
    if let (Some(slot), Some(traits)) = (created.slot, attached.look.first()) {
        shard.bind_created(slot, traits);
    }
    let (data, version) = match created.slot {
        Some(slot) => (
            Data::Here(slot),
            shard.built_in(slot).map_or(0, |b| b.version),
        ),
        None => {
            let mut json = Vec::new();
            let issued = created.token.issued;
            shard.policy().write_first(issued, said, &mut json);
            (Data::Sent(json, first_built_in(issued)), 0)
        }
    };
    if created.slot.is_some() {
        made(core, client);
    }
    attached.live = Some(Live {
        sid: created.token.sid,
        source,
        version,
        new: true,
        fresh: Some(created.token),
        conflict: false,
        issued: created.token.issued,
        offer: false,
        target: created.token.target(),
        data,
    });
}

/// What is built in of a session that has no record yet.
pub(super) fn first_built_in(issued: u32) -> BuiltIn {
    let issued = u64::from(issued) * 1000;
    BuiltIn {
        created: issued,
        last_access: issued,
        requests: 1,
        ..BuiltIn::default()
    }
}
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_prefix_has_so_many_a_window() {
        let limiter = Limiter::new(
            Rate {
                count: 3,
                per: Duration::from_secs(1),
            },
            (24, 56),
        );
        let ip = |text: &str| text.parse().expect("an address");
        for last in 1..=3 {
            assert!(limiter.take(ip(&format!("10.0.0.{last}")), 1000));
        }
        assert!(
            !limiter.take(ip("10.0.0.200"), 1999),
            "the whole /24 shares"
        );
        assert!(limiter.take(ip("10.0.1.1"), 1999), "another /24 does not");
        assert!(limiter.take(ip("10.0.0.1"), 2000), "a new window");
        for _ in 0..3 {
            assert!(limiter.take(ip("2001:db8:0:1::1"), 1000));
        }
        assert!(!limiter.take(ip("2001:db8:0:2::1"), 1000), "a /56 shares");
    }
}
