//! The loop against a fake tracker and a store in memory.

use super::fake::{BLOCK, Fake};
use super::run::{Report, run_into};
use super::tracker::Tracker;
use super::{Ended, Options, Stop, Summary};
use crate::pipeline::tests::{noise, restored};
use crate::pipeline::{Counters, MEMORY_MIN, Retry};
use crate::store::StoreErrorKind;
use crate::store::memory::MemoryStore;
use crate::store::scripted::{Call, Mood, Scripted};
use crate::vault::attach::{Claimant, Decision, TakeOver};
use crate::vault::entry::{Content, EntryKind};
use crate::vault::{Group, Vault};
use crate::{Kind, Result};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use towline_tracker::control::client::ANSWER_DEADLINE;
use towline_tracker::control::message::Attached;
use towline_tracker::id::TargetId;

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

fn options(fake: &Fake, every: Option<Duration>) -> Options {
    Options {
        tracker: fake.socket(),
        vault: String::new(),
        every,
        full: false,
        take_over: false,
        memory: MEMORY_MIN,
        pack_size: 256 << 10,
        checkpoint_every: u64::MAX,
        retry: Retry { first: Duration::from_millis(1), tries: 3 },
        minute: Duration::from_secs(60),
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
    let ended = run_into(vault, options, &Stop::new(), &mut &told)?;
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

#[test]
fn every_point_is_one_instant_although_the_guest_overwrites_while_it_ships() {
    let (fake, store) = (Fake::new(disk(3000)), new_vault());
    fake.lock().overwrite = 500;
    let stop = Stop::new();
    let told = Told { summaries: Mutex::default(), stop: Some((&stop, 5)) };
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let every = Some(Duration::from_millis(1));
    assert_eq!(run_into(vault, &options(&fake, every), &stop, &mut &told).unwrap(), Ended::Stopped);
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
    assert!(error.line().contains("MiB/s"), "{}", error.line());
    assert_eq!(kinds(&store).iter().filter(|kind| **kind == EntryKind::Fuzzy).count(), 6);
    // What was shipped fuzzily is completed by the next exact freeze.
    fake.lock().fuzzy_cuts = 0;
    once(&fake, &store).unwrap();
}

#[test]
fn a_point_that_was_not_released_is_adopted() {
    let (fake, store) = (Fake::new(disk(500)), new_vault());
    fake.lock().break_at = Some("release");
    let published = once(&fake, &store).unwrap();
    assert!(fake.lock().anchor.is_none(), "the tracker never heard of it");
    fake.lock().write(3, &noise(1 << 41));
    let next = once(&fake, &store).unwrap();
    assert_eq!(next.bytes_changed, BLOCK as u64);
    use EntryKind::{Claim, Point};
    assert_eq!(kinds(&store), [Claim, Point, Claim, Point]);
    assert_eq!(fake.lock().anchor.unwrap().seq, next.entry);
    assert!(published.entry < next.entry);
}

/// F39, the client's half: the connection breaks at every request in turn; the loop goes on and ends right.
#[test]
fn the_loop_outlives_a_tracker_that_breaks_off_anywhere() {
    for at in ["cut", "confirm", "release"] {
        let (fake, store) = (Fake::new(disk(400)), new_vault());
        once(&fake, &store).unwrap();
        fake.lock().write(3, &noise(1 << 41));
        fake.lock().break_at = Some(at);
        let stop = Stop::new();
        let told = Told { summaries: Mutex::default(), stop: Some((&stop, 2)) };
        let vault = Vault::open(Arc::new(store.clone())).unwrap();
        let every = Some(Duration::from_millis(1));
        assert_eq!(run_into(vault, &options(&fake, every), &stop, &mut &told).unwrap(), Ended::Stopped);
        for summary in told.summaries.into_inner().unwrap() {
            check(&fake, &store, summary.entry);
        }
        let cuts = fake.lock().cuts.clone();
        let group = group(&store);
        let headers = group.chain(1, group.head(0).unwrap()).unwrap();
        for cut in cuts {
            let points = headers.iter().filter(|header| header.cut == cut).count();
            assert!(points <= 1, "cut {cut} was published {points} times");
        }
    }
}

#[test]
fn an_interrupted_freeze_goes_on_from_its_checkpoint() {
    let (fake, store) = (Fake::new(disk(12_000)), new_vault());
    let every = Options { checkpoint_every: 1 << 20, ..options(&fake, None) };
    fake.lock().break_at = Some("confirm");
    let error = run_with(&store, &every).unwrap_err();
    assert_eq!(error.kind(), Kind::TrackerNotRunning);
    assert!(kinds(&store).contains(&EntryKind::Checkpoint), "{:?}", kinds(&store));
    let (ended, summaries) = run_with(&store, &every).unwrap();
    let Ended::Once(last) = ended else { panic!("it was asked for one point") };
    assert_eq!(summaries.len(), 2, "the open freeze is finished first, then the own cut is made");
    let finished = &summaries[0];
    assert_eq!(finished.id, fake.lock().cuts[0].to_string());
    assert_eq!(finished.bytes_changed, 12_000 * BLOCK as u64);
    assert_eq!(finished.bytes_shipped, 8000 * BLOCK as u64, "totals are those of the whole cycle");
    check(&fake, &store, finished.entry);
    check(&fake, &store, last.entry);
    let asked = fake.lock().asked.clone();
    assert!(asked.contains(&"reopen") && !asked.contains(&"undo"), "{asked:?}");
}

/// Schedule: 1. a shipper is killed in a delta freeze; 2. the operator, who doubts the vault, asks for everything:
/// finishing the open freeze is not what was asked for.
#[test]
fn a_full_cut_is_made_although_an_open_freeze_is_finished_first() {
    let (fake, store) = (Fake::new(disk(300)), new_vault());
    once(&fake, &store).unwrap();
    fake.lock().write(1, &noise(1 << 43));
    fake.lock().break_at = Some("confirm");
    run_with(&store, &options(&fake, None)).unwrap_err();
    let full = Options { full: true, ..options(&fake, None) };
    let (_, summaries) = run_with(&store, &full).unwrap();
    let changed: Vec<_> = summaries.iter().map(|summary| summary.bytes_changed / BLOCK as u64).collect();
    assert_eq!(changed, [1, 300]);
    // In a loop it is made once, also when the connection breaks in the middle of it.
    fake.lock().break_at = Some("confirm");
    let stop = Stop::new();
    let told = Told { summaries: Mutex::default(), stop: Some((&stop, 3)) };
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let full = Options { full: true, ..options(&fake, Some(Duration::from_millis(1))) };
    assert_eq!(run_into(vault, &full, &stop, &mut &told).unwrap(), Ended::Stopped);
    let summaries = told.summaries.into_inner().unwrap();
    let changed: Vec<_> = summaries.iter().map(|summary| summary.bytes_changed / BLOCK as u64).collect();
    assert_eq!(changed, [300, 0, 0]);
}

#[test]
fn a_newer_shipper_ends_the_older_one_even_while_it_waits() {
    let (fake, store) = (Fake::new(disk(300)), new_vault());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let older = scope.spawn(|| run_with(&store, &options(&fake, Some(Duration::from_secs(3600)))));
        while fake.lock().anchor.is_none() {
            assert!(begun.elapsed() < HANG);
            std::thread::sleep(Duration::from_millis(5));
        }
        once(&fake, &store).unwrap();
        let error = older.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Revoked, "{}", error.line());
    });
    assert!(begun.elapsed() < HANG);
    assert_eq!(fake.lock().attach, 2, "the older one did not attach again");
}

