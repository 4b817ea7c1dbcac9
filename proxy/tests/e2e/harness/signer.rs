//! Keys of an issuer of tokens, made by OpenSSL, and tokens signed with them.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

/// One key of an issuer.
pub struct Signer {
    /// What it signs with unless told otherwise.
    pub algorithm: Algorithm,
    key: EncodingKey,
    /// Its public part as a JSON Web Key, with a `kid`.
    pub jwk: Value,
}

fn openssl(words: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input).expect("its input");
    drop(pipe);
    let output = child.wait_with_output().expect("its output");
    assert!(output.status.success(), "openssl {words:?}");
    output.stdout
}

/// The last bytes of the public key's DER, which are the key itself.
fn public(private: &[u8], len: usize) -> Vec<u8> {
    let der = openssl(
        &["pkey", "-inform", "DER", "-pubout", "-outform", "DER"],
        private,
    );
    der[der.len() - len..].to_vec()
}

/// Base64 as JSON Web Keys and Tokens have it.
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// RSA of so many bits.
    pub fn rsa(kid: &str, bits: usize) -> Self {
        let bits = format!("rsa_keygen_bits:{bits}");
        let pem = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", &bits], b"");
        let der = openssl(&["rsa", "-traditional", "-outform", "DER"], &pem);
        let modulus = openssl(&["rsa", "-noout", "-modulus"], &pem);
        let modulus = String::from_utf8(modulus).expect("text");
        let hex = modulus.trim().trim_start_matches("Modulus=");
        let n: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex"))
            .collect();
        Self {
            algorithm: Algorithm::RS256,
            key: EncodingKey::from_rsa_der(&der),
            jwk: json!({"kty": "RSA", "kid": kid, "n": base64(n), "e": "AQAB"}),
        }
    }

    /// P-256 or P-384.
    pub fn ec(kid: &str, algorithm: Algorithm) -> Self {
        let (curve, size) = match algorithm {
            Algorithm::ES256 => ("P-256", 32),
            _ => ("P-384", 48),
        };
        let option = format!("ec_paramgen_curve:{curve}");
        let pem = openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", &option], b"");
        let der = openssl(&["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"], &pem);
        let point = public(&der, 2 * size);
        let (x, y) = point.split_at(size);
        Self {
            algorithm,
            key: EncodingKey::from_ec_der(&der),
            jwk: json!({"kty": "EC", "kid": kid, "crv": curve, "x": base64(x), "y": base64(y)}),
        }
    }

    /// Ed25519.
    pub fn ed(kid: &str) -> Self {
        let der = openssl(
            &["genpkey", "-algorithm", "ED25519", "-outform", "DER"],
            b"",
        );
        Self {
            algorithm: Algorithm::EdDSA,
            key: EncodingKey::from_ed_der(&der),
            jwk: json!({"kty": "OKP", "kid": kid, "crv": "Ed25519", "x": base64(public(&der, 32))}),
        }
    }

    /// A shared secret.
    pub fn hmac(secret: &[u8]) -> Self {
        Self {
            algorithm: Algorithm::HS256,
            key: EncodingKey::from_secret(secret),
            jwk: json!({"kty": "oct", "kid": "shared", "k": base64(secret)}),
        }
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_as(self.algorithm, claims)
    }

    /// A token by another algorithm of the key's.
    pub fn token_as(&self, algorithm: Algorithm, claims: &Value) -> String {
        let header = json!({"alg": format!("{algorithm:?}"), "typ": "JWT", "kid": self.jwk["kid"]});
        self.sign(algorithm, &header, claims)
    }

    /// A token with any header.
    pub fn sign(&self, algorithm: Algorithm, header: &Value, claims: &Value) -> String {
        self.sign_text(algorithm, &header.to_string(), &claims.to_string())
    }

    /// A token of any two texts.
    pub fn sign_text(&self, algorithm: Algorithm, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header), base64(claims));
        let signature =
            crypto::sign(message.as_bytes(), &self.key, algorithm).expect("a signature");
        format!("{message}.{signature}")
    }
}

/// A set of the public keys.
pub fn key_set(signers: &[&Signer]) -> String {
    let keys: Vec<&Value> = signers.iter().map(|s| &s.jwk).collect();
    json!({ "keys": keys }).to_string()
}

/// One RSA key for all tests of a process: they take long to make.
pub static RSA: LazyLock<Signer> = LazyLock::new(|| Signer::rsa("rsa-1", 2048));
/// One P-256 key for all tests of a process.
pub static P256: LazyLock<Signer> = LazyLock::new(|| Signer::ec("ec-1", Algorithm::ES256));
