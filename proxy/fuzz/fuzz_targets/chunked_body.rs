//! A chunked body read at once and byte by byte is the same, and so is what is written of it.
//!
//! `cargo +nightly fuzz run chunked_body`

#![no_main]

use holdfast::parse::chunked::{CRLF, Decoder, write_chunk_header};
use holdfast::parse::{HeadLimits, Refusal};
use libfuzzer_sys::fuzz_target;

fn decode(
    input: &[u8],
    step: usize,
    header_bytes: usize,
) -> Result<(Vec<u8>, usize, Decoder), Refusal> {
    let limits = HeadLimits {
        header_bytes,
        headers: 8,
        ..Default::default()
    };
    let mut decoder = Decoder::request();
    let (mut data, mut at) = (Vec::new(), 0);
    while at < input.len() && !decoder.is_done() {
        let part = &input[at..input.len().min(at.saturating_add(step))];
        let piece = decoder.decode(part, &limits)?;
        assert!(piece.consumed > 0);
        data.extend_from_slice(&part[piece.data]);
        at += piece.consumed;
    }
    Ok((data, at, decoder))
}

fuzz_target!(|input: &[u8]| {
    let whole = decode(input, usize::MAX, 256);
    let split = decode(input, 1, 256);
    match (whole, split) {
        (Ok((data, used, decoder)), Ok((data_split, used_split, _))) => {
            assert_eq!((&data, used), (&data_split, used_split));
            if !decoder.is_done() {
                return;
            }
            // Written trailers have a space behind each colon: a little more room.
            let mut out = Vec::new();
            if !data.is_empty() {
                write_chunk_header(data.len() as u64, &mut out);
                out.extend_from_slice(&data);
                out.extend_from_slice(CRLF);
            }
            decoder.write_end(true, &mut out);
            let (again, used, end) = decode(&out, usize::MAX, 512).expect("what we write we read");
            assert_eq!((again, used), (data, out.len()));
            assert!(end.is_done());
            assert!(end.trailers().eq(decoder.trailers()));
        }
        (Err(a), Err(b)) => assert_eq!(a, b),
        (a, b) => panic!("{:?} {:?}", a.map(|r| r.1), b.map(|r| r.1)),
    }
});
