//! A request head read at once and in two reads is the same; a normal path stays normal.
//!
//! `cargo +nightly fuzz run request_head`

#![no_main]

use holdfast::parse::path::{Normal, normalise};
use holdfast::parse::{HeadLimits, HeadScan, Progress, RequestHead, request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else {
        return;
    };
    let limits = HeadLimits {
        header_bytes: 512,
        uri_bytes: 128,
        headers: 16,
        ..Default::default()
    };
    let (mut scan, mut whole, mut split) = (
        HeadScan::new(),
        RequestHead::default(),
        RequestHead::default(),
    );
    let at_once = request(input, &limits, &mut scan, &mut whole);
    let mut scan = HeadScan::new();
    let first = &input[..input.len().min(cut.into())];
    let in_two = match request(first, &limits, &mut scan, &mut split) {
        Ok(Progress::Partial) => request(input, &limits, &mut scan, &mut split),
        end => end,
    };
    assert_eq!(at_once, in_two);
    if at_once == Ok(Progress::Complete) {
        assert_eq!(whole.lines, split.lines);
        assert_eq!(whole.framing, split.framing);
        assert!(input[..whole.len].ends_with(b"\r\n\r\n"));
        let path = whole.path(input);
        if path != b"*" {
            assert_eq!(normalise(path, false, &mut Vec::new()), Ok(Normal::Same));
        }
    }
});
