//! Whole cycles in memory: what is shipped can be restored, whatever the store does.

#![allow(clippy::single_range_in_vec_init)] // A list of one extent is meant.

use super::*;
use crate::edge::Edge;
use crate::limit::{Limit, Rules};
use crate::source::{FreezeInfo, MemoryDisk, MemorySource, Source, SourceDisk};
use crate::store::memory::MemoryStore;
use crate::store::scripted::{Mood, Scripted};
use crate::store::{Store, StoreErrorKind};
use crate::vault::attach::{Claimant, Decision};
use crate::vault::entry::{Content, EntryHeader, EntryKind, Totals};
use crate::vault::publish::Publisher;
use crate::vault::{Group, Vault};
use crate::{Kind, Result};
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use towline_tracker::control::message::{Attached, DiskInfo, LiveFreeze};
use towline_tracker::id::{Anchor, AttachNumber, Cut, CutId, DiskId, Generation, Session, TargetId};

const BLOCK: usize = 4096;

/// Hooks that say exact, or not, and count.
struct Quiet {
    exact: bool,
    confirmed: u32,
    entries: Vec<EntryKind>,
}

impl Quiet {
    fn new(exact: bool) -> Self {
        Self { exact, confirmed: 0, entries: Vec::new() }
    }
}

impl Hooks for Quiet {
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    fn confirm(&mut self) -> Result<bool> {
        self.confirmed += 1;
        assert!(!self.entries.contains(&EntryKind::Point), "confirmed before the point is put (R2)");
        Ok(self.exact)
    }

    fn published(&mut self, header: &EntryHeader, _content: &Content) -> Result<()> {
        self.entries.push(header.kind);
        Ok(())
    }
}

