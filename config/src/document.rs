//! What was written: a YAML text as a tree in which every node knows its file, line and column.
//!
//! Owns: the tree ([`Node`]) and its making from text. It is the only place that knows a YAML library.
//! Called by [`crate::load`] on whatever thread loads a configuration; pure.
//!
//! Invariants: a map never holds a key twice; every key is text; depth and size are bounded, so later
//! walks may recurse. Scalars stay text: what a scalar means depends on its key, and is decided in
//! `check`.
//!
//! Deliberately absent: anchors, aliases, merge keys and tags. They make a file mean something that is
//! not written where it is read, and aliases can blow a small file up to a huge one.
//!
//! Tested by the table of wrong files in `tests/wrong.rs` and by random text in `tests/random.rs`.

use std::fmt;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use crate::report::{Pos, Report};

/// Longest text of one file, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// Deepest nesting of maps and lists.
pub const MAX_DEPTH: usize = 32;
/// Most keys of one map, and items of one list: walks compare them pairwise.
pub const MAX_ITEMS: usize = 10_000;

/// A value and where it begins.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it begins.
    pub at: Pos,
}

/// What a node is.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Text, a number, a boolean or nothing, as it was written.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map in the order of the file.
    Map(Vec<Entry>),
}

/// A scalar as written.
#[derive(Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The text, after the environment was filled in.
    pub text: String,
    /// Written without quotes (then `null`, `true` and `5` are not text).
    pub plain: bool,
    /// The text before the environment was filled in, where that changed it. Only this may be shown.
    pub template: Option<String>,
}

/// A key and its value.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key is.
    pub key_at: Pos,
    /// The value.
    pub node: Node,
}

// The tree may hold secrets, so its `Debug` shows none of it.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Node({} at {}:{})",
            self.kind(),
            self.at.line,
            self.at.column
        )
    }
}

impl Node {
    /// An empty map at the start of a file.
    pub fn empty(file: usize) -> Self {
        Self {
            value: Value::Map(Vec::new()),
            at: Pos {
                file,
                line: 1,
                column: 1,
            },
        }
    }

    /// The value of `key`, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.node),
            _ => None,
        }
    }

    /// The scalar, if it is one.
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(s) => Some(s),
            _ => None,
        }
    }

    /// What it is, for an error text: never its content.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(s) if s.is_null() => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a block of keys",
        }
    }
}

impl Scalar {
    /// Written as nothing: empty, `~` or `null`.
    pub fn is_null(&self) -> bool {
        self.plain
            && self.template.is_none()
            && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// Whether the environment filled it in: then `"${N}"` may be a number in spite of its quotes.
    pub fn expanded(&self) -> bool {
        self.template.is_some()
    }

    /// `true` or `false`, without quotes or out of the environment.
    pub fn boolean(&self) -> Option<bool> {
        if !self.plain && !self.expanded() {
            return None;
        }
        match self.text.as_str() {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        }
    }

    /// A whole number, without quotes or out of the environment. Underscores as in `1_000_000` are allowed.
    pub fn integer(&self) -> Option<i64> {
        if !self.plain && !self.expanded() {
            return None;
        }
        integer(&self.text)
    }

    /// A decimal number, without quotes or out of the environment.
    pub fn float(&self) -> Option<f64> {
        if !self.plain && !self.expanded() {
            return None;
        }
        if !self
            .text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'))
        {
            return None;
        }
        self.text.parse().ok().filter(|f: &f64| f.is_finite())
    }
}

fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if !digits.bytes().all(|b| b.is_ascii_digit() || b == b'_') {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Would YAML read the plain text `text` as something other than text?
fn is_text(text: &str) -> bool {
    let s = Scalar {
        text: text.to_owned(),
        plain: true,
        template: None,
    };
    !s.is_null() && s.boolean().is_none() && s.integer().is_none() && s.float().is_none()
}

/// Reads one file. Errors go to `report`; `None` when the text is no YAML that can be used.
pub fn parse(file: usize, text: &str, report: &mut Report) -> Option<Node> {
    if text.len() > MAX_BYTES {
        let at = Pos {
            file,
            line: 1,
            column: 1,
        };
        report.error(at, "", format!("the file is longer than {MAX_BYTES} bytes"));
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        file,
        stack: Vec::new(),
        root: None,
        report,
        failed: false,
    };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(pair) => pair,
            Err(e) => {
                let at = builder.pos(*e.marker());
                builder.fail(at, format!("not YAML: {}", e.info()));
                return None;
            }
        };
        if let Event::DocumentStart(_) = event {
            documents += 1;
            if documents > 1 {
                let at = builder.pos(span.start);
                builder.fail(at, "a second document begins here; a file holds one".into());
                return None;
            }
        }
        builder.event(event, span)?;
        if builder
            .stack
            .last()
            .is_some_and(|open| open.len() > MAX_ITEMS)
        {
            let at = builder.pos(span.start);
            builder.fail(
                at,
                format!("more than {MAX_ITEMS} keys or items in one place"),
            );
            return None;
        }
    }
    if builder.failed {
        return None;
    }
    let root = builder.root.take().unwrap_or_else(|| Node::empty(file));
    match &root.value {
        Value::Scalar(s) if s.is_null() => Some(Node::empty(file)),
        Value::Map(_) => Some(root),
        _ => {
            report.error(
                root.at,
                "",
                format!(
                    "expected a block of keys that begins with `gateway:`, found {}",
                    root.kind()
                ),
            );
            None
        }
    }
}

