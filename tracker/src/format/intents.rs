//! The intents file: two slots written in turn, each the whole set of regions that may be written (I2).
//!
//! A slot is one write of whole 512-byte sectors, each with the sequence number of the write and a checksum. Sectors
//! that are all good but of mixed sequence are a write that power loss tore; it was never acknowledged, so nothing
//! relied on it, and the other slot counts. A sector that does not check is rot: nothing here can be believed.

use super::bytes::{Writer, u16_at, u32_at, u64_at};
use super::checksum::checksum;
use crate::id::{DiskId, Generation, Session};
use crate::mutant;

/// First bytes of each sector.
pub const MAGIC: u32 = 0x8149_4c54;
/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Bytes of a sector's header.
pub const HEADER: usize = 64;
/// Regions that a sector holds.
pub const SECTOR_REGIONS: usize = (SECTOR - HEADER) / 4;
/// The most sectors of a slot.
pub const SECTORS_MAX: usize = 255;
/// The most regions of a set.
pub const REGIONS_MAX: usize = SECTORS_MAX * SECTOR_REGIONS;

/// How much of a generation's change log was durable when the slot was written: less in the file is rot, not a
/// torn tail, for a region may have left the intents on its strength (I4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogMark {
    /// The generation.
    pub generation: Generation,
    /// Bytes.
    pub length: u64,
}

/// One version of the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntentSet {
    /// Rises by one with each version of a session.
    pub sequence: u64,
    /// The session that wrote it.
    pub session: Session,
    /// The open generation's log and the one's before.
    pub logs: [LogMark; 2],
    /// The regions, in no order.
    pub regions: Vec<u32>,
}

/// Bytes of a slot that can hold `capacity` regions.
pub fn slot_size(capacity: usize) -> usize {
    sectors(capacity) * SECTOR
}

/// Where the second slot begins: slots never share a page of the medium.
pub fn slot_stride(capacity: usize) -> usize {
    slot_size(capacity).next_multiple_of(4096)
}

fn sectors(capacity: usize) -> usize {
    capacity.div_ceil(SECTOR_REGIONS).clamp(1, SECTORS_MAX)
}

impl IntentSet {
    /// The slot that this version goes to: 0 or 1.
    pub fn slot(&self) -> usize {
        (self.sequence % 2) as usize
    }

    /// The bytes of a slot of `capacity` regions.
    pub fn encode(&self, disk: DiskId, capacity: usize) -> Vec<u8> {
        let count = sectors(capacity);
        assert!(self.regions.len() <= count * SECTOR_REGIONS, "the set fits its slot");
        let mut out = Vec::with_capacity(count * SECTOR);
        for index in 0..count {
            let from = (index * SECTOR_REGIONS).min(self.regions.len());
            let regions = &self.regions[from..(from + SECTOR_REGIONS).min(self.regions.len())];
            let mut sector = Writer::default();
            sector.u32(MAGIC).u8(index as u8).u8(count as u8).u16(regions.len() as u16);
            sector.u64(self.sequence).u64(self.session.0);
            for log in self.logs {
                sector.u64(log.generation.0).u64(log.length);
            }
            sector.u64(0);
            for region in regions {
                sector.u32(*region);
            }
            sector.pad(SECTOR);
            let sum = sum(disk, &sector.0);
            sector.0[56..64].copy_from_slice(&sum.to_le_bytes());
            out.extend_from_slice(&sector.0);
        }
        out
    }
}

fn sum(disk: DiskId, sector: &[u8]) -> u64 {
    let seed = checksum(0, &disk.0);
    checksum(checksum(seed, &sector[..56]), &sector[64..])
}

/// The file can't be believed: resynchronization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rot;

impl std::fmt::Display for Rot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the intents file is damaged")
    }
}

impl std::error::Error for Rot {}

