//! Backup: what of a stack is saved, where to, and how it comes back.
//!
//! The store knows sources; what they are sources of is known here. Everything is done on the host itself. Invariant:
//! what a dry run says is found by the code that the real run goes through.

mod back;
mod check;
pub(crate) mod manifest;
mod model;
mod preflight;
mod prometheus;
mod run;
mod schedule;
mod volume;

use std::{
    io::{self, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use backup::{
    KeepPolicy, Repository, StoreError,
    source::{FolderSource, Source, SqliteSource},
};
use stack::{
    component::{Component, Runtime},
    failure::{Class, Failure},
    layout::{Root, expand},
    observed::{Observed, State},
    process,
    settings::{self, BackupSource, RuntimeChoice, Settings},
};

pub use self::{
    back::{Back, Planned, Target},
    check::{drill, parse_reading, verify},
    model::{Moved, export, import},
    preflight::{Allowed, Preflight},
    run::{Ran, SaveRequest, prune},
    schedule::{Scheduled, Wanted, as_root, is_scheduled, schedule, unschedule},
    volume::{Volume, restore_source, tell_source},
};

/// What agents are configured with, below the home folder of the user that the stack runs as.
const AGENT_FILES: [&str; 10] = [
    ".aider.conf.yml",
    ".aider.model.settings.yml",
    ".claude/settings.json",
    ".cline/data/settings/providers.json",
    ".codex/config.toml",
    ".config/opencode/opencode.json",
    ".config/zed/settings.json",
    ".continue/config.yaml",
    ".env.ollama",
    ".qwen/settings.json",
];

/// Bytes that were moved since it was last called, from any thread; [`ControlFlow::Break`] ends the run.
pub type Watch = Arc<dyn Fn(u64) -> ControlFlow<()> + Send + Sync>;

/// Tells of what is read.
pub(crate) struct Watched<R> {
    /// Where it is read from.
    pub(crate) from: R,
    /// Who is told.
    pub(crate) watch: Watch,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(into)?;
        match (self.watch)(len as u64).is_break() {
            true => Err(io::Error::other("it was asked to stop")),
            false => Ok(len),
        }
    }
}

/// A repository and what belongs into it.
pub struct Backup {
    /// Where the repository is.
    pub repository: PathBuf,
    /// What is saved.
    pub parts: Vec<Part>,
    /// Which snapshots stay.
    pub keep: KeepPolicy,
    /// Whether a run that has saved goes on to prune.
    pub prunes: bool,
    /// The stack; without one only a folder is saved, and nothing is written down about it.
    pub stack: Option<Stack>,
    /// `uname -s`.
    system: String,
    /// `uname -n`: whose data it is.
    host: String,
}

/// The stack that is saved.
pub struct Stack {
    /// Where it lives.
    pub root: Root,
    /// The model store.
    pub models: PathBuf,
    /// The image that holds our program, where the stack runs in containers.
    image: Option<String>,
}

/// A source, and where it goes back to.
pub struct Part {
    /// What is saved.
    pub source: Box<dyn Source>,
    /// Where it goes back to.
    pub target: Target,
    /// Whether it is there, and to be saved.
    pub is_saved: bool,
}

impl Backup {
    /// One folder, without a stack.
    pub fn of_folder(repository: &Path, folder: Option<&Path>) -> Result<Self, Failure> {
        let part = |folder: &Path| {
            let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
            let name = folder.file_name().map_or("root".to_owned(), |it| it.to_string_lossy().into_owned());
            let source = Box::new(FolderSource::new(&name, &folder));
            Part { source, target: Target::Folder(folder), is_saved: true }
        };
        Ok(Backup {
            repository: repository.to_owned(),
            parts: folder.map(part).into_iter().collect(),
            keep: policy(settings::Backup::default().keep),
            prunes: false,
            stack: None,
            system: uname('s')?,
            host: uname('n')?,
        })
    }

    /// What the settings name of the stack on this machine. `folder` is where `stack.toml` and `local/` are.
    pub fn of_stack(
        settings: &Settings,
        observed: &Observed,
        folder: &Path,
        repository: Option<&Path>,
    ) -> Result<Self, Failure> {
        let root = Root::new(observed.root.clone());
        let runtime = observed.current_release().map(|release| release.content.runtime);
        let is_sandbox = runtime.unwrap_or(Runtime::Native) == Runtime::Sandbox
            || settings.engine.runtime == RuntimeChoice::Fixed(Runtime::Sandbox);
        let served = observed.current_release().and_then(|release| release.models());
        let models = match is_sandbox {
            _ if served.is_some() => served.map(Path::to_owned).unwrap_or_default(),
            true => root.data().join("models"),
            false => home(&settings.engine.models_path)?,
        };
        let wanted = settings.backup.repository.as_deref().map(home).transpose()?;
        let repository = repository.map(Path::to_owned).or(wanted).unwrap_or_else(|| match observed.system.as_str() {
            _ if is_sandbox => root.path().join("backups"),
            "Darwin" => PathBuf::from("/Volumes/Backup/frontier-llm"),
            _ => PathBuf::from("/var/backups/frontier-llm"),
        });
        let stack = Stack { root, models, image: image(observed) };
        let mut parts = Vec::new();
        for source in BackupSource::ALL {
            let mut part = stack.part(source, observed, folder)?;
            part.is_saved &= settings.backup.sources.contains(&source);
            parts.push(part);
        }
        for folder in &settings.backup.folders {
            let root = home(folder)?;
            let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let source = FolderSource { excludes: settings.backup.excludes.clone(), ..FolderSource::new(&name, &root) };
            parts.push(Part { source: Box::new(source), target: Target::Folder(root), is_saved: true });
        }
        for name in &settings.backup.volumes {
            let volume = Volume { name: name.clone(), image: stack.image.clone(), asked: None };
            parts.push(in_volume(name, volume, None));
        }
        Ok(Backup {
            repository,
            parts,
            keep: policy(settings.backup.keep),
            prunes: settings.backup.prune,
            stack: Some(stack),
            system: observed.system.clone(),
            host: uname('n')?,
        })
    }

    /// Has only the part of that name saved, if one is named.
    pub fn narrow(&mut self, name: Option<&str>) -> Result<(), Failure> {
        let Some(name) = name else { return Ok(()) };
        let names: Vec<String> = self.sources().map(|it| it.name().to_owned()).collect();
        if !names.iter().any(|it| it == name) {
            return Err(Failure::new(Class::Settings, format!("nothing that is saved here is called `{name}`"))
                .hint(format!("there are {}", names.join(", "))));
        }
        self.parts.iter_mut().for_each(|it| it.is_saved &= it.source.name() == name);
        Ok(())
    }

    /// What is to be saved.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &dyn Source> {
        self.parts.iter().filter(|it| it.is_saved).map(|it| &*it.source)
    }

    /// The repository, which must be there.
    pub fn open(&self, watch: Option<&Watch>) -> Result<Repository, Failure> {
        let repository = Repository::at(&self.repository).map_err(|error| self.failure("cannot open", &error))?;
        Ok(watched(repository, watch))
    }

    /// A fault of the store, in the words of the host.
    pub fn failure(&self, doing: &str, error: &StoreError) -> Failure {
        let message = format!("{doing} {}", self.repository.display());
        let failure = Failure::new(class(error), message).because(error);
        match (error.hint(), self.is_private(error)) {
            (_, true) => failure.hint(preflight::FULL_DISK_ACCESS),
            (Some(hint), _) => failure.hint(hint),
            (None, _) => failure,
        }
    }

    /// Whether macOS keeps us out: it says that the operation, and not the access, is not permitted.
    fn is_private(&self, error: &StoreError) -> bool {
        self.system == "Darwin" && matches!(error, StoreError::Disk { source, .. } if preflight::is_private(source))
    }
}

