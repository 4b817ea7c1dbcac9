//! Tests of the codec: round trips, every changed byte, times, what a change of configuration keeps.

use proptest::prelude::*;

use super::*;

const KEY: [u8; 32] = [0x42; 32];
const NOW: u32 = 29_000_000;
const ALL: [PinEncoding; 3] = [PinEncoding::Plain, PinEncoding::Hash, PinEncoding::Secure];
const SIGNED: [PinEncoding; 2] = [PinEncoding::Hash, PinEncoding::Secure];
const IDS: [&str; 3] = ["chat-1", "127.0.0.1:9002", "a.b=c;d é"];
const HOUR: Duration = Duration::from_secs(3600);
const NEVER: Duration = Duration::ZERO;

fn codec(encoding: PinEncoding) -> Codec {
    Codec::new("chat-service", &IDS, encoding, &KEY)
}

fn sealed(codec: &Codec, upstream: usize, issued: u32, last_use: u32) -> Vec<u8> {
    let mut out = Vec::new();
    codec.seal(upstream, issued, last_use, [9; 12], &mut out);
    out
}

fn open(codec: &Codec, value: &[u8]) -> Result<usize, Miss> {
    codec
        .open(value, NOW, HOUR, NEVER)
        .map(|opened| opened.upstream)
}

#[test]
fn what_is_sealed_opens() {
    for encoding in ALL {
        let codec = codec(encoding);
        for upstream in 0..IDS.len() {
            let value = sealed(&codec, upstream, NOW - 100, NOW - 3);
            let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~%".contains(byte);
            assert!(value.iter().all(safe), "{encoding:?}: cookie-octets alone");
            let opened = codec.open(&value, NOW, HOUR, NEVER);
            let expected = Opened {
                upstream,
                issued: NOW - 100,
                last_use: NOW - 3,
                renew: false,
            };
            assert_eq!(opened, Ok(expected), "{encoding:?}");
        }
    }
}

#[test]
fn the_text_of_each_encoding_stays_as_it_is() {
    let text = |encoding, upstream| {
        String::from_utf8(sealed(&codec(encoding), upstream, NOW - 100, NOW)).unwrap()
    };
    assert_eq!(text(PinEncoding::Plain, 0), "chat-1.28999900.29000000");
    assert_eq!(
        text(PinEncoding::Plain, 1),
        "127.0.0.1%3A9002.28999900.29000000"
    );
    assert_eq!(
        text(PinEncoding::Plain, 2),
        "a.b%3Dc%3Bd%20%C3%A9.28999900.29000000"
    );
    // Made with other implementations of HMAC, HKDF and GCM; two versions must read each other's pins.
    assert_eq!(
        text(PinEncoding::Hash, 0),
        "o-8W1WuezekBuoDcAbqBQKVvqrZmO4KW"
    );
    assert_eq!(
        text(PinEncoding::Secure, 0),
        "AQkJCQkJCQkJCQkJCc2w7S-l5twWEN-9-YIX1ttWGwvqLJYknroWB8ztzAHi"
    );
}

#[test]
fn nothing_is_sealed_for_nobody() {
    for encoding in ALL {
        assert!(sealed(&codec(encoding), IDS.len(), NOW, NOW).is_empty());
    }
}

#[test]
fn every_changed_byte_is_refused() {
    for encoding in SIGNED {
        let codec = codec(encoding);
        let value = sealed(&codec, 1, NOW, NOW);
        for at in 0..value.len() {
            for byte in (0..=255).filter(|byte| *byte != value[at]) {
                let mut changed = value.clone();
                changed[at] = byte;
                let miss = open(&codec, &changed).unwrap_err();
                assert!(
                    matches!(miss, Miss::Forged | Miss::Undecodable),
                    "{encoding:?} {at} {byte}: {miss:?}"
                );
            }
        }
        for len in 0..value.len() {
            let miss = open(&codec, &value[..len]).unwrap_err();
            let forged = len == HASH_CHARS && miss == Miss::Forged;
            assert!(
                forged || miss == Miss::Undecodable,
                "{encoding:?} cut to {len}: {miss:?}"
            );
        }
        let longer = [&value[..], b"A"].concat();
        assert_eq!(open(&codec, &longer), Err(Miss::Undecodable));
    }
}

