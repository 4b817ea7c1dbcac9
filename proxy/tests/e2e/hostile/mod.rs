//! Bytes sent to do harm: each is refused, or reaches the other side in exactly one reading.

mod corpora;
mod floods;
mod requests;
mod responses;

use crate::harness::Received;

/// What keeps a forwarded request from having a second reading: one kind of framing, said once, and one host.
fn one_reading(received: &Received) -> Result<(), String> {
    let head = &received.head;
    let framings = head.all("content-length").len() + head.all("transfer-encoding").len();
    if framings > 1 || head.all("host").len() != 1 {
        return Err(format!("{framings} framings, hosts {:?}", head.all("host")));
    }
    let raw = &received.raw_head;
    let bare = raw.iter().enumerate().any(|(i, &b)| match b {
        b'\n' => i == 0 || raw[i - 1] != b'\r',
        b'\r' => raw.get(i + 1) != Some(&b'\n'),
        _ => b == 0,
    });
    if bare {
        Err("a bare CR or LF, or NUL".to_owned())
    } else {
        Ok(())
    }
}
