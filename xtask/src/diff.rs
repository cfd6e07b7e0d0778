//! What a plan would change in files, as a unified diff without secrets.

use similar::TextDiff;
use stack::release::Contents;

/// Words that make a line's value a secret.
const SECRET_WORDS: [&str; 7] = ["password", "passwd", "secret", "token", "api_key", "api-key", "apikey"];

/// All files that differ, by path.
pub(crate) fn files(before: &Contents, after: &Contents) -> String {
    let mut text = String::new();
    let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let (old, new) = (before.get(path).map(|it| redact(it)), after.get(path).map(|it| redact(it)));
        // Compared before redaction: a changed secret is a change, though it shows none.
        if before.get(path) == after.get(path) {
            continue;
        }
        let header = |side: &Option<String>, prefix| match side {
            Some(_) => format!("{prefix}/{path}"),
            None => "/dev/null".to_owned(),
        };
        let (from, to) = (header(&old, "a"), header(&new, "b"));
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        text.push('\n');
        if old == new {
            text.push_str(&format!("--- {from}\n+++ {to}\n(a secret changes)\n"));
        } else {
            text.push_str(&TextDiff::from_lines(&old, &new).unified_diff().header(&from, &to).to_string());
        }
    }
    text
}

/// Replaces what stands behind a secret's name.
fn redact(text: &str) -> String {
    text.split_inclusive('\n').map(redact_line).collect()
}

fn redact_line(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let word = SECRET_WORDS.iter().filter_map(|word| lower.find(word).map(|at| at + word.len())).min();
    let Some(after_word) = word else { return line.to_owned() };
    // The value begins behind the separator that follows the name: `password: x`, `"token": "x"`, `secret=x`, `token x;`.
    let rest = &line[after_word..];
    let Some(separator) = rest.find([':', '=', ' ']) else { return line.to_owned() };
    let end = if line.ends_with('\n') { "\n" } else { "" };
    format!("{} [redacted]{end}", &line[..=after_word + separator].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_changes_and_no_secret() {
        let before = Contents::from([
            ("same.yml".into(), "a: 1\n".into()),
            ("gone.yml".into(), "a: 1\n".into()),
            ("auth.yml".into(), "user: me\nbearer_token: abc\nPASSWORD=old\n".into()),
            ("only-secret.yml".into(), "\"api_key\": \"old\"\n".into()),
        ]);
        let after = Contents::from([
            ("same.yml".into(), "a: 1\n".into()),
            ("auth.yml".into(), "user: you\nbearer_token: def\nPASSWORD=new\n".into()),
            ("only-secret.yml".into(), "\"api_key\": \"new\"\n".into()),
        ]);
        insta::assert_snapshot!(files(&before, &after), @r#"

        --- a/auth.yml
        +++ b/auth.yml
        @@ -1,3 +1,3 @@
        -user: me
        +user: you
         bearer_token: [redacted]
         PASSWORD= [redacted]

        --- a/gone.yml
        +++ /dev/null
        @@ -1 +0,0 @@
        -a: 1

        --- a/only-secret.yml
        +++ b/only-secret.yml
        (a secret changes)
        "#);
    }
}
