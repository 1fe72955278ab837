//! One tracked disk: its maps, its intents, its syncs. The group drives it.

pub(crate) mod failed;
pub mod geometry;
pub(crate) mod regions;

use crate::format::changes::{self, Encoder};
use crate::format::intents::LogMark;
use crate::format::meta::{Fingerprint, Meta};
use crate::group::action::{OpId, Token};
use crate::id::{Generation, Nanos};
use crate::map::{Words, bits};
use crate::mutant;
use failed::Failed;
use geometry::Geometry;
use regions::Regions;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// The change log that a generation appends to.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) header: changes::Header,
    pub(crate) encoder: Encoder,
    /// Where the next record goes.
    pub(crate) end: u64,
    /// Up to here it is durable.
    pub(crate) durable: u64,
    /// An append is in flight.
    pub(crate) appending: bool,
    /// An append failed: the file is never written again (F6).
    pub(crate) dead: bool,
}

impl Log {
    /// A log that holds its durable header and nothing else.
    pub(crate) fn new(header: changes::Header) -> Self {
        let end = changes::HEADER as u64;
        Self { encoder: Encoder::new(&header), header, end, durable: end, appending: false, dead: false }
    }

    pub(crate) fn mark(&self) -> LogMark {
        LogMark { generation: self.header.generation, length: self.durable }
    }
}

/// Who waits for a sync of the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SyncWaiter {
    /// A guest's flush.
    Flush(Token),
    /// A zero or discard with FUA: its slot.
    Request(u32),
    /// The freeze (C2).
    Freeze(Generation),
    /// Cleaning of regions (I4), begun in this epoch of the intents.
    Cleaning(u32),
    /// The stamp: the times that were read before must be durable (S3).
    Stamp,
    /// The mark was set (S4) or cleared: it must be durable.
    Mark {
        /// Which of the two.
        untracked: bool,
    },
    /// The clean stop.
    Stop,
}

impl SyncWaiter {
    /// It needs the inode to be durable as well.
    pub(crate) fn wants_inode(self) -> bool {
        matches!(self, Self::Stamp | Self::Mark { .. } | Self::Stop)
    }
}

/// What the kernel says of a disk at one time (S3).
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Times, size, inode.
    pub fingerprint: Fingerprint,
    /// When that was, nanoseconds since 1970.
    pub wall_ns: i128,
}

/// The syncs of a disk: one at a time; who comes while one runs waits for the next, which begins after.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    /// How many have begun.
    pub(crate) begun: u32,
    /// The newest that succeeded.
    pub(crate) done: u32,
    /// How many have failed.
    pub(crate) failed: u32,
    /// It, and when it began.
    pub(crate) running: Option<(OpId, Nanos)>,
    pub(crate) waiting: Vec<SyncWaiter>,
    pub(crate) served: Vec<SyncWaiter>,
}

/// Merging into the open map, by slices (C4).
#[derive(Debug)]
pub(crate) struct Fold {
    /// The map to merge; none means every block.
    pub(crate) source: Option<Words>,
    pub(crate) next: u64,
}

/// How intents stand (S4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntentMode {
    /// They are kept.
    Kept,
    /// They can't be kept; the mark is being made durable, and until then writes wait.
    Marking,
    /// They can't be kept and the mark is durable: the guest goes on.
    Bypassed,
    /// They can't be kept and the operator chose that writes wait.
    Strict,
}

/// The road back to kept intents (S4). The next cut is what heals: all that is dirty then goes into a sealed log, and
/// what comes after it into the fresh intents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Healing {
    /// There is nothing to heal, or nothing was done yet.
    None,
    /// A fresh intents file is being made.
    Renewing,
    /// It is there, with the regions of failed writes in it, and nothing else.
    Renewed {
        name: String,
        /// Of its newest slot.
        sequence: u64,
        regions: BTreeSet<u32>,
        /// Regions that it has room for.
        capacity: usize,
    },
    /// Intents are kept in it since the cut that opened this generation; the log of the one before is to be sealed.
    Cut(String, Generation),
    /// It is sealed; the meta that names the file is being stored by the job of this number, then the mark is cleared.
    Naming(u64),
}

/// The part of a freeze that belongs to one disk.
#[derive(Debug)]
pub(crate) struct FrozenDisk {
    pub(crate) frozen: Words,
    pub(crate) preserved: Words,
    pub(crate) log: Log,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) frozen_blocks: u64,
    /// Blocks preserved or being preserved.
    pub(crate) preserved_blocks: u64,
    pub(crate) compare: bool,
    pub(crate) whole: bool,
    pub(crate) synced: bool,
}

impl FrozenDisk {
    /// A word of the wanted map: frozen and not yet preserved.
    pub(crate) fn wanted(&self, index: usize) -> u64 {
        self.frozen[index].load(Relaxed) & !self.preserved[index].load(Relaxed)
    }
}

/// A slot write in flight.
#[derive(Debug)]
pub(crate) struct IntentWrite {
    pub(crate) added: Vec<u32>,
    /// Requests that go on when it is durable.
    pub(crate) admitted: Vec<u32>,
}

