//! A store with moods: before each call it asks a script what is to become of it. For tests of whoever builds on a store:
//! a script can fail it, lose its answer, end the store's life, wait, count, and do something else meanwhile.

use super::{Listed, Put, Store, StoreError, StoreErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a store is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// [`Store::put`].
    Put,
    /// [`Store::put_if_absent`].
    Create,
    /// [`Store::get`].
    Get,
    /// [`Store::get_range`], with what is asked for.
    Range {
        /// The first byte.
        offset: u64,
        /// Bytes.
        length: usize,
    },
    /// [`Store::len`].
    Length,
    /// [`Store::list`].
    List,
    /// [`Store::delete`].
    Delete,
}

/// A call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is asked.
    pub what: What,
    /// The object's name; of a listing the prefix.
    pub name: &'a str,
    /// Puts of both kinds so far, this one included.
    pub puts: u64,
}

impl Call<'_> {
    /// Whether it is a put of either kind.
    pub fn is_put(&self) -> bool {
        matches!(self.what, What::Put | What::Create)
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// What was asked.
    Good,
    /// Nothing is done, and this is told.
    Fail(StoreErrorKind),
    /// It is done, and an error is told that may pass.
    LoseAnswer,
    /// Nothing is done, now or later: whoever calls is dead.
    Die,
}

type Script = Box<dyn Fn(&Call<'_>) -> Mood + Send + Sync>;

/// A store over another one.
pub struct Scripted {
    inner: Arc<dyn Store>,
    script: Script,
    puts: AtomicU64,
    dead: AtomicBool,
}

impl Scripted {
    /// Over `inner`.
    pub fn new(
        inner: impl Store + 'static,
        script: impl Fn(&Call<'_>) -> Mood + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(inner),
            script: Box::new(script),
            puts: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        })
    }

    /// Puts of both kinds so far, whatever became of them.
    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::SeqCst)
    }

    fn ask<T>(
        &self,
        what: What,
        name: &str,
        call: impl FnOnce(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let put = u64::from(matches!(what, What::Put | What::Create));
        let puts = self.puts.fetch_add(put, Ordering::SeqCst) + put;
        let mood = match self.dead.load(Ordering::SeqCst) {
            true => Mood::Die,
            false => (self.script)(&Call { what, name, puts }),
        };
        match mood {
            Mood::Good => call(&*self.inner),
            Mood::Fail(kind) => Err(StoreError::new(kind, name)),
            Mood::LoseAnswer => {
                call(&*self.inner)?;
                Err(StoreError::new(StoreErrorKind::Transient, name))
            }
            Mood::Die => {
                self.dead.store(true, Ordering::SeqCst);
                Err(StoreError::new(StoreErrorKind::Other, name))
            }
        }
    }
}

impl Store for Scripted {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn put(&self, name: &str, data: &[u8]) -> Result<(), StoreError> {
        self.ask(What::Put, name, |store| store.put(name, data))
    }

    fn put_if_absent(&self, name: &str, data: &[u8]) -> Result<Put, StoreError> {
        self.ask(What::Create, name, |store| store.put_if_absent(name, data))
    }

    fn get(&self, name: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        self.ask(What::Get, name, |store| store.get(name, limit))
    }

    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        self.ask(What::Range { offset, length }, name, |store| store.get_range(name, offset, length))
    }

    fn len(&self, name: &str) -> Result<u64, StoreError> {
        self.ask(What::Length, name, |store| store.len(name))
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.ask(What::List, prefix, |store| store.list(prefix, after, limit))
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.ask(What::Delete, name, |store| store.delete(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;

    #[test]
    fn a_store_in_a_good_mood_keeps_the_contract() {
        super::super::conformance::run(|| {
            let store = Scripted::new(MemoryStore::new(), |_| Mood::Good);
            Box::new(Arc::into_inner(store).expect("nobody else has it"))
        });
    }

    #[test]
    fn what_is_told_and_what_is_done_follow_the_script() {
        let inner = MemoryStore::new();
        let store = Scripted::new(inner.clone(), |call| match call.name {
            "lost" if call.is_put() => Mood::LoseAnswer,
            "full" => Mood::Fail(StoreErrorKind::NoSpace),
            "last" => Mood::Die,
            _ => Mood::Good,
        });
        assert_eq!(store.put("lost", b"x").unwrap_err().kind(), StoreErrorKind::Transient);
        assert_eq!(store.get("lost", 1).unwrap(), b"x");
        assert_eq!(store.put_if_absent("full", b"x").unwrap_err().kind(), StoreErrorKind::NoSpace);
        assert!(store.put("last", b"x").is_err() && store.get("lost", 1).is_err(), "dead is dead");
        assert_eq!((store.puts(), inner.list("", "", 9).unwrap().len()), (3, 1));
    }
}
