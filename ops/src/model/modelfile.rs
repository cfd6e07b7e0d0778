//! Modelfiles: read, and applied where they changed anything.
//!
//! The form is Ollama's (`parser/parser.go`): an instruction a line, values plain, in `"…"` or over lines in `"""…"""`.
//! Invariant: a file is applied once for each of its texts and bases: what was made of both is written down, and a model
//! that is still that one is left alone.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use stack::failure::{Class, Doing, Failure};
use wire::ollama::{CreateRequest, Message};

use super::{engine::Engine, store::is_same};

/// Those that come with this program: name, text.
const BUILT_IN: [(&str, &str); 1] =
    [("qwen2.5-coder-agent", include_str!("../../../config/models/qwen2.5-coder-agent.Modelfile"))];

/// How a Modelfile ends.
const ENDING: &str = ".Modelfile";

/// A Modelfile and the model that it is to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modelfile {
    /// Of the model: the file's, without its ending.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What became of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Applied {
    /// It is there, made of this very text and base.
    Unchanged,
    /// It was made, or made anew.
    Made,
    /// Its base is not here.
    Skipped {
        /// The base.
        base: String,
    },
}

/// What a model was made of, by its name.
type Record = BTreeMap<String, Made>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    /// Of the Modelfile's text.
    text: String,
    /// Of the base's manifest.
    base: String,
    /// Of the model's manifest.
    model: String,
}

/// Ours, and those of `local/models/` below `folder`. One of the user's replaces one of ours with its name.
pub fn find(folder: &Path) -> Result<Vec<Modelfile>, Failure> {
    let ours = BUILT_IN.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let mut found: BTreeMap<String, String> = ours.collect();
    let local = folder.join("local/models");
    if local.is_dir() {
        for entry in fs::read_dir(&local).doing("cannot list", &local)? {
            let path = entry.doing("cannot list", &local)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(name) = name.strip_suffix(ENDING) {
                found.insert(name.to_owned(), fs::read_to_string(&path).doing("cannot read", &path)?);
            }
        }
    }
    Ok(found.into_iter().map(|(name, text)| Modelfile { name, text }).collect())
}

/// Makes the model unless it is there. `record` is a file of the host that remembers what was made.
pub fn apply(engine: &Engine, file: &Modelfile, record: &Path) -> Result<Applied, Failure> {
    let request = parse(file)?;
    let held = engine.list()?.models;
    let digest_of = |name: &str| held.iter().find(|model| is_same(&model.name, name)).map(|it| it.digest.clone());
    let Some(base) = digest_of(&request.from) else { return Ok(Applied::Skipped { base: request.from }) };
    let text: String = Sha256::digest(file.text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut made = read(record)?;
    let is_there =
        |made: &Made| made.text == text && made.base == base && Some(&made.model) == digest_of(&file.name).as_ref();
    if made.get(&file.name).is_some_and(is_there) {
        return Ok(Applied::Unchanged);
    }
    engine.create(&request, &mut |_| Ok(()))?;
    let held = engine.list()?.models;
    let model = held.into_iter().find(|model| is_same(&model.name, &file.name)).map(|it| it.digest).unwrap_or_default();
    made.insert(file.name.clone(), Made { text, base, model });
    write(record, &made)?;
    Ok(Applied::Made)
}

/// A record that cannot be read only costs making models once more.
fn read(record: &Path) -> Result<Record, Failure> {
    match fs::read(record) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::new()),
        Err(error) => Err(error).doing("cannot read", record),
    }
}

fn write(record: &Path, made: &Record) -> Result<(), Failure> {
    let beside = record.with_extension("tmp");
    let bytes = serde_json::to_vec_pretty(made).map_err(std::io::Error::other).doing("cannot write", record)?;
    fs::write(&beside, bytes).doing("cannot write", &beside)?;
    fs::rename(&beside, record).doing("cannot write", record)
}

