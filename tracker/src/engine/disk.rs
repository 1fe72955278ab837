//! A disk as the loop uses it: its descriptor, the sidecar files that are open, and what its file system can do.

use crate::frontend::nbd::session::Extent;
use crate::group::SidecarFile;
use crate::io::scribes::Sheet;
use crate::io::uring::File;
use crate::io::{plain, probe};
use crate::sidecar::OpenDisk;
use crate::sidecar::disk_file::{hold_lock, unlock};
use nix::fcntl::{OFlag, PosixFadviseAdvice, open, posix_fadvise};
use nix::sys::stat::Mode;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// The most extents of one block status; a client asks again for the rest.
const EXTENTS_MAX: usize = 256;

/// A disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) file: Rc<File>,
    /// The descriptor from before the first [`crate::group::Action::Reopen`]: nobody else can open a block device (S2).
    first: Option<Rc<File>>,
    pub(super) size: u64,
    pub(super) align: u32,
    direct: bool,
    read_only: bool,
    /// Plain calls in the loop: the file lies in memory and the ring would hand each operation to a worker.
    pub(super) inline: bool,
    /// So do its sidecar files.
    pub(super) sidecar_inline: bool,
    /// Punching holes works, as far as we know.
    pub(super) can_punch: bool,
    /// Zeroing a range works, as far as we know.
    pub(super) can_zero: bool,
    sidecar: Vec<(SidecarFile, Arc<Sheet<u64>>)>,
    /// Ranges that the ring is punching or zeroing.
    pub(super) ranges: usize,
    /// Reads served.
    pub(super) reads: u64,
    /// Dead or leaving connections with requests in flight (W8).
    pub(super) draining: usize,
}

impl Disk {
    /// Gives the disk up, its lock first: nothing is in flight any more. A block device is ours alone (O_EXCL) until
    /// its last description is closed, the ring's hold on it too.
    pub(super) fn give_up(&self, let_go: impl Fn(&File) -> bool) {
        for file in self.first.iter().chain([&self.file]) {
            if let Err(error) = unlock(file.as_fd()) {
                tracing::debug!(%error, disk = self.name, "the lock goes with the process");
            }
            let_go(file);
        }
    }

    /// A disk that is open. `register` makes a file of its descriptor.
    pub(super) fn new(open: OpenDisk, read_only: bool, register: impl FnOnce(OwnedFd) -> File) -> Self {
        let inline = !open.nowait && !open.device && probe::in_memory(&open.fd);
        Self {
            name: open.name,
            path: open.path,
            file: Rc::new(register(open.fd)),
            first: None,
            size: open.size,
            align: open.align,
            direct: open.direct,
            read_only,
            inline,
            sidecar_inline: open.sidecar_in_memory,
            can_punch: true,
            can_zero: true,
            sidecar: Vec::new(),
            ranges: 0,
            reads: 0,
            draining: 0,
        }
    }

    /// A sidecar file was opened. Gives the one that it replaces.
    #[must_use = "the loop closes no sidecar file"]
    pub(super) fn install(&mut self, name: SidecarFile, fd: OwnedFd) -> Option<Arc<Sheet<u64>>> {
        let before = self.close(name);
        self.sidecar.push((name, Arc::new(Sheet::new(fd))));
        before
    }

    /// A sidecar file is no longer needed, but by operations that use it.
    #[must_use = "the loop closes no sidecar file"]
    pub(super) fn close(&mut self, name: SidecarFile) -> Option<Arc<Sheet<u64>>> {
        let place = self.sidecar.iter().position(|(held, _)| *held == name)?;
        Some(self.sidecar.swap_remove(place).1)
    }

    /// A sidecar file, if it is open.
    pub(super) fn sidecar(&self, name: SidecarFile) -> Option<Arc<Sheet<u64>>> {
        self.sidecar.iter().find(|(held, _)| *held == name).map(|(_, sheet)| Arc::clone(sheet))
    }

