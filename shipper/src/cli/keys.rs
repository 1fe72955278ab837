//! How a sealed vault is opened, for every command that opens one. Keys are no arguments: everybody on the host can read
//! those. They come from files, from a service manager's credentials, or from a person at a terminal.

use crate::store::Store;
use crate::vault::Vault;
use crate::vault::slots::Secrets;
use crate::{Error, Kind, Result};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The largest file that is read as a key.
const KEY_MAX: usize = 1 << 20;

/// The options.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Sealed vaults")]
#[group(skip)]
pub struct Args {
    /// A file whose first line is the vault's passphrase; without it a terminal is asked
    #[arg(long, value_name = "FILE", env = "TOWLINE_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
    /// The vault's key file
    #[arg(long, value_name = "FILE", env = "TOWLINE_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// The key of one group, as `towline vault key export-group` wrote it: all that a host needs
    #[arg(long, value_name = "FILE", env = "TOWLINE_GROUP_KEY")]
    group_key: Option<PathBuf>,
}

impl Args {
    /// With these files.
    pub fn of(passphrase_file: Option<PathBuf>, key_file: Option<PathBuf>) -> Self {
        Self { passphrase_file, key_file, group_key: None }
    }

    /// The secrets in the files; of a service without arguments, those of its credentials `towline.passphrase`,
    /// `towline.key` and `towline.group-key` (systemd.exec(5), `LoadCredential=`).
    ///
    /// # Errors
    /// A file that can't be read, or holds no key.
    pub fn secrets(&self) -> Result<Secrets> {
        let credential = |name: &str| {
            let folder = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
            Some(folder.join(name)).filter(|path| path.exists())
        };
        let none = self.passphrase_file.is_none() && self.key_file.is_none() && self.group_key.is_none();
        let or = |given: &Option<PathBuf>, name| given.clone().or_else(|| credential(name).filter(|_| none));
        let passphrase = or(&self.passphrase_file, "towline.passphrase");
        let key_file = or(&self.key_file, "towline.key");
        let group = or(&self.group_key, "towline.group-key");
        if passphrase.is_some() || key_file.is_some() || group.is_some() {
            keep_from_dumps();
        }
        Ok(Secrets {
            passphrase: passphrase.map(|path| read_passphrase(&path)).transpose()?,
            key_file: key_file.map(|path| read_key(&path)).transpose()?,
            group: group.map(|path| group_key(&path)).transpose()?,
        })
    }

    /// The vault in this store, open. A terminal is asked for the passphrase if the vault is sealed and nothing is given.
    ///
    /// # Errors
    /// As [`Vault::open_with`]; a file that can't be read.
    pub fn open(&self, store: Arc<dyn Store>) -> Result<Vault> {
        let mut secrets = self.secrets()?;
        let url = store.url();
        match Vault::open_with(store.clone(), &secrets) {
            Err(error) if error.kind() == Kind::Locked && secrets.is_empty() && is_attended() => {
                secrets.passphrase = Some(ask(&format!("passphrase of {url}: "))?);
                Vault::open_with(store, &secrets)
            }
            other => other,
        }
    }

    /// What a new slot is to need: what is given, or what a person types twice. A key file that is not there is made.
    ///
    /// # Errors
    /// `Usage` if nothing is given and nobody can be asked; a file that can't be made or read.
    pub fn for_new(&self, options: &str) -> Result<Secrets> {
        if self.group_key.is_some() {
            return Err(Error::new(
                Kind::Usage,
                "a group's key does not open a vault: give a passphrase or a key file",
            ));
        }
        if let Some(path) = self.key_file.as_ref().filter(|path| !path.exists()) {
            make_key(path)?;
            eprintln!(
                "towline: made the key file {}: keep a copy of it elsewhere, without it the data is lost",
                path.display()
            );
        }
        let mut secrets = self.secrets()?;
        if secrets.is_empty() && !is_attended() {
            let line =
                format!("nothing is given to seal the vault with, and nobody can be asked: give {options}");
            return Err(Error::new(Kind::Usage, line));
        }
        if secrets.is_empty() {
            let [first, second] = [ask("new passphrase: ")?, ask("again: ")?];
            if first != second {
                return Err(Error::new(Kind::Usage, "the two are not the same: nothing was changed"));
            }
            secrets.passphrase = Some(first);
        }
        Ok(secrets)
    }
}

/// T18: from here on no core dump and no debugger of the same user shows what is in memory.
fn keep_from_dumps() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::debug!(%error, "a core dump may show the keys");
    }
}

fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn ask(what: &str) -> Result<Zeroizing<Vec<u8>>> {
    let text = rpassword::prompt_password(what).map_err(|error| Error::io("the terminal", error))?;
    let text = Zeroizing::new(text.into_bytes());
    keep_from_dumps();
    match text.is_empty() {
        true => Err(Error::new(Kind::Usage, "an empty passphrase protects nothing")),
        false => Ok(text),
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error| Error::io(format_args!("{} can't be read", path.display()), error);
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if found.is_file() && found.mode() & 0o077 != 0 {
        tracing::warn!("{} can be read by others: chmod 600 it", path.display());
    }
    // Whole at once: a buffer that grows leaves copies behind. A pipe or a device may have no end.
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_MAX + 1));
    file.take(KEY_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() > KEY_MAX {
        true => Err(Error::new(Kind::Usage, format!("{} is too large to be a key", path.display()))),
        false => Ok(bytes),
    }
}

/// The passphrase in the text of a file: its first line, which is not empty.
pub fn passphrase_in(text: &[u8]) -> Option<&[u8]> {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (!line.is_empty()).then_some(line)
}

/// The key in the bytes of a key file: at least 16; a line's end that an editor added does not count.
pub fn key_in(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    (end >= 16).then_some(&bytes[..end])
}

fn read_passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let text = read(path)?;
    let bad = || Error::new(Kind::Usage, format!("the first line of {} is empty", path.display()));
    passphrase_in(&text).map(|line| Zeroizing::new(line.to_vec())).ok_or_else(bad)
}

fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = read(path)?;
    let bad =
        || Error::new(Kind::Usage, format!("{} is too short to be a key: 16 bytes at least", path.display()));
    key_in(&bytes).map(|key| Zeroizing::new(key.to_vec())).ok_or_else(bad)
}

fn group_key(path: &Path) -> Result<crate::vault::keys::GroupExport> {
    let bad = || Error::new(Kind::Locked, format!("{} holds no group's key", path.display()));
    let text = read(path)?;
    let text = std::str::from_utf8(&text).map_err(|_| bad())?;
    text.parse().map_err(|error: Error| error.context(path.display()))
}

fn make_key(path: &Path) -> Result<()> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|error| Error::caused(Kind::Other, "no random bytes", error))?;
    let mut text = Zeroizing::new(String::with_capacity(65));
    bytes.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
    text.push('\n');
    write_secret(path, text.as_bytes())
}

/// Makes a file that only its owner reads, durably; it must not be there.
///
/// # Errors
/// `OutputExists`, or why it can't be made.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::new(Kind::OutputExists, format!("{} exists; nothing was changed", path.display()))
        }
        _ => Error::io(format_args!("{} can't be made", path.display()), error),
    };
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}
