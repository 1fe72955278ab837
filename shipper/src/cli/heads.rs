//! The memory of heads. A store that hands out an older copy of a vault, or another history, has nothing that is wrong by
//! itself: every byte of it was once sealed so. It shows to who knows an entry that must be there.

use crate::vault::entry::EntryRef;
use crate::vault::{Group, Vault};
use crate::{Error, Kind, Result};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The options.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// The group's log must have this entry, as `head` of `towline points` told it somewhere else: what is older, or has
    /// another history, is refused
    #[arg(long, value_name = "ENTRY:HASH")]
    expect_head: Option<Head>,
    /// Where the last head of each group is remembered that was read here, so that an older copy of the vault is noticed;
    /// empty: nowhere [default: /var/lib/towline, or ~/.local/state/towline for who is not root]
    #[arg(long, value_name = "DIR", env = "TOWLINE_STATE_DIR", hide_env_values = true)]
    state_dir: Option<OsString>,
}

/// An entry that somebody has seen at the head of a group's log, written as its number and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head(pub EntryRef);

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.0.seq)?;
        self.0.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong =
            || "give the number of an entry, a colon and its hash, as `towline points` shows".to_owned();
        let (seq, hex) = text.split_once(':').ok_or_else(wrong)?;
        if hex.len() != 64 || !hex.bytes().all(|letter| letter.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(EntryRef { seq: seq.parse().map_err(|_| wrong())?, hash }))
    }
}

impl Args {
    /// `--expect-head` is of one group.
    ///
    /// # Errors
    /// `Usage` if it is given and no group is.
    pub fn check_usage(&self, group: Option<&str>) -> Result<()> {
        match (self.expect_head, group) {
            (Some(_), None) => Err(Error::new(Kind::Usage, "--expect-head is of one group: give --group")),
            _ => Ok(()),
        }
    }

    /// These, or of a vault in the past those that are given by hand: the past is older than what is remembered, and is not to be.
    pub fn of(&self, past: bool) -> Self {
        let state_dir = if past { Some(OsString::new()) } else { self.state_dir.clone() };
        Self { state_dir, ..*self }
    }

    /// The head of a group's log: behind every entry that is expected or remembered, each of which is there; from now on it is
    /// the one that is remembered. `None` if the group has no entries.
    ///
    /// # Errors
    /// `RolledBack` if one of them is missing or another; as [`Group::head`].
    pub fn check(&self, vault: &Vault, group: &Group) -> Result<Option<Head>> {
        let file = self.folder().map(|folder| file(&folder, vault, group));
        let (file, remembered) = match file.map(|file| (recall(&file), file)) {
            None => (None, None),
            Some((Ok(head), file)) => (Some(file), head),
            // In another user's home, that `sudo` has kept: no worse off than who reads the vault for the first time.
            Some((Err(error), _)) if error.kind() == Kind::Denied => {
                tracing::warn!(
                    "{}: an older copy of the vault is not noticed; see --state-dir",
                    error.line()
                );
                (None, None)
            }
            Some((Err(error), _)) => return Err(error),
        };
        if let Some(head) = &self.expect_head {
            let remedy = "find the newer copy of the vault, or who has replaced it; without --expect-head it is believed";
            holds(group, head, "that is expected", remedy)?;
        }
        if let (Some(head), Some(file)) = (&remembered, &file) {
            let remedy = format!(
                "find the newer copy of the vault, or who has replaced it; if it was put back on purpose, remove {}",
                file.display()
            );
            holds(group, head, "that was seen here before", &remedy)?;
        }
        let known = [self.expect_head, remembered].into_iter().flatten().map(|head| head.0.seq);
        let seq = group.head(known.max().unwrap_or(0))?;
        let Some(header) = (seq > 0).then(|| group.entry_header(seq)).transpose()?.flatten() else {
            return Ok(None);
        };
        let head = Head(header.reference());
        if let Some(file) = file.filter(|_| remembered != Some(head))
            && let Err(error) = remember(&file, &head)
        {
            tracing::warn!(%error, file = %file.display(), "the vault's head can't be remembered");
        }
        Ok(Some(head))
    }

    /// The folder of the memory; none if nothing is to be remembered, or nobody says where.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = match &self.state_dir {
            Some(folder) => PathBuf::from(folder),
            None if nix::unistd::geteuid().is_root() => PathBuf::from("/var/lib/towline"),
            None => {
                let home = || Some(set("HOME")?.join(".local/state"));
                set("XDG_STATE_HOME").or_else(home)?.join("towline")
            }
        };
        (!folder.as_os_str().is_empty()).then_some(folder)
    }
}

/// Whether the group has this entry.
fn holds(group: &Group, head: &Head, whose: &str, remedy: &str) -> Result<()> {
    let there = group.entry_header(head.0.seq)?;
    if there.is_some_and(|header| header.reference() == head.0) {
        return Ok(());
    }
    // A log that has been pruned beyond it is no older: no copy from before knows such a boundary. What stands at its place
    // now, if anything, is nothing. That it is the same history is what the seal of a catalog says, where there is a key.
    if group
        .catalog(0)?
        .is_some_and(|catalog| catalog.bound() >= head.0.seq && catalog.kept(head.0.seq).is_none())
    {
        return Ok(());
    }
    let what = if there.is_some() { "has another history" } else { "is older" };
    let line = format!(
        "group {}: the vault {what}: it does not have entry {} {whose}; {remedy}",
        group.name, head.0.seq
    );
    Err(Error::new(Kind::RolledBack, line))
}

/// The file with the head of a group.
fn file(folder: &Path, vault: &Vault, group: &Group) -> PathBuf {
    folder.join("heads").join(format!("{}-{}", vault.id(), group.id()))
}

/// What is remembered, if anything is.
fn recall(file: &Path) -> Result<Option<Head>> {
    match fs::read_to_string(file) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| {
            let line = format!("{} is no head of a vault; remove it", file.display());
            Error::new(Kind::Other, line)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format_args!("{}", file.display()), error)),
    }
}

/// A head takes the place of the one before, whole or not at all.
fn remember(file: &Path, head: &Head) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(file.parent().expect("it lies in a folder"))?;
    let made = file.with_extension(format!("new-{}", std::process::id()));
    fs::write(&made, format!("{head}\n"))?;
    fs::rename(&made, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_is_written_and_nothing_else_is() {
        let head = Head(EntryRef { seq: 12, hash: [0xab; 32] });
        assert_eq!(head.to_string().parse(), Ok(head));
        let long = format!("{head}0");
        let bad =
            ["", "12", "12:", "12:ab", ":", &long, "x:ab", "-1:ab", &head.to_string().replace("ab", "+1")];
        bad.into_iter().for_each(|text| assert!(text.parse::<Head>().is_err(), "{text}"));
    }

    #[test]
    fn what_is_remembered_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("heads").join("one");
        assert_eq!(recall(&file).unwrap(), None);
        for seq in 1..3 {
            let head = Head(EntryRef { seq, hash: [1; 32] });
            remember(&file, &head).unwrap();
            assert_eq!(recall(&file).unwrap(), Some(head));
        }
        fs::write(&file, "12:").unwrap();
        assert!(recall(&file).unwrap_err().line().contains("remove it"));
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
