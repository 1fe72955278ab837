//! The group's header on tmpfs: what survives the death of the process and vanishes with the page cache (S1).
//!
//! **One word** says which generation is open and how far the freeze of the one before has come; everything else
//! derives from it (C1). A successor repeats what the word does not say is done. All other words are written before
//! the word that makes them count, or stand alone.
//!
//! | word | content |
//! |---|---|
//! | 0 | magic; written last when the file is made, zero again when it is void |
//! | 1 | format version |
//! | 2, 3 | boot id |
//! | 4 | session that stamped the maps last, in force or not |
//! | 5 | **the state word**: open generation << 8, fuzzy << 7, road |
//! | 6 | heartbeat: nanoseconds since boot, suspend included |
//! | 7 | newest attach number |
//! | 8..16 | two freezes, by parity of their generation: cut id (2), time of the cut, first generation |
//! | 16 | disks |
//! | 17 | one bit a disk: a sync failed, and no guest's flush has begun since (W6) |
//! | 18 | one bit a disk: it is doubtful (W6), and its meta may not say so yet |
//! | 19 | one bit a freeze, by parity of its generation: nobody asked for the cut |
//! | 20..24 | hash of the last checkpoint or fuzzy entry that the live freeze's shipper told of |
//! | 24 | one bit a disk: a sync has been running for seconds (W6) |
//! | 64 + 64 d .. | disk d: id (2), size, failed extents (count; all ones: too many), 29 x (first block, count), starts (2) |
//!
//! **Starts.** The maps continue what a sidecar says if its meta names a start that they name too (S1): the one that it
//! named when they were last found good, or the one that stamped them then and was about to store the metas. A session's
//! number can't tell that: a start that fails behind the stamp leaves it to the next, which may have other maps (another
//! first disk, another user: another folder), and then these here would seem to be of that session. Each disk has its
//! pair, for a start may die with the metas of some disks stored.

use super::Words;
use crate::id::{AttachNumber, BootId, Cut, CutId, DiskId, Generation, Nanos, Session, StartId};
use crate::limits::DISKS_MAX;
use std::ops::Range;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

const MAGIC: u64 = 0x9d1a_4452_4844_4c54;
const VERSION: u64 = 1;
const DISK_WORDS: usize = 64;

/// Failed extents that fit (W5); more of them are "too many", which a successor answers with a resynchronization.
pub const FAILED_MAX: usize = 29;
const SHIPPED: usize = 20;
/// Where a disk's starts are among its words.
const STARTS: usize = 4 + 2 * FAILED_MAX;

const _: () = assert!(STARTS + 2 == DISK_WORDS);

/// How far a freeze has come. The order is the only road (C2); fuzzy is beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Road {
    /// No freeze.
    None = 0,
    /// Writes of the generation are in flight, or the disks are not yet synced behind them.
    Draining = 1,
    /// The disks are synced; the change log is being sealed.
    Synced = 2,
    /// The change log is durable: the shipper reads.
    Sealed = 3,
    /// The entry is published: the anchor is being stored, logs are being deleted.
    Releasing = 4,
    /// Forgotten: the frozen map is being folded into the open one (C4).
    Undoing = 5,
}

impl Road {
    /// The word used in status and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Draining => "draining",
            Self::Synced => "synced",
            Self::Sealed => "sealed",
            Self::Releasing => "releasing",
            Self::Undoing => "undoing",
        }
    }
}

/// The state word, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The open generation; the freeze, if there is one, is of the generation before.
    pub open: Generation,
    /// How far the freeze has come.
    pub road: Road,
    /// The freeze is not, or no longer, exact.
    pub fuzzy: bool,
}

impl State {
    fn encode(self) -> u64 {
        self.open.0 << 8 | u64::from(self.fuzzy) << 7 | self.road as u64
    }

    fn decode(word: u64) -> Option<Self> {
        let road = match word & 0x7f {
            0 => Road::None,
            1 => Road::Draining,
            2 => Road::Synced,
            3 => Road::Sealed,
            4 => Road::Releasing,
            5 => Road::Undoing,
            _ => return None,
        };
        Some(Self { open: Generation(word >> 8), road, fuzzy: word & 0x80 != 0 })
    }
}

/// What a cut writes down before it becomes true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutRecord {
    /// The cut's name.
    pub cut: CutId,
    /// The instant, nanoseconds since 1970.
    pub time_ns: u64,
    /// The oldest generation in the frozen map.
    pub first: Generation,
    /// Nobody asked for it: it is undone when its log is sealed, by a successor too.
    pub internal: bool,
}

impl CutRecord {
    /// The cut.
    pub fn identity(&self) -> Cut {
        Cut { id: self.cut, time_ns: self.time_ns }
    }
}

