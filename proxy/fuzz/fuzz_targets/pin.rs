//! No text is a pin of a signed encoding but one that was sealed, and each text is read in one way.
//!
//! `cargo +nightly fuzz run pin`

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use holdfast::pin::cookie::Codec;
use holdfast_config::plan::PinEncoding;
use libfuzzer_sys::fuzz_target;

const NOW: u32 = 29_000_000;
const HOUR: Duration = Duration::from_secs(3600);
const IDS: [&str; 3] = ["chat-1", "127.0.0.1:9002", "a.b=c;d é"];

static CODECS: LazyLock<[Codec; 3]> = LazyLock::new(|| {
    [PinEncoding::Plain, PinEncoding::Hash, PinEncoding::Secure]
        .map(|encoding| Codec::new("chat", &IDS, encoding, &[7; 32]))
});

fuzz_target!(|input: &[u8]| {
    // A text of a stranger's, and one of ours with a byte changed.
    for codec in CODECS.iter() {
        if let Ok(pin) = codec.open(input, NOW, HOUR, HOUR) {
            assert!(pin.upstream < IDS.len());
            assert!(NOW.saturating_sub(pin.last_use) <= 60);
        }
    }
    let [which, at, change, a, b, c, d, ..] = *input else {
        return;
    };
    let which = usize::from(which % 3);
    let codec = &CODECS[which];
    let issued = NOW - u32::from(a % 60);
    let nonce = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut text = Vec::new();
    codec.seal(usize::from(b % 3), issued, NOW, nonce, &mut text);
    let opened = codec.open(&text, NOW, HOUR, HOUR).expect("ours");
    assert_eq!(
        (opened.upstream, opened.issued),
        (usize::from(b % 3), issued)
    );
    let at = usize::from(at) % text.len();
    text[at] ^= change;
    if change != 0 && which != 0 {
        assert!(codec.open(&text, NOW, HOUR, HOUR).is_err(), "a forged pin");
    } else {
        let _ = codec.open(&text, NOW, HOUR, HOUR);
    }
});
