//! Whether a port can be had, and who has it.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use crate::process;

/// Whether nothing listens on this loopback port, tried from both sides: some systems let a specific address be bound
/// beside somebody else's wildcard.
pub(super) fn is_free(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).is_ok() && TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err()
}

/// A free port: `wanted`, or the next one up, or any for 0. `taken` are those already given away.
pub(super) fn next_free(wanted: u16, taken: &[u16]) -> io::Result<u16> {
    if wanted == 0 {
        // Held together until one is new, so that the system cannot offer the same one twice.
        let mut listeners = Vec::new();
        loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            if !taken.contains(&port) {
                return Ok(port);
            }
            listeners.push(listener);
        }
    }
    (wanted..=u16::MAX)
        .find(|port| !taken.contains(port) && is_free(*port))
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, format!("no port from {wanted} up is free")))
}

/// Who listens on a port, in words: `ollama (pid 4711)`. Best effort: other users' processes show no more than that
/// they are there.
pub(super) fn holder(port: u16) -> String {
    proc_holder(port).or_else(|| process::lsof_listener(port)).unwrap_or_else(|| "another user's process".to_owned())
}

fn proc_holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listening_inode(table, port))?;
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        // Not `self` and `thread-self`, which are here twice under other names.
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == socket.as_str());
        if descriptors.flatten().any(holds) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// Columns: 1 local address as `HEX:PORT`, 3 state (0A: listening), 9 inode; see proc_net_tcp in the kernel's docs.
fn listening_inode(table: &str, port: u16) -> Option<String> {
    let text = fs::read_to_string(table).ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = fields.get(1)?.rsplit(':').next()? == format!("{port:04X}") && *fields.get(3)? == "0A";
        ours.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_who_holds_a_port_and_offers_the_next() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        assert!(holder(port).contains(&format!("(pid {})", std::process::id())), "{}", holder(port));
        let next = next_free(port, &[]).unwrap();
        assert!(next > port);
        assert_ne!(next_free(port, &[next]).unwrap(), next);
    }
}
