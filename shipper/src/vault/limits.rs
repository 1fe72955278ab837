//! Every bound of the vault's formats, with its arithmetic. Decoders check them before they allocate.

/// The smallest block: 4 KiB.
pub const BLOCK_SHIFT_MIN: u8 = 12;
/// The largest block: 1 MiB.
pub const BLOCK_SHIFT_MAX: u8 = 20;
/// The data of a frame, unless one block is larger (V5).
pub const FRAME_DATA: usize = 64 << 10;
/// The data of any frame: one largest block.
pub const FRAME_DATA_MAX: usize = 1 << BLOCK_SHIFT_MAX;
/// Blocks of a frame: of the smallest blocks.
pub const FRAME_BLOCKS_MAX: usize = FRAME_DATA >> BLOCK_SHIFT_MIN;
/// A sealed frame: raw data (compressed data that is longer is not stored), header and tag.
pub const FRAME_SEALED_MAX: usize = FRAME_DATA_MAX + 8 + 16;
/// The size at which a pack is closed, unless asked otherwise.
pub const PACK_SIZE: usize = 17 << 20;
/// The smallest pack size that may be asked for.
pub const PACK_SIZE_MIN: usize = 64 << 10;
/// The largest pack size that may be asked for.
pub const PACK_SIZE_MAX: usize = 256 << 20;
/// A whole pack: closed when it reaches its size, so at most a frame and a footer more. A footer needs 24 bytes
/// a frame and 16 a block, and a compressed frame may be tiny: bounded by frames, see [`PACK_FRAMES_MAX`].
pub const PACK_MAX: usize = PACK_SIZE_MAX + FRAME_SEALED_MAX + FOOTER_MAX + 256;
/// Frames of a pack: 1 GiB of data, a footer of at most 4.4 MiB.
pub const PACK_FRAMES_MAX: usize = 1 << 14;
/// A pack's footer.
pub const FOOTER_MAX: usize = 32 + PACK_FRAMES_MAX * (24 + 16 * FRAME_BLOCKS_MAX) + 16;
/// An index page with its tag (V6).
pub const PAGE_SEALED_MAX: usize = 64 << 10;
/// An index page without its tag.
pub const PAGE_MAX: usize = PAGE_SEALED_MAX - 16;
/// Pages of an index: 16 GiB of pages, 64 MiB of directory. An index holds at most what a checkpoint does.
pub const INDEX_PAGES_MAX: usize = 1 << 18;
/// Packs of an index.
pub const INDEX_PACKS_MAX: usize = 1 << 18;
/// An index's directory.
pub const DIRECTORY_MAX: usize = 64 + INDEX_PAGES_MAX * 64 + INDEX_PACKS_MAX * 96 + 16;
/// What rides inside an entry (V1): a cycle of up to 1 MiB of blocks that can't be compressed, with their frames, footers and
/// indexes: at most some 100 bytes a block and 1 KiB a disk.
pub const ATTACHED_MAX: usize = (1 << 20) + (64 << 10);
/// An entry's payload: [`INDEXES_MAX`] indexes, and each disk's name and numbers.
pub const PAYLOAD_MAX: usize = 64 << 20;
/// Indexes that a content lists, over all disks: half a million. Far more than folding leaves (V6), unless none can be made.
pub const INDEXES_MAX: usize = 1 << 19;
/// The largest part of a fold, unless its last page is large: one put, and as much memory.
pub const FOLD_PART_MAX: usize = 8 << 20;
/// What a content needs for an index that it lists.
pub const INDEX_REF: usize = 97;
/// A whole entry.
pub const ENTRY_MAX: usize = 224 + ATTACHED_MAX + PAYLOAD_MAX + 16;
/// A catalog: some hundred thousand kept points.
pub const CATALOG_MAX: usize = 16 << 20;
/// The `vault` object.
pub const DESCRIPTOR_MAX: usize = 64 << 10;
/// The largest disk: 8 EiB, so that byte offsets stay positive in 64 bits.
pub const DISK_SIZE_MAX: u64 = i64::MAX as u64;
/// Disks of a group.
pub const DISKS_MAX: usize = 1 << 12;

const _: () = assert!(FRAME_BLOCKS_MAX == 16);
// A kibibyte for each disk's image and what is covered of it (a tracker's names have at most 200 bytes), and one for the rest.
const _: () = assert!(INDEXES_MAX * INDEX_REF + (DISKS_MAX + 1) * 1024 <= PAYLOAD_MAX);
// Each pack of a part has at least one frame with one run of one block in it.
const _: () = assert!((FOLD_PART_MAX + PAGE_SEALED_MAX) / (24 + 16 + 32) <= INDEX_PACKS_MAX);
const _: () = assert!(FRAME_DATA_MAX >= FRAME_DATA);
// A page holds at least one frame with one run for each of its blocks.
const _: () = assert!(16 + 24 + FRAME_BLOCKS_MAX * (16 + 32) <= PAGE_MAX);
// Offsets in frame fields of four bytes.
const _: () = assert!(FRAME_SEALED_MAX < u32::MAX as usize);
// Frames of a page fit the two bytes of a run, with one value left for zeros.
const _: () = assert!(PAGE_MAX / 24 < 0xffff);
