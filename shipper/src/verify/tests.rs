//! Damage of every kind, found.

use super::*;
use crate::restore::{Request, restore};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::vault::sample::{Change, World, secrets, simple};

/// A pack and an index of their own, things attached, a checkpoint, zeros, in as few bytes as possible.
fn small() -> World {
    let mut world = World::new();
    world.claim(false).unwrap();
    world.publish(
        &simple([(1, Change::Text(1)), (2, Change::Text(3)), (9, Change::Text(5))]),
        towline_tracker::id::CutId([9; 16]),
        EntryKind::Point,
        2,
    );
    world.cycle(&simple([(2, Change::Zero), (9, Change::Text(7))]));
    world
}

fn objects(store: &MemoryStore) -> Vec<(String, Vec<u8>)> {
    let names = store.list("", "", 1000).unwrap().into_iter().map(|object| object.name);
    names.map(|name| (name.clone(), store.get(&name, 1 << 30).unwrap())).collect()
}

/// The verdict as `towline verify` has it: opening the vault is part of it.
fn is_sound(store: &MemoryStore) -> bool {
    Vault::open_with(Arc::new(store.clone()), &secrets()).and_then(|vault| verify(&vault, None)).is_ok_and(
        |report| report.is_sound() && report.groups.len() == 1 && report.groups[0].points.len() == 2,
    )
}

#[test]
fn a_sound_vault_is_sound_and_everything_was_read() {
    let world = small();
    assert!(is_sound(&world.store));
    let report = verify(&world.vault, None).unwrap();
    assert!(report.unknown.is_empty());
    let group = &report.groups[0];
    assert_eq!((group.orphans, group.entries), (0, 4));
    assert!(group.points.iter().all(|(_, affected)| !affected));
}

/// Goal: no bit of a vault can change unnoticed. Method: flip each one, also cut, extend and delete each object.
#[test]
fn every_flipped_bit_cut_or_lost_object_is_found() {
    let world = small();
    let objects = objects(&world.store);
    assert!(objects.iter().any(|(name, _)| name.ends_with(".pack")));
    std::thread::scope(|scope| {
        for part in 0..2 {
            let (world, objects) = (&world, &objects);
            scope.spawn(move || {
                let store = world.store.copy();
                for (name, bytes) in objects {
                    for bit in (part..bytes.len() * 8).step_by(2) {
                        let mut flipped = bytes.clone();
                        flipped[bit / 8] ^= 1 << (bit % 8);
                        store.overwrite(name, flipped);
                        assert!(!is_sound(&store), "{name}, bit {bit}");
                    }
                    store.overwrite(name, bytes.clone());
                }
            });
        }
    });
    let store = world.store.copy();
    for (name, bytes) in &objects {
        for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            store.overwrite(name, bytes[..length].to_vec());
            assert!(!is_sound(&store), "{name} of {length} bytes");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        store.overwrite(name, longer);
        assert!(!is_sound(&store), "{name} with a byte more");
        store.delete(name).unwrap();
        // Without its last entry a log is an older log: found by who remembers the head, a tracker's anchor.
        let last = *name == names::entry(world.group.id(), 4);
        assert!(last || !is_sound(&store), "{name} deleted");
        store.overwrite(name, bytes.clone());
    }
    assert!(is_sound(&store));
}

/// Schedule: 1. somebody removes a group's log; 2. no listing of logs shows the group, and its packs are well formed:
/// every point is lost all the same.
#[test]
fn a_group_whose_whole_log_is_gone_is_damage() {
    let world = small();
    for (name, _) in objects(&world.store) {
        if name.starts_with(&names::log(world.group.id())) {
            world.store.delete(&name).unwrap();
        }
    }
    for group in [None, Some("db")] {
        let report = verify(&world.vault, group).unwrap();
        assert!(!report.is_sound() && report.groups.len() == 1, "{report:?}");
        assert!(report.groups[0].damage[0].contains("no log"), "{report:?}");
    }
    // A name that nobody ever used is a mistake, not damage.
    assert_eq!(verify(&world.vault, Some("none")).unwrap_err().kind(), Kind::GroupNotFound);
}

