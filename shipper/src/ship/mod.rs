//! The shipping loop: attach, decide, claim, then freeze after freeze into the vault.
//!
//! ```text
//! connect ─ attach ─ decide by the attach table (V10) ─ claim (V2)
//!    ▲                   │
//!    │        an open freeze: finish it (from its last checkpoint), release it, or undo it
//!    │                   │
//!    │         ┌─► cut ─ read ─ packs ─ confirm (R2) ─ entry ─ release (V9) ─┐
//!    │         └────── fold indexes (V6), wait for the next cycle ◄─────────┘
//!    └── anything that may pass (the tracker or the store away): wait, begin again
//! ```
//!
//! [`plan`] holds what is decided, without I/O; the rest does what it says.

mod audit;
mod control;
#[cfg(test)]
mod fake;
mod ground;
pub mod plan;
mod run;
mod stop;
#[cfg(test)]
mod tests;
mod tracker;

pub use control::{Answered, Control, Surroundings};
pub use run::{Report, run, run_in};
pub use stop::Stop;
pub use tracker::refusal;

use crate::limit::Rules;
use crate::pipeline::Retry;
use crate::store::tally::{Requests, Tally};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What to ship, where to, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The tracker's control socket.
    pub tracker: PathBuf,
    /// The time from one cut to the next; `None`: one point, then the end.
    pub every: Option<Duration>,
    /// The first cut freezes everything and compares it with the vault.
    pub full: bool,
    /// At a cut that [`Self::full`] asks for, nothing in the vault is believed: everything is shipped again.
    pub distrust: bool,
    /// A disk of which so many per cent have changed is compared with the vault; 0: never.
    pub resync_at: u8,
    /// Take over a group that another lineage or other disks own.
    pub take_over: bool,
    /// Memory in bytes, whatever the disks.
    pub memory: u64,
    /// Bytes at which a pack is closed.
    pub pack_size: usize,
    /// Bytes after which a checkpoint is put.
    pub checkpoint_every: u64,
    /// So many indexes of a level are folded into one of the next; at least 2.
    pub fold_every: usize,
    /// Bytes that each cut's audit compares with the vault.
    pub audit: u64,
    /// How a store's bad moments are sat out within a cycle.
    pub retry: Retry,
    /// How fast uploads may go.
    pub limit: Rules,
    /// What longer waits for a store are counted in: a minute, but in tests.
    pub minute: Duration,
    /// Where the vault's store counts what it is asked.
    pub tally: Arc<Tally>,
}

/// Why the loop ended without a failure.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Ended {
    /// The one point that was asked for.
    Once(Summary),
    /// Somebody wants it to stop.
    Stopped,
}

/// What one freeze became; the JSON object of a cycle.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The cut id: the point's name.
    pub id: String,
    /// `point` or `fuzzy`.
    pub kind: &'static str,
    /// The group's name.
    pub group: String,
    /// The entry's number in the group's log.
    pub entry: u64,
    /// The generation that the cut ended.
    pub generation: u64,
    /// The instant of the cut, nanoseconds since 1970.
    pub time_ns: u64,
    /// Bytes of frozen blocks.
    pub bytes_changed: u64,
    /// Bytes read from the disks.
    pub bytes_read: u64,
    /// Bytes put into the vault.
    pub bytes_put: u64,
    /// Bytes found zero.
    pub bytes_zero: u64,
    /// Bytes found equal to what the vault has.
    pub bytes_unchanged: u64,
    /// Bytes of blocks put, before compression.
    pub bytes_shipped: u64,
    /// Blocks taken from the freeze's store, because the guest had overwritten them.
    pub reads_from_store: u64,
    /// From the request to cut (or to reopen) to the release, in seconds.
    pub seconds: f64,
    /// Of these, until the tracker handed the freeze out.
    pub seconds_cut: f64,
    /// Fuzzy entries in a row, with this one.
    pub fuzzy_in_a_row: u32,
    /// Bytes that were not changed, as far as was known, and were compared with the vault all the same.
    pub bytes_audited: u64,
    /// Blocks of these that were changed, unseen by the tracker: everything was compared for them.
    pub blocks_untracked: u64,
    /// What the store was asked since the entry before, or the start.
    #[serde(flatten)]
    pub requests: Requests,
}
