//! Python's `re`, on top of the engines that Rust has.
//!
//! People write filters in the dialect of Python, so that is what is parsed here ([`mod@parse`]), into a
//! tree that has no flags left: each leaf says by itself whether it ignores case, crosses lines and
//! so on. The tree is written out ([`mod@emit`]) in the syntax of one of two engines:
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
mod tree;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use thiserror::Error;

pub(crate) use self::parse::SyntaxError;
use self::{
    emit::{Boundary, Dialect, Emitted},
    tree::{Case, Node, Tree},
};

/// The largest program, in bytes, that a pattern may compile to.
const PROGRAM_SIZE_BYTES: usize = 16 << 20;
/// The most instructions of a backtracking program.
const BACKTRACKING_INSTRUCTIONS: usize = 200_000;
/// The most steps back in one search per byte of the text: there may be some at each place, and a search
/// that is given up has cost some microseconds per byte.
const STEPS_PER_BYTE: usize = 8;
/// The length of text that the limit of the first program is for.
const FIRST_TEXT_BYTES: usize = 256 << 10;
/// For longer texts there are programs with larger limits, made when needed: each for twice the length.
const LONGER_TEXTS: usize = 10;

/// What surrounds a pattern: what the caller of Python's `re.compile` would say by type and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of Python's re")]
pub(crate) struct Settings {
    /// A `bytes` pattern: each byte of its UTF-8 form is a unit of its own, and letters are ASCII.
    pub bytes: bool,
    pub ignore_case: bool,
    pub multi_line: bool,
    pub dot_all: bool,
    /// `$` of multi-line mode also matches before CRLF.
    pub crlf: bool,
}

/// Up to this length a literal is looked for without the engine, which takes longer to set up.
const SHORT_TEXT_BYTES: usize = 64;

/// A compiled pattern.
#[derive(Clone)]
pub(crate) struct Program {
    engine: Engine,
    /// The pattern, if it is nothing but ASCII characters.
    literal: Option<Literal>,
    /// The same with word boundaries exactly as Python has them, for text beyond ASCII: to
    /// `regex`, combining marks belong to words.
    exact: Option<Box<Engine>>,
}

#[derive(Clone)]
struct Literal {
    bytes: Box<[u8]>,
    ignore_case: bool,
    /// Some of its letters are the same as letters beyond ASCII.
    ascii_text_only: bool,
}

#[derive(Clone)]
enum Engine {
    Linear(regex::bytes::Regex),
    Backtracking(Box<Backtracking>),
}

/// A backtracking program. The engine fixes the limit of steps when it compiles.
#[derive(Clone)]
struct Backtracking {
    emitted: Emitted,
    bytes: bool,
    first: fancy_regex::Regex,
    longer: Arc<[OnceLock<Option<fancy_regex::Regex>>; LONGER_TEXTS]>,
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
        Ok(Self { engine, literal: Literal::of(&tree.node), exact })
    }

    /// True if the pattern matches anywhere in `text`, which is UTF-8 unless this is a bytes pattern.
    pub(crate) fn search(&self, text: &[u8]) -> Result<bool, GaveUp> {
        if text.len() <= SHORT_TEXT_BYTES
            && let Some(literal) = &self.literal
            && (!literal.ascii_text_only || text.is_ascii())
        {
            return Ok(literal.is_in(text));
        }
        match &self.exact {
            Some(exact) if !text.is_ascii() => exact.search(text),
            _ => self.engine.search(text),
        }
    }
}

impl Literal {
    fn of(node: &Node) -> Option<Self> {
        let nodes = match node {
            Node::Concat(nodes) => nodes.as_slice(),
            Node::Unit(..) => std::slice::from_ref(node),
            _ => return None,
        };
        let mut bytes = Vec::with_capacity(nodes.len());
        let mut cases = nodes.iter().map(|node| match node {
            Node::Unit(unit, case) => {
                bytes.push(u8::try_from(*unit).ok().filter(u8::is_ascii)?);
                Some(*case)
            }
            _ => None,
        });
        let case = cases.next()??;
        if !cases.all(|other| other == Some(case)) {
            return None;
        }
        Some(Self {
            bytes: bytes.into(),
            ignore_case: case != Case::Exact,
            ascii_text_only: case == Case::Unicode,
        })
    }

    fn is_in(&self, text: &[u8]) -> bool {
        let mut windows = text.windows(self.bytes.len());
        if self.ignore_case {
            windows.any(|window| window.eq_ignore_ascii_case(&self.bytes))
        } else {
            windows.any(|window| *window == *self.bytes)
        }
    }
}

impl Engine {
    fn search(&self, text: &[u8]) -> Result<bool, GaveUp> {
        match self {
            Self::Linear(regex) => Ok(regex.is_match(text)),
            Self::Backtracking(program) => program.search(text),
        }
    }
}

impl Backtracking {
    fn new(emitted: Emitted, bytes: bool) -> Result<Self, fancy_regex::Error> {
        let first = Self::compile(&emitted, bytes, FIRST_TEXT_BYTES)?;
        Ok(Self { emitted, bytes, first, longer: Arc::default() })
    }

    fn compile(
        emitted: &Emitted,
        bytes: bool,
        text_len: usize,
    ) -> Result<fancy_regex::Regex, fancy_regex::Error> {
        let mut builder = fancy_regex::RegexBuilder::new(&emitted.pattern);
        builder
            .case_insensitive(emitted.ignore_case)
            .backtrack_limit(text_len.saturating_mul(STEPS_PER_BYTE))
            .delegate_size_limit(PROGRAM_SIZE_BYTES)
            .max_prog_size(BACKTRACKING_INSTRUCTIONS);
        if bytes {
            builder.bytes_mode(fancy_regex::BytesMode::Ascii);
        }
        builder.build()
    }

    fn search(&self, text: &[u8]) -> Result<bool, GaveUp> {
        let regex = self.regex_for(text.len());
        let found = if self.bytes {
            regex.is_match(text)
        } else {
            regex.is_match(&*String::from_utf8_lossy(text))
        };
        found.map_err(|error| GaveUp(error.to_string()))
    }

    fn regex_for(&self, len: usize) -> &fancy_regex::Regex {
        let mut text_len = FIRST_TEXT_BYTES;
        let mut slot = None;
        for longer in self.longer.iter() {
            if len <= text_len {
                break;
            }
            text_len *= 2;
            slot = Some(longer);
        }
        let Some(slot) = slot else { return &self.first };
        let regex = slot.get_or_init(|| Self::compile(&self.emitted, self.bytes, text_len).ok());
        regex.as_ref().unwrap_or(&self.first)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.engine {
            Engine::Linear(regex) => regex.fmt(f),
            Engine::Backtracking(program) => program.first.fmt(f),
        }
    }
}

fn compile(tree: &Tree, settings: Settings, boundary: Boundary) -> Result<Engine, SyntaxError> {
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
    match Backtracking::new(emitted, settings.bytes) {
        Ok(program) => Ok(Engine::Backtracking(Box::new(program))),
        Err(error) => Err(refused(last_line(&error.to_string()))),
    }
}

/// The engines draw the translated pattern, which the user never wrote, above what they say.
fn last_line(message: &str) -> String {
    let line = message.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests;
