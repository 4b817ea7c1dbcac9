//! Request methods.

use super::{Refusal, is_token};

/// Longest extension method, in bytes.
const MAX_METHOD: usize = 32;

/// A request method. Names are case-sensitive (RFC 9110, section 9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs, reason = "each is the method of that name")]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    /// Read, and refused by [`super::request()`].
    Connect,
    /// Read, and refused by [`super::request()`].
    Trace,
    /// Any other token; the head says where its bytes are.
    Extension,
}

impl Method {
    /// The method of these bytes.
    ///
    /// A token that differs from a method of ours only by case is refused: an upstream that folds
    /// case would take `head` for HEAD, and send a response without the body that we would wait for.
    pub fn read(bytes: &[u8]) -> Result<Method, Refusal> {
        Ok(match bytes {
            b"GET" => Method::Get,
            b"POST" => Method::Post,
            b"HEAD" => Method::Head,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            [] => return Err(Refusal::bad("empty method")),
            other if !is_token(other) => return Err(Refusal::bad("method is not a token")),
            other if other.len() > MAX_METHOD => return Err(Refusal::bad("method too long")),
            other
                if KNOWN
                    .iter()
                    .any(|m| other.eq_ignore_ascii_case(m.as_bytes())) =>
            {
                return Err(Refusal::bad("method in the wrong case"));
            }
            _ => Method::Extension,
        })
    }

    /// The method's name; `None` for an extension.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
            Method::Extension => return None,
        })
    }

    /// Doing it twice is doing it once (RFC 9110, section 9.2.2). An extension is not assumed so.
    pub fn idempotent(self) -> bool {
        matches!(
            self,
            Method::Get
                | Method::Head
                | Method::Put
                | Method::Delete
                | Method::Options
                | Method::Trace
        )
    }

    /// It asks for no change (RFC 9110, section 9.2.1).
    pub fn safe(self) -> bool {
        matches!(
            self,
            Method::Get | Method::Head | Method::Options | Method::Trace
        )
    }
}

const KNOWN: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_methods_round_trip_and_wrong_case_is_refused() {
        for name in KNOWN {
            assert_eq!(Method::read(name.as_bytes()).unwrap().name(), Some(name));
            assert!(Method::read(name.to_lowercase().as_bytes()).is_err());
        }
        assert_eq!(Method::read(b"PROPFIND"), Ok(Method::Extension));
        assert_eq!(Method::Extension.name(), None);
        assert!(!Method::Extension.idempotent() && !Method::Post.idempotent());
    }
}
