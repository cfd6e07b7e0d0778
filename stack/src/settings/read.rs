//! `stack.toml` as a whole: every table, key by key, and what has to fit together.
//!
//! Invariant: no fault, no surprise: whatever this lets through is a valid [`Settings`], and whatever it does not is
//! reported in one go.

use toml::de::DeTable;

use super::{
    Edge, Engine, Host, Models, Monitoring, Ports, Sandbox, Settings, Tls, alerts, backup,
    fault::Fault,
    gateway,
    table::{Found, Table},
    value::{self, Wrong},
};
use crate::component::Component;

/// Reads the text as far as it goes. The settings are valid if nothing was found to be faulty.
pub(super) fn read(text: &str) -> (Settings, Found) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let document = document.get_ref();
    let mut settings = Settings::default();
    let mut found = Found::default();
    host(Table::open("host", document, &mut found), &mut settings.host);
    engine(Table::open("engine", document, &mut found), &mut settings.engine);
    models(Table::open("models", document, &mut found), &mut settings.models);
    gateway::read(Table::open("gateway", document, &mut found), &mut settings.gateway);
    edge(Table::open("edge", document, &mut found), &mut settings.edge);
    ports(Table::open("ports", document, &mut found), &mut settings.ports);
    monitoring(Table::open("monitoring", document, &mut found), &mut settings.monitoring);
    alerts::read(Table::open("alerts", document, &mut found), &mut settings.alerts);
    images(Table::open("images", document, &mut found), &mut settings);
    backup::read(Table::open("backup", document, &mut found), &mut settings.backup);
    sandbox(Table::open("sandbox", document, &mut found), &mut settings.sandbox);
    found.refuse_unknown(document);
    with_syntax(text, &errors, &mut found.faults);
    (settings, found)
}

fn host(mut table: Table<'_, '_>, host: &mut Host) {
    table.text("address", &mut host.address, value::address);
    table.text("user", &mut host.user, value::user);
    table.whole("port", &mut host.port, 1..=u16::MAX);
    table.text("root", &mut host.root, value::folder);
    table.text("github", &mut host.github, value::mirror);
}

fn engine(mut table: Table<'_, '_>, engine: &mut Engine) {
    table.text("runtime", &mut engine.runtime, value::runtime);
    table.text("version", &mut engine.version, value::version);
    table.text("models_path", &mut engine.models_path, value::folder);
    table.text("memory_limit", &mut engine.memory_limit_bytes, value::size);
    table.text("memory_reservation", &mut engine.memory_reservation_bytes, value::size);
    table.text("keep_alive", &mut engine.keep_alive, value::keep_alive);
    table.whole("num_parallel", &mut engine.num_parallel, 1..=1024u32);
    table.whole("max_loaded_models", &mut engine.max_loaded_models, 0..=1024u32);
    table.whole("context_length", &mut engine.context_length, 0..=u32::MAX);
    table.text("kv_cache_type", &mut engine.kv_cache_type, value::kv_cache_type);
    table.switch("flash_attention", &mut engine.flash_attention);
    fit_reservation(&mut table, engine);
}

/// A reservation above the limit is a fault if it was asked for; the default just follows the limit down.
fn fit_reservation(table: &mut Table<'_, '_>, engine: &mut Engine) {
    if engine.memory_reservation_bytes <= engine.memory_limit_bytes || table.refused("memory_limit") {
        return;
    }
    let wrong = Wrong::new(
        "`memory_reservation` is more than `memory_limit`",
        "write a reservation within the limit, or a higher limit",
    );
    match (table.written("memory_reservation"), table.written("memory_limit")) {
        (None, _) => engine.memory_reservation_bytes = engine.memory_limit_bytes,
        (Some(reservation), None) => table.fault(reservation, wrong),
        (Some(reservation), Some(limit)) => table.disagree([reservation, limit], wrong),
    }
}

fn models(mut table: Table<'_, '_>, models: &mut Models) {
    table.text("default", &mut models.default, value::model);
    table.list("warm", &mut models.warm, value::model);
    table.text("previous", &mut models.previous, value::model);
}

