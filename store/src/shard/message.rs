//! Questions to a shard from other threads, and its answers.
//!
//! Both own all that they carry and are `Send`. [`Shard::handle`] calls the same methods as a request
//! on the shard's own core does.

use super::Shard;
use super::admin::{Filter, Page};
use super::attach::Attached;
use super::attributes::{Attributes, Bound};
use super::life::{Created, Destroyed};
use crate::Entropy;
use crate::id::{Digest, Sid};
use crate::merge::Effect;
use crate::pins::{Pin, PinKey, PinSweep, UpstreamHash};
use crate::record::Record;
use crate::session::{Applied, Apply, BuiltIn, Reason, View};
use crate::token::Presented;
use crate::traits::Traits;

/// A question to the shard that owns a sid or a pin's key.
#[derive(Debug)]
pub enum Ask {
    /// [`Shard::attach_as`].
    Attach(Box<(Presented, Vec<Traits>)>),
    /// [`Shard::attach_with`].
    AttachWith(Box<(Presented, Attributes, Vec<Traits>)>),
    /// [`Shard::create`].
    Create,
    /// [`Shard::apply`].
    Apply(Box<Apply>),
    /// [`Shard::destroy`].
    Destroy {
        /// Which.
        sid: Sid,
        /// Why.
        reason: Reason,
    },
    /// [`Shard::destroy_subject`]: one turn.
    DestroySubject {
        /// JSON of the subject.
        subject: Box<[u8]>,
        /// But not this one.
        except: Option<Sid>,
        /// Why.
        reason: Reason,
    },
    /// [`Shard::is_good`].
    Holds {
        /// Which.
        sid: Sid,
        /// Under this secret.
        digest: Digest,
    },
    /// [`Shard::may_repeat`].
    MayRepeat {
        /// Which.
        sid: Sid,
        /// Under this secret.
        digest: Digest,
    },
    /// [`Shard::of_subject`].
    OfSubject(Box<[u8]>),
    /// [`Shard::is_subjects`].
    IsSubjects {
        /// Which.
        sid: Sid,
        /// JSON of the subject.
        subject: Box<[u8]>,
    },
    /// [`Shard::get`].
    Get(Sid),
    /// [`Shard::list`].
    List {
        /// Where the page begins: 0, or the last page's `next`.
        cursor: u32,
        /// Sessions at most.
        limit: usize,
        /// Which.
        filter: Option<Box<Filter>>,
    },
    /// [`Shard::destroy_by`]: one turn.
    FindAndDestroy {
        /// Which.
        filter: Box<Filter>,
        /// Why.
        reason: Reason,
    },
    /// [`Shard::lives`].
    Lives {
        /// Which.
        sid: Sid,
        /// It was used.
        used: bool,
        /// It may have no record yet.
        storeless: bool,
    },
    /// [`Shard::merge`].
    Merge(Box<Record>),
    /// [`crate::pins::Pins::get`].
    PinGet {
        /// Whose.
        key: PinKey,
        /// Its life from now on; ms.
        duration: u64,
    },
    /// [`crate::pins::Pins::peek`].
    PinPeek(PinKey),
    /// [`crate::pins::Pins::get_or_insert`].
    PinGetOrInsert {
        /// Whose.
        key: PinKey,
        /// Where to, if there is none.
        upstream: UpstreamHash,
        /// Its life from now on; ms.
        duration: u64,
    },
    /// [`crate::pins::Pins::replace`].
    PinReplace {
        /// Whose.
        key: PinKey,
        /// Only if it goes there.
        old: UpstreamHash,
        /// Where to.
        upstream: UpstreamHash,
        /// Its life from now on; ms.
        duration: u64,
    },
    /// [`crate::pins::Pins::put`].
    PinPut {
        /// Whose.
        key: PinKey,
        /// Where to.
        upstream: UpstreamHash,
        /// Its life from now on; ms.
        duration: u64,
    },
    /// [`crate::pins::Pins::remove`].
    PinRemove(PinKey),
    /// [`crate::pins::Pins::remove_upstream`].
    PinRemoveUpstream {
        /// Of this service.
        service: u32,
        /// To this upstream.
        upstream: UpstreamHash,
        /// Pins removed at most.
        limit: usize,
        /// Pins looked at, at most.
        batch: usize,
    },
}

/// An answer, of the kind that belongs to its question.
#[derive(Debug)]
pub enum Answer {
    /// To `Attach` and `AttachWith`.
    Attach(Box<AttachAnswer>),
    /// To `Create`; `None` when the shard is full.
    Create(Option<Created>),
    /// To `Apply`.
    Apply(Box<Applied>),
    /// To `Destroy`, `DestroySubject` and `FindAndDestroy`.
    Destroyed(Destroyed),
    /// To `Lives`.
    Lives(bool),
    /// To `Holds` and `IsSubjects`.
    Holds(bool),
    /// To `MayRepeat`.
    MayRepeat(bool),
    /// To `OfSubject`.
    OfSubject(Vec<(u64, Sid)>),
    /// To `Get`.
    Get(Option<Box<View>>),
    /// To `List`.
    List(Page),
    /// To `Merge`.
    Merge(Effect),
    /// To all that look for or make a pin.
    Pin(Option<Pin>),
    /// To `PinRemove`: where it went.
    PinRemoved(Option<UpstreamHash>),
    /// To `PinRemoveUpstream`.
    PinSweep(PinSweep),
}

