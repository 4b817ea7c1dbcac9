//! Any bytes are judged, and only a token that was signed with the key is good.
//!
//! The input is a whole token, or (first byte odd) header, line feed, payload, which are signed here.
//!
//! `cargo +nightly fuzz run jwt`

#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast::attributes::jwt::{Fault, Verifier};
use holdfast::attributes::keys::KeySet;
use holdfast_config::{Mode, Source, load};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1_800_000_000;
const KEY: &str = "a shared secret, long enough for this";

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let text = format!(
        "gateway:
  services: [{{ name: s, upstreams: [{{ address: \"127.0.0.1:1\" }}] }}]
  auth: {{ jwt: {{ secret: \"{KEY}\", algorithms: [HS256], audience: a, leeway: 5s }} }}
  session:
    options: {{ secure: false }}
    attributes: {{ fromAuth: [{{ claim: sub, attribute: userId }}, {{ claim: realm.roles, attribute: roles }}] }}
"
    );
    let source = Source {
        name: "fuzz".into(),
        text,
    };
    let plan = load(&[source], &|_| None, Mode::Run)
        .plan
        .expect("a configuration");
    Verifier::new(plan.jwt.as_ref().expect("tokens"), plan.session.as_ref())
});

fuzz_target!(|data: &[u8]| {
    let Some((&kind, input)) = data.split_first() else {
        return;
    };
    let keys = KeySet::default();
    if kind & 1 == 0 {
        let judged = VERIFIER.verify(&keys, input, NOW);
        // The key is not in any input.
        assert!(judged.is_err(), "a token that nobody signed");
        return;
    }
    let mut lines = input.splitn(2, |&b| b == b'\n');
    let (Some(header), Some(payload)) = (lines.next(), lines.next()) else {
        return;
    };
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let signature = crypto::sign(
        message.as_bytes(),
        &EncodingKey::from_secret(KEY.as_bytes()),
        Algorithm::HS256,
    )
    .expect("a signature");
    let token = format!("{message}.{signature}");
    match VERIFIER.verify(&keys, token.as_bytes(), NOW) {
        Ok(good) => assert!(good.until > NOW),
        Err(fault) => assert_ne!(fault, Fault::Signature, "what the key signed"),
    }
});
