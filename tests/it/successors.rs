//! What a successor must find of what a dead session left, by schedules: each block that the guest wrote and no released
//! entry has is dirty, or the loss is noticed.

use crate::mutants::judge;
use towline_tests::sim::fault::Faults;
use towline_tests::sim::folder::SimFolder;
use towline_tests::sim::host::Host;
use towline_tests::sim::rng::Rng;
use towline_tests::sim::sealing::{BLOCKS, DISK, Sealing, header, map};
use towline_tracker::control::message::Answer;
use towline_tracker::format::changes::{self, Encoder};
use towline_tracker::format::meta::{Meta, PendingLog};
use towline_tracker::group::Question;
use towline_tracker::group::job::{Job, JobDone};
use towline_tracker::id::{Anchor, Cut, CutId, DiskIndex, Generation, Session, TargetId, VaultId};
use towline_tracker::map::bits;
use towline_tracker::map::header::GroupHeader;
use towline_tracker::sidecar::files::{append_map, create_log, log_name, read_logs, store_meta};
use towline_tracker::sidecar::folder::FolderFile;
use towline_tracker::sidecar::jobs::{DiskFacts, map_name};
use towline_tracker::sidecar::start::HEADER;

/// S1, schedule: 1. a session dies, and its maps are out of sight: somebody else starts the tracker, with maps of his own; 2.
/// the guest writes, and that session dies too; 3. the first one's maps are there again. They know nothing of the write.
#[test]
fn maps_that_missed_a_session_are_not_believed() {
    let host = Host::new(true);
    drop(host.start());
    // The comparison that a new disk asks for is over.
    store_meta(&host.folder, &Meta { recheck: None, ..host.meta() }).unwrap();
    let first = host.maps.copy();
    host.maps.wipe();
    let mut theirs = host.start();
    theirs.write(5);
    drop(theirs);
    host.maps.replace(&first);
    drop(host.start());
    let open = GroupHeader::new(host.maps.get(HEADER).unwrap()).state().open;
    let map = host.maps.get(&map_name(open, 0)).unwrap();
    let dirty = bits::get(&map, (5 << 15) >> 12);
    judge("image", if dirty { Ok(()) } else { Err("no point gets the block that was written".into()) });
}

/// V2, schedule: 1. a cut is sealed and handed out, and its entry may be in the vault; 2. it is undone; 3. another one is
/// sealed, which deletes its log; 4. the tracker dies. Its successor still vouches for the first one.
#[test]
fn a_cut_that_was_undone_is_vouched_for_by_every_successor() {
    let host = Host::new(true);
    let mut session = host.start();
    session.pass(2);
    let attached = session.attach(TargetId([1; 16]));
    let attach = attached.attach;
    session.write(3);
    let frozen = session.cut(attach);
    let first = Cut { id: frozen.cut, time_ns: frozen.time_ns };
    session.ask(Question::Undo { attach, cut: first.id });
    session.pass(2);
    session.answers.clear();
    session.write(4);
    session.cut(attach);
    drop(session);
    let mut next = host.start();
    let attached = next.attach(TargetId([1; 16]));
    let seen = attached.vouched.contains(&first);
    judge(
        "lineage",
        if seen { Ok(()) } else { Err("an entry of the undone cut is nobody's: broken lineage".into()) },
    );
}

/// V2, schedule: 1. a cut of two disks is sealed, and its entry is under way to the vault; 2. it is undone; 3. the tracker dies,
/// and the sidecar of one disk is lost; 4. it dies again, and that of the other is lost. The entry is still the tracker's own.
#[test]
fn a_cut_is_vouched_for_by_every_disk_also_by_one_whose_sidecar_was_lost() {
    let (host, other) = (Host::new(true), Host::new(true));
    let mut session = host.start_with(&[&other]);
    session.pass(2);
    let attached = session.attach(TargetId([1; 16]));
    let frozen = session.cut(attached.attach);
    session.ask(Question::Undo { attach: attached.attach, cut: frozen.cut });
    session.pass(2);
    drop(session);
    other.folder.wipe();
    drop(host.start_with(&[&other]));
    host.folder.wipe();
    let mut next = host.start_with(&[&other]);
    let attached = next.attach(TargetId([1; 16]));
    let cut = Cut { id: frozen.cut, time_ns: frozen.time_ns };
    assert!(attached.vouched.contains(&cut), "an entry of it would be a broken lineage");
}

