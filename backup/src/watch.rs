//! Somebody who looks on: is told of every piece that was moved, and may say that it is enough.
//!
//! Invariant: a run that is told to stop ends as one that failed does: nothing it had promised is taken back.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes the bytes that were moved since it was last called, from any thread.
type Look = dyn Fn(u64) -> ControlFlow<()> + Send + Sync;

/// Who looks on, if anybody does.
#[derive(Default)]
pub(crate) struct Watch {
    look: Option<Box<Look>>,
    stopped: AtomicBool,
}

impl Watch {
    pub(crate) fn new(look: Box<Look>) -> Self {
        Self { look: Some(look), stopped: AtomicBool::new(false) }
    }

    /// Tells of bytes that were read, checked or restored; an error is the wish to stop.
    pub(crate) fn moved(&self, bytes: u64) -> io::Result<()> {
        if !self.is_stopped() && self.look.as_ref().is_some_and(|look| look(bytes).is_break()) {
            self.stopped.store(true, Ordering::Relaxed);
        }
        if self.is_stopped() { Err(io::Error::other("it was asked to stop")) } else { Ok(()) }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("stopped", &self.stopped).finish_non_exhaustive()
    }
}
