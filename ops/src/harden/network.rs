//! What an audit has to know of a host: which of its files others can read, and which ports are nobody's business.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use stack::{component::Component, layout::Root, observed::Observed};

use crate::doctor::Finding;

/// Where the stack's programs listen if nobody tells them otherwise, or by the defaults.
const USUAL_PORTS: [(u16, &str); 12] = [
    (11434, "Ollama's API"),
    (11435, "the engine"),
    (11436, "the gateway"),
    (3000, "Grafana"),
    (13000, "Grafana"),
    (9090, "Prometheus, or macmon"),
    (19090, "Prometheus"),
    (9093, "Alertmanager"),
    (19093, "Alertmanager"),
    (9100, "node_exporter"),
    (19100, "node_exporter"),
    (19101, "macmon"),
];

/// What an audit calls a secret that others on the host can read.
pub const READABLE: &str = "readable-secret";

/// Ports that nobody but the host should reach, and whose they are.
pub fn inner_ports(observed: &Observed) -> BTreeMap<u16, String> {
    let release = observed.current_release();
    let doors: Vec<u16> = release.map(|it| it.content.doors.values().copied().collect()).unwrap_or_default();
    let usual = USUAL_PORTS.iter().map(|(port, whose)| (*port, (*whose).to_owned()));
    let chosen = release.into_iter().flat_map(|it| &it.content.services).filter(|it| it.component != Component::Edge);
    let chosen = chosen.map(|service| (service.listen.port(), format!("the {}", service.component)));
    usual.chain(chosen).filter(|(port, _)| !doors.contains(port)).collect()
}

/// Secrets on this host that others on it can read.
pub fn exposed_files(root: &Path) -> Vec<Finding> {
    let layout = Root::new(root.to_owned());
    let tls = layout.authority();
    let alone = [layout.keys(), layout.secret_key(), tls.join("authority.key"), tls.join("edge/key.pem")];
    let exposed = files(&layout.secrets()).into_iter().chain(alone).filter(|path| is_open(path));
    exposed
        .map(|path| {
            let mode = mode(&path).unwrap_or_default() & 0o777;
            Finding::new(READABLE, "others on the host can read a secret")
                .seen(format!("{} has mode {mode:03o}, and so have all folders above it", path.display()))
                .because("whoever has an account there, or breaks into a service there, has it")
                .fix(format!("chmod go= {}", path.display()))
        })
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

/// Whether others can read a file: the file says so, and no folder above it keeps them out.
fn is_open(path: &Path) -> bool {
    let lets_in = |folder: &Path| mode(folder).is_some_and(|mode| mode & 0o001 != 0);
    mode(path).is_some_and(|mode| mode & 0o004 != 0) && path.ancestors().skip(1).all(lets_in)
}

fn mode(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.permissions().mode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_open_unless_it_or_a_folder_above_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let inner = folder.path().join("inner");
        let file = inner.join("secret");
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "x").unwrap();
        set(folder.path(), 0o755);
        set(&inner, 0o755);
        set(&file, 0o644);
        assert!(is_open(&file));
        set(&inner, 0o700);
        assert!(!is_open(&file));
        set(&inner, 0o711);
        set(&file, 0o600);
        assert!(!is_open(&file));
    }
}
