//! The group's header on tmpfs, of foreign words: refused, or a header whose every question has an answer.

use super::Input;
use std::sync::atomic::Ordering::Relaxed;
use towline_tracker::id::{BootId, DiskId, Generation, Session, StartId};
use towline_tracker::limits::DISK_MAX;
use towline_tracker::map::Words;
use towline_tracker::map::header::{FAILED_MAX, GroupHeader};

const BOOT: BootId = BootId([3; 16]);

/// Asks a made-up header.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let count = 1 + usize::from(input.u8()) % 3;
    let disks: Vec<_> = (0..count as u8).map(|disk| (DiskId([disk; 16]), DISK_MAX)).collect();
    let words = Words::private(GroupHeader::words(count));
    let of = (Session(5), StartId(7));
    let header = GroupHeader::create(words.clone(), BOOT, of, Generation(input.number()), &disks);
    assert!(header.fits(BOOT, &disks));
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
    assert_eq!(header.state(), state);
    let _ = (header.read_cut(state.open), header.heartbeat(), header.attach(), header.session());
    for disk in 0..count {
        let _ = (header.latched(disk), header.doubtful(disk), header.knows(disk, StartId(7)));
        if let Some(failed) = header.failed(disk) {
            assert!(failed.len() <= FAILED_MAX);
            assert!(failed.iter().all(|extent| extent.start < extent.end), "{failed:?}");
        }
    }
}
