//! The campaign of kills. `make kills` runs it for longer and adds a line to `tests/CAMPAIGNS.md`.

use std::path::Path;
use std::process::Command;
use towline_tests::kills::{self, Tally};
use towline_tests::live::process::run;

/// The table of all runs.
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/CAMPAIGNS.md");

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A line of the table: cells of a campaign by this name.
fn lines<'a>(table: &'a str, campaign: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    let rows = table.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter(move |cells| cells.get(2) == Some(&campaign))
}

/// F2, F36, F39: whoever dies, and at what: guests behind clients that reconnect see no error, nothing that was acknowledged is
/// missing, and points go on.
#[test]
fn programs_killed_at_any_moment_cost_no_guest_a_write() {
    let count = number("TOWLINE_KILLS").unwrap_or(30) as usize;
    let table = std::env::var_os("TOWLINE_CAMPAIGNS");
    let before = std::fs::read_to_string(TABLE).expect("the table is there");
    let done = lines(&before, "kills").filter_map(|cells| cells.get(3)?.parse::<u64>().ok()).sum();
    // A run goes on where the runs before it ended.
    let seed = number("TOWLINE_SEED").unwrap_or(if table.is_some() { done } else { 1 << 32 });
    let begun = word("date", &["-u", "+%F %R"]);
    let commit = word("git", &["describe", "--always", "--dirty"]);
    let told = |tally: &Tally| {
        println!("{tally}");
        if let Some(table) = &table {
            let (kills, failures) = (tally.kills.len(), tally.failures);
            let begin = format!("| {begun} | {commit} | kills | ");
            let line = format!("{begin}{kills} | {failures} | seed {seed}; {tally} |");
            put_line(table.as_ref(), &begin, &line);
        }
    };
    let tally = kills::run(count, seed, told);
    tally.hit().unwrap_or_else(|blind| panic!("the campaign is blind: {blind}"));
}

/// The run's line, again after every leg: who interrupts a run loses nothing but its last leg.
fn put_line(table: &Path, begin: &str, line: &str) {
    let text = std::fs::read_to_string(table).expect("the table is there");
    let others = text.lines().filter(|other| !other.starts_with(begin));
    let lines: Vec<&str> = others.chain([line]).collect();
    std::fs::write(table, lines.join("\n") + "\n").expect("the table can be written");
}

fn word(program: &str, arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    run(Command::new(program).args(arguments).current_dir(root)).good().stdout.trim().to_owned()
}

#[test]
fn a_campaign_has_one_line_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table");
    std::fs::copy(TABLE, &table).unwrap();
    let before = lines(&std::fs::read_to_string(TABLE).unwrap(), "kills").count();
    put_line(&table, "| then | 1 | kills | ", "| then | 1 | kills | 15 | 0 | |");
    put_line(&table, "| now | 1 | fuzz | ", "| now | 1 | fuzz | 7 | 0 | |");
    put_line(&table, "| then | 1 | kills | ", "| then | 1 | kills | 30 | 0 | |");
    let text = std::fs::read_to_string(&table).unwrap();
    let last = lines(&text, "kills").last().unwrap();
    assert_eq!(last, ["then", "1", "kills", "30", "0", ""]);
    assert_eq!(lines(&text, "kills").count(), before + 1);
}
