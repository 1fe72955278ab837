//! What a start keeps in memory, counted by an allocator: a program of its own, for there is one allocator in each.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use towline_tracker::format::changes::{Encoder, HEADER, Header};
use towline_tracker::id::{DiskId, Generation, Session};
use towline_tracker::sidecar::files::{append_map, create_log, read_logs};
use towline_tracker::sidecar::folder::Directory;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is the system's; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise is the system's condition.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A log of two million changed blocks, none beside another: 256 KiB of bits, and 32 MiB as ranges.
#[test]
fn a_start_reads_a_fragmented_log_in_little_memory() -> io::Result<()> {
    const BLOCKS: u64 = 4 << 20;
    let place = tempfile::tempdir()?;
    let folder = Directory::new(&place.path().join("sidecar"))?;
    let (disk, generation, session) = (DiskId([1; 16]), Generation(5), Session(1));
    let header = Header { disk, session, generation, block_shift: 12, size: BLOCKS << 12 };
    let file = create_log(&folder, &header)?;
    append_map(&file, &mut Encoder::new(&header), HEADER as u64, true, BLOCKS, |_| 0x5555_5555_5555_5555)?;
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let mut blocks = 0;
    let logs = read_logs(&folder, disk, Generation(4), &[], |range| blocks += range.end - range.start)?;
    let used = MOST.load(Relaxed) - before;
    assert_eq!((blocks, logs.bad), (BLOCKS / 2, None));
    assert!(used < 256 << 10, "{used} bytes");
    Ok(())
}