#[test]
fn another_key_or_service_opens_nothing() {
    for encoding in SIGNED {
        let value = sealed(&codec(encoding), 0, NOW, NOW);
        let others = [
            Codec::new("chat-service", &IDS, encoding, &[0x43; 32]),
            Codec::new("cart-service", &IDS, encoding, &KEY),
            Codec::new("chat-servic", &["echat-1"], encoding, &KEY),
        ];
        for other in others {
            assert_eq!(open(&other, &value), Err(Miss::Forged), "{encoding:?}");
        }
    }
}

#[test]
fn secure_shows_neither_upstream_nor_time_and_no_two_are_equal() {
    let codec = codec(PinEncoding::Secure);
    let seal = |upstream, nonce| {
        let mut out = Vec::new();
        codec.seal(upstream, NOW, NOW, [nonce; 12], &mut out);
        out
    };
    assert_ne!(seal(0, 1), seal(0, 2));
    let (a, b) = (
        URL_SAFE_NO_PAD.decode(seal(0, 1)).unwrap(),
        URL_SAFE_NO_PAD.decode(seal(1, 1)).unwrap(),
    );
    assert_eq!(a[..13], b[..13], "version and nonce");
    assert!(!a.windows(4).any(|bytes| bytes == NOW.to_be_bytes()));
}

#[test]
fn ids_count_and_not_positions() {
    for encoding in ALL {
        let before = codec(encoding);
        let after = Codec::new("chat-service", &["new", IDS[2], IDS[0]], encoding, &KEY);
        assert_eq!(
            open(&after, &sealed(&before, 0, NOW, NOW)),
            Ok(2),
            "{encoding:?}"
        );
        assert_eq!(
            open(&after, &sealed(&before, 2, NOW, NOW)),
            Ok(1),
            "{encoding:?}"
        );
        assert_eq!(
            open(&after, &sealed(&before, 1, NOW, NOW)),
            Err(Miss::NoSuchUpstream),
            "{encoding:?}"
        );
    }
}

#[test]
fn a_change_of_encoding_keeps_signed_pins_and_lets_no_unsigned_one_in() {
    for now in ALL {
        for was in ALL {
            let value = sealed(&codec(was), 2, NOW, NOW);
            let opened = codec(now).open(&value, NOW, HOUR, NEVER);
            if was == PinEncoding::Plain && now != PinEncoding::Plain {
                assert_eq!(opened, Err(Miss::Undecodable), "{was:?} under {now:?}");
            } else {
                let opened = opened.unwrap();
                assert_eq!(
                    (opened.upstream, opened.renew),
                    (2, was != now),
                    "{was:?} under {now:?}"
                );
            }
        }
    }
}

#[test]
fn an_unsigned_value_as_long_as_a_signed_one_is_read() {
    for len in [HASH_CHARS, SECURE_CHARS] {
        let id = "x".repeat(len - 18);
        let codec = Codec::new("s", &[&id], PinEncoding::Plain, &KEY);
        let value = sealed(&codec, 0, NOW, NOW);
        assert_eq!((value.len(), open(&codec, &value)), (len, Ok(0)));
        // And an id of our alphabet without the times is no signed value.
        assert_eq!(
            open(&codec, "x".repeat(len).as_bytes()).map_err(|_| ()),
            Err(())
        );
    }
}

#[test]
fn plain_text_that_is_no_pin() {
    let codec = codec(PinEncoding::Plain);
    for (text, miss) in [
        ("", Miss::Undecodable),
        ("chat-1", Miss::Undecodable),
        ("chat-1.29000000", Miss::Undecodable),
        ("chat-1..29000000", Miss::Undecodable),
        ("chat-1.29000000.", Miss::Undecodable),
        ("chat-1.29000000.+9000000", Miss::Undecodable),
        ("chat-1.29000000.4294967296", Miss::Undecodable),
        ("chat-1.29000000.99999999999", Miss::Undecodable),
        ("chat-1.2900000x.29000000", Miss::Undecodable),
        (".29000000.29000000", Miss::NoSuchUpstream),
        ("chat-9.29000000.29000000", Miss::NoSuchUpstream),
        ("CHAT-1.29000000.29000000", Miss::NoSuchUpstream),
        ("127.0.0.1:9002.29000000.29000000", Miss::NoSuchUpstream),
        ("chat-1.4294967295.29000000", Miss::Future),
        ("chat-1.0.0", Miss::Expired),
    ] {
        assert_eq!(open(&codec, text.as_bytes()), Err(miss), "{text}");
    }
}

