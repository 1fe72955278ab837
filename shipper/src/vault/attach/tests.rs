//! Every row of the attach table, through a real log in memory.

use super::super::entry::EntryKind;
use super::super::log::Appended;
use super::super::sample::{Change, World, simple};
use super::*;
use crate::ship::plan::Opening;
use crate::store::Store;
use crate::store::scripted::{Mood, Scripted, What};
use towline_tracker::id::{Anchor, Cut, DiskId, VaultId};

fn decide_now(world: &World, take_over: bool) -> Decision {
    let head = world.group.head(0).unwrap();
    let mut view = View { group: &world.group, catalog: None, claimed: None };
    decide(&world.attached, world.vault.id(), head, &mut view, take_over).unwrap()
}

fn one(block: u64) -> super::super::sample::Cycle {
    simple([(block, Change::Noise(block))])
}

/// A world with `points` released points, one epoch each, as `ship --once` leaves it.
fn shipped(points: u64) -> World {
    let mut world = World::new();
    for block in 0..points {
        world.claim(false).unwrap();
        world.cycle(&one(block));
    }
    world
}

fn is_resync(decision: &Decision, what: &str) -> bool {
    matches!(decision, Decision::Resync { reason, .. } if reason.contains(what))
}

#[test]
fn an_empty_log_and_one_of_only_our_claims_is_initial() {
    let mut world = World::new();
    assert_eq!(decide_now(&world, false), Decision::Initial);
    world.claim(false).unwrap();
    assert_eq!(decide_now(&world, false), Decision::Initial);
    world.claim(false).unwrap();
    assert_eq!(decide_now(&world, false), Decision::Initial);
}

#[test]
fn at_the_anchor_it_is_a_delta_also_behind_claims_without_content() {
    let mut world = shipped(2);
    let anchor = world.attached.anchor.unwrap();
    for _ in 0..3 {
        let decision = decide_now(&world, false);
        let Decision::Delta(base) = &decision else { panic!("{decision:?}") };
        assert_eq!((base.header.seq, base.header.hash()), (anchor.seq, anchor.hash));
        world.claim(false).unwrap();
    }
}

#[test]
fn a_published_point_of_the_live_freeze_is_adopted() {
    let mut world = shipped(1);
    let cut = CutId([9; 16]);
    world.claim(false).unwrap();
    world.freeze(cut);
    let point = world.publish(&one(3), cut, EntryKind::Point, usize::MAX);
    for _ in 0..2 {
        let decision = decide_now(&world, false);
        assert!(matches!(&decision, Decision::Adopt(base) if base.header == point), "{decision:?}");
        // Killed once more between claim and release: still adopted.
        world.claim(false).unwrap();
    }
    // The first point of all, never released.
    let mut world = World::new();
    world.freeze(cut);
    world.publish(&one(3), cut, EntryKind::Point, usize::MAX);
    assert!(matches!(decide_now(&world, false), Decision::Adopt(_)));
}

#[test]
fn a_checkpoint_of_the_live_freeze_is_continued_and_its_cut_listed() {
    for released in [0, 2] {
        let mut world = shipped(released);
        let cut = CutId([9; 16]);
        world.claim(false).unwrap();
        world.freeze(cut);
        let checkpoint = world.publish(&one(3), cut, EntryKind::Checkpoint, usize::MAX);
        let decision = decide_now(&world, false);
        assert!(matches!(&decision, Decision::Continue(base) if base.header == checkpoint), "{decision:?}");
        let claim = decision.claim(&world.attached, &world.claimant(), CutId::random());
        assert!(matches!(claim.payload, Payload::Claim(claim) if claim.continued == [cut]));
    }
}

