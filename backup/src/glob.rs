//! Globs over paths with `/`: `?` and `*` within a part, `**` over any number of parts.
//!
//! Invariant: time is bounded by the product of the two lengths.

/// Whether a path matches. A glob without `/` matches the last part at any depth.
pub fn matches(glob: &str, path: &str) -> bool {
    let glob = glob.trim_end_matches('/');
    if !glob.contains('/') {
        return part(glob.as_bytes(), path.rsplit('/').next().unwrap_or(path).as_bytes());
    }
    let globs: Vec<&str> = glob.trim_start_matches('/').split('/').collect();
    let parts: Vec<&str> = path.split('/').collect();
    // reach[n]: the globs so far match the first n parts.
    let mut reach = vec![false; parts.len() + 1];
    reach[0] = true;
    for glob in globs {
        let mut next = vec![false; parts.len() + 1];
        for at in 0..=parts.len() {
            next[at] = if glob == "**" {
                reach[at] || (at > 0 && next[at - 1])
            } else {
                at > 0 && reach[at - 1] && part(glob.as_bytes(), parts[at - 1].as_bytes())
            };
        }
        reach = next;
    }
    reach[parts.len()]
}

fn part(glob: &[u8], name: &[u8]) -> bool {
    let (mut at_glob, mut at_name) = (0, 0);
    let mut star = None;
    while at_name < name.len() {
        match glob.get(at_glob) {
            Some(b'*') => {
                star = Some((at_glob, at_name));
                at_glob += 1;
            }
            Some(wanted) if *wanted == b'?' || *wanted == name[at_name] => {
                at_glob += 1;
                at_name += 1;
            }
            _ => match star {
                Some((glob, name)) => {
                    star = Some((glob, name + 1));
                    (at_glob, at_name) = (glob + 1, name + 1);
                }
                None => return false,
            },
        }
    }
    glob[at_glob..].iter().all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    /// By the description, without a thought of time.
    fn slowly(glob: &[u8], path: &[u8]) -> bool {
        match glob {
            [] => path.is_empty(),
            [b'*', rest @ ..] => {
                slowly(rest, path) || path.first().is_some_and(|it| *it != b'/') && slowly(glob, &path[1..])
            }
            [b'?', rest @ ..] => path.first().is_some_and(|it| *it != b'/') && slowly(rest, &path[1..]),
            [first, rest @ ..] => path.first() == Some(first) && slowly(rest, &path[1..]),
        }
    }

    #[test]
    fn agrees_with_a_slow_one_on_everything_short() {
        let mut matched = 0;
        for case in 0..60_000 {
            let mut chance = Chance(case);
            let mut some = |letters: &[u8], most: usize| -> String {
                (0..chance.below(most)).map(|_| char::from(letters[chance.below(letters.len())])).collect()
            };
            let (glob, path) = (format!("a/{}", some(b"ab*?", 6)), format!("a/{}", some(b"ab/", 6)));
            let is_plain = !glob.contains("**") && !path.ends_with('/') && !path.contains("//");
            if is_plain && !glob.ends_with('/') {
                assert_eq!(matches(&glob, &path), slowly(glob.as_bytes(), path.as_bytes()), "{glob} {path}");
                matched += usize::from(matches(&glob, &path));
            }
        }
        assert!(matched > 1000, "{matched}");
    }

    #[test]
    fn matches_as_people_expect() {
        for (glob, path) in [
            ("*.log", "a/b/x.log"),
            ("cache", "a/cache"),
            ("a/*/c", "a/b/c"),
            ("a/**", "a/b/c"),
            ("**/c", "c"),
            ("**/c", "a/b/c"),
            ("a/**/d", "a/d"),
            ("a?c/", "x/abc"),
            ("/a/b", "a/b"),
        ] {
            assert!(matches(glob, path), "{glob} {path}");
        }
        for (glob, path) in [("*.log", "a/x.log.gz"), ("a/*", "a/b/c"), ("a/b", "x/a/b"), ("/a/b", "a/b/c")] {
            assert!(!matches(glob, path), "{glob} {path}");
        }
    }
}