fn edge(mut table: Table<'_, '_>, edge: &mut Edge) {
    table.list("allow", &mut edge.allow, value::network);
    table.text("tls", &mut edge.tls, value::tls);
    table.text("certificate", &mut edge.certificate, value::folder);
    table.text("certificate_key", &mut edge.certificate_key, value::folder);
    if let (Tls::Files, Some(at), true) =
        (edge.tls, table.written("tls"), edge.certificate.is_none() || edge.certificate_key.is_none())
    {
        let help = "write `certificate` and `certificate_key` below it: paths on the host";
        table.fault(at, Wrong::new("`tls = \"files\"` needs a certificate and its key", help));
    }
}

fn ports(mut table: Table<'_, '_>, ports: &mut Ports) {
    table.whole("api", &mut ports.api, 0..=u16::MAX);
    table.whole("lan_grafana", &mut ports.lan_grafana, 1..=u16::MAX);
    table.whole("lan_prometheus", &mut ports.lan_prometheus, 1..=u16::MAX);
    table.whole("engine", &mut ports.engine, 0..=u16::MAX);
    table.whole("gateway", &mut ports.gateway, 0..=u16::MAX);
    table.whole("grafana", &mut ports.grafana, 0..=u16::MAX);
    table.whole("prometheus", &mut ports.prometheus, 0..=u16::MAX);
    table.whole("node_exporter", &mut ports.node_exporter, 0..=u16::MAX);
    table.whole("macmon", &mut ports.macmon, 0..=u16::MAX);
    table.whole("alertmanager", &mut ports.alertmanager, 0..=u16::MAX);
    let named = [
        ("api", ports.api),
        ("lan_grafana", ports.lan_grafana),
        ("lan_prometheus", ports.lan_prometheus),
        ("engine", ports.engine),
        ("gateway", ports.gateway),
        ("grafana", ports.grafana),
        ("prometheus", ports.prometheus),
        ("node_exporter", ports.node_exporter),
        ("macmon", ports.macmon),
        ("alertmanager", ports.alertmanager),
    ];
    for (nth, one) in named.iter().enumerate() {
        for other in &named[nth + 1..] {
            refuse_shared(&mut table, *one, *other);
        }
    }
}

fn refuse_shared(table: &mut Table<'_, '_>, (one, port): (&str, u16), (other, other_port): (&str, u16)) {
    if port != other_port || port == 0 || table.refused(one) || table.refused(other) {
        return;
    }
    let help = "write another port for one of them, or 0 for any free one";
    let taken = |default| Wrong::new(format!("port {port} is already that of `{default}`, by default"), help);
    match (table.written(one), table.written(other)) {
        (Some(first), Some(second)) => {
            let wrong = Wrong::new(format!("`{one}` and `{other}` are both port {port}"), help);
            table.disagree([first, second], wrong);
        }
        (Some(written), None) => table.fault(written, taken(other)),
        (None, Some(written)) => table.fault(written, taken(one)),
        (None, None) => {}
    }
}

fn monitoring(mut table: Table<'_, '_>, monitoring: &mut Monitoring) {
    table.text("retention", &mut monitoring.retention, value::period);
    table.text("scrape_interval", &mut monitoring.scrape_interval, value::period);
    table.text("alertmanager_version", &mut monitoring.alertmanager_version, value::version);
}

fn images(mut table: Table<'_, '_>, settings: &mut Settings) {
    // Of macmon there is no image: no container sees the GPU of a Mac.
    for component in Component::ALL.into_iter().filter(|component| *component != Component::Macmon) {
        let mut image = None;
        table.text(component.name(), &mut image, value::image);
        settings.images.extend(image.map(|image| (component, image)));
    }
}

fn sandbox(mut table: Table<'_, '_>, sandbox: &mut Sandbox) {
    table.text("time_to_first_token", &mut sandbox.time_to_first_token, value::duration);
    table.text("time_per_output_token", &mut sandbox.time_per_output_token, value::duration);
    table.text("load", &mut sandbox.load, value::duration);
    table.text("memory", &mut sandbox.memory_bytes, value::size);
    table.whole("max_queue", &mut sandbox.max_queue, 1..=u32::MAX);
    table.text("scenarios", &mut sandbox.scenarios, value::scenarios);
}