/// Schedule: 1. a checkpoint is put and told; 2. another is put, and the shipper is killed before it can tell. Its successor
/// goes on from the first: taking the second as an image like another, it would read again all that is frozen.
#[test]
fn under_a_checkpoint_that_was_not_told_the_one_that_was_is_continued() {
    let cut = CutId([9; 16]);
    for released in [0, 2] {
        let mut world = shipped(released);
        world.claim(false).unwrap();
        world.freeze(cut);
        let told = world.publish(&one(3), cut, EntryKind::Checkpoint, usize::MAX);
        world.publish(&one(4), cut, EntryKind::Checkpoint, usize::MAX);
        world.attached.live.as_mut().unwrap().shipped = told.hash();
        for _ in 0..2 {
            let decision = decide_now(&world, false);
            assert!(matches!(&decision, Decision::Continue(base) if base.header == told), "{decision:?}");
            // Killed after its claim: again.
            world.claim(false).unwrap();
        }
    }
    // A resynchronization.
    let mut world = shipped(2);
    let older = world.store.copy();
    world.cycle(&one(7));
    world.switch(&older);
    world.claim(false).unwrap();
    world.freeze(cut);
    let told = world.publish(&one(8), cut, EntryKind::Checkpoint, usize::MAX);
    world.publish(&one(9), cut, EntryKind::Checkpoint, usize::MAX);
    world.attached.live.as_mut().unwrap().shipped = told.hash();
    let decision = decide_now(&world, false);
    assert!(is_resync(&decision, "cut short") && decision.base().unwrap().header == told, "{decision:?}");
    // Nothing but checkpoints is passed over.
    let fuzzy = world.publish(&one(9), cut, EntryKind::Fuzzy, usize::MAX);
    world.attached.live.as_mut().unwrap().shipped = told.hash();
    assert_eq!(decide_now(&world, false).base().unwrap().header, fuzzy);
}

/// Schedule: 1. a host's memory is copied, the tracker in it, which has drawn its next cut id ahead; 2. both go on, and
/// both cut under that id, at two instants; 3. one is shipped. It is not the other's freeze, and its blocks are not those
/// that the other has frozen: neither adopted nor gone on from, nor vouched for.
#[test]
fn an_entry_of_a_siblings_freeze_with_our_cut_id_is_not_ours() {
    for kind in [EntryKind::Point, EntryKind::Fuzzy, EntryKind::Checkpoint] {
        let mut world = shipped(1);
        let anchor = world.attached.anchor.unwrap();
        let cut = CutId([9; 16]);
        world.claim(false).unwrap();
        world.freeze(cut);
        world.publish(&one(3), cut, kind, usize::MAX);
        let ours = world.attached.live.as_mut().unwrap();
        ours.time_ns += 1;
        let ours = ours.identity();
        world.attached.vouched = vec![ours];
        match decide_now(&world, false) {
            Decision::BrokenLineage { .. } if kind == EntryKind::Point => {}
            // It is void.
            Decision::Delta(base) if kind != EntryKind::Point => assert_eq!(base.header.seq, anchor.seq),
            decision => panic!("{kind:?}: {decision:?}"),
        }
    }
}

/// Schedule: 1. a host's memory is copied while a freeze is open; 2. both copies go on with it, over two disks from now on;
/// 3. one ships it, but not exactly: what it read it found on its own disk. The other has the same blocks frozen, so it ships
/// them over that, but what it was never told of it takes from nobody.
#[test]
fn an_inexact_entry_of_our_freeze_that_a_sibling_made_is_shipped_over() {
    for kind in [EntryKind::Point, EntryKind::Fuzzy, EntryKind::Checkpoint] {
        let mut world = shipped(1);
        world.claim(false).unwrap();
        world.freeze(CutId([9; 16]));
        let entry = world.publish(&one(3), CutId([9; 16]), kind, usize::MAX);
        let live = world.attached.live.as_mut().unwrap();
        live.shipped = [0; 32];
        let live = *live;
        let decision = decide_now(&world, false);
        assert_eq!(decision.base().unwrap().header, entry);
        let opening = crate::ship::plan::opening(&decision, live);
        match decision {
            // It holds the cut, and that is one.
            Decision::Adopt(_) => assert_eq!(kind, EntryKind::Point),
            Decision::Delta(_) => {
                assert!(kind != EntryKind::Point && opening == Opening::Finish { resume: false })
            }
            decision => panic!("{kind:?}: {decision:?}"),
        }
    }
}

