//! The campaign of kills. `make kills` runs it for longer and adds a line to `tests/CAMPAIGNS.md`.

use crate::campaigns::{Run, number};
use towline_tests::kills;

/// F2, F36, F39: whoever dies, and at what: guests behind clients that reconnect see no error, nothing that was
/// acknowledged is missing, and points go on.
#[test]
fn programs_killed_at_any_moment_cost_no_guest_a_write() {
    let count = number("TOWLINE_KILLS").unwrap_or(30) as usize;
    let of = Run::begin("kills", 1 << 32);
    let tally = kills::run(count, of.seed, |tally| of.tell(tally.kills.len(), tally.failures, tally));
    tally.states().hit().unwrap_or_else(|blind| panic!("the campaign is blind: {blind}"));
}
