//! Who is asking: the tokens a request carries, by source and priority, and the facts of the request
//! that identity depends on (client address, scheme, route).
//!
//! Owns [`Identity`], the configuration of sources in the form that the path needs, made once a
//! core. Pure; runs on a data core. It looks nothing up: whether a token is valid is the owner
//! shard's to say.
//!
//! Invariants: a token is taken only from a configured source, and decoded before anything is
//! asked; what a client calls itself is never adopted; over plain HTTP a secure cookie's token is not
//! accepted, but between two loopback ends that no proxy stands between.

use std::net::IpAddr;

use holdfast_config::plan::{Plan, Protocol, Source};
use holdfast_store::token::{Keys, Kind, Presented, Token, TokenError};
use smallvec::SmallVec;

use crate::accept::Conn;
use crate::accesslog::{Record, escaped};
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::metrics::Metric;
use crate::parse::cookies::{self, Rewrite};
use crate::parse::read::Parsed;
use crate::parse::{Name, RequestHead, query};
use crate::session::look::Looker;
use crate::text::Sink;

/// Tokens of one request that are looked at; more are not.
const MAX_CANDIDATES: usize = 8;

/// A configured source, ready for use.
#[derive(Debug)]
pub struct SourcePlan {
    /// The source.
    pub source: Source,
    /// Its name in lower case, for headers; as written, for the others.
    pub name: Vec<u8>,
}

/// Identity of one process, as a core uses it.
#[derive(Debug)]
pub struct Identity {
    /// By ascending priority number.
    pub sources: Vec<SourcePlan>,
    /// Signing keys of tokens.
    pub keys: Keys,
    /// What clients look like, where sessions check it.
    pub looker: Option<Looker>,
    /// `session.cookie.secure` of any cookie source.
    pub secure_cookie: bool,
    pin_bases: Vec<Vec<u8>>,
    headers: Vec<Vec<u8>>,
}

/// Facts of a request that every later step needs.
#[derive(Debug)]
pub struct Request {
    /// Index into `Plan::rules`.
    pub rule: usize,
    /// The client's address, by the rule for trusted proxies.
    pub client: IpAddr,
    /// The peer is one of `trustedProxies`.
    pub trusted_peer: bool,
    /// The client came by HTTPS: TLS ends here, or a trusted proxy says so.
    pub secure: bool,
    /// Plain HTTP between loopback ends: cookies go without `Secure`.
    pub laptop: bool,
    /// A Cookie line holds a cookie of ours.
    pub our_cookies: bool,
    /// Host is to be written anew (absolute-form).
    pub rewrite_host: bool,
    /// `Expect: 100-continue` goes on.
    pub expect_continue: bool,
    /// The query without our parameter, where it was there.
    pub query: Option<Box<[u8]>>,
    /// Made where the client sent none.
    pub made_request_id: Option<[u8; 32]>,
}

impl Request {
    /// The path that goes upstream.
    pub fn path<'a>(&'a self, conn: &'a Conn) -> &'a [u8] {
        conn.head.path(conn.input.as_slice())
    }

    /// The query that goes upstream.
    pub fn query<'a>(&'a self, conn: &'a Conn) -> Option<&'a [u8]> {
        match &self.query {
            Some(query) => (!query.is_empty()).then_some(query),
            None => conn.head.query_bytes(conn.input.as_slice()),
        }
    }
}

/// What a candidate turned out to be before anybody was asked.
#[derive(Debug, Clone, Copy)]
pub enum Candidate {
    /// A token to ask its owner about.
    Token(Presented),
    /// No token of ours: dead.
    Dead(TokenError),
    /// A secure cookie's token over plain HTTP: not accepted.
    Insecure,
}

/// A token that the request carries.
#[derive(Debug, Clone, Copy)]
pub struct Carried {
    /// Index into [`Identity::sources`].
    pub source: u8,
    /// What it is.
    pub candidate: Candidate,
}

