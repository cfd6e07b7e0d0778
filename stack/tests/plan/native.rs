//! Plans for the native runtime: a Mac's, and a Linux without Docker.

use super::*;

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
    native.programs.insert("ollama-0.32.15".into());
    let (_, definition) = contents.iter().find(|(path, _)| path.starts_with("service/")).unwrap();
    native.service = Some(SystemService { definition: definition.clone(), runs: true });
    (wanted, observed)
}

#[test]
fn a_bare_mac_gets_an_engine_and_a_service_of_the_systems() {
    let (wanted, observed) = mac();
    insta::assert_snapshot!(shortly(&plan(&wanted, &observed).unwrap().0, &observed), @r"
     1. install program program-1
     2. fetch ollama 0.32.15 from https://github.com/ollama/ollama/releases/download/v0.32.15/ollama-darwin.tgz (9ab0ac474794)
     4. check edge: /opt/homebrew/bin/nginx -e stderr -p ROOT/state/run/ -c ROOT/releases/R0/nginx/nginx.conf -q -t
     5. check prometheus: /opt/homebrew/bin/promtool check config ROOT/releases/R0/prometheus/prometheus.yml
     6. check alertmanager: /opt/homebrew/bin/amtool check-config ROOT/releases/R0/alertmanager/alertmanager.yml
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
    1. fetch ollama 0.33.0 from https://github.com/ollama/ollama/releases/download/v0.33.0/ollama-darwin.tgz (the release's own sha256sum.txt)
    3. check edge: /opt/homebrew/bin/nginx -e stderr -p ROOT/state/run/ -c ROOT/releases/R1/nginx/nginx.conf -q -t
    4. check prometheus: /opt/homebrew/bin/promtool check config ROOT/releases/R1/prometheus/prometheus.yml
    5. check alertmanager: /opt/homebrew/bin/amtool check-config ROOT/releases/R1/alertmanager/alertmanager.yml
    6. switch from release R0 to R1
    7. restart engine (its program, arguments or files changed)
    8. wait until healthy: engine, gateway, edge, prometheus, alertmanager, node-exporter, grafana, macmon (at most 180 s)
    ");
    // It is kept for the way back, and swept with the last release that runs it.
    let mut observed = after(&plan, &observed);
    observed.native.as_mut().unwrap().programs.insert("ollama-0.33.0".into());
    assert!(!plan_rollback(&observed).unwrap().steps.iter().any(|step| matches!(step, Step::Fetch(_))));
    for slots in 2..5 {
        wanted.settings.engine.num_parallel = slots;
        let (plan, _) = stack::plan::plan(&wanted, &observed).unwrap();
        let swept = plan.to_string().contains("programs/ollama-0.32.15");
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
fn alertmanager_is_brought_to_a_prometheus_that_has_nobody_to_tell() {
    let (mut wanted, mut observed) = mac();
    assert_eq!(plan(&wanted, &observed).unwrap().0.release.content.tarballs.len(), 1, "it is installed");
    observed.programs.retain(|name, _| !["alertmanager", "amtool"].contains(&name.as_str()));
    let words = plan(&wanted, &observed).unwrap().0.to_string();
    for part in [
        "fetch alertmanager 0.34.1 from https://github.com/prometheus/alertmanager/releases/download/v0.34.1/\
         alertmanager-0.34.1.darwin-arm64.tar.gz (a3941879f340)",
        "check alertmanager: /Users/me/frontier-llm-stack/programs/alertmanager-0.34.1/alertmanager-0.34.1.darwin-arm64/amtool",
        "start alertmanager (it does not run)",
    ] {
        assert!(words.contains(part), "no {part:?} in\n{words}");
    }
    wanted.settings.monitoring.alertmanager_version = Some("0.40.0".into());
    assert!(plan(&wanted, &observed).unwrap().0.to_string().contains("(the release's own sha256sums.txt)"));
    observed.programs.remove("prometheus");
    observed.programs.remove("brew");
    let (plan, _) = plan(&wanted, &observed).unwrap();
    assert_eq!((plan.release.content.tarballs.len(), plan.release.service(Component::Alertmanager)), (1, None));
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
fn only_behind_an_edge_prometheus_is_told_where_people_reach_it() {
    let told = |(mut wanted, observed): (Wanted, Observed)| {
        wanted.settings.host.address = "10.0.0.2".to_owned();
        let (plan, contents) = plan(&wanted, &observed).unwrap();
        let values = contents.get(".env").cloned().unwrap_or_default();
        format!("{:?}\n{values}", plan.release.service(Component::Prometheus).unwrap().launch)
    };
    assert!(told(mac()).contains("\"--web.external-url=http://10.0.0.2:9090/\""));
    assert!(told(containers::contained(&[])).contains("STACK_PROMETHEUS_URL='http://10.0.0.2:9090/'\n"));
    assert!(!told((wanted(), bare())).contains("external-url"));
}
