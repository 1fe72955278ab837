//! A freeze handed out by a tracker: its descriptors, read as DESIGN 3.4 says.

use super::opened::{Opened, OpenedDisk, OpenedFreeze, Sequential};
use super::plain::PlainReader;
use super::preserved::Preserved;
use super::ring::RingReader;
use super::{Batch, Buffer, Filled, FreezeInfo, Part, Reader, Source, SourceDisk};
use crate::{Error, Kind, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fmt;
use std::io::{self, BufReader};
use std::ops::{ControlFlow, Range};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use towline_tracker::control::message::FrozenDisk;
use towline_tracker::format::changes;
use towline_tracker::id::CutId;
use towline_tracker::map::{Words, bits};
use towline_tracker::mutant;

/// A freeze, read through what a tracker handed out.
#[derive(Debug)]
pub struct FrozenSource {
    info: FreezeInfo,
    disks: Vec<SourceDisk>,
    files: Vec<FrozenDiskFiles>,
}

/// The open files of one frozen disk.
#[derive(Debug)]
pub(super) struct FrozenDiskFiles {
    /// The disk itself.
    pub(super) file: Box<dyn Opened>,
    /// log2 of the block size.
    pub(super) shift: u8,
    /// Bytes.
    pub(super) size: u64,
    name: String,
    changes: Box<dyn Opened>,
    /// `None`: the freeze was fuzzy when it was handed out; everything is read as it is now.
    preserved: Option<Preserved>,
    /// The blocks that the guest has changed since the cut.
    open: Words,
    /// The disk's descriptor, if its file system does non-blocking I/O: then a ring reads it best.
    pub(super) ring: Option<RawFd>,
}

impl FrozenSource {
    /// The freeze that was handed out; `names` gives each disk its name, in the group's order.
    ///
    /// # Errors
    /// A geometry that makes no sense, or a preserved map that can't be mapped.
    pub fn new(freeze: impl Into<OpenedFreeze>, names: &[String]) -> Result<Self> {
        let OpenedFreeze { frozen, disks } = freeze.into();
        let info = FreezeInfo {
            cut: frozen.cut,
            first_generation: frozen.first_generation,
            generation: frozen.generation,
            time_ns: frozen.time_ns,
            fuzzy: frozen.fuzzy,
        };
        let mut source = Self { info, disks: Vec::new(), files: Vec::new() };
        for (index, (about, files)) in frozen.disks.iter().zip(disks).enumerate() {
            let name = names.get(index).cloned().unwrap_or_else(|| about.id.to_string());
            source.files.push(FrozenDiskFiles::new(about, files, &name, frozen.fuzzy)?);
            source.disks.push(SourceDisk {
                id: about.id,
                name,
                size: about.size,
                block_shift: about.block_shift,
                compare: about.compare,
                whole: about.whole,
                frozen_bytes: about.frozen_bytes,
            });
        }
        Ok(source)
    }
}

impl FrozenDiskFiles {
    fn new(about: &FrozenDisk, opened: OpenedDisk, name: &str, fuzzy: bool) -> Result<Self> {
        use towline_tracker::limits::{BLOCK_SHIFT_MAX, BLOCK_SHIFT_MIN, DISK_MAX};
        let bad = |what: &str| Error::new(Kind::TrackerRefused, format!("disk {name}: {what}"));
        if !(BLOCK_SHIFT_MIN..=BLOCK_SHIFT_MAX).contains(&about.block_shift) || about.size > DISK_MAX {
            return Err(bad("the tracker describes a disk that can't be"));
        }
        if about.align as usize > super::buffer::ALIGN {
            return Err(bad("its direct reads need a greater alignment than this program gives"));
        }
        let failed = |error| Error::io(format_args!("disk {name}: its freeze can't be opened"), error);
        let blocks = about.size.div_ceil(1 << about.block_shift);
        let OpenedDisk { disk: file, changes, preserved, store, open } = opened;
        let preserved = match fuzzy {
            true => None,
            false => Some(Preserved::new(&*preserved, store, blocks).map_err(failed)?),
        };
        let open = open.words(bits::words_for(blocks)).map_err(failed)?;
        let mut ring = None;
        if let Some(descriptor) = file.descriptor() {
            if about.direct {
                direct(descriptor).map_err(failed)?;
            }
            ring = nowait(descriptor).then(|| descriptor.as_raw_fd());
        }
        let name = name.to_owned();
        Ok(Self { file, shift: about.block_shift, size: about.size, name, changes, preserved, open, ring })
    }

    /// Ends the reading of a batch: what the guest has overwritten is taken from the store (R1).
    pub(super) fn finish(
        &self,
        batch: Batch,
        mut buffer: Buffer,
        mut failed: Vec<(Range<u64>, io::Error)>,
    ) -> Result<Filled> {
        // What could not be read from the disk may stand in the store, and bits are only ever set: what is preserved by
        // now is preserved at the look below. The other way round a block preserved between the two would be forgiven
        // and not taken.
        failed.retain(|(blocks, _)| {
            !blocks.clone().all(|block| self.preserved.as_ref().is_some_and(|preserved| preserved.has(block)))
        });
        if let Some((blocks, error)) = failed.pop() {
            let offset = blocks.start << self.shift;
            return Err(self.unreadable(format_args!("it can't be read at byte {offset}"), error));
        }
        let store_failed = |error| self.unreadable(format_args!("its preserved data can't be read"), error);
        let mut blocks_from_store = 0;
        let mut at = 0;
        for run in &batch.runs {
            // Mutant: without the store, a block that the guest overwrites comes as it is now.
            let runs = self.preserved.iter().filter(|_| !mutant::active("ignore-store"));
            for kept in runs.flat_map(|preserved| preserved.runs(run.clone())) {
                let from = at + (((kept.start - run.start) as usize) << self.shift);
                let length = ((kept.end - kept.start) as usize) << self.shift;
                let preserved = self.preserved.as_ref().expect("it has runs");
                preserved
                    .read(kept.start << self.shift, &mut buffer[from..from + length])
                    .map_err(store_failed)?;
                blocks_from_store += kept.end - kept.start;
            }
            at += ((run.end - run.start) as usize) << self.shift;
        }
        self.pad(&batch, &mut buffer[..at]);
        let bytes_read = at as u64 - (blocks_from_store << self.shift).min(at as u64);
        Ok(Filled { batch, buffer, bytes_read, blocks_from_store })
    }

    /// What another freeze may not meet (C5).
    fn unreadable(&self, what: fmt::Arguments<'_>, error: io::Error) -> Error {
        Error::io(format_args!("disk {}: {what}", self.name), error).with_kind(Kind::Unreadable)
    }

    /// The disk's last block ends with zeros, also when the file has grown since the cut.
    fn pad(&self, batch: &Batch, data: &mut [u8]) {
        let Some(last) = batch.runs.last() else { return };
        let beyond = (last.end << self.shift).saturating_sub(self.size) as usize;
        let whole = data.len();
        data[whole - beyond.min(whole)..].fill(0);
    }

    /// A frozen extent, taken apart into data and holes.
    fn split(
        &self,
        extent: Range<u64>,
        each: &mut dyn FnMut(Part) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let bytes = extent.start << self.shift..extent.end << self.shift;
        // The end of what has been given; blocks that are partly data are data.
        let mut given = extent.start;
        let flow = self.file.split(bytes, &mut |is_data, part| {
            let end = match is_data {
                true => part.end.div_ceil(1 << self.shift),
                false if part.end >= extent.end << self.shift => extent.end,
                false => part.end >> self.shift,
            };
            if end <= given {
                return ControlFlow::Continue(());
            }
            let blocks = given..end.min(extent.end);
            given = blocks.end;
            if is_data { each(Part::Data(blocks)) } else { self.hole(blocks, each) }
        })?;
        if flow.is_continue() && given < extent.end {
            return Ok(each(Part::Data(given..extent.end)));
        }
        Ok(flow)
    }

    /// A hole as the seek found it: what is preserved by now may have been written before the seek, and is read.
    fn hole(&self, blocks: Range<u64>, each: &mut dyn FnMut(Part) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut at = blocks.start;
        // Mutant: a hole is a hole.
        if let Some(preserved) = self.preserved.as_ref().filter(|_| !mutant::active("hole-without-look")) {
            for kept in preserved.runs(blocks.clone()) {
                if kept.start > at {
                    each(Part::Zeros(at..kept.start))?;
                }
                at = kept.end;
                each(Part::Data(kept))?;
            }
        }
        if at < blocks.end { each(Part::Zeros(at..blocks.end)) } else { ControlFlow::Continue(()) }
    }

    fn log(&self) -> BufReader<Sequential<'_>> {
        BufReader::with_capacity(16 << 10, Sequential::new(&*self.changes))
    }

    fn parts(&self, cut: CutId, each: &mut dyn FnMut(Part) -> ControlFlow<()>) -> Result<()> {
        let damaged = |error| {
            let line = format!(
                "disk {}: its change log can't be used; undo the cut or restart the tracker",
                self.name
            );
            Error::caused(Kind::TrackerRefused, line, error)
        };
        let failed = |error| self.unreadable(format_args!("it can't be read"), error);
        check_log(self.log(), cut, self.size, self.shift).map_err(damaged)?;
        let blocks = self.size.div_ceil(1 << self.shift);
        let mut pending: Option<Range<u64>> = None;
        let mut outcome = Ok(ControlFlow::Continue(()));
        let mut give = |extent: Range<u64>, outcome: &mut io::Result<ControlFlow<()>>| {
            let extent = extent.start..extent.end.min(blocks);
            if !extent.is_empty() && matches!(outcome, Ok(ControlFlow::Continue(()))) {
                *outcome = self.split(extent, each);
            }
        };
        let read = changes::read(self.log(), |record| {
            let changes::Record::Sealed(ranges) = record else { return };
            for range in ranges {
                match &mut pending {
                    Some(open) if open.end == range.start => open.end = range.end,
                    _ => {
                        if let Some(extent) = pending.replace(range) {
                            give(extent, &mut outcome);
                        }
                    }
                }
            }
        });
        read.map_err(damaged)?;
        if let Some(extent) = pending {
            give(extent, &mut outcome);
        }
        outcome.map(drop).map_err(failed)
    }
}

