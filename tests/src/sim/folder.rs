//! A sidecar folder that loses what was not synced: content by sectors, names by the journal's order.

use super::counts::Happened;
use super::fault::Faults;
use super::flat::SectorMap;
use super::leaves::Fate;
use super::powercut::{Piece, PowerCut};
use super::rng::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use towline_tracker::sidecar::folder::{Folder, FolderFile};

const SECTOR: usize = 512;

/// Bytes that were written and not synced.
#[derive(Clone, Debug)]
struct Unsynced {
    offset: usize,
    bytes: Vec<u8>,
    /// A failed sync lost it.
    doomed: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What a read gives.
    data: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Preserved sectors: never synced.
    preserved: SectorMap,
}

fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if data.len() < offset + bytes.len() {
        data.resize(offset + bytes.len(), 0);
    }
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Some sectors of a write land: which parts of it, and whether.
fn put_some(
    data: &mut Vec<u8>,
    offset: usize,
    bytes: &[u8],
    share: u64,
    fate: &mut Fate,
) -> Vec<(Range<usize>, bool)> {
    let (mut at, mut parts) = (0, Vec::new());
    while at < bytes.len() {
        let stop = (((offset + at) / SECTOR + 1) * SECTOR - offset).min(bytes.len());
        let lands = fate.lands(share);
        if lands {
            put(data, offset + at, &bytes[at..stop]);
        }
        parts.push((at..stop, lands));
        at = stop;
    }
    parts
}

/// Whether a start reads a file of this name: preserved data is never believed after a crash of the host, and what has a
/// temporary name never.
fn is_read(name: &str) -> bool {
    [".meta", ".intents", ".changes"].iter().any(|end| name.ends_with(end))
}

#[derive(Clone, Debug)]
enum NameOp {
    Set(String, usize),
    Rename(String, String),
    Remove(String),
}