#[test]
fn swapped_objects_are_found() {
    let world = small();
    let objects = objects(&world.store);
    let store = world.store.copy();
    for (name, bytes) in &objects {
        for (other, others) in &objects {
            if name != other {
                store.overwrite(name, others.clone());
                store.overwrite(other, bytes.clone());
                assert!(!is_sound(&store), "{name} and {other}");
                store.overwrite(other, others.clone());
            }
        }
        store.overwrite(name, bytes.clone());
    }
}

/// Goal: "affected" is exactly "can't be restored". Method: damage each pack in turn, ask, and try.
#[test]
fn a_point_is_affected_exactly_when_it_can_not_be_restored() {
    let mut world = World::new();
    for round in 0..5u64 {
        let blocks = (round * 5..round * 5 + 12).map(|n| (n, Change::Noise(n << 8 | round)));
        let cut = towline_tracker::id::CutId::random();
        let header = world.publish(&simple(blocks), cut, EntryKind::Point, 6);
        world.release(&header);
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut hit, mut spared) = (0, 0);
    for (name, bytes) in objects(&world.store).iter().filter(|(name, _)| name.contains("/packs/")) {
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 3] ^= 1;
        world.store.overwrite(name, damaged);
        let report = verify(&world.vault, Some("db")).unwrap();
        assert_eq!(report.groups[0].damage.len(), 1, "{:?}", report.groups[0].damage);
        for (point, affected) in &report.groups[0].points {
            let to = folder.path().join(point.id.to_string());
            let request = Request {
                group: "db".into(),
                disk: None,
                point: crate::points::Wanted::Id(point.id.to_string()),
                to: to.clone(),
                how: Default::default(),
                jobs: 1,
            };
            let restored = restore(&world.vault, &request, &|_, _| {}).is_ok();
            assert_eq!(restored, !affected, "{name} and point {}", point.id);
            *(if restored { &mut spared } else { &mut hit }) += 1;
            let _ = std::fs::remove_dir_all(&to);
        }
        world.store.overwrite(name, bytes.clone());
    }
    assert!(hit > 5 && spared > 5, "{hit} {spared}");
}

#[test]
fn orphans_are_counted_and_strangers_named() {
    let world = small();
    let pack = objects(&world.store).into_iter().find(|(name, _)| name.ends_with(".pack")).unwrap();
    let orphan = pack.0.replace(&pack.0[pack.0.len() - 37..pack.0.len() - 5], &"7".repeat(32));
    world.store.put("stray.txt", b"hello").unwrap();
    world.store.put(&orphan, &pack.1).unwrap();
    let report = verify(&world.vault, None).unwrap();
    assert_eq!(report.unknown, ["stray.txt"]);
    assert_eq!(report.groups[0].orphans, 1);
    assert!(!report.is_sound(), "the orphan is sealed under another name");
    assert!(report.groups[0].points.iter().all(|(_, affected)| !affected));
}

