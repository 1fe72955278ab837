//! Prunes and collections over small vaults: what is kept is there, what is not is gone, and whoever sleeps, dies or races
//! in between spoils nothing.

use super::collect::{collect, plan as garbage};
use super::policy::Policy;
use super::protect::{Span, protect, protect_keys};
use super::prune::{pin, plan, prune};
use crate::Kind;
use crate::points::{Wanted, find, history};
use crate::restore::{Request, restore};
use crate::store::remote::Lock;
use crate::store::scripted::{Mood, Scripted, What};
use crate::store::{Store, StoreErrorKind};
use crate::vault::entry::{Draft, EntryHeader, EntryKind, Payload};
use crate::vault::log::Appended;
use crate::vault::names;
use crate::vault::sample::{Change, World, simple};
use crate::vault::{Group, Vault};
use crate::verify::verify;
use jiff::tz::TimeZone;
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use towline_tracker::id::CutId;

pub(super) fn last(last: u32) -> Policy {
    Policy { last, ..Policy::default() }
}

/// Cycles whose packs are objects of their own, small ones that ride in entries, and such that overwrite others.
fn grow(world: &mut World, cycles: u64) {
    let from = world.points.len() as u64;
    for n in from..from + cycles {
        let big = n % 3 == 0;
        world.pack_size = if big { 1 << 14 } else { 1 << 20 };
        world.attached_max = if n % 6 == 0 { 0 } else { 1 << 20 };
        let blocks = if big { 0..20 } else { n % 20..n % 20 + 3 };
        let change = |block| match (n + block) % 7 {
            0 => Change::Zero,
            _ => Change::Noise(n << 8 | block),
        };
        world.cycle(&simple(blocks.map(|block| (block, change(block)))));
    }
}

fn world(cycles: u64) -> World {
    let mut world = World::new();
    grow(&mut world, cycles);
    world
}

pub(super) fn to(world: &World, policy: Policy) -> Vec<CutId> {
    let pruning = prune(&world.vault, &world.group, &policy, &TimeZone::UTC, 1).unwrap();
    let kept = pruning.verdicts.into_iter().filter(|verdict| !verdict.reasons.is_empty());
    kept.map(|verdict| verdict.point.id).collect()
}

pub(super) fn names(store: &impl Store) -> BTreeSet<String> {
    store.list("", "", usize::MAX).unwrap().into_iter().map(|object| object.name).collect()
}

/// Every point that exists is the disks at its cut, and nothing is damaged. Which they are.
#[track_caller]
pub(super) fn sound(world: &World) -> Vec<CutId> {
    let report = verify(&world.vault, Some("db")).unwrap();
    assert!(report.is_sound(), "{:?}", report.groups[0].damage);
    let points = history(&world.vault, &world.group).unwrap().points;
    // Restores sync what they write: in memory that costs nothing.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    for point in &points {
        let to = folder.path().join(point.id.to_string());
        let request = Request {
            group: "db".into(),
            disk: None,
            point: Wanted::Id(point.id.to_string()),
            to: to.clone(),
            how: Default::default(),
            jobs: 1,
        };
        restore(&world.vault, &request, &|_, _| {}).unwrap();
        let (_, disks) = world.points.iter().find(|(cut, _)| *cut == point.id).unwrap();
        for (n, disk) in disks.iter().enumerate() {
            assert!(fs::read(to.join(format!("disk{n}.raw"))).unwrap() == *disk, "point {}", point.seq);
        }
    }
    points.into_iter().map(|point| point.id).collect()
}

#[test]
fn what_is_kept_is_there_and_what_nobody_needs_is_gone() {
    let mut world = world(30);
    for round in 0..3 {
        let kept = to(&world, last(4));
        assert_eq!(kept.len(), 4);
        let planned = garbage(&world.group, None, &mut ()).unwrap();
        let collected = collect(&world.group, 1, &mut ()).unwrap();
        assert_eq!(collected.deleted.0, planned.garbage.len() as u64);
        assert!(collected.deleted.0 > 5, "{collected:?}");
        assert_eq!(sound(&world), kept, "round {round}");
        // What is left is needed: the log below the boundary too.
        let bound = world.group.catalog(0).unwrap().unwrap().bound();
        assert!(
            bound > 20 && world.group.entry_header(1).unwrap().is_some() == (round == 0),
            "the first claim"
        );
        assert!(garbage(&world.group, None, &mut ()).unwrap().garbage.is_empty());
        // And a shipper that starts goes on from there.
        assert!(matches!(world.claim(false).unwrap(), crate::vault::attach::Decision::Delta(_)));
        grow(&mut world, 15);
    }
    assert_eq!(world.vault.groups().unwrap()[0].name, "db", "its first entry is gone");
}

