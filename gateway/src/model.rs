//! Which model names may become labels.
//!
//! A client can ask for any name, and every label value is a series that Prometheus keeps for weeks. So a name is a
//! label only if the engine lists it.
//!
//! Invariant: there are as many labels as models that the engine ever had, plus two.

use std::{
    collections::HashMap,
    fmt::{self, Write},
    sync::{Arc, PoisonError, RwLock},
};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// The tag of a name that gives none.
const DEFAULT_TAG: &str = "latest";

/// The label `model`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Model {
    /// `none`: the endpoint takes no model, or not in a JSON body (`/v1/audio/transcriptions`, `/v1/models/<model>`).
    None,
    /// `other`: the engine has no model of that name, or none was named, or the body was not read because the engine is
    /// not there.
    Other,
    /// A name as `/api/tags` has it, always with a tag, and so never one of the words above.
    Known(Arc<str>),
}

impl EncodeLabelValue for Model {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        encoder.write_str(match self {
            Model::None => "none",
            Model::Other => "other",
            Model::Known(name) => name,
        })
    }
}

/// The models that the engine has, as of the last poll.
#[derive(Debug, Default)]
pub(crate) struct Models(RwLock<HashMap<String, Arc<str>>>);

impl Models {
    /// The label for a model by any name that the engine takes for it.
    pub(crate) fn label(&self, name: &str) -> Model {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).map_or(Model::Other, |name| Model::Known(Arc::clone(name)))
    }

    /// Knows the models of these names from now on, and no others. Gives their labels.
    pub(crate) fn replace(&self, names: impl IntoIterator<Item = String>) -> Vec<Model> {
        let mut known = HashMap::new();
        let mut labels = Vec::new();
        for name in names {
            let label: Arc<str> = full_name(&name).into();
            labels.push(Model::Known(Arc::clone(&label)));
            if let Some((short, DEFAULT_TAG)) = label.rsplit_once(':') {
                known.insert(short.to_owned(), Arc::clone(&label));
            }
            known.insert(label.to_string(), label);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = known;
        labels
    }
}

/// `name` with its tag. A colon before the last slash is that of a registry's port.
fn full_name(name: &str) -> String {
    match name.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        true => name.to_owned(),
        false => format!("{name}:{DEFAULT_TAG}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Model {
        Model::Known(name.into())
    }

    #[test]
    fn knows_a_model_with_and_without_its_default_tag() {
        let models = Models::default();
        let names = ["coder:latest", "qwen3:8b", "host:5000/a/b", "hf.co/u/r:Q4_K_M"];
        models.replace(names.map(str::to_owned));
        assert_eq!(models.label("coder"), known("coder:latest"));
        assert_eq!(models.label("coder:latest"), known("coder:latest"));
        assert_eq!(models.label("qwen3:8b"), known("qwen3:8b"));
        assert_eq!(models.label("host:5000/a/b"), known("host:5000/a/b:latest"));
        assert_eq!(models.label("hf.co/u/r:Q4_K_M"), known("hf.co/u/r:Q4_K_M"));
    }

    #[test]
    fn makes_no_label_of_an_unknown_name() {
        let models = Models::default();
        models.replace(["qwen3:8b".to_owned()]);
        for name in ["", "qwen3", "qwen3:8", "none", "other", "qwen3:8b "] {
            assert_eq!(models.label(name), Model::Other, "{name:?}");
        }
    }

    #[test]
    fn forgets_a_model_that_is_gone() {
        let models = Models::default();
        models.replace(["a:1".to_owned()]);
        models.replace(["b:1".to_owned()]);
        assert_eq!(models.label("a:1"), Model::Other);
        assert_eq!(models.label("b:1"), known("b:1"));
    }
}
