//! `/api/sessions`: look at sessions, find them by an indexed field, end them.
//!
//! Owns the paging over shards. Runs on the control thread; every look is a question to the core that
//! owns the shard.
//!
//! Invariants: a page holds at most [`LIMIT`] sessions and costs at most `ASKS` questions, so one may
//! be short, or empty, and still have a `next`. Values (data and subject) are masked unless
//! `values=true`. Nothing of a secret is ever shown, digests included.
//!
//! A value to filter by means the string, and where it is a JSON number or boolean that one too:
//! `userId=42` finds `"42"` and `42`.
//! Tested below, and over sockets in `control::tests`.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use holdfast_store::fields::{Name, json_string};
use holdfast_store::id::{Sid, shard_of};
use holdfast_store::session::{Reason, View};
use holdfast_store::shard::{Answer, Ask, Filter};
use serde::Serialize;
use serde_json::value::RawValue;

use super::error::{ApiError, json};
use super::{Admin, Audit};
use crate::log::Rfc3339;

/// Sessions of one page, at most.
pub const LIMIT: usize = 500;

/// Sessions of one page where no limit is given.
const DEFAULT_LIMIT: usize = 50;

/// Questions to shards for one page.
const ASKS: usize = 64;

/// The parameters of a query, in order.
pub type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// GET /api/sessions
pub async fn list(State(admin): State<Admin>, query: Parameters) -> Result<Response, ApiError> {
    let wanted = Wanted::read(&admin, query)?;
    let cores = admin.desk.shared.cores;
    let variants = wanted.variants();
    let mut sessions = Vec::new();
    let mut at = wanted.cursor;
    let mut asks = 0;
    // A step is a shard, looked through once for each form of the value.
    while at.step < variants.len() * cores && sessions.len() < wanted.limit && asks < ASKS {
        let filter = variants.get(at.step / cores).cloned().flatten();
        let core = at.step % cores;
        let limit = wanted.limit - sessions.len();
        asks += 1;
        let ask = Ask::List {
            cursor: at.slot,
            limit,
            filter: filter.map(Box::new),
        };
        let Answer::List(page) = admin.desk.ask(core, ask).await? else {
            return Err(strange());
        };
        sessions.extend(
            page.sessions
                .iter()
                .map(|view| Shown::new(view, core, wanted.values)),
        );
        at = match page.next {
            Some(slot) => Cursor {
                step: at.step,
                slot,
            },
            None => Cursor {
                step: at.step + 1,
                slot: 0,
            },
        };
    }
    let next = (at.step < variants.len() * cores).then(|| at.text());
    Ok(json(StatusCode::OK, &Listed { sessions, next }))
}

/// DELETE /api/sessions?field=value
pub async fn delete_by(
    State(admin): State<Admin>,
    query: Parameters,
) -> Result<Response, ApiError> {
    let wanted = Wanted::read(&admin, query)?;
    let Some((name, _)) = &wanted.filter else {
        return Err(ApiError::bad(
            "a field and value are needed, such as userId=u1",
        ));
    };
    let mut destroyed = 0u64;
    for filter in wanted.variants().into_iter().flatten() {
        for core in 0..admin.desk.shared.cores {
            // In turns, so that no core is kept from its requests.
            loop {
                let ask = Ask::FindAndDestroy {
                    filter: Box::new(filter.clone()),
                    reason: Reason::Admin,
                };
                let Answer::Destroyed(turn) = admin.desk.ask(core, ask).await? else {
                    return Err(strange());
                };
                destroyed += u64::from(turn.count);
                if !turn.more {
                    break;
                }
            }
        }
    }
    let mut response = json(
        StatusCode::OK,
        &serde_json::json!({ "destroyed": destroyed }),
    );
    response
        .extensions_mut()
        .insert(Audit(format!("by {name}, destroyed={destroyed}")));
    Ok(response)
}

/// GET /api/sessions/{sid}
pub async fn get(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    query: Parameters,
) -> Result<Response, ApiError> {
    let (sid, core) = owner(&admin, path)?;
    let values = Wanted::read(&admin, query)?.values;
    let Answer::Get(view) = admin.desk.ask(core, Ask::Get(sid)).await? else {
        return Err(strange());
    };
    let view = view.ok_or_else(no_such)?;
    Ok(json(StatusCode::OK, &Shown::new(&view, core, values)))
}

