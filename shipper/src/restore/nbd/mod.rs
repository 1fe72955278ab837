//! An NBD export as a place to restore to, through the tracker's own small client: its bytes on the wire are the same
//! that the tracker's server reads, which is fuzzed.
//!
//! Writes are pipelined on one connection: who writes waits only while [`WAITING`] are not answered. The failure of one is
//! told by a later call, by the flush at the latest; so an export is whole when [`Export::flush`] says so and not before.

mod uri;

pub use uri::{Server, Uri, is_uri};

use crate::{Error, Kind, Result};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use towline_tracker::frontend::nbd::client::{Client, Operation};

/// Writes that are not answered: some 2 MiB on their way. Their answers fit any socket's buffer, so neither side waits
/// for the other to read.
const WAITING: usize = 32;
/// The longest range that one request makes zeros, and the longest write: what the protocol lets a client assume.
const LARGEST: u32 = 32 << 20;
/// The longest read.
const READ: u32 = 1 << 20;
/// How long a server may be silent: a flush of a slow disk may take minutes.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// A connection to a server, however it is made.
trait Link: Read + Write + Send {}
impl Link for TcpStream {}
impl Link for UnixStream {}

/// An export that is written.
pub struct Export {
    uri: String,
    client: Mutex<Client<Box<dyn Link>>>,
    size: u64,
    /// Requests are multiples of this.
    align: u64,
    /// No request is longer, in whole multiples of `align`.
    largest: u64,
    can_zero: bool,
    can_flush: bool,
}

impl Export {
    /// Opens the export that this URI names, for blocks of this size.
    ///
    /// # Errors
    /// `Usage` for the URI; `Unreachable`; `Denied` for an export that can't be written; `Other` for one whose requests are
    /// larger than a block; the server's.
    pub fn open(uri: &str, block: u64) -> Result<Self> {
        let parsed = Uri::parse(uri)?;
        let failed = |error| unreachable(uri, error);
        let link = connect(&parsed.server).map_err(failed)?;
        let client = Client::over(link, &parsed.export).map_err(failed)?;
        if client.read_only() {
            return Err(Error::new(Kind::Denied, format!("{uri}: the export is read-only")));
        }
        let align = u64::from(client.align().max(1));
        if align > block {
            let line = format!(
                "{uri}: its requests are multiples of {align} bytes, more than the disk's blocks of {block}"
            );
            return Err(Error::new(Kind::Other, line));
        }
        let largest = u64::from(client.largest().min(LARGEST));
        Ok(Self {
            uri: uri.to_owned(),
            size: client.size(),
            align,
            largest: (largest - largest % align).max(align),
            can_zero: client.can_zero(),
            can_flush: client.can_flush(),
            client: Mutex::new(client),
        })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes data that begin at a block. An end within the export's smallest request is filled up with zeros.
    ///
    /// # Errors
    /// The server's; this write's own may be told later.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut filled;
        let data = if (data.len() as u64).is_multiple_of(self.align) {
            data
        } else {
            filled = data.to_vec();
            filled.resize(data.len().next_multiple_of(self.align as usize), 0);
            &filled
        };
        let mut client = self.client();
        let step = usize::try_from(self.largest).unwrap_or(usize::MAX);
        for (data, at) in data.chunks(step).zip((offset..).step_by(step)) {
            self.ask(&mut client, &Operation::Write { offset: at, data, fua: false }, at)?;
        }
        Ok(())
    }

