//! The step *attach*: whose session a request has.
//!
//! Asks the owners of the tokens that came, and judges over all of them. Runs on a data core. Invariants:
//! the first source with a valid token wins; two valid tokens of different sessions, and neither does.
//! Tested end to end.

use holdfast_config::plan::Source;
use holdfast_runtime::bytes::prefetch;
use holdfast_store::id::Sid;
use holdfast_store::session::{Dead, Refused, Target};
use holdfast_store::shard::{Answer, Ask, AttachAnswer, Attached as Judged, Bound};
use holdfast_store::token::{Presented, TokenError};
use holdfast_store::traits::Traits;
use smallvec::SmallVec;

use super::address::{came_by_query, clean_address};
use super::create::first_request;
use super::holders::made;
use super::subject::{is_refused, make_room, named};
use super::{Attached, Data, Live, Standing, look, origin};
use crate::accept::Conn;
use crate::accesslog::Record;
use crate::attributes::Said;
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::identify::{Candidate, Carried, Identified};
use crate::metrics::Metric;

/// Asks the owners of the request's tokens, and creates a session where it should have one.
pub async fn attach(
    core: &'static Core,
    conn: &Conn,
    identified: Identified,
    record: &mut Record,
) -> Result<Box<Attached>, Refusal> {
    let Identified {
        request,
        carried,
        pins,
    } = identified;
    // Boxed once: the steps that follow hand it on.
    let mut attached = Box::new(Attached {
        request,
        pins,
        standing: Standing::None,
        live: None,
        dead: SmallVec::new(),
        doubled: None,
        look: look::Look::new(),
        guessed: false,
        rejected: false,
        gained: false,
    });
    // Also without sessions a token may be required.
    let said = match &conn.generation.attributes {
        Some(plan) => plan.collect(core, conn, &attached.request)?,
        None => None,
    };
    let Some(session) = conn.generation.session() else {
        return Ok(attached);
    };
    if let Some(subject) = said.as_ref().and_then(|said| said.subject.as_deref())
        && session.sessions_per_subject_reject
        && Box::pin(is_refused(core, session, subject, named(&carried))).await
    {
        return Err(Refusal::subject());
    }
    let several = said.is_some() && several(&carried);
    if let Some(looker) = &conn.generation.identity.looker {
        attached.look = looker.look(conn, &attached.request, &said);
    }
    for carried in &carried {
        // A valid token of a better source was found: the others are not looked at.
        if attached
            .live
            .as_ref()
            .is_some_and(|l| l.source != usize::from(carried.source))
        {
            break;
        }
        let Some(presented) = presented(core, carried, &mut attached) else {
            continue;
        };
        let judged = if core.sessions.owner(&presented.sid) == core.sessions.home {
            let mut shard = core.sessions.shard_mut();
            let (now, look) = (core.wall_ms(), &attached.look);
            let (judged, bound) = match &said {
                Some(said) if !several => core
                    .with_entropy(|entropy| shard.attach_with(presented, said, look, now, entropy)),
                _ => (shard.attach_as(presented, look, now), Bound::default()),
            };
            if let Judged::Valid(valid) = &judged {
                prefetch(shard.json_read(valid.slot));
            }
            Some((judged, bound, None))
        } else {
            if core
                .sessions
                .is_congested(core, core.sessions.owner(&presented.sid))
            {
                return Err(Refusal::overload());
            }
            // What rarely happens waits in a box of its own, so that the path's state stays small.
            let said = said.clone().filter(|_| !several);
            Box::pin(ask_owner(core, *presented, said, attached.look.to_vec())).await
        };
        if let Some((judged, bound, data)) = judged {
            let judged = Ruling {
                judged,
                bound,
                data,
            };
            judge(core, carried.source, presented, judged, &mut attached);
        }
    }
    if several && attached.doubled.is_none() {
        Box::pin(say_to_the_one(core, &carried, &said, &mut attached)).await;
    }
    if attached.doubled.is_some() {
        attached.live = None;
        attached.standing = Standing::Refused;
        core.metrics().count(Metric::MissDoubled);
        doubled_event(core);
    }
    if conn.head.upgrade_websocket
        && came_by_cookie(conn, &attached)
        && !origin::is_allowed(conn, &attached.request)
    {
        return Err(Refusal::origin());
    }
    if let Some(refusal) = turned_away(core, conn, &attached) {
        return Err(refusal);
    }
    record.session = match attached.standing {
        Standing::None => "none",
        Standing::Dead => "dead",
        Standing::Refused => "refused",
        Standing::Valid => "valid",
    };
    if attached.standing == Standing::Valid {
        core.metrics().count(Metric::SessionHits);
        if came_by_query(conn, &attached)
            && let Some(to) = Box::pin(clean_address(core, conn, &mut attached)).await
        {
            return Err(to);
        }
    } else if attached.standing != Standing::Refused || begins_anew(&attached, &said) {
        first_request(core, conn, &mut attached, said.as_deref());
        if attached.live.is_some() {
            record.session = "new";
        }
    }
    if attached.gained
        && session.sessions_per_subject > 0
        && let (Some(live), Some(said)) = (&attached.live, &said)
        && let Some(subject) = said.subject.as_deref()
    {
        Box::pin(make_room(core, session, subject, &live.sid)).await;
    }
    record.sid = attached.sid().map(Sid::text);
    Ok(attached)
}

