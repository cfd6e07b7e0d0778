//! Reading, hashing and writing at the same time, in bounded memory: SHA-256 of one stream cannot be spread over
//! cores, so what is around it must not wait for it.
//!
//! Invariant: pieces are looked at and written in the order in which they were read, and at most [`BUFFERS`] exist.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::disk::Buffer;

/// Bytes read, hashed and written in one go; also the plain bytes of a zstd frame.
pub(crate) const PIECE: usize = 4 << 20;

/// One is read into, one hashed, one written.
const BUFFERS: usize = 3;

/// Which end gave up.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The source.
    Read(io::Error),
    /// Where it was going.
    Write(io::Error),
}

/// Moves a stream. `read` fills a buffer, and leaves it empty at the end.
pub(crate) fn pump(
    mut read: impl FnMut(&mut Buffer) -> io::Result<()> + Send,
    mut look: impl FnMut(&[u8]),
    mut write: impl FnMut(&[u8]) -> io::Result<()> + Send,
) -> Result<(), Broken> {
    let (free, freed) = sync_channel::<Buffer>(BUFFERS);
    let (full, filled) = sync_channel::<Buffer>(BUFFERS);
    let (seen, to_write) = sync_channel::<Buffer>(BUFFERS);
    for _ in 0..BUFFERS {
        // Nobody has hung up yet.
        let _ = free.send(Buffer::new(PIECE));
    }
    thread::scope(|scope| {
        let reader = scope.spawn(move || -> io::Result<()> {
            while let Ok(mut buffer) = freed.recv() {
                read(&mut buffer)?;
                if buffer.bytes().is_empty() || full.send(buffer).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let writer = scope.spawn(move || -> io::Result<()> {
            while let Ok(buffer) = to_write.recv() {
                write(buffer.bytes())?;
                // A reader that has met its end needs no more buffers.
                let _ = free.send(buffer);
            }
            Ok(())
        });
        while let Ok(buffer) = filled.recv() {
            look(buffer.bytes());
            if seen.send(buffer).is_err() {
                break;
            }
        }
        drop((seen, filled));
        writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked"))).map_err(Broken::Write)?;
        reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader panicked"))).map_err(Broken::Read)
    })
}
