//! The change log: which blocks changed in a generation, without their data.
//!
//! One format serves two purposes (DESIGN 3.2). While the generation is open, *evicted* records are appended for
//! regions that leave the intents; at the end of the generation the whole frozen map is appended as *sealed*
//! records, and a *seal* closes the file. Recovery unions every record of every unreleased log, sealed or not; a
//! reader of a freeze uses only the sealed records, for an evicted one may hold blocks that this freeze doesn't
//! preserve.

use super::bytes::{Writer, array, u16_at, u32_at, u64_at};
use super::checksum::checksum;
use crate::id::{Cut, CutId, DiskId, Generation, Session};
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"TWLCHG\x1a\n";
/// 1: first version. A newer one is refused, which means resynchronization.
pub const VERSION: u16 = 1;
/// Bytes of the file's header.
pub const HEADER: usize = 128;
/// Bytes of a record's header.
pub const RECORD: usize = 40;
/// Bytes of the payload of a seal.
pub const SEAL: usize = 96;
/// Bytes of the record that ends a sealed log.
pub const SEALED_END: usize = RECORD + SEAL;
/// First bytes of a record.
pub const RECORD_MAGIC: u32 = 0x9c52_4c54;
/// The most payload of a record: the bits of 2^20 blocks.
pub const PAYLOAD_MAX: usize = 128 << 10;

const _: () = assert!(SEAL <= PAYLOAD_MAX);

/// The header of a change log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The disk.
    pub disk: DiskId,
    /// The session that made the file.
    pub session: Session,
    /// The generation.
    pub generation: Generation,
    /// log2 of the block size.
    pub block_shift: u8,
    /// The disk's size in bytes when the file was made.
    pub size: u64,
}

impl Header {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut writer = Writer::default();
        writer.put(&MAGIC).u16(VERSION).u8(self.block_shift).pad(16);
        writer.put(&self.disk.0).u64(self.session.0).u64(self.generation.0).u64(self.size).pad(HEADER - 8);
        let sum = checksum(0, &writer.0);
        writer.u64(sum);
        array(&writer.0, 0)
    }

    /// The header in `bytes`.
    ///
    /// # Errors
    /// Another kind of file, a newer version, or damage.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, BadLog> {
        if bytes[..8] != MAGIC {
            return Err(BadLog::Header("it is no change log"));
        }
        if checksum(0, &bytes[..HEADER - 8]) != u64_at(bytes, HEADER - 8) {
            return Err(BadLog::Header("its checksum is wrong"));
        }
        if u16_at(bytes, 8) != VERSION {
            return Err(BadLog::Header("its version is not known to this program"));
        }
        let block_shift = bytes[10];
        let reserved = bytes[11..16].iter().chain(&bytes[56..HEADER - 8]).all(|byte| *byte == 0);
        if !reserved
            || !(crate::limits::BLOCK_SHIFT_MIN..=crate::limits::BLOCK_SHIFT_MAX).contains(&block_shift)
        {
            return Err(BadLog::Header("a field has no known meaning"));
        }
        Ok(Self {
            disk: DiskId(array(bytes, 16)),
            session: Session(u64_at(bytes, 32)),
            generation: Generation(u64_at(bytes, 40)),
            block_shift,
            size: u64_at(bytes, 48),
        })
    }

    /// The seed of the records' checksums: a record of another file never checks.
    fn seed(&self) -> u64 {
        checksum(0, &self.encode())
    }
}

/// What closes a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The cut that ended the generation.
    pub cut: CutId,
    /// The oldest generation whose changes the frozen map holds.
    pub first: Generation,
    /// The generation.
    pub last: Generation,
    /// The disk's size in bytes at the cut.
    pub size: u64,
    /// The instant of the cut, nanoseconds since 1970.
    pub time_ns: u64,
    /// Frozen blocks.
    pub blocks: u64,
    /// They must be compared with the vault before they are shipped.
    pub compare: bool,
    /// Every block of the disk is frozen.
    pub whole: bool,
}

impl Seal {
    /// The cut.
    pub fn identity(&self) -> Cut {
        Cut { id: self.cut, time_ns: self.time_ns }
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Blocks of a region that left the intents.
    Evicted(Vec<Range<u64>>),
    /// Blocks of the frozen map.
    Sealed(Vec<Range<u64>>),
    /// The end.
    Seal(Seal),
}

const KIND_EVICTED: u8 = 1;
const KIND_SEALED: u8 = 2;
const KIND_SEAL: u8 = 3;
const FORM_RUN: u8 = 0;
const FORM_BITS: u8 = 1;

/// Builds the bytes of a log, record by record.
#[derive(Clone, Debug)]
pub struct Encoder {
    seed: u64,
    next: u32,
}

impl Encoder {
    /// Records for the file of this header, from its first record on.
    pub fn new(header: &Header) -> Self {
        Self { seed: header.seed(), next: 0 }
    }

