//! The only place that names XXH3. It finds accidents in our local files; it decides nothing that drops data (V7).

/// The checksum of `bytes` under `seed`, which names the file, so that bytes of another file never check.
pub fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}