/// Goal: what a released version wrote stays readable. Method: a vault of format 1, kept as it was written.
#[test]
fn the_vault_of_format_1_still_verifies_and_restores() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/vault-1");
    let vault = Vault::open(crate::store::open(golden).unwrap()).unwrap();
    let report = verify(&vault, None).unwrap();
    assert!(report.is_sound(), "{:?}", report.groups[0].damage);
    let group = &report.groups[0];
    assert_eq!((group.group.as_str(), group.entries, group.objects), ("db", 6, 12));
    let folder = tempfile::tempdir().unwrap();
    let expected = [
        (
            "09090909090909090909090909090909",
            [
                "6a59bd352b188da5386bc3d0789316589de15d752159d3b2de42808e111dd82c",
                "7eb9ff4325b78f0192450e86997b7796ce789d5d4cb05765f17a9bbb594eba31",
            ],
        ),
        (
            "7b23ffe8310345aa4594233ed4d9d233",
            [
                "156e548de939aefaf450d8fe117d7932070aaf3a6f9f3755eb2ad9ceae18dc65",
                "989a5986cf44cf056efe4c987985761bd4ae1242eaccb5030aa6a45185e95641",
            ],
        ),
    ];
    for (id, hashes) in expected {
        let to = folder.path().join(id);
        let point = id.parse().unwrap();
        let request = Request { group: "db".into(), disk: None, point, to, how: Default::default(), jobs: 2 };
        let restored = restore(&vault, &request, &|_, _| {}).unwrap();
        let found =
            restored.disks.iter().map(|disk| blake3::hash(&std::fs::read(&disk.path).unwrap()).to_string());
        assert_eq!(found.collect::<Vec<_>>(), hashes, "{id}");
    }
}

/// Goal: what each depth promises. Method: each object lost, cut, and a bit of each pack's data flipped.
#[test]
fn less_depth_reads_less_and_still_finds_what_is_missing() {
    let world = small();
    let objects = objects(&world.store);
    let at = |depth| {
        let options = Options { depth, draw: crate::edge::kernel, progress: &|_, _| {}, notes: None };
        verify_with(&world.vault, Some("db"), &options)
    };
    let whole = at(Depth::All).unwrap();
    let packs = whole.groups[0].packs.0;
    assert_eq!(whole.groups[0].packs, (packs, packs));
    // A log without its last entry is an older log: that a point is missing shows by its number.
    let found =
        |depth| !at(depth).is_ok_and(|report| report.is_sound() && report.groups[0].points.len() == 2);
    for (name, bytes) in objects.iter().filter(|(name, _)| name.starts_with("groups/")) {
        world.store.delete(name).unwrap();
        assert!(found(Depth::Structure), "{name} is lost");
        world.store.overwrite(name, bytes[..bytes.len() - 1].to_vec());
        assert!(found(Depth::Structure), "{name} is cut");
        let mut flipped = bytes.clone();
        flipped[crate::vault::envelope::HEADER + 20] ^= 1;
        world.store.overwrite(name, flipped);
        if name.ends_with(".pack") {
            assert!(!found(Depth::Structure) && found(Depth::Sample(1.0)) && found(Depth::All), "{name}");
        }
        world.store.overwrite(name, bytes.clone());
    }
    let report = at(Depth::Structure).unwrap();
    assert!(report.is_sound() && report.groups[0].packs == (packs, 0));
    assert!(report.groups[0].bytes < whole.groups[0].bytes);
}

