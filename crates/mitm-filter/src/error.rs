//! [`ParseError`]: what is wrong with a filter, and where.

use std::fmt;

use thiserror::Error;

use crate::text;

/// How many characters of a line [`ParseError::caret`] shows.
const CARET_LINE_CHARS: usize = 76;

/// A filter that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ParseError {
    text: String,
    offset: usize,
    kind: ParseErrorKind,
}

/// Why a filter does not parse.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseErrorKind {
    #[error("there is no expression")]
    Empty,
    #[error("there is no operator ~{0}")]
    UnknownOperator(String),
    #[error("a blank must follow ~{0}")]
    Glued(String),
    #[error("~{code} needs {what}")]
    MissingArgument { code: &'static str, what: &'static str },
    #[error("an expression should be here")]
    MissingOperand,
    #[error("this parenthesis is never closed")]
    Unclosed,
    #[error("this parenthesis was never opened")]
    Unopened,
    #[error("inside of parentheses expressions are combined by & or |")]
    MissingCombinator,
    #[error("this quote is not closed on its line")]
    UnclosedQuote,
    #[error("bad regular expression: {0}")]
    Pattern(String),
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    #[error("it is nested more than {0} deep")]
    TooDeep(usize),
    #[error("it has more than {0} operators")]
    TooMany(usize),
}

impl ParseError {
    pub(crate) fn new(text: &str, offset: usize, kind: ParseErrorKind) -> Self {
        // An overlong text is not carried around.
        let text = if let ParseErrorKind::TooLong(_) = kind { "" } else { text };
        // A pattern over bytes may fail inside of a character.
        Self { text: text.to_owned(), offset: text.floor_char_boundary(offset), kind }
    }

    /// Returns the byte offset into the filter at which it stops making sense.
    pub fn offset(&self) -> usize {
        self.offset
    }

    pub fn kind(&self) -> &ParseErrorKind {
        &self.kind
    }

    /// Returns the line of the filter that has the error, and below it a line with a caret.
    /// Both are safe for a terminal and have at most some 80 characters.
    pub fn caret(&self) -> String {
        let before = self.text.get(..self.offset).unwrap_or_default();
        let after = self.text.get(self.offset..).unwrap_or_default();
        let head: Vec<char> = match before.rsplit('\n').next() {
            Some(line) => line.chars().collect(),
            None => Vec::new(),
        };
        // If the line is long, what is around the error.
        let skipped = head.len().saturating_sub(CARET_LINE_CHARS * 3 / 4);
        let head = head.into_iter().skip(skipped);
        let tail = after.split('\n').next().unwrap_or_default().chars();
        let mut line = String::new();
        let mut column = 0;
        if skipped > 0 {
            line.push('…');
            column += 1;
        }
        for c in head {
            line.push(visible(c));
            column += 1;
        }
        line.extend(tail.take(CARET_LINE_CHARS.saturating_sub(column)).map(visible));
        format!("{line}\n{:column$}^", "")
    }
}

fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// As mitmproxy words it, and then why.
impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ParseErrorKind::Empty => f.write_str("Empty filter expression"),
            ParseErrorKind::TooLong(_) => write!(f, "Invalid filter expression: {}", self.kind),
            kind => {
                let column = self.text.get(..self.offset).unwrap_or_default().chars().count() + 1;
                write!(f, "Invalid filter expression: ")?;
                text::write_str_repr(&self.text, f)?;
                write!(f, " (at character {column}: {kind})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str, offset: usize) -> ParseError {
        ParseError::new(text, offset, ParseErrorKind::MissingOperand)
    }

    #[test]
    fn the_message_names_text_place_and_reason() {
        assert_eq!(
            error("~q & 'é' (", 11).to_string(),
            "Invalid filter expression: \"~q & 'é' (\" (at character 11: an expression should be here)"
        );
        let empty = ParseError::new("", 0, ParseErrorKind::Empty);
        assert_eq!(empty.to_string(), "Empty filter expression");
    }

    #[test]
    fn the_caret_stands_below_the_error() {
        assert_eq!(error("~q & (", 5).caret(), "~q & (\n     ^");
        assert_eq!(error("one\ntwo é x\nthree", 10).caret(), "two é x\n     ^");
        assert_eq!(error("", 0).caret(), "\n^");
        assert_eq!(error("a\x1b[31m\tb", 7).caret(), "a\u{FFFD}[31m b\n       ^");
    }

    #[test]
    fn long_lines_are_cut_around_the_error() {
        let text = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let caret = error(&text, 500).caret();
        let (line, below) = caret.split_once('\n').unwrap();
        assert!(line.chars().count() <= 80);
        assert_eq!(line.chars().position(|c| c == 'X'), below.chars().position(|c| c == '^'));
    }
}