/// A request whose tokens were found.
#[derive(Debug)]
pub struct Identified {
    /// Its facts.
    pub request: Request,
    /// Tokens by priority.
    pub carried: SmallVec<[Carried; 2]>,
    /// Values of pin cookies, as (name, value) ranges of the input.
    pub pins: SmallVec<[(std::ops::Range<u32>, std::ops::Range<u32>); 2]>,
}

impl Identity {
    /// From the plan. `random` is a key of the process.
    pub fn new(plan: &Plan, random: &[u8; 32]) -> Self {
        let mut pin_bases: Vec<Vec<u8>> = Vec::new();
        for affinity in plan.rules.iter().filter_map(|r| r.affinity.as_ref()) {
            let name = affinity.cookie.name.as_bytes().to_vec();
            if !pin_bases.contains(&name) {
                pin_bases.push(name);
            }
        }
        let Some(session) = &plan.session else {
            return Self {
                sources: Vec::new(),
                keys: Keys::default(),
                looker: None,
                secure_cookie: false,
                pin_bases,
                headers: Vec::new(),
            };
        };
        let sources: Vec<SourcePlan> = session
            .sources
            .iter()
            .map(|source| SourcePlan {
                name: match source {
                    Source::Cookie(cookie) => cookie.name.clone().into_bytes(),
                    Source::Header { name, .. } => name.to_ascii_lowercase().into_bytes(),
                    Source::Query { name } => name.clone().into_bytes(),
                },
                source: source.clone(),
            })
            .collect();
        let headers = sources
            .iter()
            .filter(|s| matches!(s.source, Source::Header { .. }))
            .map(|s| s.name.clone())
            .collect();
        let secure_cookie = sources
            .iter()
            .any(|s| matches!(&s.source, Source::Cookie(c) if c.secure));
        let keys = Keys::new(session.security.token_keys.iter().map(|k| k.0.as_slice()));
        Self {
            sources,
            keys,
            looker: Looker::new(session, random),
            secure_cookie,
            pin_bases,
            headers,
        }
    }

    /// What kind of source this is, in a word.
    pub fn source_word(&self, source: usize) -> &'static str {
        match self.sources.get(source).map(|s| &s.source) {
            Some(Source::Cookie(_)) => "cookie",
            Some(Source::Header { .. }) => "header",
            Some(Source::Query { .. }) => "query",
            None => "none",
        }
    }

    /// Is this the name of a header that carries tokens?
    pub fn is_identifier_header(&self, name: &[u8]) -> bool {
        self.headers.iter().any(|h| h.eq_ignore_ascii_case(name))
    }

    /// Is this the name of a cookie of ours: session or pin?
    pub fn is_our_cookie(&self, name: &[u8]) -> bool {
        self.session_cookie(name).is_some() || self.is_pin_cookie(name)
    }

    fn session_cookie(&self, name: &[u8]) -> Option<usize> {
        self.sources
            .iter()
            .position(|s| matches!(s.source, Source::Cookie(_)) && s.name == name)
    }

    fn is_pin_cookie(&self, name: &[u8]) -> bool {
        self.pin_bases.iter().any(|base| {
            name.strip_prefix(base.as_slice()).is_some_and(|rest| {
                rest.is_empty()
                    || (rest.len() == 9
                        && rest[0] == b'.'
                        && rest[1..].iter().all(u8::is_ascii_hexdigit))
            })
        })
    }

    /// Writes a Cookie line without our cookies; nothing if none is left.
    pub fn write_cookie_line(&self, value: &[u8], out: &mut holdfast_runtime::buffers::Buffer) {
        let mut rest = Vec::with_capacity(value.len());
        let rest = match cookies::without(value, |name| self.is_our_cookie(name), &mut rest) {
            Rewrite::Unchanged => value,
            Rewrite::Changed => &rest,
            Rewrite::Empty => return,
        };
        out.put(b"Cookie: ");
        out.put(rest);
        out.put(b"\r\n");
    }

    /// The request target as the access log shows it: query tokens masked.
    pub fn write_masked_target(
        &self,
        head: &RequestHead,
        buf: &[u8],
        json: bool,
        out: &mut Vec<u8>,
    ) {
        escaped(head.path(buf), json, out);
        let Some(text) = head.query_bytes(buf) else {
            return;
        };
        out.put(b"?");
        let mut masked = text.to_vec();
        for source in self
            .sources
            .iter()
            .filter(|s| matches!(s.source, Source::Query { .. }))
        {
            let mut next = Vec::with_capacity(masked.len());
            query::mask(&masked, &source.name, &mut next);
            masked = next;
        }
        escaped(&masked, json, out);
    }
}

