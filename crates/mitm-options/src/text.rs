//! Text as people read it: wrapped paragraphs, lists of choices, paths with `~`.

use std::path::PathBuf;

/// The width of help texts in `--options` and `--commands`, the comment sign not counted.
const WIDTH: usize = 70;

/// Appends `text` as comment lines, wrapped. An empty text gives nothing.
pub(crate) fn push_comment(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width > 0 && width + 1 + length <= WIDTH {
            out.push(' ');
            width += 1;
        } else {
            if width > 0 {
                out.push('\n');
            }
            out.push_str("# ");
            width = 0;
        }
        out.push_str(word);
        width += length;
    }
    if width > 0 {
        out.push('\n');
    }
}

/// Returns `'a', 'b', 'c'`.
pub(crate) fn quoted_list<S: AsRef<str>>(items: &[S]) -> String {
    items.iter().map(|item| format!("'{}'", item.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Replaces a leading `~` by the user's home directory. `~name` is left alone.
pub fn expand_user(path: &str) -> PathBuf {
    let rest = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    match (rest, std::env::home_dir()) {
        (Some(rest), Some(home)) if !home.as_os_str().is_empty() => {
            let rest = rest.trim_start_matches('/');
            if rest.is_empty() { home } else { home.join(rest) }
        }
        _ => PathBuf::from(path),
    }
}

/// Reads an integer as Python's `int()` does: a sign, surrounding white space and single
/// underscores between digits are allowed, other bases are not. `None` also out of range.
pub(crate) fn parse_int(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let well_formed = digits
        .split('_')
        .all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()));
    if !well_formed {
        return None;
    }
    format!("{sign}{}", digits.replace('_', "")).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_wrapped() {
        let mut out = String::new();
        push_comment(&mut out, &"word ".repeat(15));
        assert_eq!(out, format!("# {}\n# word\n", ["word"; 14].join(" ")));
        let mut out = String::new();
        push_comment(&mut out, &format!("a {} b", "x".repeat(90)));
        assert_eq!(out, format!("# a\n# {}\n# b\n", "x".repeat(90)));
        let mut out = String::new();
        push_comment(&mut out, " ");
        assert_eq!(out, "");
    }

    #[test]
    fn integers_are_those_of_python() {
        for (text, value) in
            [("1", 1), (" -1_000\t", -1000), ("+07", 7), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(parse_int(text), Some(value), "{text}");
        }
        for text in ["", "1.0", "0x10", "_1", "1__0", "1_", "- 1", "++1", "9223372036854775808"] {
            assert_eq!(parse_int(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_users_own_home_is_expanded() {
        assert_eq!(expand_user("a/~"), PathBuf::from("a/~"));
        assert_eq!(expand_user("~other/x"), PathBuf::from("~other/x"));
        if let Some(home) = std::env::home_dir() {
            assert_eq!(expand_user("~"), home);
            assert_eq!(expand_user("~/x"), home.join("x"));
        }
    }
}