/// The newest whole version in the bytes of an intents file.
///
/// # Errors
/// A sector that does not check, or no whole slot.
pub fn newest(disk: DiskId, file: &[u8]) -> Result<IntentSet, Rot> {
    if file.len() < SECTOR || u32_at(file, 0) != MAGIC {
        return Err(Rot);
    }
    let count = usize::from(file[5]);
    let stride = (count * SECTOR).next_multiple_of(4096);
    if count == 0 || file.len() < stride + count * SECTOR {
        return Err(Rot);
    }
    let slots =
        [decode_slot(disk, &file[..count * SECTOR])?, decode_slot(disk, &file[stride..][..count * SECTOR])?];
    // Mutant: the other one.
    let worth =
        |set: &IntentSet| if mutant::active("older-slot-counts") { !set.sequence } else { set.sequence };
    slots.into_iter().flatten().max_by_key(worth).ok_or(Rot)
}

/// The version in a slot; none if it was torn.
fn decode_slot(disk: DiskId, slot: &[u8]) -> Result<Option<IntentSet>, Rot> {
    let mut set = IntentSet::default();
    let mut torn = false;
    for (index, sector) in slot.chunks_exact(SECTOR).enumerate() {
        let regions = usize::from(u16_at(sector, 6));
        let sound = u32_at(sector, 0) == MAGIC
            && usize::from(sector[4]) == index
            && usize::from(sector[5]) == slot.len() / SECTOR
            && regions <= SECTOR_REGIONS
            && sum(disk, sector) == u64_at(sector, 56);
        if !sound {
            return Err(Rot);
        }
        let mark =
            |at| LogMark { generation: Generation(u64_at(sector, at)), length: u64_at(sector, at + 8) };
        if index == 0 {
            set.sequence = u64_at(sector, 8);
            set.session = Session(u64_at(sector, 16));
            set.logs = [mark(24), mark(40)];
        }
        torn |= u64_at(sector, 8) != set.sequence;
        set.regions.extend((0..regions).map(|region| u32_at(sector, HEADER + region * 4)));
    }
    Ok((!torn).then_some(set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: DiskId = DiskId([3; 16]);

    fn set(sequence: u64, regions: Vec<u32>) -> IntentSet {
        let log = LogMark { generation: Generation(5), length: 77 };
        IntentSet { sequence, session: Session(2), logs: [log, LogMark::default()], regions }
    }

    fn file(capacity: usize, sets: &[IntentSet]) -> Vec<u8> {
        let mut file = vec![0; slot_stride(capacity) + slot_size(capacity)];
        for set in sets {
            let at = set.slot() * slot_stride(capacity);
            file[at..at + slot_size(capacity)].copy_from_slice(&set.encode(DISK, capacity));
        }
        file
    }

    proptest! {
        /// F4: power loss in a slot's write leaves any mix of old and new sectors: the other slot counts, or the new one
        /// if all its sectors landed.
        #[test]
        fn a_torn_slot_leaves_the_other(landed in proptest::collection::vec(any::<bool>(), 10)) {
            let old = [set(6, (0..900).collect()), set(7, (100..1000).collect())];
            let new = set(8, (200..1024).collect());
            let mut bytes = file(1024, &old);
            let encoded = new.encode(DISK, 1024);
            for (index, landed) in landed.iter().enumerate().filter(|(_, landed)| **landed) {
                prop_assert!(*landed);
                bytes[index * SECTOR..][..SECTOR].copy_from_slice(&encoded[index * SECTOR..][..SECTOR]);
            }
            let expected = if landed.iter().all(|landed| *landed) { &new } else { &old[1] };
            prop_assert_eq!(&newest(DISK, &bytes).unwrap(), expected);
        }

        /// F5: a flipped bit is rot, wherever it is; another disk's file is too.
        #[test]
        fn a_flipped_bit_is_rot(at in 0usize..5120, bit in 0u8..8, second in any::<bool>()) {
            let mut bytes = file(1024, &[set(6, (0..900).collect()), set(7, (100..1000).collect())]);
            prop_assert!(newest(DiskId([4; 16]), &bytes).is_err());
            bytes[at + if second { slot_stride(1024) } else { 0 }] ^= 1 << bit;
            prop_assert_eq!(newest(DISK, &bytes), Err(Rot));
        }

        /// F49: bytes from nowhere never panic.
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let _ = newest(DISK, &bytes);
        }
    }
}
