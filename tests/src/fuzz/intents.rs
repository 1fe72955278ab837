//! The intents file. Made by us and torn by power loss: the version that must count, counts. Made up, with right
//! checksums: refused, or a set that is written again and read as the same.

use super::Input;
use towline_tracker::format::checksum::checksum;
use towline_tracker::format::intents::{
    IntentSet, LogMark, REGIONS_MAX, SECTOR, SECTOR_REGIONS, newest, slot_size, slot_stride,
};
use towline_tracker::id::{DiskId, Generation, Session};

const DISK: DiskId = DiskId([3; 16]);

/// Reads a made-up file.
pub fn run(data: &[u8]) {
    let _ = newest(DISK, data);
    let mut input = Input::new(data);
    if input.bool() { torn(&mut input) } else { made_up(&mut input) }
}

fn torn(input: &mut Input<'_>) {
    let capacity = 1 + usize::from(input.u16()) % (4 * SECTOR_REGIONS);
    let sequence = input.number().min(u64::MAX - 2);
    let [older, old, new] = [0, 1, 2].map(|age| set(input, sequence + age, capacity));
    let mut file = vec![0; slot_stride(capacity) + slot_size(capacity)];
    for set in [&older, &old] {
        let at = set.slot() * slot_stride(capacity);
        file[at..at + slot_size(capacity)].copy_from_slice(&set.encode(DISK, capacity));
    }
    assert_eq!(newest(DISK, &file).as_ref(), Ok(&old));
    let (landed, count) = (input.u8(), slot_size(capacity) / SECTOR);
    let at = new.slot() * slot_stride(capacity);
    for (index, sector) in new.encode(DISK, capacity).chunks(SECTOR).enumerate() {
        if landed >> index & 1 == 1 {
            file[at + index * SECTOR..][..SECTOR].copy_from_slice(sector);
        }
    }
    let whole = (0..count).all(|index| landed >> index & 1 == 1);
    assert_eq!(newest(DISK, &file).as_ref(), Ok(if whole { &new } else { &old }));
    // One bit more: rot, unless it is between the slots.
    let (at, bit) = (usize::from(input.u16()) % file.len(), input.u8() % 8);
    file[at] ^= 1 << bit;
    let inside = at < slot_size(capacity) || at >= slot_stride(capacity);
    assert_eq!(newest(DISK, &file).is_err(), inside, "byte {at}");
}

fn set(input: &mut Input<'_>, sequence: u64, capacity: usize) -> IntentSet {
    let mut mark = || LogMark { generation: Generation(input.number()), length: input.number() };
    let logs = [mark(), mark()];
    let (first, count) = (u32::from(input.u16()), usize::from(input.u16()) % (capacity + 1));
    let regions = (first..).step_by(1 + usize::from(input.u8())).take(count).collect();
    IntentSet { sequence, session: Session(input.number()), logs, regions }
}

/// Sectors of any content that check.
fn made_up(input: &mut Input<'_>) {
    let count = 1 + usize::from(input.u8()) % 4;
    let stride = (count * SECTOR).next_multiple_of(4096);
    let mut file = vec![0; stride + count * SECTOR];
    for (slot, index) in (0..2).flat_map(|slot| (0..count).map(move |index| (slot, index))) {
        let sector = &mut file[slot * stride + index * SECTOR..][..SECTOR];
        let set = IntentSet { sequence: input.number(), ..Default::default() };
        sector.copy_from_slice(&set.encode(DISK, 1));
        (sector[4], sector[5]) = (index as u8, count as u8);
        sector[6] = input.u8();
        input.patch(sector);
        let sum = checksum(checksum(checksum(0, &DISK.0), &sector[..56]), &sector[64..]);
        sector[56..64].copy_from_slice(&sum.to_le_bytes());
    }
    if let Ok(set) = newest(DISK, &file) {
        assert!(set.regions.len() <= (count * SECTOR_REGIONS).min(REGIONS_MAX));
        let capacity = count * SECTOR_REGIONS;
        let slot = set.encode(DISK, capacity);
        let mut again = vec![0; slot_stride(capacity)];
        again[..slot.len()].copy_from_slice(&slot);
        again.extend_from_slice(&slot);
        assert_eq!(newest(DISK, &again), Ok(set));
    }
}
