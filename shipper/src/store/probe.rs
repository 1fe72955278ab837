//! Whether a store keeps "create if absent", without which two writers could both publish (F40): asked when a vault is made.
//! Some stores do not know the condition and replace the object; some look first and write then, so that of two who race
//! both are told that they won. The second kind shows only by chance, so it is given several.

use super::{Put, Store, StoreError, StoreErrorKind};
use std::sync::Barrier;
use towline_tracker::id::CutId;

/// How the objects are called with which a store is tried.
pub const NAME: &str = "probe-";

/// Who race for a name.
const RACERS: u8 = 8;
/// How often.
const ROUNDS: u8 = 4;

/// Tries it with objects of random names, which are deleted again.
///
/// # Errors
/// The store's.
pub fn keeps_creates(store: &dyn Store) -> Result<bool, StoreError> {
    let probe = format!("{NAME}{}", CutId::random());
    let found = (0..=ROUNDS).try_fold(true, |kept, round| {
        let name = format!("{probe}-{round}");
        // The first round is of one who comes twice.
        Ok(kept && if round == 0 { twice(store, &name)? } else { race(store, &name)? })
    });
    for round in 0..=ROUNDS {
        match store.delete(&format!("{probe}-{round}")) {
            // Of a bucket that locks whatever is put: it is found by a later look, and is nobody's.
            Err(error) if error.kind() == StoreErrorKind::Locked => {}
            deleted => deleted?,
        }
    }
    found
}

fn twice(store: &dyn Store, name: &str) -> Result<bool, StoreError> {
    let answers = [store.put_if_absent(name, b"1")?, store.put_if_absent(name, b"2")?];
    Ok(answers == [Put::Created, Put::AlreadyExists] && store.get(name, 16)? == b"1")
}

fn race(store: &dyn Store, name: &str) -> Result<bool, StoreError> {
    let start = Barrier::new(RACERS.into());
    let answers: Result<Vec<Put>, StoreError> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|racer| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    store.put_if_absent(name, &[racer])
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().expect("a racer does not panic")).collect()
    });
    let answers = answers?;
    let winners: Vec<u8> = (0..RACERS).filter(|racer| answers[usize::from(*racer)] == Put::Created).collect();
    Ok(winners.len() == 1 && store.get(name, 16)? == winners)
}

#[cfg(test)]
mod tests {
    use super::super::Listed;
    use super::super::memory::MemoryStore;
    use super::*;
    use std::time::Duration;

    /// What is wrong with a store.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Flaw {
        None,
        /// It replaces, and says that it created.
        Replaces,
        /// It replaces, and says that the object was there.
        ReplacesAndLies,
        /// It looks, and writes a moment later.
        LooksFirst,
    }

    struct Flawed(MemoryStore, Flaw);

    impl Store for Flawed {
        fn url(&self) -> String {
            self.0.url()
        }

        fn put(&self, name: &str, data: &[u8]) -> Result<(), StoreError> {
            self.0.put(name, data)
        }

        fn put_if_absent(&self, name: &str, data: &[u8]) -> Result<Put, StoreError> {
            let there = self.0.len(name).is_ok();
            match self.1 {
                Flaw::None => return self.0.put_if_absent(name, data),
                Flaw::LooksFirst if there => return Ok(Put::AlreadyExists),
                Flaw::LooksFirst => std::thread::sleep(Duration::from_millis(100)),
                Flaw::Replaces | Flaw::ReplacesAndLies => {}
            }
            self.0.put(name, data)?;
            Ok(if there && self.1 == Flaw::ReplacesAndLies { Put::AlreadyExists } else { Put::Created })
        }

        fn get(&self, name: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
            self.0.get(name, limit)
        }

        fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
            self.0.get_range(name, offset, length)
        }

        fn len(&self, name: &str) -> Result<u64, StoreError> {
            self.0.len(name)
        }

        fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Listed>, StoreError> {
            self.0.list(prefix, after, limit)
        }

        fn delete(&self, name: &str) -> Result<(), StoreError> {
            self.0.delete(name)
        }
    }

    /// F40.
    #[test]
    fn a_store_that_does_not_keep_conditions_is_found_and_nothing_is_left_in_it() {
        for flaw in [Flaw::None, Flaw::Replaces, Flaw::ReplacesAndLies, Flaw::LooksFirst] {
            let store = Flawed(MemoryStore::new(), flaw);
            assert_eq!(keeps_creates(&store).unwrap(), flaw == Flaw::None);
            assert!(store.list("", "", 1).unwrap().is_empty());
            assert_eq!(store.len("x").unwrap_err().kind(), StoreErrorKind::NotFound);
        }
    }
}
