//! `agent`: coding agents on this machine.

use std::{
    env,
    fmt::Write as _,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result};
use chrono::{DateTime, Local};
use ops::agent::{
    self, ALL, Agent, Asked, Change, Configured, Diagnosis, Installed, Options, Outcome, Place, Target, Tested, Version,
};
use ops::verify::Verdict;
use serde_json::json;
use stack::{
    component::{Component, Runtime},
    failure::{Class, Failure},
    observed::Question,
    release::Contents,
    settings::{RuntimeChoice, Settings, Tls},
};

use crate::{
    cli::{self, Side},
    diff,
    report::{self, Exit},
    secret,
    session::{Interrupt, Need, Session, Stack},
    there::{self, As},
};

pub(crate) fn run(settings: Option<&Path>, verb: cli::Agent) -> Result<Exit> {
    let place = place()?;
    match verb {
        cli::Agent::List { json, on } => match elsewhere(settings, on)? {
            Some(session) => there::run(session, As::Question),
            None => list(&place, json),
        },
        cli::Agent::Install { name, latest, on } => match elsewhere(settings, on)? {
            Some(session) => there::run(session, As::Job),
            None => install(name, &place, latest),
        },
        cli::Agent::Configure(args) => configure(settings, &place, &args),
        cli::Agent::Unconfigure { name, dry_run } => unconfigure(name, &place, dry_run),
        cli::Agent::Test(args) => test(&place, &args),
    }
}

/// The host, where it is meant and another machine.
fn elsewhere(settings: Option<&Path>, on: Side) -> Result<Option<Session>> {
    if on == Side::Client {
        return Ok(None);
    }
    Ok(Some(Session::open(settings, Need::Any)?).filter(|session| !session.is_here))
}

pub(crate) fn place() -> Result<Place> {
    let home = env::home_dir().context("cannot find your home folder: HOME is not set")?;
    Ok(Place::new(home, env::var_os("XDG_STATE_HOME").map(PathBuf::from)))
}

fn list(place: &Place, json: bool) -> Result<Exit> {
    // Each is asked for its version, which takes some of them a second or two.
    let installed: Vec<Option<Installed>> = thread::scope(|scope| {
        let asked: Vec<_> = ALL.iter().map(|agent| scope.spawn(|| agent::installed(agent, place))).collect();
        asked.into_iter().map(|it| it.join().unwrap_or_default()).collect()
    });
    let mut listed = Vec::new();
    for (agent, installed) in ALL.into_iter().zip(installed) {
        let (configured, tested) = (agent::configured(agent, place)?, agent::tested(agent, place)?);
        if !json {
            report::data(&paragraph(agent, installed.as_ref(), configured.as_ref(), tested.iter()))?;
        }
        let configured = configured.map(
            |it| json!({ "endpoint": it.endpoint, "model": it.model, "context": it.context, "key": it.key.is_some() }),
        );
        listed.push(json!({
            "name": agent.name, "title": agent.title, "good_at": agent.good_at, "bad_at": agent.bad_at,
            "refused": agent.refusal(), "installed": installed, "configured": configured, "tested": tested,
        }));
    }
    if json {
        report::data(&format!("{}\n", json!(listed)))?;
    }
    Ok(Exit::Done)
}

/// A few lines an agent: what it is, then how things stand.
fn paragraph<'a>(
    agent: &Agent,
    installed: Option<&Installed>,
    configured: Option<&Configured>,
    tested: impl Iterator<Item = (&'a String, &'a Tested)>,
) -> String {
    let mut text = format!("{:<10}{}\n", agent.name, agent.title);
    let mut line = |name: &str, words: &str| {
        let _ = writeln!(text, "  {name:<12}{words}");
    };
    line("good at", agent.good_at);
    line("bad at", agent.bad_at);
    if let Some(reason) = agent.refusal() {
        line("refused", reason);
        return text;
    }
    match (installed, agent.by_its_user()) {
        (Some(installed), _) => line("installed", &format!("{} as {}", installed.version, installed.program.display())),
        (None, Some(hint)) => line("installed", hint),
        (None, None) => line("installed", "no"),
    }
    match configured {
        Some(it) => line("configured", &format!("{} at {}, {} tokens of context", it.model, it.endpoint, it.context)),
        None => line("configured", "no"),
    }
    for (task, tested) in tested {
        line("tested", &format!("{}: {} ({task})", moment(tested.at), tested.words()));
    }
    text
}

