//! The names that the gateway knows, in one table.
//!
//! Owns [`Name`], [`TABLE`] and the classification of a line's name. Invariant: a name is
//! classified the same whatever the case of its letters; `_` in a name never makes it one of ours,
//! but is never overlooked either (see [`Name::Shadow`] and [`Name::Session`]).

use super::{Refusal, TOKEN};

/// What a header or trailer is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[allow(
    missing_docs,
    reason = "each is the header of that name, see the table"
)]
pub enum Name {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    Te,
    Trailer,
    Upgrade,
    Expect,
    Cookie,
    SetCookie,
    CacheControl,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    Forwarded,
    Via,
    XRequestId,
    Traceparent,
    UserAgent,
    AcceptLanguage,
    Origin,
    SecFetchSite,
    SecFetchMode,
    SecFetchDest,
    SecPurpose,
    Purpose,
    Authorization,
    ProxyAuthenticate,
    ProxyAuthorization,
    AccessControlRequestMethod,
    ContentType,
    Date,
    Server,
    RetryAfter,
    Location,
    AffinityClear,
    ClientCertSubject,
    /// Begins with the configured prefix, `X-Session-` by default; `_` counts as `-`.
    Session,
    /// Any other `X-Forwarded-*`, such as `X-Forwarded-Port`: from an untrusted peer, not forwarded.
    XForwarded,
    /// Differs from a name of ours only by `_` for `-`, as in `X_Forwarded_For`: many servers would
    /// take one for the other. Never forwarded. (Twins of framing names are refused outright.)
    Shadow,
    /// A header of everyday use that the gateway passes on without a look.
    Common,
    /// Any other token.
    #[default]
    Other,
}

impl Name {
    /// The canonical spelling; empty for those from [`Name::Session`] on, which have none.
    pub fn as_str(self) -> &'static str {
        if self.is_ours() {
            NAMES[self as usize]
        } else {
            ""
        }
    }

    /// Made for one connection, never forwarded (RFC 9110, section 7.6.1). `Trailer` is not one:
    /// trailers go on.
    pub fn hop_by_hop(self) -> bool {
        matches!(
            self,
            Name::Connection
                | Name::KeepAlive
                | Name::ProxyConnection
                | Name::Te
                | Name::TransferEncoding
                | Name::Upgrade
        )
    }

    /// May a `Connection` line name it, and so have it dropped? Not what the gateway itself reads
    /// or writes: else a client could strip `X-Forwarded-For` or a session header from the request
    /// that its upstream sees, or its length.
    pub fn nominable(self) -> bool {
        matches!(self, Name::Other | Name::Common | Name::Shadow) || self.hop_by_hop()
    }

    /// May it stand in a trailer (RFC 9110, section 6.5.1)? Nothing that frames, routes, controls,
    /// authenticates or describes the content, and nothing that steers a session.
    pub fn trailer(self) -> bool {
        self == Name::Other
    }

    /// Listed in the table under its own name.
    fn is_ours(self) -> bool {
        (self as u8) < Name::Session as u8
    }

    /// Its bit in a set of names.
    pub(crate) fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

/// What the configuration says about names.
#[derive(Debug, Clone)]
pub struct NameRules {
    /// Lower case, `-` for `_`; never empty.
    session_prefix: Box<[u8]>,
}

impl NameRules {
    /// Names that begin with `prefix`, in any case and with `_` for `-`, are [`Name::Session`]. An
    /// empty prefix matches nothing. Names of the table keep their meaning whatever the prefix.
    pub fn new(prefix: &str) -> NameRules {
        let session_prefix = prefix.bytes().map(fold).collect();
        NameRules { session_prefix }
    }

    /// Does a session header's name begin here?
    fn session(&self, name: &[u8]) -> bool {
        !self.session_prefix.is_empty() && starts_with(name, &self.session_prefix)
    }

    /// Classifies a name. It must hold no control bytes; it is checked to be a token.
    ///
    /// Errors: not a token, or a twin of a framing name by `_`.
    #[inline]
    pub fn classify(&self, name: &[u8]) -> Result<Name, Refusal> {
        // A hit needs no check of its bytes: setting bit 5 maps no byte but the other case of a
        // letter on a letter, and none but controls on digits and `-`.
        match lookup(name) {
            Some(known) => Ok(known),
            None => self.unknown(name),
        }
    }

