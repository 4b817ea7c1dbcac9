//! Chunked bodies: hostile, odd, and written again.

use super::*;

fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, Decoder, usize), Refusal> {
    let limits = HeadLimits {
        header_bytes: 200,
        headers: 4,
        ..Default::default()
    };
    let mut decoder = Decoder::request();
    let mut data = Vec::new();
    let mut at = 0;
    while at < input.len() && !decoder.is_done() {
        let part = &input[at..input.len().min(at + step)];
        let piece = decoder.decode(part, &limits)?;
        assert!(piece.consumed > 0);
        data.extend_from_slice(&part[piece.data]);
        at += piece.consumed;
    }
    Ok((data, decoder, at))
}

#[test]
fn refused() {
    let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(257));
    let big_trailer = format!("0\r\nA: {}\r\n\r\n", "t".repeat(200));
    let table: &[(&str, u16, &str)] = &[
        ("\r\n", 400, "chunk without a size"),
        ("\n", 400, "chunk without a size"),
        (";a\r\n", 400, "chunk without a size"),
        (" 5\r\nhello\r\n", 400, "chunk without a size"),
        ("+5\r\nhello\r\n", 400, "chunk without a size"),
        ("-1\r\n", 400, "chunk without a size"),
        ("0x5\r\nhello\r\n", 400, "malformed chunk size"),
        ("5 \r\nhello\r\n", 400, "malformed chunk size"),
        ("5\t\r\nhello\r\n", 400, "malformed chunk size"),
        ("5 ;a\r\nhello\r\n", 400, "malformed chunk size"),
        ("5_0\r\n", 400, "malformed chunk size"),
        ("5g\r\n", 400, "malformed chunk size"),
        ("5,5\r\n", 400, "malformed chunk size"),
        ("5\0\r\n", 400, "malformed chunk size"),
        ("\u{665}\r\n", 400, "chunk without a size"),
        ("5\nhello\r\n", 400, "bare LF in a chunk line"),
        ("5;a\nhello\r\n", 400, "bare LF in a chunk line"),
        ("5\rhello\r\n", 400, "bare CR in a chunk line"),
        ("5\r\r\nhello\r\n", 400, "bare CR in a chunk line"),
        ("5;a\rb\r\nhello\r\n", 400, "bare CR in a chunk line"),
        ("5;\0\r\nhello\r\n", 400, "control byte in a chunk line"),
        ("5;\x7f\r\nhello\r\n", 400, "control byte in a chunk line"),
        ("00000000000000000\r\n\r\n", 400, "chunk size too large"),
        ("11111111111111111\r\n", 400, "chunk size too large"),
        ("5\r\nhello!\r\n", 400, "chunk data without its CRLF"),
        ("5\r\nhello\n", 400, "chunk data without its CRLF"),
        ("5\r\nhello\r0\r\n", 400, "chunk data without its CRLF"),
        ("5\r\nhello0\r\n\r\n", 400, "chunk data without its CRLF"),
        ("5\r\nhello\r\n\r\n", 400, "chunk without a size"),
        (&long_extension, 400, "chunk extension too long"),
        ("0\r\n\n", 400, "bare LF"),
        ("0\r\nA: b\n\r\n", 400, "bare LF"),
        ("0\r\nA: b\r\r\n", 400, "bare CR"),
        ("0\r\nA: \0\r\n\r\n", 400, "NUL byte"),
        (
            "0\r\nGET / HTTP/1.1\r\n\r\n",
            400,
            "header line without a colon",
        ),
        ("0\r\n:A: b\r\n\r\n", 400, "empty header name"),
        ("0\r\n A: b\r\n\r\n", 400, "folded header line"),
        (
            "0\r\nA : b\r\n\r\n",
            400,
            "white space before the colon of a header",
        ),
        (
            "0\r\nContent_Length: 4\r\n\r\n",
            400,
            "underscore in the name of a framing header",
        ),
        (
            "0\r\nA: 1\r\nA: 2\r\nA: 3\r\nA: 4\r\nA: 5\r\n\r\n",
            431,
            "too many header lines",
        ),
        (&big_trailer, 431, "header lines too large"),
    ];
    for (input, status, reason) in table {
        for step in 1..=input.len() {
            let refusal = decode(input.as_bytes(), step).map(|r| r.0).unwrap_err();
            assert_eq!(
                refusal,
                Refusal {
                    status: *status,
                    reason
                },
                "{input:?} by {step}"
            );
        }
    }
    let mut decoder = Decoder::response();
    let refusal = decoder.decode(b"x", &HeadLimits::default()).unwrap_err();
    assert_eq!(refusal.status, 502);
}

