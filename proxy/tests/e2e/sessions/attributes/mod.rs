//! What requests and configuration say about a session: headers, tokens, expressions.

mod headers;

use super::*;