    /// The number of the next record.
    pub fn records(&self) -> u32 {
        self.next
    }

    /// Appends the set bits of `range` in what `load` gives for a word: nothing, one run, or a map of bits.
    /// `evicted` or sealed. `range` must begin at a multiple of 64 and hold at most 2^20 blocks.
    pub fn blocks(
        &mut self,
        evicted: bool,
        range: Range<u64>,
        load: impl Fn(usize) -> u64,
        out: &mut Vec<u8>,
    ) {
        assert!(range.start.is_multiple_of(64) && range.end - range.start <= (PAYLOAD_MAX * 8) as u64);
        let kind = if evicted { KIND_EVICTED } else { KIND_SEALED };
        let mut runs = crate::map::bits::runs(range.clone(), &load);
        let Some(first) = runs.next() else { return };
        let Some(second) = runs.next() else {
            return self.record(kind, FORM_RUN, first, &[], out);
        };
        // From the first word with a set bit to the last: a map costs 8 bytes a word, a run 40 bytes.
        let last = runs.last().unwrap_or(second);
        let words = first.start / 64..last.end.div_ceil(64);
        let mut bits = Vec::with_capacity((words.end - words.start) as usize * 8);
        for word in words.clone() {
            let mut value = load(word as usize);
            if word == range.end / 64 {
                value &= (1 << (range.end % 64)) - 1;
            }
            bits.extend_from_slice(&value.to_le_bytes());
        }
        self.record(kind, FORM_BITS, words.start * 64..words.end * 64, &bits, out);
    }

    /// Appends the seal.
    pub fn seal(&mut self, seal: &Seal, out: &mut Vec<u8>) {
        let mut writer = Writer::default();
        writer.put(&seal.cut.0).u64(seal.first.0).u64(seal.last.0).u64(seal.size).u64(seal.time_ns);
        writer.u64(seal.blocks).u64(u64::from(seal.compare) | u64::from(seal.whole) << 1).pad(SEAL);
        self.record(KIND_SEAL, FORM_RUN, 0..0, &writer.0, out);
    }

    fn record(&mut self, kind: u8, form: u8, range: Range<u64>, payload: &[u8], out: &mut Vec<u8>) {
        assert!(payload.len() <= PAYLOAD_MAX);
        let mut writer = Writer::default();
        writer.u32(RECORD_MAGIC).u8(kind).u8(form).u16(0).u64(range.start).u64(range.end - range.start);
        writer.u32(payload.len() as u32).u32(self.next);
        let start = out.len();
        out.extend_from_slice(&writer.0);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(payload);
        let sum = record_sum(self.seed, &out[start..start + 32], payload);
        out[start + 32..start + 40].copy_from_slice(&sum.to_le_bytes());
        self.next += 1;
    }
}

fn record_sum(seed: u64, head: &[u8], payload: &[u8]) -> u64 {
    checksum(checksum(seed, head), payload)
}

/// Why a log can't be used.
#[derive(Debug)]
pub enum BadLog {
    /// Its header.
    Header(&'static str),
    /// It ends, or its first bad record begins, before what is known to be durable.
    Damaged {
        /// Where the first bad record begins.
        at: u64,
    },
    /// It can't be read.
    Io(io::Error),
}

impl fmt::Display for BadLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(what) => write!(f, "the change log's header is bad: {what}"),
            Self::Damaged { at } => write!(f, "the change log is damaged at byte {at}"),
            Self::Io(_) => f.write_str("the change log can't be read"),
        }
    }
}

impl std::error::Error for BadLog {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// What a log held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Its header.
    pub header: Header,
    /// Its seal, if it has one.
    pub seal: Option<Seal>,
    /// Bytes up to the end of the last good record.
    pub length: u64,
    /// Good records.
    pub records: u32,
}

