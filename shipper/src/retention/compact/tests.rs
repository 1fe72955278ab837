//! Compactions over small vaults: every point is what it was, packs that were mostly dead are gone, and who sleeps, dies or
//! races in between spoils nothing.

use super::super::collect::collect;
use super::super::tests::{last, names, sound, to};
use super::*;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::scripted::{Mood, Scripted};
use crate::vault::names::Parsed;
use crate::vault::sample::{Change, Cycle, World, simple};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const ALL: Bounds = Bounds { budget: 1 << 30, pack_size: 1 << 16 };

/// Changes of a disk of some blocks more.
fn disk(changes: impl IntoIterator<Item = (u64, Change)>) -> Cycle {
    let [(_, changes), other] = simple(changes);
    [(100 * 4096, changes), other]
}

/// A disk of which each cycle overwrites a part of what the first one has put, in packs of a few frames.
fn worn(cycles: u64) -> World {
    let mut world = World::new();
    (world.pack_size, world.attached_max) = (1 << 17, 0);
    world.cycle(&disk((0..96).map(|block| (block, Change::Noise(block)))));
    for n in 1..=cycles {
        let blocks = (0..96).filter(|block| block % 7 != 0 && block % 5 != n % 5);
        world.cycle(&disk(blocks.map(|block| (block, Change::Noise(n << 8 | block)))));
    }
    world
}

/// Packs and indexes that were moved, and those that were not.
fn data(store: &impl Store) -> (usize, usize) {
    let all = names(store);
    let moved = all.iter().filter(|name| matches!(names::parse(name), Some(Parsed::Moved { .. }))).count();
    let rest = all.iter().filter(|name| matches!(names::parse(name), Some(Parsed::Data { .. }))).count();
    (moved, rest)
}

/// The least share of a pack that shows, of those that may be moved.
fn least_live(world: &World) -> f64 {
    let (head, catalog) = world.group.tail(0).unwrap();
    let state = State::read(&world.group, head, catalog).unwrap();
    let reader = Arc::new(Reader::new(world.group.clone(), CACHE));
    let weighed = weigh::weigh(&reader, &state.contents(), &mut ()).unwrap();
    let victims = weigh::victims(&reader, &state, &weighed, u64::MAX).unwrap();
    match victims.emptied.1 {
        0 => 1.0,
        bytes => victims.live as f64 / bytes as f64,
    }
}

#[test]
fn what_shows_of_worn_packs_is_moved_and_the_packs_go() {
    for (cycles, kept) in [(6, 2), (20, 5), (20, 1)] {
        let mut world = worn(cycles);
        let points = to(&world, last(kept));
        collect(&world.group, 1, &mut ()).unwrap();
        assert!(least_live(&world) < 0.5, "packs are worn");
        let before = data(&world.store);
        let would = estimate(&world.group, None, ALL, &mut ()).unwrap();
        assert_eq!(data(&world.store), before, "an estimate changes nothing");
        let done = compact(&world.group, ALL, 1, &mut ()).unwrap();
        assert!(done.emptied.0 > 0 && done.emptied == would.emptied && done.put >= would.put, "{done:?}");
        assert_eq!(sound(&world), points, "before anything is deleted");
        let collected = collect(&world.group, 1, &mut ()).unwrap();
        assert!(collected.deleted.0 >= done.emptied.0, "{collected:?}");
        assert_eq!(sound(&world), points);
        assert!((least_live(&world) - 1.0).abs() < f64::EPSILON, "half of each pack shows");
        assert!(data(&world.store).1 < before.1 && data(&world.store).0 > 0);
        // There is nothing more to do, and it is found out without a change.
        let all = names(&world.store);
        assert_eq!(compact(&world.group, ALL, 1, &mut ()).unwrap(), Compacted::default());
        assert_eq!(names(&world.store), all);
        // The next shipper goes on over it, and what was moved wears too.
        assert!(matches!(world.claim(false).unwrap(), crate::vault::attach::Decision::Delta(_)));
        for n in 0..6 {
            let blocks = (0..96).filter(|block| block % 11 != n % 11);
            world.cycle(&disk(blocks.map(|block| (block, Change::Noise(1 << 20 | n << 8 | block)))));
        }
        for _ in 0..3 {
            let points = to(&world, last(1));
            compact(&world.group, ALL, 1, &mut ()).unwrap();
            collect(&world.group, 1, &mut ()).unwrap();
            assert_eq!(sound(&world), points);
        }
        let catalog = world.group.catalog(0).unwrap().unwrap();
        let listed: Vec<_> = listed_now(&world).iter().map(|index| index.name).collect();
        assert!(
            catalog.moved.iter().all(|moved| listed.contains(&moved.from)),
            "what nobody lists is forgotten"
        );
    }
}

