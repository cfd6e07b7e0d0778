//! Carrying out a plan, or leaving the host as it was.
//!
//! Every step is journaled with what undoes it before it begins. If one fails, what was done is undone in reverse, and
//! the release that serves again passes the same gate. Killed at any point, the journal and the idempotence of steps
//! let the next plan go on. Invariant: nothing decides here; what happens is in the plan.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Follow, Host, certificate,
    control::change,
    journal::{Journal, Undo},
    lock, observe,
    root::Way,
    secrets,
    starter::{Starter, starter},
    tarball,
};
use crate::{
    component::Component,
    durable::{self, remove},
    failure::{Class, Doing, Failure},
    layout::Root,
    plan::{Plan, Step},
    process,
    protocol::{Event, Outcome},
    release::{Contents, MANIFEST, Release, ReleaseId, sha256_hex},
    supervise::read_desired,
};

/// How long a component's own tool may check files.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long what serves again may take to be healthy.
const GATE_AGAIN_TIMEOUT: Duration = Duration::from_secs(120);

/// Releases that the history names; more than a host keeps, since some are swept.
const HISTORY_LENGTH: usize = 20;

pub(super) fn apply(
    host: &Host,
    plan: &Plan,
    contents: &Contents,
    follow: &mut Follow<'_>,
) -> Result<Outcome, Failure> {
    let root = &host.root;
    let way = Way::of(root, plan, contents, host.password.as_ref())?;
    for folder in root.skeleton() {
        fs::create_dir_all(&folder).doing("cannot create", &folder)?;
    }
    let lock = lock(root, "deploy")?;
    if observe::current(root)? != plan.base {
        return Err(Failure::new(Class::Refused, "the host has changed since it was looked at")
            .hint("run the same command again: it looks anew"));
    }
    let mut journal = Journal::begin(&root.journal(), plan).doing("cannot write", &root.journal())?;
    let apply = Apply { host, root, plan, contents, lock, way };
    match apply.steps(&mut journal, follow) {
        Ok(()) => {
            if !plan.unfinished {
                apply.remember()?;
            }
            journal.end("done").doing("cannot write", &root.journal())?;
            Ok(Outcome::Done)
        }
        Err(cause) if journal.undo().is_empty() => {
            // Nothing was changed that could be put back: what was sick is sick still.
            let _ = journal.end("failed");
            Err(cause)
        }
        Err(cause) => {
            let outcome = apply.roll_back(cause, &mut journal, follow);
            let word = if matches!(outcome, Outcome::RolledBack { .. }) { "rolled back" } else { "rollback failed" };
            // The disk may be the very thing that failed: then the journal stays open, which is true as well.
            let _ = journal.end(word);
            Ok(outcome)
        }
    }
}

struct Apply<'a> {
    host: &'a Host,
    root: &'a Root,
    plan: &'a Plan,
    contents: &'a Contents,
    lock: File,
    way: Way<'a>,
}

