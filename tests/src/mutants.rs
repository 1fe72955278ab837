//! Protocol bugs on demand: each breaks one rule of the design at one place of the product, and the tests must notice.
//!
//! This is the list, made before the checks that catch what is in it. The bugs themselves are in the source, as
//! `mutant::active("name")`, in builds with the feature `mutants` alone; one is chosen by `TOWLINE_MUTANT`.
//!
//! A bug is killed by what data show: a published image, the chain in a vault, a disk that does not hold what its guest
//! was told, or two objects that one key seals. Whoever runs with a bug says so in a line ([`Death`]); [`kill`] runs him as a child and reads it. A panic of
//! the product's, or that nothing goes on, is no kill; then the check goes on with other seeds.

use std::fmt;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name in the source.
    pub name: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
    /// What it does.
    pub bug: &'static str,
    /// Who kills it.
    pub by: By,
}

/// Who kills a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A campaign of random lives: a test of `tests/it`, by seeds.
    Seeds(&'static str),
    /// A test of `tests/it` with a schedule of its own.
    Test(&'static str),
    /// A model of what processes share in memory (`make models`), which has the bug and must fail.
    Model(&'static str),
}

const SIM: By = By::Seeds("sim::random_seeds_break_no_promise");
const VAULTS: By = By::Seeds("vaults::every_point_of_a_vault_is_its_cut");

const fn of(rule: &'static str, name: &'static str, bug: &'static str) -> Mutant {
    Mutant { name, rule, bug, by: SIM }
}

impl Mutant {
    const fn by(self, by: By) -> Self {
        Self { by, ..self }
    }
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
    of("W5", "failure-ended-by-discard", "a discard ends what a failed write may still do")
        .by(By::Test("sync_errors::a_failed_write_is_ended_by_zeros_and_by_no_discard")),
    of(
        "W5",
        "failure-ended-behind-failed-sync",
        "a good sync behind a failed one ends what a failed write may still do",
    )
    .by(By::Test("sync_errors::a_failed_write_is_not_ended_by_a_good_sync_behind_a_failed_one")),
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
    of("W7", "buffered-reader", "the shipper reads through the page cache what the tracker writes past it"),
    of("W8", "dead-connection-submits", "queued requests of a dead connection are submitted later"),
    of(
        "W9",
        "unaligned-rounded-down",
        "a request that is no multiple of the disk's unit is done as far as whole units go",
    )
    .by(By::Test("mutants::a_ragged_request_is_refused_or_done_whole")),
    of(
        "I1",
        "set-without-its-waiters",
        "a version of the intents is the set as it was before those that wait for it were added",
    ),
    of("I2", "older-slot-counts", "of two good slots the older one counts"),
    of("I2", "log-length-forgotten", "a slot does not say how much of the change log is durable"),
    of("I3", "intents-started-empty", "a new session's intents do not hold the regions of the dead one"),
    of("I3", "directory-not-synced", "the name of a meta is not synced before what it names is relied on"),
    of("I4", "failed-region-leaves", "a region with a failed write in it may leave the intents").by(
        By::Test("sync_errors::a_failed_write_that_lands_behind_a_release_is_found_after_the_hosts_death"),
    ),
    of("I4", "evict-before-durable", "a region may leave as soon as its record is being written"),
    of("I4", "evict-forgets-frozen", "a region's record lacks what is frozen and in no durable log"),
    of(
        "I4",
        "written-while-cleaning",
        "a write to a region between its record and its leaving does not keep it",
    ),
    of(
        "C1",
        "word-before-record",
        "the word that is the cut is stored before what is written down of the cut",
    )
    .by(By::Model("not_with_the_word_before_its_record")),
    of(
        "C2",
        "sync-before-drain",
        "the disks are synced before the last write of the generation has completed",
    ),
    of("C2", "seal-without-sync", "the change log is sealed without a sync of the disks"),
    of("C2", "one-disk-synced", "the freeze goes on when one of its disks is synced"),
    of(
        "C3",
        "preserving-clears-frozen",
        "preserving clears the frozen bit, and an undone cut folds what is left",
    ),
    of("C3", "frozen-cleared-when-sealed", "the frozen map is cleared when its log is durable"),
    of("C4", "undo-without-fold", "an undone cut's map is not folded into the open one"),
    of("C4", "fold-misses-last-word", "folding ends one word early"),
    of("C4", "undone-log-deleted", "an undone cut's log is deleted, not pending")
        .by(By::Test("successors::the_log_of_an_undone_cut_stays_pending")),
    of("C5", "fuzzy-not-stored", "the state word does not say that the freeze turned fuzzy"),
    of(
        "C5",
        "failed-preserve-stays-exact",
        "a copy that failed counts as one that is complete, and the freeze stays exact",
    ),
    of("C5", "fuzzy-forgotten-by-successor", "a successor goes on with a fuzzy freeze as an exact one"),
    of("C5", "limit-stays-exact", "past the preserve limit nothing is preserved, and the freeze stays exact"),
    of(
        "C6",
        "open-log-contained",
        "sealing deletes a dead session's log of a generation that the sealed one does not contain",
    )
    .by(By::Test("successors::a_sealed_log_takes_the_place_of_none_that_it_does_not_contain")),
    of("C6", "logs-not-listed", "the metas do not list the pending logs: a lost one is not missed"),
    of("R1", "ignore-store", "a block whose preserved bit is set is taken from the disk")
        .by(By::Test("mutants::a_freeze_is_read_as_of_its_cut")),
    of("R1", "hole-without-look", "for a hole of the file the preserved bits are not looked at")
        .by(By::Test("mutants::a_hole_that_was_punched_behind_a_cut_is_none")),
    of("R1", "no-fence", "no fence between the read of the disk and the look at the bits")
        .by(By::Model("not_without_the_fence_between_read_and_look")),
    of("R1", "acquire-is-relaxed", "loads of shared words order nothing")
        .by(By::Model("not_with_a_look_that_does_not_acquire_the_copy")),
    of("R1", "release-is-relaxed", "stores to shared words order nothing")
        .by(By::Model("not_with_a_bit_that_does_not_release_the_copy")),
    of("R2", "no-confirm", "the shipper does not ask whether the freeze is still exact"),
    of("R2", "fuzzy-confirmed", "the tracker confirms a freeze that turned fuzzy"),
    of("S1", "stale-maps-believed", "maps that continue another start are believed")
        .by(By::Test("successors::maps_that_missed_a_session_are_not_believed")),
    of("S1", "extent-end-off-by-one", "recovery leaves out the last block of each extent of a log"),
    of("S1", "generation-reused", "maps that begin anew begin with generations that were used before"),
    of("S1", "unsealed-logs-not-read", "recovery reads sealed logs only"),
    of("S1", "damaged-log-forgiven", "a damaged log of an unreleased generation is no reason to compare"),
    of("S1", "undo-not-repeated", "a successor takes a fold that was cut short for complete"),
    of("S2", "lock-not-taken", "a tracker starts on a disk that another one serves")
        .by(By::Test("mutants::a_second_tracker_keeps_off_a_served_disk")),
    of("S3", "fingerprint-not-checked", "after a process died nobody asks whether others wrote to the disk"),
    of("S4", "untracked-before-mark", "untracked writes go on before the mark on the disk is durable"),
    of("S4", "healed-before-seal", "the mark is cleared before the log of what went untracked is durable"),
    of("S5", "seal-misses-last-block", "the last chunk of a map is sealed without its last block"),
    of("V1", "publish-before-last-pack", "the entry is put before its last pack")
        .by(By::Test("mutants::no_point_needs_a_pack_that_never_arrived")),
    of(
        "V2",
        "claim-continues-unvouched",
        "a claim goes on from a fuzzy entry or checkpoint that the tracker does not vouch for",
    )
    .by(VAULTS),
    of(
        "V2",
        "claim-by-old-attach",
        "a claim is put by an attach that may not be the tracker's newest any more",
    )
    .by(VAULTS),
    of("V2", "fencing-ignored", "a writer that finds another's entry in its place takes the next one")
        .by(VAULTS),
    of("V2", "vouched-by-one", "a cut is the tracker's own if one of its disks says so")
        .by(By::Test("successors::a_cut_that_one_of_its_disks_has_released_is_vouched_for_by_none")),
    of("V2", "undone-not-vouched", "the tracker forgets that an undone cut was its own")
        .by(By::Test("successors::a_cut_that_was_undone_is_vouched_for_by_every_successor")),
    of(
        "V2",
        "vouched-by-id",
        "an entry of a copied host's cut is taken for ours of the same id, at another time",
    )
    .by(VAULTS),
    of("V2", "resume-any-checkpoint", "a freeze goes on from a checkpoint of another cut").by(VAULTS),
    of("V3", "put-behind-gap", "an entry is put although the one before it is gone or another").by(VAULTS),
    of("V4", "index-of-next-entry", "an index inside an entry is listed as one of the entry that lists it")
        .by(VAULTS),
    of(
        "V5",
        "frame-offset-from-first",
        "the index has a frame's place counted from the first frame, not from the pack's first byte",
    )
    .by(VAULTS),
    of(
        "V6",
        "index-not-clipped",
        "what lies beyond the end of a smaller image shows again when the disk grows",
    )
    .by(VAULTS),
    of(
        "V6",
        "zeros-not-said",
        "blocks found zero are not in the index although the image below has data there",
    )
    .by(VAULTS),
    of("V6", "slots-of-split-frame", "a frame's second run of blocks is indexed by the first one's places")
        .by(VAULTS),
    of(
        "V6",
        "fold-loses-zeros",
        "a fold leaves out zeros although something is below it, as if it were the beginning of its list",
    )
    .by(VAULTS),
    of(
        "V6",
        "fold-not-clipped",
        "what is below a fold shows again where the disk shrank and grew between the indexes that it folds",
    )
    .by(VAULTS),
    of("V6", "fold-listed-before-put", "an entry lists a fold whose put failed").by(VAULTS),
    of("V7", "unchanged-across-fuzzy", "unchanged means: equal to the last point, also over a fuzzy entry")
        .by(VAULTS),
    of("V7", "hash-cache-kept", "the hash cache outlives a cycle that was given up").by(VAULTS),
    of("V7", "missing-pack-is-unchanged", "a block is skipped although the pack that holds it is gone")
        .by(VAULTS),
    of(
        "V8",
        "same-cut-is-ours",
        "an entry in our place with our cut id is taken for ours, whatever it holds",
    )
    .by(VAULTS),
    of("V9", "releasing-not-told", "who attaches during a release is told the anchor before it")
        .by(By::Test("successors::a_release_that_has_begun_is_the_anchor")),
    of("V9", "released-one-too-far", "a release also lets go of the generation that is open"),
    of("V10", "older-vault-is-delta", "a vault that is older than the anchor gets a delta").by(VAULTS),
    of("V10", "anchor-by-number", "the anchor's entry is known by its number, not by its hash").by(VAULTS),
    of(
        "V10",
        "taken-up-untold",
        "a copied host's fuzzy entry or checkpoint of a freeze that we have too is taken for ours",
    )
    .by(By::Test("mutants::a_copys_fuzzy_entry_is_not_taken_for_ours")),
    of("V10", "no-anchor-is-delta", "a tracker without an anchor goes on over what it finds").by(VAULTS),
    of(
        "V12",
        "restore-over-old-bytes",
        "a restore over an old file leaves its bytes where the image has zeros",
    )
    .by(By::Test("mutants::a_restore_leaves_nothing_of_what_was_there")),
    of("V12", "left-block-believed", "a restore that goes on takes what it finds for the disk's")
        .by(By::Test("mutants::a_restore_that_goes_on_believes_hashes_alone")),
    of("V14", "no-look-at-catalog", "who puts an entry does not look whether its place still exists")
        .by(VAULTS),
    of("V14", "sweep-packs-in-use", "a collector takes what no entry lists for what nobody is about to list")
        .by(VAULTS),
    of(
        "V14",
        "void-entries-swept",
        "to a collector only points need what they show: no fuzzy entry, no checkpoint",
    )
    .by(VAULTS),
    of("V14", "claims-base-swept", "a collector does not know what the newest claim builds on")
        .by(By::Test("prune::a_claim_over_a_point_that_is_let_go_just_then_keeps_what_it_needs")),
    of(
        "V14",
        "moved-slot-kept",
        "a block that is moved is looked for in its new frame where it was in the old one",
    )
    .by(VAULTS),
    of("V14", "moved-swept-too-early", "a collector takes what is made for a catalog to come for garbage")
        .by(By::Test("repack::what_is_made_for_a_catalog_to_come_is_not_swept")),
    of("V14", "moved-forgotten", "a prune's catalog does not say where blocks were moved").by(VAULTS),
    of(
        "V6",
        "fold-outlives-collection",
        "a fold made before blocks were moved is listed after the old ones went",
    )
    .by(VAULTS),
    of(
        "V14",
        "late-fold-not-looked-at",
        "a collector does not look at folds that were listed since its plan",
    )
    .by(By::Test("repack::a_fold_that_is_listed_behind_a_plan_is_looked_at")),
    of("V13", "salt-reused", "all objects of one name and kind are sealed with one salt, so with one key"),
];

/// Bugs that no check can kill, because something else makes up for what they break: rule, bug, why.
pub const REDUNDANT: &[(&str, &str, &str)] = &[
    (
        "V2",
        "claim without putting an entry",
        "an entry names the hash of the one before it, and is put only behind that (V3, V8): a writer whose claim is not \
         there can put nothing at all. That is seen at once, and no image or chain is wrong by it.",
    ),
    (
        "C3",
        "maps reused under a live shipper",
        "who reads a freeze that is gone is told so when he asks to confirm (R2), and nothing that he read is published as \
         exact; a fuzzy entry is right with either content. Fresh inodes are what makes it need no such argument.",
    ),
    (
        "C2",
        "a successor seals a draining freeze without a sync",
        "every start syncs every disk before anything else (S3), behind the last write of the dead process (S2).",
    ),
    (
        "C2",
        "the freeze goes to the shipper although its log is not durable",
        "the meta that lists the log and its length is (I2): after a power cut the log is missed, and everything is compared. It \
         costs that comparison, and the simulator's check of costs sees it.",
    ),
    (
        "C4",
        "a cut does not wait for a fold that runs",
        "an undone cut's fold ends before its freeze does, and only then comes another cut; a whole freeze that is not whole is \
         refused by the shipper, and by the simulator.",
    ),
    (
        "W2",
        "a write does not wait for one in flight of the generation being drained to the same block",
        "what is in flight at a cut may stand on either side of it, sector by sector (C1): a copy that is made before it lands is \
         right, and so is one that is made in the middle. No life of 5,000 saw a difference. The wait keeps the argument short.",
    ),
    (
        "I4",
        "a region without dirty blocks leaves without a sync behind its last write, or with one that began before it completed",
        "its blocks went into a map that was cut after that write, and a cut syncs the disks behind it (C2) before the map counts \
         as durable; until then they are recorded. A start syncs, too.",
    ),
    (
        "W6",
        "in buffered mode no comparison at once after a sync error",
        "what the pages lost was written since the last good sync; nothing of that is released (C2), so all of it is \
         pending and shipped as it is now. The comparison is for what other syncs of the host may have eaten.",
    ),
    (
        "C5, S1",
        "a release that reached no meta is resumed as an exact freeze",
        "releasing means that the entry is published, and whoever attaches adopts it (V10); the freeze is read again only if \
         the vault is put back at the same time.",
    ),
    (
        "V9",
        "a release ends a comparison that its freeze did not carry out",
        "a comparison that matters is asked for by a start, which has no delta freeze; later ones are asked for by people.",
    ),
];

/// Rules of parts that are not built yet, and what stands for them in the list until they are.
pub const LATER: &[(&str, &str)] = &[("C7", "several targets"), ("V11", "failover")];

/// The bug that this process runs with, if it has one.
pub fn chosen() -> Option<String> {
    std::env::var("TOWLINE_MUTANT").ok()
}

/// How a run with a bug ended otherwise than well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Data show it; else it is no kill.
    pub by_data: bool,
    /// What noticed: a word.
    pub oracle: String,
    /// In which life.
    pub seed: Option<u64>,
    /// What it saw.
    pub what: String,
}

const LINE: &str = "DEATH";

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.seed.map_or_else(String::new, |seed| seed.to_string());
        let what: String = self.what.replace(['\n', '\t'], " ").chars().take(300).collect();
        write!(f, "{LINE}\t{}\t{}\t{seed}\t{what}", self.by_data, self.oracle)
    }
}

