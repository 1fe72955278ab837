//! The group's header on tmpfs, of foreign words: refused, or a header whose every question has an answer, and which keeps
//! what a successor that goes on with it writes down.

use super::Input;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use towline_tracker::id::{AttachNumber, BootId, CutId, DiskId, Generation, Nanos, Session, StartId};
use towline_tracker::limits::DISK_MAX;
use towline_tracker::map::Words;
use towline_tracker::map::header::{CutRecord, FAILED_MAX, FailedSyncs, GroupHeader, State};

const BOOT: BootId = BootId([3; 16]);

/// Asks a made-up header.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let count = 1 + usize::from(input.u8()) % 3;
    let disks: Vec<_> = (0..count as u8).map(|disk| (DiskId([disk; 16]), DISK_MAX)).collect();
    let words = Words::private(GroupHeader::WORDS);
    let of = (Session(5), StartId(7));
    let mut known = || FailedSyncs { latched: input.bool(), doubtful: input.bool() };
    let known: Vec<_> = disks.iter().map(|_| known()).collect();
    let header = GroupHeader::create(words.clone(), BOOT, of, Generation(input.number()), &disks, &known);
    assert!(header.fits(BOOT, &disks));
    let later = Later::new(&mut input);
    while !input.is_empty() {
        let at = usize::from(input.u8()) % words.len();
        words[at].store(input.number(), Relaxed);
    }
    let header = GroupHeader::new(words);
    if !header.is_of(BOOT, &disks) {
        assert!(!header.fits(BOOT, &disks));
        return;
    }
    let state = header.state();
    header.store(state);
    assert!(header.state() == state && !state.road.name().is_empty());
    let _ = (header.read_cut(state.open), header.heartbeat(), header.attach(), header.session());
    for (disk, (id, _)) in disks.iter().enumerate() {
        let _ = (header.latched(disk), header.doubtful(disk), header.knows(disk, StartId(7)));
        // Doubt comes from the header or from the meta, and of another boot from the meta alone.
        for doubtful in [true, false] {
            let meta = (StartId(7), doubtful);
            let found = header.failed_syncs(BOOT, *id, meta);
            assert!(
                found.doubtful >= (doubtful || header.doubtful(disk))
                    && found.latched >= header.latched(disk)
            );
            let known = FailedSyncs { latched: doubtful, doubtful };
            assert!(header.failed_syncs(BootId([4; 16]), *id, meta) == known);
            assert!(header.failed_syncs(BOOT, DiskId([99; 16]), meta) == known);
        }
        if let Some(failed) = header.failed(disk) {
            assert!(failed.len() <= FAILED_MAX);
            assert!(failed.iter().all(|extent| extent.start < extent.end), "{failed:?}");
        }
        later.goes_on(&header, disk, count, state);
    }
    header.void();
    assert!(!header.fits(BOOT, &disks));
}

/// What a successor writes down.
struct Later {
    start: StartId,
    record: CutRecord,
    failed: Vec<Range<u64>>,
    number: u64,
}

impl Later {
    fn new(input: &mut Input<'_>) -> Self {
        let record = CutRecord {
            cut: CutId([input.u8(); 16]),
            time_ns: input.number(),
            first: Generation(input.number()),
            internal: input.bool(),
        };
        let extents = input.u8() % (FAILED_MAX as u8 + 3);
        let failed = (0..extents).map(|_| {
            let first = input.number() >> 1;
            first..first + 1 + u64::from(input.u8())
        });
        Self { failed: failed.collect(), record, start: StartId(input.number()), number: input.number() }
    }

    fn goes_on(&self, header: &GroupHeader, disk: usize, disks: usize, state: State) {
        let closed = Generation(state.open.0 ^ 1);
        let other = header.read_cut(closed);
        header.write_cut(state.open, self.record);
        assert_eq!((header.read_cut(state.open), header.read_cut(closed)), (self.record, other));
        header.set_failed(disk, &self.failed);
        let kept = self.failed.len() <= FAILED_MAX;
        assert_eq!(header.failed(disk), kept.then(|| self.failed.clone()));
        let found = StartId(!self.start.0);
        header.stamp(Session(self.number), self.start, &vec![found; disks]);
        header.stamp(Session(self.number), found, &vec![self.start; disks]);
        let known = |start: StartId| (start != StartId::default()) == header.knows(disk, start);
        assert!(header.session() == Session(self.number) && known(self.start) && known(found));
        header.settle(self.start);
        assert!(known(self.start) && !header.knows(disk, found));
        for set in [true, false] {
            header.set_latched(disk, set);
            header.set_slow_sync(disk, set);
            assert_eq!((header.latched(disk), header.has_slow_sync(disk)), (set, set));
        }
        let shipped = [self.number as u8; 32];
        header.set_shipped(shipped);
        assert!(header.shipped() == shipped && header.read_cut(state.open).identity().id == self.record.cut);
        header.set_doubtful(disk);
        header.beat(Nanos(self.number));
        header.set_attach(AttachNumber(self.number));
        assert!(header.doubtful(disk) && header.state() == state);
        assert_eq!((header.heartbeat().0, header.attach().0), (self.number, self.number));
    }
}
