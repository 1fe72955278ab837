//! `towline vault`: what concerns a vault as a whole.

use crate::vault::Vault;
use crate::{Result, store};
use clap::Subcommand;

/// `towline vault ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new, empty vault in a new or empty folder
    Init {
        /// Where: file:///folder or a path
        url: String,
    },
}

/// Runs the command.
///
/// # Errors
/// `OutputExists` if there is something already; the store's.
pub fn run(args: Args) -> Result<()> {
    let Command::Init { url } = args.command;
    let now = jiff::Timestamp::now().as_nanosecond();
    let vault = Vault::init(store::open(&url)?, u64::try_from(now).unwrap_or(0))?;
    super::print(&format!("vault {} made at {}\n", vault.id(), vault.store.url()))
}