/// `2026-01-31 14:05`, as the clock on the wall has it.
fn moment(at: u64) -> String {
    let at = i64::try_from(at).ok().and_then(|at| DateTime::from_timestamp(at, 0)).unwrap_or_default();
    at.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string()
}

fn install(agent: &Agent, place: &Place, latest: bool) -> Result<Exit> {
    let interrupt = Interrupt::listen()?;
    let version = if latest { Version::Latest } else { Version::Known };
    let installed = agent::install(agent, place, version, &mut report::say, &mut || interrupt.check())?;
    report::say(&format!("{} {} is {}", agent.title, installed.version, installed.program.display()));
    let bin = installed.program.parent().map(Path::to_owned).unwrap_or_default();
    if !env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder == bin) {
        report::say(&format!("{} is not on your PATH: add it to type `{}`", bin.display(), agent.name));
    }
    report::say(&format!("next: cargo xtask agent configure {}", agent.name));
    Ok(Exit::Done)
}

fn configure(settings: Option<&Path>, place: &Place, args: &cli::Configure) -> Result<Exit> {
    let stack = Stack::read(settings)?;
    let earlier = agent::configured(args.name, place)?;
    let asked = Asked { model: args.model.clone(), endpoint: args.endpoint.clone() };
    let mut target = target(&stack.settings, stack.is_here, &asked)?;
    target.key = match args.key {
        true => Some(secret::read("API key", &format!("cargo xtask agent configure {} --key", args.name.name))?),
        // A key goes on being sent to where it was given for.
        false => earlier.filter(|it| it.endpoint == target.endpoint).and_then(|it| it.key),
    };
    if args.dry_run {
        return preview(&agent::plan_configure(args.name, place, &target)?);
    }
    let changes = agent::configure(args.name, place, &stack.folder, &asked, &target)?;
    tell(place, &changes);
    report::say(&format!("{} uses {} at {}", args.name.title, target.model, target.endpoint));
    if changes.iter().any(|change| change.before.is_some()) {
        let kept = place.state.join(args.name.name).join("original");
        report::say(&format!("what the files were is kept in {}; unconfigure puts it back", kept.display()));
    }
    if let Err(diagnosis) = agent::probe(&target) {
        report::say(&format!("\nit would not work now: {}\n{}", diagnosis.words(), diagnosis.hint(args.name.name)));
    } else if args.name.can_be_tested() {
        report::say(&format!("next: cargo xtask agent test {}", args.name.name));
    }
    Ok(Exit::Done)
}

/// Whether the API answers from this machine, and what.
pub(crate) fn api(session: &mut Session) -> Result<(Verdict, String)> {
    if !session.is_here && session.settings.engine.runtime == RuntimeChoice::Fixed(Runtime::Sandbox) {
        return Ok((Verdict::Skip, "a sandbox listens on its own machine's loopback only".to_owned()));
    }
    let asked = Asked { endpoint: sandbox_endpoint(session)?, ..Asked::default() };
    let target = match target(&session.settings, session.is_here, &asked) {
        Ok(target) => target,
        Err(error) => return Ok((Verdict::Skip, error.to_string())),
    };
    Ok(match agent::probe(&target) {
        Ok(probe) => (Verdict::Pass, format!("{} tells version {}", target.endpoint, probe.version)),
        // That it asks for a key, or knows no such model, is an answer.
        Err(diagnosis @ (Diagnosis::Key { .. } | Diagnosis::Model { .. })) => (Verdict::Pass, diagnosis.words()),
        Err(diagnosis) => (Verdict::Fail, diagnosis.words()),
    })
}

/// Where a sandbox on this machine answers: its gateway may have another port than the settings want.
fn sandbox_endpoint(session: &mut Session) -> Result<Option<String>> {
    let observed = session.client.observe(Question::default())?;
    let release = observed.current_release().filter(|it| it.content.runtime == Runtime::Sandbox);
    Ok(release.and_then(|release| release.service(Component::Gateway)).map(|gateway| gateway.url("")))
}

