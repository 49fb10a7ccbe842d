//! How a command line falls into words.
//!
//! A token is a quoted string (from `"` or `'` to the next of the same, or to the end), a run of
//! white space, or a run of anything else. There are no escapes: a backslash is a character like any
//! other. Tokens that touch stay apart: `a"b"c` is three words. Every text lexes.

use std::borrow::Cow;

/// A piece of the line; all pieces together are the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// As it stands in the line, quotes included.
    pub text: &'a str,
    /// Where it starts, in bytes.
    pub start: usize,
}

impl<'a> Token<'a> {
    /// Returns whether this separates words.
    pub fn is_space(&self) -> bool {
        self.text.starts_with(is_space)
    }

    /// Returns the word: the text without its quotes, if it has both.
    pub fn word(&self) -> &'a str {
        unquote(self.text)
    }
}

/// Splits a line into tokens.
pub fn tokens(line: &str) -> impl Iterator<Item = Token<'_>> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = if is_quote(first) {
            rest.char_indices().skip(1).find(|&(_, c)| c == first).map(|(at, c)| at + c.len_utf8())
        } else if is_space(first) {
            rest.find(|c| !is_space(c))
        } else {
            rest.find(|c| is_space(c) || is_quote(c))
        };
        let (text, tail) = rest.split_at(end.unwrap_or(rest.len()));
        let start = line.len() - rest.len();
        rest = tail;
        Some(Token { text, start })
    })
}

/// Splits a line into words.
pub fn words(line: &str) -> Vec<String> {
    tokens(line).filter(|token| !token.is_space()).map(|token| token.word().to_owned()).collect()
}

/// Writes a value so that it is one word. A value with both kinds of quotes comes back by the type
/// `str` only, which decodes the escapes this needs.
pub fn quote(value: &str) -> Cow<'_, str> {
    if !value.is_empty() && !value.contains(|c| is_space(c) || is_quote(c)) {
        Cow::Borrowed(value)
    } else if !value.contains('"') {
        Cow::Owned(format!("\"{value}\""))
    } else if !value.contains('\'') {
        Cow::Owned(format!("'{value}'"))
    } else {
        Cow::Owned(format!("\"{}\"", value.replace('"', "\\x22")))
    }
}

/// Takes the quotes off a token that begins and ends with the same.
pub fn unquote(token: &str) -> &str {
    let inner = |quote| token.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(token)
}

fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_fall_into_words() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            (" \t\r\n", &[]),
            ("a  b", &["a", "b"]),
            ("a \"b c\"", &["a", "b c"]),
            ("a 'b c'", &["a", "b c"]),
            ("a \"b", &["a", "\"b"]),
            ("a'b\"c'", &["a", "b\"c"]),
            ("a\\ b", &["a\\", "b"]),
            ("\"a\\\"b\"", &["a\\", "b", "\""]),
            ("a \"\"", &["a", ""]),
            ("a\"b\"c", &["a", "b", "c"]),
            ("foo\"bar baz\"", &["foo", "bar baz"]),
            ("'a\nb'", &["a\nb"]),
            ("\"", &["\""]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line), *expected, "{line}");
        }
    }

    #[test]
    fn values_are_quoted_only_if_needed() {
        for (value, quoted) in [
            ("a", "a"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a\"b", "'a\"b'"),
            ("a'b", "\"a'b\""),
            ("'\"", "\"'\\x22\""),
            ("a\\b", "a\\b"),
        ] {
            assert_eq!(quote(value), quoted);
        }
    }

    proptest! {
        #[test]
        fn tokens_are_the_line(line in "[ab\"' \\\\\n\té]{0,20}") {
            let all: String = tokens(&line).map(|token| token.text).collect();
            prop_assert_eq!(&all, &line);
            for token in tokens(&line) {
                prop_assert!(line.get(token.start..).unwrap().starts_with(token.text));
            }
        }

        #[test]
        fn a_quoted_value_is_one_word(value in "([ab\"' \\\\\n]|.){0,8}") {
            let words = words(&quote(&value));
            prop_assert_eq!(words.len(), 1);
            if value.contains('"') && value.contains('\'') {
                if !value.contains('\\') {
                    prop_assert_eq!(super::super::escape::decode_str(&words[0]), Ok(value));
                }
            } else {
                prop_assert_eq!(&words[0], &value);
            }
        }
    }
}
