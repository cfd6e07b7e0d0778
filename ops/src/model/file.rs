//! A model's file on its way into the engine: whole, or in pieces that become whole while they are read.
//!
//! Invariant: pieces are never written down a second time: what they become is read twice, for its digest and for the
//! engine, and kept by the engine alone.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use stack::failure::{Class, Doing, Failure};
use wire::gguf::pieces::{Part, join};

use super::gguf;
use crate::backup::{Watch, Watched};

/// A model's file.
#[derive(Debug)]
pub struct Whole {
    header: Vec<u8>,
    data: Vec<(PathBuf, Part)>,
}

impl Whole {
    /// A single file, or all pieces in their order.
    ///
    /// # Errors
    /// It is no GGUF, cut short, or they do not belong together.
    pub fn of(files: &[PathBuf]) -> Result<Whole, Failure> {
        if let [file] = files {
            let (_, bytes) = gguf::read(file)?;
            return Ok(Whole { header: Vec::new(), data: vec![(file.clone(), Part { start: 0, bytes, padding: 0 })] });
        }
        let open = |path: &PathBuf| -> Result<_, Failure> {
            let file = File::open(path).doing("cannot read", path)?;
            let bytes = file.metadata().doing("cannot read", path)?.len();
            Ok((BufReader::new(file), bytes))
        };
        let pieces = files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let joined = join(pieces.into_iter()).map_err(|error| {
            let first = files.first().map(|path| path.display().to_string()).unwrap_or_default();
            Failure::new(Class::Failed, format!("{first} and the rest are no model together")).because(&error)
        })?;
        Ok(Whole { header: joined.header, data: files.iter().cloned().zip(joined.data).collect() })
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.header.len() as u64 + self.data.iter().map(|(_, part)| part.bytes + part.padding).sum::<u64>()
    }

    /// From its beginning; `watch` is told what is read, and may end it.
    pub fn read(&self, watch: Watch) -> io::Result<impl Read + Send + use<>> {
        let mut read: Box<dyn Read + Send> = Box::new(Cursor::new(self.header.clone()));
        for (path, part) in &self.data {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(part.start))?;
            read = Box::new(read.chain(file.take(part.bytes)).chain(io::repeat(0).take(part.padding)));
        }
        Ok(Watched { from: read, watch })
    }

    /// What the engine calls it.
    pub fn digest(&self, watch: Watch) -> Result<String, Failure> {
        let path = self.data.first().map(|(path, _)| path.clone()).unwrap_or_default();
        let read = self.read(watch).doing("cannot read", &path)?;
        digest(read, &path, &mut |_| Ok(())).map(|hex| format!("sha256:{hex}"))
    }
}

/// SHA-256 of what is read at `path`, in 64 hex digits; `watch` is told how much it was so far, and may end it.
pub(super) fn digest(
    mut read: impl Read,
    path: &Path,
    watch: &mut dyn FnMut(u64) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let (mut hash, mut buffer, mut done) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        match read.read(&mut buffer) {
            Ok(0) => break,
            Ok(size) => {
                hash.update(&buffer[..size]);
                done += size as u64;
                watch(done)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).doing("cannot read", path),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
