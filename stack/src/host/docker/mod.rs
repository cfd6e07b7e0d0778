//! Components that Compose starts: containers of one project, which this root's path names.
//!
//! To look, the engine is asked and Compose is not: a label on each container says what it was made from. Invariant: no
//! container, volume or image is touched that is not of this root.

mod image;
mod observe;
mod volume;

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

pub(super) use observe::{Containers, containers, facts};

use super::{
    Follow,
    control::change,
    starter::{Asked, Starter},
};
use crate::{
    component::Component,
    durable,
    failure::{Class, Doing, Failure},
    layout::Root,
    observed::{Question, Running, State},
    plan::{self, Step},
    process::{self, Command},
    protocol::{Action, Event, LogQuery},
    release::Release,
    supervise::read_desired,
};

/// What is asked of the engine is answered at once.
const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than any grace, and than it takes to make containers.
const ACT_TIMEOUT: Duration = Duration::from_secs(600);
/// Between two looks at containers: each costs the engine some 30 ms.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What does not stay up for so long will not.
const SICK_AFTER: Duration = Duration::from_secs(4);
/// How long a component may take to read its files again.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two words about what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Docker<'a> {
    root: &'a Root,
    project: String,
    lock: Option<&'a File>,
}

/// The folders of a release that containers see.
const SEEN: [&str; 4] = ["nginx", "prometheus", "alertmanager", "grafana"];

impl<'a> Docker<'a> {
    pub(super) fn new(root: &'a Root, lock: Option<&'a File>) -> Self {
        Docker { root, project: root.project(), lock }
    }

    /// Has Docker do something, to its end. Whoever follows hears `doing`, and can object.
    fn act(&self, doing: &str, args: &[&str], follow: &mut Follow<'_>) -> Result<String, Failure> {
        let command = command(args)?;
        let mut told_at = Instant::now();
        let done = process::run_following(&command, self.lock, ACT_TIMEOUT, &mut || {
            if told_at.elapsed() > TELL_EVERY {
                told_at = Instant::now();
                follow(Event::Waiting { detail: doing.to_owned() })?;
            }
            Ok(())
        })?;
        if done.success {
            return Ok(done.output);
        }
        Err(Failure::new(Class::Failed, format!("cannot {doing}")).because(&io::Error::other(done.output)))
    }

    /// Has Compose make these services' containers anew and start them, and touch no other.
    fn up(&self, release: &Release, components: &[Component], follow: &mut Follow<'_>) -> Result<(), Failure> {
        let folder = self.root.release(&release.id);
        let path = |name: &str| folder.join(name).display().to_string();
        let mut args: Vec<String> = ["compose", "--progress=quiet", "-p", &self.project].map(str::to_owned).into();
        args.extend([format!("--project-directory={}", path("")), format!("--env-file={}", path(".env"))]);
        let files = release.content.files.keys().filter(|name| name.starts_with("compose."));
        // The overlays come behind what they lie on.
        let (base, overlays): (Vec<_>, Vec<_>) = files.partition(|name| *name == "compose.yaml");
        args.extend(base.into_iter().chain(overlays).map(|name| format!("--file={}", path(name))));
        args.extend(["up", "-d", "--no-deps", "--no-build", "--pull=never", "--force-recreate"].map(str::to_owned));
        let services = components.iter().filter_map(|component| release.service(*component)?.container());
        args.extend(services.map(|container| container.service.clone()));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.act("bring up containers", &args, follow).map(drop)
    }

    /// Puts the files of a release where containers see them: each by rename, into folders that stay.
    fn place(&self, release: &Release) -> Result<(), Failure> {
        let (from, live) = (self.root.release(&release.id), self.root.live());
        for name in observe::seen(release) {
            let path = live.join(name);
            let folder = path.parent().unwrap_or(&live);
            fs::create_dir_all(folder).doing("cannot create", folder)?;
            let bytes = fs::read(from.join(name)).doing("cannot read", &from.join(name))?;
            if durable::read_if_any(&path).doing("cannot read", &path)?.as_ref() != Some(&bytes) {
                durable::write(&path, &bytes).doing("cannot write", &path)?;
            }
        }
        for path in observe::strangers(&live, release)? {
            durable::remove(&path)?;
        }
        for folder in release.content.services.iter().filter_map(|it| it.container()).flat_map(|it| &it.folders) {
            fs::create_dir_all(folder).doing("cannot create", folder)?;
        }
        Ok(())
    }

    /// The containers of components, whether they run or not.
    fn ids(&self, asked: impl Fn(Component) -> bool) -> Result<Vec<String>, Failure> {
        let containers = observe::list(&self.project)?.into_iter();
        Ok(containers.filter(|it| it.component.is_some_and(&asked)).map(|it| it.id).collect())
    }

    fn each(&self, doing: &str, verb: &[&str], ids: &[String], follow: &mut Follow<'_>) -> Result<(), Failure> {
        if ids.is_empty() {
            return Ok(());
        }
        let args: Vec<&str> = verb.iter().copied().chain(ids.iter().map(String::as_str)).collect();
        self.act(doing, &args, follow).map(drop)
    }

