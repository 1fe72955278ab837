//! How long the event loop's turns on a processor are.
//!
//! A guest's request waits until the loop runs. On a host whose processors are all busy, the fair scheduler lets
//! whoever runs finish its slice (some milliseconds) first, unless the one that wakes asks for shorter slices. The loop
//! needs no more processor time than others, only soon: so it asks for the shortest slice. That needs no privilege;
//! kernels before 6.12 take the call and change nothing.

use std::io;

/// The kernel's least slice, in nanoseconds: sched(7), `sched_runtime` of SCHED_OTHER in sched_setattr(2).
const SHORTEST_NS: u64 = 100_000;

/// The calling thread takes short turns from now on, if it is scheduled as usual; an administrator's real-time or
/// idle policy stays.
///
/// # Errors
/// The kernel's, or a sandbox's.
pub fn short_turns() -> io::Result<()> {
    // SAFETY: all its fields are integers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = u32::try_from(size_of::<libc::sched_attr>()).expect("a small struct");
    // SAFETY: the kernel writes at most `size` bytes to a struct of that size, of the calling thread (0).
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    if !matches!(libc::c_int::try_from(attributes.sched_policy), Ok(libc::SCHED_OTHER | libc::SCHED_BATCH)) {
        return Ok(());
    }
    attributes.size = size;
    attributes.sched_runtime = SHORTEST_NS;
    // SAFETY: the kernel reads `size` bytes of a struct of that size.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    /// Goal: the call is understood, and leaves policy and niceness alone. Method: ask the kernel afterwards.
    #[test]
    fn short_turns_change_only_the_slice() {
        let of = || {
            // SAFETY: all its fields are integers; the kernel writes at most the given size.
            unsafe {
                let mut attributes: libc::sched_attr = std::mem::zeroed();
                let size = size_of::<libc::sched_attr>();
                assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0), 0);
                (attributes.sched_policy, attributes.sched_nice, attributes.sched_runtime)
            }
        };
        std::thread::spawn(move || {
            let (policy, nice, _) = of();
            super::short_turns().unwrap();
            let (policy_after, nice_after, slice) = of();
            assert_eq!((policy_after, nice_after), (policy, nice));
            // Kernels before 6.12 say 0.
            assert!([0, super::SHORTEST_NS].contains(&slice), "{slice}");
        })
        .join()
        .unwrap();
    }
}
