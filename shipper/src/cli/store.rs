//! `--store-...`: how a store behind a network is reached, for every command that opens a vault. Keys are no arguments:
//! everybody on the host can read those.

use super::units;
use crate::store::Store;
use crate::store::location::{Addressing, Options};
use crate::store::remote::oldest::{AsOf, Oldest};
use crate::store::tally::Tally;
use crate::{Result, store};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// How long what is put is locked: of the commands that put.
    #[arg(skip)]
    pub immutable_for: Option<Duration>,
    /// How far back the store is looked at: of the commands that read.
    #[arg(skip)]
    pub as_of: Option<AsOf>,
}

/// For commands that put.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Locking {
    /// Lock what is put so long that nobody can delete it, not even the account's owner, nor shorten it: 30d, 12h. For s3://
    /// buckets with object lock (mode COMPLIANCE). `towline protect`, run daily, keeps what kept points need locked for longer
    #[arg(long, help_heading = HEADING, value_name = "TIME", value_parser = units::lock_time)]
    immutable_for: Option<Duration>,
}

/// For commands that read.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Looking {
    /// S3 with versions: read the vault as the store had it then (2026-11-23T18:30:00Z, or `now`), by the oldest version of each
    /// object. Nothing that was put, put over or deleted since is believed, catalogs least of all; no remembered head is asked for
    #[arg(long, help_heading = HEADING, value_name = "TIME")]
    as_of: Option<AsOf>,
}

impl Looking {
    /// Whether it is the past that is looked at.
    pub fn is_past(self) -> bool {
        self.as_of.is_some()
    }
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
            immutable_for: self.immutable_for,
            as_of: self.as_of,
        }
    }

    /// The same, for a command that puts.
    #[must_use]
    pub fn locking(self, locking: Locking) -> Self {
        Self { immutable_for: locking.immutable_for, ..self }
    }

    /// The same, for a command that reads.
    #[must_use]
    pub fn looking(self, looking: Looking) -> Self {
        Self { as_of: looking.as_of, ..self }
    }

    /// The store at a URL as it was, to lock what is in it.
    ///
    /// # Errors
    /// As [`store::open_oldest`].
    pub fn open_to_lock(self, url: &str, immutable_for: Duration, as_of: AsOf) -> Result<Arc<Oldest>> {
        let tally = self.tally.clone();
        let options = Options { immutable_for: Some(immutable_for), as_of: Some(as_of), ..self.options() };
        store::open_oldest(url, &options, &tally)
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
