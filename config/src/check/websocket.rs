//! WebSocket policy.

use crate::plan::{Recovery, WebSocket};
use crate::report::Report;
use crate::view::View;

pub(super) fn websocket(gateway: &View<'_>, report: &mut Report) -> WebSocket {
    let view = gateway.at("websocket");
    let sessions = view.at("sessions");
    let persistence = sessions.at("persistence");
    let recovery = sessions.at("recovery");
    let affinity = view.at("sessionAffinity");
    let failover = affinity.at("failover");
    if sessions.on() && recovery.on() && !persistence.on() {
        recovery.error(
            report,
            "recovery needs `persistence`: messages are kept only while the upstream connection is",
        );
    }
    if recovery.at("maxBytes").size() > recovery.at("maxTotalBytes").size() {
        recovery
            .at("maxBytes")
            .error(report, "is more than maxTotalBytes");
    }
    if sessions.on()
        && recovery.on()
        && recovery.at("mode").text().as_deref() == Some("transparent")
    {
        let what = "transparent recovery is best effort: what the lost connection had taken and the client had not read is lost; `mode: negotiated` loses nothing";
        recovery.warn(report, what);
    }
    let sticky = affinity.at("stickyReconnect");
    if affinity.on() && !sticky.bool() {
        sticky.warn(
            report,
            "not built yet: choosing anew for a socket that is opened again; its pin is used",
        );
    }
    WebSocket {
        enabled: sessions.on(),
        allowed_origins: view
            .at("allowedOrigins")
            .texts()
            .iter()
            .map(|o| o.to_ascii_lowercase())
            .collect(),
        keep_on_session_end: view.at("onSessionEnd").text().as_deref() == Some("keep"),
        persistence: (sessions.on() && persistence.on())
            .then(|| persistence.at("timeout").duration()),
        recovery: (sessions.on() && recovery.on()).then(|| Recovery {
            message_buffer: recovery.at("messageBuffer").int(),
            max_bytes: recovery.at("maxBytes").size(),
            max_total_bytes: recovery.at("maxTotalBytes").size(),
            negotiated: recovery.at("mode").text().as_deref() == Some("negotiated"),
        }),
        fresh_on_reconnect: affinity.on() && !sticky.bool(),
        failover: (affinity.on() && failover.on()).then(|| failover.at("transferSession").bool()),
    }
}
