//! W6: whoever's sync meets an error of the disk, the guest is told and the disk is doubtful, by schedules.

use crate::mutants::judge;
use std::panic::{AssertUnwindSafe, catch_unwind};
use towline_tests::sim::host::{EIO, Host};
use towline_tests::sim::leaves::{Fate, Leaves};
use towline_tests::sim::rng::Rng;
use towline_tracker::control::message::Answer;
use towline_tracker::format::meta::{Mark, Meta};
use towline_tracker::group::{Change, Question};
use towline_tracker::id::{Anchor, TargetId, VaultId};
use towline_tracker::map::bits;
use towline_tracker::map::header::{GroupHeader, Road};
use towline_tracker::sidecar::files::store_meta;
use towline_tracker::sidecar::jobs::{DiskFacts, map_name};
use towline_tracker::sidecar::maps::Maps as _;
use towline_tracker::sidecar::start::HEADER;

#[test]
fn an_error_that_the_stamp_meets_is_told_by_the_guests_next_flush() {
    let host = Host::new(true);
    let mut session = host.start();
    session.write(1);
    let before = host.meta().stamped_ns;
    session.bad_syncs = 1;
    session.pass(61);
    assert_eq!((session.bad_syncs, host.meta().doubtful), (0, true), "the stamp has met it");
    assert_eq!(host.meta().stamped_ns, before, "and vouches for nothing");
    assert_eq!(session.flush(2), EIO);
    assert_eq!(session.flush(3), Ok(()));
    session.pass(61);
    assert!(host.meta().stamped_ns > before);
}

#[test]
fn an_error_that_the_mark_meets_is_told_and_the_writes_wait_for_a_mark_that_is_durable() {
    let host = Host::new(true);
    let mut session = host.start();
    (session.bad_syncs, session.bad_persists) = (1, 1);
    session.write(1);
    assert_eq!((session.bad_syncs, session.replies.get(&1)), (0, None), "the mark may not be durable (S4)");
    assert_eq!(session.flush(2), EIO);
    session.pass(2);
    assert_eq!(session.replies.get(&1), Some(&EIO), "a sync has failed since it came");
    session.write(3);
    assert_eq!(session.replies.get(&3), Some(&Ok(())), "it goes on");
    assert_eq!(host.facts().mark().unwrap(), Some(Mark { disk: host.meta().disk, untracked: true }));
}

#[test]
fn a_stop_whose_last_sync_fails_is_no_clean_one_and_the_next_session_tells() {
    for direct in [true, false] {
        let host = Host::new(direct);
        let mut session = host.start();
        session.write(1);
        session.bad_syncs = 1;
        let why = session.stop().expect("it is not a clean stop");
        assert!(why.contains("disk d"), "{why}");
        assert!(host.meta().clean.is_none() && host.meta().doubtful);
        let mut next = host.start();
        assert!(host.meta().recheck.is_some_and(|recheck| recheck.whole), "fresh, or lost pages");
        assert_eq!(next.flush(2), EIO);
        assert_eq!(next.flush(3), Ok(()));
        assert_eq!(next.stop(), None);
        assert!(host.meta().clean.is_some());
    }
}

/// W6, schedule: 1. a sync fails, and the guest is told; 2. the tracker is started with other maps, another sync fails, and it
/// dies before a flush; 3. it is started with the first maps. What these say of who was told is not of that error.
#[test]
fn maps_of_another_start_do_not_say_that_the_guest_was_told() {
    let host = Host::new(true);
    let mut session = host.start();
    session.bad_syncs = 1;
    session.pass(61);
    assert_eq!((session.flush(1), session.flush(2)), (EIO, Ok(())));
    drop(session);
    let first = host.maps.copy();
    host.maps.wipe();
    let mut theirs = host.start();
    theirs.flush(3).unwrap_err();
    theirs.flush(4).unwrap();
    theirs.bad_syncs = 1;
    theirs.pass(61);
    assert_eq!(theirs.bad_syncs, 0);
    drop(theirs);
    host.maps.replace(&first);
    assert_eq!(host.start().flush(5), EIO);
}

/// W6, schedule: 1. a cut drains; the process dies; 2. a start meets the error of a sync, and dies before it comes to the freeze;
/// 3. the next one's syncs are good. What was cut may be lost all the same: it is undone.
#[test]
fn a_freeze_whose_start_met_an_error_is_undone_by_the_next_start() {
    let host = Host::new(true);
    drop(host.start());
    store_meta(&host.folder, &Meta { recheck: None, ..host.meta() }).unwrap();
    let mut session = host.start();
    session.write(1);
    session.pass(2);
    let attached = session.attach(TargetId([1; 16]));
    session.hangs = true;
    session.ask(Question::Cut { attach: attached.attach, full: false });
    session.pass(1);
    drop(session);
    let header = GroupHeader::new(host.maps.get(HEADER).expect("it is there"));
    assert_eq!(header.state().road, Road::Draining);
    header.set_latched(0, true);
    header.set_doubtful(0);
    let mut next = host.start();
    next.pass(3);
    assert_eq!(header.state().road, Road::None);
    assert_eq!(next.flush(2), EIO);
}

