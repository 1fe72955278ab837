//! Rules for the rate by day and time, as people write them:
//!
//! ```text
//! rule   = [days] [times] rate          mon-fri 08:00-18:00 20MiB/s
//! days   = day or day-day, by commas    mon-fri   sat,sun   fri-mon
//! times  = HH:MM-HH:MM                  22:00-06:00 is the night that begins on that day; 24:00 is its end
//! rate   = SIZE/s or unlimited          50MiB/s
//! ```
//! The last rule that matches is in force, as in most files of rules: general ones first, exceptions behind them. Where none
//! matches there is no limit. Times are those of the clock on the wall, whatever it does in spring.

use super::bucket::Rate;
use crate::cli::units;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// Below this a rule is taken for a mistake: a pack would take hours.
const RATE_MIN: u64 = 1 << 10;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MINUTES: u16 = 24 * 60;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Of each day from Monday on, whether the rule begins on it.
    days: [bool; 7],
    /// From this minute of the day, to before that one: on the next day if it is smaller.
    times: (u16, u16),
    rate: Rate,
}

/// A moment of a week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// From 0, Monday.
    pub day: usize,
    /// Of the day.
    pub minute: u16,
}

impl Rule {
    /// A rate at all times.
    pub fn always(rate: Rate) -> Self {
        Self { days: [true; 7], times: (0, DAY_MINUTES), rate }
    }

    fn matches(&self, Moment { day, minute }: Moment) -> bool {
        let (begin, end) = self.times;
        let today = self.days[day];
        match begin < end {
            true => today && (begin..end).contains(&minute),
            false => today && minute >= begin || self.days[(day + 6) % 7] && minute < end,
        }
    }
}

/// Rules in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule(pub Vec<Rule>);

impl Schedule {
    /// The rate of the last rule that matches, if one does.
    pub fn rate_at(&self, moment: Moment) -> Option<Rate> {
        self.0.iter().rev().find(|rule| rule.matches(moment)).map(|rule| rule.rate)
    }

    /// Reads a file of rules: one a line; what stands behind `#` is for people.
    ///
    /// # Errors
    /// The line and what is wrong with it.
    pub fn of_lines(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                rules.push(line.parse().map_err(|what| format!("line {number}: {what}"))?);
            }
        }
        Ok(Self(rules))
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words: Vec<_> = text.split_ascii_whitespace().collect();
        let last = words.pop().ok_or("a limit is a rate: 50MiB/s")?;
        let mut rule = Self::always(rate(last)?);
        let mut words = words.into_iter().peekable();
        if let Some(word) = words.next_if(|word| !word.starts_with(|first: char| first.is_ascii_digit())) {
            rule.days = days(word)?;
        }
        if let Some(word) = words.next() {
            rule.times = times(word)?;
        }
        match words.next() {
            None => Ok(rule),
            Some(word) => Err(format!("{word:?} is too much; a rule is [DAYS] [HH:MM-HH:MM] RATE")),
        }
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "unlimited" {
        return Ok(None);
    }
    let wrong = || format!("{text:?} is no rate; give one as 50MiB/s, or unlimited");
    let bytes = units::size(text.strip_suffix("/s").ok_or_else(wrong)?).map_err(|_| wrong())?;
    match NonZeroU64::new(bytes).filter(|bytes| bytes.get() >= RATE_MIN) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(format!("{text} is less than 1KiB/s, the lowest limit")),
    }
}

fn days(text: &str) -> Result<[bool; 7], String> {
    let wrong = || format!("{text:?} are no days; give them as mon-fri or sat,sun");
    let day = |text: &str| DAYS.iter().position(|day| *day == text).ok_or_else(wrong);
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days[at] = true;
        while at != last {
            at = (at + 1) % 7;
            days[at] = true;
        }
    }
    Ok(days)
}

