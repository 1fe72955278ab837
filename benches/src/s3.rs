//! A server of objects: s3s-fs over a folder, as the tests use it, on a free port of the loopback.

use crate::Result;
use crate::process::Process;
use crate::room::{Room, last_line};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The bucket's name.
pub(crate) const BUCKET: &str = "bucket";
/// Who may ask it.
pub(crate) const KEYS: [&str; 2] = ["towline-benches", "a-secret-of-the-benches"];
/// How long it may take to serve: only detects a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that serves.
#[derive(Debug)]
pub(crate) struct S3 {
    /// The program.
    pub(crate) process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl S3 {
    /// With an empty bucket in a new folder below `parent`.
    pub(crate) fn start(room: &Room, parent: &Path) -> Result<Self> {
        let program = room.tool("s3s-fs/bin/s3s-fs")?;
        let folder = tempfile::Builder::new().prefix("s3-").tempdir_in(parent)?;
        let root = root(&folder);
        std::fs::create_dir_all(root.join(BUCKET))?;
        // Free now; who takes it meanwhile lets the server end.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        drop(listener);
        let mut command = Command::new(program);
        command.args(["--access-key", KEYS[0], "--secret-key", KEYS[1], "--host", "127.0.0.1"]);
        command.arg("--port").arg(address.port().to_string()).arg(root).stdout(Stdio::null());
        let log = folder.path().join("log");
        let process = Process::start(command.env("RUST_LOG", "warn"), &log)?;
        let mut server = Self { process, address, folder };
        let since = Instant::now();
        while !server.answers() {
            if server.process.has_ended() || since.elapsed() > PATIENCE {
                return Err(format!("no S3 server: {}", last_line(&log)).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let host = self.address;
            stream.write_all(
                format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 "))
    }

    /// Its URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The folder of the bucket's objects, each a file.
    pub(crate) fn bucket(&self) -> PathBuf {
        root(&self.folder).join(BUCKET)
    }

    /// Empties the bucket, and what the server kept of its objects.
    pub(crate) fn clear(&self) -> Result<()> {
        let root = root(&self.folder);
        for entry in std::fs::read_dir(&root)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => std::fs::remove_dir_all(entry.path())?,
                false => std::fs::remove_file(entry.path())?,
            }
        }
        Ok(std::fs::create_dir(self.bucket())?)
    }
}

fn root(folder: &TempDir) -> PathBuf {
    folder.path().join("root")
}