impl Apply<'_> {
    fn steps(&self, journal: &mut Journal, follow: &mut Follow<'_>) -> Result<(), Failure> {
        for (index, step) in self.plan.steps.iter().enumerate() {
            let number = index + 1;
            journal.step(step, self.undo_of(step)?).doing("cannot write", &self.root.journal())?;
            follow(Event::Begin { number, step: step.clone() })?;
            let begun = Instant::now();
            self.step(step, follow)?;
            journal.done().doing("cannot write", &self.root.journal())?;
            follow(Event::End { number, seconds: begun.elapsed().as_secs_f64() })?;
        }
        Ok(())
    }

    fn step(&self, step: &Step, follow: &mut Follow<'_>) -> Result<(), Failure> {
        match step {
            Step::InstallProgram { id } => self.install_program(id),
            Step::RestoreProgram { release, .. } => restore_program(self.root, release),
            Step::AsRoot { commands, .. } => self.as_root(commands, follow),
            Step::Serve { commands, .. } => {
                // Ours, or the system would make it root's.
                let log = self.root.supervisor_log();
                File::options().create(true).append(true).open(&log).doing("cannot write", &log)?;
                self.as_root(commands, follow)
            }
            Step::Tool { command, .. } => tarball::tool(command, &self.lock, follow),
            Step::Fetch(tarball) => tarball::fetch(self.root, tarball, &self.lock, follow),
            Step::StageRelease { .. } => self.stage(),
            Step::Check { component, command } => self.check(*component, command),
            Step::Switch { to, .. } => point_current(self.root, Some(to)),
            Step::Gate { timeout_s, .. } => {
                self.starter().gate(&self.plan.release, Duration::from_secs(*timeout_s), follow)
            }
            Step::Certify { names, files } => certificate::certify(self.root, names, files.as_ref()),
            Step::Generate { secret } => secrets::generate(self.root, secret),
            Step::Supervise { .. }
            | Step::Start { .. }
            | Step::Restart { .. }
            | Step::Reload { .. }
            | Step::Stop { .. }
            | Step::Pull { .. }
            | Step::Import { .. }
            | Step::Clear { .. }
            | Step::Place { .. }
            | Step::Keep { .. }
            | Step::PutBack { .. }
            | Step::Up { .. } => self.starter().step(step, &self.plan.release, follow),
            Step::Forget { release } => self.rewrite_history(|history| history.retain(|id| id != release)),
            Step::Sweep { paths } => paths.iter().try_for_each(|path| {
                let path = self.root.path().join(path);
                Release::read(&path).iter().for_each(|release| self.starter().forget(release));
                remove(&path)
            }),
        }
    }

    /// What would put back what the step is about to change.
    fn undo_of(&self, step: &Step) -> Result<Undo, Failure> {
        let current = observe::current(self.root)?;
        Ok(match step {
            Step::InstallProgram { .. } | Step::RestoreProgram { .. } => Undo::Program { release: current },
            Step::StageRelease { release, .. } if !self.root.release(release).exists() => {
                Undo::Unstage { release: release.clone() }
            }
            Step::Switch { to, .. } => Undo::Switch { to: self.last_good(to)? },
            Step::Serve { undo, .. } if !undo.is_empty() => Undo::AsRoot { commands: undo.clone() },
            Step::Supervise { .. } if read_desired(self.root)?.halted => Undo::Halt,
            Step::Start { component, .. } if read_desired(self.root)?.stopped.contains(component) => {
                Undo::Stop { component: *component }
            }
            // Switched by an apply that was cut off before its gate.
            Step::Gate { .. } if current == self.plan.base && !self.passed()? => {
                Undo::Switch { to: self.last_good(&self.plan.release.id)? }
            }
            _ => Undo::Nothing,
        })
    }

    fn as_root(&self, commands: &[process::Command], follow: &mut Follow<'_>) -> Result<(), Failure> {
        commands.iter().try_for_each(|command| self.way.run(command, &self.lock, follow))
    }

    fn starter(&self) -> Box<dyn Starter + '_> {
        starter(self.root, Some(&self.plan.release), Some(&self.lock))
    }

    fn history(&self) -> Result<Vec<ReleaseId>, Failure> {
        Ok(durable::read_json(&self.root.history())?.unwrap_or_default())
    }

    fn passed(&self) -> Result<bool, Failure> {
        Ok(self.history()?.contains(&self.plan.release.id))
    }

    fn last_good(&self, to: &ReleaseId) -> Result<Option<ReleaseId>, Failure> {
        let is_there = |id: &ReleaseId| Release::read(&self.root.release(id)).is_some();
        Ok(self.history()?.into_iter().rev().find(|id| id != to && is_there(id)))
    }

    /// Names the release as one to go back to.
    fn remember(&self) -> Result<(), Failure> {
        let id = &self.plan.release.id;
        self.rewrite_history(|history| {
            history.retain(|known| known != id);
            history.push(id.clone());
            history.drain(..history.len().saturating_sub(HISTORY_LENGTH));
        })
    }

    fn rewrite_history(&self, change: impl FnOnce(&mut Vec<ReleaseId>)) -> Result<(), Failure> {
        let before = self.history()?;
        let mut history = before.clone();
        change(&mut history);
        if history == before {
            return Ok(());
        }
        durable::write_json(&self.root.history(), &history)
    }

    fn install_program(&self, id: &str) -> Result<(), Failure> {
        if *id != self.host.program_id {
            return Err(Failure::new(Class::Refused, format!("this program is {}, not {id}", self.host.program_id)));
        }
        durable::copy_program(&self.host.program, &self.root.program()).doing("cannot write", &self.root.program())?;
        durable::write(&self.root.program_id(), id.as_bytes()).doing("cannot write", &self.root.program_id())?;
        // It may have been built here.
        remove(&self.root.build())
    }

    /// Builds the release beside the others under a name that is no release's, and renames it once it is whole. One
    /// that is there already is mended file by file.
    fn stage(&self) -> Result<(), Failure> {
        let release = &self.plan.release;
        let folder = self.root.release(&release.id);
        if folder.exists() {
            return self.fill(&folder);
        }
        let staging = tempfile::Builder::new().prefix(".staging-").tempdir_in(self.root.releases());
        let staging = staging.doing("cannot create a folder in", &self.root.releases())?;
        self.fill(staging.path())?;
        fs::rename(staging.path(), &folder).doing("cannot name", &folder)?;
        durable::flush_folder(&self.root.releases()).doing("cannot flush", &self.root.releases())
    }

    fn fill(&self, folder: &Path) -> Result<(), Failure> {
        let content = &self.plan.release.content;
        for (name, digest) in &content.files {
            let text = self.contents.get(name).filter(|text| sha256_hex(text.as_bytes()) == *digest);
            let Some(text) = text else {
                return Err(Failure::new(
                    Class::Failed,
                    format!("the file {name} did not arrive as its manifest says"),
                ));
            };
            let path = folder.join(name);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).doing("cannot create", parent)?;
            durable::write(&path, text.as_bytes()).doing("cannot write", &path)?;
        }
        let bin = folder.join("bin");
        fs::create_dir_all(&bin).doing("cannot create", &bin)?;
        let program = bin.join("xtask");
        durable::link(&self.root.program(), &program).doing("cannot link", &program)?;
        durable::write_json(&folder.join(MANIFEST), &self.plan.release)
    }

    fn check(&self, component: Component, command: &process::Command) -> Result<(), Failure> {
        let done = process::run(command, &self.lock, CHECK_TIMEOUT).doing("cannot run", &command.program)?;
        if done.success {
            return Ok(());
        }
        Err(Failure::new(Class::Failed, format!("the {component}'s files do not pass `{command}`"))
            .because(&io::Error::other(done.output))
            .hint("mend what it names (what is yours is in local/) and deploy again; nothing that runs was touched"))
    }

    /// Undoes what was done, the last first, and gates what serves again.
    fn roll_back(&self, cause: Failure, journal: &mut Journal, follow: &mut Follow<'_>) -> Outcome {
        let undo = journal.undo();
        let switched = undo.iter().find_map(|undo| match undo {
            Undo::Switch { to } => Some(to.clone()),
            _ => None,
        });
        let to = switched.clone().unwrap_or_else(|| self.plan.base.clone());
        // An objection to the way back is not heard.
        let mut deaf = |event: Event| {
            let _ = follow(event);
            Ok(())
        };
        let _ = deaf(Event::RollingBack { to: to.clone(), cause: cause.clone() });
        let undone = undo.iter().try_for_each(|undo| {
            self.undo(undo, &mut deaf)?;
            journal.undone().doing("cannot write", &self.root.journal())
        });
        let healthy = undone.and_then(|()| match (&switched, &to) {
            (Some(_), Some(to)) => self.gate_again(to, &mut deaf),
            _ => Ok(()),
        });
        match healthy {
            Ok(()) => Outcome::RolledBack { to, cause },
            Err(rollback) => Outcome::RollbackFailed { cause, rollback },
        }
    }

    fn undo(&self, undo: &Undo, follow: &mut Follow<'_>) -> Result<(), Failure> {
        match undo {
            Undo::Nothing => Ok(()),
            Undo::Halt => change(self.root, |desired| desired.halted = true).and_then(|_| self.starter().halt(follow)),
            Undo::Stop { component } => {
                change(self.root, |desired| desired.stopped.extend([*component]))?;
                self.starter().step(&Step::Stop { component: *component }, &self.plan.release, follow)
            }
            Undo::AsRoot { commands } => self.as_root(commands, follow),
            Undo::Unstage { release } => remove(&self.root.release(release)),
            Undo::Program { release: Some(release) } => restore_program(self.root, release),
            Undo::Program { release: None } => {
                remove(&self.root.program_id()).and_then(|()| remove(&self.root.program()))
            }
            Undo::Switch { to: Some(to) } => {
                // First the program: the supervisor becomes whatever stands at its path.
                restore_program(self.root, to)?;
                point_current(self.root, Some(to))?;
                self.starter().put_back(&self.plan.release, Some(&read(self.root, to)?), follow)
            }
            Undo::Switch { to: None } => {
                self.starter().put_back(&self.plan.release, None, follow)?;
                point_current(self.root, None)
            }
        }
    }

    fn gate_again(&self, id: &ReleaseId, follow: &mut Follow<'_>) -> Result<(), Failure> {
        self.starter().gate(&read(self.root, id)?, GATE_AGAIN_TIMEOUT, follow)
    }
}

fn read(root: &Root, id: &ReleaseId) -> Result<Release, Failure> {
    let folder = root.release(id);
    Release::read(&folder)
        .ok_or_else(|| Failure::new(Class::Failed, format!("{} is no release any more", folder.display())))
}

/// Puts a release's own program at the stable path.
fn restore_program(root: &Root, id: &ReleaseId) -> Result<(), Failure> {
    let release = read(root, id)?;
    let program = root.release(id).join("bin/xtask");
    durable::link(&program, &root.program()).doing("cannot link", &program)?;
    durable::write(&root.program_id(), release.content.program.as_bytes()).doing("cannot write", &root.program_id())
}

fn point_current(root: &Root, to: Option<&ReleaseId>) -> Result<(), Failure> {
    let current = root.current();
    match to {
        Some(id) => durable::point(&current, &Path::new("releases").join(id.as_str())).doing("cannot point", &current),
        None => remove(&current),
    }
}
