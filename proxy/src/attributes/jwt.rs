//! JSON Web Tokens: what makes one good (RFC 7515, 7518, 7519, 8725).
//!
//! Owns [`Verifier`], what the configuration asks of a token. Pure: bytes, keys and the time are arguments.
//!
//! Invariants: any bytes give an answer, never a panic; an unverified token costs one pass over a bounded
//! number of bytes, and of its content only `alg`, `kid` and `crit` are looked at; the algorithm must be one of
//! those configured *and* the key must be one made for it, so that a token chooses nothing (RFC 8725, 3.1);
//! no claim is read before the signature was verified.
//!
//! Deliberately absent: encrypted tokens, keys that a token brings along (`jwk`, `jku`, `x5c`), and
//! detached or unencoded payloads; all of these are refused or ignored. Tested in `jwt_tests`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_config::plan;
use holdfast_store::fields::{Fields, Name};
use holdfast_store::shard::{Attribute, Attributes};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::headers::is_once;
use super::keys::{Family, KeySet};
use crate::metrics::Metric;

/// Longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Why a token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Not of the form, too long, or asking for an extension (`crit`).
    Malformed,
    /// Its algorithm is not one of those configured.
    Algorithm,
    /// No key is known that could have made it.
    Key,
    /// The signature is wrong.
    Signature,
    /// Past its `exp`.
    Expired,
    /// Before its `nbf`.
    Early,
    /// Another `iss`.
    Issuer,
    /// Another `aud`.
    Audience,
}

impl Fault {
    /// What counts it.
    pub fn metric(self) -> Metric {
        match self {
            Self::Malformed => Metric::JwtMalformed,
            Self::Algorithm => Metric::JwtAlgorithm,
            Self::Key => Metric::JwtKey,
            Self::Signature => Metric::JwtSignature,
            Self::Expired => Metric::JwtExpired,
            Self::Early => Metric::JwtEarly,
            Self::Issuer => Metric::JwtIssuer,
            Self::Audience => Metric::JwtAudience,
        }
    }
}

/// A good token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The Unix second from which it is not good any more, leeway included; `u64::MAX` is never.
    pub until: u64,
    /// What it says of its session.
    pub attributes: Attributes,
}

/// One claim that becomes an attribute.
#[derive(Debug)]
struct Mapping {
    claim: String,
    attribute: Name,
    once: bool,
}

/// What is asked of a token.
pub struct Verifier {
    algorithms: Vec<Algorithm>,
    secret: Option<DecodingKey>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway: u64,
    mappings: Vec<Mapping>,
    /// Which of `mappings` names the subject.
    subject: Option<usize>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<std::borrow::Cow<'a, str>>,
    crit: Option<IgnoredAny>,
}

impl Verifier {
    /// From the plan.
    pub fn new(jwt: &plan::Jwt, session: Option<&plan::Session>) -> Self {
        let mapping = |session: &plan::Session, (claim, attribute): &(String, String)| Mapping {
            claim: claim.clone(),
            attribute: Name::new(attribute),
            once: is_once(&session.security, attribute),
        };
        let mappings: Vec<Mapping> = session.map_or_else(Vec::new, |session| {
            let all = session.from_auth.iter();
            all.map(|pair| mapping(session, pair)).collect()
        });
        let named = session.map(|s| Name::new(&s.subject));
        Self {
            algorithms: jwt
                .algorithms
                .iter()
                .filter_map(|a| a.parse().ok())
                .collect(),
            secret: jwt.secret.as_ref().map(|s| DecodingKey::from_secret(&s.0)),
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.clone(),
            leeway: jwt.leeway.as_secs(),
            subject: mappings
                .iter()
                .position(|m| Some(&m.attribute) == named.as_ref()),
            mappings,
        }
    }

