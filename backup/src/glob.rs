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
