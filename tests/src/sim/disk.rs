//! A disk with a volatile cache: what was written, what may be lost, what may still land.

use super::counts::Happened;
use super::fault::Faults;
use super::flat::SectorSet;
use super::leaves::Fate;
use super::powercut::{Piece, PowerCut};
use super::rng::Rng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use towline_tracker::format::meta::{Fingerprint, Mark};
use towline_tracker::sidecar::jobs::DiskFacts;

/// Bytes of a sector: what lands or not as a whole.
pub const SECTOR: u64 = 512;

/// One value that landed in the cache and may not be durable.
#[derive(Clone, Debug)]
struct Landed {
    seq: u64,
    write: u64,
    value: u64,
    /// Its write is not complete: a sync that begins now promises nothing for it.
    flying: bool,
    /// A failed sync lost it: no later sync makes it durable.
    doomed: bool,
}

#[derive(Clone, Debug, Default)]
struct Sector {
    durable: u64,
    durable_seq: u64,
    unsynced: Vec<Landed>,
}

/// A write that has been submitted, or one that failed and may still land.
#[derive(Clone, Debug)]
struct Flying {
    value: u64,
    /// Sectors that have not landed.
    rest: Vec<usize>,
    all: Range<usize>,
    ghost: bool,
}

/// What a sync promises when it succeeds.
#[derive(Clone, Debug)]
pub struct SyncPromise {
    sectors: Vec<(usize, u64)>,
    /// What the inode says, if it is synced too.
    inode: Option<(i128, Option<Mark>)>,
}

/// How a disk is sick, until it is well again.
#[derive(Clone, Copy, Debug)]
pub struct Sick {
    /// The error of every write.
    pub writes: Option<i32>,
    /// Every sync fails.
    pub syncs: bool,
}

/// The disk.
#[derive(Clone, Debug)]
pub struct Disk {
    sectors: Vec<Sector>,
    dirty: SectorSet,
    flying: BTreeMap<u64, Flying>,
    seq: u64,
    next: u64,
    /// Nanoseconds since 1970, kept by the world.
    pub wall: i128,
    inode: u64,
    times: i128,
    times_durable: i128,
    mark: Option<Mark>,
    mark_durable: Option<Mark>,
    /// A sync has failed in this boot: who was told knows, and nobody else.
    pub failed: bool,
    /// A later one was good all the same, over what that one lost.
    lied: bool,
    /// Errors that stay.
    pub sick: Option<Sick>,
    /// Pages that buffered readers have met beside a direct writer (W7): nobody drops them.
    pages: BTreeMap<usize, u64>,
}

impl Disk {
    /// A disk of this many sectors, some of which hold something.
    pub fn new(sectors: usize, wall: i128, rng: &mut Rng) -> Self {
        let mut all = vec![Sector::default(); sectors];
        for sector in &mut all {
            if rng.chance(500) {
                sector.durable = 1 << 40 | rng.below(1 << 20);
            }
        }
        Self {
            sectors: all,
            dirty: SectorSet::default(),
            flying: BTreeMap::new(),
            seq: 0,
            next: 0,
            wall,
            inode: 7,
            times: wall,
            times_durable: wall,
            mark: None,
            mark_durable: None,
            failed: false,
            lied: false,
            sick: None,
            pages: BTreeMap::new(),
        }
    }

    /// Sectors.
    pub fn sectors(&self) -> usize {
        self.sectors.len()
    }

    /// What a read gives now.
    pub fn read(&self, sector: usize) -> u64 {
        let sector = &self.sectors[sector];
        sector.unsynced.last().map_or(sector.durable, |landed| landed.value)
    }

    /// What a read through the page cache gives beside a direct writer: what it gave before (W7).
    pub fn read_buffered(&mut self, sector: usize) -> u64 {
        let now = self.read(sector);
        *self.pages.entry(sector).or_insert(now)
    }

    /// What reads give now, of all sectors.
    pub fn image(&self) -> Vec<u64> {
        (0..self.sectors.len()).map(|sector| self.read(sector)).collect()
    }