pub(crate) fn noise(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A group of disks in memory, its tracker's memory of the vault, and the vault.
struct World {
    store: MemoryStore,
    disks: Vec<Vec<u8>>,
    attached: Attached,
    plan: Plan,
    checkpoint: Checkpoint,
    retry: Retry,
}

impl World {
    fn new(disks: Vec<Vec<u8>>) -> Self {
        let store = MemoryStore::new();
        Vault::init(Arc::new(store.clone()), 1).unwrap();
        let infos = disks.iter().enumerate().map(|(n, data)| DiskInfo {
            id: DiskId([n as u8 + 1; 16]),
            name: format!("disk{n}"),
            size: data.len() as u64,
            block_shift: 12,
            resync: None,
        });
        let attached = Attached {
            attach: AttachNumber(1),
            group: "vm".into(),
            session: Session(1),
            disks: infos.collect(),
            anchor: None,
            live: None,
            vouched: Vec::new(),
        };
        let plan = Plan { pack_size: 512 << 10, ..Plan::new(MEMORY_MIN, 1 << 20, 3) };
        let checkpoint = Checkpoint { bytes: u64::MAX, age: Duration::from_secs(3600) };
        let retry = Retry { first: Duration::from_micros(100), tries: 4 };
        Self { store, disks, attached, plan, checkpoint, retry }
    }

    /// Cuts: these extents of each disk are frozen.
    fn cut(&mut self, frozen: Vec<Vec<Range<u64>>>, compare: bool, whole: bool) -> MemorySource {
        let cut = CutId::random();
        self.attached.live = Some(LiveFreeze {
            cut,
            generation: Generation(1),
            time_ns: 1,
            sealed: true,
            fuzzy: false,
            shipped: [0; 32],
        });
        self.attached.vouched = vec![Cut { id: cut, time_ns: 1 }];
        self.freeze(cut, frozen, compare, whole)
    }

    fn freeze(&self, cut: CutId, frozen: Vec<Vec<Range<u64>>>, compare: bool, whole: bool) -> MemorySource {
        let info = FreezeInfo {
            cut,
            first_generation: Generation(1),
            generation: Generation(1),
            time_ns: 1,
            fuzzy: false,
        };
        let disks =
            frozen.into_iter().zip(&self.disks).zip(&self.attached.disks).map(|((frozen, data), info)| {
                let blocks: u64 = frozen.iter().map(|extent| extent.end - extent.start).sum();
                let about = SourceDisk {
                    id: info.id,
                    name: info.name.clone(),
                    size: data.len() as u64,
                    block_shift: 12,
                    compare,
                    whole,
                    frozen_bytes: blocks * BLOCK as u64,
                };
                MemoryDisk { about, data: data.clone(), frozen }
            });
        MemorySource::new(info, disks.collect())
    }

    fn whole(&self) -> Vec<Vec<Range<u64>>> {
        self.disks.iter().map(|data| vec![0..(data.len() as u64).div_ceil(BLOCK as u64)]).collect()
    }

    /// What a shipper does from its start on: claims, and ships the freeze.
    fn ship(
        &mut self,
        store: Arc<dyn Store>,
        source: &MemorySource,
        hooks: &mut dyn Hooks,
    ) -> Result<(Shipped, Counters)> {
        let vault = Vault::open(store)?;
        let group = vault.group("vm");
        let claimant = Claimant { host: "h".into(), target: TargetId([1; 16]), time_ns: 1 };
        let claimed = group.claim(&self.attached, &claimant, false, &mut || Ok(()))?;
        let base = claimed.decision.base().cloned();
        let mut publisher = Publisher::new(group.seal.clone(), &claimed.claim);
        let content = base.as_ref().map(|base| &base.content);
        let compare: Vec<_> = source
            .disks()
            .iter()
            .map(|disk| (disk.compare || disk.whole) && below::shape(disk).base_image(content).is_some())
            .collect();
        let below: Box<dyn Below> = match content {
            Some(content) => Box::new(ImageBelow::open(&group, content, source.disks(), &compare, 1 << 20)?),
            None => Box::new(NothingBelow),
        };
        let (skip, totals) = match &claimed.decision {
            Decision::Continue(base) => (base.content.covered.clone(), base.content.totals),
            _ => (Vec::new(), Totals::default()),
        };
        let counters = Counters::default();
        let cycle = Cycle {
            source,
            group: &group,
            base: content,
            below: &*below,
            compare: &compare,
            lately: None,
            skip: &skip,
            totals,
            session: Session(1),
            attach: AttachNumber(1),
            plan: self.plan,
            checkpoint: self.checkpoint,
            retry: self.retry,
            limit: &Limit::new(&Rules::none(), 1),
            counters: &counters,
            edge: Edge::SYSTEM,
            crew: Crew::Threads,
        };
        let shipped = ship(&cycle, &mut publisher, hooks)?;
        let header = shipped.header;
        self.attached.anchor = Some(Anchor { vault: vault.id(), seq: header.seq, hash: header.hash() });
        self.attached.live = None;
        self.attached.vouched.clear();
        Ok((shipped, counters))
    }

    fn ship_quietly(&mut self, source: &MemorySource) -> Shipped {
        let store = Arc::new(self.store.clone());
        self.ship(store, source, &mut Quiet::new(true)).unwrap().0
    }

    fn group(&self) -> Group {
        Vault::open(Arc::new(self.store.clone())).unwrap().group("vm")
    }

    /// The newest image must be the disks as they are.
    fn check(&self, content: &Content) {
        for (data, image) in self.disks.iter().zip(&content.disks) {
            assert_eq!(image.size, data.len() as u64);
            assert!(restored(&self.group(), image) == *data, "disk {}", image.name);
        }
    }

    fn write(&mut self, disk: usize, block: u64, data: &[u8]) {
        let at = block as usize * BLOCK;
        self.disks[disk][at..at + data.len()].copy_from_slice(data);
    }
}

/// The bytes of an image, frame by frame.
pub(crate) fn restored(group: &Group, image: &crate::vault::entry::DiskImage) -> Vec<u8> {
    use crate::vault::access::Reader;
    use crate::vault::image::Image;
    let reader = Arc::new(Reader::new(group.clone(), 1 << 20));
    let opened = Image::open(reader.clone(), image).unwrap();
    let mut out = vec![0; opened.blocks() as usize * BLOCK];
    for first in (0..opened.blocks()).step_by(512) {
        let count = 512.min(opened.blocks() - first) as usize;
        let window = opened.window(first, count).unwrap();
        for (block, frame, slot, hash) in window.data() {
            let pack = opened.pack(frame.pack);
            let mut sealed =
                reader.read(&reader.pack_place(pack), frame.offset, frame.sealed as usize).unwrap();
            let opener = reader.pack_opener(pack);
            let body = opener.open(frame.number.into(), &mut sealed).unwrap();
            let data = crate::vault::frame::decode("pack", body, frame.blocks as usize, 12).unwrap();
            let data = &data[usize::from(slot) * BLOCK..][..BLOCK];
            assert_eq!(group.hasher().hash(data), *hash);
            out[block as usize * BLOCK..][..BLOCK].copy_from_slice(data);
        }
    }
    out.truncate(image.size as usize);
    out
}

/// A disk of `blocks` blocks: noise, text and zeros.
fn mixed(blocks: u64, seed: u64) -> Vec<u8> {
    (0..blocks)
        .flat_map(|block| match (block / 7 + seed) % 4 {
            0 => vec![0; BLOCK],
            1 => vec![block as u8 | 1; BLOCK],
            _ => noise(block + (seed << 32)),
        })
        .collect()
}

#[test]
fn an_initial_cycle_and_deltas_restore_to_the_disks() {
    let mut tail = mixed(900, 2);
    tail.truncate(tail.len() - 1536);
    let mut world = World::new(vec![mixed(3000, 1), tail]);
    let source = world.cut(world.whole(), false, true);
    let shipped = world.ship_quietly(&source);
    assert_eq!(shipped.header.kind, EntryKind::Point);
    world.check(&shipped.content);
    let totals = shipped.content.totals;
    assert_eq!(totals.bytes_changed, (3000 + 900) * BLOCK as u64);
    assert_eq!(totals.blocks_put + totals.blocks_zero, 3900);
    assert!(totals.blocks_zero > 900 && totals.bytes_put > totals.blocks_put * BLOCK as u64 / 2);

    // A delta: data over zeros, zeros over data, and the last, partial block.
    for block in 0..40 {
        world.write(0, block * 5, &noise(900 + block));
        world.write(1, block, &[0; BLOCK]);
    }
    world.write(1, 899, &[7; BLOCK - 1536]);
    let frozen = vec![(0..40).map(|block| block * 5..block * 5 + 1).collect(), vec![0..40, 899..900]];
    let source = world.cut(frozen, false, false);
    let shipped = world.ship_quietly(&source);
    world.check(&shipped.content);
    assert!(shipped.header.attached > 0, "a small cycle rides inside its entry");

    // A point without changes.
    let source = world.cut(vec![vec![], vec![]], false, false);
    let shipped = world.ship_quietly(&source);
    world.check(&shipped.content);
    assert_eq!((shipped.content.totals.bytes_put, shipped.header.attached), (0, 0));
}

/// Goal: each object is a request, also where disks are many. Method: cycles that are too large to ride in their entries, of
/// which something is.
#[test]
fn beside_large_packs_the_indexes_and_the_small_packs_ride_in_the_entry() {
    let mut world = World::new((0..6).map(|disk| mixed(1200, disk)).collect());
    let source = world.cut(world.whole(), false, true);
    world.ship_quietly(&source);
    let objects = |world: &World| world.store.list("groups/", "", usize::MAX).unwrap().len();
    // Blocks of each disk, and how many packs are objects of their own.
    for (cycle, (blocks, own)) in [
        ([600, 10, 10, 0, 1, 10], 1),
        ([300, 0, 0, 300, 0, 0], 2),
        ([200, 200, 200, 0, 0, 9], 2),
        ([9; 6], 0),
    ]
    .into_iter()
    .enumerate()
    {
        for (disk, blocks) in blocks.iter().enumerate() {
            (0..*blocks)
                .for_each(|block| world.write(disk, block, &noise(block << 16 | (cycle as u64 + 7) << 40)));
        }
        let frozen =
            blocks.iter().map(|blocks| if *blocks > 0 { vec![0..*blocks] } else { vec![] }).collect();
        let source = world.cut(frozen, false, false);
        world.plan.pack_size = 16 << 20;
        let before = objects(&world);
        let shipped = world.ship_quietly(&source);
        world.check(&shipped.content);
        assert!(shipped.header.attached > 0, "cycle {cycle}");
        assert_eq!(objects(&world) - before, 2 + own, "a claim, an entry, and packs: cycle {cycle}");
    }
}

#[test]
fn an_inexact_freeze_becomes_a_fuzzy_entry_after_one_question() {
    let mut world = World::new(vec![mixed(300, 1)]);
    let source = world.cut(world.whole(), false, true);
    let mut hooks = Quiet::new(false);
    let (shipped, _) = world.ship(Arc::new(world.store.clone()), &source, &mut hooks).unwrap();
    assert_eq!((shipped.header.kind, hooks.confirmed), (EntryKind::Fuzzy, 1));
    assert_eq!(hooks.entries, [EntryKind::Fuzzy]);
    // What the next freeze brings is laid over it.
    world.write(0, 5, &noise(1 << 40));
    let source = world.cut(vec![vec![5..6]], false, false);
    let shipped = world.ship_quietly(&source);
    assert_eq!(shipped.header.kind, EntryKind::Point);
    world.check(&shipped.content);
}

#[test]
fn a_comparison_puts_only_what_differs() {
    let mut world = World::new(vec![mixed(8192, 3)]);
    let source = world.cut(world.whole(), false, true);
    world.ship_quietly(&source);
    let mut differing = 0;
    for block in (0..8192).step_by(40) {
        world.write(0, block, &noise((7 << 40) + block));
        differing += BLOCK as u64;
    }
    world.write(0, 11, &[0; BLOCK]);
    let source = world.cut(world.whole(), true, true);
    let shipped = world.ship_quietly(&source);
    world.check(&shipped.content);
    let totals = shipped.content.totals;
    assert!(totals.bytes_put * 10 <= differing * 11, "{} put for {differing}", totals.bytes_put);
    assert!(totals.blocks_unchanged > 7900, "{totals:?}");
    // Holes are equal too: nothing differs, and next to nothing is put, although there are hundreds.
    let source = world.cut(world.whole(), true, true);
    let totals = world.ship_quietly(&source).content.totals;
    assert_eq!((totals.blocks_unchanged, totals.bytes_put), (8192, 0));
}

#[test]
fn a_block_whose_pack_is_missing_or_cut_is_shipped_again() {
    for cut in [false, true] {
        let mut world = World::new(vec![mixed(2048, 3)]);
        let source = world.cut(world.whole(), false, true);
        world.ship_quietly(&source);
        let packs: Vec<_> = world.store.list("groups/", "", 1000).unwrap();
        let pack = packs.iter().filter(|object| object.name.ends_with(".pack")).nth(3).unwrap();
        match cut {
            false => world.store.delete(&pack.name).unwrap(),
            true => {
                let bytes = world.store.get(&pack.name, usize::MAX).unwrap();
                world.store.overwrite(&pack.name, bytes[..bytes.len() - 1].to_vec());
            }
        }
        let source = world.cut(world.whole(), true, true);
        let shipped = world.ship_quietly(&source);
        world.check(&shipped.content);
        let totals = shipped.content.totals;
        assert!(totals.blocks_put > 0 && totals.blocks_put < 300, "{totals:?}");
    }
}

/// Schedule: 1. a checkpoint waits for one slow put; 2. the workers go on; 3. the next index must not grow meanwhile
/// beyond what it may have.
#[test]
fn an_index_stays_small_while_the_checkpoint_before_it_waits() {
    let mut world = World::new(vec![(0..12_000).flat_map(noise).collect()]);
    // An index of one job's blocks is full.
    world.plan =
        Plan { workers: 1, window: 2, putters: 2, index_bytes: Plan::index_weight(1024, 0), ..world.plan };
    let source = world.cut(world.whole(), false, true);
    let slow = Mutex::new(true);
    let store = Scripted::new(world.store.clone(), move |call| {
        let index = call.is_put() && call.name.ends_with(".index");
        if index && std::mem::take(&mut *slow.lock().unwrap()) {
            std::thread::sleep(Duration::from_secs(1));
        }
        Mood::Good
    });
    let (shipped, _) = world.ship(store, &source, &mut Quiet::new(true)).unwrap();
    world.check(&shipped.content);
    let largest = shipped.content.disks[0].indexes.iter().map(|index| index.length).max().unwrap();
    assert!(largest < 40 * 4 * 1024, "{largest} bytes");
}

/// Schedule: 1. every second block of the disk holds data; 2. all of it becomes one hole, and the sidecar is new: the
/// hole is compared with thousands of small runs.
#[test]
fn a_compared_hole_costs_one_run_whatever_is_below() {
    let data: Vec<u8> =
        (0..8192).flat_map(|block| if block % 2 == 0 { noise(block) } else { vec![0; BLOCK] }).collect();
    let mut world = World::new(vec![data]);
    let source = world.cut(world.whole(), false, true);
    world.ship_quietly(&source);
    world.disks[0].fill(0);
    let source = world.cut(world.whole(), true, true);
    let shipped = world.ship_quietly(&source);
    world.check(&shipped.content);
    assert_eq!(shipped.content.totals.blocks_zero, 4096);
    let index = shipped.content.disks[0].indexes.last().unwrap();
    assert!(index.length < 1024, "{} bytes", index.length);
}

/// V8: every put's answer is lost once; nothing is doubled, nothing is missing.
#[test]
fn lost_answers_and_bad_moments_change_nothing() {
    for bad in [Mood::LoseAnswer, Mood::Fail(StoreErrorKind::Transient)] {
        let mut world = World::new(vec![mixed(6000, 1)]);
        world.checkpoint.bytes = 1 << 20;
        let source = world.cut(world.whole(), false, true);
        let seen: Mutex<std::collections::HashSet<String>> = Mutex::default();
        let store = Scripted::new(world.store.clone(), move |call| {
            // The claim's own put is the vault's business; an entry is told by its number.
            let put = call.is_put() && !call.name.ends_with("/log/00000000000000000001");
            if put && seen.lock().unwrap().insert(call.name.to_owned()) { bad } else { Mood::Good }
        });
        let mut hooks = Quiet::new(true);
        let (shipped, _) = world.ship(store, &source, &mut hooks).unwrap();
        world.check(&shipped.content);
        let entries = hooks.entries.len() as u64;
        assert!(entries >= 2, "{:?}", hooks.entries);
        assert_eq!(world.group().head(0).unwrap(), entries + 1, "no entry was put twice");
    }
}

/// Schedule: 1. the answer to an entry's put is lost, and it is to be put again much later; 2. the caller stops: it does
/// not wait for that.
#[test]
fn a_stop_is_heard_while_an_entry_is_to_be_put_again() {
    struct Stopping(Arc<AtomicBool>);
    impl Hooks for Stopping {
        fn tick(&mut self) -> Result<()> {
            match self.0.load(Ordering::SeqCst) {
                true => Err(crate::Error::new(Kind::Stopped, "stopped")),
                false => Ok(()),
            }
        }
        fn confirm(&mut self) -> Result<bool> {
            Ok(true)
        }
        fn published(&mut self, _: &EntryHeader, _: &Content) -> Result<()> {
            panic!("nobody knows that");
        }
    }
    let mut world = World::new(vec![mixed(300, 1)]);
    world.retry = Retry { first: Duration::from_secs(60), tries: 4 };
    let source = world.cut(world.whole(), false, true);
    let stop = Arc::new(AtomicBool::new(false));
    let (asked, begun) = (stop.clone(), Instant::now());
    let store = Scripted::new(world.store.clone(), move |call| {
        if !call.is_put() || !call.name.ends_with("/log/00000000000000000002") {
            return Mood::Good;
        }
        // The stop comes in the middle of the pause.
        let asked = asked.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            asked.store(true, Ordering::SeqCst);
        });
        Mood::LoseAnswer
    });
    let error = world.ship(store, &source, &mut Stopping(stop)).unwrap_err();
    assert_eq!(error.kind(), Kind::Stopped, "{}", error.line());
    assert!(begun.elapsed() < Duration::from_secs(60), "the pause ended it");
    // The entry is there, and the next shipper finds it.
    assert_eq!(world.group().head(0).unwrap(), 2);
}

