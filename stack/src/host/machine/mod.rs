//! Asking a machine what it is. Nothing here changes anything.
//!
//! Which system is asked is what `uname` said, never what this program was built for: so a Mac can be read in a test.
//! Invariant: whatever does not answer, or answers in words that are not understood, is `None`.

mod linux;
mod mac;

pub(crate) use mac::{firewall_tool, memory_free_percent};

use std::{
    env, io,
    net::{IpAddr, Ipv6Addr, UdpSocket},
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    layout::{Root, expand},
    machine::{Disk, Machine},
    process,
};

/// Looks at the machine. `models` may begin with `~`.
pub(super) fn machine(system: &str, root: &Root, models: &Path) -> Machine {
    let system = match system {
        "Darwin" => mac::system(),
        _ => linux::system(),
    };
    let disks =
        [("the stack", root.path().to_owned()), ("models", expand(models).unwrap_or_else(|| models.to_owned()))];
    Machine {
        disks: disks.into_iter().filter_map(|(what, path)| disk(what, path)).collect(),
        address: address(),
        clock: Utc::now(),
        ..system
    }
}

/// When the machine was started.
pub(super) fn booted(system: &str) -> Option<DateTime<Utc>> {
    let uptime_s = match system {
        "Darwin" => mac::uptime(),
        _ => linux::uptime(),
    };
    Some(Utc::now() - TimeDelta::seconds(i64::try_from(uptime_s?).ok()?))
}

/// What is not there yet will be on the file system of the nearest folder that is.
fn disk(what: &str, path: PathBuf) -> Option<Disk> {
    let there = path.ancestors().find(|folder| folder.exists())?;
    let space = rustix::fs::statvfs(there).ok()?;
    Some(Disk { what: what.to_owned(), path, available_bytes: space.f_bavail * space.f_frsize })
}

/// The address that the client reached, from sshd; else the one that traffic to other networks would leave from. To
/// connect a datagram socket sends nothing.
fn address() -> Option<IpAddr> {
    let reached = env::var("SSH_CONNECTION").ok().and_then(|it| it.split(' ').nth(2)?.parse().ok());
    let leaves = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        // Of the range that documentation uses: it is nobody's.
        socket.connect(("192.0.2.1", 9))?;
        Ok(socket.local_addr()?.ip())
    };
    reached.or_else(|| leaves().ok())
}

/// The network that an address is on.
fn network_of(address: Ipv6Addr, prefix_length: u8) -> String {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix_length.min(128))).unwrap_or(0);
    format!("{}/{prefix_length}", Ipv6Addr::from(u128::from(address) & mask))
}

/// The answer of a system's own tool.
fn ask(program: &str, args: &[&str]) -> Option<String> {
    process::look_up(program, args)
}

/// Asks for a number.
fn number<T: std::str::FromStr>(program: &str, args: &[&str]) -> Option<T> {
    ask(program, args)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The system is asked, and no table of mounts is read: names may be as odd as they like.
    #[test]
    fn the_room_at_a_place_with_spaces_and_tabs_is_told() {
        let folder = tempfile::Builder::new().prefix("My Models\t2 ").tempdir().unwrap();
        let path = folder.path().join("not yet/there");
        let found = disk("models", path.clone()).unwrap();
        assert_eq!((found.path, found.available_bytes > 0), (path, true));
    }
}
