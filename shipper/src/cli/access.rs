//! How a vault is reached and opened, for every command that opens one.

use super::{keys, store};
use crate::Result;
use crate::store::Store;
use crate::store::tally::Tally;
use crate::vault::Vault;
use std::sync::Arc;

/// The options of a command that puts into a vault.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Putting {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    locking: store::Locking,
}

/// The options of a command that reads a vault.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Reading {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    looking: store::Looking,
}

impl Putting {
    /// Access of this kind.
    pub fn access(self) -> Access {
        Access { store: self.access.store.locking(self.locking), ..self.access }
    }
}

impl Reading {
    /// Access of this kind.
    pub fn access(&self) -> Access {
        let access = self.access.clone();
        Access { store: access.store.looking(self.looking), ..access }
    }

    /// Whether it is the past that is looked at.
    pub fn is_past(&self) -> bool {
        self.looking.is_past()
    }
}

/// The options.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Access {
    /// How the store is reached.
    #[command(flatten)]
    pub store: store::Args,
    /// What opens the vault.
    #[command(flatten)]
    pub keys: keys::Args,
}

impl Access {
    /// Counts what the stores that it opens are asked.
    pub fn tally(&self) -> Arc<Tally> {
        self.store.tally.clone()
    }

    /// The store at a URL.
    ///
    /// # Errors
    /// As [`crate::store::open_with`].
    pub fn open_store(&self, url: &str) -> Result<Arc<dyn Store>> {
        self.store.clone().open(url)
    }

    /// The vault at a URL.
    ///
    /// # Errors
    /// As [`keys::Args::open`]; the store's.
    pub fn open(&self, url: &str) -> Result<Vault> {
        self.keys.open(self.open_store(url)?)
    }
}
