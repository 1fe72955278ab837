//! What a power cut left of writes that were not synced: some are lost, some torn, some there before others that were earlier.

use super::counts::Happened;
use std::collections::BTreeMap;

/// A sector of such a write.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Which write.
    pub write: u64,
    /// Where in the order of all.
    pub order: u64,
    /// It reached the platter.
    pub survived: bool,
    /// It can be seen: one that survived is what is found now, and was not on the platter before; one that is lost was
    /// what a read gave before, and is not what it gives now.
    pub shows: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct PowerCut(Vec<Piece>);

impl PowerCut {
    /// One more.
    pub fn add(&mut self, piece: Piece) {
        self.0.push(piece);
    }

    /// Under these names: writes that are lost, torn and out of order. Each matters if the bytes found show it.
    pub fn faults(&self, [lost, torn, reordered]: [&'static str; 3]) -> Happened {
        let all: Vec<&Piece> = self.0.iter().collect();
        let shown: Vec<&Piece> = self.0.iter().filter(|piece| piece.shows).collect();
        let kinds: [(_, Kind); 3] = [(lost, some_lost), (torn, some_torn), (reordered, out_of_order)];
        let happened = kinds.into_iter().filter(|(_, has)| has(&all));
        happened.map(|(name, has)| (name, has(&shown))).collect()
    }
}

/// Whether these pieces show something.
type Kind = fn(&[&Piece]) -> bool;

fn some_lost(pieces: &[&Piece]) -> bool {
    pieces.iter().any(|piece| !piece.survived)
}

fn some_torn(pieces: &[&Piece]) -> bool {
    let mut writes = BTreeMap::<u64, [bool; 2]>::new();
    for piece in pieces {
        writes.entry(piece.write).or_default()[usize::from(piece.survived)] = true;
    }
    writes.values().any(|both| *both == [true; 2])
}

fn out_of_order(pieces: &[&Piece]) -> bool {
    let orders =
        |survived| pieces.iter().filter(move |piece| piece.survived == survived).map(|piece| piece.order);
    matches!((orders(false).min(), orders(true).max()), (Some(lost), Some(kept)) if lost < kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["lost", "torn", "reordered"];

    fn cut(pieces: &[(u64, bool, bool)]) -> Happened {
        let mut cut = PowerCut::default();
        for (order, (write, survived, shows)) in pieces.iter().copied().enumerate() {
            cut.add(Piece { write, order: order as u64, survived, shows });
        }
        cut.faults(NAMES)
    }

    #[test]
    fn what_is_lost_torn_or_out_of_order_is_told_and_whether_it_shows() {
        assert_eq!(cut(&[(1, true, true), (2, true, true)]), []);
        assert_eq!(cut(&[(1, true, true), (2, false, true)]), [("lost", true)]);
        assert_eq!(cut(&[(1, true, true), (1, false, true)]), [("lost", true), ("torn", true)]);
        assert_eq!(cut(&[(1, false, true), (2, true, true)]), [("lost", true), ("reordered", true)]);
        // Another write is over what was lost, or the same was there before.
        assert_eq!(
            cut(&[(1, false, false), (1, true, true)]),
            [("lost", false), ("torn", false), ("reordered", false)]
        );
    }
}
