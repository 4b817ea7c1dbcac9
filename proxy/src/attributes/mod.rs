//! Attributes: what a request itself says about its session, by headers of proxies and by tokens.
//!
//! Owns [`AttributePlan`], the configuration of attributes in the form that the path needs; one in each
//! generation of a core, used on its thread alone. [`headers`] reads request headers, [`bearer`] takes
//! tokens, [`jwt`] judges them by [`keys`]. [`computed`] is apart from that: it is evaluated when a session is
//! forwarded.
//!
//! Invariants: a configuration without attributes costs a request one test; a header is believed only
//! from whom its rule says; a header that says two things at once says nothing; of a token that is not
//! good nothing is believed. It deliberately knows no session: whether something changes, and whose the
//! session is, is the owner shard's to say.
//! Tested in each part and end to end.

pub mod bearer;
pub mod computed;
pub mod headers;
pub mod jwt;
#[cfg(test)]
mod jwt_tests;
pub mod keys;

use std::rc::Rc;
use std::sync::Arc;

use holdfast_config::plan::Plan;
use holdfast_store::shard::Attributes;

use crate::accept::Conn;
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::identify::Request;

use self::bearer::Bearer;
use self::headers::HeaderRule;
use self::keys::KeySet;

/// See the module.
#[derive(Debug)]
pub struct AttributePlan {
    headers: Box<[HeaderRule]>,
    bearer: Option<Bearer>,
}

/// What a request says, to be handed to the owner of its session.
pub type Said = Option<Rc<Attributes>>;

impl AttributePlan {
    /// From the plan; nothing where it asks nothing of requests. `keys` are those of its file; where the
    /// generation before had the same source of keys, they go on.
    pub fn new(plan: &Plan, keys: &Arc<KeySet>, old: Option<&Self>) -> Option<Self> {
        let session = plan.session.as_ref();
        let headers: Box<[HeaderRule]> = session.map(HeaderRule::all).unwrap_or_default();
        let old = old.and_then(|old| old.bearer.as_ref());
        let bearer = plan
            .jwt
            .as_ref()
            .map(|jwt| Bearer::new(jwt, session, keys, old));
        (!headers.is_empty() || bearer.is_some()).then_some(Self { headers, bearer })
    }

    /// Takes up other keys.
    pub fn set_keys(&self, keys: Arc<KeySet>) {
        if let Some(bearer) = &self.bearer {
            bearer.set_keys(keys);
        }
    }

    /// What a request says.
    ///
    /// # Errors
    /// The answer to a request that must not go on.
    pub fn collect(&self, core: &Core, conn: &Conn, request: &Request) -> Result<Said, Refusal> {
        let said = match &self.bearer {
            Some(bearer) => bearer.said(core, conn)?,
            None => None,
        };
        if self.headers.is_empty() {
            return Ok(said);
        }
        let mut fields = Vec::new();
        headers::read(core, conn, request, &self.headers, &mut fields);
        if fields.is_empty() {
            return Ok(said);
        }
        let subject = said.as_ref().and_then(|s| s.subject.clone());
        // A token is better than a header: of two attributes of a name the last stays.
        fields.extend(said.iter().flat_map(|s| s.fields.iter().cloned()));
        Ok(Some(Rc::new(Attributes::new(fields, subject))))
    }
}
