//! What a life is like: how often what fails, how large what is, drawn once from its seed.

use super::*;
use towline_tracker::limits::Bounds;

/// Regions that the intents hold, at the most.
const BUDGET: u64 = 8;

/// The settings of a life. Chances are in a thousand.
pub(super) struct Settings {
    pub(super) depth: usize,
    pub(super) write_errors: u64,
    pub(super) sync_errors: u64,
    pub(super) call_errors: u64,
    pub(super) mark_errors: u64,
    pub(super) persist_errors: u64,
    pub(super) preserve_errors: u64,
    pub(super) direct: bool,
    pub(super) strict: bool,
    pub(super) preserve_limit: Option<u64>,
    pub(super) bounds: Bounds,
    pub(super) jumps: u64,
    pub(super) hot: u64,
    pub(super) read_errors: u64,
    /// The worker hangs.
    pub(super) hangs: u64,
    pub(super) moods: Moods,
    /// Zeros are holes, where they can be.
    pub(super) holes: bool,
    /// The wall clock jumps.
    pub(super) clock: bool,
    /// Somebody lays hands on the vault.
    pub(super) vault_hands: u64,
    /// Points are let go, and what nobody needs is collected.
    pub(super) collects: bool,
    /// Disks are resized between two sessions.
    pub(super) resizes: bool,
    /// Of a hundred sessions so many are without tracking.
    pub(super) off: u64,
    /// Another host has the same group, or the same disks, from this event on.
    pub(super) twin: Option<(u64, Twin)>,
    /// How often in a thousand times a sync whose turn it is takes longer.
    pub(super) lazy_syncs: u64,
    /// The same of a failed write that may still land.
    pub(super) lazy_ghosts: u64,
}

impl Settings {
    /// What this workload needs. Its seeds have in turns one disk and two, direct and buffered ones, exact freezes and,
    /// where that is another way to go, such that soon are fuzzy.
    pub(super) fn suit(&mut self, workload: Workload, seed: u64) {
        self.depth = self.depth.min(6);
        self.direct = (seed >> 1).is_multiple_of(2);
        use Workload as W;
        let of_freezes = matches!(
            workload,
            W::Cut | W::Seal | W::Release | W::Undo | W::Publish | W::Claim | W::Recovery(..)
        );
        self.preserve_limit = (!(seed >> 2).is_multiple_of(2) && of_freezes).then_some(0);
        if workload == Workload::Evict {
            self.hot = 160;
            (self.bounds.write_max, self.bounds.regions_cap) = (32 << 10, BUDGET / 2);
        }
    }

    /// Those of a plan; a life without mischief has no faults.
    pub(super) fn draw(plan: &Plan, rng: &mut Rng) -> Self {
        // Bounds that are met soon: large requests among few regions, logs that soon are too long.
        let mut sizes = Rng::new(plan.seed ^ 0xb0bd);
        let mut size = |soon, late| if sizes.chance(500) { soon } else { late };
        let mischief = plan.mischief;
        let write_max = size(128 << 10, 32 << 10);
        // Where no request needs many, few regions: they come and go all the time.
        let regions_cap = if write_max < 64 << 10 { size(BUDGET, BUDGET / 2) } else { BUDGET };
        let mut some = |chance, per_mille| if mischief && rng.chance(chance) { per_mille } else { 0 };
        Self {
            write_errors: some(250, 15) + some(100, 100),
            sync_errors: some(150, 30),
            call_errors: some(250, 12),
            persist_errors: some(200, 20),
            preserve_errors: some(200, 20),
            jumps: some(300, 30),
            depth: 1 + rng.index(14),
            direct: !mischief || !rng.chance(150),
            strict: mischief && rng.chance(120),
            preserve_limit: (mischief && rng.chance(100)).then(|| rng.below(6) * 8192),
            bounds: Bounds {
                write_max,
                regions_cap,
                log_max: size(200, 16 << 20),
                log_live_max: size(2 << 10, 1 << 30),
                zero_preserve_max: *[64 << 10, 16 << 10, 1 << 20].get(rng.index(3)).expect("below 3"),
                copy_max: *[8 << 10, 1 << 20].get(rng.index(2)).expect("below 2"),
                fold_slice: 1 + rng.below(2),
            },
            hot: 4 + rng.below(24),
            lazy_syncs: *[0, 0, 800, 950].get(rng.index(4)).expect("below 4"),
            lazy_ghosts: *[0, 0, 980].get(sizes.index(3)).expect("below 3"),
            hangs: *[0, 0, 0, 6].get(sizes.index(4)).filter(|_| mischief).unwrap_or(&0),
            mark_errors: if mischief && rng.chance(150) { 400 } else { 0 },
            read_errors: if mischief && rng.chance(120) { 25 } else { 0 },
            moods: match mischief && rng.chance(500) {
                true => Moods { fails: 20, loses: 30, doubles: 30, stale: 200, short: 200 },
                false => Moods::default(),
            },
            holes: rng.chance(500),
            clock: mischief && rng.chance(150),
            collects: mischief && rng.chance(300),
            vault_hands: if mischief && rng.chance(120) { 1 } else { 0 },
            resizes: mischief && rng.chance(200),
            off: if mischief && rng.chance(100) { 15 } else { 0 },
            twin: (mischief && rng.chance(120)).then(|| {
                let kind = if rng.chance(600) { Twin::Clone } else { Twin::Stranger };
                (rng.below(1200), kind)
            }),
        }
    }
}
