//! The steps of one decision.
//!
//! A [`Decider`] belongs to one request and one core; see the folder's page for the rules that it keeps.
//! Tested by the tables beside it and by `tests/sim_pin`.

use std::ops::Deref;

use std::time::Duration;

use holdfast_config::plan::OnUnavailable;
use smallvec::SmallVec;

use super::{
    Action, By, CookieAction, CookiePin, CoreState, Keys, Lost, Outcome, RulePolicy, Verdict, View,
};
use crate::pin::cookie::Miss;
use crate::pin::drain::Drains;
use crate::pin::ids::UpstreamTag;
use crate::pin::state::{UpstreamState, Usable};
use crate::pin::table::TableKey;

/// May this pinned client be served there? `given_up`: an upstream whose drain has given this client up; it
/// is asked once and remembered.
fn fitness(
    upstream: usize,
    view: &View<'_>,
    drains: &mut Drains,
    given_up: &mut Option<usize>,
) -> Result<(), Lost> {
    if view.tried.contains(upstream) {
        return Err(Lost::Unreachable);
    }
    let state = view
        .candidates
        .get(upstream)
        .map_or(UpstreamState::Down, |candidate| candidate.state);
    match state.usable() {
        Usable::New => Ok(()),
        Usable::PinnedOnly if *given_up == Some(upstream) => Err(Lost::Drained),
        Usable::PinnedOnly if drains.gives_up(upstream, view.now_ms) => {
            *given_up = Some(upstream);
            Err(Lost::Drained)
        }
        Usable::PinnedOnly => Ok(()),
        Usable::No if state == UpstreamState::Maint => Err(Lost::Maint),
        Usable::No => Err(Lost::Down),
    }
}

/// What a [`Decider`] wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look this table pin up (which renews it), then [`Decider::answer`] with what it holds.
    Look {
        /// Method.
        slot: usize,
        /// Client.
        key: TableKey,
    },
    /// In one act in the owner's shard: where there is no pin, or one to `replaces`, make one to `tag`; then
    /// [`Decider::answer`] with what it holds now (`None` if it holds none: full, or not to be reached).
    Claim {
        /// Method.
        slot: usize,
        /// Client.
        key: TableKey,
        /// The new pin.
        tag: UpstreamTag,
        /// A pin that may be overwritten.
        replaces: Option<UpstreamTag>,
    },
    /// Wait until this upstream may serve (then step again) or the time is over (then
    /// [`Decider::waited`] and step again). One that could not be reached: take it out of `tried` to try it
    /// again.
    Hold {
        /// Position.
        upstream: usize,
        /// At the longest, from the first hold of the request on.
        time: Duration,
    },
    /// Done.
    Decided(Verdict),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Look(usize),
    Looked(usize),
    Choose,
    Claim(usize),
    Claimed(usize),
}

/// The decision for one request, step by step. Made anew for each request, asked again for a retry.
#[derive(Debug)]
pub struct Decider<P> {
    policy: P,
    cookie: CookiePin,
    keys: Keys,
    at: At,
    answer: Option<UpstreamTag>,
    answer_made: Option<bool>,
    /// By slot: a pin that was found and may be overwritten.
    stale: SmallVec<[Option<UpstreamTag>; 2]>,
    /// The first good pin that could not be used.
    broken: Option<(usize, Lost)>,
    miss: Option<Miss>,
    given_up: Option<usize>,
    /// The choice is to stay with the one that gave him up.
    stays: bool,
    chosen: usize,
    /// Another request's pin was met in a claim: it is not ours to announce.
    joined: bool,
    /// A table took our claim.
    claimed: bool,
    /// One more claim of the first slot may follow a pin to an upstream that serves nobody.
    again: bool,
    /// Given to this client by this very request.
    made: Option<usize>,
    waited: bool,
}

impl<P: Deref<Target = RulePolicy>> Decider<P> {
    /// For a request that [`RulePolicy::by_cookie`] did not decide (or was not asked).
    pub fn new(policy: P, cookie: CookiePin, keys: Keys) -> Self {
        let miss = match cookie {
            CookiePin::Missed(miss) => Some(miss),
            CookiePin::Absent | CookiePin::Found { .. } => None,
        };
        Self {
            policy,
            cookie,
            at: At::Start,
            answer: None,
            answer_made: None,
            stale: SmallVec::from_elem(None, keys.tables.len()),
            keys,
            broken: None,
            miss,
            given_up: None,
            stays: false,
            chosen: 0,
            joined: false,
            claimed: false,
            again: true,
            made: None,
            waited: false,
        }
    }

    /// The keys, for [`Verdict::clear`].
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The answer to a [`Step::Look`]; to a [`Step::Claim`] see [`Self::answer_claim`].
    pub fn answer(&mut self, pin: Option<UpstreamTag>) {
        self.answer = pin;
        self.answer_made = None;
    }

    /// The answer to a [`Step::Claim`]: what the table holds, and whether this claim made it. Without that
    /// (by [`Self::answer`]) two parallel first requests that chose alike both announce the pin.
    pub fn answer_claim(&mut self, pin: Option<UpstreamTag>, made: bool) {
        self.answer = pin;
        self.answer_made = Some(made);
    }

