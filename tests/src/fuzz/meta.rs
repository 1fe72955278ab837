//! `disk.meta` and the disk's mark. The body is the fuzzer's, the envelope right: what is accepted is written again as
//! the same bytes.

use super::told;
use towline_tracker::format::envelope::{BODY_MAX, wrap};
use towline_tracker::format::meta::{MAGIC, MARK_MAGIC, Mark, Meta, VERSION};

/// Reads a made-up meta and mark.
pub fn run(data: &[u8]) {
    // From nowhere.
    let _ = (told(Meta::decode(data)), told(Mark::decode(data)));
    let body = &data[..data.len().min(BODY_MAX)];
    let file = wrap(MAGIC, VERSION, body);
    if let Some(meta) = told(Meta::decode(&file)) {
        assert_eq!(meta.encode(), file, "{meta:?}");
    }
    let value = wrap(MARK_MAGIC, VERSION, body);
    if let Some(mark) = told(Mark::decode(&value)) {
        assert_eq!(mark.encode(), value, "{mark:?}");
    }
}
