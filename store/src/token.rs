//! Tokens: what a client holds.
//!
//! Owns the wire format: base64url of head (1 byte) ‖ issued, Unix seconds (4, big-endian) ‖ node tag
//! (2, big-endian) ‖ sid (16) ‖ secret (16) = 52 characters; with keys, ‖ the first 16 bytes of
//! HMAC-SHA-256 over all before = 74 characters. The head is 0x10 for version 1, + 1 for a query token,
//! + 2 for an *unconfirmed* first token, whose session has no record yet.
//!
//! Called on the request path of every data core. [`Keys`] are immutable and shared.
//!
//! Invariants: decoding allocates nothing, reads exactly one text for each token, and never panics; a
//! signature is compared in constant time; a token never prints its secret.
//!
//! With keys, a token without a signature is still decoded ([`Signature::Absent`]): turning the keys on
//! must leave the tokens of before good. It proves nothing by itself, so it can only match a session
//! whose record says that its token was issued unsigned, and it can never make a record. Without keys,
//! a signed token is decoded with its signature unread ([`Signature::Unread`]).
//!
//! Deliberately absent: what becomes of a token (the shard's), where it travels (the proxy's).
//! Tested here with golden texts, against a reference HMAC, and by property.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Digest as _;

use crate::id::{self, Digest, NodeTag, Secret, Sid};

/// Characters without and with a signature.
const PLAIN_TEXT: usize = 52;
const SIGNED_TEXT: usize = 74;
const PLAIN: usize = 39;
const SIGNED: usize = 55;

const VERSION: u8 = 0x10;
const QUERY: u8 = 0x01;
const UNCONFIRMED: u8 = 0x02;

/// How a token travels. One works only through its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In a cookie or a header.
    CookieOrHeader,
    /// In a query parameter.
    Query,
}

/// What a signature says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// Made with one of our keys.
    Verified,
    /// There is none.
    Absent,
    /// There is one, and we have no keys to check it with.
    Unread,
}

/// Why a text is no token of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Not the form of a token.
    Malformed,
    /// Its signature was made with none of our keys.
    WronglySigned,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed token",
            Self::WronglySigned => "wrongly signed token",
        })
    }
}

impl std::error::Error for TokenError {}

/// One HMAC-SHA-256 key as the two states after its padded block, so that a short message costs two
/// compressions.
#[derive(Clone)]
pub(crate) struct Key {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl Key {
    /// Keys of another purpose out of configured secrets of any length, in their order.
    pub(crate) fn derived<'a>(
        secrets: impl IntoIterator<Item = &'a [u8]>,
        purpose: &[u8],
    ) -> Vec<Self> {
        let derive = |secret: &[u8]| {
            // HMAC takes keys of any length.
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret).ok()?;
            mac.update(purpose);
            Some(Self::new(&mac.finalize().into_bytes()))
        };
        secrets.into_iter().filter_map(derive).collect()
    }

    pub(crate) fn new(secret: &[u8]) -> Self {
        let mut key = [0u8; 64];
        if secret.len() <= 64 {
            key[..secret.len()].copy_from_slice(secret);
        } else {
            key[..32].copy_from_slice(&sha2::Sha256::digest(secret));
        }
        let state = |pad: u8| {
            let mut state = id::SHA256_IV;
            id::compress(&mut state, &key.map(|b| b ^ pad));
            state
        };
        Self {
            inner: state(0x36),
            outer: state(0x5c),
        }
    }

    /// The first 16 bytes of the HMAC of a message that fits into one block with its padding.
    pub(crate) fn sign<const N: usize>(&self, message: &[u8; N]) -> [u8; 16] {
        const { assert!(N <= 55) };
        let mut block = [0u8; 64];
        block[..N].copy_from_slice(message);
        block[N] = 0x80;
        block[56..].copy_from_slice(&((64 + N as u64) * 8).to_be_bytes());
        let mut state = self.inner;
        id::compress(&mut state, &block);
        let mut block = [0u8; 64];
        for (bytes, word) in block.chunks_exact_mut(4).zip(&state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        block[32] = 0x80;
        block[56..].copy_from_slice(&((64u64 + 32) * 8).to_be_bytes());
        let mut state = self.outer;
        id::compress(&mut state, &block);
        id::first16(&state)
    }
}

/// The signing keys: the first signs, all verify. Empty: tokens are not signed.
#[derive(Clone, Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// From secrets of any length, in the order of the configuration.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(secrets.into_iter().map(Key::new).collect())
    }

    /// Whether tokens are signed.
    pub fn is_on(&self) -> bool {
        !self.0.is_empty()
    }

    fn verify(&self, message: &[u8; PLAIN], signature: &[u8; 16]) -> bool {
        // A digest compares in constant time.
        self.0
            .iter()
            .any(|key| Digest(key.sign(message)) == Digest(*signature))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// A decoded token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// How it may travel.
    pub kind: Kind,
    /// A first token whose session has no record yet.
    pub unconfirmed: bool,
    /// When it was made, Unix seconds.
    pub issued: u32,
    /// The node that made it.
    pub tag: NodeTag,
    /// The session.
    pub sid: Sid,
    /// The proof.
    pub secret: Secret,
}

