//! Paths: what becomes of each.

use super::path::{Normal, normalise};
use super::*;

fn normal(path: &str, raw: bool) -> Result<String, Refusal> {
    let mut out = Vec::new();
    Ok(match normalise(path.as_bytes(), raw, &mut out)? {
        Normal::Same => {
            assert!(out.is_empty());
            path.to_owned()
        }
        Normal::Changed => {
            assert_ne!(out, path.as_bytes());
            String::from_utf8(out).unwrap()
        }
    })
}

#[test]
fn table() {
    for (path, expected) in [
        ("/", "/"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("//", "//"),
        ("//a//b", "//a//b"),
        ("/.", "/"),
        ("/./", "/"),
        ("/..", "/"),
        ("/../", "/"),
        ("/../../..", "/"),
        ("/a/.", "/a/"),
        ("/a/./b", "/a/b"),
        ("/a/..", "/"),
        ("/a/../", "/"),
        ("/a/../b", "/b"),
        ("/a/b/../../c", "/c"),
        ("/a/b/../../../c", "/c"),
        ("/a//../b", "/a/b"),
        ("/../a", "/a"),
        ("/a/b/..", "/a/"),
        ("/%2e", "/"),
        ("/%2E%2e/a", "/a"),
        ("/a/.%2e/b", "/b"),
        ("/a/%2e./b", "/b"),
        ("/.a", "/.a"),
        ("/..a", "/..a"),
        ("/...", "/..."),
        ("/a.", "/a."),
        ("/a..", "/a.."),
        ("/a/.../b", "/a/.../b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/%41%7a%30%2d%2E%5f%7E", "/Az0-._~"),
        ("/%c3%a9", "/%c3%a9"),
        ("/%C3%A9/%7e", "/%C3%A9/~"),
        ("/%20%22%25", "/%20%22%25"),
        ("/%2541", "/%2541"),
        ("/a;b=c/..;/d", "/a;b=c/..;/d"),
        ("/a%3b/../b", "/b"),
        ("/a{b}|c^d`\"<>", "/a{b}|c^d`\"<>"),
        ("/a%0d%0a", "/a%0d%0a"),
        ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
    ] {
        assert_eq!(normal(path, false).as_deref(), Ok(expected), "{path}");
        assert_eq!(
            normal(expected, false).as_deref(),
            Ok(expected),
            "{path}: twice"
        );
        assert_eq!(normal(path, true).as_deref(), Ok(expected), "{path}: raw");
    }
}

#[test]
fn raw_lifts_only_what_it_says() {
    for (path, raw) in [
        ("/a%2fb", "/a%2fb"),
        ("/a%2F..%2fb", "/a%2F..%2fb"),
        ("/a%5c..", "/a%5c.."),
        ("/a%00", "/a%00"),
        ("/a\\..\\b", "/a\\..\\b"),
        ("/a%2f/../%41", "/A"),
    ] {
        assert_eq!(normal(path, false).unwrap_err().status, 400, "{path}");
        assert_eq!(normal(path, true).as_deref(), Ok(raw), "{path}");
    }
    for path in ["/%", "/%4", "/%4g", "/a#", "/a b", "/\u{e9}", "/\x7f"] {
        assert_eq!(normal(path, true).unwrap_err().status, 400, "{path}");
        assert_eq!(normal(path, false).unwrap_err().status, 400, "{path}");
    }
}