    /// The number of the newest value in a sector's cache whose write is complete.
    pub fn newest(&self, sector: usize) -> u64 {
        let sector = &self.sectors[sector];
        let newest = sector.unsynced.iter().rfind(|landed| !landed.flying);
        newest.map_or(sector.durable_seq, |landed| landed.seq)
    }

    /// The number of the newest value that no crash takes back.
    pub fn durable(&self, sector: usize) -> u64 {
        self.sectors[sector].durable_seq
    }

    /// Whether a power cut may take back the value of this number, although no sync of it has failed.
    pub fn is_volatile(&self, sector: usize, number: u64) -> bool {
        self.sectors[sector].unsynced.iter().any(|landed| landed.seq == number && !landed.doomed)
    }

    /// Sectors with the values that may still land there.
    pub fn may_land(&self) -> impl Iterator<Item = (usize, u64)> {
        self.flying.values().flat_map(|write| write.rest.iter().map(|sector| (*sector, write.value)))
    }

    /// A write is handed over. Gives its name.
    pub fn submit(&mut self, range: Range<usize>, value: u64) -> u64 {
        self.next += 1;
        let write = Flying { value, rest: range.clone().collect(), all: range, ghost: false };
        self.flying.insert(self.next, write);
        self.next
    }

    fn land(&mut self, name: u64, sector: usize, value: u64, flying: bool) {
        self.seq += 1;
        let landed = Landed { seq: self.seq, write: name, value, flying, doomed: false };
        self.sectors[sector].unsynced.push(landed);
        self.dirty.insert(sector);
        self.times = self.wall;
    }

    /// Some sectors of a write land. Whether the disk reads otherwise since.
    pub fn land_some(&mut self, name: u64, rng: &mut Rng) -> bool {
        let Some(write) = self.flying.get_mut(&name) else { return false };
        let (value, ghost) = (write.value, write.ghost);
        let mut landing = Vec::new();
        write.rest.retain(|sector| {
            let lands = rng.chance(500);
            if lands {
                landing.push(*sector);
            }
            !lands
        });
        if ghost && write.rest.is_empty() {
            self.flying.remove(&name);
        }
        let (mut changed, times) = (false, self.times);
        for sector in landing {
            changed |= self.read(sector) != value;
            self.land(name, sector, value, !ghost);
        }
        // The file system knows of no ghost.
        if ghost {
            self.times = times;
        }
        changed
    }

    fn settle(&mut self, name: u64, all: Range<usize>) {
        for sector in all {
            // It lands in a sector once.
            let mut landed = self.sectors[sector].unsynced.iter_mut();
            if let Some(landed) = landed.rfind(|landed| landed.write == name) {
                landed.flying = false;
            }
        }
    }

    /// A write ends well.
    pub fn complete(&mut self, name: u64) {
        let write = self.flying.remove(&name).expect("a write ends once");
        for sector in write.rest {
            self.land(name, sector, write.value, true);
        }
        self.settle(name, write.all);
    }

    /// A write ends with an error: some of it has landed, and perhaps the rest will, later.
    pub fn fail(&mut self, name: u64, ghost: bool, rng: &mut Rng) {
        self.land_some(name, rng);
        let all = self.flying[&name].all.clone();
        self.settle(name, all);
        if ghost && !self.flying[&name].rest.is_empty() {
            self.flying.get_mut(&name).expect("just seen").ghost = true;
        } else {
            self.flying.remove(&name);
        }
    }

    /// Whether a write that failed may still land.
    pub fn has_ghosts(&self) -> bool {
        self.flying.values().any(|write| write.ghost)
    }

    /// Writes that failed and may still land.
    pub fn ghosts(&self) -> Vec<u64> {
        self.flying.iter().filter(|(_, write)| write.ghost).map(|(name, _)| *name).collect()
    }

    /// Nothing of what failed may land any more.
    pub fn drop_ghosts(&mut self) {
        self.flying.retain(|_, write| !write.ghost);
    }