#[test]
fn an_entry_of_a_cut_that_is_undone_but_vouched_for_is_a_base() {
    // Released point, then a point that was published but whose freeze the host's crash made forget.
    for kind in [EntryKind::Point, EntryKind::Fuzzy, EntryKind::Checkpoint] {
        let mut world = shipped(1);
        let anchor = world.attached.anchor.unwrap();
        world.claim(false).unwrap();
        let entry = world.publish(&one(3), CutId([9; 16]), kind, usize::MAX);
        let cut = entry.identity();
        world.attached.vouched = vec![Cut { id: CutId([8; 16]), ..cut }, cut];
        let decision = decide_now(&world, false);
        assert!(matches!(&decision, Decision::Delta(base) if base.header == entry), "{kind:?}: {decision:?}");
        // Ours has that id too, but it is a sibling's: two trackers that went on from one host's memory.
        world.attached.vouched = vec![Cut { time_ns: cut.time_ns + 1, ..cut }];
        match decide_now(&world, false) {
            Decision::BrokenLineage { .. } if kind == EntryKind::Point => {}
            Decision::Delta(base) if kind != EntryKind::Point => assert_eq!(base.header.seq, anchor.seq),
            decision => panic!("{kind:?}: {decision:?}"),
        }
    }
}

#[test]
fn fuzzy_entries_and_checkpoints_that_nobody_vouches_for_are_void() {
    for kind in [EntryKind::Fuzzy, EntryKind::Checkpoint] {
        let mut world = shipped(2);
        let anchor = world.attached.anchor.unwrap();
        world.claim(false).unwrap();
        world.publish(&one(3), CutId([9; 16]), kind, usize::MAX);
        let decision = decide_now(&world, false);
        assert!(matches!(&decision, Decision::Delta(base) if base.header.seq == anchor.seq), "{decision:?}");
        // The claim skips it, and after it the image at the head is the anchor's again.
        world.claim(false).unwrap();
        assert!(matches!(decide_now(&world, false), Decision::Delta(base) if base.header.seq == anchor.seq));
        // A vouched one above an unvouched one is no base: its image holds the other's.
        let mut world = shipped(2);
        world.claim(false).unwrap();
        world.publish(&one(3), CutId([9; 16]), kind, usize::MAX);
        let above = world.publish(&one(4), CutId([8; 16]), kind, usize::MAX);
        world.attached.vouched = vec![above.identity()];
        assert!(matches!(decide_now(&world, false), Decision::Delta(base) if base.header.seq == anchor.seq));
    }
}

#[test]
fn an_older_copy_of_the_vault_is_resynchronized() {
    let mut world = shipped(2);
    let older = world.store.copy();
    world.claim(false).unwrap();
    world.cycle(&one(7));
    world.switch(&older);
    for _ in 0..4 {
        let decision = decide_now(&world, false);
        assert!(is_resync(&decision, "older"), "{decision:?}");
        assert_eq!(decision.base().unwrap().header.seq, 4, "over the newest image that is there");
        // Killed after its claim, again and again, until the claims' numbers pass the anchor's: still no alarm.
        world.claim(false).unwrap();
    }
    // Killed after a checkpoint: goes on with the resynchronization.
    let cut = CutId([9; 16]);
    world.freeze(cut);
    world.publish(&one(8), cut, EntryKind::Checkpoint, usize::MAX);
    assert!(is_resync(&decide_now(&world, false), "cut short"));
    // Killed between point and release: adopted.
    world.publish(&one(9), cut, EntryKind::Point, usize::MAX);
    assert!(matches!(decide_now(&world, false), Decision::Adopt(_)));
}