/// W6, schedule: 1. a disk does not answer a sync; 2. the process is killed; the kernel tells nobody how the sync ends. Of a
/// sync that had just begun nothing is believed: most end well.
#[test]
fn a_sync_that_ran_for_seconds_when_the_process_died_counts_as_failed() {
    for seconds in [2, 10] {
        let host = Host::new(true);
        let mut session = host.start();
        session.write(1);
        session.hangs = true;
        session.begin_flush(2);
        session.pass(seconds);
        drop(session);
        let mut next = host.start();
        assert_eq!(next.flush(3).is_err(), seconds > 5);
        assert_eq!((next.flush(4), host.meta().doubtful), (Ok(()), seconds > 5));
    }
}

/// W6, schedule: 1. a sync fails, and no flush of a guest follows; 2. a clean stop; 3. the sidecar is deleted. The guest's next
/// flush is told all the same.
#[test]
fn an_error_that_nobody_was_told_outlives_the_stop_and_the_sidecar() {
    let host = Host::new(true);
    let mut session = host.start();
    session.write(1);
    session.bad_syncs = 1;
    session.pass(61);
    assert_eq!((session.bad_syncs, session.stop()), (0, None));
    assert_eq!(host.maps.names(), [HEADER], "a clean stop leaves no maps");
    host.folder.wipe();
    let mut next = host.start();
    assert!(host.meta().doubtful);
    assert_eq!(next.flush(2), EIO);
    assert_eq!(next.flush(3), Ok(()));
    assert_eq!(host.start().stop(), None);
}

/// W6, schedule: 1. a sync fails, and the process dies before a meta tells; 2. the disk joins a group, whose start makes a header
/// of its own, and dies anywhere; 3. another start serves. The guest's next flush is told.
#[test]
fn an_error_that_only_a_header_knows_outlives_a_start_that_replaces_it() {
    for step in 1.. {
        let (host, other) = (Host::new(true), Host::new(true));
        drop(host.start());
        let header = GroupHeader::new(host.maps.get(HEADER).expect("it is there"));
        header.set_latched(0, true);
        header.set_doubtful(0);
        let others = [&other];
        host.sidecar_faults.arm(Some((host.sidecar_faults.steps() + step, Leaves::Some(1))));
        let came_up = catch_unwind(AssertUnwindSafe(|| drop(host.start_with(&others)))).is_ok();
        host.sidecar_faults.arm(None);
        assert_eq!(host.start_with(&others).flush(2), EIO, "the start died at step {step}");
        if came_up {
            assert!(step > 20, "{step} steps");
            break;
        }
    }
}

#[test]
fn a_start_whose_sync_fails_serves_and_tells() {
    for direct in [true, false] {
        let host = Host::new(direct);
        drop(host.start());
        // The comparison that a new disk asks for is over.
        store_meta(&host.folder, &Meta { recheck: None, ..host.meta() }).unwrap();
        host.faults.set_errors(1000);
        let mut next = host.start();
        host.faults.set_errors(0);
        assert!(host.meta().doubtful);
        let whole = host.meta().recheck.is_some_and(|recheck| recheck.whole);
        assert_eq!(whole, !direct, "a buffered disk's pages are clean and lost");
        assert_eq!(next.flush(2), EIO);
        assert_eq!(next.flush(3), Ok(()));
    }
}

/// Nothing is left of what failed writes may still do, or it is, as it must be.
fn judge_failed(host: &Host, ended: bool) {
    let is = host.is_done_with_failed();
    assert!(is || !ended, "it is ended");
    let lost = "what lands later is in no generation".to_string();
    judge("image", if is == ended { Ok(()) } else { Err(lost) });
}

/// W5, W6, schedule: 1. a write fails; 2. it is written again, well; 3. a sync fails, and the drive has lost that; 4. the next
/// one is good. The failed write may land yet.
#[test]
fn a_failed_write_is_not_ended_by_a_good_sync_behind_a_failed_one() {
    for fails in [false, true] {
        let host = Host::new(true);
        let mut session = host.start();
        session.bad_writes = 1;
        session.write(1);
        session.write(1);
        if fails {
            session.bad_syncs = 1;
            session.pass(61);
            assert_eq!((session.bad_syncs, session.flush(2)), (0, EIO));
        }
        assert_eq!(session.flush(3), Ok(()));
        judge_failed(&host, !fails);
    }
}