/// What an agent is to work with: as named, else as the stack's settings have it.
fn target(settings: &Settings, is_here: bool, asked: &Asked) -> Result<Target> {
    let Settings { host, ports, models, engine, .. } = settings;
    let endpoint = match &asked.endpoint {
        Some(endpoint) => endpoint.clone(),
        None if ports.api == 0 => {
            return Err(Failure::new(
                Class::Settings,
                "ports.api is 0: which port it became is known on the host only",
            )
            .hint("name the endpoint that `cargo xtask status` shows with --endpoint")
            .into());
        }
        None => {
            let address = if is_here { "127.0.0.1" } else { &host.address };
            let scheme = if is_here || settings.edge.tls == Tls::Off { "http" } else { "https" };
            format!("{scheme}://{address}:{}", ports.api)
        }
    };
    let model = asked.model.clone().unwrap_or_else(|| models.default.clone());
    // Where the engine decides by itself, what it decides is unknown here; this is what any agent can work with.
    let context = if engine.context_length == 0 { 32_768 } else { engine.context_length };
    Ok(Target { endpoint, model, context, key: None })
}

/// After a deploy: agents that follow this stack follow it now.
pub(crate) fn refresh(session: &Session) -> Result<Vec<&'static str>> {
    let follow = |record: &Configured| match target(&session.settings, session.is_here, &record.asked) {
        Ok(target) => Target { key: record.key.clone().filter(|_| target.endpoint == record.endpoint), ..target },
        Err(_) => record.target(),
    };
    Ok(agent::refresh(&place()?, &session.folder, follow)?)
}

fn unconfigure(agent: &Agent, place: &Place, dry_run: bool) -> Result<Exit> {
    if dry_run {
        return preview(&agent::plan_unconfigure(agent, place)?);
    }
    tell(place, &agent::unconfigure(agent, place)?);
    report::say(&format!("{} is as it was", agent.title));
    Ok(Exit::Done)
}

fn preview(changes: &[Change]) -> Result<Exit> {
    let side = |pick: fn(&Change) -> &Option<String>| -> Contents {
        changes.iter().filter_map(|change| Some((change.path.clone(), pick(change).clone()?))).collect()
    };
    match changes {
        [] => report::say("nothing to do"),
        _ => report::data(&diff::files(&side(|it| &it.before), &side(|it| &it.after)))?,
    }
    Ok(Exit::Done)
}

fn tell(place: &Place, changes: &[Change]) {
    for Change { path, before, after } in changes {
        let word = match (before, after) {
            (None, _) => "wrote",
            (_, None) => "removed",
            _ => "changed",
        };
        report::say(&format!("{word} {}", place.home.join(path).display()));
    }
}

fn test(place: &Place, args: &cli::AgentTest) -> Result<Exit> {
    let interrupt = Interrupt::listen()?;
    let options = Options { task: args.task, deadline: args.deadline.unwrap_or_else(|| args.task.deadline()) };
    let mut say = |words: &str| {
        if !args.json {
            report::say(words);
        }
    };
    let tested = agent::test(args.name, place, options, &mut say, &mut || interrupt.check())?;
    if args.json {
        report::data(&format!("{}\n", serde_json::to_string(&tested)?))?;
    } else {
        let word = if tested.outcome == Outcome::Pass { "PASS" } else { "FAIL" };
        let seconds = report::seconds(std::time::Duration::from_secs_f64(tested.seconds));
        report::data(&format!("{word}  {} {} in {seconds}\n", args.name.title, tested.words()))?;
    }
    let Outcome::Fail { diagnosis, transcript } = &tested.outcome else { return Ok(Exit::Done) };
    if let (Some(transcript), false) = (transcript, args.json) {
        let said = std::fs::read(transcript).map(|it| String::from_utf8_lossy(&it).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        say(&format!("\nits last words, of {}:", transcript.display()));
        lines[lines.len().saturating_sub(12)..].iter().for_each(|line| say(&format!("  {line}")));
    }
    say(&format!("\nhint: {}", diagnosis.hint(args.name.name)));
    Ok(Exit::Failed)
}