/// Reads a log to its end and gives each record to `each`. Stops at the seal or at the first record that is not
/// whole: a torn tail. Memory: one record.
///
/// # Errors
/// A bad header, or a seal of something else. Whether a torn tail is acceptable is the caller's to say, by
/// [`Contents::length`] and [`Contents::seal`].
pub fn read(mut input: impl Read, mut each: impl FnMut(Record)) -> Result<Contents, BadLog> {
    let mut head = [0; HEADER];
    if !fill(&mut input, &mut head)? {
        return Err(BadLog::Header("it is shorter than a header"));
    }
    let header = Header::decode(&head)?;
    let seed = header.seed();
    let blocks_max = crate::limits::DISK_MAX >> header.block_shift;
    let mut contents = Contents { header, seal: None, length: HEADER as u64, records: 0 };
    let mut payload = Vec::new();
    loop {
        let mut head = [0; RECORD];
        if !fill(&mut input, &mut head)? {
            return Ok(contents);
        }
        let length = u32_at(&head, 24) as usize;
        let sound = u32_at(&head, 0) == RECORD_MAGIC && u32_at(&head, 28) == contents.records;
        if !sound || length > PAYLOAD_MAX {
            return Ok(contents);
        }
        payload.resize(length, 0);
        if !fill(&mut input, &mut payload)? || record_sum(seed, &head[..32], &payload) != u64_at(&head, 32) {
            return Ok(contents);
        }
        let Some(record) = decode_record(&head, &payload, blocks_max) else {
            // The checksum is right and the meaning is not: not a torn tail but a writer that we don't know.
            return Err(BadLog::Damaged { at: contents.length });
        };
        contents.length += (RECORD + length) as u64;
        contents.records += 1;
        if let Record::Seal(seal) = &record {
            contents.seal = Some(*seal);
        }
        each(record);
        if contents.seal.is_some() {
            return Ok(contents);
        }
    }
}

/// The header of a log and the seal that ends it, from the file's first [`HEADER`] and its last [`SEALED_END`] bytes: what
/// identifies a sealed log of any size. That its records are whole is for [`read`] to say.
///
/// # Errors
/// A bad header.
pub fn sealed(first: &[u8; HEADER], last: &[u8; SEALED_END]) -> Result<(Header, Option<Seal>), BadLog> {
    let header = Header::decode(first)?;
    let (head, payload) = last.split_at(RECORD);
    let good = u32_at(head, 0) == RECORD_MAGIC
        && head[4] == KIND_SEAL
        && u32_at(head, 24) as usize == SEAL
        && record_sum(header.seed(), &head[..32], payload) == u64_at(head, 32);
    Ok((header, if good { decode_seal(payload) } else { None }))
}

/// Fills `buffer`; false at the end of the input.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<bool, BadLog> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(BadLog::Io(error)),
    }
}

fn decode_record(head: &[u8; RECORD], payload: &[u8], blocks_max: u64) -> Option<Record> {
    let (kind, form) = (head[4], head[5]);
    let (first, count) = (u64_at(head, 8), u64_at(head, 16));
    if u16_at(head, 6) != 0 || first.checked_add(count)? > blocks_max.next_multiple_of(64) {
        return None;
    }
    if kind == KIND_SEAL {
        return decode_seal(payload).map(Record::Seal);
    }
    let ranges = match form {
        FORM_RUN if payload.is_empty() && count > 0 => vec![first..first + count],
        FORM_BITS if first % 64 == 0 && count % 64 == 0 && payload.len() as u64 == count / 8 => {
            let word = |index: usize| u64_at(payload, index * 8);
            crate::map::bits::runs(0..count, word).map(|run| first + run.start..first + run.end).collect()
        }
        _ => return None,
    };
    match kind {
        KIND_EVICTED => Some(Record::Evicted(ranges)),
        KIND_SEALED => Some(Record::Sealed(ranges)),
        _ => None,
    }
}

fn decode_seal(payload: &[u8]) -> Option<Seal> {
    if payload.len() != SEAL || payload[64..].iter().any(|byte| *byte != 0) {
        return None;
    }
    let flags = u64_at(payload, 56);
    (flags < 4).then(|| Seal {
        cut: CutId(array(payload, 0)),
        first: Generation(u64_at(payload, 16)),
        last: Generation(u64_at(payload, 24)),
        size: u64_at(payload, 32),
        time_ns: u64_at(payload, 40),
        blocks: u64_at(payload, 48),
        compare: flags & 1 != 0,
        whole: flags & 2 != 0,
    })
}