/// W5, I4, schedule: 1. writes to as many regions as the intents have room for have failed; 2. the tracker is started again. The
/// failed regions don't leave the intents, and yet others come in: no guest's write waits for ever.
#[test]
fn failed_writes_leave_room_for_others_in_the_next_session() {
    let host = Host::new(true);
    host.disk.borrow_mut().resize(3 * 8192);
    drop(host.start());
    let header = GroupHeader::new(host.maps.get(HEADER).expect("it is there"));
    let regions_of_the_budget = (4 << 20) >> 15;
    header.set_failed(0, &[0..regions_of_the_budget * 8]);
    let mut next = host.start();
    next.write(regions_of_the_budget + 1);
    assert_eq!(next.replies.get(&(regions_of_the_budget + 1)), Some(&Ok(())));
    assert_eq!(header.failed(0).map(|failed| failed.len()), Some(1), "they are still known");
}

/// W5, schedule: 1. a write fails; 2. its blocks are discarded and synced, well, which may write nothing; 3. or zeroed, which does.
#[test]
fn a_failed_write_is_ended_by_zeros_and_by_no_discard() {
    for (change, ends) in [(Change::Discard, false), (Change::Zero { may_punch: true }, true)] {
        let host = Host::new(true);
        let mut session = host.start();
        session.bad_writes = 1;
        session.write(1);
        session.change(change, 1);
        assert_eq!((session.replies[&1], session.flush(2)), (Ok(()), Ok(())));
        judge_failed(&host, ends);
    }
}

/// W6, schedule: 1. a process dies, and its maps are gone too; 2. the next start meets the error of a sync, which is told once,
/// and dies anywhere behind it; 3. another start serves, and the disk may have grown, or left the group it was in. The guest's
/// next flush is told.
#[test]
fn an_error_that_a_start_meets_outlives_that_start() {
    for (grows, leaves) in [(false, false), (true, false), (false, true)] {
        let died: u32 =
            (1..).map_while(|step| told_behind_a_start_that_died(step, grows, leaves)).map(u32::from).sum();
        assert!(died > 5, "{died} starts died behind the sync");
    }
}

/// Whether a start that died at this step of the sidecar had met an error; None if it came up.
fn told_behind_a_start_that_died(step: u64, grows: bool, leaves: bool) -> Option<bool> {
    let (host, other) = (Host::new(true), Host::new(true));
    drop(host.start());
    host.maps.wipe();
    host.faults.set_errors(1000);
    host.sidecar_faults.arm(Some((host.sidecar_faults.steps() + step, Leaves::Some(1))));
    let others: Vec<_> = leaves.then_some(&other).into_iter().collect();
    let start = || drop(host.start_with(&others));
    let came_up = catch_unwind(AssertUnwindSafe(start)).is_ok();
    host.sidecar_faults.arm(None);
    host.faults.set_errors(0);
    if came_up {
        return None;
    }
    let met = host.faults.injected() > 0;
    if grows {
        host.disk.borrow_mut().resize(8200);
    }
    let mut next = host.start();
    assert_eq!(next.flush(2).is_err(), met, "it died at step {step}; grows: {grows}, leaves: {leaves}");
    assert_eq!(next.flush(3), Ok(()));
    Some(met)
}

/// I4, W5, schedule: 1. a write fails, and may land yet; 2. the guest writes to more regions than the intents hold; 3. a cut and its
/// release: what the log had of the failed write's region is gone; 4. the write lands; 5. the host dies. Its block is read again.
#[test]
fn a_failed_write_that_lands_behind_a_release_is_found_after_the_hosts_death() {
    let mut host = Host::new(true);
    host.budget = 8 << 15;
    drop(host.start());
    // What a first start has compared is no matter here.
    store_meta(&host.folder, &Meta { recheck: None, ..host.meta() }).unwrap();
    host.maps.wipe();
    let mut session = host.start();
    session.bad_writes = 1;
    session.write(1);
    assert_eq!(session.replies[&1], EIO);
    (2..40).for_each(|token| session.write(token));
    assert!((2..40).all(|token| session.replies[&token].is_ok()), "they found room");
    let target = TargetId([1; 16]);
    let attach = session.attach(target).attach;
    let frozen = session.cut(attach);
    let anchor = Anchor { vault: VaultId([2; 16]), seq: 1, hash: [3; 32] };
    session.ask(Question::Release { attach, target, cut: frozen.cut, anchor });
    session.pass(2);
    assert!(matches!(session.answers.pop(), Some(Answer::Done)));
    let before = host.disk.borrow().image();
    while host.disk.borrow().has_ghosts() {
        let ghosts = host.disk.borrow().ghosts();
        for name in ghosts {
            host.disk.borrow_mut().land_some(name, &mut Rng::new(1));
        }
    }
    assert_ne!(host.disk.borrow().image(), before, "it landed");
    drop(session);
    let mut fate = Fate::new(Leaves::Everything);
    host.disk.borrow_mut().host_crash(&mut fate);
    host.folder.host_crash(&mut fate);
    host.maps.wipe();
    drop(host.start());
    let header = GroupHeader::new(host.maps.get(HEADER).expect("it is there"));
    let open = host.maps.get(&map_name(header.state().open, 0)).expect("it is there");
    let found = bits::get(&open, (1 << 15) >> 12);
    judge("image", if found { Ok(()) } else { Err("no point gets what landed".into()) });
}