/// V2, schedule: 1. a cut of two disks is sealed, and a checkpoint of it is in a vault; 2. one disk is served alone and ships to
/// another vault: its blocks of that cut are pending no more; 3. both are served again. The cut is nobody's, for a delta over
/// that checkpoint would lack those blocks.
#[test]
fn a_cut_that_one_of_its_disks_has_released_is_vouched_for_by_none() {
    let (host, other) = (Host::new(true), Host::new(true));
    let [first, second] = [TargetId([1; 16]), TargetId([2; 16])];
    let mut session = host.start_with(&[&other]);
    session.pass(2);
    let attached = session.attach(second);
    let frozen = session.cut(attached.attach);
    let theirs = Cut { id: frozen.cut, time_ns: frozen.time_ns };
    drop(session);
    let mut session = host.start();
    session.pass(2);
    let attached = session.attach(first);
    assert!(attached.vouched.contains(&theirs), "its blocks are still pending");
    let frozen = session.cut(attached.attach);
    let anchor = Anchor { vault: VaultId([1; 16]), seq: 16, hash: [3; 32] };
    session.ask(Question::Release { attach: attached.attach, target: first, cut: frozen.cut, anchor });
    session.pass(2);
    assert!(matches!(session.answers.pop(), Some(Answer::Done)));
    drop(session);
    let mut session = host.start_with(&[&other]);
    let seen = !session.attach(second).vouched.contains(&theirs);
    judge(
        "image",
        if seen { Ok(()) } else { Err("a delta over the checkpoint lacks what was released".into()) },
    );
}

/// V9, schedule: 1. two disks ship as one group, a third alone to another, with more starts behind it; 2. it joins them. What
/// the two have released stays what they go on from; the third is compared.
#[test]
fn a_disk_that_joins_a_group_brings_no_anchor_along() {
    let (host, other, third) = (Host::new(true), Host::new(true), Host::new(true));
    drop(host.start_with(&[&other]));
    for _ in 0..3 {
        drop(third.start());
    }
    let [ours, theirs] = [1, 2].map(|of| Anchor { vault: VaultId([of; 16]), seq: 16, hash: [3; 32] });
    let release = |host: &Host, released, anchor| {
        let meta = Meta { released, anchor: Some(anchor), target: Some(TargetId([1; 16])), ..host.meta() };
        store_meta(&host.folder, &Meta { recheck: None, ..meta }).unwrap();
    };
    for host in [&host, &other] {
        release(host, Generation::first_of(Session(1)), ours);
    }
    release(&third, Generation::first_of(Session(3)), theirs);
    host.maps.wipe();
    let mut session = host.start_with(&[&other, &third]);
    let attached = session.attach(TargetId([1; 16]));
    assert_eq!(attached.anchor, Some(ours));
    let compared: Vec<_> = attached.disks.iter().map(|disk| disk.resync.is_some()).collect();
    assert_eq!(compared, [false, false, true]);
}

/// F16: a copy of a disk has its identity too, and one group can't have both: no point of it could be restored.
#[test]
fn a_disk_and_its_copy_are_refused_in_one_group() {
    let (host, copy) = (Host::new(true), Host::new(true));
    drop(host.start());
    let mark = host.facts().mark().unwrap().expect("it is marked");
    copy.facts().set_mark(&mark).unwrap();
    let refused = host.refused(&[&copy]);
    assert!(refused.contains("is a copy of d"), "{refused}");
    assert_eq!(copy.folder.listing(), Vec::<String>::new(), "nothing was made beside it");
}

/// V9, V10, schedule: 1. an entry lies over images of others, because the group was taken over, and is being released; 2. a
/// shipper attaches; 3. the release ends: what the freeze had is pending no more. He must go on from that entry.
#[test]
fn a_release_that_has_begun_is_the_anchor() {
    let host = Host::new(true);
    let mut session = host.start();
    session.pass(2);
    let target = TargetId([1; 16]);
    let attached = session.attach(target);
    let attach = attached.attach;
    let frozen = session.cut(attach);
    let anchor = Anchor { vault: VaultId([2; 16]), seq: 16, hash: [3; 32] };
    session.busy = true;
    session.ask(Question::Release { attach, target, cut: frozen.cut, anchor });
    assert!(session.answers.is_empty(), "it is under way");
    let attached = session.attach(target);
    let seen = attached.anchor == Some(anchor) && attached.vouched.is_empty();
    judge(
        "image",
        if seen { Ok(()) } else { Err("he goes on from the entry before, without this cut".into()) },
    );
}

