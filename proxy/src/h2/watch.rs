//! Counting what a peer makes us do: a look at the headers of frames as they pass by.
//!
//! Owns the position in the frames of one connection and what was counted in the present window of
//! time. Pure: bytes and a time go in, a verdict comes out; used by [`super::io`].
//!
//! Frames that carry no content cost us work and their sender little: streams begun and reset at once
//! (CVE-2023-44487), heads cut into CONTINUATION frames (CVE-2024-27316), settings and pings that want
//! an answer, empty DATA frames, PRIORITY. Each kind has a bound in a window of [`WINDOW_MS`]. The h2
//! crate has bounds of its own behind this one; here they are counted by kind, and configured.
//!
//! Invariants: no input panics; the work is linear in the frames. It deliberately checks nothing of
//! what frames mean: that is h2's. Tested below.

/// Over how long frames are counted.
pub const WINDOW_MS: u64 = 10_000;
/// Most CONTINUATION frames of one head: a head of the largest size that is taken fits well.
const MAX_CONTINUATIONS: u32 = 5;
/// Bytes of the connection preface.
const PREFACE: u32 = 24;

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// Streams reset by the peer.
    Resets,
    /// CONTINUATION frames of one head.
    Continuations,
    /// SETTINGS.
    Settings,
    /// PING.
    Pings,
    /// PRIORITY, and DATA without content.
    Empty,
}

/// Bounds, in frames of each kind within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// RST_STREAM.
    pub resets: u32,
    /// Each of the others that carry nothing.
    pub control: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Watch {
    bounds: Bounds,
    /// Bytes to pass by before the next frame header.
    skip: u32,
    header: [u8; 9],
    have: usize,
    since_ms: u64,
    counts: [u32; 4],
    continuations: u32,
}

impl Watch {
    /// For a connection whose preface is still to come.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            skip: PREFACE,
            header: [0; 9],
            have: 0,
            since_ms: 0,
            counts: [0; 4],
            continuations: 0,
        }
    }

    /// Takes note of the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8], now_ms: u64) -> Option<Flood> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = (self.skip as usize).min(bytes.len());
                self.skip -= n as u32;
                bytes = bytes.get(n..).unwrap_or_default();
                continue;
            }
            let n = (self.header.len() - self.have).min(bytes.len());
            let (head, rest) = bytes.split_at(n);
            for (to, from) in self.header.iter_mut().skip(self.have).zip(head) {
                *to = *from;
            }
            self.have += n;
            bytes = rest;
            if self.have == self.header.len() {
                self.have = 0;
                if let Some(flood) = self.frame(now_ms) {
                    return Some(flood);
                }
            }
        }
        None
    }

    fn frame(&mut self, now_ms: u64) -> Option<Flood> {
        let [a, b, c, kind, flags, ..] = self.header;
        self.skip = u32::from_be_bytes([0, a, b, c]);
        if kind == CONTINUATION {
            self.continuations += 1;
            return (self.continuations > MAX_CONTINUATIONS).then_some(Flood::Continuations);
        }
        self.continuations = 0;
        let (index, flood) = match kind {
            RST_STREAM => (0, Flood::Resets),
            SETTINGS => (1, Flood::Settings),
            PING => (2, Flood::Pings),
            PRIORITY => (3, Flood::Empty),
            DATA if self.skip == 0 && flags & END_STREAM == 0 => (3, Flood::Empty),
            _ => return None,
        };
        if now_ms.saturating_sub(self.since_ms) >= WINDOW_MS {
            self.since_ms = now_ms;
            self.counts = [0; 4];
        }
        let bound = match flood {
            Flood::Resets => self.bounds.resets,
            _ => self.bounds.control,
        };
        let count = self.counts.get_mut(index)?;
        *count += 1;
        (bound > 0 && *count > bound).then_some(flood)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = payload.len() as u32;
        let mut out = len.to_be_bytes()[1..].to_vec();
        out.extend([kind, flags, 0, 0, 0, 1]);
        out.extend(payload);
        out
    }

    fn watch() -> Watch {
        let mut watch = Watch::new(Bounds {
            resets: 3,
            control: 5,
        });
        assert_eq!(watch.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0), None);
        watch
    }

    #[test]
    fn one_more_than_the_bound_is_a_flood_however_it_is_split() {
        for (kind, bound, flood) in [
            (RST_STREAM, 3, Flood::Resets),
            (SETTINGS, 5, Flood::Settings),
            (PING, 5, Flood::Pings),
            (PRIORITY, 5, Flood::Empty),
            (CONTINUATION, 5, Flood::Continuations),
        ] {
            for split in [1, 2, 7, 9, 10, 1000] {
                let bytes = frame(kind, 0, b"12345678").repeat(bound + 1);
                let mut watch = watch();
                let mut found = None;
                let mut seen = 0;
                for part in bytes.chunks(split) {
                    found = watch.feed(part, 1);
                    seen += part.len();
                    if found.is_some() {
                        break;
                    }
                }
                assert_eq!(found, Some(flood), "kind {kind} in parts of {split}");
                assert!(seen > bytes.len() - 17, "not before the last frame");
            }
        }
    }

    #[test]
    fn a_new_window_counts_anew() {
        let mut watch = watch();
        for window in 0..10 {
            let bytes = frame(PING, 0, b"12345678").repeat(5);
            assert_eq!(watch.feed(&bytes, window * WINDOW_MS), None);
        }
    }

    #[test]
    fn content_and_heads_are_no_flood() {
        let mut watch = watch();
        for _ in 0..1000 {
            assert_eq!(watch.feed(&frame(DATA, 0, b"x"), 1), None);
            assert_eq!(watch.feed(&frame(DATA, END_STREAM, b""), 1), None);
            assert_eq!(watch.feed(&frame(1, 4, b"head"), 1), None);
            assert_eq!(watch.feed(&frame(8, 0, b"1234"), 1), None);
            assert_eq!(watch.feed(&frame(CONTINUATION, 4, b"head"), 1), None);
        }
        assert_eq!(
            (0..6).find_map(|_| watch.feed(&frame(DATA, 0, b""), 1)),
            Some(Flood::Empty)
        );
    }

    #[test]
    fn payload_is_not_taken_for_frames() {
        let mut watch = watch();
        let inner = frame(RST_STREAM, 0, b"1234").repeat(100);
        assert_eq!(watch.feed(&frame(DATA, 0, &inner), 1), None);
    }
}
