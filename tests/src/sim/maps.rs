//! Maps that live as long as the host.

use super::fault::{Crashed, Faults};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use towline_tracker::map::Words;
use towline_tracker::sidecar::maps::Maps;

/// The tmpfs. A new file or name is a step, before and behind it.
#[derive(Clone, Debug)]
pub struct SimMaps {
    faults: Faults,
    files: Rc<RefCell<BTreeMap<String, Words>>>,
    /// Those that have all their memory.
    reserved: Rc<RefCell<BTreeSet<String>>>,
    asked: Rc<Cell<u32>>,
}

/// Every so many times there is no memory.
const FULL_EVERY: u32 = 11;

impl SimMaps {
    /// Nothing is there yet.
    pub fn new(faults: Faults) -> Self {
        Self { faults, files: Rc::default(), reserved: Rc::default(), asked: Rc::default() }
    }

    fn step(&self) {
        if self.faults.step() {
            std::panic::resume_unwind(Box::new(Crashed));
        }
    }

    /// The host died, or somebody deleted the files.
    pub fn wipe(&self) {
        self.files.borrow_mut().clear();
        self.reserved.borrow_mut().clear();
    }

    /// A copy of all that is there now.
    pub fn copy(&self) -> Self {
        let copy = |words: &Words| {
            let copy = Words::private(words.len());
            copy.iter().zip(words.iter()).for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
            copy
        };
        let all = self.files.borrow().iter().map(|(name, words)| (name.clone(), copy(words))).collect();
        Self {
            faults: self.faults.clone(),
            files: Rc::new(RefCell::new(all)),
            reserved: Rc::new(RefCell::new(self.reserved.borrow().clone())),
            asked: Rc::default(),
        }
    }

    /// These are there now, and nothing else.
    pub fn replace(&self, by: &Self) {
        *self.files.borrow_mut() = by.files.borrow().clone();
        *self.reserved.borrow_mut() = by.reserved.borrow().clone();
    }

    /// These are there now, and those are the other's.
    pub fn swap(&self, other: &Self) {
        self.files.swap(&other.files);
        self.reserved.swap(&other.reserved);
    }

    /// Words for reading (R1).
    pub fn get(&self, name: &str) -> Option<Words> {
        self.files.borrow().get(name).cloned()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.files.borrow().len()
    }

    /// Their names.
    pub fn listing(&self) -> Vec<String> {
        self.files.borrow().keys().cloned().collect()
    }

    /// Whether it has all its memory.
    pub fn is_reserved(&self, name: &str) -> bool {
        self.reserved.borrow().contains(name)
    }
}

impl Maps for SimMaps {
    fn create(&self, name: &str, words: usize, _dense: bool) -> io::Result<Words> {
        let map = Words::private(words);
        self.step();
        self.files.borrow_mut().insert(name.to_string(), map.clone());
        self.reserved.borrow_mut().remove(name);
        self.step();
        Ok(map)
    }

    fn reserve(&self, name: &str) -> io::Result<()> {
        self.asked.set(self.asked.get() + 1);
        if self.asked.get().is_multiple_of(FULL_EVERY) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.reserved.borrow_mut().insert(name.to_string());
        Ok(())
    }

    fn open(&self, name: &str, words: usize, _dense: bool) -> io::Result<Words> {
        self.get(name).filter(|map| map.len() == words).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step();
        let words = self.files.borrow_mut().remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files.borrow_mut().insert(to.to_string(), words);
        self.step();
        Ok(())
    }

    fn remove(&self, name: &str) {
        self.files.borrow_mut().remove(name);
    }

    fn names(&self) -> Vec<String> {
        self.files.borrow().keys().cloned().collect()
    }
}
