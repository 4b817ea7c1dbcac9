//! Byte buffers and the pool of each thread that they come from and go back to.
//!
//! Owns one pool a thread: buffers of one class size, at most a configured number of them. A
//! [`Buffer`] is used by one thread (it may be moved to another; it then goes back to that one's pool).
//!
//! Invariants: `start <= end <= capacity`; every byte of a buffer's memory is initialised (it was
//! zeroed when it was allocated), so its spare part may be lent as a plain slice; bytes of a former
//! use are never in the filled part; a pool never holds more than its cap, so a burst gives its
//! memory back.
//!
//! It deliberately has no sharing, no reference counts and no size classes but one: larger buffers
//! are plain allocations. Tested by the unit tests below and, under the kernel, by `stream`'s.

use std::cell::{Cell, RefCell};
use std::fmt;

use monoio::buf::{IoBuf, IoBufMut};

/// Class size of a thread that was not configured, in bytes.
pub const DEFAULT_CLASS_SIZE: usize = 16 * 1024;
/// Cap of the pool of a thread that was not configured, in buffers.
pub const DEFAULT_MAX_POOLED: usize = 256;

/// What this thread's pool did and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Buffers that wait in the pool now.
    pub pooled: usize,
    /// Buffers of the class size that are in use now. Those that moved to another thread count here
    /// for ever, those that came from one lower it.
    pub in_use: isize,
    /// Times that [`Buffer::take`] found the pool empty and allocated.
    pub allocated: u64,
    /// Buffers that were freed because the pool was at its cap.
    pub discarded: u64,
}

struct Pool {
    class_size: Cell<usize>,
    max_pooled: Cell<usize>,
    free: RefCell<Vec<Box<[u8]>>>,
    in_use: Cell<isize>,
    allocated: Cell<u64>,
    discarded: Cell<u64>,
}

thread_local! {
    static POOL: Pool = const {
        Pool {
            class_size: Cell::new(DEFAULT_CLASS_SIZE),
            max_pooled: Cell::new(DEFAULT_MAX_POOLED),
            free: RefCell::new(Vec::new()),
            in_use: Cell::new(0),
            allocated: Cell::new(0),
            discarded: Cell::new(0),
        }
    };
}

/// Sets the class size (bytes, at least 1) and the cap (buffers) of this thread's pool. Buffers of
/// another size that wait in it are freed.
pub fn configure(class_size: usize, max_pooled: usize) {
    POOL.with(|pool| {
        pool.class_size.set(class_size.max(1));
        pool.max_pooled.set(max_pooled);
        let mut free = pool.free.borrow_mut();
        free.retain(|memory| memory.len() == class_size);
        free.truncate(max_pooled);
    });
}

/// What this thread's pool did and holds.
pub fn stats() -> Stats {
    POOL.with(|pool| Stats {
        pooled: pool.free.borrow().len(),
        in_use: pool.in_use.get(),
        allocated: pool.allocated.get(),
        discarded: pool.discarded.get(),
    })
}

fn zeroed(size: usize) -> Box<[u8]> {
    vec![0; size].into_boxed_slice()
}

/// Frees a quarter of this thread's pooled buffers beyond `keep`: called now and then, it lets the pool
/// sink to what is in use.
pub fn trim(keep: usize) {
    POOL.with(|pool| {
        let mut free = pool.free.borrow_mut();
        let surplus = free.len().saturating_sub(keep);
        let left = free.len() - surplus.div_ceil(4);
        free.truncate(left);
    });
}

/// Frees all of this thread's pooled buffers beyond `keep`.
pub fn shrink(keep: usize) {
    POOL.with(|pool| pool.free.borrow_mut().truncate(keep));
}

/// Initialised memory with a filled part: bytes are read off its front and written behind its end.
///
/// As an operand of an operation, the filled part is what is written, and the spare tail is what is
/// read into.
pub struct Buffer {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer of the class size, from this thread's pool if it has one.
    pub fn take() -> Self {
        POOL.with(|pool| {
            pool.in_use.set(pool.in_use.get() + 1);
            let memory = pool.free.borrow_mut().pop().unwrap_or_else(|| {
                pool.allocated.set(pool.allocated.get() + 1);
                zeroed(pool.class_size.get())
            });
            Self {
                memory,
                start: 0,
                end: 0,
            }
        })
    }

    /// An empty buffer of at least `capacity` bytes: a pooled one where that is enough.
    pub fn with_capacity(capacity: usize) -> Self {
        if capacity <= POOL.with(|pool| pool.class_size.get()) {
            return Self::take();
        }
        Self {
            memory: zeroed(capacity),
            start: 0,
            end: 0,
        }
    }