/// What `Attach` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachAnswer {
    /// The judgement. Its slot means nothing on another core.
    pub attached: Attached,
    /// Where valid: the session's JSON, as [`Shard::write_json`] writes it; empty where there is none.
    pub json: Vec<u8>,
    /// What became of the request's attributes.
    pub bound: Bound,
    /// Where valid: what is built in.
    pub built_in: BuiltIn,
}

impl Shard {
    /// Answers a question from another thread.
    pub fn handle(&mut self, ask: Ask, now: u64, entropy: &mut impl Entropy) -> Answer {
        match ask {
            Ask::Attach(asked) => {
                let (token, traits) = &*asked;
                let attached = self.attach_as(token, traits, now);
                self.attach_answer(attached, Bound::default(), now)
            }
            Ask::AttachWith(with) => {
                let (token, attributes, traits) = *with;
                let (attached, bound) =
                    self.attach_with(&token, &attributes, &traits, now, entropy);
                self.attach_answer(attached, bound, now)
            }
            Ask::Create => Answer::Create(self.create(now, entropy)),
            Ask::Apply(apply) => Answer::Apply(Box::new(self.apply(&apply, now, entropy))),
            Ask::Destroy { sid, reason } => {
                let count = u32::from(self.destroy(&sid, reason, now));
                Answer::Destroyed(Destroyed { count, more: false })
            }
            Ask::DestroySubject {
                subject,
                except,
                reason,
            } => Answer::Destroyed(self.destroy_subject(&subject, except.as_ref(), reason, now)),
            Ask::Holds { sid, digest } => Answer::Holds(self.is_good(&sid, &digest, now)),
            Ask::MayRepeat { sid, digest } => {
                Answer::MayRepeat(self.may_repeat(&sid, &digest, now))
            }
            Ask::IsSubjects { sid, subject } => {
                Answer::Holds(self.is_subjects(&sid, &subject, now))
            }
            Ask::OfSubject(subject) => Answer::OfSubject(self.of_subject(&subject, now)),
            Ask::Get(sid) => Answer::Get(self.get(&sid, now).map(Box::new)),
            Ask::List {
                cursor,
                limit,
                filter,
            } => Answer::List(self.list(cursor, limit, filter.as_deref(), now)),
            Ask::FindAndDestroy { filter, reason } => {
                Answer::Destroyed(self.destroy_by(&filter.name, &filter.value, reason, now))
            }
            Ask::Lives {
                sid,
                used,
                storeless,
            } => Answer::Lives(self.lives(&sid, used, storeless, now)),
            Ask::Merge(record) => Answer::Merge(self.merge(&record, now)),
            pin => self.handle_pin(pin, now),
        }
    }

    fn attach_answer(&self, attached: Attached, bound: Bound, now: u64) -> Answer {
        let mut answer = AttachAnswer {
            attached,
            json: Vec::new(),
            bound,
            built_in: BuiltIn::default(),
        };
        if let Attached::Valid(valid) = &attached
            && !bound.other
        {
            self.write_json(valid.slot, now, &mut answer.json);
            answer.built_in = self.built_in(valid.slot).unwrap_or_default();
        }
        Answer::Attach(Box::new(answer))
    }

    fn handle_pin(&mut self, ask: Ask, now: u64) -> Answer {
        let pins = &mut self.pins;
        match ask {
            Ask::PinGet { key, duration } => Answer::Pin(pins.get(&key, now, duration)),
            Ask::PinPeek(key) => Answer::Pin(pins.peek(&key, now)),
            Ask::PinGetOrInsert {
                key,
                upstream,
                duration,
            } => Answer::Pin(Some(pins.get_or_insert(&key, upstream, now, duration))),
            Ask::PinReplace {
                key,
                old,
                upstream,
                duration,
            } => Answer::Pin(Some(pins.replace(&key, old, upstream, now, duration))),
            Ask::PinPut {
                key,
                upstream,
                duration,
            } => Answer::Pin(Some(pins.put(&key, upstream, now, duration))),
            Ask::PinRemove(key) => Answer::PinRemoved(pins.remove(&key)),
            Ask::PinRemoveUpstream {
                service,
                upstream,
                limit,
                batch,
            } => Answer::PinSweep(pins.remove_upstream(service, upstream, limit, batch)),
            // `handle` has answered all others.
            _ => Answer::Pin(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_cross_threads_and_stay_small() {
        fn send<T: Send + 'static>() {}
        send::<Ask>();
        send::<Answer>();
        assert!(size_of::<Ask>() <= 80, "{}", size_of::<Ask>());
        assert!(size_of::<Answer>() <= 80, "{}", size_of::<Answer>());
    }
}