/// A token's text, on the stack.
#[derive(Clone, Copy)]
pub struct TokenText {
    bytes: [u8; SIGNED_TEXT],
    len: usize,
}

impl TokenText {
    /// The characters, all of them base64url.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The same as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(***)")
    }
}

impl Token {
    /// The text, signed with the first key if there is one.
    pub fn encode(&self, keys: &Keys) -> TokenText {
        let mut message = [0u8; PLAIN];
        message[0] = VERSION
            | if self.kind == Kind::Query { QUERY } else { 0 }
            | if self.unconfirmed { UNCONFIRMED } else { 0 };
        message[1..5].copy_from_slice(&self.issued.to_be_bytes());
        message[5..7].copy_from_slice(&self.tag.get().to_be_bytes());
        message[7..23].copy_from_slice(&self.sid.0);
        message[23..].copy_from_slice(&self.secret.0);
        let mut bytes = [0; SIGNED_TEXT];
        let len = match keys.0.first() {
            None => id::encode(&message, &mut bytes),
            Some(key) => {
                let mut signed = [0u8; SIGNED];
                signed[..PLAIN].copy_from_slice(&message);
                signed[PLAIN..].copy_from_slice(&key.sign(&message));
                id::encode(&signed, &mut bytes)
            }
        };
        TokenText { bytes, len }
    }

    /// Reads a token's text and checks its signature.
    ///
    /// # Errors
    /// [`TokenError`]: what is wrong with it. The caller treats either as *dead*.
    pub fn decode(text: &[u8], keys: &Keys) -> Result<(Self, Signature), TokenError> {
        Self::decode_with(text, keys, |_| {})
    }

    /// [`Self::decode`], which tells the sid before the signature is checked: for a prefetch, and for
    /// nothing else.
    ///
    /// # Errors
    /// As [`Self::decode`].
    #[inline]
    pub fn decode_with(
        text: &[u8],
        keys: &Keys,
        early: impl FnOnce(&Sid),
    ) -> Result<(Self, Signature), TokenError> {
        let mut raw = [0u8; SIGNED];
        let signed = match text.len() {
            PLAIN_TEXT => id::decode(text, &mut raw[..PLAIN]).map(|()| false),
            SIGNED_TEXT => id::decode(text, &mut raw).map(|()| true),
            _ => None,
        }
        .ok_or(TokenError::Malformed)?;
        let (message, mac) = raw
            .split_first_chunk::<PLAIN>()
            .ok_or(TokenError::Malformed)?;
        let token = Self::from_bytes(message).ok_or(TokenError::Malformed)?;
        early(&token.sid);
        let signature = match (signed, keys.is_on()) {
            (false, _) => Signature::Absent,
            (true, false) => Signature::Unread,
            (true, true) => {
                let mac = mac.first_chunk().ok_or(TokenError::Malformed)?;
                if !keys.verify(message, mac) {
                    return Err(TokenError::WronglySigned);
                }
                Signature::Verified
            }
        };
        Ok((token, signature))
    }

    fn from_bytes(bytes: &[u8; PLAIN]) -> Option<Self> {
        let (head, rest) = bytes.split_first()?;
        if head & !(QUERY | UNCONFIRMED) != VERSION {
            return None;
        }
        let (issued, rest) = rest.split_first_chunk()?;
        let (tag, rest) = rest.split_first_chunk()?;
        let (sid, rest) = rest.split_first_chunk()?;
        let tag = u16::from_be_bytes(*tag);
        (tag <= 0x7fff).then_some(Self {
            kind: if head & QUERY == 0 {
                Kind::CookieOrHeader
            } else {
                Kind::Query
            },
            unconfirmed: head & UNCONFIRMED != 0,
            issued: u32::from_be_bytes(*issued),
            tag: NodeTag::new(tag),
            sid: Sid(*sid),
            secret: Secret(*rest.first_chunk()?),
        })
    }

    /// What a shard needs to know of it; the secret stays behind.
    ///
    /// `through` is the way that it came.
    pub fn presented(&self, signature: Signature, through: Kind) -> Presented {
        Presented {
            sid: self.sid,
            digest: self.secret.digest(),
            kind: self.kind,
            through,
            unconfirmed: self.unconfirmed,
            issued: self.issued,
            tag: self.tag,
            signature,
        }
    }
}

