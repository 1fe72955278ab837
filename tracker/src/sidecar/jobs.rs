//! How each job of the machine is done, over any folder and any maps: the worker's thread and the simulator run this.

use super::files::{
    META, append_map, create_intents, create_log, log_name, parse_log_name, store_meta, store_name,
};
use super::folder::{Folder, FolderFile};
use super::maps::Maps;
use super::start::HEADER;
use crate::disk::Stamp;
use crate::format::changes::{self, Header};
use crate::format::intents::LogMark;
use crate::format::meta::{Clean, Fingerprint, LOGS_MAX, LogLength, Mark, Meta, PendingLog};
use crate::group::SidecarFile;
use crate::group::job::{Job, JobDone, JobError, SealDisk, Spare, SpareDisk, StopDisk};
use crate::id::{CutId, DiskId, DiskIndex, Generation, Session};
use crate::map::bits;
use crate::mutant;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// What the sidecar needs of a disk itself.
pub trait DiskFacts {
    /// What the kernel says of it now.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn fingerprint(&self) -> io::Result<Fingerprint>;

    /// The wall clock, nanoseconds since 1970.
    fn wall_ns(&self) -> i128 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_nanos() as i128)
    }

    /// `fsync`: content and times.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn fsync(&self) -> io::Result<()>;

    /// The mark that travels with the disk, if it has one that can be read.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn mark(&self) -> io::Result<Option<Mark>>;

    /// Sets the mark. Whether it is durable by that; if not, the next [`Self::fsync`] makes it so. Not here: an error of
    /// that sync may be about the guest's data, and the kernel tells it once (W6).
    ///
    /// # Errors
    /// Whatever the file system says.
    fn set_mark(&self, mark: &Mark) -> io::Result<bool>;

    /// Drops what is cached of the content, so that reads show what the medium has (W6).
    ///
    /// # Errors
    /// Whatever the file system says.
    fn drop_cache(&self) -> io::Result<()>;
}

/// One disk's sidecar.
#[derive(Clone, Debug)]
pub struct Home<F, D> {
    /// The sidecar.
    pub folder: F,
    /// The disk.
    pub facts: D,
    /// Its identity.
    pub id: DiskId,
    /// Its size in bytes.
    pub size: u64,
    /// log2 of the block size.
    pub block_shift: u8,
    /// What [`Meta::logs`] says. Kept here, for whoever stores metas one after another knows best which logs are durable:
    /// an entry is added after its log is, and goes before its log does.
    pub logs: Vec<PendingLog>,
}

impl<F, D: DiskFacts> Home<F, D> {
    /// What the kernel says of the disk now (S3).
    fn stamp(&self) -> io::Result<Stamp> {
        Ok(Stamp { fingerprint: self.facts.fingerprint()?, wall_ns: self.facts.wall_ns() })
    }
}

impl<F: Folder, D> Home<F, D> {
    /// Stores the meta, with the logs that are pending now.
    fn store(&self, meta: &Meta) -> io::Result<()> {
        let logs = if mutant::active("logs-not-listed") { Vec::new() } else { self.logs.clone() };
        store_meta(&self.folder, &Meta { logs, ..meta.clone() })
    }

    /// Gives back the space of a freeze's preserved data.
    fn empty_store(&self, cut: CutId) -> io::Result<()> {
        let store = self.folder.open(&store_name(cut))?;
        store.set_len(0)?;
        store.set_len(self.size)
    }
}

/// Does the jobs of a group.
#[derive(Debug)]
pub struct Jobs<F, D, M> {
    /// The disks' homes, in order.
    pub homes: Vec<Home<F, D>>,
    /// Where the maps are.
    pub maps: M,
    /// The session.
    pub session: Session,
    /// Draws the names of cuts.
    pub draw: fn() -> CutId,
}

/// The name of a generation's map of a disk.
pub fn map_name(generation: Generation, disk: usize) -> String {
    format!("{:016x}.{disk}.map", generation.0)
}

/// The name of a freeze's preserved map of a disk.
pub fn preserved_name(generation: Generation, disk: usize) -> String {
    format!("{:016x}.{disk}.preserved", generation.0)
}

/// Files that a job opened and closed, with its outcome.
pub struct Outcome<T> {
    /// To be installed before `done` is told.
    pub opened: Vec<(DiskIndex, SidecarFile, T)>,
    /// To be closed.
    pub closed: Vec<(DiskIndex, SidecarFile)>,
    /// For the machine.
    pub done: JobDone,
}

fn failed(error: io::Error) -> JobError {
    JobError(error.to_string())
}

