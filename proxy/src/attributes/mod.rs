//! Attributes: what a request itself says about its session, by headers of proxies and by tokens.
//!
//! Owns [`AttributePlan`], the configuration of attributes in the form that the path needs; one in each
//! generation of a core, used on its thread alone. [`headers`] reads request headers.
//!
//! Invariants: a configuration without attributes costs a request one test; a header is believed only
//! from whom its rule says; a header that says two things at once says nothing. It deliberately
//! knows no session: whether something changes is the owner shard's to say.
//! Tested below and end to end.

pub mod headers;

use std::rc::Rc;

use holdfast_config::plan::Plan;
use holdfast_store::shard::{Attribute, Attributes};

use crate::accept::Conn;
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::identify::Request;

use self::headers::HeaderRule;

/// See the module.
#[derive(Debug)]
pub struct AttributePlan {
    headers: Box<[HeaderRule]>,
}

/// What a request says, to be handed to the owner of its session.
pub type Said = Option<Rc<Attributes>>;

impl AttributePlan {
    /// From the plan; nothing where it has no attributes.
    pub fn new(plan: &Plan) -> Option<Self> {
        let headers: Box<[HeaderRule]> = plan
            .session
            .as_ref()
            .map(HeaderRule::all)
            .unwrap_or_default();
        (!headers.is_empty()).then_some(Self { headers })
    }

    /// What a request says.
    ///
    /// # Errors
    /// The answer to a request that must not go on.
    pub fn collect(&self, core: &Core, conn: &Conn, request: &Request) -> Result<Said, Refusal> {
        let mut fields: Vec<Attribute> = Vec::new();
        headers::read(core, conn, request, &self.headers, &mut fields);
        if fields.is_empty() {
            return Ok(None);
        }
        Ok(Some(Rc::new(Attributes::new(fields, None))))
    }
}
