//! Whether a host came back by itself after its last start, as a host without a screen has to.
//!
//! Invariant: a pass rests on what the host tells of this start; what it does not tell is skipped, with the reason.

use chrono::{DateTime, TimeDelta, Utc};
use stack::{
    component::{Component, Runtime},
    observed::{Init, Observed, State},
};

use crate::{
    tune::mac::kept_limit_mib,
    verify::{Check, Verdict},
};

/// What starts later than this after the machine was started by something else, most likely by hand.
const BY_ITSELF: TimeDelta = TimeDelta::minutes(10);

type Finding = Result<String, (Verdict, String)>;

/// Asks everything that a restart may have broken. `observed` has to have the machine's facts. On the host itself.
pub fn reboot(observed: &Observed) -> Vec<Check> {
    let booted = observed.booted;
    let findings: [(&str, Finding); 5] = [
        ("the machine has started", uptime(booted)),
        ("the stack starts with it, before any login", starts(observed)),
        ("the engine came up with it", came_up(observed, booted)),
        ("it does not sleep", sleep(observed)),
        ("the GPU memory limit is in force", limit(observed)),
    ];
    let mut checks: Vec<Check> = findings.into_iter().map(|(name, finding)| check(name, finding)).collect();
    checks.push(check("what is scheduled is loaded", schedules(observed)));
    checks
}

fn check(name: &str, finding: Finding) -> Check {
    let (result, detail) = match finding {
        Ok(detail) => (Verdict::Pass, detail),
        Err((result, detail)) => (result, detail),
    };
    Check { name: name.to_owned(), result, detail, seconds: 0.0 }
}

fn fail(detail: impl Into<String>) -> Finding {
    Err((Verdict::Fail, detail.into()))
}

fn skip(detail: impl Into<String>) -> Finding {
    Err((Verdict::Skip, detail.into()))
}

fn uptime(booted: Option<DateTime<Utc>>) -> Finding {
    match booted {
        Some(booted) => Ok(format!("{} ago, {}", words(Utc::now() - booted), booted.format("%Y-%m-%d %H:%M UTC"))),
        None => skip("the machine does not tell when"),
    }
}

fn words(time: TimeDelta) -> String {
    match (time.num_days(), time.num_hours(), time.num_minutes()) {
        (0, 0, 0) => format!("{} s", time.num_seconds()),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

/// Who would start the stack with nobody there.
fn starts(observed: &Observed) -> Finding {
    let Some(release) = observed.current_release() else { return skip("nothing is deployed") };
    let native = observed.native.as_ref();
    match (release.content.runtime, release.content.init, native.and_then(|native| native.service.as_ref())) {
        (Runtime::Sandbox, ..) => skip("a sandbox is started by hand"),
        (Runtime::Docker, ..) if observed.system == "Darwin" => fail(
            "Docker's engine on a Mac starts when somebody logs in at the screen; the native runtime does not wait",
        ),
        (Runtime::Docker, ..) => Ok("Docker starts its containers again".to_owned()),
        (Runtime::Native, None, _) => fail("nothing on this host starts it: `cargo xtask deploy` says what has to"),
        (Runtime::Native, Some(init), Some(service)) if service.runs => {
            let who = if init == Init::Launchd { "launchd" } else { "systemd" };
            Ok(format!("{who} has it run, as a service of the system's"))
        }
        (Runtime::Native, ..) => fail("its service is not loaded: `cargo xtask deploy` loads it"),
    }
}

fn came_up(observed: &Observed, booted: Option<DateTime<Utc>>) -> Finding {
    let Some(engine) = observed.components.get(&Component::Engine) else { return fail("it does not run") };
    if engine.state != State::Healthy {
        return fail(engine.detail.clone().unwrap_or_else(|| "it does not answer yet".to_owned()));
    }
    let Some(booted) = booted else { return skip("the machine does not tell when it was started") };
    let after = engine.since - booted;
    match after < BY_ITSELF {
        true => Ok(format!("it serves since {} after the machine's start", words(after.max(TimeDelta::zero())))),
        false => {
            skip(format!("it was started anew {} after the machine, which says nothing of a restart", words(after)))
        }
    }
}

fn sleep(observed: &Observed) -> Finding {
    let Some(machine) = &observed.facts else { return skip("the machine does not tell") };
    let (mac, linux) = (machine.mac.as_ref(), machine.linux.as_ref());
    match (mac.map(|mac| mac.sleep_min), linux.and_then(|linux| linux.sleeps)) {
        (Some(Some(0)), _) => Ok("never".to_owned()),
        (Some(Some(minutes)), _) => fail(format!("after {minutes} min: `sudo pmset -a sleep 0`")),
        (Some(None), _) => skip("the machine does not tell"),
        (None, Some(false)) => Ok("never: systemd does not let it".to_owned()),
        (None, _) => skip("not a Mac: a server does not sleep by itself"),
    }
}

/// macOS forgets the limit at every start; a daemon of root's sets it again.
fn limit(observed: &Observed) -> Finding {
    if observed.system != "Darwin" {
        return skip("not a Mac: there is no such limit");
    }
    let Some(wanted) = kept_limit_mib() else {
        return skip("none was set to stay: `cargo xtask tune` sets one where the model needs it");
    };
    let set = observed.facts.as_ref().and_then(|machine| machine.gpu_limit_bytes).map(|bytes| bytes >> 20);
    match set {
        Some(set) if set == wanted => Ok(format!("{set} MiB")),
        Some(set) => fail(format!("{set} MiB, and {wanted} were meant to stay: `cargo xtask tune`")),
        None => skip("the system does not tell"),
    }
}

fn schedules(observed: &Observed) -> Finding {
    match &observed.backups.scheduled {
        None => skip("nothing is: `cargo xtask backup schedule`"),
        Some(words) => match crate::backup::is_scheduled(&observed.root, &observed.system) {
            Some(true) => Ok(format!("the backup, {words}")),
            Some(false) => fail(format!("the backup, {words}, is not loaded: `cargo xtask backup schedule`")),
            None => skip(format!("the backup, {words}: whether that is loaded cannot be asked here")),
        },
    }
}
