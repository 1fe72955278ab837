//! Who may go on with a group, and over what.

use super::*;
use crate::ship::tracker::Tracker;
use crate::store::scripted::{Mood, Scripted, What};
use crate::vault::attach::{Claimant, Decision, TakeOver};
use std::time::Instant;
use towline_tracker::control::message::Attached;
use towline_tracker::id::TargetId;

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
        let ended = run_in(&Surroundings::here(), vault, &every(&fake), &stop, &mut &told);
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
    let claimed = group.claim(&attached, &claimant, true, &mut || Ok(())).unwrap();
    let word = TakeOver::Since(claimed.claim.reference());
    let claimed = group.claim(&attached, &claimant, word, &mut || Ok(())).unwrap();
    assert!(matches!(claimed.decision, Decision::Resync { taken_over: true, .. }), "{:?}", claimed.decision);
    let word = TakeOver::Since(claimed.claim.reference());
    other.lock().write(7, &noise(1 << 48));
    once(&other, &store).unwrap();
    assert_eq!(
        group.claim(&attached, &claimant, word, &mut || Ok(())).unwrap_err().kind(),
        Kind::BrokenLineage
    );
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
                let claim = group(&inner).claim(&attached, &claimant, false, &mut || Ok(())).unwrap().claim;
                *slot.lock().unwrap() = Some(claim);
            }
            Mood::Good
        });
        let options = Options { checkpoint_every, ..options(&fake, Some(Duration::from_millis(1))) };
        let vault = Vault::open(scripted).unwrap();
        let error =
            run_in(&Surroundings::here(), vault, &options, &Stop::new(), &mut &Told::nothing()).unwrap_err();
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

/// V2, V9, schedule: 1. a shipper attaches, looks for the log's head, and sleeps; 2. another one attaches, publishes a fuzzy
/// entry, perhaps a point over it, and the tracker releases them; 3. the first one goes on: what it was told at its attach
/// vouches for none of that, so its claim would pass over what was released. It ends instead.
#[test]
fn a_shipper_that_slept_between_its_attach_and_its_claim_passes_over_nothing() {
    for entries in [1, 2] {
        let (fake, store) = (Arc::new(Fake::new(disk(1000))), new_vault());
        once(&fake, &store).unwrap();
        fake.lock().write(1, &noise(1 << 50));
        let (tracker, vault, slept) = (fake.clone(), store.clone(), Mutex::new(false));
        let scripted = Scripted::new(store.clone(), move |call| {
            if call.what == What::Length && !std::mem::replace(&mut *slept.lock().unwrap(), true) {
                tracker.lock().fuzzy_cuts = 1;
                let stop = Stop::new();
                let told = Told { summaries: Mutex::default(), stop: Some((&stop, entries)) };
                let every = options(&tracker, Some(Duration::from_millis(1)));
                let vault = Vault::open(Arc::new(vault.clone())).unwrap();
                run_in(&Surroundings::here(), vault, &every, &stop, &mut &told).unwrap();
            }
            Mood::Good
        });
        let vault = Vault::open(scripted).unwrap();
        let options = options(&fake, None);
        let error =
            run_in(&Surroundings::here(), vault, &options, &Stop::new(), &mut &Told::nothing()).unwrap_err();
        assert_eq!(error.kind(), Kind::Revoked, "{}", error.line());
        fake.lock().write(2, &noise(1 << 51));
        let summary = once(&fake, &store).unwrap();
        assert!(summary.bytes_changed < 10 * BLOCK as u64, "no comparison is due: {summary:?}");
    }
}

/// What the tracker answers to an attach.
fn attached(fake: &Fake) -> Attached {
    let stop = Stop::new();
    Tracker::connect(&Surroundings::here(), &fake.socket(), &stop, None)
        .unwrap()
        .attach(TargetId([1; 16]))
        .unwrap()
}

fn first_point(store: &MemoryStore) -> towline_tracker::id::Anchor {
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let header = vault.group("vm").entry_at(2).unwrap().header;
    towline_tracker::id::Anchor { vault: vault.id(), seq: 2, hash: header.hash() }
}
