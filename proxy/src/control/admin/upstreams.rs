//! `/api/upstreams`: which there are, how they do, and an operator's hand on them.
//!
//! A state that is set holds until it is set again or the process ends; `ready` gives the decision back
//! to health. A weight, and an upstream that is added or removed, holds until the files are taken again.
//! Tested over sockets with the rest of `admin`.

use std::sync::atomic::Ordering::Relaxed;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use holdfast_config::plan::UpstreamAddress;
use serde_json::{Value, json};

use super::error::{ApiError, json as answer};
use super::{Admin, Audit};
use crate::control::edit::{Edit, What};
use crate::control::status::UpstreamStatus;
use crate::message::UpstreamRef;
use crate::pin::state::AdminState;
use crate::setup::{Setup, UpstreamId};

/// Service and upstream of a path.
pub type Names = Result<Path<(String, String)>, PathRejection>;

/// What a PUT brings.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default, deserialize_with = "super::given")]
    state: Option<String>,
    #[serde(default, deserialize_with = "super::given")]
    weight: Option<u32>,
}

/// What a POST brings.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    #[serde(default, deserialize_with = "super::given")]
    id: Option<String>,
    address: String,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    backup: bool,
}

fn one() -> u32 {
    1
}

/// GET /api/upstreams
pub async fn list(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let status = admin.desk.status().await?;
    let setup = &status.setup;
    let services = setup.plan.services.iter().enumerate().map(|(s, service)| {
        let upstreams = (0..service.upstreams.len()).filter_map(|u| {
            let known = status.upstreams.get(s)?.get(u)?;
            Some(upstream(
                setup,
                UpstreamRef {
                    service: s as u32,
                    upstream: u as u32,
                },
                known,
            ))
        });
        json!({ "service": service.name, "upstreams": upstreams.collect::<Vec<_>>() })
    });
    Ok(answer(
        StatusCode::OK,
        &json!({ "services": services.collect::<Vec<_>>() }),
    ))
}

/// GET /api/upstreams/{service}/{id}
pub async fn get(State(admin): State<Admin>, path: Names) -> Result<Response, ApiError> {
    let shown = one_of(&admin, read(path)?).await?;
    Ok(answer(StatusCode::OK, &shown))
}

/// PUT /api/upstreams/{service}/{id}
pub async fn put(
    State(admin): State<Admin>,
    path: Names,
    body: Body,
) -> Result<Response, ApiError> {
    let setup = admin.desk.setup();
    let names = read(path)?;
    let at = find(&setup, &names.0.0, &names.0.1)?;
    let change: Change = super::body(body).await?;
    let state = change.state.as_deref().map(|state| {
        AdminState::parse(state)
            .ok_or_else(|| ApiError::bad("state is one of ready, drain, maint, down"))
    });
    let state = state.transpose()?;
    if state.is_none() && change.weight.is_none() {
        return Err(ApiError::bad("a state or a weight is needed"));
    }
    let Path((service, id)) = names;
    let mut done = Vec::new();
    if let Some(weight) = change.weight {
        let what = What::Weight(id.clone(), weight);
        edit(&admin, &service, what).await?;
        done.push(format!("weight={weight}"));
    }
    if let Some(state) = state {
        admin.desk.set_state(id_of(&setup, at)?, state).await?;
        done.push(format!("state={}", state.name()));
    }
    let shown = one_of(&admin, Path((service, id))).await?;
    Ok(audited(answer(StatusCode::OK, &shown), done.join(" ")))
}

