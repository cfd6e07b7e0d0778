//! A model in pieces, as `llama-gguf-split` cuts it (`tools/gguf-split/gguf-split.cpp`), put together again.
//!
//! The first piece has all of the metadata; each has its own part of the tensor table, and of the data. The whole is one
//! header with all the tables, then the pieces' data, one after the other: nothing has to be known of a tensor's type, and
//! nothing of the data has to be written down before it is sent on.
//!
//! Invariant: pieces that do not belong together, or are not all of them, are an error; so is one that is cut short.

use std::io::{self, Read};

use serde_json::{Map, Value as Json};

use super::{ALIGNMENT, MAGIC, MAX_ENTRIES, Reader, VERSION, alignment, damaged};

/// How many pieces there are: 0 in a whole file.
const COUNT: &str = "split.count";
/// Which piece this is, from 0.
const NUMBER: &str = "split.no";
/// Tensors of all pieces.
const TENSORS: &str = "split.tensors.count";

/// More than any model has before its tensors; what is longer is no header.
const MAX_HEADER_BYTES: usize = 256 << 20;

/// How the pieces become the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// What the whole begins with.
    pub header: Vec<u8>,
    /// What follows of each piece, in their order.
    pub data: Vec<Part>,
}

/// What of a piece becomes part of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it begins, in the piece.
    pub start: u64,
    /// How long it is.
    pub bytes: u64,
    /// Nought bytes that follow it.
    pub padding: u64,
}

impl Joined {
    /// Of the whole.
    pub fn bytes(&self) -> u64 {
        self.header.len() as u64 + self.data.iter().map(|part| part.bytes + part.padding).sum::<u64>()
    }
}

/// Joins the pieces, given in their order: each from its beginning, and its length. Headers alone are read.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] if they are not all the pieces of one model, whole; otherwise what a piece answered.
pub fn join<R: Read>(pieces: impl ExactSizeIterator<Item = (R, u64)>) -> io::Result<Joined> {
    let count = pieces.len();
    let (mut first, mut table, mut data) = (None, Vec::new(), Vec::new());
    let (mut tensors, mut begin) = (0u64, 0u64);
    for (number, (input, length)) in pieces.enumerate() {
        let piece = Piece::read(input, length, begin)?;
        let says = |key: &str| piece.metadata.get(key).and_then(Json::as_u64);
        if (says(NUMBER), says(COUNT)) != (Some(number as u64), Some(count as u64)) {
            return Err(damaged("a piece that is not the next of these"));
        }
        table.extend_from_slice(&piece.table);
        data.push(piece.data);
        tensors += piece.tensors;
        begin = begin.saturating_add(piece.data.bytes + piece.data.padding);
        first.get_or_insert(piece);
    }
    let first = first.ok_or_else(|| damaged("no piece at all"))?;
    let meant = first.metadata.get(TENSORS).and_then(Json::as_u64);
    if meant.is_some_and(|meant| meant != tensors) || tensors > MAX_ENTRIES {
        return Err(damaged("pieces that have not all tensors"));
    }
    let mut header = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &tensors.to_le_bytes()].concat();
    header.extend_from_slice(&first.entries.to_le_bytes());
    header.extend_from_slice(&first.values);
    header.extend_from_slice(&table);
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    Ok(Joined { header, data })
}

/// A piece's header, its tables as they are in the file.
struct Piece {
    metadata: Map<String, Json>,
    entries: u64,
    /// The metadata, which says that this is a whole.
    values: Vec<u8>,
    tensors: u64,
    /// With offsets into the data of the whole.
    table: Vec<u8>,
    data: Part,
}

