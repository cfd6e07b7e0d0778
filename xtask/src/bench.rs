//! `bench`: how fast models answer, and whether something got slower.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use chrono::{SecondsFormat, Utc};
use ops::bench::{
    Event, Options, Own, Patience,
    compare::{self, Comparison, Side},
    endpoint::Endpoint,
    load::Progress,
    prompt::{self, Prompts},
    store::{Found, Store},
    table,
};
use ops::hardware::Hardware;
use serde::Serialize;
use stack::{
    component::Component,
    failure::{Class, Failure},
    observed::Question,
    secret::Secret,
};

use crate::{
    cli::{self, BaselineVerb, BenchVerb},
    report::{self, Exit},
    session::{self, Interrupt, Need, Session},
    there::{self, As},
};

/// What a log is told of a run that goes on.
const TELL_EVERY: Duration = Duration::from_secs(10);

pub(crate) fn run(settings: Option<&Path>, args: cli::Bench) -> Result<Exit> {
    match args.verb {
        None => measure(settings, &args),
        Some(BenchVerb::Compare(args)) => compare(settings, &args),
        Some(BenchVerb::Baseline(BaselineVerb::Set { name, model, blocks, load })) => {
            set_baseline(settings, &name, model.as_deref(), blocks, &load)
        }
        Some(BenchVerb::List { json }) => kept(settings, |store| {
            let entries = store.list()?;
            if entries.is_empty() {
                return Err(store.nothing(None).into());
            }
            print(json, &entries, || table::list(&entries))
        }),
        Some(BenchVerb::Show { id, json }) => kept(settings, |store| match store.find(id.as_deref())?.1 {
            Found::Result(outcome) => print(json, &outcome, || table::outcome(&outcome)),
            Found::Comparison(kept) => print(json, &kept.comparison, || table::comparison(&kept.comparison)),
        }),
        Some(BenchVerb::Report { id }) => kept(settings, |store| {
            let path = store.report(id.as_deref())?;
            report::data(&format!("{}\n", path.display()))?;
            Ok(Exit::Done)
        }),
    }
}

/// Looks at results. They lie where they were measured: here if an endpoint was named, else on the host.
fn kept(settings: Option<&Path>, look: impl FnOnce(&Store) -> Result<Exit>) -> Result<Exit> {
    let folder = session::results(settings)?;
    let looked = look(&Store::below(&folder));
    let is_absent =
        |error: &anyhow::Error| error.downcast_ref::<Failure>().is_some_and(|failure| failure.class == Class::Nothing);
    match looked {
        Err(error) if is_absent(&error) => {
            let session = Session::open(settings, Need::Any)?;
            if session.is_here { Err(error) } else { there::run(session, As::Question) }
        }
        looked => looked,
    }
}

fn print<T: Serialize>(json: bool, value: &T, text: impl FnOnce() -> String) -> Result<Exit> {
    let said = if json { serde_json::to_string(value)? + "\n" } else { text() };
    report::data(&said)?;
    Ok(Exit::Done)
}

fn measure(settings: Option<&Path>, args: &cli::Bench) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    if is_there(&session, &args.load) {
        return there::run(session, As::Job);
    }
    if let Some(name) = &args.baseline {
        let store = Store::below(&session::results(settings)?);
        return against_baseline(&mut session, &store, name, args);
    }
    let mut options = options(&mut session, &args.load, args.cold, own(&args.load, false)?)?;
    if session.is_here && options.endpoint.is_here() {
        options.hardware = hardware(&mut session)?;
    }
    let default = session.settings.models.default.clone();
    let models = if args.models.is_empty() { vec![default.clone()] } else { args.models.clone() };
    let mut said = Said::new(&session.interrupt);
    let mut outcomes = Vec::new();
    for model in &models {
        let outcome = ops::bench::measure(model, &default, &options, &mut |event| said.hear("", &event))?;
        said.end();
        let folder = Store::below(&session::results(settings)?).keep(&outcome)?;
        print(args.json, &outcome, || table::outcome(&outcome))?;
        report::say(&format!("\nkept in {}; report.html there has the plots", folder.display()));
        let is_broken = outcome.broken_off.is_some();
        outcomes.push(outcome);
        if is_broken {
            break;
        }
    }
    if outcomes.len() > 1 && !args.json {
        report::data(&format!("\n{}", table::side_by_side(&outcomes)))?;
    }
    if session.interrupt.check().is_err() {
        return Ok(Exit::Interrupted);
    }
    if let Some(outcome) = outcomes.iter().find(|it| it.answered() == 0) {
        return Err(Failure::new(Class::Failed, format!("{} gave no whole answer", outcome.model.name))
            .hint("see what it says itself: cargo xtask logs engine")
            .into());
    }
    match outcomes.iter().find_map(|it| it.broken_off.clone()) {
        Some(why) => Err(Failure::new(Class::Failed, why).hint("what came until then is kept").into()),
        None => Ok(Exit::Done),
    }
}

