//! Expressions of `session.attributes.computed`, in the Common Expression Language (CEL).
//!
//! Owns [`compile`], which is all that decides whether an expression may be used: `check` calls it for its
//! errors, the gateway for what it evaluates. Pure.
//!
//! Invariants, which bound the cost of one evaluation whatever the inputs are: an expression has at most
//! [`MAX_TEXT`] bytes and [`MAX_NODES`] nodes; no macro that runs over a list or map (`all`, `exists`,
//! `exists_one`, `filter`, `map`), so that each node is evaluated once at most; only functions of [`FUNCTIONS`],
//! each of which takes time that is linear in its arguments (regular expressions are not among them). So an
//! evaluation takes at most nodes × size of the input, and its result is no larger than that.
//!
//! Deliberately absent: types. Whether `session.cartTotal` is a number only a session can tell; such an error
//! is one of the evaluation. Tested below.

use std::collections::BTreeSet;
use std::fmt;

use cel::Program;
use cel::common::ast::{EntryExpr, Expr, IdedExpr};

/// Longest expression, in bytes.
pub const MAX_TEXT: usize = 4096;
/// Most nodes of an expression.
pub const MAX_NODES: usize = 256;
/// What can be called beside operators.
pub const FUNCTIONS: &[&str] = &[
    "now",
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "bytes",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "type",
    "dyn",
];
/// What it can refer to.
const VARIABLES: &[&str] = &["session", "request"];
/// Names of types are values too.
const TYPES: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// A good expression.
pub struct Expression {
    /// To be evaluated.
    pub program: Program,
    /// Fields of `session` that it reads; `None` where they are not known beforehand.
    pub session: Option<BTreeSet<String>>,
    /// Fields of `request` that it reads; `None` where they are not known beforehand.
    pub request: Option<BTreeSet<String>>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expression")
            .field("session", &self.session)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// What is wrong with an expression, and where in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpressionError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In words.
    pub message: String,
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {} of the expression: {}",
            self.line, self.column, self.message
        )
    }
}

impl std::error::Error for ExpressionError {}

/// Reads an expression and holds it to the bounds of this module.
///
/// # Errors
/// The first thing that is wrong.
pub fn compile(text: &str) -> Result<Expression, ExpressionError> {
    let first = |message: String| ExpressionError {
        line: 1,
        column: 1,
        message,
    };
    if text.len() > MAX_TEXT {
        return Err(first(format!("is longer than {MAX_TEXT} bytes")));
    }
    // Parsing descends with each of these; what nests deeper than a person writes is no expression.
    let opened = text
        .bytes()
        .filter(|b| matches!(b, b'(' | b'[' | b'{' | b'!' | b'-' | b'?'))
        .count();
    if opened > MAX_NODES {
        return Err(first(format!("has more than {MAX_NODES} parts")));
    }
    let program = Program::compile(text).map_err(|errors| match errors.errors.first() {
        Some(error) => ExpressionError {
            line: usize::try_from(error.pos.0).unwrap_or(1).max(1),
            column: usize::try_from(error.pos.1).unwrap_or(1).max(1),
            message: error.msg.trim().to_owned(),
        },
        None => first("is no CEL expression".to_owned()),
    })?;
    let mut walk = Walk {
        program: &program,
        text,
        nodes: 0,
        session: Some(BTreeSet::new()),
        request: Some(BTreeSet::new()),
    };
    walk.visit(program.expression())?;
    let (session, request) = (walk.session, walk.request);
    Ok(Expression {
        program,
        session,
        request,
    })
}

struct Walk<'a> {
    program: &'a Program,
    text: &'a str,
    nodes: usize,
    session: Option<BTreeSet<String>>,
    request: Option<BTreeSet<String>>,
}

