//! Master keys: the 32 bytes that `security.encryption.data.key` means.
//!
//! Owns how a key may be written: hex, base64 (both alphabets, with or without padding), else a passphrase,
//! which is run through Argon2id. Pure; a passphrase takes 64 MiB and some tenths of a second, so plans are
//! made of it once they are otherwise good, never on a data core.
//!
//! Invariants: what is derived for clients to see (offers of secrets, pin cookies) derives from these bytes
//! and never from the passphrase, whose guesses would otherwise cost one HMAC each. Deliberately absent:
//! what keys are used for. Tested here, Argon2id against a vector of its reference program.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use crate::document::Node;
use crate::plan::{Plan, Secret};
use crate::report::Report;
use crate::view::View;

/// Bytes of a key.
const KEY: usize = 32;

/// Memory, passes, lanes: the second choice that RFC 9106, 4 recommends.
const COST: (u32, u32, u32) = (64 * 1024, 3, 4);

/// Every instance must derive the same key, so the salt is the same everywhere.
const SALT: &[u8] = b"holdfast master key 1";

/// Puts the bytes of master keys in the place of what was written, wherever a plan holds them.
pub(crate) fn resolve(root: &Node, plan: &mut Plan, report: &mut Report) {
    let view = View::root(root).at("gateway.session.security.encryption.data.key");
    let pins = plan.rules.iter_mut().filter_map(|r| r.affinity.as_mut());
    let pins = pins.filter_map(|a| a.cookie.key.as_mut());
    let security = plan.session.iter_mut().map(|s| &mut s.security);
    let mut holders: Vec<&mut Secret> = security.flat_map(|s| &mut s.data_keys).collect();
    holders.extend(pins);
    for written in view.secrets() {
        let mut held = holders.iter_mut().filter(|held| ***held == written);
        let Some(first) = held.next() else { continue };
        let Some(raw) = raw(&written.0).or_else(|| stretch(&written.0, COST)) else {
            let text = "no key can be made of this: Argon2id needs 64 MiB of memory";
            return view.error(report, text);
        };
        first.0 = raw.to_vec();
        held.for_each(|held| held.0 = raw.to_vec());
    }
}

/// The bytes of a key that is written as such.
fn raw(written: &[u8]) -> Option<[u8; KEY]> {
    if written.len() == 2 * KEY && written.iter().all(u8::is_ascii_hexdigit) {
        let digit = |b: u8| char::from(b).to_digit(16);
        let mut raw = [0; KEY];
        for (byte, pair) in raw.iter_mut().zip(written.chunks_exact(2)) {
            let (high, low) = (digit(*pair.first()?)?, digit(*pair.last()?)?);
            *byte = u8::try_from(high << 4 | low).ok()?;
        }
        return Some(raw);
    }
    [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .filter_map(|engine| engine.decode(written).ok())
        .find_map(|bytes| bytes.try_into().ok())
}

fn stretch(passphrase: &[u8], (memory, passes, lanes): (u32, u32, u32)) -> Option<[u8; KEY]> {
    let params = Params::new(memory, passes, lanes, Some(KEY)).ok()?;
    let mut raw = [0; KEY];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, SALT, &mut raw)
        .ok()?;
    Some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_written_in_several_ways() {
        let key = [0xfb; KEY];
        for written in [
            "fb".repeat(KEY),
            "FB".repeat(KEY),
            STANDARD.encode(key),
            STANDARD_NO_PAD.encode(key),
            URL_SAFE.encode(key),
            URL_SAFE_NO_PAD.encode(key),
        ] {
            assert_eq!(raw(written.as_bytes()), Some(key), "{written}");
        }
        let short = STANDARD.encode([1; KEY - 1]);
        for passphrase in ["a passphrase of some length", &short, &"fg".repeat(KEY)] {
            assert_eq!(raw(passphrase.as_bytes()), None, "{passphrase}");
        }
    }

    #[test]
    fn a_passphrase_is_run_through_argon2id() {
        let hex = |cost| {
            let key = stretch(b"correct horse battery staple", cost).unwrap();
            key.map(|b| format!("{b:02x}")).concat()
        };
        assert_eq!(
            hex((64, 1, 4)),
            "10d790b7ad4ca799e72ad3ff3fe268336759610295e39c5846cfc59bd8d994f0"
        );
        assert_eq!(
            hex(COST),
            "de7ffe41eac113633de09296eec76241c99bb6aa7409901d67c4ebcc345fc27f"
        );
    }
}
