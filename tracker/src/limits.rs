//! Every bound, with its arithmetic.

/// The largest single write, and the largest piece of a zero or discard, in bytes (DESIGN 3.1).
pub const WRITE_MAX: u64 = 64 << 20;

/// The most that one discard or zero request preserves, in bytes (W3).
pub const ZERO_PRESERVE_MAX: u64 = 16 << 20;

/// The largest payload of an NBD write or read, in bytes: what the protocol lets a server assume of any client.
pub const NBD_PAYLOAD_MAX: u32 = 32 << 20;

const _: () = assert!(NBD_PAYLOAD_MAX as u64 <= WRITE_MAX, "an NBD write is one piece");

/// Blocks are 4 KiB to 1 MiB.
pub const BLOCK_SHIFT_MIN: u8 = 12;
/// See [`BLOCK_SHIFT_MIN`].
pub const BLOCK_SHIFT_MAX: u8 = 20;

/// The most disks in a group.
pub const DISKS_MAX: usize = 64;

/// The largest disk in bytes: 1 PiB. At 4 KiB blocks its map has 2^38 bits, 32 GiB.
pub const DISK_MAX: u64 = 1 << 50;
