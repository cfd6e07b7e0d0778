//! A component's log: it writes to the file itself, so that it does not depend on us; we only keep the file small.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A log that has grown beyond this is rotated.
const LIMIT_BYTES: u64 = 10 * 1024 * 1024;

/// Rotated logs that are kept beside the live one.
const KEPT: u32 = 3;

/// Opens a log for appending. Appending is what makes rotation by truncation safe: the next write lands at the new end.
pub(super) fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Copies a large log aside and empties it. The writer keeps its descriptor; what it prints between the copy and the
/// truncation is lost, which is the price for its not having to reopen anything.
pub(super) fn rotate(path: &Path) -> io::Result<()> {
    rotate_beyond(path, LIMIT_BYTES)
}

fn rotate_beyond(path: &Path, limit_bytes: u64) -> io::Result<()> {
    if fs::metadata(path)?.len() <= limit_bytes {
        return Ok(());
    }
    for number in (1..KEPT).rev() {
        if rotated(path, number).exists() {
            fs::rename(rotated(path, number), rotated(path, number + 1))?;
        }
    }
    fs::copy(path, rotated(path, 1))?;
    File::options().write(true).open(path)?.set_len(0)
}

/// `engine.log.1` is the newest of the rotated ones.
fn rotated(path: &Path, number: u32) -> PathBuf {
    path.with_added_extension(number.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn rotates_under_a_writer_that_keeps_its_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine.log");
        let mut writer = open(&path).unwrap();
        for round in 0..6 {
            writeln!(writer, "round {round}").unwrap();
            rotate_beyond(&path, 4).unwrap();
        }
        writeln!(writer, "after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
        assert_eq!(fs::read_to_string(rotated(&path, 1)).unwrap(), "round 5\n");
        assert_eq!(fs::read_to_string(rotated(&path, KEPT)).unwrap(), "round 3\n");
        assert!(!rotated(&path, KEPT + 1).exists());
    }
}
