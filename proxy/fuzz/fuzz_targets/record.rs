//! What is read as a record is exactly what writing it makes.
//!
//! `cargo +nightly fuzz run record`

#![no_main]

use holdfast_store::record::wire::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(record) = decode(input) {
        let mut out = Vec::new();
        encode(&record, &mut out);
        assert_eq!(out, input);
    }
});
