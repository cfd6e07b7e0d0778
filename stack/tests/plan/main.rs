//! Plans as a person reads them: what was observed on the one side, the steps on the other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod containers;
mod native;

use std::{collections::BTreeMap, path::PathBuf};

use chrono::{DateTime, Utc};
use stack::{
    component::{Component, Runtime},
    declare::{Wanted, question},
    failure::Class,
    layout::Root,
    observed::{
        Account, Desired, Docker, Engine, Init, Interrupted, Native, Observed, PortFact, Running, State, Supervisor,
        SystemService,
    },
    plan::{Plan, Step, plan, plan_rollback},
    process::Identity,
    release::{Contents, Release},
    settings::{RuntimeChoice, Settings},
};

fn wanted() -> Wanted {
    Wanted { settings: Settings::sandbox(), source: Contents::new(), program: "program-1".into() }
}

/// A Linux machine with Prometheus' programs and nothing of ours.
fn bare() -> Observed {
    let programs = ["prometheus", "promtool", "node_exporter"];
    let free = |wanted: u16| PortFact { wanted, holder: None, free: wanted };
    Observed {
        system: "Linux".into(),
        machine: "x86_64".into(),
        clock: chrono::DateTime::UNIX_EPOCH,
        reached_at: None,
        root: PathBuf::from("/home/me/.sandbox"),
        program: None,
        current: None,
        releases: Vec::new(),
        leftovers: Vec::new(),
        damaged: Vec::new(),
        history: Vec::new(),
        interrupted: None,
        supervisor: None,
        backups: Default::default(),
        desired: Desired::default(),
        components: BTreeMap::new(),
        ports: question(&Settings::sandbox(), "program-1")
            .ports
            .into_iter()
            .map(|(it, wanted)| (it, free(wanted)))
            .collect(),
        programs: programs.iter().map(|name| (name.to_string(), Some(format!("/usr/bin/{name}").into()))).collect(),
        versions: [].into(),
        contents: Contents::new(),
        account: Account { ids: "1000:1000".into(), home: PathBuf::from("/home/me") },
        ipv6: true,
        taken: BTreeMap::new(),
        docker: None,
        native: None,
        booted: None,
        restarted: false,
        secrets: [].into(),
        certificate: None,
        offered: None,
        facts: None,
    }
}

/// What one would observe once a plan has been carried out.
fn after(plan: &Plan, before: &Observed) -> Observed {
    let release = &plan.release;
    let identity = |pid| Identity { pid, started: "then".into() };
    let mut observed = before.clone();
    observed.program = Some(release.content.program.clone());
    observed.current = Some(release.id.clone());
    observed.releases.retain(|known| known.id != release.id);
    observed.releases.push(release.clone());
    observed.history.retain(|id| *id != release.id);
    observed.history.push(release.id.clone());
    observed.supervisor = Some(Supervisor { identity: identity(1), program: release.content.program.clone() });
    (observed.interrupted, observed.damaged, observed.leftovers) = (None, Vec::new(), Vec::new());
    (observed.desired.halted, observed.desired.stopped) = (false, [].into());
    observed.components =
        release.content.services.iter().map(|it| (it.component, healthy(release, it.component))).collect();
    for step in &plan.steps {
        if let Step::Sweep { paths } = step {
            observed.releases.retain(|release| !paths.contains(&format!("releases/{}", release.id)));
        }
    }
    observed
}

fn healthy(release: &Release, component: Component) -> Running {
    let service = release.service(component).unwrap();
    Running {
        state: State::Healthy,
        identity: Some(Identity { pid: 100, started: "then".into() }),
        fingerprint: release.fingerprint(service),
        config: release.config_fingerprint(service),
        ..Running::default()
    }
}

/// A host on which `wanted()` runs.
fn deployed() -> Observed {
    let (plan, _) = plan(&wanted(), &bare()).unwrap();
    after(&plan, &bare())
}