/// What a Modelfile asks of the engine.
pub fn parse(file: &Modelfile) -> Result<CreateRequest, Failure> {
    let wrong = |line: usize, what: &str| {
        Failure::new(Class::Settings, format!("{}{ENDING}, line {line}: {what}", file.name))
            .hint("FROM, PARAMETER, SYSTEM, TEMPLATE, LICENSE and MESSAGE can be written")
    };
    let mut request = CreateRequest { model: file.name.clone(), ..CreateRequest::default() };
    let mut parameters = Map::new();
    let mut lines = file.text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let (number, line) = (index + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (instruction, rest) = line.split_once(char::is_whitespace).ok_or_else(|| wrong(number, "no value"))?;
        let whole = |rest: &str, lines: &mut dyn Iterator<Item = (usize, &str)>| {
            value(rest, &mut lines.map(|(_, line)| line)).ok_or_else(|| wrong(number, "a quote without an end"))
        };
        match instruction.to_ascii_uppercase().as_str() {
            "FROM" => request.from = rest.trim().to_owned(),
            "SYSTEM" => request.system = whole(rest, &mut lines)?,
            "TEMPLATE" => request.template = whole(rest, &mut lines)?,
            "LICENSE" => request.license = Some(whole(rest, &mut lines)?.into()),
            "PARAMETER" => {
                let (name, rest) =
                    rest.trim().split_once(char::is_whitespace).ok_or_else(|| wrong(number, "no value"))?;
                add(&mut parameters, name, &whole(rest, &mut lines)?);
            }
            "MESSAGE" => {
                let (role, rest) =
                    rest.trim().split_once(char::is_whitespace).ok_or_else(|| wrong(number, "no text"))?;
                let content = whole(rest, &mut lines)?;
                request.messages.push(Message { role: role.to_owned(), content, ..Message::default() });
            }
            other => return Err(wrong(number, &format!("{other} is not known here"))),
        }
    }
    if request.from.is_empty() {
        return Err(wrong(1, "there is no FROM"));
    }
    request.parameters = (!parameters.is_empty()).then_some(parameters);
    Ok(request)
}

/// Plain, in quotes, or in triple quotes up to where those end.
fn value(rest: &str, lines: &mut dyn Iterator<Item = &str>) -> Option<String> {
    let rest = rest.trim();
    if let Some(begun) = rest.strip_prefix("\"\"\"") {
        let mut text = begun.to_owned();
        while !text.trim_end().ends_with("\"\"\"") {
            text.push('\n');
            text.push_str(lines.next()?);
        }
        return Some(text.trim_end().strip_suffix("\"\"\"")?.to_owned());
    }
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').map(str::to_owned),
        None => Some(rest.to_owned()),
    }
}

/// Numbers and switches as such; what is said several times, as `stop` is, is a list.
fn add(parameters: &mut Map<String, Value>, name: &str, text: &str) {
    let plain = |text: &str| serde_json::from_str::<Value>(text).ok().filter(|it| it.is_number() || it.is_boolean());
    let is_list = name == "stop";
    let value = if is_list { Value::from(text) } else { plain(text).unwrap_or_else(|| text.into()) };
    match parameters.get_mut(name) {
        Some(Value::Array(values)) => values.push(value),
        _ if is_list => drop(parameters.insert(name.to_owned(), Value::Array(vec![value]))),
        _ => drop(parameters.insert(name.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> Result<CreateRequest, Failure> {
        parse(&Modelfile { name: "m".to_owned(), text: text.to_owned() })
    }

    #[test]
    fn ours_are_all_there_are_and_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/models");
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = files.map(|file| file.strip_suffix(ENDING).unwrap().to_owned()).collect();
        names.sort();
        assert_eq!(names, BUILT_IN.map(|(name, _)| name));
        for (name, text) in BUILT_IN {
            let request = parse(&Modelfile { name: name.to_owned(), text: text.to_owned() }).unwrap();
            assert!(request.parameters.unwrap()["num_ctx"].is_u64(), "{name}");
        }
    }

    #[test]
    fn every_form_of_a_value_is_read() {
        let request = parsed(
            "# c\nfrom a:b\nPARAMETER stop \"<|x|>\"\nPARAMETER stop </s>\nPARAMETER num_ctx 8192\nPARAMETER temperature 0.5\n\
             SYSTEM \"\"\"one\n# two\n\"\"\"\nMESSAGE user hello there\n",
        )
        .unwrap();
        assert_eq!(request.from, "a:b");
        assert_eq!(request.system, "one\n# two\n");
        assert_eq!(request.messages[0].content, "hello there");
        let expected = json!({"stop": ["<|x|>", "</s>"], "num_ctx": 8192, "temperature": 0.5});
        assert_eq!(Value::from(request.parameters.unwrap()), expected);
    }

    #[test]
    fn faults_are_told_with_their_line() {
        for (text, says) in [
            ("FROM a\nADAPTER x", "line 2: ADAPTER is not known"),
            ("FROM a\nSYSTEM \"\"\"open", "line 2: a quote without an end"),
            ("SYSTEM x", "no FROM"),
            ("FROM", "line 1: no value"),
        ] {
            let failure = parsed(text).unwrap_err();
            assert!(failure.message.contains(says), "{text}: {}", failure.message);
        }
    }
}