    /// The time of a [`Step::Hold`] is over.
    pub fn waited(&mut self) {
        self.waited = true;
    }

    /// The decided upstream could not serve and stands in `tried`: decide again from the beginning.
    pub fn retry(&mut self) {
        self.at = At::Start;
    }

    /// The next thing to do.
    pub fn step(&mut self, view: &View<'_>, core: &mut CoreState) -> Step {
        let step = loop {
            let next = match self.at {
                At::Start => self.start(view, core),
                At::Look(slot) => self.look(slot),
                At::Looked(slot) => self.looked(slot, view, core),
                At::Choose => self.choose(view, core),
                At::Claim(slot) => self.claim(slot, view),
                At::Claimed(slot) => self.claimed(slot, view),
            };
            if let Some(step) = next {
                break step;
            }
        };
        if matches!(step, Step::Hold { .. } | Step::Decided(_)) {
            self.at = At::Start;
        }
        step
    }

    fn start(&mut self, view: &View<'_>, core: &mut CoreState) -> Option<Step> {
        self.answer = None;
        (self.joined, self.claimed, self.again, self.stays) = (false, false, true, false);
        self.stale.iter_mut().for_each(|stale| *stale = None);
        self.at = At::Look(0);
        if let CookiePin::Found { opened, other_name } = self.cookie
            && let Some(policy) = self.policy.cookie()
        {
            match fitness(opened.upstream, view, &mut core.drains, &mut self.given_up) {
                Ok(()) => {
                    return Some(Step::Decided(policy.kept(
                        &opened,
                        other_name,
                        view.now_minute,
                    )));
                }
                Err(lost) => return self.lose(opened.upstream, lost),
            }
        }
        None
    }

    fn look(&mut self, slot: usize) -> Option<Step> {
        let Some(key) = self.keys.tables.get(slot) else {
            self.at = At::Choose;
            return None;
        };
        self.at = At::Looked(slot);
        self.answer = None;
        key.map(|key| Step::Look { slot, key })
    }

    fn looked(&mut self, slot: usize, view: &View<'_>, core: &mut CoreState) -> Option<Step> {
        self.at = At::Look(slot + 1);
        let tag = self.answer.take()?;
        let Some(upstream) = self.policy.ids.position(tag) else {
            self.overwrite(slot, tag);
            self.miss.get_or_insert(Miss::NoSuchUpstream);
            return None;
        };
        match fitness(upstream, view, &mut core.drains, &mut self.given_up) {
            Ok(()) => Some(Step::Decided(self.found(slot, upstream, view))),
            Err(lost) => {
                self.overwrite(slot, tag);
                self.lose(upstream, lost)
            }
        }
    }

    fn overwrite(&mut self, slot: usize, tag: UpstreamTag) {
        if let Some(stale) = self.stale.get_mut(slot) {
            *stale = Some(tag);
        }
    }

    /// A table pin is used, and given to the client as a cookie if the rule has one.
    fn found(&self, slot: usize, upstream: usize, view: &View<'_>) -> Verdict {
        // On a retry this may be what another request of the client agreed on: a first choice still.
        let outcome = match self.broken {
            Some((_, lost)) => Outcome::Broken(lost),
            None if self.made.is_some() => Outcome::First,
            None => Outcome::Hit(By::Table(slot)),
        };
        self.verdict(Action::Use(upstream), outcome, view, false)
    }

    /// A good pin can't be used: what follows by `onUnavailable`, or `None` to go on.
    fn lose(&mut self, upstream: usize, lost: Lost) -> Option<Step> {
        if self.made == Some(upstream) {
            return None;
        }
        self.broken.get_or_insert((upstream, lost));
        if lost == Lost::Drained || self.waited {
            return None;
        }
        match self.policy.pinning.as_ref()?.on_unavailable {
            OnUnavailable::Rebind => None,
            OnUnavailable::Hold(time) => {
                // It may come back, and then nothing was broken.
                self.broken = None;
                Some(Step::Hold { upstream, time })
            }
            OnUnavailable::Reject(status) => {
                self.broken = None;
                Some(Step::Decided(Verdict {
                    action: Action::Reject(status),
                    outcome: Outcome::Broken(lost),
                    cookie: CookieAction::Keep,
                    retire_other: false,
                    established: false,
                    broken: None,
                }))
            }
        }
    }

    fn choose(&mut self, view: &View<'_>, core: &mut CoreState) -> Option<Step> {
        let choice = &self.policy.choice;
        let chosen = choice.choose(
            &mut core.rotation,
            view.candidates,
            view.tried,
            self.keys.hash,
            view.random,
        );
        let Some(chosen) = chosen else {
            return self.choose_nobody(view);
        };
        if self.policy.pinning.is_none() {
            return Some(Step::Decided(self.verdict(
                Action::Use(chosen),
                Outcome::Off,
                view,
                false,
            )));
        }
        self.chosen = chosen;
        self.at = At::Claim(0);
        None
    }

