//! Random bytes of the operating system's, fetched in blocks.
//!
//! Owns one block a core; a byte is given out once and wiped. Runs on its data core.

/// Bytes fetched with one call.
const BLOCK: usize = 1024;

/// A source of `getrandom` bytes.
pub struct Entropy {
    block: Box<[u8; BLOCK]>,
    used: usize,
}

impl Default for Entropy {
    fn default() -> Self {
        Self {
            block: Box::new([0; BLOCK]),
            used: BLOCK,
        }
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy")
    }
}

impl Entropy {
    /// Fills `out`.
    ///
    /// # Panics
    /// The operating system has no random bytes: there is nothing safe to go on with.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(BLOCK) {
            if BLOCK - self.used < chunk.len() {
                getrandom::fill(&mut *self.block).expect("the operating system gives random bytes");
                self.used = 0;
            }
            let taken = &mut self.block[self.used..self.used + chunk.len()];
            chunk.copy_from_slice(taken);
            taken.fill(0);
            self.used += chunk.len();
        }
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

impl holdfast_store::Entropy for Entropy {
    fn fill(&mut self, out: &mut [u8]) {
        Self::fill(self, out);
    }
}

#[cfg(test)]
mod tests {
    use super::Entropy;

    #[test]
    fn bytes_are_given_out_once() {
        let mut entropy = Entropy::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(entropy.bytes::<16>()));
        }
        let mut long = vec![0; 5000];
        entropy.fill(&mut long);
        assert!(long.iter().filter(|b| **b == 0).count() < 200);
    }
}
