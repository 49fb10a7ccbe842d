//! [`Expr`]: the tree of a filter, printed in its own language and in English.

use std::fmt::{self, Write as _};

use crate::{
    ops::{self, Field, Test},
    pattern::Pattern,
};

/// A filter expression. `And` and `Or` have two children or more, evaluated left to right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Test(Test),
    /// `~c`: a number too large for any status code stands for itself in that it matches none.
    Code(u64),
    Match(Field, Pattern),
}

impl Expr {
    /// Returns the English reading, such as `url matches /foo/i and not has response`.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        self.describe_to(&mut out);
        out
    }

    fn describe_to(&self, out: &mut String) {
        match self {
            Self::Not(inner) => {
                out.push_str("not ");
                inner.describe_child(out);
            }
            Self::And(children) | Self::Or(children) => {
                let word = if matches!(self, Self::And(_)) { " and " } else { " or " };
                for (i, child) in children.iter().enumerate() {
                    if i > 0 {
                        out.push_str(word);
                    }
                    child.describe_child(out);
                }
            }
            Self::Test(test) => out.push_str(test.entry().reading),
            Self::Code(code) => {
                let _ = write!(out, "response code is {code}");
            }
            Self::Match(field, pattern) => {
                let _ = write!(out, "{} matches {pattern:?}", field.entry().reading);
            }
        }
    }

    fn describe_child(&self, out: &mut String) {
        if self.is_list() {
            out.push('(');
            self.describe_to(out);
            out.push(')');
        } else {
            self.describe_to(out);
        }
    }

    fn is_list(&self) -> bool {
        matches!(self, Self::And(_) | Self::Or(_))
    }
}

/// Prints what [`parse()`](crate::parse()) reads as the same tree.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Not(inner) => {
                f.write_char('!')?;
                fmt_child(inner, f)
            }
            Self::And(children) | Self::Or(children) => {
                let sign = if matches!(self, Self::And(_)) { " & " } else { " | " };
                for (i, child) in children.iter().enumerate() {
                    if i > 0 {
                        f.write_str(sign)?;
                    }
                    fmt_child(child, f)?;
                }
                Ok(())
            }
            Self::Test(test) => write!(f, "~{}", test.entry().code),
            Self::Code(code) => write!(f, "~{} {code}", ops::CODE),
            Self::Match(field, pattern) => {
                write!(f, "~{} ", field.entry().code)?;
                fmt_argument(pattern.source(), f)
            }
        }
    }
}

fn fmt_child(child: &Expr, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if child.is_list() { write!(f, "({child})") } else { write!(f, "{child}") }
}

/// A word if it can be one, else quoted. Doubles each backslash, so that mitmproxy reads it the same.
fn fmt_argument(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !text.is_empty() && text.chars().all(is_word_char) {
        return f.write_str(text);
    }
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\t' => f.write_str("\\t")?,
            '\n' => f.write_str("\\n")?,
            other => f.write_char(other)?,
        }
    }
    f.write_char('"')
}

/// True for the characters that make up an argument without quotes.
pub(crate) fn is_word_char(c: char) -> bool {
    !matches!(c, '(' | ')' | '~' | '\'' | '"' | ' ' | '\t' | '\r' | '\n')
}
