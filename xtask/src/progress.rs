//! How far long work is: one line on a terminal, nothing elsewhere.

use std::{
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ops::backup::Watch;

use crate::{report, session::Interrupt};

/// Between two looks of a person.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Long work that goes on.
struct Progress {
    what: &'static str,
    total: u64,
    done: AtomicU64,
    begun: Instant,
    drawn: Mutex<Instant>,
    interrupt: Interrupt,
}

/// What long work tells how far it is; Ctrl-C has it stop.
pub(crate) fn watch(what: &'static str, total: u64, interrupt: &Interrupt) -> Watch {
    let (begun, interrupt) = (Instant::now(), interrupt.clone());
    let progress = Progress { what, total, done: AtomicU64::new(0), begun, drawn: Mutex::new(begun), interrupt };
    let is_terminal = io::stderr().is_terminal();
    Arc::new(move |bytes| {
        let done = progress.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if is_terminal {
            progress.draw(done);
        }
        match progress.interrupt.check() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })
}

impl Progress {
    fn draw(&self, done: u64) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.elapsed() < DRAW_EVERY {
            return;
        }
        *drawn = Instant::now();
        let line = line(self.what, done, self.total, self.begun.elapsed());
        let _ = write!(io::stderr().lock(), "\r\x1b[K{line}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// Bytes, rate, time left.
fn line(what: &str, done: u64, total: u64, taken: Duration) -> String {
    let rate = done as f64 / taken.as_secs_f64().max(0.001);
    let mut line = format!("{what} {}", report::bytes(done));
    if total > 0 {
        line.push_str(&format!(" of {} ({} %)", report::bytes(total), done.min(total) * 100 / total));
    }
    line.push_str(&format!(", {}/s", report::bytes(rate as u64)));
    if total > done && rate >= 1.0 {
        let left = (total - done) as f64 / rate;
        line.push_str(&format!(", {} left", report::seconds(Duration::from_secs_f64(left.min(1e9)))));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_bytes_rate_and_time_left() {
        assert_eq!(
            line("saving", 50_000_000, 200_000_000, Duration::from_secs(1)),
            "saving 50.0 MB of 200.0 MB (25 %), 50.0 MB/s, 3.00 s left"
        );
        assert_eq!(line("saving", 999, 0, Duration::from_secs(1)), "saving 999 B, 999 B/s");
    }
}
