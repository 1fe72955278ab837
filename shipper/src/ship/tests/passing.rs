//! What passes by itself is waited out, and nothing that was done meanwhile is lost or done twice.

use super::*;

/// Ships; the guest does these between the entries. Every point is checked.
fn run_guest(fake: &Fake, store: &MemoryStore, full: bool, writes: Vec<Write>) -> Vec<Summary> {
    let stop = Stop::new();
    let mut guest = Guest { fake, stop: &stop, summaries: Vec::new(), writes };
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let options = Options { full, ..options(fake, Some(Duration::from_millis(1))) };
    let ended = run_into(vault, &options, &stop, &mut guest);
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
