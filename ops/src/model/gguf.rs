//! A GGUF file on the disk: what its header says of the model.
//!
//! Invariant: a file that is cut short is an error, whatever its header promises.

use std::{fs::File, io::BufReader, path::Path};

use serde_json::{Map, Value};
use stack::failure::{Class, Failure};
use wire::gguf::{Header, read_header};

use super::catalogue::Attention;

/// Reads the header, and holds the file's length against it.
pub fn read(path: &Path) -> Result<(Header, u64), Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::new(Class::Failed, format!("cannot read {} as a model", path.display())).because(error)
    };
    let file = File::open(path).map_err(|error| failed(&error))?;
    let bytes = file.metadata().map_err(|error| failed(&error))?.len();
    let header = read_header(BufReader::new(file)).map_err(|error| failed(&error))?;
    if let Some(end) = header.end_bytes.filter(|end| *end > bytes) {
        let missing = super::gigabytes(end - bytes);
        return Err(Failure::new(Class::Failed, format!("{} is cut short: {missing} are missing", path.display()))
            .hint("fetch or make it again: what is there cannot be used"));
    }
    Ok((header, bytes))
}

/// What the key/value cache is computed from, out of a GGUF's metadata or `/api/show`'s `model_info`. `None` where a
/// figure is missing, differs by layer, or the attention is of a kind that keeps its cache otherwise.
pub fn attention(info: &Map<String, Value>) -> Option<Attention> {
    let architecture = info.get("general.architecture")?.as_str()?;
    let number = |key: &str| info.get(&format!("{architecture}.{key}")).and_then(Value::as_u64);
    if number("attention.kv_lora_rank").is_some() {
        return None;
    }
    let blocks = number("block_count")?;
    let heads = number("attention.head_count")?;
    let embedding = number("embedding_length")?;
    // A hybrid keeps the context in every n-th layer only.
    let layers = number("full_attention_interval").filter(|it| *it > 0).map_or(blocks, |every| blocks / every);
    // gpt-oss slides in every other layer. Others differ: for them all layers count, which is too much rather than too little.
    let window = number("attention.sliding_window").filter(|_| matches!(architecture, "gptoss" | "gpt-oss"));
    let window_layers = if window.is_some() { layers / 2 } else { 0 };
    let width = |key: &str| number(key).or_else(|| embedding.checked_div(heads));
    let vocabulary = info.get("tokenizer.ggml.tokens").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    Some(Attention {
        layers: layers - window_layers,
        window_layers,
        window: window.unwrap_or(0),
        heads,
        kv_heads: number("attention.head_count_kv").or_else(|| {
            // Absent: as many as there are heads. An array has been left out: they differ by layer.
            (!info.contains_key(&format!("{architecture}.attention.head_count_kv"))).then_some(heads)
        })?,
        key_length: width("attention.key_length")?,
        value_length: width("attention.value_length")?,
        embedding,
        vocabulary: number("vocab_size").unwrap_or(vocabulary),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn info(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn widths_that_are_not_said_are_embedding_by_heads() {
        let plain = info(json!({
            "general.architecture": "llama", "llama.block_count": 32, "llama.attention.head_count": 32,
            "llama.attention.head_count_kv": 8, "llama.embedding_length": 4096,
        }));
        let found = attention(&plain).unwrap();
        assert_eq!((found.layers, found.kv_heads, found.key_length, found.value_length), (32, 8, 128, 128));
    }

    #[test]
    fn what_is_kept_otherwise_is_unknown() {
        let base = json!({
            "general.architecture": "x", "x.block_count": 60, "x.attention.head_count": 16, "x.embedding_length": 1024,
        });
        let with = |key: &str, value: Value| {
            let mut info = info(base.clone());
            info.insert(key.to_owned(), value);
            attention(&info)
        };
        assert_eq!(with("x.attention.kv_lora_rank", json!(512)), None);
        assert_eq!(with("x.attention.head_count_kv", json!([])), None);
        assert_eq!(with("x.full_attention_interval", json!(4)).unwrap().layers, 15);
        assert_eq!(with("x.y", json!(0)).unwrap().kv_heads, 16);
        assert_eq!(attention(&Map::new()), None);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_by_name() {
        use wire::gguf::{Data, File, Tensor, Value};
        let whole = File {
            metadata: vec![("general.architecture".to_owned(), Value::Text("llama".to_owned()))],
            tensors: vec![Tensor { name: "t".to_owned(), shape: vec![64, 4], data: Data::F16(vec![0; 256]) }],
        }
        .to_bytes();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &whole).unwrap();
        assert_eq!(read(file.path()).unwrap().1, whole.len() as u64);
        for cut in [0, 3, 20, 60, 200, whole.len() - 1] {
            std::fs::write(file.path(), &whole[..cut]).unwrap();
            let failure = read(file.path()).unwrap_err();
            assert!(failure.message.contains(&file.path().display().to_string()), "{cut}: {failure:?}");
        }
    }
}