#[test]
fn extensions_are_bounded_over_a_body() {
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(200));
    let refusal = decode(chunk.repeat(100).as_bytes(), 4096)
        .map(|r| r.0)
        .unwrap_err();
    assert_eq!(refusal.reason, "too many bytes in chunk extensions");
    assert!(decode(chunk.repeat(50).as_bytes(), 4096).is_ok());
    // Small chunks alone are no offence.
    assert!(decode("1\r\nx\r\n".repeat(100_000).as_bytes(), 4096).is_ok());
}

#[test]
fn read_in_one_way_by_any_step() {
    for (input, data, rest) in [
        ("0\r\n\r\nGET", "", 3),
        ("000\r\n\r\n", "", 0),
        ("5\r\nhello\r\n0\r\n\r\n", "hello", 0),
        (
            "0005;a=\"b\\\";c\"; d\r\nhello\r\nA\r\n0123456789\r\n0;x\r\n\r\n",
            "hello0123456789",
            0,
        ),
        (
            "a\r\n\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
            "\r\n\r\n0\r\n\r\n\r",
            0,
        ),
        ("1\r\nx\r\n0\r\nGrpc-Status: 0\r\n\r\nPOST", "x", 4),
    ] {
        for step in 1..=input.len() {
            let Ok((read, decoder, at)) = decode(input.as_bytes(), step) else {
                assert_eq!(data, "\r\n\r\n0\r\n\r\n\r", "{input:?}");
                continue;
            };
            assert!(decoder.is_done(), "{input:?} by {step}");
            assert_eq!(read, data.as_bytes(), "{input:?} by {step}");
            assert_eq!(input.len() - at, rest, "{input:?} by {step}");
        }
    }
}

#[test]
fn trailers_that_may_go_on() {
    let input = b"0\r\nETag: x\r\nGrpc-Status: 0\r\nX-Session-Set: {}\r\ncontent-length: 5\r\n\r\n";
    let (_, decoder, _) = decode(input, 7).unwrap();
    assert_eq!(
        decoder.trailers().collect::<Vec<_>>(),
        [(&b"Grpc-Status"[..], &b"0"[..])]
    );
    assert_eq!(decoder.trailers_dropped(), 3);
    let mut out = Vec::new();
    decoder.write_end(true, &mut out);
    assert_eq!(out, b"0\r\nGrpc-Status: 0\r\n\r\n");
    out.clear();
    decoder.write_end(false, &mut out);
    assert_eq!(out, chunked::END);
}

#[test]
fn skipping_data() {
    let limits = HeadLimits::default();
    let mut decoder = Decoder::response();
    let piece = decoder.decode(b"ff\r\nab", &limits).unwrap();
    assert_eq!((piece.consumed, piece.data), (6, 4..6));
    assert_eq!(decoder.data_left(), 253);
    decoder.skip(253);
    assert_eq!(decoder.data_left(), 0);
    assert_eq!(
        decoder.decode(b"\r\n0\r\n\r\nx", &limits).unwrap().consumed,
        7
    );
    assert!(decoder.is_done());
    assert_eq!(decoder.decode(b"x", &limits).unwrap().consumed, 0);
}

#[test]
fn headers_written() {
    for (len, text) in [
        (1, "1"),
        (15, "f"),
        (16, "10"),
        (255, "ff"),
        (4096, "1000"),
        (u64::MAX, "ffffffffffffffff"),
    ] {
        let mut out = Vec::new();
        chunked::write_chunk_header(len, &mut out);
        assert_eq!(out, format!("{text}\r\n").as_bytes());
    }
}
