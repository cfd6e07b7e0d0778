//! Prometheus' samples, by its own snapshot: hard links to its blocks, and its head written out as one more block
//! (`POST /api/v1/admin/tsdb/snapshot`).
//!
//! Invariant: a snapshot that we asked for is gone when we are; one that a killed run left is removed by the next.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use backup::source::{Content, FolderSource, Halted, Offer, Sink, Source, WalkError};
use reqwest::blocking::Client;
use serde_json::Value;

/// In a snapshot that is ours.
const MARK: &str = ".backup";

/// The head is written out first, and it may be long.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A running Prometheus.
pub(super) struct PrometheusSource {
    url: String,
    data: PathBuf,
    /// The snapshot, which is read for longer than it is told.
    taken: Mutex<Option<PathBuf>>,
}

impl PrometheusSource {
    /// Where it answers, on loopback, and where it keeps its samples.
    pub(super) fn new(url: String, data: &Path) -> Self {
        PrometheusSource { url, data: data.to_owned(), taken: Mutex::default() }
    }

    fn ask(&self) -> Result<PathBuf, String> {
        let url = format!("{}/api/v1/admin/tsdb/snapshot", self.url);
        let client = Client::builder().no_proxy().timeout(TIMEOUT).build().map_err(|error| error.to_string())?;
        let answer = client.post(url).send().map_err(|_| format!("nothing answers at {}", self.url))?;
        let answer: Value = answer.json().map_err(|error| format!("it answers in no JSON: {error}"))?;
        match answer["data"]["name"].as_str() {
            // A name, and no way out of the folder.
            Some(name) if !name.contains(['/', '\\']) && !name.starts_with('.') => Ok(self.snapshots().join(name)),
            _ => Err(answer["error"].as_str().unwrap_or("it names no snapshot").to_owned()),
        }
    }

    fn snapshots(&self) -> PathBuf {
        self.data.join("snapshots")
    }

    fn sweep(&self) {
        let found = fs::read_dir(self.snapshots()).into_iter().flatten().flatten().map(|it| it.path());
        for left in found.filter(|it| it.join(MARK).exists()) {
            // It costs room only, and the next run tries again.
            let _ = fs::remove_dir_all(left);
        }
    }
}

impl Source for PrometheusSource {
    fn name(&self) -> &str {
        "prometheus"
    }

    fn walk(&self, sink: &mut dyn Sink) -> Result<(), WalkError> {
        let mut folder = FolderSource::new("prometheus", &self.data);
        if !sink.reads_content() {
            // About what a snapshot would have: the blocks, and the head as it is.
            folder.excludes = ["/snapshots", "/lock", "/queries.active"].map(str::to_owned).to_vec();
            return folder.walk(&mut Immutable(sink));
        }
        self.sweep();
        let taken = self.ask().map_err(|why| WalkError::Failed(format!("Prometheus gives no snapshot: {why}")))?;
        fs::write(taken.join(MARK), b"")?;
        folder.root = taken.clone();
        folder.excludes = vec![format!("/{MARK}")];
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
        folder.walk(&mut Immutable(sink))
    }
}

impl Drop for PrometheusSource {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = fs::remove_dir_all(taken);
        }
    }
}

/// Blocks never change, but a hard link more or less changes a file's ctime: what is compared is told without it.
struct Immutable<'s>(&'s mut dyn Sink);

impl Sink for Immutable<'_> {
    fn entry(&mut self, mut offer: Offer<'_>) -> Result<(), Halted> {
        offer.entry.seen = match &offer.content {
            Content::File(at) => fs::symlink_metadata(at).ok().map(|meta| (0, 0, meta.ino())),
            _ => None,
        };
        self.0.entry(offer)
    }

    fn problem(&mut self, path: &str, reason: String) {
        self.0.problem(path, reason);
    }

    fn reads_content(&self) -> bool {
        self.0.reads_content()
    }
}
