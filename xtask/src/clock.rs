//! Two clocks that disagree: graphs, `logs --since` and certificates go by the host's.

use chrono::{DateTime, TimeDelta, Utc};

/// Less than this may be the network's delay, or a clock that is being set.
const TOLERANCE: TimeDelta = TimeDelta::seconds(60);

/// What to say when a host that answered just now has told this time.
pub(crate) fn warning(host: &str, there: DateTime<Utc>, here: DateTime<Utc>) -> Option<String> {
    let off = there - here;
    if off.abs() <= TOLERANCE {
        return None;
    }
    let direction = if off > TimeDelta::zero() { "ahead of" } else { "behind" };
    let (minutes, seconds) = (off.abs().num_minutes(), off.abs().num_seconds());
    let much = match minutes {
        0..2 => format!("{seconds} s"),
        2..120 => format!("{minutes} minutes"),
        _ => format!("{} hours", minutes / 60),
    };
    Some(format!(
        "the clock of {host} is {much} {direction} this machine's: its graphs and logs go by it. On Linux \
         `timedatectl set-ntp true` sets it, on a Mac `sudo sntp -sS time.apple.com`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_is_far_off_is_worth_a_word() {
        let here = DateTime::UNIX_EPOCH;
        let warning = |seconds| warning("studio", here + TimeDelta::seconds(seconds), here);
        assert_eq!((warning(0), warning(60), warning(-60)), (None, None, None));
        for (seconds, words) in [
            (61, "studio is 61 s ahead of"),
            (-150, "studio is 2 minutes behind"),
            (86_400, "studio is 24 hours ahead of"),
        ] {
            assert!(warning(seconds).unwrap().contains(words), "{seconds}");
        }
    }
}