/// What is known of a disk's failed syncs (W6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedSyncs {
    /// No guest's flush has begun since one failed: perhaps nobody was told.
    pub latched: bool,
    /// One failed in this boot.
    pub doubtful: bool,
}

/// The header, over words in memory.
#[derive(Clone, Debug)]
pub struct GroupHeader(Words);

impl GroupHeader {
    /// Its size, for any number of disks: one that was made for other disks is still read (W6).
    pub const WORDS: usize = 64 + DISKS_MAX * DISK_WORDS;

    /// A header over [`Self::WORDS`] words, whatever they say.
    pub fn new(words: Words) -> Self {
        assert_eq!(words.len(), Self::WORDS, "a header has one size");
        Self(words)
    }

    /// Over new, zeroed words: void, last stamped by `session`, but of these disks, so that what is noted of their syncs
    /// counts (W6): from now on it is asked, so it begins with what is known already; of none, if there are fewer.
    pub fn create_void(
        words: Words,
        boot: BootId,
        session: Session,
        disks: &[(DiskId, u64)],
        known: &[FailedSyncs],
    ) -> Self {
        let header = Self::new(words);
        header.put(1, VERSION);
        header.put_pair(2, boot.words());
        header.put(4, session.0);
        for (index, (disk, size)) in disks.iter().enumerate() {
            header.put_pair(Self::disk(index), disk.words());
            header.set_size(index, *size);
        }
        for (index, FailedSyncs { latched, doubtful }) in known.iter().enumerate() {
            header.set_latched(index, *latched);
            if *doubtful {
                header.set_doubtful(index);
            }
        }
        // Last: before it there are no disks.
        header.put(16, disks.len() as u64);
        header
    }

    /// Fills a new header and makes it valid, the magic last.
    pub fn create(
        words: Words,
        boot: BootId,
        (session, start): (Session, StartId),
        open: Generation,
        disks: &[(DiskId, u64)],
        known: &[FailedSyncs],
    ) -> Self {
        let header = Self::create_void(words, boot, session, disks, known);
        header.settle(start);
        header.store(State { open, road: Road::None, fuzzy: false });
        header.0[0].store(MAGIC, Release);
        header
    }

    /// The session that it was stamped with last; 0 before the first.
    pub fn session(&self) -> Session {
        Session(self.get(4))
    }

    /// Whether it is valid, and was made in this boot for these disks, in this order (S1). Whether it continues what their
    /// sidecars say is for [`Self::knows`].
    pub fn fits(&self, boot: BootId, disks: &[(DiskId, u64)]) -> bool {
        self.0[0].load(Acquire) == MAGIC && self.is_of(boot, disks)
    }

    /// Whether this start of the disk's is one that the maps continue (S1).
    pub fn knows(&self, disk: usize, start: StartId) -> bool {
        start != StartId::default() && self.pair(Self::disk(disk) + STARTS).contains(&start.0)
    }

    /// What is known of the failed syncs of a disk whose meta names this start, and says that it is doubtful or not. What the
    /// header says counts if it was made in this boot and has the disk, whether it is void or not, of whatever size the disk
    /// was, and with whatever others. That the guest was told counts only if the header continues the meta: another start's
    /// knows of other errors.
    pub fn failed_syncs(
        &self,
        boot: BootId,
        disk: DiskId,
        (start, doubtful): (StartId, bool),
    ) -> FailedSyncs {
        let ours = self.get(1) == VERSION && BootId::from_words(self.pair(2)) == boot;
        let count = usize::try_from(self.get(16)).ok().filter(|count| ours && *count <= DISKS_MAX);
        let mut disks = 0..count.unwrap_or(0);
        let Some(index) = disks.find(|index| self.pair(Self::disk(*index)) == disk.words()) else {
            // What is known is that a sync had failed.
            return FailedSyncs { latched: doubtful, doubtful };
        };
        // Nobody heard how one ended that was still running when the process died. Most end well within seconds.
        let unheard = self.has_slow_sync(index);
        FailedSyncs {
            latched: self.latched(index) || unheard || doubtful && !self.knows(index, start),
            doubtful: self.doubtful(index) || unheard || doubtful,
        }
    }

    /// Whether it was made in this boot for these disks.
    pub fn is_of(&self, boot: BootId, disks: &[(DiskId, u64)]) -> bool {
        self.get(1) == VERSION
            && BootId::from_words(self.pair(2)) == boot
            && self.get(16) == disks.len() as u64
            && State::decode(self.get(5)).is_some()
            && disks.iter().enumerate().all(|(index, (disk, size))| {
                DiskId::from_words(self.pair(Self::disk(index))) == *disk
                    && self.get(Self::disk(index) + 2) == *size
            })
    }

