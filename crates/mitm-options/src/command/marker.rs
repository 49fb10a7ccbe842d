//! Markers of flows: what `flow.mark` accepts and how it is shown.
//!
//! A marker is the short code of an emoji as GitHub writes it (`:grapes:`), a single character, or
//! `:default:`. No marker is the empty string.

/// The marker of a flow that was marked without saying how.
pub const DEFAULT: &str = ":default:";

/// How [`DEFAULT`], and any marker that is not known here, is shown.
const DOT: &str = "●";

/// Reads a marker: `true` is the default one, `false` none. `None` if it is not one.
pub fn parse(word: &str) -> Option<String> {
    match word {
        "true" | DEFAULT => return Some(DEFAULT.to_owned()),
        "false" | "" => return Some(String::new()),
        _ => {}
    }
    if known_code(word).is_some() {
        return Some(word.to_owned());
    }
    if let Some(code) = emojis::get(word).and_then(emojis::Emoji::shortcode) {
        return Some(format!(":{code}:"));
    }
    let mut chars = word.chars();
    let single = chars.next().filter(|c| !c.is_control() && !c.is_whitespace())?;
    chars.next().is_none().then(|| single.to_string())
}

/// Returns what to show for a marker; nothing if the flow has none.
pub fn glyph(marker: &str) -> &str {
    if marker.is_empty() {
        return "";
    }
    if let Some(glyph) = known_code(marker) {
        return glyph;
    }
    let mut chars = marker.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if !c.is_control() => marker,
        _ => DOT,
    }
}

/// Returns all codes, sorted, after `true` and `false`.
pub fn names() -> Vec<String> {
    let codes = emojis::iter().flat_map(emojis::Emoji::shortcodes);
    let mut names: Vec<_> = codes.map(|code| format!(":{code}:")).collect();
    names.push(DEFAULT.to_owned());
    names.sort_unstable();
    names.dedup();
    names.splice(0..0, ["true".to_owned(), "false".to_owned()]);
    names
}

/// Returns the glyph of `:code:`; a single letter or digit is its own code.
fn known_code(word: &str) -> Option<&str> {
    let code = word.strip_prefix(':')?.strip_suffix(':')?;
    if let Some(emoji) = emojis::get_by_shortcode(code) {
        return Some(emoji.as_str());
    }
    let is_single = code.len() == 1 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    is_single.then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers() {
        for (word, marker) in [
            ("true", ":default:"),
            (":default:", ":default:"),
            ("false", ""),
            (":grapes:", ":grapes:"),
            (":+1:", ":+1:"),
            ("🍇", ":grapes:"),
            ("!", "!"),
            (":7:", ":7:"),
        ] {
            assert_eq!(parse(word).as_deref(), Some(marker), "{word}");
        }
        for word in ["grapes", ":no such thing:", ":grapes", "ab", " ", "\u{1b}", "::"] {
            assert_eq!(parse(word), None, "{word}");
        }
    }

    #[test]
    fn glyphs() {
        for (marker, shown) in [
            ("", ""),
            (":default:", "●"),
            (":grapes:", "🍇"),
            ("!", "!"),
            ("strange", "●"),
            (":7:", "7"),
        ] {
            assert_eq!(glyph(marker), shown);
        }
    }

    #[test]
    fn every_name_is_accepted() {
        let names = names();
        assert!(names.len() > 1800);
        assert!(names.iter().all(|name| parse(name).is_some()));
    }
}
