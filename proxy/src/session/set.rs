//! Tokens on their way to the client: set, renewed, expired.
//!
//! Called while a request is concluded, on a data core. Writes lines; that a token may be set was decided
//! before. Tested end to end.

use holdfast_config::plan::{self, Source};
use holdfast_store::session::{Fresh, Target};
use holdfast_store::shard::{Answer, Ask};
use holdfast_store::token::{Kind, Token};

use super::{Attached, Conclusion, Live, cookies, create};
use crate::accept::Conn;
use crate::core::Core;
use crate::identify::Request;
use crate::parse::Name;

/// The cookie with a `maxAge` that it is time to send again.
pub(super) fn renewable<'a>(
    core: &Core,
    conn: &'a Conn,
    live: &Live,
) -> Option<&'a plan::SessionCookie> {
    let plan = conn.generation.session()?;
    let Source::Cookie(cookie) = &conn.generation.identity.sources[live.source].source else {
        return None;
    };
    cookie.max_age?;
    let age = (core.wall_ms() / 1000).saturating_sub(u64::from(live.issued));
    (age >= plan.touch_interval.as_secs().max(1)).then_some(cookie)
}

/// Sets the presented token again, with a new time of issue, if its secret is still the current one and
/// no other is pending.
pub(super) async fn renew(
    core: &'static Core,
    conn: &Conn,
    attached: &Attached,
    live: &Live,
    cookie: &plan::SessionCookie,
    conclusion: &mut Conclusion,
) -> bool {
    let identity = &conn.generation.identity;
    if !create::deliverable(&identity.sources[live.source].source, &attached.request) {
        return false;
    }
    let Target::Session {
        sid,
        digest: Some(digest),
    } = live.target
    else {
        return false;
    };
    let owner = core.sessions.owner(&sid);
    let held = core
        .sessions
        .ask(core, owner, Ask::MayRepeat { sid, digest })
        .await;
    if !matches!(held, Some(Answer::MayRepeat(true))) {
        return false;
    }
    let buf = conn.input.as_slice();
    let values = conn
        .head
        .values(buf, Name::Cookie)
        .flat_map(crate::parse::cookies::pairs);
    for pair in values.filter(|p| p.name == cookie.name.as_bytes()) {
        if let Ok((token, _)) = Token::decode(pair.value, &identity.keys)
            && token.sid == sid
            && token.secret.digest() == digest
        {
            let issued = u32::try_from(core.wall_ms() / 1000).unwrap_or(u32::MAX);
            let text = Token {
                issued,
                unconfirmed: false,
                ..token
            }
            .encode(&identity.keys);
            cookies::set(
                cookie,
                text.as_bytes(),
                attached.request.laptop,
                &mut conclusion.lines,
            );
            conclusion.session_cookie = true;
            return true;
        }
    }
    false
}

/// Sends a token to the client through a source. False where it can't be delivered.
pub(super) fn say(
    conn: &Conn,
    request: &Request,
    source: usize,
    fresh: &Fresh,
    conclusion: &mut Conclusion,
) -> bool {
    let identity = &conn.generation.identity;
    let source = &identity.sources[source].source;
    if !create::deliverable(source, request) {
        return false;
    }
    match source {
        Source::Cookie(cookie) => {
            let text = fresh.encode(Kind::CookieOrHeader, &identity.keys);
            cookies::set(
                cookie,
                text.as_bytes(),
                request.laptop,
                &mut conclusion.lines,
            );
            conclusion.session_cookie = true;
        }
        Source::Header { name, .. } => {
            let text = fresh.encode(Kind::CookieOrHeader, &identity.keys);
            conclusion.header = Some((name.clone(), text));
        }
        Source::Query { .. } => {
            let Some(names) = &conn.generation.names else {
                return false;
            };
            let text = fresh.encode(Kind::Query, &identity.keys);
            conclusion.header = Some((names.id_name.clone(), text));
        }
    }
    // Whoever can read the token must not keep the response.
    conclusion.session_cookie = true;
    true
}

/// Ends at the client whatever cookie the request came with.
pub(super) fn expire_carried(conn: &Conn, attached: &Attached, conclusion: &mut Conclusion) {
    match &attached.live {
        Some(live) => expire(conn, attached, live.source, false, conclusion),
        None => {
            let cookie = |s: &crate::identify::SourcePlan| matches!(s.source, Source::Cookie(_));
            for source in conn
                .generation
                .identity
                .sources
                .iter()
                .enumerate()
                .filter(|(_, s)| cookie(s))
                .map(|(i, _)| i)
            {
                expire(conn, attached, source, false, conclusion);
            }
        }
    }
}

pub(super) fn expire(
    conn: &Conn,
    attached: &Attached,
    source: usize,
    both: bool,
    conclusion: &mut Conclusion,
) {
    let Source::Cookie(cookie) = &conn.generation.identity.sources[source].source else {
        return;
    };
    let laptop = attached.request.laptop;
    if both {
        cookies::expire_both(cookie, laptop, &mut conclusion.lines);
    } else {
        cookies::expire(cookie, laptop, &mut conclusion.lines);
    }
    conclusion.session_cookie = true;
}
