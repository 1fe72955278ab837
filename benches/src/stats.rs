//! A few numbers instead of many.

use serde::Serialize;
use std::fmt;

/// The least, the middle and the greatest of some measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The least.
    pub(crate) min: f64,
    /// The middle.
    pub(crate) median: f64,
    /// The greatest.
    pub(crate) max: f64,
    /// How many there were.
    pub(crate) n: usize,
}

impl Spread {
    /// Of these values; all zero if there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let n = values.len();
        if n == 0 {
            return Self { min: 0.0, median: 0.0, max: 0.0, n };
        }
        let median = (values[(n - 1) / 2] + values[n / 2]) / 2.0;
        Self { min: values[0], median, max: values[n - 1], n }
    }

    /// Of what each round makes of two contestants' values.
    pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> Self {
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
    }
}

/// A number with about three digits that count.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 10_000.0 => format!("{:.0}k", value / 1000.0),
        size if size >= 1000.0 => format!("{:.1}k", value / 1000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}-{}]", digits(self.median), digits(self.min), digits(self.max))
    }
}

/// The value below which `part` of the sorted values lie.
pub(crate) fn percentile(sorted: &[u64], part: f64) -> u64 {
    match sorted.len() {
        0 => 0,
        n => sorted[((n as f64 * part).ceil() as usize).clamp(1, n) - 1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_of_its_values() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of([4.0, 1.0]).to_string(), "2.50 [1.00-4.00]");
        assert_eq!(Spread::ratio(&[4.0, 9.0], &[2.0, 3.0]).max, 3.0);
        assert_eq!(Spread::of([]).n, 0);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<u64> = (1..=1000).collect();
        assert_eq!(percentile(&values, 0.5), 500);
        assert_eq!(percentile(&values, 0.999), 999);
        assert_eq!(percentile(&values[..1], 0.999), 1);
        assert_eq!(percentile(&[], 0.5), 0);
    }
}