fn apply(names: &mut BTreeMap<String, usize>, op: &NameOp) {
    match op {
        NameOp::Set(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameOp::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        NameOp::Remove(name) => {
            names.remove(name);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Tree {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    journal: Vec<NameOp>,
    /// Writes of a dead session that may still land: inode, offset, bytes.
    orphans: Vec<(usize, usize, Vec<u8>)>,
    low: bool,
    /// Changes of names and files so far.
    changes: u64,
}

impl Tree {
    /// The files that a start finds.
    fn found(&self) -> BTreeSet<usize> {
        self.names.iter().filter(|(name, _)| is_read(name)).map(|(_, inode)| *inode).collect()
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub struct SimFolder {
    tree: Rc<RefCell<Tree>>,
    faults: Faults,
}

/// An open file of it.
#[derive(Clone, Debug)]
pub struct SimFile {
    tree: Rc<RefCell<Tree>>,
    faults: Faults,
    inode: usize,
}

impl SimFolder {
    /// An empty folder.
    pub fn new(faults: Faults) -> Self {
        Self { tree: Rc::default(), faults }
    }

    /// A folder of its own with the same files.
    pub fn copy(&self, faults: Faults) -> Self {
        Self { tree: Rc::new(RefCell::new(self.tree.borrow().clone())), faults }
    }

    /// Whether its file system is nearly full.
    pub fn set_low(&self, low: bool) {
        self.tree.borrow_mut().low = low;
    }

    /// How often a name or a file was changed by a call.
    pub fn changes(&self) -> u64 {
        self.tree.borrow().changes
    }

    /// The content of a file, without a fault.
    pub fn peek(&self, name: &str) -> Option<Vec<u8>> {
        let tree = self.tree.borrow();
        tree.names.get(name).map(|inode| tree.inodes[*inode].data.clone())
    }

    /// The names, without a fault.
    pub fn listing(&self) -> Vec<String> {
        self.tree.borrow().names.keys().cloned().collect()
    }

    /// Of each file: name, bytes, preserved sectors.
    pub fn sizes(&self) -> Vec<(String, u64, u64)> {
        let tree = self.tree.borrow();
        let of = |inode: usize| {
            (tree.inodes[inode].data.len() as u64, tree.inodes[inode].preserved.iter().count() as u64)
        };
        let names = tree.names.iter().map(|(name, inode)| (name.clone(), of(*inode)));
        names.map(|(name, (bytes, preserved))| (name, bytes, preserved)).collect()
    }

    /// Opens without a fault.
    pub fn file(&self, name: &str) -> Option<SimFile> {
        let inode = *self.tree.borrow().names.get(name)?;
        Some(SimFile { tree: self.tree.clone(), faults: self.faults.clone(), inode })
    }

    /// Deletes everything: somebody removed the sidecar.
    pub fn wipe(&self) {
        let mut tree = self.tree.borrow_mut();
        tree.names.clear();
        tree.durable.clear();
        tree.journal.clear();
    }

    /// Somebody deletes a file, or cuts it off; durably.
    pub fn damage(&self, name: &str, length: Option<usize>) {
        let mut tree = self.tree.borrow_mut();
        let Some(inode) = tree.names.get(name).copied() else { return };
        match length {
            None => drop(tree.names.remove(name)),
            Some(length) => {
                let inode = &mut tree.inodes[inode];
                for write in std::mem::take(&mut inode.unsynced) {
                    put(&mut inode.durable, write.offset, &write.bytes);
                }
                inode.data.truncate(length);
                inode.durable.truncate(length);
            }
        }
        tree.journal.clear();
        tree.durable = tree.names.clone();
    }

    /// A byte of a file is another from now on.
    pub fn flip(&self, name: &str, at: usize, bits: u8) {
        let mut tree = self.tree.borrow_mut();
        let Some(inode) = tree.names.get(name).copied() else { return };
        let Inode { data, durable, unsynced, .. } = &mut tree.inodes[inode];
        for write in std::mem::take(unsynced) {
            put(durable, write.offset, &write.bytes);
        }
        for bytes in [data, durable] {
            bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= bits);
        }
    }

    /// Somebody writes a file anew, durably.
    pub fn overwrite(&self, name: &str, bytes: Vec<u8>) {
        self.damage(name, Some(0));
        if let Some(file) = self.file(name) {
            file.persist(0, &bytes);
        }
    }

    /// Whether a dead session's writes may still land.
    pub fn has_orphans(&self) -> bool {
        !self.tree.borrow().orphans.is_empty()
    }

    /// One of a dead session's writes lands, wholly or partly, or never. It matters if a start finds the file, and other
    /// bytes in it.
    pub fn land_orphan(&self, fate: &mut Fate) -> Happened {
        let mut tree = self.tree.borrow_mut();
        if tree.orphans.is_empty() {
            return Happened::new();
        }
        let at = fate.dice().index(tree.orphans.len());
        let (number, offset, bytes) = tree.orphans.swap_remove(at);
        let share = fate.share();
        let found = tree.found().contains(&number);
        let inode = &mut tree.inodes[number];
        let stop = offset + bytes.len();
        let part = |data: &Vec<u8>| data.get(offset..stop.min(data.len())).map(<[u8]>::to_vec);
        let before = (inode.data.len(), part(&inode.data));
        put_some(&mut inode.data, offset, &bytes, share, fate);
        let changed = before != (inode.data.len(), part(&inode.data));
        inode.unsynced.push(Unsynced { offset, bytes, doomed: false });
        vec![("orphaned sidecar writes", found && changed)]
    }

    /// The host died. What it lost matters in files that a start finds, before or after.
    pub fn host_crash(&self, fate: &mut Fate) -> Happened {
        let mut happened = Happened::new();
        while self.has_orphans() {
            happened.append(&mut self.land_orphan(fate));
        }
        let mut tree = self.tree.borrow_mut();
        let mut cut = PowerCut::default();
        let found = tree.found();
        let mut order = 0;
        for (number, inode) in tree.inodes.iter_mut().enumerate() {
            let unsynced = std::mem::take(&mut inode.unsynced);
            let before = if unsynced.is_empty() { Vec::new() } else { inode.durable.clone() };
            let mut parts = Vec::new();
            for write in &unsynced {
                parts.push(put_some(&mut inode.durable, write.offset, &write.bytes, 500, fate));
            }
            for (write, parts) in unsynced.iter().zip(parts) {
                order += 1;
                for (part, survived) in parts {
                    let place = write.offset + part.start..write.offset + part.end;
                    let is = |data: &Vec<u8>| data.get(place.clone()) == Some(&write.bytes[part.clone()]);
                    let shows = match survived {
                        true => is(&inode.durable) && !is(&before),
                        false => is(&inode.data) && !is(&inode.durable),
                    };
                    let shows = shows && found.contains(&number);
                    cut.add(Piece { write: order, order, survived, shows });
                }
            }
            inode.data = inode.durable.clone();
            inode.preserved.clear();
        }
        happened.extend(cut.faults([
            "power cut: a sidecar's writes lost",
            "power cut: a sidecar's writes torn",
            "power cut: a sidecar's writes reordered",
        ]));
        let before = std::mem::take(&mut tree.names);
        let journal = std::mem::take(&mut tree.journal);
        let mut kept = Vec::new();
        if fate.dice().chance(750) {
            // An ordered journal: a prefix.
            let count = fate.first(journal.len());
            journal[..count].iter().for_each(|op| apply(&mut tree.durable, op));
            kept = (0..journal.len()).map(|at| at < count).collect();
        } else {
            // No order between names: once an operation on a name is lost, so are all later ones on it.
            let mut lost = BTreeSet::new();
            for op in &journal {
                let touched: Vec<&String> = match op {
                    NameOp::Set(name, _) | NameOp::Remove(name) => vec![name],
                    NameOp::Rename(from, to) => vec![from, to],
                };
                let lose = touched.iter().any(|name| lost.contains(*name)) || !fate.lands(700);
                kept.push(!lose);
                if lose {
                    lost.extend(touched.into_iter().cloned());
                } else {
                    apply(&mut tree.durable, op);
                }
            }
        }
        tree.names = tree.durable.clone();
        happened.extend(names_lost(&journal, &kept, &before, &tree.names));
        happened
    }
}

/// Which operations on names a power cut has taken back. Each kind matters if a start finds another file, or none, where it
/// would have found one, or one that was gone; their order if it shows on both sides.
fn names_lost(
    journal: &[NameOp],
    kept: &[bool],
    before: &BTreeMap<String, usize>,
    now: &BTreeMap<String, usize>,
) -> Happened {
    let differs = |name: &String| is_read(name) && before.get(name) != now.get(name);
    let (mut kinds, mut cut) = (BTreeMap::<&'static str, bool>::new(), PowerCut::default());
    for (order, (op, survived)) in journal.iter().zip(kept).enumerate() {
        let (kind, name) = match op {
            NameOp::Set(name, _) => ("power cut: a created name lost", name),
            NameOp::Rename(_, to) => ("power cut: a renamed file under its old name", to),
            NameOp::Remove(name) => ("power cut: a removed name back", name),
        };
        let order = order as u64;
        let shows = if *survived { is_read(name) && !differs(name) } else { differs(name) };
        cut.add(Piece { write: order, order, survived: *survived, shows });
        if !survived {
            *kinds.entry(kind).or_default() |= shows;
        }
    }
    let mut happened: Happened = kinds.into_iter().collect();
    let order = cut.faults(["", "", "power cut: names reordered"]);
    happened.extend(order.into_iter().filter(|(name, _)| !name.is_empty()));
    happened
}

impl SimFile {
    /// A durable write that is complete: it and the file's size are durable.
    pub fn persist(&self, offset: u64, bytes: &[u8]) {
        let inode = &mut self.tree.borrow_mut().inodes[self.inode];
        put(&mut inode.data, offset as usize, bytes);
        put(&mut inode.durable, offset as usize, bytes);
    }

    /// A write that failed, or is in flight: some of it lands, and none of it is durable for certain.
    pub fn persist_some(&self, offset: u64, bytes: &[u8], rng: &mut Rng) {
        let inode = &mut self.tree.borrow_mut().inodes[self.inode];
        let mut landed = inode.data.clone();
        put_some(&mut landed, offset as usize, bytes, 500, &mut Fate::draw(rng));
        if landed.len() > offset as usize {
            let stop = landed.len().min(offset as usize + bytes.len());
            let part = landed[offset as usize..stop].to_vec();
            inode.unsynced.push(Unsynced { offset: offset as usize, bytes: part, doomed: false });
        }
        inode.data = landed;
    }

    /// The process died with this write in flight.
    pub fn orphan(&self, offset: u64, bytes: Vec<u8>) {
        self.tree.borrow_mut().orphans.push((self.inode, offset as usize, bytes));
    }

    /// Copies sectors of the disk into the store's cache.
    pub fn preserve(&self, first: usize, values: &[u64]) {
        let inode = &mut self.tree.borrow_mut().inodes[self.inode];
        for (index, value) in values.iter().enumerate() {
            inode.preserved.insert(first + index, *value);
        }
    }

    /// A preserved sector; 0 where nothing was copied.
    pub fn preserved(&self, sector: usize) -> u64 {
        self.tree.borrow().inodes[self.inode].preserved.get(sector).unwrap_or(0)
    }
}

impl FolderFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let write = |length: usize| {
            let mut tree = self.tree.borrow_mut();
            tree.changes += 1;
            let inode = &mut tree.inodes[self.inode];
            put(&mut inode.data, offset as usize, &bytes[..length]);
            let unsynced =
                Unsynced { offset: offset as usize, bytes: bytes[..length].to_vec(), doomed: false };
            inode.unsynced.push(unsynced);
        };
        let part = |part: u64| bytes.len() * part as usize / 1000;
        self.faults.call(|share| write(part(share))).inspect_err(|_| write(bytes.len() / 2))?;
        write(bytes.len());
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let failed = self.faults.call(|_| ());
        let inode = &mut self.tree.borrow_mut().inodes[self.inode];
        if let Err(error) = failed {
            inode.unsynced.iter_mut().for_each(|write| write.doomed = true);
            return Err(error);
        }
        for write in std::mem::take(&mut inode.unsynced) {
            if write.doomed {
                inode.unsynced.push(write);
            } else {
                put(&mut inode.durable, write.offset, &write.bytes);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.faults.call(|_| ())?;
        // Of stores only: what is cut off is gone, what comes in its place is nothing.
        if length == 0 {
            self.tree.borrow_mut().inodes[self.inode].preserved.clear();
        }
        Ok(())
    }
}

impl SimFolder {
    fn change(&self, op: NameOp) {
        let mut tree = self.tree.borrow_mut();
        apply(&mut tree.names, &op);
        tree.changes += 1;
        tree.journal.push(op);
    }
}

impl Folder for SimFolder {
    type File = SimFile;

    fn create(&self, name: &str) -> io::Result<SimFile> {
        self.remove(name)?;
        self.faults.call(|_| ())?;
        let inode = {
            let mut tree = self.tree.borrow_mut();
            tree.inodes.push(Inode::default());
            tree.inodes.len() - 1
        };
        self.change(NameOp::Set(name.to_string(), inode));
        Ok(SimFile { tree: self.tree.clone(), faults: self.faults.clone(), inode })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        self.faults.call(|_| ())?;
        self.file(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn reader(&self, name: &str) -> io::Result<impl io::Read> {
        self.faults.call(|_| ())?;
        self.peek(name).map(io::Cursor::new).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.faults.call(|_| ())?;
        Ok(self.listing())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.faults.call(|_| ())?;
        self.change(NameOp::Rename(from.to_string(), to.to_string()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.tree.borrow().names.contains_key(name) {
            return Ok(());
        }
        self.faults.call(|_| ())?;
        self.change(NameOp::Remove(name.to_string()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.call(|_| ())?;
        let mut tree = self.tree.borrow_mut();
        tree.journal.clear();
        tree.durable = tree.names.clone();
        Ok(())
    }

    fn low_on_space(&self) -> bool {
        self.tree.borrow().low
    }
}
