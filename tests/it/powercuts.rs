//! Power cuts of an emulated machine. `make powercuts` runs them for longer and adds a line to `tests/CAMPAIGNS.md`.

use crate::campaigns::{Run, number};
use towline_tests::powercuts::{Campaign, MANY, run, stalled};

/// One of the two campaigns.
pub(crate) fn cut(campaign: Campaign, cuts: u64) {
    let of = Run::begin(campaign.name(), 1 << 32);
    let tally =
        run(campaign, cuts as usize, of.seed, |tally| of.tell(tally.states.all(), tally.failures, tally));
    if tally.states.all() >= MANY {
        tally.states.hit().unwrap_or_else(|blind| panic!("the campaign is blind: {blind}"));
    }
}

/// F3, F7, F10: a machine of its own, cut off in the middle of anything, whose drive loses what was not flushed: it comes back
/// with all that was acknowledged and flushed, without resynchronization, and its points are what they were.
#[test]
fn a_machine_whose_power_is_cut_comes_back_with_all_that_was_flushed() {
    cut(Campaign::Boots, number("TOWLINE_CUTS").unwrap_or(5));
}

/// F29: the sidecar's file system stalls, guests go on without it, and then the power is cut.
#[test]
fn a_machine_cut_off_while_its_sidecar_does_not_answer_has_its_disk_compared() {
    stalled(1).unwrap();
}
