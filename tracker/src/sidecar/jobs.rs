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
mod tests {
    use super::super::files::{intents_name, read_logs, renewed_intents_name};
    use super::super::folder::Directory;
    use super::*;
    use crate::disk::Disk;
    use crate::disk::geometry::Geometry;
    use crate::format::changes::{Encoder, Seal};
    use crate::map::Words;
    use std::cell::RefCell;
    use std::rc::Rc;

    const DISK: DiskId = DiskId([3; 16]);
    const BLOCKS: u64 = 256;
    const SESSION: Session = Session(2);

    /// A disk that nothing is wrong with.
    struct Facts {
        sidecar: Directory,
        /// The logs that the meta listed when the mark was cleared.
        listed: Rc<RefCell<Vec<PendingLog>>>,
    }

    impl DiskFacts for Facts {
        fn fingerprint(&self) -> io::Result<Fingerprint> {
            Ok(Fingerprint::default())
        }

        fn fsync(&self) -> io::Result<()> {
            Ok(())
        }

        fn mark(&self) -> io::Result<Option<Mark>> {
            Ok(None)
        }

        fn set_mark(&self, _mark: &Mark) -> io::Result<bool> {
            self.listed.replace(Meta::decode(&self.sidecar.read(META)?).map_err(io::Error::other)?.logs);
            Ok(true)
        }

        fn drop_cache(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Maps that no job of these tests needs.
    struct NoMaps;

    impl Maps for NoMaps {
        fn create(&self, _name: &str, words: usize, _dense: bool) -> io::Result<Words> {
            Ok(Words::private(words))
        }

        fn reserve(&self, _name: &str) -> io::Result<()> {
            Ok(())
        }

        fn open(&self, _name: &str, _words: usize, _dense: bool) -> io::Result<Words> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
            Ok(())
        }

        fn remove(&self, _name: &str) {}

        fn names(&self) -> Vec<String> {
            Vec::new()
        }
    }

    struct Site {
        jobs: Jobs<Directory, Facts, NoMaps>,
        folder: Directory,
        listed: Rc<RefCell<Vec<PendingLog>>>,
        meta: Meta,
        _place: tempfile::TempDir,
    }

    fn site(logs: Vec<PendingLog>) -> Site {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("sidecar");
        let open = || Directory::new(&path).unwrap();
        let (id, size, block_shift) = (DISK, BLOCKS << 12, 12);
        let geometry = Geometry { size, block_shift, region_shift: 15 };
        let disk = Disk::untracked("disk".into(), "disk".into(), geometry, true, 512);
        let meta = Meta { disk: DISK, session: SESSION, ..disk.meta };
        let listed = Rc::default();
        let facts = Facts { sidecar: open(), listed: Rc::clone(&listed) };
        let homes = vec![Home { folder: open(), facts, id, size, block_shift, logs }];
        let jobs = Jobs { homes, maps: NoMaps, session: SESSION, draw: || CutId([1; 16]) };
        Site { jobs, folder: open(), listed, meta, _place: place }
    }

    fn header(generation: u64, session: Session) -> Header {
        Header {
            disk: DISK,
            session,
            generation: Generation(generation),
            block_shift: 12,
            size: BLOCKS << 12,
        }
    }

    fn every_other_block() -> Words {
        let map = Words::private(bits::words_for(BLOCKS));
        for block in (0..BLOCKS).step_by(2) {
            bits::set(&map, block..block + 1);
        }
        map
    }

    impl Site {
        fn stored(&self) -> Meta {
            Meta::decode(&self.folder.read("disk.meta").unwrap()).unwrap()
        }

        fn run(&mut self, job: Job) -> JobDone {
            self.jobs.run(job).done
        }

        /// A clean stop over this open map, with this log to go on with.
        fn stop(&mut self, open: &Words, log: (Header, Encoder, u64), dead: bool, marked: bool) {
            let ((header, encoder, end), open) = (log, open.clone());
            let (blocks, unsealed, meta) = (BLOCKS, None, self.meta.clone());
            let disk = StopDisk { open, unsealed, header, encoder, end, dead, blocks, marked, meta };
            let done = self.run(Job::Stop { disks: vec![disk], keep_maps: false });
            assert!(matches!(done, JobDone::Stopped { result: Ok(()), .. }), "{done:?}");
        }
    }

