//! Prune's policy against an oracle that was written from its description and not from its code.

use std::collections::BTreeSet;

use backup::KeepPolicy;
use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use proptest::prelude::*;

/// By rule: of each period the newest, newest periods first, as many as the rule counts; left-over count keeps the oldest.
fn oracle(policy: &KeepPolicy, newest_first: &[DateTime<Utc>]) -> Vec<bool> {
    let mut kept: BTreeSet<usize> = (0..newest_first.len().min(policy.last as usize)).collect();
    type Name = fn(&DateTime<Utc>) -> String;
    let rules: [(u32, Name); 5] = [
        (policy.hourly, |it| format!("{} {}", it.date_naive(), it.hour())),
        (policy.daily, |it| it.date_naive().to_string()),
        (policy.weekly, |it| format!("{:?}", it.iso_week())),
        (policy.monthly, |it| format!("{} {}", it.year(), it.month())),
        (policy.yearly, |it| it.year().to_string()),
    ];
    for (count, name) in rules {
        let mut seen = BTreeSet::new();
        let firsts: Vec<usize> = (0..newest_first.len()).filter(|at| seen.insert(name(&newest_first[*at]))).collect();
        kept.extend(firsts.iter().take(count as usize));
        if !newest_first.is_empty() && firsts.len() < count as usize {
            kept.insert(newest_first.len() - 1);
        }
    }
    (0..newest_first.len()).map(|at| kept.contains(&at)).collect()
}

proptest! {
    #[test]
    fn keeps_what_the_description_says(
        minutes in proptest::collection::vec(0i64..3_000_000, 0..60),
        counts in proptest::array::uniform6(0u32..6),
    ) {
        let mut times: Vec<DateTime<Utc>> = minutes
            .into_iter()
            .map(|it| DateTime::from_timestamp(1_600_000_000, 0).unwrap() + TimeDelta::minutes(it))
            .collect();
        times.sort_by(|a, b| b.cmp(a));
        let [last, hourly, daily, weekly, monthly, yearly] = counts;
        let policy = KeepPolicy { last, hourly, daily, weekly, monthly, yearly };
        let kept = policy.keep(&times);
        prop_assert_eq!(&kept, &oracle(&policy, &times));
        prop_assert!(policy.is_empty() || kept.first() != Some(&false), "the newest is kept");
        // Pruned again at once, nothing more goes.
        let left: Vec<_> = times.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(time, _)| *time).collect();
        prop_assert!(policy.keep(&left).iter().all(|kept| *kept));
    }
}
