//! Objects in memory, for tests and the simulator, with the same contract as any store.

use super::{Listed, Put, Store, StoreError, StoreErrorKind, check_name};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

/// A store in memory. Clones share their objects.
#[derive(Clone, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<String, Arc<Vec<u8>>>>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store of its own with the same objects: what `cp -r` makes of a folder.
    pub fn copy(&self) -> Self {
        Self { objects: Arc::new(Mutex::new(self.lock().clone())) }
    }

    /// Replaces the bytes of an object, as no store does: for tests of damage.
    pub fn overwrite(&self, name: &str, data: Vec<u8>) {
        self.lock().insert(name.to_owned(), Arc::new(data));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vec<u8>>>> {
        self.objects.lock().expect("no thread panics with the lock")
    }

    fn object(&self, name: &str) -> Result<Arc<Vec<u8>>, StoreError> {
        check_name(name)?;
        self.lock().get(name).cloned().ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, name))
    }
}

impl Store for MemoryStore {
    fn url(&self) -> String {
        "memory:".to_owned()
    }

    fn put(&self, name: &str, data: &[u8]) -> Result<(), StoreError> {
        check_name(name)?;
        self.lock().insert(name.to_owned(), Arc::new(data.to_vec()));
        Ok(())
    }

    fn put_if_absent(&self, name: &str, data: &[u8]) -> Result<Put, StoreError> {
        check_name(name)?;
        match self.lock().entry(name.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => Ok(Put::AlreadyExists),
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(Arc::new(data.to_vec()));
                Ok(Put::Created)
            }
        }
    }

    fn get(&self, name: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        let object = self.object(name)?;
        if object.len() > limit {
            return Err(StoreError::new(StoreErrorKind::TooLarge, name));
        }
        Ok(object.to_vec())
    }

    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let object = self.object(name)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(object.len());
        let end = start.saturating_add(length).min(object.len());
        Ok(object[start..end].to_vec())
    }

    fn len(&self, name: &str) -> Result<u64, StoreError> {
        Ok(self.object(name)?.len() as u64)
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let objects = self.lock();
        let start = match after >= prefix {
            true => Bound::Excluded(after),
            false => Bound::Included(prefix),
        };
        Ok(objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .take(limit)
            .map(|(name, object)| Listed { name: name.clone(), length: object.len() as u64 })
            .collect())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        self.lock().remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_store_keeps_the_contract() {
        super::super::conformance::run(|| Box::new(MemoryStore::new()));
    }
}