    /// Makes a range that begins at a block read as zeros; its end as in [`Self::write`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn zero(&self, offset: u64, length: u64) -> Result<()> {
        let end = offset + length.next_multiple_of(self.align);
        let zeros = if self.can_zero { Vec::new() } else { vec![0; self.largest.min(1 << 20) as usize] };
        let step =
            if self.can_zero { self.largest } else { zeros.len() as u64 - zeros.len() as u64 % self.align };
        let mut at = offset;
        while at < end {
            let length = step.min(end - at);
            let operation = match self.can_zero {
                true => Operation::Zero { offset: at, length: length as u32, may_punch: true },
                false => Operation::Write { offset: at, data: &zeros[..length as usize], fua: false },
            };
            self.ask(&mut self.client(), &operation, at)?;
            at += length;
        }
        Ok(())
    }

    /// Reads what is there, also what was just written.
    ///
    /// # Errors
    /// The server's, also of writes before.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        let mut client = self.client();
        self.settle(&mut client)?;
        let step = self.largest.min(u64::from(READ) - u64::from(READ) % self.align) as usize;
        for (data, at) in data.chunks_mut(step).zip((offset..).step_by(step)) {
            let length = (data.len() as u64).next_multiple_of(self.align) as u32;
            let read = client.call(&Operation::Read { offset: at, length });
            let read = read.map_err(|error| self.failed(at, error))?;
            data.copy_from_slice(&read[..data.len()]);
        }
        Ok(())
    }

    /// Everything that was written is written, and durable if the server knows how.
    ///
    /// # Errors
    /// Those of writes that were not told; the server's.
    pub fn flush(&self) -> Result<()> {
        let mut client = self.client();
        self.settle(&mut client)?;
        if !self.can_flush {
            tracing::warn!("{}: the server can't be asked to make what was written durable", self.uri);
            return Ok(());
        }
        client.flush().map_err(|error| unreachable(&format!("{}: it can't be flushed", self.uri), error))
    }

    fn client(&self) -> MutexGuard<'_, Client<Box<dyn Link>>> {
        // Whoever panicked: what the connection says next shows whether it is usable.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, client: &mut Client<Box<dyn Link>>, operation: &Operation<'_>, at: u64) -> Result<()> {
        while client.waiting() >= WAITING {
            self.answer(client)?;
        }
        client.send(operation, at).map_err(|error| self.failed(at, error))
    }

    /// Waits for all answers.
    fn settle(&self, client: &mut Client<Box<dyn Link>>) -> Result<()> {
        while client.waiting() > 0 {
            self.answer(client)?;
        }
        Ok(())
    }

    fn answer(&self, client: &mut Client<Box<dyn Link>>) -> Result<()> {
        let reply = client.receive().map_err(|error| unreachable(&self.uri, error))?;
        reply.result.map(drop).map_err(|error| self.failed(reply.cookie, error))
    }

    fn failed(&self, at: u64, error: io::Error) -> Error {
        unreachable(&format!("{}: byte {at}", self.uri), error)
    }
}

fn connect(server: &Server) -> io::Result<Box<dyn Link>> {
    Ok(match server {
        Server::Tcp(host, port) => {
            let link = TcpStream::connect((host.as_str(), *port))?;
            link.set_nodelay(true)?;
            link.set_read_timeout(Some(SILENCE_MAX))?;
            link.set_write_timeout(Some(SILENCE_MAX))?;
            Box::new(link)
        }
        Server::Unix(path) => {
            let link = UnixStream::connect(path)?;
            link.set_read_timeout(Some(SILENCE_MAX))?;
            link.set_write_timeout(Some(SILENCE_MAX))?;
            Box::new(link)
        }
    })
}

/// A failure with the server: away, or what it answered.
fn unreachable(what: &str, error: io::Error) -> Error {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable,
        NetworkUnreachable, NotFound, TimedOut, UnexpectedEof, WouldBlock,
    };
    match error.kind() {
        WouldBlock | TimedOut => {
            Error::new(Kind::Unreachable, format!("{what}: the NBD server does not answer"))
        }
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => {
            Error::caused(Kind::Unreachable, format!("{what}: the NBD server hung up"), error)
        }
        ConnectionRefused | HostUnreachable | NetworkUnreachable => {
            Error::caused(Kind::Unreachable, format!("{what}: no NBD server answers"), error)
        }
        // A socket, or an export by what the client says.
        NotFound => Error::caused(Kind::Unreachable, what, error),
        _ => Error::io(what, error),
    }
}
