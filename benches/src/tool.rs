//! Tools that put a disk into a folder or a bucket and restore it: ours and the peers, each in a new and empty vault,
//! repository or prefix of its own.

use crate::Result;
use crate::process::{Ended, finish, finish_into};
use crate::room::{Room, forget};
use crate::s3::{BUCKET, KEYS, S3};
use crate::server::Server;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;

/// Opens the peers' repositories.
const PASSPHRASE: &str = "a passphrase of the benches";

/// A tool, and how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// We, with a sealed vault.
    Sealed,
    /// We, with one that is not.
    Plain,
    /// restic, without compression.
    Restic,
    /// borg, without compression.
    Borg,
    /// The same with chunks of a fixed size, as its manual has it for images of disks.
    BorgFixed,
    /// rclone, as it is.
    Rclone,
    /// rclone with larger parts, and more of them at once.
    RcloneLanes,
}

impl Tool {
    /// What it puts with, in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sealed => "towline ship, sealed",
            Self::Plain => "towline ship, plain",
            Self::Restic => "restic backup",
            Self::Borg => "borg create",
            Self::BorgFixed => "borg create, fixed chunks",
            Self::Rclone => "rclone copyto",
            Self::RcloneLanes => "rclone copyto, 8 x 8 MiB",
        }
    }

    /// What it restores with.
    pub(crate) fn restores(self) -> &'static [&'static str] {
        match self {
            Self::Sealed => &["towline restore, sealed"],
            Self::Plain => &["towline restore, plain"],
            Self::Restic => &["restic restore", "restic dump"],
            Self::Borg => &["borg extract"],
            Self::BorgFixed => &["borg extract, fixed chunks"],
            Self::Rclone => &["rclone copyto back"],
            Self::RcloneLanes => &["rclone copyto back, 8 streams"],
        }
    }
}

/// Where to put.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// A new folder below this one.
    Folder(&'a Path),
    /// A prefix of its own in the server's bucket.
    Bucket(&'a S3),
}

/// A tool and what it puts into. That goes with it; a bucket is for the server's owner to clear.
#[derive(Debug)]
pub(crate) struct Store<'a> {
    tool: Tool,
    room: &'a Room,
    place: Place<'a>,
    /// Keys, caches and settings of the tool; also the repository, unless it is in a bucket.
    home: TempDir,
}

impl<'a> Store<'a> {
    /// Makes what the tool puts into. Its files go below `parent`.
    pub(crate) fn new(tool: Tool, room: &'a Room, parent: &Path, place: Place<'a>) -> Result<Self> {
        let below = if let Place::Folder(folder) = place { folder } else { parent };
        let home = tempfile::Builder::new().prefix("store-").tempdir_in(below)?;
        let store = Self { tool, room, place, home };
        match tool {
            Tool::Sealed => {
                finish(store.ours("vault").arg("init").arg(store.made()).arg("--key-file").arg(store.key()))?;
            }
            Tool::Plain => {
                finish(store.ours("vault").arg("init").arg(store.made()).arg("--no-encryption"))?;
            }
            Tool::Restic => {
                finish(store.restic().arg("init"))?;
            }
            Tool::Borg | Tool::BorgFixed => {
                finish(store.borg().args(["init", "--encryption", "repokey-blake2"]).arg(store.url()))?;
            }
            Tool::Rclone | Tool::RcloneLanes => std::fs::write(store.settings(), store.remote()?)?,
        }
        Ok(store)
    }

