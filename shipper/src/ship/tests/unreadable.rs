//! Blocks of the disk that can't be read.

use super::*;

/// Schedule: 1. a frozen block can't be read; 2. the guest overwrites it, which makes the device give it another place;
/// 3. the freeze would fail for ever, but another cut does not need the old block (C5): the first one is undone.
#[test]
fn a_freeze_that_can_not_be_read_is_undone_and_another_cut_is_made() {
    for every in [None, Some(Duration::from_millis(1))] {
        let (fake, store) = (Fake::new(disk(300)), new_vault());
        once(&fake, &store).unwrap();
        fake.lock().write(4, &noise(1 << 40));
        fake.lock().unreadable_cuts = 1;
        let stop = Stop::new();
        let told = Told { summaries: Mutex::default(), stop: Some((&stop, 1)) };
        let vault = Vault::open(Arc::new(store.clone())).unwrap();
        run_in(&Surroundings::here(), vault, &options(&fake, every), &stop, &mut &told).unwrap();
        let summaries = told.summaries.into_inner().unwrap();
        assert_eq!(summaries[0].bytes_changed, BLOCK as u64, "nothing of the first cut is forgotten");
        check(&fake, &store, summaries[0].entry);
        let asked = fake.lock().asked.clone();
        assert_eq!(asked.iter().filter(|asked| **asked == "undo").count(), 1, "{asked:?}");
        assert_eq!(fake.lock().cuts.len(), 3);
    }
}

/// An open freeze that can't be read, or a cut: whichever comes second ends the shipper, and no freeze stays open.
#[test]
fn two_freezes_in_a_row_that_can_not_be_read_end_the_shipper() {
    for open in [false, true] {
        let (fake, store) = (Fake::new(disk(300)), new_vault());
        once(&fake, &store).unwrap();
        fake.lock().write(4, &noise(1 << 40));
        fake.lock().unreadable_cuts = 2;
        if open {
            fake.lock().break_at = Some("undo");
            let error = run_with(&store, &options(&fake, None)).unwrap_err();
            assert_eq!(error.kind(), Kind::TrackerNotRunning, "{}", error.line());
        }
        let every = options(&fake, Some(Duration::from_millis(1)));
        let error = run_with(&store, &every).unwrap_err();
        assert_eq!(error.kind(), Kind::Unreadable, "{}", error.line());
        assert!(error.line().contains("at byte 16384"), "{}", error.line());
        assert_eq!(fake.lock().cuts.len(), 3);
        once(&fake, &store).unwrap();
        assert_eq!(fake.lock().asked.iter().filter(|asked| **asked == "undo").count(), 2 + usize::from(open));
    }
}
