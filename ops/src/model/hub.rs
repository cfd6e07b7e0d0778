//! The hub that published models come from: huggingface.co, or what `HF_ENDPOINT` names, as its own client has it. Who is
//! logged in by that client (`hf auth login`), or has `HF_TOKEN`, is let in here as well.
//!
//! What is asked: the list of a repository's files (<https://huggingface.co/docs/hub/api>), and a file, which is redirected
//! to where it is stored. It speaks TLS, which this program does not: the system's own curl does.
//!
//! Invariant: a file under its own name has the digest that the hub lists for it; up to then its name ends with `.part`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use stack::{
    failure::{Class, Doing, Failure},
    process::{self, Command},
    protocol::Progress,
};

use super::{
    did_you_mean,
    file::digest,
    pull::{Event, Tell, Tried, patiently},
};

const HUB: &str = "https://huggingface.co";

/// What a name without a size means, as the engine has it too.
const USUAL: &str = "Q4_K_M";

/// A file of a repository, as the hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Below the repository.
    pub path: String,
    /// Of the file itself.
    pub bytes: u64,
    /// 64 hex digits. `None`: too small to be kept apart from the repository.
    pub sha256: Option<String>,
}

impl File {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

#[derive(Deserialize)]
struct Listed {
    path: String,
    size: Option<u64>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    oid: String,
    size: u64,
}

/// The repository that a model's name means, and the size, if it says one: `hf.co/USER/REPO:QUANT`.
pub fn named(model: &str) -> Option<(String, Option<String>)> {
    let path = model.strip_prefix("hf.co/").or_else(|| model.strip_prefix("huggingface.co/"))?;
    let (repository, tag) = match path.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag.to_owned()).filter(|tag| tag != "latest")),
        None => (path, None),
    };
    is_repository(repository).then(|| (repository.to_owned(), tag))
}

/// Whether this is `USER/REPO`.
pub fn is_repository(name: &str) -> bool {
    let is_word = |word: &str| word.starts_with(|c: char| c.is_ascii_alphanumeric()) && is_plain(word);
    name.split('/').count() == 2 && name.split('/').all(is_word)
}

/// Whether it can stand in an address, and as a file's name, as it is.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn endpoint() -> String {
    let set = env::var("HF_ENDPOINT").ok().filter(|set| set.starts_with("https://") || set.starts_with("http://"));
    set.map_or_else(|| HUB.to_owned(), |set| set.trim_end_matches('/').to_owned())
}

/// What lets curl in, for its standard input: all can see what programs are given as arguments. It is for the hub alone:
/// where that redirects to another host, curl does not send it.
fn login() -> String {
    let folder = |name: &str, below: &str| env::var_os(name).map(|folder| Path::new(&folder).join(below));
    let file = (env::var_os("HF_TOKEN_PATH").map(PathBuf::from))
        .or_else(|| folder("HF_HOME", "token"))
        .or_else(|| folder("XDG_CACHE_HOME", "huggingface/token"))
        .or_else(|| folder("HOME", ".cache/huggingface/token"));
    let token = env::var("HF_TOKEN").ok().or_else(|| fs::read_to_string(file?).ok()).unwrap_or_default();
    match token.trim() {
        token if !token.is_empty() && is_plain(token) => format!("header = \"Authorization: Bearer {token}\"\n"),
        _ => String::new(),
    }
}

fn curl(words: &[&str], url: String) -> Command {
    // A hub that was named without TLS is meant so; the real one is not.
    let schemes = if url.starts_with("https://") { "=https" } else { "=http,https" };
    let always = ["-sSL", "--proto", schemes, "--connect-timeout", "20", "--config", "-"];
    let mut args: Vec<String> = always.map(str::to_owned).into();
    args.extend(words.iter().map(|word| (*word).to_owned()));
    args.extend(["--".to_owned(), url]);
    Command { program: process::find("curl").unwrap_or_else(|| "curl".into()), args, env: [].into() }
}

