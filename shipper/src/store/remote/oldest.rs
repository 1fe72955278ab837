//! A vault as the store had it at some time: of each object the oldest version, of those that the store took until then.
//!
//! Names in a vault are written once (V13), so the oldest version of an object is the object. Whoever else may put and delete
//! can hide it behind a mark or a newer version, and can put objects that were never there: entries, claims, catalogs that let
//! everything go. None of it is older than what it hides, or than the time; and the time is the store's own, which no client sets.
//! What is locked has its oldest version for as long as it is locked. What was deleted meanwhile, as it may be, is missing.
//!
//! All versions are listed at the first question and what they say is kept, some 200 bytes an object: one view, whatever becomes of
//! the store meanwhile.

use super::answer::Version;
use super::{Lock, RemoteStore};
use crate::store::{Listed, Put, Store, StoreError, StoreErrorKind, check_name};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// How far back a store is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// At this time, by the store's clock.
    Time(SystemTime),
    /// Now: every object that was ever put and is still there.
    Now,
}

impl std::str::FromStr for AsOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "now" {
            return Ok(Self::Now);
        }
        let time: jiff::Timestamp =
            text.parse().map_err(|_| "give `now`, or a time as 2026-11-23T18:30:00Z")?;
        Ok(Self::Time(time.into()))
    }
}

/// An object as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its oldest version.
    pub version: String,
    /// That version's length.
    pub length: u64,
    /// Something else was put over it, or it was deleted and is still there.
    pub touched: bool,
}

type Objects = BTreeMap<Box<str>, Object>;

/// A store as it was. It can only be read.
pub struct Oldest {
    store: Arc<RemoteStore>,
    as_of: AsOf,
    objects: Mutex<Option<Arc<Objects>>>,
}

impl Oldest {
    /// Of a store, as of a time.
    pub fn new(store: Arc<RemoteStore>, as_of: AsOf) -> Self {
        Self { store, as_of, objects: Mutex::new(None) }
    }

    /// An object, if it was there.
    ///
    /// # Errors
    /// `NotFound`; the store's.
    pub fn object(&self, name: &str) -> Result<Object, StoreError> {
        check_name(name)?;
        let objects = self.objects()?;
        objects.get(name).cloned().ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, name))
    }

    /// Locks an object as it was; and whether it was touched since. As [`RemoteStore::lock`].
    ///
    /// # Errors
    /// `NotFound`; the store's.
    pub fn lock(
        &self,
        name: &str,
        at_least: SystemTime,
        until: SystemTime,
    ) -> Result<(Lock, bool), StoreError> {
        let object = self.object(name)?;
        Ok((self.store.lock(name, &object.version, at_least, until)?, object.touched))
    }

    fn objects(&self) -> Result<Arc<Objects>, StoreError> {
        let mut objects = self.objects.lock().expect("no thread panics with the lock");
        if let Some(objects) = &*objects {
            return Ok(objects.clone());
        }
        let versions = self.store.versions_of(&self.store.root)?;
        let found = Arc::new(oldest(versions, &self.store.root, self.as_of));
        *objects = Some(found.clone());
        Ok(found)
    }

    fn refused<T>(&self, name: &str) -> Result<T, StoreError> {
        let text = "a vault as of a time can only be read";
        Err(StoreError::remote(StoreErrorKind::Denied, name, text))
    }
}

/// Of versions of which those of one object and one time come in the order in which the store took them.
fn oldest(mut versions: Vec<Version>, root: &str, as_of: AsOf) -> Objects {
    versions.sort_by(|a, b| (&a.key, a.time).cmp(&(&b.key, b.time)));
    let taken = |version: &Version| match as_of {
        AsOf::Time(time) => version.time <= time,
        AsOf::Now => true,
    };
    let mut objects = Objects::new();
    for same in versions.chunk_by(|a, b| a.key == b.key) {
        let Some(name) = same[0].key.strip_prefix(root) else { continue };
        let Some(first) = same.iter().find(|version| !version.hides).filter(|first| taken(first)) else {
            continue;
        };
        // A put whose answer was lost is done again, with the same bytes.
        let touched =
            same.iter().any(|other| other.hides || (other.length, &other.tag) != (first.length, &first.tag));
        objects.insert(name.into(), Object { version: first.id.clone(), length: first.length, touched });
    }
    objects
}

impl Store for Oldest {
    fn url(&self) -> String {
        self.store.url()
    }

    fn put(&self, name: &str, _: &[u8]) -> Result<(), StoreError> {
        self.refused(name)
    }

    fn put_if_absent(&self, name: &str, _: &[u8]) -> Result<Put, StoreError> {
        self.refused(name)
    }

    fn get(&self, name: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        self.store.get_version(name, Some(&self.object(name)?.version), limit)
    }

    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let object = self.object(name)?;
        if length == 0 || offset >= object.length {
            return Ok(Vec::new());
        }
        self.store.get_range_of_version(name, Some(&object.version), offset, length)
    }

    fn len(&self, name: &str) -> Result<u64, StoreError> {
        Ok(self.object(name)?.length)
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let objects = self.objects()?;
        let from = match after >= prefix {
            true => Bound::Excluded(after),
            false => Bound::Included(prefix),
        };
        let names = objects.range::<str, _>((from, Bound::Unbounded));
        let names = names.take_while(|(name, _)| name.starts_with(prefix)).take(limit);
        Ok(names.map(|(name, object)| Listed { name: name.to_string(), length: object.length }).collect())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.refused(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn version(key: &str, id: &str, seconds: u64, tag: &str) -> Version {
        let hides = tag.is_empty();
        let (key, id, tag) = (key.into(), id.into(), tag.to_owned());
        Version { key, id, time: at(seconds), length: 1, tag, hides }
    }

    /// Whatever is put, put over or hidden later, and in whatever order it is told.
    #[test]
    fn what_came_later_changes_nothing_of_what_was_there() {
        let good = [version("v/a", "1", 5, "x"), version("v/b", "2", 6, "y"), version("v/b", "3", 7, "y")];
        let bad = [
            version("v/a", "4", 9, "garbage"),
            version("v/a", "5", 10, ""),
            version("v/c", "6", 9, "forged"),
            version("v/d", "7", 9, ""),
            version("w", "8", 1, "elsewhere"),
        ];
        let before = oldest(good.to_vec(), "v/", AsOf::Now);
        let names: Vec<_> = before.iter().map(|(name, object)| (&**name, &*object.version)).collect();
        assert_eq!(names, [("a", "1"), ("b", "2")]);
        assert!(before.values().all(|object| !object.touched), "a second try is no touch");
        let mut all: Vec<_> = bad.into_iter().chain(good).collect();
        for _ in 0..all.len() {
            // Other objects' versions may stand between.
            all.rotate_left(1);
            let mut after = oldest(all.clone(), "v/", AsOf::Time(at(8)));
            assert!(std::mem::take(&mut after.get_mut("a").unwrap().touched));
            assert_eq!(after, before);
        }
        let now = oldest(all, "v/", AsOf::Now);
        assert_eq!(now.keys().map(|name| &**name).collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
