//! What requests and configuration say about a session: headers, tokens, expressions.

mod computed;
mod headers;
mod jwt;

use super::*;
