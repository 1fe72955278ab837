//! What a store was asked: requests by the classes that providers count, and bytes.
//!
//! | class | requests |
//! |---|---|
//! | put | PUT and POST of objects, conditional or not, and each page of a listing |
//! | get | GET, of a whole object or a part, and HEAD |
//! | delete | DELETE |
//!
//! Behind a network it is every request that was sent, the tries that failed and the looks after a lost answer among them, but
//! not those for credentials, which ask somebody else. Of a folder it is every call: what it would be elsewhere.

use super::{Listed, Put, Store, StoreError};
use serde::Serialize;
use std::ops::Sub;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A class of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Writes and listings.
    Put,
    /// Reads.
    Get,
    /// Deletes.
    Delete,
}

/// Counts.
#[derive(Debug, Default)]
pub struct Tally {
    puts: AtomicU64,
    gets: AtomicU64,
    deletes: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Requests of the class put.
    pub requests_put: u64,
    /// Of the class get.
    pub requests_get: u64,
    /// Of the class delete.
    pub requests_delete: u64,
    /// Bytes of the bodies that were sent.
    pub bytes_up: u64,
    /// Bytes of the bodies that were answered.
    pub bytes_down: u64,
}

impl Sub for Requests {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            requests_put: self.requests_put - before.requests_put,
            requests_get: self.requests_get - before.requests_get,
            requests_delete: self.requests_delete - before.requests_delete,
            bytes_up: self.bytes_up - before.bytes_up,
            bytes_down: self.bytes_down - before.bytes_down,
        }
    }
}

impl Tally {
    /// Counts a request.
    pub fn add(&self, class: Class, up: u64, down: u64) {
        let counter = match class {
            Class::Put => &self.puts,
            Class::Get => &self.gets,
            Class::Delete => &self.deletes,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.up.fetch_add(up, Ordering::Relaxed);
        self.down.fetch_add(down, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn so_far(&self) -> Requests {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            requests_put: get(&self.puts),
            requests_get: get(&self.gets),
            requests_delete: get(&self.deletes),
            bytes_up: get(&self.up),
            bytes_down: get(&self.down),
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let all = self.so_far();
        if all != Requests::default() {
            let Requests { requests_put, requests_get, requests_delete, bytes_up, bytes_down } = all;
            tracing::debug!(
                requests_put,
                requests_get,
                requests_delete,
                bytes_up,
                bytes_down,
                "asked in all"
            );
        }
    }
}

/// A store whose calls are counted, each as one request.
pub struct Counted {
    inner: Arc<dyn Store>,
    tally: Arc<Tally>,
}

impl Counted {
    /// Over `inner`.
    pub fn new(inner: Arc<dyn Store>, tally: Arc<Tally>) -> Self {
        Self { inner, tally }
    }

    fn read(&self, read: Result<Vec<u8>, StoreError>) -> Result<Vec<u8>, StoreError> {
        self.tally.add(Class::Get, 0, read.as_ref().map_or(0, |bytes| bytes.len() as u64));
        read
    }
}

impl Store for Counted {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn put(&self, name: &str, data: &[u8]) -> Result<(), StoreError> {
        self.tally.add(Class::Put, data.len() as u64, 0);
        self.inner.put(name, data)
    }

    fn put_if_absent(&self, name: &str, data: &[u8]) -> Result<Put, StoreError> {
        self.tally.add(Class::Put, data.len() as u64, 0);
        self.inner.put_if_absent(name, data)
    }

    fn get(&self, name: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        self.read(self.inner.get(name, limit))
    }

    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        self.read(self.inner.get_range(name, offset, length))
    }

    fn len(&self, name: &str) -> Result<u64, StoreError> {
        self.tally.add(Class::Get, 0, 0);
        self.inner.len(name)
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let listed = self.inner.list(prefix, after, limit)?;
        let down = listed.iter().map(|object| object.name.len() as u64).sum();
        self.tally.add(Class::Put, 0, down);
        // An answer has at most so many.
        (super::PAGE..listed.len()).step_by(super::PAGE).for_each(|_| self.tally.add(Class::Put, 0, 0));
        Ok(listed)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.tally.add(Class::Delete, 0, 0);
        self.inner.delete(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;

    #[test]
    fn a_counted_store_keeps_the_contract() {
        super::super::conformance::run(|| {
            Box::new(Counted::new(Arc::new(MemoryStore::new()), Arc::default()))
        });
    }

    #[test]
    fn every_call_is_a_request_of_its_class() {
        let tally = Arc::new(Tally::default());
        let store = Counted::new(Arc::new(MemoryStore::new()), tally.clone());
        store.put("a", b"12345").unwrap();
        store.put_if_absent("a", b"12").unwrap();
        store.get("a", 10).unwrap();
        store.get_range("a", 1, 2).unwrap();
        store.len("a").unwrap();
        store.get("none", 10).unwrap_err();
        store.list("", "", 10).unwrap();
        store.delete("a").unwrap();
        let expected = Requests {
            requests_put: 3,
            requests_get: 4,
            requests_delete: 1,
            bytes_up: 7,
            bytes_down: 5 + 2 + 1,
        };
        assert_eq!(tally.so_far(), expected);
        assert_eq!(tally.so_far() - expected, Requests::default());
    }
}
