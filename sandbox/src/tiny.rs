//! A model that a real engine can run, small enough for any machine: a llama of random weights.
//!
//! With it the stand-in is compared with a real Ollama. What it writes is letters without sense; only letters have
//! weights in its last layer, so it never ends by itself and always has something to say.
//!
//! Invariant: the same bytes on every machine and at every time.

use wire::gguf::{Data, File, Tensor, Value};

use crate::random::Random;

/// Width, of a multiple of 256 so that every quantisation takes it.
const WIDTH: u32 = 256;
const FEED_FORWARD: u32 = 512;
const HEADS: u32 = 4;
const BLOCKS: u32 = 2;
const CONTEXT: u32 = 8192;

/// What a tiny model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiny {
    /// It continues texts.
    Writer,
    /// It makes vectors.
    Embedder,
}

/// A model as a GGUF file.
pub fn tiny_model(kind: Tiny) -> Vec<u8> {
    let vocabulary = vocabulary();
    let mut random = Random::seeded(&[b"tiny"]);
    let mut tensors = vec![matrix("token_embd", WIDTH, vocabulary.len() as u32, &mut random)];
    for block in 0..BLOCKS {
        let own = |name: &str| format!("blk.{block}.{name}");
        tensors.extend(["attn_norm", "ffn_norm"].map(|name| norm(&own(name))));
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            tensors.push(matrix(&own(name), WIDTH, WIDTH, &mut random));
        }
        for name in ["ffn_gate", "ffn_up"] {
            tensors.push(matrix(&own(name), WIDTH, FEED_FORWARD, &mut random));
        }
        tensors.push(matrix(&own("ffn_down"), FEED_FORWARD, WIDTH, &mut random));
    }
    tensors.extend([norm("output_norm"), output(&vocabulary, &mut random)]);
    File { metadata: metadata(kind, vocabulary), tensors }.to_bytes()
}

fn metadata(kind: Tiny, vocabulary: Vec<String>) -> Vec<(String, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    let end = vocabulary.len() as u32 - 1;
    // Normal ones, and one that ends.
    let kinds = (0..=end).map(|token| if token == end { 3 } else { 1 }).collect();
    let mut metadata = vec![
        ("general.architecture", text("llama")),
        ("general.file_type", Value::U32(0)),
        ("llama.block_count", Value::U32(BLOCKS)),
        ("llama.context_length", Value::U32(CONTEXT)),
        ("llama.embedding_length", Value::U32(WIDTH)),
        ("llama.feed_forward_length", Value::U32(FEED_FORWARD)),
        ("llama.attention.head_count", Value::U32(HEADS)),
        ("llama.attention.head_count_kv", Value::U32(HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", Value::U32(WIDTH / HEADS)),
        ("llama.vocab_size", Value::U32(end + 1)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("default")),
        ("tokenizer.ggml.tokens", Value::Texts(vocabulary)),
        ("tokenizer.ggml.token_type", Value::I32s(kinds)),
        // At least one is wanted, and this one never happens: its parts are no tokens together.
        ("tokenizer.ggml.merges", Value::Texts(vec!["a a".to_owned()])),
        ("tokenizer.ggml.bos_token_id", Value::U32(end)),
        ("tokenizer.ggml.eos_token_id", Value::U32(end)),
    ];
    if kind == Tiny::Embedder {
        metadata.push(("llama.pooling_type", Value::U32(1)));
    }
    metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A token for each byte, as GPT-2 spells bytes (its `bytes_to_unicode`), and one that ends a text.
fn vocabulary() -> Vec<String> {
    let mut strange = 0x100..;
    let spelled = (0u8..=255).map(|byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => strange.next().and_then(char::from_u32).unwrap_or_default(),
    });
    spelled.map(String::from).chain(["<|end|>".to_owned()]).collect()
}

fn norm(name: &str) -> Tensor {
    Tensor { name: format!("{name}.weight"), shape: vec![u64::from(WIDTH)], data: Data::F32(vec![1.0; WIDTH as usize]) }
}

fn matrix(name: &str, inputs: u32, outputs: u32, random: &mut Random) -> Tensor {
    let scale = 1.0 / (inputs as f32).sqrt();
    Tensor {
        name: format!("{name}.weight"),
        shape: vec![inputs.into(), outputs.into()],
        data: Data::F32((0..inputs * outputs).map(|_| scale * number(random)).collect()),
    }
}

/// Only letters can win, and clearly.
fn output(vocabulary: &[String], random: &mut Random) -> Tensor {
    let rows = vocabulary.iter().flat_map(|token| {
        let is_letter = token.len() == 1 && token.bytes().all(|byte| byte.is_ascii_lowercase());
        let scale = if is_letter { 1.0 } else { 0.0 };
        (0..WIDTH).map(|_| scale * number(random)).collect::<Vec<f32>>()
    });
    let data = Data::F32(rows.collect());
    Tensor { name: "output.weight".to_owned(), shape: vec![WIDTH.into(), vocabulary.len() as u64], data }
}

/// From -1 to 1.
fn number(random: &mut Random) -> f32 {
    random.next() as i32 as f32 / i32::MAX as f32
}
