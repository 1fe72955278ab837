//! A sidecar folder that loses what was not synced: content by sectors, names by the journal's order.

use super::fault::Faults;
use super::flat::SectorMap;
use super::rng::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
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

/// Some sectors of a write land.
fn put_some(data: &mut Vec<u8>, offset: usize, bytes: &[u8], share: u64, rng: &mut Rng) {
    let mut at = 0;
    while at < bytes.len() {
        let stop = (((offset + at) / SECTOR + 1) * SECTOR - offset).min(bytes.len());
        if rng.chance(share) {
            put(data, offset + at, &bytes[at..stop]);
        }
        at = stop;
    }
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

    /// The content of a file, without a fault.
    pub fn peek(&self, name: &str) -> Option<Vec<u8>> {
        let tree = self.tree.borrow();
        tree.names.get(name).map(|inode| tree.inodes[*inode].data.clone())
    }

    /// The names, without a fault.
    pub fn listing(&self) -> Vec<String> {
        self.tree.borrow().names.keys().cloned().collect()
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

    /// Whether a dead session's writes may still land.
    pub fn has_orphans(&self) -> bool {
        !self.tree.borrow().orphans.is_empty()
    }

    /// One of a dead session's writes lands, wholly or partly, or never.
    pub fn land_orphan(&self, rng: &mut Rng) {
        let mut tree = self.tree.borrow_mut();
        if tree.orphans.is_empty() {
            return;
        }
        let at = rng.index(tree.orphans.len());
        let (inode, offset, bytes) = tree.orphans.swap_remove(at);
        let share = *[0, 1000, 500].get(rng.index(3)).expect("below 3");
        let inode = &mut tree.inodes[inode];
        put_some(&mut inode.data, offset, &bytes, share, rng);
        inode.unsynced.push(Unsynced { offset, bytes, doomed: false });
    }

    /// The host died.
    pub fn host_crash(&self, rng: &mut Rng) {
        while self.has_orphans() {
            self.land_orphan(rng);
        }
        let mut tree = self.tree.borrow_mut();
        for inode in &mut tree.inodes {
            for write in std::mem::take(&mut inode.unsynced) {
                put_some(&mut inode.durable, write.offset, &write.bytes, 500, rng);
            }
            inode.data = inode.durable.clone();
            inode.preserved.clear();
        }
        let journal = std::mem::take(&mut tree.journal);
        if rng.chance(750) {
            // An ordered journal: a prefix.
            let kept = rng.index(journal.len() + 1);
            journal[..kept].iter().for_each(|op| apply(&mut tree.durable, op));
        } else {
            // No order between names: once an operation on a name is lost, so are all later ones on it.
            let mut lost = BTreeSet::new();
            for op in &journal {
                let touched: Vec<&String> = match op {
                    NameOp::Set(name, _) | NameOp::Remove(name) => vec![name],
                    NameOp::Rename(from, to) => vec![from, to],
                };
                if touched.iter().any(|name| lost.contains(*name)) || rng.chance(300) {
                    lost.extend(touched.into_iter().cloned());
                } else {
                    apply(&mut tree.durable, op);
                }
            }
        }
        tree.names = tree.durable.clone();
    }
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
        put_some(&mut landed, offset as usize, bytes, 500, rng);
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
            let inode = &mut self.tree.borrow_mut().inodes[self.inode];
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
