//! What is kept by sector, flat: the disks of a simulation are small, and most of their sectors are in it.

/// No value.
const NONE: u64 = u64::MAX;

/// A number for some sectors.
#[derive(Clone, Debug, Default)]
pub struct SectorMap(Vec<u64>);

impl SectorMap {
    /// Gives a sector a number.
    pub fn insert(&mut self, sector: usize, value: u64) {
        assert_ne!(value, NONE);
        if self.0.len() <= sector {
            self.0.resize(sector + 1, NONE);
        }
        self.0[sector] = value;
    }

    /// A sector has none any more.
    pub fn remove(&mut self, sector: usize) {
        if let Some(value) = self.0.get_mut(sector) {
            *value = NONE;
        }
    }

    /// That of a sector.
    pub fn get(&self, sector: usize) -> Option<u64> {
        self.0.get(sector).copied().filter(|value| *value != NONE)
    }

    /// All, by sector.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().copied().enumerate().filter(|(_, value)| *value != NONE)
    }

    /// Those from this sector on have none any more.
    pub fn truncate(&mut self, sectors: usize) {
        self.0.truncate(sectors);
    }

    /// None has one any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Some sectors.
#[derive(Clone, Debug, Default)]
pub struct SectorSet(Vec<u64>);

impl SectorSet {
    /// Takes a sector in.
    pub fn insert(&mut self, sector: usize) {
        if self.0.len() <= sector / 64 {
            self.0.resize(sector / 64 + 1, 0);
        }
        self.0[sector / 64] |= 1 << (sector % 64);
    }

    /// Takes it out.
    pub fn remove(&mut self, sector: usize) {
        if let Some(word) = self.0.get_mut(sector / 64) {
            *word &= !(1 << (sector % 64));
        }
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(at * 64 + bit)
            })
        })
    }

    /// Those from this sector on are out.
    pub fn truncate(&mut self, sectors: usize) {
        self.0.truncate(sectors.div_ceil(64));
        if let Some(last) = self.0.get_mut(sectors / 64) {
            *last &= (1 << (sectors % 64)) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_what_was_put_in_last() {
        let mut map = SectorMap::default();
        for (sector, value) in [(70, 1), (3, 2), (70, 3), (9, 0)] {
            map.insert(sector, value);
        }
        map.remove(9);
        map.remove(1000);
        assert_eq!(map.iter().collect::<Vec<_>>(), [(3, 2), (70, 3)]);
        assert_eq!([map.get(70), map.get(9), map.get(1000)], [Some(3), None, None]);
        map.truncate(70);
        assert_eq!(map.iter().collect::<Vec<_>>(), [(3, 2)]);
    }

    #[test]
    fn a_set_gives_its_sectors_in_order() {
        let all = [0, 1, 63, 64, 127, 128, 500];
        for cut in [0, 1, 63, 64, 65, 128, 129, 501, 600] {
            let mut set = SectorSet::default();
            all.iter().rev().for_each(|sector| set.insert(*sector));
            set.remove(64);
            set.remove(900);
            set.truncate(cut);
            let left: Vec<_> = all.into_iter().filter(|sector| *sector < cut && *sector != 64).collect();
            assert_eq!(set.iter().collect::<Vec<_>>(), left, "{cut}");
        }
    }
}
