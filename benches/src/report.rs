//! What is handed out: Markdown for people, JSON for programs, and for each target whether it was reached.

use crate::{Options, Result};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// A table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one.
    pub(crate) fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|column| (*column).to_string()).collect();
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    /// One more row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
        assert_eq!(self.rows.last().map(Vec::len), Some(self.columns.len()), "a row fills its table");
    }
}

/// A target: a value that has to be at least or at most something.
#[derive(Clone, Debug, Serialize)]
struct Target {
    what: String,
    wanted: String,
    got: String,
    reached: bool,
}

/// The answer to one question.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    question: String,
    command: String,
    host: String,
    tables: Vec<Table>,
    targets: Vec<Target>,
    notes: Vec<String>,
    /// Every single measurement.
    raw: serde_json::Map<String, serde_json::Value>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(question: &str, options: &Options) -> Self {
        let mut command = format!("cargo run --release -p towline-benches -- {question}");
        if let Some(pairs) = options.pairs {
            let _ = write!(command, " --pairs {pairs}");
        }
        if let Some(mib) = options.mib {
            let _ = write!(command, " --mib {mib}");
        }
        if options.quick {
            command.push_str(" --quick");
        }
        if let Some(only) = &options.only {
            let _ = write!(command, " --only {only}");
        }
        Self {
            question: question.into(),
            command,
            host: host(),
            tables: Vec::new(),
            targets: Vec::new(),
            notes: Vec::new(),
            raw: serde_json::Map::new(),
        }
    }

    /// One more table.
    pub(crate) fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// One more line below the tables.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// A target that `value` has to reach from below.
    pub(crate) fn at_least(&mut self, what: &str, value: f64, wanted: f64, got: impl ToString) {
        self.target(what, format!(">= {wanted}"), got, value >= wanted);
    }

    /// A target that `value` must not exceed.
    pub(crate) fn at_most(&mut self, what: &str, value: f64, wanted: f64, got: impl ToString) {
        self.target(what, format!("<= {wanted}"), got, value <= wanted);
    }

    fn target(&mut self, what: &str, wanted: String, got: impl ToString, reached: bool) {
        self.targets.push(Target { what: what.into(), wanted, got: got.to_string(), reached });
    }

    /// Keeps single measurements.
    pub(crate) fn raw(&mut self, name: &str, value: impl Serialize) {
        let value = serde_json::to_value(value).unwrap_or(serde_json::Value::Null);
        self.raw.insert(name.into(), value);
    }

    fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n`{}` on {}\n", self.question, self.command, self.host);
        for table in &self.tables {
            let _ = writeln!(text, "\n### {}\n", table.title);
            grid(&mut text, &table.columns, &table.rows);
        }
        if !self.targets.is_empty() {
            text.push_str("\n### Targets\n\n");
            let columns = ["target", "wanted", "measured", "reached"].map(String::from);
            let rows = self.targets.iter().map(|target| {
                let reached = if target.reached { "yes" } else { "**no**" };
                vec![target.what.clone(), target.wanted.clone(), target.got.clone(), reached.into()]
            });
            grid(&mut text, &columns, &rows.collect::<Vec<_>>());
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }

    /// Prints the Markdown and leaves both forms in `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let markdown = self.markdown();
        println!("{markdown}");
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(format!("{}.md", self.question)), &markdown)?;
        let path = folder.join(format!("{}.json", self.question));
        std::fs::write(&path, serde_json::to_string_pretty(self)?)?;
        eprintln!("also as {}", path.display());
        Ok(())
    }
}

fn grid(text: &mut String, columns: &[String], rows: &[Vec<String>]) {
    let _ = writeln!(text, "| {} |", columns.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(columns.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

/// The machine, in a few words.
fn host() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{cores} x {}, kernel {}, load {load} at the start",
        model.trim_start_matches(['\t', ' ', ':']).trim(),
        kernel.trim()
    )
}