    /// The folder of its files; also the repository, unless it is in a bucket.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn key(&self) -> PathBuf {
        self.path("key")
    }

    fn settings(&self) -> PathBuf {
        self.path("rclone.conf")
    }

    /// The vault, the repository, or the object, as the tool writes it.
    fn url(&self) -> OsString {
        let Place::Bucket(server) = self.place else { return self.path("repository").into() };
        match self.tool {
            Tool::Restic => format!("s3:{}/{BUCKET}/repository", server.endpoint()),
            Tool::Rclone | Tool::RcloneLanes => format!("server:{BUCKET}/object"),
            _ => format!("s3://{BUCKET}/vault"),
        }
        .into()
    }

    /// Where our vault is made. The server lets two who create an object at once both believe that they did, and we refuse
    /// to make a vault there; one shipper alone is safe in one that was made in the server's folder.
    fn made(&self) -> OsString {
        match self.place {
            Place::Folder(_) => self.url(),
            Place::Bucket(server) => server.bucket().join("vault").into(),
        }
    }

    /// rclone's settings of the server.
    fn remote(&self) -> Result<String> {
        let Place::Bucket(server) = self.place else { return Err("rclone is measured with a server".into()) };
        let [id, secret] = KEYS;
        let endpoint = server.endpoint();
        Ok(format!(
            "[server]\ntype = s3\nprovider = Other\naccess_key_id = {id}\nsecret_access_key = {secret}\n\
             endpoint = {endpoint}\nno_check_bucket = true\n"
        ))
    }

    /// With what leads to the server, if there is one.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        // Of the host's own settings none stands between a tool and a server on the loopback: rclone fails with a bundle.
        command.env("NO_PROXY", "127.0.0.1").env_remove("AWS_CA_BUNDLE");
        if let Place::Bucket(server) = self.place {
            command.env("AWS_ACCESS_KEY_ID", KEYS[0]).env("AWS_SECRET_ACCESS_KEY", KEYS[1]);
            command.env("AWS_ENDPOINT_URL", server.endpoint());
        }
        command
    }

    fn ours(&self, what: &str) -> Command {
        let mut command = self.command(&self.room.shipper);
        // Unless it is made here, the vault's key comes from the environment.
        command.arg(what).env("TOWLINE_LOG", "warn").env("TOWLINE_STATE_DIR", self.path("state"));
        match self.tool {
            Tool::Sealed if what != "vault" => command.env("TOWLINE_KEY_FILE", self.key()),
            _ => command.env_remove("TOWLINE_KEY_FILE"),
        };
        command
    }

    fn restic(&self) -> Command {
        let mut command = self.command("restic");
        command.env("RESTIC_REPOSITORY", self.url()).env("RESTIC_PASSWORD", PASSPHRASE);
        command.env("RESTIC_CACHE_DIR", self.path("cache")).arg("--quiet");
        command
    }

    fn borg(&self) -> Command {
        let mut command = self.command("borg");
        command.env("BORG_PASSPHRASE", PASSPHRASE).env("BORG_BASE_DIR", self.home.path());
        command
    }

    fn archive(&self) -> OsString {
        let mut archive = self.url();
        archive.push("::image");
        archive
    }

    fn rclone(&self) -> Command {
        let mut command = self.command("rclone");
        command.arg("--config").arg(self.settings()).arg("copyto");
        if self.tool == Tool::RcloneLanes {
            command.args(["--s3-chunk-size", "8M", "--s3-upload-concurrency", "8"]);
            command.args(["--multi-thread-streams", "8"]);
        }
        command
    }

    /// Puts a disk that it has never seen. Our CPU time is the shipper's and the tracker's.
    pub(crate) fn put(&self, disk: &Path) -> Result<Ended> {
        let (folder, name) = disk.parent().zip(disk.file_name()).ok_or("a disk has a name in a folder")?;
        match self.tool {
            Tool::Sealed | Tool::Plain => {
                let server = Server::tracker(self.room, disk, &[])?;
                let before = server.process.cpu()?;
                let mut ended = self.ship(&server)?;
                ended.cpu_seconds += (server.process.cpu()? - before).as_secs_f64();
                drop(server);
                forget(disk)?;
                Ok(ended)
            }
            Tool::Restic => {
                let mut command = self.restic();
                finish(command.current_dir(folder).args(["backup", "--compression", "off"]).arg(name))
            }
            Tool::Borg | Tool::BorgFixed => {
                let mut command = self.borg();
                command.current_dir(folder).args(["create", "--compression", "none"]);
                if self.tool == Tool::BorgFixed {
                    command.args(["--chunker-params", "fixed,4194304"]);
                }
                finish(command.arg(self.archive()).arg(name))
            }
            Tool::Rclone | Tool::RcloneLanes => finish(self.rclone().arg(disk).arg(self.url())),
        }
    }

    /// One point of what a tracker of ours serves.
    pub(crate) fn ship(&self, server: &Server) -> Result<Ended> {
        let mut command = self.ours("ship");
        command.arg("--tracker").arg(server.control_path()).arg("--vault").arg(self.url());
        finish(command.args(["--once", "--json"]))
    }

    /// Restores what was put, in one of its ways, under its name in a new folder, and syncs that.
    pub(crate) fn restore(&self, way: &str, name: &str, folder: &Path) -> Result<Ended> {
        let to = folder.join(name);
        let mut ended = match (self.tool, way) {
            (Tool::Sealed | Tool::Plain, _) => {
                let mut command = self.ours("restore");
                command
                    .arg("--vault")
                    .arg(self.url())
                    .args(["--group", "bench", "--point", "latest", "--json"]);
                finish(command.arg("--to").arg(&to))?
            }
            (Tool::Restic, "restic dump") => {
                let file = File::create(&to)?;
                finish_into(self.restic().args(["dump", "latest"]).arg(format!("/{name}")), file)?
            }
            (Tool::Restic, _) => finish(self.restic().args(["restore", "latest", "--target"]).arg(folder))?,
            (Tool::Borg | Tool::BorgFixed, _) => {
                finish(self.borg().current_dir(folder).arg("extract").arg(self.archive()))?
            }
            (Tool::Rclone | Tool::RcloneLanes, _) => finish(self.rclone().arg(self.url()).arg(&to))?,
        };
        let begun = Instant::now();
        File::open(&to)?.sync_all()?;
        ended.seconds += begun.elapsed().as_secs_f64();
        Ok(ended)
    }
}