    /// Stops components, and takes what they leave away if it is not to be started again.
    fn stop(&self, component: Component, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let ids = self.ids(|it| it == component)?;
        self.each(&format!("stop the {component}"), &["stop"], &ids, follow)
    }

    fn remove(&self, ids: &[String], follow: &mut Follow<'_>) -> Result<(), Failure> {
        self.each("stop containers", &["stop"], ids, follow)?;
        self.each("remove containers", &["rm", "--force"], ids, follow)
    }

    /// Has a component read its files again, and asks it which ones it runs.
    fn reload(&self, release: &Release, component: Component, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let ids = self.ids(|it| it == component)?;
        self.each(&format!("reload the {component}"), &["kill", "--signal=HUP"], &ids, follow)?;
        let Some(service) = release.service(component) else { return Ok(()) };
        let declared = release.config_fingerprint(service);
        let deadline = Instant::now() + RELOAD_TIMEOUT;
        while observe::config(service).as_ref() != Some(&declared) {
            if Instant::now() > deadline {
                let said = ids.first().map(|id| observe::last_words(id)).unwrap_or_default();
                return Err(Failure::new(Class::Failed, format!("the {component} goes on with its old files"))
                    .because(&io::Error::other(said))
                    .hint(format!("`cargo xtask logs {component}` shows what it says")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until components of a release run as declared and are healthy, twice in a row.
    fn await_healthy(
        &self,
        release: &Release,
        asked: &[Component],
        timeout: Duration,
        follow: &mut Follow<'_>,
    ) -> Result<(), Failure> {
        let (begun, mut told_at) = (Instant::now(), Instant::now());
        let (mut good, mut sick_since) = (0, None);
        loop {
            let containers = containers(self.root, Some(release))?.components;
            let state = |component: &Component| as_declared(release, *component, containers.get(component));
            let waits: Vec<(Component, Waits)> = asked.iter().filter_map(|it| Some((*it, state(it)?))).collect();
            good = if waits.is_empty() { good + 1 } else { 0 };
            if good == 2 {
                return Ok(());
            }
            let words = waits.iter().map(|(component, it)| format!("{component}: {}", it.detail));
            let words = words.collect::<Vec<_>>().join("; ");
            match waits.iter().find(|(_, waits)| waits.sick) {
                None => sick_since = None,
                Some((component, waits)) if sick_since.get_or_insert_with(Instant::now).elapsed() > SICK_AFTER => {
                    return Err(Failure::new(Class::Failed, format!("the {component} is not healthy"))
                        .because(&io::Error::other(waits.detail.clone()))
                        .hint(format!("`cargo xtask logs {component}` shows what it says")));
                }
                Some(_) => {}
            }
            if begun.elapsed() > timeout {
                return Err(Failure::new(Class::Failed, format!("not healthy after {} s", timeout.as_secs()))
                    .because(&io::Error::other(words))
                    .hint("`cargo xtask logs` shows what the components say"));
            }
            if told_at.elapsed() > TELL_EVERY && !waits.is_empty() {
                follow(Event::Waiting { detail: words })?;
                told_at = Instant::now();
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// What a component still lacks of running as declared and being healthy.
struct Waits {
    detail: String,
    /// It will not get there by itself, if this stays so.
    sick: bool,
}

fn as_declared(release: &Release, component: Component, running: Option<&Running>) -> Option<Waits> {
    let service = release.service(component)?;
    let waits = |detail: &str, sick| Some(Waits { detail: detail.to_owned(), sick });
    let Some(running) = running else { return waits("it has no container", true) };
    if running.fingerprint != release.fingerprint(service) {
        return waits("it is not made anew yet", false);
    }
    let detail = running.detail.as_deref().unwrap_or("does not answer yet");
    match running.state {
        State::Healthy if running.config == release.config_fingerprint(service) => None,
        State::Healthy => waits("it runs other files", false),
        State::Starting => waits(detail, false),
        State::Unhealthy | State::Stopped | State::Absent => waits(detail, true),
    }
}

impl Starter for Docker<'_> {
    fn step(&self, step: &Step, release: &Release, follow: &mut Follow<'_>) -> Result<(), Failure> {
        match step {
            Step::Pull { image } => self.pull(image, follow),
            Step::Import { image } => self.import(image),
            Step::Clear { containers } => self.remove(containers, follow),
            Step::Place { .. } => self.place(release),
            Step::Keep { component, volume, image, release } => {
                self.stop(*component, follow)?;
                self.keep(volume, image, release, follow)
            }
            Step::PutBack { component, volume, image, release } => {
                self.stop(*component, follow)?;
                self.put_back_volume(volume, image, release, follow)
            }
            Step::Up { components } => {
                let components: Vec<Component> = components.iter().map(|raised| raised.component).collect();
                change(self.root, |desired| {
                    desired.halted = false;
                    desired.stopped.retain(|stopped| !components.contains(stopped));
                })?;
                self.up(release, &components, follow)
            }
            Step::Reload { component } => self.reload(release, *component, follow),
            Step::Stop { component } => self.remove(&self.ids(|it| it == *component)?, follow),
            step => Err(Failure::new(Class::Failed, format!("Compose cannot: {step}"))),
        }
    }

    fn gate(&self, release: &Release, timeout: Duration, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let desired = read_desired(self.root)?;
        if desired.halted {
            return Ok(());
        }
        let meant = release.content.services.iter().map(|service| service.component);
        let meant: Vec<Component> = meant.filter(|component| !desired.stopped.contains(component)).collect();
        self.await_healthy(release, &meant, timeout, follow)
    }

    /// What a plan for `to` would do now: containers that it shares with `from` go on.
    fn put_back(&self, from: &Release, to: Option<&Release>, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let Some(to) = to else {
            return self.remove(&self.ids(|_| true)?, follow);
        };
        for step in plan::put_back(from, to) {
            self.step(&step, to, follow)?;
        }
        let observed = super::observe::observe(self.root, &Question::default())?;
        let back = plan::run(to, &observed).into_iter();
        for step in back.filter(|step| !matches!(step, Step::Gate { .. } | Step::Keep { .. } | Step::Generate { .. })) {
            self.step(&step, to, follow)?;
        }
        Ok(())
    }

    fn control(&self, asked: &Asked<'_>, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let named: Vec<Component> = asked.named.iter().copied().collect();
        let ids = self.ids(|component| asked.named.contains(&component))?;
        match asked.action {
            Action::Stop => return self.each("stop containers", &["stop"], &ids, follow),
            // Some were never made, or are gone: all of them are made anew.
            Action::Start | Action::Restart if ids.len() < named.len() => self.up(asked.release, &named, follow)?,
            Action::Start => self.each("start containers", &["start"], &ids, follow)?,
            Action::Restart => self.each("restart containers", &["restart"], &ids, follow)?,
        }
        self.await_healthy(asked.release, &named, Duration::from_secs(180), follow)
    }

    fn halt(&self, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let ids = self.ids(|_| true)?;
        self.each("stop containers", &["stop"], &ids, follow)
    }

    /// Component by component, and then new lines as they come.
    fn logs(&self, query: &LogQuery, follow: &mut Follow<'_>) -> Result<(), Failure> {
        let asked = |component: Component| query.components.is_empty() || query.components.contains(&component);
        let containers = observe::list(&self.project)?.into_iter();
        let containers: Vec<(Component, String)> =
            containers.filter_map(|it| Some((it.component.filter(|it| asked(*it))?, it.id))).collect();
        if containers.is_empty() {
            return Err(Failure::new(Class::Nothing, "there are no such containers")
                .hint("`cargo xtask status` shows what runs"));
        }
        let since = query.since.map(|since| format!("--since={}", since.to_rfc3339()));
        let (sender, lines) = channel();
        let mut readers = Vec::new();
        for (component, id) in &containers {
            let mut args = vec!["logs"];
            args.extend(since.as_deref());
            args.extend(query.follow.then_some("--follow"));
            args.push(id);
            let command = command(&args)?;
            let (sender, component) = (sender.clone(), *component);
            let reader = process::read_lines(&command, move |text| sender.send((component, text)).is_ok());
            let reader = reader.doing("cannot run", &command.program)?;
            if query.follow {
                readers.push(reader);
            } else {
                reader.wait();
                lines.try_iter().try_for_each(|(component, text)| follow(Event::Line { component, text }))?;
            }
        }
        drop(sender);
        let end = loop {
            let told = match lines.recv_timeout(Duration::from_millis(100)) {
                Ok((component, text)) => follow(Event::Line { component, text }),
                Err(RecvTimeoutError::Timeout) => follow(Event::Waiting { detail: "more lines".to_owned() }),
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            };
            if told.is_err() {
                break told;
            }
        };
        readers.into_iter().for_each(process::Lines::end);
        end
    }

    fn forget(&self, release: &Release) {
        self.forget_volumes(release);
        image::forget(self.root, release);
    }

    fn erase(&self, releases: &[Release], data: bool) -> Result<(), Failure> {
        let mut deaf = |_| Ok(());
        self.remove(&self.ids(|_| true)?, &mut deaf)?;
        releases.iter().for_each(|release| self.forget(release));
        if data {
            self.erase_volumes(&mut deaf)?;
        }
        Ok(())
    }
}

/// A call of the `docker` program.
fn command(args: &[&str]) -> Result<Command, Failure> {
    let program = process::find("docker").ok_or_else(|| {
        Failure::new(Class::Refused, "Docker is not installed").hint("`cargo xtask deploy` says what brings it")
    })?;
    Ok(Command { program, args: args.iter().map(|arg| (*arg).to_owned()).collect(), env: [].into() })
}

/// Asks Docker; its words if it says no.
fn ask(args: &[&str]) -> Result<Result<String, String>, Failure> {
    let command = command(args)?;
    process::ask_within(&command, ASK_TIMEOUT).doing("cannot run", &command.program)
}

/// Asks Docker, where a no is a failure.
fn tell(args: &[&str]) -> Result<String, Failure> {
    ask(args)?.map_err(|said| Failure::new(Class::Failed, "Docker does not answer").because(&io::Error::other(said)))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
