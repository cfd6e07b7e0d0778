//! What is looked at on a host before anything is judged.
//!
//! Nothing here changes anything, but that the model is asked for a few words, which brings it into memory as any client
//! would. Invariant: what does not answer is absent.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use backup::{HashingReader, source::Named};
use chrono::{DateTime, Utc};
use reqwest::blocking::Client;
use serde_json::Value;
use stack::{
    component::{Component, Runtime},
    failure::Failure,
    observed::{Observed, State},
    process,
    release::Launch,
    settings::Settings,
};

use crate::{
    backup::manifest,
    model::{
        engine::{Answer, Engine},
        fit::{self, Host, Row, Serving},
        store::{self, Residency},
        subject,
    },
    summary::Summary,
};

/// Components answer at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Words enough to tell how fast they come.
const WORDS: u32 = 32;

/// Everything that was looked at.
#[derive(Debug)]
pub struct Evidence {
    pub(super) observed: Observed,
    pub(super) summary: Summary,
    pub(super) now: DateTime<Utc>,
    pub(super) model: Model,
    /// What the gateway exports.
    pub(super) gateway: String,
    /// What node_exporter exports.
    pub(super) node: String,
    /// What Prometheus scrapes.
    pub(super) targets: Vec<Target>,
    pub(super) strain: Strain,
}

impl Evidence {
    /// What was observed of the host.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The components that are not as they should be.
    pub fn sick(&self) -> Vec<Component> {
        let is_well = |state| matches!(state, State::Healthy | State::Absent);
        self.summary.components.iter().filter(|part| !is_well(part.state)).map(|part| part.name).collect()
    }
}

/// The model that clients mean.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) name: String,
    /// The folder of the store.
    pub(super) store: PathBuf,
    /// Blobs on the disk; `None`: the store has no such model.
    pub(super) blobs: Option<Vec<Blob>>,
    /// Downloads that have begun and not ended, in the store.
    pub(super) partial: usize,
    /// What it answered, or why not; `None`: the engine was not asked.
    pub(super) answer: Option<Result<Answer, String>>,
    pub(super) residency: Option<Residency>,
    /// Whether it fits; `None`: not known, or all of it synthetic.
    pub(super) row: Option<Row>,
    pub(super) host: Option<Host>,
    pub(super) serving: Option<Serving>,
}

/// A file that a manifest names.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) path: PathBuf,
    pub(super) wanted_bytes: u64,
    /// `None`: it is not there.
    pub(super) bytes: Option<u64>,
    /// Whether it has the digest that it is named by; `None`: nobody looked.
    pub(super) is_whole: Option<bool>,
}

/// A line of Prometheus' list of targets.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) job: String,
    pub(super) is_up: bool,
    pub(super) error: String,
}

/// What slows a machine down.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Strain {
    /// In the words of the system.
    pub(super) throttled: Option<String>,
    /// Share of the last minute in which everything waited for memory, in percent. Linux.
    pub(super) stalled_percent: Option<f64>,
    /// Free memory as the kernel judges it, in percent. Macs.
    pub(super) free_percent: Option<u32>,
    /// Swap in use. Macs.
    pub(super) swap_bytes: Option<u64>,
}

/// Looks at a host on that host. `observed` has its facts. `tell` hears what takes its time.
pub fn gather(observed: Observed, settings: &Settings, tell: &mut dyn FnMut(&str)) -> Evidence {
    let summary = Summary::of("", &observed);
    let client = Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap_or_default();
    let get = |component: Component, path: &str| {
        let part = summary.components.iter().find(|part| part.name == component && part.state == State::Healthy)?;
        let answer = client.get(format!("{}{path}", part.url.as_deref()?)).send().ok()?;
        answer.error_for_status().ok()?.text().ok()
    };
    let gateway = get(Component::Gateway, "/metrics").unwrap_or_default();
    let node = get(Component::NodeExporter, "/metrics").unwrap_or_default();
    let targets = targets_that_stay(settings, || get(Component::Prometheus, "/api/v1/targets"));
    let serves = summary.components.iter().any(|it| it.name == Component::Engine && it.state == State::Healthy);
    let model = model(&observed, settings, serves, tell);
    let strain = strain(&observed);
    Evidence { model, gateway, node, targets, strain, summary, observed, now: Utc::now() }
}

