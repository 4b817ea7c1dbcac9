//! Properties: no input panics, a split changes nothing, what is written is read again the same.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Pieces that heads and attacks are made of.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known: &[&[u8]] = &[
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b": ",
        b",",
        b";",
        b"=",
        b"\0",
        b"GET / HTTP/1.1\r\n",
        b"POST /a?b HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"Host: a\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: x\r\n",
        b"X: y\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"0\r\n",
        b"5;a\r\n",
        b"Cookie: a=1; sid=2\r\n",
        b"chunked",
        b"Expect: 100-continue\r\n",
        b"/../",
        b"%2e",
        b"abc",
    ];
    prop_oneof![
        6 => prop::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..6),
    ]
}

fn soup() -> impl Strategy<Value = Vec<u8>> {
    vec(piece(), 0..24).prop_map(|pieces| pieces.concat())
}

/// A request that is fine, and its body.
fn fine() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let line = ("[A-Za-z][A-Za-z0-9-]{0,40}", "[ -~\u{e4}]{0,60}")
        .prop_filter("framing and routing are added", |(name, _)| {
            let kind = NameRules::default().classify(name.as_bytes()).unwrap();
            matches!(kind, Name::Other | Name::Common | Name::Cookie)
        })
        .prop_map(|(name, value)| format!("{name}: {value}\r\n"));
    let target = "/[a-z./~]{0,30}(\\?[a-z=&%]{0,20})?";
    (
        target,
        vec(line, 0..20),
        vec(any::<u8>(), 0..200),
        0..3u8,
        any::<bool>(),
    )
        .prop_map(|(target, lines, body, framing, v10)| {
            let version = if v10 && framing != 2 { "1.0" } else { "1.1" };
            let mut out = format!(
                "PUT {target} HTTP/{version}\r\nHost: a.b:1\r\n{}",
                lines.concat()
            );
            let body = if framing == 0 { Vec::new() } else { body };
            let mut bytes = match framing {
                0 => {
                    out.push_str("\r\n");
                    out.into_bytes()
                }
                1 => {
                    out.push_str(&format!("content-LENGTH: {}\r\n\r\n", body.len()));
                    out.into_bytes()
                }
                _ => {
                    out.push_str("Transfer-encoding: chunked\r\n\r\n");
                    return (chunks(out.into_bytes(), &body), body);
                }
            };
            bytes.extend_from_slice(&body);
            (bytes, body)
        })
}

fn chunks(mut out: Vec<u8>, body: &[u8]) -> Vec<u8> {
    for part in body.chunks(7) {
        chunked::write_chunk_header(part.len() as u64, &mut out);
        out.extend_from_slice(part);
        out.extend_from_slice(chunked::CRLF);
    }
    out.extend_from_slice(chunked::END);
    out
}