#[test]
fn a_vault_put_back_to_an_older_copy_is_compared_not_copied() {
    let (fake, store) = (Fake::new(disk(4000)), new_vault());
    once(&fake, &store).unwrap();
    let older = store.copy();
    for block in 0..20 {
        fake.lock().write(block * 3 + 1, &noise(block | 1 << 42));
    }
    once(&fake, &store).unwrap();
    let summary = once(&fake, &older).unwrap();
    assert_eq!(summary.bytes_changed, 4000 * BLOCK as u64);
    assert!(summary.bytes_shipped == 20 * BLOCK as u64, "{summary:?}");
    assert!(fake.lock().asked.contains(&"resynchronize"));
}

#[test]
fn a_new_sidecar_means_comparison_and_a_full_cut_can_be_asked_for() {
    let (fake, store) = (Fake::new(disk(3000)), new_vault());
    once(&fake, &store).unwrap();
    fake.lock().write(1, &noise(1 << 43));
    fake.lock().forget();
    let summary = once(&fake, &store).unwrap();
    assert_eq!(summary.bytes_shipped, BLOCK as u64);
    let full = Options { full: true, ..options(&fake, None) };
    let summary = once_with(&fake, &store, &full).unwrap();
    assert_eq!((summary.bytes_changed, summary.bytes_shipped), (3000 * BLOCK as u64, 0));
}

