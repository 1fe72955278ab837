//! Side-by-side benchmarks: us and our peers on the same machine, in the same run, in turn. One question a file.
//!
//! ```text
//!  question ──► rounds (every contestant once a round, in rotating order) ──► ratios within a round
//!     │                                                                          │
//!     └── server, s3, tool, fio, qmp, process: how contestants run                         └── stats ──► report: Markdown, JSON
//! ```
//!
//! A machine has good and bad minutes: only what was measured in the same round is compared, and a ratio is told as
//! its median with the least and the greatest.

mod cut;
mod delta;
mod fio;
mod history;
mod instructions;
mod memory;
mod process;
mod qmp;
mod replication;
mod report;
mod room;
mod s3;
mod server;
mod ship;
mod stats;
mod store;
mod tool;
mod write_path;

use clap::{Args, Parser, Subcommand};
use report::Report;
use room::Room;
use std::path::PathBuf;
use std::process::ExitCode;

/// Whatever went wrong, for people.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measures Towline beside its peers.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// What tracking costs the guest: fio over NBD, and while a freeze ships
    WritePath(Options),
    /// How fast generations are shipped
    Ship(Options),
    /// How fast vaults are filled and restored, in a folder and in an S3 server
    Store(Options),
    /// User-space instructions that tracking adds to a write (callgrind)
    Instructions(Options),
    /// How long a cut holds the writes
    Cut(Options),
    /// Peak memory of both processes
    Memory(Options),
    /// The run that callgrind counts; not for people
    #[command(hide = true)]
    Drive(instructions::Drive),
}

/// What every question takes.
#[derive(Clone, Debug, Args)]
struct Options {
    /// Rounds: each contestant once, in turn
    #[arg(long)]
    pairs: Option<usize>,
    /// Short runs and small disks: shows that everything works, measures little
    #[arg(long)]
    quick: bool,
    /// Only parts whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Size of the disks that are shipped, in MiB [default: 4096, or 512 in a quick run; of store half]
    #[arg(long)]
    mib: Option<u64>,
    /// A folder on a file system in memory
    #[arg(long, default_value = "/dev/shm")]
    memory_dir: PathBuf,
    /// A folder on a disk
    #[arg(long, default_value = ".")]
    disk_dir: PathBuf,
    /// A folder with towline-tracker and towline [default: built as they are shipped]
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Where the reports go [default: the target folder]
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Options {
    /// Rounds, if none were asked for: `usual`, or 2 in a quick run.
    fn rounds(&self, usual: usize) -> usize {
        self.pairs.unwrap_or(if self.quick { 2 } else { usual }).max(1)
    }

    /// Bytes of the disks that are shipped.
    fn size(&self) -> u64 {
        self.mib.unwrap_or(if self.quick { 512 } else { 4096 }) << 20
    }

    /// Whether the part of this name is wanted.
    fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| part.contains(only.as_str()))
    }
}

fn run(name: &str, options: &Options, ask: fn(&Room, &Options, &mut Report) -> Result<()>) -> Result<()> {
    let room = Room::new(options)?;
    let mut report = Report::new(name, options);
    ask(&room, options, &mut report)?;
    report.write(&room.out)
}

fn main() -> ExitCode {
    let asked = match Cli::parse().question {
        Question::WritePath(options) => run("write-path", &options, write_path::ask),
        Question::Ship(options) => run("ship", &options, ship::ask),
        Question::Store(options) => run("store", &options, store::ask),
        Question::Instructions(options) => run("instructions", &options, instructions::ask),
        Question::Cut(options) => run("cut", &options, cut::ask),
        Question::Memory(options) => run("memory", &options, memory::ask),
        Question::Drive(drive) => instructions::drive(&drive),
    };
    match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("towline-benches: {error}");
            ExitCode::FAILURE
        }
    }
}