#[test]
fn a_dry_run_says_what_would_be_deleted_and_changes_nothing() {
    let world = world(20);
    let before = names(&world.store);
    let pruning = plan(&world.vault, &world.group, &last(3), &TimeZone::UTC, 1).unwrap();
    let would = garbage(&world.group, Some(&pruning.catalog), &mut ()).unwrap().garbage;
    assert_eq!(names(&world.store), before);
    to(&world, last(3));
    assert_eq!(garbage(&world.group, None, &mut ()).unwrap().garbage, would);
    collect(&world.group, 1, &mut ()).unwrap();
    let deleted: BTreeSet<_> = would.into_iter().map(|garbage| garbage.name).collect();
    assert_eq!(&before - &names(&world.store), deleted);
}

#[test]
fn pins_outlive_every_rule_until_they_are_taken_away() {
    let mut world = world(12);
    let find = |world: &World, at: usize| {
        find(&world.vault, &world.group, &Wanted::Id(world.points[at].0.to_string())).unwrap()
    };
    let (old, new) = (find(&world, 2), find(&world, 11));
    assert!(pin(&world.group, &old, true, 1).unwrap() && !pin(&world.group, &old, true, 1).unwrap());
    assert!(pin(&world.group, &new, true, 1).unwrap());
    grow(&mut world, 12);
    for _ in 0..2 {
        to(&world, last(2));
        collect(&world.group, 1, &mut ()).unwrap();
        let points = sound(&world);
        assert!(
            points.contains(&old.id) && points.contains(&new.id) && points.len() <= 5,
            "{}",
            points.len()
        );
        grow(&mut world, 6);
    }
    assert!(pin(&world.group, &old, false, 1).unwrap());
    to(&world, last(2));
    collect(&world.group, 1, &mut ()).unwrap();
    assert!(!sound(&world).contains(&old.id));
    assert_eq!(pin(&world.group, &old, true, 1).unwrap_err().kind(), Kind::PointNotFound);
}

/// F38, F39, goal: a prune and a collection may end anywhere. Method: the store dies at each of their requests, and of each put and
/// delete the answer is lost; then all is done again.
#[test]
fn a_prune_and_a_collection_end_at_any_request_and_are_done_again() {
    let mut world = world(7);
    to(&world, last(4));
    grow(&mut world, 5);
    let original = world.store.copy();
    let mut ends = 0;
    for lost in [false, true] {
        for end in 0.. {
            world.switch(&original.copy());
            let calls = AtomicU64::new(0);
            let scripted = Scripted::new(world.store.clone(), move |call| {
                let writes = call.is_put() || call.what == What::Delete;
                if lost && !writes || calls.fetch_add(1, Ordering::Relaxed) != end {
                    return Mood::Good;
                }
                if lost { Mood::LoseAnswer } else { Mood::Die }
            });
            let group = Group { store: scripted.clone(), ..world.group.clone() };
            let vault = Vault { store: scripted, ..world.vault.clone() };
            let done =
                prune(&vault, &group, &last(3), &TimeZone::UTC, 1).and_then(|_| collect(&group, 1, &mut ()));
            let before = sound(&world);
            assert!(before.len() == 3 || before.len() == 9, "old or new: {}", before.len());
            to(&world, last(3));
            collect(&world.group, 1, &mut ()).unwrap();
            assert_eq!(sound(&world).len(), 3);
            assert!(garbage(&world.group, None, &mut ()).unwrap().garbage.is_empty());
            if done.is_ok() {
                break;
            }
            ends += 1;
        }
    }
    assert!(ends > 60, "{ends}");
}