impl Piece {
    /// `begin`: where its data begins, in the data of the whole.
    fn read(input: impl Read, length: u64, begin: u64) -> io::Result<Piece> {
        let mut reader = Reader { input: Kept { input, bytes: Vec::new() }, read_bytes: 0 };
        let (tensors, entries) = reader.start()?;
        reader.input.bytes.clear();
        let mut metadata = Map::new();
        for _ in 0..entries {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let at = reader.input.bytes.len();
            let value = reader.value(kind)?;
            if key == COUNT {
                reader.input.bytes[at..].fill(0);
            }
            metadata.insert(key, value);
        }
        let values = std::mem::take(&mut reader.input.bytes);
        let mut end = Some(0);
        for _ in 0..tensors {
            let (_, _, tensor_end) = reader.tensor()?;
            end = end.zip(tensor_end).map(|(last, end): (u64, u64)| last.max(end));
            // The entry ends with the offset.
            let table = &mut reader.input.bytes;
            if let Some(last) = table.last_chunk_mut::<8>() {
                let moved = begin.checked_add(u64::from_le_bytes(*last));
                *last = moved.ok_or_else(|| damaged("a tensor beyond every file"))?.to_le_bytes();
            }
        }
        if alignment(&metadata) != ALIGNMENT as u64 {
            return Err(damaged("pieces of an alignment that is not the usual one"));
        }
        let start = reader.read_bytes.next_multiple_of(ALIGNMENT as u64);
        let bytes = length.saturating_sub(start);
        if end.is_some_and(|end| end > bytes) {
            return Err(damaged("a piece that is cut short"));
        }
        let padding = bytes.next_multiple_of(ALIGNMENT as u64) - bytes;
        let table = reader.input.bytes;
        Ok(Piece { metadata, entries, values, tensors, table, data: Part { start, bytes, padding } })
    }
}

/// Keeps what is read.
struct Kept<R> {
    input: R,
    bytes: Vec<u8>,
}

impl<R: Read> Read for Kept<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(into)?;
        if self.bytes.len() + len > MAX_HEADER_BYTES {
            return Err(damaged("a header longer than any model has"));
        }
        self.bytes.extend_from_slice(&into[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Data, File, Tensor, Value, read_header},
        *,
    };

    fn tensor(name: &str, value: u16, length: usize) -> Tensor {
        Tensor { name: name.to_owned(), shape: vec![length as u64], data: Data::F16(vec![value; length]) }
    }

    /// Three tensors over two pieces and, before them, one with metadata alone, as with `--no-tensor-first-split`.
    fn pieces() -> Vec<Vec<u8>> {
        let tensors = [vec![], vec![tensor("a", 1, 5), tensor("b", 2, 40)], vec![tensor("c", 3, 7)]];
        let piece = |(number, tensors): (usize, Vec<Tensor>)| {
            let mut metadata = vec![
                (NUMBER.to_owned(), Value::U16(number as u16)),
                (COUNT.to_owned(), Value::U16(3)),
                (TENSORS.to_owned(), Value::U32(3)),
            ];
            if number == 0 {
                metadata.insert(0, ("general.architecture".to_owned(), Value::Text("llama".to_owned())));
            }
            File { metadata, tensors }.to_bytes()
        };
        tensors.into_iter().enumerate().map(piece).collect()
    }

    fn joined(pieces: &[Vec<u8>]) -> io::Result<Vec<u8>> {
        let joined = join(pieces.iter().map(|piece| (piece.as_slice(), piece.len() as u64)))?;
        let mut whole = joined.header.clone();
        for (part, piece) in joined.data.iter().zip(pieces) {
            whole.extend_from_slice(&piece[part.start as usize..][..part.bytes as usize]);
            whole.resize(whole.len() + part.padding as usize, 0);
        }
        assert_eq!(joined.bytes(), whole.len() as u64);
        Ok(whole)
    }

    #[test]
    fn the_whole_is_what_was_never_cut() {
        let whole = File {
            metadata: vec![
                ("general.architecture".to_owned(), Value::Text("llama".to_owned())),
                (NUMBER.to_owned(), Value::U16(0)),
                (COUNT.to_owned(), Value::U16(0)),
                (TENSORS.to_owned(), Value::U32(3)),
            ],
            tensors: vec![tensor("a", 1, 5), tensor("b", 2, 40), tensor("c", 3, 7)],
        };
        assert!(joined(&pieces()).unwrap() == whole.to_bytes());
    }

    #[test]
    fn what_is_not_all_of_one_model_is_refused() {
        let [first, second, third] = pieces().try_into().unwrap();
        let refused = |pieces: &[&Vec<u8>]| {
            let pieces: Vec<Vec<u8>> = pieces.iter().map(|it| (*it).clone()).collect();
            joined(&pieces).unwrap_err().to_string()
        };
        for wrong in [&[&first, &second][..], &[&first, &third, &second], &[&second, &first, &third], &[]] {
            assert!(refused(wrong).contains("piece"), "{wrong:?}");
        }
        for cut in [5, 30, 100, second.len() - 65] {
            refused(&[&first, &second[..cut].to_vec(), &third]);
        }
        assert!(read_header(first.as_slice()).unwrap().tensors.is_empty());
    }
}
