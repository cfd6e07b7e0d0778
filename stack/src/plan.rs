//! The planner: settings and facts in, steps out.
//!
//! Invariant: pure (no clock, no I/O, no randomness), and a plan leaves `apply` nothing to decide. An empty plan means
//! the host is as declared.

mod contained;
mod native;

pub(crate) use contained::put_back;

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    component::{Component, Runtime},
    declare::{self, Wanted, declare},
    failure::{Class, Failure},
    layout::Root,
    observed::{Observed, Running, State},
    process::Command,
    release::{Contents, Release, ReleaseId, Service, Tarball},
};

/// Releases that a host keeps: the current one and those to go back to.
const KEPT_RELEASES: usize = 3;

/// How long components may take to become healthy.
const GATE_TIMEOUT_S: u64 = 60;

/// The same with Grafana: a first start may migrate a database, and what cannot stay up is noticed long before.
const DATABASE_TIMEOUT_S: u64 = 180;

/// What it takes to bring a host from what was observed to what is declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The release that was current when the host was observed; `apply` refuses a host that has moved on.
    pub base: Option<ReleaseId>,
    /// What will run.
    pub release: Release,
    /// In order.
    pub steps: Vec<Step>,
    /// What the planner chose that a person should know.
    pub notes: Vec<String>,
    /// Only what these steps reveal makes the rest plannable: the host is to be looked at again, and the release is an outline.
    pub unfinished: bool,
    /// What the rest will want of root, as far as that is known already: whether root will do it is to be known before any of
    /// this is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreseen: Vec<Step>,
}

impl Plan {
    /// Everything that root has to do for it, or will.
    pub fn as_root(&self) -> impl Iterator<Item = &Command> {
        self.steps.iter().chain(&self.foreseen).flat_map(Step::as_root)
    }
}

/// One idempotent step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Put our program at the root's stable path.
    InstallProgram {
        /// Its identity.
        id: String,
    },
    /// Put the program of an earlier release back at the root's stable path.
    RestoreProgram {
        /// Its identity.
        id: String,
        /// The release that has it.
        release: ReleaseId,
    },
    /// Have root run commands, one after the other.
    AsRoot {
        /// What they bring about, as `install Docker`.
        what: String,
        /// Each may be run again.
        commands: Vec<Command>,
    },
    /// Have a tool of the user's own bring something.
    Tool {
        /// What.
        what: String,
        /// May be run again.
        command: Command,
    },
    /// Get a release of others' programs and unpack it beside the others.
    Fetch(Tarball),
    /// Have the system run our supervisor, from its own start on.
    Serve {
        /// Its name there.
        service: String,
        /// What root does for that. Each may be run again.
        commands: Vec<Command>,
        /// What root does to take it back, if it was not there before.
        undo: Vec<Command>,
        /// What runs now under an older definition, and so stops.
        stops: Vec<Component>,
    },
    /// Write the release's files beside the others, verified against its manifest.
    StageRelease {
        /// Which one.
        release: ReleaseId,
        /// How many files.
        files: usize,
        /// Of how many bytes.
        size_bytes: usize,
    },
    /// Let a component's own tool check what was staged.
    Check {
        /// Whose files.
        component: Component,
        /// The tool.
        command: Command,
    },
    /// Point `current` at the release. Up to here nothing that runs was touched.
    Switch {
        /// What was current.
        from: Option<ReleaseId>,
        /// What will be.
        to: ReleaseId,
    },
    /// Have our supervisor run the release.
    Supervise {
        /// Why that is not the case already.
        why: String,
    },
    /// Wait until a component that did not run does.
    Start {
        /// Which one.
        component: Component,
        /// Why it did not.
        why: String,
    },
    /// Wait until a component was stopped and started.
    Restart {
        /// Which one.
        component: Component,
        /// Why.
        why: String,
        /// Whether the supervisor has to be asked, since nothing in the release tells it.
        ask: bool,
    },
    /// Wait until a component has read its files again.
    Reload {
        /// Which one.
        component: Component,
    },
    /// Wait until a component that the release does without is gone.
    Stop {
        /// Which one.
        component: Component,
    },
    /// Get an image by its name.
    Pull {
        /// As the settings name it.
        image: String,
    },
    /// Make the gateway's image of our own program.
    Import {
        /// What to call it.
        image: String,
    },
    /// Make a secret that nobody has to know but the host.
    Generate {
        /// Its name.
        secret: String,
    },
    /// Have a certificate for the edge: of the host's own authority, which is made if there is none, or of files.
    Certify {
        /// What it is for. The host adds its own names.
        names: Vec<String>,
        /// The certificate and its key, if they were got elsewhere.
        files: Option<[PathBuf; 2]>,
    },
    /// Remove containers that are no component's.
    Clear {
        /// By id.
        containers: Vec<String>,
    },
    /// Put a release's files where containers see them.
    Place {
        /// Which one's.
        release: ReleaseId,
    },
    /// Copy a volume, since what comes may change its data for good.
    Keep {
        /// Whose.
        component: Component,
        /// As `compose.yaml` names it.
        volume: String,
        /// What to copy with.
        image: String,
        /// The release that it is kept from.
        release: ReleaseId,
    },
    /// Put a copied volume back.
    PutBack {
        /// Whose.
        component: Component,
        /// As `compose.yaml` names it.
        volume: String,
        /// What to copy with.
        image: String,
        /// The release that it was kept from.
        release: ReleaseId,
    },
    /// Have Compose make and start containers.
    Up {
        /// Which ones.
        components: Vec<Raised>,
    },
    /// Wait until every component is healthy; else the previous release is put back.
    Gate {
        /// Which ones.
        components: Vec<Component>,
        /// For so long.
        timeout_s: u64,
    },
    /// Take a release out of the history: nobody wants to go back to what was just gone back from.
    Forget {
        /// Which one.
        release: ReleaseId,
    },
    /// Remove what no one goes back to.
    Sweep {
        /// Below the root.
        paths: Vec<String>,
    },
}