impl Source for FrozenSource {
    fn info(&self) -> FreezeInfo {
        self.info
    }

    fn disks(&self) -> &[SourceDisk] {
        &self.disks
    }

    fn parts(&self, disk: usize, each: &mut dyn FnMut(Part) -> ControlFlow<()>) -> Result<()> {
        self.files[disk].parts(self.info.cut, each)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        if self.files.iter().all(|files| files.ring.is_some()) {
            match RingReader::new(&self.files) {
                Ok(reader) => return Ok(Box::new(reader)),
                Err(error) => tracing::debug!(%error, "no io_uring; reading by plain calls"),
            }
        }
        Ok(Box::new(PlainReader::new(&self.files)))
    }

    fn changed_since(&self, disk: usize, block: u64) -> bool {
        bits::look(&self.files[disk].open, block..block + 1).next().is_some()
    }
}

/// Reads the log to its end and checks what `changes::frozen` checks, in constant memory.
fn check_log(
    input: impl io::Read,
    cut: CutId,
    size: u64,
    shift: u8,
) -> std::result::Result<(), changes::BadLog> {
    let (mut blocks, mut at, mut ordered) = (0, 0, true);
    let contents = changes::read(input, |record| {
        if let changes::Record::Sealed(ranges) = record {
            for range in ranges {
                ordered &= range.start >= at && range.end > range.start;
                at = range.end;
                blocks += range.end - range.start;
            }
        }
    })?;
    let damaged = changes::BadLog::Damaged { at: contents.length };
    match contents.seal {
        None => Err(damaged),
        Some(seal) if seal.cut != cut => Err(changes::BadLog::Header("it is sealed for another cut")),
        Some(seal) if seal.size != size || contents.header.block_shift != shift => {
            Err(changes::BadLog::Header("it is of a disk of another size"))
        }
        Some(seal) if seal.blocks != blocks || !ordered => Err(damaged),
        Some(_) => Ok(()),
    }
}

/// Makes sure that reads are direct (W7): beside a direct writer a buffered reader may see stale pages.
fn direct(file: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_DIRECT) {
        fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT))?;
    }
    Ok(())
}

/// Whether the file system does non-blocking I/O; tmpfs does not.
fn nowait(file: BorrowedFd<'_>) -> bool {
    let mut buffer = Buffer::new(super::buffer::ALIGN);
    let iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: one vector into a live buffer.
    let got = unsafe { libc::preadv2(file.as_raw_fd(), &iov, 1, 0, libc::RWF_NOWAIT) };
    got >= 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}
