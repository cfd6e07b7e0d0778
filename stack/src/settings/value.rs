//! Single values as people write them, each with what to write instead.
//!
//! The same functions judge `stack.toml`, an imported `.env` and the command line. Invariant: what they let through can
//! stand in an argv, a unit file or a Compose file and be taken for nothing but a value: no leading `-`, no whitespace
//! in a name, no control characters.

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use super::{Image, KvCacheType, RuntimeChoice, Tls};
use crate::component::Runtime;

/// Why a value is refused, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub struct Wrong {
    /// What is wrong, as a lowercase fragment.
    pub message: String,
    /// "write …"
    pub help: String,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Wrong { message: message.into(), help: help.into() }
    }
}

/// A size in bytes. Units are binary, with or without `B` or `iB`, as Docker reads them: `128G` is 128 × 2³⁰.
pub fn size(text: &str) -> Result<u64, Wrong> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit_bytes: Option<u64> = match unit.trim_start().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => Some(1 << 10),
        "m" | "mb" | "mib" => Some(1 << 20),
        "g" | "gb" | "gib" => Some(1 << 30),
        "t" | "tb" | "tib" => Some(1 << 40),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(unit_bytes)
        .and_then(|(number, unit_bytes)| number.checked_mul(unit_bytes))
        // Docker and JSON readers keep sizes in an i64.
        .filter(|bytes| (1..=i64::MAX as u64).contains(bytes))
        .ok_or_else(|| {
            Wrong::new(
                format!("{text:?} is not a size"),
                "write a whole number and a unit, such as \"512M\", \"128G\" or \"1T\"",
            )
        })
}

/// A duration, as in `90s`, `1h30m`, `15d`; zero is one.
pub fn duration(text: &str) -> Result<Duration, Wrong> {
    // Longer ones overflow the nanoseconds of Go programs, which is what most of these end up in.
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    // humantime reads `5M` as five months, where people mean minutes.
    let months = text.contains('M');
    humantime::parse_duration(text).ok().filter(|duration| !months && *duration <= LONGEST).ok_or_else(|| {
        Wrong::new(
            format!("{text:?} is not a duration"),
            "write numbers and units, such as \"90s\", \"1h30m\" or \"15d\"",
        )
    })
}

/// A duration longer than zero.
pub fn period(text: &str) -> Result<Duration, Wrong> {
    match duration(text)? {
        Duration::ZERO => Err(Wrong::new(format!("{text:?} is no time at all"), "write more than zero")),
        period => Ok(period),
    }
}

/// How long a model stays loaded, as Ollama takes it: a duration, or a bare number of seconds. Negative or `forever`:
/// never unloaded, `None`.
pub fn keep_alive(text: &str) -> Result<Option<Duration>, Wrong> {
    if text == "forever" {
        return Ok(None);
    }
    let length = text.strip_prefix('-').unwrap_or(text);
    let seconds = length.parse::<u64>().map(|seconds| format!("{seconds}s"));
    let kept = duration(seconds.as_deref().unwrap_or(length)).map_err(|_| {
        Wrong::new(
            format!("{text:?} is not a time to keep a model loaded"),
            "write a duration such as \"5m\" or \"24h\", or \"forever\"",
        )
    })?;
    Ok((!text.starts_with('-')).then_some(kept))
}

/// A whole number within bounds.
pub fn whole<T>(text: &str, bounds: &RangeInclusive<T>) -> Result<T, Wrong>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let (least, most) = (bounds.start(), bounds.end());
    text.parse().ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
        Wrong::new(
            format!("{text} is out of bounds"), //
            format!("write a whole number from {least} to {most}"),
        )
    })
}

/// A network in CIDR notation. An address alone is the network of that one host, as nginx takes it.
pub fn network(text: &str) -> Result<IpNet, Wrong> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text.parse().map_err(|_| {
        Wrong::new(
            format!("{text:?} is not a network"),
            "write an address and a prefix length, such as \"192.168.0.0/16\" or \"10.0.0.7/32\"",
        )
    })?;
    if network.trunc() == network {
        return Ok(network);
    }
    // Both readings are common, and they differ in who gets in: the user has to say.
    Err(Wrong::new(
        format!("{text:?} names a host and a network at once"),
        format!("write \"{}\" for the network, or \"{}\" for the host", network.trunc(), IpNet::from(network.addr())),
    ))
}

/// A folder on the host: from `/`, or from the home folder with `~/`. Never `/` or the home folder itself, since what
/// is ours is also removed as ours.
pub fn folder(text: &str) -> Result<PathBuf, Wrong> {
    let below = text.strip_prefix("~/").or_else(|| text.strip_prefix('/'));
    let named = below.is_some_and(|below| below.split('/').any(|part| !matches!(part, "" | ".")));
    if named && !text.split('/').any(|part| part == "..") && !text.contains(char::is_control) {
        return Ok(PathBuf::from(text));
    }
    Err(Wrong::new(
        format!("{text:?} is not a folder on the host"),
        "write a path that starts with \"/\" or \"~/\" and has no \"..\" in it",
    ))
}