impl<F: Folder, D: DiskFacts, M: Maps> Jobs<F, D, M> {
    /// Does one job.
    pub fn run(&mut self, job: Job) -> Outcome<F::File> {
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        let done = match job {
            Job::Prepare { open } => JobDone::Prepared(self.prepare(open, &mut opened).map_err(failed)),
            Job::Reserve { open } => {
                let reserve = |disk| self.maps.reserve(&preserved_name(open, disk));
                JobDone::Reserved((0..self.homes.len()).try_for_each(reserve).map_err(failed))
            }
            Job::Seal { generation, disks } => {
                JobDone::Sealed { generation, result: self.seal(generation, disks).map_err(failed) }
            }
            Job::Release { generation, cut, metas } => {
                let result = self.release(generation, cut, &metas).map_err(failed);
                self.close(generation, &mut closed);

                JobDone::Released { generation, result }
            }
            Job::Forget { generation, cut, left } => {
                let result = self.keep_logs(&left).map_err(failed);
                // Mutant: the log of a cut that is forgotten is forgotten with it.
                if mutant::active("undone-log-deleted") {
                    for home in &mut self.homes {
                        home.logs.retain(|log| log.generation != generation);
                        let _ = remove_logs(&home.folder, |of, _| of != generation);
                    }
                }
                self.remove_freeze(generation, cut);
                self.close(generation, &mut closed);
                JobDone::Forgotten { result }
            }
            Job::StoreMeta { number, metas } => {
                let store = |(disk, meta): &(DiskIndex, Meta)| self.homes[disk.index()].store(meta);
                JobDone::MetaStored { number, result: metas.iter().try_for_each(store).map_err(failed) }
            }
            Job::Mark { disk } => {
                let home = &self.homes[disk.index()];
                let result = home.facts.set_mark(&Mark { disk: home.id, untracked: true }).map_err(failed);
                JobDone::Marked { disk, result }
            }
            Job::RenewIntents { disk, name, regions, capacity } => {
                let home = &self.homes[disk.index()];
                if let Err(error) = remove_older_intents(&home.folder, &name) {
                    tracing::warn!(%error, "intents that nobody needs can't be deleted");
                }
                let kept: Vec<u32> = regions.iter().copied().collect();
                let logs = Default::default();
                let made = create_intents(&home.folder, &name, home.id, self.session, logs, &kept, capacity);
                let result = made.and_then(|(file, sequence)| {
                    home.folder.sync()?;
                    opened.push((disk, SidecarFile::Intents, file));
                    Ok(sequence)
                });
                JobDone::IntentsRenewed { disk, name, regions, capacity, result: result.map_err(failed) }
            }
            Job::Unmark { disk } => {
                let home = &self.homes[disk.index()];
                let result = home.facts.set_mark(&Mark { disk: home.id, untracked: false }).map_err(failed);
                JobDone::Unmarked { disk, result }
            }
            Job::Watch => JobDone::Watched { low: self.homes.iter().any(|home| home.folder.low_on_space()) },
            Job::Stamp => {
                JobDone::Stamped(self.homes.iter().map(|home| home.stamp().map_err(failed)).collect())
            }
            Job::StoreStamps { metas } => {
                for (home, meta) in self.homes.iter().zip(&metas) {
                    if let Err(error) = home.store(meta) {
                        tracing::warn!(%error, "the disk's stamp can't be stored");
                    }
                }
                JobDone::StampsStored
            }
            Job::Stop { disks, keep_maps } => {
                let mut unsynced = Vec::new();
                let result = self.stop(disks, keep_maps, &mut unsynced).map_err(failed);
                JobDone::Stopped { result, unsynced }
            }
        };
        Outcome { opened, closed, done }
    }

    /// Fresh inodes, all of them: somebody may still read those of an earlier freeze (C3).
    fn prepare(
        &mut self,
        open: Generation,
        opened: &mut Vec<(DiskIndex, SidecarFile, F::File)>,
    ) -> io::Result<Spare> {
        let cut = (self.draw)();
        let made = self.prepare_as(open, cut, opened);
        if made.is_err() {
            opened.clear();
            self.homes.iter().for_each(|home| drop(home.folder.remove(&store_name(cut))));
        }
        made
    }

    fn prepare_as(
        &self,
        open: Generation,
        cut: CutId,
        opened: &mut Vec<(DiskIndex, SidecarFile, F::File)>,
    ) -> io::Result<Spare> {
        let next = open.next();
        let mut disks = Vec::new();
        for (disk, home) in self.homes.iter().enumerate() {
            let words = bits::words_for(home.size.div_ceil(1 << home.block_shift));
            let header = Header {
                disk: home.id,
                session: self.session,
                generation: next,
                block_shift: home.block_shift,
                size: home.size,
            };
            let log = create_log(&home.folder, &header)?;
            let store = home.folder.create(&store_name(cut))?;
            store.set_len(home.size)?;
            disks.push(SpareDisk {
                open: self.maps.create(&map_name(next, disk), words, true)?,
                preserved: self.maps.create(&preserved_name(open, disk), words, false)?,
                log: header,
            });
            opened.push((index(disk), SidecarFile::Changes(next), log));
            opened.push((index(disk), SidecarFile::Store(open), store));
        }
        Ok(Spare { generation: next, cut, disks, reserved: false })
    }

