//! The change log. Made by us: read back, and after a cut or a flipped bit what is still read is a beginning of it. Made
//! up, with right checksums: refused, or records inside the disk that are written again and read as the same.

use super::{Input, told};
use std::io::{self, Read};
use std::ops::Range;
use towline_tracker::format::changes::{
    BadLog, Contents, Encoder, HEADER, Header, RECORD_MAGIC, Record, SEAL, SEALED_END, Seal, frozen, read,
    sealed,
};
use towline_tracker::format::checksum::checksum;
use towline_tracker::id::{CutId, DiskId, Generation, Session};
use towline_tracker::limits::DISK_MAX;
use towline_tracker::map::bits;

const CUT: CutId = CutId([1; 16]);

/// Reads a made-up log.
pub fn run(data: &[u8]) {
    let _ = (told(read(data, |_| ())), told(frozen(data, CUT)));
    let mut input = Input::new(data);
    match input.u8() % 3 {
        0 => ours(&mut input),
        1 => made_up(&mut input),
        _ => made_up_header(&mut input),
    }
}

fn header(block_shift: u8) -> Header {
    let (session, generation) = (Session(3), Generation(9));
    Header { disk: DiskId([7; 16]), session, generation, block_shift, size: DISK_MAX }
}

fn records(log: &[u8]) -> Option<(Contents, Vec<Record>)> {
    let mut records = Vec::new();
    let contents = read(log, |record| records.push(record)).ok()?;
    Some((contents, records))
}

/// Extents of records of one kind, joined where they touch.
fn extents(records: &[Record], sealed: bool) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = Vec::new();
    for record in records {
        let (Record::Evicted(ranges) | Record::Sealed(ranges)) = record else { continue };
        for range in ranges.iter().filter(|_| matches!(record, Record::Sealed(_)) == sealed) {
            match all.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => all.push(range.clone()),
            }
        }
    }
    all
}

fn ours(input: &mut Input<'_>) {
    const REGION: u64 = 256;
    let blocks = 1 + u64::from(input.u16()) % (9 * REGION);
    let mut maps = [(); 2].map(|()| vec![0u64; bits::words_for(blocks)]);
    for _ in 0..input.u8() % 12 {
        let map = &mut maps[usize::from(input.bool())];
        let first = u64::from(input.u16()) % blocks;
        for block in first..(first + u64::from(input.u8())).min(blocks) {
            map[(block / 64) as usize] |= 1 << (block % 64);
        }
    }
    let header = header(12);
    let (mut encoder, mut log) = (Encoder::new(&header), header.encode().to_vec());
    for (map, evicted) in maps.iter().zip([true, false]) {
        for region in (0..blocks).step_by(REGION as usize) {
            encoder.blocks(evicted, region..(region + REGION).min(blocks), |word| map[word], &mut log);
        }
    }
    let set = maps.each_ref().map(|map| bits::runs(0..blocks, |word| map[word]).collect::<Vec<_>>());
    let seal = Seal {
        cut: CUT,
        first: Generation(input.number()),
        last: Generation(input.number()),
        size: input.number(),
        time_ns: input.number(),
        blocks: set[1].iter().map(|run| run.end - run.start).sum(),
        compare: input.bool(),
        whole: input.bool(),
    };
    encoder.seal(&seal, &mut log);

    let (contents, all) = records(&log).expect("our own");
    assert_eq!((contents.header, contents.seal, contents.length), (header, Some(seal), log.len() as u64));
    assert_eq!(contents.records, encoder.records());
    assert_eq!([extents(&all, false), extents(&all, true)], set);
    assert_eq!(frozen(&log[..], CUT).expect("our own"), (contents, set[1].clone()));

    let at = usize::from(input.u16()) % log.len();
    // An error of the file system is no end of the file.
    let failed = read(log[..at].chain(Failing), |_| ());
    assert!(matches!(failed, Err(BadLog::Io(_))), "an error at byte {at}");
    assert!(told(failed).is_none() && told(frozen(&log[..], CutId([2; 16]))).is_none());
    if input.bool() {
        log.truncate(at);
    } else {
        log[at] ^= 1 << (input.u8() % 8);
    }
    if let Some((contents, some)) = records(&log) {
        assert!(contents.length as usize <= at, "damage at byte {at}");
        assert_eq!(some, all[..some.len()]);
    }
}

