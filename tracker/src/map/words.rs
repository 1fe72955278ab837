//! Memory made of 64-bit words, private or shared with other processes. One thread of one process writes it; any
//! number of readers, here or elsewhere, look at it with atomic loads.

use super::sync::AtomicU64;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

/// A slice of atomic words that keeps its memory alive. Cloning shares the memory.
#[derive(Clone)]
pub struct Words {
    start: NonNull<AtomicU64>,
    len: usize,
    /// Unmaps or frees when the last clone goes.
    keep: Arc<dyn Send + Sync>,
}

// SAFETY: the memory is only reached as `&[AtomicU64]`, which is `Send + Sync`, and `keep` is too.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// `len` zeroed words of this process's own memory.
    pub fn private(len: usize) -> Self {
        let memory: Arc<[AtomicU64]> = (0..len).map(|_| AtomicU64::new(0)).collect();
        let start = NonNull::from(&memory[..]).cast();
        Self { start, len, keep: Arc::new(memory) }
    }

    /// Words in memory that `keep` owns, a mapping for instance.
    ///
    /// # Safety
    /// `start` must be aligned and valid for `len` words, reads and writes (or reads only, if nothing is ever
    /// stored), for as long as `keep` lives, and reached by no other means than atomic operations.
    pub unsafe fn from_raw(start: NonNull<AtomicU64>, len: usize, keep: Arc<dyn Send + Sync>) -> Self {
        assert_eq!(size_of::<AtomicU64>(), 8, "a model has words of its own alone");
        Self { start, len, keep }
    }

    /// Whether both share the same memory.
    pub fn same(&self, other: &Self) -> bool {
        self.start == other.start
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the contract of `from_raw`, or the `Arc` in `keep` that `private` allocated.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Words({} words, {} owners)", self.len, Arc::strong_count(&self.keep))
    }
}
