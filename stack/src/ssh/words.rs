//! Words for what a person meets first: ssh's own are for those who know them.

use std::io;

use crate::failure::{Class, Failure};

/// What ssh says, what that means, and what to do. The first that fits counts.
const SYMPTOMS: [(&str, &str, &str); 10] = [
    (
        "Could not resolve hostname",
        "nobody knows the name",
        "check `address` under [host] in stack.toml; a Mac's name on the LAN usually ends in .local",
    ),
    (
        "No route to host",
        "there is no way to it from here",
        "is it switched on and on this network? On macOS, terminals other than Terminal need System Settings > Privacy & \
         Security > Local Network",
    ),
    ("Network is unreachable", "this machine has no network to it", "connect this machine, or its VPN, and try again"),
    (
        "Connection refused",
        "it is there, but nothing listens for ssh",
        "on a Mac: System Settings > General > Sharing > Remote Login; on Linux: install and start openssh-server",
    ),
    ("Operation timed out", "it does not answer", "is it switched on and awake? `ping` it; a firewall may drop ssh"),
    ("Connection timed out", "it does not answer", "is it switched on and awake? `ping` it; a firewall may drop ssh"),
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that is known",
        "if you reinstalled it, remove the old key with `ssh-keygen -R` and the name, then log in once by hand; if not, \
         somebody may stand between you and it",
    ),
    (
        "Host key verification failed",
        "its host key is not known yet",
        "log in once by hand with ssh and confirm the key",
    ),
    (
        "Permission denied",
        "it does not let you in",
        "`ssh-copy-id` puts your key there; check `user` under [host], and that your agent has the key (`ssh-add -l`)",
    ),
    (
        "Too many authentication failures",
        "your agent offers too many keys",
        "name the right one as IdentityFile in ~/.ssh/config",
    ),
];

/// A lost connection in words: by what ssh said, else by how it ended.
pub(super) fn failure(address: &str, code: Option<i32>, said: &str) -> Failure {
    let failure = |words: &str| {
        let failure = Failure::new(Class::Unreachable, format!("cannot work on {address}: {words}"));
        if said.is_empty() { failure } else { failure.because(&io::Error::other(said.to_owned())) }
    };
    let own = || SYMPTOMS.iter().find(|(symptom, ..)| said.contains(symptom));
    match code {
        _ if said.contains("No space left on device") => {
            failure("its disk is full").hint("free some space there, or set `root` under [host] to another disk")
        }
        // ssh's own, or the far side's; either way the connection is gone.
        Some(255) | None => match own() {
            Some((_, words, hint)) => failure(words).hint(*hint),
            None => failure("the connection was cut").hint("run the same command again: it goes on from what is there"),
        },
        Some(73) => {
            failure("its root cannot be created").hint("check `root` under [host] in stack.toml, and your rights there")
        }
        Some(74) => {
            failure("the program could not be written there").hint("is there space, and may you write to the root?")
        }
        Some(70) => failure("the program could not be built there").hint("cargo's words above say why"),
        Some(126 | 127) => failure("it has no /bin/sh that works"),
        Some(code) => failure(&format!("the program there ended with status {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_usual_mishaps_apart() {
        for (said, words) in [
            ("ssh: Could not resolve hostname studio: Name or service not known", "nobody knows the name"),
            ("ssh: connect to host studio port 22: No route to host", "no way to it"),
            ("ssh: connect to host studio port 22: Connection refused", "nothing listens for ssh"),
            ("me@studio: Permission denied (publickey).", "does not let you in"),
            (
                "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
                "not the one that is known",
            ),
            ("Host key verification failed.", "not known yet"),
            ("head: write error: No space left on device", "disk is full"),
            ("", "the connection was cut"),
        ] {
            let failure = failure("studio", Some(255), said);
            assert!(failure.message.contains(words), "{said}: {}", failure.message);
        }
    }

    #[test]
    fn what_a_program_there_may_not_do_is_not_taken_for_ssh_that_may_not_in() {
        for (code, words) in [(73, "its root cannot be created"), (74, "could not be written there")] {
            let failure = failure("studio", Some(code), "mkdir: cannot create directory: Permission denied");
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }
}
