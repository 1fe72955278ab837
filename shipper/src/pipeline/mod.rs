//! From a freeze to the objects of its cycle: threads over bounded channels ([`threads`]), or one thread that does one
//! thing after another ([`inline`]).
//!
//! ```text
//! planner ── jobs ──► workers ── frames ──► assembler ── objects ──► putters ──► store
//!    ▲                read, drop zero       in job order   ▲   │
//!    │                and unchanged blocks,                 │   └─► checkpoints, through the caller
//!    └── credits ◄─── hash, compress ◄──── (caller's thread)┘
//! ```
//!
//! Everything may overtake everything but for two orders: frames reach the assembler in block order, and an entry is
//! put after every object that it names is durable (V1). The caller's thread assembles, calls the caller's hooks
//! and gives up when one of them fails; the other threads then end by their channels.
//!
//! Memory is bounded by [`Plan`]: a job is begun only with a credit, which comes back when its frames are in packs.

mod assemble;
mod below;
mod inline;
mod jobs;
mod lately;
mod line;
mod plan;
mod put;
#[cfg(test)]
pub(crate) mod tests;
mod threads;
mod work;

pub use assemble::{Checkpoint, Cycle, Hooks, Shipped, ship};
pub use below::{Below, BelowBlock, ImageBelow, NothingBelow, shape};
pub use lately::Lately;
pub use line::{Begun, Crew, Turn, Turns};
pub use plan::{MEMORY_MIN, Plan};
pub use put::Retry;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often the caller's hooks are called at least.
const TICK: Duration = Duration::from_millis(100);

/// What a cycle has done so far; shown while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of frozen blocks that this run has to look at.
    pub todo: AtomicU64,
    /// Of these, bytes that are in packs or found zero or unchanged.
    pub done: AtomicU64,
    /// Bytes read from disks.
    pub read: AtomicU64,
    /// Bytes put into the store.
    pub put: AtomicU64,
    /// Blocks taken from the freeze's store, because the guest has overwritten them since the cut.
    pub from_store: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    /// Reads one.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