impl Step {
    /// Whether it changes the host, rather than looks at it.
    pub fn changes(&self) -> bool {
        !matches!(self, Step::Check { .. } | Step::Gate { .. })
    }

    /// What it has root do.
    pub fn as_root(&self) -> &[Command] {
        match self {
            Step::AsRoot { commands, .. } | Step::Serve { commands, .. } => commands,
            _ => &[],
        }
    }

    /// The components that stop serving for a moment.
    pub fn interrupts(&self) -> Vec<Component> {
        match self {
            Step::Restart { component, .. } | Step::Stop { component } => vec![*component],
            Step::Serve { stops, .. } => stops.clone(),
            Step::Up { components } => components.iter().filter(|it| it.serves).map(|it| it.component).collect(),
            _ => Vec::new(),
        }
    }
}

/// A component whose container is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// Which one.
    pub component: Component,
    /// Why.
    pub why: String,
    /// Whether it serves now, and so will not for a moment.
    pub serves: bool,
}

/// Plans a deploy.
///
/// # Errors
/// The settings ask for something that this host cannot be brought to.
pub fn plan(wanted: &Wanted, observed: &Observed) -> Result<(Plan, Contents), Failure> {
    let declared = declare(wanted, observed)?;
    let release = declared.release;
    let id = &release.id;
    let mut steps = Vec::new();
    if observed.program.as_ref() != Some(&wanted.program) {
        steps.push(Step::InstallProgram { id: wanted.program.clone() });
    }
    if !declared.first.is_empty() {
        steps.extend(declared.first);
        let foreseen = match release.content.runtime {
            Runtime::Native => native::foreseen(&release, observed),
            Runtime::Docker | Runtime::Sandbox => Vec::new(),
        };
        let base = observed.current.clone();
        let plan = Plan { base, release, steps, notes: declared.notes, unfinished: true, foreseen };
        return Ok((plan, declared.contents));
    }
    // Before anything is staged, which what is brought may have to check.
    steps.extend(native::fetch(&release, observed));
    let damaged = observed.current.as_ref() == Some(id) && !observed.damaged.is_empty();
    if observed.release(id).is_none() || damaged {
        let size_bytes = declared.contents.values().map(String::len).sum();
        steps.push(Step::StageRelease { release: id.clone(), files: declared.contents.len(), size_bytes });
        steps.extend(check(&release, observed));
    }
    steps.extend(run(&release, observed));
    let paths = unneeded(&release, observed);
    if !paths.is_empty() {
        steps.push(Step::Sweep { paths });
    }
    let mut notes = declared.notes;
    if let Some(interrupted) = &observed.interrupted {
        let step = interrupted.step.as_deref().unwrap_or("its first step");
        notes.push(format!("an earlier change was cut off at: {step}; this one goes on from what it left"));
    }
    let (base, foreseen) = (observed.current.clone(), Vec::new());
    Ok((Plan { base, release, steps, notes, unfinished: false, foreseen }, declared.contents))
}