impl Stack {
    fn part(&self, source: BackupSource, observed: &Observed, folder: &Path) -> Result<Part, Failure> {
        let name = source.name();
        Ok(match source {
            BackupSource::Models => part(manifest::source(&self.models), &self.models, true),
            BackupSource::Prometheus | BackupSource::Grafana if self.image.is_some() => {
                let own = if source == BackupSource::Grafana { Component::Grafana } else { Component::Prometheus };
                self.contained(name, own, observed)
            }
            BackupSource::Prometheus => self.prometheus(observed),
            BackupSource::Grafana => {
                let data = self.root.data().join("grafana");
                let target = component(observed, Component::Grafana, &data);
                Part { target, ..part(grafana(&data), &data, data.is_dir()) }
            }
            BackupSource::Agents => {
                let home = home(Path::new("~"))?;
                let only = AGENT_FILES.map(PathBuf::from).to_vec();
                let any = only.iter().any(|it| home.join(it).exists());
                part(FolderSource { only, ..FolderSource::new(name, &home) }, &home, any)
            }
            BackupSource::Settings => {
                let only = ["stack.toml", "local"].map(PathBuf::from).to_vec();
                let any = only.iter().any(|it| folder.join(it).exists());
                let source = FolderSource { only, ..FolderSource::new(name, folder) };
                Part { target: Target::ByHand, ..part(source, folder, any) }
            }
            BackupSource::Secrets => {
                let state = self.root.state();
                let only: Vec<PathBuf> = self.root.confidential().into();
                let any = only.iter().any(|it| state.join(it).exists());
                part(FolderSource { only, ..FolderSource::new(name, &state) }, &state, any)
            }
        })
    }

