//! What a crash leaves of what was under way or not synced.

use super::rng::Rng;

/// Which of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// Any subset, torn and out of order, as the dice of this seed have it.
    Some(u64),
}

/// Decides it, piece by piece.
#[derive(Clone, Debug)]
pub struct Fate {
    leaves: Leaves,
    rng: Rng,
}

impl Fate {
    /// What a crash that leaves this decides.
    pub fn new(leaves: Leaves) -> Self {
        let seed = if let Leaves::Some(seed) = leaves { seed } else { 0 };
        Self { leaves, rng: Rng::new(seed) }
    }

    /// One whose dice are drawn by others.
    pub fn draw(rng: &mut Rng) -> Self {
        Self::new(Leaves::Some(rng.draw()))
    }

    /// The dice, for what is neither lost nor kept by them.
    pub fn dice(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// How many pieces in a thousand of one write land: all, none or a half.
    pub fn share(&mut self) -> u64 {
        *[0, 1000, 500].get(self.rng.index(3)).expect("below 3")
    }

    /// Whether a piece lands, which does so many times in a thousand.
    pub fn lands(&mut self, per_mille: u64) -> bool {
        match self.leaves {
            Leaves::Nothing => false,
            Leaves::Everything => true,
            Leaves::Some(_) => self.rng.chance(per_mille),
        }
    }

    /// How many of the first of so many.
    pub fn first(&mut self, of: usize) -> usize {
        match self.leaves {
            Leaves::Nothing => 0,
            Leaves::Everything => of,
            Leaves::Some(_) => self.rng.index(of + 1),
        }
    }
}