#[test]
fn times() {
    let minutes = |n: u64| Duration::from_secs(n * 60);
    // issued and last use in minutes before now (negative: ahead), bounds, what comes of it
    let cases = [
        (0, 0, HOUR, NEVER, Ok(false)),
        (5, 5, HOUR, NEVER, Ok(false)),
        (6, 6, HOUR, NEVER, Ok(true)),
        (60, 60, HOUR, NEVER, Ok(true)),
        (61, 61, HOUR, NEVER, Err(Miss::Expired)),
        (61, 0, HOUR, NEVER, Ok(false)),
        (61, 0, HOUR, HOUR, Err(Miss::Expired)),
        (60, 0, HOUR, HOUR, Ok(false)),
        (1_000_000, 1_000_000, NEVER, NEVER, Ok(false)),
        (0, 0, Duration::from_secs(10), NEVER, Ok(false)),
        (1, 1, Duration::from_secs(10), NEVER, Ok(true)),
        (2, 2, Duration::from_secs(10), NEVER, Err(Miss::Expired)),
        (1, 1, minutes(5), NEVER, Ok(true)),
        (2, 2, Duration::from_secs(90), NEVER, Ok(true)),
        (3, 3, Duration::from_secs(90), NEVER, Err(Miss::Expired)),
        (-1440, -1440, HOUR, HOUR, Ok(false)),
        (-1441, 0, HOUR, HOUR, Err(Miss::Future)),
        (0, -1441, HOUR, HOUR, Err(Miss::Future)),
        (-1441, -1441, NEVER, NEVER, Err(Miss::Future)),
        (0, -10, HOUR, HOUR, Ok(false)),
    ];
    for encoding in ALL {
        let codec = codec(encoding);
        for (issued, last_use, duration, max_life, expected) in cases {
            let at = |ago: i64| u32::try_from(i64::from(NOW) - ago).unwrap();
            let value = sealed(&codec, 0, at(issued), at(last_use));
            let opened = codec
                .open(&value, NOW, duration, max_life)
                .map(|opened| opened.renew);
            assert_eq!(
                opened, expected,
                "{encoding:?} {issued} {last_use} {duration:?} {max_life:?}"
            );
        }
    }
}

#[test]
fn the_end_of_time_is_no_end_of_us() {
    for encoding in ALL {
        let codec = codec(encoding);
        for (issued, last_use, now) in [
            (u32::MAX, u32::MAX, u32::MAX),
            (0, u32::MAX, 0),
            (0, 0, u32::MAX),
        ] {
            let value = sealed(&codec, 0, issued, last_use);
            let _: Result<Opened, Miss> = codec.open(&value, now, Duration::MAX, Duration::MAX);
        }
    }
}

#[test]
fn debug_shows_no_key() {
    let shown = format!("{:?}", Codec::new("s", &["a"], PinEncoding::Secure, &KEY));
    assert_eq!(shown, r#"Codec { encoding: Secure, upstreams: ["a"], .. }"#);
}

proptest! {
    #[test]
    fn any_id_returns(ids in proptest::collection::hash_set(".{1,40}", 1..8), seed: u64, age in 0u32..60) {
        let ids: Vec<String> = ids.into_iter().collect();
        let upstream = usize::try_from(seed).unwrap_or(0) % ids.len();
        for encoding in ALL {
            let codec = Codec::new("s", &ids, encoding, &KEY);
            let value = sealed(&codec, upstream, NOW - age, NOW - age);
            prop_assert_eq!(open(&codec, &value), Ok(upstream));
        }
    }

    #[test]
    fn junk_is_a_miss(value in proptest::collection::vec(any::<u8>(), 0..100), now: u32) {
        for encoding in ALL {
            prop_assert!(codec(encoding).open(&value, now, HOUR, HOUR).is_err());
        }
    }

    #[test]
    fn junk_of_the_right_form_is_a_miss(value in "[A-Za-z0-9_-]{32}|[A-Za-z0-9_-]{60}") {
        for encoding in SIGNED {
            let miss = open(&codec(encoding), value.as_bytes()).unwrap_err();
            prop_assert!(matches!(miss, Miss::Forged | Miss::Undecodable));
        }
    }
}
