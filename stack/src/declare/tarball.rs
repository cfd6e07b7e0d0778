//! Releases of other people's programs that a deploy brings itself: Ollama, and Alertmanager where the host has none.
//!
//! Invariant: what is brought is trusted by its digest, which stands here for the versions that this program knows, and for
//! others in the release itself.

use super::{Host, compose};
use crate::{
    failure::{Class, Failure},
    release::Tarball,
};

/// Alertmanager's release, where neither the host nor the settings have another: the newest with a digest that we know.
const ALERTMANAGER_VERSION: &str = "0.34.1";

/// SHA-256 of release files, as the releases' own lists have them. Known from other projects that pin the same versions, not
/// from the files themselves. Of Ollama 0.32.15 three agree for Darwin, seven for Linux on amd64, four on arm64; of
/// Alertmanager 0.34.1 two for Darwin on arm64, and for the others there is one, a formula in a tap of Homebrew's.
const KNOWN: [(&str, &str); 7] = [
    ("ollama-darwin.tgz", "9ab0ac4747946620a2464054f3c44a55aa146e9fccb5c366ee18e43fd1930b90"),
    ("ollama-linux-amd64.tar.zst", "50539c5fe9bf85887733355098dcdb266b433cb8c73fa180713417e9ed6e42bb"),
    ("ollama-linux-arm64.tar.zst", "c898270b1690eab0f51aa9e9197686b7b4c6a7d88b83967763818f3127e477e9"),
    ("alertmanager-0.34.1.darwin-arm64.tar.gz", "a3941879f340ef12a4cc1a479c82bd8520611265ea8d1ee25c88bd5f944d8293"),
    ("alertmanager-0.34.1.darwin-amd64.tar.gz", "9f3a3806c81a2ef3546fea9bae3dd39abcf2206edd112c9433133a9355875fce"),
    ("alertmanager-0.34.1.linux-arm64.tar.gz", "d98d6cbaf52151c7e76e24355fec88b11cebcb9875d4cdd8b76ddce7a7e5535c"),
    ("alertmanager-0.34.1.linux-amd64.tar.gz", "265b9d1e55ef0d5306a436018af6d2b686c2ce051f03d968f7464ecb1372a7e8"),
];

/// Ollama's release for this system: of the version in the settings, else of the one that this program was tested with.
pub(super) fn ollama(host: &Host<'_>) -> Result<Tarball, Failure> {
    let (system, machine) = (host.observed.system.as_str(), host.observed.machine.as_str());
    let (file, program) = match (system, machine) {
        ("Darwin", _) => ("ollama-darwin.tgz", "ollama"),
        (_, "x86_64") => ("ollama-linux-amd64.tar.zst", "bin/ollama"),
        (_, "aarch64") => ("ollama-linux-arm64.tar.zst", "bin/ollama"),
        _ => return Err(Failure::new(Class::Refused, format!("Ollama has no release for {system} on {machine}"))),
    };
    let tested = compose::default_of("STACK_ENGINE_IMAGE").rsplit(':').next().unwrap_or_default();
    let version = host.settings.engine.version.as_deref().unwrap_or(tested);
    let sha256 = known(file).filter(|_| version == tested);
    let folder = format!("{}/ollama/ollama/releases/download/v{version}", host.settings.host.github);
    Ok(Tarball {
        name: "ollama".to_owned(),
        version: version.to_owned(),
        url: format!("{folder}/{file}"),
        sha256,
        sums: format!("{folder}/sha256sum.txt"),
        program: program.to_owned(),
    })
}

/// Alertmanager's release for this system, if the settings name a version, or Prometheus has nobody else to tell. Homebrew
/// has no formula of it.
pub(super) fn alertmanager(host: &Host<'_>) -> Option<Tarball> {
    let wanted = host.settings.monitoring.alertmanager_version.as_deref();
    if wanted.is_none() && host.program("alertmanager").is_some() {
        return None;
    }
    host.program("prometheus")?;
    let system = if host.observed.system == "Darwin" { "darwin" } else { "linux" };
    let machine = match host.observed.machine.as_str() {
        "x86_64" => "amd64",
        "arm64" | "aarch64" => "arm64",
        _ => return None,
    };
    let version = wanted.unwrap_or(ALERTMANAGER_VERSION);
    let whole = format!("alertmanager-{version}.{system}-{machine}");
    let (file, github) = (format!("{whole}.tar.gz"), &host.settings.host.github);
    let folder = format!("{github}/prometheus/alertmanager/releases/download/v{version}");
    Some(Tarball {
        name: ALERTMANAGER.to_owned(),
        version: version.to_owned(),
        url: format!("{folder}/{file}"),
        sha256: known(&file),
        sums: format!("{folder}/sha256sums.txt"),
        program: format!("{whole}/alertmanager"),
    })
}

/// What Alertmanager's release is called, in which its own tool stands beside it.
pub(crate) const ALERTMANAGER: &str = "alertmanager";

fn known(file: &str) -> Option<String> {
    KNOWN.iter().find(|(known, _)| *known == file).map(|(_, sha256)| (*sha256).to_owned())
}