    /// A buffer with these bytes, and room for no more: for what is kept for long.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self {
            memory: bytes.into(),
            start: 0,
            end: bytes.len(),
        }
    }

    /// A buffer without memory. It allocates when something is put into it.
    pub fn empty() -> Self {
        Self {
            memory: Box::default(),
            start: 0,
            end: 0,
        }
    }

    /// The filled part.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// The filled part.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.end]
    }

    /// Bytes in the filled part.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the filled part is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes of its memory, used or not.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Bytes that can be put in without moving or growing.
    #[inline]
    pub fn spare_len(&self) -> usize {
        self.memory.len() - self.end
    }

    /// The tail behind the filled part: initialised, of unspecified content. Say with
    /// [`Buffer::advance`] how much of it was filled.
    #[inline]
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.memory[self.end..]
    }

    /// Takes the first `n` bytes of the spare tail (at most all of it) into the filled part.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        self.end = self.end.saturating_add(n).min(self.memory.len());
    }

    /// Drops `n` bytes (at most all) off the front of the filled part.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Keeps only the first `len` bytes of the filled part.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.end = self.start + len;
        }
    }

    /// Empties it; the whole memory is spare again.
    #[inline]
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Moves the filled part to the front, so that the spare tail is as long as can be.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// A copy of the filled part in memory of just its size.
    pub fn exact(&self) -> Self {
        Self {
            memory: self.as_slice().into(),
            start: 0,
            end: self.len(),
        }
    }

    /// Makes room for `n` more bytes: moves the filled part to the front, or grows to at least twice
    /// the size, where needed.
    #[inline]
    pub fn reserve(&mut self, n: usize) {
        if self.spare_len() < n {
            self.make_room(n);
        }
    }

    #[cold]
    fn make_room(&mut self, n: usize) {
        let needed = self.len().saturating_add(n);
        if needed <= self.capacity() {
            self.compact();
            return;
        }
        let mut grown = Self::with_capacity(needed.max(self.capacity().saturating_mul(2)));
        let len = self.len();
        grown.memory[..len].copy_from_slice(self.as_slice());
        grown.end = len;
        *self = grown;
    }

    /// Appends `bytes`; grows where needed.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.memory[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Buffer {
    /// Sizes only: what a buffer holds may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish()
    }
}

impl std::io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.is_empty() {
            return;
        }
        let memory = std::mem::take(&mut self.memory);
        // While the thread ends its pool may be gone: then the memory is simply freed.
        let _ = POOL.try_with(|pool| {
            if memory.len() != pool.class_size.get() {
                return;
            }
            pool.in_use.set(pool.in_use.get() - 1);
            let mut free = pool.free.borrow_mut();
            if free.len() < pool.max_pooled.get() {
                free.push(memory);
            } else {
                pool.discarded.set(pool.discarded.get() + 1);
            }
        });
    }
}

// SAFETY: the pointer is into a heap allocation that the buffer owns: it stays where it is while the
// value moves. `start..end` is within it, and all of it is initialised.
unsafe impl IoBuf for Buffer {
    #[inline]
    fn read_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    #[inline]
    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above; `bytes_total` counts from `write_ptr` to the end of the allocation.
unsafe impl IoBufMut for Buffer {
    #[inline]
    fn write_ptr(&mut self) -> *mut u8 {
        self.spare().as_mut_ptr()
    }

    #[inline]
    fn bytes_total(&mut self) -> usize {
        self.spare_len()
    }

    /// The reader tells how much it put at `write_ptr`.
    #[inline]
    unsafe fn set_init(&mut self, pos: usize) {
        self.advance(pos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_back_to_its_pool_up_to_the_cap() {
        configure(64, 2);
        let three: Vec<Buffer> = (0..3).map(|_| Buffer::take()).collect();
        assert_eq!(
            stats(),
            Stats {
                pooled: 0,
                in_use: 3,
                allocated: 3,
                discarded: 0
            }
        );
        drop(three);
        assert_eq!(
            stats(),
            Stats {
                pooled: 2,
                in_use: 0,
                allocated: 3,
                discarded: 1
            }
        );
        let again = Buffer::take();
        assert_eq!((again.len(), again.capacity()), (0, 64));
        assert_eq!(
            stats(),
            Stats {
                pooled: 1,
                in_use: 1,
                allocated: 3,
                discarded: 1
            }
        );
        configure(128, 2);
        drop(again);
        assert_eq!(stats().pooled, 0, "a buffer of another class is freed");
    }

    #[test]
    fn bytes_of_a_former_use_are_not_in_the_filled_part() {
        configure(16, 4);
        let mut b = Buffer::take();
        b.extend_from_slice(b"secret");
        drop(b);
        let b = Buffer::take();
        assert!(b.as_slice().is_empty());
        assert!(!format!("{b:?}").contains("secret"));
    }

    #[test]
    fn cursors_hold() {
        configure(8, 4);
        let mut b = Buffer::take();
        b.extend_from_slice(b"abcdef");
        b.consume(4);
        assert_eq!(b.as_slice(), b"ef");
        assert_eq!(b.spare_len(), 2);
        b.reserve(5);
        assert_eq!(
            (b.as_slice(), b.capacity()),
            (&b"ef"[..], 8),
            "room is found by moving"
        );
        b.extend_from_slice(b"ghijklmnop");
        assert_eq!(b.as_slice(), b"efghijklmnop");
        assert!(b.capacity() >= 16, "grown at least twofold");
        b.truncate(3);
        b.truncate(100);
        assert_eq!(b.as_slice(), b"efg");
        b.consume(100);
        assert!(b.is_empty());
        assert_eq!(b.spare_len(), b.capacity());
        b.advance(usize::MAX);
        assert_eq!(b.len(), b.capacity());
    }

    #[test]
    fn an_empty_buffer_allocates_when_filled() {
        configure(8, 4);
        let mut b = Buffer::empty();
        assert_eq!(b.capacity(), 0);
        b.extend_from_slice(b"x");
        assert_eq!(b.as_slice(), b"x");
        let before = stats();
        drop(std::mem::take(&mut b));
        assert_eq!(stats().pooled, before.pooled + 1);
    }
}