    /// What a component keeps in a volume that is called as the source is.
    fn contained(&self, name: &str, own: Component, observed: &Observed) -> Part {
        let content = observed.current_release().map(|it| &it.content);
        let is_there = content.is_some_and(|it| it.services.iter().any(|it| it.component == own));
        let port = content.and_then(|it| it.ports.get(&own)).map_or(0, |port| port.chosen);
        let container = observed.components.get(&own).and_then(|it| it.container.clone());
        let asked = (own == Component::Prometheus).then(|| (format!("http://127.0.0.1:{port}"), container));
        let volume = Volume { name: self.root.volume(name), image: self.image.clone(), asked };
        Part { is_saved: is_there, ..in_volume(name, volume, Some(own)) }
    }

    fn prometheus(&self, observed: &Observed) -> Part {
        let services = observed.current_release().map(|it| it.content.services.as_slice()).unwrap_or_default();
        let service = services.iter().find(|it| it.component == Component::Prometheus);
        let args = service.map(|it| it.args()).unwrap_or_default();
        let path = args.iter().find_map(|it| it.strip_prefix("--storage.tsdb.path="));
        let data = path.map_or_else(|| self.root.data().join("prometheus"), PathBuf::from);
        let url = service.map(|it| it.url("")).unwrap_or_default();
        let source = prometheus::PrometheusSource::new(url, &data);
        Part { target: component(observed, Component::Prometheus, &data), ..part(source, &data, service.is_some()) }
    }
}

/// The image that our program is in where it is the gateway of a stack in containers.
fn image(observed: &Observed) -> Option<String> {
    let release = observed.current_release().filter(|it| it.content.runtime == Runtime::Docker)?;
    Some(release.service(Component::Gateway)?.container()?.image_id.clone())
}

/// Grafana's folder, wherever it is.
fn grafana(data: &Path) -> SqliteSource {
    SqliteSource::new(FolderSource::new(BackupSource::Grafana.name(), data), "grafana.db")
}

fn in_volume(name: &str, volume: Volume, component: Option<Component>) -> Part {
    Part { source: Box::new(volume.source(name)), target: Target::Volume { volume, component }, is_saved: true }
}

fn part(source: impl Source + 'static, folder: &Path, is_saved: bool) -> Part {
    Part { source: Box::new(source), target: Target::Folder(folder.to_owned()), is_saved }
}

/// A folder that belongs to a component, which may be writing there.
fn component(observed: &Observed, component: Component, folder: &Path) -> Target {
    let runs = observed.components.get(&component).is_some_and(|it| it.state != State::Stopped);
    Target::Component { folder: folder.to_owned(), component, runs }
}

fn watched(repository: Repository, watch: Option<&Watch>) -> Repository {
    match watch.cloned() {
        Some(watch) => repository.watched(move |bytes| watch(bytes)),
        None => repository,
    }
}

fn class(error: &StoreError) -> Class {
    match error {
        StoreError::Absent => Class::Nothing,
        StoreError::Ambiguous { found: 0, .. } => Class::Nothing,
        StoreError::Ambiguous { .. } | StoreError::Occupied => Class::Settings,
        StoreError::Locked => Class::Locked,
        StoreError::Stopped => Class::Interrupted,
        StoreError::Unsupported(_) => Class::Refused,
        _ => Class::Failed,
    }
}

fn policy(keep: settings::Keep) -> KeepPolicy {
    let settings::Keep { last, hourly, daily, weekly, monthly, yearly } = keep;
    KeepPolicy { last, hourly, daily, weekly, monthly, yearly }
}

fn home(path: &Path) -> Result<PathBuf, Failure> {
    expand(path).ok_or_else(|| {
        Failure::new(Class::Settings, format!("cannot tell where {} is", path.display()))
            .hint("set HOME, or write the path from `/` on")
    })
}

fn uname(what: char) -> Result<String, Failure> {
    process::uname(what).map_err(|error| Failure::new(Class::Failed, "cannot run uname").because(&error))
}
