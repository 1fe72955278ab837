//! Folds, compared with what they stand for.

use super::super::Vault;
use super::super::entry::EntryKind;
use super::super::frame::BlockHash;
use super::super::image::{Found, Image};
use super::super::index::PackRef;
use super::super::limits::INDEX_REF;
use super::super::sample::{BLOCK, Change, Cycle, World, simple, with_edges};
use super::*;
use crate::points::Wanted;
use crate::restore::{Request, restore};
use crate::store::Store;
use crate::store::scripted::{Mood, Scripted, What};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use towline_tracker::id::CutId;

const BLOCKS: u64 = 100;

/// Where a block is, to the byte, and its hash.
type Block = (PackRef, (u64, u32, u32, u16), BlockHash);

/// All that an image has; `None`: zeros.
fn walk(group: &Group, disk: &DiskImage) -> Vec<Option<Block>> {
    let image = Image::open(Arc::new(Reader::new(group.clone(), 1 << 20)), disk).unwrap();
    let mut walk = Vec::new();
    for window in image.windows(64) {
        let window = window.unwrap();
        walk.extend((window.first()..).take(window.count()).map(|block| match window.get(block) {
            Found::Zero => None,
            Found::Data { frame, slot, hash } => {
                let place = (frame.offset, frame.sealed, frame.number, slot);
                Some((*image.pack(frame.pack), place, *hash))
            }
        }));
    }
    walk
}

