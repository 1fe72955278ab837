//! Sizes and times on both command lines, against a model with wide numbers.

use std::time::Duration;
use towline::cli::units::{duration, size};
use towline_tracker::units;

/// Reads a made-up size and time.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let sizes = [
        ("", 1),
        ("B", 1),
        ("K", 1 << 10),
        ("KiB", 1 << 10),
        ("M", 1 << 20),
        ("MiB", 1 << 20),
        ("G", 1 << 30),
        ("GiB", 1 << 30),
        ("T", 1 << 40),
        ("TiB", 1 << 40),
    ];
    let bytes = product(text, &sizes).and_then(|bytes| u64::try_from(bytes).ok());
    assert_eq!(size(text).ok(), bytes, "{text:?}");
    assert_eq!(units::size(text).ok(), bytes, "{text:?}");

    let long = [("", 1000), ("ms", 1), ("s", 1000), ("m", 60_000), ("min", 60_000), ("h", 3_600_000)];
    let year = 1..=366 * 86_400_000;
    let time = product(text, &long).filter(|ms| year.contains(ms)).map(|ms| Duration::from_millis(ms as u64));
    assert_eq!(duration(text).ok(), time, "{text:?}");

    let short = [("ms", 1), ("s", 1000), ("m", 60_000)];
    let time = product(text, &short).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    assert_eq!(units::time(text).ok(), time, "{text:?}");
}

/// A number times its unit; none if it is no number below 2^64 or the unit is none of these.
fn product(text: &str, units: &[(&str, u128)]) -> Option<u128> {
    units.iter().find_map(|(unit, factor)| {
        let digits = text.strip_suffix(unit)?;
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = plain.then(|| digits.parse::<u64>().ok())??;
        Some(u128::from(number) * factor)
    })
}