    /// Drops the cached pages and goes on with a fresh descriptor of the same file (W6), which takes the lock too. The
    /// first one stays open (S2).
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        posix_fadvise(self.file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        // By descriptor, not by path: the path may name another file by now.
        let path = format!("/proc/self/fd/{}", self.file.as_fd().as_raw_fd());
        let mut flags = OFlag::O_CLOEXEC;
        flags |= if self.read_only { OFlag::O_RDONLY } else { OFlag::O_RDWR };
        flags.set(OFlag::O_DIRECT, self.direct);
        let fresh = open(path.as_str(), flags, Mode::empty())?;
        if !self.read_only {
            // S2: whoever has requests in flight has the lock.
            hold_lock(&fresh)?;
        }
        // Not registered: the ring would keep each one's description open after the next.
        let old = std::mem::replace(&mut self.file, Rc::new(File::plain(fresh)));
        // Of all that came before only the first is kept, which refuses other openers; syncs may fail for hours.
        self.first.get_or_insert(old);
        Ok(())
    }

    /// What is allocated in `[offset, offset + length)`, in multiples of the alignment; covers the range or stops at
    /// the limit. While a range is punched or zeroed the file system lets nobody look, and the loop waits for nobody (S5):
    /// "data" is true of anything.
    pub(super) fn extents(&self, offset: u64, length: u32, one: bool) -> Vec<Extent> {
        if self.ranges > 0 {
            return vec![Extent { length, hole: false }];
        }
        let end = offset + u64::from(length);
        let align = u64::from(self.align);
        let limit = if one { 1 } else { EXTENTS_MAX };
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset;
        plain::runs(self.file.as_fd(), offset, end, |run_end, hole| {
            // A hole gives its ragged end to the data behind it, data takes the ragged start of the hole.
            let stop = if run_end == end {
                end
            } else if hole {
                run_end - run_end % align
            } else {
                run_end.next_multiple_of(align).min(end)
            };
            if stop <= at {
                return ControlFlow::Continue(());
            }
            let length = u32::try_from(stop - at).expect("part of a request");
            let full = extents.len() == limit;
            match extents.last_mut() {
                Some(last) if last.hole == hole => last.length += length,
                _ if full => return ControlFlow::Break(()),
                _ => extents.push(Extent { length, hole }),
            }
            at = stop;
            ControlFlow::Continue(())
        });
        if extents.is_empty() {
            extents.push(Extent { length, hole: false });
        }
        extents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DiskId;
    use std::fs::File as Plain;

    fn open_disk(path: &std::path::Path) -> OpenDisk {
        let file = Plain::create_new(path).unwrap();
        file.set_len(1 << 20).unwrap();
        drop(file);
        let file = Plain::options().read(true).write(true).open(path).unwrap();
        OpenDisk {
            name: "disk.raw".into(),
            path: path.to_owned(),
            id: DiskId::default(),
            fd: file.into(),
            size: 1 << 20,
            direct: false,
            align: 1,
            memory_align: 1,
            nowait: true,
            sidecar_in_memory: false,
            device: false,
            block_shift: 12,
        }
    }

    #[test]
    fn while_a_range_is_punched_nobody_waits_to_hear_where_holes_are() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Disk::new(open_disk(&folder.path().join("disk.raw")), false, File::plain);
        assert_eq!(disk.extents(0, 1 << 20, false), [Extent { length: 1 << 20, hole: true }]);
        disk.ranges = 1;
        assert_eq!(disk.extents(0, 1 << 20, false), [Extent { length: 1 << 20, hole: false }]);
    }

    /// W6, F6 and S2 for hours: each failed sync opens the disk afresh, with the lock, and leaves no descriptor behind.
    #[test]
    fn a_disk_that_is_opened_afresh_again_and_again_keeps_the_lock_and_two_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let mut disk = Disk::new(open_disk(&path), false, File::plain);
        (0..50).for_each(|_| disk.reopen().unwrap());
        let ours = std::fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
            let entry = entry.as_ref().unwrap().path();
            std::fs::read_link(entry).is_ok_and(|target| target == path)
        });
        assert_eq!(ours.count(), 2);
        disk.first = None;
        let other = Plain::options().read(true).write(true).open(&path).unwrap();
        // A writer locks a byte that everybody who writes holds for reading.
        let mut lock =
            libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
        nix::fcntl::fcntl(&other, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
        assert_eq!(lock.l_type, libc::F_RDLCK as i16, "the newest descriptor holds the lock");
    }
}
