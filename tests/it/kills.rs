//! The campaign of kills. `make kills` runs it for longer and adds a line to `tests/CAMPAIGNS.md`.

use crate::campaigns::{TABLE, begin_line, lines, put_line};
use towline_tests::kills::{self, Tally};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// F2, F36, F39: whoever dies, and at what: guests behind clients that reconnect see no error, nothing that was
/// acknowledged is missing, and points go on.
#[test]
fn programs_killed_at_any_moment_cost_no_guest_a_write() {
    let count = number("TOWLINE_KILLS").unwrap_or(30) as usize;
    let table = std::env::var_os("TOWLINE_CAMPAIGNS");
    let before = std::fs::read_to_string(TABLE).expect("the table is there");
    let done = lines(&before, "kills").filter_map(|cells| cells.get(3)?.parse::<u64>().ok()).sum();
    // A run goes on where the runs before it ended.
    let seed = number("TOWLINE_SEED").unwrap_or(if table.is_some() { done } else { 1 << 32 });
    let begin = begin_line("kills");
    let told = |tally: &Tally| {
        println!("{tally}");
        if let Some(table) = &table {
            let (kills, failures) = (tally.kills.len(), tally.failures);
            put_line(
                table.as_ref(),
                &begin,
                &format!("{begin}{kills} | {failures} | seed {seed}; {tally} |"),
            );
        }
    };
    let tally = kills::run(count, seed, told);
    tally.hit().unwrap_or_else(|blind| panic!("the campaign is blind: {blind}"));
}
