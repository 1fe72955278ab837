//! The self-audit finds what the tracker did not see, and nothing else.

use super::*;

fn all() -> u64 {
    1 << 40
}

/// F15: a change that no stamp and no map tells of.
#[test]
fn a_block_that_was_changed_unseen_is_found_and_everything_compared() {
    for every in [None, Some(Duration::from_millis(1))] {
        let (fake, store) = (Fake::new(disk(3000)), new_vault());
        once(&fake, &store).unwrap();
        fake.lock().write(7, &noise(1 << 40));
        fake.lock().write_unseen(1234, &noise(1 << 41));
        fake.lock().asked.clear();
        let stop = Stop::new();
        let told = Told { summaries: Mutex::default(), stop: Some((&stop, 1)) };
        let vault = Vault::open(Arc::new(store.clone())).unwrap();
        let options = Options { audit: all(), ..options(&fake, every) };
        run_in(&Surroundings::here(), vault, &options, &stop, &mut &told).unwrap();
        let summary = told.summaries.into_inner().unwrap().remove(0);
        assert_eq!((summary.kind, summary.blocks_untracked), ("point", 1));
        assert_eq!(summary.bytes_audited, 3000 * BLOCK as u64);
        assert_eq!(summary.bytes_shipped, 2 * BLOCK as u64, "the rest is the same");
        assert!(fake.lock().asked.starts_with(&["attach", "cut", "undo", "resynchronize", "cut"]));
        check(&fake, &store, summary.entry);
    }
}

#[test]
fn without_an_audit_a_change_that_nobody_saw_stays_unseen() {
    let (fake, store) = (Fake::new(disk(300)), new_vault());
    once(&fake, &store).unwrap();
    fake.lock().write_unseen(123, &noise(1 << 41));
    let (Ended::Once(summary), _) = run_with(&store, &options(&fake, None)).unwrap() else { panic!() };
    assert_eq!((summary.bytes_audited, summary.blocks_untracked, summary.bytes_shipped), (0, 0, 0));
}

/// The guest changes blocks before the cut, and others while the freeze is read; holes and zeros stay what they are.
#[test]
fn what_the_guest_changes_raises_no_alarm() {
    let (fake, store) = (Fake::new(disk(3000)), new_vault());
    once(&fake, &store).unwrap();
    let options = Options { audit: all(), ..options(&fake, None) };
    for round in 1..6 {
        fake.lock().overwrite = 40;
        (0..50).for_each(|block| fake.lock().write(block * round * 11 % 3000, &noise(round << 32 | block)));
        let summary = once_with(&fake, &store, &options).unwrap();
        assert_eq!((summary.blocks_untracked, summary.bytes_audited), (0, 3000 * BLOCK as u64));
    }
    assert!(!fake.lock().asked.contains(&"resynchronize"));
}

/// Samples of one cut after another go through the whole disk: what was lost is found in the end.
#[test]
fn small_samples_find_it_within_a_round() {
    let (fake, store) = (Fake::new(disk(600)), new_vault());
    once(&fake, &store).unwrap();
    fake.lock().write_unseen(599, &noise(1 << 41));
    let stop = Stop::new();
    let told = Told { summaries: Mutex::default(), stop: Some((&stop, 21)) };
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let options = Options { audit: 30 * BLOCK as u64, ..options(&fake, Some(Duration::from_millis(1))) };
    run_in(&Surroundings::here(), vault, &options, &stop, &mut &told).unwrap();
    let summaries = told.summaries.into_inner().unwrap();
    assert_eq!(summaries.iter().map(|summary| summary.blocks_untracked).sum::<u64>(), 1);
    check(&fake, &store, summaries.last().unwrap().entry);
}