#[test]
fn a_store_that_stays_down_ends_the_cycle_and_leaves_the_log_alone() {
    let mut world = World::new(vec![mixed(500, 1)]);
    let source = world.cut(world.whole(), false, true);
    let store =
        Scripted::new(world.store.clone(), |call| match call.is_put() && !call.name.ends_with("01") {
            true => Mood::Fail(StoreErrorKind::Transient),
            false => Mood::Good,
        });
    let error = world.ship(store, &source, &mut Quiet::new(true)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_eq!(world.group().head(0).unwrap(), 1);
    let shipped = world.ship_quietly(&source);
    world.check(&shipped.content);
}

/// The shipper dies at every single put; the next one goes on from the last checkpoint and ends with the same image.
#[test]
fn a_shipper_killed_at_any_put_is_continued_from_its_last_checkpoint() {
    let every = 1 << 20;
    // Slow putters make fewer checkpoints: enough for thirty puts all the same.
    let data = mixed(8000, 1);
    let mut puts = 1;
    loop {
        let mut world = World::new(vec![data.clone()]);
        world.checkpoint.bytes = every;
        let source = world.cut(world.whole(), false, true);
        let store =
            Scripted::new(world.store.clone(), move |call| match call.is_put() && call.puts == puts {
                true => Mood::Die,
                false => Mood::Good,
            });
        match world.ship(store.clone(), &source, &mut Quiet::new(true)) {
            Ok((shipped, _)) => {
                world.check(&shipped.content);
                assert!(store.puts() < puts && puts > 30, "killed at each of {puts} puts");
                return;
            }
            Err(_) if world.group().head(0).unwrap() == 0 => {}
            Err(_) => {
                let head = world.group().head(0).unwrap();
                let last = world.group().entry_at(head).unwrap();
                world.attached.live.as_mut().unwrap().shipped = last.header.hash();
                let done: u64 = match last.content() {
                    Some(content) => content.totals.blocks_put,
                    None => 0,
                };
                let mut hooks = Quiet::new(true);
                let (shipped, counters) =
                    world.ship(Arc::new(world.store.clone()), &source, &mut hooks).unwrap();
                world.check(&shipped.content);
                let totals = shipped.content.totals;
                assert_eq!(totals.bytes_changed, data.len() as u64);
                // What the checkpoint has is neither read nor put again.
                let put = Counters::get(&counters.put);
                let rest = (totals.blocks_put - done) * BLOCK as u64;
                assert!(put <= rest + rest / 8 + (64 << 10), "{put} put, {rest} were left (put {puts})");
            }
        }
        puts += 1;
    }
}

/// Each of a checkpoint's reasons alone puts one: what was shipped, the time (a slow link), and the memory that the open
/// index takes. Without any there is none.
#[test]
fn a_checkpoint_is_put_after_so_many_bytes_or_so_long_or_before_the_index_outgrows_its_memory() {
    const NEVER: Checkpoint = Checkpoint { bytes: u64::MAX, age: Duration::from_secs(3600) };
    let checkpoints = |checkpoint: Checkpoint, index_bytes: u64| {
        let mut world = World::new(vec![mixed(6000, 1)]);
        world.checkpoint = checkpoint;
        world.plan.index_bytes = index_bytes;
        let source = world.cut(world.whole(), false, true);
        let mut hooks = Quiet::new(true);
        let (shipped, _) = world.ship(Arc::new(world.store.clone()), &source, &mut hooks).unwrap();
        world.check(&shipped.content);
        hooks.entries.iter().filter(|kind| **kind == EntryKind::Checkpoint).count()
    };
    assert_eq!(checkpoints(NEVER, u64::MAX), 0);
    assert!(checkpoints(Checkpoint { bytes: 1 << 20, ..NEVER }, u64::MAX) > 0);
    assert!(checkpoints(Checkpoint { age: Duration::ZERO, ..NEVER }, u64::MAX) > 0);
    assert!(checkpoints(NEVER, 100_000) > 0);
}

#[test]
fn nobody_else_claims_between_our_entries() {
    let mut world = World::new(vec![mixed(3000, 1)]);
    world.checkpoint.bytes = 1 << 20;
    let source = world.cut(world.whole(), false, true);
    let (inner, attached) = (world.store.clone(), world.attached.clone());
    // While our fifth pack is put, another shipper claims.
    let store = Scripted::new(world.store.clone(), move |call| {
        if call.is_put() && call.puts == 6 {
            let vault = Vault::open(Arc::new(inner.clone())).unwrap();
            let claimant = Claimant { host: "other".into(), target: TargetId([1; 16]), time_ns: 1 };
            let attached = Attached { attach: AttachNumber(2), ..attached.clone() };
            vault.group("vm").claim(&attached, &claimant, false, &mut || Ok(())).unwrap();
        }
        Mood::Good
    });
    let error = world.ship(store, &source, &mut Quiet::new(true)).unwrap_err();
    assert_eq!(error.kind(), Kind::Revoked, "{}", error.line());
    let head = world.group().head(0).unwrap();
    assert_eq!(world.group().entry_at(head).unwrap().header.kind, EntryKind::Claim);
}

#[test]
fn a_disk_that_shrank_and_grew_between_points_has_zeros_there() {
    let full = mixed(600, 5);
    let mut world = World::new(vec![full.clone()]);
    let source = world.cut(world.whole(), false, true);
    world.ship_quietly(&source);
    world.disks[0].truncate(100 * BLOCK);
    let source = world.cut(vec![vec![]], false, false);
    let shipped = world.ship_quietly(&source);
    world.check(&shipped.content);
    world.disks[0].resize(600 * BLOCK, 0);
    // What was cut off is dirty when it comes back.
    let source = world.cut(vec![vec![100..600]], false, false);
    let shipped = world.ship_quietly(&source);
    world.check(&shipped.content);
}

#[test]
fn an_error_of_a_hook_ends_the_cycle() {
    struct Tired;
    impl Hooks for Tired {
        fn tick(&mut self) -> Result<()> {
            Ok(())
        }
        fn confirm(&mut self) -> Result<bool> {
            Err(crate::Error::new(Kind::Revoked, "no more"))
        }
        fn published(&mut self, _: &EntryHeader, _: &Content) -> Result<()> {
            panic!("nothing may be published");
        }
    }
    let mut world = World::new(vec![mixed(300, 1)]);
    let source = world.cut(world.whole(), false, true);
    let vault = Vault::open(Arc::new(world.store.clone())).unwrap();
    let group = vault.group("vm");
    let claimant = Claimant { host: "h".into(), target: TargetId([1; 16]), time_ns: 1 };
    let claimed = group.claim(&world.attached, &claimant, false, &mut || Ok(())).unwrap();
    let mut publisher = Publisher::new(group.seal.clone(), &claimed.claim);
    let counters = Counters::default();
    let cycle = Cycle {
        source: &source,
        group: &group,
        base: None,
        below: &NothingBelow,
        compare: &[false],
        lately: None,
        skip: &[],
        totals: Totals::default(),
        session: Session(1),
        attach: AttachNumber(1),
        plan: world.plan,
        checkpoint: world.checkpoint,
        retry: Retry::STORE,
        limit: &Limit::new(&Rules::none(), 1),
        counters: &counters,
        edge: Edge::SYSTEM,
        crew: Crew::Threads,
    };
    assert_eq!(ship(&cycle, &mut publisher, &mut Tired).unwrap_err().kind(), Kind::Revoked);
}
