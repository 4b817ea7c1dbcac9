//! What a decision says: where to go, how the pin fared, what is to be remembered and told.
//!
//! Plain values; made by the decision, read by whoever carries it out. Tested with the decision.

use super::CookiePin;
use crate::pin::cookie::Miss;

/// Why a pin is not followed although it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// Its upstream is `down`.
    Down,
    /// Its upstream is in maintenance.
    Maint,
    /// Its upstream could not be reached by this request.
    Unreachable,
    /// Its upstream drains and has given it up.
    Drained,
    /// Its upstream ended it (`X-Affinity-Clear`).
    Cleared,
}

impl Lost {
    /// As events and logs write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Maint => "maint",
            Self::Unreachable => "unreachable",
            Self::Drained => "drained",
            Self::Cleared => "cleared",
        }
    }
}

/// What holds the pin that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The client.
    Cookie,
    /// The table, through the method of this slot.
    Table(usize),
}

/// How the pin fared, for counters and the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The rule keeps no pins, or nothing of this request can hold one.
    Off,
    /// There was none; one was made.
    First,
    /// It was used.
    Hit(By),
    /// One was presented that is none.
    Miss(Miss),
    /// A good one was presented and could not be used.
    Broken(Lost),
}

/// What the request is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Go to the upstream at this position.
    Use(usize),
    /// Be answered with this status (`onUnavailable: reject`).
    Reject(u16),
    /// Be answered with 503 and Retry-After: no upstream is usable (or each was tried).
    Unavailable,
}

/// What happens to the pin cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieAction {
    /// Nothing.
    Keep,
    /// It is written, for the upstream of [`Action::Use`].
    Set {
        /// Unix minute since when the pin is.
        issued: u32,
    },
    /// It is ended at the client.
    Expire,
}

/// All that follows for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// How the pin fared.
    pub outcome: Outcome,
    /// What happens to the cookie.
    pub cookie: CookieAction,
    /// A cookie under the other name is ended as well.
    pub retire_other: bool,
    /// A new pin was made: event `affinityEstablished`.
    pub established: bool,
    /// A pin to this upstream ended: event `affinityBroken`.
    pub broken: Option<(usize, Lost)>,
}

impl Verdict {
    /// The upstream to go to.
    pub fn upstream(&self) -> Option<usize> {
        match self.action {
            Action::Use(upstream) => Some(upstream),
            Action::Reject(_) | Action::Unavailable => None,
        }
    }

    /// The upstream answered `X-Affinity-Clear: 1`: no cookie is set, one that came is ended, and
    /// `affinityBroken` is due. The caller takes the pins of [`super::Keys::tables`] that name this upstream out of
    /// the table.
    pub fn clear(&mut self, cookie: &CookiePin) {
        let Some(upstream) = self.upstream() else {
            return;
        };
        self.retire_other |= matches!(
            cookie,
            CookiePin::Found {
                other_name: true,
                ..
            }
        );
        self.cookie = match cookie {
            CookiePin::Found {
                other_name: false, ..
            }
            | CookiePin::Missed(_) => CookieAction::Expire,
            CookiePin::Found { .. } | CookiePin::Absent => CookieAction::Keep,
        };
        if self.outcome != Outcome::Off {
            self.broken = Some((upstream, Lost::Cleared));
        }
        self.established = false;
    }
}
