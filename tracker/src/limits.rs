//! Every bound, with its arithmetic.

use crate::format::intents::REGIONS_MAX;

/// The largest single write, and the largest piece of a zero or discard, in bytes (DESIGN 3.1).
pub const WRITE_MAX: u64 = 64 << 20;

/// The most that one discard or zero request preserves, in bytes (W3).
pub const ZERO_PRESERVE_MAX: u64 = 16 << 20;

/// The bounds that decide how work is divided. A simulator makes them small, so that a small disk meets them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// [`WRITE_MAX`].
    pub write_max: u64,
    /// [`ZERO_PRESERVE_MAX`].
    pub zero_preserve_max: u64,
    /// The most that one copy of preserving takes, in bytes, unless a block is larger.
    pub copy_max: u64,
    /// Words of a map that one slice of folding handles: by default 64 KiB of map, some microseconds.
    pub fold_slice: u64,
    /// The most regions that [`Self::regions_least`] asks for: half of what a file of intents holds.
    pub regions_cap: u64,
    /// A change log that eviction has grown to this size, or to twice its map's, is replaced by a cut of the machine's own.
    pub log_max: u64,
    /// One that has grown to this size, or to 2 bytes a block of the disk, while a freeze is live ends the freeze.
    pub log_live_max: u64,
}

impl Bounds {
    /// The fewest regions that the intents must hold: four writes of the largest size, wherever they begin. A write
    /// takes all its regions at once (W1), and those of some others are being cleaned meanwhile. Of the smallest
    /// regions a file holds fewer; zeros and discards are cut in smaller pieces then.
    pub fn regions_least(&self, region_shift: u8) -> u64 {
        (4 * ((self.write_max >> region_shift) + 1)).min(self.regions_cap)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            write_max: WRITE_MAX,
            zero_preserve_max: ZERO_PRESERVE_MAX,
            copy_max: 1 << 20,
            fold_slice: 8192,
            regions_cap: REGIONS_MAX as u64 / 2,
            log_max: 16 << 20,
            log_live_max: 1 << 30,
        }
    }
}

/// The largest payload of an NBD write or read, in bytes: what the protocol lets a server assume of any client.
pub const NBD_PAYLOAD_MAX: u32 = 32 << 20;

const _: () = assert!(ZERO_PRESERVE_MAX <= WRITE_MAX);
const _: () = assert!(NBD_PAYLOAD_MAX as u64 <= WRITE_MAX, "an NBD write is one piece");
const _: () = assert!(
    (NBD_PAYLOAD_MAX >> BLOCK_SHIFT_MIN) as usize + 1 < REGIONS_MAX / 2 / 4 * 3,
    "a write fits the intents whatever the size of a region, also if failed writes keep a quarter of them"
);

/// The longest reason that is kept, in bytes: reasons go into metas and answers, whose sizes are bounded.
pub const REASON_MAX: usize = 512;

/// As much of a reason as is kept.
pub fn clip_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_MAX)]
}

/// Blocks are 4 KiB to 1 MiB.
pub const BLOCK_SHIFT_MIN: u8 = 12;
/// See [`BLOCK_SHIFT_MIN`].
pub const BLOCK_SHIFT_MAX: u8 = 20;

/// The most disks in a group.
pub const DISKS_MAX: usize = 64;

/// The largest disk in bytes: 1 PiB. At 4 KiB blocks its map has 2^38 bits, 32 GiB.
pub const DISK_MAX: u64 = 1 << 50;
