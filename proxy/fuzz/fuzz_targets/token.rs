//! A token has one text, signed or not, and only what we signed is taken for signed.
//!
//! `cargo +nightly fuzz run token`

#![no_main]

use std::sync::LazyLock;

use holdfast_store::token::{Keys, Kind, Signature, Token};
use libfuzzer_sys::fuzz_target;

static NONE: LazyLock<Keys> = LazyLock::new(Keys::default);
static TWO: LazyLock<Keys> = LazyLock::new(|| Keys::new([&b"the newer one"[..], b"the older one"]));

fuzz_target!(|text: &[u8]| {
    let plain = Token::decode(text, &NONE);
    let keyed = Token::decode(text, &TWO);
    if let Ok((token, signature)) = plain {
        assert!(text.is_ascii());
        assert_eq!(signature == Signature::Unread, text.len() == 74);
        // Without its signature, it has this text alone.
        let again = token.encode(&NONE);
        if signature == Signature::Absent {
            assert_eq!(again.as_bytes(), text);
            assert_eq!(keyed, plain);
        } else {
            assert_eq!(again.as_bytes()[..51], text[..51]);
        }
        let signed = token.encode(&TWO);
        assert_eq!(
            Token::decode(signed.as_bytes(), &TWO),
            Ok((token, Signature::Verified))
        );
        // One changed bit of what a token says, and the signature is another's.
        let mut other = token;
        other.kind = match token.kind {
            Kind::Query => Kind::CookieOrHeader,
            Kind::CookieOrHeader => Kind::Query,
        };
        let mut forged = other.encode(&NONE).as_bytes()[..51].to_vec();
        forged.extend_from_slice(&signed.as_bytes()[51..]);
        assert!(Token::decode(&forged, &TWO).is_err());
    } else {
        assert_eq!(keyed, plain);
    }
    if let Ok((token, Signature::Verified)) = keyed {
        let old = Keys::new([&b"the older one"[..]]);
        let made = [token.encode(&TWO), token.encode(&old)];
        assert!(made.iter().any(|m| m.as_bytes() == text));
    }
});
