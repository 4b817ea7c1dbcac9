//! Where a WebSocket's frames begin and end (RFC 6455, 5.2).
//!
//! Owns the place of one direction in its frames. Pure; a tunnel has one for each direction. It reads the
//! heads of frames and skips what they carry, so that a frame of the gateway's own can go between two.
//! Invariant: any bytes are taken; those that are no frames only make the place wrong. Deliberately
//! absent: any judgement of frames, and their content. Tested below.

/// Longest head: two bytes, eight of length, four of mask.
const HEAD: usize = 14;
/// Opcode of a Close frame.
const CLOSE: u8 = 8;

/// See the module.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the frame under way that are still to come.
    left: u64,
    /// A Close frame has begun: nothing may follow it.
    closed: bool,
}

impl Frames {
    /// Takes the next bytes of the direction.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = self.step(bytes);
        }
    }

    /// Takes bytes up to the end of a frame; how many those are, or `None` if all of them lie within one.
    pub fn pass_frame(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.step(rest);
            if self.is_between() {
                return Some(bytes.len() - rest.len());
            }
        }
        None
    }

    /// Whether a frame of ours may come now.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Whether the direction has said its last.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes some bytes, never past the end of a frame; the rest.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.left > 0 {
            let n = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.left -= n as u64;
            return bytes.get(n..).unwrap_or_default();
        }
        let Some((byte, rest)) = bytes.split_first() else {
            return bytes;
        };
        if let Some(place) = self.head.get_mut(self.have) {
            *place = *byte;
        }
        self.have += 1;
        if self.have >= self.head_len() {
            self.left = self.length();
            self.closed |= self.head[0] & 0x0f == CLOSE;
            self.have = 0;
        }
        rest
    }

    fn head_len(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        let extended = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + mask
    }

    fn length(&self) -> u64 {
        let [_, short, a, b, c, d, e, f, g, h, ..] = self.head;
        match short & 0x7f {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            n => u64::from(n),
        }
    }
}

/// A Close frame with a status (RFC 6455, 7.4) and a reason of at most 123 bytes; masked where a client
/// says it.
pub fn close(status: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut payload = status.to_be_bytes().to_vec();
    payload.extend(reason.bytes().take(123));
    let mut out = vec![0x80 | CLOSE, payload.len() as u8];
    if let Some(key) = mask {
        if let Some(length) = out.last_mut() {
            *length |= 0x80;
        }
        out.extend(key);
        payload
            .iter_mut()
            .zip(key.iter().cycle())
            .for_each(|(byte, key)| *byte ^= key);
    }
    out.extend(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of so many bytes.
    fn frame(opcode: u8, payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut out = vec![0x80 | opcode];
        match payload {
            0..126 => out.push(mask | payload as u8),
            126..65536 => {
                out.push(mask | 126);
                out.extend((payload as u16).to_be_bytes());
            }
            _ => {
                out.push(mask | 127);
                out.extend((payload as u64).to_be_bytes());
            }
        }
        out.extend([0xff; 4].iter().take(if masked { 4 } else { 0 }));
        out.resize(out.len() + payload, 0x88);
        out
    }

    #[test]
    fn frames_end_where_they_end_however_they_come() {
        for masked in [false, true] {
            for payload in [0, 1, 125, 126, 65_535, 65_536] {
                let bytes = frame(2, payload, masked);
                for piece in [1, 2, 3, 7, 4096, bytes.len()] {
                    let mut frames = Frames::default();
                    let pieces = bytes.chunks(piece).count();
                    for (n, chunk) in bytes.chunks(piece).enumerate() {
                        assert!(n == 0 || !frames.is_between(), "{payload} by {piece}");
                        frames.pass(chunk);
                    }
                    assert!(frames.is_between(), "{payload} in {pieces} pieces");
                    assert!(!frames.is_closed(), "what a frame carries is not read");
                }
            }
        }
    }

    #[test]
    fn the_first_end_in_some_bytes_is_found() {
        let (one, two) = (frame(1, 300, false), frame(2, 5, false));
        let both = [one.clone(), two.clone()].concat();
        let mut frames = Frames::default();
        assert_eq!(frames.pass_frame(&both[..100]), None);
        assert_eq!(frames.pass_frame(&both[100..]), Some(one.len() - 100));
        assert_eq!(frames.pass_frame(&two), Some(two.len()));
        assert_eq!(frames.pass_frame(&[]), None);
    }

    #[test]
    fn nothing_follows_a_close() {
        let mut frames = Frames::default();
        frames.pass(&frame(9, 0, true));
        assert!(!frames.is_closed());
        frames.pass(&close(1000, "bye", Some([1, 2, 3, 4])));
        assert!(frames.is_closed() && frames.is_between());
    }

    #[test]
    fn close_frames_are_those_of_the_rfc() {
        assert_eq!(close(1008, "a", None), [0x88, 3, 0x03, 0xf0, b'a']);
        assert_eq!(
            close(1008, "a", Some([1, 2, 3, 4])),
            [0x88, 0x83, 1, 2, 3, 4, 0x02, 0xf2, b'a' ^ 3]
        );
        let long = close(1008, &"x".repeat(500), None);
        assert_eq!((long.len(), long[1]), (127, 125));
    }

    #[test]
    fn bytes_that_are_no_frames_do_no_harm() {
        let mut frames = Frames::default();
        frames.pass(&[0xff; 14]);
        frames.pass(&[0xff; 100_000]);
        assert!(!frames.is_between(), "a length of 2^64 - 1");
    }
}