/// Plans the way back to the release that was healthy before the current one.
///
/// # Errors
/// There is none.
pub fn plan_rollback(observed: &Observed) -> Result<Plan, Failure> {
    let previous = observed.current.as_ref().and_then(|current| observed.last_good_before(current));
    let Some(release) = previous.and_then(|id| observed.release(id)) else {
        return Err(Failure::new(Class::Nothing, "there is no earlier release to go back to")
            .hint("`cargo xtask status` shows what runs, `cargo xtask deploy` deploys what stack.toml says"));
    };
    let mut steps = Vec::new();
    if observed.program.as_ref() != Some(&release.content.program) {
        steps.push(Step::RestoreProgram { id: release.content.program.clone(), release: release.id.clone() });
    }
    steps.extend(native::fetch(release, observed));
    let data = observed.current_release().map(|from| contained::put_back(from, release)).unwrap_or_default();
    let mut way = run(release, observed);
    way.retain(|step| !matches!(step, Step::Keep { .. }));
    // Behind the switch and before anything starts on it.
    let at = way.iter().position(|step| matches!(step, Step::Up { .. })).unwrap_or(way.len());
    way.splice(at..at, data);
    steps.extend(way);
    steps.extend(observed.current.clone().map(|release| Step::Forget { release }));
    let (base, release) = (observed.current.clone(), release.clone());
    Ok(Plan { base, release, steps, notes: Vec::new(), unfinished: false, foreseen: Vec::new() })
}

/// What makes a staged release the one that runs, healthily.
pub(crate) fn run(release: &Release, observed: &Observed) -> Vec<Step> {
    let mut steps = match release.content.runtime {
        Runtime::Native => native::open(release, observed).into_iter().collect(),
        Runtime::Docker | Runtime::Sandbox => Vec::new(),
    };
    let switched = observed.current.as_ref() != Some(&release.id);
    if switched {
        steps.push(Step::Switch { from: observed.current.clone(), to: release.id.clone() });
    }
    steps.extend(native::serve(release, observed));
    steps.extend(match release.content.runtime {
        Runtime::Docker => contained::run(release, observed, switched),
        Runtime::Native | Runtime::Sandbox => supervised(release, observed),
    });
    let starting = observed.components.values().any(|running| running.state == State::Starting);
    let passed = observed.history.last() == Some(&release.id) && observed.interrupted.is_none();
    if !steps.is_empty() || starting || !passed {
        let components = release.content.services.iter().map(|service| service.component).collect();
        let timeout_s = match release.content.runtime {
            Runtime::Docker | Runtime::Native => DATABASE_TIMEOUT_S,
            Runtime::Sandbox => GATE_TIMEOUT_S,
        };
        steps.push(Step::Gate { components, timeout_s });
    }
    steps
}

