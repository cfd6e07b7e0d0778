//! Deploys that are struck down: by a fault at a step, by SIGKILL at a step or anywhere, by each other.
//!
//! Where the host ends is claimed, not how: as it was before, or, once somebody deploys again, as declared.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use stack::{
    declare::{Wanted, question},
    failure::{Class, Failure},
    host::Host,
    layout::Root,
    plan::plan,
    protocol::Event,
    settings::Settings,
    transport::Client,
};

use crate::stage::{Job, Process, Ran, Stage, until};

/// What befalls a deploy.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Blow {
    /// The step fails.
    Fault,
    /// The deployer is killed.
    Kill,
    /// The step fails, and the deployer is killed as it begins to put things back.
    FaultAndKill,
}

/// A deployer that strikes itself. It has its orders from [`strike`].
#[test]
#[ignore = "no test: child processes of others begin here, and lack nothing"]
fn deploys_until_struck() {
    let Ok(order) = env::var("CRASH") else { return };
    let order: Value = serde_json::from_str(&order).unwrap();
    let settings = Settings::load(Path::new("stack.toml")).unwrap();
    let text = |key: &str| order[key].as_str().unwrap().to_owned();
    let root = Root::new(settings.host.root.clone().unwrap());
    let (program, program_id) = (PathBuf::from(text("program")), text("program_id"));
    let mut client = Client(Box::new(Host { root, program, program_id, password: None }));
    let written = fs::read_to_string("stack.toml").unwrap();
    let source = stack::addition::read(&env::current_dir().unwrap(), Some(written)).unwrap();
    let observed = client.observe(question(&settings, &text("program_id"))).unwrap();
    let wanted = Wanted { settings, source, program: text("program_id") };
    let (plan, contents) = plan(&wanted, &observed).unwrap();
    let die = || kill_process(getpid(), Signal::KILL).map_err(|error| Failure::new(Class::Failed, error.to_string()));
    let outcome = client.apply(plan, contents, &mut |event| {
        let (moment, number) = match event {
            Event::Begin { number, .. } => ("begin", number),
            Event::End { number, .. } => ("end", number),
            Event::RollingBack { .. } if order["blow"] == "FaultAndKill" => return die(),
            _ => return Ok(()),
        };
        match (order["moment"] == moment && order["number"] == number, order["blow"].as_str()) {
            (false, _) => Ok(()),
            (true, Some("Kill")) => die(),
            (true, _) => Err(Failure::new(Class::Failed, "struck")),
        }
    });
    println!("\noutcome: {}", serde_json::to_string(&outcome.unwrap()).unwrap());
}

/// Deploys, with a blow at a moment of a step.
fn strike(stage: &Stage, blow: Blow, moment: &str, number: usize) -> Ran {
    let program_id = stage.ok("deploy --dry-run --json").json()["release"]["program"].clone();
    let (program, blow) = (stage.program(), format!("{blow:?}"));
    let order =
        json!({ "program": program, "program_id": program_id, "blow": blow, "moment": moment, "number": number });
    stage.act(deploys_until_struck, &BTreeMap::from([("CRASH", order.to_string())]))
}

/// How the apply ended, if it did.
fn outcome(ran: &Ran) -> Option<Value> {
    let line = ran.stdout.lines().find_map(|line| line.strip_prefix("outcome: "));
    assert!(line.is_some() || ran.code.is_none(), "{ran:?}");
    line.map(|line| serde_json::from_str(line).unwrap())
}

/// Strikes at both moments of every step, until a deploy has no such step and so goes through. `before` prepares each
/// deploy, `after` looks at what it left.
fn at_every_step<T>(
    stage: &Stage,
    blow: Blow,
    mut before: impl FnMut(usize) -> T,
    mut after: impl FnMut(T, Option<Value>, &str),
) {
    for count in 0.. {
        let (number, moment) = (count / 2 + 1, ["begin", "end"][count % 2]);
        let prepared = before(count);
        let outcome = outcome(&strike(stage, blow, moment, number));
        if outcome.as_ref().is_some_and(|outcome| outcome["outcome"] == "done") {
            assert!(number > 5, "only {} steps were struck", number - 1);
            return stage.is_settled();
        }
        after(prepared, outcome, &format!("{blow:?} at the {moment} of step {number}"));
    }
}

