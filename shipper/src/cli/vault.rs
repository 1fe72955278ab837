//! `towline vault`: what concerns a vault as a whole.

use super::access::Putting;
use crate::store::location::FORMS;
use crate::vault::Vault;
use crate::vault::slots::Making;
use crate::{Error, Kind, Result};
use clap::Subcommand;

/// `towline vault ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new, empty vault in a new or empty folder, or in a bucket of which nothing else uses the prefix
    ///
    /// It is sealed: what is shipped is encrypted before it leaves this host, and the store learns sizes and times only. What
    /// opens it is a passphrase, a key file, or both together; a key file that is not there is made.
    Init {
        #[arg(help = format!("Where: {}", FORMS))]
        url: String,
        /// Seal nothing: whoever can read the store can read the disks
        #[arg(long)]
        no_encryption: bool,
        /// A name for what opens it; the store sees it
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
        #[command(flatten)]
        access: Putting,
    },
    /// Who can open a sealed vault
    Key(super::vault_key::Args),
}

/// Runs the command.
///
/// # Errors
/// `OutputExists` if there is something already; the store's.
pub fn run(args: Args) -> Result<()> {
    let (url, no_encryption, label, access) = match args.command {
        Command::Init { url, no_encryption, label, access } => (url, no_encryption, label, access.access()),
        Command::Key(args) => return super::vault_key::run(args),
    };
    let store = access.open_store(&url)?;
    let now = super::now_ns();
    if no_encryption {
        if !access.keys.secrets()?.is_empty() {
            return Err(Error::new(Kind::Usage, "--no-encryption, and yet a key is given: which one?"));
        }
        let vault = Vault::init(store, now)?;
        tracing::warn!("NOT ENCRYPTED: whoever can read {} can read the disks", vault.store.url());
        return super::print(&format!("vault {} made at {}, not sealed\n", vault.id(), vault.store.url()));
    }
    let secrets =
        access.keys.for_new("--passphrase-file, --key-file (a new one is made), or --no-encryption")?;
    let slot = Making { secrets: &secrets, label: &label, created_ns: now, draw: crate::edge::kernel };
    let vault = Vault::init_sealed(store, &slot)?;
    super::print(&format!("vault {} made at {}, sealed\n", vault.id(), vault.store.url()))
}
