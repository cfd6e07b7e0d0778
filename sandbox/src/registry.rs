//! A registry that is not there: every well-formed library name is a model, made up when asked for.
//!
//! Two kinds of name are unknown, so that the path of a failed pull can be walked: those of other hosts (`hf.co/…`),
//! and those whose model part starts with `no-such`.
//!
//! Invariant: an image's bytes are a function of its name, so its digests are the same on every machine and at every
//! time.

use serde::{Deserialize, Serialize};

use crate::gguf::{Data, File, Tensor, Value};
use crate::name::Name;
use crate::random::Random;
use crate::shape::Shape;

/// Media types of Ollama's layers.
pub(crate) mod media {
    pub(crate) const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub(crate) const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub(crate) const MODEL: &str = "application/vnd.ollama.image.model";
    pub(crate) const TEMPLATE: &str = "application/vnd.ollama.image.template";
    pub(crate) const PARAMS: &str = "application/vnd.ollama.image.params";
    pub(crate) const SYSTEM: &str = "application/vnd.ollama.image.system";
    pub(crate) const MESSAGES: &str = "application/vnd.ollama.image.messages";
    pub(crate) const LICENSE: &str = "application/vnd.ollama.image.license";
    pub(crate) const ADAPTER: &str = "application/vnd.ollama.image.adapter";
}

/// ChatML, in Go's template language. Ollama derives a model's capabilities from the variables that it finds here.
const TEMPLATE: &str = "{{- if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{- range .Tools }}{{ . }}
{{ end }}{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
";

/// What a code model has besides: it fills in the middle.
const TEMPLATE_INSERT: &str =
    "{{- if .Suffix }}<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}<|fim_middle|>{{ else }}";

/// Rows of the one tensor: this small a vocabulary.
const TOKENS: [&str; 4] = ["<unk>", "<|im_start|>", "<|im_end|>", "a"];

/// A model as it travels: the layers, then the config that describes them.
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Layer,
}

/// A blob and what it is.
pub(crate) struct Layer {
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// The config blob, as far as anyone reads it (`types/model/config.go`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) model_format: String,
    pub(crate) model_family: String,
    pub(crate) model_families: Option<Vec<String>>,
    pub(crate) model_type: String,
    pub(crate) file_type: String,
    pub(crate) architecture: String,
    pub(crate) os: String,
}

impl Config {
    /// What is the same for all models, whatever runs them.
    pub(crate) fn new() -> Self {
        Self { architecture: "amd64".to_owned(), os: "linux".to_owned(), ..Self::default() }
    }
}

/// The image that `name` names, `None` if the registry knows no such model.
pub(crate) fn image(name: &Name) -> Option<Image> {
    if !name.is_of_library() || name.model.starts_with("no-such") {
        return None;
    }
    let shape = Shape::of(name);
    let layers = vec![
        Layer { media_type: media::MODEL, bytes: model(name, &shape).to_bytes() },
        Layer { media_type: media::TEMPLATE, bytes: template(name).into_bytes() },
        Layer { media_type: media::PARAMS, bytes: br#"{"stop":["<|im_start|>","<|im_end|>"]}"#.to_vec() },
    ];
    let config = Config {
        model_format: "gguf".to_owned(),
        model_family: shape.architecture.to_owned(),
        model_families: Some(vec![shape.architecture.to_owned()]),
        model_type: shape.parameters,
        file_type: shape.quantization.to_owned(),
        ..Config::new()
    };
    // Writing a plain struct into memory cannot fail; an empty config would be found by the digest test.
    let bytes = serde_json::to_vec(&config).unwrap_or_default();
    Some(Image { layers, config: Layer { media_type: media::CONFIG, bytes } })
}

/// What is rendered of a message, and of one that was thought before it was said.
const CONTENT: &str = "{{ .Content }}";
const CONTENT_THINKING: &str = "{{ if .Thinking }}<think>{{ .Thinking }}</think>
{{ end }}{{ .Content }}";

/// Families whose models think aloud.
const THINKERS: [&str; 3] = ["qwen3", "gpt-oss", "deepseek-r1"];

fn template(name: &Name) -> String {
    if name.model.contains("embed") {
        return "{{ .Prompt }}".to_owned();
    }
    if THINKERS.contains(&name.model.as_str()) {
        return TEMPLATE.replace(CONTENT, CONTENT_THINKING);
    }
    if name.model.contains("coder") { format!("{TEMPLATE_INSERT}{TEMPLATE}{{{{ end }}}}") } else { TEMPLATE.to_owned() }
}

fn model(name: &Name, shape: &Shape) -> File {
    let own = |key: &str| format!("{}.{key}", shape.architecture);
    let text = |text: &str| Value::Text(text.to_owned());
    let mut metadata = vec![
        ("general.architecture".to_owned(), text(shape.architecture)),
        ("general.type".to_owned(), text("model")),
        ("general.name".to_owned(), Value::Text(format!("[sandbox] {name}"))),
        ("general.size_label".to_owned(), Value::Text(shape.parameters.clone())),
        ("general.file_type".to_owned(), Value::U32(shape.file_type())),
        ("general.quantization_version".to_owned(), Value::U32(2)),
        (own("block_count"), Value::U32(shape.block_count)),
        (own("context_length"), Value::U32(shape.context_length)),
        (own("embedding_length"), Value::U32(shape.embedding_length)),
        (own("attention.head_count"), Value::U32(shape.head_count)),
        (own("attention.head_count_kv"), Value::U32(shape.head_count_kv)),
        (own("attention.key_length"), Value::U32(shape.key_length)),
        (own("attention.value_length"), Value::U32(shape.key_length)),
        (own("attention.layer_norm_rms_epsilon"), Value::F32(1e-6)),
        ("tokenizer.ggml.model".to_owned(), text("gpt2")),
        ("tokenizer.ggml.tokens".to_owned(), Value::Texts(TOKENS.map(str::to_owned).to_vec())),
        ("tokenizer.ggml.token_type".to_owned(), Value::I32s(vec![2, 3, 3, 1])),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(1)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(2)),
    ];
    if name.model.contains("embed") {
        metadata.push((own("pooling_type"), Value::U32(1)));
    }
    let shape = vec![u64::from(shape.embedding_length), TOKENS.len() as u64];
    let elements = shape.iter().product();
    let mut random = Random::seeded(&[b"tensor", name.to_string().as_bytes()]);
    // Cleared exponent bits keep every float finite and below one.
    let data = Data::F16((0..elements).map(|_: u64| (random.next() & 0xBBFF) as u16).collect());
    File { metadata, tensors: vec![Tensor { name: "token_embd.weight".to_owned(), shape, data }] }
}