    #[inline(never)]
    fn unknown(&self, name: &[u8]) -> Result<Name, Refusal> {
        let mut token = true;
        let mut underscore = false;
        for &b in name {
            token &= TOKEN[b as usize];
            underscore |= b == b'_';
        }
        if !token || name.is_empty() {
            return Err(wrong_name(name));
        }
        if self.session(name) {
            return Ok(Name::Session);
        }
        match starts_with(name, X_FORWARDED) {
            true if underscore => Ok(Name::Shadow),
            true => Ok(Name::XForwarded),
            false if underscore => shadow(name),
            false => Ok(Name::Other),
        }
    }
}

impl Default for NameRules {
    fn default() -> NameRules {
        NameRules::new("X-Session-")
    }
}

/// Why a name that is no token is none: the commonest attacks get words of their own.
#[cold]
fn wrong_name(name: &[u8]) -> Refusal {
    Refusal::bad(match name {
        [] => "empty header name",
        [b' ' | b'\t', ..] => "folded header line",
        [.., b' ' | b'\t'] => "white space before the colon of a header",
        _ => "header name is not a token",
    })
}

/// A name with `_`: what would it be with `-`?
fn shadow(name: &[u8]) -> Result<Name, Refusal> {
    let mut twin = [0u8; LONGEST];
    let Some(twin) = twin.get_mut(..name.len()) else {
        return Ok(Name::Other);
    };
    for (to, from) in twin.iter_mut().zip(name) {
        *to = fold(*from);
    }
    match lookup(twin) {
        Some(Name::ContentLength | Name::TransferEncoding) => {
            Err(Refusal::bad("underscore in the name of a framing header"))
        }
        Some(Name::Common) | None => Ok(Name::Other),
        Some(_) => Ok(Name::Shadow),
    }
}

const X_FORWARDED: &[u8] = b"x-forwarded-";

/// Does `name` begin with `prefix`, which is lower case, where `_` counts as `-`?
fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    name.len() >= prefix.len() && prefix.iter().zip(name).all(|(p, n)| *p == fold(*n))
}

const fn fold(b: u8) -> u8 {
    if b == b'_' {
        b'-'
    } else {
        b.to_ascii_lowercase()
    }
}

/// A name, and the words that it is recognised by.
struct Entry {
    text: &'static [u8],
    name: Name,
    /// The first 8 bytes and the last 8; they overlap in names of less than 16.
    head: u64,
    tail: u64,
}

const LOWER: u64 = 0x2020_2020_2020_2020;

/// First and last 8 bytes, bit 5 set in each; a short name is packed into one word.
#[inline(always)]
const fn words(name: &[u8]) -> (u64, u64) {
    if let (Some(head), Some(tail)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        (
            u64::from_le_bytes(*head) | LOWER,
            u64::from_le_bytes(*tail) | LOWER,
        )
    } else if let (Some(head), Some(tail)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        let both = u32::from_le_bytes(*head) as u64 | (u32::from_le_bytes(*tail) as u64) << 32;
        (both | LOWER, both | LOWER)
    } else {
        let mut both = 0;
        let mut i = 0;
        while i < name.len() {
            both = both << 8 | name[i] as u64;
            i += 1;
        }
        (both | LOWER, both | LOWER)
    }
}

#[inline(always)]
fn lookup(name: &[u8]) -> Option<Name> {
    let bounds = BY_LENGTH.get(name.len())?;
    let (head, tail) = words(name);
    for entry in &TABLE[bounds.0 as usize..bounds.1 as usize] {
        let matches = entry.head == head && entry.tail == tail;
        let middle = 8..name.len().saturating_sub(8);
        if matches && (name.len() <= 16 || same(&name[middle.clone()], &entry.text[middle])) {
            return Some(entry.name);
        }
    }
    None
}

/// Equal but for the case of letters; `b` is lower case.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.iter().zip(b).all(|(a, b)| a | 0x20 == *b)
}

