//! What Docker keeps in a volume, seen from inside: by our own program in a container that has the volume, of the image
//! that the release runs as its gateway. It comes out as a tar stream, and goes back in by a restore that runs there.
//!
//! Invariant: no image is pulled and no volume made for this, and no container stays behind.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    ops::ControlFlow,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use backup::{
    Repository, RestoreOptions, Restored,
    source::{FolderSource, Source, Stream, TarSource, WalkError, write_tar},
};
use serde::{Deserialize, Serialize};
use stack::{
    failure::{Class, Doing, Failure},
    process::{self, Command},
};

use super::{Watch, back, grafana, prometheus::PrometheusSource};

/// Where a container sees the volume.
const INSIDE: &str = "/volume";

/// Where it sees the repository.
const REPOSITORY: &str = "/repository";

/// Between two words of a container about how far it is.
const TELL_EVERY: u64 = 4 << 20;

/// What a container can do with files of whatever owner; it gets nothing else.
const CAPABILITIES: [&str; 5] =
    ["--cap-drop=ALL", "--cap-add=DAC_OVERRIDE", "--cap-add=CHOWN", "--cap-add=FOWNER", "--cap-add=FSETID"];

/// A volume, and how a container gets at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// As Docker calls it.
    pub name: String,
    /// The image that holds our program; `None`: the stack does not run in containers.
    pub(super) image: Option<String>,
    /// The address at which a program is asked for what it keeps there, and the container whose network that is in.
    pub(super) asked: Option<(String, Option<String>)>,
}

impl Volume {
    /// Its content, as a source of that name.
    pub(super) fn source(&self, name: &str) -> TarSource {
        let (volume, told) = (self.clone(), name.to_owned());
        let start = move |contents: bool| -> io::Result<Option<Stream>> {
            let mut words = vec!["host", "source", &told, INSIDE];
            let mut network = None;
            match &volume.asked {
                _ if !contents => words.push("--entries"),
                Some((_, None)) => return Err(io::Error::other("the container whose data it is does not run")),
                Some((url, Some(container))) => {
                    words.extend(["--url", url]);
                    network = Some(container.as_str());
                }
                None => {}
            }
            // Who is asked for its data writes a copy of it there first.
            let access = if network.is_some() { "" } else { ",readonly" };
            let mount = format!("type=volume,source={},target={INSIDE}{access}", volume.name);
            Ok(Some(Box::new(volume.start("source", network, &[mount], &words)?)))
        };
        TarSource { name: name.to_owned(), start: Box::new(start) }
    }

    /// Brings a source of a snapshot back into it.
    pub(super) fn bring_back(
        &self,
        repository: &Path,
        id: &str,
        source: &str,
        glob: Option<&str>,
        watch: &Watch,
    ) -> Result<Restored, Failure> {
        let failed = |error: io::Error| {
            Failure::new(Class::Failed, format!("cannot restore {source} to volume {}", self.name))
                .because(&error)
                .hint("`--to FOLDER` restores it to a folder of this machine")
        };
        let repository = repository.canonicalize().doing("cannot find", repository)?;
        let mounts = [
            format!("type=bind,\"source={}\",target={REPOSITORY},readonly", repository.display()),
            format!("type=volume,source={},target={INSIDE}", self.name),
        ];
        let mut words = vec!["host", "restore", id, "--repository", REPOSITORY, "--source", source, "--to", INSIDE];
        words.extend(glob.into_iter().flat_map(|glob| ["--path", glob]));
        let lines = BufReader::new(self.start("restore", None, &mounts, &words).map_err(failed)?).lines();
        let mut restored = None;
        for line in lines {
            match serde_json::from_str(&line.map_err(failed)?).map_err(|error| failed(error.into()))? {
                Told::Moved(bytes) if watch(bytes).is_break() => {
                    return Err(Failure::new(Class::Interrupted, "the restore was interrupted"));
                }
                Told::Moved(_) => {}
                Told::Done(done) => restored = Some(done),
            }
        }
        restored.ok_or_else(|| failed(io::Error::other("it did not say how it went")))
    }

    /// A container that would go on writing to it.
    pub(super) fn user(&self) -> Result<Option<String>, Failure> {
        let filter = format!("--filter=volume={}", self.name);
        let command = docker(["ps", "--format={{.Names}}", &filter].map(str::to_owned).into())
            .map_err(|error| Failure::new(Class::Failed, "cannot ask Docker").because(&error))?;
        let answer = process::ask(&command, "").doing("cannot run", &command.program)?;
        match answer.success {
            true => Ok(answer.stdout.lines().next().map(str::to_owned)),
            false => {
                Err(Failure::new(Class::Failed, "Docker does not answer").because(&io::Error::other(answer.stderr)))
            }
        }
    }

