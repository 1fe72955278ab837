//! The thread that does jobs, in order, so that the loop never waits for the sidecar's file system (S5).

use super::disk_file::DiskFile;
use super::folder::Directory;
use super::jobs::{DiskFacts, Jobs, Outcome};
use super::maps::Tmpfs;
use super::{Opened, Report};
use crate::format::meta::Mark;
use crate::group::job::{Job, JobDone, JobError};
use crate::id::DiskId;
use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The worker of a group. Dropping it ends its thread once the queue is empty.
#[derive(Debug)]
pub struct Worker {
    orders: Sender<Order>,
    reports: Receiver<Report>,
    report: Sender<Report>,
    wakeup: Arc<EventFd>,
    /// The disks, for marks: set on threads of their own, for the worker may hang in the sidecar (S4).
    disks: Vec<Marker>,
    maps: Tmpfs,
    /// Marks asked for.
    marks: AtomicU64,
}

/// What the thread does, in order.
#[derive(Debug)]
enum Order {
    Job(Job),
    Close(OwnedFd),
}

/// Sets the mark of a disk. The last one asked for wins, whatever the order in which threads come.
#[derive(Clone, Debug)]
struct Marker {
    id: DiskId,
    facts: Arc<DiskFile>,
    newest: Arc<Mutex<u64>>,
}

impl Marker {
    fn set(&self, number: u64, untracked: bool) -> std::io::Result<bool> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if *newest > number {
            return Ok(true);
        }
        *newest = number;
        self.facts.set_mark(&Mark { disk: self.id, untracked })
    }
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(mut jobs: Jobs<Directory, Arc<DiskFile>, Tmpfs>) -> std::io::Result<Self> {
        let (orders, received) = unbounded::<Order>();
        let (send_report, receive_report) = unbounded();
        let wakeup = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let marker = |home: &super::jobs::Home<_, Arc<DiskFile>>| Marker {
            id: home.id,
            facts: home.facts.clone(),
            newest: Arc::default(),
        };
        let disks = jobs.homes.iter().map(marker).collect();
        let maps = jobs.maps.clone();
        let (report, wake) = (send_report.clone(), wakeup.clone());
        std::thread::Builder::new().name("sidecar".into()).spawn(move || {
            for order in received {
                let told = match order {
                    Order::Job(job) => tell(&report, &wake, jobs.run(job)),
                    Order::Close(file) => {
                        drop(file);
                        Ok(())
                    }
                };
                if told.is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            orders,
            reports: receive_report,
            report: send_report,
            wakeup,
            disks,
            maps,
            marks: AtomicU64::new(0),
        })
    }

    /// Queues a job; never blocks.
    pub fn post(&self, job: Job) {
        let (disk, untracked) = match job {
            Job::Mark { disk } => (disk, true),
            Job::Unmark { disk } => (disk, false),
            job => {
                // The thread only ends with us.
                let _ = self.orders.send(Order::Job(job));
                return;
            }
        };
        let number = self.marks.fetch_add(1, Ordering::Relaxed) + 1;
        let marker = self.disks[disk.index()].clone();
        let (report, wake) = (self.report.clone(), self.wakeup.clone());
        let done = move |result: std::io::Result<bool>| {
            let result = result.map_err(|error| JobError(error.to_string()));
            let done =
                if untracked { JobDone::Marked { disk, result } } else { JobDone::Unmarked { disk, result } };
            let _ = tell(&report, &wake, Outcome { opened: Vec::new(), closed: Vec::new(), done });
        };
        let failed = done.clone();
        let thread = std::thread::Builder::new().name("mark".into());
        if let Err(error) = thread.spawn(move || done(marker.set(number, untracked))) {
            failed(Err(error));
        }
    }

    /// Closes a file of the sidecar; never blocks.
    pub fn close(&self, file: OwnedFd) {
        // As above; without it the file is closed here.
        let _ = self.orders.send(Order::Close(file));
    }

    /// Whether every map could be locked in memory (S5); if not, `RLIMIT_MEMLOCK` is too low.
    pub fn memory_locked(&self) -> bool {
        self.maps.locked()
    }

    /// Readable (an eventfd) when [`Self::poll`] has something; the engine reads it empty before polling.
    pub fn wakeup(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }

    /// The next report, if one is there.
    pub fn poll(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }
}

fn tell(report: &Sender<Report>, wake: &EventFd, outcome: Outcome<std::fs::File>) -> Result<(), ()> {
    let Outcome { opened, closed, done } = outcome;
    let opened = opened.into_iter().map(|(disk, file, fd)| Opened { disk, file, fd: fd.into() }).collect();
    report.send(Report { opened, closed, done }).map_err(|_| ())?;
    let _ = wake.write(1);
    Ok(())
}

impl<T: DiskFacts> DiskFacts for Arc<T> {
    fn fingerprint(&self) -> std::io::Result<crate::format::meta::Fingerprint> {
        (**self).fingerprint()
    }

    fn wall_ns(&self) -> i128 {
        (**self).wall_ns()
    }

    fn fsync(&self) -> std::io::Result<()> {
        (**self).fsync()
    }

    fn mark(&self) -> std::io::Result<Option<Mark>> {
        (**self).mark()
    }

    fn set_mark(&self, mark: &Mark) -> std::io::Result<bool> {
        (**self).set_mark(mark)
    }

    fn drop_cache(&self) -> std::io::Result<()> {
        (**self).drop_cache()
    }
}
