//! What a freeze is read from, opened: a file of the kernel's. The simulator has others.

use super::{holes, preserved};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use towline_tracker::control::client::{Handed, HandedDisk};
use towline_tracker::control::message::Frozen;
use towline_tracker::map::Words;

/// Something that is open for reading, as files are.
pub trait Opened: fmt::Debug + Send + Sync {
    /// Reads at an offset; fewer bytes than asked for where the file ends or as it likes.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Splits the bytes of `range` into data (`true`) and holes (`false`), in order, nothing left out. What is not
    /// looked at is data.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn split(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(bool, Range<u64>) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>>;

    /// Its first words as memory that is shared with who writes them.
    ///
    /// # Errors
    /// It is too short, or can't be mapped.
    fn words(&self, count: usize) -> io::Result<Words>;

    /// The kernel's descriptor, if it is the kernel's.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Opened for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn split(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(bool, Range<u64>) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        if range.end - range.start < holes::SEEK_MIN {
            return Ok(each(true, range));
        }
        holes::split(self.as_fd(), range, each)
    }

    fn words(&self, count: usize) -> io::Result<Words> {
        preserved::map(self, count)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

/// One disk of a freeze, opened.
#[derive(Debug)]
pub struct OpenedDisk {
    /// The disk itself.
    pub disk: Box<dyn Opened>,
    /// The sealed change log.
    pub changes: Box<dyn Opened>,
    /// The preserved map.
    pub preserved: Box<dyn Opened>,
    /// The preserved data, at the disk's own offsets.
    pub store: Box<dyn Opened>,
    /// The map of the blocks changed since the cut.
    pub open: Box<dyn Opened>,
}

/// A freeze that was handed out.
#[derive(Debug)]
pub struct OpenedFreeze {
    /// What it is.
    pub frozen: Frozen,
    /// For each disk of it, in order.
    pub disks: Vec<OpenedDisk>,
}

impl From<Handed> for OpenedFreeze {
    fn from(handed: Handed) -> Self {
        let open = |HandedDisk { disk, changes, preserved, store, open }| OpenedDisk {
            disk: Box::new(File::from(disk)),
            changes: Box::new(File::from(changes)),
            preserved: Box::new(File::from(preserved)),
            store: Box::new(File::from(store)),
            open: Box::new(File::from(open)),
        };
        Self { frozen: handed.frozen, disks: handed.disks.into_iter().map(open).collect() }
    }
}

/// Reads from the beginning on.
pub(super) struct Sequential<'a> {
    file: &'a dyn Opened,
    at: u64,
}

impl<'a> Sequential<'a> {
    pub(super) fn new(file: &'a dyn Opened) -> Self {
        Self { file, at: 0 }
    }
}

impl io::Read for Sequential<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(buffer, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}
