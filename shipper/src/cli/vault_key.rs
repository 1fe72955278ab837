//! `towline vault key`: who can open a sealed vault. Nothing here touches what was shipped.

use super::access::{Access, Putting};
use super::keys::{self, write_secret};
use super::now_ns;
use super::{json, print, time};
use crate::store::Store;
use crate::vault::keys::{Keys, Masters};
use crate::vault::slots::{self, Found};
use crate::vault::{Vault, envelope::Suite};
use crate::{Error, Kind, Result};
use clap::Subcommand;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use towline_tracker::id::VaultId;

/// `towline vault key ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what opens a vault
    List {
        /// The vault
        url: String,
        /// One JSON object, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        store: super::store::Args,
    },
    /// Let another passphrase or key file open it
    Add {
        /// The vault
        url: String,
        #[command(flatten)]
        new: New,
        #[command(flatten)]
        access: Putting,
    },
    /// Take one away, by its id from the list. Who has a copy of the store and the old passphrase still opens what is in
    /// that copy: rotate, too, if it is not secret any more
    Remove {
        /// The vault
        url: String,
        /// The id, or its beginning
        id: String,
        #[command(flatten)]
        store: super::store::Args,
    },
    /// Seal what is shipped from now on with a new master key, and let only what is given here open the vault; other
    /// passphrases and key files are added again, groups' keys exported again. What was shipped is not touched
    Rotate {
        /// The vault
        url: String,
        #[command(flatten)]
        new: New,
        #[command(flatten)]
        access: Putting,
    },
    /// Whether what is given opens the vault and all its groups
    Check {
        /// The vault
        url: String,
        /// One JSON object, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        access: Access,
    },
    /// Write the key of one group for the host that ships it: it opens nothing else
    ExportGroup {
        /// The vault
        url: String,
        /// The group
        group: String,
        /// The file to make (`-`: standard output)
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        #[command(flatten)]
        access: Access,
    },
}

/// What a new slot is to need.
#[derive(Clone, Debug, clap::Args)]
struct New {
    /// A file whose first line is the new passphrase
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// The new key file; made if it is not there
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    /// A name for it; the store sees it
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
}

impl New {
    fn making<'a>(&'a self, secrets: &'a slots::Secrets) -> slots::Making<'a> {
        slots::Making { secrets, label: &self.label, created_ns: now_ns(), draw: crate::edge::kernel }
    }

    fn secrets(&self) -> Result<slots::Secrets> {
        keys::Args::of(self.new_passphrase_file.clone(), self.new_key_file.clone())
            .for_new("--new-passphrase-file or --new-key-file (a new one is made)")
    }
}

#[derive(Serialize)]
struct List {
    vault: String,
    generation: u16,
    slots: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    id: String,
    needs: &'static str,
    label: String,
    made: String,
}

fn line(found: &Found) -> Line {
    Line {
        id: found.id(),
        needs: found.slot.needs(),
        label: found.slot.label.clone(),
        made: time(found.slot.created_ns),
    }
}

#[derive(Serialize)]
struct Checked {
    vault: String,
    generation: u16,
    groups: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// `Locked` if what is given does not open the vault, or it is not sealed; the store's.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::List { url, json, store } => list(&store.open(&url)?, json),
        Command::Add { url, new, access } => {
            let access = access.access();
            let vault = access.open(&url)?;
            let masters = masters(&vault)?;
            let secrets = new.secrets()?;
            slots::put(&*vault.store, vault.id(), masters, &new.making(&secrets))?;
            print("added\n")
        }
        Command::Remove { url, id, store } => {
            let store = store.open(&url)?;
            let id = slots::remove(&*store, sealed(&*store)?, &id)?;
            print(&format!("removed {id}\n"))
        }
        Command::Rotate { url, new, access } => {
            let access = access.access();
            let vault = access.open(&url)?;
            let masters = masters(&vault)?;
            let secrets = match (&new.new_passphrase_file, &new.new_key_file, access.keys.secrets()?) {
                (None, None, given) if !given.is_empty() => given,
                _ => new.secrets()?,
            };
            let rotated = slots::rotate(&*vault.store, vault.id(), masters, &new.making(&secrets))?;
            let (next, left) = rotated;
            if left > 0 {
                tracing::warn!("{left} old slots can't be deleted: they still open what was shipped before");
            }
            let line = format!(
                "the key is of generation {} now; start shippers again, and export groups' keys again\n",
                next.newest().0
            );
            print(&line)
        }
        Command::Check { url, json, access } => check(&access.open(&url)?, json),
        Command::ExportGroup { url, group, to, access } => {
            let vault = access.open(&url)?;
            masters(&vault)?;
            let export = vault.keys.export(vault.id(), &group).expect("there are master keys");
            let text = export.to_text();
            match to == Path::new("-") {
                true => print(&text),
                false => write_secret(&to, text.as_bytes()),
            }
        }
    }
}

fn not_sealed(url: &str) -> Error {
    Error::new(Kind::Locked, format!("the vault at {url} is not sealed: it has no keys"))
}

/// The id of the sealed vault in a store, which need not be opened.
fn sealed(store: &dyn Store) -> Result<VaultId> {
    let descriptor = Vault::describe(store)?;
    match descriptor.suite {
        Suite::Unkeyed => Err(not_sealed(&store.url())),
        Suite::Aes256Gcm => Ok(descriptor.vault),
    }
}

fn masters(vault: &Vault) -> Result<&Masters> {
    match &vault.keys {
        Keys::Masters(masters) => Ok(masters),
        Keys::Group(_) => {
            Err(Error::new(Kind::Locked, "a group's key does not do: give the passphrase or the key file"))
        }
        Keys::None => Err(not_sealed(&vault.store.url())),
    }
}

fn list(store: &Arc<dyn Store>, as_json: bool) -> Result<()> {
    let vault = sealed(&**store)?;
    let listed = slots::list(&**store, vault)?;
    let slots: Vec<_> = listed.slots.iter().map(line).collect();
    if as_json {
        print(&json(&List { vault: vault.to_string(), generation: listed.generation, slots })?)?;
    } else {
        let mut text = format!("generation {}\n", listed.generation);
        for line in slots {
            text.push_str(&format!("  {}  {}  {:<23}  {}\n", line.id, line.made, line.needs, line.label));
        }
        print(&text)?;
    }
    match listed.damaged.into_iter().next() {
        None => Ok(()),
        Some((_, error)) => {
            Err(error.context("a slot can't be read, `towline vault key remove` takes it away"))
        }
    }
}

/// T9: a key that opens nothing is found before it is needed.
fn check(vault: &Vault, as_json: bool) -> Result<()> {
    let generation = match &vault.keys {
        Keys::None => return Err(not_sealed(&vault.store.url())),
        Keys::Masters(masters) => masters.newest().0,
        Keys::Group(export) => export.keys.newest().0,
    };
    let mut groups = Vec::new();
    for group in vault.groups()? {
        let head = group.head(0)?;
        group.entry_at(head)?;
        groups.push(group.name);
    }
    if as_json {
        return print(&json(&Checked { vault: vault.id().to_string(), generation, groups })?);
    }
    let mut text = format!("opens vault {}, generation {generation}\n", vault.id());
    groups.iter().for_each(|group| text.push_str(&format!("  group {group}\n")));
    print(&text)
}