fn came_by_cookie(conn: &Conn, attached: &Attached) -> bool {
    attached.live.as_ref().is_some_and(|live| {
        let source = conn.generation.identity.sources.get(live.source);
        source.is_some_and(|s| matches!(s.source, Source::Cookie(_)))
    })
}

/// Whether a request carries tokens of different sessions, so that it is not known yet which is meant.
fn several(carried: &[Carried]) -> bool {
    let mut sids = carried.iter().filter_map(|c| match &c.candidate {
        Candidate::Token(presented) => Some(presented.sid),
        _ => None,
    });
    let first = sids.next();
    sids.any(|sid| Some(sid) != first)
}

/// Tells the session that won among [`several`] what the request says of it.
async fn say_to_the_one(
    core: &'static Core,
    carried: &[Carried],
    said: &Said,
    attached: &mut Attached,
) {
    let Some(live) = &attached.live else { return };
    let meant = carried.iter().find_map(|c| match &c.candidate {
        Candidate::Token(p) if p.sid == live.sid && usize::from(c.source) == live.source => {
            Some((c.source, *p))
        }
        _ => None,
    });
    let Some((source, presented)) = meant else {
        return;
    };
    let look = attached.look.to_vec();
    if let Some((judged, bound, data)) = ask_owner(core, presented, said.clone(), look).await {
        let ruling = Ruling {
            judged,
            bound,
            data,
        };
        judge(core, source, &presented, ruling, attached);
    }
}

/// Whether a token begins a session although the request came with one: it is another subject's, or
/// its secret is good no more. An authentication is an explicit act.
fn begins_anew(attached: &Attached, said: &Said) -> bool {
    attached.doubled.is_none() && said.as_ref().is_some_and(|said| said.subject.is_some())
}

/// What is answered to a client that guesses tokens, or that looks like another.
fn turned_away(core: &Core, conn: &Conn, attached: &Attached) -> Option<Refusal> {
    if attached.standing == Standing::Valid {
        return None;
    }
    if attached.rejected {
        return Some(Refusal::mismatch());
    }
    let limit = conn.generation.setup.guesses.as_ref()?;
    let over = attached.guessed && !limit.take(attached.request.client, core.wall_ms());
    over.then(Refusal::guessing)
}

fn doubled_event(core: &Core) {
    core.emit(crate::event::Event {
        kind: crate::event::EventKind::SessionValidationFailed,
        at: core.wall_ms(),
        sid: None,
        reason: "two sessions in one request",
        subject: None,
        upstream: None,
        ordinal: core.next_ordinal(),
    });
}

/// The token to ask its owner about, if what was carried is one.
fn presented<'a>(
    core: &Core,
    carried: &'a Carried,
    attached: &mut Attached,
) -> Option<&'a Presented> {
    let metrics = core.metrics();
    match &carried.candidate {
        Candidate::Token(presented) => return Some(presented),
        Candidate::Dead(error) => {
            metrics.count(match error {
                TokenError::Malformed => Metric::MissMalformed,
                TokenError::WronglySigned => Metric::MissForged,
            });
            attached.guessed = true;
            died(carried.source, attached);
        }
        Candidate::Insecure => metrics.count(Metric::MissInsecure),
    }
    None
}