/// The next entry of this world, as its writer would put it.
fn next(world: &World) -> (EntryHeader, Vec<u8>) {
    let base = world.base.as_ref().unwrap();
    let draft = Draft {
        kind: EntryKind::Point,
        cut: CutId([9; 16]),
        time_ns: 1,
        base: base.header.seq,
        attached: Vec::new(),
        payload: Payload::Content(base.content.clone()),
    };
    draft.encode(&world.group.seal, world.head, world.epoch)
}

/// F37, schedule: 1. a shipper has packs, stops before its entry, for weeks; 2. another claims, goes on, points are let
/// go and their entries deleted; 3. the first one's put finds its place free. It is told that it came too late, no reader
/// ever sees the entry, and the next collection takes it away.
#[test]
fn a_writer_that_slept_while_its_place_was_collected_is_fenced() {
    let mut world = world(6);
    let (header, bytes) = next(&world);
    // A shipper of another host, so with a memory of its own of catalogs.
    let asleep = world.vault.group("db");
    world.claim(false).unwrap();
    grow(&mut world, 3);
    world.claim(false).unwrap();
    grow(&mut world, 9);
    let kept = to(&world, last(2));
    collect(&world.group, 1, &mut ()).unwrap();
    assert!(world.group.entry_header(header.seq).unwrap().is_none(), "its place is free");
    // The entry before it is gone as well.
    assert_eq!(asleep.put_entry(&header, &bytes).unwrap_err().kind(), Kind::Revoked);
    // Even if it had looked for that one before it slept.
    world.store.put(&asleep.name_of(header.seq), &bytes).unwrap();
    assert_eq!(sound(&world), kept);
    let by_id = find(&world.vault, &world.group, &Wanted::Id(header.cut.to_string()));
    assert_eq!(by_id.unwrap_err().kind(), Kind::PointNotFound);
    collect(&world.group, 1, &mut ()).unwrap();
    assert!(world.group.entry_header(header.seq).unwrap().is_none());
    assert_eq!(sound(&world), kept);
}

/// F37: the same, with the sleep between the look at the entry before and the put.
#[test]
fn a_put_that_lands_where_nothing_exists_any_more_counts_for_nothing() {
    for found_again in [false, true] {
        let mut world = world(6);
        let (header, bytes) = next(&world);
        let mut others = World::new();
        others.switch(&world.store);
        (others.attached, others.base, others.disks) =
            (world.attached.clone(), world.base.clone(), world.disks.clone());
        others.points = world.points.clone();
        let others = std::sync::Mutex::new(Some(others));
        let store = Scripted::new(world.store.clone(), move |call| {
            if call.what == What::Create
                && let Some(mut others) = others.lock().unwrap().take()
            {
                others.claim(false).unwrap();
                grow(&mut others, 3);
                others.claim(false).unwrap();
                grow(&mut others, 9);
                to(&others, last(2));
                collect(&others.group, 1, &mut ()).unwrap();
                return if found_again { Mood::LoseAnswer } else { Mood::Good };
            }
            Mood::Good
        });
        let asleep = Group { store, ..world.vault.group("db") };
        let mut put = asleep.put_entry(&header, &bytes);
        if found_again {
            assert_eq!(put.unwrap_err().kind(), Kind::Unreachable);
            put = asleep.put_entry(&header, &bytes);
        }
        assert_eq!(put.unwrap_err().kind(), Kind::Revoked);
        assert!(world.group.entry_header(header.seq).unwrap().is_some(), "it is there, and does not exist");
        world.points.clear();
        assert_eq!(
            find(&world.vault, &world.group, &Wanted::Id("09".repeat(16))).unwrap_err().kind(),
            Kind::PointNotFound
        );
    }
}

