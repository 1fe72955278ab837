//! What a person types: arguments to settings, with one clear line for what makes no sense.

use clap::{ArgAction, Parser, ValueEnum};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_tracker::error::{Error, Kind};
use towline_tracker::format::intents::REGIONS_MAX;
use towline_tracker::limits::{BLOCK_SHIFT_MAX, BLOCK_SHIFT_MIN, Bounds, DISKS_MAX};
use towline_tracker::sidecar::{Config, DiskConfig, Tracking};
use towline_tracker::units::{size, time};

/// Regions are up to 1 GiB.
const REGION_SHIFT_MAX: u8 = 30;
/// The longest name of a disk or group in bytes: it is part of names in vaults and folders.
const NAME_MAX: usize = 200;

const AFTER_HELP: &str = "\
Sizes are bytes, or a number with KiB, MiB, GiB or TiB (K, M, G, T mean the same). Times are a number with ms, s or m.

Clients connect as nbd+unix:///NAME?socket=PATH; the empty name is the first disk. SIGTERM or SIGINT stops cleanly:
requests in flight are finished and the state is sealed. Log lines go to standard error; RUST_LOG=debug shows more.

Exit codes:
  0  stopped cleanly
  1  anything not listed here
  2  the command line makes no sense, or gives one disk or one sidecar twice (also by a link)
  3  a disk is missing, a folder, of a bad size, or can't be opened
  4  somebody else has a disk open
  5  a sidecar belongs to another disk or user, is newer than this program, is a link, or can't be used
  6  a socket can't be made: its path is too long, or somebody listens there
  7  asked to stop, but a disk or its sidecar did not answer for 10 seconds: what was not sealed is recovered by the
     next start, as after kill -9. A file system that holds a thread in the kernel keeps process and disk until it answers";

/// Tracks virtual disks in their write path and serves them over NBD. A shipper (towline ship) takes the changes.
#[derive(Debug, Parser)]
#[command(name = "towline-tracker", version, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Arguments {
    /// A disk file or block device to serve; several are cut together. NAME is the export's name and the disk's name
    /// in the vault; by default the file's name
    #[arg(long = "disk", value_name = "[NAME=]FILE", required = true, action = ArgAction::Append)]
    disks: Vec<String>,

    /// Where NBD clients connect
    #[arg(long, value_name = "unix:PATH")]
    nbd: String,

    /// Where shippers connect [default: control.sock in the first disk's sidecar folder]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// The group's name in the vault [default: the first disk's file name without its extension]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,

    /// The unit of tracking: a power of two from 4KiB to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = size)]
    block_size: u64,

    /// The unit of write intent: a power of two, at least a block, at most 1GiB
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = size)]
    region_size: u64,

    /// How much of a disk may carry a write intent at once: what is read again after a power loss, at most. At least
    /// four of the largest requests: 272MiB with regions of 4MiB
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = size)]
    intent_budget: u64,

    /// The most preserved data per freeze and disk; beyond it the freeze turns fuzzy. 0: the first overwrite of a
    /// frozen block turns it fuzzy [default: what the sidecar's file system has free]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    preserve_limit: Option<u64>,

    /// How long a guest's write may wait for a before-image; beyond it the freeze turns fuzzy
    #[arg(long, value_name = "TIME", default_value = "250ms", value_parser = time)]
    preserve_deadline: Duration,

    /// How disks are opened [default: direct where the file can]
    #[arg(long, value_name = "MODE")]
    cache: Option<Cache>,

    /// Where sidecar folders are, instead of beside the disks (needed for block devices)
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,

    /// What happens when changes can't be recorded
    #[arg(long, value_name = "MODE", default_value = "availability")]
    tracking: TrackingMode,

    /// Members of this group may use the control socket, besides root and this user
    #[arg(long, value_name = "GROUP")]
    control_group: Option<String>,

    /// Serve reads only; nothing is tracked or changed
    #[arg(long)]
    read_only: bool,

    /// Create missing disk files with this size, sparse
    #[arg(long, value_name = "SIZE", value_parser = size)]
    create: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Cache {
    /// Past the page cache (`O_DIRECT`)
    Direct,
    /// Through the page cache
    Buffered,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TrackingMode {
    /// The guest goes on; a full comparison is durably marked first
    Availability,
    /// The guest's writes wait
    Strict,
    /// Nothing is tracked; a full comparison is durably marked at start
    Off,
}

/// The arguments, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The group's settings.
    pub(crate) config: Config,
    /// Where NBD clients connect.
    pub(crate) nbd: PathBuf,
    /// Where shippers connect, if it was said.
    pub(crate) control: Option<PathBuf>,
    /// Who may, by name.
    pub(crate) control_group: Option<String>,
}

