//! What the guest writes again.

use super::*;

/// Goal: a guest that writes the same bytes again ships nothing, and never less than what changed (V7). Schedule: each
/// step below, between cuts of one shipper; every point is restored and compared.
#[test]
fn what_is_written_again_unchanged_is_not_shipped_again() {
    let (fake, store) = (Fake::new(disk(300)), new_vault());
    let stop = Stop::new();
    let old = |block: u64| noise(block | 1 << 43);
    let again = move |state: &mut State| (1..=50).for_each(|block| state.write(block, &old(block)));
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
    assert_eq!(run_in(&Surroundings::here(), vault, &every, &stop, &mut guest).unwrap(), Ended::Stopped);
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