/// A tracked disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) geometry: Geometry,
    pub(crate) direct: bool,
    pub(crate) align: u32,
    pub(crate) meta: Meta,
    pub(crate) open: Words,
    pub(crate) dirty_blocks: u64,
    pub(crate) log: Log,
    pub(crate) regions: Regions,
    /// How often the intents were given up (S4): what was begun before says nothing of those of now.
    pub(crate) intent_epoch: u32,
    pub(crate) intent_sequence: u64,
    pub(crate) intent_capacity: usize,
    pub(crate) intent_queue: VecDeque<u32>,
    pub(crate) intent_write: Option<IntentWrite>,
    pub(crate) intent_mode: IntentMode,
    /// The mark could not be made durable: it is tried again.
    pub(crate) mark_again: bool,
    /// The mark is left over from what has healed, and could not be cleared: it is tried again.
    pub(crate) unmark_again: bool,
    /// Jobs that set or clear the mark and have not ended.
    pub(crate) marking: u32,
    /// How far healing has come.
    pub(crate) healing: Healing,
    /// Why intents are not kept.
    pub(crate) degraded: Option<String>,
    /// Parts of the running cleaning that are not yet durable.
    pub(crate) cleaning_parts: u8,
    /// Requests in flight, by parity of their generation.
    pub(crate) in_flight: [u32; 2],
    pub(crate) syncs: Syncs,
    /// What was read for the stamp that is being made durable.
    pub(crate) stamp_read: Option<Stamp>,
    pub(crate) failed: Failed,
    /// Every block was set in the open map, by a fold of everything: most of them did not change.
    pub(crate) filled: bool,
    /// A sync failed and no guest's flush has told (W6).
    pub(crate) latched: bool,
    pub(crate) fold: Option<Fold>,
    pub(crate) frozen: Option<FrozenDisk>,
    /// The unsealed log of the freeze that was undone last: the intents speak of it until the meta does.
    pub(crate) left: LogMark,
    pub(crate) writes: u64,
}

impl Disk {
    /// A disk that is served and not tracked; and what a tracked one has at its beginning: nothing waits, is in flight or
    /// has failed.
    pub(crate) fn untracked(
        name: String,
        path: String,
        geometry: Geometry,
        direct: bool,
        align: u32,
    ) -> Self {
        let header = changes::Header {
            disk: Default::default(),
            session: Default::default(),
            generation: Generation(1),
            block_shift: geometry.block_shift,
            size: geometry.size,
        };
        Self {
            name,
            path,
            geometry,
            direct,
            align,
            meta: Meta {
                disk: Default::default(),
                members: Vec::new(),
                size: geometry.size,
                block_shift: geometry.block_shift,
                region_shift: geometry.region_shift,
                session: Default::default(),
                start: Default::default(),
                boot: Default::default(),
                intents: String::new(),
                clean: None,
                stamp: Default::default(),
                stamped_ns: 0,
                vouched: Vec::new(),
                recheck: None,
                doubtful: false,
                target: None,
                anchor: None,
                released: Generation(0),
                logs: Vec::new(),
            },
            open: Words::private(0),
            dirty_blocks: 0,
            log: Log::new(header),
            regions: Regions::new(0, 0, &[]),
            intent_epoch: 0,
            intent_sequence: 0,
            intent_capacity: 0,
            intent_queue: VecDeque::new(),
            intent_write: None,
            intent_mode: IntentMode::Kept,
            mark_again: false,
            unmark_again: false,
            marking: 0,
            healing: Healing::None,
            degraded: None,
            cleaning_parts: 0,
            in_flight: [0, 0],
            syncs: Syncs::default(),
            stamp_read: None,
            failed: Failed::default(),
            filled: false,
            latched: false,
            fold: None,
            frozen: None,
            left: LogMark::default(),
            writes: 0,
        }
    }

    /// One slice of folding, of this many words. True when the fold is complete.
    pub(crate) fn fold_slice(&mut self, slice: u64) -> bool {
        let Some(fold) = &mut self.fold else { return true };
        let blocks = self.geometry.blocks();
        let words = blocks.div_ceil(bits::WORD_BLOCKS);
        let stop = (fold.next + slice).min(words);
        for index in fold.next..stop {
            let source = match &fold.source {
                Some(map) => map[index as usize].load(Relaxed),
                None => u64::MAX,
            };
            let tail = blocks - index * bits::WORD_BLOCKS;
            let clipped = if tail < bits::WORD_BLOCKS { source & ((1 << tail) - 1) } else { source };
            let word = &self.open[index as usize];
            let old = word.load(Relaxed);
            if old | clipped != old {
                word.store(old | clipped, Relaxed);
                self.dirty_blocks += u64::from((clipped & !old).count_ones());
            }
        }
        fold.next = stop;
        // Mutant: one word early.
        let complete = stop + u64::from(mutant::active("fold-misses-last-word")) >= words;
        if complete {
            self.filled |= fold.source.is_none();
            self.fold = None;
        }
        complete
    }

    /// Marks blocks in the open map (W4, W5).
    #[inline]
    pub(crate) fn mark(&mut self, blocks: Range<u64>) {
        self.dirty_blocks += bits::set(&self.open, blocks);
    }

    /// Whether any guest write is in flight.
    pub(crate) fn busy(&self) -> bool {
        self.in_flight != [0, 0]
    }
}