/// The steps behind the switch where our supervisor starts the components.
fn supervised(release: &Release, observed: &Observed) -> Vec<Step> {
    let mut steps: Vec<Step> = supervise(release, observed).into_iter().collect();
    steps.extend(release.content.services.iter().filter_map(|service| adjust(release, service, observed)));
    let runs = |component: &Component| observed.components.get(component).is_some_and(Running::runs);
    let gone = |component: &Component| runs(component) && release.service(*component).is_none();
    steps.extend(Component::ALL.into_iter().filter(gone).map(|component| Step::Stop { component }));
    steps
}

fn supervise(release: &Release, observed: &Observed) -> Option<Step> {
    let why = match &observed.supervisor {
        None => "no supervisor runs",
        Some(supervisor) if supervisor.program != release.content.program => "the program changed",
        Some(_) if observed.desired.halted => "the stack was stopped",
        Some(_) => return None,
    };
    Some(Step::Supervise { why: why.to_owned() })
}

/// What a component needs to be as declared, if anything.
fn adjust(release: &Release, service: &Service, observed: &Observed) -> Option<Step> {
    let component = service.component;
    let start = |why: &str| Some(Step::Start { component, why: why.to_owned() });
    let restart = |why: &str, ask| Some(Step::Restart { component, why: why.to_owned(), ask });
    let running: &Running = match observed.components.get(&component) {
        _ if observed.desired.stopped.contains(&component) => return start("it was stopped by hand"),
        Some(running) if running.runs() || running.state == State::Unhealthy => running,
        _ => return start("it does not run"),
    };
    if running.fingerprint != release.fingerprint(service) {
        return restart("its program, arguments or files changed", false);
    }
    // Asked for, so that the new try cannot be taken for the old one.
    if running.state == State::Unhealthy {
        return restart(running.detail.as_deref().unwrap_or("it does not answer"), true);
    }
    (running.config != release.config_fingerprint(service)).then_some(Step::Reload { component })
}

/// What components' own tools say to what is staged.
fn check(release: &Release, observed: &Observed) -> Vec<Step> {
    let root = Root::new(observed.root.clone());
    let staged = root.release(&release.id);
    let program = |name: &str| observed.programs.get(name).cloned().flatten();
    let checks = release.content.services.iter().filter_map(|service| {
        let component = service.component;
        let command = match (service.container(), component) {
            (Some(_), _) => declare::docker::check(&program("docker")?, &staged, service)?,
            (None, Component::Edge) => declare::native::check_edge(program("nginx")?, &root.run(), &staged),
            (None, Component::Prometheus) => {
                let config = staged.join("prometheus/prometheus.yml").display().to_string();
                Command {
                    program: program("promtool")?,
                    args: vec!["check".into(), "config".into(), config],
                    env: [].into(),
                }
            }
            (None, Component::Alertmanager) => {
                let config = staged.join("alertmanager/alertmanager.yml").display().to_string();
                let brought = release.content.tarballs.iter().find(|it| it.name == declare::tarball::ALERTMANAGER);
                let beside = brought.map(|it| it.path(&root).with_file_name("amtool"));
                Command {
                    program: beside.or_else(|| program("amtool"))?,
                    args: vec!["check-config".into(), config],
                    env: [].into(),
                }
            }
            (None, _) => return None,
        };
        Some(Step::Check { component, command })
    });
    checks.collect()
}