/// Three releases, as many as are kept: the next one has one to sweep.
fn with_history() -> Stage {
    let stage = Stage::new();
    for number in 1..=3 {
        change(&stage, number);
        stage.ok("deploy");
    }
    stage
}

/// Changes a setting of the engine and a file that Prometheus reads.
fn change(stage: &Stage, number: usize) {
    stage.set("time_to_first_token", &format!("\"{number}ms\""));
    stage.write("local/rules/mine.yml", &format!("groups: []\n# {number}\n"));
}

/// Fails the test if any component but the engine was interrupted.
fn only_the_engine_changed(stage: &Stage, before: &BTreeMap<String, Process>, at: &str) {
    let replaced = stage.replaced_since(before);
    assert!(replaced.iter().all(|name| name == "engine"), "{at}: {replaced:?}");
}

#[test]
fn a_first_deploy_that_fails_at_any_step_leaves_nothing() {
    let stage = Stage::new();
    let left = |(), outcome: Option<Value>, at: &str| {
        let outcome = outcome.expect(at);
        assert_eq!((&outcome["outcome"], &outcome["to"]), (&"rolled_back".into(), &Value::Null), "{at}: {outcome}");
        assert_eq!((stage.processes(), stage.deployment()), (Vec::new(), BTreeMap::new()), "{at}");
        assert!(stage.journal_is_closed(), "{at}");
        stage.run("status").exits(10);
    };
    at_every_step(&stage, Blow::Fault, |_| (), left);
}

#[test]
fn a_change_that_fails_at_any_step_leaves_the_old_release_serving() {
    let stage = with_history();
    let current = stage.current().unwrap();
    let changed = |count| {
        change(&stage, 10 + count);
        (stage.releases(), stage.deployment(), stage.components())
    };
    let left = |(before, mut files, processes): (Vec<String>, BTreeMap<PathBuf, String>, _),
                outcome: Option<Value>,
                at: &str| {
        let outcome = outcome.expect(at);
        assert_eq!((&outcome["outcome"], &outcome["to"]), (&"rolled_back".into(), &json!(current)), "{at}: {outcome}");
        let releases = stage.releases();
        // What the last step had swept stays so.
        let swept = before.iter().find(|id| !releases.contains(id));
        files.retain(|path, _| swept.is_none_or(|swept| !path.iter().any(|name| name == swept.as_str())));
        assert_eq!(stage.deployment(), files, "{at}");
        only_the_engine_changed(&stage, &processes, at);
        stage.is_settled();
    };
    at_every_step(&stage, Blow::Fault, changed, left);
}

fn killed_first_deploys(blow: Blow) {
    let stage = Stage::new();
    let left = |(), outcome, at: &str| {
        assert_eq!(outcome, None, "{at}");
        assert!(!stage.journal_is_closed(), "{at}");
        if stage.current().is_some() {
            stage.run("status").says("a change was cut off at");
        }
        stage.ok("deploy").says("an earlier change was cut off at");
        assert_eq!(stage.releases().len(), 1, "{at}");
        stage.is_settled();
        stage.ok("uninstall --data --yes");
        assert!(!stage.root().exists(), "{at}");
    };
    at_every_step(&stage, blow, |_| (), left);
}

#[test]
fn a_first_deploy_that_is_killed_at_any_step_is_completed_by_the_next() {
    killed_first_deploys(Blow::Kill);
}

#[test]
fn a_first_deploy_that_is_killed_as_it_gives_up_is_completed_by_the_next() {
    killed_first_deploys(Blow::FaultAndKill);
}

