//! `towline ship`: takes a tracker's changes, generation by generation, into a vault.

use super::access::Putting;
use super::{background, exit, units};
use crate::limit::Rules;
use crate::pipeline::{MEMORY_MIN, Retry};
use crate::progress::Progress;
use crate::ship::{self, Ended, Options, Stop};
use crate::store::location::FORMS;
use crate::vault::fold;
use crate::vault::limits::{PACK_SIZE_MAX, PACK_SIZE_MIN};
use crate::{Error, Kind, Result};
use jiff::tz::TimeZone;
use std::path::PathBuf;
use std::time::Duration;

/// How long what is under way has to end by itself after a signal.
const GRACE: Duration = Duration::from_secs(1);

/// `towline ship ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tracker's control socket
    #[arg(long, value_name = "SOCKET")]
    tracker: PathBuf,
    #[arg(long, value_name = "URL", help = format!("The vault: {}", FORMS))]
    vault: String,
    /// Time from one cut to the next: 500ms, 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    every: Duration,
    /// Finish or undo an open freeze, make one point, print its id as the last line, and end
    #[arg(long, conflicts_with = "every")]
    once: bool,
    /// Freeze everything at the first cut, compare it with the vault and ship what differs. Of what `towline verify`
    /// reports as damage this heals what is missing, has another length, or is an index
    #[arg(long)]
    full: bool,
    /// With --full: believe nothing in the vault and ship everything that is not zero again. Heals all that
    /// `towline verify` reports, for this and all later points, and costs a full copy
    #[arg(long, requires = "full")]
    distrust: bool,
    /// When so much of a disk has changed, compare the changed blocks with the vault's hashes and ship what differs, as a
    /// resynchronization does; 0: ship what has changed, however much
    #[arg(long, value_name = "PERCENT", default_value = "50%", value_parser = percent)]
    resync_at: u8,
    /// Take over a group whose log went on without this tracker, that belongs to other disks, or whose log is damaged:
    /// everything is compared
    #[arg(long)]
    take_over: bool,
    /// Memory to use, whatever the size of the disks; at least 64MiB
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = units::size)]
    memory: u64,
    /// Size at which a pack is closed, 64KiB to 256MiB; at most a fifteenth of the memory is used. As it is, a full shipping
    /// puts at most one object per 16 MiB, with its indexes and checkpoints
    #[arg(long, value_name = "SIZE", default_value = "17MiB", value_parser = units::size)]
    pack_size: u64,
    /// Bytes after which a long shipment puts a checkpoint (also every 5 minutes)
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = units::size)]
    checkpoint_every: u64,
    /// Fold the indexes of so many cycles into one, and so many of these into one again, 2 to 1024. Small numbers write more, large
    /// ones make restores read more
    #[arg(long, value_name = "N", default_value_t = fold::EVERY as u16, value_parser = clap::value_parser!(u16).range(2..=1024))]
    fold_every: u16,
    /// At each cut, compare so much of what did not change with the vault all the same, going through the disks from a
    /// random place on; 0: nothing. What differs was changed unseen by the tracker: everything is compared then, and
    /// --once ends with exit code 21
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = units::size)]
    audit: u64,
    /// Upload no faster: 50MiB/s, or at some times only: 'mon-fri 08:00-18:00 20MiB/s', 'sat,sun unlimited', '22:00-06:00
    /// 90MiB/s' (the night that begins on each day). Can be given several times: the last that matches is in force, without
    /// one there is no limit. Times are local. In any 10 s at most 10 s of the rate and one pack go out
    #[arg(long, value_name = "RULE")]
    limit_up: Vec<String>,
    /// More such rules, one a line, behind those of --limit-up; '#' begins a note. The file is read again within a second
    /// when it is replaced or written to; no signal is needed
    #[arg(long, value_name = "FILE")]
    limit_file: Option<PathBuf>,
    /// How far to stand back for others when the processors are busy, the guest's disk first of all: 0 (not at all) to
    /// 19. Not used if the program was started with a niceness of its own
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(i8).range(0..=19))]
    nice: i8,
    /// One JSON object per published entry on standard output, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Putting,
}

fn percent(text: &str) -> std::result::Result<u8, String> {
    let share: Option<u8> = text.trim_end_matches('%').parse().ok();
    share.filter(|share| *share <= 100).ok_or_else(|| "give 0 to 100".to_owned())
}

/// Runs the command.
///
/// # Errors
/// See [`super::exit`].
pub fn run(args: Args) -> Result<()> {
    if args.memory < MEMORY_MIN {
        return Err(Error::new(Kind::Usage, "--memory must be at least 64MiB"));
    }
    if !(PACK_SIZE_MIN as u64..=PACK_SIZE_MAX as u64).contains(&args.pack_size) {
        return Err(Error::new(Kind::Usage, "--pack-size must be between 64KiB and 256MiB"));
    }
    let access = args.access.access();
    // Before any thread is made, so that all inherit it.
    if let Err(error) = background::stand_back(args.nice.into()) {
        tracing::debug!(%error, "scheduled as usual");
    }
    let options = Options {
        tracker: args.tracker,
        every: (!args.once).then_some(args.every),
        full: args.full,
        distrust: args.distrust,
        resync_at: args.resync_at,
        take_over: args.take_over,
        memory: args.memory,
        pack_size: usize::try_from(args.pack_size).unwrap_or(PACK_SIZE_MAX),
        checkpoint_every: args.checkpoint_every,
        fold_every: args.fold_every.into(),
        audit: args.audit,
        retry: Retry::STORE,
        limit: Rules::new(&args.limit_up, args.limit_file, TimeZone::system())?,
        minute: Duration::from_secs(60),
        tally: access.tally(),
    };
    let stop = Stop::on_signals()?;
    let code = if args.once { exit::code(Kind::Stopped) } else { 0 };
    stop.insist(GRACE, move || {
        eprintln!("towline: stopped; what was under way is given up, the next run goes on from there");
        std::process::exit(code.into());
    })?;
    let vault = access.open(&args.vault)?;
    match ship::run(vault, &options, &stop, &mut Progress::new(args.json))? {
        Ended::Once(summary) => {
            // With --json the object was the last line.
            if !args.json {
                super::print(&format!("{}\n", summary.id))?;
            }
            match summary.blocks_untracked {
                0 => Ok(()),
                _ => Err(Error::new(
                    Kind::Untracked,
                    "changes were found that the tracker had not seen; this point has \
                    them, points before it may lack them: find out who writes to the disk past the tracker",
                )),
            }
        }
        Ended::Stopped => {
            tracing::info!("stopped");
            Ok(())
        }
    }
}