fn compare(settings: Option<&Path>, args: &cli::BenchCompare) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    if args.what == "model" && is_there(&session, &args.load) {
        return there::run(session, As::Job);
    }
    let default = args.model.clone().unwrap_or_else(|| session.settings.models.default.clone());
    let own = own(&args.load, true)?;
    let mut side = |name: &str| -> Result<Options> {
        let mut options = match args.what.as_str() {
            "endpoint" => options_at(&session, name, &args.load)?,
            _ => options(&mut session, &args.load, false, None)?,
        };
        options.own.clone_from(&own);
        Ok(options)
    };
    let model = |name| if args.what == "model" { name } else { default.as_str() };
    let a = Side { name: args.a.clone(), model: model(&args.a), options: side(&args.a)? };
    let b = Side { name: args.b.clone(), model: model(&args.b), options: side(&args.b)? };
    let mut said = Said::new(&session.interrupt);
    let blocks = args.blocks;
    let mut tell = |name: &str, block, event: Event<'_>| said.hear(&in_block(name, block, blocks), &event);
    let [of_a, of_b] = compare::take_turns([&a, &b], blocks, &mut tell)?;
    said.end();
    if of_a.is_empty() {
        session.interrupt.check()?;
    }
    let comparison = compare::compare((&a.name, &of_a), (&b.name, &of_b), true, args.tolerance)?;
    if args.what == "model" {
        report::say("speed only, not how good the answers are");
    }
    let exit = conclude(&comparison, args.json)?;
    let ended = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let kept = compare::Kept { schema: ops::bench::SCHEMA, ended, comparison, of_a, of_b };
    let folder = Store::below(&session::results(settings)?).keep_comparison(&kept)?;
    report::say(&format!("\nkept in {}; report.html there has the plots", folder.display()));
    Ok(if session.interrupt.check().is_err() { Exit::Interrupted } else { exit })
}

fn conclude(comparison: &Comparison, json: bool) -> Result<Exit> {
    print(json, comparison, || table::comparison(comparison))?;
    Ok(if comparison.is_regression() { Exit::Failed } else { Exit::Done })
}

fn set_baseline(
    settings: Option<&Path>,
    name: &str,
    model: Option<&str>,
    blocks: usize,
    load: &cli::BenchLoad,
) -> Result<Exit> {
    let mut session = Session::open(settings, Need::Any)?;
    if is_there(&session, load) {
        return there::run(session, As::Job);
    }
    let store = Store::below(&session::results(settings)?);
    let baseline = blocks_of(&mut session, name, model, blocks, load)?;
    let path = store.keep_baseline(name, &baseline)?;
    report::say(&format!("kept {} blocks of {} in {}", baseline.blocks.len(), baseline.model.name, path.display()));
    Ok(Exit::Done)
}

fn blocks_of(
    session: &mut Session,
    name: &str,
    model: Option<&str>,
    blocks: usize,
    load: &cli::BenchLoad,
) -> Result<compare::Baseline> {
    let options = options(session, load, false, own(load, true)?)?;
    let model = model.unwrap_or(&session.settings.models.default);
    let mut said = Said::new(&session.interrupt);
    let side = Side { name: name.to_owned(), model, options };
    let tell = &mut |name: &str, block, event: Event<'_>| said.hear(&in_block(name, block, blocks), &event);
    let baseline = compare::alone(&side, blocks, tell)?;
    said.end();
    Ok(baseline)
}

