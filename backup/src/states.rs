//! Where SHA-256 stood at each segment's end of a huge object (`FORMAT.md`, "States").
//!
//! Invariant: an aid only. Nothing is believed because it stands here: a link is computed, or the object is read whole.

use crate::digest::{Digest, State};

const HEAD: &str = "64 MiB segments";

/// A segment's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) plain: u64,
    pub(crate) stored: u64,
    pub(crate) state: State,
}

pub(crate) fn write(ends: &[End]) -> String {
    let mut text = format!("{HEAD}\n");
    for End { plain, stored, state } in ends {
        text.push_str(&format!("{plain} {stored} {state}\n"));
    }
    let hash = Digest::of(text.as_bytes());
    text.push_str(&format!("sha256 {hash}\n"));
    text
}

/// `None` if it is not what [`write`] wrote.
pub(crate) fn read(text: &str) -> Option<Vec<End>> {
    let end = text.rfind("sha256 ")?;
    let (lines, last) = text.split_at(end);
    if last != format!("sha256 {}\n", Digest::of(lines.as_bytes())) {
        return None;
    }
    let mut lines = lines.lines();
    if lines.next()? != HEAD {
        return None;
    }
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let plain = words.next()?.parse().ok()?;
            let stored = words.next()?.parse().ok()?;
            Some(End { plain, stored, state: State::parse(words.next()?)? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    #[test]
    fn what_was_written_is_read_and_what_was_spoiled_is_not() {
        let ends: Vec<End> = (1..4).map(|at| End { plain: at * 64, stored: at * 60, state: State::START }).collect();
        let right = write(&ends);
        assert_eq!(read(&right).as_ref(), Some(&ends));
        let lines = &right[..right.rfind("sha256 ").unwrap()];
        for case in 0..20_000 {
            let mut chance = Chance(case);
            let spoiled = String::from_utf8_lossy(&chance.spoil(right.as_bytes())).into_owned();
            assert!(spoiled == right || read(&spoiled).is_none(), "case {case}");
            // With a hash of its own it is read, or it is not.
            let lines = String::from_utf8_lossy(&chance.spoil(lines.as_bytes())).into_owned();
            let _ = read(&format!("{lines}sha256 {}\n", Digest::of(lines.as_bytes())));
        }
    }
}