/// DELETE /api/sessions/{sid}
pub async fn delete(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let (sid, core) = owner(&admin, path)?;
    let ask = Ask::Destroy {
        sid,
        reason: Reason::Admin,
    };
    match admin.desk.ask(core, ask).await? {
        Answer::Destroyed(turn) if turn.count == 0 => Err(no_such()),
        Answer::Destroyed(turn) => Ok(json(
            StatusCode::OK,
            &serde_json::json!({ "destroyed": turn.count }),
        )),
        _ => Err(strange()),
    }
}

/// 404.
pub fn no_such() -> ApiError {
    ApiError::not_found("there is no such session")
}

/// An answer of another kind than the question's.
pub fn strange() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "a core gave an answer of another kind",
    )
}

/// The configuration of sessions.
///
/// # Errors
/// 404 where they are off.
pub fn sessions_on(admin: &Admin) -> Result<holdfast_config::plan::Session, ApiError> {
    let session = admin.desk.setup().plan.session.clone();
    session.ok_or_else(|| ApiError::not_found("sessions are off"))
}

/// The sid of a path, and the core that owns it.
///
/// # Errors
/// 404 where sessions are off, 400 where it is none.
pub fn owner(
    admin: &Admin,
    path: Result<Path<String>, PathRejection>,
) -> Result<(Sid, usize), ApiError> {
    sessions_on(admin)?;
    let sid = path
        .ok()
        .and_then(|Path(text)| Sid::parse(text.as_bytes()).ok())
        .ok_or_else(|| ApiError::bad("a sid has 22 characters of base64url"))?;
    Ok((sid, shard_of(&sid, admin.desk.shared.cores)))
}

/// Where a page begins: the step, and the place within its shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cursor {
    step: usize,
    slot: u32,
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let (step, slot) = text.split_once('.')?;
        Some(Self {
            step: step.parse().ok()?,
            slot: slot.parse().ok()?,
        })
    }

    fn text(self) -> String {
        format!("{}.{}", self.step, self.slot)
    }
}

/// What a query asks for.
#[derive(Debug, Default)]
struct Wanted {
    limit: usize,
    cursor: Cursor,
    values: bool,
    filter: Option<(String, String)>,
}

impl Wanted {
    fn read(admin: &Admin, query: Parameters) -> Result<Self, ApiError> {
        let index = &sessions_on(admin)?.data.index;
        let Query(parameters) = query.map_err(|_| ApiError::bad("the query is malformed"))?;
        Self::parse(parameters, index)
    }

    fn parse(parameters: Vec<(String, String)>, index: &[String]) -> Result<Self, ApiError> {
        let mut wanted = Self {
            limit: DEFAULT_LIMIT,
            ..Self::default()
        };
        let mut seen = Vec::new();
        for (name, value) in parameters {
            if seen.contains(&name) {
                return Err(ApiError::bad(format!("{name} is given twice")));
            }
            match name.as_str() {
                "limit" => {
                    let limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=LIMIT).contains(limit));
                    wanted.limit =
                        limit.ok_or_else(|| ApiError::bad(format!("limit is 1 to {LIMIT}")))?;
                }
                "cursor" => {
                    wanted.cursor = Cursor::parse(&value)
                        .ok_or_else(|| ApiError::bad("cursor is the `next` of the page before"))?;
                }
                "values" => {
                    wanted.values = value
                        .parse()
                        .map_err(|_| ApiError::bad("values is true or false"))?;
                }
                field if !index.iter().any(|indexed| indexed == field) => {
                    return Err(ApiError::bad(format!(
                        "{field:?} is not an indexed field; session.data.index has: {}",
                        index.join(", ")
                    )));
                }
                _ if wanted.filter.is_some() => return Err(ApiError::bad("one field at a time")),
                field => wanted.filter = Some((field.to_owned(), value)),
            }
            seen.push(name);
        }
        Ok(wanted)
    }

    /// The filters to look through the shards with; a single `None` for all sessions.
    fn variants(&self) -> Vec<Option<Filter>> {
        let Some((name, value)) = &self.filter else {
            return vec![None];
        };
        let with = |value: Vec<u8>| {
            Some(Filter {
                name: Name::new(name),
                value: value.into(),
            })
        };
        let mut variants = vec![with(json_string(value))];
        let scalar = serde_json::from_str::<serde_json::Value>(value)
            .is_ok_and(|v| v.is_number() || v.is_boolean());
        if scalar {
            variants.push(with(value.trim().as_bytes().to_vec()));
        }
        variants
    }
}

