//! [`Pattern`]: the regular expression of an operator.

use std::{fmt, sync::OnceLock};

use crate::{
    eval::MatchError,
    ops::{Field, Style},
    pyre::{GaveUp, Program, Settings, SyntaxError},
};

/// Whether filters mind upper and lower case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Case {
    #[default]
    Insensitive,
    Sensitive,
}

impl Case {
    /// The environment variable that, set to 1, makes filters case-sensitive.
    pub const VARIABLE: &'static str = "MITMPROXY_CASE_SENSITIVE_FILTERS";

    /// Returns what the environment asked for when this was first called.
    pub fn from_env() -> Self {
        static CASE: OnceLock<Case> = OnceLock::new();
        *CASE.get_or_init(|| match std::env::var(Self::VARIABLE) {
            Ok(value) if value == "1" => Self::Sensitive,
            _ => Self::Insensitive,
        })
    }
}

/// A compiled regular expression in Python's syntax, with its source. Equal if source and flags are.
#[derive(Clone)]
pub struct Pattern {
    source: Box<str>,
    settings: Settings,
    program: Program,
}

impl Pattern {
    pub(crate) fn new(source: &str, field: Field, case: Case) -> Result<Self, SyntaxError> {
        let style = field.entry().style;
        let settings = Settings {
            bytes: matches!(style, Style::Bytes | Style::Blob | Style::HeaderLines),
            ignore_case: case == Case::Insensitive,
            multi_line: matches!(style, Style::Lines | Style::HeaderLines),
            dot_all: style == Style::Blob,
            crlf: style == Style::HeaderLines,
        };
        Ok(Self { source: source.into(), settings, program: Program::new(source, settings)? })
    }

    /// Compiles an expression that stands by itself and not in a filter: for text, dot and anchors as Python has them
    /// without flags.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn standalone(source: &str, case: Case) -> Result<Self, String> {
        let settings = Settings {
            bytes: false,
            ignore_case: case == Case::Insensitive,
            multi_line: false,
            dot_all: false,
            crlf: false,
        };
        let program = Program::new(source, settings).map_err(|error| error.message)?;
        Ok(Self { source: source.into(), settings, program })
    }

    /// True if the expression matches somewhere in `text`.
    ///
    /// # Errors
    /// It took too many steps to tell.
    pub fn is_match(&self, text: &str) -> Result<bool, MatchError> {
        self.search(text.as_bytes()).map_err(|gave_up| MatchError::GaveUp {
            pattern: format!("{self:?}"),
            reason: gave_up.to_string(),
        })
    }

    /// Returns the expression as the filter had it, quotes and their escapes removed.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn search(&self, text: &[u8]) -> Result<bool, GaveUp> {
        self.program.search(text)
    }

    /// The letters of Python's flags that are on.
    pub(crate) fn flags(&self) -> impl Iterator<Item = char> {
        [
            (self.settings.ignore_case, 'i'),
            (self.settings.multi_line, 'm'),
            (self.settings.dot_all, 's'),
        ]
        .into_iter()
        .filter_map(|(on, letter)| on.then_some(letter))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.settings == other.settings
    }
}

impl Eq for Pattern {}

/// As in the English reading: `/source/flags`.
impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/{}", self.source, self.flags().collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_can_stand_by_itself() {
        let matches = |source: &str, text| {
            Pattern::standalone(source, Case::Insensitive).unwrap().is_match(text).unwrap()
        };
        assert!(matches(r"^(.+\.)?Example\.com:443$", "www.example.COM:443"));
        assert!(!matches(r"^(.+\.)?example\.com:443$", "example.com:4430"));
        assert!(matches(r"^(?!example\.com)(?!mitmproxy\.org)", "other.test:80"));
        assert!(!matches(r"^(?!example\.com)(?!mitmproxy\.org)", "mitmproxy.org:80"));
        assert!(Pattern::standalone("(", Case::Insensitive).is_err());
    }
}
