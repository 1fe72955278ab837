//! What processes share in memory, in every order that the memory model allows (loom; `make models`). The code is the
//! product's: the machine of a group with its maps and its header in one thread, and in another who reads a freeze, or
//! whoever maps the header. Each model is there again with one order broken, and fails.
//!
//! **Assumed**, since a model can't see into the kernel: a word stands for the block of a disk or of a store. A copy has
//! reached the store's page cache when its completion is reaped, and a read of the store behind that gets it: so the copy is
//! a store before the bit's, but orders nothing by itself. A write to the disk lands after its submission, which releases
//! what the submitter stored before (the ring's tail is stored with release, and a system call follows): so it is a store
//! with release; `not_without_a_submission_that_releases` shows what hangs on it. A read of the disk orders nothing.
//! The same holds for two mappings of one page in two processes as for two threads.
//!
//! Who looks stores nothing. So it is enough that he runs last and each of his loads gets every value that the memory model
//! allows, old ones too: what he sees by running earlier is among them. Loom begins with this order, for the tracker is the
//! thread that waits for the other. (It can't be left to find the others: of a word that a thread loads and then stores, it
//! forgets who else had loaded it.)
//!
//! **No models**: the heartbeat, the attach number and the latches are words that stand alone, read by a successor; it has
//! the disk's lock by then (S2), so that nobody writes what it reads, and the words in their order are what counts (the
//! last two models here). A frozen map goes to the worker through a channel, and is never stored to again (C3).

use super::*;
use crate::group::action::Errno;
use crate::id::StartId;
use crate::map::header::CutRecord;
use crate::mutant;
use loom::sync::Mutex;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

const OLD: u64 = 1;
const NEW: u64 = 2;
/// Region 0, of eight blocks, stands for a block.
const BLOCK: std::ops::Range<u64> = 0..1;

/// Runs a model in every order, with a bug or with none ("").
fn model(bug: &'static str, run: impl Fn() + Send + Sync + 'static) {
    mutant::choose(bug);
    let mut builder = loom::model::Builder::new();
    // Each access to a word is one, and the machine starts with a whole header.
    builder.max_branches = 20_000;
    builder.check(run);
}

/// One block of the disk, and its place in the store.
struct Kernel {
    disk: AtomicU64,
    store: AtomicU64,
    /// What a submission orders.
    submission: Ordering,
}

impl Kernel {
    fn new(submission: Ordering) -> Arc<Self> {
        Arc::new(Self { disk: AtomicU64::new(OLD), store: AtomicU64::new(0), submission })
    }

    /// Executes one operation of the machine's.
    fn execute(&self, doing: Doing, copying: Result<(), Errno>) -> Result<(), Errno> {
        match doing {
            Doing::Guest => self.disk.store(NEW, self.submission),
            Doing::Copy if copying.is_ok() => self.store.store(self.disk.load(Relaxed), Relaxed),
            Doing::Copy => return copying,
            Doing::Sync | Doing::Slot | Doing::Append(_) => {}
        }
        Ok(())
    }
}

/// A machine whose freeze wants the block and is being read.
fn frozen() -> Rig {
    let mut rig = Rig::new(8, Bounds::default());
    rig.write(BLOCK);
    rig.run(nothing);
    rig.cut();
    rig.run(nothing);
    assert_eq!((rig.group.state.road, rig.group.exact()), (Road::Sealed, true));
    rig
}

fn preserved(rig: &Rig) -> Words {
    rig.group.disks[0].frozen.as_ref().expect("a freeze").preserved.clone()
}

/// The guest overwrites the block; copying it ends like this.
fn overwrite(rig: &mut Rig, kernel: &Kernel, copying: Result<(), Errno>) {
    let token = rig.write(BLOCK);
    while let Some((id, doing)) = rig.flying.pop() {
        let result = kernel.execute(doing, copying);
        rig.call(|group, now, actions| group.completed(id, result, now, actions));
    }
    assert!(rig.replies.contains(&token), "the guest waits for nobody");
}

/// The shipper reads the block (R1): the disk, then the look, then perhaps the store.
fn read(kernel: &Kernel, preserved: &Words) -> u64 {
    let block = kernel.disk.load(Relaxed);
    match bits::look(preserved, BLOCK).next() {
        Some(_) => kernel.store.load(Relaxed),
        None => block,
    }
}

/// The same in the wrong order.
fn look_and_read(kernel: &Kernel, preserved: &Words) -> u64 {
    match bits::look(preserved, BLOCK).next() {
        Some(_) => kernel.store.load(Relaxed),
        None => kernel.disk.load(Relaxed),
    }
}

