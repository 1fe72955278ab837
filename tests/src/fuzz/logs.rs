//! The change logs of a sidecar, all that a start finds there, against what its metas and intents say of them. Whatever is
//! there: either something is wrong with it, or every log that must be found is, as long as it was known to be, or a later
//! sealed one that has all of its blocks stands in for it.

use super::Input;
use crate::sim::fault::Faults;
use crate::sim::folder::SimFolder;
use crate::sim::rng::Rng;
use std::collections::BTreeMap;
use towline_tracker::format::changes::{Encoder, HEADER, Header, Seal};
use towline_tracker::format::meta::PendingLog;
use towline_tracker::id::{Cut, CutId, DiskId, Generation, Session};
use towline_tracker::sidecar::files::{log_name, read_logs};
use towline_tracker::sidecar::folder::{Folder, FolderFile};

const DISK: DiskId = DiskId([7; 16]);
const BLOCKS: u64 = 512;
const CUT: Cut = Cut { id: CutId([1; 16]), time_ns: 1 };

type Of = (Generation, Session);

fn of(input: &mut Input<'_>) -> Of {
    let byte = input.u8();
    (Generation(u64::from(byte % 8)), Session(u64::from(byte / 8 % 4)))
}

/// A log with the blocks that it has, and whether it is sealed.
fn log(input: &mut Input<'_>, header: &Header) -> (Vec<u8>, bool) {
    let (mut encoder, mut bytes) = (Encoder::new(header), header.encode().to_vec());
    let mut blocks = 0;
    for _ in 0..input.u8() % 4 {
        let (word, evicted) = (u64::from(input.u8() % 8), input.bool());
        let bits = input.u64();
        encoder.blocks(evicted, word * 64..(word + 1) * 64, |_| bits, &mut bytes);
        blocks += if evicted { 0 } else { u64::from(bits.count_ones()) };
    }
    let sealed = input.bool();
    if sealed {
        let (first, last) = (Generation(u64::from(input.u8() % 8)), header.generation);
        let (size, compare, whole) = (header.size, false, false);
        encoder.seal(
            &Seal { cut: CUT.id, first, last, size, time_ns: CUT.time_ns, blocks, compare, whole },
            &mut bytes,
        );
    }
    (bytes, sealed)
}

/// Reads made-up logs.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let folder = SimFolder::new(Faults::new(Rng::new(0)));
    // Those that are whole: their length, and whether they are sealed.
    let mut good = BTreeMap::<Of, (u64, bool)>::new();
    for _ in 0..input.u8() % 6 {
        let (name, other) = (of(&mut input), input.u8());
        // Most are what their names say.
        let (generation, session) = if other == 255 { of(&mut input) } else { name };
        let disk = if other == 254 { DiskId([8; 16]) } else { DISK };
        let header = Header { disk, session, generation, block_shift: 12, size: BLOCKS << 12 };
        let (mut bytes, sealed) = log(&mut input, &header);
        let whole = bytes.len();
        match input.u8() {
            255 => bytes.truncate(usize::from(input.u16()) % (whole + 1)),
            254 => input.patch(&mut bytes),
            253 => bytes.clear(),
            _ => {}
        }
        let file = folder.create(&log_name(name.0, name.1)).expect("no fault");
        file.write_at(&bytes, 0).expect("no fault");
        let (fresh, _) = log(&mut Input::new(&[]), &header);
        let is_good = bytes.len() == whole
            && bytes.starts_with(&fresh[..HEADER])
            && (generation, session) == name
            && disk == DISK;
        match is_good {
            true => drop(good.insert(name, (whole as u64, sealed))),
            false => drop(good.remove(&name)),
        }
    }
    let released = Generation(u64::from(input.u8() % 8));
    let known: Vec<PendingLog> = (0..input.u8() % 6)
        .map(|_| {
            let (generation, session) = of(&mut input);
            let length = u64::from(input.u16() % 512);
            PendingLog { generation, session, length, cut: input.bool().then_some(CUT) }
        })
        .collect();

    let mut end = 0;
    let read = read_logs(&folder, DISK, released, &known, |blocks| end = end.max(blocks.end));
    let logs = read.expect("the folder can be read");
    assert!(end <= BLOCKS || good.is_empty(), "block {end}");
    assert!(logs.pending.iter().all(|log| log.generation > released && log.length > HEADER as u64));
    assert!(logs.seals.is_sorted_by_key(|seal| seal.last));
    if logs.bad.is_some() {
        return;
    }
    for log in known.iter().filter(|log| log.generation > released && log.length > HEADER as u64) {
        let this = (log.generation, log.session);
        let later = |other: &Of| *other > this;
        let known_later =
            known.iter().any(|other| other.cut.is_some() && later(&(other.generation, other.session)));
        let found_later = logs.seals.iter().any(|seal| seal.last >= log.generation);
        let found = folder.peek(&log_name(this.0, this.1)).is_some();
        assert!(found || known_later || found_later, "{this:?} is missed by nobody");
        if let Some((length, sealed)) = good.get(&this) {
            assert!(*sealed || *length >= log.length || known_later || found_later, "{this:?} is short");
        }
    }
}
