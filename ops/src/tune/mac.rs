//! A Mac: pmset for sleep, `iogpu.wired_limit_mb` for the GPU, and a daemon of root's that sets the latter at each start,
//! since the system forgets it.

use std::collections::BTreeMap;

use stack::{
    component::Runtime,
    failure::{Class, Failure},
    observed::Observed,
};

use super::{Change, Need, Seen, Tuning, command, said, write};
use crate::model::{
    fit::{Host, Serving},
    gigabytes,
};

/// What the line of the GPU is called.
pub(super) const LIMIT: &str = "GPU memory limit";

/// A limit that nobody has set.
pub(super) const OWN: &str = "the system's own";

/// One for the machine, however many stacks it has.
const LABEL: &str = "dev.frontier-llm.gpu-limit";
const PLIST: &str = "/Library/LaunchDaemons/dev.frontier-llm.gpu-limit.plist";

/// What macOS itself and everything that is no model keep.
const SYSTEM_BYTES: u64 = 16 << 30;

/// How a host that serves is set, and why. What a Mac does not list it does not have.
const POWER: [(&str, u32, &str); 4] = [
    ("sleep", 0, "asleep it answers nobody, and falls asleep in the middle of an answer too"),
    ("disksleep", 0, "a disk that wakes up first makes the first answer late"),
    ("womp", 1, "it can be woken over the network"),
    ("autorestart", 1, "it comes back by itself after a power failure"),
];

pub(super) fn look(observed: &Observed) -> Seen {
    let limit = observed.facts.as_ref().and_then(|machine| machine.gpu_limit_bytes);
    Seen {
        power: said("pmset", &["-g", "custom"]).map(|text| sources(&text)).unwrap_or_default(),
        gpu_limit_mib: limit.map(|bytes| bytes >> 20),
        daemon_limit_mib: kept_limit_mib(),
        ..Seen::default()
    }
}

/// `AC Power:` and below it ` sleep    1`; keys may have several words, values remarks.
fn sources(text: &str) -> BTreeMap<String, BTreeMap<String, u32>> {
    let mut sources = BTreeMap::new();
    let mut source: Option<&mut BTreeMap<String, u32>> = None;
    for line in text.lines() {
        if let (false, Some(name)) = (line.starts_with([' ', '\t']), line.trim_end().strip_suffix(':')) {
            source = Some(sources.entry(name.to_owned()).or_default());
            continue;
        }
        let words: Vec<&str> = line.split('(').next().unwrap_or_default().split_whitespace().collect();
        if let (Some(source), [key @ .., value]) = (&mut source, words.as_slice())
            && let Ok(value) = value.parse()
        {
            source.insert(key.join(" "), value);
        }
    }
    sources
}

/// What the daemon sets at each start; `None`: it is not loaded.
pub(crate) fn kept_limit_mib() -> Option<u64> {
    said("launchctl", &["print", &format!("system/{LABEL}")]).and_then(|text| daemon(&text))
}

/// What a loaded daemon sets, from `launchctl print`.
fn daemon(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("iogpu.wired_limit_mb=")?;
    rest.split(|it: char| !it.is_ascii_digit()).next()?.parse().ok()
}

pub(super) fn tune(seen: &Seen, before: Option<&Seen>, observed: &Observed, need: &Need) -> Result<Tuning, Failure> {
    let mut tuning = Tuning::default();
    power(seen, &mut tuning);
    limit(seen, before, observed, need, &mut tuning)?;
    Ok(tuning)
}

fn power(seen: &Seen, tuning: &mut Tuning) {
    let mut words = vec!["-a".to_owned()];
    for (key, wanted, why) in POWER {
        let values: Vec<u32> = seen.power.values().filter_map(|source| source.get(key).copied()).collect();
        let Some(before) = values.iter().find(|value| **value != wanted) else {
            if values.is_empty() {
                tuning.notes.push(format!("pmset lists no {key} here: it stays as it is"));
            }
            continue;
        };
        tuning.changes.push(Change::new(key, before, wanted, why));
        words.extend([key.to_owned(), wanted.to_string()]);
    }
    if words.len() > 1 {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        tuning.commands.push(command("pmset", &words));
    }
}