/// F38, schedule: 1. a shipper has put packs of a cut that no entry lists; 2. somebody collects. Also under a claim
/// that continues the cut; and for a cut that an older claim closed and this one ships again, as after a crash behind a
/// fuzzy entry that the tracker was not told of.
#[test]
fn what_is_on_its_way_is_not_collected() {
    let mut world = world(8);
    world.freeze(CutId([5; 16]));
    let cut = CutId([5; 16]);
    let all = || simple((0..20).map(|block| (block, Change::Noise(77 + block))));
    world.pack_size = 1 << 14;
    world.publish(&all(), cut, EntryKind::Fuzzy, usize::MAX);
    let fuzzy = world.base.clone();
    world.claim(false).unwrap();
    assert_eq!(world.base.as_ref().unwrap().header.seq, fuzzy.unwrap().header.seq, "goes on over it");
    let orphan = names::pack(world.group.id(), 1, CutId([3; 16]), names::ObjectName([1; 16]));
    world.store.put(&orphan, b"left by a shipper that died").unwrap();
    // The same cut again: everything is put, and the entry is not.
    let asleep = world.store.copy();
    let header = world.publish(&all(), cut, EntryKind::Point, usize::MAX);
    let entry = world.store.get(&world.group.name_of(header.seq), 1 << 20).unwrap();
    world.store.delete(&world.group.name_of(header.seq)).unwrap();
    let packs = &names(&world.store) - &names(&asleep);
    assert!(packs.iter().any(|name| name.ends_with(".pack")));
    to(&world, last(2));
    collect(&world.group, 1, &mut ()).unwrap();
    assert!(packs.is_subset(&names(&world.store)));
    assert!(!names(&world.store).contains(&orphan), "something was collected");
    // The collector's entry has the place: the writer takes the next one, and everything that it lists is there.
    assert!(
        matches!(world.group.put_entry(&header, &entry).unwrap(), Appended::Theirs(by) if by.kind == EntryKind::Condemned)
    );
}

/// F38, schedule: 1. a collector has looked at everything; 2. it sleeps, and a claim, points, another prune and another
/// collection come; 3. it wakes, loses its place in the log, and looks again.
#[test]
fn a_collector_that_slept_looks_again() {
    for cycles in [0, 2] {
        let mut world = world(16);
        to(&world, last(6));
        let mut others = World::new();
        others.switch(&world.store);
        (others.attached, others.base, others.disks) =
            (world.attached.clone(), world.base.clone(), world.disks.clone());
        others.points = world.points.clone();
        let others = Arc::new(std::sync::Mutex::new((others, true)));
        let amid = others.clone();
        let store = Scripted::new(world.store.clone(), move |call| {
            let mut others = amid.lock().unwrap();
            if call.what == What::Create && std::mem::take(&mut others.1) {
                others.0.claim(false).unwrap();
                grow(&mut others.0, cycles);
                to(&others.0, last(2));
                collect(&others.0.group, 1, &mut ()).unwrap();
            }
            Mood::Good
        });
        let slow = Group { store, ..world.group.clone() };
        collect(&slow, 1, &mut ()).unwrap();
        let others = others.lock().unwrap();
        assert!(!others.1, "it slept");
        assert_eq!(sound(&others.0).len(), 2);
        world.points.clear();
    }
}

/// A busy shipper's entries do not keep a collector from its place for ever.
#[test]
fn a_collector_gets_its_place_beside_a_writer_who_is_quicker_each_time() {
    let world = Arc::new(std::sync::Mutex::new(world(16)));
    let (vault, store) = {
        let world = world.lock().unwrap();
        to(&world, last(3));
        (world.vault.clone(), world.store.clone())
    };
    let (busy, looked) = (world.clone(), Arc::new(AtomicU64::new(0)));
    let (seen, quicker) = (looked.clone(), AtomicU64::new(0));
    let scripted = Scripted::new(store, move |call| {
        let listing = call.what == What::List && call.name.ends_with("/log/");
        seen.fetch_add(u64::from(listing), Ordering::Relaxed);
        if call.what == What::Create && quicker.fetch_add(1, Ordering::Relaxed) < 5 {
            grow(&mut busy.lock().unwrap(), 1);
        }
        Mood::Good
    });
    let group = Group { store: scripted, ..vault.group("db") };
    collect(&group, 1, &mut ()).unwrap();
    assert_eq!(
        looked.load(Ordering::Relaxed),
        2,
        "one look: a page of the listing, and the empty one behind it"
    );
    let world = world.lock().unwrap();
    assert_eq!(sound(&world).len(), 8);
}

