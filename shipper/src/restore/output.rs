//! Where a disk is restored to: a new file that gets its name when it is whole, a block device or an NBD export, in place, or
//! a pipe.
//!
//! What a kill leaves, by when it comes:
//! - while the data come: a `.part` file, with which the next restore to this place goes on;
//! - while an existing file is replaced: the old one is whole under its name until the new one, which is whole and
//!   synced, takes the name from it in one step; it is `.replaced` from then on, and removed when the names of all disks
//!   are durable, or by the next restore to this place when that is done;
//! - on a device or an export: part of the disk, and a note of that ([`super::begun`]). It is to be restored again, which
//!   goes on with what is there.

use super::begun::Begun;
use super::nbd::{self, Export};
use super::stream::{STREAM_WINDOW, Stream};
use crate::{Error, Kind, Result, unfinished};
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::statvfs::fstatvfs;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use towline_tracker::id::CutId;

/// The path that means standard output.
const STDOUT: &str = "-";
/// The ends of the names beside an output: of what is not whole yet, and of what had its name.
const PART: &str = ".part";
const REPLACED: &str = ".replaced";

/// How an output is made.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Replace what exists, write into what is there.
    pub force: bool,
    /// Go on with what an interrupted restore left, and leave what the next one can go on with.
    pub resume: bool,
    /// The folder of notes of what was begun in place; none: nothing is noted.
    pub notes: Option<PathBuf>,
}

/// An open output.
pub struct Output {
    target: PathBuf,
    kind: OutputKind,
    /// An interrupted restore left something in it.
    left: bool,
}

enum OutputKind {
    /// A file under a name of its own; removed unless committed or kept.
    New { file: File, path: Temporary, force: bool },
    /// A block device.
    Device(File, Option<Begun>),
    /// An NBD export.
    Export(Export, Option<Begun>),
    /// A pipe.
    Stream(File, Stream),
}

/// Whether a path is standard output, or something else that has no positions and keeps nothing.
pub fn is_stream(target: &Path) -> bool {
    let flows = |meta: fs::Metadata| meta.file_type().is_fifo() || meta.file_type().is_char_device();
    target == Path::new(STDOUT) || !nbd::is_uri(target) && fs::metadata(target).is_ok_and(flows)
}

/// Whether a path takes one disk, whatever it is called.
pub fn takes_one(target: &Path) -> bool {
    is_stream(target) || nbd::is_uri(target)
}

/// Removes the file of this name when dropped, unless it was moved.
struct Temporary(PathBuf);

impl Temporary {
    /// The name is another file's now, or nobody's.
    fn moved(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl Output {
    /// An output of `size` bytes at `target`, for blocks of `block` bytes. A file is sparse.
    ///
    /// # Errors
    /// `OutputExists` without `force`, for a folder also with it; `NoSpace` for a device or an export that is too small or a
    /// file system that can't have such a file; the file system's, the NBD server's.
    pub fn create(target: &Path, size: u64, block: u64, how: &How) -> Result<Self> {
        if is_stream(target) {
            return Self::stream(target);
        }
        if nbd::is_uri(target) {
            return Self::export(target, size, block, how);
        }
        // Through a symbolic link it is the file that is replaced, where it is, not the link.
        let target = &fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        let at = target.display();
        match fs::metadata(target) {
            Ok(meta) if meta.is_dir() => {
                let line = format!("{at} is a folder; give the path of a file, as --to {at}/disk.raw");
                return Err(Error::new(Kind::OutputExists, line));
            }
            Ok(_) if !how.force => {
                let line = format!("{at} exists; give another path, or --force to replace it");
                return Err(Error::new(Kind::OutputExists, line));
            }
            Ok(meta) if meta.file_type().is_block_device() => return Self::device(target, size, how),
            Ok(meta) if !meta.is_file() => {
                return Err(Error::new(
                    Kind::OutputExists,
                    format!("{at} is neither a file nor a block device nor a pipe"),
                ));
            }
            Ok(_) => refuse_in_use(target)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format_args!("{at} can't be looked at"), error)),
        }
        let folder = folder(target);
        let left =
            how.resume.then(|| unfinished::take(&folder, |name| is_beside(target, PART, name))).flatten();
        sweep(target, PART);
        let made = left.is_none().then(|| unfinished::create(|| beside(target, PART))).transpose();
        let made = made
            .map_err(|error| Error::io(format_args!("no file can be made in {}", folder.display()), error))?;
        if left.is_some() {
            said_to_go_on(target);
        }
        let (left, (file, path)) = (left.is_some(), left.or(made).expect("one or the other"));
        let (target, force) = (target.to_owned(), how.force);
        let output = Self { target, kind: OutputKind::New { file, path: Temporary(path), force }, left };
        output.file().map_or(Ok(()), |file| {
            file.set_len(size).map_err(|error| {
                Error::io(format_args!("{} can't be {size} bytes", output.target.display()), error)
            })
        })?;
        Ok(output)
    }