/// What a head carries of ours, as far as it can be told without a connection.
#[derive(Debug, Default)]
pub struct Found {
    /// By priority: the source, and the token or why it is none.
    pub tokens: Vec<(usize, Result<Presented, TokenError>)>,
    /// Names and values of pin cookies.
    pub pins: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Finds the tokens and pin cookies of a head, for who only looks. Whether a secure cookie may come by this
/// connection is not judged.
pub fn seen(identity: &Identity, head: &RequestHead, buf: &[u8]) -> Found {
    let mut found = Found::default();
    let read = |text: &[u8], through| {
        let token = Token::decode(text, &identity.keys);
        token.map(|(token, signature)| token.presented(signature, through))
    };
    for pair in head.values(buf, Name::Cookie).flat_map(cookies::pairs) {
        if found.tokens.len() + found.pins.len() >= 2 * MAX_CANDIDATES {
            break;
        }
        if let Some(source) = identity.session_cookie(pair.name) {
            let token = read(pair.value, Kind::CookieOrHeader);
            found.tokens.push((source, token));
        } else if identity.is_pin_cookie(pair.name) {
            found.pins.push((pair.name.to_vec(), pair.value.to_vec()));
        }
    }
    for (i, source) in identity.sources.iter().enumerate() {
        let value = match source.source {
            Source::Cookie(_) => None,
            Source::Header { .. } => {
                let line = head.lines.iter().find(|l| l.is(buf, &source.name));
                let value = line.map(|line| line.value(buf));
                value.map(|value| read(value, Kind::CookieOrHeader))
            }
            Source::Query { .. } => {
                let value = head.query_bytes(buf);
                let value = value.and_then(|text| query::find(text, &source.name));
                value.map(|value| read(value, Kind::Query))
            }
        };
        found.tokens.extend(value.map(|token| (i, token)));
    }
    found.tokens.sort_by_key(|(source, _)| *source);
    found
}

/// Whether the upstreams of a rule are spoken to by HTTP/2. An upgrade does not cross to those; one to
/// another protocol than WebSocket is not asked for (RFC 9110, 7.8).
fn speaks_http2(conn: &Conn, rule: usize) -> bool {
    let plan = &conn.generation.plan;
    let service = plan
        .rules
        .get(rule)
        .and_then(|r| plan.services.get(r.service));
    service.is_some_and(|service| service.protocol == Protocol::H2)
}

/// Finds the tokens and pin cookies of a request.
pub fn identify(
    core: &Core,
    conn: &Conn,
    parsed: Parsed,
    record: &mut Record,
) -> Result<Identified, Refusal> {
    let mut identified = Identified {
        request: parsed.request,
        carried: SmallVec::new(),
        pins: SmallVec::new(),
    };
    record.client = Some(identified.request.client);
    record.rule = Some(identified.request.rule as u32);
    if conn.head.upgrade_websocket && speaks_http2(conn, identified.request.rule) {
        // Before anything is made for it, session or pin.
        return Err(Refusal::websocket());
    }
    let insecure = conn.generation.identity.secure_cookie
        && !identified.request.secure
        && !identified.request.laptop;
    if insecure {
        core.metrics().count(Metric::InsecureRequests);
        static SAID: crate::log::Once = crate::log::Once::new();
        SAID.warn(|| {
            "a request came over plain HTTP while the session cookie is secure: it gets no session; end TLS \
             here, name the proxy that ends it in trustedProxies, or set options.secure: false"
                .into()
        });
    }
    from_cookies(core, conn, insecure, &mut identified);
    from_headers(core, conn, &mut identified);
    from_query(core, conn, &mut identified);
    identified.carried.sort_by_key(|c| c.source);
    Ok(identified)
}

fn candidate(core: &Core, identity: &Identity, text: &[u8], through: Kind) -> Candidate {
    // The session is likely to be in no cache: it comes near while signature and digest are made.
    let early = |sid: &_| core.sessions.prefetch_index(sid);
    match Token::decode_with(text, &identity.keys, early) {
        Ok((token, signature)) => {
            core.sessions.prefetch_entry(&token.sid);
            Candidate::Token(token.presented(signature, through))
        }
        Err(error) => Candidate::Dead(error),
    }
}

fn push(identified: &mut Identified, source: usize, candidate: Candidate) {
    if identified.carried.len() < MAX_CANDIDATES {
        identified.carried.push(Carried {
            source: source as u8,
            candidate,
        });
    }
}

fn from_cookies(core: &Core, conn: &Conn, insecure: bool, identified: &mut Identified) {
    let identity = &conn.generation.identity;
    let buf = conn.input.as_slice();
    for line in conn.head.lines.iter().filter(|l| l.name == Name::Cookie) {
        for pair in cookies::pairs(line.value(buf)) {
            if let Some(source) = identity.session_cookie(pair.name) {
                identified.request.our_cookies = true;
                let secure =
                    matches!(&identity.sources[source].source, Source::Cookie(c) if c.secure);
                let found = if insecure && secure {
                    Candidate::Insecure
                } else {
                    candidate(core, identity, pair.value, Kind::CookieOrHeader)
                };
                push(identified, source, found);
            } else if identity.is_pin_cookie(pair.name) {
                identified.request.our_cookies = true;
                if identified.pins.len() < MAX_CANDIDATES {
                    identified
                        .pins
                        .push((within(buf, pair.name), within(buf, pair.value)));
                }
            }
        }
    }
}

/// Where `part`, which lies in `buf`, begins and ends.
fn within(buf: &[u8], part: &[u8]) -> std::ops::Range<u32> {
    let start = part.as_ptr() as usize - buf.as_ptr() as usize;
    start as u32..(start + part.len()) as u32
}

fn from_headers(core: &Core, conn: &Conn, identified: &mut Identified) {
    let identity = &conn.generation.identity;
    if identity.headers.is_empty() {
        return;
    }
    let buf = conn.input.as_slice();
    for (i, source) in identity.sources.iter().enumerate() {
        if !matches!(source.source, Source::Header { .. }) {
            continue;
        }
        for line in conn.head.lines.iter().filter(|l| l.is(buf, &source.name)) {
            let value = line.value(buf);
            if !value.is_empty() {
                push(
                    identified,
                    i,
                    candidate(core, identity, value, Kind::CookieOrHeader),
                );
            }
        }
    }
}

fn from_query(core: &Core, conn: &Conn, identified: &mut Identified) {
    let identity = &conn.generation.identity;
    for (i, source) in identity.sources.iter().enumerate() {
        if !matches!(source.source, Source::Query { .. }) {
            continue;
        }
        let Some(text) = identified.request.query(conn) else {
            return;
        };
        let Some(value) = query::find(text, &source.name) else {
            continue;
        };
        let found = candidate(core, identity, value, Kind::Query);
        let mut rest = Vec::with_capacity(text.len());
        query::remove(text, &source.name, &mut rest);
        push(identified, i, found);
        identified.request.query = Some(rest.into_boxed_slice());
    }
}
