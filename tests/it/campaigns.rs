//! What the campaigns ran, added up: `tests/CAMPAIGNS.md` has a line for each run, and the end of `tests/FAILURES.md` says
//! by campaign which rows it proves and with what figure. `make figures` writes it; every campaign does so when it ends.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use towline_tests::live::process::run;

/// The table of all runs.
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/CAMPAIGNS.md");
/// The rows of failures, their tests, and at its end the figures.
const ROWS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/FAILURES.md");
/// What comes before the figures.
const HEAD: &str = "| campaign | rows | runs | number | failures | last run |\n|---|---|---|---|---|---|\n";

/// A line of a table: its cells.
fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

/// The lines of a campaign in the table: date, commit, campaign, number, failures, figures.
fn lines<'a>(table: &'a str, campaign: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    table.lines().map(cells).filter(move |cells| cells.get(2) == Some(&campaign))
}

/// A run's line, again whenever there is more to tell: who interrupts a run loses only what came after. Lines with the same
/// beginning are of the same run.
fn put_line(table: &Path, begin: &str, line: &str) {
    let text = fs::read_to_string(table).expect("the table is there");
    let others = text.lines().filter(|other| !other.starts_with(begin));
    let lines: Vec<&str> = others.chain([line]).collect();
    fs::write(table, lines.join("\n") + "\n").expect("the table can be written");
}

/// A number of the environment's.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A run of a campaign.
pub(crate) struct Run {
    /// Where its randomness begins.
    pub(crate) seed: u64,
    /// The table and the beginning of its line, if it has one.
    line: Option<(PathBuf, String)>,
}

impl Run {
    /// A run that the environment describes: `TOWLINE_CAMPAIGNS` is the table that takes its line, `TOWLINE_SEED` where it
    /// begins. Without that, a run goes on where those before it ended; one that makes no line begins at `seed`.
    pub(crate) fn begin(campaign: &str, seed: u64) -> Self {
        let table = std::env::var_os("TOWLINE_CAMPAIGNS").map(PathBuf::from);
        let before = fs::read_to_string(TABLE).expect("the table is there");
        let done = lines(&before, campaign).filter_map(|cells| cells.get(3)?.parse::<u64>().ok()).sum();
        let seed = number("TOWLINE_SEED").unwrap_or(if table.is_some() { done } else { seed });
        let line = table.map(|table| (table, begin_line(campaign)));
        Self { seed, line }
    }

    /// Says how far it has come.
    pub(crate) fn tell(&self, number: usize, failures: usize, figures: &impl Display) {
        println!("{figures}");
        if let Some((table, begin)) = &self.line {
            put_line(
                table,
                begin,
                &format!("{begin}{number} | {failures} | seed {}; {figures} |", self.seed),
            );
        }
    }
}

/// The beginning of a run's line: when it began, and of what.
fn begin_line(campaign: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let word = |program: &str, arguments: &[&str]| {
        run(Command::new(program).args(arguments).current_dir(root)).good().stdout.trim().to_owned()
    };
    let (date, commit) = (word("date", &["-u", "+%F %R"]), word("git", &["describe", "--always", "--dirty"]));
    format!("| {date} | {commit} | {campaign} | ")
}

#[derive(Default)]
struct Sum {
    runs: u64,
    number: u64,
    failures: u64,
    last: String,
}

/// The figures: of each campaign the sums, and the rows that name a test in `tests/it/<campaign>.rs`.
fn figures(table: &str, rows: &str) -> String {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| 2")) {
        let cells = cells(line);
        let [date, commit, campaign, number, failures, ..] = cells[..] else { panic!("{line}") };
        let sum = sums.entry(campaign).or_default();
        sum.runs += 1;
        sum.number += number.parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
        sum.failures += failures.parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
        sum.last = format!("{date}, {commit}");
    }
    let of = |campaign: &str| {
        let file = format!("`tests/it/{campaign}.rs::");
        let rows = rows.lines().filter(|line| line.starts_with("| F") && line.contains(&file));
        rows.map(|line| cells(line)[0]).collect::<Vec<_>>().join(" ")
    };
    let line = |(campaign, Sum { runs, number, failures, last }): (&&str, &Sum)| {
        format!("| {campaign} | {} | {runs} | {number} | {failures} | {last} |\n", of(campaign))
    };
    HEAD.to_owned() + &sums.iter().map(line).collect::<String>()
}

/// No figure is older than the table that it is made of.
#[test]
fn the_figures_are_the_sums_of_all_runs() {
    let (table, text) = (fs::read_to_string(TABLE).unwrap(), fs::read_to_string(ROWS).unwrap());
    let (rows, written) = text.split_once(HEAD).expect("the figures are at the end");
    let figures = figures(&table, rows);
    if std::env::var_os("TOWLINE_FIGURES").is_some() {
        fs::write(ROWS, format!("{rows}{figures}")).unwrap();
    } else {
        assert_eq!(HEAD.to_owned() + written, figures, "write them with `make figures`");
    }
}

#[test]
fn a_campaign_has_one_line_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table");
    fs::copy(TABLE, &table).unwrap();
    let before = lines(&fs::read_to_string(TABLE).unwrap(), "kills").count();
    put_line(&table, "| 2026 | 1 | kills | ", "| 2026 | 1 | kills | 15 | 0 | |");
    put_line(&table, "| 2026 | 1 | fuzz | ", "| 2026 | 1 | fuzz | 7 | 0 | |");
    put_line(&table, "| 2026 | 1 | kills | ", "| 2026 | 1 | kills | 30 | 1 | |");
    let text = fs::read_to_string(&table).unwrap();
    let last = lines(&text, "kills").last().unwrap();
    assert_eq!(last, ["2026", "1", "kills", "30", "1", ""]);
    assert_eq!(lines(&text, "kills").count(), before + 1);
    let rows = "| F2 | dies | `tests/it/kills.rs::a` | |\n| F3 | x | `tests/it/sim.rs::b` | |\n";
    let small = "| 2026 | 1 | kills | 15 | 0 | |\n| 2027 | 2 | kills | 30 | 1 | |\n";
    assert_eq!(figures(small, rows), format!("{HEAD}| kills | F2 | 2 | 45 | 1 | 2027, 2 |\n"));
}