/// POST /api/upstreams/{service}
pub async fn add(
    State(admin): State<Admin>,
    path: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Response, ApiError> {
    let Path(service) = path.map_err(|_| ApiError::bad("the path is malformed"))?;
    let new: New = super::body(body).await?;
    let made = holdfast_config::upstream(new.id.as_deref(), &new.address, new.weight, new.backup);
    let made = made.ok_or_else(|| {
        ApiError::bad("address is host:port or unix:/path, id of letters, digits, `.`, `_` and `-`")
    })?;
    let id = made.id.clone();
    edit(&admin, &service, What::Add(made)).await?;
    let done = format!("upstream={id}");
    let shown = one_of(&admin, Path((service, id))).await?;
    Ok(audited(answer(StatusCode::CREATED, &shown), done))
}

/// DELETE /api/upstreams/{service}/{id}
pub async fn remove(State(admin): State<Admin>, path: Names) -> Result<Response, ApiError> {
    let Path((service, id)) = read(path)?;
    find(&admin.desk.setup(), &service, &id)?;
    edit(&admin, &service, What::Remove(id)).await?;
    Ok(answer(StatusCode::OK, &json!({ "removed": 1 })))
}

fn audited(mut response: Response, done: String) -> Response {
    response.extensions_mut().insert(Audit(done));
    response
}

/// Carries a change out, and waits until the cores go by it.
async fn edit(admin: &Admin, service: &str, what: What) -> Result<(), ApiError> {
    let service = service.to_owned();
    if !admin
        .desk
        .setup()
        .plan
        .services
        .iter()
        .any(|s| s.name == service)
    {
        return Err(ApiError::not_found("there is no such service"));
    }
    let outcome = admin.desk.edit(Edit { service, what }).await?;
    outcome
        .map(drop)
        .map_err(|errors| ApiError::new(StatusCode::CONFLICT, errors.join("; ")))
}

/// One upstream as it is shown.
async fn one_of(
    admin: &Admin,
    Path((service, id)): Path<(String, String)>,
) -> Result<Value, ApiError> {
    let status = admin.desk.status().await?;
    let at = find(&status.setup, &service, &id)?;
    let of_service = status.upstreams.get(at.service as usize);
    let known = of_service.and_then(|all| all.get(at.upstream as usize));
    let known = known.ok_or_else(|| ApiError::not_found("there is no such upstream"))?;
    Ok(upstream(&status.setup, at, known))
}

fn read(path: Names) -> Result<Path<(String, String)>, ApiError> {
    path.map_err(|_| ApiError::bad("the path is malformed"))
}

fn find(setup: &Setup, service: &str, id: &str) -> Result<UpstreamRef, ApiError> {
    let services = &setup.plan.services;
    let s = services
        .iter()
        .position(|s| s.name == service)
        .ok_or_else(|| ApiError::not_found("there is no such service"))?;
    let u = services
        .get(s)
        .and_then(|service| {
            service
                .upstreams
                .iter()
                .position(|upstream| upstream.id == id)
        })
        .ok_or_else(|| ApiError::not_found("the service has no such upstream"))?;
    Ok(UpstreamRef {
        service: s as u32,
        upstream: u as u32,
    })
}

fn id_of(setup: &Setup, at: UpstreamRef) -> Result<UpstreamId, ApiError> {
    let endpoint = setup
        .endpoints
        .get(at.service as usize)
        .and_then(|service| service.get(at.upstream as usize));
    endpoint
        .map(|endpoint| endpoint.id)
        .ok_or_else(|| ApiError::not_found("there is no such upstream"))
}

fn upstream(setup: &Setup, at: UpstreamRef, known: &UpstreamStatus) -> Value {
    let (s, u) = (at.service as usize, at.upstream as usize);
    let Some(plan) = setup
        .plan
        .services
        .get(s)
        .and_then(|service| service.upstreams.get(u))
    else {
        return Value::Null;
    };
    let address = match &plan.address {
        UpstreamAddress::Ip(address) => address.to_string(),
        UpstreamAddress::Name(name, port) => format!("{name}:{port}"),
        UpstreamAddress::Unix(path) => format!("unix:{}", path.display()),
    };
    let endpoint = setup.endpoints.get(s).and_then(|service| service.get(u));
    let active = endpoint.map_or(0, |endpoint| endpoint.active.load(Relaxed));
    let counted = endpoint.iter().flat_map(|endpoint| &endpoint.cores);
    let (requests, failures) = counted.fold((0u64, 0u64), |(requests, failures), of_core| {
        let add = |sum: u64, counter: &std::sync::atomic::AtomicU64| {
            sum.wrapping_add(counter.load(Relaxed))
        };
        (
            add(requests, &of_core.requests),
            add(failures, &of_core.failures),
        )
    });
    json!({
        "id": plan.id,
        "address": address,
        "addresses": known.addresses,
        "weight": plan.weight,
        "backup": plan.backup,
        "state": known.state.name(),
        "admin": known.admin.name(),
        "health": health(known),
        "lastCheck": known.last_check,
        "checks": { "passed": known.checks_passed, "failed": known.checks_failed },
        "active": active,
        "requests": requests,
        "failures": failures,
    })
}

/// Health's opinion: `up`, `drain` or `down`.
fn health(known: &UpstreamStatus) -> &'static str {
    match known.health {
        crate::pin::state::UpstreamState::Ready => "up",
        other => other.name(),
    }
}
