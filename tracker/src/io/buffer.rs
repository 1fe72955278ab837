//! Aligned memory for requests, recycled: in steady state nothing is allocated, and no page is touched for the first
//! time, on the way of a request.
//!
//! Sizes are powers of two. A small arena holds the ones for usual requests (4 KiB and 64 KiB) and can be registered
//! with the ring; what does not fit there is mapped on its own, and a bounded amount of it is kept for reuse.

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Every buffer starts at a multiple of this: enough for direct I/O on any device.
pub const ALIGN: usize = 4096;
/// log2 of the smallest buffer.
const CLASS_MIN: u32 = 12;
/// log2 of the largest: a write of [`crate::limits::NBD_PAYLOAD_MAX`] with room to spare, or a preserve.
const CLASS_MAX: u32 = 26;
/// How many buffers of 4 KiB the arena has.
const ARENA_SMALL: usize = 256;
/// How many buffers of 64 KiB the arena has.
const ARENA_MEDIUM: usize = 16;
/// log2 of the arena's second kind.
const CLASS_MEDIUM: u32 = 16;
/// The arena: 2 MiB, so that a plain user's lock limit of 8 MiB leaves room for the maps.
const ARENA_LEN: usize = ARENA_SMALL * (1 << CLASS_MIN) + ARENA_MEDIUM * (1 << CLASS_MEDIUM);
/// The most bytes of mapped buffers that are kept for reuse.
const SPARE_MAX: usize = 8 << 20;

const _: () = assert!(1 << CLASS_MIN == ALIGN, "every class is a multiple of the alignment");
const _: () = assert!(1 << CLASS_MAX >= crate::limits::NBD_PAYLOAD_MAX, "the largest write fits a buffer");
const _: () = assert!(ARENA_LEN == 2 << 20, "the arena is what its documentation says");

/// Memory of its own, aligned to [`ALIGN`]; a slice of its whole capacity. Its content is whatever was there.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    class: u32,
    arena: bool,
}

// SAFETY: a buffer is the only owner of its memory, which no thread is tied to.
unsafe impl Send for Buffer {}
// SAFETY: shared access is only reading.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Maps memory for at least `length` bytes, outside any pool.
    ///
    /// # Panics
    /// If it is larger than the largest class or the system has no memory.
    pub fn map(length: usize) -> Self {
        let class = class_of(length);
        Self { start: map(1 << class), class, arena: false }
    }

    /// It lies in the pool's arena.
    pub fn in_arena(&self) -> bool {
        self.arena
    }

    /// Where the kernel finds it.
    pub(super) fn pointer(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the memory is mapped, initialized by the kernel, and only ours.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), 1 << self.class) }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), 1 << self.class) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // A buffer of the arena that is dropped instead of returned keeps its place taken: the pool then leaks the
        // arena rather than free memory that someone might still reach.
        if !self.arena {
            unmap(self.start, 1 << self.class);
        }
    }
}

fn class_of(length: usize) -> u32 {
    let class = length.next_power_of_two().trailing_zeros().max(CLASS_MIN);
    assert!(class <= CLASS_MAX, "a buffer of {length} bytes is over the limit");
    class
}

fn map(length: usize) -> NonNull<u8> {
    let length = NonZeroUsize::new(length).expect("classes are not empty");
    // SAFETY: a new private mapping replaces nothing.
    let memory = unsafe {
        mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
    };
    memory.expect("the system has memory for a buffer").cast()
}

fn unmap(start: NonNull<u8>, length: usize) {
    // SAFETY: `map` made this mapping with this length, and its only owner is going.
    unsafe { munmap(start.cast(), length) }.expect("our own mapping can be unmapped");
}

/// Where buffers come from and go back to.
#[derive(Debug)]
pub struct Pool {
    arena: NonNull<u8>,
    free: Vec<Vec<Buffer>>,
    /// Buffers of the arena that are out.
    lent: usize,
    spare_bytes: usize,
}

impl Pool {
    /// A pool with its arena, of which no page is touched yet.
    pub fn new() -> Self {
        let arena = map(ARENA_LEN);
        let mut free: Vec<Vec<Buffer>> = (0..=CLASS_MAX).map(|_| Vec::with_capacity(16)).collect();
        let mut at = 0;
        for (class, count) in [(CLASS_MEDIUM, ARENA_MEDIUM), (CLASS_MIN, ARENA_SMALL)] {
            for _ in 0..count {
                // SAFETY: the places lie in the arena one after another.
                let start = unsafe { arena.add(at) };
                free[class as usize].push(Buffer { start, class, arena: true });
                at += 1 << class;
            }
            // The first ones are taken first, so that little work touches few pages.
            free[class as usize].reverse();
        }
        debug_assert_eq!(at, ARENA_LEN);
        Self { arena, free, lent: 0, spare_bytes: 0 }
    }

    /// A buffer of at least `length` bytes.
    pub fn take(&mut self, length: usize) -> Buffer {
        let class = class_of(length);
        // A request between the arena's two kinds takes the larger one while there is some.
        let class = if (CLASS_MIN + 1..CLASS_MEDIUM).contains(&class)
            && !self.free[CLASS_MEDIUM as usize].is_empty()
        {
            CLASS_MEDIUM
        } else {
            class
        };
        match self.free[class as usize].pop() {
            Some(buffer) => {
                if buffer.arena {
                    self.lent += 1;
                } else {
                    self.spare_bytes -= buffer.len();
                }
                buffer
            }
            None => Buffer::map(1 << class),
        }
    }

    /// Takes a buffer back.
    pub fn give(&mut self, buffer: Buffer) {
        let class = buffer.class as usize;
        if buffer.arena {
            self.lent -= 1;
        } else if self.spare_bytes + buffer.len() > SPARE_MAX {
            return;
        } else {
            self.spare_bytes += buffer.len();
        }
        self.free[class].push(buffer);
    }

    /// The arena, for registering: address and length.
    pub(super) fn arena(&self) -> (*mut u8, usize) {
        (self.arena.as_ptr(), ARENA_LEN)
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.free.clear();
        if self.lent == 0 {
            unmap(self.arena, ARENA_LEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_do_not_overlap_and_come_back() {
        let mut pool = Pool::new();
        let mut held: Vec<_> = (0..ARENA_SMALL + 8).map(|_| pool.take(4096)).collect();
        held.extend((0..ARENA_MEDIUM + 2).map(|_| pool.take(10_000)));
        held.push(pool.take(3 << 20));
        for (n, buffer) in held.iter_mut().enumerate() {
            assert_eq!(buffer.as_ptr() as usize % ALIGN, 0);
            buffer.fill(n as u8);
        }
        // Miri is slow: the first and the last byte of a page, and some.
        let step = if cfg!(miri) { ALIGN - 1 } else { 1 };
        for (n, buffer) in held.iter().enumerate() {
            assert!(buffer.iter().step_by(step).all(|&byte| byte == n as u8));
        }
        assert_eq!(held.last().map(|buffer| buffer.len()), Some(4 << 20));
        held.into_iter().for_each(|buffer| pool.give(buffer));
        assert_eq!(pool.lent, 0);
    }

    #[test]
    fn what_is_kept_for_reuse_is_bounded() {
        let mut pool = Pool::new();
        let held: Vec<_> = (0..32).map(|_| pool.take(1 << 20)).collect();
        held.into_iter().for_each(|buffer| pool.give(buffer));
        assert_eq!(pool.spare_bytes, SPARE_MAX);
    }
}
