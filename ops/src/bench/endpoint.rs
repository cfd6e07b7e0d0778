//! Where requests go, and what the engine there says about itself and its models.
//!
//! Invariant: nothing here is measured; what an endpoint does not tell is absent, never assumed.

use std::{
    thread,
    time::{Duration, Instant},
};

use reqwest::{
    StatusCode,
    blocking::{Client, RequestBuilder},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use stack::{
    failure::{Class, Failure},
    secret::Secret,
};
use wire::ollama::{Ps, PsModel, ShowResponse, TagModel, Tags, Version};

/// Facts are told at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The longest load: a model of hundreds of gigabytes from a disk.
const LOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// An engine, or what stands before one.
#[derive(Debug, Clone)]
pub struct Endpoint {
    authority: String,
    key: Option<Secret>,
}

impl Endpoint {
    /// From a URL as people write it: `http://studio.local:11434`, or without the scheme. Plain HTTP only.
    ///
    /// # Errors
    ///
    /// If it is no such URL.
    pub fn parse(url: &str, key: Option<Secret>) -> Result<Endpoint, Failure> {
        let wrong = |why: &str| {
            Failure::new(Class::Settings, format!("{url:?} is no endpoint: {why}"))
                .hint("an endpoint looks like http://studio.local:11434")
        };
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => return Err(wrong("TLS is not measured here; name the plain port of the same stack")),
            Some((scheme, _)) => return Err(wrong(&format!("{scheme} is not HTTP"))),
            None => url,
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(wrong("a host and a port are wanted, and nothing after them"));
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')));
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Endpoint { authority, key })
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether it is on this machine: only then are this machine's facts the engine's.
    pub fn is_here(&self) -> bool {
        let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
        host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }

    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_ref().map(Secret::reveal)
    }

    fn request(
        &self,
        make: impl FnOnce(&Client, String) -> RequestBuilder,
        path: &str,
    ) -> Result<RequestBuilder, Failure> {
        let client = Client::builder().no_proxy().build().unwrap_or_default();
        let request = make(&client, format!("http://{}{path}", self.authority));
        Ok(match self.key() {
            Some(key) => request.bearer_auth(key),
            None => request,
        })
    }

    /// None where the endpoint does not know the path: it is no Ollama.
    fn json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Option<T>, Failure> {
        let request = match body {
            Some(body) => self.request(|client, url| client.post(url).json(body), path)?,
            None => self.request(|client, url| client.get(url), path)?,
        };
        let answer = request.timeout(patience).send().map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status == StatusCode::NOT_FOUND || status == StatusCode::METHOD_NOT_ALLOWED {
            return Ok(None);
        }
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return Err(Failure::new(Class::Refused, format!("{} answers {status}", self.authority))
                .hint("name a file that holds a key with --key, and see that the edge allows your address"));
        }
        let text = answer.text().map_err(|error| self.unreachable(&error))?;
        if !status.is_success() {
            let said: Value = serde_json::from_str(&text).unwrap_or_default();
            let words = said["error"].as_str().unwrap_or("no reason given").to_owned();
            return Err(Failure::new(Class::Failed, format!("{}{path} answers {status}: {words}", self.authority)));
        }
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::new(Class::Failed, format!("{}{path} answers what is not understood", self.authority))
                .because(&error)
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::new(Class::Unreachable, format!("no answer from http://{}", self.authority))
            .because(error)
            .hint("`cargo xtask status` shows what runs; --endpoint names another place")
    }

    /// The engine's version; none where it is no Ollama.
    ///
    /// # Errors
    ///
    /// If nothing answers there.
    pub fn version(&self) -> Result<Option<String>, Failure> {
        Ok(self.json::<Version>("/api/version", None, TIMEOUT)?.map(|it| it.version))
    }

    /// The models installed; none where it is no Ollama.
    ///
    /// # Errors
    ///
    /// If nothing answers there.
    pub fn installed(&self) -> Result<Option<Vec<TagModel>>, Failure> {
        Ok(self.json::<Tags>("/api/tags", None, TIMEOUT)?.map(|it| it.models))
    }

    fn resident(&self, name: &str) -> Result<Option<PsModel>, Failure> {
        let ps: Option<Ps> = self.json("/api/ps", None, TIMEOUT)?;
        Ok(ps.and_then(|ps| ps.models.into_iter().find(|model| model.name == name)))
    }

    /// Has the model in memory, and says what it is there.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded.
    pub fn load(&self, name: &str) -> Result<Option<PsModel>, Failure> {
        self.json::<Value>("/api/generate", Some(&json!({ "model": name })), LOAD_TIMEOUT)?;
        self.resident(name)
    }

    /// Has the model out of memory, and waits until it is.
    ///
    /// # Errors
    ///
    /// If it stays: someone uses it.
    pub fn unload(&self, name: &str) -> Result<(), Failure> {
        self.json::<Value>("/api/generate", Some(&json!({ "model": name, "keep_alive": 0 })), LOAD_TIMEOUT)?;
        let deadline = Instant::now() + LOAD_TIMEOUT / 10;
        while self.resident(name)?.is_some() {
            if Instant::now() > deadline {
                return Err(Failure::new(Class::Failed, format!("{name} does not leave memory"))
                    .hint("somebody else may be using it: a cold start can only be measured alone"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What is known about a model.
    ///
    /// # Errors
    ///
    /// If nothing answers there.
    pub fn describe(&self, tag: &TagModel) -> Result<Model, Failure> {
        let show: Option<ShowResponse> = self.json("/api/show", Some(&json!({ "model": tag.name })), TIMEOUT)?;
        let show = show.unwrap_or_default();
        Ok(Model {
            name: tag.name.clone(),
            digest: some(&tag.digest),
            quantization: some(&show.details.quantization_level).or_else(|| some(&tag.details.quantization_level)),
            parameters: some(&show.details.parameter_size).or_else(|| some(&tag.details.parameter_size)),
            size_bytes: (tag.size > 0).then_some(tag.size),
            thinks: show.capabilities.iter().any(|it| it == "thinking"),
            active_bytes: (tag.size > 0).then(|| (tag.size as f64 * active_share(&show.model_info)) as u64),
            ..Model::default()
        })
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The model that a run was about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// As the engine lists it.
    pub name: String,
    /// SHA-256 of its manifest.
    pub digest: Option<String>,
    /// `Q8_0`, …
    pub quantization: Option<String>,
    /// `32.8B`, …
    pub parameters: Option<String>,
    /// Of its files.
    pub size_bytes: Option<u64>,
    /// Read for every token: all of it, or of a mixture of experts the active share.
    pub active_bytes: Option<u64>,
    /// It thinks aloud, unless it is told not to.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub thinks: bool,
    /// In memory.
    pub resident_bytes: Option<u64>,
    /// Of these on the GPU.
    pub vram_bytes: Option<u64>,
    /// Tokens of context that it was loaded with, and that every request named.
    pub context_length: Option<u32>,
}

impl Model {
    pub(super) fn is_in(&mut self, memory: &PsModel) {
        self.resident_bytes = Some(memory.size);
        self.vram_bytes = Some(memory.size_vram);
        self.context_length = (memory.context_length > 0).then_some(memory.context_length);
    }
}

/// Which share of the weights one token needs. Of a mixture of experts each layer reads `expert_used_count` of
/// `expert_count` feed-forward networks, each of three matrices of `embedding_length × expert_feed_forward_length`
/// (llama.cpp's GGUF keys); everything else is read whole.
fn active_share(info: &Map<String, Value>) -> f64 {
    let architecture = info.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| info.get(&format!("{architecture}.{key}")).and_then(Value::as_f64);
    let idle = || {
        let experts = number("expert_count")?;
        let idle = experts - number("expert_used_count")?;
        let matrices = 3.0 * number("embedding_length")? * number("expert_feed_forward_length")?;
        let all = info.get("general.parameter_count").and_then(Value::as_f64)?;
        let share = idle * matrices * number("block_count")? / all;
        (0.0..1.0).contains(&share).then_some(share)
    };
    1.0 - idle().unwrap_or(0.0)
}

/// The installed model that `asked` means: as written; the configured default with that base; its `:latest`; the only
/// one with that base.
///
/// # Errors
///
/// If it means none, or several.
pub fn resolve<'a>(asked: &str, default: &str, installed: &'a [TagModel]) -> Result<&'a TagModel, Failure> {
    let named = |name: &str| installed.iter().find(|model| model.name == name);
    let base = |name: &str| name.split_once(':').map_or(name.to_owned(), |(base, _)| base.to_owned());
    let is_short = !asked.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let by_default = || (is_short && base(default) == asked).then(|| named(default)).flatten();
    let latest = || is_short.then(|| named(&format!("{asked}:latest"))).flatten();
    if let Some(found) = named(asked).or_else(by_default).or_else(latest) {
        return Ok(found);
    }
    let matches: Vec<&TagModel> = installed.iter().filter(|model| is_short && base(&model.name) == asked).collect();
    let names = |models: &[&TagModel]| models.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
    match matches[..] {
        [one] => Ok(one),
        [] => {
            let all: Vec<&TagModel> = installed.iter().collect();
            let there =
                if all.is_empty() { "nothing is installed".to_owned() } else { format!("there are {}", names(&all)) };
            Err(Failure::new(Class::Nothing, format!("{asked} is not installed; {there}"))
                .hint(format!("pull it: cargo xtask model pull {asked}")))
        }
        _ => Err(Failure::new(Class::Settings, format!("{asked} may be any of {}", names(&matches)))
            .hint("name one of them in full")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(names: &[&str]) -> Vec<TagModel> {
        names.iter().map(|name| TagModel { name: (*name).to_owned(), ..TagModel::default() }).collect()
    }

    #[test]
    fn a_short_name_means_the_default_then_latest_then_the_only_one() {
        let all = installed(&["q:32b", "q:latest", "q:7b", "m:8b", "a:1", "a:2", "org/x:latest"]);
        let meant = |asked: &str| resolve(asked, "q:32b", &all).map(|it| it.name.as_str());
        assert_eq!(meant("q"), Ok("q:32b"));
        assert_eq!(meant("q:7b"), Ok("q:7b"));
        assert_eq!(meant("m"), Ok("m:8b"));
        assert_eq!(meant("org/x"), Ok("org/x:latest"));
        assert_eq!(resolve("q", "other:1", &all).unwrap().name, "q:latest");
        let several = meant("a").unwrap_err();
        assert_eq!((several.class, several.message.as_str()), (Class::Settings, "a may be any of a:1, a:2"));
        let absent = meant("q:70b").unwrap_err();
        assert_eq!(absent.class, Class::Nothing);
        assert!(absent.message.starts_with("q:70b is not installed; there are q:32b, "));
        assert_eq!(absent.hint.as_deref(), Some("pull it: cargo xtask model pull q:70b"));
    }

    #[test]
    fn a_mixture_reads_its_active_share() {
        // Qwen3-235B-A22B: 94 layers, 8 of 128 experts, 4096 × 1536, 235.1 B parameters.
        let info = json!({
            "general.architecture": "qwen3moe", "general.parameter_count": 235_093_634_560_u64,
            "qwen3moe.block_count": 94, "qwen3moe.embedding_length": 4096, "qwen3moe.expert_count": 128,
            "qwen3moe.expert_used_count": 8, "qwen3moe.expert_feed_forward_length": 1536,
        });
        let active = active_share(info.as_object().unwrap()) * 235.1;
        assert!((21.5..22.5).contains(&active), "{active} B active, and its name says 22 B");
        assert_eq!(active_share(json!({"general.architecture": "llama"}).as_object().unwrap()), 1.0);
    }

    #[test]
    fn endpoints_are_read_as_people_write_them() {
        let authority = |url: &str| Endpoint::parse(url, None).map(|it| it.authority().to_owned()).ok();
        assert_eq!(authority("http://studio.local:11434/").as_deref(), Some("studio.local:11434"));
        assert_eq!(authority("127.0.0.1:11434").as_deref(), Some("127.0.0.1:11434"));
        assert_eq!(authority("http://studio").as_deref(), Some("studio:80"));
        assert_eq!(authority("http://[::1]:1").as_deref(), Some("[::1]:1"));
        for wrong in ["https://studio.local", "ftp://x", "http://", "http://x/api", "http://me@x:1"] {
            assert_eq!(authority(wrong), None, "{wrong}");
        }
        assert!(Endpoint::parse("http://127.0.0.1:1", None).unwrap().is_here());
        assert!(!Endpoint::parse("http://10.0.0.1:1", None).unwrap().is_here());
    }
}