    /// Starts our program in a container.
    fn start(&self, what: &str, network: Option<&str>, mounts: &[String], words: &[&str]) -> io::Result<Contained> {
        let Some(image) = &self.image else {
            return Err(io::Error::other("volumes are saved where the stack runs in containers, which it does not"));
        };
        let inspect = docker(["volume", "inspect", &self.name].map(str::to_owned).into())?;
        if !process::ask(&inspect, "")?.success {
            return Err(io::Error::other(format!("there is no volume {}", self.name)));
        }
        let name = format!("{}-{what}-{}", self.name, std::process::id());
        let network = network.map_or("--network=none".to_owned(), |it| format!("--network=container:{it}"));
        let fixed = ["run", "--rm", "--pull=never", "--log-driver=none", "--read-only", "--user=0:0"];
        // Where SELinux guards what containers see, a repository's label would have to be changed otherwise.
        let security = ["--security-opt=no-new-privileges", "--security-opt=label=disable"];
        let mut args: Vec<String> =
            fixed.iter().chain(&CAPABILITIES).chain(&security).map(ToString::to_string).collect();
        args.extend([format!("--name={name}"), network]);
        args.extend(mounts.iter().map(|mount| format!("--mount={mount}")));
        args.push(image.clone());
        args.extend(words.iter().map(ToString::to_string));
        Ok(Contained { stream: Box::new(process::stream(&docker(args)?)?), name, has_ended: false })
    }
}

fn docker(args: Vec<String>) -> io::Result<Command> {
    let program = process::find("docker").ok_or_else(|| io::Error::other("there is no docker on this host"))?;
    Ok(Command { program, args, env: Default::default() })
}

/// What a container prints. It ends with this, even if its work does not.
struct Contained {
    stream: Stream,
    name: String,
    has_ended: bool,
}

impl Read for Contained {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(into) {
            Ok(0) if !into.is_empty() => {
                self.has_ended = true;
                Ok(0)
            }
            Err(error) => Err(io::Error::other(error.to_string().trim_start_matches("error: ").to_owned())),
            read => read,
        }
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // One that has failed is gone already.
        if let Ok(remove) = docker(["rm", "--force", &self.name].map(str::to_owned).into()) {
            let _ = process::ask(&remove, "");
        }
    }
}

/// What the program in a container says, a line each.
#[derive(Serialize, Deserialize)]
enum Told {
    Moved(u64),
    Done(Restored),
}

/// In a container: writes what a source has in `folder`; without `contents` only what there is.
pub fn tell_source(
    name: &str,
    folder: &Path,
    url: Option<String>,
    contents: bool,
    to: &mut dyn Write,
) -> Result<(), Failure> {
    let source: Box<dyn Source> = match name {
        "prometheus" => Box::new(PrometheusSource::new(url.unwrap_or_default(), folder)),
        "grafana" => Box::new(grafana(folder)),
        _ => Box::new(FolderSource::new(name, folder)),
    };
    write_tar(&*source, contents, to).map_err(|error| match error {
        WalkError::Failed(reason) => Failure::new(Class::Failed, reason),
        WalkError::Halted => Failure::new(Class::Failed, "nobody takes what is saved"),
    })
}

/// In a container: restores a source to `folder`; `tell` gets every line that is to be printed.
pub fn restore_source(
    repository: &Path,
    id: &str,
    name: &str,
    glob: Option<String>,
    folder: &Path,
    tell: fn(&str),
) -> Result<(), Failure> {
    let say = move |told: &Told| tell(&serde_json::to_string(told).unwrap_or_default());
    let (moved, turn) = (AtomicU64::new(0), Mutex::new(()));
    let look = move |bytes: u64| {
        if moved.fetch_add(bytes, Ordering::Relaxed) + bytes >= TELL_EVERY {
            // A line at a time.
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            say(&Told::Moved(moved.swap(0, Ordering::Relaxed)));
        }
        ControlFlow::Continue(())
    };
    if name == "grafana" {
        back::clear_beside(folder);
    }
    let repository = Repository::at(repository).map_err(|error| back::failure(id, &error.into()))?.watched(look);
    let targets = [(name.to_owned(), folder.to_owned())].into();
    let options = RestoreOptions { targets, glob, workers: back::WORKERS };
    let restored = repository.restore(id, &options).map_err(|error| back::failure(id, &error))?;
    say(&Told::Done(restored));
    Ok(())
}
