//! Locks what is needed, against whoever has a shipper's rights, or an administrator's.
//!
//! A lock at the put alone protects an object for a while after it was put; but a point of today may need a pack of years ago.
//! So what the points of now need is locked again, however old it is. Let a run of [`protect`] that began at T with the time D
//! have ended well. Then, until T + D, whatever is done to the store: every point that existed at T (was not let go then) can
//! be restored; and so can every point that was put after T by shippers that lock for at least D: it needs what the base
//! needs that it lies over, which is locked, and what it put itself. With a run every P, an attack is to be noticed, and
//! answered by a run as of a time before it, within D - P.
//!
//! What an attacker may try who has the shipper's credentials and the group's key, and what becomes of it (`tests/it/locked.rs`
//! does all of it):
//!
//! 1. Deletes objects, or versions of them. The first puts a mark over them; the second is refused while they are locked.
//! 2. Puts garbage, or forgeries that are sealed well, over objects. These are newer versions; [`oldest`] reads the first.
//! 3. Unlocks, or shortens a lock, with the right to bypass what an administrator may bypass. The mode COMPLIANCE knows no such
//!    right; GOVERNANCE does, and who was given `s3:*` has it. That is why it is COMPLIANCE, although no mistake in it
//!    can be mended.
//! 4. Puts entries behind the head, a claim, a take-over, a catalog that lets everything go: sealed by the group's key, it is what
//!    a shipper and a prune put, and readers of the vault as it is now believe it. As of a time before, none of it exists.
//! 5. Sets the host's clock back, so that forgeries look old. The time of a version is the store's.
//! 6. Puts so many points that a prune lets the good ones go. The objects stay locked, and a run as of a time before locks
//!    them for longer.
//! 7. Ships garbage and waits until D is over. Nothing here helps but to look at points: `towline verify`, and restores tried.
//! 8. Locks garbage for ever, to let it cost money. Needs a rule of the bucket: `s3:object-lock-remaining-retention-days`.
//! 9. Stops this from running: then locks end at T + D. It is not to run on a shipper's host.
//!
//! [`oldest`]: crate::store::remote::oldest

use super::collect::{Progress, plan_telling};
use crate::store::remote::Lock;
use crate::store::{self, Listed, StoreError};
use crate::vault::names::{self, DESCRIPTOR, KEYS};
use crate::vault::{Group, Vault};
use crate::{Error, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// Objects locked at the same time.
const LANES: usize = 16;
/// Names that are gathered before they are locked.
const BATCH: usize = 1000;
/// Names of touched objects that are told.
const TOLD: usize = 10;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protected {
    /// Objects that are locked now.
    pub objects: u64,
    /// Of these, those that were not, or not for long enough.
    pub extended: u64,
    /// Of these, those that something else was put over, or that were deleted and are still there.
    pub touched: u64,
    /// Some of their names.
    pub examples: Vec<String>,
}

/// Whoever can lock an object: what became of it, and whether it was touched.
pub type Locks<'a> = dyn Fn(&str, Span) -> std::result::Result<(Lock, bool), StoreError> + Sync + 'a;

/// How long to lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What is locked so long stays as it is;
    pub at_least: SystemTime,
    /// anything else is locked until then.
    pub until: SystemTime,
}

impl Span {
    /// From now on. A quarter longer than promised: an object is locked again every so often, not at every run.
    pub fn new(now: SystemTime, time: Duration) -> Self {
        Self { at_least: now + time, until: now + time + time / 4 }
    }
}

/// Locks what the vault as a whole needs: what says what it is, and what opens it.
///
/// # Errors
/// The store's.
pub fn protect_keys(vault: &Vault, locks: &Locks<'_>, span: Span) -> Result<Protected> {
    let mut names = vec![DESCRIPTOR.to_owned()];
    store::each(&*vault.store, KEYS, "", |object| {
        names.extend(names::parse(&object.name).map(|_| object.name.clone()));
        Ok::<_, Error>(())
    })?;
    let mut done = Protected::default();
    done.lock_all(&names, locks, span)?;
    Ok(done)
}

/// Locks what a group's points need, and whatever else of it is no garbage.
///
/// # Errors
/// `GroupNotFound`; `Damage` if what is needed can't be told; the store's; the progress's.
pub fn protect(
    group: &Group,
    locks: &Locks<'_>,
    span: Span,
    progress: &mut dyn Progress,
) -> Result<Protected> {
    let (mut done, mut names) = (Protected::default(), Vec::new());
    let mut tell = |object: &Listed| {
        names.push(object.name.clone());
        match names.len() < BATCH {
            true => Ok(()),
            false => done.lock_all(&std::mem::take(&mut names), locks, span),
        }
    };
    plan_telling(group, None, progress, &mut tell)?;
    done.lock_all(&names, locks, span)?;
    Ok(done)
}

impl Protected {
    fn lock_all(&mut self, names: &[String], locks: &Locks<'_>, span: Span) -> Result<()> {
        let (next, done) = (AtomicUsize::new(0), Mutex::new((self, Ok(()))));
        std::thread::scope(|scope| {
            for _ in 0..LANES.min(names.len()) {
                scope.spawn(|| {
                    while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let locked = locks(name, span);
                        let mut done = done.lock().expect("no thread panics with the lock");
                        match locked {
                            Ok((lock, touched)) => done.0.count(name, lock, touched),
                            Err(error) => {
                                done.1 = Err(error.into());
                                next.store(names.len(), Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        done.into_inner().expect("no thread panics with the lock").1
    }

    fn count(&mut self, name: &str, lock: Lock, touched: bool) {
        self.objects += 1;
        self.extended += u64::from(lock == Lock::Is);
        self.touched += u64::from(touched);
        if touched && self.examples.len() < TOLD {
            self.examples.push(name.to_owned());
        }
    }

    /// With what was done elsewhere.
    pub fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.extended += other.extended;
        self.touched += other.touched;
        self.examples.extend(other.examples);
        self.examples.truncate(TOLD);
    }
}
