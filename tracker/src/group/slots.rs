//! The slab of requests: their state from arrival to reply.

use super::action::{Change, Token};
use crate::id::{DiskIndex, Generation};
use std::ops::Range;

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The slot is free.
    Free,
    /// Waits in the disk's intent queue (W1).
    Intent,
    /// Taken from the queue, its regions pinned; waits for the set to be durable (W1).
    Admitted,
    /// Waits for a write or a preserve on the same blocks (W2, W3), or to be run again.
    Held,
    /// Marked, tagged and submitted (W4).
    InFlight,
    /// Complete but for the sync of its FUA.
    Syncing,
}

/// A request that can change bytes.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) token: Token,
    /// The piece at work; a request over the piece size runs as pieces, one after another.
    pub(crate) piece: Range<u64>,
    pub(crate) end: u64,
    /// The generation that the piece is tagged with.
    pub(crate) generation: Generation,
    /// Pinned regions; empty if none.
    pub(crate) pinned: Range<u32>,
    /// Bytes that it may still preserve, for zeros and discards (W3).
    pub(crate) preserve_left: u64,
    /// The disk's count of failed syncs when the request came.
    pub(crate) syncs_failed: u32,
    /// The disk's count of failed writes when the piece was submitted.
    pub(crate) writes_failed: u32,
    pub(crate) disk: DiskIndex,
    pub(crate) change: Change,
    pub(crate) fua: bool,
    pub(crate) phase: Phase,
    /// Its connection died: no further piece is submitted (W8).
    pub(crate) abandoned: bool,
}

/// The slab.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    #[inline]
    pub(crate) fn insert(&mut self, slot: Slot) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        assert!(slot.phase != Phase::Free, "a request ends once");
        slot.phase = Phase::Free;
        self.free.push(index);
    }

    #[inline]
    pub(crate) fn get(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// The slots in use.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.phase != Phase::Free)
    }

    /// Requests that are not answered.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
