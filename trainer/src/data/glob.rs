//! Globs over file paths and column names: `*` stands for any characters of one name, `**` for any folders.

/// Whether a text is a glob rather than a name.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains('*')
}

/// Whether a name matches a pattern in which `*` stands for any characters.
pub(super) fn name_matches(pattern: &str, name: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(prefix) else { return false };
    let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        // The earliest match leaves the most for what follows.
        match name.find(piece) {
            Some(at) => name = &name[at + piece.len()..],
            None => return false,
        }
    }
    name.ends_with(suffix)
}

/// Whether a path matches a pattern whose segments are globs; the segment `**` stands for any number of folders.
pub(super) fn path_matches(pattern: &str, path: &str) -> bool {
    let mut segments: Vec<&str> = pattern.split('/').collect();
    segments.dedup_by(|next, last| *next == "**" && *last == "**");
    segments_match(&segments, &path.split('/').collect::<Vec<_>>())
}

fn segments_match(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", [])), _) => !path.is_empty(),
        (Some((&"**", rest)), _) => (0..path.len()).any(|skipped| segments_match(rest, &path[skipped..])),
        (Some((first, rest)), Some((name, names))) => name_matches(first, name) && segments_match(rest, names),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_characters_of_a_name() {
        for (pattern, name) in [
            ("*", ""),
            ("*", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "ac"),
            ("a*b*c", "aXbXbYc"),
            ("a", "a"),
            ("*a*", "xax"),
        ] {
            assert!(name_matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a*", "ba"), ("a*a", "a"), ("a*b*c", "acb"), ("a", "ab"), ("ab*ba", "aba")] {
            assert!(!name_matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn two_stars_match_any_folders() {
        for (pattern, path) in [
            ("*.csv", "a.csv"),
            ("**/*.csv", "a.csv"),
            ("**/*.csv", "x/y/a.csv"),
            ("x/**/a.csv", "x/a.csv"),
            ("**", "x/y"),
            ("**/**/a", "a"),
            ("year=*/*.csv", "year=1/a.csv"),
        ] {
            assert!(path_matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [("*.csv", "x/a.csv"), ("x/**/a.csv", "y/a.csv"), ("*/a", "a"), ("**/a", "b")] {
            assert!(!path_matches(pattern, path), "{pattern} {path}");
        }
    }
}
