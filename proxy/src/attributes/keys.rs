//! Public keys that tokens are verified with: a JSON Web Key Set (RFC 7517), as read.
//!
//! Owns [`KeySet`]. Made by the control thread, read by all behind an `Arc`.
//!
//! Invariants: every key belongs to one family and, on curves, to one algorithm; symmetric keys of a set
//! are ignored, since whoever can read the set could sign with them; so are RSA keys of less than 2,048 bits,
//! which no verification accepts. Keys that we do not understand are skipped, not errors (RFC 7517, section 5).
//! Tested in `jwt_tests`.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_config::plan::Plan;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// Largest set that is read, in bytes.
pub const MAX_SET: usize = 1 << 20;

/// Most keys of a set that are kept.
const MAX_KEYS: usize = 256;

/// What kind of key an algorithm needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A shared secret.
    Hmac,
    /// RSA, PKCS #1 and PSS alike.
    Rsa,
    /// P-256.
    P256,
    /// P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

impl Family {
    /// Of an algorithm.
    pub fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Self::Hmac,
            Algorithm::ES256 => Self::P256,
            Algorithm::ES384 => Self::P384,
            Algorithm::EdDSA => Self::Ed25519,
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => Self::Rsa,
        }
    }
}

/// One key.
struct Key {
    kid: Option<String>,
    family: Family,
    /// The only algorithm that it may be used with, if it says so.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

/// Some keys.
#[derive(Default)]
pub struct KeySet(Vec<Key>);

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySet({} keys)", self.0.len())
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set.
    ///
    /// # Errors
    /// What is wrong, in words: it is no set, it is too large, or none of its keys can be used.
    pub fn parse(json: &[u8]) -> Result<Self, &'static str> {
        if json.len() > MAX_SET {
            return Err("is larger than a key set may be (1MiB)");
        }
        let set: Set = serde_json::from_slice(json).map_err(|_| "is no JSON Web Key Set")?;
        let keys: Vec<Key> = set
            .keys
            .into_iter()
            .filter_map(key)
            .take(MAX_KEYS)
            .collect();
        if keys.is_empty() {
            return Err("has no key that a token could be verified with");
        }
        Ok(Self(keys))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that a token of this algorithm and `kid` can have been signed with. One that names a key
    /// can't have been signed with another that has a name.
    pub fn fitting<'a>(
        &'a self,
        algorithm: Algorithm,
        kid: Option<&'a str>,
    ) -> impl Iterator<Item = &'a DecodingKey> + 'a {
        let family = Family::of(algorithm);
        let fits = move |key: &&Key| {
            key.family == family
                && key.algorithm.is_none_or(|only| only == algorithm)
                && match (kid, &key.kid) {
                    (Some(wanted), Some(known)) => wanted == known,
                    _ => true,
                }
        };
        // A bound on the work that one token without a `kid` can ask for.
        self.0.iter().filter(fits).take(8).map(|key| &key.key)
    }
}

/// One key of a set; nothing where it can't be used here.
fn key(json: serde_json::Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(json).ok()?;
    let signs = jwk.usage.as_deref().is_none_or(|u| u == "sig")
        && jwk
            .key_ops
            .as_ref()
            .is_none_or(|ops| ops.iter().any(|o| o == "verify"));
    if !signs {
        return None;
    }
    let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    let (family, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
            let bits = n.iter().skip_while(|b| **b == 0).count() * 8;
            if !(2048..=8192).contains(&bits) {
                return None;
            }
            (Family::Rsa, DecodingKey::from_rsa_raw_components(&n, &e))
        }
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            let (family, size) = match curve {
                "P-256" => (Family::P256, 32),
                _ => (Family::P384, 48),
            };
            let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
            if x.len() != size || y.len() != size {
                return None;
            }
            // Uncompressed form (SEC 1, 2.3.3).
            let point: Vec<u8> = [&[4][..], &x, &y].concat();
            (family, DecodingKey::from_ec_der(&point))
        }
        ("OKP", Some("Ed25519")) => {
            let x = bytes(&jwk.x).filter(|x| x.len() == 32)?;
            (Family::Ed25519, DecodingKey::from_ed_der(&x))
        }
        _ => return None,
    };
    let algorithm = match jwk.alg.as_deref() {
        None => None,
        // One that we do not know is none that we could use it with.
        Some(name) => Some(name.parse::<Algorithm>().ok()?),
    };
    if algorithm.is_some_and(|a| Family::of(a) != family) {
        return None;
    }
    Some(Key {
        kid: jwk.kid,
        family,
        algorithm,
        key,
    })
}

/// The keys of a plan's file; none where it names no file.
///
/// # Errors
/// One line that names the key of the configuration and the file.
pub fn load(plan: &Plan) -> Result<Arc<KeySet>, Vec<String>> {
    let Some(path) = plan.jwt.as_ref().and_then(|jwt| jwt.jwks_file.as_ref()) else {
        return Ok(Arc::default());
    };
    let keys = read(path).map_err(|error| {
        let path = path.display();
        vec![format!("gateway.auth.jwt.jwksFile: {path} {error}")]
    })?;
    Ok(Arc::new(keys))
}

/// Reads a file.
///
/// # Errors
/// What is wrong with it, in words that follow its name.
pub fn read(path: &Path) -> Result<KeySet, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let length = std::fs::metadata(path).map_err(cannot)?.len();
    if length > MAX_SET as u64 {
        return Err("is larger than a key set may be (1MiB)".to_owned());
    }
    let json = std::fs::read(path).map_err(cannot)?;
    KeySet::parse(&json).map_err(str::to_owned)
}
