//! Keys, validation and rotation.

use std::time::Duration;

use super::Facts;
use crate::plan::*;
use crate::report::Report;
use crate::view::View;

/// Shortest master key, in characters; 32 bytes in base64 or hex are longer.
const MIN_MASTER: usize = 20;
/// Signing secrets shorter than this can be guessed.
const SHORT_SECRET: usize = 16;
/// Bytes of a random key.
const KEY_BYTES: usize = 32;

pub(super) fn security(session: &View<'_>, facts: &Facts, report: &mut Report) -> Security {
    let view = session.at("security");
    let validation = view.at("validation");
    let hijack = view.at("antiHijacking");
    let token_keys = token_keys(&view.at("encryption"), facts, report);
    let data_keys = data_keys(session, facts, report);
    let interval = hijack.at("rotateInterval").duration();
    let rotates = hijack.on() && hijack.at("rotateId").bool();
    if rotates {
        rotation(session, facts, report);
    }
    Security {
        token_keys,
        key_rotation: key_rotation(session, facts, !data_keys.is_empty(), report),
        data_keys,
        guess_limit: view.at("guessLimit").rate(),
        check_ip: validation.at("checkIP").bool(),
        check_user_agent: validation.at("checkUserAgent").bool(),
        check_fingerprint: validation.at("checkFingerprint").bool(),
        check_tenant: validation.at("checkTenant").bool(),
        on_mismatch: action(&validation.at("onMismatch")),
        ip_prefix: (
            validation.at("ipPrefix.v4").int(),
            validation.at("ipPrefix.v6").int(),
        ),
        exact: validation.at("exact").bool(),
        tenant_attribute: tenant(session, report),
        rotate_interval: (rotates && !interval.is_zero()).then_some(interval),
        rotate_grace: hijack.at("rotateGrace").duration(),
        on_reuse: action(&hijack.at("onReuse")),
    }
}

fn action(view: &View<'_>) -> OnMismatch {
    match view.text().as_deref() {
        Some("reject") => OnMismatch::Reject,
        Some("destroy") => OnMismatch::Destroy,
        Some("observe") => OnMismatch::Observe,
        _ => OnMismatch::Refuse,
    }
}

/// Every process must make the same offers, so what they derive from must be shared.
fn rotation(session: &View<'_>, facts: &Facts, report: &mut Report) {
    let known = [
        "security.encryption.id.secret",
        "security.encryption.data.key",
        "replication.secret",
    ];
    if facts.shared && !known.iter().any(|key| session.at(key).written()) {
        session.at("security.antiHijacking.rotateId").error(
            report,
            "with a store or peers it needs a key that all instances share: `security.encryption.id.secret`, `security.encryption.data.key` or `replication.secret`",
        );
    }
}

fn tenant(session: &View<'_>, report: &mut Report) -> String {
    let validation = session.at("security.validation");
    let database = session.at("storage.type").text().as_deref() == Some("database");
    let partition = || {
        session
            .at("storage.database.partitionKey")
            .text()
            .filter(|_| database)
    };
    let name = validation
        .at("tenantAttribute")
        .text()
        .or_else(partition)
        .unwrap_or_else(|| "tenantId".into());
    let set = ["attributes.fromHeaders", "attributes.fromAuth"]
        .iter()
        .flat_map(|list| session.at(list).items())
        .any(|item| item.at("attribute").text().as_deref() == Some(name.as_str()));
    if validation.at("checkTenant").bool() && !set {
        validation.at("checkTenant").warn(
            report,
            format!("has no effect: nothing in `attributes` sets {name:?}"),
        );
    }
    name
}

fn token_keys(encryption: &View<'_>, facts: &Facts, report: &mut Report) -> Vec<Secret> {
    let id = encryption.at("id");
    let on = encryption.on() && id.on();
    if !on {
        return Vec::new();
    }
    let secret = id.at("secret");
    let keys = secret.secrets();
    if keys.iter().any(|k| k.0.len() < SHORT_SECRET) {
        secret.warn(
            report,
            format!("a secret of fewer than {SHORT_SECRET} characters can be guessed"),
        );
    }
    if !keys.is_empty() || secret.written() {
        return keys;
    }
    if facts.shared {
        id.error(report, "`secret` is required where sessions are shared: every instance must verify the others' tokens");
        return keys;
    }
    id.warn(
        report,
        "no `secret`: a random one is made, so tokens end with the process",
    );
    random(id, report)
}

fn data_keys(session: &View<'_>, facts: &Facts, report: &mut Report) -> Vec<Secret> {
    let encryption = session.at("security.encryption");
    let key = encryption.at("data.key");
    let keys = key.secrets();
    if keys.iter().any(|k| k.0.len() < MIN_MASTER) {
        key.error(report, format!("expected 32 bytes in base64 or hex, or a passphrase of {MIN_MASTER} characters or more, found ***"));
    }
    if !sealing(session, report) {
        return Vec::new();
    }
    if !keys.is_empty() || key.written() {
        return keys;
    }
    let by_data = session.at("data.encryption");
    let at = if encryption.written() {
        encryption
    } else {
        by_data
    };
    if facts.shared {
        at.error(
            report,
            "sealing needs `security.encryption.data.key` where other processes read sessions",
        );
        return keys;
    }
    at.warn(report, "no `security.encryption.data.key`: a random one is made, so nothing sealed can be opened after a restart");
    random(at, report)
}

/// Either block turns sealing on; opposite words in the two are an error. A `security.encryption` that is
/// there for signed tokens alone (only `id` in it) asks for no sealing.
fn sealing(session: &View<'_>, report: &mut Report) -> bool {
    let data = session.at("data.encryption");
    let security = session.at("security.encryption");
    let (a, b) = (
        data.at("enabled").bool_if_written(),
        security.at("enabled").bool_if_written(),
    );
    if let (Some(a), Some(b)) = (a, b)
        && a != b
    {
        let other = security.at("enabled").path().to_owned();
        data.at("enabled").error(
            report,
            format!("is {a}, but {other} is {b}; expected the same in both"),
        );
    }
    a == Some(true)
        || b == Some(true)
        || (a.is_none() && data.written())
        || (b.is_none() && security.at("data").written())
}

/// 0 is never: worth a word where it was asked for, and where records do leave the process.
fn key_rotation(session: &View<'_>, facts: &Facts, seals: bool, report: &mut Report) -> Duration {
    let view = session.at("data.encryption.keyRotation");
    let d = view.duration();
    // An epoch is a whole number of seconds in 32 bits.
    if !d.is_zero() && d < Duration::from_secs(60) {
        view.error(
            report,
            format!("expected 0 or at least 1m, found {}", view.shown()),
        );
    }
    if d.is_zero() && seals && (view.written() || facts.shared) {
        view.warn(
            report,
            "0: the sealing key never changes, so ever more data lies under one; 24h is usual",
        );
    }
    d
}

fn random(at: View<'_>, report: &mut Report) -> Vec<Secret> {
    let mut bytes = vec![0; KEY_BYTES];
    match getrandom::fill(&mut bytes) {
        Ok(()) => vec![Secret(bytes)],
        Err(e) => {
            at.error(report, format!("no random key could be made: {e}"));
            Vec::new()
        }
    }
}
