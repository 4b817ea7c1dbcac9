//! The dashboard at `/`, and the description of the API.
//!
//! Owns both texts; they are part of the binary. The dashboard is one page without anything from elsewhere:
//! its policy lets it run its own script and talk to its own endpoint, and nothing else. It holds nothing
//! of the instance, so it needs no token; what it shows it asks for with the token that is typed in.
//! Tested below, and end to end.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const DASHBOARD: &str = include_str!("static/dashboard.html");
const OPENAPI: &str = include_str!("static/openapi.json");

/// GET /
pub async fn dashboard() -> Response {
    let headers: [(HeaderName, String); 4] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (StatusCode::OK, headers, DASHBOARD).into_response()
}

/// GET /api/openapi.json
pub async fn openapi() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let text = OPENAPI.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    (StatusCode::OK, headers, text).into_response()
}

/// What the page may do.
fn policy() -> String {
    let hash = |tag: &str| {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let inner = DASHBOARD.split_once(&open).map_or("", |(_, rest)| rest);
        let inner = inner.split_once(&close).map_or("", |(inner, _)| inner);
        STANDARD.encode(Sha256::digest(inner))
    };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_nothing_from_elsewhere() {
        for word in ["http:", "https:", "src=", "@import", "url(", "//cdn"] {
            assert!(!DASHBOARD.contains(word), "{word}");
        }
        // Text of the instance is never read as markup.
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!DASHBOARD.contains(word), "{word}");
        }
        assert_eq!(DASHBOARD.matches("<script>").count(), 1);
        assert_eq!(
            DASHBOARD.matches(" style=").count(),
            0,
            "the policy forbids it"
        );
        let empty = STANDARD.encode(Sha256::digest(""));
        assert!(!policy().contains(&empty));
    }

    #[test]
    fn the_description_is_json_and_its_references_lead_somewhere() {
        let whole: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut all = vec![&whole];
        let mut count = 0;
        while let Some(value) = all.pop() {
            if let Some(to) = value.get("$ref").and_then(|to| to.as_str()) {
                let pointer = to.strip_prefix('#').unwrap();
                assert!(whole.pointer(pointer).is_some(), "{to}");
                count += 1;
            }
            match value {
                serde_json::Value::Array(items) => all.extend(items),
                serde_json::Value::Object(members) => all.extend(members.values()),
                _ => {}
            }
        }
        assert!(count > 20);
    }
}
