//! What a host has for components that are programs of its own: who starts things, what was brought, and what stands in the way.
//!
//! Nothing here needs root, and nothing changes anything.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{
    declare::native::{RIVALS, STORES},
    layout::{Root, expand},
    observed::{Firewall, Init, Native, SystemService},
    process,
};

use super::machine;

/// Looks. `system` is what `uname` said, and decides which tools are asked: so a Mac can be read in a test.
pub(super) fn facts(system: &str, root: &Root) -> Native {
    let init = init(system);
    let present = |path: &str| expand(Path::new(path)).filter(|path| path.exists());
    Native {
        init,
        user: process::look_up("id", &["-un"]).unwrap_or_default().trim().to_owned(),
        service: init.and_then(|init| service(init, root)),
        programs: names(&root.programs()),
        stores: STORES.iter().filter_map(|path| expand(Path::new(path))).filter(|it| holds_models(it)).collect(),
        rivals: RIVALS.iter().filter_map(|(path, _)| present(path)).collect(),
        firewall: firewall(system),
    }
}

/// What runs things from the start of the machine on. systemd may be installed and not be process 1, as in a container.
pub(super) fn init(system: &str) -> Option<Init> {
    match system {
        "Darwin" => process::find("launchctl").map(|_| Init::Launchd),
        _ => process::look_up("systemctl", &["show", "--property=Version"]).map(|_| Init::Systemd),
    }
}

/// The service of this root, as its manager tells of it.
pub(super) fn service(init: Init, root: &Root) -> Option<SystemService> {
    let name = root.service();
    let (said, path, runs) = match init {
        // launchd's words are for people, and have been these for ten years.
        Init::Launchd => {
            (process::look_up("launchctl", &["print", &format!("system/{name}")])?, "path = ", "state = running")
        }
        Init::Systemd => {
            let words = ["show", &name, "--property=FragmentPath,ActiveState"];
            (process::look_up("systemctl", &words)?, "FragmentPath=", "ActiveState=active")
        }
    };
    let place = said.lines().find_map(|line| line.trim().strip_prefix(path)).filter(|path| !path.is_empty())?;
    let definition = fs::read_to_string(place).unwrap_or_default();
    Some(SystemService { definition, runs: said.lines().any(|line| line.trim() == runs) })
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Whether an engine has put a model there.
fn holds_models(store: &Path) -> bool {
    fs::read_dir(store.join("manifests")).is_ok_and(|mut entries| entries.next().is_some())
}

/// `None`: there is none, it is off, or there is no nginx that it could let in.
fn firewall(system: &str) -> Option<Firewall> {
    let tool = machine::firewall_tool().filter(|_| system == "Darwin")?;
    let ask = |flag| process::look_up(tool.to_str()?, &[flag]);
    let nginx = process::find("nginx")?.canonicalize().ok()?;
    let is_on = ask("--getglobalstate")?.contains("enabled");
    is_on.then(|| {
        let admits = admits(&ask("--listapps").unwrap_or_default(), &nginx);
        Firewall { tool: tool.clone(), nginx, admits }
    })
}

/// The list has an app's path on a line, behind its number, and on the next what is done about it.
fn admits(list: &str, program: &Path) -> bool {
    let mut lines = list.lines();
    let is_it = |line: &str| line.split_once(':').is_some_and(|(_, path)| Path::new(path.trim()) == program);
    lines.any(is_it) && lines.next().is_some_and(|line| line.contains("Allow"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whom_the_firewall_lets_in() {
        let list = "ALF: total number of apps = 2 \n\n1 :  /opt/homebrew/Cellar/nginx/1.29.1/bin/nginx \n \t ( Allow incoming \
                    connections ) \n\n2 :  /usr/bin/nc \n \t ( Block incoming connections ) \n";
        let admits = |path: &str| admits(list, Path::new(path));
        assert!(admits("/opt/homebrew/Cellar/nginx/1.29.1/bin/nginx"));
        assert!(!admits("/opt/homebrew/Cellar/nginx/1.29.0/bin/nginx") && !admits("/usr/bin/nc"));
    }
}