    fn export(target: &Path, size: u64, block: u64, how: &How) -> Result<Self> {
        let uri = target.to_str().expect("its scheme was read");
        let export = Export::open(uri, block)?;
        if export.size() < size {
            let line = format!(
                "{uri}: the export has {} bytes and the disk {size}; give a larger one",
                export.size()
            );
            return Err(Error::new(Kind::NoSpace, line));
        }
        if !how.force {
            let line = format!("{uri} is there, with whatever it holds; --force to write over it");
            return Err(Error::new(Kind::OutputExists, line));
        }
        if export.size() > size {
            said_of_the_rest(target, export.size() - size);
        }
        let (begun, left) = begun(target, how);
        Ok(Self { target: target.to_owned(), kind: OutputKind::Export(export, begun), left })
    }

    fn stream(target: &Path) -> Result<Self> {
        let opened = match target == Path::new(STDOUT) {
            true => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            false => OpenOptions::new().write(true).open(target),
        };
        let failed =
            |error| Error::io(format_args!("{} can't be opened for writing", target.display()), error);
        let file = opened.map_err(failed)?;
        let kind = OutputKind::Stream(file, Stream::default());
        Ok(Self { target: target.to_owned(), kind, left: false })
    }

    fn device(target: &Path, size: u64, how: &How) -> Result<Self> {
        let at = target.display();
        refuse_in_use(target)?;
        // O_EXCL: a device that is mounted or otherwise in use is refused.
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(target);
        let mut file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => in_use(target),
            _ => Error::io(format_args!("{at} can't be opened for writing"), error),
        })?;
        let there = file
            .seek(SeekFrom::End(0))
            .map_err(|error| Error::io(format_args!("{at} has no size"), error))?;
        if there < size {
            let line = format!("{at} has {there} bytes and the disk {size}; give a larger device");
            return Err(Error::new(Kind::NoSpace, line));
        }
        if there > size {
            said_of_the_rest(target, there - size);
        }
        let (begun, left) = begun(target, how);
        Ok(Self { target: target.to_owned(), kind: OutputKind::Device(file, begun), left })
    }

    /// A file that is treated as a device is.
    #[cfg(test)]
    pub(super) fn in_place(file: File, target: &Path, how: &How) -> Self {
        let (begun, left) = begun(target, how);
        Self { target: target.to_owned(), kind: OutputKind::Device(file, begun), left }
    }

    fn file(&self) -> Option<&File> {
        match &self.kind {
            OutputKind::New { file, .. } | OutputKind::Device(file, _) | OutputKind::Stream(file, _) => {
                Some(file)
            }
            OutputKind::Export(..) => None,
        }
    }

    /// Whether it reads as zeros where nothing was written.
    pub fn is_fresh(&self) -> bool {
        !self.left && !matches!(self.kind, OutputKind::Device(..) | OutputKind::Export(..))
    }

    /// Whether it may have blocks of the disk already.
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// Whether it is a file that has, or will have, a name of its own.
    fn is_file(&self) -> bool {
        matches!(self.kind, OutputKind::New { .. })
    }

    /// Leaves what there is to the next restore to this place. Answers whether it is of use to one.
    pub fn keep(mut self) -> bool {
        match &mut self.kind {
            OutputKind::New { path, .. } => drop(std::mem::take(&mut path.0)),
            OutputKind::Device(_, begun) | OutputKind::Export(_, begun) => return begun.is_some(),
            OutputKind::Stream(..) => return false,
        }
        true
    }

    /// At most this many bytes of the disk can be written before [`Self::end`], if there is a limit.
    pub fn window(&self) -> Option<usize> {
        matches!(self.kind, OutputKind::Stream(..)).then_some(STREAM_WINDOW)
    }

    /// The range that is written next, in any order.
    pub fn begin(&self, offset: u64, length: u64) {
        if let OutputKind::Stream(_, stream) = &self.kind {
            stream.begin(offset, usize::try_from(length).expect("a window fits memory"));
        }
    }

    /// The range that was begun is whole.
    ///
    /// # Errors
    /// The pipe's.
    pub fn end(&self) -> Result<()> {
        match &self.kind {
            OutputKind::Stream(file, stream) => stream.flush(file).map_err(|error| self.failed(error)),
            _ => Ok(()),
        }
    }

    /// Free bytes where a new file is made, and what the file has of them already; `None` for anything else.
    ///
    /// # Errors
    /// The file system's.
    pub fn space(&self) -> Result<Option<(u64, u64)>> {
        let OutputKind::New { file, .. } = &self.kind else { return Ok(None) };
        let stat = fstatvfs(file).map_err(|error| self.failed(error.into()))?;
        let has = file.metadata().map_err(|error| self.failed(error))?.blocks().saturating_mul(512);
        Ok(Some((stat.blocks_available().saturating_mul(stat.fragment_size()), has)))
    }

    /// Writes data.
    ///
    /// # Errors
    /// `NoSpace`, the file system's, the NBD server's, which may come later: see [`Self::sync`].
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        match &self.kind {
            OutputKind::Stream(_, stream) => {
                stream.write(offset, data);
                Ok(())
            }
            OutputKind::Export(export, _) => export.write(offset, data),
            OutputKind::New { file, .. } | OutputKind::Device(file, _) => {
                file.write_all_at(data, offset).map_err(|error| self.failed(error))
            }
        }
    }

    /// Reads what is there; of a pipe nothing is.
    ///
    /// # Errors
    /// The file system's, the NBD server's.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        match &self.kind {
            OutputKind::Export(export, _) => export.read(offset, data),
            OutputKind::Stream(file, _) | OutputKind::New { file, .. } | OutputKind::Device(file, _) => file
                .read_exact_at(data, offset)
                .map_err(|error| Error::io(format_args!("{} can't be read", self.target.display()), error)),
        }
    }

    /// Makes a range read as zeros.
    ///
    /// # Errors
    /// The device's, the NBD server's.
    pub fn zero(&self, offset: u64, length: u64) -> Result<()> {
        if let OutputKind::Export(export, _) = &self.kind {
            return export.zero(offset, length);
        }
        let (Ok(from), Ok(bytes)) = (i64::try_from(offset), i64::try_from(length)) else {
            return Err(Error::new(Kind::Other, "the disk is too large for this system"));
        };
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if self.file().is_some_and(|file| fallocate(file, flags, from, bytes).is_ok()) {
            return Ok(());
        }
        let zeros = vec![0; 1 << 20];
        let mut at = offset;
        while at < offset + length {
            let step = usize::try_from(offset + length - at).unwrap_or(zeros.len()).min(zeros.len());
            self.write(at, &zeros[..step])?;
            at += step as u64;
        }
        Ok(())
    }

    /// Makes all that was written durable, also before this restore.
    ///
    /// # Errors
    /// The file system's, the NBD server's: then nothing of the output is to be believed.
    pub fn sync(&self) -> Result<()> {
        match &self.kind {
            OutputKind::Stream(..) => Ok(()),
            OutputKind::Export(export, _) => export.flush(),
            OutputKind::New { file, .. } | OutputKind::Device(file, _) => {
                file.sync_all().map_err(|error| self.failed(error))
            }
        }
    }

    /// Gives the file its name; durable once the folder is synced.
    fn place(&mut self) -> Result<Placed> {
        let (mut temporary, force) = match &mut self.kind {
            OutputKind::Device(_, begun) | OutputKind::Export(_, begun) => {
                begun.iter().for_each(Begun::end);
                return Ok(Placed::Nothing);
            }
            OutputKind::Stream(..) => return Ok(Placed::Nothing),
            OutputKind::New { path, force, .. } => (Temporary(std::mem::take(&mut path.0)), *force),
        };
        if force && self.target.is_file() {
            // It was free when we began, perhaps long ago.
            refuse_in_use(&self.target)?;
            let old = File::open(&self.target).map_err(|error| self.failed(error))?;
            unfinished::hold(&old);
            let aside = beside(&self.target, REPLACED);
            fs::rename(&temporary.0, &aside).map_err(|error| self.failed(error))?;
            temporary.0 = aside;
            match renameat2(AT_FDCWD, &temporary.0, AT_FDCWD, &self.target, RenameFlags::RENAME_EXCHANGE) {
                Ok(()) => {
                    let target = self.target.clone();
                    return Ok(Placed::Exchanged { old: temporary, _held: old, target });
                }
                // Not every file system can exchange names: then what is replaced can't come back.
                Err(nix::Error::EINVAL | nix::Error::ENOSYS) => {
                    fs::rename(&temporary.0, &self.target).map_err(|error| self.failed(error))?;
                    temporary.moved();
                    return Ok(Placed::Nothing);
                }
                Err(nix::Error::ENOENT) => {}
                Err(error) => return Err(self.failed(error.into())),
            }
        }
        match renameat2(AT_FDCWD, &temporary.0, AT_FDCWD, &self.target, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => temporary.moved(),
            Err(nix::Error::EINVAL | nix::Error::ENOSYS) => {
                fs::hard_link(&temporary.0, &self.target).map_err(|error| self.failed(error))?;
            }
            Err(error) => return Err(self.failed(error.into())),
        }
        Ok(Placed::New(self.target.clone()))
    }

    fn failed(&self, error: io::Error) -> Error {
        let at = self.target.display();
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let line = format!("{at} appeared meanwhile; give another path, or --force to replace it");
                Error::new(Kind::OutputExists, line)
            }
            _ => Error::io(format_args!("{at} can't be written"), error),
        }
    }
}