/// The plan's words, with content hashes by the order in which they appear, and without how much our files are: neither is
/// what is claimed here.
fn words(wanted: &Wanted, observed: &Observed) -> String {
    let (plan, _) = plan(wanted, observed).unwrap();
    number(&plan, observed)
}

fn number(plan: &Plan, observed: &Observed) -> String {
    let mut text = plan.to_string();
    let known = observed.releases.iter().map(|release| &release.id).chain([&plan.release.id]);
    for (number, id) in known.enumerate() {
        text = text.replace(id.as_str(), &format!("R{number}"));
    }
    let without_size = |line: &str| match line.split_once("stage release ").and_then(|(_, rest)| rest.split_once(':')) {
        Some((_, size)) => line.trim_end_matches(size).trim_end_matches(':').to_owned() + "\n",
        None => format!("{line}\n"),
    };
    text.lines().map(without_size).collect()
}

fn one_more_rule(mut wanted: Wanted) -> Wanted {
    wanted.source.insert("local/rules/mine.yml".into(), "groups: []\n".into());
    wanted
}

#[test]
fn a_bare_host_gets_everything() {
    insta::assert_snapshot!(words(&wanted(), &bare()), @r"
     1. install program program-1
     2. stage release R0
     3. check prometheus: /usr/bin/promtool check config /home/me/.sandbox/releases/R0/prometheus/prometheus.yml
     4. switch to release R0
     5. supervise (no supervisor runs)
     6. start engine (it does not run)
     7. start gateway (it does not run)
     8. start prometheus (it does not run)
     9. start node-exporter (it does not run)
    10. wait until healthy: engine, gateway, prometheus, node-exporter (at most 60 s)
    ");
}

#[test]
fn a_host_as_declared_gets_nothing() {
    insta::assert_snapshot!(words(&wanted(), &deployed()), @"release R0 runs as declared: nothing to do");
}

#[test]
fn a_changed_file_reloads_the_one_that_reads_it() {
    insta::assert_snapshot!(words(&one_more_rule(wanted()), &deployed()), @r"
    1. stage release R1
    2. check prometheus: /usr/bin/promtool check config /home/me/.sandbox/releases/R1/prometheus/prometheus.yml
    3. switch from release R0 to R1
    4. reload prometheus (its files changed)
    5. wait until healthy: engine, gateway, prometheus, node-exporter (at most 60 s)
    ");
}

#[test]
fn a_changed_setting_restarts_the_one_that_it_is_for() {
    let mut wanted = wanted();
    wanted.settings.engine.num_parallel = 4;
    insta::assert_snapshot!(words(&wanted, &deployed()), @r"
    1. stage release R1
    2. check prometheus: /usr/bin/promtool check config /home/me/.sandbox/releases/R1/prometheus/prometheus.yml
    3. switch from release R0 to R1
    4. restart engine (its program, arguments or files changed)
    5. restart gateway (its program, arguments or files changed)
    6. wait until healthy: engine, gateway, prometheus, node-exporter (at most 60 s)
    ");
}

#[test]
fn a_new_program_replaces_the_supervisor_and_what_is_ours() {
    let mut wanted = wanted();
    wanted.program = "program-2".into();
    insta::assert_snapshot!(words(&wanted, &deployed()), @r"
    1. install program program-2
    2. stage release R1
    3. check prometheus: /usr/bin/promtool check config /home/me/.sandbox/releases/R1/prometheus/prometheus.yml
    4. switch from release R0 to R1
    5. supervise (the program changed)
    6. restart engine (its program, arguments or files changed)
    7. restart gateway (its program, arguments or files changed)
    8. wait until healthy: engine, gateway, prometheus, node-exporter (at most 60 s)
    ");
}

#[test]
fn a_sick_engine_is_restarted() {
    let mut observed = deployed();
    let engine = observed.components.get_mut(&Component::Engine).unwrap();
    engine.state = State::Unhealthy;
    engine.detail = Some("does not answer: connection refused".into());
    insta::assert_snapshot!(words(&wanted(), &observed), @r"
    1. restart engine (does not answer: connection refused)
    2. wait until healthy: engine, gateway, prometheus, node-exporter (at most 60 s)
    ");
}

#[test]
fn what_was_stopped_by_hand_is_started() {
    let mut observed = deployed();
    observed.desired.stopped.insert(Component::Gateway);
    observed.components.remove(&Component::Gateway);
    insta::assert_snapshot!(words(&wanted(), &observed), @r"
    1. start gateway (it was stopped by hand)
    2. wait until healthy: engine, gateway, prometheus, node-exporter (at most 60 s)
    ");
}

#[test]
fn a_stopped_stack_is_started() {
    let mut observed = deployed();
    observed.desired.halted = true;
    observed.supervisor = None;
    observed.components.clear();
    insta::assert_snapshot!(words(&wanted(), &observed), @r"
    1. supervise (no supervisor runs)
    2. start engine (it does not run)
    3. start gateway (it does not run)
    4. start prometheus (it does not run)
    5. start node-exporter (it does not run)
    6. wait until healthy: engine, gateway, prometheus, node-exporter (at most 60 s)
    ");
}

#[test]
fn a_dead_supervisor_is_replaced_and_nothing_else() {
    let mut observed = deployed();
    observed.supervisor = None;
    insta::assert_snapshot!(words(&wanted(), &observed), @r"
    1. supervise (no supervisor runs)
    2. wait until healthy: engine, gateway, prometheus, node-exporter (at most 60 s)
    ");
}

#[test]
fn a_damaged_release_is_staged_again() {
    let mut observed = deployed();
    observed.damaged = vec!["prometheus/prometheus.yml".into()];
    insta::assert_snapshot!(words(&wanted(), &observed), @r"
    1. stage release R0
    2. check prometheus: /usr/bin/promtool check config /home/me/.sandbox/releases/R0/prometheus/prometheus.yml
    ");
}

#[test]
fn an_apply_that_was_cut_off_is_gone_on_with() {
    let mut observed = deployed();
    let (cut, _) = plan(&one_more_rule(wanted()), &observed).unwrap();
    observed.releases.push(cut.release.clone());
    observed.current = Some(cut.release.id.clone());
    observed.leftovers = vec!["releases/.staging-x".into()];
    let step = Some("switch".into());
    observed.interrupted = Some(Interrupted { began: DateTime::<Utc>::UNIX_EPOCH, to: cut.release.id, step });
    insta::assert_snapshot!(words(&one_more_rule(wanted()), &observed), @r"
    note: an earlier change was cut off at: switch; this one goes on from what it left
      1. reload prometheus (its files changed)
      2. wait until healthy: engine, gateway, prometheus, node-exporter (at most 60 s)
      3. remove releases/.staging-x
    ");
}

#[test]
fn a_program_that_is_missing_is_named_with_what_brings_it() {
    let mut observed = bare();
    observed.programs.insert("prometheus".into(), None);
    let (plan, _) = plan(&wanted(), &observed).unwrap();
    let absent = plan.release.content.absent.iter().find(|absent| absent.component == Component::Prometheus).unwrap();
    assert!(absent.reason.contains("`apt-get install prometheus`"), "{}", absent.reason);
    // And leaves when it is gone from a host where it ran.
    let mut observed = deployed();
    observed.programs.insert("prometheus".into(), None);
    insta::assert_snapshot!(words(&wanted(), &observed), @r"
    1. stage release R1
    2. switch from release R0 to R1
    3. stop prometheus (the release does without it)
    4. wait until healthy: engine, gateway, node-exporter (at most 60 s)
    ");
}

#[test]
fn who_is_told_of_alerts_is_checked_and_read_again() {
    let mut observed = bare();
    for name in ["alertmanager", "amtool"] {
        observed.programs.insert(name.into(), Some(format!("/usr/bin/{name}").into()));
    }
    let (first, _) = plan(&wanted(), &observed).unwrap();
    let note = first.release.service(Component::Alertmanager).unwrap().note.clone();
    assert!(note.is_some_and(|note| note.contains("tells nobody")));
    let observed = after(&first, &observed);
    let mut wanted = wanted();
    wanted.settings.alerts.webhook = Some("http://127.0.0.1:1/".into());
    insta::assert_snapshot!(words(&wanted, &observed), @r"
    1. stage release R1
    2. check prometheus: /usr/bin/promtool check config /home/me/.sandbox/releases/R1/prometheus/prometheus.yml
    3. check alertmanager: /usr/bin/amtool check-config /home/me/.sandbox/releases/R1/alertmanager/alertmanager.yml
    4. switch from release R0 to R1
    5. reload alertmanager (its files changed)
    6. wait until healthy: engine, gateway, prometheus, alertmanager, node-exporter (at most 60 s)
    ");
}

#[test]
fn a_taken_port_gives_way_to_the_next_and_that_is_said_and_kept() {
    let mut observed = bare();
    let taken = PortFact { wanted: 11434, holder: Some("ollama (pid 4711)".into()), free: 11436 };
    observed.ports.insert(Component::Gateway, taken);
    let (first, _) = plan(&wanted(), &observed).unwrap();
    assert_eq!(first.release.service(Component::Gateway).unwrap().listen.port(), 11436);
    assert_eq!(first.notes, ["port 11434 is taken by ollama (pid 4711): the gateway listens on 11436 instead"]);
    let mut later = after(&first, &observed);
    later.ports.insert(Component::Gateway, PortFact { wanted: 11434, holder: None, free: 11436 });
    let (second, _) = plan(&wanted(), &later).unwrap();
    assert_eq!((second.steps, second.notes), (vec![], vec![]));
}

#[test]
fn the_way_back_leads_to_the_last_release_that_was_healthy() {
    let first = deployed();
    let (second, _) = plan(&one_more_rule(wanted()), &first).unwrap();
    let observed = after(&second, &first);
    insta::assert_snapshot!(number(&plan_rollback(&observed).unwrap(), &observed), @r"
    1. switch from release R1 to R0
    2. reload prometheus (its files changed)
    3. wait until healthy: engine, gateway, prometheus, node-exporter (at most 60 s)
    4. forget release R1
    ");
    assert_eq!(plan_rollback(&first).unwrap_err().class, Class::Nothing);
}

#[test]
fn keeps_three_releases_and_sweeps_the_rest() {
    let mut observed = deployed();
    let mut swept = Vec::new();
    for parallel in 2..7 {
        let mut wanted = wanted();
        wanted.settings.engine.num_parallel = parallel;
        let (plan, _) = plan(&wanted, &observed).unwrap();
        swept.extend(plan.steps.iter().filter(|step| matches!(step, Step::Sweep { .. })).cloned());
        observed = after(&plan, &observed);
        assert!(observed.releases.len() <= 3);
        let (again, _) = stack::plan::plan(&wanted, &observed).unwrap();
        assert_eq!(again.steps, []);
    }
    assert_eq!(swept.len(), 3);
}

#[test]
fn carried_out_every_plan_leaves_nothing_to_do() {
    let mut four_slots = wanted();
    four_slots.settings.engine.num_parallel = 4;
    let mut no_prometheus = deployed();
    no_prometheus.programs.insert("prometheus".into(), None);
    for wanted in [wanted(), one_more_rule(wanted()), four_slots] {
        for observed in [bare(), deployed(), no_prometheus.clone()] {
            let (first, _) = plan(&wanted, &observed).unwrap();
            let (second, _) = plan(&wanted, &after(&first, &observed)).unwrap();
            assert_eq!(second.steps, []);
        }
    }
}

#[test]
fn runtimes_are_not_mixed_on_a_root() {
    let mut wanted = wanted();
    wanted.source.insert("stack.toml".into(), String::new());
    wanted.settings.engine.runtime = RuntimeChoice::Fixed(Runtime::Docker);
    let failure = plan(&wanted, &deployed()).unwrap_err();
    assert_eq!((failure.class, failure.message.contains("sandbox")), (Class::Refused, true));
}
