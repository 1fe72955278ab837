//! Which points a policy keeps: the newest ones, and the last of so many hours, days, weeks, months and years that have
//! any (as restic and Proxmox Backup Server count). Pure.
//!
//! Times are those of the points, never of whoever asks: a clock that jumps makes no point older. An *abandoned* point
//! (one that a later claim passed over) never takes the place of one in the lineage: it is kept beside it, as long as its
//! hour, day and so on is.

use jiff::Timestamp;
use jiff::civil::ISOWeekDate;
use jiff::tz::TimeZone;
use std::fmt;

/// How many points are kept, by each rule; 0: the rule keeps none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest.
    pub last: u32,
    /// The last one of so many hours.
    pub hourly: u32,
    /// Of so many days.
    pub daily: u32,
    /// Of so many ISO weeks.
    pub weekly: u32,
    /// Of so many months.
    pub monthly: u32,
    /// Of so many years.
    pub yearly: u32,
    /// Entries that can't be read are let go; else they keep everything.
    pub past_damage: bool,
}

impl Policy {
    /// Whether no rule keeps anything.
    pub fn is_empty(&self) -> bool {
        Self { past_damage: false, ..*self } == Self::default()
    }
}

/// Why a point is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the newest of the lineage, which nothing lets go.
    Newest,
    /// Somebody pinned it.
    Pinned,
    /// Too new: what is being shipped lies over it.
    InUse,
    /// It is one of the last.
    Last,
    /// It is the last of its hour.
    Hourly,
    /// It is the last of its day.
    Daily,
    /// It is the last of its week.
    Weekly,
    /// It is the last of its month.
    Monthly,
    /// It is the last of its year.
    Yearly,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Newest => "newest",
            Self::Pinned => "pinned",
            Self::InUse => "in use",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        })
    }
}

/// A point, as far as rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The instant of its cut, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Not in the group's lineage.
    pub abandoned: bool,
}

/// The part of the calendar that a rule counts by; equal for two points of the same hour, day ...
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bucket {
    Hour(i16, i16, i8, i32),
    Day(i16, i16),
    Week(ISOWeekDate),
    Month(i16, i8),
    Year(i16),
}

