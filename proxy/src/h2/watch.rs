//! Counting what a peer makes us do: a look at the headers of frames as they pass by.
//!
//! Owns the position in the frames of one connection and what was counted in the present window of
//! time. Pure: bytes and a time go in, a verdict comes out; used by [`super::io`].
//!
//! Frames that carry no content cost us work and their sender little: streams begun and reset at once
//! (CVE-2023-44487), heads cut into CONTINUATION frames (CVE-2024-27316), settings and pings that want
//! an answer, empty DATA frames, PRIORITY, windows given in crumbs, frames of unknown types. Each kind has a bound in a window of [`WINDOW_MS`]. The h2
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
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
/// Bytes that we sent which give a peer reason for one WINDOW_UPDATE: less than any sensible one gives back.
const BYTES_PER_UPDATE: u32 = 64;
/// How many of them a stream is reason for.
const UPDATES_PER_STREAM: u32 = 4;

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
    /// PRIORITY, GOAWAY, and DATA without content.
    Empty,
    /// WINDOW_UPDATE, more of them than what we sent gives reason for.
    Windows,
    /// Frames of types that HTTP/2 does not have, which are to be ignored (RFC 9113, 4.1).
    Unknown,
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
    counts: [u32; 6],
    continuations: u32,
    /// WINDOW_UPDATEs that there is reason for, in this window and in the one before.
    reasons: [u32; 2],
    sent: u32,
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
            counts: [0; 6],
            continuations: 0,
            reasons: [0; 2],
            sent: 0,
        }
    }

    /// Takes note of so many bytes that went to the peer.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self
            .sent
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.reason(self.sent / BYTES_PER_UPDATE);
        self.sent %= BYTES_PER_UPDATE;
    }

    fn reason(&mut self, more: u32) {
        let [now, _] = &mut self.reasons;
        *now = now.saturating_add(more);
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
            GOAWAY => (3, Flood::Empty),
            DATA if self.skip == 0 && flags & END_STREAM == 0 => (3, Flood::Empty),
            WINDOW_UPDATE => (4, Flood::Windows),
            HEADERS => {
                self.reason(UPDATES_PER_STREAM);
                return None;
            }
            CONTINUATION.. => (5, Flood::Unknown),
            _ => return None,
        };
        if now_ms.saturating_sub(self.since_ms) >= WINDOW_MS {
            self.since_ms = now_ms;
            self.counts = [0; 6];
            self.reasons = [0, self.reasons[0]];
        }
        let bound = match flood {
            Flood::Resets => self.bounds.resets,
            Flood::Windows if self.bounds.control > 0 => {
                let [now, before] = self.reasons;
                self.bounds
                    .control
                    .saturating_add(now)
                    .saturating_add(before)
            }
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
            watch.sent(64);
            assert_eq!(watch.feed(&frame(WINDOW_UPDATE, 0, b"1234"), 1), None);
            assert_eq!(watch.feed(&frame(CONTINUATION, 4, b"head"), 1), None);
        }
        assert_eq!(
            (0..6).find_map(|_| watch.feed(&frame(DATA, 0, b""), 1)),
            Some(Flood::Empty)
        );
    }

    #[test]
    fn windows_are_given_for_what_was_sent() {
        let mut watch = watch();
        let update = frame(WINDOW_UPDATE, 0, b"1234");
        watch.sent(640);
        watch.feed(&frame(HEADERS, 4, b"head"), 1);
        let within = 5 + 10 + UPDATES_PER_STREAM as usize;
        assert_eq!(watch.feed(&update.repeat(within), 1), None);
        // What was sent in the window before is reason too, and nothing that is older.
        let (second, third) = (WINDOW_MS + 1, 2 * WINDOW_MS + 2);
        assert_eq!(watch.feed(&update.repeat(within), second), None);
        assert_eq!(watch.feed(&update.repeat(5), third), None);
        assert_eq!(watch.feed(&update, third), Some(Flood::Windows));
    }

    #[test]
    fn payload_is_not_taken_for_frames() {
        let mut watch = watch();
        let inner = frame(RST_STREAM, 0, b"1234").repeat(100);
        assert_eq!(watch.feed(&frame(DATA, 0, &inner), 1), None);
    }
}