#[test]
fn a_copy_of_the_vault_used_in_turn_is_a_broken_lineage() {
    let mut world = shipped(2);
    let (original, copy) = (world.store.clone(), world.store.copy());
    world.claim(false).unwrap();
    world.cycle(&one(7));
    // The copy looks like a vault that was put back: it is compared, and safely used.
    world.switch(&copy);
    assert!(matches!(world.claim(false).unwrap(), Decision::Resync { .. }));
    world.cycle(&one(8));
    // Now the original: its entry at the anchor's number is another.
    world.switch(&original);
    let decision = decide_now(&world, false);
    assert!(matches!(decision, Decision::BrokenLineage { .. }), "{decision:?}");
    let error = decision.accept().unwrap_err();
    assert_eq!(error.kind(), Kind::BrokenLineage);
    assert!(error.line().contains("--take-over"), "{}", error.line());
    assert!(world.claim(false).is_err());
    let decision = decide_now(&world, true);
    assert!(matches!(decision, Decision::Resync { taken_over: true, .. }), "{decision:?}");
}

/// Schedule: 1. the newest point, or the claim that it stands on, is damaged; 2. no shipper gets past it, as it should be;
/// 3. the word to take over is given: everything is compared with what can be read; 4. killed behind a checkpoint, the
/// next one goes on without the word; 5. its point is found.
#[test]
fn a_damaged_tip_is_left_with_the_word_to_take_over_and_only_with_it() {
    let flip = |world: &World, seq: u64, from_end: bool| {
        let name = names::entry(world.group.id(), seq);
        let mut bytes = crate::store::Store::get(&world.store, &name, 1 << 20).unwrap();
        let at = if from_end { bytes.len() - 1 } else { 100 };
        bytes[at] ^= 1;
        world.store.overwrite(&name, bytes);
    };
    // Which entries, of three claims and three points, and the image that is left.
    let damages: [(&[u64], bool, u64); 5] = [
        (&[6], true, 4),
        (&[6], false, 4),
        (&[5], true, 6),
        (&[3, 4, 5, 6], false, 2),
        (&[2, 4, 6], true, 0),
    ];
    for (damaged, from_end, left) in damages {
        let mut world = shipped(3);
        damaged.iter().for_each(|seq| flip(&world, *seq, from_end));
        let error = world.claim(false).unwrap_err();
        assert_eq!(error.kind(), Kind::Damage);
        assert!(error.line().contains("--take-over"), "{}", error.line());
        let decision = world.claim(true).unwrap();
        match &decision {
            Decision::Initial => assert_eq!(left, 0),
            Decision::Resync { base, taken_over: true, .. } => assert_eq!(base.header.seq, left),
            decision => panic!("{decision:?}"),
        }
        let cut = CutId([9; 16]);
        world.freeze(cut);
        world.publish(&one(8), cut, EntryKind::Checkpoint, usize::MAX);
        assert!(world.claim(false).unwrap().base().is_some(), "{damaged:?}");
        let point = world.publish(&one(9), cut, EntryKind::Point, usize::MAX);
        world.release(&point);
        assert!(matches!(world.claim(false).unwrap(), Decision::Delta(_)));
        let found = crate::points::find(&world.vault, &world.group, &crate::points::Wanted::Latest);
        assert_eq!(found.unwrap().id, cut, "{damaged:?}");
    }
}

#[test]
fn a_cloned_disk_and_sidecar_used_in_turn_is_refused() {
    let mut world = shipped(2);
    let clone = world.attached.clone();
    world.claim(false).unwrap();
    world.cycle(&one(7));
    let ours = std::mem::replace(&mut world.attached, clone.clone());
    let decision = decide_now(&world, false);
    assert!(matches!(decision, Decision::BrokenLineage { .. }), "{decision:?}");
    // The clone takes over by an explicit word; then the original is the one that is refused.
    world.claim(true).unwrap();
    world.cycle(&one(8));
    world.attached = ours;
    assert!(matches!(decide_now(&world, false), Decision::BrokenLineage { .. }));
}

