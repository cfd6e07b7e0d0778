//! Bringing what is not ours: releases of others' programs, and what the user's own tools install.
//!
//! curl fetches, since it is on every Mac and we speak no TLS; what came is trusted by its digest alone. Invariant: a folder
//! below `programs/` that bears a name and a version is a whole release of that version.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use super::Follow;
use crate::{
    durable,
    failure::{Class, Doing, Failure},
    layout::Root,
    process::{self, Command},
    protocol::{Event, Progress},
    release::Tarball,
};

/// Gigabytes over a slow line take long; what is on its way is seen to be, and can be interrupted.
const TIMEOUT: Duration = Duration::from_secs(6 * 60 * 60);

/// Between two words about a tool that takes its time.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Has a tool of the user's own do something, to its end.
pub(super) fn tool(command: &Command, lock: &File, follow: &mut Follow<'_>) -> Result<(), Failure> {
    let mut told_at = Instant::now();
    let done = process::run_following(command, Some(lock), TIMEOUT, &mut || match told_at.elapsed() > TELL_EVERY {
        true => {
            told_at = Instant::now();
            follow(Event::Waiting { detail: command.to_string() })
        }
        false => follow(Event::Idle),
    })?;
    if done.success { Ok(()) } else { Err(failed(command, &done.output)) }
}

/// Fetches, checks and unpacks a release, unless it is there.
pub(super) fn fetch(root: &Root, tarball: &Tarball, lock: &File, follow: &mut Follow<'_>) -> Result<(), Failure> {
    let programs = root.programs();
    let folder = programs.join(tarball.folder());
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(&programs).doing("cannot create", &programs)?;
    // What was cut off goes on from where it was.
    let part = programs.join(format!(".{}.part", tarball.folder()));
    let sha256 = match &tarball.sha256 {
        Some(sha256) => sha256.clone(),
        None => published(tarball, lock, follow)?,
    };
    if !part.exists() || digest(&part, follow)? != sha256 {
        download(&tarball.url, &part, &format!("{} {}", tarball.name, tarball.version), lock, follow)?;
        let came = digest(&part, follow)?;
        if came != sha256 {
            durable::remove(&part)?;
            return Err(Failure::new(Class::Failed, format!("{} is not what it should be", tarball.url))
                .because(&io::Error::other(format!("its SHA-256 is {came}, and not {sha256}")))
                .hint("deploy again; if it is so again, somebody has changed it, there or on the way"));
        }
    }
    unpack(tarball, &part, &folder, lock, follow)?;
    durable::remove(&part)
}

/// What the release itself says of the file.
fn published(tarball: &Tarball, lock: &File, follow: &mut Follow<'_>) -> Result<String, Failure> {
    let name = tarball.url.rsplit('/').next().unwrap_or_default();
    let sums = tempfile::NamedTempFile::new().doing("cannot make", Path::new("a temporary file"))?;
    let url = &tarball.sums;
    download(url, sums.path(), "its digests", lock, follow)?;
    let text = fs::read_to_string(sums.path()).doing("cannot read", sums.path())?;
    let of_file = |line: &str| {
        let (sha256, file) = line.split_once(char::is_whitespace)?;
        let is_it = file.trim_start_matches([' ', '*']).trim_start_matches("./") == name;
        (is_it && sha256.len() == 64).then(|| sha256.to_owned())
    };
    text.lines().find_map(of_file).ok_or_else(|| Failure::new(Class::Failed, format!("{url} does not name {name}")))
}

fn download(url: &str, to: &Path, what: &str, lock: &File, follow: &mut Follow<'_>) -> Result<(), Failure> {
    let program = process::find("curl").ok_or_else(|| {
        Failure::new(Class::Refused, "there is no curl to fetch it with").hint("install curl, then deploy again")
    })?;
    let path = to.display().to_string();
    let flags = ["--fail", "--silent", "--show-error", "--location", "--retry", "3", "--connect-timeout", "20"];
    // Less than 1 kB/s for a minute is a line that is dead.
    let more = ["--speed-limit", "1000", "--speed-time", "60", "--continue-at", "-", "--output", &path, url];
    let args = flags.into_iter().chain(more).map(str::to_owned).collect();
    let command = Command { program, args, env: [].into() };
    let resumes = to.exists();
    let done = process::run_following(&command, Some(lock), TIMEOUT, &mut || {
        let done_bytes = fs::metadata(to).map_or(0, |meta| meta.len());
        follow(Event::Progress(Progress { what: what.to_owned(), done_bytes, total_bytes: None }))
    })?;
    if done.success {
        return Ok(());
    }
    // A server that knows no ranges, or has another file by now.
    if resumes && ["(33)", " 416"].iter().any(|words| done.output.contains(words)) {
        durable::remove(to)?;
        return download(url, to, what, lock, follow);
    }
    Err(failed(&command, &done.output).hint(
        "a host without internet takes release files from a mirror: `github` under [host]. A part that was fetched is kept, \
         and the next deploy goes on from there",
    ))
}

fn digest(path: &Path, follow: &mut Follow<'_>) -> Result<String, Failure> {
    let mut file = File::open(path).doing("cannot read", path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        follow(Event::Idle)?;
        match io::Read::read(&mut file, &mut buffer).doing("cannot read", path)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Unpacks all of it, since an engine looks for its libraries beside itself, under a name that is no version's; and
/// renames it once it is whole.
fn unpack(tarball: &Tarball, part: &Path, folder: &Path, lock: &File, follow: &mut Follow<'_>) -> Result<(), Failure> {
    let programs = folder.parent().unwrap_or(folder);
    let staging = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(programs);
    let staging = staging.doing("cannot create a folder in", programs)?;
    let args = [Path::new("-xf"), part, Path::new("-C"), staging.path()].map(|it| it.display().to_string());
    let program = process::find("tar").unwrap_or_else(|| PathBuf::from("tar"));
    tool(&Command { program, args: args.to_vec(), env: [].into() }, lock, follow)?;
    let program = staging.path().join(&tarball.program);
    if !fs::metadata(&program).is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0) {
        return Err(Failure::new(Class::Failed, format!("{} has no program {}", tarball.url, tarball.program)));
    }
    // Temporary folders are for their owner alone.
    fs::set_permissions(staging.path(), fs::Permissions::from_mode(0o755)).doing("cannot open", staging.path())?;
    fs::rename(staging.path(), folder).doing("cannot name", folder)?;
    durable::flush_folder(programs).doing("cannot flush", programs)
}

fn failed(command: &Command, output: &str) -> Failure {
    let last: Vec<&str> = output.lines().rev().take(20).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Failure::new(Class::Failed, format!("`{command}` failed")).because(&io::Error::other(last.join("\n")))
}
