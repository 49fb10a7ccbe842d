//! The filter language: `~m post & !(~d example\.com | ~s)`.
//!
//! mitmproxy's language, so that what people have typed for years means the same, with a few forms
//! accepted that look right and used to be syntax errors. [`parse()`] makes a [`Filter`]; it can be printed again,
//! read out in English, and asked about any source of [`Facts`]: a flow in memory or a record of a file.
//!
//! A filter can be asked early. The engine forwards a body as it arrives unless somebody must decide by
//! it, so whoever has a filter asks with the head of a message whether the answer is known already:
//! [`Filter::foresee`] answers yes, no or unknown, in three-valued logic.
//!
//! Nothing here reads a clock, a file or a socket; the only I/O is reading bodies that were stored.
//! What to do with a match is the business of the addons.

mod error;
mod eval;
mod expr;
mod known;
mod ops;
mod parse;
mod pattern;
mod pyre;
mod text;

use std::fmt;

use mitm_flow::Facts;

use self::eval::Evaluation;
pub use self::{
    error::{ParseError, ParseErrorKind},
    eval::MatchError,
    expr::Expr,
    known::{Horizon, Known, Needs, Tri},
    ops::{Field, Test, help},
    parse::{parse, parse_with},
    pattern::{Case, Pattern},
};

/// A parsed filter. Equal if the expressions are, however they were written.
#[derive(Clone, Debug)]
pub struct Filter {
    text: Box<str>,
    expr: Expr,
    needs: Needs,
}

impl Filter {
    pub(crate) fn new(text: &str, expr: Expr) -> Self {
        Self { text: text.into(), needs: eval::needs(&expr), expr }
    }

    /// The filter that matches every flow, `~all`.
    pub fn all() -> Self {
        Self::new("~all", Expr::Test(Test::All))
    }

    /// Returns the text it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn expr(&self) -> &Expr {
        &self.expr
    }

    /// Returns the English reading, such as `url matches /foo/i and not has response`.
    pub fn describe(&self) -> String {
        self.expr.describe()
    }

    /// Returns which facts the filter looks at.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// True if the flow, as it is now, matches. If that cannot be told a warning is logged and the answer is no.
    pub fn matches<F: Facts + ?Sized>(&self, facts: &F) -> bool {
        self.try_matches(facts).unwrap_or_else(|error| {
            tracing::warn!(filter = %self.text, "{error}");
            false
        })
    }

    /// Tells whether the flow, as it is now, matches.
    ///
    /// # Errors
    /// If that cannot be told: a pattern took too many steps, or a stored body cannot be read.
    pub fn try_matches<F: Facts + ?Sized>(&self, facts: &F) -> Result<bool, MatchError> {
        // What has not come yet is absent: the flow is judged as if it ended here.
        let evaluation = Evaluation::new(facts, Known::EVERYTHING, Horizon::Flow);
        match evaluation.answer(&self.expr) {
            Tri::Yes => Ok(true),
            Tri::No => Ok(false),
            // Only an error makes an answer unknown when everything is known.
            Tri::Unknown => evaluation.into_error().map_or(Ok(false), Err),
        }
    }

    /// Tells whether the flow will match at the `horizon`, as far as that is decided by what is `known`.
    ///
    /// The answer presumes that nobody edits what has arrived. It is unknown also where
    /// [`try_matches`](Self::try_matches) would fail.
    pub fn foresee<F: Facts + ?Sized>(&self, facts: &F, known: Known, horizon: Horizon) -> Tri {
        Evaluation::new(facts, known, horizon).answer(&self.expr)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.expr == other.expr
    }
}

impl Eq for Filter {}

/// Prints the expression in a canonical form that [`parse()`] accepts.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

impl std::str::FromStr for Filter {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text)
    }
}

/// For fuzzing: any text parses or fails with an error that can be shown, and what parses survives
/// printing.
///
/// # Panics
/// If a law is broken.
pub fn fuzz_filter(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match parse_with(&text, Case::Insensitive) {
        Ok(filter) => {
            let printed = filter.to_string();
            let again = parse_with(&printed, Case::Insensitive);
            assert_eq!(again.as_ref(), Ok(&filter), "printed as {printed}");
            let _ = filter.describe();
        }
        Err(error) => {
            assert!(text.is_char_boundary(error.offset().min(text.len())), "{error:?}");
            let _ = (error.to_string(), error.caret());
        }
    }
}
