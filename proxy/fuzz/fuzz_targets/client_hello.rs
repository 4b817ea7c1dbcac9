//! A ClientHello reads the same however it is split, and none is waited on past its bound.
//!
//! `cargo +nightly fuzz run client_hello`

#![no_main]

use holdfast_runtime::tls::hello::{Look, MAX_HELLO, Seen, look, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else {
        return;
    };
    let whole = look(input);
    if input.len() >= MAX_HELLO {
        assert_ne!(whole, Seen::Part);
    }
    let first = input.get(..cut.into()).unwrap_or(input);
    let mut looks = Look::default();
    looks.at(first);
    assert_eq!(looks.at(input), whole);
    match look(first) {
        // What was decided stays so, whatever comes behind it.
        Seen::Part => assert!(read(first).is_none()),
        decided => assert_eq!(decided, whole),
    }
    if let Some(hello) = read(input) {
        assert_eq!(whole, Seen::Whole);
        if let Some(name) = &hello.server_name {
            assert!(!name.is_empty() && name.len() <= 253);
            assert!(!name.bytes().any(|b| b.is_ascii_uppercase() || b <= b' '));
        }
        let before = read(first);
        assert!(before.is_none_or(|early| early.digest == hello.digest));
    }
});
