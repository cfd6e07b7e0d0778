//! What every verb begins with: the settings, and a line to the host.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};
use sandbox::Scenarios;
use signal_hook::{consts::SIGINT, flag};
use stack::{
    addition,
    component::Runtime,
    failure::{Class, Failure},
    host::Host,
    layout::{self, Root},
    observed::{Observed, Question},
    release::Contents,
    secret::Secret,
    settings::{LoadError, RuntimeChoice, Settings},
    ssh::{self, Ssh, System},
    transport::{Client, Transport},
};

use crate::{program, report};

/// Identity of this program; see build.rs.
pub(crate) const PROGRAM_ID: &str = env!("STACK_PROGRAM_ID");

/// Where a stack lives on a host unless it is said otherwise.
const ROOT: &str = "~/frontier-llm-stack";

/// The settings, for those who need no host.
pub(crate) struct Stack {
    pub(crate) settings: Settings,
    /// The file they came from; without one the embedded sandbox is meant.
    pub(crate) file: Option<PathBuf>,
    /// The folder that `local/` is looked for in.
    pub(crate) folder: PathBuf,
    /// Whether the host is this machine: only then does what listens on its loopback answer us.
    pub(crate) is_here: bool,
}

impl Stack {
    pub(crate) fn read(named: Option<&Path>) -> Result<Stack> {
        let (folder, file) = find_settings(named)?;
        let settings = match &file {
            Some(file) => Settings::load(file).map_err(with_hint)?,
            None => Settings::sandbox(),
        };
        let is_here = settings.host.address == "localhost" || deployed_here().is_some();
        Ok(Stack { settings, file, folder, is_here })
    }
}

/// The settings, and a line to the host.
pub(crate) struct Session {
    pub(crate) settings: Settings,
    /// The file they came from; without one the embedded sandbox is meant.
    pub(crate) file: Option<PathBuf>,
    /// The folder that `local/` is looked for in.
    pub(crate) folder: PathBuf,
    /// Whether the host is this machine: only then does what listens on its loopback answer us.
    pub(crate) is_here: bool,
    pub(crate) client: Client,
    pub(crate) interrupt: Interrupt,
}

impl Session {
    /// Reads the settings and finds the host.
    pub(crate) fn open(named: Option<&Path>, need: Need) -> Result<Session> {
        let Stack { settings, file, folder, is_here } = Stack::read(named)?;
        let transport = transport(&settings, &folder, need)?;
        Ok(Session { settings, file, folder, is_here, client: Client(transport), interrupt: Interrupt::listen()? })
    }

    /// What is deployed there, and on what machine.
    pub(crate) fn deployed(&mut self) -> Result<Observed, Failure> {
        let facts = Some(self.settings.engine.models_path.clone());
        let observed = self.client.observe(Question { facts, ..Question::default() })?;
        if observed.current.is_none() {
            return Err(Failure::new(Class::Nothing, format!("nothing is deployed in {}", observed.root.display()))
                .hint("`cargo xtask preflight` judges the machine, `cargo xtask deploy` brings up a stack"));
        }
        Ok(observed)
    }

    /// What the user wrote, to go into the release.
    pub(crate) fn source(&self) -> Result<Contents> {
        let read = |file: &PathBuf| fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
        let mut source = addition::read(&self.folder, self.file.as_ref().map(read).transpose()?)?;
        if let Some(name) = &self.settings.sandbox.scenarios {
            let text = addition::named(&self.folder, name)?;
            Scenarios::parse(&text).map_err(|error| {
                Failure::new(Class::Settings, format!("cannot deploy {name}: it is no scenario file"))
                    .because(&error)
                    .hint("docs/sandbox-engine.md shows every key")
            })?;
            source.insert(name.clone(), text);
        }
        Ok(source)
    }

    /// Asks for the password that sudo wants there; it is good for as long as this session lasts.
    pub(crate) fn ask_sudo(&mut self) -> Result<()> {
        let host = self.host().to_owned();
        ask_sudo(&mut self.client, &host)
    }

    /// How the host is called in what we say.
    pub(crate) fn host(&self) -> &str {
        &self.settings.host.address
    }
}

/// Which program has to answer on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Any that speaks the protocol: for those who look.
    Any,
    /// This very one, which is sent there if it is missing: for those who look where nothing is deployed yet.
    Look,
    /// The same, and it has to run in whatever the host runs it in: for those who change.
    This,
}

/// Asks for the password that sudo wants on `host`.
pub(crate) fn ask_sudo(client: &mut Client, host: &str) -> Result<()> {
    let password = report::ask_unseen(&format!("password for sudo on {host}: "))?;
    Ok(client.authorize(Secret::new(password))?)
}

