//! `limits.sessionsPerSubject`: so many sessions of one subject, over all cores.
//!
//! Called where a session gains a subject: by the commands of a response, or by a token. Runs on the data
//! core of the request; the admin endpoint does the same for its writes. Sessions are counted by asking
//! every shard's index.
//!
//! Invariants: a session never makes room for itself, and one that its subject has already is not counted
//! twice. Two logins at the same moment may both find room: under `evictOldest` the next one puts it right,
//! under `reject` the subject has one more. Deliberately absent: a place where one subject's logins wait for
//! each other. Tested end to end.

use holdfast_config::plan::Session;
use holdfast_store::id::Sid;
use holdfast_store::session::{Commands, Reason};
use holdfast_store::shard::{Answer, Ask, surplus};

use crate::core::Core;
use crate::identify::{Candidate, Carried};

/// Whether what gives a session this subject (JSON) is to be refused, as `on: reject` has it. `this` are
/// the sessions that may be meant: one of the subject's own needs no room.
pub async fn is_refused(
    core: &'static Core,
    plan: &Session,
    subject: &[u8],
    this: impl Iterator<Item = Sid>,
) -> bool {
    if plan.sessions_per_subject == 0 || !plan.sessions_per_subject_reject {
        return false;
    }
    for sid in this {
        let subject = subject.into();
        let ask = Ask::IsSubjects { sid, subject };
        let owner = core.sessions.owner(&sid);
        if let Some(Answer::Holds(true)) = core.sessions.ask(core, owner, ask).await {
            return false;
        }
    }
    all(core, subject).await.len() >= plan.sessions_per_subject as usize
}

/// The subject that commands give a session, JSON.
pub fn given<'a>(plan: &Session, commands: &'a Commands) -> Option<&'a [u8]> {
    let name = plan.subject.as_bytes();
    let fields = [&commands.authenticate, &commands.set];
    let given = |fields: &'a Option<_>| {
        let fields: &holdfast_store::fields::Fields = fields.as_ref()?;
        fields.get(name)?.value.as_deref()
    };
    fields.into_iter().find_map(given)
}

/// The sessions that tokens of a request name.
pub fn named(carried: &[Carried]) -> impl Iterator<Item = Sid> {
    carried.iter().filter_map(|c| match &c.candidate {
        Candidate::Token(presented) => Some(presented.sid),
        _ => None,
    })
}

/// Ends the oldest sessions of a subject (JSON) over its bound, after `this` one was added to them.
pub async fn make_room(core: &'static Core, plan: &Session, subject: &[u8], this: &Sid) {
    if plan.sessions_per_subject == 0 || plan.sessions_per_subject_reject {
        return;
    }
    let all = all(core, subject).await;
    for sid in surplus(all, this, plan.sessions_per_subject) {
        let reason = Reason::SubjectLimit;
        let ask = Ask::Destroy { sid, reason };
        let owner = core.sessions.owner(&sid);
        core.sessions.ask(core, owner, ask).await;
    }
}

/// All sessions of a subject.
async fn all(core: &'static Core, subject: &[u8]) -> Vec<(u64, Sid)> {
    let mut all = Vec::new();
    for shard in 0..core.sessions.cores {
        let ask = Ask::OfSubject(subject.into());
        if let Some(Answer::OfSubject(some)) = core.sessions.ask(core, shard, ask).await {
            all.extend(some);
        }
    }
    all
}