    /// Judges a token at the Unix second `now`.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn verify(&self, keys: &KeySet, token: &[u8], now: u64) -> Result<Verified, Fault> {
        if token.len() > MAX_TOKEN {
            return Err(Fault::Malformed);
        }
        let token = std::str::from_utf8(token).map_err(|_| Fault::Malformed)?;
        let (message, signature) = token.rsplit_once('.').ok_or(Fault::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(Fault::Malformed)?;
        if payload.contains('.') || signature.is_empty() {
            return Err(Fault::Malformed);
        }
        let header = decode(header)?;
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| Fault::Malformed)?;
        if header.crit.is_some() {
            // Whoever does not know an extension must refuse it, and we know none (RFC 7515, 4.1.11).
            return Err(Fault::Malformed);
        }
        let algorithm: Algorithm = header.alg.parse().map_err(|_| Fault::Algorithm)?;
        if !self.algorithms.contains(&algorithm) {
            return Err(Fault::Algorithm);
        }
        self.signature(keys, algorithm, header.kid.as_deref(), message, signature)?;
        self.claims(&decode(payload)?, now)
    }

    fn signature(
        &self,
        keys: &KeySet,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &str,
        signature: &str,
    ) -> Result<(), Fault> {
        let good = |key: &DecodingKey| {
            crypto::verify(signature, message.as_bytes(), key, algorithm).unwrap_or(false)
        };
        if Family::of(algorithm) == Family::Hmac {
            // The secret of the configuration alone: a key that was published is no secret.
            let secret = self.secret.as_ref().ok_or(Fault::Key)?;
            return if good(secret) {
                Ok(())
            } else {
                Err(Fault::Signature)
            };
        }
        let mut fits = keys.fitting(algorithm, kid).peekable();
        if fits.peek().is_none() {
            return Err(Fault::Key);
        }
        if fits.any(good) {
            Ok(())
        } else {
            Err(Fault::Signature)
        }
    }

    fn claims(&self, payload: &[u8], now: u64) -> Result<Verified, Fault> {
        let claims = Fields::parse(payload).map_err(|_| Fault::Malformed)?;
        let claim = |name: &str| find(&claims, name);
        let until = match claim("exp") {
            Some(exp) => number(&exp)?.saturating_add(self.leeway),
            None => u64::MAX,
        };
        if until <= now {
            return Err(Fault::Expired);
        }
        if let Some(nbf) = claim("nbf")
            && number(&nbf)? > now.saturating_add(self.leeway)
        {
            return Err(Fault::Early);
        }
        if let Some(issuer) = &self.issuer
            && !claim("iss").is_some_and(|iss| is_text(&iss, issuer))
        {
            return Err(Fault::Issuer);
        }
        if let Some(audience) = &self.audience
            && !claim("aud").is_some_and(|aud| has_text(&aud, audience))
        {
            return Err(Fault::Audience);
        }
        Ok(Verified {
            until,
            attributes: self.attributes(&claims, until),
        })
    }

    /// A token without the claim that names the subject says nothing of a session: what it says could be
    /// anybody's. A claim that is missing takes its attribute away: what an earlier token granted is over.
    fn attributes(&self, claims: &Fields, until: u64) -> Attributes {
        let subject = self.subject.and_then(|at| self.mappings.get(at));
        let subject = match subject.map(|m| find(claims, &m.claim)) {
            Some(None) => return Attributes::default(),
            Some(subject) => subject,
            None => None,
        };
        let expires = match until {
            u64::MAX => 0,
            until => u32::try_from(until).unwrap_or(u32::MAX),
        };
        let attribute = |mapping: &Mapping| {
            let value = find(claims, &mapping.claim);
            Attribute {
                name: mapping.attribute.clone(),
                expires: if value.is_some() { expires } else { 0 },
                value,
                once: mapping.once,
            }
        };
        Attributes::new(self.mappings.iter().map(attribute).collect(), subject)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, Fault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Fault::Malformed)
}

/// The value of a claim as minified JSON: by its whole name, else by a path whose steps are joined by dots.
fn find(claims: &Fields, name: &str) -> Option<Box<[u8]>> {
    let of = |fields: &Fields, name: &str| {
        let name = Name::new(name);
        let field = fields.iter().find(|f| f.name == name)?;
        field.value.clone()
    };
    of(claims, name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        find(&Fields::parse(&of(claims, first)?).ok()?, rest)
    })
}

/// Seconds of a NumericDate (RFC 7519, section 2), which may have a fraction.
fn number(json: &[u8]) -> Result<u64, Fault> {
    let seconds: f64 = serde_json::from_slice(json).map_err(|_| Fault::Malformed)?;
    // A cast clamps: what lies before 1970 is 0, and nothing is longer than never.
    Ok(seconds.floor() as u64)
}

fn is_text(json: &[u8], wanted: &str) -> bool {
    serde_json::from_slice::<String>(json).is_ok_and(|text| text == wanted)
}

/// `aud` is one string or a list of strings.
fn has_text(json: &[u8], wanted: &str) -> bool {
    is_text(json, wanted)
        || serde_json::from_slice::<Vec<String>>(json)
            .is_ok_and(|list| list.iter().any(|text| text == wanted))
}