    /// A sync is handed over, with the inode or without.
    pub fn sync_begins(&self, inode: bool) -> SyncPromise {
        let inode = inode.then_some((self.times, self.mark));
        SyncPromise { sectors: self.landed(self.dirty.iter()), inode }
    }

    /// A durable write is handed over: a sync of its sectors only.
    pub fn sync_of(&self, range: Range<usize>) -> SyncPromise {
        SyncPromise { sectors: self.landed(range), inode: None }
    }

    /// Of these sectors those with something that is not synced, and the number of the newest that is complete.
    fn landed(&self, sectors: impl Iterator<Item = usize>) -> Vec<(usize, u64)> {
        let last = |sector: usize| {
            let newest = self.sectors[sector].unsynced.iter().rfind(|landed| !landed.flying);
            newest.map(|landed| (sector, landed.seq))
        };
        sectors.filter_map(last).collect()
    }

    /// A sync ends. A good one ends what failed writes could still do where a later one is now durable.
    pub fn sync_ends(&mut self, promise: SyncPromise, good: bool, rng: &mut Rng) {
        self.failed |= !good;
        if good && let Some((times, mark)) = promise.inode {
            (self.times_durable, self.mark_durable) = (times, mark);
        }
        for (index, seq) in promise.sectors {
            let sector = &mut self.sectors[index];
            if !good {
                if rng.chance(500) {
                    sector
                        .unsynced
                        .iter_mut()
                        .filter(|landed| landed.seq <= seq)
                        .for_each(|one| one.doomed = true);
                }
                continue;
            }
            self.lied |= sector.unsynced.iter().any(|landed| landed.seq <= seq && landed.doomed);
            let synced = |landed: &&Landed| landed.seq <= seq && !landed.doomed && !landed.flying;
            let kept = sector.unsynced.iter().rfind(synced);
            // A ghost may have landed over it: what succeeded was synced all the same.
            let newest = sector.unsynced.iter().filter(synced).map(|landed| landed.write).max();
            if let (Some(kept), Some(newest)) = (kept.cloned(), newest) {
                sector.durable = kept.value;
                sector.durable_seq = kept.seq;
                sector.unsynced.retain(|landed| landed.seq > kept.seq);
                // W5: a later write that succeeded and was synced ends the ghosts of earlier ones.
                for (name, write) in &mut self.flying {
                    if write.ghost && *name < newest {
                        write.rest.retain(|sector| *sector != index);
                    }
                }
            }
            if sector.unsynced.is_empty() {
                self.dirty.remove(index);
            }
        }
        self.flying.retain(|_, write| !write.ghost || !write.rest.is_empty());
    }

    /// Buffered mode after a sync error: the pages are clean and lost, reads give what the platter has. Whether they give
    /// something else than before.
    pub fn drop_cache(&mut self) -> bool {
        let mut changed = false;
        for index in self.dirty.clone().iter() {
            let before = self.read(index);
            let sector = &mut self.sectors[index];
            sector.unsynced.retain(|landed| !landed.doomed);
            if sector.unsynced.is_empty() {
                self.dirty.remove(index);
            }
            changed |= self.read(index) != before;
        }
        changed
    }

    /// The process died: what is in flight lands wholly, partly or not, before the lock is free. The cache lives.
    pub fn process_crash(&mut self, fate: &mut Fate) -> Happened {
        let mut happened = Happened::new();
        for (name, write) in std::mem::take(&mut self.flying) {
            let (all, count) = (write.all.clone(), write.all.len());
            let (share, times) = (fate.share(), self.times);
            for sector in write.rest {
                if fate.lands(share) {
                    self.land(name, sector, write.value, false);
                }
            }
            // The file system knows of no ghost.
            if write.ghost {
                self.times = times;
            }
            self.settle(name, write.all);
            // Neither what was there nor what was written.
            let landed = all.filter(|sector| self.read(*sector) == write.value).count();
            happened.push(("crash: a disk's write in flight", 0 < landed && landed < count));
        }
        happened
    }