/// Whoever comes next wants the old release in every other case, and the new one in the others.
fn killed_changes(blow: Blow) {
    let stage = with_history();
    let changed = |count| {
        let settings =
            ["stack.toml", "local/rules/mine.yml"].map(|name| (name, fs::read_to_string(stage.path(name)).unwrap()));
        change(&stage, 10 + count);
        (count % 4 < 2, settings, stage.current(), stage.components())
    };
    let left = |(back, settings, old, processes): (bool, [(&str, String); 2], Option<String>, _), outcome, at: &str| {
        assert_eq!(outcome, None, "{at}");
        stage.run("status").says("a change was cut off at");
        if back {
            settings.iter().for_each(|(name, text)| stage.write(name, text));
        }
        stage.ok("deploy").says("an earlier change was cut off at");
        assert_eq!(stage.current() == old, back, "{at}");
        only_the_engine_changed(&stage, &processes, at);
        stage.is_settled();
    };
    at_every_step(&stage, blow, changed, left);
}

#[test]
fn a_change_that_is_killed_at_any_step_ends_as_declared_at_the_next_deploy() {
    killed_changes(Blow::Kill);
}

#[test]
fn a_change_that_is_killed_as_it_gives_up_ends_as_declared_at_the_next_deploy() {
    killed_changes(Blow::FaultAndKill);
}

#[test]
fn a_deploy_may_be_killed_at_any_moment_within_a_step() {
    let stage = Stage::new();
    for round in 0..24 {
        change(&stage, round);
        let deploying = stage.start("deploy");
        // The moment is what varies here; nothing is waited for.
        thread::sleep(Duration::from_millis(7) * u32::try_from(round).unwrap());
        deploying.kill();
        // A tool that a step had started may have the lock a moment longer.
        let next = || Some(stage.run("deploy")).filter(|ran| ran.code != Some(11));
        until("the lock is free", next).exits(0);
        stage.is_settled();
        if round % 3 == 2 {
            stage.ok("uninstall --data --yes");
        }
    }
}

/// A stage whose deploys wait at their gate for a file, and such a deploy.
fn deploying() -> (Stage, Job) {
    let stage = Stage::new();
    stage.fake("node_exporter", "until [ -e go ]; do sleep 0.05; done");
    let first = stage.start("deploy --json");
    until("the first deploy is at its gate", || first.stdout().contains("\"step\":\"gate\"").then_some(()));
    (stage, first)
}

#[test]
fn of_two_deployers_at_once_one_does_it_and_the_other_is_told_who() {
    let (stage, first) = deploying();
    let holder = format!("is being changed by `deploy` (pid {}", first.process().pid);
    stage.run("deploy").exits(11).says(&holder).says("a lock dies with its holder");
    stage.run("stop").exits(11).says(&holder);
    stage.run("uninstall").exits(11).says(&holder);
    stage.write("go", "");
    first.finish().exits(0);
    stage.is_settled();
}

#[test]
fn of_deployers_that_race_exactly_one_changes_the_host() {
    let stage = Stage::new();
    let jobs: Vec<Job> = (0..4).map(|_| stage.start("deploy --json")).collect();
    let ended: Vec<Ran> = jobs.into_iter().map(Job::finish).collect();
    let changed = |ran: &&Ran| ran.json_lines().last().is_some_and(|it| it["outcome"] == "done" && it["changed"] != 0);
    assert_eq!(ended.iter().filter(changed).count(), 1, "{ended:?}");
    assert!(ended.iter().all(|ran| matches!(ran.code, Some(0 | 7 | 11))), "{ended:?}");
    stage.is_settled();
}

#[test]
fn an_interrupted_deploy_puts_back_what_was_before() {
    let (stage, first) = deploying();
    first.process().signal(Signal::INT);
    first.finish().exits(130).says("interrupted");
    assert_eq!((stage.processes(), stage.deployment()), (Vec::new(), BTreeMap::new()));
    assert!(stage.journal_is_closed());
}

#[test]
fn the_lock_of_a_killed_deployer_is_gone_with_it() {
    let (stage, first) = deploying();
    first.kill();
    stage.write("go", "");
    stage.ok("deploy").says("an earlier change was cut off at: wait until healthy");
    stage.is_settled();
}
