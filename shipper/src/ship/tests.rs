//! The loop against a fake tracker and a store in memory.

mod audit;
mod damaged;
mod folding;
mod interrupted;
mod limit;
mod lineage;
mod pace;
mod passing;
mod requests;
mod unchanged;
mod unreadable;

use super::fake::{BLOCK, Fake, State};
use super::run::{Report, run_in};
use super::{Ended, Options, Stop, Summary, Surroundings};
use crate::limit::Rules;
use crate::pipeline::tests::{noise, restored};
use crate::pipeline::{Counters, MEMORY_MIN, Retry};
use crate::store::memory::MemoryStore;
use crate::vault::entry::{Content, EntryKind};
use crate::vault::{Group, Vault};
use crate::{Kind, Result};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Finds a hang, nothing else.
const HANG: Duration = Duration::from_secs(120);

/// Keeps what it is told, and stops the loop after so many entries.
struct Told<'a> {
    summaries: Mutex<Vec<Summary>>,
    stop: Option<(&'a Stop, usize)>,
}

impl Told<'_> {
    fn nothing() -> Self {
        Self { summaries: Mutex::default(), stop: None }
    }
}

impl Report for &Told<'_> {
    fn progress(&mut self, _: &Counters) {}

    fn published(&mut self, summary: &Summary) {
        let mut summaries = self.summaries.lock().unwrap();
        summaries.push(summary.clone());
        if let Some((stop, after)) = self.stop
            && summaries.len() >= after
        {
            stop.ask();
        }
    }
}

/// What the guest does between two cuts.
type Write = Box<dyn Fn(&mut State)>;

/// Writes for the guest after each published entry, by its number from 1; ends the loop after the last.
struct Guest<'a> {
    fake: &'a Fake,
    stop: &'a Stop,
    summaries: Vec<Summary>,
    writes: Vec<Write>,
}

impl Report for Guest<'_> {
    fn progress(&mut self, _: &Counters) {}

    fn published(&mut self, summary: &Summary) {
        self.summaries.push(summary.clone());
        match self.writes.get(self.summaries.len() - 1) {
            Some(write) => write(&mut self.fake.lock()),
            None => self.stop.ask(),
        }
    }
}

fn options(fake: &Fake, every: Option<Duration>) -> Options {
    Options {
        tracker: fake.socket(),
        every,
        full: false,
        distrust: false,
        resync_at: 0,
        take_over: false,
        memory: MEMORY_MIN,
        pack_size: 256 << 10,
        checkpoint_every: u64::MAX,
        fold_every: crate::vault::fold::EVERY,
        audit: 0,
        retry: Retry { first: Duration::from_millis(1), tries: 3 },
        limit: Rules::none(),
        minute: Duration::from_secs(60),
        tally: Arc::default(),
    }
}

fn new_vault() -> MemoryStore {
    let store = MemoryStore::new();
    Vault::init(Arc::new(store.clone()), 1).unwrap();
    store
}

fn group(store: &MemoryStore) -> Group {
    Vault::open(Arc::new(store.clone())).unwrap().group("vm")
}

fn run_with(store: &MemoryStore, options: &Options) -> Result<(Ended, Vec<Summary>)> {
    let told = Told::nothing();
    let vault = Vault::open(Arc::new(store.clone()))?;
    let ended = run_in(&Surroundings::here(), vault, options, &Stop::new(), &mut &told)?;
    Ok((ended, told.summaries.into_inner().unwrap()))
}

/// Makes one point and checks that it is the disk at that cut.
fn once(fake: &Fake, store: &MemoryStore) -> Result<Summary> {
    once_with(fake, store, &options(fake, None))
}

fn once_with(fake: &Fake, store: &MemoryStore, options: &Options) -> Result<Summary> {
    let (Ended::Once(summary), _) = run_with(store, options)? else { panic!("it was asked for one point") };
    assert_eq!(summary.kind, "point");
    check(fake, store, summary.entry);
    Ok(summary)
}

fn check(fake: &Fake, store: &MemoryStore, entry: u64) -> Content {
    let entry = group(store).entry_at(entry).unwrap();
    let content = entry.content().unwrap().clone();
    let state = fake.lock();
    let expected = &state.at_cut[&entry.header.cut];
    assert!(restored(&group(store), &content.disks[0]) == *expected, "entry {}", entry.header.seq);
    content
}

fn kinds(store: &MemoryStore) -> Vec<EntryKind> {
    let group = group(store);
    let head = group.head(0).unwrap();
    group.chain(1, head).unwrap().iter().map(|header| header.kind).collect()
}

fn disk(blocks: u64) -> Vec<u8> {
    (0..blocks).flat_map(|block| if block % 3 == 0 { vec![0; BLOCK] } else { noise(block) }).collect()
}

#[test]
fn once_after_once_gives_a_chain_of_points() {
    let (fake, store) = (Fake::new(disk(2000)), new_vault());
    let first = once(&fake, &store).unwrap();
    assert_eq!(first.bytes_changed, 2000 * BLOCK as u64);
    fake.lock().write(7, &noise(1 << 40));
    fake.lock().write(8, &[0; BLOCK]);
    let second = once(&fake, &store).unwrap();
    assert_eq!((second.bytes_changed, second.bytes_zero), (2 * BLOCK as u64, BLOCK as u64));
    assert_eq!(second.id, fake.lock().cuts[1].to_string());
    let third = once(&fake, &store).unwrap();
    assert_eq!(third.bytes_changed, 0, "a generation without changes still publishes a point");
    use EntryKind::{Claim, Point};
    assert_eq!(kinds(&store), [Claim, Point, Claim, Point, Claim, Point]);
    let asked = fake.lock().asked.clone();
    assert_eq!(asked, ["attach", "cut", "confirm", "release"].repeat(3));
}

