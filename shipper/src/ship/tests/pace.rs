//! How long everything takes: uploads with a limit, and waits for what fails. In time by hand, but where it says otherwise.

use super::*;
use crate::edge::by_hand;
use crate::pipeline::{Crew, Turn, Turns};
use crate::store::StoreErrorKind;
use crate::store::scripted::{Call, Mood, Scripted};
use crate::store::tally::{Counted, Tally};
use jiff::tz::TimeZone;
use std::time::Instant;

/// Puts before anything else.
struct PutsFirst;

impl Turns for PutsFirst {
    fn next(&self, jobs: usize, puts: usize) -> Turn {
        match (puts, jobs) {
            (0, 0) => {
                (by_hand::EDGE.sleep)(Duration::from_millis(100));
                Turn::Idle
            }
            (0, _) => Turn::Work(0),
            _ => Turn::Put(0),
        }
    }
}

/// Begins time by hand.
fn by_hand() -> Surroundings<'static> {
    by_hand::begin("2026-11-27T12:00:00Z");
    Surroundings { edge: by_hand::EDGE, crew: Crew::InLine(&PutsFirst), ..Surroundings::here() }
}

fn limit(rule: &str) -> Rules {
    Rules::new(&[rule.to_owned()], None, TimeZone::UTC).unwrap()
}

#[test]
fn a_limited_upload_takes_what_it_must_and_an_unlimited_one_no_time() {
    const RATE: f64 = (1 << 20) as f64;
    for rule in ["1MiB/s", "sat,sun 1KiB/s"] {
        let (fake, store, tally) = (Fake::new(disk(3000)), new_vault(), Arc::new(Tally::default()));
        let counted = Counted::new(Arc::new(store.clone()), tally.clone());
        let options = Options { limit: limit(rule), tally, ..options(&fake, None) };
        let vault = Vault::open(Arc::new(counted)).unwrap();
        let ended = run_in(&by_hand(), vault, &options, &Stop::new(), &mut &Told::nothing()).unwrap();
        let Ended::Once(summary) = ended else { panic!("it was asked for one point") };
        check(&fake, &store, summary.entry);
        let (seconds, bytes) = (by_hand::passed().as_secs_f64(), summary.requests.bytes_up as f64);
        assert!(bytes > 7.0 * RATE, "{bytes}");
        match rule {
            "1MiB/s" => {
                // What was in the bucket, and the last object's debt.
                let least = (bytes - 2.0 * options.pack_size as f64) / RATE;
                assert!((least..bytes / RATE + 0.5).contains(&seconds), "{seconds} s for {bytes} bytes");
                // The cut is not waited for, and the limit is asked for all the time.
                assert!(by_hand::slept().iter().all(|time| *time <= Duration::from_secs(1)));
            }
            _ => assert!(seconds < 0.5, "{seconds}"),
        }
    }
}

/// In real time: at no moment has the store been sent more than the limit allows until then.
#[test]
fn all_lanes_together_keep_the_limit() {
    const RATE: u64 = 8 << 20;
    let (fake, store, tally) = (Fake::new(disk(3000)), new_vault(), Arc::new(Tally::default()));
    let options = Options { limit: limit("8MiB/s"), tally: tally.clone(), ..options(&fake, None) };
    let (begun, seen) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let (so_far, arrived) = (tally.clone(), seen.clone());
    let noting = Scripted::new(store.clone(), move |call| {
        if call.is_put() {
            let bytes = so_far.so_far().bytes_up;
            arrived.lock().unwrap().push((bytes, begun.elapsed()));
        }
        Mood::Good
    });
    let vault = Vault::open(Arc::new(Counted::new(noting, tally))).unwrap();
    run_in(&Surroundings::here(), vault, &options, &Stop::new(), &mut &Told::nothing()).unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.len() > 20);
    for (bytes, time) in seen.iter() {
        // A full bucket, and what a pack that is a little larger owes.
        let most = time.as_secs_f64() * RATE as f64 + 2.0 * options.pack_size as f64;
        assert!(*bytes as f64 <= most, "{bytes} in {time:?}");
    }
}

/// Schedule: 1. all lanes wait, for hours; 2. somebody stops the shipper, or a newer one attaches: it ends all the same. In
/// real time, with real lanes.
#[test]
fn a_shipper_that_is_stopped_or_revoked_waits_for_no_limit() {
    for kind in [Kind::Stopped, Kind::Revoked] {
        let begun = Instant::now();
        let (fake, store, stop) = (Arc::new(Fake::new(disk(3000))), new_vault(), Stop::new());
        let (ask, tracker) = (stop.clone(), fake.clone());
        let scripted = Scripted::new(store.clone(), move |call| {
            if call.name.ends_with(".pack") {
                match kind {
                    Kind::Stopped => ask.ask(),
                    _ => tracker.lock().attach += 1,
                }
            }
            Mood::Good
        });
        let options = Options { limit: limit("1KiB/s"), ..options(&fake, None) };
        let vault = Vault::open(scripted).unwrap();
        let ended = run_in(&Surroundings::here(), vault, &options, &stop, &mut &Told::nothing());
        assert_eq!(ended.unwrap_err().kind(), kind);
        assert!(begun.elapsed() < HANG, "{:?}", begun.elapsed());
    }
}

