//! The process's allocator, and giving memory back to the kernel.
//!
//! Owns nothing. [`Allocator`] is made the global one by the binary; [`give_back`] is called by any
//! thread, for what that thread has freed. Invariant: calling it without that allocator in force is
//! harmless. It deliberately keeps no statistics.

/// mimalloc: a heap a thread, which suits threads that share nothing, and pages that can be given back
/// one by one.
pub use mimalloc::MiMalloc as Allocator;

/// Gives back to the kernel what this thread's heap holds free. Costs some tens of microseconds, more
/// with a large heap: for the end of a wave of connections, not for every turn.
pub fn give_back() {
    // SAFETY: the call has no arguments that could be wrong and may be made from any thread at any
    // time; it touches the allocator's own structures only.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn giving_back_leaves_what_is_in_use() {
        let kept: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; 4096]).collect();
        super::give_back();
        assert!(
            kept.iter()
                .enumerate()
                .all(|(i, v)| v.iter().all(|b| usize::from(*b) == i))
        );
    }
}
