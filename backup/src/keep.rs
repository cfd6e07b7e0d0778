//! Which snapshots a policy keeps, with restic's semantics (`restic/restic`, `internal/data/snapshot_policy.go`): walking from the
//! newest to the oldest, a snapshot is kept by a rule whose count is not used up if it is the first of its hour, day,
//! week, month or year, or the oldest of all. Hours, days and weeks are those of the clock that times are given on: the
//! machine's own, as in restic.
//!
//! Invariant: no clock; the newest snapshot of a group is kept by any policy that is not empty.

use chrono::{Datelike, NaiveDateTime, Timelike};
use serde::{Deserialize, Serialize};

/// How many to keep, by rule. A snapshot is kept if any rule keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepPolicy {
    /// The newest ones.
    pub last: u32,
    /// The newest one of each of so many hours that have one.
    pub hourly: u32,
    /// Of days.
    pub daily: u32,
    /// Of ISO weeks.
    pub weekly: u32,
    /// Of months.
    pub monthly: u32,
    /// Of years.
    pub yearly: u32,
}

impl KeepPolicy {
    /// Whether it would keep nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// For times that are sorted, the newest first: whether each is kept.
    pub fn keep(&self, newest_first: &[NaiveDateTime]) -> Vec<bool> {
        let mut rules = [
            Rule::new(self.last, |_, at| at as i64),
            Rule::new(self.hourly, |time, _| day(time) * 24 + i64::from(time.hour())),
            Rule::new(self.daily, |time, _| day(time)),
            Rule::new(self.weekly, |time, _| {
                i64::from(time.iso_week().year()) * 100 + i64::from(time.iso_week().week())
            }),
            Rule::new(self.monthly, |time, _| i64::from(time.year()) * 12 + i64::from(time.month())),
            Rule::new(self.yearly, |time, _| i64::from(time.year())),
        ];
        let count = newest_first.len();
        let kept = newest_first.iter().enumerate().map(|(at, time)| {
            // Every rule has to see it, so no short circuit.
            rules.iter_mut().filter_map(|rule| rule.takes(*time, at, at + 1 == count).then_some(())).count() > 0
        });
        kept.collect()
    }
}

fn day(time: NaiveDateTime) -> i64 {
    i64::from(time.num_days_from_ce())
}

struct Rule {
    left: u32,
    last: Option<i64>,
    period: fn(NaiveDateTime, usize) -> i64,
}

impl Rule {
    fn new(left: u32, period: fn(NaiveDateTime, usize) -> i64) -> Self {
        Self { left, last: None, period }
    }

    fn takes(&mut self, time: NaiveDateTime, at: usize, is_oldest: bool) -> bool {
        let period = (self.period)(time, at);
        let takes = self.left > 0 && (self.last != Some(period) || is_oldest);
        if takes {
            self.left -= 1;
            self.last = Some(period);
        }
        takes
    }
}
