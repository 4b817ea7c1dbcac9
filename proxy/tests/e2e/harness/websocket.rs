//! As much of RFC 6455 as a test needs, for both ends.

use std::io::{self, Read, Write};

use super::http::Wire;

/// `Sec-WebSocket-Accept` of the key that [`HANDSHAKE_KEY`] is: the pair of RFC 6455, section 1.3.
pub const HANDSHAKE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The key of the same example.
pub const HANDSHAKE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The request of a handshake.
pub fn handshake(target: &str, host: &str, extra: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {HANDSHAKE_KEY}\r\n{extra}\r\n"
    )
}

/// The answer of a server.
pub fn accept() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {HANDSHAKE_ACCEPT}\r\n\r\n"
    )
}

/// One frame; clients mask.
pub fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    let mask_bit = if masked { 0x80 } else { 0 };
    match payload.len() {
        n if n < 126 => out.push(mask_bit | n as u8),
        n if n < 65536 => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    if masked {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        out.extend_from_slice(&key);
        out.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    } else {
        out.extend_from_slice(payload);
    }
    out
}

/// The next frame: opcode and payload, unmasked.
pub fn read_frame<S: Read + Write>(wire: &mut Wire<S>) -> io::Result<(u8, Vec<u8>)> {
    let head = wire.take(2)?;
    let length = match head[1] & 0x7f {
        126 => u64::from(u16::from_be_bytes(
            wire.take(2)?.try_into().expect("2 bytes"),
        )),
        127 => u64::from_be_bytes(wire.take(8)?.try_into().expect("8 bytes")),
        n => u64::from(n),
    };
    let key = if head[1] & 0x80 != 0 {
        wire.take(4)?
    } else {
        vec![0; 4]
    };
    let mut payload = wire.take(usize::try_from(length).expect("a length"))?;
    for (byte, k) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= k;
    }
    Ok((head[0] & 0x0f, payload))
}