fn times(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("{text:?} are no times; give them as 08:00-18:00");
    let minute = |text: &str| {
        let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
        let number = |text: &str| match text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u16>().map_err(|_| wrong()),
            false => Err(wrong()),
        };
        let (hour, minute) = (number(hour)?, number(minute)?);
        match (hour, minute) {
            (0..24, 0..60) | (24, 0) => Ok(hour * 60 + minute),
            _ => Err(wrong()),
        }
    };
    let (begin, end) = text.split_once('-').ok_or_else(wrong)?;
    match (minute(begin)?, minute(end)?) {
        (DAY_MINUTES, _) => Err(wrong()),
        (begin, end) if begin == end => {
            Err(format!("{text} is no time at all; leave it out for the whole day"))
        }
        times => Ok(times),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != [true; 7] {
            let days: Vec<_> =
                DAYS.iter().zip(self.days).filter(|(_, on)| *on).map(|(day, _)| *day).collect();
            write!(f, "{} ", days.join(","))?;
        }
        let (begin, end) = self.times;
        if self.times != (0, DAY_MINUTES) {
            write!(f, "{:02}:{:02}-{:02}:{:02} ", begin / 60, begin % 60, end / 60, end % 60)?;
        }
        match self.rate {
            None => f.write_str("unlimited"),
            Some(rate) => write!(f, "{rate}B/s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(day: &str, hour: u16, minute: u16) -> Moment {
        Moment { day: DAYS.iter().position(|known| *known == day).unwrap(), minute: hour * 60 + minute }
    }

    fn schedule(rules: &[&str]) -> Schedule {
        Schedule(rules.iter().map(|rule| rule.parse().unwrap()).collect())
    }

    fn mib(count: u64) -> Option<Rate> {
        Some(NonZeroU64::new(count << 20))
    }

    #[test]
    fn the_last_rule_that_matches_is_in_force_and_without_one_there_is_no_limit() {
        let rules = schedule(&[
            "50MiB/s",
            "mon-fri 08:00-18:00 20MiB/s",
            "wed 12:00-13:00 unlimited",
            "sat,sun 90MiB/s",
        ]);
        assert_eq!(rules.rate_at(at("mon", 7, 59)), mib(50));
        assert_eq!(rules.rate_at(at("mon", 8, 0)), mib(20));
        assert_eq!(rules.rate_at(at("fri", 17, 59)), mib(20));
        assert_eq!(rules.rate_at(at("fri", 18, 0)), mib(50));
        assert_eq!(rules.rate_at(at("wed", 12, 30)), Some(None));
        assert_eq!(rules.rate_at(at("sun", 12, 0)), mib(90));
        assert_eq!(schedule(&["mon 1MiB/s"]).rate_at(at("tue", 0, 0)), None);
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins_and_a_range_of_days_goes_round() {
        let night = schedule(&["fri 22:00-06:00 1MiB/s"]);
        assert_eq!(night.rate_at(at("fri", 22, 0)), mib(1));
        assert_eq!(night.rate_at(at("sat", 5, 59)), mib(1));
        for other in [at("fri", 5, 0), at("sat", 6, 0), at("sat", 23, 0)] {
            assert_eq!(night.rate_at(other), None);
        }
        let sunday = schedule(&["sun 23:00-01:00 1MiB/s"]);
        assert_eq!(sunday.rate_at(at("mon", 0, 30)), mib(1));
        let days = schedule(&["sat-mon 1MiB/s"]);
        assert!(["sat", "sun", "mon"].iter().all(|day| days.rate_at(at(day, 12, 0)).is_some()));
        assert!(days.rate_at(at("tue", 0, 0)).is_none());
        let evening = schedule(&["20:00-24:00 1MiB/s"]);
        assert_eq!((evening.rate_at(at("mon", 23, 59)), evening.rate_at(at("tue", 0, 0))), (mib(1), None));
    }

    #[test]
    fn nonsense_is_refused_with_what_is_wrong() {
        for bad in [
            "",
            " ",
            "50MiB",
            "50MiB/h",
            "fast",
            "0/s",
            "1023B/s",
            "-5MiB/s",
            "1.5MiB/s",
            "99999999999TiB/s",
            "mon",
            "mon-fri",
            "08:00-18:00",
            "monday 1MiB/s",
            "mon- 1MiB/s",
            "mon,,tue 1MiB/s",
            "mon-tue-wed 1MiB/s",
            "08:00 1MiB/s",
            "8:00-18:00 1MiB/s",
            "08:00-25:00 1MiB/s",
            "08:60-09:00 1MiB/s",
            "24:00-08:00 1MiB/s",
            "24:01-08:00 1MiB/s",
            "08:00-08:00 1MiB/s",
            "08:00-18:00 mon 1MiB/s",
            "mon 08:00-09:00 10:00-11:00 1MiB/s",
            "mon 1MiB/s 2MiB/s",
            "unlimited 1MiB/s",
            "+8:00-18:00 1MiB/s",
        ] {
            let what = bad.parse::<Rule>().expect_err(bad);
            assert!(!what.is_empty() && !what.contains('\n'), "{what}");
        }
    }

    #[test]
    fn a_file_has_a_rule_a_line_and_notes() {
        let text = "# office\n\n  50MiB/s   # always\nmon-fri 08:00-18:00 20MiB/s\n";
        assert_eq!(Schedule::of_lines(text), Ok(schedule(&["50MiB/s", "mon-fri 08:00-18:00 20MiB/s"])));
        assert_eq!(Schedule::of_lines("# nothing\n"), Ok(Schedule::default()));
        assert!(Schedule::of_lines("1MiB/s\nslow\n").unwrap_err().starts_with("line 2: "));
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let times =
            (0..DAY_MINUTES, 0..=DAY_MINUTES).prop_filter("no time at all", |(begin, end)| begin != end);
        let rate = prop_oneof![Just(None), (RATE_MIN..u64::MAX).prop_map(NonZeroU64::new)];
        let days = any::<[bool; 7]>().prop_filter("no day", |days| days.contains(&true));
        (days, times, rate).prop_map(|(days, times, rate)| Rule { days, times, rate })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(rule in rule()) {
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }

        #[test]
        fn any_text_is_a_rule_or_refused_in_one_line(
            text in "[a-z0-9:,/ -]{0,24}|((mon|fri|sat-tue|x)?,? ?([0-9]{1,2}:[0-9]{2}-?){0,3} ?[0-9]{0,3}(MiB/s|/s)?)|\\PC{0,20}"
        ) {
            match text.parse::<Rule>() {
                Ok(rule) => prop_assert_eq!(rule.to_string().parse(), Ok(rule)),
                Err(what) => prop_assert!(!what.contains('\n')),
            }
            let _ = Schedule::of_lines(&text);
        }

        /// The times of a rule are half open: of two that meet exactly one matches.
        #[test]
        fn times_that_meet_leave_no_gap_and_no_overlap(
            cut in 1..DAY_MINUTES, minute in 0..DAY_MINUTES, day in 0..7usize
        ) {
            let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
            let one: Rule = format!("00:00-{} 1MiB/s", clock(cut)).parse().unwrap();
            let other: Rule = format!("{}-24:00 1MiB/s", clock(cut)).parse().unwrap();
            let moment = Moment { day, minute };
            prop_assert!(one.matches(moment) != other.matches(moment));
        }
    }
}