/// What a model needs and a twentieth more, for what was not counted.
pub(super) fn with_room(bytes: u64) -> u64 {
    (bytes + bytes / 20).div_ceil(1 << 20) << 20
}

fn limit(
    seen: &Seen,
    before: Option<&Seen>,
    observed: &Observed,
    need: &Need,
    tuning: &mut Tuning,
) -> Result<(), Failure> {
    let name = &need.subject.name;
    let (Some(set_mib), Some(memory)) = (seen.gpu_limit_mib, need.host.memory_bytes) else {
        tuning.notes.push("the system does not tell its GPU memory limit: it stays as it is".to_owned());
        return Ok(());
    };
    let Some(bytes) = need.bytes else {
        tuning.notes.push(format!("nobody knows what {name} needs: the {LIMIT} stays as it is"));
        return Ok(());
    };
    let wanted = with_room(bytes);
    let most = memory.saturating_sub(SYSTEM_BYTES);
    if wanted > most {
        return Err(too_large(need, wanted, most));
    }
    let is_native = observed.current_release().is_some_and(|it| it.content.runtime == Runtime::Native);
    // Raised here for a larger model: this one has no need of it, and the system has a use for the memory.
    let is_ours = seen.daemon_limit_mib == Some(set_mib) && before.is_some_and(|it| it.gpu_limit_mib != Some(set_mib));
    let chip = need.host.chip.as_deref().unwrap_or_default();
    if is_ours && Host::apple(chip, memory, None).gpu_limit_bytes >= Some(wanted) {
        let why = format!("{name} with {} tokens does without", need.serving.context);
        tuning.changes.push(Change::new(LIMIT, words(set_mib, seen.daemon_limit_mib), words(0, None), why));
        tuning.commands.extend(forget());
        tuning.commands.push(command("sysctl", &["iogpu.wired_limit_mb=0"]));
        tuning.restarts_engine = is_native;
        return Ok(());
    }
    let holds = need.host.gpu_limit_bytes.is_some_and(|limit| limit >= wanted);
    let is_kept = set_mib == 0 || seen.daemon_limit_mib == Some(set_mib);
    if holds && is_kept {
        return Ok(());
    }
    // What was set by hand and is enough is kept as it is, only from now on for good.
    let mib = if holds { set_mib } else { wanted >> 20 };
    let why = format!("{name} with {} tokens needs {}", need.serving.context, gigabytes(bytes));
    tuning.changes.push(Change::new(LIMIT, words(set_mib, seen.daemon_limit_mib), words(mib, Some(mib)), why));
    if mib != set_mib {
        tuning.commands.push(command("sysctl", &[&format!("iogpu.wired_limit_mb={mib}")]));
        tuning.restarts_engine = is_native;
    }
    let staged = observed.root.join("state/tune.plist");
    tuning.commands.push(write(&staged, &plist(mib)));
    let staged = staged.display().to_string();
    tuning.commands.push(command("install", &["-o", "root", "-g", "wheel", "-m", "0644", &staged, PLIST]));
    tuning.commands.push(command("rm", &["-f", &staged]));
    if seen.daemon_limit_mib.is_some() {
        tuning.commands.push(command("launchctl", &["bootout", &format!("system/{LABEL}")]));
    }
    tuning.commands.push(command("launchctl", &["bootstrap", "system", PLIST]));
    Ok(())
}

/// The daemon goes.
fn forget() -> [stack::process::Command; 2] {
    [command("launchctl", &["bootout", &format!("system/{LABEL}")]), command("rm", &["-f", PLIST])]
}

fn words(mib: u64, daemon_mib: Option<u64>) -> String {
    match (mib, daemon_mib) {
        (0, _) => OWN.to_owned(),
        (mib, Some(daemon)) if daemon == mib => format!("{mib} MiB"),
        (mib, _) => format!("{mib} MiB until the next restart"),
    }
}

