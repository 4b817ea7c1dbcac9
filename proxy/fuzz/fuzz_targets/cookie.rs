//! With our cookies taken out, none of ours is left, and all others are.
//!
//! `cargo +nightly fuzz run cookie`

#![no_main]

use holdfast::parse::cookies::{Rewrite, pairs, set_cookie_name, without};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    let mut out = Vec::new();
    let done = without(value, |n| n == b"sid", &mut out);
    let others = pairs(value).filter(|p| p.name != b"sid");
    match done {
        Rewrite::Unchanged => assert!(out.is_empty() && others.count() == pairs(value).count()),
        Rewrite::Changed => assert!(pairs(&out).eq(others)),
        Rewrite::Empty => assert!(out.is_empty() && others.count() == 0),
    }
    set_cookie_name(value);
});
