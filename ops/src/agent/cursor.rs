//! Cursor: told about, since people ask for it, and not promised.

use super::{Agent, Package};

pub(super) const CURSOR: Agent = Agent {
    name: "cursor",
    title: "Cursor",
    good_at: "an editor built around an agent",
    bad_at: "it cannot use this stack as it is",
    package: Package::User { hint: "https://cursor.com" },
    settings: Err(
        "Cursor's own servers call the endpoint, not your machine: an address on your LAN or loopback is out of \
                   their reach, and only a public HTTPS URL works (cursor/cursor#1380), which this stack does not open",
    ),
    run: None,
    least_context: 0,
};