/// A token as it is presented to a shard: no secret in it, so that it may cross threads and be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// The session.
    pub sid: Sid,
    /// Digest of the presented secret.
    pub digest: Digest,
    /// The kind that it is.
    pub kind: Kind,
    /// The way that it came.
    pub through: Kind,
    /// A first token whose session may have no record yet.
    pub unconfirmed: bool,
    /// When it was made, Unix seconds.
    pub issued: u32,
    /// The node that made it.
    pub tag: NodeTag,
    /// What its signature says.
    pub signature: Signature,
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, Mac};
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token {
            kind: Kind::CookieOrHeader,
            unconfirmed: false,
            issued: 0x6523_4567,
            tag: NodeTag::new(0x1234),
            sid: Sid(*b"0123456789abcdef"),
            secret: Secret(*b"ABCDEFGHIJKLMNOP"),
        }
    }

    #[test]
    fn golden() {
        let none = Keys::default();
        assert_eq!(
            token().encode(&none).as_str(),
            "EGUjRWcSNDAxMjM0NTY3ODlhYmNkZWZBQkNERUZHSElKS0xNTk9Q"
        );
        let query = Token {
            kind: Kind::Query,
            unconfirmed: true,
            ..token()
        };
        assert_eq!(
            query.encode(&none).as_str(),
            "E2UjRWcSNDAxMjM0NTY3ODlhYmNkZWZBQkNERUZHSElKS0xNTk9Q"
        );
        let signed = token().encode(&Keys::new([&b"a key of the gateway"[..]]));
        assert_eq!(
            signed.as_str(),
            "EGUjRWcSNDAxMjM0NTY3ODlhYmNkZWZBQkNERUZHSElKS0xNTk9QPIcAPw46Mc-OmsT9RsedPA"
        );
    }

    #[test]
    fn signature_is_hmac_sha256() {
        for len in [1, 16, 63, 64, 65, 200] {
            let key = vec![0x5a; len];
            let message = *b"exactly thirty-nine bytes of a message!";
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
            mac.update(&message);
            assert_eq!(
                Key::new(&key).sign(&message),
                mac.finalize().into_bytes()[..16]
            );
        }
    }

    #[test]
    fn keys_rotate_and_turn_on_and_off() {
        let (old, new) = (b"old".as_slice(), b"new".as_slice());
        let (only_old, both, only_new) =
            (Keys::new([old]), Keys::new([new, old]), Keys::new([new]));
        let none = Keys::default();
        let text = token().encode(&only_old);
        assert_eq!(
            Token::decode(text.as_bytes(), &both),
            Ok((token(), Signature::Verified))
        );
        assert_eq!(
            Token::decode(text.as_bytes(), &only_new),
            Err(TokenError::WronglySigned)
        );
        assert_eq!(
            Token::decode(text.as_bytes(), &none),
            Ok((token(), Signature::Unread))
        );
        let text = token().encode(&none);
        assert_eq!(
            Token::decode(text.as_bytes(), &both),
            Ok((token(), Signature::Absent))
        );
        assert_eq!(
            token().encode(&both).as_bytes(),
            token().encode(&only_new).as_bytes(),
            "the first signs"
        );
    }

    #[test]
    fn malformed() {
        let none = Keys::default();
        let good = token().encode(&none);
        let mut texts = vec![
            Vec::new(),
            good.as_bytes()[..51].to_vec(),
            [good.as_bytes(), b"A"].concat(),
        ];
        // Unknown version, unknown bits of the head, node tag of 16 bits.
        for (at, byte) in [(0, 0x20), (0, 0x14), (0, 0x18), (5, 0x80)] {
            let mut raw = [0; PLAIN];
            id::decode(good.as_bytes(), &mut raw).unwrap();
            raw[at] = byte;
            let mut text = vec![0; PLAIN_TEXT];
            id::encode(&raw, &mut text);
            texts.push(text);
        }
        for text in texts {
            assert_eq!(
                Token::decode(&text, &none),
                Err(TokenError::Malformed),
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_flipped_character_is_refused(at in 0usize..74, with in "[A-Za-z0-9_-]") {
            let keys = Keys::new([&b"key"[..]]);
            let mut text = token().encode(&keys).as_bytes().to_vec();
            let with = with.as_bytes()[0];
            prop_assume!(text[at] != with);
            text[at] = with;
            prop_assert!(Token::decode(&text, &keys).is_err());
        }

        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Token::decode(&text, &Keys::new([&b"key"[..]]));
        }

        #[test]
        fn round_trips(issued: u32, tag: u16, sid: [u8; 16], secret: [u8; 16], query: bool, unconfirmed: bool) {
            let token = Token {
                kind: if query { Kind::Query } else { Kind::CookieOrHeader },
                unconfirmed, issued, tag: NodeTag::new(tag), sid: Sid(sid), secret: Secret(secret),
            };
            let keys = Keys::new([&b"key"[..]]);
            prop_assert_eq!(Token::decode(token.encode(&keys).as_bytes(), &keys), Ok((token, Signature::Verified)));
        }
    }
}