/// Folds a part of a disk's list at once.
fn fold(group: &Group, disk: &DiskImage, due: Due, part_bytes: usize) -> crate::Result<Vec<IndexRef>> {
    let reader = Arc::new(Reader::new(group.clone(), 8 << 10));
    let mut fold = Fold::new(reader, 1, disk, due, part_bytes);
    loop {
        if let Some(parts) = fold.step()? {
            return Ok(parts);
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<u64>().prop_map(Change::Noise),
        any::<u8>().prop_map(Change::Text),
        Just(Change::Zero),
        Just(Change::Zero)
    ]
}

/// A disk of up to [`BLOCKS`], that often has the size that it had.
fn disk() -> impl Strategy<Value = (u64, BTreeMap<u64, Change>)> {
    let size = prop_oneof![Just(BLOCKS * BLOCK as u64), 1..BLOCKS * BLOCK as u64];
    size.prop_flat_map(|size| {
        let blocks = size.div_ceil(BLOCK as u64);
        (Just(size), prop::collection::btree_map(0..blocks, change(), 0..40))
    })
}

fn cycles(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Cycle>> {
    prop::collection::vec([disk(), disk()], count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Goal: whatever is below and above, a fold reads as what it stands for, also a fold of folds. Method: any part of any list
    /// of changes, zeros and resizes is folded, some times one after another, with parts of any size; all walks are the same.
    #[test]
    fn a_fold_reads_as_what_it_folds(
        cycles in cycles(2..10),
        folds in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5),
        part_bytes in prop_oneof![Just(1usize), 200usize..4000, Just(1 << 20)],
        attached in any::<bool>(),
    ) {
        let mut world = World::new();
        world.attached_max = if attached { 1 << 20 } else { 0 };
        for cycle in &cycles {
            world.cycle(cycle);
        }
        for mut disk in world.base.clone().unwrap().content.disks {
            let expected = walk(&world.group, &disk);
            for (from, to) in &folds {
                let length = disk.indexes.len();
                if length < 2 {
                    break;
                }
                let from = from.index(length);
                let range = from..from + 1 + to.index(length - from);
                let of = disk.indexes[range.clone()].to_vec();
                let parts = fold(&world.group, &disk, Due { range, level: 1 }, part_bytes).unwrap();
                prop_assert!(splice(&mut disk.indexes, &of, from == 0, &parts));
                prop_assert_eq!(&walk(&world.group, &disk), &expected);
            }
        }
    }

    /// Goal: every point of a writer that folds is its cut. Method: cycles, and as many steps of folding between two as come; every
    /// point is read again at the end.
    #[test]
    fn every_point_over_folds_reads_as_the_model(
        cycles in prop::collection::vec(([disk(), disk()], 0usize..12, 5usize..80, any::<bool>()), 4..24),
        every in 2usize..5,
        memory in prop_oneof![Just(64u64), Just(1 << 20)],
    ) {
        let mut world = World::new();
        let (mut folder, mut unlisted) = (None, Unlisted::default());
        for (mut cycle, steps, checkpoint, fuzzy) in cycles {
            with_edges(&mut cycle, &world.disks);
            let kind = if fuzzy { EntryKind::Fuzzy } else { EntryKind::Point };
            world.publish(&cycle, CutId::random(), kind, checkpoint);
            let folder = folder.get_or_insert_with(|| Folder::new(&world.group, world.epoch, every, memory));
            let base = world.base.as_mut().unwrap();
            (0..steps).take_while(|_| folder.step(&mut base.content, &mut unlisted)).for_each(drop);
        }
        let hasher = world.group.hasher();
        let mut points = world.points.iter();
        for seq in 1..=world.group.head(0).unwrap() {
            let entry = world.group.entry_at(seq).unwrap();
            if entry.header.kind != EntryKind::Point {
                continue;
            }
            let (_, model) = points.next().unwrap();
            for (disk, model) in entry.content().unwrap().disks.iter().zip(model) {
                prop_assert_eq!(disk.size, model.len() as u64);
                for (block, found) in walk(&world.group, disk).into_iter().enumerate() {
                    let mut bytes = model[block * BLOCK..model.len().min((block + 1) * BLOCK)].to_vec();
                    bytes.resize(BLOCK, 0);
                    match found {
                        None => prop_assert!(bytes.iter().all(|byte| *byte == 0), "block {}", block),
                        Some((.., hash)) => prop_assert_eq!(hasher.hash(&bytes), hash, "block {}", block),
                    }
                }
            }
        }
    }
}

/// A world with so many cycles behind it, each with a block of its own and one that they share.
fn world(cycles: u64) -> World {
    let mut world = World::new();
    for n in 0..cycles {
        world.cycle(&simple([(n % 30, Change::Noise(n)), (35, Change::Noise(100 + n))]));
    }
    world
}

fn folder(world: &World, every: usize) -> Folder {
    Folder::new(&world.group, world.epoch, every, 1 << 20)
}

fn all(folder: &mut Folder, content: &mut Content) {
    while folder.step(content, &mut Unlisted::default()) {}
}

#[test]
fn a_list_stays_short_and_only_packs_that_show_are_in_a_fold() {
    let mut world = world(1);
    let mut folder = folder(&world, 4);
    for n in 1..=64 {
        world.cycle(&simple([(n % 3, Change::Noise(n))]));
        all(&mut folder, &mut world.base.as_mut().unwrap().content);
        let listed = world.base.as_ref().unwrap().content.disks[0].indexes.len();
        assert!(listed <= 3 * 4, "{listed} after {n}");
    }
    let disk = &world.base.as_ref().unwrap().content.disks[0];
    assert_eq!(disk.indexes[0].level, 3, "{:?}", disk.indexes);
    let reader = Reader::new(world.group.clone(), 0);
    let index = reader.open_index(&disk.indexes[0]).unwrap();
    // Those of blocks 0 to 2, and of the one that nothing was laid over.
    assert_eq!((index.directory.packs.len(), index.directory.data_blocks), (4, 4));
    assert!(
        index.directory.packs.iter().all(|pack| pack.entry > 0),
        "they ride in entries, and say in which"
    );
}

#[test]
fn a_fold_is_used_only_for_what_stands_side_by_side() {
    let world = world(6);
    let disk = world.base.as_ref().unwrap().content.disks[0].clone();
    let of = &disk.indexes;
    let part = IndexRef { level: 1, ..of[3] };
    let spliced = |list: &[IndexRef], of: &[IndexRef], bottom| {
        let mut list = list.to_vec();
        splice(&mut list, of, bottom, &[part]).then_some(list)
    };
    assert_eq!(spliced(of, &of[1..4], false), Some(vec![of[0], part, of[4], of[5]]));
    assert_eq!(spliced(of, &of[..4], true), Some(vec![part, of[4], of[5]]));
    assert_eq!(spliced(&of[..3], &of[1..4], false), None);
    assert_eq!(spliced(&[of[0], of[1], of[3]], &of[1..4], false), None);
    let other = IndexRef { hash: [1; 32], ..of[2] };
    assert_eq!(spliced(&[of[1], other, of[3]], &of[1..4], false), None);
    assert_eq!(spliced(&of[1..], &of[1..4], true), Some(vec![part, of[4], of[5]]));
    assert_eq!(spliced(of, &of[1..4], true), None, "something is below");
}

/// Schedule: 1. a fold is made for a base; 2. before it is done the next entries are published; 3. it takes its place among
/// theirs; 4. of another list nothing is replaced.
#[test]
fn a_fold_that_takes_longer_goes_into_the_base_of_then() {
    let mut world = world(4);
    let mut folder = folder(&world, 4);
    assert!(folder.step(&mut world.base.as_mut().unwrap().content, &mut Unlisted::default()));
    world.cycle(&simple([(1, Change::Zero)]));
    let other = world.base.clone().unwrap().content;
    let mut forgotten = other.clone();
    forgotten.forget(other.disks[0].id);
    all(&mut folder, &mut world.base.as_mut().unwrap().content);
    let levels =
        |content: &Content| content.disks[0].indexes.iter().map(|index| index.level).collect::<Vec<_>>();
    assert_eq!(levels(&world.base.as_ref().unwrap().content), [1, 0]);
    assert_eq!(
        walk(&world.group, &other.disks[0]),
        walk(&world.group, &world.base.as_ref().unwrap().content.disks[0])
    );

    let mut folder = Folder::new(&world.group, world.epoch, 4, 1 << 20);
    let mut content = other.clone();
    (0..3).for_each(|_| assert!(folder.step(&mut content, &mut Unlisted::default())));
    all(&mut folder, &mut forgotten);
    assert_eq!(forgotten.disks.len(), 1, "nothing to fold for, nothing done");
}

/// Schedule: 1. an index of a list is lost; 2. its fold can't be made, nor one of all that is newer: that is no error, and is not
/// tried at each cycle; 3. once the page is only damaged and what it says was shipped again, all of it is folded.
#[test]
fn what_cannot_be_read_is_left_alone_and_what_is_covered_is_not_read() {
    let mut world = World::new();
    world.attached_max = 0;
    // Two pages, of which the first is damaged.
    let many = |seed: u64| (0..900).map(move |n| (n * 2, Change::Noise(seed + n)));
    let size = 2000 * BLOCK as u64;
    let cycle = |changes: Vec<(u64, Change)>| -> Cycle {
        [(size, changes.into_iter().collect()), (0, BTreeMap::new())]
    };
    for seed in 0..4 {
        world.cycle(&cycle(if seed == 1 { many(0).collect() } else { vec![(1, Change::Noise(seed))] }));
    }
    let damaged = world.base.as_ref().unwrap().content.disks[0].indexes[1];
    let object = damaged.object(world.group.id());
    let whole = world.store.get(&object, 1 << 20).unwrap();
    let mut bytes = whole.clone();
    bytes[100] ^= 1;
    world.store.overwrite(&object, bytes);

    let mut folder = folder(&world, 4);
    let gets = |world: &mut World, folder: &mut Folder| {
        let content = &mut world.base.as_mut().unwrap().content;
        let mut steps = 0;
        while folder.step(content, &mut Unlisted::default()) {
            steps += 1;
        }
        steps
    };
    assert!(gets(&mut world, &mut folder) > 4);
    let levels = |world: &World| {
        world.base.as_ref().unwrap().content.disks[0]
            .indexes
            .iter()
            .map(|index| index.level)
            .collect::<Vec<_>>()
    };
    assert_eq!(levels(&world), [0, 0, 0, 0]);
    // Not at each cycle.
    for seed in 10..13 {
        world.cycle(&cycle(vec![(3, Change::Noise(seed))]));
        assert_eq!(gets(&mut world, &mut folder), 0);
    }
    // Everything is shipped again, above: not in the part that would be folded.
    world.cycle(&cycle((0..2000).map(|n| (n, Change::Noise(5000 + n))).collect()));
    let expected = walk(&world.group, &world.base.as_ref().unwrap().content.disks[0]);
    assert!(gets(&mut world, &mut folder) > 4);
    assert_eq!(levels(&world).len(), 1);
    assert_eq!(walk(&world.group, &world.base.as_ref().unwrap().content.disks[0]), expected);
}

/// What was read of a store: requests, objects, bytes.
#[derive(Default)]
struct Reads {
    objects: BTreeSet<String>,
    requests: usize,
    bytes: u64,
}

/// Goal: what is read for point 500 is what its image needs, not its history (V12): at most 1.2 times the objects, requests and
/// bytes of one index and of the frames in which something shows. Method: a disk, 499 small cycles and what folding makes of
/// them between two, a restore through a store that counts.
#[test]
fn a_restore_of_point_500_reads_what_its_image_needs() {
    const DISK: u64 = 1024;
    let mut world = World::new();
    let mut random = 1u64;
    let mut draw = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    let cycle =
        |changes: BTreeMap<u64, Change>| -> Cycle { [(DISK * BLOCK as u64, changes), (0, BTreeMap::new())] };
    world.cycle(&cycle((0..DISK).map(|block| (block, Change::Noise(block))).collect()));
    let mut folder = folder(&world, EVERY);
    for n in 1..500 {
        world.cycle(&cycle((0..4).map(|k| (draw() % DISK, Change::Noise(n << 20 | k << 12))).collect()));
        all(&mut folder, &mut world.base.as_mut().unwrap().content);
    }
    let point = world.group.entry_at(world.head.unwrap().seq).unwrap();
    let disk = point.content().unwrap().disks[0].clone();
    assert!(disk.indexes.len() <= 3 * EVERY, "{} indexes", disk.indexes.len());
    assert!(point.header.payload < 3 * EVERY as u64 * INDEX_REF as u64 + 1024);

    let mut needs = Reads::default();
    let mut one = disk.clone();
    one.indexes =
        fold(&world.group, &disk, Due { range: 0..disk.indexes.len(), level: 9 }, usize::MAX).unwrap();
    let image = Image::open(Arc::new(Reader::new(world.group.clone(), 1 << 20)), &one).unwrap();
    let window = image.window(0, usize::try_from(DISK).unwrap()).unwrap();
    let frames: BTreeSet<_> = window.data().map(|(_, frame, ..)| *frame).collect();
    needs.objects.extend(frames.iter().map(|frame| image.reader().pack_place(image.pack(frame.pack)).object));
    needs.objects.insert(world.group.name_of(point.header.seq));
    needs.bytes = frames.iter().map(|frame| u64::from(frame.sealed)).sum::<u64>()
        + one.indexes[0].length
        + point.header.object_length();
    // The frames of a pack of that size are one request; the entry is one, and the index.
    needs.requests = needs.objects.len() + 1;
    needs.objects.insert(one.indexes[0].object(world.group.id()));

    let reads = Arc::new(Mutex::new(Reads::default()));
    let counted = reads.clone();
    let counting = Scripted::new(world.store.clone(), move |call| {
        let mut reads = counted.lock().unwrap();
        if let What::Range { length, .. } = call.what {
            reads.objects.insert(call.name.to_owned());
            reads.requests += 1;
            reads.bytes += length as u64;
        }
        Mood::Good
    });
    let vault = Vault { store: counting, ..world.vault.clone() };
    let folder = tempfile::tempdir().unwrap();
    let request = Request {
        group: "db".into(),
        disk: Some("disk0.raw".into()),
        point: Wanted::Latest,
        to: folder.path().join("disk"),
        how: Default::default(),
        jobs: 1,
    };
    restore(&vault, &request, &|_, _| {}).unwrap();
    assert!(std::fs::read(&request.to).unwrap() == world.points.last().unwrap().1[0]);
    let reads = reads.lock().unwrap();
    let told = format!(
        "{} objects of {}, {} requests of {}, {} bytes of {}",
        reads.objects.len(),
        needs.objects.len(),
        reads.requests,
        needs.requests,
        reads.bytes,
        needs.bytes
    );
    println!("{told}; {} indexes", disk.indexes.len());
    assert!(reads.objects.len() * 10 <= needs.objects.len() * 12, "{told}");
    assert!(reads.requests * 10 <= needs.requests * 12, "{told}");
    assert!(reads.bytes * 10 <= needs.bytes * 12, "{told}");
}
