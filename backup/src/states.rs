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
