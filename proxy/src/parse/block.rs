//! Looking at 64 bytes at once.
//!
//! Owns the two questions that a head scan asks of every byte. Invariant: [`masks`] agrees with a look at
//! each byte alone (tested). It is written for the compiler's vectoriser, since the
//! vector operations themselves cannot be called without `unsafe`.

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;

/// Where in a block something is: bit `i` speaks of byte `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Masks {
    /// A control byte: below 0x20 and no tab, or 0x7F.
    pub control: u64,
    /// A colon.
    pub colon: u64,
}

/// Looks at one block.
#[inline(always)]
pub(super) fn masks(block: &[u8; BLOCK]) -> Masks {
    Masks {
        control: mask(block, is_control),
        colon: mask(block, |b| b == b':'),
    }
}

#[inline(always)]
fn is_control(b: u8) -> bool {
    (b < 0x20 && b != b'\t') || b == 0x7F
}

/// A bit for each byte: the answers become bytes of ones (vector instructions), and each eight of
/// those are gathered into one by a multiplication: `0x8040…01` leaves bit `i` of byte `i`, and the
/// product adds all bytes into the highest.
#[inline(always)]
fn mask(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    let mut answers = [0u8; BLOCK];
    for (answer, &byte) in answers.iter_mut().zip(block) {
        *answer = if is(byte) { 0xFF } else { 0 };
    }
    let (words, _) = answers.as_chunks::<8>();
    let mut mask = 0;
    for (i, word) in words.iter().enumerate() {
        let bits = u64::from_le_bytes(*word) & 0x8040_2010_0804_0201;
        mask |= (bits.wrapping_mul(0x0101_0101_0101_0101) >> 56) << (8 * i);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(block: &[u8; BLOCK]) -> Masks {
        let mut masks = Masks {
            control: 0,
            colon: 0,
        };
        for (i, &b) in block.iter().enumerate() {
            masks.control |= u64::from(is_control(b)) << i;
            masks.colon |= u64::from(b == b':') << i;
        }
        masks
    }

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..=255u8 {
            for at in 0..BLOCK {
                let mut block = [b'x'; BLOCK];
                block[at] = byte;
                block[(at + 17) % BLOCK] = b':';
                assert_eq!(masks(&block), plain(&block), "byte {byte:#x} at {at}");
            }
        }
        assert_eq!(masks(&[0; BLOCK]).control, u64::MAX);
        assert_eq!(masks(&[b':'; BLOCK]).colon, u64::MAX);
    }
}