impl Walk<'_> {
    fn error(&self, at: &IdedExpr, message: String) -> ExpressionError {
        let offset = self
            .program
            .source_info()
            .offset_for(at.id)
            .map_or(0, |(start, _)| start);
        let before: String = self.text.chars().take(offset as usize).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        ExpressionError {
            line,
            column,
            message,
        }
    }

    fn visit(&mut self, at: &IdedExpr) -> Result<(), ExpressionError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.error(at, format!("has more than {MAX_NODES} parts")));
        }
        match &at.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Comprehension(_) => Err(self.error(
                at,
                "all, exists, exists_one, filter and map are not allowed: their cost has no bound (`in` looks for a value in a list)".to_owned(),
            )),
            Expr::Ident(name) => self.variable(at, name),
            Expr::Select(select) => {
                if let Expr::Ident(name) = &select.operand.expr
                    && VARIABLES.contains(&name.as_str())
                {
                    self.nodes += 1;
                    self.field(name, &select.field);
                    return Ok(());
                }
                self.visit(&select.operand)
            }
            Expr::Call(call) => self.call(at, call),
            Expr::List(list) => list.elements.iter().try_for_each(|e| self.visit(e)),
            Expr::Map(map) => map.entries.iter().try_for_each(|e| self.entry(&e.expr)),
            Expr::Struct(of) => {
                let name = &of.type_name;
                Err(self.error(at, format!("{name} is no function; messages are not known")))
            }
        }
    }

    fn entry(&mut self, entry: &EntryExpr) -> Result<(), ExpressionError> {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key)?;
                self.visit(&entry.value)
            }
        }
    }

    /// A variable that is used as a whole.
    fn variable(&mut self, at: &IdedExpr, name: &str) -> Result<(), ExpressionError> {
        match name {
            "session" => self.session = None,
            "request" => self.request = None,
            _ if TYPES.contains(&name) => {}
            _ => {
                let message = format!("{name} is not known; expected session, request or now()");
                return Err(self.error(at, message));
            }
        }
        Ok(())
    }

    fn field(&mut self, variable: &str, field: &str) {
        let fields = match variable {
            "session" => &mut self.session,
            _ => &mut self.request,
        };
        if let Some(fields) = fields {
            fields.insert(field.to_owned());
        }
    }

    fn call(
        &mut self,
        at: &IdedExpr,
        call: &cel::common::ast::CallExpr,
    ) -> Result<(), ExpressionError> {
        let name = call.func_name.as_str();
        // Operators have names such as `_+_`, `!_`, `_?_:_` and `@in`.
        let operator = name.contains('_') && !name.chars().any(char::is_alphanumeric);
        if !operator && name != "@in" && !FUNCTIONS.contains(&name) {
            return Err(self.error(at, format!("{name}() is not known")));
        }
        if name == "now" && !(call.target.is_none() && call.args.is_empty()) {
            return Err(self.error(at, "now() takes nothing".to_owned()));
        }
        if let Some(target) = &call.target {
            self.visit(target)?;
        }
        call.args.iter().try_for_each(|arg| self.visit(arg))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ones_and_what_they_read() {
        let fields = |set: &Option<BTreeSet<String>>| {
            set.as_ref()
                .map(|s| s.iter().cloned().collect::<Vec<_>>().join(" "))
        };
        for (text, session, request) in [
            ("now() - session.created", Some("created"), Some("")),
            (
                "session.requestCount > 3 ? 'often' : \"new\"",
                Some("requestCount"),
                Some(""),
            ),
            (
                "'admin' in session.userRoles && !(request.method != \"GET\")",
                Some("userRoles"),
                Some("method"),
            ),
            (
                "has(session.a) ? session.a.b : request.headers['x-a']",
                Some("a"),
                Some("headers"),
            ),
            ("session", None, Some("")),
            ("session['a-b'] + request.path", None, Some("path")),
            (
                "size([1, {'a': session.b}, -2.5, null]) % 2 == 0",
                Some("b"),
                Some(""),
            ),
            ("type(session.a) == string", Some("a"), Some("")),
            (
                "timestamp('2026-01-01T00:00:00Z').getHours() + int('1')",
                Some(""),
                Some(""),
            ),
            (
                "session.name.startsWith('a') || session.name.contains('ü')",
                Some("name"),
                Some(""),
            ),
            ("string(duration('1h30m'))", Some(""), Some("")),
        ] {
            let good = compile(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(fields(&good.session).as_deref(), session, "{text}");
            assert_eq!(fields(&good.request).as_deref(), request, "{text}");
        }
    }

    #[test]
    fn wrong_ones_say_where() {
        for (text, line, column, part) in [
            ("", 1, 1, ""),
            ("now( - session.created", 1, 0, ""),
            ("1 +", 1, 0, ""),
            ("session.a ==\n  user.b", 2, 3, "user is not known"),
            ("1 + eval('x')", 1, 9, "eval() is not known"),
            (
                "session.a.matches('(a+)+$')",
                1,
                0,
                "matches() is not known",
            ),
            ("session.a.exists(x, x == 1)", 1, 0, "are not allowed"),
            (
                "session.a.map(x, session.a.map(y, y))",
                1,
                0,
                "are not allowed",
            ),
            ("now(1)", 1, 4, "takes nothing"),
            ("Foo{a: 1}", 1, 4, "messages are not known"),
        ] {
            let error = compile(text).expect_err(text);
            assert_eq!(error.line, line, "{text}: {error}");
            if column > 0 {
                assert_eq!(error.column, column, "{text}: {error}");
            }
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn cost_has_a_bound() {
        assert!(compile(&"a".repeat(MAX_TEXT + 1)).is_err());
        assert!(compile(&format!("{}1{}", "(".repeat(2000), ")".repeat(2000))).is_err());
        assert!(compile(&format!("{}true", "!".repeat(2000))).is_err());
        let many = vec!["1"; 200].join(" + ");
        assert!(compile(&many).is_err());
        assert!(compile(&vec!["1"; 100].join(" + ")).is_ok());
        assert!(compile(&vec!["session.a"; 60].join(" + ")).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = compile(&text);
        }

        #[test]
        fn no_tokens_panic(tokens in proptest::collection::vec(
            proptest::sample::select(vec!["session", ".", "a", "(", ")", "[", "]", "'x'", "1", "+", "-", "?", ":", "now", "in", "{", "}", ",", "!", "\n"]), 0..20)
        ) {
            let _ = compile(&tokens.concat());
        }
    }
}
