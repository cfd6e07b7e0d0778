//! What root does to have launchd run a daemon, or no longer.
//!
//! Invariant: it is data; [`crate::host`] runs it, by whatever way there is to root.

use std::path::Path;

use crate::process::Command;

/// How long, in seconds, what launchd was told to stop may take to be gone: longer than our definitions let it.
const GONE_AFTER_S: u32 = 180;

/// Where launchd looks for the definition of a daemon.
pub fn place(name: &str) -> String {
    format!("/Library/LaunchDaemons/{name}.plist")
}

/// What has launchd load the definition that stands in `staged`. `is_known`: it has an older one loaded.
pub fn install(name: &str, staged: &Path, is_known: bool) -> Vec<Command> {
    let (place, staged, target) = (place(name), staged.display().to_string(), format!("system/{name}"));
    let mut commands = vec![command("install", &["-o", "root", "-g", "wheel", "-m", "0644", &staged, &place])];
    if is_known {
        // It answers before what it ends is gone, and until then nothing else can be loaded under the name.
        let wait = format!(
            "launchctl bootout {target}; n=0; while launchctl print {target} >/dev/null 2>&1; do sleep 1; n=$((n + 1)); \
             [ $n -lt {GONE_AFTER_S} ] || exit 1; done"
        );
        commands.push(command("/bin/sh", &["-c", &wait]));
    }
    // Whoever had disabled it wants it now; and to be loaded is not to be started.
    commands.push(command("launchctl", &["enable", &target]));
    commands.push(command("launchctl", &["bootstrap", "system", &place]));
    commands
}

/// What has launchd forget a daemon, wherever that was cut off before.
pub fn remove(name: &str) -> Command {
    let place = Command::word(&place(name)).into_owned();
    command("/bin/sh", &["-c", &format!("launchctl bootout system/{name} 2>/dev/null; rm -f {place}")])
}

/// Root finds these on its own PATH.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    Command { program: program.into(), args: args.iter().map(|arg| (*arg).to_owned()).collect(), env: [].into() }
}
