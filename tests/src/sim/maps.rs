//! Maps that live as long as the host.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use towline_tracker::map::Words;
use towline_tracker::sidecar::maps::Maps;

/// The tmpfs.
#[derive(Clone, Debug, Default)]
pub struct SimMaps(Rc<RefCell<BTreeMap<String, Words>>>);

impl SimMaps {
    /// The host died, or somebody deleted the files.
    pub fn wipe(&self) {
        self.0.borrow_mut().clear();
    }

    /// A copy of all that is there now.
    pub fn copy(&self) -> Self {
        let copy = |words: &Words| {
            let copy = Words::private(words.len());
            copy.iter().zip(words.iter()).for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
            copy
        };
        let all = self.0.borrow().iter().map(|(name, words)| (name.clone(), copy(words))).collect();
        Self(Rc::new(RefCell::new(all)))
    }

    /// These are there now, and nothing else.
    pub fn replace(&self, by: &Self) {
        *self.0.borrow_mut() = by.0.borrow().clone();
    }

    /// Words for reading (R1).
    pub fn get(&self, name: &str) -> Option<Words> {
        self.0.borrow().get(name).cloned()
    }
}

impl Maps for SimMaps {
    fn create(&self, name: &str, words: usize, _dense: bool) -> io::Result<Words> {
        let map = Words::private(words);
        self.0.borrow_mut().insert(name.to_string(), map.clone());
        Ok(map)
    }

    fn open(&self, name: &str, words: usize, _dense: bool) -> io::Result<Words> {
        self.get(name).filter(|map| map.len() == words).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove(&self, name: &str) {
        self.0.borrow_mut().remove(name);
    }

    fn names(&self) -> Vec<String> {
        self.0.borrow().keys().cloned().collect()
    }
}
