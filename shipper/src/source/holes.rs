//! Where a file has holes, by seeking.

use std::io;
use std::ops::{ControlFlow, Range};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A stretch shorter than this is read rather than looked for holes in, in bytes: a read of zeros costs less.
pub(super) const SEEK_MIN: u64 = 256 << 10;

/// Splits the bytes of `range` into data (`true`) and holes (`false`), in order, joined, nothing left out. Each hole
/// begins and ends where the file system says; a range that the file system can't tell about is data.
///
/// # Errors
/// Whatever the file system says.
pub(super) fn split(
    file: BorrowedFd<'_>,
    range: Range<u64>,
    each: &mut dyn FnMut(bool, Range<u64>) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    let mut at = range.start;
    while at < range.end {
        let data = seek(file, at, libc::SEEK_DATA)?.unwrap_or(range.end).clamp(at, range.end);
        if data > at && each(false, at..data).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if data == range.end {
            break;
        }
        // A hole follows the last byte of a file, so there always is one; but the file may have shrunk meanwhile.
        let hole = seek(file, data, libc::SEEK_HOLE)?.unwrap_or(data).min(range.end);
        if hole > data && each(true, data..hole).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        at = hole.max(data);
        if hole <= data && seek(file, data, libc::SEEK_DATA)? == Some(data) {
            // Data without an end: an odd file system. All of the rest is data.
            return Ok(each(true, data..range.end));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// `None`: there is no such offset before the end of the file. The descriptor's own offset moves; nobody uses it.
fn seek(file: BorrowedFd<'_>, at: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let Ok(offset) = libc::off_t::try_from(at) else { return Ok(None) };
    // SAFETY: a system call without pointers.
    let found = unsafe { libc::lseek(file.as_fd().as_raw_fd(), offset, whence) };
    if let Ok(found) = u64::try_from(found) {
        return Ok(Some(found));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENXIO) => Ok(None),
        Some(libc::EINVAL | libc::EOPNOTSUPP) if whence == libc::SEEK_DATA => Ok(Some(at)),
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Ok(Some(u64::MAX)),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn data_and_holes_cover_the_range_in_order() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[1; 100], 1 << 20).unwrap();
        file.write_all_at(&[1; 8192], 33 << 20).unwrap();
        for range in [0..64u64 << 20, 5..3 << 20, (1 << 20) + 50..(1 << 20) + 60, 60 << 20..100 << 20] {
            let (mut at, mut data) = (range.start, 0);
            let flow = split(file.as_fd(), range.clone(), &mut |is_data, part| {
                assert_eq!(part.start, at);
                assert!(part.end > at);
                at = part.end;
                if is_data {
                    data += part.end - part.start;
                } else {
                    assert!(part.end <= 1 << 20 || part.start > 1 << 20);
                    assert!(part.end <= 33 << 20 || part.start >= (33 << 20) + 8192);
                }
                ControlFlow::Continue(())
            });
            assert!(flow.unwrap().is_continue());
            assert_eq!(at, range.end);
            assert!(data <= 256 << 10, "{data} bytes of data in {range:?}");
        }
    }
}