fn listed_now(world: &World) -> Vec<IndexRef> {
    let (head, catalog) = world.group.tail(0).unwrap();
    listed(&State::read(&world.group, head, catalog).unwrap().contents())
}

#[test]
fn no_more_is_copied_than_may_be_and_at_least_one_pack() {
    let world = worn(20);
    to(&world, last(3));
    collect(&world.group, 1, &mut ()).unwrap();
    let one = compact(&world.group, Bounds { budget: 1, ..ALL }, 1, &mut ()).unwrap();
    assert_eq!(one.emptied.0, 1);
    assert_eq!(compact(&world.group, Bounds { budget: 0, ..ALL }, 1, &mut ()).unwrap(), Compacted::default());
    let rest = compact(&world.group, ALL, 1, &mut ()).unwrap();
    assert!(rest.emptied.0 > 1);
    collect(&world.group, 1, &mut ()).unwrap();
    sound(&world);
}

#[test]
fn what_rides_in_entries_that_were_let_go_is_moved_too() {
    // Of each cycle most is overwritten by later ones.
    let mut world = World::new();
    for n in 0..30u64 {
        let blocks = (n * 2..n * 2 + 20).map(|block| (block, Change::Noise(n << 8 | block)));
        world.cycle(&disk(blocks));
    }
    let points = to(&world, last(2));
    collect(&world.group, 1, &mut ()).unwrap();
    let entries = |store: &MemoryStore| {
        names(store).iter().filter(|name| matches!(names::parse(name), Some(Parsed::Entry { .. }))).count()
    };
    let before = entries(&world.store);
    let done = compact(&world.group, ALL, 1, &mut ()).unwrap();
    assert!(done.emptied.0 > 20, "{done:?}");
    collect(&world.group, 1, &mut ()).unwrap();
    assert_eq!(sound(&world), points);
    // Their indexes ride in them, and a shipper may be reading there until it has put its next entry.
    assert_eq!(entries(&world.store), before + 1, "and a condemned one");
    world.cycle(&disk([(0, Change::Zero)]));
    // Also if the condemned entry sinks below the boundary before that is found out.
    for _ in 0..3 {
        world.cycle(&disk([(1, Change::Zero)]));
    }
    let points = to(&world, last(2));
    collect(&world.group, 1, &mut ()).unwrap();
    assert!(entries(&world.store) + 15 < before, "{before} entries before");
    assert_eq!(sound(&world), points);
}

/// What is moved compresses to less than what a pack has around it: it is moved once, and not again and again.
#[test]
fn what_is_tiny_is_moved_once() {
    for attached in [0, 1 << 20] {
        let mut world = World::new();
        world.attached_max = attached;
        for n in 0..12u64 {
            let blocks = (n * 2..n * 2 + 40).map(|block| (block, Change::Text((n + block) as u8)));
            world.cycle(&disk(blocks));
        }
        let points = to(&world, last(2));
        for _ in 0..2 {
            compact(&world.group, ALL, 1, &mut ()).unwrap();
            collect(&world.group, 1, &mut ()).unwrap();
        }
        assert_eq!(sound(&world), points);
        assert_eq!(compact(&world.group, ALL, 1, &mut ()).unwrap(), Compacted::default(), "{attached}");
    }
}

