//! Plain calls, for files that live in memory: there a call in the loop costs less than handing it to the ring, whose
//! workers would do the same call on another thread.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::{pread, pwrite};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Reads the whole range.
///
/// # Errors
/// What the kernel says; an end of the file before the end of the range.
pub fn read(file: BorrowedFd<'_>, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match pread(file, bytes, position(offset)?) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                bytes = &mut bytes[count..];
                offset += count as u64;
            }
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads `length` bytes to the end of a vector; on an error nothing is appended.
///
/// # Errors
/// As [`read`].
pub fn read_append(file: BorrowedFd<'_>, bytes: &mut Vec<u8>, length: usize, offset: u64) -> io::Result<()> {
    bytes.reserve(length);
    let spare = bytes.spare_capacity_mut();
    let mut count = 0;
    while count < length {
        let rest = &mut spare[count..length];
        let position = position(offset + count as u64)?;
        // SAFETY: the kernel writes at most `rest.len()` bytes into memory that is ours.
        let got = unsafe { libc::pread(file.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), position) };
        match got {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            1.. => count += got as usize,
            _ => {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::EINTR) {
                    return Err(error);
                }
            }
        }
    }
    // SAFETY: the kernel has filled this many bytes, and they are within the capacity.
    unsafe { bytes.set_len(bytes.len() + length) };
    Ok(())
}

/// Writes the whole range.
///
/// # Errors
/// What the kernel says; a part may be written then.
pub fn write(file: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, position(offset)?) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The other end of a socket is gone, whatever it has left unread. A unix socket tells so at once.
pub fn hung_up(socket: BorrowedFd<'_>) -> bool {
    // Nothing is asked for: a hang-up is told anyway.
    let mut wanted = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut wanted, PollTimeout::ZERO).is_ok() && wanted[0].any().unwrap_or(true)
}

/// `fallocate`.
///
/// # Errors
/// What the kernel says.
pub fn allocate(file: BorrowedFd<'_>, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    let (offset, length) = (position(offset)?, position(length)?);
    loop {
        // SAFETY: no memory is involved.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// `fdatasync`.
///
/// # Errors
/// What the kernel says.
pub fn sync(file: BorrowedFd<'_>, inode: bool) -> io::Result<()> {
    let done = if inode { nix::unistd::fsync(file) } else { nix::unistd::fdatasync(file) };
    done.map_err(io::Error::from)
}

/// Walks over the runs of data and holes in `[offset, end)`: calls `run` with the end of each and whether it is a
/// hole, until it breaks. A file that does not tell is all data.
pub fn runs(file: BorrowedFd<'_>, offset: u64, end: u64, mut run: impl FnMut(u64, bool) -> ControlFlow<()>) {
    let mut at = offset;
    while at < end {
        let data = match seek(file, at, libc::SEEK_DATA) {
            Ok(data) => data.min(end),
            // No data from here to the end of the file.
            Err(libc::ENXIO) => end,
            Err(_) => at,
        };
        if data > at {
            if run(data, true).is_break() {
                return;
            }
            at = data;
            continue;
        }
        let hole = seek(file, at, libc::SEEK_HOLE).map_or(end, |hole| hole.clamp(at, end));
        // A file that shrinks under us would make no progress.
        let hole = if hole == at { end } else { hole };
        if run(hole, false).is_break() {
            return;
        }
        at = hole;
    }
}

fn seek(file: BorrowedFd<'_>, offset: u64, whence: i32) -> Result<u64, i32> {
    let position = i64::try_from(offset).map_err(|_| libc::EINVAL)?;
    // SAFETY: no memory is involved; the file position is used by nobody.
    let found = unsafe { libc::lseek(file.as_raw_fd(), position, whence) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Sets the size of a socket's send buffer as far as the system allows.
pub fn widen(socket: impl AsFd, bytes: usize) {
    // Only a wish: replies flow with any size.
    let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBuf, &bytes);
}

fn position(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_data_and_holes_are_found_and_cover_the_range() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        write(file.as_fd(), &[1; 65536], 131_072).unwrap();
        let mut found = Vec::new();
        runs(file.as_fd(), 65536, 1 << 20, |end, hole| {
            found.push((end, hole));
            ControlFlow::Continue(())
        });
        assert_eq!(found, [(131_072, true), (196_608, false), (1 << 20, true)]);
    }

    #[test]
    fn a_read_over_the_end_appends_nothing() {
        let file = tempfile::tempfile().unwrap();
        write(file.as_fd(), b"hello", 0).unwrap();
        let mut bytes = b"x".to_vec();
        assert!(read_append(file.as_fd(), &mut bytes, 6, 0).is_err());
        assert_eq!(bytes, b"x");
        read_append(file.as_fd(), &mut bytes, 4, 1).unwrap();
        assert_eq!(bytes, b"xello");
    }
}