    /// C2: the frozen map, then the seal, then one sync. Older logs are deleted only then: this one contains them (C6).
    fn seal(&mut self, generation: Generation, disks: Vec<SealDisk>) -> io::Result<()> {
        let mut sealed = Vec::new();
        for (home, disk) in self.homes.iter().zip(disks) {
            let SealDisk { frozen, header, mut encoder, mut end, blocks, fresh, seal, meta } = disk;
            let name = log_name(header.generation, header.session);
            let file = open_log(&home.folder, &name, &header, fresh, &mut encoder, &mut end)?;
            let load = |word: usize| frozen[word].load(Relaxed);
            let (end, count) = append_map(&file, &mut encoder, end, false, blocks, load)?;
            let mut bytes = Vec::new();
            encoder.seal(&changes::Seal { blocks: count, ..seal }, &mut bytes);
            file.write_at(&bytes, end)?;
            file.sync()?;
            if fresh {
                replace_log(&home.folder, &name)?;
            }
            let (length, cut) = (end + bytes.len() as u64, Some(seal.identity()));
            sealed.push((PendingLog { generation, session: header.session, length, cut }, meta));
        }
        // Mutant: whatever an earlier session left is in it.
        let dead = |of: Session| of != self.session && mutant::active("open-log-contained");
        let contained = |of: Generation, session: Session| of <= generation || dead(session);
        // Before anybody can publish the cut (V2), and before what it contains is deleted.
        for (home, (log, meta)) in self.homes.iter_mut().zip(sealed) {
            // A dead session's log of a later generation is not in it: only the list knows how long that one must be (I2).
            home.logs.retain(|other| !contained(other.generation, other.session));
            home.logs.push(log);
            home.store(&meta)?;
        }
        for home in &self.homes {
            let keep = |of: Generation, session: Session| {
                !contained(of, session) || (of == generation && session == self.session)
            };
            remove_logs(&home.folder, keep)?;
        }
        Ok(())
    }

    /// V9: the anchor first, on every disk; then what it makes superfluous goes. If there is no room for the metas, the
    /// preserved data may be what took it, and it goes first: from *releasing* on nothing is preserved any more, so whoever
    /// still reads, or reads again after a crash that leaves no meta with the anchor, is told that the freeze is fuzzy, and
    /// a fuzzy one is read from the disk (C5). The file stays, empty: a successor looks for it.
    fn release(&mut self, generation: Generation, cut: CutId, metas: &[Meta]) -> io::Result<()> {
        self.homes.iter_mut().for_each(|home| home.logs.retain(|log| log.generation > generation));
        let store = || self.homes.iter().zip(metas).try_for_each(|(home, meta)| home.store(meta));
        store().or_else(|error| {
            tracing::warn!(%error, %cut, "a release can't be stored; its preserved data goes first");
            self.homes.iter().for_each(|home| drop(home.empty_store(cut)));
            store()
        })?;
        for home in &self.homes {
            remove_logs(&home.folder, |of, _| of > generation)?;
        }
        self.remove_freeze(generation, cut);
        Ok(())
    }

    /// Unsealed logs of an undone freeze stay pending: the metas list them before the intents forget them.
    fn keep_logs(&mut self, left: &[(DiskIndex, LogMark, Meta)]) -> io::Result<()> {
        for (disk, mark, meta) in left {
            let home = &mut self.homes[disk.index()];
            let LogMark { generation, length } = *mark;
            if home.logs.len() >= LOGS_MAX {
                return Err(io::Error::other("too many change logs are pending"));
            }
            home.logs.push(PendingLog { generation, session: self.session, length, cut: None });
            // On failure tracking fails, until a sealed log contains them all.
            if let Err(error) = home.store(meta) {
                home.logs.pop();
                return Err(error);
            }
        }
        Ok(())
    }

    /// The names go; who still reads keeps the inodes (C3). What can't be deleted now goes at the next start.
    fn remove_freeze(&mut self, generation: Generation, cut: CutId) {
        for (disk, home) in self.homes.iter().enumerate() {
            if let Err(error) = home.folder.remove(&store_name(cut)) {
                tracing::warn!(%error, %cut, "preserved data can't be deleted");
            }
            self.maps.remove(&map_name(generation, disk));
            self.maps.remove(&preserved_name(generation, disk));
        }
    }

    fn close(&mut self, generation: Generation, closed: &mut Vec<(DiskIndex, SidecarFile)>) {
        for disk in (0..self.homes.len()).map(index) {
            closed.extend([(disk, SidecarFile::Store(generation)), (disk, SidecarFile::Changes(generation))]);
        }
    }

