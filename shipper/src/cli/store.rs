//! `--store-...`: how a store behind a network is reached, for every command that opens a vault. Keys are no arguments:
//! everybody on the host can read those.

use crate::store::Store;
use crate::store::location::{Addressing, Options};
use crate::store::tally::Tally;
use crate::{Result, store};
use std::path::PathBuf;
use std::sync::Arc;

/// Apart from a command's own, whatever stands behind them.
const HEADING: &str = "Vaults in an object store";

/// The options.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// The server, if it is not the provider's own: https://host:port. Only http:// is not encrypted. Credentials come from
    /// the provider's usual environment variables and files (AWS_ACCESS_KEY_ID, AWS_PROFILE, AZURE_STORAGE_ACCOUNT_KEY,
    /// GOOGLE_APPLICATION_CREDENTIALS ...), never from arguments
    #[arg(long, help_heading = HEADING, value_name = "URL")]
    store_endpoint: Option<String>,
    /// S3: the region that requests are signed for [default: AWS_REGION, the profile's, us-east-1]
    #[arg(long, help_heading = HEADING, value_name = "NAME")]
    store_region: Option<String>,
    /// S3: where the bucket's name stands [default: in the path, if there is an endpoint, else in the host's name]
    #[arg(long, help_heading = HEADING, value_name = "WHERE")]
    store_addressing: Option<Addressing>,
    /// Certificates (PEM) to believe besides the system's
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    store_ca: Option<PathBuf>,
    /// A proxy: http://host:port [default: HTTPS_PROXY, HTTP_PROXY, NO_PROXY]
    #[arg(long, help_heading = HEADING, value_name = "URL")]
    store_proxy: Option<String>,
    /// Counts what the command's stores are asked.
    #[arg(skip)]
    pub tally: Arc<Tally>,
}

impl Args {
    /// What the arguments say.
    pub fn options(self) -> Options {
        Options {
            endpoint: self.store_endpoint,
            region: self.store_region,
            addressing: self.store_addressing,
            ca: self.store_ca,
            proxy: self.store_proxy,
        }
    }

    /// The store at a URL.
    ///
    /// # Errors
    /// As [`store::open_with`].
    pub fn open(self, url: &str) -> Result<Arc<dyn Store>> {
        let tally = self.tally.clone();
        store::open_with(url, &self.options(), &tally)
    }
}
