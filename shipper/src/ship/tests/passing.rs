//! What passes by itself is waited out, and nothing that was done meanwhile is lost or done twice.

use super::*;
use crate::store::scripted::{Mood, Scripted};
use crate::store::{Listed, Store, StoreErrorKind};

/// Ships; the guest does these between the entries. Every point is checked.
fn run_guest(fake: &Fake, store: &MemoryStore, full: bool, writes: Vec<Write>) -> Vec<Summary> {
    let stop = Stop::new();
    let mut guest = Guest { fake, stop: &stop, summaries: Vec::new(), writes };
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let options = Options { full, ..options(fake, Some(Duration::from_millis(1))) };
    let ended = run_in(&Surroundings::here(), vault, &options, &stop, &mut guest);
    assert_eq!(ended.map_err(|error| error.line()), Ok(Ended::Stopped));
    for summary in guest.summaries.iter().filter(|summary| summary.kind == "point") {
        check(fake, store, summary.entry);
    }
    guest.summaries
}

/// Schedule: 1. the connection breaks, and the shipper attaches again; 2. the tracker gives it the next attach number,
/// and the connection breaks before the answer; 3. the number that the tracker then has is the shipper's own: nobody
/// took over (V9). Likewise for the answers to what it asks before and after.
#[test]
fn an_answer_of_the_tracker_that_is_lost_is_no_other_shipper() {
    for lost in ["attach", "cut", "confirm", "release"] {
        let (fake, store) = (Fake::new(disk(100)), new_vault());
        let lose: Write = Box::new(move |state| {
            state.write(3, &noise(1 << 41));
            state.lose = Some(lost);
            state.break_at = (lost == "attach").then_some("cut");
        });
        run_guest(&fake, &store, false, vec![lose, Box::new(|_| {})]);
        assert!(fake.lock().lose.is_none(), "{lost} was asked");
    }
}

/// Schedule: 1. everything is to be compared, and is; the entry is published, and the connection breaks before the release;
/// 2. the next attach finds the entry and releases it: what was asked for is done, and told, once.
#[test]
fn a_full_cut_that_is_adopted_is_not_made_again() {
    for lost in [false, true] {
        let (fake, store) = (Fake::new(disk(100)), new_vault());
        once(&fake, &store).unwrap();
        {
            let mut state = fake.lock();
            // Before the tracker has done it, or after: then its freeze is gone, and so is the entry's report.
            (state.break_at, state.lose) =
                if lost { (None, Some("release")) } else { (Some("release"), None) };
        }
        let told = run_guest(&fake, &store, true, vec![Box::new(|_| {})]);
        let changed: Vec<_> = told.iter().map(|told| told.bytes_changed / BLOCK as u64).collect();
        assert_eq!(changed, [100, 0], "release lost: {lost}");
        assert_eq!(fake.lock().cuts.len(), 3);
    }
}

/// Schedule: 1. the store is full, or somebody stops the shipper, in the middle of a freeze's packs; 2. the next shipper
/// puts what is left, and not what is there: packs that nothing lists would only make a full store fuller.
#[test]
fn what_a_cycle_that_ends_early_has_put_is_not_put_again() {
    const PACKS: u64 = 128;
    for full in [true, false] {
        let (fake, store, stop) = (Fake::new(disk(12_000)), new_vault(), Stop::new());
        let (asked, packs) = (stop.clone(), Arc::new(Mutex::new(0)));
        let counted = packs.clone();
        let scripted = Scripted::new(store.clone(), move |call| {
            if !call.is_put() || !call.name.ends_with(".pack") {
                return Mood::Good;
            }
            let mut packs = counted.lock().unwrap();
            *packs += 1;
            match *packs > PACKS / 2 {
                true if full => return Mood::Fail(StoreErrorKind::NoSpace),
                true => {
                    asked.ask();
                    drop(packs);
                    // Long enough for the loop to hear it.
                    std::thread::sleep(Duration::from_millis(100));
                }
                false => {}
            }
            Mood::Good
        });
        let vault = Vault::open(scripted.clone()).unwrap();
        let error = run_in(&Surroundings::here(), vault, &options(&fake, None), &stop, &mut &Told::nothing())
            .unwrap_err();
        assert_eq!(error.kind(), if full { Kind::NoSpace } else { Kind::Stopped }, "{}", error.line());
        assert_eq!(kinds(&store), [EntryKind::Claim, EntryKind::Checkpoint]);
        let before = store.list("groups/", "", usize::MAX).unwrap();
        let put = |objects: &[Listed]| {
            objects.iter().filter(|object| object.name.ends_with(".pack")).count() as u64
        };
        assert!(put(&before) >= PACKS / 2);

        let (_, summaries) = run_with(&store, &options(&fake, None)).unwrap();
        assert_eq!(summaries.len(), 2, "the open freeze is finished, and then the own cut is made");
        check(&fake, &store, summaries[0].entry);
        // Every block counts once; what was put behind the last one that the checkpoint covers is found unchanged.
        let told = summaries[0].bytes_shipped + summaries[0].bytes_unchanged + summaries[0].bytes_zero;
        assert_eq!(told, 12_000 * BLOCK as u64, "totals are those of the whole cycle");
        let after = put(&store.list("groups/", "", usize::MAX).unwrap());
        assert!(after <= PACKS + 8, "{after} packs");
    }
}
