//! `/api/config` and `/api/cluster`: what this instance goes by, and who else there is.
//!
//! Owns nothing. Runs on the control thread. Invariant: no secret is shown. Tested end to end.

use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::Admin;
use super::error::{ApiError, json as answer};
use crate::control::shutdown::Phase;

/// GET /api/config
pub async fn config(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let setup = admin.desk.setup();
    Ok(answer(
        StatusCode::OK,
        &json!({
            "configuration": setup.number,
            "written": setup.plan.written,
        }),
    ))
}

/// GET /api/cluster
pub async fn cluster(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let status = admin.desk.status().await?;
    let shared = &admin.desk.shared;
    let ready = !shared.unready.load(Relaxed)
        && !status.resolving
        && status.cores.iter().all(|core| core.ready);
    let node = &status.setup.plan.node;
    Ok(answer(
        StatusCode::OK,
        &json!({
            "node": node,
            "nodes": [{
                "node": node,
                "self": true,
                "version": env!("CARGO_PKG_VERSION"),
                "state": match status.phase {
                    Phase::Serving if ready => "ready",
                    Phase::Serving => "starting",
                    _ => "ending",
                },
                "cores": shared.cores,
                "connections": shared.connections.load(Relaxed),
                "sessions": shared.sessions.load(Relaxed),
                "configuration": status.setup.number,
            }],
        }),
    ))
}