#[test]
fn a_compaction_ends_at_any_request_and_is_done_again() {
    let mut world = worn(12);
    let points = to(&world, last(3));
    let store = world.store.copy();
    for mood in [Mood::Die, Mood::LoseAnswer] {
        for end in 1.. {
            let copy = store.copy();
            let calls = AtomicU64::new(0);
            let scripted = Scripted::new(copy.clone(), move |_| {
                if calls.fetch_add(1, Ordering::Relaxed) + 1 == end { mood } else { Mood::Good }
            });
            let mut group = world.group.clone();
            (group.store, group.known) = (scripted, Arc::default());
            let ended = compact(&group, ALL, 1, &mut ()).and_then(|_| collect(&group, 1, &mut ()));
            world.switch(&copy);
            assert_eq!(sound(&world), points, "after {mood:?} at {end}");
            compact(&world.group, ALL, 1, &mut ()).unwrap();
            collect(&world.group, 1, &mut ()).unwrap();
            assert_eq!(sound(&world), points, "after {mood:?} at {end}, and again");
            if mood == Mood::LoseAnswer && end > 4 || end > 400 {
                break;
            }
            if ended.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn nobody_sweeps_what_is_made_for_a_catalog_to_come() {
    let world = worn(12);
    let points = to(&world, last(3));
    // Another collector does all of it just before the catalog of the first.
    let inner = world.group.clone();
    let done = Mutex::new(false);
    let scripted = Scripted::new(world.store.clone(), move |call| {
        let catalog = matches!(names::parse(call.name), Some(Parsed::Catalog { .. }));
        if call.is_put() && catalog && !std::mem::replace(&mut *done.lock().unwrap(), true) {
            collect(&inner, 1, &mut ()).unwrap();
        }
        Mood::Good
    });
    let mut group = world.group.clone();
    group.store = scripted;
    compact(&group, ALL, 1, &mut ()).unwrap();
    assert_eq!(sound(&world), points);
    // Or it is quicker: then what the first one made is garbage, and goes; indexes when the shipper knows of all moves.
    let mut world = worn(12);
    let points = to(&world, last(3));
    let inner = world.group.clone();
    let done = Mutex::new(false);
    let scripted = Scripted::new(world.store.clone(), move |call| {
        let catalog = matches!(names::parse(call.name), Some(Parsed::Catalog { .. }));
        if call.is_put() && catalog && !std::mem::replace(&mut *done.lock().unwrap(), true) {
            compact(&inner, ALL, 1, &mut ()).unwrap();
            collect(&inner, 1, &mut ()).unwrap();
        }
        Mood::Good
    });
    let mut group = world.group.clone();
    group.store = scripted;
    compact(&group, ALL, 1, &mut ()).unwrap();
    assert_eq!(sound(&world), points);
    collect(&world.group, 1, &mut ()).unwrap();
    assert_eq!(sound(&world), points);
    world.cycle(&disk([(0, Change::Zero)]));
    collect(&world.group, 1, &mut ()).unwrap();
    let report = crate::verify::verify(&world.vault, Some("db")).unwrap();
    assert_eq!(report.groups[0].orphans, 0, "nothing of either is left that nobody needs");
}

/// Schedule: 1. a restore opens its images; 2. a compaction and a collection; 3. the restore reads on where nothing is any more.
#[test]
fn a_restore_goes_on_where_the_blocks_are_now() {
    use crate::restore::{Request, restore};
    let world = worn(12);
    let points = to(&world, last(3));
    collect(&world.group, 1, &mut ()).unwrap();
    let inner = world.group.clone();
    let done = Mutex::new(false);
    let scripted = Scripted::new(world.store.clone(), move |call| {
        let pack = matches!(names::parse(call.name), Some(Parsed::Data { index: false, .. }));
        if pack && !call.is_put() && !std::mem::replace(&mut *done.lock().unwrap(), true) {
            compact(&inner, ALL, 1, &mut ()).unwrap();
            assert!(collect(&inner, 1, &mut ()).unwrap().deleted.0 > 0);
        }
        Mood::Good
    });
    let vault = crate::vault::Vault { store: scripted, ..world.vault.clone() };
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let request = Request {
        group: "db".into(),
        disk: None,
        point: crate::points::Wanted::Id(points[0].to_string()),
        to: folder.path().join("disks"),
        how: Default::default(),
        jobs: 2,
    };
    let restored = restore(&vault, &request, &|_, _| {}).unwrap();
    let (_, disks) = world.points.iter().find(|(cut, _)| *cut == points[0]).unwrap();
    for (disk, expected) in restored.disks.iter().zip(disks) {
        assert!(std::fs::read(&disk.path).unwrap() == *expected, "{}", disk.name);
    }
}

#[test]
fn a_damaged_pack_is_left_where_it_is() {
    let world = worn(12);
    to(&world, last(3));
    collect(&world.group, 1, &mut ()).unwrap();
    let (head, catalog) = world.group.tail(0).unwrap();
    let state = State::read(&world.group, head, catalog).unwrap();
    let reader = Arc::new(Reader::new(world.group.clone(), CACHE));
    let weighed = weigh::weigh(&reader, &state.contents(), &mut ()).unwrap();
    let victims = weigh::victims(&reader, &state, &weighed, u64::MAX).unwrap();
    let name = reader.pack_place(&victims.packs[0]).object;
    let mut bytes = world.store.get(&name, 1 << 20).unwrap();
    // Some frame that shows, whichever it is: all of them.
    bytes[64..].iter_mut().step_by(100).for_each(|byte| *byte ^= 1);
    world.store.overwrite(&name, bytes);
    compact(&world.group, ALL, 1, &mut ()).unwrap();
    collect(&world.group, 1, &mut ()).unwrap();
    assert!(names(&world.store).contains(&name));
    let report = crate::verify::verify(&world.vault, Some("db")).unwrap();
    assert!(!report.is_sound());
    assert!(report.groups[0].damage.iter().all(|line| line.contains(&name)), "{:?}", report.groups[0].damage);
}