fn against_baseline(session: &mut Session, store: &Store, name: &str, args: &cli::Bench) -> Result<Exit> {
    let then = store.baseline(name)?;
    let now = blocks_of(session, "now", args.models.first().map(String::as_str), then.blocks.len(), &args.load)?;
    if now.load != then.load || now.api != then.api {
        let words = format!("the baseline {name} was made with another load: {}, and now {}", then.load, now.load);
        return Err(Failure::new(Class::Settings, words)
            .hint("give the options that it was made with, or make it anew")
            .into());
    }
    let mut comparison = compare::compare((name, &then.blocks), ("now", &now.blocks), false, args.tolerance)?;
    if now.model.digest != then.model.digest {
        comparison.warnings.push(format!("the model is another: {} then, {} now", then.model.name, now.model.name));
    }
    if now.engine != then.engine {
        let version = |it: Option<String>| it.unwrap_or_else(|| "unknown".to_owned());
        comparison.warnings.push(format!("the engine was {}, now it is {}", version(then.engine), version(now.engine)));
    }
    conclude(&comparison, args.json)
}

/// Whether the stack that is meant is another machine's: then it is measured there, without the network between.
fn is_there(session: &Session, load: &cli::BenchLoad) -> bool {
    load.endpoint.is_none() && !session.is_here
}

fn in_block(name: &str, block: usize, blocks: usize) -> String {
    format!("block {} of {blocks}, {name}: ", block + 1)
}

fn hardware(session: &mut Session) -> Result<Hardware> {
    let facts = Some(session.settings.engine.models_path.clone());
    let observed = session.client.observe(Question { facts, ..Question::default() })?;
    Ok(observed.facts.as_ref().map(Hardware::of).unwrap_or_default())
}

/// What to measure at the endpoint that is named, or at this stack's own.
fn options(session: &mut Session, load: &cli::BenchLoad, is_cold: bool, own: Option<Own>) -> Result<Options> {
    let url = load.endpoint.clone().map_or_else(|| own_url(session), Ok)?;
    Ok(Options { is_cold, own, ..options_at(session, &url, load)? })
}

/// Where clients find this stack's API, which may be elsewhere than the settings want it.
fn own_url(session: &mut Session) -> Result<String> {
    let observed = session.client.observe(Question::default())?;
    let release = observed.current_release();
    let door = release.and_then(|release| release.content.doors.get(&Component::Gateway)).copied();
    let listen = || Some(release?.service(Component::Gateway)?.listen.port());
    let port = door.or_else(listen).unwrap_or(session.settings.ports.api);
    Ok(format!("http://127.0.0.1:{port}"))
}

fn options_at(session: &Session, url: &str, load: &cli::BenchLoad) -> Result<Options> {
    Ok(Options {
        endpoint: Endpoint::parse(url, key(load.key.as_deref())?)?,
        api: load.api,
        is_cold: false,
        own: None,
        slots: session.settings.engine.num_parallel.max(1) as usize,
        hardware: Hardware::default(),
        warm_up: load.warmup,
        objectives: load.slo.unwrap_or_default(),
        seed: load.seed,
        patience: Patience::default(),
    })
}

fn key(file: Option<&Path>) -> Result<Option<Secret>> {
    let Some(file) = file else { return Ok(None) };
    let mut text = String::new();
    match file == Path::new("-") {
        true => drop(io::stdin().read_to_string(&mut text).context("cannot read the key from standard input")?),
        false => {
            text = fs::read_to_string(file).with_context(|| format!("cannot read the key in {}", file.display()))?
        }
    }
    Ok(Some(Secret::new(text.trim().to_owned())))
}

