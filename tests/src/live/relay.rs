//! Clients that reconnect, as people have them: they stand between our guests and the tracker, and repeat what its death
//! interrupted.

use super::process::{Running, Site, until};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A process that serves the site's disks under their names at a socket of its own.
#[derive(Debug)]
pub struct Relay {
    /// Its name.
    pub name: &'static str,
    /// Where guests connect.
    pub socket: PathBuf,
    _running: Running,
}

impl Relay {
    /// nbdkit with its retry filter: a connection to the tracker for each of a guest's. After a failure it waits a second.
    pub fn nbdkit(site: &Site) -> Self {
        let socket = site.path("nbdkit");
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--unix"]).arg(&socket).args(["--filter=retry", "nbd"]);
        command.arg(setting("socket=", &site.nbd())).arg("dynamic-export=true");
        command.args(["retry-delay=1", "retry-exponential=no", "retries=600"]);
        Self::start(command, "nbdkit", socket)
    }

    /// QEMU's block layer with a reconnect delay: one connection for each disk, whoever its guests are. It tries at once and
    /// then after 1, 2, 4 ... seconds.
    pub fn qemu(site: &Site) -> Self {
        let socket = site.path("qemu");
        let mut command = Command::new("qemu-storage-daemon");
        let server = setting("addr.type=unix,max-connections=0,addr.path=", &socket);
        command.arg("--nbd-server").arg(server);
        for (index, disk) in site.disks.iter().enumerate() {
            let node =
                format!("driver=nbd,node-name=n{index},discard=unmap,reconnect-delay=600,export={disk},");
            command.arg("--blockdev").arg(setting(&(node + "server.type=unix,server.path="), &site.nbd()));
            let export = format!("type=nbd,id=e{index},node-name=n{index},name={disk},writable=on");
            command.arg("--export").arg(export);
        }
        Self::start(command, "QEMU", socket)
    }

    fn start(mut command: Command, name: &'static str, socket: PathBuf) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running::new(command.spawn().unwrap_or_else(|error| panic!("{name}: {error}")));
        until(name, || UnixStream::connect(&socket).is_ok());
        Self { name, socket, _running: running }
    }
}

fn setting(name: &str, path: &Path) -> String {
    format!("{name}{}", path.display())
}