/// Why each of these points, the oldest first, is kept; empty: it is let go.
pub fn reasons(points: &[Candidate], policy: &Policy, zone: &TimeZone) -> Vec<Vec<Reason>> {
    let mut reasons = vec![Vec::new(); points.len()];
    // The last ones are those at the end of the log, whatever their times say.
    let mut left = policy.last;
    for (point, why) in points.iter().zip(&mut reasons).rev() {
        if left == 0 {
            break;
        }
        why.push(Reason::Last);
        left -= u32::from(!point.abandoned);
    }
    let mut by_time: Vec<_> = (0..points.len()).collect();
    by_time.sort_by_key(|at| (points[*at].time_ns, *at));
    type Part = fn(&jiff::Zoned) -> Bucket;
    let rules: [(u32, Reason, Part); 5] = [
        (policy.hourly, Reason::Hourly, |time| {
            // An hour that comes twice when clocks are put back is two.
            Bucket::Hour(time.year(), time.day_of_year(), time.hour(), time.offset().seconds())
        }),
        (policy.daily, Reason::Daily, |time| Bucket::Day(time.year(), time.day_of_year())),
        (policy.weekly, Reason::Weekly, |time| {
            // Its Monday stands for the week.
            let week = time.date().iso_week_date();
            let monday = ISOWeekDate::new(week.year(), week.week(), jiff::civil::Weekday::Monday);
            Bucket::Week(monday.unwrap_or(week))
        }),
        (policy.monthly, Reason::Monthly, |time| Bucket::Month(time.year(), time.month())),
        (policy.yearly, Reason::Yearly, |time| Bucket::Year(time.year())),
    ];
    let zoned = |at: usize| {
        let time = Timestamp::from_nanosecond(i128::from(points[at].time_ns)).unwrap_or(Timestamp::MAX);
        time.to_zoned(zone.clone())
    };
    for (mut left, reason, bucket) in rules {
        // Of the bucket that is being looked at, whether it has its point of the lineage, and its abandoned one.
        let mut now: Option<(Bucket, [bool; 2])> = None;
        for at in by_time.iter().rev().copied() {
            let its = bucket(&zoned(at));
            let taken = match &mut now {
                Some((current, taken)) if *current == its => taken,
                _ if left == 0 => break,
                _ => {
                    left -= 1;
                    &mut now.insert((its, [false; 2])).1
                }
            };
            let taken = &mut taken[usize::from(points[at].abandoned)];
            if !std::mem::replace(taken, true) {
                reasons[at].push(reason);
            }
        }
    }
    if let Some(newest) = points.iter().rposition(|point| !point.abandoned) {
        reasons[newest].insert(0, Reason::Newest);
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Candidate {
        let time: Timestamp = text.parse().unwrap();
        Candidate { time_ns: u64::try_from(time.as_nanosecond()).unwrap(), abandoned: false }
    }

    fn kept(points: &[Candidate], policy: Policy) -> Vec<usize> {
        let reasons = reasons(points, &policy, &TimeZone::UTC);
        (0..points.len()).filter(|at| !reasons[*at].is_empty()).collect()
    }

    #[test]
    fn each_rule_keeps_the_last_of_its_part_of_the_calendar() {
        let points = [
            at("2024-12-30T10:00:00Z"), // ISO week 2025-W01
            at("2025-01-01T10:00:00Z"), // the same week, another month and year
            at("2025-01-01T10:30:00Z"),
            at("2025-01-01T11:00:00Z"),
            at("2025-01-05T00:00:00Z"),
            at("2025-01-06T00:00:00Z"), // the next week
            at("2025-02-01T00:00:00Z"),
        ];
        let none = Policy::default();
        assert_eq!(kept(&points, none), [6], "the newest goes by no rule");
        assert_eq!(kept(&points, Policy { last: 3, ..none }), [4, 5, 6]);
        assert_eq!(kept(&points, Policy { hourly: 5, ..none }), [2, 3, 4, 5, 6]);
        assert_eq!(kept(&points, Policy { daily: 4, ..none }), [3, 4, 5, 6]);
        assert_eq!(kept(&points, Policy { weekly: 3, ..none }), [4, 5, 6]);
        assert_eq!(kept(&points, Policy { monthly: 9, ..none }), [0, 5, 6]);
        assert_eq!(kept(&points, Policy { yearly: 2, ..none }), [0, 6]);
        assert_eq!(kept(&points, Policy { last: 1, yearly: 2, daily: 2, ..none }), [0, 5, 6]);
    }

    #[test]
    fn an_hour_that_comes_twice_is_two_and_days_are_those_of_the_zone() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let points = [at("2025-10-26T00:30:00Z"), at("2025-10-26T01:30:00Z"), at("2025-10-26T23:30:00Z")];
        let keep = |policy| {
            let reasons = reasons(&points, &policy, &zone);
            reasons.iter().map(|why| !why.is_empty()).collect::<Vec<_>>()
        };
        assert_eq!(keep(Policy { hourly: 3, ..Policy::default() }), [true, true, true]);
        assert_eq!(
            keep(Policy { daily: 2, ..Policy::default() }),
            [false, true, true],
            "past midnight there"
        );
    }

    /// F42: a clock that was years ahead for a while costs one place of each rule, and the newest point is kept.
    #[test]
    fn a_clock_that_jumped_lets_nothing_else_go() {
        let points = [
            at("2025-01-01T00:00:00Z"),
            at("2025-01-02T00:00:00Z"),
            at("2055-01-01T00:00:00Z"),
            at("2025-01-03T00:00:00Z"),
        ];
        assert_eq!(kept(&points, Policy { daily: 3, ..Policy::default() }), [1, 2, 3]);
        assert_eq!(kept(&points, Policy { daily: 1, ..Policy::default() }), [2, 3]);
        let points: Vec<_> =
            points.into_iter().chain([Candidate { time_ns: u64::MAX, abandoned: false }]).collect();
        assert_eq!(kept(&points, Policy { last: 1, yearly: 100, ..Policy::default() }), [2, 3, 4]);
    }

    #[test]
    fn an_abandoned_point_is_kept_beside_the_lineage_and_in_nobodys_place() {
        let mut points = [
            at("2025-01-01T10:00:00Z"),
            at("2025-01-01T11:00:00Z"),
            at("2025-01-02T10:00:00Z"),
            at("2025-01-02T11:00:00Z"),
        ];
        (points[1].abandoned, points[3].abandoned) = (true, true);
        assert_eq!(kept(&points, Policy { daily: 1, ..Policy::default() }), [2, 3]);
        assert_eq!(kept(&points, Policy { daily: 2, ..Policy::default() }), [0, 1, 2, 3]);
        assert_eq!(kept(&points, Policy { last: 1, ..Policy::default() }), [2, 3]);
    }

    proptest! {
        /// Goal: more is never less. Method: a policy that keeps more of any kind keeps at least the same points.
        #[test]
        fn a_more_generous_policy_keeps_the_same_and_more(
            times in prop::collection::vec((0u64..200_000_000, any::<bool>()), 1..40),
            counts in [0u32..5, 0..5, 0..5, 0..5, 0..5, 0..5],
            which in 0usize..6,
        ) {
            let points: Vec<_> = times
                .iter()
                .map(|(seconds, abandoned)| Candidate { time_ns: seconds * 1_000_000_000, abandoned: *abandoned })
                .collect();
            let policy = |counts: [u32; 6]| {
                let [last, hourly, daily, weekly, monthly, yearly] = counts;
                Policy { last, hourly, daily, weekly, monthly, yearly, past_damage: false }
            };
            let mut more = counts;
            more[which] += 1;
            let (less, more) = (kept(&points, policy(counts)), kept(&points, policy(more)));
            prop_assert!(less.iter().all(|at| more.contains(at)), "{:?} {:?}", less, more);
        }
    }
}
