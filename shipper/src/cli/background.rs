//! Shipping stands back for the guest when the processors are busy.

use nix::errno::Errno;
use std::io;

/// The calling thread, and those that it will make, work in the background: with a lower share of busy processors, and
/// without interrupting others whenever they wake (sched(7), SCHED_BATCH). Whoever was started with another niceness or
/// policy keeps both, and nothing changes with a `niceness` of 0.
///
/// # Errors
/// The kernel's, or a sandbox's.
pub(super) fn stand_back(niceness: libc::c_int) -> io::Result<()> {
    Errno::clear();
    // SAFETY: both only read this thread's attributes.
    let (policy, now) = unsafe { (libc::sched_getscheduler(0), libc::getpriority(libc::PRIO_PROCESS, 0)) };
    if now == -1 && Errno::last_raw() != 0 {
        return Err(io::Error::last_os_error());
    }
    if niceness == 0 || now != 0 || policy != libc::SCHED_OTHER {
        return Ok(());
    }
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter outlives the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an attribute of this thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::stand_back;

    /// This thread's policy and niceness.
    fn now() -> (libc::c_int, libc::c_int) {
        // SAFETY: both only read this thread's attributes.
        unsafe { (libc::sched_getscheduler(0), libc::getpriority(libc::PRIO_PROCESS, 0)) }
    }

    #[test]
    fn threads_inherit_it() {
        let check = || {
            if now() == (libc::SCHED_OTHER, 0) {
                stand_back(0).unwrap();
                assert_eq!(now(), (libc::SCHED_OTHER, 0));
                stand_back(4).unwrap();
                assert_eq!(now(), (libc::SCHED_BATCH, 4));
                std::thread::spawn(|| assert_eq!(now(), (libc::SCHED_BATCH, 4))).join().unwrap();
            }
        };
        std::thread::spawn(check).join().unwrap();
    }

    #[test]
    fn a_niceness_of_ones_own_stays() {
        let check = || {
            // SAFETY: an attribute of this thread; raising it needs no right.
            assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) }, 0);
            let own = now();
            stand_back(4).unwrap();
            assert_eq!(now(), own);
        };
        std::thread::spawn(check).join().unwrap();
    }
}