    /// A successor is about to go on with these maps: stamped before the sidecar names its start (S1). Until then what
    /// each sidecar names now, `found`, counts as well: dying in between costs nothing.
    pub fn stamp(&self, session: Session, start: StartId, found: &[StartId]) {
        for (disk, found) in found.iter().enumerate() {
            let at = Self::disk(disk) + STARTS;
            let free = if self.get(at) == found.0 { at + 1 } else { at };
            self.put(free, start.0);
        }
        self.0[4].store(session.0, Release);
    }

    /// Every sidecar names this start now, durably: no other counts any more.
    pub fn settle(&self, start: StartId) {
        for disk in 0..self.get(16) as usize {
            self.put_pair(Self::disk(disk) + STARTS, [start.0; 2]);
        }
    }

    /// The maps are worth nothing from now on.
    pub fn void(&self) {
        self.0[0].store(0, Release);
    }

    /// The state word. `Acquire`: what was written before it is seen.
    pub fn state(&self) -> State {
        State::decode(self.0[5].load(Acquire)).expect("checked by `fits`, and written by us since")
    }

    /// Stores the state word (C1, C5). `Release`: what was written before it is seen by who sees it.
    pub fn store(&self, state: State) {
        self.0[5].store(state.encode(), Release);
    }

    /// Writes down a cut, before the word that makes it true.
    pub fn write_cut(&self, generation: Generation, record: CutRecord) {
        let at = Self::cut(generation);
        self.put_pair(at, record.cut.words());
        self.put(at + 2, record.time_ns);
        self.put(at + 3, record.first.0);
        let bit = generation.0 % 2;
        self.put(19, self.get(19) & !(1 << bit) | u64::from(record.internal) << bit);
    }

    /// The cut that ended `generation`, the one before the open one.
    pub fn read_cut(&self, generation: Generation) -> CutRecord {
        let at = Self::cut(generation);
        CutRecord {
            cut: CutId::from_words(self.pair(at)),
            time_ns: self.get(at + 2),
            first: Generation(self.get(at + 3)),
            internal: self.get(19) >> (generation.0 % 2) & 1 == 1,
        }
    }

    /// The last sign of life, by the clock that goes on in suspend.
    pub fn heartbeat(&self) -> Nanos {
        Nanos(self.get(6))
    }

    /// A sign of life.
    pub fn beat(&self, now: Nanos) {
        self.put(6, now.0);
    }

    /// The newest attach number.
    pub fn attach(&self) -> AttachNumber {
        AttachNumber(self.get(7))
    }

    /// Remembers an attach number.
    pub fn set_attach(&self, attach: AttachNumber) {
        self.put(7, attach.0);
    }