/// This machine in process, another one over ssh.
fn transport(settings: &Settings, folder: &Path, need: Need) -> Result<Box<dyn Transport>> {
    let host = &settings.host;
    let here = deployed_here();
    if here.is_some() || host.address == "localhost" {
        let root = here.map_or_else(|| local_root(settings, folder).map(Root::new), Ok)?;
        let program = match is_contained(settings) && need == Need::This && !program::IS_STATIC {
            // In a container there is no libc to load: another build of the same sources, unless it is there already.
            true if root.has_program(PROGRAM_ID) => root.program(),
            true => program::build(&System::here()?)?,
            false => env::current_exe().context("cannot find this program's own file")?,
        };
        return Ok(Box::new(Host { root, program, program_id: PROGRAM_ID.to_owned(), password: None }));
    }
    let target = ssh::Target {
        address: host.address.clone(),
        user: host.user.clone(),
        port: host.port,
        root: host.root.as_deref().unwrap_or(Path::new(ROOT)).display().to_string(),
        program: (need != Need::Any).then(|| PROGRAM_ID.to_owned()),
    };
    Ok(Box::new(Ssh::connect(&target, &mut program::Builder::default())?))
}

/// Whether the gateway is to run in a container on this machine.
fn is_contained(settings: &Settings) -> bool {
    match settings.engine.runtime {
        RuntimeChoice::Fixed(runtime) => runtime == Runtime::Docker && cfg!(target_os = "linux"),
        RuntimeChoice::Auto => cfg!(target_os = "linux"),
    }
}

/// A file that is not there can be written.
fn with_hint(error: LoadError) -> anyhow::Error {
    match &error {
        LoadError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Failure::new(Class::Settings, error.to_string())
                .because(source)
                .hint(
                    "`cargo xtask init` writes one; without --settings and a stack.toml the embedded sandbox is meant",
                )
                .into()
        }
        _ => error.into(),
    }
}

/// The first Ctrl-C asks a job to stop where it can; the second ends the process on the spot.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&asked)).context("cannot listen for Ctrl-C")?;
        flag::register(SIGINT, Arc::clone(&asked)).context("cannot listen for Ctrl-C")?;
        Ok(Interrupt(asked))
    }

    /// The objection to whatever goes on, once there was a Ctrl-C.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Failure::new(Class::Interrupted, "interrupted")),
            false => Ok(()),
        }
    }
}

/// The stack that this program was deployed to, if it runs from there: then that one is meant, with the settings of its
/// release, from wherever it is called. So cron, a login and a shim do what the laptop does.
fn deployed_here() -> Option<Root> {
    let program = env::current_exe().ok()?;
    let root = Root::new(program.parent()?.parent()?.to_owned());
    (root.program() == program && root.source().is_some()).then_some(root)
}

/// The folder that counts as the user's, and the settings file if there is one.
pub(crate) fn find_settings(named: Option<&Path>) -> Result<(PathBuf, Option<PathBuf>)> {
    if let Some(file) = named {
        let file = std::path::absolute(file)?;
        let folder = file.parent().unwrap_or(&file).to_owned();
        return Ok((folder, Some(file)));
    }
    let folder = match deployed_here().and_then(|root| root.source()) {
        Some(source) => source,
        None => workspace()?,
    };
    let file = folder.join("stack.toml");
    let exists = file.try_exists().with_context(|| format!("cannot look for {}", file.display()))?;
    Ok((folder, exists.then_some(file)))
}

/// The folder that measurements are kept in: on a host with the data, which outlives its releases, else with the settings.
pub(crate) fn results(named: Option<&Path>) -> Result<PathBuf> {
    match deployed_here() {
        Some(root) => Ok(root.data()),
        None => Ok(find_settings(named)?.0),
    }
}

/// The workspace: where cargo says that it is, else the nearest folder upwards that looks like it.
pub(crate) fn workspace() -> Result<PathBuf> {
    if let Some(member) = env::var_os("CARGO_MANIFEST_DIR") {
        let member = PathBuf::from(member);
        return Ok(member.parent().unwrap_or(&member).to_owned());
    }
    let here = env::current_dir().context("cannot find the current folder")?;
    let is_ours = |folder: &&Path| folder.join("stack.toml").exists() || folder.join("xtask/Cargo.toml").exists();
    let found = here.ancestors().find(is_ours).map(Path::to_owned);
    Ok(found.ok_or_else(|| {
        Failure::new(Class::Settings, format!("there is no stack.toml in {} or above it", here.display()))
            .hint("go to the folder of your checkout, or name a file with --settings")
    })?)
}

/// Where the stack lives on this machine: as set, else by what it is.
fn local_root(settings: &Settings, folder: &Path) -> Result<PathBuf> {
    match (&settings.host.root, settings.engine.runtime) {
        (None, RuntimeChoice::Fixed(Runtime::Sandbox)) => Ok(folder.join(".sandbox")),
        (None, _) => expand(Path::new(ROOT)),
        (Some(root), _) => expand(root),
    }
}

fn expand(path: &Path) -> Result<PathBuf> {
    layout::expand(path).context("cannot find your home folder: HOME is not set")
}