#[test]
fn a_copy_of_the_vault_used_in_turn_is_refused_until_it_is_taken_over() {
    let (fake, store) = (Fake::new(disk(1000)), new_vault());
    once(&fake, &store).unwrap();
    let copy = store.copy();
    fake.lock().write(1, &noise(1 << 44));
    once(&fake, &copy).unwrap();
    fake.lock().write(2, &noise(1 << 45));
    // The original goes on under another writer meanwhile.
    let other = Fake::new(disk(1000));
    other.lock().anchor = Some(first_point(&store));
    other.lock().write(5, &noise(1 << 46));
    once(&other, &store).unwrap();
    let error = once(&fake, &store).unwrap_err();
    assert_eq!(error.kind(), Kind::BrokenLineage, "{}", error.line());
    assert!(error.line().contains("--take-over"), "{}", error.line());
    let taken = Options { take_over: true, ..options(&fake, None) };
    let summary = once_with(&fake, &store, &taken).unwrap();
    assert!(summary.bytes_shipped <= 4 * BLOCK as u64, "{summary:?}");
}

/// Schedule: 1. a shipper that runs for ever takes a group over: its claim stands over the other lineage; 2. the
/// tracker goes away before anything is published, and comes back; 3. the word is still good for what was found, and
/// for nothing that came later.
#[test]
fn a_takeover_outlives_an_interruption_but_not_another_writer() {
    let broken = || {
        let (fake, store) = (Fake::new(disk(100)), new_vault());
        once(&fake, &store).unwrap();
        let copy = store.copy();
        let other = Fake::new(disk(100));
        other.lock().anchor = Some(first_point(&store));
        other.lock().write(5, &noise(1 << 46));
        once(&other, &store).unwrap();
        fake.lock().write(6, &noise(1 << 47));
        once(&fake, &copy).unwrap();
        assert_eq!(once(&fake, &store).unwrap_err().kind(), Kind::BrokenLineage);
        (fake, other, store)
    };
    let every = |fake: &Fake| Options { take_over: true, ..options(fake, Some(Duration::from_millis(1))) };
    for at in ["resynchronize", "cut", "confirm", "release"] {
        let (fake, _, store) = broken();
        fake.lock().break_at = Some(at);
        let stop = Stop::new();
        let told = Told { summaries: Mutex::default(), stop: Some((&stop, 2)) };
        let vault = Vault::open(Arc::new(store.clone())).unwrap();
        let ended = run_into(vault, &every(&fake), &stop, &mut &told);
        assert_eq!(ended.map_err(|error| error.line()), Ok(Ended::Stopped), "broken at {at}");
        for summary in told.summaries.into_inner().unwrap() {
            check(&fake, &store, summary.entry);
        }
    }
    // Somebody else publishes in between: that is not what the word was given for.
    let (fake, other, store) = broken();
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let group = vault.group("vm");
    let attached = attached(&fake);
    let claimant = Claimant { host: "h".into(), target: TargetId([1; 16]), time_ns: 1 };
    let claimed = group.claim(&attached, &claimant, true).unwrap();
    let word = TakeOver::Since(claimed.claim.reference());
    let claimed = group.claim(&attached, &claimant, word).unwrap();
    assert!(matches!(claimed.decision, Decision::Resync { taken_over: true, .. }), "{:?}", claimed.decision);
    let word = TakeOver::Since(claimed.claim.reference());
    other.lock().write(7, &noise(1 << 48));
    once(&other, &store).unwrap();
    assert_eq!(group.claim(&attached, &claimant, word).unwrap_err().kind(), Kind::BrokenLineage);
}