/// F34: every flipped bit of a catalog, and one that is lost or exchanged for another, is found.
#[test]
fn a_damaged_catalog_is_found() {
    let mut world = world(6);
    to(&world, last(3));
    world.claim(false).unwrap();
    grow(&mut world, 4);
    to(&world, last(2));
    // An entry rests on the newest one.
    assert!(collect(&world.group, 1, &mut ()).unwrap().deleted.0 > 0);
    let names: Vec<_> = [1, 2].into_iter().flat_map(|number| world.group.catalog_names(number)).collect();
    let found = |world: &World| verify(&world.vault, Some("db")).map_or(true, |report| !report.is_sound());
    let kept = sound(&world);
    for (at, name) in names.iter().enumerate() {
        let bytes = world.store.get(name, 1 << 20).unwrap();
        for bit in (0..bytes.len() * 8).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            world.store.overwrite(name, flipped);
            assert!(found(&world), "bit {bit} of {name}");
        }
        // Nobody is kept from going on.
        let points = || history(&world.vault, &world.group).unwrap().points;
        assert_eq!(points().iter().map(|point| point.id).collect::<Vec<_>>(), kept);
        world.store.overwrite(name, world.store.get(&names[at ^ 1], 1 << 20).unwrap());
        assert!(found(&world), "exchanged");
        world.store.delete(name).unwrap();
        // The second copy of the newest may be still to come.
        assert!(found(&world) || at == 3, "{name} is lost");
        assert_eq!(points().len(), kept.len());
        world.store.put(name, &bytes).unwrap();
    }
    for name in &names[2..] {
        world.store.overwrite(name, vec![7; 300]);
    }
    assert_eq!(history(&world.vault, &world.group).unwrap_err().kind(), Kind::Damage);
}

#[test]
fn who_can_not_read_all_that_is_needed_deletes_nothing() {
    let mut world = world(12);
    to(&world, last(5));
    collect(&world.group, 1, &mut ()).unwrap();
    grow(&mut world, 5);
    let kept = world.group.catalog(0).unwrap().unwrap().kept[0].entry.seq;
    let name = world.group.name_of(kept);
    let bytes = world.store.get(&name, 1 << 20).unwrap();
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damage in [None, Some(flipped)] {
        match &damage {
            Some(bytes) => world.store.overwrite(&name, bytes.clone()),
            None => world.store.delete(&name).unwrap(),
        }
        let before = names(&world.store);
        let error = collect(&world.group, 1, &mut ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Damage);
        assert!(error.line().contains(&name), "{}", error.line());
        assert!(plan(&world.vault, &world.group, &last(2), &TimeZone::UTC, 1).is_err());
        assert_eq!(names(&world.store), before);
        world.store.put(&name, &bytes).unwrap();
    }
    world.store.overwrite(&name, bytes);
    collect(&world.group, 1, &mut ()).unwrap();
    sound(&world);
}

/// F43: an entry that is lost or damaged does not keep a group from being pruned for ever.
#[test]
fn what_can_not_be_read_is_let_go_by_who_says_so() {
    let mut world = world(12);
    let name = world.group.name_of(4);
    let mut bytes = world.store.get(&name, 1 << 20).unwrap();
    bytes[150] ^= 1;
    world.store.overwrite(&name, bytes);
    let policy = |past_damage| Policy { last: 2, yearly: 9, past_damage, ..Policy::default() };
    let prune = |world: &World, past| prune(&world.vault, &world.group, &policy(past), &TimeZone::UTC, 1);
    assert_eq!(prune(&world, false).unwrap_err().kind(), Kind::Damage);
    let kept = prune(&world, true).unwrap();
    assert!(kept.verdicts.iter().all(|verdict| !verdict.point.abandoned), "the lineage goes on below it");
    collect(&world.group, 1, &mut ()).unwrap();
    // What it had attached is gone with it: points that show that are told, the others are sound.
    let report = verify(&world.vault, Some("db")).unwrap();
    assert_eq!(report.groups[0].points.len(), 2);
    assert!(history(&world.vault, &world.group).unwrap().damage.is_empty());
    world.claim(false).unwrap();
}

/// An index that can't be read keeps all that it may show, and nothing else from being collected.
#[test]
fn a_damaged_index_keeps_its_packs_and_no_others() {
    let mut world = world(14);
    to(&world, last(3));
    let index = names(&world.store).into_iter().rfind(|name| name.ends_with(".index"));
    let index = index.expect("a cycle whose index is an object of its own");
    let packs: Vec<_> = {
        let folder = &index[..index.rfind('/').unwrap()];
        names(&world.store)
            .into_iter()
            .filter(|name| name.starts_with(folder) && name.ends_with(".pack"))
            .collect()
    };
    world.store.overwrite(&index, vec![7; 3000]);
    let collected = collect(&world.group, 1, &mut ()).unwrap();
    assert!(collected.deleted.0 > 0 && !packs.is_empty(), "{collected:?} {packs:?}");
    let left = names(&world.store);
    assert!(packs.iter().all(|pack| left.contains(pack)));
    world.points.clear();
}