/// What a shard ruled on one token.
struct Ruling {
    judged: Judged,
    bound: Bound,
    /// What another core's shard sent along.
    data: Option<Data>,
}

/// Asks another core's shard about a token. `None` if it can't be asked.
async fn ask_owner(
    core: &'static Core,
    presented: Presented,
    said: Said,
    look: Vec<Traits>,
) -> Option<(Judged, Bound, Option<Data>)> {
    core.metrics().count(Metric::CrossedCores);
    let owner = core.sessions.owner(&presented.sid);
    let ask = match said {
        None => Ask::Attach(Box::new((presented, look))),
        Some(said) => Ask::AttachWith(Box::new((presented, (*said).clone(), look))),
    };
    match core.sessions.ask(core, owner, ask).await {
        Some(Answer::Attach(answer)) => {
            let AttachAnswer {
                attached,
                json,
                bound,
                built_in,
            } = *answer;
            Some((attached, bound, Some(Data::Sent(json, built_in))))
        }
        _ => None,
    }
}

/// What a shard's judgement of one token means for the request.
fn judge(core: &Core, source: u8, presented: &Presented, ruling: Ruling, attached: &mut Attached) {
    let metrics = core.metrics();
    let Ruling {
        judged,
        bound,
        data,
    } = ruling;
    if bound.too_large {
        too_large(core);
    }
    match judged {
        Judged::Valid(_) if bound.other => {
            metrics.count(Metric::MissSubject);
            attached.live = None;
            attached.standing = Standing::Refused;
        }
        Judged::Valid(valid) => {
            if attached.live.as_ref().is_some_and(|l| l.sid != valid.sid) {
                attached.doubled = Some(source);
                return;
            }
            if valid.confirmed {
                made(core, attached.request.client);
            }
            attached.standing = Standing::Valid;
            attached.gained |= bound.gained;
            attached.live = Some(Live {
                sid: valid.sid,
                source: usize::from(source),
                version: valid.version,
                new: false,
                fresh: bound.token,
                conflict: valid.conflict,
                issued: presented.issued,
                offer: valid.offer,
                target: Target::Session {
                    sid: valid.sid,
                    digest: Some(valid.digest),
                },
                data: data.unwrap_or(Data::Here(valid.slot)),
            });
        }
        Judged::Dead(dead) => {
            metrics.count(match dead {
                Dead::Forged => Metric::MissForged,
                Dead::Destroyed => Metric::MissDestroyed,
                Dead::Expired => Metric::MissExpired,
                Dead::Unknown => Metric::MissUnknown,
            });
            if dead == Dead::Unknown && presented.tag != core.sessions.tag {
                foreign(core);
            }
            died(source, attached);
        }
        Judged::Refused(refused) => {
            metrics.count(match refused {
                Refused::Retired => Metric::MissRetired,
                Refused::UnknownSecret => Metric::MissSecret,
                Refused::WrongKind => Metric::MissKind,
                Refused::Mismatch(_) => Metric::MissMismatch,
            });
            attached.guessed |= refused == Refused::UnknownSecret;
            if attached.standing != Standing::Valid {
                attached.standing = Standing::Refused;
            }
        }
        Judged::Rejected(_) => {
            metrics.count(Metric::MissMismatch);
            attached.rejected = true;
            if attached.standing != Standing::Valid {
                attached.standing = Standing::Refused;
            }
        }
    }
}

fn died(source: u8, attached: &mut Attached) {
    attached.dead.push(source);
    if attached.standing == Standing::None {
        attached.standing = Standing::Dead;
    }
}

/// A token that another instance made, and nobody here knows: its sessions are not shared.
fn foreign(core: &Core) {
    core.metrics().count(Metric::ForeignTokens);
    static SAID: crate::log::Once = crate::log::Once::new();
    SAID.warn(|| {
        "a client came with a session of another instance, which is not known here: instances that keep \
         sessions in memory share none, so each client must reach the same one"
            .into()
    });
}

/// Attributes did not fit into a session.
pub(super) fn too_large(core: &Core) {
    core.metrics().count(Metric::AttributesTooLarge);
    static SAID: crate::log::Limited = crate::log::Limited::new(std::time::Duration::from_secs(10));
    SAID.warn(|| "attributes over data.maxSize were not written to their session".into());
}
