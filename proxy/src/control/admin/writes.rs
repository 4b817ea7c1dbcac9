//! Writes of `/api/sessions`: sessions and tokens made, data changed.
//!
//! Owns nothing: what is asked becomes the same commands that an upstream's response gives, carried out
//! by the shard that owns the session. Runs on the control thread.
//!
//! Invariants: a token is in one answer and nowhere else; a write is carried out whole or refused whole,
//! so names that may not be written are an error here, not dropped; audit lines name fields and no values.
//! Tested end to end.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use holdfast_config::plan::{Session, Source};
use holdfast_store::fields::Fields;
use holdfast_store::id::{Sid, shard_of};
use holdfast_store::session::{Applied, Apply, BUILT_IN, Commands, Fresh, Reason, Target};
use holdfast_store::shard::{Answer, Ask, surplus};
use holdfast_store::token::{Keys, Kind};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::error::{ApiError, json as answer};
use super::sessions::{Shown, no_such, owner, sessions_on, strange};
use super::{Admin, Audit};
use crate::session::given;

/// An object of fields.
type Object = BTreeMap<String, Box<RawValue>>;

/// What makes a session.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct New {
    #[serde(deserialize_with = "super::given")]
    source: Option<String>,
    #[serde(deserialize_with = "super::given")]
    data: Option<Object>,
    #[serde(deserialize_with = "super::given")]
    authenticate: Option<Object>,
}

/// What makes a token.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NewToken {
    #[serde(deserialize_with = "super::given")]
    source: Option<String>,
}

/// What changes a session.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    data: Object,
}

/// POST /api/sessions
pub async fn create(State(admin): State<Admin>, body: Body) -> Result<Response, ApiError> {
    let session = sessions_on(&admin)?;
    let new: New = super::body(body).await?;
    let carrier = Carrier::find(&session, new.source.as_deref())?;
    let commands = Commands {
        create: true,
        set: new
            .data
            .map(|data| fields(&session, &data, None))
            .transpose()?,
        authenticate: match new.authenticate {
            None => None,
            Some(data) => Some(fields(&session, &data, Some(&session.subject))?),
        },
        // Makes a record at once, where a first token would have none yet.
        retire: true,
        ..Commands::default()
    };
    let core = getrandom::u32().unwrap_or_default() as usize % admin.desk.shared.cores.max(1);
    refuse_subject(&admin, &session, &commands, None).await?;
    let done = apply(&admin, core, Target::None, commands).await?;
    make_room(&admin, &session, &done).await?;
    let fresh = done.token.ok_or_else(|| {
        ApiError::unavailable("the session was not made: the store can hold no more")
    })?;
    let mut response = token(&session, &fresh, &carrier);
    response
        .extensions_mut()
        .insert(Audit(format!("sid={}", fresh.sid)));
    Ok(response)
}

/// POST /api/sessions/{sid}/tokens
pub async fn new_token(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Response, ApiError> {
    let session = sessions_on(&admin)?;
    let (sid, core) = owner(&admin, path)?;
    let new: NewToken = super::body(body).await?;
    let carrier = Carrier::find(&session, new.source.as_deref())?;
    let commands = Commands {
        retire: true,
        ..Commands::default()
    };
    let target = Target::Session { sid, digest: None };
    let done = apply(&admin, core, target, commands).await?;
    let fresh = done.token.ok_or_else(no_such)?;
    Ok(token(&session, &fresh, &carrier))
}

/// PATCH /api/sessions/{sid}
pub async fn patch(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let session = sessions_on(&admin)?;
    let (sid, core) = owner(&admin, path)?;
    let if_version = if_version(&headers)?;
    let change: Patch = super::body(body).await?;
    let set = fields(&session, &change.data, None)?;
    // Asked first, since a conditional write that fails is told to the application with its next request.
    let before = look(&admin, core, sid).await?;
    if if_version.is_some_and(|wanted| wanted != before.version) {
        return Err(conflict(before.version));
    }
    let commands = Commands {
        set: Some(set),
        if_version,
        ..Commands::default()
    };
    refuse_subject(&admin, &session, &commands, Some(sid)).await?;
    let target = Target::Session { sid, digest: None };
    let done = apply(&admin, core, target, commands).await?;
    make_room(&admin, &session, &done).await?;
    if done.conflict {
        return Err(conflict(done.version));
    }
    let view = look(&admin, core, sid).await?;
    let mut response = answer(StatusCode::OK, &Shown::new(&view, core, false));
    let names: Vec<_> = change.data.keys().map(String::as_str).collect();
    response
        .extensions_mut()
        .insert(Audit(format!("fields={}", names.join(","))));
    Ok(response)
}

async fn look(
    admin: &Admin,
    core: usize,
    sid: Sid,
) -> Result<Box<holdfast_store::session::View>, ApiError> {
    match admin.desk.ask(core, Ask::Get(sid)).await? {
        Answer::Get(view) => view.ok_or_else(no_such),
        _ => Err(strange()),
    }
}

async fn apply(
    admin: &Admin,
    core: usize,
    target: Target,
    commands: Commands,
) -> Result<Box<Applied>, ApiError> {
    let ask = Ask::Apply(Box::new(Apply {
        target,
        commands,
        traits: None,
    }));
    let Answer::Apply(done) = admin.desk.ask(core, ask).await? else {
        return Err(strange());
    };
    if done.gone {
        return Err(no_such());
    }
    if done.too_large {
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the session's data would be over session.data.maxSize; nothing was written",
        ));
    }
    Ok(done)
}