#[test]
fn a_released_entry_that_a_later_claim_passed_over_is_a_broken_lineage() {
    // Somebody else, with an older state of this tracker, claims the older point as its base.
    let mut world = shipped(1);
    let (old, base) = (world.attached.clone(), world.base.clone());
    world.cycle(&one(7));
    let draft = Decision::Delta(base.unwrap()).claim(&old, &world.claimant(), CutId::random());
    assert!(matches!(world.group.append(world.head, 0, &draft).unwrap(), Appended::Ours(_)));
    let decision = decide_now(&world, false);
    assert!(
        matches!(&decision, Decision::BrokenLineage { details } if details.contains("passed over")),
        "{decision:?}"
    );
}

#[test]
fn a_deleted_sidecar_and_another_vault_are_resynchronized() {
    let mut world = shipped(2);
    let anchor = world.attached.anchor.take();
    let decision = decide_now(&world, false);
    assert!(is_resync(&decision, "sidecar"), "{decision:?}");
    assert_eq!(decision.base().unwrap().header.seq, 4);
    world.attached.anchor = anchor.map(|anchor| Anchor { vault: VaultId([1; 16]), ..anchor });
    assert!(is_resync(&decide_now(&world, false), "another vault"));
}

#[test]
fn an_initial_replication_into_a_second_vault_that_was_cut_short_is_continued() {
    let mut world = shipped(2);
    let elsewhere = World::new();
    world.switch(&elsewhere.store);
    let cut = CutId([9; 16]);
    assert_eq!(world.claim(false).unwrap(), Decision::Initial);
    world.freeze(cut);
    world.publish(&one(1), cut, EntryKind::Checkpoint, usize::MAX);
    assert!(matches!(decide_now(&world, false), Decision::Continue(_)));
}

#[test]
fn another_machines_disks_of_the_same_name_are_refused_and_the_owner_named() {
    let mut world = shipped(2);
    for (n, disk) in world.attached.disks.iter_mut().enumerate() {
        disk.id = DiskId([n as u8; 16]);
    }
    for anchor in [None, world.attached.anchor] {
        world.attached.anchor = anchor;
        let decision = decide_now(&world, false);
        assert!(matches!(&decision, Decision::Foreign { .. }), "{decision:?}");
        let error = decision.accept().unwrap_err();
        assert_eq!(error.kind(), Kind::ForeignOwner);
        for word in ["disk0.raw", "here", "--group", "--take-over"] {
            assert!(error.line().contains(word), "{}", error.line());
        }
    }
    assert!(matches!(decide_now(&world, true), Decision::Resync { taken_over: true, .. }));
    // Also when the owner has only claimed so far.
    let mut world = World::new();
    world.claim(false).unwrap();
    world.attached.disks[0].id = DiskId([1; 16]);
    world.attached.disks[1].id = DiskId([2; 16]);
    assert!(matches!(decide_now(&world, false), Decision::Foreign { .. }));
    assert_eq!(decide_now(&world, true), Decision::Initial);
}

#[test]
fn a_disk_that_was_added_or_taken_away_leaves_the_group_ours() {
    let mut world = shipped(2);
    world.attached.disks[1].id = DiskId([77; 16]);
    assert!(matches!(decide_now(&world, false), Decision::Delta(_)));
    world.attached.disks.truncate(1);
    assert!(matches!(decide_now(&world, false), Decision::Delta(_)));
}

