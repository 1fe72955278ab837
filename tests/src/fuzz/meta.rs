//! `disk.meta` and the disk's mark. The body is the fuzzer's, the envelope right: what is accepted is written again as
//! the same bytes.

use towline_tracker::format::envelope::{BODY_MAX, wrap};
use towline_tracker::format::meta::{MAGIC, MARK_MAGIC, Mark, Meta, VERSION};

/// Reads a made-up meta and mark.
pub fn run(data: &[u8]) {
    // From nowhere.
    let _ = (Meta::decode(data), Mark::decode(data));
    let body = &data[..data.len().min(BODY_MAX)];
    let file = wrap(MAGIC, VERSION, body);
    if let Ok(meta) = Meta::decode(&file) {
        assert_eq!(meta.encode(), file, "{meta:?}");
    }
    let value = wrap(MARK_MAGIC, VERSION, body);
    if let Ok(mark) = Mark::decode(&value) {
        assert_eq!(mark.encode(), value, "{mark:?}");
    }
}
