//! Power cuts of the record of a machine's drives. `make powercuts` runs them for longer and adds a line to
//! `tests/CAMPAIGNS.md`.

use crate::campaigns::number;
use crate::powercuts::cut;
use towline_tests::powercuts::Campaign;

/// F3, F7, F10: a drive on ext4, XFS or Btrfs, cut off at any of its flushes and anywhere between.
#[test]
fn a_record_of_a_drive_cut_anywhere_recovers_all_that_was_flushed() {
    cut(Campaign::Replays, number("TOWLINE_REPLAYS").unwrap_or(30));
}
