//! `/api/explain`: why a request would go where it would go.
//!
//! Owns nothing: makes a request's head of what is asked, which a core judges as it would judge the request
//! ([`crate::explain`]), without touching anything. Runs on the control thread.
//!
//! Invariant: what is asked for can hold no line end, so it is one head. Tested end to end.

use std::net::{IpAddr, Ipv4Addr};

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::Admin;
use super::error::{ApiError, json as answer};

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    #[serde(default = "get_method")]
    method: String,
    #[serde(default = "localhost")]
    host: String,
    #[serde(default = "root")]
    path: String,
    #[serde(default, deserialize_with = "super::given")]
    client: Option<IpAddr>,
    #[serde(default, deserialize_with = "super::given")]
    cookie: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
}

fn get_method() -> String {
    "GET".to_owned()
}

fn localhost() -> String {
    "localhost".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

/// GET /api/explain
pub async fn get(
    State(admin): State<Admin>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = query
        .map_err(|_| ApiError::bad("the query takes method, host, path, client and cookie"))?;
    explain(&admin, &asked).await
}

/// POST /api/explain
pub async fn post(State(admin): State<Admin>, body: Body) -> Result<Response, ApiError> {
    let asked: Asked = super::body(body).await?;
    explain(&admin, &asked).await
}

async fn explain(admin: &Admin, asked: &Asked) -> Result<Response, ApiError> {
    let head = head(asked)?;
    let client = asked.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let explained = admin.desk.explain(head, client).await?;
    let explained = explained.map_err(ApiError::bad)?;
    Ok(answer(StatusCode::OK, &explained))
}

fn head(asked: &Asked) -> Result<Vec<u8>, ApiError> {
    let Asked {
        method, host, path, ..
    } = asked;
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    let cookie = asked.cookie.iter().map(|value| ("Cookie", value.as_str()));
    let others = asked.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    for (name, value) in cookie.chain(others) {
        if name.eq_ignore_ascii_case("host") || name.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(ApiError::bad(
                "host has a field of its own, and a header a plain name",
            ));
        }
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let lines = 2 + asked.headers.len() + usize::from(asked.cookie.is_some());
    let controls = text.chars().filter(|c| c.is_control()).count();
    if controls != 2 * lines {
        return Err(ApiError::bad("no part may hold a control character"));
    }
    text.push_str("\r\n");
    Ok(text.into_bytes())
}