/// R1, W3: a block is overwritten while it is read.
fn reading(bug: &'static str, submission: Ordering, read: fn(&Kernel, &Words) -> u64) {
    model(bug, move || {
        let kernel = Kernel::new(submission);
        let mut rig = frozen();
        let preserved = preserved(&rig);
        let shipper = thread::spawn({
            let kernel = kernel.clone();
            move || read(&kernel, &preserved)
        });
        overwrite(&mut rig, &kernel, Ok(()));
        let block = shipper.join().unwrap();
        assert_eq!(block, OLD, "the block as of the cut");
    });
}

#[test]
fn a_reader_of_a_freeze_gets_the_old_block() {
    reading("", Release, read);
}

#[test]
#[should_panic(expected = "the block as of the cut")]
fn not_with_the_bit_before_the_copy() {
    reading("preserved-before-copy", Release, read);
}

#[test]
#[should_panic(expected = "the block as of the cut")]
fn not_with_a_bit_that_does_not_release_the_copy() {
    reading("release-is-relaxed", Release, read);
}

#[test]
#[should_panic(expected = "the block as of the cut")]
fn not_with_a_look_that_does_not_acquire_the_copy() {
    reading("acquire-is-relaxed", Release, read);
}

#[test]
#[should_panic(expected = "the block as of the cut")]
fn not_without_the_fence_between_read_and_look() {
    reading("no-fence", Release, read);
}

#[test]
#[should_panic(expected = "the block as of the cut")]
fn not_with_the_look_before_the_read() {
    reading("", Release, look_and_read);
}

#[test]
#[should_panic(expected = "the block as of the cut")]
fn not_without_preserving() {
    reading("no-preserve", Release, read);
}

#[test]
#[should_panic(expected = "the block as of the cut")]
fn not_without_a_submission_that_releases() {
    reading("", Relaxed, read);
}

/// C5: a block can't be preserved and is overwritten all the same, while it is read. Who looks at the header behind that,
/// as a successor does that is asked to confirm, finds the freeze fuzzy. `late`: stored when the write has been submitted.
fn turning_fuzzy(bug: &'static str, submission: Ordering, late: bool) {
    model(bug, move || {
        let kernel = Kernel::new(submission);
        let mut rig = frozen();
        let (preserved, header) = (preserved(&rig), rig.group.header.clone());
        let shipper = thread::spawn({
            let kernel = kernel.clone();
            move || (read(&kernel, &preserved), header.state().fuzzy)
        });
        overwrite(&mut rig, &kernel, Err(Errno(libc::ENOSPC)));
        if late {
            rig.group.header.store(rig.group.state);
        }
        let (block, fuzzy) = shipper.join().unwrap();
        assert!(rig.group.header.state().fuzzy);
        assert!(fuzzy || block == OLD, "a new block in an exact freeze");
    });
}

#[test]
fn a_freeze_is_fuzzy_before_an_overwritten_block_can_be_read() {
    turning_fuzzy("", Release, false);
}

#[test]
#[should_panic(expected = "a new block in an exact freeze")]
fn not_with_fuzzy_stored_behind_the_overwrite() {
    turning_fuzzy("fuzzy-not-stored", Release, true);
}

#[test]
#[should_panic(expected = "a new block in an exact freeze")]
fn not_with_fuzzy_and_the_overwrite_in_no_order() {
    turning_fuzzy("", Relaxed, false);
}

#[test]
#[should_panic(expected = "a new block in an exact freeze")]
fn not_without_the_fence_between_the_read_and_the_state() {
    turning_fuzzy("no-fence", Release, false);
}

/// When the shipper asks to confirm.
#[derive(Clone, Copy, PartialEq)]
enum Asks {
    BeforeItsLastRead,
    Behind,
}

/// R2: the same, asking the machine itself, which answers between its steps; writes land between them too.
fn confirming(asks: Asks) {
    model("", move || {
        let kernel = Kernel::new(Release);
        let rig = frozen();
        let (attach, cut) = (rig.group.attach, rig.group.freeze.as_ref().expect("a freeze").cut);
        let preserved = preserved(&rig);
        let rig = Arc::new(Mutex::new(rig));
        let tracker = thread::spawn({
            let (kernel, rig) = (kernel.clone(), rig.clone());
            move || {
                let mut next = {
                    let mut rig = rig.lock().unwrap();
                    rig.write(BLOCK);
                    rig.flying.pop()
                };
                while let Some((id, doing)) = next {
                    let result = kernel.execute(doing, Err(Errno(libc::ENOSPC)));
                    let mut rig = rig.lock().unwrap();
                    rig.call(|group, now, actions| group.completed(id, result, now, actions));
                    next = rig.flying.pop();
                }
            }
        });
        let confirmed = || {
            let mut rig = rig.lock().unwrap();
            rig.ask(Question::Confirm { attach, cut });
            rig.answers.pop() == Some(Answer::Confirmed { exact: true })
        };
        let early = (asks == Asks::BeforeItsLastRead).then(confirmed);
        let block = read(&kernel, &preserved);
        let exact = early.unwrap_or_else(confirmed);
        tracker.join().unwrap();
        assert!(!exact || block == OLD, "a new block in a confirmed freeze");
    });
}