/// Fails so many tries of a pack after another.
fn failing(store: &MemoryStore, tries: u32) -> Arc<Scripted> {
    let failed = Mutex::new(std::collections::HashMap::<String, u32>::new());
    Scripted::new(store.clone(), move |call| {
        if !call.name.ends_with(".pack") {
            return Mood::Good;
        }
        let mut failed = failed.lock().unwrap();
        let failed = failed.entry(call.name.to_owned()).or_default();
        *failed += 1;
        if *failed > tries { Mood::Good } else { Mood::Fail(StoreErrorKind::Transient) }
    })
}

#[test]
fn a_bad_moment_is_sat_out_in_pauses_that_double_and_that_no_two_lanes_share() {
    let pauses = || {
        let (fake, store) = (Fake::new(disk(500)), new_vault());
        let options = Options { retry: Retry::STORE, ..options(&fake, None) };
        let vault = Vault::open(failing(&store, Retry::STORE.tries - 1)).unwrap();
        let ended = run_in(&by_hand(), vault, &options, &Stop::new(), &mut &Told::nothing()).unwrap();
        let Ended::Once(summary) = ended else { panic!("it was asked for one point") };
        check(&fake, &store, summary.entry);
        by_hand::slept()
    };
    let slept = pauses();
    let packs: Vec<_> = slept.chunks(7).collect();
    assert!(packs.len() > 2, "{slept:?}");
    for pack in &packs {
        for (tried, pause) in pack.iter().enumerate() {
            let most = Retry::STORE.first * (1 << tried);
            assert!((most / 2..=most).contains(pause), "{pack:?}");
        }
    }
    assert!(packs.windows(2).all(|two| two[0] != two[1]), "{packs:?}");
    // Nothing but the draw decides: whoever draws the same waits the same.
    assert_eq!(pauses(), slept);
}

/// F30. Goal: the waits of DESIGN 4.2. Method: no pack gets through, for hours; each attach begins with a claim.
#[test]
fn a_store_that_is_away_is_tried_again_after_1_2_4_8_10_and_every_30_minutes() {
    let (fake, store) = (Fake::new(disk(500)), new_vault());
    let claims = Arc::new(Mutex::new(Vec::new()));
    let seen = claims.clone();
    let scripted = Scripted::new(store.clone(), move |call: &Call<'_>| {
        let mut claims = seen.lock().unwrap();
        if call.is_put() && call.name.contains("/log/") {
            claims.push(by_hand::passed());
        }
        // Seven attaches in vain, and one that publishes; then its next cycle's packs fail once more.
        let away = claims.len() <= 7 || claims.len() == 9;
        match call.is_put() && call.name.ends_with(".pack") && away {
            true => Mood::Fail(StoreErrorKind::Transient),
            false => Mood::Good,
        }
    });
    let stop = Stop::new();
    let rewrite: Write =
        Box::new(|state| (0..400).for_each(|block| state.write(block, &noise(block | 1 << 44))));
    let mut guest = Guest { fake: &fake, stop: &stop, summaries: Vec::new(), writes: vec![rewrite] };
    let every = Duration::from_secs(30);
    let options = Options { retry: Retry::STORE, ..options(&fake, Some(every)) };
    let vault = Vault::open(scripted).unwrap();
    assert_eq!(run_in(&by_hand(), vault, &options, &stop, &mut guest).unwrap(), Ended::Stopped);
    for summary in &guest.summaries {
        check(&fake, &store, summary.entry);
    }
    let claims = claims.lock().unwrap();
    let between: Vec<_> = claims.windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect();
    // The eighth's entry is the ninth put to the log, and the wait after it begins anew.
    for (wait, minutes) in between.iter().zip([1, 2, 4, 8, 10, 30, 30]) {
        let tries = wait - f64::from(minutes) * 60.0;
        assert!((12.7..=26.0).contains(&tries), "{minutes} min: {between:?}");
    }
    let after = between[8];
    assert!((60.0 + 12.7..=60.0 + 26.0 + 30.0).contains(&after), "a first failure again: {between:?}");
}

/// What no time mends ends the loop at once and is told.
#[test]
fn what_can_not_be_recovered_stops_at_once_and_says_why() {
    for (store_kind, kind) in [(StoreErrorKind::Denied, Kind::Denied), (StoreErrorKind::Other, Kind::Other)] {
        let (fake, store) = (Fake::new(disk(500)), new_vault());
        let scripted =
            Scripted::new(store, move |call| match call.is_put() && call.name.ends_with(".pack") {
                true => Mood::Fail(store_kind),
                false => Mood::Good,
            });
        let options = Options { retry: Retry::STORE, ..options(&fake, Some(Duration::from_secs(30))) };
        let vault = Vault::open(scripted.clone()).unwrap();
        let error = run_in(&by_hand(), vault, &options, &Stop::new(), &mut &Told::nothing()).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.line().contains(".pack"), "{}", error.line());
        assert_eq!(by_hand::passed(), Duration::ZERO, "nobody waited: {:?}", by_hand::slept());
    }
}
