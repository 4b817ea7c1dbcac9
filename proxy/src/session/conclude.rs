//! The end of a request: what the upstream asks is carried out, and what is said to the client found.
//!
//! Owns [`Conclusion`]. Runs on a data core, after the head of an answer and before its first byte goes
//! on. Invariant: nothing is set for a session that has ended meanwhile. Tested end to end.

use holdfast_runtime::yielder;
use holdfast_store::id::Sid;
use holdfast_store::session::{
    Applied, Apply, Commands, Destroy, Elsewhere, Fresh, Reason, Target,
};
use holdfast_store::shard::{Answer, Ask};
use holdfast_store::token::TokenText;

use super::create::first_built_in;
use super::holders::made;
use super::set::{expire, expire_carried, renew, renewable, say};
use super::{Attached, Data, Live, Standing, commands, create, subject};
use crate::accept::Conn;
use crate::accesslog::Record;
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::forward::Answered;
use crate::metrics::Metric;
use crate::parse::Name;
use crate::pin::stage;

/// What the response says of session and pin.
#[derive(Debug, Default)]
pub struct Conclusion {
    /// Whole lines, Set-Cookie all of them.
    pub lines: Vec<u8>,
    /// A token that goes out in a header.
    pub header: Option<(String, TokenText)>,
    /// A line sets, or ends, a session cookie.
    pub session_cookie: bool,
    /// A line sets, or ends, a pin cookie.
    pub pin_cookie: bool,
}

/// Carries out what the upstream asks, before the response goes on.
pub async fn conclude(
    core: &'static Core,
    conn: &Conn,
    answered: &mut Answered,
    record: &mut Record,
) -> Result<Conclusion, Refusal> {
    let mut conclusion = Conclusion::default();
    if conn.generation.session().is_some() {
        let control = conn.generation.service(answered.at).control;
        let commands = conn
            .response
            .has(Name::Session)
            .then(|| commands::read(core, conn, answered.exchange.input.as_slice(), control));
        let attached = &mut answered.pinned.attached;
        if commands.as_ref().is_some_and(|c| !c.is_empty()) || has_to_say(core, conn, attached) {
            let commands = commands.unwrap_or_default();
            Box::pin(session(core, conn, attached, commands, &mut conclusion)).await?;
        }
        if record.sid.is_none() {
            record.sid = attached.sid().map(Sid::text);
        }
    }
    let cleared = conn.response.has(Name::AffinityClear)
        && conn
            .response
            .value(answered.exchange.input.as_slice(), Name::AffinityClear)
            == Some(b"1");
    let lines = &mut conclusion.lines;
    conclusion.pin_cookie = stage::conclude(core, conn, &mut answered.pinned, cleared, lines).await;
    Ok(conclusion)
}

/// Whether a response without commands says something of the session: a new token, one to renew, a
/// cookie to end.
fn has_to_say(core: &Core, conn: &Conn, attached: &Attached) -> bool {
    let live = attached.live.as_ref().is_some_and(|live| {
        live.fresh.is_some() || live.offer || renewable(core, conn, live).is_some()
    });
    live || !attached.dead.is_empty() || attached.doubled.is_some()
}

async fn session(
    core: &'static Core,
    conn: &Conn,
    attached: &mut Attached,
    commands: Commands,
    conclusion: &mut Conclusion,
) -> Result<(), Refusal> {
    let mut set = false;
    if commands.is_empty() {
        set = unasked(core, conn, attached, conclusion).await;
    } else {
        if let Some(plan) = conn.generation.session()
            && let Some(subject) = subject::given(plan, &commands)
            && subject::is_refused(core, plan, subject, attached.sid().copied().into_iter()).await
        {
            return Err(Refusal::subject());
        }
        let applied = carry_out(core, conn, attached, commands.clone()).await;
        count(core, &applied);
        if applied.created {
            made(core, attached.request.client);
        }
        let source = attached
            .live
            .as_ref()
            .map(|l| l.source)
            .or_else(|| create::carrier(&conn.generation.identity));
        // A first token that the shard had nothing to add to still goes out.
        let token = applied.token.or_else(|| {
            let live = attached.live.as_ref()?;
            live.fresh.filter(|_| !applied.gone && !applied.expire)
        });
        if let (Some(fresh), Some(source)) = (token, source) {
            set = say(conn, &attached.request, source, &fresh, conclusion);
            if attached.live.is_none() {
                attached.live = Some(born(fresh, source, applied.version));
            }
        }
        let ended = matches!(commands.destroy, Some(Destroy::This | Destroy::All));
        if applied.expire || (ended && attached.standing != Standing::None && token.is_none()) {
            expire_carried(conn, attached, conclusion);
            set = true;
        }
    }
    if !set {
        for source in std::mem::take(&mut attached.dead) {
            expire(conn, attached, usize::from(source), false, conclusion);
        }
    }
    if let Some(source) = attached.doubled
        && create::navigation(conn)
    {
        expire(conn, attached, usize::from(source), true, conclusion);
    }
    Ok(())
}