#[test]
fn of_two_claims_one_wins_and_fences_the_other() {
    let mut world = shipped(1);
    let (head, epoch) = (world.head, world.epoch);
    world.claim(false).unwrap();
    // The older writer tries to go on at its head.
    let draft = Draft {
        kind: EntryKind::Point,
        cut: CutId([9; 16]),
        time_ns: 0,
        base: head.unwrap().seq,
        attached: Vec::new(),
        payload: Payload::Content(world.base.clone().unwrap().content),
    };
    let appended = world.group.append(head, epoch, &draft).unwrap();
    assert!(matches!(appended, Appended::Theirs(header) if header.kind == EntryKind::Claim), "{appended:?}");
}

/// V8, for claims: the answer to the put is lost; it is put again and found there, and no second one is put.
#[test]
fn a_claim_whose_answer_was_lost_is_adopted() {
    let world = shipped(1);
    let head = world.group.head(0).unwrap();
    let store = Scripted::new(world.store.clone(), |call| match call.is_put() && call.puts == 1 {
        true => Mood::LoseAnswer,
        false => Mood::Good,
    });
    let group = Group { store, ..world.group.clone() };
    let claimed = group.claim(&world.attached, &world.claimant(), false, &mut || Ok(())).unwrap();
    assert_eq!((claimed.claim.seq, world.group.head(0).unwrap()), (head + 1, head + 1));
}

/// V1, schedule: 1. we look at the log and decide; 2. another shipper claims; 3. our claim finds its place taken: we look
/// again, and claim behind it.
#[test]
fn who_loses_the_race_for_a_claim_decides_anew_behind_the_winner() {
    let world = shipped(1);
    let head = world.group.head(0).unwrap();
    let (group, attached, claimant) = (world.group.clone(), world.attached.clone(), world.claimant());
    let store = Scripted::new(world.store.clone(), move |call| {
        if call.is_put() && call.puts == 1 {
            group.claim(&attached, &claimant, false, &mut || Ok(())).unwrap();
        }
        Mood::Good
    });
    let ours = Group { store, ..world.group.clone() };
    let claimed = ours.claim(&world.attached, &world.claimant(), false, &mut || Ok(())).unwrap();
    assert_eq!(claimed.claim.seq, head + 2);
    assert!(matches!(claimed.decision, Decision::Delta(base) if base.header.seq == head));
}

/// V3: an entry in the middle of the log and the last one are lost. The head that is found lies below what a listing
/// shows: a writer stops, and puts nothing there.
#[test]
fn a_log_with_names_beyond_its_head_is_damage_and_gets_no_claim() {
    let world = shipped(3);
    for seq in [4, 6] {
        world.store.delete(&names::entry(world.group.id(), seq)).unwrap();
    }
    let before = world.store.list("", "", 1000).unwrap();
    let error = world.group.claim(&world.attached, &world.claimant(), true, &mut || Ok(())).unwrap_err();
    assert!(error.kind() == Kind::Damage && error.line().contains("entry 5"), "{}", error.line());
    assert_eq!(world.store.list("", "", 1000).unwrap(), before);
}

/// Schedule: 1. a shipper with the word to take over finds the log's head; 2. the vault is put back to an older copy; 3. the
/// head is not there any more: the claim can't follow it, and must not be put as if the log were empty.
#[test]
fn a_vault_that_is_put_back_under_a_claim_is_told_and_gets_none() {
    let world = shipped(4);
    let head = world.group.head(0).unwrap();
    let (inner, last) = (world.store.clone(), names::entry(world.group.id(), head));
    let names: Vec<_> = (head - 1..=head).map(|seq| names::entry(world.group.id(), seq)).collect();
    let store = Scripted::new(world.store.clone(), move |call| {
        if matches!(call.what, What::Range { .. }) && call.name == last {
            names.iter().for_each(|name| inner.delete(name).unwrap());
        }
        Mood::Good
    });
    let group = Group { store, ..world.group.clone() };
    let error = group.claim(&world.attached, &world.claimant(), true, &mut || Ok(())).unwrap_err();
    assert!(error.kind() == Kind::Damage && error.line().contains("put back"), "{}", error.line());
    assert_eq!(world.group.head(0).unwrap(), head - 2, "nothing was put");
}
