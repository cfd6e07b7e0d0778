//! GGUF version 3, the file that models travel in: enough of it to write a small one and to read any one's header.
//!
//! The format is llama.cpp's, written down in `ggml/docs/gguf.md`: magic, version, counts, metadata, tensor table,
//! padding, tensor data; little endian; strings and arrays carry their length as 64 bits.
//!
//! Invariant: writing is a pure function of the [`File`], so the same model has the same digest everywhere. Reading
//! stops before the tensors, takes memory bounded by `MAX_STRING_BYTES` and `MAX_ARRAY_KEPT` per value, and
//! trusts no length.

pub mod pieces;

use std::io::{self, Read};

use serde_json::{Map, Value as Json, json};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// Where tensor data starts, relative to the file: a multiple of this. It is the format's default.
const ALIGNMENT: usize = 32;
/// `GGML_TYPE_F32`.
const TENSOR_F32: u32 = 0;
/// `GGML_TYPE_F16`.
const TENSOR_F16: u32 = 1;

/// Longest string read; the longest known, chat templates, stay below 100 KiB.
const MAX_STRING_BYTES: u64 = 16 << 20;
/// Longer arrays (vocabularies) are read past, and answered as `[]`, as Ollama does.
const MAX_ARRAY_KEPT: u64 = 5;
/// More entries than any model has; a file that claims more is damaged.
const MAX_ENTRIES: u64 = 1 << 16;

/// `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;

/// Value types, by their number in the file.
mod kind {
    pub(super) const UINT8: u32 = 0;
    pub(super) const INT8: u32 = 1;
    pub(super) const UINT16: u32 = 2;
    pub(super) const INT16: u32 = 3;
    pub(super) const UINT32: u32 = 4;
    pub(super) const INT32: u32 = 5;
    pub(super) const FLOAT32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const UINT64: u32 = 10;
    pub(super) const INT64: u32 = 11;
    pub(super) const FLOAT64: u32 = 12;
}

/// A model file.
pub struct File {
    /// By key, in the order they are written.
    pub metadata: Vec<(String, Value)>,
    /// In the order they are written.
    pub tensors: Vec<Tensor>,
}

/// A metadata value, of the types that are written here.
pub enum Value {
    /// `UINT16`.
    U16(u16),
    /// `UINT32`.
    U32(u32),
    /// `FLOAT32`.
    F32(f32),
    /// `STRING`.
    Text(String),
    /// `ARRAY` of `STRING`.
    Texts(Vec<String>),
    /// `ARRAY` of `INT32`.
    I32s(Vec<i32>),
}

/// An array of numbers.
pub struct Tensor {
    /// As llama.cpp names it.
    pub name: String,
    /// Fastest first.
    pub shape: Vec<u64>,
    /// As many as the shape says.
    pub data: Data,
}

/// The numbers of a tensor.
pub enum Data {
    /// Half-precision floats, as their bits.
    F16(Vec<u16>),
    /// Single-precision floats.
    F32(Vec<f32>),
}

impl Data {
    fn kind(&self) -> u32 {
        match self {
            Self::F16(_) => TENSOR_F16,
            Self::F32(_) => TENSOR_F32,
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::F16(floats) => floats.len() * 2,
            Self::F32(floats) => floats.len() * 4,
        }
    }
}

