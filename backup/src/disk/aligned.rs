//! Memory that a drive can write to and read from without a copy in between.
//!
//! Invariant: the bytes of a [`Buffer`] begin at a multiple of [`ALIGNMENT`], for as long as it lives.

/// What direct I/O asks of addresses, offsets and lengths: no drive in use asks for more than a page.
pub const ALIGNMENT: usize = 4096;

/// A buffer of fixed capacity, aligned for direct I/O.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    /// Bytes in use.
    len: usize,
}

impl Buffer {
    /// Room for `capacity` bytes, a multiple of [`ALIGNMENT`].
    pub fn new(capacity: usize) -> Self {
        let bytes = vec![0; capacity + ALIGNMENT];
        // A vector that never grows never moves.
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start, len: 0 }
    }

    /// All of the room.
    pub fn room(&mut self) -> &mut [u8] {
        let end = self.bytes.len() - ALIGNMENT + self.start;
        &mut self.bytes[self.start..end]
    }

    /// Says how much of the room is in use.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.bytes.len() - ALIGNMENT);
    }

    /// What is in use.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}
