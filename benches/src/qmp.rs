//! qemu-storage-daemon, and as much of its monitor as we need.

use crate::Result;
use crate::room::Room;
use crate::server::Server;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A monitor connection.
#[derive(Debug)]
pub(crate) struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects and leaves the negotiation behind.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(300)))?;
        let mut monitor = Self { reader: BufReader::new(stream) };
        monitor.next()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Runs a command to its answer.
    pub(crate) fn execute(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let text = json!({ "execute": name, "arguments": arguments }).to_string();
        self.reader.get_mut().write_all(text.as_bytes())?;
        loop {
            let mut answer = self.next()?;
            if let Some(error) = answer.get("error") {
                return Err(format!("{name}: {error}").into());
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Waits for the end of a job.
    pub(crate) fn job_ended(&mut self) -> Result<()> {
        loop {
            let event = self.next()?;
            match event["event"].as_str() {
                Some("BLOCK_JOB_COMPLETED") if event["data"].get("error").is_none() => return Ok(()),
                Some("BLOCK_JOB_COMPLETED" | "BLOCK_JOB_ERROR") => return Err(format!("{event}").into()),
                _ => {}
            }
        }
    }
}

/// The monitor's socket of a daemon.
pub(crate) fn monitor_path(room: &Room) -> PathBuf {
    room.memory.path().join("qmp.sock")
}

/// A daemon with these nodes, whose first NBD export is `disk`.
pub(crate) fn start(
    room: &Room,
    disk: &Path,
    nodes: &[Value],
    exports: &[(&str, &str, bool)],
) -> Result<Server> {
    let monitor = monitor_path(room);
    let _ = std::fs::remove_file(&monitor);
    Server::ready(room, disk, "disk", |socket| {
        let mut command = Command::new("qemu-storage-daemon");
        for node in nodes {
            command.arg("--blockdev").arg(node.to_string());
        }
        let listen = json!({ "addr": { "type": "unix", "path": socket }, "max-connections": 16 });
        command.arg("--nbd-server").arg(listen.to_string());
        for (number, (node, name, writable)) in exports.iter().enumerate() {
            let export = json!({ "type": "nbd", "id": format!("e{number}"), "node-name": node, "name": name,
                "writable": writable });
            command.arg("--export").arg(export.to_string());
        }
        command.arg("--chardev").arg(format!("socket,id=m,server=on,wait=off,path={}", monitor.display()));
        command.args(["--monitor", "chardev=m"]);
        command
    })
}

/// A raw file as a node, direct, over io_uring.
pub(crate) fn file(name: &str, path: &Path) -> Value {
    json!({ "driver": "file", "node-name": name, "filename": path, "aio": "io_uring",
        "cache": { "direct": true, "no-flush": false }, "discard": "unmap" })
}
