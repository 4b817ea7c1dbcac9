//! A token in an address: browsers are sent to the same address without it, with a cookie.
//!
//! Runs on a data core, after the token was found valid. Tested end to end.

use holdfast_config::plan::Source;
use holdfast_store::session::{Apply, Commands};
use holdfast_store::shard::{Answer, Ask};
use holdfast_store::token::Kind;

use super::{Attached, cookies, create};
use crate::accept::Conn;
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::text::Sink;

pub(super) fn came_by_query(conn: &Conn, attached: &Attached) -> bool {
    attached.live.as_ref().is_some_and(|live| {
        matches!(
            conn.generation.identity.sources[live.source].source,
            Source::Query { .. }
        )
    })
}

/// A navigation with a query token and no valid cookie, where there is a cookie source: the query
/// token is retired and the browser sent to the same address without it, with a cookie.
pub(super) async fn clean_address(
    core: &'static Core,
    conn: &Conn,
    attached: &mut Attached,
) -> Option<Refusal> {
    let live = attached.live.as_ref()?;
    let identity = &conn.generation.identity;
    if !create::navigation(conn) {
        return None;
    }
    let cookie = identity.sources.iter().find_map(|s| match &s.source {
        Source::Cookie(cookie) => Some(cookie),
        _ => None,
    })?;
    if cookie.secure && !attached.request.secure && !attached.request.laptop {
        return None;
    }
    let apply = Apply {
        target: live.target,
        commands: Commands {
            retire: true,
            ..Commands::default()
        },
        traits: None,
    };
    let owner = core.sessions.owner(&live.sid);
    let Some(Answer::Apply(applied)) = core
        .sessions
        .ask(core, owner, Ask::Apply(Box::new(apply)))
        .await
    else {
        return None;
    };
    let token = applied.token?.encode(Kind::CookieOrHeader, &identity.keys);
    let mut lines = Vec::new();
    lines.put(b"Location: ");
    let path = attached.request.path(conn);
    if path.starts_with(b"//") {
        // Else a browser would take the first segment for a host (URL standard, 4.3).
        lines.put(b"/.");
    }
    lines.put(path);
    if let Some(query) = attached.request.query(conn) {
        lines.put(b"?");
        lines.put(query);
    }
    lines.put(b"\r\n");
    cookies::set(
        cookie,
        token.as_bytes(),
        attached.request.laptop,
        &mut lines,
    );
    Some(Refusal::see_other(lines.into_boxed_slice()))
}
