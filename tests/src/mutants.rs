//! Protocol bugs on demand: each breaks one rule of the design at one place of the product, and the tests must notice.
//!
//! This is the list, made before the checks that catch what is in it. The bugs themselves are in the source, as
//! `mutant::active("name")`, in builds with the feature `mutants` alone; one is chosen by `TOWLINE_MUTANT`.

/// A bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name in the source.
    pub name: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
    /// What it does.
    pub bug: &'static str,
}

const fn of(rule: &'static str, name: &'static str, bug: &'static str) -> Mutant {
    Mutant { name, rule, bug }
}

/// All of them, by rule.
pub const MUTANTS: &[Mutant] = &[
    of(
        "W1",
        "intent-after-write",
        "a write goes on when the version with its region begins to be written, not when it is durable",
    ),
    of(
        "W1",
        "dropped-region-still-ready",
        "while a version is being written, regions are checked against the durable one only",
    ),
    of(
        "W1",
        "region-dropped-under-a-waiter",
        "a region leaves the intents although a request that waits has pinned it",
    ),
    of("W1", "first-region-only", "of a request over several regions only the first must be in the intents"),
    of(
        "W2",
        "no-drain-wait",
        "a write does not wait for one in flight of the generation being drained to the same block",
    ),
    of("W2", "no-preserve-wait", "a write does not wait for another's running copy of its block"),
    of("W3", "no-preserve", "nothing is preserved"),
    of(
        "W3",
        "preserved-before-copy",
        "the preserved bit is set when the copy begins, not when it is complete",
    ),
    of("W3", "gone-freeze-preserves", "a copy for a freeze that is gone sets its bit in the next one"),
    of(
        "W3",
        "zeros-over-limit-stay-exact",
        "a write of zeros over more than may be preserved goes on, and the freeze stays exact",
    ),
    of(
        "W4",
        "mark-before-waits",
        "a write is marked before its waits: after a cut in between it is in no generation",
    ),
    of("W4", "discard-tail-skipped", "a discard does not mark the block that it ends in the middle of"),
    of("W5", "failed-write-not-marked", "the blocks of a failed write are not marked at its completion"),
    of("W5", "failed-write-forgotten-at-cut", "the blocks of a failed write are not marked again at a cut"),
    of(
        "W5",
        "failure-ended-by-write-in-flight",
        "a write that was in flight when an earlier one failed ends what that one may still do",
    ),
    of(
        "W6",
        "sync-error-swallowed",
        "a sync error that nobody was told is not kept for the guest's next flush",
    ),
    of("W6", "doubt-forgotten", "a sync error does not make the disk doubtful"),
    of("W6", "lost-pages-trusted", "in buffered mode a sync error does not lead to a comparison at once"),
    of("W7", "buffered-reader", "the shipper reads through the page cache what the tracker writes past it"),
    of("W8", "dead-connection-submits", "queued requests of a dead connection are submitted later"),
    of(
        "W9",
        "unaligned-rounded-down",
        "a request that is no multiple of the disk's unit is done as far as whole units go",
    ),
    of(
        "I1",
        "set-without-its-waiters",
        "a version of the intents is the set as it was before those that wait for it were added",
    ),
    of("I2", "older-slot-counts", "of two good slots the older one counts"),
    of("I2", "log-length-forgotten", "a slot does not say how much of the change log is durable"),
    of("I3", "intents-started-empty", "a new session's intents do not hold the regions of the dead one"),
    of("I3", "directory-not-synced", "the name of a meta is not synced before what it names is relied on"),
    of("I4", "evict-before-durable", "a region may leave as soon as its record is being written"),
    of("I4", "evict-forgets-frozen", "a region's record lacks what is frozen and in no durable log"),
    of(
        "I4",
        "clean-region-without-sync",
        "a region without dirty blocks leaves without a sync behind its last write",
    ),
    of(
        "I4",
        "running-sync-counts",
        "a sync that began before a region's last write completed counts as one behind it",
    ),
    of(
        "I4",
        "written-while-cleaning",
        "a write to a region between its record and its leaving does not keep it",
    ),
    of("I4", "failed-region-leaves", "a region with a failed write in it may leave"),
    of(
        "C1",
        "word-before-record",
        "the word that is the cut is stored before what is written down of the cut",
    ),
    of(
        "C2",
        "sync-before-drain",
        "the disks are synced before the last write of the generation has completed",
    ),
    of("C2", "seal-without-sync", "the change log is sealed without a sync of the disks"),
    of("C2", "one-disk-synced", "the freeze goes on when one of its disks is synced"),
    of("C2", "log-not-synced", "the freeze goes to the shipper although its log is not durable"),
    of(
        "C2",
        "draining-resumed-as-synced",
        "a successor seals a freeze that was draining without syncing the disks",
    ),
    of(
        "C3",
        "preserving-clears-frozen",
        "preserving clears the frozen bit, and an undone cut folds what is left",
    ),
    of("C3", "frozen-cleared-when-sealed", "the frozen map is cleared when its log is durable"),
    of("C4", "undo-without-fold", "an undone cut's map is not folded into the open one"),
    of("C4", "fold-misses-last-word", "folding ends one word early"),
    of("C4", "undone-log-deleted", "an undone cut's log is deleted, not pending"),
    of("C4", "cut-while-folding", "a cut does not wait for a fold that runs"),
    of("C5", "fuzzy-not-stored", "the state word does not say that the freeze turned fuzzy"),
    of("C5", "failed-preserve-stays-exact", "a block could not be preserved, and the freeze stays exact"),
    of("C5", "late-preserve-stays-exact", "who waits for a late copy goes on, and the freeze stays exact"),
    of("C5", "limit-stays-exact", "past the preserve limit nothing is preserved, and the freeze stays exact"),
    of(
        "C6",
        "open-log-contained",
        "sealing deletes a dead session's log of a generation that the sealed one does not contain",
    ),
    of("C6", "logs-not-listed", "the metas do not list the pending logs: a lost one is not missed"),
    of("R1", "ignore-store", "a block whose preserved bit is set is taken from the disk"),
    of("R1", "hole-without-look", "for a hole of the file the preserved bits are not looked at"),
    of("R1", "no-fence", "no fence between the read of the disk and the look at the bits"),
    of("R1", "acquire-is-relaxed", "loads of shared words order nothing"),
    of("R1", "release-is-relaxed", "stores to shared words order nothing"),
    of("R2", "no-confirm", "the shipper does not ask whether the freeze is still exact"),
    of("R2", "fuzzy-confirmed", "the tracker confirms a freeze that turned fuzzy"),
    of("S1", "stale-maps-believed", "maps that continue another start are believed"),
    of("S1", "extent-end-off-by-one", "recovery leaves out the last block of each extent of a log"),
    of("S1", "generation-reused", "maps that begin anew begin with generations that were used before"),
    of("S1", "unsealed-logs-not-read", "recovery reads sealed logs only"),
    of("S1", "damaged-log-forgiven", "a damaged log of an unreleased generation is no reason to compare"),
    of(
        "S1",
        "releasing-resumed-exact",
        "a release that reached no meta leaves the freeze exact, although preserving had stopped",
    ),
    of("S1", "undo-not-repeated", "a successor takes a fold that was cut short for complete"),
    of("S2", "lock-not-taken", "a tracker starts on a disk that another one serves"),
    of("S3", "fingerprint-not-checked", "after a process died nobody asks whether others wrote to the disk"),
    of("S4", "untracked-before-mark", "untracked writes go on before the mark on the disk is durable"),
    of("S4", "healed-before-seal", "the mark is cleared before the log of what went untracked is durable"),
    of("S5", "seal-misses-last-block", "the last chunk of a map is sealed without its last block"),
    of("V1", "publish-before-last-pack", "the entry is put before its last pack"),
    of(
        "V2",
        "claim-continues-unvouched",
        "a claim goes on from a fuzzy entry or checkpoint that the tracker does not vouch for",
    ),
    of("V2", "fencing-ignored", "a writer that finds another's entry in its place takes the next one"),
    of("V2", "undone-not-vouched", "the tracker forgets that an undone cut was its own"),
    of("V2", "resume-any-checkpoint", "a freeze goes on from a checkpoint of another cut"),
    of("V3", "put-behind-gap", "an entry is put although the one before it is gone or another"),
    of("V4", "index-of-next-entry", "an index inside an entry is listed as one of the entry that lists it"),
    of("V5", "pack-buffer-not-cleared", "a pack is built behind the bytes of an earlier one"),
    of(
        "V6",
        "index-not-clipped",
        "what lies beyond the end of a smaller image shows again when the disk grows",
    ),
    of(
        "V6",
        "zeros-not-said",
        "blocks found zero are not in the index although the image below has data there",
    ),
    of("V6", "slots-of-split-frame", "a frame's second run of blocks is indexed by the first one's places"),
    of("V7", "unchanged-across-fuzzy", "unchanged means: equal to the last point, also over a fuzzy entry"),
    of("V7", "hash-cache-kept", "the hash cache outlives a cycle that was given up"),
    of("V7", "missing-pack-is-unchanged", "a block is skipped although the pack that holds it is gone"),
    of(
        "V8",
        "same-cut-is-ours",
        "an entry in our place with our cut id is taken for ours, whatever it holds",
    ),
    of("V9", "released-one-too-far", "a release also lets go of the generation that is open"),
    of("V9", "recheck-dropped", "a release ends a comparison that its freeze did not carry out"),
    of("V10", "older-vault-is-delta", "a vault that is older than the anchor gets a delta"),
    of("V10", "anchor-by-number", "the anchor's entry is known by its number, not by its hash"),
    of("V10", "no-anchor-is-delta", "a tracker without an anchor goes on over what it finds"),
    of(
        "V12",
        "restore-over-old-bytes",
        "a restore over an old file leaves its bytes where the image has zeros",
    ),
];

/// Rules of parts that are not built yet, and what stands for them in the list until they are.
pub const LATER: &[(&str, &str)] = &[
    ("C7", "several targets"),
    ("V11", "failover"),
    ("V13", "keys; with them *salt reused*, which nobody can see as long as nothing is secret"),
    ("V14", "retention"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_rule_has_a_mutant_or_is_not_built() {
        let count = [("W", 9), ("I", 4), ("C", 7), ("R", 2), ("S", 5), ("V", 14)];
        let rules: BTreeSet<String> = count
            .iter()
            .flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}")))
            .collect();
        let broken = MUTANTS.iter().map(|mutant| mutant.rule).chain(LATER.iter().map(|(rule, _)| *rule));
        assert_eq!(broken.map(String::from).collect::<BTreeSet<_>>(), rules);
        let names: BTreeSet<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), MUTANTS.len(), "a name is one bug");
        assert!(names.len() >= 60);
    }
}