#[test]
fn what_was_read_before_a_confirmation_is_old() {
    confirming(Asks::Behind);
}

#[test]
#[should_panic(expected = "a new block in a confirmed freeze")]
fn not_what_is_read_behind_it() {
    confirming(Asks::BeforeItsLastRead);
}

/// C1, C3: who sees the word that is the cut sees what was written down of it, and in the map that it swapped out all that
/// was written before and nothing that came after.
fn cutting(bug: &'static str) {
    model(bug, || {
        let mut rig = Rig::new(8, Bounds::default());
        let (open, first_pending) = (rig.group.state.open, rig.group.first_pending);
        let (header, map) = (rig.group.header.clone(), rig.group.disks[0].open.clone());
        let successor = thread::spawn(move || {
            let state = header.state();
            (state.open > open).then(|| {
                let record = header.read_cut(open);
                (state.road > Road::None, record, bits::count(&map), bits::get(&map, 0))
            })
        });
        rig.write(0..1);
        rig.run(nothing);
        rig.cut();
        rig.write(1..2);
        rig.run(nothing);
        let seen = successor.join().unwrap();
        assert!(rig.group.header.state().open == open.next());
        let record = CutRecord { cut: CutId([1; 16]), first: first_pending, internal: false, time_ns: 0 };
        assert!(seen.is_none_or(|seen| seen == (true, record, 8, true)), "the cut as it was made: {seen:?}");
    });
}

#[test]
fn who_sees_a_cut_sees_its_record_and_its_map() {
    cutting("");
}

#[test]
#[should_panic(expected = "the cut as it was made")]
fn not_with_the_word_before_its_record() {
    cutting("word-before-record");
}

#[test]
#[should_panic(expected = "the cut as it was made")]
fn not_with_a_state_that_does_not_release_them() {
    cutting("release-is-relaxed");
}

#[test]
#[should_panic(expected = "the cut as it was made")]
fn not_with_a_state_that_does_not_acquire_them() {
    cutting("acquire-is-relaxed");
}

/// S1: who finds the magic finds the whole header.
fn creating(bug: &'static str) {
    model(bug, || {
        let words = Words::private(GroupHeader::WORDS);
        let (boot, disks) = (BootId([3; 16]), [(Default::default(), 4096)]);
        let state = State { open: Generation(9), road: Road::None, fuzzy: false };
        let successor = thread::spawn({
            let header = GroupHeader::new(words.clone());
            move || {
                let fits = header.fits(boot, &disks);
                fits.then(|| (header.session(), header.knows(0, StartId(7)), header.state()))
            }
        });
        GroupHeader::create(words, boot, (Session(5), StartId(7)), state.open, &disks, &[]);
        let seen = successor.join().unwrap();
        assert!(seen.is_none_or(|seen| seen == (Session(5), true, state)), "a whole header: {seen:?}");
    });
}

#[test]
fn a_header_that_fits_is_whole() {
    creating("");
}

#[test]
#[should_panic(expected = "a whole header")]
fn not_with_a_magic_that_does_not_release_it() {
    creating("release-is-relaxed");
}

#[test]
#[should_panic(expected = "a whole header")]
fn not_with_a_magic_that_does_not_acquire_it() {
    creating("acquire-is-relaxed");
}

/// W5: failed extents are replaced by others. A death at any point leaves the old ones, "too many" or the new ones: stores
/// to the header are seen in their order, since each releases all before it.
fn replacing_failed_extents(bug: &'static str) {
    model(bug, || {
        let words = Words::private(GroupHeader::WORDS);
        let header = GroupHeader::new(words.clone());
        header.set_failed(0, &[1..2]);
        let successor = thread::spawn(move || {
            // The disk's words: count, then first block and count of each.
            let word = |at: usize| words[64 + 3 + at].load(Acquire);
            (word(4), word(0))
        });
        header.set_failed(0, &[3..6, 8..9]);
        let (last, count) = successor.join().unwrap();
        assert!(last == 0 || count != 1, "the old count with new extents");
        assert_eq!(header.failed(0), Some(vec![3..6, 8..9]));
    });
}

#[test]
fn failed_extents_are_old_or_too_many_or_new() {
    replacing_failed_extents("");
}

#[test]
#[should_panic(expected = "the old count with new extents")]
fn not_with_stores_that_pass_each_other() {
    replacing_failed_extents("release-is-relaxed");
}