/// What would fit instead: less context, else a smaller model.
fn too_large(need: &Need, wanted: u64, most: u64) -> Failure {
    let name = &need.subject.name;
    let fits = |context: &u64| {
        need.at(&Serving { context: *context, ..need.serving }).is_some_and(|bytes| with_room(bytes) <= most)
    };
    let context = (4..need.serving.context.div_ceil(1024)).rev().map(|step| step * 1024).find(fits);
    let hint = match context {
        Some(context) => {
            format!("with `context_length = {context}` under [engine] it would fit; write that and deploy")
        }
        None => "no context makes it fit: `cargo xtask model fit` shows sizes that do".to_owned(),
    };
    Failure::new(
        Class::Refused,
        format!(
            "{name} with {} tokens needs {}, and a GPU here may have {} at the most: the system needs 16 GiB",
            need.serving.context,
            gigabytes(wanted),
            gigabytes(most)
        ),
    )
    .hint(hint)
}

/// See launchd.plist(5). It runs once at each start, and ends.
fn plist(mib: u64) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n<dict>\n\
         \x20 <key>Label</key><string>{LABEL}</string>\n\
         \x20 <key>ProgramArguments</key>\n\
         \x20 <array><string>/usr/sbin/sysctl</string><string>iogpu.wired_limit_mb={mib}</string></array>\n\
         \x20 <key>RunAtLoad</key><true/>\n\
         </dict>\n</plist>"
    )
}

pub(super) fn revert(seen: &Seen, before: &Seen) -> Tuning {
    let mut tuning = Tuning::default();
    for (source, settings) in &before.power {
        let flag = match source.as_str() {
            "Battery Power" => "-b",
            "UPS Power" => "-u",
            _ => "-c",
        };
        let mut words = vec![flag.to_owned()];
        for (key, ..) in POWER {
            let (now, then) = (seen.power.get(source).and_then(|it| it.get(key)), settings.get(key));
            if let (Some(now), Some(then)) = (now, then.filter(|then| Some(*then) != now)) {
                tuning.changes.push(Change::new(key, now, then, format!("as it was, {source}")));
                words.extend([key.to_owned(), then.to_string()]);
            }
        }
        if words.len() > 1 {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            tuning.commands.push(command("pmset", &words));
        }
    }
    if seen.daemon_limit_mib.is_some() {
        tuning.commands.extend(forget());
    }
    if let (Some(now), Some(then)) =
        (seen.gpu_limit_mib, before.gpu_limit_mib.filter(|_| seen.gpu_limit_mib != before.gpu_limit_mib))
    {
        tuning.changes.push(Change::new(LIMIT, words(now, seen.daemon_limit_mib), words(then, None), "as it was"));
        tuning.commands.push(command("sysctl", &[&format!("iogpu.wired_limit_mb={then}")]));
        tuning.restarts_engine = true;
    }
    tuning
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_power_settings_by_their_source() {
        let text = "Battery Power:\n Sleep On Power Button 1\n sleep                10 (sleep prevented by x)\nAC Power:\n\tsleep\t1\n womp 1\n odd\n";
        let found = sources(text);
        assert_eq!(found["Battery Power"]["sleep"], 10);
        assert_eq!(found["Battery Power"]["Sleep On Power Button"], 1);
        assert_eq!((found["AC Power"]["sleep"], found["AC Power"].get("odd")), (1, None));
        assert!(sources("").is_empty());
    }

    #[test]
    fn reads_what_a_loaded_daemon_sets() {
        let text = "system/x = {\n\targuments = {\n\t\t/usr/sbin/sysctl\n\t\tiogpu.wired_limit_mb=4096\n\t}\n}\n";
        assert_eq!(daemon(text), Some(4096));
        assert_eq!(daemon("Could not find service"), None);
    }

    #[test]
    fn a_model_gets_a_twentieth_more_in_whole_mebibytes() {
        assert_eq!(with_room(20 << 30), 21 << 30);
        assert_eq!(with_room(1), 1 << 20);
    }
}
