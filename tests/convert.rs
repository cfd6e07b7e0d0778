//! Conversion with llama.cpp's own tools: two tiny models, written here weight by weight, through our verb to an answer.
//!
//! `STACK_TESTS_LLAMA_CPP` names a folder with `llama-quantize`, `convert_hf_to_gguf.py` and a Python environment `venv`
//! that has what the converter imports, and the hub's client; `llama-gguf-split` may be there, too.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{
    hub::Hub,
    stage::{Stage, is_lacking, until},
};

/// Rows of Q5_K are blocks of 256.
const WIDTH: usize = 256;
const LETTERS: &str = "▁abcdefghijklmnopqrstuvwxyz";

/// `None`: they are lacking, which has been said.
fn tools() -> Option<PathBuf> {
    let folder = env::var_os("STACK_TESTS_LLAMA_CPP").map(PathBuf::from);
    if folder.is_none() {
        is_lacking("llama.cpp");
    }
    folder
}

#[test]
fn a_llama_is_converted_by_real_tools() {
    converts("LlamaForCausalLM", "llama");
}

#[test]
fn a_qwen_is_converted_by_real_tools() {
    converts("Qwen2ForCausalLM", "qwen2");
}

fn converts(architecture: &str, family: &str) {
    let Some(tools) = tools() else { return };
    let stage = Stage::deployed();
    for tool in ["llama-quantize", "convert_hf_to_gguf.py"] {
        fs::create_dir_all(stage.path("bin")).unwrap();
        symlink(tools.join(tool), stage.path("bin").join(tool)).unwrap();
    }
    write_model(&stage, architecture, family);
    let hub = Hub::new();
    // One of them is fetched by the hub's own client.
    let source = match family {
        "qwen2" => {
            publish(&hub, &stage.path("tiny"));
            "me/Tiny"
        }
        _ => "tiny",
    };
    let words = format!("HF_ENDPOINT={} exec $XTASK model convert {source} --quant Q5_K_M --system Careful.", hub.url);
    let plan = stage.shell(&format!("{words} --dry-run")).exits(0).stdout;
    assert!(plan.contains("tiny:q5_k_m in ") && plan.contains("quantise to Q5_K_M"), "{plan}");

    let work = stage.root().join("data/convert/tiny_q5_k_m");
    fs::create_dir_all(&work).unwrap();
    symlink(tools.join("venv"), work.join("venv")).unwrap();
    fs::write(work.join("venv.done"), "").unwrap();
    // Killed after the first stage, it goes on with the next.
    let job = stage.start_shell(&words);
    let full = work.join("bf16.gguf");
    let converted = until("it is converted", || full.metadata().ok()?.modified().ok());
    job.kill();
    stage.shell(&words).exits(0).says("created tiny:q5_k_m").says("tiny:q5_k_m answers").says("rm -r");
    assert_eq!(full.metadata().unwrap().modified().unwrap(), converted, "what was whole is not made again");

    let made = stage.ok("model show tiny:q5_k_m --json").json();
    assert_eq!(made["system"], "Careful.");
    assert!(made["parameters"].as_str().unwrap().contains("</s>"), "{made}");
    assert_eq!(made["model_info"]["general.architecture"], family);
    let file = work.join("Q5_K_M.gguf");
    assert!(String::from_utf8_lossy(&fs::read(&file).unwrap()).contains(TEMPLATE), "the engine finds it there");
    let fit = stage.ok(&format!("model fit {} --context 2048 --parallel 1 --kv f16 --json", file.display())).json();
    // Layers × heads × (key + value) × tokens × bytes.
    assert_eq!(fit["rows"][0]["kv_bytes"], 2 * 2 * (64 + 64) * 2048 * 2, "{fit}");
    if tools.join("llama-gguf-split").exists() {
        in_pieces(&stage, &hub, &tools.join("llama-gguf-split"), &file);
    }
    let removed = stage.shell(&format!("{words} --prune")).exits(0).says("removed ");
    assert!(!work.exists(), "{removed:?}");
}

