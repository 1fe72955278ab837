//! What a person meets: one subcommand a file. A command writes what it was asked for to standard output and
//! returns its failure, which becomes one line on standard error and an exit code ([`exit`]).

pub mod access;
mod background;
pub mod collect;
pub mod doctor;
pub mod exit;
pub mod heads;
pub mod keys;
pub mod points;
pub mod protect;
pub mod prune;
pub mod restore;
pub mod resync;
pub mod ship;
pub mod stat;
pub mod status;
pub mod store;
pub mod units;
pub mod vault;
pub mod vault_key;
pub mod verify;

use crate::store::location::FORMS;
use crate::vault::{Group, Vault};
use crate::{Error, Kind, Result};
use access::Reading;
use clap::{Parser, Subcommand};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Ships the changes of tracked disks into a vault as recovery points, and restores them.
#[derive(Debug, Parser)]
#[command(
    name = "towline",
    version,
    about,
    after_help = "Exit codes: 0 done, 2 bad arguments, 3 not a vault, 4 newer \
vault, 5 no such group, 6 no such point, 7 output exists, 8 no space, 9 damage, 10 broken lineage, 11 foreign owner, \
12 taken over, 13 given up on fuzzy freezes, 14 no tracker, 15 refused by the tracker, 16 permission, 17 store \
unreachable, 18 stopped by a signal, 19 the disk unreadable, 20 the group is full, \
21 changes found that were not tracked, 22 the key does not open the vault, \
23 the vault is older than it was, 1 anything else."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a vault, and see to its keys
    Vault(vault::Args),
    /// Ship a tracker's changes into a vault
    Ship(ship::Args),
    /// Have a group's next cut compared with the vault, as a whole
    ///
    /// The tracker remembers the wish, across restarts: the next cut, by the shipper that is running or by the next one, freezes
    /// everything, and only blocks whose hash differs from the vault's are shipped. The shipper that is running stays.
    Resync(resync::Args),
    /// Show how a tracker and its disks are
    Status(status::Args),
    /// Explain how far a disk's tracking can be trusted, and what to do
    Doctor(doctor::Args),
    /// List recovery points, and pin them
    Points(Box<points::Args>),
    /// Show what a vault holds, what its cycles put, and what it costs
    Stat(stat::Args),
    /// Restore a recovery point
    Restore(restore::Args),
    /// Read what is in a vault and check it
    ///
    /// Checks every seal, the chain of every log, and that every recovery point has all that it needs; in full depth every block
    /// of it by its hash. Changes nothing.
    Verify(verify::Args),
    /// Let recovery points go by a policy, and delete what no other needs
    ///
    /// Keeps the points that any of the rules keeps, pinned ones, the newest, and those that a shipment in progress needs; lets all
    /// others go. A rule of N keeps the last point of each of the N newest hours (days, weeks, months, years) that have any, in this
    /// host's time zone. Points that a later claim passed over (abandoned) are kept beside the others of their time. Needs the
    /// right to put and to delete. May run beside shippers and restores, be stopped at any moment and be started again.
    Prune(prune::Args),
    /// Delete what no recovery point needs
    ///
    /// What a prune with --no-collect has let go, and what shipments that were broken off left behind. Needs the right to put and
    /// to delete. May run beside shippers, restores and other collections, be stopped at any moment and be started again.
    Collect(collect::Args),
    /// Keep what kept points need from being deleted by anybody
    ///
    /// Locks all that the recovery points of now need, whenever it was put, and the vault's keys, for at least --immutable-for from now
    /// on. Looks at the oldest version of each object, so it works on a vault that somebody has put over or hidden; what was touched so
    /// is told, and ends with exit code 9 when all is locked. To be run by a timer, much more often than --immutable-for, best with
    /// other credentials than shippers have and on another host: they need the rights to list versions, to read, and to put retention.
    Protect(protect::Args),
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// Each command's own.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Vault(args) => vault::run(args),
            Command::Ship(args) => ship::run(args),
            Command::Resync(args) => resync::run(args),
            Command::Status(args) => status::run(args),
            Command::Doctor(args) => doctor::run(args),
            Command::Points(args) => points::run(*args),
            Command::Stat(args) => stat::run(args),
            Command::Restore(args) => restore::run(args),
            Command::Verify(args) => verify::run(args),
            Command::Prune(args) => prune::run(args),
            Command::Collect(args) => collect::run(args),
            Command::Protect(args) => protect::run(args),
        }
    }
}

/// What is to be read of a vault, and how it is told.
#[derive(Debug, clap::Args)]
pub struct ReadArgs {
    // Without it there is a subcommand.
    #[arg(long, value_name = "URL", required = true, help = format!("The vault: {}", FORMS))]
    vault: Option<String>,
    /// Only this group
    #[arg(long)]
    group: Option<String>,
    /// One JSON object for all, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    heads: heads::Args,
    #[command(flatten)]
    access: Reading,
}

impl ReadArgs {
    /// The memory of heads, as far as it is asked.
    fn heads(&self) -> heads::Args {
        self.heads.of(self.access.is_past())
    }

    /// The vault, open.
    ///
    /// # Errors
    /// As [`Vault::open`].
    fn open(&self) -> Result<Vault> {
        self.heads.check_usage(self.group.as_deref())?;
        let url =
            self.vault.as_deref().ok_or_else(|| Error::new(Kind::Usage, "which vault? give --vault"))?;
        let vault = self.access.access().open(url)?;
        self.group.as_ref().map_or(Ok(()), |group| vault.keys.check_open(group))?;
        Ok(vault)
    }
}

/// The group of this name, or all that the keys open.
fn chosen(vault: &Vault, group: Option<&str>) -> Result<Vec<Group>> {
    match group {
        Some(name) => {
            vault.keys.check_open(name)?;
            Ok(vec![vault.group(name)])
        }
        None => vault.groups(),
    }
}

fn now_ns() -> u64 {
    (crate::edge::Edge::SYSTEM.wall_ns)()
}

/// The whole program: parses, runs, says what failed.
pub fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("TOWLINE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Whatever is asked for: what goes over the wire is signed, and no log's business.
    let silent = ["object_store=warn", "hyper_util=warn", "hyper=warn", "reqwest=warn"];
    let filter = silent
        .iter()
        .fold(filter, |filter, quiet| filter.add_directive(quiet.parse().expect("they are directives")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("towline: {}", error.line());
            ExitCode::from(exit::code(error.kind()))
        }
    }
}

/// Writes to standard output; that nobody reads it any more (a closed pipe) is no failure.
///
/// # Errors
/// Any other failure of standard output.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("standard output", error)),
        _ => Ok(()),
    }
}

/// A value as one line of JSON.
///
/// # Errors
/// None that happens: our values are plain.
pub fn json(value: &impl serde::Serialize) -> Result<String> {
    let mut line = serde_json::to_string(value)
        .map_err(|error| Error::caused(Kind::Other, "JSON can't be made", error))?;
    line.push('\n');
    Ok(line)
}

/// Bytes for people: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// A time for people and programs: RFC 3339 in UTC, to the millisecond. Rounded up, so that the newest point at or before
/// the time that is shown of a point is that point.
pub fn time(time_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time_ns.div_ceil(1_000_000)) * 1_000_000)
        .map_or_else(|_| format!("{time_ns} ns"), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_documented() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(1536 << 20)],
            ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]
        );
        assert_eq!(time(1_700_000_000_123_456_789), "2023-11-14T22:13:20.124Z");
        assert_eq!(time(1_700_000_000_123_000_000), "2023-11-14T22:13:20.123Z");
    }
}
