//! Who starts the components: what a runtime does for an apply and for the verbs that act on components.
//!
//! Invariant: everything else on the host's side is the same for every runtime.

use std::{collections::BTreeSet, fs::File, time::Duration};

use super::{Follow, docker::Docker, supervised::Supervised};
use crate::{
    component::{Component, Runtime},
    failure::Failure,
    layout::Root,
    plan::Step,
    protocol::{Action, LogQuery},
    release::{Content, Release},
};

/// What starts and stops the components of a root.
pub(super) trait Starter {
    /// Carries out a step that is about components of `release`, which is current.
    fn step(&self, step: &Step, release: &Release, follow: &mut Follow<'_>) -> Result<(), Failure>;

    /// Waits until a release runs as declared and healthy: all of it, but for what a person has stopped.
    fn gate(&self, release: &Release, timeout: Duration, follow: &mut Follow<'_>) -> Result<(), Failure>;

    /// Has `to`, which is current again, run in the place of `from`; none: nothing ran.
    fn put_back(&self, from: &Release, to: Option<&Release>, follow: &mut Follow<'_>) -> Result<(), Failure>;

    /// Does what a person asked for, and what `state/desired.json` says already.
    fn control(&self, asked: &Asked<'_>, follow: &mut Follow<'_>) -> Result<(), Failure>;

    /// Waits until nothing runs any more; `state/desired.json` must say so already.
    fn halt(&self, follow: &mut Follow<'_>) -> Result<(), Failure>;

    /// Sends what components printed.
    fn logs(&self, query: &LogQuery, follow: &mut Follow<'_>) -> Result<(), Failure>;

    /// Removes what a release has outside of its folder.
    fn forget(&self, release: &Release);

    /// Removes what there is outside of the root, once nothing runs; with `data`, that too.
    fn erase(&self, releases: &[Release], data: bool) -> Result<(), Failure>;
}

/// What a person asked of components.
pub(super) struct Asked<'a> {
    pub(super) action: Action,
    /// To which ones: all, if none was named.
    pub(super) named: &'a BTreeSet<Component>,
    pub(super) release: &'a Release,
    /// The revision of what is desired that says so.
    pub(super) revision: u64,
}

/// Who starts the components of a release. What is started to change the host inherits `lock`, and so holds it to its end.
/// Where no release is left to say who would have started it, our supervisor is the one that could still run.
pub(super) fn starter<'a>(root: &'a Root, release: Option<&Release>, lock: Option<&'a File>) -> Box<dyn Starter + 'a> {
    match release.map(|release| &release.content) {
        Some(Content { runtime: Runtime::Docker, .. }) => Box::new(Docker::new(root, lock)),
        content => Box::new(Supervised { root, init: content.and_then(|content| content.init) }),
    }
}
