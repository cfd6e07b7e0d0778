//! Plans for the docker runtime.

use super::*;

/// Settings for containers, and a Linux machine that has Docker and all images but those that `lacking` names.
pub(crate) fn contained(lacking: &[&str]) -> (Wanted, Observed) {
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