/// The frozen extents of a sealed log, in block order, joined where they touch: what a reader of the freeze of
/// `cut` reads.
///
/// # Errors
/// A damaged log, one without a seal, or one of another cut.
pub fn frozen(input: impl Read, cut: CutId) -> Result<(Contents, Vec<Range<u64>>), BadLog> {
    let mut extents: Vec<Range<u64>> = Vec::new();
    let mut blocks = 0;
    let contents = read(input, |record| {
        if let Record::Sealed(ranges) = record {
            for range in ranges {
                blocks += range.end - range.start;
                match extents.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => extents.push(range),
                }
            }
        }
    })?;
    let ordered = extents.windows(2).all(|pair| pair[0].end < pair[1].start);
    match contents.seal {
        Some(seal) if seal.cut == cut && seal.blocks == blocks && ordered => Ok((contents, extents)),
        Some(seal) if seal.cut != cut => Err(BadLog::Header("it is sealed for another cut")),
        _ => Err(BadLog::Damaged { at: contents.length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{Words, bits};
    use proptest::prelude::*;
    use std::sync::atomic::Ordering;

    fn header() -> Header {
        Header {
            disk: DiskId([7; 16]),
            session: Session(3),
            generation: Generation(9),
            block_shift: 12,
            size: 1 << 30,
        }
    }

    fn seal(blocks: u64) -> Seal {
        Seal {
            cut: CutId([1; 16]),
            first: Generation(8),
            last: Generation(9),
            size: 1 << 30,
            time_ns: 5,
            blocks,
            compare: true,
            whole: false,
        }
    }

    fn sealed_log(words: &Words, blocks: u64) -> Vec<u8> {
        let mut encoder = Encoder::new(&header());
        let mut out = header().encode().to_vec();
        let load = |index: usize| words[index].load(Ordering::Relaxed);
        for region in (0..blocks).step_by(1024) {
            encoder.blocks(false, region..(region + 1024).min(blocks), load, &mut out);
        }
        encoder.seal(&seal(bits::count(words)), &mut out);
        out
    }

    proptest! {
        /// A map, sealed and read, gives its runs back.
        #[test]
        fn what_is_sealed_is_read(sets in proptest::collection::vec((0u64..9000, 1u64..300), 0..60)) {
            let blocks = 9500;
            let words = Words::private(bits::words_for(blocks));
            for (start, length) in sets {
                bits::set(&words, start..start + length);
            }
            let log = sealed_log(&words, blocks);
            let (contents, extents) = frozen(&log[..], CutId([1; 16])).unwrap();
            let load = |index: usize| words[index].load(Ordering::Relaxed);
            prop_assert_eq!(extents, bits::runs(0..blocks, load).collect::<Vec<_>>());
            prop_assert_eq!(contents.length, log.len() as u64);
        }

        /// A sealed log says by its two ends what it is, and one that is cut off or changed there says that it is not.
        #[test]
        fn a_sealed_log_is_known_by_its_ends(at in 0..HEADER + SEALED_END, bit in 0u8..8) {
            let words = Words::private(bits::words_for(4096));
            bits::set(&words, 5..77);
            let log = sealed_log(&words, 4096);
            let ends = |log: &[u8]| {
                let (first, last) = (log.first_chunk().unwrap(), log.last_chunk().unwrap());
                sealed(first, last).ok().and_then(|(header, seal)| Some((header, seal?)))
            };
            prop_assert_eq!(ends(&log), Some((header(), seal(72))));
            prop_assert_eq!(ends(&log[..log.len() - 1]), None);
            let mut bad = log.clone();
            let place = if at < HEADER { at } else { log.len() - HEADER - SEALED_END + at };
            bad[place] ^= 1 << bit;
            prop_assert_eq!(ends(&bad), None);
        }

        /// F5: any flipped bit and any cut is found: the log is refused as a freeze's, and what is still read is true.
        #[test]
        fn damage_is_found(at in 0usize..4000, bit in 0u8..8, cut in any::<bool>()) {
            let words = Words::private(bits::words_for(4096));
            for block in (0..4090).step_by(7) {
                bits::set(&words, block..block + 3);
            }
            let mut log = sealed_log(&words, 4096);
            let at = at % log.len();
            if cut { log.truncate(at) } else { log[at] ^= 1 << bit }
            prop_assert!(frozen(&log[..], CutId([1; 16])).is_err());
            let _ = read(&log[..], |record| if let Record::Sealed(ranges) = record {
                for block in ranges.into_iter().flatten() {
                    assert!(bits::get(&words, block), "block {block} was never set");
                }
            });
        }

        /// F49: bytes from nowhere never panic.
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..if cfg!(miri) { 200 } else { 2000 })) {
            let mut log = header().encode().to_vec();
            log.extend_from_slice(&bytes);
            let _ = read(&log[..], |_| ());
            let _ = read(&bytes[..], |_| ());
        }
    }

    /// F4: a torn tail.
    #[test]
    fn torn_tail_is_cut_and_the_rest_survives() {
        let mut encoder = Encoder::new(&header());
        let mut log = header().encode().to_vec();
        encoder.blocks(true, 0..1024, |_| 0b1011, &mut log);
        let whole = log.len();
        encoder.blocks(true, 1024..2048, |_| 0b1011, &mut log);
        log.truncate(log.len() - 1);
        let mut records = Vec::new();
        let contents = read(&log[..], |record| records.push(record)).unwrap();
        assert_eq!((contents.length, contents.records, records.len()), (whole as u64, 1, 1));
        assert_eq!(contents.seal, None);
    }
}
