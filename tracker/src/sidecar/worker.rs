//! The thread that does jobs, in order, so that the loop never waits for the sidecar's file system (S5).

use super::disk_file::DiskFile;
use super::folder::Directory;
use super::jobs::{DiskFacts, Jobs, Outcome};
use super::maps::Tmpfs;
use super::{Opened, Report};
use crate::format::meta::Mark;
use crate::group::job::{Job, JobDone, JobError};
use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// The worker of a group. Dropping it ends its thread once the queue is empty.
#[derive(Debug)]
pub struct Worker {
    jobs: Sender<Job>,
    reports: Receiver<Report>,
    report: Sender<Report>,
    wakeup: Arc<EventFd>,
    /// The disks, for marks: set on a thread of their own, for the worker may hang in the sidecar (S4).
    disks: Vec<(crate::id::DiskId, Arc<DiskFile>)>,
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(mut jobs: Jobs<Directory, Arc<DiskFile>, Tmpfs>) -> std::io::Result<Self> {
        let (send_job, receive_job) = unbounded::<Job>();
        let (send_report, receive_report) = unbounded();
        let wakeup = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let disks = jobs.homes.iter().map(|home| (home.id, home.facts.clone())).collect();
        let (report, wake) = (send_report.clone(), wakeup.clone());
        std::thread::Builder::new().name("sidecar".into()).spawn(move || {
            for job in receive_job {
                if tell(&report, &wake, jobs.run(job)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs: send_job, reports: receive_report, report: send_report, wakeup, disks })
    }

    /// Queues a job; never blocks.
    pub fn post(&self, job: Job) {
        let Job::Mark { disk, .. } = job else {
            // The thread only ends with us.
            let _ = self.jobs.send(job);
            return;
        };
        let (id, facts) = self.disks[disk.index()].clone();
        let (report, wake) = (self.report.clone(), self.wakeup.clone());
        let marking = std::thread::Builder::new().name("mark".into()).spawn(move || {
            let result = facts.set_mark(&Mark { disk: id, untracked: true });
            let done = JobDone::Marked { disk, result: result.map_err(|error| JobError(error.to_string())) };
            let _ = tell(&report, &wake, Outcome { opened: Vec::new(), closed: Vec::new(), done });
        });
        if let Err(error) = marking {
            let done = JobDone::Marked { disk, result: Err(JobError(error.to_string())) };
            let outcome = Outcome { opened: Vec::new(), closed: Vec::new(), done };
            let _ = tell(&self.report, &self.wakeup, outcome);
        }
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

    fn fsync(&self) -> std::io::Result<()> {
        (**self).fsync()
    }

    fn mark(&self) -> std::io::Result<Option<Mark>> {
        (**self).mark()
    }

    fn set_mark(&self, mark: &Mark) -> std::io::Result<()> {
        (**self).set_mark(mark)
    }
}