/// Length of the longest name in the table.
const LONGEST: usize = 32;

/// For each length, the entries of that length.
static BY_LENGTH: [(u8, u8); LONGEST + 1] = {
    let mut bounds = [(0u8, 0u8); LONGEST + 1];
    let mut i = 0;
    while i < TABLE.len() {
        let len = TABLE[i].text.len();
        if bounds[len].1 == 0 {
            bounds[len].0 = i as u8;
        }
        bounds[len].1 = i as u8 + 1;
        i += 1;
    }
    bounds
};

const fn entry(text: &'static str, name: Name) -> Entry {
    let text = text.as_bytes();
    let (head, tail) = words(text);
    Entry {
        text,
        name,
        head,
        tail,
    }
}

/// The table, by length and, within one, by how often a name comes.
#[rustfmt::skip]
static TABLE: [Entry; 76] = [
    entry("te", Name::Te),
    entry("dnt", Name::Common),
    entry("via", Name::Via),
    entry("age", Name::Common),
    entry("host", Name::Host),
    entry("date", Name::Date),
    entry("etag", Name::Common),
    entry("vary", Name::Common),
    entry("from", Name::Common),
    entry("allow", Name::Common),
    entry("range", Name::Common),
    entry("cookie", Name::Cookie),
    entry("origin", Name::Origin),
    entry("accept", Name::Common),
    entry("server", Name::Server),
    entry("expect", Name::Expect),
    entry("pragma", Name::Common),
    entry("referer", Name::Common),
    entry("upgrade", Name::Upgrade),
    entry("trailer", Name::Trailer),
    entry("purpose", Name::Purpose),
    entry("alt-svc", Name::Common),
    entry("expires", Name::Common),
    entry("if-match", Name::Common),
    entry("if-range", Name::Common),
    entry("location", Name::Location),
    entry("priority", Name::Common),
    entry("sec-ch-ua", Name::Common),
    entry("forwarded", Name::Forwarded),
    entry("connection", Name::Connection),
    entry("user-agent", Name::UserAgent),
    entry("set-cookie", Name::SetCookie),
    entry("keep-alive", Name::KeepAlive),
    entry("tracestate", Name::Common),
    entry("traceparent", Name::Traceparent),
    entry("retry-after", Name::RetryAfter),
    entry("sec-purpose", Name::SecPurpose),
    entry("content-type", Name::ContentType),
    entry("x-request-id", Name::XRequestId),
    entry("max-forwards", Name::Common),
    entry("cache-control", Name::CacheControl),
    entry("if-none-match", Name::Common),
    entry("authorization", Name::Authorization),
    entry("accept-ranges", Name::Common),
    entry("last-modified", Name::Common),
    entry("content-range", Name::Common),
    entry("content-length", Name::ContentLength),
    entry("sec-fetch-site", Name::SecFetchSite),
    entry("sec-fetch-mode", Name::SecFetchMode),
    entry("sec-fetch-dest", Name::SecFetchDest),
    entry("sec-fetch-user", Name::Common),
    entry("accept-charset", Name::Common),
    entry("accept-encoding", Name::Common),
    entry("accept-language", Name::AcceptLanguage),
    entry("x-forwarded-for", Name::XForwardedFor),
    entry("referrer-policy", Name::Common),
    entry("content-encoding", Name::Common),
    entry("sec-ch-ua-mobile", Name::Common),
    entry("x-forwarded-host", Name::XForwardedHost),
    entry("proxy-connection", Name::ProxyConnection),
    entry("x-affinity-clear", Name::AffinityClear),
    entry("www-authenticate", Name::Common),
    entry("x-requested-with", Name::Common),
    entry("x-forwarded-proto", Name::XForwardedProto),
    entry("transfer-encoding", Name::TransferEncoding),
    entry("if-modified-since", Name::Common),
    entry("sec-ch-ua-platform", Name::Common),
    entry("proxy-authenticate", Name::ProxyAuthenticate),
    entry("proxy-authorization", Name::ProxyAuthorization),
    entry("content-disposition", Name::Common),
    entry("if-unmodified-since", Name::Common),
    entry("x-client-cert-subject", Name::ClientCertSubject),
    entry("x-content-type-options", Name::Common),
    entry("content-security-policy", Name::Common),
    entry("upgrade-insecure-requests", Name::Common),
    entry("access-control-request-method", Name::AccessControlRequestMethod),
];