/// Schedule: 1. the store is full when the packs of a freeze come; 2. the loop waits and finds it full again; 3. then
/// there is room: the same freeze is finished, and the guest's later writes are in the next point.
#[test]
fn a_store_that_is_full_is_waited_for_longer_each_time_and_nothing_is_lost() {
    let (fake, store) = (Fake::new(disk(600)), new_vault());
    once(&fake, &store).unwrap();
    for block in 0..500 {
        fake.lock().write(block, &noise(block | 1 << 43));
    }
    // The first two attaches put their claims, but none of their packs.
    let claims = Mutex::new(0);
    let full = |call: &Call<'_>, full: bool| match call.is_put() && full {
        true => Mood::Fail(StoreErrorKind::NoSpace),
        false => Mood::Good,
    };
    let scripted = Scripted::new(store.clone(), move |call| {
        let mut claims = claims.lock().unwrap();
        *claims += u32::from(call.is_put() && call.name.contains("/log/"));
        full(call, *claims <= 2 && call.name.ends_with(".pack"))
    });
    let stop = Stop::new();
    let told = Told { summaries: Mutex::default(), stop: Some((&stop, 2)) };
    let minute = Duration::from_millis(40);
    let options = Options { minute, ..options(&fake, Some(Duration::from_millis(1))) };
    let begun = Instant::now();
    let vault = Vault::open(scripted).unwrap();
    assert_eq!(run_into(vault, &options, &stop, &mut &told).unwrap(), Ended::Stopped);
    assert!(begun.elapsed() >= 3 * minute, "one minute, then two");
    let summaries = told.summaries.into_inner().unwrap();
    assert_eq!(summaries[0].bytes_changed, 500 * BLOCK as u64);
    for summary in &summaries {
        check(&fake, &store, summary.entry);
    }
    let asked = fake.lock().asked.clone();
    let count = |what| asked.iter().filter(|asked| **asked == what).count();
    assert_eq!((count("attach"), count("reopen"), count("undo")), (4, 2, 0), "{asked:?}");
    assert_eq!(fake.lock().cuts.len(), 3, "the freeze was kept, not cut again");
    // Once is once: no waiting.
    fake.lock().write(1, &noise(1 << 44));
    let scripted = Scripted::new(store.clone(), move |call| full(call, call.name.contains("/log/")));
    let vault = Vault::open(scripted).unwrap();
    let error = run_into(vault, &self::options(&fake, None), &stop, &mut &Told::nothing()).unwrap_err();
    assert!(matches!(error.kind(), Kind::NoSpace | Kind::Stopped), "{}", error.line());
}

/// Schedule: 1. a shipper is in the middle of its puts; 2. another one, at another tracker of the same disk, claims the
/// group, of which the first one's tracker knows nothing; 3. the first one's next entry finds the claim in its place
/// (V1): it ends, and nothing of it stands behind the claim.
#[test]
fn a_shipper_that_loses_its_group_in_the_middle_of_its_puts_is_fenced_by_the_vault() {
    for checkpoint_every in [1 << 20, u64::MAX] {
        let (fake, other, store) = (Fake::new(disk(4000)), Fake::new(disk(4000)), new_vault());
        let (attached, claimed) = (attached(&other), Arc::new(Mutex::new(None)));
        let (inner, slot, packs) = (store.clone(), claimed.clone(), Mutex::new(0));
        let scripted = Scripted::new(store.clone(), move |call| {
            let pack = call.is_put() && call.name.ends_with(".pack");
            let mut packs = packs.lock().unwrap();
            *packs += u32::from(pack);
            if *packs == 12 && pack {
                let claimant = Claimant { host: "there".into(), target: TargetId([2; 16]), time_ns: 1 };
                let claim = group(&inner).claim(&attached, &claimant, false).unwrap().claim;
                *slot.lock().unwrap() = Some(claim);
            }
            Mood::Good
        });
        let options = Options { checkpoint_every, ..options(&fake, Some(Duration::from_millis(1))) };
        let vault = Vault::open(scripted).unwrap();
        let error = run_into(vault, &options, &Stop::new(), &mut &Told::nothing()).unwrap_err();
        assert_eq!(error.kind(), Kind::Revoked, "{}", error.line());
        assert!(error.line().contains("in the vault"), "{}", error.line());
        let claim = claimed.lock().unwrap().take().expect("it claimed");
        assert_eq!(group(&store).head(0).unwrap(), claim.seq, "nothing stands behind the claim");
        assert_eq!(fake.lock().attach, 1, "its own tracker knows of nobody else");
        assert!(fake.lock().anchor.is_none(), "nothing was released");
        // Who took over goes on undisturbed.
        once(&other, &store).unwrap();
    }
}

/// What the guest does between two cuts.
type Write = Box<dyn Fn(&mut super::fake::State)>;

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