fn born(fresh: Fresh, source: usize, version: u64) -> Live {
    Live {
        sid: fresh.sid,
        source,
        version,
        new: true,
        fresh: Some(fresh),
        conflict: false,
        issued: fresh.issued,
        offer: false,
        target: fresh.target(),
        data: Data::Sent(Vec::new(), first_built_in(fresh.issued)),
    }
}

/// Carries commands out at the owner, and in the other shards what concerns them.
async fn carry_out(
    core: &'static Core,
    conn: &Conn,
    attached: &Attached,
    mut commands: Commands,
) -> Applied {
    let identity = &conn.generation.identity;
    let Some(plan) = conn.generation.session() else {
        return Applied::default();
    };
    let target = attached.live.as_ref().map_or(Target::None, |l| l.target);
    if matches!(target, Target::None) {
        // Where a plain first request makes a session, an explicit act may too.
        let creation = &plan.creation;
        commands.create &= creation.explicit_create || creation.first_request;
        if !(creation.authentication || creation.first_request)
            && commands.authenticate.take().is_some()
        {
            core.metrics().count(Metric::ControlDenied);
        }
        let deliverable = create::carrier(identity)
            .is_some_and(|s| create::deliverable(&identity.sources[s].source, &attached.request));
        if !deliverable && (commands.create || commands.authenticate.is_some()) {
            core.metrics().count(Metric::CreatesUndeliverable);
            (commands.create, commands.authenticate) = (false, None);
        }
    }
    let owner = attached
        .live
        .as_ref()
        .map_or(core.index, |l| core.sessions.owner(&l.sid));
    let apply = Box::new(Apply {
        target,
        commands,
        traits: attached.look.first().copied(),
    });
    let Some(Answer::Apply(applied)) = core.sessions.ask(core, owner, Ask::Apply(apply)).await
    else {
        return Applied::default();
    };
    if let Some(elsewhere) = &applied.elsewhere {
        Box::pin(destroy_elsewhere(core, owner, elsewhere)).await;
    }
    if let (Some(subject), Some(sid)) = (&applied.gained, &applied.session) {
        subject::make_room(core, plan, subject, sid).await;
    }
    *applied
}

/// Ends a subject's sessions in all shards, in turns; in `owner`'s the first turn was done.
async fn destroy_elsewhere(core: &'static Core, owner: usize, elsewhere: &Elsewhere) {
    let shards = (0..core.sessions.cores).filter(|shard| *shard != owner || elsewhere.here);
    for shard in shards {
        loop {
            let ask = Ask::DestroySubject {
                subject: elsewhere.subject.clone(),
                except: elsewhere.except,
                reason: Reason::Subject,
            };
            match core.sessions.ask(core, shard, ask).await {
                Some(Answer::Destroyed(turn)) if turn.more => {}
                _ => break,
            }
            // Other requests of this core have their turn between.
            yielder::turn().await;
        }
    }
}

fn count(core: &Core, applied: &Applied) {
    let metrics = core.metrics();
    if applied.conflict {
        metrics.count(Metric::SetsConflict);
    }
    if applied.too_large {
        metrics.count(Metric::SetsTooLarge);
        static SAID: crate::log::Limited =
            crate::log::Limited::new(std::time::Duration::from_secs(10));
        SAID.warn(|| "a write of session data over data.maxSize was refused".into());
    }
    if applied.dropped > 0 {
        metrics.add(Metric::SetsDropped, u64::from(applied.dropped));
        static SAID: crate::log::Limited =
            crate::log::Limited::new(std::time::Duration::from_secs(10));
        SAID.warn(|| {
            "a write of session data named a field that is not in data.fields: it was dropped"
                .into()
        });
    }
    if applied.full {
        metrics.count(Metric::CreatesRejected);
    }
}

/// A response without commands: a new token goes out, or the offer of a new secret; a `maxAge` cookie is
/// renewed where it is time.
async fn unasked(
    core: &'static Core,
    conn: &Conn,
    attached: &Attached,
    conclusion: &mut Conclusion,
) -> bool {
    let Some(live) = &attached.live else {
        return false;
    };
    if let Some(fresh) = &live.fresh {
        let gone = gone_meanwhile(core, fresh).await;
        return !gone && say(conn, &attached.request, live.source, fresh, conclusion);
    }
    if live.offer {
        let applied = carry_out(core, conn, attached, Commands::default()).await;
        return applied
            .token
            .is_some_and(|fresh| say(conn, &attached.request, live.source, &fresh, conclusion));
    }
    match renewable(core, conn, live) {
        Some(cookie) => renew(core, conn, attached, live, cookie, conclusion).await,
        None => false,
    }
}

/// Whether a session has ended, or got another secret, since this request made one for it.
async fn gone_meanwhile(core: &'static Core, fresh: &Fresh) -> bool {
    let owner = core.sessions.owner(&fresh.sid);
    let digest = fresh.secret.digest();
    if owner == core.sessions.home {
        let shard = core.sessions.shard.borrow();
        return shard.is_tombstoned(&fresh.sid)
            || (!fresh.unconfirmed && !shard.is_good(&fresh.sid, &digest, core.wall_ms()));
    }
    let sid = fresh.sid;
    let held = core.sessions.ask(core, owner, Ask::Holds { sid, digest });
    !matches!(held.await, Some(Answer::Holds(true)))
}