/// What to remove once `release` runs: all others but the newest that passed their gate, and leftovers.
fn unneeded(release: &Release, observed: &Observed) -> Vec<String> {
    let mut kept = vec![&release.id];
    let current = observed.current.iter().filter(|current| observed.history.contains(current));
    for good in current.chain(observed.history.iter().rev()) {
        if kept.len() < KEPT_RELEASES && !kept.contains(&good) {
            kept.push(good);
        }
    }
    let old = observed.releases.iter().map(|release| &release.id).filter(|found| !kept.contains(found));
    let old = old.map(|id| format!("releases/{id}")).chain(observed.leftovers.iter().cloned());
    let kept = observed.releases.iter().filter(|found| kept.contains(&&found.id)).chain([release]);
    old.chain(native::unneeded(kept, observed)).collect()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::InstallProgram { id } => write!(f, "install program {id}"),
            Step::RestoreProgram { id, release } => write!(f, "put back program {id} of release {release}"),
            Step::AsRoot { what, commands } => {
                write!(f, "{what}, as root:")?;
                commands
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, command)| write!(f, "{}{command}", if index == 0 { " " } else { "; " }))
            }
            Step::Tool { what, command } => write!(f, "{what}: {command}"),
            Step::Fetch(tarball) => {
                let sums = tarball.sums.rsplit('/').next().unwrap_or_default();
                let own = format!("the release's own {sums}");
                let check = tarball.sha256.as_deref().map_or(own.as_str(), |sha256| &sha256[..12]);
                write!(f, "fetch {} {} from {} ({check})", tarball.name, tarball.version, tarball.url)
            }
            Step::Serve { service, commands, .. } => {
                let commands: Vec<String> = commands.iter().map(ToString::to_string).collect();
                write!(f, "have the system run service {service}, as root: {}", commands.join("; "))
            }
            Step::StageRelease { release, files, size_bytes } => {
                write!(f, "stage release {release}: {files} files, {size_bytes} bytes")
            }
            Step::Check { component, command } => match command.args.iter().position(|arg| arg == "--entrypoint") {
                // Of a call of Docker, what it runs is what tells.
                Some(at) => {
                    let words = command.args.iter().skip(at + 1).enumerate().filter(|(index, _)| *index != 1);
                    let words: Vec<&str> = words.map(|(_, word)| word.as_str()).collect();
                    write!(f, "check {component}, in its image: {}", words.join(" "))
                }
                None => write!(f, "check {component}: {command}"),
            },
            Step::Switch { from: Some(from), to } => write!(f, "switch from release {from} to {to}"),
            Step::Switch { from: None, to } => write!(f, "switch to release {to}"),
            Step::Supervise { why } => write!(f, "supervise ({why})"),
            Step::Start { component, why } => write!(f, "start {component} ({why})"),
            Step::Restart { component, why, .. } => write!(f, "restart {component} ({why})"),
            Step::Reload { component } => write!(f, "reload {component} (its files changed)"),
            Step::Stop { component } => write!(f, "stop {component} (the release does without it)"),
            Step::Pull { image } => write!(f, "pull {image}"),
            Step::Import { image } => write!(f, "make image {image} of the program"),
            Step::Certify { files: Some([certificate, _]), .. } => write!(f, "take over {}", certificate.display()),
            Step::Certify { names, .. } => write!(f, "make a certificate for {}", names.join(", ")),
            Step::Generate { secret } => write!(f, "make up the secret {secret}"),
            Step::Clear { containers } => write!(f, "remove {} that a cut-off change has left", containers.join(", ")),
            Step::Place { release } => write!(f, "put the files of release {release} where containers see them"),
            Step::Keep { component, volume, .. } => {
                write!(f, "stop {component} and copy its volume {volume} (another image may change the data for good)")
            }
            Step::PutBack { component, volume, release, .. } => {
                write!(f, "stop {component} and put back its volume {volume} as it was before release {release}")
            }
            Step::Up { components } => {
                let each = components.iter().map(|it| format!("{} ({})", it.component, it.why));
                write!(f, "bring up {}", each.collect::<Vec<_>>().join(", "))
            }
            Step::Gate { components, timeout_s } => {
                let names: Vec<&str> = components.iter().map(|component| component.name()).collect();
                write!(f, "wait until healthy: {} (at most {timeout_s} s)", names.join(", "))
            }
            Step::Forget { release } => write!(f, "forget release {release}"),
            Step::Sweep { paths } => write!(f, "remove {}", paths.join(", ")),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        if self.steps.is_empty() {
            return writeln!(f, "release {} runs as declared: nothing to do", self.release.id);
        }
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>3}. {step}", index + 1)?;
        }
        if self.unfinished {
            writeln!(f, "then the host is looked at again: the rest depends on what these steps bring")?;
        }
        Ok(())
    }
}
