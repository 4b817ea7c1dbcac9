//! The token of a request: where it is, whether it is good, and what follows from that.
//!
//! Owns [`Bearer`] with a core's keys and the tokens that it has verified. Runs on a data core; keys come
//! from the control thread.
//!
//! Invariants: a token that comes again costs a digest and no signature, never for longer than it is
//! good; the memory of tokens has a bound ([`REMEMBERED`]) and is emptied when the keys change, so that a
//! key which is withdrawn takes its tokens along. Where tokens are not required, one that is not good is
//! counted and otherwise as good as none. Tested end to end; the memory below.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_config::plan;
use sha2::{Digest as _, Sha256};

use super::Said;
use super::jwt::{Fault, Verified, Verifier};
use super::keys::KeySet;
use crate::accept::Conn;
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::message::Message;
use crate::metrics::Metric;
use crate::parse::Name;

/// Tokens that a core remembers, at most.
pub const REMEMBERED: usize = 4096;

/// Least time between two wishes of a core for newer keys; ms.
const WISH_MS: u64 = 10_000;

const NO_TOKEN: &[u8] = b"WWW-Authenticate: Bearer\r\n";
const BAD_TOKEN: &[u8] = b"WWW-Authenticate: Bearer error=\"invalid_token\"\r\n";

/// See the module.
#[derive(Debug)]
pub struct Bearer {
    verifier: Verifier,
    /// Name of the header in lower case; nothing for Authorization.
    header: Option<Vec<u8>>,
    required: bool,
    plan: plan::Jwt,
    keys: RefCell<Arc<KeySet>>,
    memory: RefCell<Memory>,
    wished_ms: Cell<u64>,
}

/// What a request carries.
enum Carried<'a> {
    None,
    Token(&'a [u8]),
    /// Two tokens.
    Several,
}

impl Bearer {
    /// From the plan.
    pub fn new(
        jwt: &plan::Jwt,
        session: Option<&plan::Session>,
        keys: &Arc<KeySet>,
        old: Option<&Self>,
    ) -> Self {
        let same = old
            .filter(|old| old.plan.jwks_file == jwt.jwks_file && old.plan.jwks_url == jwt.jwks_url);
        // A file was read anew for this generation; what was fetched stays.
        let keys = match same {
            Some(old) if jwt.jwks_file.is_none() => Arc::clone(&old.keys.borrow()),
            _ => Arc::clone(keys),
        };
        let name = jwt.header.to_ascii_lowercase();
        Self {
            verifier: Verifier::new(jwt, session),
            header: (name != "authorization").then(|| name.into_bytes()),
            required: jwt.required,
            plan: jwt.clone(),
            keys: RefCell::new(keys),
            memory: RefCell::default(),
            wished_ms: Cell::new(0),
        }
    }

    /// Takes up other keys.
    pub fn set_keys(&self, keys: Arc<KeySet>) {
        *self.keys.borrow_mut() = keys;
        *self.memory.borrow_mut() = Memory::default();
    }

