//! A machine's drives, served by us over NBD and recorded. The drive `marks` is not one: what is written there is a
//! text that takes its place in the record, so that "the machine knew this" stands between the requests before and
//! after.

use super::image::Image;
use super::record::{Event, Record};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use towline_tracker::frontend::nbd::wire::*;

/// The export that takes marks, and its size.
pub const MARKS: &str = "marks";
const MARKS_SIZE: u64 = 1 << 20;
/// Requests that are answered together at most.
const BATCH: usize = 64;
/// The longest request of a client, and with it what a foreign length can cost.
const REQUEST_MAX: u32 = 64 << 20;

/// Drives that a machine may use.
#[derive(Debug)]
pub struct Drives {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    names: Vec<&'static str>,
    now: Vec<Image>,
    record: Record,
}

impl Drives {
    /// Serves drives by name on a socket, until the process ends.
    ///
    /// # Errors
    /// The socket can't be made.
    pub fn serve(socket: &Path, drives: Vec<(&'static str, Image)>) -> io::Result<Self> {
        let (names, now): (Vec<_>, Vec<_>) = drives.into_iter().unzip();
        let record = Record::new(now.clone());
        let state = Arc::new(Mutex::new(State { names, now, record }));
        let (listener, served) = (UnixListener::bind(socket)?, Arc::clone(&state));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&served);
                // A machine that is cut off leaves in the middle of anything.
                std::thread::spawn(move || drop(converse(stream, &state)));
            }
        });
        Ok(Self { socket: socket.to_owned(), state })
    }

    /// A client's address of a drive.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket.display())
    }

    /// Events so far.
    pub fn events(&self) -> usize {
        lock(&self.state).record.events().len()
    }

    /// The marks among the events from one on, which is then the next to come.
    pub fn heard(&self, from: &mut usize) -> Vec<String> {
        let state = lock(&self.state);
        let events = &state.record.events()[*from..];
        *from += events.len();
        let marks = events.iter().filter_map(|event| match event {
            Event::Mark(text) => Some(text.clone()),
            _ => None,
        });
        marks.collect()
    }

    /// Ends the record, for a machine that uses the drives no more; the next one begins with this content.
    pub fn take(&self) -> Record {
        let mut state = lock(&self.state);
        let next = Record::new(state.now.clone());
        std::mem::replace(&mut state.record, next)
    }

    /// Gives the drives another content: what a power cut left.
    pub fn put(&self, drives: Vec<Image>) {
        let mut state = lock(&self.state);
        state.now.clone_from(&drives);
        state.record = Record::new(drives);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a client has chosen.
#[derive(Clone, Copy)]
enum Export {
    Drive(usize),
    Marks,
}

fn converse(stream: UnixStream, state: &Mutex<State>) -> io::Result<()> {
    let mut output = stream.try_clone()?;
    let mut input = BufReader::with_capacity(1 << 20, stream);
    let Some(export) = negotiate(&mut input, &mut output, state)? else { return Ok(()) };
    loop {
        // All that has arrived by now is in flight together: a flush says nothing of the writes beside it.
        let mut batch = vec![receive(&mut input)?];
        while batch.len() < BATCH && input.buffer().len() >= REQUEST_LEN {
            batch.push(receive(&mut input)?);
        }
        let before = lock(state).record.events().len();
        for (header, data) in batch {
            if header.command == CMD_DISC {
                return Ok(());
            }
            let mut reply = SIMPLE_MAGIC.to_be_bytes().to_vec();
            let done = carry_out(&mut lock(state), export, before, &header, data);
            let (errno, read) = done.map_or_else(|errno| (errno, Vec::new()), |read| (0, read));
            reply.extend(errno.to_be_bytes());
            reply.extend(header.cookie.to_be_bytes());
            reply.extend(read);
            output.write_all(&reply)?;
        }
    }
}

/// Does what is asked: what was read, or an error's number. `before`: the events that were answered before it came.
fn carry_out(
    state: &mut State,
    export: Export,
    before: usize,
    asked: &RequestHeader,
    data: Vec<u8>,
) -> Result<Vec<u8>, u32> {
    const EINVAL: u32 = 22;
    let &RequestHeader { command, offset, length, .. } = asked;
    let drive = match (export, command) {
        (Export::Drive(drive), _) => drive,
        (Export::Marks, CMD_WRITE) => {
            let text = String::from_utf8_lossy(&data);
            state.record.push(Event::Mark(text.trim_end_matches('\0').to_owned()));
            return Ok(Vec::new());
        }
        (Export::Marks, CMD_READ) => return Ok(vec![0; length as usize]),
        (Export::Marks, _) => return Ok(Vec::new()),
    };
    let image = &mut state.now[drive];
    if !image.holds(offset, u64::from(length)) {
        return Err(EINVAL);
    }
    let event = match command {
        CMD_READ => {
            let mut bytes = vec![0; length as usize];
            image.read(offset, &mut bytes);
            return Ok(bytes);
        }
        CMD_WRITE => {
            image.write(offset, &data);
            Event::Write { drive, offset, data: data.into() }
        }
        CMD_TRIM | CMD_WRITE_ZEROES => {
            image.zero(offset, u64::from(length));
            Event::Zero { drive, offset, length: u64::from(length) }
        }
        CMD_FLUSH => Event::Flush { drive, covers: before },
        _ => return Err(EINVAL),
    };
    state.record.push(event);
    Ok(Vec::new())
}

fn receive(input: &mut impl Read) -> io::Result<(RequestHeader, Vec<u8>)> {
    let header = RequestHeader::read(&take(input)?).filter(|header| header.length <= REQUEST_MAX);
    let header = header.ok_or(io::ErrorKind::InvalidData)?;
    let mut data = vec![0; if header.command == CMD_WRITE { header.length as usize } else { 0 }];
    input.read_exact(&mut data)?;
    Ok((header, data))
}

/// The options, until a client has chosen or leaves.
fn negotiate(
    input: &mut impl Read,
    output: &mut impl Write,
    state: &Mutex<State>,
) -> io::Result<Option<Export>> {
    let mut greeting = SERVER_MAGIC.to_be_bytes().to_vec();
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    greeting.extend((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    output.write_all(&greeting)?;
    let _flags: [u8; 4] = take(input)?;
    loop {
        let magic: [u8; 8] = take(input)?;
        let (option, length) = (u32::from_be_bytes(take(input)?), u32::from_be_bytes(take(input)?));
        if u64::from_be_bytes(magic) != OPTION_MAGIC || length > 1 << 16 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut data = vec![0; length as usize];
        input.read_exact(&mut data)?;
        let mut reply = |kind: u32, data: &[u8]| {
            let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            for word in [option, kind, data.len() as u32] {
                bytes.extend(word.to_be_bytes());
            }
            bytes.extend(data);
            output.write_all(&bytes)
        };
        match option {
            OPT_ABORT => return reply(REP_ACK, &[]).map(|()| None),
            OPT_INFO | OPT_GO => match find(state, &data) {
                Some((export, size)) => {
                    let mut told = INFO_EXPORT.to_be_bytes().to_vec();
                    told.extend(size.to_be_bytes());
                    told.extend((HAS_FLAGS | SEND_FLUSH | SEND_TRIM | SEND_WRITE_ZEROES).to_be_bytes());
                    reply(REP_INFO, &told)?;
                    reply(REP_ACK, &[])?;
                    if option == OPT_GO {
                        return Ok(Some(export));
                    }
                }
                None => reply(REP_ERR_UNKNOWN, &[])?,
            },
            _ => reply(REP_ERR_UNSUP, &[])?,
        }
    }
}

/// What an option names, and its size.
fn find(state: &Mutex<State>, option: &[u8]) -> Option<(Export, u64)> {
    let length = u32::from_be_bytes(option.get(..4)?.try_into().ok()?) as usize;
    let name = std::str::from_utf8(option.get(4..4 + length)?).ok()?;
    if name == MARKS {
        return Some((Export::Marks, MARKS_SIZE));
    }
    let state = lock(state);
    let drive = state.names.iter().position(|found| *found == name)?;
    Some((Export::Drive(drive), state.now[drive].size()))
}

fn take<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}