/// What a guest wrote again as it was is shipped, unless it is so much that a comparison is cheaper; and a comparison of a part
/// of the disk ships what differs, zeros too.
#[test]
fn a_cycle_over_half_of_the_disk_ships_what_differs() {
    for (resync_at, blocks, shipped) in [(50, 1000, 3), (50, 990, 660), (0, 1000, 666)] {
        let (fake, store) = (Fake::new(disk(2000)), new_vault());
        once(&fake, &store).unwrap();
        for block in (0..2 * blocks).step_by(2) {
            let data = if block % 3 == 0 { vec![0; BLOCK] } else { noise(block) };
            fake.lock().write(block, &data);
        }
        [4, 8, 10].into_iter().for_each(|block| fake.lock().write(block, &noise(block << 32)));
        [14, 20].into_iter().for_each(|block| fake.lock().write(block, &[0; BLOCK]));
        let summary = once_with(&fake, &store, &Options { resync_at, ..options(&fake, None) }).unwrap();
        assert_eq!(summary.bytes_changed, blocks * BLOCK as u64, "{resync_at} %");
        let compared = resync_at > 0 && blocks >= 1000;
        let expected = if compared { shipped } else { shipped - 2 };
        assert_eq!(summary.bytes_shipped / BLOCK as u64, expected, "{resync_at} %, {blocks} blocks");
        let zeros = if compared { 2 } else { blocks - expected };
        assert_eq!(summary.bytes_zero / BLOCK as u64, zeros, "{resync_at} %, {blocks} blocks");
    }
}

#[test]
fn every_point_is_one_instant_although_the_guest_overwrites_while_it_ships() {
    let (fake, store) = (Fake::new(disk(3000)), new_vault());
    fake.lock().overwrite = 500;
    let stop = Stop::new();
    let told = Told { summaries: Mutex::default(), stop: Some((&stop, 5)) };
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let every = Some(Duration::from_millis(1));
    assert_eq!(
        run_in(&Surroundings::here(), vault, &options(&fake, every), &stop, &mut &told).unwrap(),
        Ended::Stopped
    );
    let summaries = told.summaries.into_inner().unwrap();
    assert_eq!(summaries.len(), 5);
    for summary in &summaries {
        check(&fake, &store, summary.entry);
    }
    assert!(summaries.iter().map(|summary| summary.reads_from_store).sum::<u64>() > 400);
    assert_eq!(kinds(&store)[0], EntryKind::Claim);
    assert!(kinds(&store)[1..].iter().all(|kind| *kind == EntryKind::Point), "one claim for a run");
}

#[test]
fn fuzzy_freezes_are_published_and_cut_again_until_one_is_exact() {
    let (fake, store) = (Fake::new(disk(500)), new_vault());
    fake.lock().fuzzy_cuts = 3;
    fake.lock().overwrite = 50;
    let summary = once(&fake, &store).unwrap();
    assert_eq!(summary.kind, "point");
    use EntryKind::{Claim, Fuzzy, Point};
    assert_eq!(kinds(&store), [Claim, Fuzzy, Fuzzy, Fuzzy, Point]);
}

#[test]
fn endless_fuzziness_is_given_up_with_the_rate() {
    let (fake, store) = (Fake::new(disk(500)), new_vault());
    fake.lock().fuzzy_cuts = u32::MAX;
    fake.lock().overwrite = 256;
    let error = run_with(&store, &options(&fake, None)).unwrap_err();
    assert_eq!(error.kind(), Kind::FuzzyGiveUp);
    // The fake's cuts are a second apart, and 256 blocks are a mebibyte (some are hit twice).
    let line = error.line();
    let rate =
        line.split_once(" MiB/s").and_then(|(before, _)| before.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(rate.is_some_and(|rate| (0.5..=1.0).contains(&rate)), "{line}");
    assert_eq!(kinds(&store).iter().filter(|kind| **kind == EntryKind::Fuzzy).count(), 6);
    // What was shipped fuzzily is completed by the next exact freeze.
    fake.lock().fuzzy_cuts = 0;
    once(&fake, &store).unwrap();
}

#[test]
fn a_missing_tracker_or_vault_is_one_clear_line() {
    let fake = Fake::new(disk(10));
    let nowhere = Options { tracker: "/dev/shm/no-such-socket".into(), ..options(&fake, None) };
    let error = run_with(&new_vault(), &nowhere).unwrap_err();
    assert_eq!(error.kind(), Kind::TrackerNotRunning);
    assert!(error.line().contains("--tracker"), "{}", error.line());
    let long = Options { tracker: format!("/{}", "x".repeat(200)).into(), ..options(&fake, None) };
    assert_eq!(run_with(&new_vault(), &long).unwrap_err().kind(), Kind::Usage);
    let error = run_with(&MemoryStore::new(), &options(&fake, None)).unwrap_err();
    assert_eq!(error.kind(), Kind::NotAVault);
    assert_eq!(fake.lock().asked.len(), 0);
}