/// What `limits.sessionsPerSubject` with `on: reject` refuses.
async fn refuse_subject(
    admin: &Admin,
    session: &Session,
    commands: &Commands,
    this: Option<Sid>,
) -> Result<(), ApiError> {
    let bounded = session.sessions_per_subject > 0 && session.sessions_per_subject_reject;
    let Some(subject) = given(session, commands).filter(|_| bounded) else {
        return Ok(());
    };
    let mut all = of_subject(admin, subject).await?;
    let known = all.len();
    all.retain(|(_, sid)| Some(*sid) != this);
    if all.len() < known || all.len() < session.sessions_per_subject as usize {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::CONFLICT,
        "the subject has as many sessions as session.limits.sessionsPerSubject allows; nothing was written",
    ))
}

/// What `limits.sessionsPerSubject` with `on: evictOldest` ends.
async fn make_room(admin: &Admin, session: &Session, done: &Applied) -> Result<(), ApiError> {
    let (Some(subject), Some(this)) = (&done.gained, &done.session) else {
        return Ok(());
    };
    if session.sessions_per_subject_reject {
        return Ok(());
    }
    let all = of_subject(admin, subject).await?;
    for sid in surplus(all, this, session.sessions_per_subject) {
        let reason = Reason::SubjectLimit;
        let core = shard_of(&sid, admin.desk.shared.cores);
        admin.desk.ask(core, Ask::Destroy { sid, reason }).await?;
    }
    Ok(())
}

async fn of_subject(admin: &Admin, subject: &[u8]) -> Result<Vec<(u64, Sid)>, ApiError> {
    let mut all = Vec::new();
    for core in 0..admin.desk.shared.cores {
        match admin.desk.ask(core, Ask::OfSubject(subject.into())).await? {
            Answer::OfSubject(some) => all.extend(some),
            _ => return Err(strange()),
        }
    }
    Ok(all)
}

fn if_version(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let mut values = headers.get_all("if-version").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    match (number, values.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(ApiError::bad("If-Version is one whole number")),
    }
}

fn conflict(version: u64) -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        format!("the session's version is {version}; nothing was written"),
    )
}

/// Fields that may be written; `exempt` always.
fn fields(session: &Session, data: &Object, exempt: Option<&str>) -> Result<Fields, ApiError> {
    let allowed = |name: &str| {
        let listed = |names: &Vec<String>| names.iter().any(|n| n == name);
        exempt == Some(name)
            || (!BUILT_IN.contains(&name) && session.data.fields.as_ref().is_none_or(listed))
    };
    let refused: Vec<&str> = data
        .keys()
        .map(String::as_str)
        .filter(|name| !allowed(name))
        .collect();
    if !refused.is_empty() {
        return Err(ApiError::bad(format!(
            "session.data.fields does not allow: {}",
            refused.join(", ")
        )));
    }
    let text = serde_json::to_vec(data).map_err(|_| ApiError::bad("the data is malformed"))?;
    Fields::parse(&text).map_err(|_| ApiError::bad("the data is malformed"))
}

/// Where a token is to travel.
struct Carrier {
    word: &'static str,
    name: String,
    kind: Kind,
}

impl Carrier {
    fn new(source: &Source) -> Self {
        let (word, name, kind) = match source {
            Source::Cookie(cookie) => ("cookie", &cookie.name, Kind::CookieOrHeader),
            Source::Header { name, .. } => ("header", name, Kind::CookieOrHeader),
            Source::Query { name } => ("query", name, Kind::Query),
        };
        let name = name.clone();
        Self { word, name, kind }
    }

    /// The source that is named, or the first.
    fn find(session: &Session, wanted: Option<&str>) -> Result<Self, ApiError> {
        let mut all = session.sources.iter().map(Self::new);
        let found = all.find(|carrier| wanted.is_none_or(|wanted| wanted == carrier.word));
        found.ok_or_else(|| {
            let words: Vec<_> = session.sources.iter().map(|s| Self::new(s).word).collect();
            ApiError::bad(format!(
                "source is one of those in session.identifier: {}",
                words.join(", ")
            ))
        })
    }
}

fn token(session: &Session, fresh: &Fresh, carrier: &Carrier) -> Response {
    let keys = session.security.token_keys.iter();
    let keys = Keys::new(keys.map(|key| key.0.as_slice()));
    let text = fresh.encode(carrier.kind, &keys);
    answer(
        StatusCode::CREATED,
        &json!({
            "sid": fresh.sid.to_string(),
            "source": carrier.word,
            "name": carrier.name,
            "token": text.as_str(),
        }),
    )
}
