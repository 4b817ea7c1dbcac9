//! `/api/events`, the stream of events, and `/api/sessions/{sid}/journal`, those of one session.
//!
//! Owns nothing: [`Hub`](crate::control::events::Hub) has the events. Runs on the control thread.
//!
//! The stream is Server-Sent Events (WHATWG HTML, 9.2): each event's `id` is that of the CloudEvent in its
//! `data`. Who comes back with `Last-Event-ID` gets what came since, or, where that is known no more, an
//! event named `gap` and all that is still kept. A comment comes every [`HEARTBEAT`]; a stream ends after
//! `LIFE`, and at once when its reader is slow: the client is to come back.
//!
//! Invariants: subjects are masked unless `values=true`. Tested end to end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use holdfast_store::id::Sid;
use holdfast_store::shard::{Answer, Ask};
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::error::{ApiError, json};
use super::sessions::{no_such, owner, strange};
use super::{Admin, End};
use crate::control::desk::Unanswered;
use crate::control::events::Subscription;
use crate::control::events::told::{self, Told};
use crate::event::NAMES;

/// How often a comment is sent.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a stream lasts. Less than a connection may.
const LIFE: Duration = Duration::from_secs(540);
/// Bytes that are sent in one piece, about.
const PIECE: usize = 32 * 1024;

/// What a query of the stream may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    #[serde(default)]
    values: bool,
    r#type: Option<String>,
    sid: Option<String>,
}

/// A stream under way.
struct Running {
    waiting: VecDeque<Arc<Told>>,
    head: Option<String>,
    subscription: Subscription,
    source: String,
    values: bool,
    kind: Option<String>,
    sid: Option<Sid>,
    until: Instant,
}

/// GET /api/events
pub async fn stream(
    State(admin): State<Admin>,
    Extension(End(end)): Extension<End>,
    headers: HeaderMap,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(wanted) =
        query.map_err(|_| ApiError::bad("the query takes values=true|false, type and sid"))?;
    if let Some(kind) = &wanted.r#type
        && !NAMES.iter().any(|(_, name)| name == kind)
    {
        let names: Vec<_> = NAMES.iter().map(|(_, name)| *name).collect();
        return Err(ApiError::bad(format!(
            "type is one of {}",
            names.join(", ")
        )));
    }
    let sid = wanted.sid.map(|sid| Sid::parse(sid.as_bytes()));
    let sid = sid
        .transpose()
        .map_err(|_| ApiError::bad("a sid has 22 characters of base64url"))?;
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let last = last.filter(|last| !last.is_empty()).map(str::to_owned);
    let subscription = admin.desk.subscribe(last, end).await;
    let mut subscription = subscription.map_err(|unanswered| match unanswered {
        Unanswered::Busy => ApiError::unavailable("there are too many streams"),
        late => late.into(),
    })?;
    let mut head = "retry: 2000\n\n".to_owned();
    if subscription.gap {
        head.push_str("event: gap\ndata: {}\n\n");
    }
    let running = Running {
        waiting: std::mem::take(&mut subscription.backlog).into(),
        head: Some(head),
        subscription,
        source: told::source(&admin.desk.setup().plan.node),
        values: wanted.values,
        kind: wanted.r#type,
        sid,
        until: Instant::now() + LIFE,
    };
    let body = stream::unfold(running, async |mut running| {
        let piece = running.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), running))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((StatusCode::OK, headers, Body::from_stream(body)).into_response())
}

impl Running {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head.into());
        }
        let beat = Instant::now() + HEARTBEAT;
        loop {
            let mut out = Vec::new();
            while out.len() < PIECE {
                let next = self.waiting.pop_front();
                let Some(told) = next.or_else(|| self.subscription.live.try_recv().ok()) else {
                    break;
                };
                if self.wants(&told) {
                    self.write(&told, &mut out);
                }
            }
            if !out.is_empty() {
                return Some(out.into());
            }
            tokio::select! {
                told = self.subscription.live.recv() => self.waiting.push_back(told?),
                () = tokio::time::sleep_until(self.until) => return None,
                () = tokio::time::sleep_until(beat) => return Some(Bytes::from_static(b":\n\n")),
            }
        }
    }

    fn wants(&self, told: &Told) -> bool {
        let event = &told.event;
        self.kind
            .as_ref()
            .is_none_or(|kind| event.kind.name() == kind)
            && self.sid.is_none_or(|sid| event.sid == Some(sid))
    }

    fn write(&self, told: &Told, out: &mut Vec<u8>) {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(told.id().as_bytes());
        out.extend_from_slice(b"\ndata: ");
        told.write(&self.source, self.values, out);
        out.extend_from_slice(b"\n\n");
    }
}

#[derive(Serialize)]
struct Journal {
    sid: String,
    events: Vec<Box<RawValue>>,
}

/// What a query of a journal may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    #[serde(default)]
    values: bool,
}

/// GET /api/sessions/{sid}/journal
pub async fn journal(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Shown>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (sid, core) = owner(&admin, path)?;
    let Query(Shown { values }) =
        query.map_err(|_| ApiError::bad("the query takes values=true|false"))?;
    let events = admin.desk.journal(sid).await?;
    if events.is_empty() {
        // One of which nothing is remembered may be there all the same.
        match admin.desk.ask(core, Ask::Get(sid)).await? {
            Answer::Get(Some(_)) => {}
            Answer::Get(None) => return Err(no_such()),
            _ => return Err(strange()),
        }
    }
    let source = told::source(&admin.desk.setup().plan.node);
    let events = events.iter().map(|told| told.json(&source, values));
    let journal = Journal {
        sid: sid.to_string(),
        events: events.collect(),
    };
    Ok(json(StatusCode::OK, &journal))
}