/// The files of a repository.
///
/// # Errors
/// Of class `Nothing`: there is no such one. `Refused`: it is shown to some only, or there is none. `Failed`: it may pass.
pub fn list(repository: &str) -> Result<Vec<File>, Failure> {
    let url = format!("{}/api/models/{repository}/tree/main?recursive=true", endpoint());
    let command = curl(&["--max-time", "30", "-w", "\n%{http_code}"], url);
    let answer = process::ask(&command, &login()).doing("cannot run", &command.program)?;
    let (text, status) = answer.stdout.rsplit_once('\n').unwrap_or(("", "000"));
    if status != "200" {
        let words = if answer.success { format!("status {status}") } else { answer.stderr };
        return Err(refusal(repository, &words));
    }
    let listed: Vec<Listed> = serde_json::from_str(text).map_err(|error| {
        Failure::new(Class::Failed, format!("the hub's list of {repository} cannot be understood")).because(&error)
    })?;
    let file = |listed: Listed| {
        let is_usable = listed.path.split('/').all(|part| is_plain(part) && !part.starts_with('.'));
        let sha256 = listed.lfs.as_ref().map(|large| large.oid.clone());
        Some(File { bytes: listed.lfs.map(|large| large.size).or(listed.size)?, path: listed.path, sha256 })
            .filter(|_| is_usable)
    };
    Ok(listed.into_iter().filter_map(file).collect())
}

/// What a refusal means, by the status in the words that it came with.
fn refusal(repository: &str, words: &str) -> Failure {
    let says = |status: &str| words.ends_with(status);
    let failure = if says("404") {
        Failure::new(Class::Nothing, format!("the hub has no repository {repository}, or not that file of it"))
            .hint(format!("{HUB}/models lists what there is"))
    } else if says("401") || says("403") {
        Failure::new(Class::Refused, format!("the hub has no repository {repository}, or shows it to some only")).hint(
            "one that is gated or private needs a token of who may see it: `hf auth login` on the host, or HF_TOKEN",
        )
    } else {
        Failure::new(Class::Failed, format!("the hub does not give {repository}")).hint(
            "`curl -I https://huggingface.co` on the host shows whether it gets there; HF_ENDPOINT names another hub",
        )
    };
    Failure { causes: vec![words.to_owned()], ..failure }
}

/// The size that a file of weights is of, and which of how many pieces it is: `X-Q4_K_M-00001-of-00003.gguf`.
fn read_name(path: &str) -> Option<(String, Option<(u32, u32)>)> {
    let name = path.rsplit('/').next()?.strip_suffix(".gguf")?;
    if name.to_ascii_lowercase().contains("mmproj") {
        return None;
    }
    let (name, piece) = match name.len().checked_sub(15).and_then(|at| name.split_at_checked(at)) {
        Some((rest, end)) => match end.strip_prefix('-').and_then(|end| end.split_once("-of-")) {
            Some((number, count)) => (rest, number.parse().ok().zip(count.parse().ok())),
            None => (name, None),
        },
        None => (name, None),
    };
    let name = name.to_ascii_uppercase();
    let size = name.rsplit(['-', '.']).next().unwrap_or(&name);
    // Some mix the types of layers in a way of their own, and say so before the size.
    let is_mixed = name.strip_suffix(size).is_some_and(|rest| rest.ends_with("-UD-"));
    Some((if is_mixed { format!("UD-{size}") } else { size.to_owned() }, piece))
}

/// The files of one size: a single one, or all pieces in their order.
///
/// # Errors
/// Of class `Nothing`, with what there is instead; `Failed` where pieces are missing.
pub fn pick(repository: &str, files: &[File], size: Option<&str>) -> Result<Vec<File>, Failure> {
    let read = |file: &File| read_name(&file.path).map(|(size, piece)| (size, piece, file.clone()));
    let mut weights: Vec<_> = files.iter().filter_map(read).collect();
    if weights.is_empty() {
        return Err(Failure::new(Class::Nothing, format!("{repository} has no GGUF files"))
            .hint(format!("`cargo xtask model convert {repository} --quant Q5_K_M` makes one of its weights")));
    }
    let mut sizes: Vec<String> = weights.iter().map(|(size, ..)| size.clone()).collect();
    sizes.sort();
    sizes.dedup();
    let mut size = size.unwrap_or(USUAL).to_ascii_uppercase();
    let mixed = format!("UD-{size}");
    if !sizes.contains(&size) && sizes.contains(&mixed) {
        size = mixed;
    }
    weights.retain(|(it, ..)| *it == size);
    weights.sort_by(|a, b| (a.1, &a.2.path).cmp(&(b.1, &b.2.path)));
    // A whole file, where there is one, sorts before pieces.
    match weights.first() {
        Some((_, None, file)) => Ok(vec![file.clone()]),
        Some((_, Some((_, count)), _)) => {
            let is_next = |(at, it): (usize, &(_, Option<(u32, u32)>, _))| it.1 == Some((at as u32 + 1, *count));
            if weights.len() == *count as usize && weights.iter().enumerate().all(is_next) {
                return Ok(weights.into_iter().map(|(.., file)| file).collect());
            }
            Err(Failure::new(Class::Failed, format!("{repository} has not all pieces of {size}")))
        }
        None => {
            let near = did_you_mean(&size, sizes.iter().map(String::as_str));
            let near = near.map_or_else(String::new, |near| format!(": did you mean {near}?"));
            Err(Failure::new(Class::Nothing, format!("{repository} has no {size}"))
                .hint(format!("it has {}{near}", sizes.join(", "))))
        }
    }
}

