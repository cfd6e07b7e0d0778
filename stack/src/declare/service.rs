//! The one service that the system itself starts: our supervisor, from the machine's start on and under the user's name.
//!
//! The definitions are checked in (`config/native/`) with the paths of an imagined user; here they get the host's. Root is
//! asked to install one and to take it away, and for nothing else. Invariant: a service is found again by its name, which has
//! the root in it: replaced, never doubled, and never another stack's.

use std::path::Path;

use crate::{
    launchd::{self, command},
    layout::Root,
    observed::Init,
    process::Command,
};

const LAUNCHD: &str = include_str!("../../../config/native/launchd.plist");
const SYSTEMD: &str = include_str!("../../../config/native/systemd.service");

/// What is checked in is that of a user called `me`.
const LABEL: &str = "frontier-llm-by-hand-stack";

/// The definition's name below a release.
pub(crate) fn file(init: Init, root: &Root) -> String {
    match init {
        Init::Launchd => format!("service/{}.plist", root.service()),
        Init::Systemd => format!("service/{}.service", root.service()),
    }
}

/// Where the system looks for it.
pub(crate) fn place(init: Init, root: &Root) -> String {
    match init {
        Init::Launchd => launchd::place(&root.service()),
        Init::Systemd => format!("/etc/systemd/system/{}.service", root.service()),
    }
}

/// The definition.
pub(super) fn text(init: Init, root: &Root, user: &str, home: &Path) -> String {
    let (root_path, home) = (root.path().display().to_string(), home.display().to_string());
    match init {
        Init::Launchd => LAUNCHD
            .replace(LABEL, &root.service())
            .replace("/Users/me/frontier-llm-stack", &escaped(&root_path))
            .replace("<string>/Users/me<", &format!("<string>{}<", escaped(&home)))
            .replace("<string>me<", &format!("<string>{}<", escaped(user))),
        Init::Systemd => SYSTEMD
            // Not within quotes, and there only specifiers mean something.
            .replace("append:/home/me/frontier-llm-stack", &format!("append:{}", root_path.replace('%', "%%")))
            .replace("/home/me/frontier-llm-stack", &quoted(&root_path))
            .replace("HOME=/home/me\"", &format!("HOME={}\"", quoted(&home)))
            .replace("User=me\n", &format!("User={user}\n")),
    }
}

/// What has the system run the definition that stands in `staged`. `is_known`: it runs an older one.
pub(crate) fn install(init: Init, root: &Root, staged: &Path, is_known: bool) -> Vec<Command> {
    let name = root.service();
    match init {
        Init::Launchd => {
            let mut commands = launchd::install(&name, staged, is_known);
            commands.push(command("launchctl", &["kickstart", &format!("system/{name}")]));
            commands
        }
        Init::Systemd => vec![
            command(
                "install",
                &["-o", "root", "-g", "root", "-m", "0644", &staged.display().to_string(), &place(init, root)],
            ),
            command("systemctl", &["daemon-reload"]),
            command("systemctl", &["enable", &name]),
            command("systemctl", &["restart", &name]),
        ],
    }
}

/// What has the system forget it, wherever that was cut off before.
pub(crate) fn remove(init: Init, root: &Root) -> Vec<Command> {
    let (name, place) = (root.service(), place(init, root));
    vec![match init {
        Init::Launchd => launchd::remove(&name),
        Init::Systemd => {
            let place = Command::word(&place);
            let script = format!("systemctl disable --now {name}; rm -f {place}; systemctl daemon-reload");
            command("/bin/sh", &["-c", &script])
        }
    }]
}

/// What a person types, where the system does not start it by itself.
pub(crate) fn by_hand(init: Init, root: &Root) -> String {
    match init {
        Init::Launchd => format!("sudo launchctl kickstart -k system/{}", root.service()),
        Init::Systemd => format!("sudo systemctl restart {}", root.service()),
    }
}

/// Text within an element of XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Text within quotes of systemd's, where backslashes, `%` and `$` have a meaning too.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::process;

    const ODD: &str = "/Users/R & D/a <b> \"c\" $d 100%";

    #[test]
    fn a_plist_says_what_it_should_to_whoever_parses_plists() {
        let root = Root::new(ODD.into());
        let text = text(Init::Launchd, &root, "r&d", Path::new("/Users/R & D"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        // Python's own parser. One of ours would add features to crates that the program is built on.
        let script = "import json, plistlib, sys; print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
        let Some(parsed) = process::look_up("python3", &["-c", script, &file.path().display().to_string()]) else {
            let required = std::env::var("STACK_TESTS_REQUIRE").unwrap_or_default();
            assert!(!required.split([',', ' ']).any(|it| it == "python3"), "STACK_TESTS_REQUIRE names python3");
            return eprintln!("SKIPPED: python3 cannot be had here");
        };
        let daemon: serde_json::Value = serde_json::from_str(&parsed).unwrap();
        assert_eq!((&daemon["Label"], &daemon["UserName"]), (&json!(root.service()), &json!("r&d")));
        assert_eq!(daemon["StandardErrorPath"], format!("{ODD}/logs/supervisor.log"));
        let (program, at) = (format!("{ODD}/bin/xtask"), format!("--root={ODD}"));
        assert_eq!(daemon["ProgramArguments"], json!([program, "host", "supervise", "--stay", at]));
        let variables = &daemon["EnvironmentVariables"];
        assert_eq!((&variables["HOME"], &variables["USER"]), (&json!("/Users/R & D"), &json!("r&d")));
        assert_eq!((&daemon["RunAtLoad"], &daemon["KeepAlive"]), (&json!(true), &json!(true)));
        assert!(!text.contains("/me"), "{text}");
    }

    #[test]
    fn a_unit_is_quoted_as_systemd_reads_it() {
        let text = text(Init::Systemd, &Root::new("/srv/a \"b\" $c 100%".into()), "ops", Path::new("/home/ops"));
        let start = "ExecStart=\"/srv/a \\\"b\\\" $$c 100%%/bin/xtask\" host supervise --stay \"--root=/srv/a \\\"b\\\" $$c 100%%\"\n";
        assert!(text.contains(start), "{text}");
        assert!(text.contains("StandardOutput=append:/srv/a \"b\" $c 100%%/logs/supervisor.log\n"), "{text}");
        assert!(text.contains("User=ops\nEnvironment=\"HOME=/home/ops\"\n"), "{text}");
        assert!(!text.contains("/me"), "{text}");
    }

    #[test]
    fn what_an_older_definition_runs_is_gone_before_a_newer_one_is_loaded() {
        let root = Root::new("/Users/me/stack".into());
        let lines = |is_known| {
            let commands = install(Init::Launchd, &root, Path::new("/staged"), is_known);
            commands.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(lines(false).len() + 1, lines(true).len());
        assert!(lines(true)[1].contains("bootout"));
        let loads = |lines: Vec<String>| lines[lines.len() - 3..].join("\n");
        assert_eq!(loads(lines(true)), loads(lines(false)));
        assert!(loads(lines(true)).ends_with(&format!("launchctl kickstart system/{}", root.service())));
    }
}