/// F5, C2, schedule: 1. a release begins, and the tracker dies before any meta tells of it; 2. a change log of the freeze is
/// damaged. Nobody can read the freeze any more: it is undone, and the next cut has what it had.
#[test]
fn a_freeze_without_its_log_is_undone_also_if_its_release_had_begun() {
    let host = Host::new(true);
    drop(host.start());
    store_meta(&host.folder, &Meta { recheck: None, ..host.meta() }).unwrap();
    let mut session = host.start();
    session.write(3);
    session.pass(2);
    let target = TargetId([1; 16]);
    let attached = session.attach(target);
    let attach = attached.attach;
    let frozen = session.cut(attach);
    session.busy = true;
    let anchor = Anchor { vault: VaultId([2; 16]), seq: 16, hash: [3; 32] };
    session.ask(Question::Release { attach, target, cut: frozen.cut, anchor });
    drop(session);
    host.folder.damage(&log_name(frozen.generation, Session(2)), Some(49));
    let mut next = host.start();
    next.pass(2);
    let attached = next.attach(target);
    assert_eq!(attached.live, None, "nobody could read it");
    let again = next.cut(attached.attach);
    assert_eq!(again.first_generation, frozen.first_generation);
    let map = host.maps.get(&map_name(again.generation, 0)).expect("it is frozen");
    assert!(bits::get(&map, (3 << 15) >> 12), "what was written is in the next cut");
}

/// C6, schedule: 1. a session dies while generation 7 drains, after regions left the intents into generation 8's log; 2. its
/// successor goes on with the maps and seals 7; 3. the host dies: what was written in 8 is in the dead session's log alone.
#[test]
fn a_sealed_log_takes_the_place_of_none_that_it_does_not_contain() {
    let folder = SimFolder::new(Faults::new(Rng::new(7)));
    let dead = header(8, Session(1));
    let file = create_log(&folder, &dead).unwrap();
    let written = map(100..110);
    let load = |word: usize| written[word].load(std::sync::atomic::Ordering::Relaxed);
    let (length, _) =
        append_map(&file, &mut Encoder::new(&dead), changes::HEADER as u64, true, BLOCKS, load).unwrap();
    FolderFile::sync(&file).unwrap();
    let of = PendingLog { generation: Generation(8), session: Session(1), length, cut: None };
    let mut session = Sealing::new(&folder, vec![of]);
    session.seal(7, &map(0..50));
    let known = session.host_dies();
    let seen = known.is_none_or(|known| (100..110).all(|block| known.contains(&block)));
    judge("image", if seen { Ok(()) } else { Err("no point gets what was written after the cut".into()) });
}

/// I2, schedule: 1. a session dies while generation 7 drains, after regions left the intents into generation 8's log; 2. its
/// successor lists that log and seals generation 7; 3. the file is lost; 4. the host dies: the loss must be noticed.
#[test]
fn sealing_a_resumed_freeze_still_lists_a_dead_sessions_log_of_the_open_generation() {
    let folder = SimFolder::new(Faults::new(Rng::new(7)));
    let older = |generation| PendingLog {
        generation: Generation(generation),
        session: Session(1),
        length: 4096,
        cut: None,
    };
    let mut session = Sealing::new(&folder, [6, 7, 8].map(older).into());
    session.seal(6, &map((0..BLOCKS).step_by(2)));
    let listed = session.meta().logs;
    assert!(listed.contains(&older(8)), "{listed:?}");
    let names: Vec<_> = listed.iter().map(|log| (log.generation.0, log.session.0)).collect();
    assert_eq!(names, [(8, 1), (7, 2)], "what the sealed log contains is not listed");
    let logs = read_logs(&folder, DISK, Generation(5), &listed, |_| ()).unwrap();
    assert!(logs.bad.is_some(), "the lost file is missed");
}

/// C4, schedule: 1. a cut is sealed; its regions leave the intents, for its log is durable; 2. it is undone; 3. the host dies.
#[test]
fn the_log_of_an_undone_cut_stays_pending() {
    let folder = SimFolder::new(Faults::new(Rng::new(7)));
    let mut session = Sealing::new(&folder, Vec::new());
    session.seal(7, &map(0..50));
    let (generation, cut) = (Generation(7), CutId([1; 16]));
    let JobDone::Forgotten { result: Ok(()) } =
        session.jobs.run(Job::Forget { generation, cut, left: Vec::new() }).done
    else {
        panic!("it is forgotten")
    };
    // Whatever meta comes next.
    let metas = vec![(DiskIndex(0), session.meta())];
    session.jobs.run(Job::StoreMeta { number: 1, metas });
    let known = session.host_dies();
    let seen = known.is_none_or(|known| (0..50).all(|block| known.contains(&block)));
    judge("image", if seen { Ok(()) } else { Err("no point gets what was frozen".into()) });
}