    /// The host died: of what is not durable any subset survives, sector by sector.
    pub fn host_crash(&mut self, fate: &mut Fate) -> Happened {
        let mut happened = self.process_crash(fate);
        let (mut cut, mut doomed) = (PowerCut::default(), false);
        self.pages.clear();
        for index in std::mem::take(&mut self.dirty).iter() {
            let sector = &mut self.sectors[index];
            let choice = fate.first(sector.unsynced.len());
            let before = sector.durable;
            if choice > 0 {
                sector.durable = sector.unsynced[choice - 1].value;
            }
            for (at, landed) in sector.unsynced.iter().enumerate() {
                let (survived, found) = (at < choice, landed.value == sector.durable);
                let shows = match survived {
                    true => at + 1 == choice && before != landed.value,
                    false => at + 1 == sector.unsynced.len() && !found,
                };
                doomed |= shows && landed.doomed && !survived;
                cut.add(Piece { write: landed.write, order: landed.seq, survived, shows });
            }
            self.seq += 1;
            sector.durable_seq = self.seq;
            sector.unsynced.clear();
        }
        if !fate.lands(500) {
            (self.times, self.mark) = (self.times_durable, self.mark_durable);
        }
        (self.times_durable, self.mark_durable) = (self.times, self.mark);
        if std::mem::take(&mut self.lied) {
            happened.push(("a good sync over what a failed one lost", doomed));
        }
        self.failed = false;
        happened.extend(cut.faults([
            "power cut: a disk's writes lost",
            "power cut: a disk's writes torn",
            "power cut: a disk's writes reordered",
        ]));
        happened
    }

    /// Somebody makes it larger or smaller while no tracker runs, for good. What is new is zeros.
    pub fn resize(&mut self, sectors: usize) {
        self.flying.clear();
        self.sectors.resize(sectors, Sector::default());
        self.dirty.truncate(sectors);
        self.times = self.wall;
        self.times_durable = self.times;
    }

    /// Somebody writes while no tracker runs.
    pub fn foreign_write(&mut self, sector: usize, value: u64) {
        self.land(0, sector, value, false);
    }
}

/// What the sidecar sees of a disk.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The disk.
    pub disk: Rc<RefCell<Disk>>,
    /// Where crashes and errors come from.
    pub faults: Faults,
    /// Draws what a failed sync loses.
    pub rng: Rc<RefCell<Rng>>,
}

impl DiskFacts for Facts {
    fn fingerprint(&self) -> io::Result<Fingerprint> {
        let disk = self.disk.borrow();
        Ok(Fingerprint {
            size: disk.sectors.len() as u64 * SECTOR,
            inode: disk.inode,
            birth_ns: 5,
            mtime_ns: disk.times,
            ctime_ns: disk.times,
        })
    }

    fn fsync(&self) -> io::Result<()> {
        let promise = self.disk.borrow().sync_begins(true);
        let sick = self.disk.borrow().sick.is_some_and(|sick| sick.syncs);
        let eio = || io::Error::from_raw_os_error(5);
        let called = self.faults.call(|_| ()).and_then(|()| if sick { Err(eio()) } else { Ok(()) });
        self.disk.borrow_mut().sync_ends(promise, called.is_ok(), &mut self.rng.borrow_mut());
        called
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.disk.borrow_mut().drop_cache();
        Ok(())
    }

    fn wall_ns(&self) -> i128 {
        self.disk.borrow().wall
    }

    fn mark(&self) -> io::Result<Option<Mark>> {
        Ok(self.disk.borrow().mark)
    }

    fn set_mark(&self, mark: &Mark) -> io::Result<bool> {
        let set = || {
            let mut disk = self.disk.borrow_mut();
            disk.mark = Some(*mark);
            disk.times = disk.wall;
        };
        self.faults.call(|part| {
            if part > 500 {
                set();
            }
        })?;
        set();
        Ok(false)
    }
}