    /// Promise 5, S4. Schedule: 1. tracking fails; 2. fresh intents are made; 3. a meta names them, or can't be stored; again and
    /// again, within one session.
    #[test]
    fn healing_again_and_again_leaves_one_file_of_intents_and_the_one_that_counts() {
        let mut site = site(Vec::new());
        site.folder.create(&intents_name(SESSION)).unwrap();
        site.meta.intents = intents_name(SESSION);
        store_meta(&site.folder, &site.meta).unwrap();
        for generation in 7..40 {
            let name = renewed_intents_name(SESSION, Generation(generation));
            let (disk, regions) = (DiskIndex(0), std::collections::BTreeSet::new());
            let job = Job::RenewIntents { disk, name: name.clone(), regions, capacity: 8 };
            let JobDone::IntentsRenewed { result: Ok(_), .. } = site.run(job) else {
                panic!("they are made")
            };
            let mut names = site.folder.names().unwrap();
            names.retain(|name| name.ends_with(".intents"));
            assert!(names.contains(&name) && names.contains(&site.meta.intents), "{names:?}");
            assert!(names.len() <= 2, "{names:?}");
            if generation % 3 > 0 {
                site.meta.intents = name;
                store_meta(&site.folder, &site.meta).unwrap();
            }
        }
    }

    /// I2. Schedule: 1. a session dies while generation 7 drains, after regions left the intents into generation 8's log; 2.
    /// its successor lists that log and seals generation 7; 3. the file is lost; 4. the host dies: the loss must be noticed.
    #[test]
    fn sealing_a_resumed_freeze_still_lists_a_dead_sessions_log_of_the_open_generation() {
        let older = |generation, session| PendingLog {
            generation: Generation(generation),
            session,
            length: 4096,
            cut: None,
        };
        let open = older(8, Session(1));
        let mut site = site(vec![older(6, Session(1)), older(7, Session(1)), open]);
        let frozen = every_other_block();
        let header = header(7, SESSION);
        create_log(&site.folder, &header).unwrap();
        let disk = SealDisk {
            frozen: frozen.clone(),
            header,
            encoder: Encoder::new(&header),
            end: changes::HEADER as u64,
            blocks: BLOCKS,
            fresh: false,
            seal: Seal {
                cut: CutId([1; 16]),
                first: Generation(6),
                last: Generation(7),
                size: BLOCKS << 12,
                time_ns: 0,
                blocks: bits::count(&frozen),
                compare: false,
                whole: false,
            },
            meta: site.meta.clone(),
        };
        let done = site.run(Job::Seal { generation: Generation(7), disks: vec![disk] });
        assert!(matches!(done, JobDone::Sealed { result: Ok(()), .. }), "{done:?}");
        let listed = site.stored().logs;
        assert!(listed.contains(&open), "{listed:?}");
        let names: Vec<_> = listed.iter().map(|log| (log.generation.0, log.session.0)).collect();
        assert_eq!(names, [(8, 1), (7, 2)], "what the sealed log contains is not listed");
        let logs = read_logs(&site.folder, DISK, Generation(5), &listed, |_| ()).unwrap();
        assert!(logs.bad.is_some(), "the lost file is missed");
    }

    /// F6, I2. Schedule: 1. appends to a log fail, after many that were durable; 2. a clean stop puts a log with everything in
    /// its place, which is shorter; 3. the host dies before the meta says that the stop was clean: the intents count.
    #[test]
    fn a_log_that_takes_a_longer_ones_place_does_not_look_cut_off() {
        let mut site = site(Vec::new());
        let (open, header) = (every_other_block(), header(7, SESSION));
        let mut encoder = Encoder::new(&header);
        let file = create_log(&site.folder, &header).unwrap();
        let mut end = changes::HEADER as u64;
        for block in (0..BLOCKS).step_by(2) {
            let load = |word: usize| if word == block as usize / 64 { 1 << (block % 64) } else { 0 };
            (end, _) = append_map(&file, &mut encoder, end, true, BLOCKS, load).unwrap();
        }
        site.stop(&open, (header, encoder, end), true, false);
        let known = PendingLog { generation: Generation(7), session: SESSION, length: end, cut: None };
        let found = Words::private(bits::words_for(BLOCKS));
        let each = |blocks| {
            bits::set(&found, blocks);
        };
        let logs = read_logs(&site.folder, DISK, Generation(6), &[known], each);
        assert_eq!(logs.unwrap().bad, None);
        assert!((0..BLOCKS).all(|block| bits::get(&found, block) == bits::get(&open, block)));
    }

    /// S4, I2. Schedule: 1. writes went untracked, and a clean stop writes all of it to the log; 2. the mark is cleared, and the
    /// last meta can't be stored; 3. the end of the log is lost. The loss must be noticed.
    #[test]
    fn a_stop_says_how_long_the_log_is_before_it_clears_the_mark() {
        let mut site = site(Vec::new());
        let header = header(7, SESSION);
        create_log(&site.folder, &header).unwrap();
        let log = (header, Encoder::new(&header), changes::HEADER as u64);
        site.stop(&every_other_block(), log, false, true);
        let length = site.stored().clean.unwrap().log.length;
        assert!(length > changes::HEADER as u64);
        let log = PendingLog { generation: Generation(7), session: SESSION, length, cut: None };
        assert_eq!(*site.listed.borrow(), [log]);
    }
}