impl Arguments {
    /// Checks what clap can't.
    ///
    /// # Errors
    /// One line that says what makes no sense and what would.
    pub(crate) fn check(self) -> Result<Settings, Error> {
        let usage = |text: String| Error::new(Kind::Usage, text);
        let nbd = match self.nbd.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => return Err(usage(format!("--nbd {}: give a socket as unix:PATH", self.nbd))),
        };
        let disks = self.disks.iter().map(|text| disk(text)).collect::<Result<Vec<_>, _>>()?;
        if disks.len() > DISKS_MAX {
            return Err(usage(format!("{} disks: a group has at most {DISKS_MAX}", disks.len())));
        }
        let (mut names, mut paths) = (HashSet::new(), HashSet::new());
        for disk in &disks {
            if !names.insert(&disk.name) {
                let text = format!("two disks are named {}: name one with --disk NAME=FILE", disk.name);
                return Err(usage(text));
            }
            if !paths.insert(&disk.path) {
                return Err(usage(format!("{} is given twice", disk.path.display())));
            }
        }
        let block_shift = shift(self.block_size, BLOCK_SHIFT_MIN, BLOCK_SHIFT_MAX)
            .ok_or_else(|| usage("--block-size is a power of two from 4KiB to 1MiB".into()))?;
        let region_shift = shift(self.region_size, block_shift, REGION_SHIFT_MAX)
            .ok_or_else(|| usage("--region-size is a power of two from the block size to 1GiB".into()))?;
        let least = Bounds::default().regions_least(region_shift);
        if !(least..=REGIONS_MAX as u64).contains(&(self.intent_budget >> region_shift)) {
            let [least, most] = [least, REGIONS_MAX as u64].map(|regions| regions << region_shift);
            let (least, most) = (least.div_ceil(1 << 20), most >> 20);
            let text = format!("--intent-budget is from {least}MiB to {most}MiB with this --region-size");
            return Err(usage(text));
        }
        let group = match self.group {
            Some(group) => group,
            None => stem(&disks[0].path)
                .ok_or_else(|| usage("the first disk's name can't name the group: use --group".into()))?,
        };
        name_is_fit(&group).map_err(|why| usage(format!("--group {group:?}: {why}")))?;
        let config = Config {
            group,
            disks,
            block_shift,
            region_shift,
            intent_budget: self.intent_budget,
            preserve_limit: self.preserve_limit,
            preserve_deadline: self.preserve_deadline,
            direct: self.cache.map(|cache| matches!(cache, Cache::Direct)),
            log_dir: self.log_dir,
            tracking: match self.tracking {
                TrackingMode::Availability => Tracking::Availability,
                TrackingMode::Strict => Tracking::Strict,
                TrackingMode::Off => Tracking::Off,
            },
            read_only: self.read_only,
            create: self.create,
        };
        Ok(Settings { config, nbd, control: self.control, control_group: self.control_group })
    }
}