/// Gives files their names, durably: all of them or, when one can't have it, none.
///
/// # Errors
/// `OutputExists` if something appeared there meanwhile, or is in use by now; the file system's.
pub fn commit(mut outputs: Vec<Output>) -> Result<()> {
    let mut placed = Vec::new();
    let done = outputs.iter_mut().try_for_each(|output| {
        placed.push(output.place()?);
        Ok(())
    });
    let done = done.and_then(|()| {
        outputs.iter().filter(|output| output.is_file()).try_for_each(|output| sync_folder_of(&output.target))
    });
    match done {
        Ok(()) => {
            drop(placed);
            outputs
                .iter()
                .filter(|output| output.is_file())
                .for_each(|output| sweep(&output.target, REPLACED));
            Ok(())
        }
        Err(error) => {
            placed.into_iter().rev().for_each(Placed::undo);
            Err(error)
        }
    }
}

/// What became of a name.
enum Placed {
    /// Nothing, or nothing that can be undone.
    Nothing,
    /// There was none.
    New(PathBuf),
    /// What had it has ours now, until it is dropped; it is held, so that nobody takes it for a leftover.
    Exchanged { old: Temporary, _held: File, target: PathBuf },
}

impl Placed {
    /// As far as it can be undone: what fails here fails beside the failure that is reported.
    fn undo(self) {
        match self {
            Self::Nothing => {}
            Self::New(target) => drop(fs::remove_file(target)),
            Self::Exchanged { old, target, .. } => {
                let back = renameat2(AT_FDCWD, &old.0, AT_FDCWD, &target, RenameFlags::RENAME_EXCHANGE);
                if back.is_err() {
                    // The old file must not be removed.
                    old.moved();
                }
            }
        }
    }
}

