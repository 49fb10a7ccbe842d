//! What is wrong with a flow's state, and [`ReadError`], which says where in the file.

use std::{borrow::Cow, fmt, io};

use thiserror::Error;

use crate::tnetstring::{Problem, Span, TnetError};

/// A part of a record that is not as it must be.
#[derive(Debug)]
pub(crate) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    /// Offset in the record.
    at: usize,
    /// The keys that lead to it.
    path: String,
    what: What,
}

/// The ways a part can be wrong.
#[derive(Debug)]
pub(crate) enum What {
    Notation(Problem),
    Missing(&'static str),
    Unknown(String),
    Expected(&'static str),
    NoChoice { found: String, choices: &'static [&'static str] },
    Range { found: i64, max: i64 },
    Stored(io::Error),
    TooLarge { len: u64 },
}

impl What {
    pub(crate) fn unknown(name: &[u8]) -> Self {
        Self::Unknown(shortened(name))
    }
}

impl From<Problem> for What {
    fn from(problem: Problem) -> Self {
        Self::Notation(problem)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Notation(problem) => problem.fmt(f),
            Self::Missing(key) => write!(f, "the key \"{key}\" is missing"),
            Self::Unknown(key) => write!(f, "unknown key \"{key}\""),
            Self::Expected(what) => write!(f, "expected {what}"),
            Self::NoChoice { found, choices } => {
                let found = shortened(found.as_bytes());
                write!(f, "\"{found}\" is not one of {}", choices.join(", "))
            }
            Self::Range { found, max } => write!(f, "{found} is not between 0 and {max}"),
            Self::Stored(error) => write!(f, "the file cannot be read again: {error}"),
            Self::TooLarge { len } => write!(f, "{len} bytes are too much for this value"),
        }
    }
}

impl Fault {
    #[cold]
    pub(crate) fn new(span: Span, what: What) -> Self {
        Self(Box::new(Inner { at: span.start as usize, path: String::new(), what }))
    }

    /// Adds the key that the faulty part was found under.
    #[must_use]
    pub(crate) fn within(mut self, key: &str) -> Self {
        if !self.0.path.is_empty() {
            self.0.path.insert(0, '.');
        }
        self.0.path.insert_str(0, key);
        self
    }

    pub(crate) fn at(&self) -> usize {
        self.0.at
    }
}

impl From<TnetError> for Fault {
    #[cold]
    fn from(error: TnetError) -> Self {
        let what = What::Notation(error.problem);
        Self(Box::new(Inner { at: error.at, path: String::new(), what }))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.path.is_empty() {
            write!(f, "{}: ", self.0.path)?;
        }
        self.0.what.fmt(f)
    }
}

/// Returns text from a file as it can be shown: short and without control characters.
pub(crate) fn shortened(text: &[u8]) -> String {
    const LIMIT: usize = 60;
    let cut = text.get(..LIMIT);
    let shown = String::from_utf8_lossy(cut.unwrap_or(text));
    let mut shown: String = shown.chars().flat_map(char::escape_debug).collect();
    if cut.is_some() {
        shown.push('…');
    }
    shown
}

/// A flow file could not be read any further, or one of its flows is not valid.
#[derive(Debug, Error)]
#[error("{kind} (record at byte {offset})")]
pub struct ReadError {
    /// Where in the input the record begins that could not be read.
    pub offset: u64,
    pub kind: ReadErrorKind,
}

/// The reasons of a [`ReadError`].
#[derive(Debug, Error)]
pub enum ReadErrorKind {
    #[error("cannot read the flow file: {0}")]
    Io(#[source] io::Error),
    /// The input does not begin like a flow file.
    #[error("this is not a flow file: {0}")]
    NotAFlowFile(Problem),
    /// What follows is lost: the end of the record cannot be told.
    #[error("invalid data format: {0}")]
    Framing(Problem),
    #[error("HAR files cannot be imported yet, only flow files can be read")]
    Har,
    #[error("invalid flow: expected a dict")]
    NotADict,
    #[error("invalid data format: a flow without a version")]
    NoVersion,
    #[error("mitm-rs {} cannot read files with flow format version {version}{}",
        env!("CARGO_PKG_VERSION"), if *newer { "; a newer release may" } else { "" })]
    Version { version: String, newer: bool },
    #[error("unknown flow type: {0}")]
    Type(String),
    /// A key is missing or unknown, or a value has the wrong type.
    #[error("invalid flow: {message} at byte {at}")]
    State { at: u64, message: Cow<'static, str> },
    /// The record cannot be held in memory, and the input is not a file that could be read again.
    #[error("a flow of {len} bytes is too large to be read from a pipe; give the file by name")]
    TooLarge { len: u64 },
    /// What must be in memory of the record is too much.
    #[error("a flow of {len} bytes needs more memory than the limit of {limit} bytes")]
    OverLimit { len: u64, limit: u64 },
}

impl ReadError {
    pub(crate) fn new(offset: u64, kind: ReadErrorKind) -> Self {
        Self { offset, kind }
    }

    #[cold]
    pub(crate) fn state(offset: u64, fault: &Fault) -> Self {
        let at = offset + fault.at() as u64;
        Self::new(offset, ReadErrorKind::State { at, message: fault.to_string().into() })
    }

    /// True if the records after this one can still be read: the reader stands at the next one.
    pub fn is_recoverable(&self) -> bool {
        match &self.kind {
            ReadErrorKind::NotADict
            | ReadErrorKind::NoVersion
            | ReadErrorKind::Version { .. }
            | ReadErrorKind::Type(_)
            | ReadErrorKind::State { .. } => true,
            ReadErrorKind::Io(_)
            | ReadErrorKind::NotAFlowFile(_)
            | ReadErrorKind::Framing(_)
            | ReadErrorKind::Har
            | ReadErrorKind::TooLarge { .. }
            | ReadErrorKind::OverLimit { .. } => false,
        }
    }
}
