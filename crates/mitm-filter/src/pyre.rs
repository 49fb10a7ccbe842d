//! Python's `re`, on top of the engines that Rust has.
//!
//! People write filters in the dialect of Python, so that is what is parsed here ([`parse`]), into a
//! tree that has no flags left: each leaf says by itself whether it ignores case, crosses lines and
//! so on. The tree is written out ([`emit`]) in the syntax of one of two engines:
//!
//! 1. `regex`, linear in the length of the text, whenever the pattern allows;
//! 2. `fancy-regex`, which backtracks, for look-around, back-references, conditionals, atomic groups and
//!    `$` in the middle. Its number of steps is limited, and reaching the limit is an *error*:
//!    nobody knows whether such a text matches.
//!
//! Only "does it match somewhere" is asked, never where, which is what makes it right to write the `$` at
//! the end of a pattern as one that consumes the last line feed.
//!
//! Not supported: `\N{NAME}`. Unicode's letters and case pairs are those of Rust's tables,
//! which may be of another Unicode version than Python's.

mod emit;
mod parse;

use std::{borrow::Cow, fmt};

use thiserror::Error;

use self::emit::{Boundary, Dialect};
pub(crate) use self::parse::SyntaxError;

/// The largest program, in bytes, that a pattern may compile to.
const PROGRAM_SIZE_BYTES: usize = 16 << 20;
/// The most instructions of a backtracking program.
const BACKTRACKING_INSTRUCTIONS: usize = 200_000;
/// The most steps back in one search, tenths of a second at worst.
const BACKTRACK_LIMIT: usize = 20_000_000;

/// What surrounds a pattern: what the caller of Python's `re.compile` would say by type and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// A `bytes` pattern: each byte of its UTF-8 form is a unit of its own, and letters are ASCII.
    pub bytes: bool,
    pub ignore_case: bool,
    pub multi_line: bool,
    pub dot_all: bool,
    /// `$` of multi-line mode also matches before CRLF.
    pub crlf: bool,
}

/// A compiled pattern.
#[derive(Clone)]
pub(crate) struct Program {
    engine: Engine,
    /// The same with word boundaries exactly as Python has them, for text beyond ASCII: to
    /// `regex`, combining marks belong to words.
    exact: Option<Box<Engine>>,
}

#[derive(Clone)]
enum Engine {
    Linear(regex::bytes::Regex),
    Text(fancy_regex::Regex),
    Bytes(fancy_regex::Regex),
}

/// A search that was given up.
#[derive(Clone, Debug, Error)]
#[error("gave up matching: {0}")]
pub(crate) struct GaveUp(String);

impl Program {
    pub(crate) fn new(pattern: &str, settings: Settings) -> Result<Self, SyntaxError> {
        let tree = parse::parse(pattern, settings)?;
        let engine = compile(&tree, settings, Boundary::Native)?;
        let exact = if tree.text_boundaries {
            Some(Box::new(compile(&tree, settings, Boundary::Spelled)?))
        } else {
            None
        };
        Ok(Self { engine, exact })
    }

    /// True if the pattern matches anywhere in `text`, which is UTF-8 unless this is a bytes pattern.
    pub(crate) fn search(&self, text: &[u8]) -> Result<bool, GaveUp> {
        match &self.exact {
            Some(exact) if !text.is_ascii() => exact.search(text),
            _ => self.engine.search(text),
        }
    }
}

impl Engine {
    fn search(&self, text: &[u8]) -> Result<bool, GaveUp> {
        match self {
            Self::Linear(regex) => Ok(regex.is_match(text)),
            Self::Bytes(regex) => regex.is_match(text).map_err(|error| GaveUp(error.to_string())),
            Self::Text(regex) => {
                let text: Cow<'_, str> = String::from_utf8_lossy(text);
                regex.is_match(&*text).map_err(|error| GaveUp(error.to_string()))
            }
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.engine {
            Engine::Linear(regex) => regex.fmt(f),
            Engine::Text(regex) | Engine::Bytes(regex) => regex.fmt(f),
        }
    }
}

fn compile(
    tree: &parse::Tree,
    settings: Settings,
    boundary: Boundary,
) -> Result<Engine, SyntaxError> {
    let refused = |error: String| SyntaxError { at: 0, message: error };
    if let Some(emitted) = emit::emit(tree, settings, Dialect::Linear, boundary) {
        return regex::bytes::RegexBuilder::new(&emitted.pattern)
            .unicode(!settings.bytes)
            .case_insensitive(emitted.ignore_case)
            .size_limit(PROGRAM_SIZE_BYTES)
            .build()
            .map(Engine::Linear)
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => refused("the pattern is too large".to_owned()),
                other => refused(last_line(&other.to_string())),
            });
    }
    let Some(emitted) = emit::emit(tree, settings, Dialect::Backtracking, boundary) else {
        return Err(refused("the pattern is not supported".to_owned()));
    };
    let mut builder = fancy_regex::RegexBuilder::new(&emitted.pattern);
    builder
        .case_insensitive(emitted.ignore_case)
        .backtrack_limit(BACKTRACK_LIMIT)
        .delegate_size_limit(PROGRAM_SIZE_BYTES)
        .max_prog_size(BACKTRACKING_INSTRUCTIONS);
    if settings.bytes {
        builder.bytes_mode(fancy_regex::BytesMode::Ascii);
    }
    let regex = builder.build().map_err(|error| refused(last_line(&error.to_string())))?;
    Ok(if settings.bytes { Engine::Bytes(regex) } else { Engine::Text(regex) })
}

/// The engines draw the translated pattern, which the user never wrote, above what they say.
fn last_line(message: &str) -> String {
    let line = message.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests;