/// Makes the name of a file or folder durable.
///
/// # Errors
/// The file system's.
pub(super) fn sync_folder_of(path: &Path) -> Result<()> {
    let above = folder(path);
    File::open(&above)
        .and_then(|above| above.sync_all())
        .map_err(|error| Error::io(format_args!("{} can't be synced", above.display()), error))
}

/// A disk that a tracker or an emulator has open must not be replaced: it would go on writing into the old file,
/// which nobody sees any more, or over what was restored. Both lock bytes of the file (S2).
fn refuse_in_use(target: &Path) -> Result<()> {
    let at = target.display();
    let file = File::open(target).map_err(|error| Error::io(format_args!("{at} can't be opened"), error))?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock))
        .map_err(|error| Error::io(format_args!("{at} can't be asked for its locks"), error.into()))?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return Ok(());
    }
    Err(in_use(target))
}

fn in_use(target: &Path) -> Error {
    let at = target.display();
    let line = format!("{at} is in use by another process or mounted; stop that, or restore to another path");
    Error::new(Kind::OutputExists, line)
}

fn folder(target: &Path) -> PathBuf {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A name of its own beside an output.
fn beside(target: &Path, end: &str) -> PathBuf {
    folder(target).join(format!("{}{}{end}", beginning(target), CutId::random()))
}

/// How all names beside an output begin.
fn beginning(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(32).collect();
    format!(".{short}.")
}

/// Removes what killed restores to this place left beside it.
fn sweep(target: &Path, end: &str) {
    unfinished::sweep(&folder(target), |name| is_beside(target, end, name));
}

/// Whether a name is one that [`beside`] gives.
fn is_beside(target: &Path, end: &str, name: &str) -> bool {
    let id = name.strip_prefix(&beginning(target)).and_then(|rest| rest.strip_suffix(end));
    id.is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The note of a restore in place, and whether one was begun there before.
fn begun(target: &Path, how: &How) -> (Option<Begun>, bool) {
    let begun = how.notes.as_ref().map(|folder| Begun::of(folder, target));
    let left = how.resume && begun.as_ref().is_some_and(Begun::is_there);
    if left {
        said_to_go_on(target);
    }
    let noted = begun.filter(|begun| match begun.note(target) {
        Ok(()) => true,
        Err(error) => {
            let at = target.display();
            tracing::warn!(%error, "a restore to {at} that is interrupted will begin anew; see --state-dir");
            false
        }
    });
    (noted, left)
}

fn said_to_go_on(target: &Path) {
    let at = target.display();
    tracing::info!(
        "going on with an interrupted restore to {at}: what it left is compared, what differs fetched"
    );
}

fn said_of_the_rest(target: &Path, rest: u64) {
    tracing::warn!("{} is {rest} bytes larger than the disk; what is there stays", target.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(target: &Path, force: bool) -> Output {
        let how = How { force, ..How::default() };
        let output = Output::create(target, 8192, 4096, &how).unwrap();
        output.write(0, b"new").unwrap();
        output
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Schedule: 1. two disks are restored, which takes hours; 2. meanwhile something appears under the second name
    /// (or the second file is opened by an emulator); 3. the first name must not be given either.
    #[test]
    fn of_several_files_all_get_their_names_or_none_does() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        let outputs = vec![filled(&a, false), filled(&b, false)];
        fs::write(&b, "appeared").unwrap();
        assert_eq!(commit(outputs).unwrap_err().kind(), Kind::OutputExists);
        assert_eq!((names(folder.path()), fs::read(&b).unwrap()), (vec!["b".to_owned()], b"appeared".into()));
        // With force what was there comes back.
        fs::write(&a, "old").unwrap();
        let outputs = vec![filled(&a, true), filled(&b, true)];
        fs::remove_file(&b).unwrap();
        fs::create_dir(&b).unwrap();
        commit(outputs).unwrap_err();
        assert_eq!((names(folder.path()).len(), fs::read(&a).unwrap()), (2, b"old".into()));
        fs::remove_dir(&b).unwrap();
        commit(vec![filled(&a, true), filled(&b, true)]).unwrap();
        assert_eq!(names(folder.path()), ["a", "b"]);
        assert!(fs::read(&a).unwrap().starts_with(b"new") && fs::read(&b).unwrap().starts_with(b"new"));
    }

    /// Schedule: a restore is killed 1. while its data come, on a file system that knows no files without names; 2.
    /// between the new file's name and its folder's sync, the old file standing aside. The next restore to this place
    /// works, and what was left is gone: the part before it begins, what was replaced when it is done. Meanwhile what a
    /// living restore writes beside it stays, and so does everything that is not ours.
    #[test]
    fn the_next_restore_removes_what_killed_ones_left() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("disk");
        fs::write(&at, "old").unwrap();
        for end in [PART, REPLACED] {
            fs::write(beside(&at, end), "left").unwrap();
        }
        for name in [".disk.mine.part", ".disk.00112233445566778899aabbccddeeff", "x.part", ".other.part"] {
            fs::write(folder.path().join(name), "mine").unwrap();
        }
        let (_held, living) = unfinished::create(|| beside(&at, PART)).unwrap();
        let left = |end: &str| names(folder.path()).iter().filter(|name| name.ends_with(end)).count();
        let output = filled(&at, true);
        assert_eq!(
            (left(PART), left(REPLACED)),
            (5, 1),
            "its own, the living one's, and three that are not ours"
        );
        commit(vec![output]).unwrap();
        assert_eq!((left(PART), left(REPLACED), living.exists()), (4, 0, true));
        assert_eq!(names(folder.path()).len(), 6);
        assert!(fs::read(&at).unwrap().starts_with(b"new"));
    }

    #[test]
    fn through_a_symbolic_link_the_file_is_replaced_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (store, link) = (folder.path().join("store"), folder.path().join("link"));
        fs::create_dir(&store).unwrap();
        fs::write(store.join("disk"), "old").unwrap();
        std::os::unix::fs::symlink(store.join("disk"), &link).unwrap();
        commit(vec![filled(&link, true)]).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read(store.join("disk")).unwrap().starts_with(b"new"));
        assert_eq!((names(folder.path()).len(), names(&store).len()), (2, 1));
    }

    #[test]
    fn a_file_that_came_into_use_while_it_was_restored_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("disk");
        fs::write(&at, "old").unwrap();
        let output = filled(&at, true);
        let user = File::options().read(true).write(true).open(&at).unwrap();
        let lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 100,
            l_len: 1,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&user, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        assert_eq!(commit(vec![output]).unwrap_err().kind(), Kind::OutputExists);
        assert_eq!((names(folder.path()).len(), fs::read(&at).unwrap()), (1, b"old".into()));
    }
}
