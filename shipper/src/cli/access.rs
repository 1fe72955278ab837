//! How a vault is reached and opened, for every command that opens one.

use super::{keys, store};
use crate::Result;
use crate::store::Store;
use crate::store::tally::Tally;
use crate::vault::Vault;
use std::sync::Arc;

/// The options.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Access {
    /// How the store is reached.
    #[command(flatten)]
    store: store::Args,
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
    pub fn store(&self, url: &str) -> Result<Arc<dyn Store>> {
        self.store.clone().open(url)
    }

    /// The vault at a URL.
    ///
    /// # Errors
    /// As [`keys::Args::open`]; the store's.
    pub fn open(&self, url: &str) -> Result<Vault> {
        self.keys.open(self.store(url)?)
    }
}
