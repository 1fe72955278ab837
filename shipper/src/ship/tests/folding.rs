//! Lists of indexes in a shipper's life.

use super::*;
use crate::store::Store;
use crate::store::StoreErrorKind;
use crate::store::scripted::{Mood, Scripted};
use crate::vault::names;
use crate::verify;

/// The levels of what the newest entry lists.
fn levels(fake: &Fake, store: &MemoryStore) -> Vec<u8> {
    let newest = group(store).entry_at(fake.lock().anchor.unwrap().seq).unwrap();
    newest.content().unwrap().disks[0].indexes.iter().map(|index| index.level).collect()
}

fn folds(store: &MemoryStore) -> usize {
    store.list(&names::folds(group(store).id()), "", usize::MAX).unwrap().len()
}

/// Goal: a loop's lists stay short, each of its points is its cut, and no fold is made that no entry lists. Method: cycles that
/// follow one another without a pause, so that only the least is done between two.
#[test]
fn a_loop_lists_few_indexes_and_every_point_is_its_cut() {
    let (fake, store) = (Fake::new(disk(200)), new_vault());
    let stop = Stop::new();
    let writes = (0..70u64).map(|n| -> Write {
        Box::new(move |state| {
            state.write(n % 20, &if n % 5 == 0 { vec![0; BLOCK] } else { noise(1 << 40 | n) });
        })
    });
    let mut guest = Guest { fake: &fake, stop: &stop, summaries: Vec::new(), writes: writes.collect() };
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let every = Options { fold_every: 4, ..options(&fake, Some(Duration::ZERO)) };
    assert_eq!(run_in(&Surroundings::here(), vault, &every, &stop, &mut guest).unwrap(), Ended::Stopped);
    let mut listed = std::collections::BTreeSet::new();
    for summary in &guest.summaries {
        let content = check(&fake, &store, summary.entry);
        let indexes = &content.disks[0].indexes;
        assert!(indexes.len() <= 3 * 4 + 2, "{} at entry {}", indexes.len(), summary.entry);
        listed.extend(indexes.iter().filter(|index| index.level > 0).map(|index| index.name));
    }
    assert_eq!(guest.summaries.len(), 71);
    assert!(levels(&fake, &store).contains(&3), "{:?}", levels(&fake, &store));
    assert!(folds(&store) - listed.len() <= 1, "{} folds, {} listed", folds(&store), listed.len());
}

/// Single points too, each of a shipper of its own: it folds before its cut.
#[test]
fn once_after_once_folds_before_the_cut() {
    let (fake, store) = (Fake::new(disk(100)), new_vault());
    let once = |n: u64| {
        fake.lock().write(n % 20, &noise(1 << 40 | n));
        once_with(&fake, &store, &Options { fold_every: 3, ..options(&fake, None) }).unwrap();
        levels(&fake, &store)
    };
    let found: Vec<_> = (0..10).map(once).collect();
    assert_eq!(found[2..4], [vec![0, 0, 0], vec![1, 0]]);
    assert_eq!(found[9], [2, 0]);
}

/// Schedule: 1. the store takes no folds; 2. shipping goes on as if there were none; 3. it takes them again, and another
/// shipper finds what is due.
#[test]
fn a_store_that_takes_no_folds_stops_nobody() {
    let (fake, store) = (Fake::new(disk(100)), new_vault());
    let once = |taken: bool, n: u64| {
        fake.lock().write(n % 20, &noise(1 << 40 | n));
        let inner =
            Scripted::new(store.clone(), move |call| match call.is_put() && call.name.contains("/folds/") {
                true if !taken => Mood::Fail(StoreErrorKind::Denied),
                _ => Mood::Good,
            });
        let vault = Vault::open(inner).unwrap();
        let once = Options { fold_every: 3, ..options(&fake, None) };
        run_in(&Surroundings::here(), vault, &once, &Stop::new(), &mut &Told::nothing()).unwrap();
        levels(&fake, &store)
    };
    (0..7).for_each(|n| assert_eq!(once(false, n).len() as u64, n + 1));
    assert_eq!(once(true, 7), [1, 1, 0, 0]);
    let newest = fake.lock().anchor.unwrap().seq;
    check(&fake, &store, newest);
}

/// Schedule: 1. a shipper ends behind the put of a fold, before any entry; 2. the next one makes its own; 3. the first one is an
/// orphan, and nothing is damaged.
#[test]
fn a_fold_that_no_entry_lists_is_an_orphan() {
    let (fake, store) = (Fake::new(disk(100)), new_vault());
    let options = Options { fold_every: 3, ..options(&fake, None) };
    let once = |n: u64| {
        fake.lock().write(n, &noise(1 << 40 | n));
        once_with(&fake, &store, &options).map(drop)
    };
    (0..3).for_each(|n| once(n).unwrap());
    fake.lock().break_at = Some("cut");
    assert_eq!(once(3).unwrap_err().kind(), Kind::TrackerNotRunning);
    assert_eq!((folds(&store), levels(&fake, &store)), (1, vec![0, 0, 0]));
    once(4).unwrap();
    assert_eq!((folds(&store), levels(&fake, &store)), (2, vec![1, 0]));
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let report = verify::verify(&vault, None).unwrap();
    assert!(report.is_sound() && report.unknown.is_empty(), "{report:?}");
    assert_eq!(report.groups[0].orphans, 1);
}
