//! What a point, a fuzzy entry or a checkpoint says: an image of every disk, and how it came to be.

use super::{ATTACHED, EntryHeader};
use crate::vault::limits::{
    ATTACHED_MAX, BLOCK_SHIFT_MAX, BLOCK_SHIFT_MIN, DISK_SIZE_MAX, DISKS_MAX, INDEXES_MAX,
};
use crate::vault::names::{self, GroupId, ObjectName};
use crate::{Error, Kind, Result};
use bincode::{Decode, Encode};
use towline_tracker::id::{AttachNumber, CutId, DiskId, Generation, Session};
use towline_tracker::mutant;

/// What a point promises of the guest's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Consistency {
    /// What a power cut would have left.
    Crash,
    /// The guest's applications were asked to flush (later).
    Application,
}

/// The payload of a point, a fuzzy entry or a checkpoint: an image of every disk, and how it came to be.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Content {
    /// The first generation whose changes were frozen.
    pub first_generation: Generation,
    /// The generation that the cut ended.
    pub generation: Generation,
    /// The tracker's session.
    pub session: Session,
    /// The shipper's attach number.
    pub attach: AttachNumber,
    /// What the point promises.
    pub consistency: Consistency,
    /// Every disk of the group.
    pub disks: Vec<DiskImage>,
    /// Of a checkpoint: what of the cut is done.
    pub covered: Vec<Covered>,
    /// What the cycle did.
    pub totals: Totals,
}

/// The image of a disk: indexes, laid one over the other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DiskImage {
    /// The disk.
    pub id: DiskId,
    /// Its name in the group.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// log2 of its block size.
    pub block_shift: u8,
    /// Every index of the image, the oldest first.
    pub indexes: Vec<IndexRef>,
}

/// An index: where it is and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct IndexRef {
    /// The writer epoch in its name; without a cut, the number of the catalog that it was made for.
    pub epoch: u64,
    /// The cut whose changes it holds, in its name; of a fold, the newest of them; of what was moved, none.
    pub cut: CutId,
    /// Its random name.
    pub name: ObjectName,
    /// The entry that it is attached to; 0 with an offset: the one that names it here.
    pub entry: u64,
    /// Its offset in that entry; 0: it is an object of its own.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its hash: BLAKE3 of its directory.
    pub hash: [u8; 32],
    /// 0: of one cut. Above: a fold, or a part of one (V6).
    pub level: u8,
}

impl IndexRef {
    /// The full name that it is sealed under, and put under unless it is attached.
    pub fn object(&self, group: GroupId) -> String {
        match self.level {
            _ if self.cut == names::NO_CUT => names::index(group, self.epoch, self.cut, self.name),
            0 => names::index(group, self.epoch, self.cut, self.name),
            _ => names::fold(group, self.epoch, self.name),
        }
    }
}

/// Blocks `[first, first + count)` of a disk are shipped, or were found zero or unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Covered {
    /// The disk.
    pub disk: DiskId,
    /// The first block.
    pub first: u64,
    /// Blocks.
    pub count: u64,
}

/// What a cycle did, summed over disks; since the cut, so that the last entry of a cycle has it all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Totals {
    /// Bytes of frozen blocks.
    pub bytes_changed: u64,
    /// Bytes read from disks.
    pub bytes_read: u64,
    /// Bytes put into the store: packs, indexes and entries, except this entry's payload.
    pub bytes_put: u64,
    /// Blocks found zero.
    pub blocks_zero: u64,
    /// Blocks found equal to the image below.
    pub blocks_unchanged: u64,
    /// Blocks put.
    pub blocks_put: u64,
}

impl Content {
    /// Takes a disk's image out, and what was covered of it: as if it had never been shipped.
    pub fn forget(&mut self, id: DiskId) {
        self.disks.retain(|disk| disk.id != id);
        self.covered.retain(|covered| covered.disk != id);
    }

    /// Gives indexes that ride in this very entry its number. Readers get contents resolved; a writer does it with
    /// the content that it published before it builds on it.
    pub fn resolve(&mut self, seq: u64) {
        // Mutant: whoever lists them holds them.
        if mutant::active("index-of-next-entry") {
            return;
        }
        let indexes = self.disks.iter_mut().flat_map(|disk| &mut disk.indexes);
        for index in indexes.filter(|index| index.entry == 0 && index.offset != 0) {
            index.entry = seq;
        }
    }

    /// Whether `more` indexes fit beside those that the images list.
    ///
    /// # Errors
    /// `GroupFull`.
    pub fn room_for(&self, more: usize) -> Result<()> {
        let listed: usize = self.disks.iter().map(|disk| disk.indexes.len()).sum();
        if listed + more <= INDEXES_MAX {
            return Ok(());
        }
        let line = format!(
            "the group's image lists {listed} indexes, which could not be folded, and an entry holds {INDEXES_MAX}; \
             `towline verify` says whether the vault is damaged; ship to a new vault, or give the tracker another --group"
        );
        Err(Error::new(Kind::GroupFull, line))
    }

    /// The image of a disk.
    pub fn disk(&self, id: DiskId) -> Option<&DiskImage> {
        self.disks.iter().find(|disk| disk.id == id)
    }

    pub(super) fn check(&self, header: &EntryHeader) -> std::result::Result<(), &'static str> {
        if self.disks.len() > DISKS_MAX {
            return Err("it lists too many disks");
        }
        let mut ids = std::collections::HashSet::new();
        for disk in &self.disks {
            if !(BLOCK_SHIFT_MIN..=BLOCK_SHIFT_MAX).contains(&disk.block_shift) || disk.size > DISK_SIZE_MAX {
                return Err("a disk has an impossible size");
            }
            if !ids.insert(disk.id) {
                return Err("a disk is listed twice");
            }
            for index in &disk.indexes {
                let attached = index.offset != 0;
                let sound = match attached {
                    true => {
                        (ATTACHED..ATTACHED + ATTACHED_MAX)
                            .contains(&usize::try_from(index.offset).unwrap_or(0))
                            && index.entry <= header.seq
                            && index.level == 0
                            && index.length <= ATTACHED_MAX as u64
                    }
                    false => index.entry == 0,
                };
                // Lists name what was made for them; what stands for that now is the catalog's to say.
                if !sound || index.epoch > header.seq || index.cut == names::NO_CUT {
                    return Err("an index lies where none can be");
                }
            }
        }
        Ok(())
    }
}