/// A model of the hub in several files, which the engine would not put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// `USER/REPO`.
    pub repository: String,
    /// All of them, in their order.
    pub files: Vec<File>,
}

impl Pieces {
    /// What `model` means, if that is a model of the hub in pieces.
    ///
    /// # Errors
    /// The hub has no such model, or does not answer. One that it does not show is left to the engine, which has a key.
    pub fn of(model: &str, tell: Tell<'_>) -> Result<Option<Pieces>, Failure> {
        let Some((repository, size)) = named(model) else { return Ok(None) };
        let listed = patiently(tell, |_| list(&repository).map_err(|failure| Tried::by_class(failure, false)));
        let files = match listed {
            Err(failure) if failure.class == Class::Refused => {
                let hint =
                    "`hf auth login` on the host gets a token that is used; now the engine asks with a key of its own";
                tell(Event::Status(format!("{failure}: {hint}")))?;
                return Ok(None);
            }
            files => files?,
        };
        let is_file = |name: &str| files.iter().any(|file| file.name().eq_ignore_ascii_case(name));
        match pick(&repository, &files, size.as_deref()) {
            Ok(files) if files.len() > 1 => Ok(Some(Pieces { repository, files })),
            // A file's own name is one for the hub, too; and without a size it has a choice of its own.
            Err(_) if size.as_deref().is_some_and(is_file) => Ok(None),
            Err(_) if size.is_none() && files.iter().any(|file| file.path.ends_with(".gguf")) => Ok(None),
            picked => picked.map(|_| None),
        }
    }

    /// Of all of them.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// What is still to come into `folder`.
    pub fn missing_bytes(&self, folder: &Path) -> u64 {
        let there = |file: &File| {
            let name = file.name();
            let bytes = |name: &str| folder.join(name).metadata().map_or(0, |meta| meta.len());
            bytes(name).max(bytes(&format!("{name}.part")))
        };
        self.files.iter().map(|file| file.bytes.saturating_sub(there(file))).sum()
    }

    /// Brings them into `folder`, and answers where each is.
    pub fn fetch(&self, folder: &Path, tell: Tell<'_>) -> Result<Vec<PathBuf>, Failure> {
        fs::create_dir_all(folder).doing("cannot make", folder)?;
        let log = folder.join("log");
        self.files.iter().map(|file| fetch(&self.repository, file, folder, &log, tell)).collect()
    }
}

/// Brings a file into `folder`, unless it is there; what came before is kept. What curl says goes to `log`.
///
/// # Errors
/// It cannot be had, or came twice with another digest than the hub lists.
fn fetch(repository: &str, file: &File, folder: &Path, log: &Path, tell: Tell<'_>) -> Result<PathBuf, Failure> {
    let name = file.name();
    let (whole, part) = (folder.join(name), folder.join(format!("{name}.part")));
    for _ in 0..2 {
        if whole.metadata().is_ok_and(|meta| meta.len() == file.bytes) {
            return Ok(whole);
        }
        let length = || part.metadata().map_or(0, |meta| meta.len());
        if length() > file.bytes {
            fs::remove_file(&part).doing("cannot remove", &part)?;
        }
        patiently(tell, |tell| {
            let before = length();
            download(repository, file, &part, log, tell).map_err(|failure| Tried::by_class(failure, length() > before))
        })?;
        let read = fs::File::open(&part).doing("cannot read", &part)?;
        let found = digest(read, &part, &mut |done_bytes| {
            let what = format!("verify {}", file.path);
            tell(Event::Layer(Progress { what, done_bytes, total_bytes: Some(file.bytes) }))
        })?;
        if file.sha256.as_ref().is_none_or(|listed| *listed == found) {
            fs::rename(&part, &whole).doing("cannot write", &whole)?;
            continue;
        }
        fs::remove_file(&part).doing("cannot remove", &part)?;
        tell(Event::Status(format!("{name} is not what the hub lists, by its digest: it is thrown away")))?;
    }
    if whole.exists() {
        return Ok(whole);
    }
    Err(Failure::new(Class::Failed, format!("{name} came twice with another digest than the hub lists"))
        .hint("what is right is kept; a proxy may change what it passes on, or the repository is being changed"))
}

