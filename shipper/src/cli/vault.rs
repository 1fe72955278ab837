//! `towline vault`: what concerns a vault as a whole.

use super::store;
use crate::Result;
use crate::store::location::FORMS;
use crate::vault::Vault;
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
    Init {
        #[arg(help = format!("Where: {}", FORMS))]
        url: String,
        #[command(flatten)]
        store: store::Args,
    },
}

/// Runs the command.
///
/// # Errors
/// `OutputExists` if there is something already; the store's.
pub fn run(args: Args) -> Result<()> {
    let Command::Init { url, store } = args.command;
    let now = jiff::Timestamp::now().as_nanosecond();
    let vault = Vault::init(store.open(&url)?, u64::try_from(now).unwrap_or(0))?;
    super::print(&format!("vault {} made at {}\n", vault.id(), vault.store.url()))
}
