//! Things by number: a number is never valid for a later thing in the same place.

/// A growing table whose places are reused.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// An empty table with room for `capacity` things.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity) }
    }

    /// Takes a thing in; its key.
    #[inline]
    pub(crate) fn insert(&mut self, thing: T) -> u64 {
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.entries.push((0, None));
                u32::try_from(self.entries.len() - 1).expect("tables are bounded")
            }
        };
        let entry = &mut self.entries[place as usize];
        entry.1 = Some(thing);
        u64::from(entry.0) << 32 | u64::from(place)
    }

    /// The thing of a key.
    #[inline]
    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        match self.entries.get_mut(key as u32 as usize) {
            Some((round, thing)) if *round == (key >> 32) as u32 => thing.as_mut(),
            _ => None,
        }
    }

    /// The thing of a key.
    #[inline]
    pub(crate) fn get(&self, key: u64) -> Option<&T> {
        match self.entries.get(key as u32 as usize) {
            Some((round, thing)) if *round == (key >> 32) as u32 => thing.as_ref(),
            _ => None,
        }
    }

    /// Takes the thing of a key out.
    #[inline]
    pub(crate) fn remove(&mut self, key: u64) -> Option<T> {
        let (round, thing) = self.entries.get_mut(key as u32 as usize)?;
        if *round != (key >> 32) as u32 {
            return None;
        }
        let thing = thing.take()?;
        *round = round.wrapping_add(1);
        self.free.push(key as u32);
        Some(thing)
    }

    /// The keys of all things.
    pub(crate) fn keys(&self) -> Vec<u64> {
        let key = |(place, (round, thing)): (usize, &(u32, Option<T>))| {
            thing.is_some().then_some(u64::from(*round) << 32 | place as u64)
        };
        self.entries.iter().enumerate().filter_map(key).collect()
    }

    /// How many things.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_finds_nothing() {
        let mut slab = Slab::with_capacity(1);
        let old = slab.insert('a');
        assert_eq!(slab.remove(old), Some('a'));
        let new = slab.insert('b');
        assert_eq!((slab.get(old), slab.get(new)), (None, Some(&'b')));
        assert_eq!(slab.remove(old), None);
        assert_eq!((slab.keys(), slab.len()), (vec![new], 1));
    }
}
