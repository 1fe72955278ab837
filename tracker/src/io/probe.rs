//! What this kernel and this file system can do: asked once, never assumed by version.

use io_uring::{Probe, Submitter, opcode};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use std::io;
use std::os::fd::AsFd;

/// Checks that a ring knows every operation that we use.
///
/// # Errors
/// One line that says what is missing.
pub(super) fn check(submitter: &Submitter<'_>) -> io::Result<()> {
    let mut probe = Probe::new();
    submitter.register_probe(&mut probe)?;
    let needed = [
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::ReadFixed::CODE, "read_fixed"),
        (opcode::WriteFixed::CODE, "write_fixed"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::Fallocate::CODE, "fallocate"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::Accept::CODE, "accept"),
        (opcode::PollAdd::CODE, "poll"),
        (opcode::AsyncCancel::CODE, "cancel"),
    ];
    match needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => {
            let text =
                format!("this kernel's io_uring lacks the operation {name}: Linux 6.1 or newer is needed");
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        }
        None => Ok(()),
    }
}

/// The file lies in memory: no call on it ever waits for a device.
pub fn in_memory(file: impl AsFd) -> bool {
    /// Not among libc's names for this field's type.
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    fstatfs(file).is_ok_and(|stat| {
        stat.filesystem_type() == TMPFS_MAGIC || stat.filesystem_type() == FsType(RAMFS_MAGIC as _)
    })
}