/// Goal: an interrupted verification goes on, reads no pack twice, and a finished one begins anew. Method: a store that counts
/// reads of packs and is away after some; packs that are damaged before and after they were read.
#[test]
fn an_interrupted_verification_goes_on_and_a_finished_one_begins_anew() {
    use crate::store::StoreErrorKind;
    use crate::store::scripted::{Mood, Scripted, What};
    use std::sync::atomic::{AtomicUsize, Ordering};

    let mut world = World::new();
    world.pack_size = 1 << 16;
    for round in 0..10u64 {
        world.cycle(&simple((0..40).map(|n| (n, Change::Noise(n << 8 | round)))));
    }
    let (reads, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
    let (counted, allowed) = (reads.clone(), left.clone());
    let store = Scripted::new(world.store.clone(), move |call| {
        if !matches!(call.what, What::Range { .. }) || !call.name.ends_with(".pack") {
            return Mood::Good;
        }
        let more = allowed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        counted.fetch_add(usize::from(more.is_ok()), Ordering::SeqCst);
        if more.is_ok() { Mood::Good } else { Mood::Fail(StoreErrorKind::Transient) }
    });
    let vault = Vault::open_with(store, &secrets()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("verifications");
    const NOW: u64 = 1 << 60;
    let run = |depth, now_ns, anew, most| {
        left.store(most, Ordering::SeqCst);
        reads.store(0, Ordering::SeqCst);
        let notes = Some(Notes { folder: &folder, now_ns, anew });
        let options = Options { depth, draw: crate::edge::kernel, progress: &|_, _| {}, notes };
        let report = verify_with(&vault, None, &options);
        (report, reads.load(Ordering::SeqCst))
    };
    let interrupted =
        |depth, now_ns| assert_eq!(run(depth, now_ns, false, 5).0.unwrap_err().kind(), Kind::Unreachable);
    let (whole, all) = run(Depth::All, NOW, false, usize::MAX);
    let (whole, all) = (whole.unwrap(), all);
    assert!(whole.is_sound() && whole.groups[0].before.is_none() && all > 8, "{all} packs");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "finished is finished");

    interrupted(Depth::All, NOW);
    let (report, rest) = run(Depth::All, NOW + 1, false, usize::MAX);
    let report = report.unwrap();
    let before = report.groups[0].before.unwrap();
    let packs = whole.groups[0].packs.0;
    assert_eq!(report.groups[0].packs, (packs, packs - before.packs), "each is read, now or before");
    assert!(before.packs > 0 && before.bytes > 0 && before.since_ns == NOW && report.is_sound());
    // Of four readers each may have read what the interruption kept it from noting.
    assert!(rest + 5 >= all && rest < all, "{rest} of {all}");
    assert_eq!(run(Depth::All, NOW, false, usize::MAX).1, all, "a finished one begins anew");

    // Interrupted again and again it comes to its end.
    let rounds = (0..all).take_while(|_| run(Depth::All, NOW, false, 5).0.is_err()).count();
    assert!((2..all / 2).contains(&rounds), "{rounds} rounds for {all} packs");

    // Another depth, another week, or the word: anew.
    for (depth, now_ns, anew) in [
        (Depth::Sample(1.0), NOW, false),
        (Depth::All, NOW + (8 * 24 * 3600 * 1_000_000_000), false),
        (Depth::All, NOW - 1, false),
        (Depth::All, NOW, true),
    ] {
        interrupted(Depth::All, NOW);
        let (report, read) = run(depth, now_ns, anew, usize::MAX);
        assert!(read == all && report.unwrap().groups[0].before.is_none(), "{depth:?} {now_ns} {anew}");
    }
    // A sample is the same one before and after.
    interrupted(Depth::Sample(1.0), NOW);
    let sample = run(Depth::Sample(1.0), NOW, false, usize::MAX);
    let report = sample.0.unwrap();
    assert_eq!(report.groups[0].packs.1 + report.groups[0].before.unwrap().packs, packs);

    // What is cut off or foreign in the file says nothing; a pack that it does not name is read and its damage told.
    interrupted(Depth::All, NOW);
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    let object = |line: &str| {
        let pack = line.split(' ').nth(1)?;
        objects(&world.store).into_iter().find(|(name, _)| name.ends_with(&format!("{pack}.pack")))
    };
    let (cut, name) = text.lines().rev().find_map(|line| Some((line, object(line)?))).unwrap();
    let without = text.replace(&format!("{cut}\n"), "foreign\n");
    std::fs::write(&file, without + &cut[..40]).unwrap();
    let mut flipped = name.1.clone();
    flipped[crate::vault::envelope::HEADER + 20] ^= 1;
    world.store.overwrite(&name.0, flipped);
    for (most, sound) in [(5, None), (usize::MAX, Some(false)), (usize::MAX, Some(false))] {
        let report = run(Depth::All, NOW, false, most).0;
        assert_eq!(
            report.ok().map(|report| report.is_sound()),
            sound,
            "what is damaged is never remembered as read"
        );
    }
}