/// A file that can't be read on.
struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Other.into())
    }
}

fn made_up_header(input: &mut Input<'_>) {
    let mut bytes = header(12).encode();
    input.patch(&mut bytes[..HEADER - 8]);
    let sum = checksum(0, &bytes[..HEADER - 8]);
    bytes[HEADER - 8..].copy_from_slice(&sum.to_le_bytes());
    if let Some(header) = told(Header::decode(&bytes)) {
        assert_eq!(header.encode(), bytes);
    }
}

/// Records of any content that check.
fn made_up(input: &mut Input<'_>) {
    let header = header(12 + input.u8() % 9);
    let mut log = header.encode().to_vec();
    let seed = checksum(0, &log);
    for number in 0..32u32 {
        if input.is_empty() {
            break;
        }
        let (kind, form) = (input.u8() % 5, input.u8() % 3);
        let reserved = if input.u8() == 255 { input.u16() } else { 0 };
        let (first, count) = (input.number(), input.number());
        let length = match (kind, form) {
            (3, _) => SEAL,
            (_, 1) if count <= 1 << 12 => (count / 8) as usize,
            _ => 0,
        } + if input.u8() == 255 { 1 } else { 0 };
        let mut payload = input.take(length).to_vec();
        payload.resize(length, 0);
        let mut head = RECORD_MAGIC.to_le_bytes().to_vec();
        head.extend([kind, form]);
        head.extend_from_slice(&reserved.to_le_bytes());
        head.extend_from_slice(&first.to_le_bytes());
        head.extend_from_slice(&count.to_le_bytes());
        head.extend_from_slice(&(length as u32).to_le_bytes());
        head.extend_from_slice(&number.to_le_bytes());
        let sum = checksum(checksum(seed, &head), &payload);
        log.extend_from_slice(&head);
        log.extend_from_slice(&sum.to_le_bytes());
        log.extend_from_slice(&payload);
    }
    // Damage is refused; nothing was said of it that is not inside the disk.
    let mut all = Vec::new();
    let contents = read(&log[..], |record| all.push(record));
    let blocks = (DISK_MAX >> header.block_shift).next_multiple_of(64);
    for record in &all {
        let (Record::Evicted(ranges) | Record::Sealed(ranges)) = record else { continue };
        assert!(ranges.iter().all(|range| range.start < range.end && range.end <= blocks), "{ranges:?}");
        assert!(ranges.is_sorted_by(|a, b| a.end < b.start), "{ranges:?}");
        again(&header, ranges);
    }
    let Ok(contents) = contents else { return };
    assert!(contents.length as usize <= log.len() && contents.records as usize == all.len());
    let Some(seal) = contents.seal else {
        assert!(frozen(&log[..], CUT).is_err());
        return;
    };
    let last = log[..contents.length as usize].last_chunk::<SEALED_END>().expect("it has a seal");
    assert_eq!(sealed(&header.encode(), last).expect("the header is ours"), (header, Some(seal)));
    if let Ok((_, frozen)) = frozen(&log[..], seal.cut) {
        assert_eq!(frozen, extents(&all, true));
        assert!(frozen.is_sorted_by(|a, b| a.end < b.start));
        assert_eq!(frozen.iter().map(|run| run.end - run.start).sum::<u64>(), seal.blocks);
    }
}

/// What was read of a record is written and read as the same.
fn again(header: &Header, ranges: &[Range<u64>]) {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return };
    let base = first.start / 64 * 64;
    if last.end - base > 1 << 14 {
        return;
    }
    let mut map = vec![0u64; ((last.end - base) / 64 + 1) as usize];
    for block in ranges.iter().cloned().flatten() {
        map[((block - base) / 64) as usize] |= 1 << (block % 64);
    }
    let (mut encoder, mut log) = (Encoder::new(header), header.encode().to_vec());
    encoder.blocks(true, base..last.end, |word| map[word - (base / 64) as usize], &mut log);
    let (_, all) = records(&log).expect("our own");
    assert_eq!(all, [Record::Evicted(ranges.to_vec())]);
}