#[derive(Serialize)]
struct Listed {
    sessions: Vec<Shown>,
    next: Option<String>,
}

/// A session as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    sid: String,
    created: String,
    last_access: String,
    expires: Option<String>,
    request_count: u64,
    version: u64,
    authenticated: bool,
    core: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Value>,
    data: BTreeMap<String, Value>,
}

/// A field's value, or that there is one.
#[derive(Serialize)]
#[serde(untagged)]
enum Value {
    Plain(Box<RawValue>),
    Masked(&'static str),
}

impl Value {
    fn new(json: Box<RawValue>, plain: bool) -> Self {
        if plain {
            Self::Plain(json)
        } else {
            Self::Masked("***")
        }
    }
}

impl Shown {
    /// `values`: as they are, else masked.
    pub fn new(view: &View, core: usize, values: bool) -> Self {
        let time = |ms: u64| Rfc3339(UNIX_EPOCH + Duration::from_millis(ms)).to_string();
        let data: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(&view.data).unwrap_or_default();
        let subject = view
            .subject
            .as_deref()
            .and_then(|json| serde_json::from_slice(json).ok());
        Self {
            sid: view.record.sid.to_string(),
            created: time(view.created),
            // Kept in quarters of a second, rounded down.
            last_access: time(view.last_access.max(view.created)),
            expires: view.expires.map(time),
            request_count: view.requests,
            version: view.version,
            authenticated: view.authenticated,
            core,
            subject: subject.map(|subject| Value::new(subject, values)),
            data: data
                .into_iter()
                .map(|(name, value)| (name, Value::new(value, values)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &[(&str, &str)]) -> Result<Wanted, String> {
        let parameters = query
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        Wanted::parse(parameters, &["userId".to_owned(), "cart".to_owned()])
            .map_err(|error| error.text)
    }

    #[test]
    fn queries() {
        let wanted = parse(&[
            ("limit", "7"),
            ("cursor", "3.99"),
            ("values", "true"),
            ("cart", "c"),
        ])
        .unwrap();
        assert_eq!((wanted.limit, wanted.values), (7, true));
        assert_eq!(wanted.cursor, Cursor { step: 3, slot: 99 });
        assert_eq!(wanted.cursor.text(), "3.99");
        assert_eq!(parse(&[]).unwrap().limit, DEFAULT_LIMIT);
        for bad in [
            &[("limit", "0")][..],
            &[("limit", "501")],
            &[("limit", "x")],
            &[("cursor", "1")],
            &[("cursor", "1.x")],
            &[("cursor", "-1.0")],
            &[("cursor", "1.4294967296")],
            &[("values", "yes")],
            &[("color", "red")],
            &[("userId", "a"), ("cart", "b")],
            &[("userId", "a"), ("userId", "b")],
            &[("limit", "1"), ("limit", "1")],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_value_means_the_string_and_the_scalar() {
        let values = |value: &str| -> Vec<Option<String>> {
            let wanted = parse(&[("userId", value)]).unwrap();
            let text = |f: Filter| String::from_utf8(f.value.to_vec()).unwrap();
            wanted
                .variants()
                .into_iter()
                .map(|filter| filter.map(text))
                .collect()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(values("u\"1"), [some("\"u\\\"1\"")]);
        assert_eq!(values("42"), [some("\"42\""), some("42")]);
        assert_eq!(values("true"), [some("\"true\""), some("true")]);
        assert_eq!(values("null"), [some("\"null\"")]);
        assert_eq!(values("[1]"), [some("\"[1]\"")]);
        assert_eq!(parse(&[]).unwrap().variants(), [None]);
    }
}