fn download(repository: &str, file: &File, part: &Path, log: &Path, tell: Tell<'_>) -> Result<(), Failure> {
    let length = || part.metadata().map_or(0, |meta| meta.len());
    if length() == file.bytes {
        return Ok(());
    }
    let output = part.display().to_string();
    // Slower than this is no connection any more.
    let words = ["-f", "--speed-limit", "1", "--speed-time", "30", "-C", "-", "-o", &output];
    let command = curl(&words, format!("{}/{repository}/resolve/main/{}", endpoint(), file.path));
    let what = format!("fetch {}", file.path);
    let mut objection = None;
    let ran = process::run_watched(&command, &login(), log, &mut || {
        let progress = Progress { what: what.clone(), done_bytes: length(), total_bytes: Some(file.bytes) };
        objection = tell(Event::Layer(progress)).err();
        objection.is_none()
    });
    if let Some(failure) = objection {
        return Err(failure);
    }
    if ran.doing("cannot run", &command.program)? && length() == file.bytes {
        return Ok(());
    }
    let words = process::last_words(log).unwrap_or_else(|| "it came short".to_owned());
    if words.contains("curl: (23)") {
        // It could not be written: trying again does not make room.
        return Err(Failure { causes: vec![words], ..Failure::new(Class::Refused, format!("cannot write {output}")) }
            .hint("free some space on its disk; what came is kept, and the same command goes on from there"));
    }
    Err(refusal(repository, &words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<File> {
        paths.iter().map(|path| File { path: (*path).to_owned(), bytes: 1, sha256: None }).collect()
    }

    fn picked(paths: &[&str], size: Option<&str>) -> Result<Vec<String>, Failure> {
        Ok(pick("u/r", &files(paths), size)?.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn a_name_of_the_hub_says_a_repository_and_perhaps_a_size() {
        let found = |repository: &str, size: Option<&str>| Some((repository.to_owned(), size.map(str::to_owned)));
        assert_eq!(named("hf.co/a/b:Q4_K_M"), found("a/b", Some("Q4_K_M")));
        assert_eq!(named("huggingface.co/a/b:latest"), found("a/b", None));
        for other in ["qwen3:8b", "a/b", "hf.co/a", "hf.co/a/b/c", "hf.co/../b", "hf.co/-a/b"] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn a_size_is_all_its_pieces_in_their_order_or_the_whole_file() {
        let pieces = ["UD-Q4_K_M/X-UD-Q4_K_M-00002-of-00002.gguf", "UD-Q4_K_M/X-UD-Q4_K_M-00001-of-00002.gguf"];
        let both = [pieces[0], "X-Q4_K.gguf", "mmproj-Q4_K_M.gguf", "README.md", pieces[1], "X.Q8_0.gguf"];
        for size in [Some("q4_k_m"), Some("UD-Q4_K_M")] {
            assert_eq!(picked(&both, size).unwrap(), [pieces[1], pieces[0]]);
        }
        assert_eq!(picked(&both, None).unwrap().len(), 2);
        assert_eq!(picked(&both, Some("Q4_K")).unwrap(), ["X-Q4_K.gguf"]);
        let with_whole = [both.as_slice(), &["X-Q4_K_M.gguf"]].concat();
        assert_eq!(picked(&with_whole, None).unwrap(), ["X-Q4_K_M.gguf"]);
        let failure = picked(&both, Some("Q8_1")).unwrap_err();
        assert_eq!(failure.hint.as_deref(), Some("it has Q4_K, Q8_0, UD-Q4_K_M: did you mean Q8_0?"));
        assert_eq!(picked(&pieces[..1], None).unwrap_err().message, "u/r has not all pieces of UD-Q4_K_M");
        assert_eq!(picked(&["model.safetensors"], None).unwrap_err().class, Class::Nothing);
    }

    #[test]
    fn a_refusal_is_told_by_its_status() {
        let class = |words: &str| refusal("u/r", words).class;
        assert_eq!(class("status 401"), Class::Refused);
        assert_eq!(class("curl: (22) The requested URL returned error: 404"), Class::Nothing);
        assert_eq!(class("status 429"), Class::Failed);
        assert_eq!(class("curl: (6) Could not resolve host: huggingface.co"), Class::Failed);
    }
}