/// Adds what is not even TOML. The parser guesses on after an error, and most guesses are good: faults elsewhere stand.
/// Those on the same line would be about the guess, and after a broken header all of them would.
fn with_syntax(text: &str, errors: &[toml::de::Error], faults: &mut Vec<Fault>) {
    let line_of = |at: usize| text[..at].matches('\n').count();
    let broken: Vec<_> = errors.iter().map(|error| line_of(error.span().unwrap_or_default().start)).collect();
    let header = |line: &usize| text.lines().nth(*line).is_some_and(|line| line.trim_start().starts_with('['));
    if broken.iter().any(header) {
        faults.clear();
    }
    faults.retain(|fault| !broken.contains(&line_of(fault.span.start)));
    faults.extend(errors.iter().map(|error| syntax(text, error)));
}

fn syntax(text: &str, error: &toml::de::Error) -> Fault {
    let span = error.span().unwrap_or_default();
    let unquoted = error.message().starts_with("string values must be quoted");
    let wrong = match &text[span.clone()] {
        "" if unquoted => Wrong::new("the value is missing", "write one after the `=`, or no line at all"),
        value if unquoted => Wrong::new("strings are quoted", format!("write {value:?}")),
        _ => Wrong::new(error.message(), "write it in TOML, as config/stack.example.toml does"),
    };
    Fault::new(span, wrong)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use insta::assert_snapshot;

    use super::*;

    fn faults(text: &str) -> String {
        Settings::parse(text, Path::new("stack.toml")).expect_err("has faults").render(false)
    }

    #[test]
    fn reports_every_fault_at_once_in_the_order_of_the_file() {
        let text = r#"
[host]
address = "studio.local"
adress = "studio.local"

[engine]
memory_limit = "128X"
num_parallel = "2"

[modles]
default = "qwen2.5-coder"

[edge]
allow = ["10.0.0.0/8", "192.168.1.7/16", 7]

[ports]
api = 11434
engine = 11434

[images]
edge = "nginx"
"#;
        assert_snapshot!(faults(text), @r#"
        error: unknown key `adress` in `[host]`
         --> stack.toml:4:1
          |
        4 | adress = "studio.local"
          | ^^^^^^
          |
          = help: did you mean `address`?

        error: "128X" is not a size
         --> stack.toml:7:16
          |
        7 | memory_limit = "128X"
          |                ^^^^^^
          |
          = help: write a whole number and a unit, such as "512M", "128G" or "1T"

        error: `num_parallel` takes a whole number, not a string
         --> stack.toml:8:16
          |
        8 | num_parallel = "2"
          |                ^^^
          |
          = help: write a whole number, such as `num_parallel = 1`

        error: unknown table `[modles]`
          --> stack.toml:10:2
           |
        10 | [modles]
           |  ^^^^^^
           |
           = help: did you mean `[models]`?

        error: "192.168.1.7/16" names a host and a network at once
          --> stack.toml:14:24
           |
        14 | allow = ["10.0.0.0/8", "192.168.1.7/16", 7]
           |                        ^^^^^^^^^^^^^^^^
           |
           = help: write "192.168.0.0/16" for the network, or "192.168.1.7/32" for the host

        error: `allow` takes strings, not an integer
          --> stack.toml:14:42
           |
        14 | allow = ["10.0.0.0/8", "192.168.1.7/16", 7]
           |                                          ^
           |
           = help: write strings, such as `allow = ["192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "127.0.0.0/8", "::1", "fc00::/7", "fe80::/10"]`

        error: `api` and `engine` are both port 11434
          --> stack.toml:18:10
           |
        17 | api = 11434
           |       -----
        18 | engine = 11434
           |          ^^^^^
           |
           = help: write another port for one of them, or 0 for any free one

        error: "nginx" has no tag
          --> stack.toml:21:8
           |
        21 | edge = "nginx"
           |        ^^^^^^^
           |
           = help: write the version that you mean, such as "nginx:1.2.3"
        "#);
    }

    #[test]
    fn names_the_faults_and_the_file_in_one_line() {
        let invalid = Settings::parse("a = 1\nb = 2", Path::new("stack.toml")).expect_err("unknown keys");
        assert_eq!(invalid.to_string(), "2 faults in stack.toml");
    }

    #[test]
    fn says_where_a_misplaced_key_belongs() {
        assert_snapshot!(faults("runtime = \"docker\"\n[host]\nmemory_limit = \"1G\"\nshoe_size = 43\n"), @r#"
        error: unknown key `runtime` outside of a table
         --> stack.toml:1:1
          |
        1 | runtime = "docker"
          | ^^^^^^^
          |
          = help: write it under `[engine]`

        error: unknown key `memory_limit` in `[host]`
         --> stack.toml:3:1
          |
        3 | memory_limit = "1G"
          | ^^^^^^^^^^^^
          |
          = help: write it under `[engine]`

        error: unknown key `shoe_size` in `[host]`
         --> stack.toml:4:1
          |
        4 | shoe_size = 43
          | ^^^^^^^^^
          |
          = help: write one of address, user, port, root, github
        "#);
    }

    #[test]
    fn refuses_a_value_where_a_table_is_taken_and_a_lone_string_where_a_list_is() {
        assert_snapshot!(faults("host = \"studio\"\nimages = [1]\nedge.allow = \"10.0.0.0/8\"\n[[ports]]\napi = 1\n"), @r#"
        error: `host` takes a table, not a string
         --> stack.toml:1:8
          |
        1 | host = "studio"
          |        ^^^^^^^^
          |
          = help: write `[host]` on a line of its own, and its keys below

        error: `images` takes a table, not a list
         --> stack.toml:2:10
          |
        2 | images = [1]
          |          ^^^
          |
          = help: write `[images]` on a line of its own, and its keys below

        error: `allow` takes a list of at least one string, not a string
         --> stack.toml:3:14
          |
        3 | edge.allow = "10.0.0.0/8"
          |              ^^^^^^^^^^^^
          |
          = help: write a list of at least one string, such as `allow = ["192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "127.0.0.0/8", "::1", "fc00::/7", "fe80::/10"]`

        error: `ports` takes a table, not a list
         --> stack.toml:4:1
          |
        4 | [[ports]]
          | ^^^^^^^^^
          |
          = help: write `[ports]` on a line of its own, and its keys below
        "#);
    }

    #[test]
    fn refuses_an_edge_that_would_answer_nobody() {
        assert_snapshot!(faults("[edge]\nallow = []\n"), @r#"
        error: `allow` takes a list of at least one string, not an empty list
         --> stack.toml:2:9
          |
        2 | allow = []
          |         ^^
          |
          = help: write a list of at least one string, such as `allow = ["192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "127.0.0.0/8", "::1", "fc00::/7", "fe80::/10"]`
        "#);
    }

    #[test]
    fn refuses_numbers_out_of_bounds() {
        assert_snapshot!(faults("ports.api = 65536\nhost.port = 0\nengine.context_length = -1\nengine.num_parallel = 1.5\n"), @"
        error: 65536 is out of bounds
         --> stack.toml:1:13
          |
        1 | ports.api = 65536
          |             ^^^^^
          |
          = help: write a whole number from 0 to 65535

        error: 0 is out of bounds
         --> stack.toml:2:13
          |
        2 | host.port = 0
          |             ^
          |
          = help: write a whole number from 1 to 65535

        error: -1 is out of bounds
         --> stack.toml:3:25
          |
        3 | engine.context_length = -1
          |                         ^^
          |
          = help: write a whole number from 0 to 4294967295

        error: `num_parallel` takes a whole number, not a float
         --> stack.toml:4:23
          |
        4 | engine.num_parallel = 1.5
          |                       ^^^
          |
          = help: write a whole number, such as `num_parallel = 1`
        ");
        assert_eq!(Settings::parse("ports.api = 0x1_000", Path::new("")).map(|settings| settings.ports.api), Ok(4096));
    }

    #[test]
    fn refuses_a_port_that_a_default_already_has() {
        assert_snapshot!(faults("[ports]\nprometheus = 11435\n"), @"
        error: port 11435 is already that of `engine`, by default
         --> stack.toml:2:14
          |
        2 | prometheus = 11435
          |              ^^^^^
          |
          = help: write another port for one of them, or 0 for any free one
        ");
    }

    #[test]
    fn zero_may_stand_at_every_port() {
        let settings = Settings::parse("[ports]\napi = 0\nengine = 0\n", Path::new("")).expect("valid");
        assert_eq!((settings.ports.api, settings.ports.engine), (0, 0));
    }

    #[test]
    fn a_refused_port_is_compared_with_nothing() {
        assert_eq!(faults("[ports]\napi = -1\nengine = 11434\n").matches("error:").count(), 1);
    }

    #[test]
    fn refuses_a_reservation_above_the_limit() {
        assert_snapshot!(faults("[engine]\nmemory_reservation = \"64G\"\nmemory_limit = \"32G\"\n"), @r#"
        error: `memory_reservation` is more than `memory_limit`
         --> stack.toml:3:16
          |
        2 | memory_reservation = "64G"
          |                      -----
        3 | memory_limit = "32G"
          |                ^^^^^
          |
          = help: write a reservation within the limit, or a higher limit
        "#);
        assert_eq!(faults("[engine]\nmemory_reservation = \"200G\"\n").matches("error:").count(), 1);
    }

    #[test]
    fn an_unwritten_reservation_follows_the_limit_down() {
        let settings = Settings::parse("[engine]\nmemory_limit = \"32G\"\n", Path::new("")).expect("valid");
        assert_eq!(settings.engine.memory_reservation_bytes, 32 << 30);
    }

    #[test]
    fn reports_broken_toml_beside_the_rest() {
        assert_snapshot!(faults("[engine]\nmemory_limit = 128G\nversion =\nkeep_alive = \"5x\"\n"), @r#"
        error: strings are quoted
         --> stack.toml:2:16
          |
        2 | memory_limit = 128G
          |                ^^^^
          |
          = help: write "128G"

        error: the value is missing
         --> stack.toml:3:10
          |
        3 | version =
          |          ^
          |
          = help: write one after the `=`, or no line at all

        error: "5x" is not a time to keep a model loaded
         --> stack.toml:4:14
          |
        4 | keep_alive = "5x"
          |              ^^^^
          |
          = help: write a duration such as "5m" or "24h", or "forever"
        "#);
    }

    #[test]
    fn says_nothing_about_keys_below_a_broken_header() {
        assert_snapshot!(faults("[host\naddress = \"studio.local\"\n[ports]\napi = 70000\n"), @"
        error: unclosed table, expected `]`
         --> stack.toml:1:6
          |
        1 | [host
          |      ^
          |
          = help: write it in TOML, as config/stack.example.toml does
        ");
    }

    #[test]
    fn switches_are_three_way() {
        let read = |text| Settings::parse(text, Path::new("")).map(|settings| settings.engine.flash_attention);
        assert_eq!(read("engine.flash_attention = true"), Ok(Some(true)));
        assert_eq!(read("engine.flash_attention = \"auto\""), Ok(None));
        assert_snapshot!(faults("engine.flash_attention = \"on\""), @r#"
        error: `flash_attention` takes true, false or "auto", not a string
         --> stack.toml:1:26
          |
        1 | engine.flash_attention = "on"
          |                          ^^^^
          |
          = help: write true, false or "auto", such as `flash_attention = "auto"`
        "#);
    }

    #[test]
    fn shows_no_control_characters_of_a_hostile_file() {
        let text = "[host]\n\"\\u001b[2J\" = 1\naddress = \"\\u001b[2J\"\nuser = \"\u{202e}\"\n";
        let shown = faults(text);
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown}");
    }

    #[test]
    fn no_text_at_all_makes_it_panic() {
        let whole = super::super::EXAMPLE;
        for (cut, _) in whole.char_indices().step_by(5) {
            for text in
                [whole[..cut].to_owned(), whole[cut..].to_owned(), format!("{}\"{}", &whole[..cut], &whole[cut..])]
            {
                if let Err(invalid) = Settings::parse(&text, Path::new("stack.toml")) {
                    assert!(!invalid.render(true).is_empty());
                }
            }
        }
    }
}