/// Where files are fetched from. What comes is known by its digest, so that a mirror need not be trusted, nor use TLS.
pub fn mirror(text: &str) -> Result<String, Wrong> {
    let below = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_:/[]~".contains(c);
    match below.is_some_and(|below| below.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')) {
        true if text.chars().all(is_plain) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err(Wrong::new(
            format!("{text:?} is not where files can be fetched from"),
            "write a URL such as \"https://github.com\" or \"http://mirror.lan/github\"",
        )),
    }
}

/// The name of a scenario file. It stands beside `stack.toml` and travels with it, so it is a plain name and another one.
pub fn scenarios(text: &str) -> Result<String, Wrong> {
    let named = text.strip_suffix(".toml").is_some_and(|stem| word(stem, "-_.") && stem != "stack");
    if named {
        return Ok(text.to_owned());
    }
    let help = "write the name of a file beside stack.toml, such as \"scenarios.toml\"";
    Err(Wrong::new(format!("{text:?} is not the name of a scenario file"), help))
}

/// A name or address that ssh takes: never one that ssh would read as an option.
pub fn address(text: &str) -> Result<String, Wrong> {
    if let Some((user, host)) = text.rsplit_once('@') {
        let message = format!("{text:?} holds a user");
        return Err(Wrong::new(message, format!("write the address \"{host}\" and the user \"{user}\" apart")));
    }
    let (ip, zone) = text.split_once('%').unwrap_or((text, "0"));
    if word(text, "-.") || (ip.parse::<Ipv6Addr>().is_ok() && word(zone, "-.")) {
        return Ok(text.to_owned());
    }
    let help = if text.contains(':') {
        "write the address without brackets and port; the port of sshd is `port`"
    } else {
        "write a name or an address, such as \"studio.local\""
    };
    Err(Wrong::new(format!("{text:?} is not an address"), help))
}

/// A login name: never one that ssh would read as an option.
pub fn user(text: &str) -> Result<String, Wrong> {
    word(text, "._-")
        .then(|| text.to_owned())
        .ok_or_else(|| Wrong::new(format!("{text:?} is not a user name"), "write a login name such as \"me\""))
}

/// A version of what is fetched as a release, as in `0.32.15` or `0.33.0-rc1`.
pub fn version(text: &str) -> Result<String, Wrong> {
    let (numbers, suffix) = text.split_once('-').unwrap_or((text, "rc"));
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if numbers.split('.').count() == 3 && numbers.split('.').all(numeric) && word(suffix, ".-") {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("{text:?} is not a version"), "write three numbers, such as \"0.32.15\""))
}

/// A model as Ollama names it: `[[host/]namespace/]model[:tag]`.
pub fn model(text: &str) -> Result<String, Wrong> {
    let parts: Vec<&str> = text.split('/').collect();
    let valid = match parts.as_slice() {
        [model] => tagged(model),
        [namespace, model] => word(namespace, "-_.") && tagged(model),
        [host, namespace, model] => word(host, "-_.:") && word(namespace, "-_.") && tagged(model),
        _ => false,
    };
    valid.then(|| text.to_owned()).ok_or_else(|| {
        Wrong::new(
            format!("{text:?} is not a model name"),
            "write a name and a tag, such as \"qwen2.5-coder:32b-instruct-q8_0\"",
        )
    })
}

/// An image reference that names one version: with a tag that is not `latest`, or with a digest.
pub fn image(text: &str) -> Result<Image, Wrong> {
    let name_and_tag = match text.split_once('@') {
        None => text,
        Some((name, digest)) if is_sha256(digest) => name,
        Some(_) => {
            let message = format!("{text:?} has a malformed digest");
            return Err(Wrong::new(message, "write \"@sha256:\" and 64 hexadecimal digits after the name"));
        }
    };
    // A colon before the last slash belongs to the registry's port.
    let last = name_and_tag.rfind('/').map_or(0, |slash| slash + 1);
    let tag = name_and_tag[last..].split_once(':').map(|(_, tag)| tag);
    let name = &name_and_tag[..name_and_tag.len() - tag.map_or(0, |tag| tag.len() + 1)];
    if !name.split('/').all(|part| word(part, "._-:")) || !tag.is_none_or(|tag| word(tag, "._-")) {
        let message = format!("{text:?} is not an image");
        return Err(Wrong::new(message, "write a name and a tag, such as \"nginx:1.30.0\""));
    }
    let message = match tag {
        // The digest decides, whatever the tag says.
        _ if name_and_tag != text => return Ok(Image(text.to_owned())),
        None => format!("{text:?} has no tag"),
        Some("latest") => format!("{text:?} is not one version"),
        Some(_) => return Ok(Image(text.to_owned())),
    };
    Err(Wrong::new(message, format!("write the version that you mean, such as \"{name}:1.2.3\"")))
}