    /// The clean stop of disks that are synced: what is open becomes durable in the logs, and only then the meta says clean.
    /// A disk that was written without intents is whole again then.
    fn stop(
        &mut self,
        disks: Vec<StopDisk>,
        keep_maps: bool,
        unsynced: &mut Vec<DiskIndex>,
    ) -> io::Result<()> {
        let doubtful = disks.iter().any(|disk| disk.meta.doubtful);
        for (place, (home, disk)) in self.homes.iter_mut().zip(disks).enumerate() {
            let StopDisk { open, unsealed, header, mut encoder, mut end, dead, blocks, marked, mut meta } =
                disk;
            let name = log_name(header.generation, header.session);
            let known = end;
            let file = open_log(&home.folder, &name, &header, dead, &mut encoder, &mut end)?;
            let load = |word: usize| {
                open[word].load(Relaxed) | unsealed.as_ref().map_or(0, |map| map[word].load(Relaxed))
            };
            let (mut end, count) = append_map(&file, &mut encoder, end, true, blocks, load)?;
            // Until the meta is stored the intents say how long the dead log is (I2), and this one must not look cut off:
            // everything is said again.
            while dead && count > 0 && end < known {
                (end, _) = append_map(&file, &mut encoder, end, true, blocks, load)?;
            }
            file.sync()?;
            if dead {
                replace_log(&home.folder, &name)?;
            }
            // S4: the log holds all that went untracked, and it is durable. How long it is must be, too, or nobody would notice
            // that its end is lost (I2). And the mark is not cleared later: that changes the times that the last meta is about
            // to swear to (S3).
            if marked {
                let Header { generation, session, .. } = header;
                home.logs.push(PendingLog { generation, session, length: end, cut: None });
                home.store(&meta)?;
                match home.facts.set_mark(&Mark { disk: home.id, untracked: false }) {
                    Ok(true) => {}
                    Ok(false) => home.facts.fsync().inspect_err(|_| unsynced.push(index(place)))?,
                    Err(error) => {
                        tracing::warn!(%error, "the mark can't be cleared: the next start compares the disk")
                    }
                }
            }
            let Stamp { fingerprint, wall_ns } = home.stamp()?;
            (meta.stamp, meta.stamped_ns) = (fingerprint, wall_ns);
            meta.clean =
                Some(Clean { fingerprint, log: LogLength { generation: header.generation, length: end } });
            home.store(&meta)?;
        }
        if !keep_maps {
            // The metas say clean: without maps a start reads the logs. What is known of failed syncs stays in memory, too (W6):
            // it is true of the disk, whatever becomes of the sidecar.
            let goes = |name: &&String| !doubtful || *name != HEADER;
            self.maps.names().iter().filter(goes).for_each(|name| self.maps.remove(name));
        }
        Ok(())
    }
}

/// Promise 5: tracking may fail and heal (S4) as often as it likes, and leaves no more than one file of intents behind. All go but
/// the one that the meta in force names, once that meta's own name is durable, and the one that is about to be made.
fn remove_older_intents(folder: &impl Folder, new: &str) -> io::Result<()> {
    let named = Meta::decode(&folder.read(META)?).map_err(io::Error::other)?.intents;
    folder.sync()?;
    let older = |name: &String| name.ends_with(".intents") && *name != named && name != new;
    folder.names()?.iter().filter(|name| older(name)).try_for_each(|name| folder.remove(name))
}

/// The log to append to. A dead one (F6) is left as it is: all goes to a fresh inode, which [`replace_log`] puts in its
/// place when it is durable.
fn open_log<F: Folder>(
    folder: &F,
    name: &str,
    header: &Header,
    dead: bool,
    encoder: &mut changes::Encoder,
    end: &mut u64,
) -> io::Result<F::File> {
    if !dead {
        return folder.open(name);
    }
    let file = folder.create(&format!("{name}.new"))?;
    file.write_at(&header.encode(), 0)?;
    (*encoder, *end) = (changes::Encoder::new(header), changes::HEADER as u64);
    Ok(file)
}

fn replace_log(folder: &impl Folder, name: &str) -> io::Result<()> {
    folder.rename(&format!("{name}.new"), name)?;
    folder.sync()
}

/// Deletes the logs that need not be kept. Nothing waits for it to be durable: a log that comes back is only more work.
pub(super) fn remove_logs(
    folder: &impl Folder,
    keep: impl Fn(Generation, Session) -> bool,
) -> io::Result<()> {
    for name in folder.names()? {
        if let Some((generation, session)) = parse_log_name(&name)
            && !keep(generation, session)
        {
            folder.remove(&name)?;
        }
    }
    Ok(())
}

fn index(disk: usize) -> DiskIndex {
    DiskIndex(disk as u16)
}

#[cfg(test)]
mod tests;