/// What llama.cpp's own tool cuts we put together as it does, byte for byte.
fn in_pieces(stage: &Stage, hub: &Hub, split: &Path, file: &Path) {
    let [split, file] = [split, file].map(|path| path.display().to_string());
    let cut = format!(
        "mkdir cut && {split} --split --split-max-tensors 5 {file} cut/T-Q5_K_M && cd cut && \
                       {split} --merge T-Q5_K_M-00001-of-*.gguf ../merged.gguf"
    );
    stage.shell(&cut).exits(0);
    for piece in fs::read_dir(stage.path("cut")).unwrap().flatten() {
        hub.put(&format!("me/T-GGUF/{}", piece.file_name().display()), &fs::read(piece.path()).unwrap());
    }
    let pull = format!("HF_ENDPOINT={} exec $XTASK model pull hf.co/me/T-GGUF:Q5_K_M", hub.url);
    stage.shell(&pull).exits(0).says("answers");
    let merged = fs::read(stage.path("merged.gguf")).unwrap();
    let mut blobs = fs::read_dir(stage.root().join("data/models/blobs")).unwrap().flatten();
    assert!(blobs.any(|blob| fs::read(blob.path()).unwrap() == merged));
}

fn publish(hub: &Hub, folder: &Path) {
    for file in fs::read_dir(folder).unwrap().flatten() {
        hub.put(&format!("me/Tiny/{}", file.file_name().display()), &fs::read(file.path()).unwrap());
    }
}

const TEMPLATE: &str = "{% for message in messages %}{{ message['content'] }}{% endfor %}";

fn write_model(stage: &Stage, architecture: &str, family: &str) {
    let pieces = pieces();
    let config = json!({
        "architectures": [architecture], "model_type": family, "hidden_size": WIDTH, "intermediate_size": WIDTH,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": pieces.len(),
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32", "tie_word_embeddings": false,
    });
    stage.write("tiny/config.json", &config.to_string());
    let tokenizer = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": TEMPLATE});
    stage.write("tiny/tokenizer_config.json", &tokenizer.to_string());
    fs::write(stage.path("tiny/tokenizer.model"), sentencepiece(&pieces)).unwrap();
    fs::write(stage.path("tiny/model.safetensors"), safetensors(&tensors(pieces.len(), family))).unwrap();
}

fn tensors(vocabulary: usize, family: &str) -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, WIDTH]),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
        ("lm_head.weight".to_owned(), vec![vocabulary, WIDTH]),
    ];
    for layer in 0..2 {
        let mut add =
            |name: &str, shape: &[usize]| tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        for (name, rows) in [("q", WIDTH), ("k", WIDTH / 2), ("v", WIDTH / 2)] {
            add(&format!("self_attn.{name}_proj.weight"), &[rows, WIDTH]);
            if family == "qwen2" {
                add(&format!("self_attn.{name}_proj.bias"), &[rows]);
            }
        }
        for name in ["self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"] {
            add(&format!("{name}.weight"), &[WIDTH, WIDTH]);
        }
        add("input_layernorm.weight", &[WIDTH]);
        add("post_attention_layernorm.weight", &[WIDTH]);
    }
    tensors
}

/// A length, a header that says where each tensor is, the tensors: `huggingface/safetensors`, README.
fn safetensors(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let (mut header, mut data, mut state) = (Map::new(), Vec::<u8>::new(), 1u32);
    for (name, shape) in tensors {
        let begin = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            data.extend(((state >> 8) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes());
        }
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let header = Value::from(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// Text and kind, as `sentencepiece_model.proto` has it: 1 normal, 2 unknown, 3 control, 6 byte.
fn pieces() -> Vec<(String, u8)> {
    let special = [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(text, kind)| (text.to_owned(), kind));
    let bytes = (0..=255).map(|byte: u8| (format!("<0x{byte:02X}>"), 6));
    special.into_iter().chain(bytes).chain(LETTERS.chars().map(|letter| (letter.to_string(), 1))).collect()
}

/// A `ModelProto`: its pieces, and a trainer that made byte pairs and falls back to bytes.
fn sentencepiece(pieces: &[(String, u8)]) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let mut model = Vec::new();
    for (index, (text, kind)) in pieces.iter().enumerate() {
        let mut piece = field(1, text.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend((-(index as f32)).to_le_bytes());
        piece.extend([3 << 3, *kind]);
        model.extend(field(1, &piece));
    }
    // model_type = BPE; byte_fallback, field 35, whose key is two bytes long.
    model.extend(field(2, &[3 << 3, 2, 0x98, 0x02, 1]));
    model
}