/// A mail address: as much of it as one can tell without asking a mail server.
pub fn mailbox(text: &str) -> Result<String, Wrong> {
    let parts = text.split_once('@').filter(|(user, domain)| word(user, "._-+") && word(domain, ".-"));
    parts
        .map(|_| text.to_owned())
        .ok_or_else(|| Wrong::new(format!("{text:?} is not a mail address"), "write one such as \"me@example.com\""))
}

/// A server and a port, as in `smtp.example.com:587`.
pub fn host_and_port(text: &str) -> Result<String, Wrong> {
    let parts = text.rsplit_once(':').filter(|(host, port)| word(host, ".-") && port.parse::<u16>().is_ok());
    parts.map(|_| text.to_owned()).ok_or_else(|| {
        let help = "write a name and a port, such as \"smtp.example.com:587\"";
        Wrong::new(format!("{text:?} is not a server with a port"), help)
    })
}

/// A login at a mail server, which may be a mail address.
pub fn login(text: &str) -> Result<String, Wrong> {
    word(text, "._-+@")
        .then(|| text.to_owned())
        .ok_or_else(|| Wrong::new(format!("{text:?} is not a login"), "write one such as \"me@example.com\""))
}

/// A channel of Slack, or a person there.
pub fn channel(text: &str) -> Result<String, Wrong> {
    text.strip_prefix(['#', '@'])
        .filter(|name| word(name, "._-"))
        .map(|_| text.to_owned())
        .ok_or_else(|| Wrong::new(format!("{text:?} is not a channel"), "write one such as \"#alerts\""))
}

/// A URL to post to.
pub fn url(text: &str) -> Result<String, Wrong> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '<' | '>' | '`' | '{' | '}' | '$');
    let host = |rest: &str| rest.split(['/', '?']).next().is_some_and(|host| word(host, ".-:"));
    rest.filter(|rest| host(rest) && rest.chars().all(plain))
        .map(|_| text.to_owned())
        .ok_or_else(|| Wrong::new(format!("{text:?} is not a URL"), "write one such as \"https://example.com/alerts\""))
}

/// Who starts the components.
pub fn runtime(text: &str) -> Result<RuntimeChoice, Wrong> {
    one_of(
        text,
        &[
            ("auto", RuntimeChoice::Auto),
            ("native", RuntimeChoice::Fixed(Runtime::Native)),
            ("docker", RuntimeChoice::Fixed(Runtime::Docker)),
            ("sandbox", RuntimeChoice::Fixed(Runtime::Sandbox)),
        ],
    )
}

/// Whose certificate the edge shows.
pub fn tls(text: &str) -> Result<Tls, Wrong> {
    one_of(text, &[("off", Tls::Off), ("internal", Tls::Internal), ("files", Tls::Files)])
}

/// Type of the key/value cache.
pub fn kv_cache_type(text: &str) -> Result<KvCacheType, Wrong> {
    one_of(text, &[("f16", KvCacheType::F16), ("q8_0", KvCacheType::Q8_0), ("q4_0", KvCacheType::Q4_0)])
}

fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Wrong> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        Wrong::new(format!("{text:?} is not a choice"), format!("write one of {}", names.join(", ")))
    })
}

/// ASCII letters, digits and `marks`, starting with a letter, a digit or `_`: nothing that a shell, an option parser or
/// a URL reads as more than a name.
fn word(text: &str, marks: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || marks.contains(c))
}

fn tagged(model: &str) -> bool {
    let (name, tag) = model.split_once(':').unwrap_or((model, "latest"));
    word(name, "-_.") && word(tag, "-_.")
}

