//! How far long work is: a bar on a terminal, a line now and then where there is none, data where a client draws it.
//!
//! Under cron and launchd, which set no `TERM`, there is silence: what they hear they mail.

use std::{
    env,
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use ops::backup::Watch;
use stack::protocol::{PROGRESS_VARIABLE, Progress};

use crate::session::Interrupt;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Between two words to a client, which draws them.
const SEND_EVERY: Duration = Duration::from_millis(200);

const KNOWN: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
const UNKNOWN: &str = "{msg} {spinner} {bytes} {bytes_per_sec}";

/// Who listens.
enum Listener {
    Terminal(ProgressBar),
    Client,
    Log,
    Nobody,
}

struct Display {
    listener: Listener,
    shown: Option<(String, Instant)>,
}

static DISPLAY: LazyLock<Mutex<Display>> = LazyLock::new(|| {
    let listener = if env::var_os(PROGRESS_VARIABLE).is_some() {
        Listener::Client
    } else if io::stderr().is_terminal() {
        Listener::Terminal(ProgressBar::hidden())
    } else if env::var_os("TERM").is_some() {
        Listener::Log
    } else {
        Listener::Nobody
    };
    Mutex::new(Display { listener, shown: None })
});

/// Tells how far it is. Called as often as one likes.
pub(crate) fn show(progress: &Progress) {
    DISPLAY.lock().unwrap_or_else(PoisonError::into_inner).show(progress);
}

/// What a library tells how many more bytes it has done; Ctrl-C has it stop.
pub(crate) fn watch(what: &str, total_bytes: u64, interrupt: &Interrupt) -> Watch {
    let (what, interrupt) = (what.to_owned(), interrupt.clone());
    let (done_bytes, end) = (AtomicU64::new(0), Cleared);
    Arc::new(move |bytes| {
        let _ = &end;
        let done_bytes = done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total_bytes = (total_bytes > 0).then_some(total_bytes);
        show(&Progress { what: what.clone(), done_bytes, total_bytes });
        match interrupt.check() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })
}

/// Takes the bar away when the work is given up or done.
struct Cleared;

impl Drop for Cleared {
    fn drop(&mut self) {
        clear();
    }
}

/// Takes the bar away: the work has ended, however it did.
pub(crate) fn clear() {
    let mut display = DISPLAY.lock().unwrap_or_else(PoisonError::into_inner);
    display.shown = None;
    if let Listener::Terminal(bar) = &mut display.listener {
        bar.finish_and_clear();
        *bar = ProgressBar::hidden();
    }
}

/// Prints something while no bar is in the way.
pub(crate) fn aside<T>(print: impl FnOnce() -> T) -> T {
    let bar = match &DISPLAY.lock().unwrap_or_else(PoisonError::into_inner).listener {
        Listener::Terminal(bar) => bar.clone(),
        _ => return print(),
    };
    bar.suspend(print)
}

impl Display {
    fn show(&mut self, progress: &Progress) {
        let due = |every| match &self.shown {
            Some((what, at)) => *what != progress.what || at.elapsed() >= every,
            None => true,
        };
        match &mut self.listener {
            Listener::Terminal(bar) => {
                draw(bar, progress);
                return;
            }
            Listener::Client if due(SEND_EVERY) => drop(writeln!(io::stderr().lock(), "{}", progress.line())),
            Listener::Log if due(LINE_EVERY) => drop(writeln!(io::stderr().lock(), "{progress}")),
            _ => return,
        }
        self.shown = Some((progress.what.clone(), Instant::now()));
    }
}

/// A new piece of work is a new bar, so that its rate is its own.
fn draw(bar: &mut ProgressBar, progress: &Progress) {
    if bar.is_hidden() || bar.message() != progress.what {
        bar.finish_and_clear();
        *bar = ProgressBar::new_spinner().with_message(progress.what.clone());
    }
    if bar.length() != progress.total_bytes {
        let template = if progress.total_bytes.is_some() { KNOWN } else { UNKNOWN };
        // A template that does not parse would be a plain bar: no reason to stop the work.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        progress.total_bytes.map_or_else(|| bar.unset_length(), |total| bar.set_length(total));
    }
    bar.set_position(progress.done_bytes);
}