/// Reads one head in reads that end at `cuts`.
fn split_request(input: &[u8], cuts: &[usize]) -> (Result<Progress, Refusal>, RequestHead) {
    let (mut scan, mut head) = (HeadScan::new(), RequestHead::default());
    let limits = HeadLimits {
        header_bytes: 400,
        headers: 12,
        uri_bytes: 60,
        ..Default::default()
    };
    for &cut in cuts {
        match request(&input[..cut], &limits, &mut scan, &mut head) {
            Ok(Progress::Partial) => {}
            end => return (end, head),
        }
    }
    (request(input, &limits, &mut scan, &mut head), head)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_panics(input in soup(), noise in vec(any::<u8>(), 0..300)) {
        for bytes in [&input, &noise] {
            let limits = HeadLimits::default();
            read_connection(bytes, &limits);
            let mut head = ResponseHead::default();
            let _ = response(bytes, &limits, &mut HeadScan::new(), Method::Get, &mut head);
            let _ = read_body(Framing::Chunked, bytes, &limits);
            let mut out = Vec::new();
            cookies::without(bytes, |n| n == b"sid", &mut out);
            cookies::set_cookie_name(bytes);
            out.clear();
            query::remove(bytes, b"a", &mut out);
            query::mask(bytes, b"a", &mut out);
            let path = [b"/", &bytes[..]].concat();
            let _ = path::normalise(&path, true, &mut out);
            forwarded::address(bytes);
            forwarded::scheme([&bytes[..]].into_iter(), std::iter::empty());
            valid_host(bytes);
        }
    }

    #[test]
    fn splits_change_nothing(input in soup(), at in vec(any::<prop::sample::Index>(), 0..6)) {
        let whole = split_request(&input, &[]);
        let mut cuts: Vec<_> = at.iter().map(|i| i.index(input.len() + 1)).collect();
        cuts.sort_unstable();
        let split = split_request(&input, &cuts);
        prop_assert_eq!(&whole.0, &split.0);
        if whole.0 == Ok(Progress::Complete) {
            prop_assert_eq!(&whole.1.lines, &split.1.lines);
            prop_assert_eq!(whole.1.path(&input), split.1.path(&input));
            prop_assert_eq!(whole.1.framing, split.1.framing);
            prop_assert_eq!(whole.1.len, split.1.len);
        }
        let bytes: Vec<_> = (0..input.len()).collect();
        prop_assert_eq!(&whole.0, &split_request(&input, &bytes).0);
    }

    #[test]
    fn a_complete_head_is_what_it_says(input in soup()) {
        if let (Ok(Progress::Complete), head) = split_request(&input, &[]) {
            let bytes = &input[..head.len];
            prop_assert!(bytes.ends_with(b"\r\n\r\n"));
            // One line after the other, without a gap, to the end.
            let mut at = head.lines.first().map_or(head.len - 2, |l| l.start as usize);
            for line in &head.lines {
                prop_assert_eq!(line.start as usize, at);
                prop_assert!(!line.value(bytes).iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
                prop_assert!(is_token(line.name(bytes)));
                at = line.end as usize;
            }
            prop_assert_eq!(at, head.len - 2);
        }
    }

    #[test]
    fn written_again_it_reads_the_same((input, body) in fine()) {
        let limits = HeadLimits::default();
        let (mut head, mut again) = (RequestHead::default(), RequestHead::default());
        let end = request(&input, &limits, &mut HeadScan::new(), &mut head);
        prop_assert_eq!(end, Ok(Progress::Complete));
        let (data, used) = read_body(head.framing, &input[head.len..], &limits).unwrap().unwrap();
        prop_assert_eq!(&data, &body);
        prop_assert_eq!(head.len + used, input.len());
        let out = write_request(&input, &head, &data);
        let end = request(&out, &limits, &mut HeadScan::new(), &mut again);
        prop_assert_eq!(end, Ok(Progress::Complete));
        prop_assert_eq!(head.path(&input), again.path(&out));
        prop_assert_eq!(head.query_bytes(&input), again.query_bytes(&out));
        prop_assert_eq!(head.framing, again.framing);
        prop_assert!(!again.path_changed(), "normal paths stay as they are");
        let read = read_body(again.framing, &out[again.len..], &limits).unwrap().unwrap();
        prop_assert_eq!(read, (body, out.len() - again.len));
        prop_assert_eq!(head.lines.len(), again.lines.len());
    }

    #[test]
    fn cookies_of_others_stay(pieces in vec("[a-c\"=, ]{0,8}|sid=[a-z;]{0,4}", 0..8)) {
        let value = pieces.join(";");
        let mut out = Vec::new();
        let done = cookies::without(value.as_bytes(), |n| n == b"sid", &mut out);
        let left: Vec<_> = match done {
            cookies::Rewrite::Unchanged => cookies::pairs(value.as_bytes()).collect(),
            _ => cookies::pairs(&out).collect(),
        };
        let expected: Vec<_> = cookies::pairs(value.as_bytes()).filter(|p| p.name != b"sid").collect();
        prop_assert_eq!(left, expected);
    }

    #[test]
    fn normal_is_normal(path in "/([a-z.]|%2[eE]|%7[eE]|%41|%c3|/){0,20}") {
        let mut out = Vec::new();
        let mut twice = Vec::new();
        path::normalise(path.as_bytes(), false, &mut out).unwrap();
        let once = if out.is_empty() { path.as_bytes() } else { &out };
        prop_assert_eq!(path::normalise(once, false, &mut twice), Ok(path::Normal::Same));
        prop_assert!(once.starts_with(b"/"));
        prop_assert!(!once.split(|&b| b == b'/').any(|s| s == b"." || s == b".."));
    }

    #[test]
    fn a_chunked_body_in_any_steps(body in vec(any::<u8>(), 0..300), step in 1..50usize) {
        let input = chunks(Vec::new(), &body);
        let limits = HeadLimits::default();
        let mut decoder = Decoder::request();
        let (mut data, mut at) = (Vec::new(), 0);
        while !decoder.is_done() {
            let part = &input[at..input.len().min(at + step)];
            let piece = decoder.decode(part, &limits).unwrap();
            data.extend_from_slice(&part[piece.data]);
            at += piece.consumed;
        }
        prop_assert_eq!(data, body);
        prop_assert_eq!(at, input.len());
    }
}