fn is_sha256(digest: &str) -> bool {
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals<T: std::fmt::Debug>(parse: fn(&str) -> Result<T, Wrong>, texts: &[&str]) {
        for text in texts {
            let wrong = parse(text).expect_err(text);
            assert!(wrong.message.contains(&format!("{text:?}")), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_binary_as_docker_reads_them() {
        for text in ["128G", "128g", "128GB", "128GiB", "128 GiB", "131072M"] {
            assert_eq!(size(text), Ok(128 << 30), "{text}");
        }
        refusals(size, &["", "G", "128", "0G", "-1G", "1.5G", "128X", "128 G i B", "9999999999999T", "9000000T"]);
    }

    #[test]
    fn durations_are_as_people_write_them() {
        for (text, seconds) in [("90s", 90), ("1h30m", 5400), ("1h 30m", 5400), ("15d", 1_296_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        refusals(duration, &["", "5", "m", "-5m", "5x", "5M", "200y", "99999999999999999999s"]);
        refusals(period, &["0s"]);
    }

    #[test]
    fn keep_alive_takes_what_ollama_takes() {
        for text in ["-1", "-5m", "forever"] {
            assert_eq!(keep_alive(text), Ok(None), "{text}");
        }
        assert_eq!(keep_alive("0"), Ok(Some(Duration::ZERO)));
        assert_eq!(keep_alive("300"), keep_alive("5m"));
        refusals(keep_alive, &["", "-", "--1", "never", "-forever", "99999999999999"]);
    }

    #[test]
    fn a_network_says_all_its_bits() {
        assert_eq!(network("::1"), network("::1/128"));
        assert_eq!(network("10.0.0.7"), network("10.0.0.7/32"));
        assert_eq!(network("0.0.0.0/0").map(|net| net.to_string()), Ok("0.0.0.0/0".to_owned()));
        refusals(network, &["", "10.0.0.0/33", "10.0.0/8", "10.0.0.1/8", "fe80::1/10", "studio.local", "10.0.0.0/8 "]);
        let wrong = network("10.1.2.3/8").expect_err("host bits");
        assert_eq!(wrong.help, "write \"10.0.0.0/8\" for the network, or \"10.1.2.3/32\" for the host");
    }

    #[test]
    fn a_folder_is_never_everything() {
        for text in ["~/ollama-models", "/srv/models", "/Volumes/Big Disk/models", "~/.local/share"] {
            assert_eq!(folder(text), Ok(PathBuf::from(text)));
        }
        refusals(folder, &["", "/", "//", "/.", "~", "~/", "~/.", "~me/x", "models", "./models", "/srv/..", "/a\nb"]);
    }

    #[test]
    fn scenarios_stand_beside_the_settings() {
        assert_eq!(scenarios("my-agents.v2.toml"), Ok("my-agents.v2.toml".to_owned()));
        refusals(scenarios, &["", ".toml", "a", "a.json", "stack.toml", "../a.toml", "/a.toml", "b/a.toml", "-a.toml"]);
    }

    #[test]
    fn nothing_that_ssh_reads_as_an_option_is_a_name() {
        for text in ["localhost", "studio.local", "10.0.0.7", "::1", "fe80::1%en0", "my_host"] {
            assert_eq!(address(text), Ok(text.to_owned()));
        }
        refusals(
            address,
            &[
                "",
                "-oProxyCommand=x",
                "a b",
                "a\tb",
                "a;b",
                "me@studio",
                "studio:22",
                "[::1]",
                "fe80::1%",
                "a%b",
                "$(x)",
            ],
        );
        assert_eq!(user("j.doe_2"), Ok("j.doe_2".to_owned()));
        refusals(user, &["", "-l", "a b", "me@host", "a/b", "a`b`", "é"]);
    }

    #[test]
    fn a_version_is_three_numbers() {
        for text in ["0.32.15", "0.33.0-rc1"] {
            assert_eq!(version(text), Ok(text.to_owned()));
        }
        refusals(version, &["", "latest", "v0.32.15", "0.32", "0.32.", "0.32.15-", "0.32.15/../..", "0.32.15 "]);
    }

    #[test]
    fn models_are_named_as_ollama_names_them() {
        for text in [
            "qwen2.5-coder",
            "qwen2.5-coder:32b-instruct-q8_0",
            "me/model:tag",
            "hf.co/bartowski/Qwen2.5-GGUF:Q8_0",
            "registry.lan:5000/me/model",
        ] {
            assert_eq!(model(text), Ok(text.to_owned()));
        }
        refusals(model, &["", ":tag", "model:", "a:b:c", "-m", "a b", "../a", "a//b", "a/b/c/d", "a/", "mödel"]);
    }

    #[test]
    fn an_image_names_exactly_one_version() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for text in
            ["nginx:1.30.0", "registry.lan:5000/a/b:1", &format!("nginx@{digest}"), &format!("nginx:latest@{digest}")]
        {
            assert_eq!(image(text), Ok(Image(text.to_owned())));
        }
        refusals(
            image,
            &[
                "",
                "nginx",
                "nginx:",
                "nginx:latest",
                "registry.lan:5000/a",
                ":1",
                "a b:1",
                "-v:1",
                "nginx@sha256:0",
                "a@b@c",
            ],
        );
        assert!(image("registry.lan:5000/a").expect_err("no tag").message.ends_with("has no tag"));
    }

    #[test]
    fn choices_name_each_other() {
        assert_eq!(runtime("docker"), Ok(RuntimeChoice::Fixed(Runtime::Docker)));
        refusals(runtime, &["", "Docker", "podman"]);
        assert_eq!(
            kv_cache_type("q5").expect_err("q5").to_string(),
            "\"q5\" is not a choice; write one of \"f16\", \"q8_0\", \"q4_0\""
        );
    }
}
