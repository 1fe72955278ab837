//! What passes by itself is waited out, and nothing that was done meanwhile is lost or done twice.

use super::*;

/// Ships; the guest does these between the entries. Every point is checked.
fn run_guest(fake: &Fake, store: &MemoryStore, writes: Vec<Write>) -> Vec<Summary> {
    let stop = Stop::new();
    let mut guest = Guest { fake, stop: &stop, summaries: Vec::new(), writes };
    let vault = Vault::open(Arc::new(store.clone())).unwrap();
    let ended = run_into(vault, &options(fake, Some(Duration::from_millis(1))), &stop, &mut guest);
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
        run_guest(&fake, &store, vec![lose, Box::new(|_| {})]);
        assert!(fake.lock().lose.is_none(), "{lost} was asked");
    }
}
