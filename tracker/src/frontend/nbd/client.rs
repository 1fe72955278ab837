//! A small blocking client, for restores into an export, tests, benches and the demo: one connection, simple replies,
//! requests one at a time or pipelined ([`Client::send`] and [`Client::receive`]).

use super::wire::*;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a server may be silent before the client gives up: only detects a hang.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The longest request where the server does not say: what the protocol lets a client assume.
const LARGEST: u32 = 32 << 20;
/// The longest reply to an option that is accepted.
const OPTION_REPLY_MAX: u32 = 64 << 10;

/// A request.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// Read so many bytes from an offset.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Write these bytes to an offset.
    Write {
        /// First byte.
        offset: u64,
        /// What to write.
        data: &'a [u8],
        /// Durable before the reply.
        fua: bool,
    },
    /// Make durable what was answered.
    Flush,
    /// Deallocate a range.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Make a range read as zeros.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// The range need not stay allocated.
        may_punch: bool,
    },
}

/// The answer to a request.
#[derive(Debug)]
pub struct Reply {
    /// As given to [`Client::send`].
    pub cookie: u64,
    /// A read's bytes, nothing for the others; or the server's error as an errno.
    pub result: io::Result<Vec<u8>>,
}

/// A connection to one export, over a unix socket unless said otherwise.
#[derive(Debug)]
pub struct Client<S = UnixStream> {
    stream: S,
    size: u64,
    flags: u16,
    align: u32,
    largest: u32,
    /// Lengths of the reads that are not answered, by cookie.
    reads: HashMap<u64, usize>,
    waiting: usize,
    next_cookie: u64,
}

impl Client {
    /// Connects to a server's unix socket and opens an export; the empty name is the server's first.
    ///
    /// # Errors
    /// Whatever the socket says; an unknown export; a server that speaks something else.
    pub fn connect(socket: &Path, export: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        Self::over(stream, export)
    }
}

