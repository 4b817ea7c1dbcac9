//! A response head read at once and in two reads is the same; every refusal is a 502.
//!
//! `cargo +nightly fuzz run response_head`

#![no_main]

use holdfast::parse::{Asked, HeadLimits, HeadScan, Method, Progress, ResponseHead, response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [cut, kind, input @ ..] = data else {
        return;
    };
    let method = if kind & 1 == 0 {
        Method::Get
    } else {
        Method::Head
    };
    let asked = Asked {
        method,
        upgrade: kind & 2 != 0,
    };
    let limits = HeadLimits {
        header_bytes: 512,
        headers: 16,
        ..Default::default()
    };
    let (mut whole, mut split) = (ResponseHead::default(), ResponseHead::default());
    let at_once = response(input, &limits, &mut HeadScan::new(), asked, &mut whole);
    let mut scan = HeadScan::new();
    let first = &input[..input.len().min(usize::from(*cut))];
    let in_two = match response(first, &limits, &mut scan, asked, &mut split) {
        Ok(Progress::Partial) => response(input, &limits, &mut scan, asked, &mut split),
        end => end,
    };
    assert_eq!(at_once, in_two);
    match at_once {
        Err(refusal) => assert_eq!(refusal.status, 502),
        Ok(Progress::Partial) => {}
        Ok(Progress::Complete) => {
            assert_eq!(whole.lines, split.lines);
            assert_eq!(whole.framing, split.framing);
        }
    }
});