#[test]
fn a_store_that_lets_nobody_delete_is_told_and_the_collection_is_finished_by_others() {
    let world = world(14);
    to(&world, last(2));
    let store = Scripted::new(world.store.clone(), |call| match call.what {
        What::Delete => Mood::Fail(StoreErrorKind::Denied),
        _ => Mood::Good,
    });
    let group = Group { store, ..world.group.clone() };
    assert_eq!(collect(&group, 1, &mut ()).unwrap_err().kind(), Kind::Denied);
    let entries = world.group.head(0).unwrap();
    assert_eq!(sound(&world).len(), 2);
    // Condemned once, deleted by whoever may.
    assert!(collect(&world.group, 1, &mut ()).unwrap().deleted.0 > 0);
    assert_eq!(world.group.head(0).unwrap(), entries);
    assert_eq!(sound(&world).len(), 2);
    assert!(names(&world.store).iter().all(|name| names::parse(name).is_some()));
}

/// What a protection of all that there is asks to be locked.
fn protected(world: &World) -> BTreeSet<String> {
    let locked = Mutex::new(BTreeSet::new());
    let span = Span::new(SystemTime::UNIX_EPOCH, Duration::from_secs(4));
    let lock = |name: &str, asked: Span| {
        assert_eq!((asked, span.until), (span, SystemTime::UNIX_EPOCH + Duration::from_secs(5)));
        assert!(locked.lock().unwrap().insert(name.to_owned()), "{name} is locked once");
        Ok((Lock::Is, false))
    };
    let keys = protect_keys(&world.vault, &lock, span).unwrap();
    let done = protect(&world.group, &lock, span, &mut ()).unwrap();
    let locked = locked.into_inner().unwrap();
    assert_eq!(keys.objects + done.objects, locked.len() as u64);
    assert_eq!(keys.extended + done.extended, locked.len() as u64);
    locked
}

/// Goal: what is locked, and what is put after it, is all that any point needs. Method: points that were let go, a protection, more
/// points; then everything else is deleted, as whoever has the rights may.
#[test]
fn what_is_protected_and_what_is_put_after_it_is_all_that_points_need() {
    for (before, kept, after) in [(1, 9, 0), (14, 3, 0), (30, 4, 7), (31, 31, 1)] {
        let mut world = world(before);
        to(&world, last(kept));
        let locked = protected(&world);
        let there = names(&world.store);
        assert!(locked.is_subset(&there));
        let free: Vec<_> = there.difference(&locked).cloned().collect();
        assert_eq!(free.is_empty(), kept >= before as u32, "{free:?}");
        grow(&mut world, after);
        free.iter().for_each(|name| world.store.delete(name).unwrap());
        assert_eq!(sound(&world).len() as u64, (before.min(kept.into()) + after), "{before} {kept} {after}");
    }
}

/// F38: what is locked yet is no failure of a collection; it goes in a later one.
#[test]
fn what_the_store_keeps_yet_is_collected_later() {
    let world = world(30);
    to(&world, last(2));
    let kept = AtomicU64::new(0);
    let store = Scripted::new(world.store.clone(), move |call| match call.what {
        What::Delete if kept.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => {
            Mood::Fail(StoreErrorKind::Locked)
        }
        _ => Mood::Good,
    });
    let group = Group { store, ..world.group.clone() };
    let mut left = collect(&group, 1, &mut ()).unwrap();
    assert!(left.locked.0 > 3 && left.deleted.0.abs_diff(left.locked.0) < 2, "{left:?}");
    while left.locked.0 > 0 {
        let before = left.locked.0;
        left = collect(&group, 1, &mut ()).unwrap();
        assert_eq!(left.deleted.0 + left.locked.0, before);
    }
    assert!(garbage(&world.group, None, &mut ()).unwrap().garbage.is_empty());
    sound(&world);
}