impl File {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0usize;
        for tensor in &self.tensors {
            put_text(&mut out, &tensor.name);
            out.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for dimension in &tensor.shape {
                out.extend_from_slice(&dimension.to_le_bytes());
            }
            out.extend_from_slice(&tensor.data.kind().to_le_bytes());
            out.extend_from_slice(&(offset as u64).to_le_bytes());
            offset += tensor.data.size_bytes().next_multiple_of(ALIGNMENT);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        for tensor in &self.tensors {
            match &tensor.data {
                Data::F16(floats) => out.extend(floats.iter().flat_map(|float| float.to_le_bytes())),
                Data::F32(floats) => out.extend(floats.iter().flat_map(|float| float.to_le_bytes())),
            }
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        }
        out
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let put_array_head = |out: &mut Vec<u8>, kind: u32, len: usize| {
        out.extend_from_slice(&kind::ARRAY.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(len as u64).to_le_bytes());
    };
    match value {
        Value::U16(number) => {
            out.extend_from_slice(&kind::UINT16.to_le_bytes());
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::U32(number) => {
            out.extend_from_slice(&kind::UINT32.to_le_bytes());
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::F32(number) => {
            out.extend_from_slice(&kind::FLOAT32.to_le_bytes());
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Text(text) => {
            out.extend_from_slice(&kind::STRING.to_le_bytes());
            put_text(out, text);
        }
        Value::Texts(texts) => {
            put_array_head(out, kind::STRING, texts.len());
            texts.iter().for_each(|text| put_text(out, text));
        }
        Value::I32s(numbers) => {
            put_array_head(out, kind::INT32, numbers.len());
            out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
    }
}

/// What stands before the data of a model file.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// As `/api/show` shows it, with `general.parameter_count`, which Ollama counts for itself.
    pub metadata: Map<String, Json>,
    /// `{name, type, shape}`
    pub tensors: Vec<Json>,
    /// Bytes up to the end of the last tensor: a shorter file is cut. `None`: of a tensor type that is not known here.
    pub end_bytes: Option<u64>,
}

/// Tensor types by their number (`ggml_type` in `ggml.h`), as far as models use them: name, elements of a block, bytes
/// of a block.
const TENSOR_TYPES: &[(u32, &str, u64, u64)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (30, "BF16", 1, 2),
    (39, "MXFP4", 32, 17),
];

/// The header of the file that `input` starts.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] if this is not GGUF of version 2 or 3, or is damaged; otherwise what `input`
/// answered.
pub fn read_header(input: impl Read) -> io::Result<Header> {
    let mut reader = Reader { input, read_bytes: 0 };
    let (tensor_count, entries) = reader.start()?;
    let mut metadata = Map::new();
    for _ in 0..entries {
        let key = reader.text()?;
        let kind = reader.u32()?;
        metadata.insert(key, reader.value(kind)?);
    }
    let mut tensors = Vec::new();
    let mut parameters = 0u64;
    let mut data_end = Some(0u64);
    for _ in 0..tensor_count {
        let (tensor, elements, end) = reader.tensor()?;
        tensors.push(tensor);
        parameters = parameters.saturating_add(elements);
        data_end = data_end.zip(end).map(|(last, end)| last.max(end));
    }
    let start = reader.read_bytes.checked_next_multiple_of(alignment(&metadata));
    metadata.insert("general.parameter_count".to_owned(), parameters.into());
    let end_bytes = start.zip(data_end).and_then(|(start, end)| start.checked_add(end));
    Ok(Header { metadata, tensors, end_bytes })
}

/// What offsets into the data are multiples of.
fn alignment(metadata: &Map<String, Json>) -> u64 {
    let said = metadata.get("general.alignment").and_then(Json::as_u64);
    said.filter(|it| it.is_power_of_two()).unwrap_or(ALIGNMENT as u64)
}

/// The same file with another value for `key`, if that is there as a 32-bit number. The first place that looks like it
/// is it: metadata stands before everything else.
pub fn with_u32(file: &[u8], key: &str, value: u32) -> Option<Vec<u8>> {
    let mut entry = Vec::new();
    put_text(&mut entry, key);
    entry.extend_from_slice(&kind::UINT32.to_le_bytes());
    let at = file.windows(entry.len()).position(|window| window == entry)? + entry.len();
    let mut file = file.to_vec();
    file.get_mut(at..at + 4)?.copy_from_slice(&value.to_le_bytes());
    Some(file)
}

struct Reader<R> {
    input: R,
    read_bytes: u64,
}

impl<R: Read> Reader<R> {
    /// How many tensors and entries of metadata follow.
    fn start(&mut self) -> io::Result<(u64, u64)> {
        if &self.bytes::<4>()? != MAGIC {
            return Err(damaged("no GGUF magic"));
        }
        let version = self.u32()?;
        if !(2..=VERSION).contains(&version) {
            return Err(damaged("a GGUF version that is not 2 or 3"));
        }
        let (tensors, entries) = (self.u64()?, self.u64()?);
        if entries.max(tensors) > MAX_ENTRIES {
            return Err(damaged("more metadata than any model has"));
        }
        Ok((tensors, entries))
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.read_bytes += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> io::Result<String> {
        let len = self.u64()?;
        if len > MAX_STRING_BYTES {
            return Err(damaged("a string longer than any model has"));
        }
        // `take` grows the buffer as bytes arrive: a length that lies costs nothing.
        let mut bytes = Vec::new();
        self.input.by_ref().take(len).read_to_end(&mut bytes)?;
        self.read_bytes += bytes.len() as u64;
        if bytes.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn value(&mut self, kind: u32) -> io::Result<Json> {
        Ok(match kind {
            kind::UINT8 => self.bytes().map(u8::from_le_bytes)?.into(),
            kind::INT8 => self.bytes().map(i8::from_le_bytes)?.into(),
            kind::UINT16 => self.bytes().map(u16::from_le_bytes)?.into(),
            kind::INT16 => self.bytes().map(i16::from_le_bytes)?.into(),
            kind::UINT32 => self.u32()?.into(),
            kind::INT32 => self.bytes().map(i32::from_le_bytes)?.into(),
            kind::FLOAT32 => self.bytes().map(f32::from_le_bytes)?.into(),
            kind::BOOL => (self.bytes::<1>()? != [0]).into(),
            kind::STRING => self.text()?.into(),
            kind::ARRAY => self.array()?,
            kind::UINT64 => self.u64()?.into(),
            kind::INT64 => self.bytes().map(i64::from_le_bytes)?.into(),
            kind::FLOAT64 => self.bytes().map(f64::from_le_bytes)?.into(),
            _ => return Err(damaged("a metadata type that does not exist")),
        })
    }

    /// An entry of the tensor table, the number of its elements, and where its data ends, from where all data starts.
    fn tensor(&mut self) -> io::Result<(Json, u64, Option<u64>)> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(damaged("a tensor of more dimensions than there are"));
        }
        let shape = (0..dimensions).map(|_| self.u64()).collect::<io::Result<Vec<u64>>>()?;
        let number = self.u32()?;
        let offset = self.u64()?;
        let kind = TENSOR_TYPES.iter().find(|(known, ..)| *known == number);
        let elements = shape.iter().fold(1u64, |product, length| product.saturating_mul(*length));
        let end =
            kind.and_then(|(_, _, block, bytes)| elements.div_ceil(*block).checked_mul(*bytes)?.checked_add(offset));
        let kind = kind.map_or("unknown", |(_, name, ..)| name);
        Ok((json!({"name": name, "type": kind, "shape": shape}), elements, end))
    }

    fn array(&mut self) -> io::Result<Json> {
        let kind = self.u32()?;
        if kind == kind::ARRAY {
            return Err(damaged("an array of arrays"));
        }
        let len = self.u64()?;
        let mut kept = Vec::new();
        for _ in 0..len {
            let value = self.value(kind)?;
            if len <= MAX_ARRAY_KEPT {
                kept.push(value);
            }
        }
        Ok(kept.into())
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        File {
            metadata: vec![
                ("general.architecture".to_owned(), Value::Text("qwen2".to_owned())),
                ("qwen2.block_count".to_owned(), Value::U32(64)),
                ("qwen2.rope.freq_base".to_owned(), Value::F32(0.5)),
                ("tokenizer.ggml.tokens".to_owned(), Value::Texts(vec!["a".to_owned(), "b".to_owned()])),
                ("tokenizer.ggml.token_type".to_owned(), Value::I32s(vec![1; 6])),
            ],
            tensors: vec![
                Tensor { name: "token_embd.weight".to_owned(), shape: vec![3, 2], data: Data::F16(vec![1; 6]) },
                Tensor { name: "output.weight".to_owned(), shape: vec![3], data: Data::F32(vec![0.5; 3]) },
            ],
        }
    }

    #[test]
    fn reads_what_it_wrote_and_empties_long_arrays() {
        let header = read_header(file().to_bytes().as_slice()).unwrap();
        let embedding = json!({"name": "token_embd.weight", "type": "F16", "shape": [3, 2]});
        assert_eq!(header.tensors, [embedding, json!({"name": "output.weight", "type": "F32", "shape": [3]})]);
        assert_eq!(
            Json::from(header.metadata),
            json!({
                "general.architecture": "qwen2",
                "general.parameter_count": 9,
                "qwen2.block_count": 64,
                "qwen2.rope.freq_base": 0.5,
                "tokenizer.ggml.tokens": ["a", "b"],
                "tokenizer.ggml.token_type": [],
            })
        );
    }

    #[test]
    fn tensor_data_ends_the_file_on_an_aligned_offset() {
        let bytes = file().to_bytes();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        // Twelve bytes of data each, then padding.
        let data = &bytes[bytes.len() - 2 * ALIGNMENT..];
        assert_eq!(data[..12], [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]);
        assert_eq!(data[12..ALIGNMENT], [0; 20]);
        assert_eq!(data[ALIGNMENT..][..12], 0.5f32.to_le_bytes().repeat(3));
        assert_eq!(data[ALIGNMENT + 12..], [0; 20]);
    }

    #[test]
    fn refuses_every_cut_of_the_header() {
        let bytes = file().to_bytes();
        // The last tensor's name, one dimension with their number, type and offset.
        let end = bytes.windows(13).position(|w| w == b"output.weight").unwrap() + 13 + 4 + 8 + 4 + 8;
        for cut in 0..end {
            assert!(read_header(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(read_header(&bytes[..end]).is_ok());
    }

    #[test]
    fn a_length_that_lies_costs_no_memory() {
        let mut bytes = file().to_bytes();
        bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes()); // the first key's length
        assert_eq!(read_header(bytes.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn tells_where_the_last_tensor_ends() {
        let bytes = file().to_bytes();
        let data = bytes.len() - ALIGNMENT;
        assert_eq!(read_header(bytes.as_slice()).unwrap().end_bytes, Some(data as u64 + 12));
    }

    #[test]
    fn damage_anywhere_is_an_error_or_another_header_and_never_a_panic() {
        let whole = file().to_bytes();
        // A small generator of its own (xorshift), so that every run tries the same.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
            }
            bytes.truncate(bytes.len() - random(bytes.len()) * random(2));
            refused += u32::from(read_header(bytes.as_slice()).is_err());
            let _ = pieces::join(std::iter::once((bytes.as_slice(), bytes.len() as u64)));
        }
        assert!((5_000..20_000).contains(&refused), "{refused}");
    }
}
