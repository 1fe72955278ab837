//! Whatever breaks off: the tracker, the store, a kill, a signal.

use super::*;
use crate::store::StoreErrorKind;
use crate::store::scripted::{Call, Mood, Scripted};
use std::time::Instant;
use towline_tracker::control::client::ANSWER_DEADLINE;

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
        assert_eq!(
            run_in(&Surroundings::here(), vault, &options(&fake, every), &stop, &mut &told).unwrap(),
            Ended::Stopped
        );
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
    assert_eq!(run_in(&Surroundings::here(), vault, &full, &stop, &mut &told).unwrap(), Ended::Stopped);
    let summaries = told.summaries.into_inner().unwrap();
    let changed: Vec<_> = summaries.iter().map(|summary| summary.bytes_changed / BLOCK as u64).collect();
    assert_eq!(changed, [300, 0, 0]);
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
    assert_eq!(run_in(&Surroundings::here(), vault, &options, &stop, &mut &told).unwrap(), Ended::Stopped);
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
    let error =
        run_in(&Surroundings::here(), vault, &self::options(&fake, None), &stop, &mut &Told::nothing())
            .unwrap_err();
    assert!(matches!(error.kind(), Kind::NoSpace | Kind::Stopped), "{}", error.line());
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
                    run_in(&Surroundings::here(), vault, &options(&fake, every), &stop, &mut &Told::nothing())
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
