//! A PROXY header reads the same however it is split, and none is waited on past its bound.
//!
//! `cargo +nightly fuzz run proxy_header`

#![no_main]

use holdfast::parse::proxy::{MAX, read, write_v2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let whole = read(input);
    if input.len() >= MAX {
        assert_ne!(whole, Ok(None));
    }
    // Near the end of the header, and at a place that the input chooses.
    let chosen = input.last().map_or(0, |&b| usize::from(b));
    let end = whole.ok().flatten().map_or(input.len(), |h| h.len);
    for n in [chosen, end.saturating_sub(1), end] {
        let Some(part) = input.get(..n) else { continue };
        match whole {
            Ok(Some(header)) if n >= header.len => assert_eq!(read(part), whole),
            Ok(_) => assert_eq!(read(part), Ok(None)),
            Err(_) => assert!(!matches!(read(part), Ok(Some(_)))),
        }
    }
    if let Some(source) = whole.ok().flatten().and_then(|h| h.source) {
        let mut again = Vec::new();
        write_v2(source, source, |bytes| again.extend_from_slice(bytes));
        assert_eq!(read(&again).unwrap().unwrap().source, Some(source));
    }
});
