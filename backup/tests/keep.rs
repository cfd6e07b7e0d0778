//! Prune's policy against an oracle that was written from its description and not from its code.

use std::collections::BTreeSet;

use backup::KeepPolicy;
use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};

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

/// A few thousand cases that are the same every time, by splitmix64 (Steele, Lea, Flood, 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }
}

#[test]
fn keeps_what_the_description_says() {
    for case in 0..4000 {
        let mut chance = Chance(case);
        let start = DateTime::from_timestamp(1_600_000_000, 0).unwrap();
        let many = chance.below(60);
        let minutes = (0..many).map(|_| TimeDelta::minutes(chance.below(3_000_000) as i64));
        let mut times: Vec<DateTime<Utc>> = minutes.map(|it| start + it).collect();
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