    /// Nobody can take the client: one that a drain gave up stays for now.
    fn choose_nobody(&mut self, view: &View<'_>) -> Option<Step> {
        let stays = self.given_up.filter(|upstream| {
            let state = view
                .candidates
                .get(*upstream)
                .map(|candidate| candidate.state);
            state.is_some_and(|state| state.usable() != Usable::No)
                && !view.tried.contains(*upstream)
        });
        match stays {
            // Tables were told of another upstream, which could not be reached: tell them again.
            Some(upstream) if self.made.is_some() => {
                self.chosen = upstream;
                self.stays = true;
                self.at = At::Claim(0);
                None
            }
            Some(upstream) => Some(Step::Decided(self.stayed(upstream, view))),
            None => Some(Step::Decided(Verdict {
                action: Action::Unavailable,
                outcome: self.outcome(),
                cookie: CookieAction::Keep,
                retire_other: false,
                established: false,
                // A table pin that was overwritten on the way is gone; a cookie is still at the client.
                broken: self.broken.filter(|_| {
                    self.made.is_some() && !matches!(self.cookie, CookiePin::Found { .. })
                }),
            })),
        }
    }

    /// The pin to an upstream that gave it up is used once more.
    fn stayed(&self, upstream: usize, view: &View<'_>) -> Verdict {
        if let (CookiePin::Found { opened, other_name }, Some(policy)) =
            (self.cookie, self.policy.cookie())
            && opened.upstream == upstream
        {
            return policy.kept(&opened, other_name, view.now_minute);
        }
        let broken = self.broken.filter(|(lost, _)| *lost != upstream);
        let slot = self.stale.iter().position(Option::is_some).unwrap_or(0);
        let outcome = match broken {
            Some((_, lost)) => Outcome::Broken(lost),
            None => Outcome::Hit(By::Table(slot)),
        };
        Verdict {
            broken,
            ..self.verdict(Action::Use(upstream), outcome, view, false)
        }
    }

    fn claim(&mut self, slot: usize, view: &View<'_>) -> Option<Step> {
        let Some(key) = self.keys.tables.get(slot) else {
            return Some(Step::Decided(self.bound(view)));
        };
        self.at = At::Claimed(slot);
        self.answer = None;
        let (key, tag) = ((*key)?, self.policy.ids.tag(self.chosen)?);
        let replaces = self.stale.get(slot).copied().flatten();
        Some(Step::Claim {
            slot,
            key,
            tag,
            replaces,
        })
    }

    fn claimed(&mut self, slot: usize, view: &View<'_>) -> Option<Step> {
        self.at = At::Claim(slot + 1);
        let held = self.answer.take()?;
        if self.policy.ids.tag(self.chosen) == Some(held) {
            if self.answer_made.unwrap_or(true) {
                self.claimed = true;
            } else if !self.claimed {
                self.joined = true;
            }
            return None;
        }
        // Another request was faster. The first table that holds a pin decides for all.
        if self.claimed || self.joined {
            return None;
        }
        let usable = self.policy.ids.position(held).filter(|upstream| {
            let state = view
                .candidates
                .get(*upstream)
                .map(|candidate| candidate.state);
            state.is_some_and(|state| state.usable() != Usable::No)
                && !view.tried.contains(*upstream)
                && self.given_up != Some(*upstream)
        });
        if let Some(upstream) = usable {
            self.chosen = upstream;
            self.joined = true;
        } else if std::mem::take(&mut self.again) {
            self.overwrite(slot, held);
            self.at = At::Claim(slot);
        }
        None
    }

    /// The algorithm chose, and the tables agreed.
    fn bound(&mut self, view: &View<'_>) -> Verdict {
        if self.stays && self.given_up == Some(self.chosen) {
            self.made = None;
            return self.stayed(self.chosen, view);
        }
        self.made = Some(self.chosen);
        let held = self.claimed || self.joined || self.policy.cookie().is_some();
        let outcome = match self.outcome() {
            Outcome::First if !held => Outcome::Off,
            outcome => outcome,
        };
        self.verdict(
            Action::Use(self.chosen),
            outcome,
            view,
            held && !self.joined,
        )
    }

    fn outcome(&self) -> Outcome {
        match (self.broken, self.miss) {
            (Some((_, lost)), _) => Outcome::Broken(lost),
            (None, Some(miss)) => Outcome::Miss(miss),
            (None, None) => Outcome::First,
        }
    }

    fn verdict(
        &self,
        action: Action,
        outcome: Outcome,
        view: &View<'_>,
        established: bool,
    ) -> Verdict {
        let set = self.policy.cookie().is_some();
        Verdict {
            action,
            outcome,
            cookie: if set {
                CookieAction::Set {
                    issued: view.now_minute,
                }
            } else {
                CookieAction::Keep
            },
            retire_other: matches!(
                self.cookie,
                CookiePin::Found {
                    other_name: true,
                    ..
                }
            ),
            established,
            broken: self.broken,
        }
    }
}