impl<S: Read + Write> Client<S> {
    /// Opens an export over a connection to a server; its timeouts are the caller's.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn over(stream: S, export: &str) -> io::Result<Self> {
        let (reads, largest) = (HashMap::new(), LARGEST);
        let mut client =
            Self { stream, size: 0, flags: 0, align: 1, largest, reads, waiting: 0, next_cookie: 0 };
        client.negotiate(export)?;
        Ok(client)
    }

    /// The export's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Requests must be multiples of this.
    pub fn align(&self) -> u32 {
        self.align
    }

    /// Reads and writes must be no longer than this.
    pub fn largest(&self) -> u32 {
        self.largest
    }

    /// The export can't be written.
    pub fn read_only(&self) -> bool {
        self.flags & READ_ONLY != 0
    }

    /// What is answered can be made durable; where it can't, nobody says whether it is.
    pub fn can_flush(&self) -> bool {
        self.flags & SEND_FLUSH != 0
    }

    /// A range can be made zeros without sending them.
    pub fn can_zero(&self) -> bool {
        self.flags & SEND_WRITE_ZEROES != 0
    }

    /// The socket, for timeouts and shutting down.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Requests sent and not answered.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Reads and waits.
    ///
    /// # Errors
    /// The server's error, or the socket's.
    pub fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        self.call(&Operation::Read { offset, length })
    }

    /// Writes and waits.
    ///
    /// # Errors
    /// The server's error, or the socket's.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call(&Operation::Write { offset, data, fua: false }).map(drop)
    }

    /// Flushes and waits.
    ///
    /// # Errors
    /// The server's error, or the socket's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.call(&Operation::Flush).map(drop)
    }

    /// Any single request, and its answer.
    ///
    /// # Errors
    /// The server's error, or the socket's.
    ///
    /// # Panics
    /// If pipelined requests are not yet answered.
    pub fn call(&mut self, operation: &Operation<'_>) -> io::Result<Vec<u8>> {
        assert_eq!(self.waiting, 0, "answers of pipelined requests come first");
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.send(operation, cookie)?;
        self.receive()?.result
    }

    /// Sends a request without waiting. Whoever sends much must also [`Self::receive`], or both sides fill up.
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&mut self, operation: &Operation<'_>, cookie: u64) -> io::Result<()> {
        let (command, flags, offset, length) = match *operation {
            Operation::Read { offset, length } => (CMD_READ, 0, offset, length),
            Operation::Write { offset, data, fua } => {
                let length = u32::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
                (CMD_WRITE, if fua { CMD_FLAG_FUA } else { 0 }, offset, length)
            }
            Operation::Flush => (CMD_FLUSH, 0, 0, 0),
            Operation::Trim { offset, length } => (CMD_TRIM, 0, offset, length),
            Operation::Zero { offset, length, may_punch } => {
                (CMD_WRITE_ZEROES, if may_punch { 0 } else { CMD_FLAG_NO_HOLE }, offset, length)
            }
        };
        let header = RequestHeader { flags, command, cookie, offset, length }.bytes();
        if let Operation::Write { data, .. } = operation {
            let mut bytes = Vec::with_capacity(header.len() + data.len());
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(data);
            self.stream.write_all(&bytes)?;
        } else {
            self.stream.write_all(&header)?;
        }
        if let Operation::Read { length, .. } = *operation {
            self.reads.insert(cookie, length as usize);
        }
        self.waiting += 1;
        Ok(())
    }

    /// Waits for the next answer, of whichever request.
    ///
    /// # Errors
    /// The socket's, or a server that breaks the protocol. The server's error for the request is in the reply.
    pub fn receive(&mut self) -> io::Result<Reply> {
        let head: [u8; SIMPLE_LEN] = self.take()?;
        if be32(&head, 0) != SIMPLE_MAGIC || self.waiting == 0 {
            return Err(broken("a reply that nobody asked for"));
        }
        self.waiting -= 1;
        let (error, cookie) = (be32(&head, 4), be64(&head, 8));
        let length = self.reads.remove(&cookie).unwrap_or(0);
        if error != 0 {
            let errno = i32::try_from(error).unwrap_or(libc::EIO);
            return Ok(Reply { cookie, result: Err(io::Error::from_raw_os_error(errno)) });
        }
        let mut data = vec![0; length];
        self.stream.read_exact(&mut data)?;
        Ok(Reply { cookie, result: Ok(data) })
    }

    /// Says goodbye: the server finishes what is in flight and closes.
    ///
    /// # Errors
    /// The socket's.
    pub fn disconnect(mut self) -> io::Result<()> {
        let header = RequestHeader { flags: 0, command: CMD_DISC, cookie: 0, offset: 0, length: 0 };
        self.stream.write_all(&header.bytes())
    }

    fn take<const LENGTH: usize>(&mut self) -> io::Result<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn negotiate(&mut self, export: &str) -> io::Result<()> {
        let greeting: [u8; 18] = self.take()?;
        if be64(&greeting, 0) != SERVER_MAGIC || be64(&greeting, 8) != OPTION_MAGIC {
            return Err(broken("not an NBD server"));
        }
        let mut hello = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes().to_vec();
        hello.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        hello.extend_from_slice(&OPT_GO.to_be_bytes());
        hello.extend_from_slice(&(export.len() as u32 + 8).to_be_bytes());
        hello.extend_from_slice(&(export.len() as u32).to_be_bytes());
        hello.extend_from_slice(export.as_bytes());
        hello.extend_from_slice(&1u16.to_be_bytes());
        hello.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
        self.stream.write_all(&hello)?;
        loop {
            let head: [u8; OPTION_REPLY_LEN] = self.take()?;
            let (kind, length) = (be32(&head, 12), be32(&head, 16));
            if be64(&head, 0) != OPTION_REPLY_MAGIC || length > OPTION_REPLY_MAX {
                return Err(broken("not an option's reply"));
            }
            let mut data = vec![0; length as usize];
            self.stream.read_exact(&mut data)?;
            match kind {
                REP_ACK => return Ok(()),
                REP_INFO if data.len() >= 2 => match (be16(&data, 0), data.len()) {
                    (INFO_EXPORT, 12) => (self.size, self.flags) = (be64(&data, 2), be16(&data, 10)),
                    (INFO_BLOCK_SIZE, 14) => (self.align, self.largest) = (be32(&data, 2), be32(&data, 10)),
                    _ => {}
                },
                REP_ERR_UNKNOWN => {
                    let text = format!("the server has no export named {export:?}");
                    return Err(io::Error::new(io::ErrorKind::NotFound, text));
                }
                REP_ERR_TLS_REQD => return Err(broken("the server wants TLS, which is not spoken here")),
                // Behind an error a server may say in words what is wrong.
                _ => {
                    let told = String::from_utf8_lossy(&data);
                    let told: String = told.chars().filter(|letter| !letter.is_control()).take(200).collect();
                    return Err(broken(&format!("the server refused the export: error {kind:#x} {told}")));
                }
            }
        }
    }
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