/// Goal: a guest that writes the same bytes again ships nothing, and never less than what changed (V7). Schedule: each
/// step below, between cuts of one shipper; every point is restored and compared.
#[test]
fn what_is_written_again_unchanged_is_not_shipped_again() {
    let (fake, store) = (Fake::new(disk(300)), new_vault());
    let stop = Stop::new();
    let old = |block: u64| noise(block | 1 << 43);
    let again =
        move |state: &mut super::fake::State| (1..=50).for_each(|block| state.write(block, &old(block)));
    let mut guest = Guest {
        fake: &fake,
        stop: &stop,
        summaries: Vec::new(),
        writes: vec![
            Box::new(again),
            Box::new(move |state| {
                again(state);
                state.write(7, &noise(1 << 44));
            }),
            Box::new(|state| state.write(1, &[0; BLOCK])),
            Box::new(move |state| state.write(1, &old(1))),
            // A fuzzy freeze ships another value; what comes back then is not unchanged.
            Box::new(|state| {
                state.write(2, &noise(1 << 45));
                state.fuzzy_cuts = 1;
            }),
            Box::new(move |state| state.write(2, &old(2))),
            Box::new(move |state| {
                state.write(2, &old(2));
                state.write(3, &old(3));
            }),
            // Another attach knows nothing.
            Box::new(move |state| {
                state.write(3, &old(3));
                state.break_at = Some("cut");
            }),
        ],
    };
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let every = options(&fake, Some(Duration::from_millis(1)));
    assert_eq!(run_into(vault, &every, &stop, &mut guest).unwrap(), Ended::Stopped);
    let blocks = |bytes: u64| bytes / BLOCK as u64;
    let told: Vec<_> = guest.summaries[1..]
        .iter()
        .map(|told| (blocks(told.bytes_changed), blocks(told.bytes_shipped), blocks(told.bytes_unchanged)))
        .collect();
    let expected =
        [(50, 50, 0), (50, 1, 49), (1, 0, 0), (1, 1, 0), (1, 1, 0), (1, 1, 0), (2, 0, 2), (1, 1, 0)];
    assert_eq!(told, expected);
    for summary in guest.summaries.iter().filter(|summary| summary.kind == "point") {
        check(&fake, &store, summary.entry);
    }
}

/// What the tracker answers to an attach.
fn attached(fake: &Fake) -> Attached {
    let stop = Stop::new();
    Tracker::connect(&fake.socket(), &stop, None).unwrap().attach(TargetId([1; 16])).unwrap()
}

/// Schedule: 1. a shipper is killed in a freeze, which then turns fuzzy; 2. `ship --once` finishes it first: its entry
/// is not one of the five after which it gives up.
#[test]
fn the_fuzzy_entry_of_a_finished_open_freeze_is_not_one_of_ours() {
    let (fake, store) = (Fake::new(disk(100)), new_vault());
    fake.lock().break_at = Some("confirm");
    run_with(&store, &options(&fake, None)).unwrap_err();
    fake.lock().turn_fuzzy();
    fake.lock().fuzzy_cuts = 5;
    let (ended, summaries) = run_with(&store, &options(&fake, None)).unwrap();
    let kinds: Vec<_> = summaries.iter().map(|summary| summary.kind).collect();
    assert_eq!(kinds, ["fuzzy", "fuzzy", "fuzzy", "fuzzy", "fuzzy", "fuzzy", "point"]);
    assert!(matches!(ended, Ended::Once(_)));
}

fn first_point(store: &MemoryStore) -> towline_tracker::id::Anchor {
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let header = vault.group("vm").entry_at(2).unwrap().header;
    towline_tracker::id::Anchor { vault: vault.id(), seq: 2, hash: header.hash() }
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

/// Schedule: the tracker hangs (a SIGSTOP) when it is connected to or asked for anything; a signal comes. The shipper
/// ends long before any deadline of an answer, and its successor goes on.
#[test]
fn a_stop_is_heard_whatever_a_hanging_tracker_was_asked() {
    for at in ["hello", "attach", "resynchronize", "cut", "reopen", "confirm", "release"] {
        for every in [None, Some(Duration::from_millis(1))] {
            let (fake, store) = (Fake::new(disk(300)), new_vault());
            once(&fake, &store).unwrap();
            fake.lock().write(7, &noise(1 << 40));
            match at {
                "resynchronize" => fake.lock().forget(),
                "reopen" => {
                    fake.lock().break_at = Some("confirm");
                    run_with(&store, &options(&fake, None)).unwrap_err();
                }
                _ => {}
            }
            let before = fake.lock().asked.len();
            fake.lock().hang_at = Some(at);
            let (stop, begun) = (Stop::new(), Instant::now());
            let ended = std::thread::scope(|scope| {
                let run = scope.spawn(|| {
                    let vault = Vault::open(Arc::new(store.clone())).unwrap();
                    run_into(vault, &options(&fake, every), &stop, &mut &Told::nothing())
                });
                while at != "hello" && !fake.lock().asked[before..].contains(&at) {
                    assert!(begun.elapsed() < HANG, "{at} is asked");
                    std::thread::sleep(Duration::from_millis(1));
                }
                stop.ask();
                run.join().unwrap()
            });
            match every {
                None => assert_eq!(ended.unwrap_err().kind(), Kind::Stopped, "{at}"),
                Some(_) => assert_eq!(ended.unwrap(), Ended::Stopped, "{at}"),
            }
            assert!(begun.elapsed() < ANSWER_DEADLINE, "a deadline ended it, not the stop, at {at}");
            fake.lock().hang_at = None;
            once(&fake, &store).unwrap();
        }
    }
}