/// A target that was down may be back, and its next scrape tells.
fn targets_that_stay(settings: &Settings, ask: impl Fn() -> Option<String>) -> Vec<Target> {
    let deadline = Instant::now() + 2 * settings.monitoring.scrape_interval + TIMEOUT;
    loop {
        let targets = ask().map(|text| targets(&text)).unwrap_or_default();
        if targets.iter().all(|target| target.is_up) || Instant::now() > deadline {
            return targets;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn targets(answer: &str) -> Vec<Target> {
    let answer: Value = serde_json::from_str(answer).unwrap_or_default();
    let listed = answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let target = |it: &Value| Target {
        job: text(&it["labels"]["job"]),
        // What was never scraped yet is `unknown`.
        is_up: it["health"] != "down",
        error: text(&it["lastError"]),
    };
    listed.iter().map(target).collect()
}

fn model(observed: &Observed, settings: &Settings, serves: bool, tell: &mut dyn FnMut(&str)) -> Model {
    let name = settings.models.default.clone();
    let store = store_of(observed).unwrap_or_default();
    let mut model = Model { blobs: blobs(&store, &name), partial: partial(&store), name, store, ..Model::default() };
    let Some(engine) = Engine::of(observed).ok().filter(|_| serves) else { return model };
    let is_synthetic = observed.current_release().is_some_and(|it| it.content.runtime == Runtime::Sandbox);
    if !is_synthetic {
        weigh(&mut model, &engine, observed, settings);
    }
    tell(&format!("asking {} for a few words", model.name));
    let asked = engine.ask(&model.name, "Say hello.", Some(WORDS), &mut |_| Ok(()));
    model.residency = store::residency(&engine, &model.name).ok().flatten();
    // Only then: it takes as long as to read the model.
    if let (Err(_), Some(blobs)) = (&asked, &mut model.blobs) {
        for blob in blobs.iter_mut().filter(|blob| blob.bytes == Some(blob.wanted_bytes)) {
            tell(&format!("reading {}", blob.path.display()));
            blob.is_whole = is_whole(&blob.path);
        }
    }
    model.answer = Some(asked.map_err(|failure| words(&failure)));
    model
}

/// Whether it fits, by its own layers.
fn weigh(model: &mut Model, engine: &Engine, observed: &Observed, settings: &Settings) {
    let Ok(Some(subject)) = subject::of_engine(&model.name, engine) else { return };
    let Ok(host) = subject::observed_host("", observed, settings) else { return };
    let serving = Serving::of(&settings.engine, subject.context);
    model.row = fit::fit(subject.attention.as_ref(), &subject.sizes, &host, &serving).pop();
    (model.host, model.serving) = (Some(host), Some(serving));
}

/// Where the engine that is deployed keeps its models.
fn store_of(observed: &Observed) -> Option<PathBuf> {
    match &observed.current_release()?.service(Component::Engine)?.launch {
        Launch::Process { command, .. } => command.env.get("OLLAMA_MODELS").map(PathBuf::from),
        Launch::Container(container) => container.folders.first().cloned(),
    }
}

fn blobs(store: &Path, model: &str) -> Option<Vec<Blob>> {
    let named = manifest::parse(&fs::read(store.join(manifest::path(model))).ok()?).ok()?;
    let blob = |Named { path, size, .. }: Named| {
        let path = store.join(path);
        let bytes = fs::metadata(&path).ok().map(|meta| meta.len());
        Blob { path, wanted_bytes: size, bytes, is_whole: None }
    };
    Some(named.into_iter().map(blob).collect())
}

fn partial(store: &Path) -> usize {
    let names = fs::read_dir(store.join("blobs")).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().ends_with("-partial")).count()
}

/// A blob is named by its digest.
fn is_whole(path: &Path) -> Option<bool> {
    let named = path.file_name()?.to_str()?.strip_prefix("sha256-")?.to_owned();
    let mut content = HashingReader::new(File::open(path).ok()?);
    io::copy(&mut content, &mut io::sink()).ok()?;
    Some(content.finish().0.to_string() == named)
}

fn words(failure: &Failure) -> String {
    [&failure.message].into_iter().chain(&failure.causes).map(String::as_str).collect::<Vec<_>>().join(": ")
}

fn strain(observed: &Observed) -> Strain {
    let mac = observed.facts.as_ref().and_then(|machine| machine.mac.as_ref());
    let ask = |program, args: &[&str]| process::look_up(program, args).unwrap_or_default();
    match mac {
        Some(mac) => Strain {
            throttled: throttled_mac(&ask("pmset", &["-g", "therm"])),
            free_percent: mac.memory_free_percent,
            swap_bytes: mac.swap_used_bytes,
            stalled_percent: None,
        },
        None => Strain {
            throttled: throttled_nvidia(&ask(
                "nvidia-smi",
                &["--query-gpu=name,clocks_throttle_reasons.hw_thermal_slowdown", "--format=csv,noheader"],
            )),
            stalled_percent: stalled(&fs::read_to_string("/proc/pressure/memory").unwrap_or_default()),
            ..Strain::default()
        },
    }
}

/// `CPU_Speed_Limit = 60`, where the system has slowed itself down.
fn throttled_mac(text: &str) -> Option<String> {
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let limit = fields.iter().find(|(key, _)| key.trim() == "CPU_Speed_Limit")?.1.trim();
    let percent: u32 = limit.parse().ok()?;
    (percent < 100).then(|| format!("CPU_Speed_Limit = {percent}"))
}

/// `NAME, Active` a line.
fn throttled_nvidia(csv: &str) -> Option<String> {
    let hot = csv.lines().find(|line| line.rsplit(',').next().is_some_and(|reason| reason.trim() == "Active"))?;
    Some(format!("{}: hardware thermal slowdown", hot.split(',').next().unwrap_or_default()))
}

/// `full avg10=0.00 avg60=1.25 …`: see the kernel's `accounting/psi.rst`.
fn stalled(text: &str) -> Option<f64> {
    let full = text.lines().find_map(|line| line.strip_prefix("full "))?;
    full.split_whitespace().find_map(|field| field.strip_prefix("avg60="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_tells_that_it_slows_itself_down() {
        let cool = "Note: No thermal warning level has been recorded\n";
        assert_eq!(throttled_mac(cool), None);
        let text = |limit| {
            format!("{cool}2026-11-26 CPU Power notify\n\tCPU_Scheduler_Limit \t= 100\n\tCPU_Speed_Limit \t= {limit}\n")
        };
        assert_eq!(throttled_mac(&text(100)), None);
        assert_eq!(throttled_mac(&text(60)).as_deref(), Some("CPU_Speed_Limit = 60"));
        assert_eq!(throttled_nvidia("NVIDIA L4, Not Active\n"), None);
        let hot = throttled_nvidia("NVIDIA L4, Not Active\nNVIDIA L4, Active\n").unwrap();
        assert_eq!(hot, "NVIDIA L4: hardware thermal slowdown");
    }

    #[test]
    fn a_kernel_tells_how_long_everything_waited_for_memory() {
        let text = "some avg10=3.00 avg60=2.50 avg300=1 total=9\nfull avg10=0.10 avg60=1.25 avg300=0.5 total=7\n";
        assert_eq!(stalled(text), Some(1.25));
        assert_eq!(stalled(""), None);
    }

    #[test]
    fn what_was_never_scraped_is_not_down() {
        let text = r#"{"data":{"activeTargets":[{"labels":{"job":"node"},"health":"down","lastError":"refused"},
            {"labels":{"job":"ollama"},"health":"unknown","lastError":""}]}}"#;
        let found = targets(text);
        assert_eq!(found.iter().map(|it| it.is_up).collect::<Vec<_>>(), [false, true]);
        assert_eq!((found[0].job.as_str(), found[0].error.as_str()), ("node", "refused"));
    }
}