/// A load of one's own, if one was described; of a block, always.
fn own(load: &cli::BenchLoad, is_block: bool) -> Result<Option<Own>> {
    const OUTPUT_TOKENS: u32 = 256;
    /// Enough for a median, few enough that seven blocks of two things are a matter of minutes.
    const BLOCK: (u32, u32) = (8, 128);
    let is_described = !load.concurrency.is_empty()
        || load.rate.is_some()
        || load.duration.is_some()
        || load.requests.is_some()
        || load.prompts.is_some()
        || load.input_tokens.is_some()
        || load.output_tokens.is_some();
    if !is_described && !is_block {
        return Ok(None);
    }
    let output_tokens = load.output_tokens.unwrap_or(if is_block { BLOCK.1 } else { OUTPUT_TOKENS });
    let (name, prompts) = match (&load.prompts, load.input_tokens) {
        (Some(file), _) => ("file", prompt::read(file, output_tokens)?),
        (None, Some(input_tokens)) => ("synthetic", Prompts::Synthetic { input_tokens, output_tokens }),
        (None, None) => {
            // One task for blocks: the spread between tasks would hide what is looked for.
            let tasks = prompt::guide().into_iter().filter(|(name, _)| !is_block || *name == "explanation");
            let prompts = tasks.map(|(_, prompt)| prompt::Prompt { output_tokens, ..prompt });
            (if is_block { "explanation" } else { "mixed" }, Prompts::Listed(prompts.collect()))
        }
    };
    let concurrency = match load.concurrency[..] {
        [] => vec![1],
        ref several => several.iter().map(|it| usize::from(*it)).collect(),
    };
    if is_block && concurrency.len() > 1 {
        return Err(Failure::new(Class::Settings, "a block has one concurrency")
            .hint("compare one after the other")
            .into());
    }
    let unlimited = load.requests.is_none() && load.duration.is_none();
    Ok(Some(Own {
        name: name.to_owned(),
        prompts,
        concurrency,
        rate: load.rate.map(|rate| (rate, load.arrival)),
        requests: load.requests.or((is_block && unlimited).then_some(BLOCK.0)).map(|it| it as usize),
        duration: load.duration,
    }))
}

/// Progress: a line that moves on a terminal, now and then a line elsewhere.
struct Said<'a> {
    interrupt: &'a Interrupt,
    is_terminal: bool,
    last: Option<Instant>,
    what: String,
}

impl<'a> Said<'a> {
    fn new(interrupt: &'a Interrupt) -> Self {
        Said { interrupt, is_terminal: io::stderr().is_terminal(), last: None, what: String::new() }
    }

    /// Says what is new; false once there was a Ctrl-C.
    fn hear(&mut self, lead: &str, event: &Event<'_>) -> bool {
        match event {
            Event::Preparing(what) => self.line(&format!("{lead}{what}"), what),
            Event::Running { label, progress, requests, duration } => {
                let name = table::name(label);
                self.line(&format!("{lead}{name}: {}", far(progress, *requests, *duration)), &format!("{lead}{name}"));
            }
            Event::Ran(_) => {}
        }
        self.interrupt.check().is_ok()
    }

    fn line(&mut self, text: &str, what: &str) {
        let is_new = self.what != what;
        if self.is_terminal {
            report::progress(text);
        } else if is_new || self.last.is_none_or(|last| last.elapsed() > TELL_EVERY) {
            report::say(text);
            self.last = Some(Instant::now());
        }
        what.clone_into(&mut self.what);
    }

    fn end(&self) {
        if self.is_terminal {
            report::progress("");
        }
    }
}

/// `3 of 10 requests, 12 s of at most 45 s`.
fn far(progress: &Progress, requests: usize, duration: Duration) -> String {
    const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);
    let of = if requests < 1_000_000 { format!(" of {requests}") } else { String::new() };
    let most = if duration < FOREVER { format!(" of at most {} s", duration.as_secs().max(1)) } else { String::new() };
    let errors = if progress.errors > 0 { format!(", {} errors", progress.errors) } else { String::new() };
    format!("{}{of} requests{errors}, {} s{most}", progress.ended, progress.elapsed.as_secs())
}
