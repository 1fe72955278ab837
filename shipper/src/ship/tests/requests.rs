//! How many requests a cycle costs, counted at the store.

use super::*;
use crate::store::tally::{Counted, Requests, Tally};

/// Goal: a cycle of up to 1 MiB costs one put request, any other at most 3 + bytes / 16 MiB, with the sizes that a shipper has if
/// nobody says otherwise. Method: cycles of many sizes, near each other and scattered, none of which can be compressed.
#[test]
fn a_small_cycle_costs_one_put_and_any_other_three_and_one_for_16_mib() {
    let (fake, store, tally) = (Fake::new(disk(20_000)), new_vault(), Arc::new(Tally::default()));
    let (stop, counted) = (Stop::new(), Counted::new(Arc::new(store.clone()), tally.clone()));
    let sizes = [
        (1, 1),
        (100, 1),
        (256, 1),
        (256, 70),
        (0, 1),
        (257, 3),
        (300, 1),
        (4000, 1),
        (9000, 2),
        (18_000, 1),
    ];
    let writes = sizes.iter().enumerate().map(|(cycle, (blocks, step))| {
        let (blocks, step, cycle) = (*blocks, *step, cycle as u64);
        Box::new(move |state: &mut State| {
            (0..blocks).for_each(|block| state.write(block * step, &noise(block | (cycle + 1) << 44)));
        }) as Write
    });
    let mut guest = Guest { fake: &fake, stop: &stop, summaries: Vec::new(), writes: writes.collect() };
    let every = Some(Duration::from_millis(1));
    let options = Options {
        memory: 256 << 20,
        pack_size: 17 << 20,
        checkpoint_every: 1 << 30,
        tally,
        ..options(&fake, every)
    };
    let vault = Vault::open(Arc::new(counted)).unwrap();
    run_in(&Surroundings::here(), vault, &options, &stop, &mut guest).unwrap();
    for (summary, (blocks, _)) in guest.summaries[1..].iter().zip(sizes) {
        let Requests { requests_put, requests_get, requests_delete, bytes_up, .. } = summary.requests;
        assert_eq!(summary.bytes_changed, blocks * BLOCK as u64);
        assert!(bytes_up >= summary.bytes_shipped && bytes_up == summary.bytes_put, "{summary:?}");
        match summary.bytes_changed <= 1 << 20 {
            true => assert_eq!(requests_put, 1, "{blocks} blocks"),
            false => {
                let most = 3 + summary.bytes_shipped / (16 << 20);
                assert!(requests_put <= most, "{blocks} blocks: {requests_put} > {most}");
            }
        }
        // The entry before is looked at, and whether a catalog came since (V14), and nothing else.
        assert_eq!((requests_get, requests_delete), (2, 0), "{blocks} blocks");
    }
    assert_eq!(guest.summaries.len(), 1 + sizes.len());
}

/// Goal: full shipping costs at most one put request per 16 MiB and a constant, however many checkpoints it takes. Method: all
/// sizes are a sixteenth of those that a shipper has if nobody says otherwise.
#[test]
fn a_full_shipping_costs_one_put_for_16_mib_and_a_constant() {
    let data: Vec<_> = (0..40_000).flat_map(noise).collect();
    let (fake, store, tally) = (Fake::new(data), new_vault(), Arc::new(Tally::default()));
    let counted = Counted::new(Arc::new(store.clone()), tally.clone());
    let options = Options {
        memory: 64 << 20,
        pack_size: (17 << 20) / 16,
        checkpoint_every: (1 << 30) / 16,
        tally,
        ..options(&fake, None)
    };
    let vault = Vault::open(Arc::new(counted)).unwrap();
    run_in(&Surroundings::here(), vault, &options, &Stop::new(), &mut &Told::nothing()).unwrap();
    let checkpoints = kinds(&store).iter().filter(|kind| **kind == EntryKind::Checkpoint).count();
    assert!(checkpoints >= 2, "{checkpoints}");
    let puts = options.tally.so_far().requests_put;
    // The claim, and the listing before it; the last pack, index and entry.
    let most = 40_000 * BLOCK as u64 / (1 << 20) + 5;
    assert!(puts <= most, "{puts} > {most}");
}