/// `[NAME=]FILE`. A file whose name has an `=` is given with a path: `./a=b`.
fn disk(text: &str) -> Result<DiskConfig, Error> {
    let usage = |why: &str| Error::new(Kind::Usage, format!("--disk {text}: {why}"));
    let (name, path) = match text.split_once('=') {
        Some((name, path)) if !name.contains('/') => (Some(name), Path::new(path)),
        _ => (None, Path::new(text)),
    };
    if path.as_os_str().is_empty() {
        return Err(usage("give a file as [NAME=]FILE"));
    }
    let name = match name {
        Some(name) => name,
        None => path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| usage("the file's name can't name the disk: use NAME=FILE"))?,
    };
    name_is_fit(name).map_err(usage)?;
    Ok(DiskConfig { name: name.to_owned(), path: path.to_owned() })
}

/// Names become file names and parts of object names.
fn name_is_fit(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("a name is not empty"),
        "." | ".." => Err("a name is not . or .."),
        _ if name.len() > NAME_MAX => Err("a name has at most 200 bytes"),
        _ if name.contains('/') || name.chars().any(char::is_control) => {
            Err("a name has no slash and no control character")
        }
        _ => Ok(()),
    }
}

fn stem(path: &Path) -> Option<String> {
    path.file_stem()?.to_str().map(str::to_owned)
}

/// log2 of a size, if it is a power of two within the bounds.
fn shift(size: u64, least: u8, most: u8) -> Option<u8> {
    let shift = u8::try_from(size.checked_ilog2()?).ok()?;
    (size.is_power_of_two() && (least..=most).contains(&shift)).then_some(shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Settings, Error> {
        let all = ["towline-tracker", "--nbd", "unix:/run/nbd.sock"].iter().chain(arguments);
        Arguments::try_parse_from(all).map_err(|error| Error::new(Kind::Usage, error.to_string()))?.check()
    }

    #[test]
    fn the_arguments_are_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let help = Arguments::command().render_long_help().to_string();
        assert!((0..=7).all(|code| help.contains(&format!("\n  {code}  "))), "every exit code is told");
    }

    #[test]
    fn defaults_are_those_of_the_documents() {
        let settings = parse(&["--disk", "/srv/vm.disk.raw"]).unwrap();
        let config = settings.config;
        assert_eq!((config.group.as_str(), config.disks[0].name.as_str()), ("vm.disk", "vm.disk.raw"));
        assert_eq!((config.block_shift, config.region_shift, config.intent_budget), (12, 22, 4 << 30));
        assert_eq!((config.preserve_limit, config.preserve_deadline.as_millis()), (None, 250));
        assert_eq!((config.direct, config.tracking), (None, Tracking::Availability));
        assert_eq!(settings.nbd, Path::new("/run/nbd.sock"));
    }

    #[test]
    fn disks_are_named_by_themselves_or_by_their_user() {
        let settings =
            parse(&["--disk", "root=/srv/a.raw", "--disk", "./x=y", "--preserve-limit", "0"]).unwrap();
        let names: Vec<_> = settings.config.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!((names, settings.config.preserve_limit), (vec!["root", "x=y"], Some(0)));
    }

    #[test]
    fn nonsense_is_a_usage_error_in_one_line() {
        let long = format!("{}=/a", "n".repeat(201));
        let cases: [&[&str]; 12] = [
            &[],
            &["--disk", "a=/x", "--disk", "a=/y"],
            &["--disk", "a=/x", "--disk", "b=/x"],
            &["--disk", "=/x"],
            &["--disk", "a="],
            &["--disk", &long],
            &["--disk", "/x", "--block-size", "5000"],
            &["--disk", "/x", "--block-size", "2MiB"],
            &["--disk", "/x", "--block-size", "64KiB", "--region-size", "4KiB"],
            &["--disk", "/x", "--intent-budget", "1MiB"],
            &["--disk", "/x", "--preserve-deadline", "soon"],
            &["--disk", "/x", "--group", "a/b"],
        ];
        for case in cases {
            assert_eq!(parse(case).unwrap_err().kind(), Kind::Usage, "{case:?}");
        }
        assert_eq!(Kind::Usage.exit_code(), 2, "as clap's own");
    }
}