    /// The hash of the last entry of the freeze that a shipper told of (V10). It is of no other freeze: the hash has the cut.
    pub fn shipped(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        for (word, bytes) in hash.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&self.get(SHIPPED + word).to_le_bytes());
        }
        hash
    }

    /// Remembers it. Whoever dies in between leaves the hash of nothing.
    pub fn set_shipped(&self, entry: [u8; 32]) {
        for (word, bytes) in entry.chunks_exact(8).enumerate() {
            self.put(SHIPPED + word, u64::from_le_bytes(bytes.try_into().expect("8 bytes")));
        }
    }

    /// Whether a sync of the disk failed and no guest's flush has begun since (W6): perhaps nobody was told.
    pub fn latched(&self, disk: usize) -> bool {
        self.get(17) >> disk & 1 == 1
    }

    /// Remembers or forgets it.
    pub fn set_latched(&self, disk: usize, latched: bool) {
        self.put(17, self.get(17) & !(1 << disk) | u64::from(latched) << disk);
    }

    /// Whether a sync of the disk failed in this boot (W6).
    pub fn doubtful(&self, disk: usize) -> bool {
        self.get(18) >> disk & 1 == 1
    }

    /// Remembers it, until the meta does.
    pub fn set_doubtful(&self, disk: usize) {
        self.put(18, self.get(18) | 1 << disk);
    }

    /// Whether a sync of the disk has been running for seconds: should the process die, nobody hears how it ends.
    pub fn has_slow_sync(&self, disk: usize) -> bool {
        self.get(24) >> disk & 1 == 1
    }

    /// Remembers or forgets it.
    pub fn set_slow_sync(&self, disk: usize, slow: bool) {
        self.put(24, self.get(24) & !(1 << disk) | u64::from(slow) << disk);
    }

    /// The disk's size.
    pub fn set_size(&self, disk: usize, size: u64) {
        self.put(Self::disk(disk) + 2, size);
    }

    /// The blocks of failed writes (W5); none if there were too many to keep, or if they are no extents.
    pub fn failed(&self, disk: usize) -> Option<Vec<Range<u64>>> {
        let at = Self::disk(disk) + 3;
        let count = self.get(at) as usize;
        let extent = |index| {
            let [first, count] = self.pair(at + 1 + 2 * index);
            first.checked_add(count).filter(|_| count > 0).map(|end| first..end)
        };
        if count <= FAILED_MAX { (0..count).map(extent).collect() } else { None }
    }

    /// Remembers the blocks of failed writes.
    pub fn set_failed(&self, disk: usize, failed: &[Range<u64>]) {
        let at = Self::disk(disk) + 3;
        // Whoever looks in between sees "too many": more work, never less.
        self.0[at].store(u64::MAX, Release);
        if failed.len() <= FAILED_MAX {
            for (index, extent) in failed.iter().enumerate() {
                self.put_pair(at + 1 + 2 * index, [extent.start, extent.end - extent.start]);
            }
            self.0[at].store(failed.len() as u64, Release);
        }
    }

    fn cut(generation: Generation) -> usize {
        8 + 4 * (generation.0 % 2) as usize
    }

    fn disk(index: usize) -> usize {
        64 + index * DISK_WORDS
    }

    fn get(&self, at: usize) -> u64 {
        self.0[at].load(Relaxed)
    }

    fn put(&self, at: usize, value: u64) {
        self.0[at].store(value, Release);
    }

    fn pair(&self, at: usize) -> [u64; 2] {
        [self.get(at), self.get(at + 1)]
    }

    fn put_pair(&self, at: usize, pair: [u64; 2]) {
        self.put(at, pair[0]);
        self.put(at + 1, pair[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_fits_only_its_own_disks_and_boot() {
        let disks = [(DiskId([1; 16]), 4096), (DiskId([2; 16]), 8192)];
        let words = Words::private(GroupHeader::WORDS);
        let of = (Session(5), StartId(7));
        let header = GroupHeader::create(words, BootId([3; 16]), of, Generation(9), &disks, &[]);
        assert!(header.fits(BootId([3; 16]), &disks));
        assert!(!header.fits(BootId([4; 16]), &disks));
        assert!(!header.fits(BootId([3; 16]), &disks[..1]));
        header.set_failed(1, &[3..5]);
        assert_eq!(header.failed(1), Some(vec![3..5]));
        header.set_failed(1, &vec![0..1; FAILED_MAX + 1]);
        assert_eq!(header.failed(1), None);
        for road in [Road::None, Road::Draining, Road::Synced, Road::Sealed, Road::Releasing, Road::Undoing] {
            for fuzzy in [false, true] {
                let state = State { open: Generation(1 << 40), road, fuzzy };
                header.store(state);
                assert_eq!(header.state(), state);
            }
        }
        header.set_latched(1, true);
        assert!(header.latched(1) && !header.latched(0));
        header.set_latched(1, false);
        header.set_doubtful(0);
        assert!(!header.latched(1) && header.doubtful(0) && !header.doubtful(1));
        header.void();
        assert!(!header.fits(BootId([3; 16]), &disks));
    }

    /// S1: a start that dies between the stamp and the last meta leaves maps that the next start, and the one after it, can
    /// go on with; one that another start has overtaken leaves maps that nobody believes.
    #[test]
    fn maps_are_known_to_the_starts_that_may_be_in_the_metas_and_to_no_other() {
        let disks = [(DiskId([1; 16]), 4096), (DiskId([2; 16]), 8192)];
        let words = Words::private(GroupHeader::WORDS);
        let [first, second, third] = [StartId(11), StartId(12), StartId(13)];
        let of = (Session(5), first);
        let header = GroupHeader::create(words, BootId([3; 16]), of, Generation(9), &disks, &[]);
        let known = |start| [header.knows(0, start), header.knows(1, start)];
        header.set_failed(1, &vec![3..5; FAILED_MAX]);
        assert_eq!((known(first), known(StartId::default())), ([true; 2], [false; 2]));
        header.stamp(Session(6), second, &[first; 2]);
        assert_eq!((known(first), known(second)), ([true; 2], [true; 2]));
        // It died with one meta stored. The next one:
        header.stamp(Session(7), third, &[second, first]);
        assert_eq!((known(first), known(second), known(third)), ([false, true], [true, false], [true; 2]));
        header.settle(third);
        assert_eq!((known(first), known(second), known(third)), ([false; 2], [false; 2], [true; 2]));
        assert_eq!(header.failed(1), Some(vec![3..5; FAILED_MAX]), "a place of their own");
    }
}