/// Canonical spelling by discriminant.
#[rustfmt::skip]
static NAMES: [&str; Name::Session as usize] = [
    "Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Proxy-Connection",
    "TE", "Trailer", "Upgrade", "Expect", "Cookie", "Set-Cookie", "Cache-Control",
    "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "Via", "X-Request-ID",
    "traceparent", "User-Agent", "Accept-Language", "Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode",
    "Sec-Fetch-Dest", "Sec-Purpose", "Purpose", "Authorization", "Proxy-Authenticate",
    "Proxy-Authorization", "Access-Control-Request-Method", "Content-Type", "Date", "Server",
    "Retry-After", "Location", "X-Affinity-Clear", "X-Client-Cert-Subject",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Result<Name, Refusal> {
        NameRules::default().classify(name.as_bytes())
    }

    #[test]
    fn every_name_is_found_in_any_case() {
        let mut ours = 0;
        for entry in &TABLE {
            let text = std::str::from_utf8(entry.text).unwrap();
            assert_eq!(of(text), Ok(entry.name), "{text}");
            assert_eq!(of(&text.to_uppercase()), Ok(entry.name), "{text}");
            assert_ne!(of(&format!("{text}x")), Ok(entry.name), "{text}");
            assert_ne!(of(&text[1..]), Ok(Name::Host), "{text}");
            if entry.name != Name::Common {
                assert!(entry.name.as_str().eq_ignore_ascii_case(text), "{text}");
                ours += 1;
            }
        }
        assert_eq!(ours, NAMES.len());
        assert!(TABLE.is_sorted_by_key(|e| e.text.len()));
    }

    #[test]
    fn one_letter_changed_is_another_name() {
        for entry in TABLE.iter().filter(|e| e.name != Name::Common) {
            for at in 0..entry.text.len() {
                let mut text = entry.text.to_vec();
                text[at] = if text[at] == b'q' { b'z' } else { b'q' };
                assert_ne!(NameRules::default().classify(&text), Ok(entry.name));
            }
        }
    }

    #[test]
    fn underscores() {
        assert!(of("Content_Length").is_err());
        assert!(of("transfer_encoding").is_err());
        assert_eq!(of("X_Forwarded_For"), Ok(Name::Shadow));
        assert_eq!(of("x_forwarded-proto"), Ok(Name::Shadow));
        assert_eq!(of("Sec_Fetch_Site"), Ok(Name::Shadow));
        assert_eq!(of("x_forwarded_port"), Ok(Name::Shadow));
        assert_eq!(of("X-Forwarded_Port"), Ok(Name::Shadow));
        assert_eq!(of("X-Forwarded-Port"), Ok(Name::XForwarded));
        assert_eq!(of("X-Forwarded"), Ok(Name::Other));
        assert_eq!(of("my_header"), Ok(Name::Other));
        assert_eq!(of("accept_encoding"), Ok(Name::Other));
        assert_eq!(of("X_Session_ID"), Ok(Name::Session));
        assert_eq!(of("x-SESSION_anything"), Ok(Name::Session));
        assert_eq!(of("X-Session"), Ok(Name::Other));
        assert_eq!(
            NameRules::new("App_Sid-").classify(b"app-sid-x"),
            Ok(Name::Session)
        );
        assert_eq!(NameRules::new("").classify(b"anything"), Ok(Name::Other));
    }

    #[test]
    fn what_is_no_token() {
        assert_eq!(of("").unwrap_err().reason, "empty header name");
        assert_eq!(
            of("Host ").unwrap_err().reason,
            "white space before the colon of a header"
        );
        assert_eq!(of(" Host").unwrap_err().reason, "folded header line");
        for bad in ["a b", "a(b)", "é", "a/b", "a\"b", "[x]", "a@b", "a;b"] {
            assert_eq!(
                of(bad).unwrap_err().reason,
                "header name is not a token",
                "{bad}"
            );
        }
    }
}
