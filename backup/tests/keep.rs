//! Prune's policy against an oracle that was written from its description and not from its code.

mod made;

use std::collections::BTreeSet;

use backup::KeepPolicy;
use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta, Timelike};
use made::Chance;

/// By rule: of each period the newest, newest periods first, as many as the rule counts; left-over count keeps the oldest.
fn oracle(policy: &KeepPolicy, newest_first: &[NaiveDateTime]) -> Vec<bool> {
    let mut kept: BTreeSet<usize> = (0..newest_first.len().min(policy.last as usize)).collect();
    type Name = fn(&NaiveDateTime) -> String;
    let rules: [(u32, Name); 5] = [
        (policy.hourly, |it| format!("{} {}", it.date(), it.hour())),
        (policy.daily, |it| it.date().to_string()),
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

#[test]
fn keeps_what_the_description_says() {
    for case in 0..4000 {
        let mut chance = Chance(case);
        let start = DateTime::from_timestamp(1_600_000_000, 0).unwrap().naive_utc();
        let many = chance.below(60);
        let minutes = (0..many).map(|_| TimeDelta::minutes(chance.below(3_000_000) as i64));
        let mut times: Vec<NaiveDateTime> = minutes.map(|it| start + it).collect();
        times.sort_by(|a, b| b.cmp(a));
        let [last, hourly, daily, weekly, monthly, yearly] = std::array::from_fn(|_| chance.below(6) as u32);
        let policy = KeepPolicy { last, hourly, daily, weekly, monthly, yearly };
        let kept = policy.keep(&times);
        assert_eq!(kept, oracle(&policy, &times), "case {case}");
        assert!(policy.is_empty() || kept.first() != Some(&false), "case {case}: the newest is kept");
        // Pruned again at once, nothing more goes.
        let left: Vec<_> = times.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(time, _)| *time).collect();
        assert!(policy.keep(&left).iter().all(|kept| *kept), "case {case}");
    }
}
