//! Looking at 64 bytes at once.
//!
//! Owns the two questions that a reader of text lines asks of every byte: is it a control byte, is it
//! a separator? Pure; any thread. Here only because asking sixteen bytes with one instruction needs
//! `unsafe`. Invariant: both builds of [`marks`] agree with a look at each byte alone (tested).

/// Bytes of a block.
pub const BLOCK: usize = 64;

/// Where in a block something is: bit `i` speaks of byte `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// A control byte: below 0x20 and no tab, or 0x7F.
    pub control: u64,
    /// The separator.
    pub separator: u64,
}

/// Looks at one block.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn marks(block: &[u8; BLOCK], separator: u8) -> Marks {
    use std::arch::x86_64::{
        __m128i, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8,
        _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    let mut marks = Marks {
        control: 0,
        separator: 0,
    };
    let (parts, _) = block.as_chunks::<16>();
    for (i, part) in parts.iter().enumerate() {
        // SAFETY: the load is of the 16 bytes that `part` borrows and needs no alignment; SSE2 is
        // part of every x86-64 processor.
        let (control, separators) = unsafe {
            let v = _mm_loadu_si128(part.as_ptr().cast::<__m128i>());
            let low = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1F)), v);
            let low = _mm_andnot_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8(0x09)), low);
            let control = _mm_or_si128(low, _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7F)));
            let separators = _mm_cmpeq_epi8(v, _mm_set1_epi8(separator as i8));
            (_mm_movemask_epi8(control), _mm_movemask_epi8(separators))
        };
        marks.control |= u64::from(control as u16) << (16 * i);
        marks.separator |= u64::from(separators as u16) << (16 * i);
    }
    marks
}

/// Looks at one block.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn marks(block: &[u8; BLOCK], separator: u8) -> Marks {
    Marks {
        control: gather(block, is_control),
        separator: gather(block, |b| b == separator),
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn is_control(b: u8) -> bool {
    (b < 0x20 && b != b'\t') || b == 0x7F
}

/// A bit for each byte, in a form that compilers vectorise: the answers become bytes of ones, and
/// each eight of those are gathered into one by a multiplication. `0x8040…01` leaves bit `i` of byte
/// `i`, and the product adds all bytes into the highest.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn gather(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    let mut answers = [0u8; BLOCK];
    for (answer, &byte) in answers.iter_mut().zip(block) {
        *answer = if is(byte) { 0xFF } else { 0 };
    }
    let (words, _) = answers.as_chunks::<8>();
    let mut all = 0;
    for (i, word) in words.iter().enumerate() {
        let bits = u64::from_le_bytes(*word) & 0x8040_2010_0804_0201;
        all |= (bits.wrapping_mul(0x0101_0101_0101_0101) >> 56) << (8 * i);
    }
    all
}

/// Asks the processor to bring the first cache line of `at` near, and waits for nothing. A hint: on
/// machines without one it does nothing.
#[inline]
pub fn prefetch<T: ?Sized>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch faults on no address, and this one is valid.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
        let bits = block.iter().enumerate();
        bits.fold(0, |all, (i, &b)| all | u64::from(is(b)) << i)
    }

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..=255u8 {
            for at in 0..BLOCK {
                let mut block = [b'x'; BLOCK];
                block[at] = byte;
                block[(at + 17) % BLOCK] = b':';
                let expected = Marks {
                    control: alone(&block, is_control),
                    separator: alone(&block, |b| b == b':'),
                };
                assert_eq!(marks(&block, b':'), expected, "byte {byte:#x} at {at}");
                assert_eq!(gather(&block, is_control), expected.control);
            }
        }
    }
}
