//! Several files as one: maps merge, scalars and lists replace.
//!
//! Owns nothing; a pure function over [`Node`]s. Every node keeps the place where it was written, so an
//! error names the file that holds the culprit. Tested below and in `tests/files.rs`.

use crate::document::{Entry, Node, Value};

/// `over` on top of `base`.
pub fn merge(base: Node, over: Node) -> Node {
    let Node { value, at } = over;
    match (base.value, value) {
        (Value::Map(mut entries), Value::Map(later)) => {
            for Entry { key, key_at, node } in later {
                match entries.iter_mut().find(|e| e.key == key) {
                    Some(entry) => {
                        let earlier = std::mem::replace(&mut entry.node, Node::empty(0));
                        entry.node = merge(earlier, node);
                        entry.key_at = key_at;
                    }
                    None => entries.push(Entry { key, key_at, node }),
                }
            }
            Node {
                value: Value::Map(entries),
                at,
            }
        }
        (_, value) => Node { value, at },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    fn node(file: usize, text: &str) -> Node {
        crate::document::parse(file, text, &mut Report::default()).expect("YAML")
    }

    #[test]
    fn maps_merge_and_the_rest_replaces() {
        let a = node(0, "a: { x: 1, y: [1, 2] }\nb: 1");
        let b = node(1, "a: { y: [3], z: 4 }\nb: { c: 1 }");
        let m = merge(a, b);
        let a = m.get("a").expect("a");
        let text = |n: &Node| n.scalar().expect("scalar").text.clone();
        assert_eq!(text(a.get("x").expect("x")), "1");
        assert_eq!(a.get("x").expect("x").at.file, 0);
        assert_eq!(text(a.get("z").expect("z")), "4");
        let Value::List(y) = &a.get("y").expect("y").value else {
            panic!("a list")
        };
        assert_eq!(y.len(), 1);
        assert_eq!(y[0].at.file, 1);
        assert!(m.get("b").expect("b").get("c").is_some());
    }
}
