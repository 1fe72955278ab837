//! Sizes and times on the command line.

use std::time::Duration;

/// A size in bytes: `4096`, `64KiB`, also `64K`; powers of 1024.
///
/// # Errors
/// What is wrong, for people.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1u64 << 40,
        _ => return Err("a size is a number with KiB, MiB, GiB, TiB or nothing".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a size begins with a whole number".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "that is more than 16 EiB".into())
}

/// A span of time: `250ms`, `2s`, `1m`.
///
/// # Errors
/// What is wrong, for people.
pub fn time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "a time begins with a whole number".to_owned())?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("a time is a number with ms, s or m".into()),
    };
    let long = || "that is longer than anybody waits".to_owned();
    Ok(Duration::from_millis(number.checked_mul(factor).ok_or_else(long)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!((size("4KiB"), size("4K"), size("3GiB")), (Ok(4096), Ok(4096), Ok(3 << 30)));
        assert!(["", "KiB", "-1", "1.5G", "1kb", "99999999TiB"].iter().all(|text| size(text).is_err()));
        assert_eq!((time("250ms"), time("2s")), (Ok(Duration::from_millis(250)), Ok(Duration::from_secs(2))));
        assert!(["5", "s", "1h"].iter().all(|text| time(text).is_err()));
    }
}
