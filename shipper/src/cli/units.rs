//! Sizes and times on the command line.

use std::time::Duration;

/// `4096`, `64KiB`, `1GiB`, also `64K`, `1G`: powers of 1024.
///
/// # Errors
/// What is wrong, for people.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match &text[digits..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err("a size is a number with B, KiB, MiB, GiB or TiB".to_owned()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| "a size begins with a whole number".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "the size is too large".to_owned())
}

/// `500ms`, `30s`, `5m`, `1h`; a bare number is seconds. More than zero, at most a year.
///
/// # Errors
/// What is wrong, for people.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a time is a number with ms, s, m or h".to_owned()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| "a time begins with a whole number".to_owned())?;
    let ms = number.checked_mul(unit_ms).filter(|ms| (1..=366 * 86_400_000).contains(ms));
    ms.map(Duration::from_millis)
        .ok_or_else(|| "the time must be more than zero and at most a year".to_owned())
}

/// How long to lock: `30d`, `12h`, also as [`duration`]; at most ten years, for nobody can take it back.
///
/// # Errors
/// What is wrong, for people.
pub fn lock_time(text: &str) -> Result<Duration, String> {
    let wrong = || "a time to lock for is a number with d, h, m or s, at most 3652d".to_owned();
    let Some(days) = text.strip_suffix('d') else { return duration(text).map_err(|_| wrong()) };
    match days.parse() {
        Ok(days @ 1..=3652u64) if days.to_string() == text.trim_end_matches('d') => {
            Ok(Duration::from_secs(days * 86_400))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read() {
        assert_eq!(
            [size("0"), size("4096B"), size("64KiB"), size("2G")],
            [Ok(0), Ok(4096), Ok(65536), Ok(2 << 30)]
        );
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(
            [duration("30"), duration("30s")],
            [Ok(Duration::from_secs(30)), Ok(Duration::from_secs(30))]
        );
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!([lock_time("30d"), lock_time("90s")], [2_592_000, 90].map(|s| Ok(Duration::from_secs(s))));
        for bad in ["", "d", "0d", "3653d", "1y", "-1d", "+1d"] {
            assert!(lock_time(bad).is_err(), "{bad}");
        }
        for bad in ["", "K", "-1", "1.5G", "1 G", "99999999999T", "1kb"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "0s", "1d", "99999999999h", "s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
