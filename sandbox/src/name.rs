//! Model names, parsed as Ollama parses them (`types/model/name.go`): `[host/][namespace/]model[:tag]`.
//!
//! A name becomes a path in the store, so this is also where a request is kept inside it.
//!
//! Invariant: a [`Name`] has four parts, none is empty, starts with a dot or holds a path separator.

use std::fmt;
use std::path::PathBuf;

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// The full name of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) host: String,
    pub(crate) namespace: String,
    pub(crate) model: String,
    pub(crate) tag: String,
}

impl Name {
    /// What `text` names, missing parts filled in; `None` if it is no name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // A colon before the last slash belongs to the host's port.
        let (path, tag) = match (text.rfind(':'), text.rfind('/')) {
            (Some(colon), slash) if slash.is_none_or(|slash| slash < colon) => (&text[..colon], &text[colon + 1..]),
            _ => (text, DEFAULT_TAG),
        };
        let (rest, model) = match path.rsplit_once('/') {
            Some((rest, model)) => (Some(rest), model),
            None => (None, path),
        };
        let (host, namespace) = match rest.map(|rest| rest.rsplit_once('/').ok_or(rest)) {
            Some(Ok((host, namespace))) => (host.split_once("://").map_or(host, |(_scheme, host)| host), namespace),
            Some(Err(namespace)) => (DEFAULT_HOST, namespace),
            None => (DEFAULT_HOST, DEFAULT_NAMESPACE),
        };
        Self::from_parts(host, namespace, model, tag)
    }

    /// The name of these four parts; `None` if one of them could not stand in a name.
    pub(crate) fn from_parts(host: &str, namespace: &str, model: &str, tag: &str) -> Option<Self> {
        let valid = is_part(host, 350, "-_.:")
            && is_part(namespace, 80, "-_")
            && is_part(model, 80, "-_.")
            && is_part(tag, 80, "-_.");
        valid.then(|| Self {
            host: host.to_owned(),
            namespace: namespace.to_owned(),
            model: model.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// Where its manifest stands below `manifests/`.
    pub(crate) fn path(&self) -> PathBuf {
        [&self.host, &self.namespace, &self.model, &self.tag].into_iter().collect()
    }

    /// All four parts.
    pub(crate) fn full(&self) -> String {
        format!("{}/{}/{}:{}", self.host, self.namespace, self.model, self.tag)
    }

    /// Whether the public library would serve it, as opposed to Hugging Face or a registry of one's own.
    pub(crate) fn is_of_library(&self) -> bool {
        self.host.eq_ignore_ascii_case(DEFAULT_HOST)
    }

    /// Names differ by more than case: Ollama finds `Qwen3` when asked for `qwen3`.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(&other.host)
            && self.namespace.eq_ignore_ascii_case(&other.namespace)
            && self.model.eq_ignore_ascii_case(&other.model)
            && self.tag.eq_ignore_ascii_case(&other.tag)
    }
}

/// The shortest form, always with a tag.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_of_library() {
            write!(f, "{}/{}/", self.host, self.namespace)?;
        } else if !self.namespace.eq_ignore_ascii_case(DEFAULT_NAMESPACE) {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}:{}", self.model, self.tag)
    }
}

fn is_part(part: &str, longest: usize, punctuation: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.len() <= longest && part.starts_with(is_word) && part.chars().all(|c| is_word(c) || punctuation.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortest(text: &str) -> Option<String> {
        Name::parse(text).map(|name| name.to_string())
    }

    #[test]
    fn fills_in_what_a_name_leaves_out() {
        let name = Name::parse("qwen2.5-coder").unwrap();
        assert_eq!(name.path(), PathBuf::from("registry.ollama.ai/library/qwen2.5-coder/latest"));
        assert_eq!(name.to_string(), "qwen2.5-coder:latest");
    }

    #[test]
    fn shortens_a_full_name_to_what_people_type() {
        assert_eq!(shortest("registry.ollama.ai/library/qwen3:8b").as_deref(), Some("qwen3:8b"));
        assert_eq!(shortest("https://registry.ollama.ai/library/qwen3").as_deref(), Some("qwen3:latest"));
        assert_eq!(shortest("someone/mine").as_deref(), Some("someone/mine:latest"));
        assert_eq!(shortest("localhost:5000/a/b").as_deref(), Some("localhost:5000/a/b:latest"));
    }

    #[test]
    fn refuses_what_could_leave_the_store() {
        for text in ["", ":", "a:", ":b", "a/", "/a", "..", "a/..", "../../etc/passwd", "a:../b", "h/n/.m", "a\\b", "ä"]
        {
            assert_eq!(Name::parse(text), None, "{text:?}");
        }
        assert_eq!(Name::parse(&"m".repeat(81)), None);
    }
}
