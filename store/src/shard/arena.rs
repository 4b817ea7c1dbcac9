//! Bytes of varying length in little memory: the packed fields of all entries.
//!
//! Owns cells of fixed sizes (steps of 8 up to 128 bytes, of 16 up to 1 KiB), each size in chunks of at
//! most 64 KiB with a free list inside the free cells; longer ones have an allocation of their own.
//! Used by one shard. Invariants: a handle is given back exactly once; chunks are kept for reuse.
//! Deliberately absent: moving cells. Tested here.

const CHUNK: usize = 64 * 1024;
const CLASSES: usize = 16 + 56;
/// Class of no bytes at all.
const NONE: u8 = 255;
/// Class of an allocation of its own.
const OWN: u8 = 254;
const NIL: u32 = u32::MAX;

/// Where some bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) cell: u32,
    pub(crate) len: u16,
    pub(crate) class: u8,
}

impl Handle {
    pub(crate) const EMPTY: Self = Self {
        cell: 0,
        len: 0,
        class: NONE,
    };
}

#[derive(Debug)]
struct Class {
    chunks: Vec<Box<[u8]>>,
    free: u32,
    /// Cells ever used.
    high: u32,
}

/// All cells.
#[derive(Debug)]
pub(crate) struct Arena {
    classes: Box<[Class]>,
    own: slab::Slab<Box<[u8]>>,
}

const fn size(class: usize) -> usize {
    if class < 16 {
        (class + 1) * 8
    } else {
        128 + (class - 15) * 16
    }
}

/// By class: bytes of a cell, and log2 of the cells of a chunk.
const SHAPES: [(u16, u8); CLASSES] = {
    let mut shapes = [(0, 0); CLASSES];
    let mut class = 0;
    while class < CLASSES {
        shapes[class] = (size(class) as u16, (CHUNK / size(class)).ilog2() as u8);
        class += 1;
    }
    shapes
};

fn class_of(len: usize) -> u8 {
    if len <= 128 {
        (len.div_ceil(8) - 1) as u8
    } else {
        (16 + (len - 128).div_ceil(16) - 1) as u8
    }
}

#[inline]
fn size_of(class: u8) -> usize {
    usize::from(SHAPES[usize::from(class)].0)
}

/// Log2 of the cells of a chunk.
#[inline]
fn shift(class: u8) -> u32 {
    u32::from(SHAPES[usize::from(class)].1)
}

impl Arena {
    pub(crate) fn new() -> Self {
        let class = || Class {
            chunks: Vec::new(),
            free: NIL,
            high: 0,
        };
        Self {
            classes: (0..CLASSES).map(|_| class()).collect(),
            own: slab::Slab::new(),
        }
    }

    /// Keeps a copy of `bytes`.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Handle {
        if bytes.is_empty() {
            return Handle::EMPTY;
        }
        if bytes.len() > 1024 {
            return Handle {
                cell: self.own.insert(bytes.into()) as u32,
                len: 0,
                class: OWN,
            };
        }
        let class = class_of(bytes.len());
        let pool = &mut self.classes[usize::from(class)];
        let cell = pool.take(class);
        pool.cell_mut(class, cell)[..bytes.len()].copy_from_slice(bytes);
        Handle {
            cell,
            len: bytes.len() as u16,
            class,
        }
    }

    #[inline]
    pub(crate) fn get(&self, handle: Handle) -> &[u8] {
        match handle.class {
            NONE => &[],
            OWN => self.own.get(handle.cell as usize).map_or(&[], |b| b),
            class => {
                let shift = shift(class);
                let chunk =
                    &self.classes[usize::from(class)].chunks[(handle.cell >> shift) as usize];
                let at = (handle.cell & ((1 << shift) - 1)) as usize * size_of(class);
                &chunk[at..at + usize::from(handle.len)]
            }
        }
    }

    /// Gives the bytes back.
    pub(crate) fn free(&mut self, handle: Handle) {
        match handle.class {
            NONE => {}
            OWN => {
                self.own.try_remove(handle.cell as usize);
            }
            class => {
                let pool = &mut self.classes[usize::from(class)];
                let free = pool.free.to_le_bytes();
                pool.cell_mut(class, handle.cell)[..4].copy_from_slice(&free);
                pool.free = handle.cell;
            }
        }
    }

    /// Bytes of memory behind a handle.
    pub(crate) fn cost(&self, handle: Handle) -> u64 {
        match handle.class {
            NONE => 0,
            OWN => self
                .own
                .get(handle.cell as usize)
                .map_or(0, |b| b.len() as u64 + 32),
            class => size_of(class) as u64,
        }
    }
}

impl Class {
    fn take(&mut self, class: u8) -> u32 {
        if self.free != NIL {
            let cell = self.free;
            let next = self
                .cell_mut(class, cell)
                .first_chunk()
                .map_or(NIL, |b| u32::from_le_bytes(*b));
            self.free = next;
            return cell;
        }
        let shift = shift(class);
        if (self.high >> shift) as usize == self.chunks.len() {
            self.chunks.push(vec![0; size_of(class) << shift].into());
        }
        self.high += 1;
        self.high - 1
    }

    fn cell_mut(&mut self, class: u8, cell: u32) -> &mut [u8] {
        let (shift, size) = (shift(class), size_of(class));
        let at = (cell & ((1 << shift) - 1)) as usize * size;
        &mut self.chunks[(cell >> shift) as usize][at..at + size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_fit() {
        for len in 1..=1024 {
            let class = class_of(len);
            assert!(
                size_of(class) >= len && (class == 0 || size_of(class - 1) < len),
                "{len}"
            );
            assert!(usize::from(class) < CLASSES && size_of(class) << shift(class) <= CHUNK);
        }
    }

    #[test]
    fn keeps_reuses_and_gives_back() {
        let mut arena = Arena::new();
        let bytes = |n: usize| (0..n).map(|i| (i * 7 + n) as u8).collect::<Vec<_>>();
        for round in 0..3 {
            let handles: Vec<_> = (0..3000).map(|n| arena.put(&bytes(n))).collect();
            for (n, handle) in handles.iter().enumerate() {
                assert_eq!(arena.get(*handle), bytes(n), "round {round}");
                assert!(arena.cost(*handle) >= n as u64);
            }
            let chunks: usize = arena.classes.iter().map(|c| c.chunks.len()).sum();
            assert!(chunks <= CLASSES, "round {round}: {chunks}");
            // In another order than they came.
            handles.iter().rev().for_each(|h| arena.free(*h));
            assert!(arena.own.is_empty());
        }
    }
}
