//! What makes a token good, and what must not.

use std::sync::LazyLock;

use holdfast_config::{Mode, Source, load, plan::Plan};
use jsonwebtoken::Algorithm;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::jwt::{Fault, MAX_TOKEN, Verified, Verifier};
use super::keys::KeySet;

#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../../tests/e2e/harness/signer.rs"]
mod signer;

use signer::{P256, RSA, Signer, base64, key_set};

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a shared secret of the tests, long enough";

static P384: LazyLock<Signer> = LazyLock::new(|| Signer::ec("ec-2", Algorithm::ES384));
static ED: LazyLock<Signer> = LazyLock::new(|| Signer::ed("ed-1"));
static HMAC: LazyLock<Signer> = LazyLock::new(|| Signer::hmac(SECRET));
static CHEAP: LazyLock<Verifier> = LazyLock::new(|| verifier(ALL));

fn plan(jwt: &str, attributes: &str) -> Plan {
    let source = Source {
        name: "test".into(),
        text: format!(
            "gateway:
  services: [{{ name: s, upstreams: [{{ address: \"127.0.0.1:1\" }}] }}]
  auth: {{ jwt: {{ jwksFile: x, secret: \"{}\", {jwt} }} }}
  session: {{ options: {{ secure: false }}, {attributes} }}
",
            String::from_utf8_lossy(SECRET)
        ),
    };
    let outcome = load(&[source], &|_| None, Mode::Run);
    outcome
        .plan
        .unwrap_or_else(|| panic!("{:?}", outcome.errors))
}

const ALL: &str = "algorithms: [HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA]";
const MAPPED: &str = "attributes: { fromAuth: [{ claim: sub, attribute: userId }, { claim: realm.roles, attribute: roles }] }";

fn verifier(jwt: &str) -> Verifier {
    let plan = plan(jwt, MAPPED);
    Verifier::new(plan.jwt.as_ref().expect("tokens"), plan.session.as_ref())
}

fn all_keys() -> KeySet {
    let set = key_set(&[&RSA, &P256, &P384, &ED, &HMAC]);
    KeySet::parse(set.as_bytes()).expect("keys")
}

fn claims() -> Value {
    json!({"sub": "u1", "exp": NOW + 60})
}

fn judge(jwt: &str, token: &str) -> Result<Verified, Fault> {
    verifier(jwt).verify(&all_keys(), token.as_bytes(), NOW)
}

#[track_caller]
fn refused(jwt: &str, token: &str, fault: Fault) {
    assert_eq!(judge(jwt, token).map(|_| "good"), Err(fault), "{token}");
}

fn every() -> Vec<(&'static Signer, Algorithm)> {
    use Algorithm::*;
    let mut all: Vec<(&Signer, Algorithm)> = vec![(&P256, ES256), (&P384, ES384), (&ED, EdDSA)];
    all.extend([HS256, HS384, HS512].map(|a| (&*HMAC, a)));
    all.extend([RS256, RS384, RS512, PS256, PS384, PS512].map(|a| (&*RSA, a)));
    all
}

#[test]
fn every_algorithm_verifies_and_a_changed_token_does_not() {
    for (signer, algorithm) in every() {
        let token = signer.token_as(algorithm, &claims());
        let verified = judge(ALL, &token).unwrap_or_else(|f| panic!("{algorithm:?}: {f:?}"));
        assert_eq!(verified.until, NOW + 60);
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        let mut other = claims();
        other["sub"] = json!("u2");
        let forged = format!("{header}.{}.{signature}", base64(other.to_string()));
        refused(ALL, &forged, Fault::Signature);
        refused(ALL, &format!("{message}."), Fault::Malformed);
        refused(ALL, &format!("{message}.AAAA"), Fault::Signature);
        // Only what is configured is accepted.
        let only = if algorithm == Algorithm::RS256 {
            "ES256"
        } else {
            "RS256"
        };
        refused(&format!("algorithms: [{only}]"), &token, Fault::Algorithm);
    }
}

#[test]
fn a_token_does_not_choose_how_it_is_verified() {
    for alg in [
        json!("none"),
        json!("None"),
        json!("NONE"),
        json!(""),
        json!("rs256"),
        json!("ES512"),
    ] {
        let header = base64(json!({"alg": alg, "kid": "rsa-1"}).to_string());
        let payload = base64(claims().to_string());
        refused(ALL, &format!("{header}.{payload}."), Fault::Malformed);
        refused(ALL, &format!("{header}.{payload}.AAAA"), Fault::Algorithm);
    }
    // A MAC keyed with what everybody knows: the public key, in all forms that libraries took for a secret.
    let n = RSA.jwk["n"].as_str().unwrap();
    for known in [
        n.to_owned(),
        RSA.jwk.to_string(),
        key_set(&[&RSA]),
        String::new(),
    ] {
        let forger = Signer::hmac(known.as_bytes());
        for kid in ["rsa-1", "shared"] {
            let header = json!({"alg": "HS256", "kid": kid});
            let token = forger.sign(Algorithm::HS256, &header, &claims());
            refused(ALL, &token, Fault::Signature);
            refused("algorithms: [RS256]", &token, Fault::Algorithm);
        }
    }
    // A key that the token itself brings along.
    let mallory = Signer::rsa("rsa-1", 2048);
    let header =
        json!({"alg": "RS256", "kid": "rsa-1", "jwk": mallory.jwk, "jku": "http://127.0.0.1:1/"});
    let token = mallory.sign(Algorithm::RS256, &header, &claims());
    refused(ALL, &token, Fault::Signature);
}

#[test]
fn a_kid_leads_to_no_key_of_another_kind() {
    for (kid, algorithm, fault) in [
        ("ec-1", Algorithm::RS256, Fault::Key),
        ("ed-1", Algorithm::RS256, Fault::Key),
        ("shared", Algorithm::RS256, Fault::Key),
        ("nobody", Algorithm::RS256, Fault::Key),
        ("../../etc/passwd", Algorithm::RS256, Fault::Key),
    ] {
        let header = json!({"alg": format!("{algorithm:?}"), "kid": kid});
        refused(ALL, &RSA.sign(algorithm, &header, &claims()), fault);
    }
    let other = Signer::ec("ec-1", Algorithm::ES256);
    refused(ALL, &other.token(&claims()), Fault::Signature);
    // Without a name all keys of the kind are tried.
    let header = json!({"alg": "RS256"});
    assert!(judge(ALL, &RSA.sign(Algorithm::RS256, &header, &claims())).is_ok());
    for kid in [json!(1), json!([]), json!({})] {
        let header = json!({"alg": "RS256", "kid": kid});
        refused(
            ALL,
            &RSA.sign(Algorithm::RS256, &header, &claims()),
            Fault::Malformed,
        );
    }
}

#[test]
fn a_key_is_used_for_what_it_says_alone() {
    let set = |change: &dyn Fn(&mut Value)| {
        let mut jwk = RSA.jwk.clone();
        change(&mut jwk);
        KeySet::parse(json!({"keys": [jwk, P256.jwk]}).to_string().as_bytes()).expect("a set")
    };
    let judge = |keys: &KeySet, algorithm| {
        let token = RSA.token_as(algorithm, &claims());
        verifier(ALL)
            .verify(keys, token.as_bytes(), NOW)
            .map(|_| ())
    };
    let only = set(&|jwk| jwk["alg"] = json!("RS256"));
    assert_eq!(judge(&only, Algorithm::RS256), Ok(()));
    assert_eq!(judge(&only, Algorithm::PS256), Err(Fault::Key));
    for change in [
        json!({"use": "enc"}),
        json!({"key_ops": ["sign"]}),
        json!({"alg": "RSA-OAEP"}),
        json!({"alg": "ES256"}),
        json!({"kty": "oct"}),
    ] {
        let keys = set(&|jwk| {
            for (name, value) in change.as_object().unwrap() {
                jwk[name] = value.clone();
            }
        });
        assert_eq!(judge(&keys, Algorithm::RS256), Err(Fault::Key), "{change}");
    }
    assert_eq!(
        judge(&set(&|jwk| jwk["use"] = json!("sig")), Algorithm::RS256),
        Ok(())
    );
}

#[test]
fn what_is_no_set_of_usable_keys_is_an_error() {
    let small = Signer::rsa("small", 1024);
    for set in [
        String::new(),
        "[]".into(),
        "{}".into(),
        r#"{"keys":[]}"#.into(),
        r#"{"keys":[{}, 1, {"kty":"RSA"}, {"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}"#.into(),
        key_set(&[&small]),
        key_set(&[&HMAC]),
    ] {
        assert!(KeySet::parse(set.as_bytes()).is_err(), "{set}");
    }
    let mixed = json!({"keys": [{"kty": "unknown"}, RSA.jwk]}).to_string();
    assert_eq!(KeySet::parse(mixed.as_bytes()).map(|k| k.len()), Ok(1));
}

#[test]
fn times_issuer_and_audience() {
    let strict = format!("{ALL}, issuer: \"https://i\", audience: shop, leeway: 10s");
    let base = json!({"sub": "u1", "iss": "https://i", "aud": "shop", "exp": NOW + 60});
    let with = |change: Value| {
        let mut claims = base.clone();
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        judge(&strict, &HMAC.token(&claims)).map(|v| v.until - NOW)
    };
    for (change, expected) in [
        (json!({}), Ok(70)),
        (json!({"exp": NOW + 60, "nbf": NOW}), Ok(70)),
        (json!({"exp": NOW - 9}), Ok(1)),
        (json!({"exp": NOW - 10}), Err(Fault::Expired)),
        (json!({"exp": 0}), Err(Fault::Expired)),
        (json!({"exp": -5.5}), Err(Fault::Expired)),
        (json!({"exp": NOW as f64 + 0.5}), Ok(10)),
        (json!({"exp": 1e300}), Ok(u64::MAX - NOW)),
        (json!({"exp": "1800000060"}), Err(Fault::Malformed)),
        (json!({"exp": true}), Err(Fault::Malformed)),
        (json!({"nbf": NOW + 10}), Ok(70)),
        (json!({"nbf": NOW + 11}), Err(Fault::Early)),
        (json!({"nbf": []}), Err(Fault::Malformed)),
        (json!({"iss": "https://j"}), Err(Fault::Issuer)),
        (json!({"iss": ["https://i"]}), Err(Fault::Issuer)),
        (json!({"iss": null}), Err(Fault::Issuer)),
        (json!({"aud": ["a", "shop"]}), Ok(70)),
        (json!({"aud": ["a"]}), Err(Fault::Audience)),
        (json!({"aud": []}), Err(Fault::Audience)),
        (json!({"aud": null}), Err(Fault::Audience)),
        (json!({"aud": "shop "}), Err(Fault::Audience)),
    ] {
        assert_eq!(with(change.clone()), expected, "{change}");
    }
}

#[test]
fn odd_forms_are_refused_and_none_panics() {
    let good = HMAC.token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    for token in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{}", parts[1]),
        format!("{}={}.{}", parts[0], parts[1], parts[2]),
        format!("{} .{}.{}", parts[0], parts[1], parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        "e30.e30.AAAA".into(),
        "bnVsbA.bnVsbA.AAAA".into(),
    ] {
        refused(ALL, &token, Fault::Malformed);
    }
    let crit = json!({"alg": "HS256", "crit": ["exp"], "exp": 1});
    refused(
        ALL,
        &HMAC.sign(Algorithm::HS256, &crit, &claims()),
        Fault::Malformed,
    );
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let header = format!(r#"{{"alg":"HS256","x":{}}}"#, deep(2000));
    let claims = format!(r#"{{"exp":{},"sub":"u1","x":{}}}"#, NOW + 60, deep(2000));
    let token = HMAC.sign_text(Algorithm::HS256, &header, "{}");
    assert_eq!(
        judge(ALL, &token).map(|_| ()),
        Ok(()),
        "depth alone does no harm"
    );
    let token = HMAC.sign_text(Algorithm::HS256, r#"{"alg":"HS256"}"#, &claims);
    assert!(judge(ALL, &token).is_ok());
    for claims in ["null", "1", "[]", "\"a\"", "{\"a\":}", "\u{0}"] {
        let token = HMAC.sign_text(Algorithm::HS256, r#"{"alg":"HS256"}"#, claims);
        refused(ALL, &token, Fault::Malformed);
    }
    let giant = json!({"sub": "x".repeat(MAX_TOKEN), "exp": NOW + 60});
    refused(ALL, &HMAC.token(&giant), Fault::Malformed);
}

#[test]
fn claims_become_attributes_and_those_that_are_missing_take_them_away() {
    let say = |claims: &Value| judge(ALL, &HMAC.token(claims)).expect("good").attributes;
    let said = say(&json!({"sub": "u\u{fc}", "exp": NOW + 60, "realm": {"roles": ["a", "b"]}}));
    let shown: Vec<_> = said
        .fields
        .iter()
        .map(|f| {
            let value = f.value.as_deref().map(String::from_utf8_lossy);
            (String::from_utf8_lossy(f.name.as_bytes()), value, f.expires)
        })
        .collect();
    let expires = (NOW + 60) as u32;
    assert_eq!(
        shown,
        [
            ("roles".into(), Some(r#"["a","b"]"#.into()), expires),
            ("userId".into(), Some(r#""u\u00fc""#.into()), expires)
        ]
    );
    assert_eq!(said.subject.as_deref(), Some(&br#""u\u00fc""#[..]));
    let said = say(&json!({"sub": "u1"}));
    let roles = &said.fields[0];
    assert_eq!((roles.value.as_deref(), roles.expires), (None, 0));
    assert_eq!(said.fields[1].expires, 0, "no exp, no end");
    for claims in [
        json!({"exp": NOW + 60}),
        json!({"sub": null, "realm": {"roles": []}}),
    ] {
        assert!(
            say(&claims).is_empty(),
            "without a subject it says nothing: {claims}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(CHEAP.verify(&KeySet::default(), &bytes, NOW).is_err());
    }

    #[test]
    fn no_json_panics(header in ".{0,80}", claims in ".{0,80}", signature in "[A-Za-z0-9_-]{0,90}") {
        let token = format!("{}.{}.{signature}", base64(header), base64(claims));
        let _ = judge_cheap(&token);
    }

    #[test]
    fn no_change_of_a_token_is_good(at: prop::sample::Index, to: u8) {
        let mut token = HMAC.token(&claims()).into_bytes();
        let at = at.index(token.len());
        prop_assume!(token[at] != to);
        token[at] = to;
        prop_assert!(CHEAP.verify(&KeySet::default(), &token, NOW).is_err());
    }

    #[test]
    fn no_set_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), n in ".{0,20}", e in ".{0,6}") {
        let _ = KeySet::parse(&bytes);
        let set = json!({"keys": [{"kty": "RSA", "n": n, "e": e}, {"kty": "EC", "crv": "P-256", "x": n, "y": e}]});
        let _ = KeySet::parse(set.to_string().as_bytes());
    }
}

fn judge_cheap(token: &str) -> Result<Verified, Fault> {
    CHEAP.verify(&KeySet::default(), token.as_bytes(), NOW)
}
