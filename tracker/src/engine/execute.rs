//! What the machine wants done, done: by the ring, or by a plain call where the file lies in memory.

use super::event_loop::{Data, Engine, Owner, Tag};
use super::machine::{Jobs, Machine};
use crate::group::{Action, Change, Errno, OpId, SidecarFile, Token};
use crate::id::{DiskIndex, Generation};
use crate::io::buffer::Buffer;
use crate::io::plain;
use crate::io::scribes::{Sheet, Task, Written};
use crate::io::uring::Memory;
use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use tracing::{debug, error, warn};

/// Bytes of zeros that are written at once where a file system can't zero a range.
const ZEROS_LEN: usize = 256 << 10;
/// A range up to this size is zeroed or punched by a plain call where the file lies in memory.
const RANGE_INLINE_MAX: u64 = 1 << 20;

/// An operation in flight.
#[derive(Debug)]
pub(super) enum Operation {
    /// Data to a disk.
    Write { id: OpId, disk: DiskIndex, offset: u64, length: usize, done: usize, durable: bool },
    /// A range of a disk is zeroed or punched.
    Range { id: OpId, disk: DiskIndex, change: Change, offset: u64, length: u64 },
    /// Zeros are written, piece by piece.
    Zeros { id: OpId, disk: DiskIndex, offset: u64, end: u64 },
    /// A disk is synced.
    Sync { id: OpId },
    /// The first half of a preserve: from the disk.
    PreserveRead {
        id: OpId,
        disk: DiskIndex,
        store: Arc<Sheet<u64>>,
        offset: u64,
        length: usize,
        done: usize,
    },
    /// A sidecar file is written, by a scribe.
    Sidecar { id: OpId },
    /// A client reads.
    Read { request: u64, offset: u64, length: usize, done: usize },
}

