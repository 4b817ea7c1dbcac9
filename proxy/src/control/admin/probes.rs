//! `/healthz` and `/readyz`: for those who restart us, and for those who send us clients.
//!
//! Healthy: the process lives and no data core stands still. Ready: every core listens, upstream names
//! have been looked up once, and no end has been asked for. Whether upstreams are up is no part of
//! either: taking every gateway out because a service is down would make it worse.
//! Tested below by tables.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::atomic::Ordering::Relaxed;

use super::error::ApiError;
use super::{Admin, plain};
use crate::control::shutdown::Phase;
use crate::control::status::Status;

/// GET /healthz
pub async fn healthz(State(admin): State<Admin>) -> Result<Response, ApiError> {
    Ok(answer(unhealthy(&admin.desk.status().await?)))
}

/// GET /readyz
pub async fn readyz(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let status = admin.desk.status().await?;
    Ok(answer(unready(
        &status,
        admin.desk.shared.unready.load(Relaxed),
    )))
}

fn answer(reasons: Vec<String>) -> Response {
    if reasons.is_empty() {
        plain(StatusCode::OK, "ok\n".to_owned())
    } else {
        plain(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}

/// Why the process is not healthy, a line each.
fn unhealthy(status: &Status) -> Vec<String> {
    let stalled = status
        .cores
        .iter()
        .enumerate()
        .filter_map(|(id, core)| Some((id, core.stalled?)));
    stalled
        .map(|(id, time)| format!("core {id} has stood still for {}s", time.as_secs()))
        .collect()
}

/// Why the process is not ready, a line each.
fn unready(status: &Status, asked: bool) -> Vec<String> {
    let mut reasons = unhealthy(status);
    let waiting = status
        .cores
        .iter()
        .enumerate()
        .filter(|(_, core)| !core.ready);
    reasons.extend(waiting.map(|(id, _)| format!("core {id} does not listen yet")));
    if status.resolving {
        reasons.push("upstream names are being looked up".to_owned());
    }
    match status.phase {
        Phase::Serving if asked => reasons.push("readiness was withdrawn".to_owned()),
        Phase::Serving => {}
        Phase::Unready => reasons.push("shutting down: still serving".to_owned()),
        Phase::Draining => reasons.push("shutting down: draining".to_owned()),
        Phase::Ended => reasons.push("shutting down".to_owned()),
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use holdfast_config::plan::Plan;
    use holdfast_config::{Mode, Source, load};

    use super::*;
    use crate::control::reload::Reloader;
    use crate::control::status::{ControlCounts, CoreStatus};
    use crate::setup::Setup;

    fn plan() -> Arc<Plan> {
        let source = Source {
            name: "test".into(),
            text: "gateway: { services: [{ upstreams: [{ address: \"127.0.0.1:1\" }] }] }".into(),
        };
        Arc::new(load(&[source], &|_| None, Mode::Run).plan.unwrap())
    }

    fn status(cores: &[(bool, Option<u64>)], resolving: bool, phase: Phase) -> Status {
        let core = |&(ready, stalled): &(bool, Option<u64>)| CoreStatus {
            ready,
            drained: false,
            stalled: stalled.map(Duration::from_secs),
        };
        Status {
            phase,
            cores: cores.iter().map(core).collect(),
            resolving,
            reloads: Reloader::new(Vec::new()).counts(),
            setup: Arc::new(Setup::first(plan(), 2, crate::tls::Built::default())),
            upstreams: Vec::new(),
            counts: ControlCounts::default(),
        }
    }

    #[test]
    fn reasons() {
        let fine = [(true, None), (true, None)];
        for (status, asked, healthy, ready) in [
            (status(&fine, false, Phase::Serving), false, vec![], vec![]),
            (
                status(&fine, false, Phase::Serving),
                true,
                vec![],
                vec!["readiness was withdrawn"],
            ),
            (
                status(&[(true, Some(7)), (false, None)], true, Phase::Draining),
                true,
                vec!["core 0 has stood still for 7s"],
                vec![
                    "core 0 has stood still for 7s",
                    "core 1 does not listen yet",
                    "upstream names are being looked up",
                    "shutting down: draining",
                ],
            ),
        ] {
            assert_eq!(unhealthy(&status), healthy);
            assert_eq!(unready(&status, asked), ready);
        }
    }
}
