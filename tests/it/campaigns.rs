//! What the campaigns ran, added up: `tests/CAMPAIGNS.md` has a line for each run, and the end of `tests/FAILURES.md` says
//! by campaign which rows it proves and with what figure. `make figures` writes it; every campaign does so when it ends.

use std::collections::{BTreeMap, BTreeSet};
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
const HEAD: &str =
    "| campaign | rows | runs | number | failures | open | last run |\n|---|---|---|---|---|---|---|\n";

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
    closed: u64,
    last: String,
}

/// What became of a failure, as its line says: `seed 7, mended: its cause` or `seed 8, as 7`; `input` is a fuzzer's.
struct Fate<'a> {
    name: &'a str,
    /// It is that one again.
    like: Option<&'a str>,
}

impl<'a> Fate<'a> {
    fn read(clause: &'a str) -> Option<Self> {
        let clause = clause.strip_prefix("seed ").or_else(|| clause.strip_prefix("input "))?;
        let name = &clause[..clause.find([' ', ','])?];
        let like = clause.strip_prefix(name)?.strip_prefix(", as ");
        let mended =
            clause.split_once(", ")?.1.split_once("mended: ").is_some_and(|(_, cause)| !cause.is_empty());
        (like.is_some() || mended).then_some(Self { name, like })
    }

    /// Of every failure of a line.
    fn all(figures: &'a str) -> impl Iterator<Item = Self> {
        figures.split("; ").filter_map(|clause| Self::read(clause.trim()))
    }
}

/// The figures: of each campaign the sums, and the rows that name a test in `tests/it/<campaign>.rs`.
fn figures_of(table: &str, rows: &str) -> String {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut mended: BTreeSet<(&str, &str)> = BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with("| 2")) {
        let cells = cells(line);
        let [date, commit, campaign, number, failures, figures] = cells[..] else { panic!("{line}") };
        let failures = failures.parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
        let mut closed = 0;
        for Fate { name, like } in Fate::all(figures) {
            closed += 1;
            assert!(closed <= failures, "more is told than failed: {line}");
            match like {
                None => drop(mended.insert((campaign, name))),
                Some(other) => assert!(mended.contains(&(campaign, other)), "{other} was not mended: {line}"),
            }
        }
        let sum = sums.entry(campaign).or_default();
        sum.runs += 1;
        sum.number += number.parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
        sum.failures += failures;
        sum.closed += closed;
        sum.last = format!("{date}, {commit}");
    }
    let of = |campaign: &str| {
        let file = format!("`tests/it/{campaign}.rs::");
        let rows = rows.lines().filter(|line| line.starts_with("| F") && line.contains(&file));
        rows.map(|line| cells(line)[0]).collect::<Vec<_>>().join(" ")
    };
    let line = |(campaign, sum): (&&str, &Sum)| {
        let Sum { runs, number, failures, closed, last } = sum;
        let open = failures - closed;
        format!("| {campaign} | {} | {runs} | {number} | {failures} | {open} | {last} |\n", of(campaign))
    };
    HEAD.to_owned() + &sums.iter().map(line).collect::<String>()
}

/// No figure is older than the table that it is made of.
#[test]
fn the_figures_are_the_sums_of_all_runs() {
    let (table, text) = (fs::read_to_string(TABLE).unwrap(), fs::read_to_string(ROWS).unwrap());
    let (rows, written) = text.split_once(HEAD).expect("the figures are at the end");
    let figures = figures_of(&table, rows);
    if std::env::var_os("TOWLINE_FIGURES").is_some() {
        fs::write(ROWS, format!("{rows}{figures}")).unwrap();
    } else {
        assert_eq!(HEAD.to_owned() + written, figures, "write them with `make figures`");
        for line in written.lines().filter(|line| line.starts_with("| ")) {
            assert_eq!(cells(line)[5], "0", "a failure is open: {line}");
        }
    }
}

#[test]
fn a_failure_is_open_until_its_line_says_what_became_of_it() {
    let open = |failures: usize, figures: &str| {
        let line = format!("| 2026 | 1 | sim | 5 | {failures} | seed 1; 3 events; {figures} |\n");
        let known = "| 2026 | 1 | sim | 5 | 1 | seed 0; 3 events; seed 7, mended: a cause; of two parts |\n";
        let figures = figures_of(&(known.to_owned() + &line), "");
        cells(figures.lines().last().unwrap())[5].parse::<usize>().unwrap()
    };
    for (figures, closed) in [
        ("", 0),
        ("seed 9", 0),
        ("seed 9, mended:", 0),
        ("seed 9, to be mended", 0),
        ("some were mended: all", 0),
        ("seed 9, mended: a cause", 1),
        ("seed 9 (a disk), the campaign's own, mended: a cause", 1),
        ("input 0a1b, mended: a cause", 1),
        ("seed 9, as 7", 1),
        ("seed 9, as 7; seed 10, mended: another", 2),
    ] {
        assert_eq!(open(2, figures), 2 - closed, "{figures}");
    }
    for bad in ["seed 9, as 8", "seed 9, mended: a; seed 10, mended: b"] {
        assert!(std::panic::catch_unwind(|| open(1, bad)).is_err(), "{bad}");
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
    assert_eq!(figures_of(small, rows), format!("{HEAD}| kills | F2 | 2 | 45 | 1 | 1 | 2027, 2 |\n"));
}
