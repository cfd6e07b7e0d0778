//! Plans as a person reads them: what was observed on the one side, the steps on the other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

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

/// A Mac with Homebrew and what comes from it, and its settings.
fn mac() -> (Wanted, Observed) {
    let mut wanted = wanted();
    wanted.settings = Settings::default();
    wanted.source.insert("stack.toml".into(), String::new());
    let programs = [
        "alertmanager",
        "amtool",
        "brew",
        "curl",
        "grafana",
        "macmon",
        "nginx",
        "node_exporter",
        "prometheus",
        "promtool",
        "tar",
    ];
    let native = Native { init: Some(Init::Launchd), user: "me".into(), ..Native::default() };
    let observed = Observed {
        system: "Darwin".into(),
        machine: "arm64".into(),
        root: PathBuf::from("/Users/me/frontier-llm-stack"),
        account: Account { ids: "501:20".into(), home: PathBuf::from("/Users/me") },
        programs: programs.map(|name| (name.to_owned(), Some(format!("/opt/homebrew/bin/{name}").into()))).into(),
        native: Some(native),
        ports: BTreeMap::new(),
        secrets: [("grafana-admin-password".into(), "digest".into())].into(),
        ..bare()
    };
    (wanted, observed)
}

/// The plan without its size, which is that of files that change for other reasons, and with a short name of the service,
/// which has the root in it.
fn shortly(plan: &Plan, observed: &Observed) -> String {
    let text = number(plan, observed)
        .replace("frontier-llm-43d2bd59-stack", "SERVICE")
        .replace("/Users/me/frontier-llm-stack", "ROOT");
    text.lines()
        .filter(|line| !line.contains("stage release") && !line.contains("note:"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A Mac on which all of that runs.
fn mac_deployed() -> (Wanted, Observed) {
    let (wanted, observed) = mac();
    let (plan, contents) = plan(&wanted, &observed).unwrap();
    let mut observed = after(&plan, &observed);
    let native = observed.native.as_mut().unwrap();
    native.engines.insert("0.32.15".into());
    let (_, definition) = contents.iter().find(|(path, _)| path.starts_with("service/")).unwrap();
    native.service = Some(SystemService { definition: definition.clone(), runs: true });
    (wanted, observed)
}

#[test]
fn a_bare_mac_gets_an_engine_and_a_service_of_the_systems() {
    let (wanted, observed) = mac();
    insta::assert_snapshot!(shortly(&plan(&wanted, &observed).unwrap().0, &observed), @r"
     1. install program program-1
     3. check edge: /opt/homebrew/bin/nginx -e stderr -p ROOT/state/run/ -c ROOT/releases/R0/nginx/nginx.conf -q -t
     4. check prometheus: /opt/homebrew/bin/promtool check config ROOT/releases/R0/prometheus/prometheus.yml
     5. check alertmanager: /opt/homebrew/bin/amtool check-config ROOT/releases/R0/alertmanager/alertmanager.yml
     6. fetch engine 0.32.15 from https://github.com/ollama/ollama/releases/download/v0.32.15/ollama-darwin.tgz (9ab0ac474794)
     7. switch to release R0
     8. have the system run service SERVICE, as root: install -o root -g wheel -m 0644 ROOT/releases/R0/service/SERVICE.plist /Library/LaunchDaemons/SERVICE.plist; launchctl enable system/SERVICE; launchctl bootstrap system /Library/LaunchDaemons/SERVICE.plist; launchctl kickstart system/SERVICE
     9. supervise (no supervisor runs)
    10. start engine (it does not run)
    11. start gateway (it does not run)
    12. start edge (it does not run)
    13. start prometheus (it does not run)
    14. start alertmanager (it does not run)
    15. start node-exporter (it does not run)
    16. start grafana (it does not run)
    17. start macmon (it does not run)
    18. wait until healthy: engine, gateway, edge, prometheus, alertmanager, node-exporter, grafana, macmon (at most 180 s)
    ");
}

#[test]
fn a_mac_as_declared_gets_nothing_and_another_engine_needs_no_root() {
    let (mut wanted, observed) = mac_deployed();
    assert_eq!(plan(&wanted, &observed).unwrap().0.steps, []);
    wanted.settings.engine.version = Some("0.33.0".into());
    let (plan, _) = plan(&wanted, &observed).unwrap();
    assert!(plan.steps.iter().all(|step| step.as_root().is_empty()), "{plan}");
    insta::assert_snapshot!(shortly(&plan, &observed), @r"
    2. check edge: /opt/homebrew/bin/nginx -e stderr -p ROOT/state/run/ -c ROOT/releases/R1/nginx/nginx.conf -q -t
    3. check prometheus: /opt/homebrew/bin/promtool check config ROOT/releases/R1/prometheus/prometheus.yml
    4. check alertmanager: /opt/homebrew/bin/amtool check-config ROOT/releases/R1/alertmanager/alertmanager.yml
    5. fetch engine 0.33.0 from https://github.com/ollama/ollama/releases/download/v0.33.0/ollama-darwin.tgz (the release's own sha256sum.txt)
    6. switch from release R0 to R1
    7. restart engine (its program, arguments or files changed)
    8. wait until healthy: engine, gateway, edge, prometheus, alertmanager, node-exporter, grafana, macmon (at most 180 s)
    ");
    // It is kept for the way back, and swept with the last release that runs it.
    let mut observed = after(&plan, &observed);
    observed.native.as_mut().unwrap().engines.insert("0.33.0".into());
    assert!(!plan_rollback(&observed).unwrap().steps.iter().any(|step| matches!(step, Step::Fetch(_))));
    for slots in 2..5 {
        wanted.settings.engine.num_parallel = slots;
        let (plan, _) = stack::plan::plan(&wanted, &observed).unwrap();
        let swept = plan.to_string().contains("engines/0.32.15");
        assert_eq!(swept, slots == 4 || slots == 3 && observed.releases.len() == 3, "{plan}");
        observed = after(&plan, &observed);
        if swept {
            return;
        }
    }
    panic!("the old engine stays for ever");
}

#[test]
fn a_service_that_is_not_as_declared_is_loaded_anew() {
    let (wanted, mut observed) = mac_deployed();
    let native = observed.native.as_mut().unwrap();
    native.service.as_mut().unwrap().runs = false;
    let loads = |observed: &Observed| words(&wanted, observed).contains("have the system run service");
    assert!(loads(&observed));
    let native = observed.native.as_mut().unwrap();
    native.service = Some(SystemService { definition: "somebody's".into(), runs: true });
    assert!(loads(&observed) && words(&wanted, &observed).contains("bootout"));
    observed.native.as_mut().unwrap().service = None;
    assert!(loads(&observed) && !words(&wanted, &observed).contains("bootout"));
}

#[test]
fn what_a_mac_lacks_is_named_with_what_brings_it() {
    let (wanted, observed) = mac();
    let without = |names: &[&str]| {
        let mut observed = observed.clone();
        observed.programs.retain(|name, _| !names.contains(&name.as_str()));
        observed
    };
    let (brews, _) = plan(&wanted, &without(&["nginx", "grafana"])).unwrap();
    assert!(brews.unfinished && brews.to_string().contains("brew install nginx grafana"), "{brews}");
    let failure = plan(&wanted, &without(&["brew", "nginx"])).unwrap_err();
    assert!(failure.hint.as_ref().unwrap().contains("Homebrew/install"), "{failure:?}");
    let (plan, _) = plan(&wanted, &without(&["brew", "prometheus"])).unwrap();
    let absent = plan.release.content.absent.iter().find(|it| it.component == Component::Prometheus).unwrap();
    assert!(absent.reason.contains("brew install prometheus"), "{absent:?}");
}

#[test]
fn a_linux_without_what_unpacks_an_engine_has_root_install_it() {
    let (mut wanted, mac) = mac();
    wanted.settings.engine.runtime = RuntimeChoice::Fixed(Runtime::Native);
    let programs = ["apt-get", "curl", "nginx", "tar"];
    let programs = programs.map(|name| (name.to_owned(), Some(format!("/usr/bin/{name}").into()))).into();
    let native = Native { init: Some(Init::Systemd), user: "me".into(), ..Native::default() };
    let linux = Observed { programs, native: Some(native), ports: BTreeMap::new(), ..bare() };
    let (installs, _) = plan(&wanted, &linux).unwrap();
    assert!(installs.unfinished && installs.to_string().contains("install zstd, as root"), "{installs}");
    let strange = Observed { machine: "riscv64".into(), ..mac };
    assert!(plan(&wanted, &strange).is_ok(), "a Mac's tarball is for every Mac");
    let strange = Observed { machine: "riscv64".into(), ..linux };
    assert_eq!(plan(&wanted, &strange).unwrap_err().class, Class::Refused);
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

/// Settings for containers, and a Linux machine that has Docker and all images but those that `lacking` names.
fn contained(lacking: &[&str]) -> (Wanted, Observed) {
    let mut wanted = wanted();
    wanted.settings = Settings::default();
    wanted.source.insert("stack.toml".into(), String::new());
    let question = question(&wanted.settings, &wanted.program);
    let own = Root::new(bare().root).own_image(&question.own_image.unwrap());
    let images = question.images.unwrap().into_iter().chain([own]);
    let images = images.filter(|image| !lacking.iter().any(|it| image.contains(it)));
    let free = |(component, wanted): (Component, u16)| (component, PortFact { wanted, holder: None, free: wanted });
    let engine = Engine::Answers { version: "20.10.24".into(), compose: Some("2.26.1".into()) };
    let images = images.map(|image| (image.clone(), format!("sha256:{image}"))).collect();
    let mut observed = bare();
    observed.ports = question.ports.into_iter().map(free).collect();
    observed.programs.insert("docker".into(), Some("/usr/bin/docker".into()));
    observed.docker = Some(Docker { engine, images, remnants: Vec::new(), misplaced: false });
    observed.secrets = [("grafana-admin-password".to_owned(), "digest-1".to_owned())].into();
    (wanted, observed)
}

/// What one would observe once containers were brought up.
fn after_up(plan: &Plan, before: &Observed) -> Observed {
    let mut observed = after(plan, before);
    observed.supervisor = None;
    for (component, running) in &mut observed.components {
        running.identity = None;
        running.container = Some(format!("container of {component}"));
        running.image = plan.release.service(*component).and_then(|it| Some(it.container()?.image_id.clone()));
    }
    observed
}

#[test]
fn images_come_first_and_what_they_are_decides_the_rest() {
    let (wanted, observed) = contained(&["grafana", "gateway"]);
    insta::assert_snapshot!(words(&wanted, &observed), @r"
      1. install program program-1
      2. make image stack-bb02fd43-gateway:program-1 of the program
      3. pull grafana/grafana:12.1.0
    then the host is looked at again: the rest depends on what these steps bring
    ");
}

#[test]
fn containers_are_brought_up_all_at_once() {
    let (wanted, observed) = contained(&[]);
    let plan = words(&wanted, &observed);
    assert_eq!(plan.matches("bring up").count(), 1, "{plan}");
    for words in ["put the files", "engine (it does not run), gateway (it does not run), edge"] {
        assert!(plan.contains(words), "{plan}");
    }
}

#[test]
fn containers_are_made_anew_for_another_image_and_reloaded_for_other_files() {
    let (mut wanted, bare) = contained(&[]);
    let (first, _) = plan(&wanted, &bare).unwrap();
    let mut observed = after_up(&first, &bare);
    assert_eq!(plan(&wanted, &observed).unwrap().0.steps, []);
    wanted.settings.edge.allow = vec!["10.0.0.0/8".parse().unwrap()];
    let image = stack::settings::value::image("grafana/grafana:13.0.0").unwrap();
    observed.docker.as_mut().unwrap().images.insert(image.0.clone(), "sha256:13".into());
    wanted.settings.images.insert(Component::Grafana, image);
    let plan = words(&wanted, &observed);
    let up = "bring up grafana (its image, environment or secret changed)\n";
    for words in ["reload edge", "stop grafana and copy its volume grafana", up] {
        assert!(plan.contains(words), "{plan}");
    }
    assert!(plan.find("copy its volume") < plan.find("bring up"), "{plan}");
}

#[test]
fn a_secret_is_made_up_before_anything_that_depends_on_what_it_is() {
    let (wanted, mut observed) = contained(&[]);
    observed.secrets.clear();
    insta::assert_snapshot!(words(&wanted, &observed), @r"
      1. install program program-1
      2. make up the secret grafana-admin-password
    then the host is looked at again: the rest depends on what these steps bring
    ");
}

#[test]
fn a_changed_secret_has_the_one_that_uses_it_made_anew_and_no_other() {
    let (wanted, bare) = contained(&[]);
    let (first, _) = plan(&wanted, &bare).unwrap();
    let mut observed = after_up(&first, &bare);
    // One that nobody uses is nobody's business.
    observed.secrets.insert("slack-url".into(), "digest-2".into());
    assert_eq!(plan(&wanted, &observed).unwrap().0.steps, []);
    observed.secrets.insert("grafana-admin-password".into(), "digest-3".into());
    let text = words(&wanted, &observed);
    assert!(text.contains("bring up grafana (its image, environment or secret changed)\n"), "{text}");
    assert!(!text.contains("reload") && !text.contains("copy its volume"), "{text}");
    let (second, _) = plan(&wanted, &observed).unwrap();
    let mut observed = after_up(&second, &observed);
    assert_eq!(plan(&wanted, &observed).unwrap().0.steps, []);
    // The way back goes with the values that the host has.
    observed.secrets.remove("grafana-admin-password");
    let back = plan_rollback(&observed).unwrap().to_string();
    assert!(back.contains("make up the secret") && back.contains("bring up grafana"), "{back}");
}

#[test]
fn remnants_of_a_recreation_are_cleared_first() {
    let (wanted, bare) = contained(&[]);
    let (first, _) = plan(&wanted, &bare).unwrap();
    let mut observed = after_up(&first, &bare);
    observed.docker.as_mut().unwrap().remnants = vec!["4711".into()];
    observed.components.get_mut(&Component::Edge).unwrap().container = None;
    let plan = words(&wanted, &observed);
    assert!(plan.contains("1. remove 4711 that a cut-off change has left"), "{plan}");
    assert!(plan.contains("bring up edge (it does not run)\n"), "{plan}");
}

#[test]
fn docker_is_installed_where_there_is_none_and_apt_brings_it() {
    let (wanted, mut observed) = contained(&[]);
    observed.docker.as_mut().unwrap().engine = Engine::Absent;
    observed.programs.insert("apt-get".into(), Some("/usr/bin/apt-get".into()));
    let (plan, _) = plan(&wanted, &observed).unwrap();
    assert!(plan.unfinished);
    let commands: Vec<String> = plan.steps.iter().flat_map(Step::as_root).map(ToString::to_string).collect();
    assert_eq!(commands[0], "/usr/bin/apt-get update -q");
    assert!(commands[1].ends_with("docker.io jq git curl ca-certificates"));
}

#[test]
fn compose_comes_from_the_mirror_and_is_in_its_place_once_its_digest_is_right() {
    let (mut wanted, mut observed) = contained(&[]);
    wanted.settings.host.github = "http://mirror.lan".into();
    observed.docker.as_mut().unwrap().engine = Engine::Answers { version: "20.10.24".into(), compose: None };
    observed.programs.insert("curl".into(), Some("/usr/bin/curl".into()));
    let (plan, _) = plan(&wanted, &observed).unwrap();
    assert!(plan.unfinished);
    let commands: Vec<String> = plan.steps.iter().flat_map(Step::as_root).map(ToString::to_string).collect();
    let at = |word: &str| commands.iter().position(|command| command.contains(word)).expect(word);
    assert!(
        commands[at("curl")]
            .ends_with(" http://mirror.lan/docker/compose/releases/download/v2.40.3/docker-compose-linux-x86_64")
    );
    assert!(at("curl") < at("sha256sum") && at("sha256sum") < at("/mv "), "{commands:?}");
}

#[test]
fn docker_that_cannot_be_used_is_told_in_its_own_words() {
    let answers = |version: &str, compose: Option<&str>| Engine::Answers {
        version: version.into(),
        compose: compose.map(str::to_owned),
    };
    for (engine, message, hint) in [
        (Engine::Absent, "Docker is not installed", "apt-get install docker.io"),
        (Engine::Silent("permission denied while".into()), "does not let this user in", "usermod -aG docker"),
        (Engine::Silent("Cannot connect to the".into()), "engine does not run", "systemctl enable --now docker"),
        (answers("19.03.15", Some("2.26.1")), "20.10 is the oldest", "docs.docker.com"),
        (answers("28.2.2", None), "no Compose of version 2", "docker-compose"),
    ] {
        let (wanted, mut observed) = contained(&[]);
        observed.docker.as_mut().unwrap().engine = engine;
        let failure = plan(&wanted, &observed).unwrap_err();
        assert_eq!(failure.class, Class::Refused);
        assert!(failure.message.contains(message), "{}", failure.message);
        assert!(failure.hint.unwrap().contains(hint));
    }
}

#[test]
fn a_port_of_the_lan_that_somebody_else_has_is_a_fault() {
    let (wanted, mut observed) = contained(&[]);
    observed.taken.insert(9090, "prometheus (pid 1)".into());
    let failure = plan(&wanted, &observed).unwrap_err();
    assert!(failure.message.contains("port 9090") && failure.message.contains("prometheus (pid 1)"));
}

#[test]
fn a_mac_runs_containers_with_a_plain_warning() {
    let (mut wanted, mut observed) = contained(&[]);
    observed.system = "Darwin".into();
    wanted.settings.engine.runtime = RuntimeChoice::Fixed(Runtime::Docker);
    let (plan, contents) = plan(&wanted, &observed).unwrap();
    assert!(plan.notes.iter().any(|note| note.contains("no GPU") && note.contains("edge.allow is not enforced")));
    assert!(contents[".env"].contains("COMPOSE_FILE='compose.yaml:compose.mac.yaml'"));
    assert!(plan.release.service(Component::NodeExporter).is_none());
}

#[test]
fn runtimes_are_not_mixed_on_a_root() {
    let mut wanted = wanted();
    wanted.source.insert("stack.toml".into(), String::new());
    wanted.settings.engine.runtime = RuntimeChoice::Fixed(Runtime::Docker);
    let failure = plan(&wanted, &deployed()).unwrap_err();
    assert_eq!((failure.class, failure.message.contains("sandbox")), (Class::Refused, true));
}
