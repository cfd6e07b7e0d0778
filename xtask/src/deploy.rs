//! `deploy` and `rollback`: look, plan, apply, tell.

use std::{
    collections::BTreeSet,
    io::IsTerminal,
    mem,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use chrono::Utc;
use ops::{summary::Summary, verify::Verdict};
use serde_json::json;
use stack::{
    component::Component,
    declare::{Wanted, question},
    failure::{Class, Failure},
    host::Follow,
    observed::{Observed, Question},
    plan::{Plan, Step, plan, plan_rollback},
    protocol::{Ended, Event, Outcome},
    release::{Contents, ReleaseId, Service},
    settings::RuntimeChoice,
    transport::Client,
};

use crate::{
    agent, cli, clock, diff, progress,
    report::{self, Exit},
    session::{Need, PROGRAM_ID, Session},
    status, there, verify,
};

/// Looks that a deploy takes at the most. One is enough unless a step reveals facts that nobody could have planned with.
const ROUNDS: usize = 4;

/// Brings the host to what is declared: looks, plans and applies until a look finds nothing to do.
pub(crate) fn run(settings: Option<&Path>, args: &cli::Deploy) -> Result<Exit> {
    let mut deploy = Run::open(settings, Need::This, args.json)?;
    let wanted = deploy.wanted()?;
    let mut ask_sudo = args.ask_sudo;
    for round in 0..ROUNDS {
        let observed = deploy.observe(args.dry_run)?;
        let (plan, contents) = plan(&wanted, &observed)?;
        if args.dry_run {
            return preview(&plan, &observed, &contents, args.json);
        }
        if round == 0 {
            deploy.say(&format!("{} on {} ({})", plan.release.content.runtime, deploy.session.host(), deploy.why()));
            deploy.restarted |= observed.restarted;
            let clock = clock::warning(deploy.session.host(), observed.clock, Utc::now());
            clock.iter().for_each(|warning| deploy.say(&format!("note: {warning}")));
        }
        if !args.yes && !confirm(&deploy, &plan)? {
            report::say("nothing was changed");
            return Ok(Exit::Refused);
        }
        if plan.steps.is_empty() {
            deploy.look_back()?;
            return deploy.conclude(&plan.release.id, &observed);
        }
        if needs_sudo(&plan, &observed) && mem::take(&mut ask_sudo) {
            deploy.session.ask_sudo()?;
        }
        let release = plan.release.id.clone();
        match deploy.carry_out(plan, contents) {
            Ok(Outcome::Done) => {}
            outcome => return deploy.lament(&release, outcome),
        }
    }
    Err(Failure::new(
        Class::Failed,
        format!("the host does not settle: after {ROUNDS} rounds there is still something to do"),
    )
    .hint("`cargo xtask deploy --dry-run` shows what")
    .into())
}

/// Goes back to the release that was healthy before.
pub(crate) fn roll_back(settings: Option<&Path>, args: &cli::Rollback) -> Result<Exit> {
    let mut rollback = Run::open(settings, Need::This, args.json)?;
    let observed = rollback.observe(false)?;
    let plan = plan_rollback(&observed)?;
    if args.ask_sudo && needs_sudo(&plan, &observed) {
        rollback.session.ask_sudo()?;
    }
    let release = plan.release.id.clone();
    rollback.say(&format!("back to release {release} on {}", rollback.session.host()));
    match rollback.carry_out(plan, Contents::new()) {
        Ok(Outcome::Done) => {
            let observed = rollback.observe(false)?;
            rollback.conclude(&release, &observed)
        }
        outcome => rollback.lament(&release, outcome),
    }
}

/// Brings the host back to the release that it has. What is declared anew since then is for a deploy to bring.
pub(crate) fn restore(settings: Option<&Path>) -> Result<Exit> {
    let mut restore = Run::open(settings, Need::This, false)?;
    let observed = restore.observe(false)?;
    let (plan, contents) = plan(&restore.wanted()?, &observed)?;
    let release = plan.release.id.clone();
    if observed.current.as_ref() != Some(&release) {
        return Err(Failure::new(Class::Refused, "what is declared is not what was deployed last")
            .hint("`cargo xtask deploy` brings the host there; --dry-run shows what that means")
            .into());
    }
    let needs_sudo = needs_sudo(&plan, &observed);
    let outcome = restore.carry_out(plan, contents).map_err(|failure| match needs_sudo {
        // Nobody can be asked here: this is a part of another verb, which may run far from whoever typed it.
        true if failure.class == Class::Refused => {
            failure.hint("`cargo xtask deploy --ask-sudo` does the same, and asks for your password")
        }
        _ => failure,
    });
    restore.lament(&release, outcome)
}

/// Whether some of it is for root, and we are somebody else.
fn needs_sudo(plan: &Plan, observed: &Observed) -> bool {
    !observed.account.is_root() && plan.as_root().next().is_some()
}

/// Follows a deploy, a rollback or a verb that goes on as a job.
pub(crate) fn attach(settings: Option<&Path>, id: String, json: bool) -> Result<Exit> {
    let mut run = Run::open(settings, Need::Any, json)?;
    let outcome = match run.follow(|client, follow| client.attach(id, follow)) {
        Ok(Ended::Ran(code)) => return Ok(code.into()),
        Ok(Ended::Applied(outcome)) => Ok(outcome),
        Err(failure) => Err(failure),
    };
    let observed = Run::open(settings, Need::Any, json)?.observe(false)?;
    let Some(release) = observed.current.clone() else {
        return Err(Failure::new(Class::Nothing, "nothing is deployed").into());
    };
    match outcome {
        Ok(Outcome::Done) => run.conclude(&release, &observed),
        outcome => run.lament(&release, outcome),
    }
}

/// What would happen, and what would change in files.
fn preview(plan: &Plan, observed: &Observed, contents: &Contents, json: bool) -> Result<Exit> {
    if json {
        report::data(&format!("{}\n", serde_json::to_string(plan)?))?;
        return Ok(Exit::Done);
    }
    report::data(&plan.to_string())?;
    // An empty plan changes no file; what stands there is what would be written.
    if !plan.steps.is_empty() {
        report::data(&diff::files(&observed.contents, contents))?;
    }
    Ok(Exit::Done)
}

/// Asks before anything that serves is interrupted; without a terminal there is nobody to ask, and whoever scripted
/// this meant it. The embedded sandbox never asks.
fn confirm(deploy: &Run, plan: &Plan) -> Result<bool> {
    let interrupted: Vec<&str> = plan.steps.iter().flat_map(Step::interrupts).map(|it| it.name()).collect();
    let nobody = deploy.json || deploy.session.file.is_none() || !std::io::stdin().is_terminal();
    if interrupted.is_empty() || nobody {
        return Ok(true);
    }
    let names = interrupted.join(", ");
    Ok(report::ask(&format!("{plan}this interrupts what is being served by: {names}\ngo on?"))?)
}

/// One deploy or rollback: what it talks to, and what it has done so far.
struct Run {
    session: Session,
    json: bool,
    begun: Instant,
    changed: usize,
    /// Steps of rounds that are over.
    numbered: usize,
    noted: BTreeSet<String>,
    /// The job that does it, where it goes on without us.
    job: Option<String>,
    /// The machine was started anew since the last deploy, and nobody has asked how it came back.
    restarted: bool,
}

impl Run {
    fn open(settings: Option<&Path>, need: Need, json: bool) -> Result<Run> {
        let begun = Instant::now();
        let session = Session::open(settings, need)?;
        Ok(Run { session, json, begun, changed: 0, numbered: 0, noted: BTreeSet::new(), job: None, restarted: false })
    }

    fn wanted(&self) -> Result<Wanted> {
        let (settings, source) = (self.session.settings.clone(), self.session.source()?);
        Ok(Wanted { settings, source, program: PROGRAM_ID.to_owned() })
    }

    fn observe(&mut self, contents: bool) -> Result<Observed> {
        let question = Question { contents, ..question(&self.session.settings, PROGRAM_ID) };
        Ok(self.session.client.observe(question)?)
    }

    fn why(&self) -> String {
        match (&self.session.file, self.session.settings.engine.runtime) {
            (Some(_), RuntimeChoice::Auto) => "what a host of its kind runs best".to_owned(),
            (Some(file), RuntimeChoice::Fixed(_)) => format!("{} asks for it", file.display()),
            (None, _) => "there is no stack.toml: the embedded sandbox".to_owned(),
        }
    }

    /// Talk, which a reader of JSON does not want.
    fn say(&self, text: &str) {
        if !self.json {
            report::say(text);
        }
    }

    fn carry_out(&mut self, plan: Plan, contents: Contents) -> Result<Outcome, Failure> {
        // The next round has mostly the same to say.
        for note in &plan.notes {
            if self.noted.insert(note.clone()) {
                self.say(&format!("note: {note}"));
            }
        }
        let steps = plan.steps.len();
        let outcome = self.follow(|client, follow| client.apply(plan, contents, follow));
        self.numbered += steps;
        outcome
    }

    /// Has the host do something, and tells what happens.
    fn follow<T>(
        &mut self,
        act: impl FnOnce(&mut Client, &mut Follow<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (json, interrupt) = (self.json, self.session.interrupt.clone());
        let (changed, numbered, job, mut said) = (&mut self.changed, self.numbered, &mut self.job, None);
        let done = act(&mut self.session.client, &mut |event| {
            there::tell(&event)?;
            match &event {
                Event::Begin { step, .. } => *changed += usize::from(step.changes()),
                Event::Job { id } => *job = Some(id.clone()),
                _ => {}
            }
            // What is waited for is told again and again; once is enough to hear.
            if said.as_ref() != Some(&event) {
                tell(&event, numbered, json);
            }
            said = Some(event);
            interrupt.check()
        });
        progress::clear();
        done
    }

    /// The last line for a reader of JSON.
    fn end(&self, outcome: &str, release: &ReleaseId) -> Result<()> {
        if self.json {
            let seconds = (self.begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            let last = json!({ "outcome": outcome, "changed": self.changed, "release": release, "seconds": seconds });
            report::data(&format!("{last}\n"))?;
        }
        Ok(())
    }

    /// Says what went wrong, and what serves now.
    fn lament(&self, release: &ReleaseId, outcome: Result<Outcome, Failure>) -> Result<Exit> {
        match outcome {
            Ok(Outcome::Done) => Ok(Exit::Done),
            Ok(Outcome::RolledBack { to, cause }) => {
                self.end("rolled_back", release)?;
                report::failure(&cause);
                report::say(&match to {
                    Some(to) => format!("\nrolled back: release {to} is as it was before"),
                    None => "\nrolled back: nothing runs, as before".to_owned(),
                });
                Ok(if cause.class == Class::Interrupted { Exit::Interrupted } else { Exit::RolledBack })
            }
            Ok(Outcome::RollbackFailed { cause, rollback }) => {
                self.end("rollback_failed", release)?;
                report::failure(&cause);
                report::say("\nand putting the old state back failed too:");
                report::failure(&rollback);
                Ok(Exit::RollbackFailed)
            }
            Err(failure) if failure.class == Class::Interrupted && self.job.is_some() => {
                let (host, job) = (self.session.host(), self.job.as_deref().unwrap_or_default());
                report::say(&format!("it goes on on {host} without us; `cargo xtask job attach {job}` follows it"));
                Ok(Exit::Interrupted)
            }
            Err(failure) => {
                // It did not begin, since somebody else is at it or the host has moved on; or there was nothing to undo.
                self.end(if failure.class == Class::Failed { "failed" } else { "refused" }, release)?;
                Err(failure.into())
            }
        }
    }

    /// After a restart of the machine: says, once, what did not come back by itself.
    fn look_back(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.restarted) {
            return Ok(());
        }
        self.say("the machine was started anew since the last deploy");
        let checks = verify::reboot(&mut self.session)?.unwrap_or_default();
        for check in checks.iter().filter(|check| check.result == Verdict::Fail) {
            self.say(&format!("note: {}: no, {}", check.name, check.detail));
        }
        Ok(())
    }

    /// Says what runs where, what does not and why, and what to try next.
    fn conclude(&self, release: &ReleaseId, observed: &Observed) -> Result<Exit> {
        // The stack serves; that an agent's settings cannot be written is said, and no reason to call the deploy failed.
        match agent::refresh(&self.session) {
            Ok(names) => {
                names.iter().for_each(|name| self.say(&format!("{name} follows: its settings are up to date")))
            }
            Err(error) => self.say(&format!("an agent's settings could not follow: {error:#}")),
        }
        if self.json {
            self.end("done", release)?;
            return Ok(Exit::Done);
        }
        let (summary, took) = (Summary::of(self.session.host(), observed), report::seconds(self.begun.elapsed()));
        report::say(&match self.changed {
            0 => format!("as declared, nothing to do ({took})\n"),
            _ => format!("done in {took}\n"),
        });
        report::data(&status::table(&summary))?;
        if self.changed > 0 && !self.session.is_here {
            // The gate has passed there. Whether it can be reached from here, only we can tell.
            verify::print(&ops::verify::from_client(&summary))?;
        }
        let release = observed.current_release();
        if let Some(gateway) = release.and_then(|release| release.service(Component::Gateway)) {
            self.invite(gateway, summary.door(Component::Gateway));
        }
        Ok(Exit::Done)
    }

    /// What to try next, as it works from here: another machine's loopback is reached through ssh.
    fn invite(&self, gateway: &Service, door: Option<&str>) {
        let (host, port) = (self.session.host(), gateway.listen.port());
        let mut tries = vec!["cargo xtask verify".to_owned()];
        if !self.session.is_here && door.is_none() {
            tries.push(format!(
                "ssh -N -L {port}:127.0.0.1:{port} {host} &   # what listens there, listens on its loopback only"
            ));
        }
        let body = json!({ "model": self.session.settings.models.default, "prompt": "hello" });
        let url = door.map_or_else(|| gateway.url(""), str::to_owned);
        tries.push(format!("curl {url}/api/generate -d '{body}'"));
        report::say(&format!("\ntry:  {}", tries.join("\n      ")));
    }
}

/// `numbered`: steps of earlier rounds. A reader that has gone away is no reason to leave a deploy half way.
fn tell(event: &Event, numbered: usize, json: bool) {
    match event {
        Event::Idle | Event::Output { .. } | Event::Progress(_) => {}
        event if json => drop(report::data(&format!("{}\n", json!(event)))),
        Event::Begin { number, step } => report::say(&format!("{:>3}. {step}", numbered + number)),
        Event::End { seconds, .. } if *seconds > 1.0 => {
            report::say(&format!("     {}", report::seconds(Duration::from_secs_f64(*seconds))));
        }
        Event::RollingBack { .. } => report::say("     failed: putting back what was before"),
        Event::Waiting { detail } => report::say(&format!("     waiting: {detail}")),
        Event::End { .. } | Event::Line { .. } | Event::Job { .. } => {}
    }
}