    /// What the token of a request says.
    ///
    /// # Errors
    /// The answer to a request that needs a token and has no good one.
    pub fn said(&self, core: &Core, conn: &Conn) -> Result<Said, Refusal> {
        let token = match self.token(conn) {
            Carried::None if self.required => return Err(Refusal::unauthorized(NO_TOKEN)),
            Carried::None => return Ok(None),
            Carried::Several => return self.refuse(core, Fault::Malformed),
            Carried::Token(token) => token,
        };
        let now = core.wall_ms() / 1000;
        if token.len() > super::jwt::MAX_TOKEN {
            return self.refuse(core, Fault::Malformed);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some((until, said)) = self.memory.borrow_mut().get(&digest) {
            if until <= now {
                return self.refuse(core, Fault::Expired);
            }
            core.metrics().count(Metric::JwtRemembered);
            return Ok(said);
        }
        let judged = self.verifier.verify(&self.keys.borrow(), token, now);
        match judged {
            Ok(Verified { until, attributes }) => {
                core.metrics().count(Metric::JwtVerified);
                let said = (!attributes.is_empty()).then(|| Rc::new(attributes));
                self.memory.borrow_mut().put(digest, (until, said.clone()));
                Ok(said)
            }
            Err(fault) => self.refuse(core, fault),
        }
    }

    /// The token of a request. Of several lines, or of another scheme than Bearer, see [`Carried`].
    fn token<'a>(&self, conn: &'a Conn) -> Carried<'a> {
        let buf = conn.input.as_slice();
        let mut found = Carried::None;
        let mut take = |value: &'a [u8]| {
            let token = match (bearer(value), &self.header) {
                (Some(token), _) => token,
                // Another scheme is not ours to judge.
                (None, None) => return,
                (None, Some(_)) => value,
            };
            found = match &found {
                Carried::None if token.is_empty() => Carried::None,
                Carried::None => Carried::Token(token),
                Carried::Token(_) | Carried::Several => Carried::Several,
            };
        };
        match &self.header {
            None => conn
                .head
                .values(buf, Name::Authorization)
                .for_each(&mut take),
            Some(name) => {
                let lines = conn.head.lines.iter().filter(|l| l.is(buf, name));
                lines.for_each(|line| take(line.value(buf)));
            }
        }
        found
    }

    fn refuse(&self, core: &Core, fault: Fault) -> Result<Said, Refusal> {
        core.metrics().count(fault.metric());
        if fault == Fault::Key && self.plan.jwks_url.is_some() {
            let now = core.now_ms();
            if now >= self.wished_ms.get() {
                self.wished_ms.set(now + WISH_MS);
                core.mesh.send(core.shared.control(), Message::KeysWanted);
            }
            if self.required && self.keys.borrow().is_empty() {
                let reason = "tokens can not be verified yet";
                return Err(Refusal::unavailable(503, reason, 5));
            }
        }
        if self.required {
            return Err(Refusal::unauthorized(BAD_TOKEN));
        }
        Ok(None)
    }
}

/// What follows `Bearer ` (RFC 6750, section 2.1; the scheme in any case, RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    match rest {
        [] => Some(rest),
        [b' ', ..] => Some(rest.trim_ascii()),
        _ => None,
    }
}

/// Until when a token is good, and what it says.
type Known = (u64, Said);

/// Tokens that were verified, in two halves: what was not asked for while one half filled is forgotten.
#[derive(Debug, Default)]
struct Memory {
    young: HashMap<[u8; 32], Known>,
    old: HashMap<[u8; 32], Known>,
}

impl Memory {
    fn get(&mut self, digest: &[u8; 32]) -> Option<Known> {
        if let Some(known) = self.young.get(digest) {
            return Some(known.clone());
        }
        let known = self.old.remove(digest)?;
        self.put(*digest, known.clone());
        Some(known)
    }

    fn put(&mut self, digest: [u8; 32], known: Known) {
        if self.young.len() >= REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_has_a_bound_and_keeps_what_is_asked_for() {
        let mut memory = Memory::default();
        let digest = |n: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&n.to_le_bytes());
            digest
        };
        memory.put(digest(0), (7, None));
        for n in 1..3 * REMEMBERED {
            memory.put(digest(n), (n as u64, None));
            assert_eq!(memory.get(&digest(0)).map(|k| k.0), Some(7), "at {n}");
            assert!(memory.young.len() + memory.old.len() <= REMEMBERED);
        }
        assert!(memory.get(&digest(1)).is_none());
    }

    #[test]
    fn schemes() {
        for (value, expected) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer  a.b.c ", Some("a.b.c")),
            ("Bearer", Some("")),
            ("Bearera", None),
            ("Basic YTpi", None),
            ("", None),
        ] {
            let expected = expected.map(str::as_bytes);
            assert_eq!(bearer(value.as_bytes()), expected, "{value}");
        }
    }
}