/// A map or list whose end has not come.
enum Open {
    List(Pos, Vec<Node>),
    Map {
        at: Pos,
        entries: Vec<Entry>,
        key: Option<(String, Pos)>,
    },
}

impl Open {
    fn len(&self) -> usize {
        match self {
            Open::List(_, items) => items.len(),
            Open::Map { entries, .. } => entries.len(),
        }
    }
}

struct Builder<'r> {
    file: usize,
    stack: Vec<Open>,
    root: Option<Node>,
    report: &'r mut Report,
    /// An error was found that leaves the tree incomplete.
    failed: bool,
}

impl Builder<'_> {
    fn pos(&self, m: Marker) -> Pos {
        Pos {
            file: self.file,
            line: m.line(),
            column: m.col() + 1,
        }
    }

    fn fail(&mut self, at: Pos, what: String) {
        self.failed = true;
        let path = self.path();
        self.report.error(at, &path, what);
    }

    /// The path of what is being read, from the open maps and lists.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.stack {
            match open {
                Open::List(_, items) => path.push_str(&format!("[{}]", items.len())),
                Open::Map {
                    key: Some((key, _)),
                    ..
                } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Open::Map { .. } => {}
            }
        }
        path
    }

    /// `None` stops the reading.
    fn event(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let at = self.pos(span.start);
        match event {
            Event::Alias(_) => {
                self.fail(at, "aliases are not supported; write the value out".into());
                self.value(Node { value: null(), at });
            }
            Event::Scalar(text, style, _, tag) => {
                self.no_tag(tag.is_some(), at);
                let plain = style == ScalarStyle::Plain;
                self.scalar(
                    Scalar {
                        text: text.into_owned(),
                        plain,
                        template: None,
                    },
                    at,
                );
            }
            Event::SequenceStart(_, tag) => {
                self.no_tag(tag.is_some(), at);
                self.open(Open::List(at, Vec::new()), at)?;
            }
            Event::MappingStart(_, tag) => {
                self.no_tag(tag.is_some(), at);
                self.open(
                    Open::Map {
                        at,
                        entries: Vec::new(),
                        key: None,
                    },
                    at,
                )?;
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(at, items)) => self.value(Node {
                    value: Value::List(items),
                    at,
                }),
                Some(Open::Map { at, entries, .. }) => self.value(Node {
                    value: Value::Map(entries),
                    at,
                }),
                None => {}
            },
            _ => {}
        }
        Some(())
    }

    fn no_tag(&mut self, tagged: bool, at: Pos) {
        if tagged {
            self.fail(at, "tags such as !x are not supported".into());
        }
    }

    fn open(&mut self, open: Open, at: Pos) -> Option<()> {
        if self.stack.len() >= MAX_DEPTH {
            self.fail(at, format!("nested more than {MAX_DEPTH} deep"));
            return None;
        }
        if let Some(Open::Map { key: None, .. }) = self.stack.last() {
            self.fail(at, "a key must be text, not a list or a block".into());
            return None;
        }
        self.stack.push(open);
        Some(())
    }

    fn scalar(&mut self, scalar: Scalar, at: Pos) {
        let Some(Open::Map {
            entries,
            key: key @ None,
            ..
        }) = self.stack.last_mut()
        else {
            return self.value(Node {
                value: Value::Scalar(scalar),
                at,
            });
        };
        let earlier = entries
            .iter()
            .find(|e| e.key == scalar.text)
            .map(|e| e.key_at);
        let name = scalar.text.clone();
        *key = Some((name.clone(), at));
        if let Some(first) = earlier {
            self.fail(
                at,
                format!("the key is written twice; first at line {}", first.line),
            );
        } else if scalar.plain && !is_text(&name) {
            self.fail(
                at,
                "a key must be text; put it in quotes if it is meant".into(),
            );
        } else if name == "<<" {
            self.fail(
                at,
                "merge keys are not supported; write the keys out, or give a second file with -c"
                    .into(),
            );
        }
    }

    /// Puts a finished value into what is open.
    fn value(&mut self, mut node: Node) {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map { entries, key, .. }) => {
                if let Some((key, key_at)) = key.take() {
                    // An empty value has no place of its own: that of its key is of more use.
                    if node
                        .scalar()
                        .is_some_and(|s| s.plain && s.text.len() <= 1 && s.is_null())
                    {
                        node.at = key_at;
                    }
                    entries.push(Entry { key, key_at, node });
                }
            }
        }
    }
}

fn null() -> Value {
    Value::Scalar(Scalar {
        text: "~".into(),
        plain: true,
        template: None,
    })
}
