//! QEMU's own door, by which a booted machine is saved.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection.
#[derive(Debug)]
pub(super) struct Monitor(BufReader<UnixStream>);

impl Monitor {
    /// To a machine that listens here.
    ///
    /// # Errors
    /// It does not, or not yet.
    pub(super) fn connect(socket: &Path, patience: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(patience))?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Has a command carried out: what it returns.
    ///
    /// # Errors
    /// It is refused, or the machine is gone.
    pub(super) fn ask(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let asked = json!({ "execute": command, "arguments": arguments });
        self.0.get_mut().write_all(format!("{asked}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // A greeting and news come between.
            let mut told: Value = serde_json::from_str(&line)?;
            match told.get_mut("return").map(Value::take) {
                Some(value) => return Ok(value),
                None if told["error"].is_null() => {}
                None => return Err(io::Error::other(format!("{command}: {told}"))),
            }
        }
    }
}