impl Death {
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split('\t').skip_while(|part| !part.ends_with(LINE)).skip(1);
        let (by_data, oracle, seed) = (parts.next()? == "true", parts.next()?.to_owned(), parts.next()?);
        Some(Self { by_data, oracle, seed: seed.parse().ok(), what: parts.next()?.to_owned() })
    }

    /// Tells whoever started this process.
    pub fn tell(&self) {
        println!("\n{self}");
    }
}

/// Lives one life after another with a bug, the one that killed it last first, until data show it. Each death is told.
pub fn live(seeds: impl Iterator<Item = u64>, mut life: impl FnMut(u64) -> Option<Death>) {
    let first = std::env::var("TOWLINE_SEED_FIRST").ok().and_then(|seed| seed.parse().ok());
    for seed in first.into_iter().chain(seeds) {
        if let Some(death) = life(seed) {
            let death = Death { seed: Some(seed), ..death };
            death.tell();
            if death.by_data {
                return;
            }
        }
    }
}

/// What became of a mutant.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it was killed, if it was.
    pub killed: Option<Death>,
    /// How it died before, without data showing anything.
    pub others: Vec<Death>,
    /// How long it took.
    pub took: Duration,
}

/// Runs a mutant in a child of this program until data show it. `seed`: the life that killed it last.
///
/// # Panics
/// If this program can't be started again.
pub fn kill(mutant: &Mutant, test: &str, seed: Option<u64>, seeds: u64, most: Duration) -> Outcome {
    let begun = Instant::now();
    let mut command = Command::new(std::env::current_exe().expect("a test has a program"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command
        .env("TOWLINE_MUTANT", mutant.name)
        .env("TOWLINE_SEEDS", seeds.to_string())
        .env_remove("TOWLINE_SEED");
    if let Some(seed) = seed {
        command.env("TOWLINE_SEED_FIRST", seed.to_string());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts again");
    let mut output = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = output.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    wait(&mut child, begun + most);
    let text = reader.join().expect("reading does not panic");
    let (killed, others) =
        text.lines().filter_map(Death::parse).partition::<Vec<_>, _>(|death| death.by_data);
    Outcome { killed: killed.into_iter().next(), others, took: begun.elapsed() }
}

/// Waits for its end, and ends it when it is late: a bug may make it hang.
fn wait(child: &mut Child, until: Instant) {
    while let Ok(None) = child.try_wait() {
        if Instant::now() > until {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The table of `tests/MUTANTS.md`: its text, around the rows.
const TABLE: &str = "# Mutants

Known bugs, each one changed place in the product at the rule of the design that it breaks (`mutant::active(\"name\")`), in
one build without debug assertions; `make mutants` runs each until it is killed and writes this table. A kill counts by
what data show: an *image* (a published point is not the instant of its cut, or can't be restored, or the newest one is not
the disk), the *lineage* (the chain in the vault is not the tracker's own), the *disk* (it does not hold what its guest
was told), or *secrecy* (one key seals two objects). Where a life of a campaign killed it, its seed is tried first the next time. `it/guard.rs` compares the names
here with those in the source.

| rule | mutant | what it does | killed by | shown by |
|---|---|---|---|---|
";

/// A row of the table.
pub fn row(mutant: &Mutant, killed: &Death) -> String {
    let by = match (mutant.by, killed.seed) {
        (By::Seeds(test), Some(seed)) => format!("`{test}` seed {seed}"),
        (By::Seeds(test) | By::Test(test), _) => format!("`{test}`"),
        (By::Model(test), _) => format!("`models::{test}`"),
    };
    format!(
        "| {} | {} | {} | {by} | {} |\n",
        mutant.rule,
        mutant.name,
        mutant.bug,
        killed.oracle.to_lowercase()
    )
}

/// The whole table.
pub fn table(rows: &[String]) -> String {
    let mut text = TABLE.to_owned() + &rows.concat();
    text += "\n## Not built yet\n";
    LATER.iter().for_each(|(rule, what)| text += &format!("\n- {rule}: {what}."));
    text += "\n\n## What no check can kill, because another rule makes up for it\n";
    let list = |list: &[(&str, &str, &str)]| {
        list.iter().map(|(rule, what, why)| format!("\n- {rule}, *{what}*: {why}")).collect::<String>()
    };
    text += &list(REDUNDANT);
    text + "\n"
}

/// The seed in a mutant's row.
pub fn seed_in(table: &str, name: &str) -> Option<u64> {
    let row = table.lines().find(|line| line.contains(&format!("| {name} |")))?;
    row.split_once("seed ")?.1.split(' ').next()?.parse().ok()
}

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
