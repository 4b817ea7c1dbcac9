//! The cookie method of a rule: which cookie counts, when it is renewed, and its lines.
//!
//! Immutable; called by data cores. Tested with the decision.

use std::time::Duration;

use holdfast_config::plan::{Affinity, PinCookie};

use super::{Action, By, CookieAction, Outcome, Verdict};
use crate::pin::cookie::{Codec, Miss, Opened, tenth_passed};
use crate::pin::set_cookie::{CookieNames, write_expired_cookie, write_name, write_rest};

/// What a request's cookies said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CookiePin {
    /// No pin cookie.
    #[default]
    Absent,
    /// One that is no pin.
    Missed(Miss),
    /// A pin.
    Found {
        /// Which.
        opened: Opened,
        /// It came under [`CookieNames::other`].
        other_name: bool,
    },
}

/// The cookie method of a rule.
#[derive(Debug)]
pub struct CookiePolicy {
    settings: PinCookie,
    names: CookieNames,
    pub(super) codec: Codec,
    duration: Duration,
    max_life: Duration,
}

impl CookiePolicy {
    /// For the upstreams `ids` (by position) of a service, in a router with `services` of them.
    pub(super) fn new(
        affinity: &Affinity,
        service: &str,
        ids: &[&str],
        services: usize,
        key: &[u8; 32],
    ) -> Self {
        Self {
            settings: affinity.cookie.clone(),
            names: CookieNames::new(&affinity.cookie.name, service, services),
            codec: Codec::new(service, ids, affinity.encoding, key),
            duration: affinity.duration,
            max_life: affinity.max_life,
        }
    }

    /// Names, for hiding the cookie from upstreams.
    pub fn names(&self) -> &CookieNames {
        &self.names
    }

    /// As configured.
    pub fn settings(&self) -> &PinCookie {
        &self.settings
    }

    /// Takes one cookie of the request in; begin with [`CookiePin::Absent`]. The first good one under the
    /// own name wins, else the first good one under the other; cookies of other names change nothing.
    pub fn read(&self, name: &[u8], value: &[u8], now_minute: u32, so_far: CookiePin) -> CookiePin {
        let other_name = if name == self.names.own.as_bytes() {
            false
        } else if name == self.names.other.as_bytes() {
            true
        } else {
            return so_far;
        };
        match so_far {
            CookiePin::Found {
                other_name: false, ..
            } => return so_far,
            CookiePin::Found { .. } if other_name => return so_far,
            _ => {}
        }
        match self
            .codec
            .open(value, now_minute, self.duration, self.max_life)
        {
            Ok(opened) => CookiePin::Found { opened, other_name },
            // What comes under the other name may be another service's.
            Err(miss) if !other_name && so_far == CookiePin::Absent => CookiePin::Missed(miss),
            Err(_) => so_far,
        }
    }

    /// Appends the value of the `Set-Cookie` that pins to `upstream`. `nonce`: random, used once.
    pub fn write_pin(
        &self,
        upstream: usize,
        issued: u32,
        now_minute: u32,
        nonce: [u8; 12],
        secure_attr: bool,
        out: &mut Vec<u8>,
    ) {
        write_name(&self.names.own, out);
        self.codec.seal(upstream, issued, now_minute, nonce, out);
        write_rest(&self.settings, secure_attr, out);
    }

    /// Appends the value of the `Set-Cookie` that ends the pin.
    pub fn write_end(&self, secure_attr: bool, out: &mut Vec<u8>) {
        write_expired_cookie(&self.settings, &self.names.own, secure_attr, out);
    }

    /// Appends the value of the `Set-Cookie` that ends a pin under the other name.
    pub fn write_retire(&self, secure_attr: bool, out: &mut Vec<u8>) {
        write_expired_cookie(&self.settings, &self.names.other, secure_attr, out);
    }

    fn renews(&self, opened: &Opened, now_minute: u32) -> bool {
        let idle = now_minute.saturating_sub(opened.last_use);
        // The browser counts too, and from the last time that it was told.
        opened.renew || tenth_passed(idle, Duration::from_secs(self.settings.max_age))
    }
}

impl CookiePolicy {
    /// A good pin is used; it is written anew where it is due.
    pub(super) fn kept(&self, opened: &Opened, other_name: bool, now_minute: u32) -> Verdict {
        let renew = other_name || self.renews(opened, now_minute);
        Verdict {
            action: Action::Use(opened.upstream),
            outcome: Outcome::Hit(By::Cookie),
            cookie: if renew {
                CookieAction::Set {
                    issued: opened.issued,
                }
            } else {
                CookieAction::Keep
            },
            retire_other: other_name,
            established: false,
            broken: None,
        }
    }
}