/// The errno of an I/O error.
pub(super) fn errno(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

/// What became of a transfer that wanted `length` bytes and had `done` before.
enum Progress {
    Whole,
    /// So much is done; the rest is to be submitted.
    Part(usize),
    Failed(Errno),
}

/// W5: a short transfer is continued, an interrupted one repeated.
fn progress(result: Result<u32, i32>, done: usize, length: usize) -> Progress {
    match result {
        // The range lies inside the file: nothing more means that the file is no longer what it was.
        Ok(0) => Progress::Failed(Errno(libc::EIO)),
        Ok(count) if done + count as usize >= length => Progress::Whole,
        Ok(count) => Progress::Part(done + count as usize),
        Err(libc::EINTR | libc::EAGAIN) => Progress::Part(done),
        Err(error) => Progress::Failed(Errno(error)),
    }
}

impl<M: Machine, J: Jobs> Engine<M, J> {
    /// Executes one action. Never calls the machine: what has ended is queued for it.
    #[inline]
    pub(super) fn execute(&mut self, action: Action) {
        match action {
            Action::Submit { id, disk, change: Change::Write, offset, length, durable, token } => {
                self.submit_write(id, disk, offset, length, durable, token);
            }
            Action::Submit { id, disk, change, offset, length, .. } => {
                self.submit_range(id, disk, change, offset, length);
            }
            Action::Reply { token, result } => self.reply(token, result),
            Action::Sync { id, disk, inode } => self.submit_sync(id, disk, inode),
            Action::Preserve { id, disk, freeze, offset, length } => {
                self.preserve(id, disk, freeze, offset, length);
            }
            Action::Persist { id, disk, file, offset, bytes } => self.persist(id, disk, file, offset, bytes),
            Action::Job(job) => self.jobs.post(*job),
            Action::Answer { ticket, answer } => self.answer(ticket, *answer),
            Action::Reopen { disk } => {
                let disk = &mut self.disks[disk.index()];
                match disk.reopen() {
                    Ok(()) => warn!(disk = disk.name, "opened afresh after a sync error"),
                    Err(error) => {
                        error!(disk = disk.name, %error, "can't be opened afresh after a sync error")
                    }
                }
            }
        }
    }

    #[inline]
    fn submit_write(
        &mut self,
        id: OpId,
        index: DiskIndex,
        offset: u64,
        length: u64,
        durable: bool,
        token: Token,
    ) {
        let pending = self.requests.get_mut(token.0).expect("a request lives until its reply");
        let data = std::mem::replace(&mut pending.data, Data::None);
        let length = usize::try_from(length).expect("writes are bounded");
        let disk = &self.disks[index.index()];
        let here = match (&data, &pending.owner) {
            (Data::Here(range), Owner::Connection(key, _)) => {
                let connection = self.connections.get(*key).expect("it is being served");
                connection.payload(range.clone())
            }
            (Data::Own(buffer), _) => &buffer[..length],
            (Data::Bytes(bytes), _) => &bytes[..],
            (Data::Here(_) | Data::None, _) => unreachable!("a write has its data, and is submitted once"),
        };
        assert_eq!(here.len(), length, "a write is submitted whole");
        if disk.inline {
            let result = plain::write(disk.file.as_fd(), here, offset).map_err(|error| errno(&error));
            if let Data::Own(buffer) = data {
                self.pool.give(buffer);
            }
            self.ended.push_back((id, result));
            return;
        }
        let buffer = match data {
            Data::Own(buffer) => buffer,
            // Direct I/O needs aligned memory, and the receive buffer is needed for what comes next.
            _ => {
                let mut buffer = self.pool.take(length);
                buffer[..length].copy_from_slice(here);
                buffer
            }
        };
        let operation = Operation::Write { id, disk: index, offset, length, done: 0, durable };
        let key = self.operations.insert(operation);
        let memory = Memory::Buffer(buffer);
        self.ring.write(Tag::Operation(key), &disk.file, memory, 0..length, offset, durable);
    }

    fn submit_range(&mut self, id: OpId, index: DiskIndex, change: Change, offset: u64, length: u64) {
        let disk = &self.disks[index.index()];
        let (mode, possible) = match change {
            Change::Discard | Change::Zero { may_punch: true } => (FALLOC_FL_PUNCH_HOLE, disk.can_punch),
            Change::Zero { may_punch: false } => (FALLOC_FL_ZERO_RANGE, disk.can_zero),
            Change::Write => unreachable!("a write has data"),
        };
        if !possible {
            return self.range_unsupported(id, index, change, offset, length);
        }
        let mode = mode | FALLOC_FL_KEEP_SIZE;
        let operation = Operation::Range { id, disk: index, change, offset, length };
        let key = self.operations.insert(operation);
        if disk.inline && length <= RANGE_INLINE_MAX {
            let result = plain::allocate(disk.file.as_fd(), mode, offset, length);
            let result = result.map(|()| 0).map_err(|error| errno(&error).0);
            self.range_ended(key, result);
        } else {
            self.ring.allocate(Tag::Operation(key), &disk.file, mode, offset, length);
            self.disks[index.index()].ranges += 1;
        }
    }

    fn range_ended(&mut self, key: u64, result: Result<u32, i32>) {
        let Some(Operation::Range { id, disk, change, offset, length }) = self.operations.remove(key) else {
            unreachable!("a range ends as one");
        };
        match result {
            Ok(_) => self.ended.push_back((id, Ok(()))),
            Err(libc::EINTR | libc::EAGAIN) => self.submit_range(id, disk, change, offset, length),
            Err(libc::EOPNOTSUPP | libc::ENOSYS) => {
                let entry = &mut self.disks[disk.index()];
                match change {
                    Change::Zero { may_punch: false } => entry.can_zero = false,
                    _ => entry.can_punch = false,
                }
                debug!(disk = entry.name, ?change, "the file system can't do this in one go");
                self.range_unsupported(id, disk, change, offset, length);
            }
            Err(error) => self.ended.push_back((id, Err(Errno(error)))),
        }
    }

    /// What the file system can't do: zeros are written; a discard changes nothing, which a discard may (W7 forbids
    /// only unknown results).
    fn range_unsupported(&mut self, id: OpId, disk: DiskIndex, change: Change, offset: u64, length: u64) {
        if change == Change::Discard {
            return self.ended.push_back((id, Ok(())));
        }
        let key = self.operations.insert(Operation::Zeros { id, disk, offset, end: offset + length });
        self.write_zeros(key);
    }

    /// Writes the next piece of zeros.
    fn write_zeros(&mut self, key: u64) {
        let Some(&Operation::Zeros { id, disk, offset, end }) = self.operations.get(key) else {
            unreachable!("only for zeros");
        };
        let zeros = Rc::clone(self.zeros.get_or_insert_with(|| Rc::new(Buffer::map(ZEROS_LEN))));
        let length = usize::try_from(end - offset).unwrap_or(ZEROS_LEN).min(ZEROS_LEN);
        let disk = &self.disks[disk.index()];
        if !disk.inline {
            let (tag, memory) = (Tag::Operation(key), Memory::Shared(zeros));
            return self.ring.write(tag, &disk.file, memory, 0..length, offset, false);
        }
        match plain::write(disk.file.as_fd(), &zeros[..length], offset) {
            Ok(()) => self.zeros_written(key, length),
            Err(error) => {
                self.operations.remove(key);
                self.ended.push_back((id, Err(errno(&error))));
            }
        }
    }

    fn zeros_written(&mut self, key: u64, count: usize) {
        let Some(Operation::Zeros { id, disk, offset, end }) = self.operations.get_mut(key) else {
            unreachable!("only for zeros");
        };
        *offset += count as u64;
        if offset < end {
            if self.disks[disk.index()].inline {
                self.slices.push_back(key);
            } else {
                self.write_zeros(key);
            }
            return;
        }
        let id = *id;
        self.operations.remove(key);
        self.ended.push_back((id, Ok(())));
    }

    /// Goes on with an inline operation that left the loop to others.
    pub(super) fn slice(&mut self, key: u64) {
        self.write_zeros(key);
        self.settle();
    }

    fn submit_sync(&mut self, id: OpId, index: DiskIndex, inode: bool) {
        let disk = &self.disks[index.index()];
        if disk.inline {
            let result = plain::sync(disk.file.as_fd(), inode).map_err(|error| errno(&error));
            return self.ended.push_back((id, result));
        }
        let key = self.operations.insert(Operation::Sync { id });
        self.ring.sync(Tag::Operation(key), &disk.file, inode);
    }

    fn preserve(&mut self, id: OpId, index: DiskIndex, freeze: Generation, offset: u64, length: u64) {
        let disk = &self.disks[index.index()];
        let Some(store) = disk.sidecar(SidecarFile::Store(freeze)) else {
            // The freeze turns fuzzy (C5).
            return self.ended.push_back((id, Err(Errno(libc::EBADF))));
        };
        let length = usize::try_from(length).expect("preserves are bounded");
        let mut buffer = self.pool.take(length);
        if disk.inline {
            match plain::read(disk.file.as_fd(), &mut buffer[..length], offset) {
                Ok(()) => self.store(id, index, store, offset, length, buffer),
                Err(error) => {
                    self.pool.give(buffer);
                    self.ended.push_back((id, Err(errno(&error))));
                }
            }
            return;
        }
        let operation = Operation::PreserveRead { id, disk: index, store, offset, length, done: 0 };
        let key = self.operations.insert(operation);
        self.ring.read(Tag::Operation(key), &disk.file, buffer, 0..length, offset);
    }

    /// The second half of a preserve: into the store's page cache, never synced.
    fn store(
        &mut self,
        id: OpId,
        disk: DiskIndex,
        store: Arc<Sheet<u64>>,
        offset: u64,
        length: usize,
        buffer: Buffer,
    ) {
        if self.disks[disk.index()].sidecar_inline {
            let result = plain::write(store.as_fd(), &buffer[..length], offset);
            self.pool.give(buffer);
            return self.ended.push_back((id, result.map_err(|error| errno(&error))));
        }
        let tag = self.operations.insert(Operation::Sidecar { id });
        self.scribes.write(&store, Task { tag, buffer, length, offset, durable: false });
    }

    fn persist(&mut self, id: OpId, index: DiskIndex, name: SidecarFile, offset: u64, bytes: Vec<u8>) {
        let disk = &self.disks[index.index()];
        let Some(file) = disk.sidecar(name) else {
            return self.ended.push_back((id, Err(Errno(libc::EBADF))));
        };
        if disk.sidecar_inline {
            // Memory is as durable as it gets: there is nothing to sync.
            let result = plain::write(file.as_fd(), &bytes, offset).map_err(|error| errno(&error));
            return self.ended.push_back((id, result));
        }
        let length = bytes.len();
        let mut buffer = self.pool.take(length);
        buffer[..length].copy_from_slice(&bytes);
        let tag = self.operations.insert(Operation::Sidecar { id });
        self.scribes.write(&file, Task { tag, buffer, length, offset, durable: true });
    }

    /// A scribe is done.
    pub(super) fn sidecar_written(&mut self, written: Written<u64>) {
        let Written { tag, buffer, result } = written;
        let Some(&Operation::Sidecar { id }) = self.operations.get(tag) else {
            unreachable!("scribes write nothing else");
        };
        self.finish(tag, id, result.map_err(|error| errno(&error)), Memory::Buffer(buffer));
        self.settle();
    }

    /// An operation of the ring ended, or a part of it.
    pub(super) fn operation_ended(&mut self, key: u64, result: Result<u32, i32>, memory: Memory) {
        let tag = Tag::Operation(key);
        let operation = self.operations.get_mut(key).expect("an operation ends once");
        match operation {
            Operation::Write { id, disk, offset, length, done, durable } => {
                let id = *id;
                match progress(result, *done, *length) {
                    Progress::Part(count) => {
                        *done = count;
                        let (range, offset) = (count..*length, *offset + count as u64);
                        let file = &self.disks[disk.index()].file;
                        self.ring.write(tag, file, memory, range, offset, *durable);
                    }
                    Progress::Whole => self.finish(key, id, Ok(()), memory),
                    Progress::Failed(errno) => self.finish(key, id, Err(errno), memory),
                }
            }
            Operation::Sidecar { .. } => unreachable!("the ring writes to no sidecar"),
            Operation::Read { request, offset, length, done } => {
                let Memory::Buffer(buffer) = memory else { unreachable!("a read brings its buffer back") };
                let request = *request;
                let ended = match progress(result, *done, *length) {
                    Progress::Part(count) => {
                        *done = count;
                        let (range, offset) = (count..*length, *offset + count as u64);
                        let disk = self.requests.get(request).expect("a read ends once").disk;
                        let file = &self.disks[disk.index()].file;
                        return self.ring.read(tag, file, buffer, range, offset);
                    }
                    Progress::Whole => Ok(()),
                    Progress::Failed(errno) => Err(errno),
                };
                self.operations.remove(key);
                self.read_ended(request, ended, buffer);
            }
            Operation::PreserveRead { id, disk, offset, length, done, .. } => {
                let Memory::Buffer(buffer) = memory else { unreachable!("a read brings its buffer back") };
                match progress(result, *done, *length) {
                    Progress::Part(count) => {
                        *done = count;
                        let (range, offset) = (count..*length, *offset + count as u64);
                        let file = &self.disks[disk.index()].file;
                        self.ring.read(tag, file, buffer, range, offset);
                    }
                    Progress::Failed(errno) => {
                        let id = *id;
                        self.finish(key, id, Err(errno), Memory::Buffer(buffer));
                    }
                    Progress::Whole => {
                        let Some(Operation::PreserveRead { id, disk, store, offset, length, .. }) =
                            self.operations.remove(key)
                        else {
                            unreachable!("just seen");
                        };
                        self.store(id, disk, store, offset, length, buffer);
                    }
                }
            }
            Operation::Sync { id } => {
                let id = *id;
                self.finish(key, id, result.map(drop).map_err(Errno), memory);
            }
            Operation::Range { disk, .. } => {
                self.disks[disk.index()].ranges -= 1;
                self.range_ended(key, result);
            }
            Operation::Zeros { id, .. } => match result {
                Ok(0) => {
                    let id = *id;
                    self.finish(key, id, Err(Errno(libc::EIO)), memory);
                }
                Ok(count) => self.zeros_written(key, count as usize),
                Err(libc::EINTR | libc::EAGAIN) => self.write_zeros(key),
                Err(error) => {
                    let id = *id;
                    self.finish(key, id, Err(Errno(error)), memory);
                }
            },
        }
        self.settle();
    }

    /// Queues an ended operation for the machine; its memory goes back.
    fn finish(&mut self, key: u64, id: OpId, result: Result<(), Errno>, memory: Memory) {
        self.operations.remove(key);
        if let Memory::Buffer(buffer) = memory {
            self.pool.give(buffer);
        }
        self.ended.push_back((id, result));
    }
}
