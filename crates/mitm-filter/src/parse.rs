//! The parser.
//!
//! ```text
//! filter  := or+                       # side by side: and, which binds least
//! or      := and ( "|" and )*
//! and     := not ( "&" not )*
//! not     := "!" not | primary
//! primary := "(" or ")" | "~" CODE | "~" CODE regex | "~c" DIGITS | regex
//! regex   := WORD | '"' … '"' | "'" … "'"
//! ```
//!
//! Blanks may stand between all of them. `&`, `|` and `!` are operators only where one is expected and an
//! operand follows, and otherwise belong to words: `foo|bar` is one word, a lone `&` is a regular
//! expression, and in `foo &` that is what the `&` is. So the rules above are tried in order, and
//! a rule that fails after an operator sign gives the sign back.
//!
//! More than mitmproxy, this accepts `(`, `)`, `&`, `|` and `!` right after an operator without argument,
//! as in `(~q)`, and keeps a backslash inside of quotes unless it is one of `\" \' \\ \t \n`.

use crate::{
    Filter,
    error::{ParseError, ParseErrorKind as Kind},
    expr::{Expr, is_word_char},
    ops::{CODE, FIELDS, Field, TESTS},
    pattern::{Case, Pattern},
};

/// The longest filter that is parsed.
const MAX_LEN_BYTES: usize = 1 << 20;
/// How deeply parentheses and negations may nest: the parser and all that walk the tree recurse.
const MAX_DEPTH: usize = 200;
/// The most operators in one filter; each regular expression takes memory.
const MAX_TERMS: usize = 10_000;

/// Parses a filter expression.
///
/// # Errors
/// If the text is empty or not a filter; the error knows why and where.
///
/// ```
/// let filter = mitm_filter::parse("~m post & !(~d example\\.com | ~s)").unwrap();
/// assert_eq!(
///     filter.describe(),
///     r"method matches /post/i and not (domain matches /example\.com/i or has response)"
/// );
///
/// let error = mitm_filter::parse("~m post & ~nope").unwrap_err();
/// assert_eq!(error.offset(), 10);
/// assert_eq!(error.caret(), "~m post & ~nope\n          ^");
/// ```
pub fn parse(text: &str) -> Result<Filter, ParseError> {
    parse_with(text, Case::from_env())
}

/// Parses a filter expression whose patterns mind case or not, whatever the environment says.
///
/// # Errors
/// As [`parse()`].
pub fn parse_with(text: &str, case: Case) -> Result<Filter, ParseError> {
    if text.is_empty() {
        return Err(ParseError::new(text, 0, Kind::Empty));
    }
    if text.len() > MAX_LEN_BYTES {
        return Err(ParseError::new(text, 0, Kind::TooLong(MAX_LEN_BYTES)));
    }
    let mut parser = Parser { text, pos: 0, case, depth: 0, terms: 0, furthest: None };
    match parser.filter() {
        Ok(expr) => Ok(Filter::new(text, expr)),
        Err(Failure::Final(offset, kind)) => Err(ParseError::new(text, offset, kind)),
        Err(Failure::NoMatch) => {
            let (offset, kind) = parser.furthest.unwrap_or((0, Kind::MissingOperand));
            Err(ParseError::new(text, offset, kind))
        }
    }
}

enum Failure {
    /// Another rule may fit; [`Parser::furthest`] says what was missing.
    NoMatch,
    /// No rule can make sense of it.
    Final(usize, Kind),
}

type Parsed<T> = Result<T, Failure>;

struct Parser<'a> {
    text: &'a str,
    pos: usize,
    case: Case,
    depth: usize,
    terms: usize,
    /// The failure furthest into the text: usually the one that the user can act on.
    furthest: Option<(usize, Kind)>,
}

impl<'a> Parser<'a> {
    fn filter(&mut self) -> Parsed<Expr> {
        let mut children = Vec::new();
        loop {
            let before = self.pos;
            match self.or() {
                Ok(child) => children.push(child),
                Err(Failure::NoMatch) => {
                    self.pos = before;
                    break;
                }
                Err(failure) => return Err(failure),
            }
            self.skip_blanks();
            if self.rest().is_empty() {
                break;
            }
        }
        self.skip_blanks();
        if self.rest().starts_with(')') {
            self.forget_misses_here();
            self.miss(self.pos, Kind::Unopened);
        }
        if !self.rest().is_empty() {
            return Err(Failure::NoMatch);
        }
        one_or(children, Expr::And).ok_or(Failure::NoMatch)
    }

    fn or(&mut self) -> Parsed<Expr> {
        self.chain('|', Self::and, Expr::Or)
    }

    fn and(&mut self) -> Parsed<Expr> {
        self.chain('&', Self::not, Expr::And)
    }

    fn chain(
        &mut self,
        sign: char,
        operand: impl Fn(&mut Self) -> Parsed<Expr>,
        combine: impl Fn(Vec<Expr>) -> Expr,
    ) -> Parsed<Expr> {
        let mut children = vec![operand(self)?];
        loop {
            let before = self.pos;
            self.skip_blanks();
            if !self.eat(sign) {
                self.pos = before;
                break;
            }
            match operand(self) {
                Ok(child) => children.push(child),
                Err(Failure::NoMatch) => {
                    self.pos = before;
                    break;
                }
                Err(failure) => return Err(failure),
            }
        }
        one_or(children, combine).ok_or(Failure::NoMatch)
    }

    fn not(&mut self) -> Parsed<Expr> {
        self.skip_blanks();
        let start = self.pos;
        if self.eat('!') {
            self.enter()?;
            let inner = self.not();
            self.depth -= 1;
            match inner {
                Ok(inner) => return Ok(Expr::Not(Box::new(inner))),
                Err(Failure::NoMatch) => self.pos = start,
                Err(failure) => return Err(failure),
            }
        }
        self.primary()
    }

    fn primary(&mut self) -> Parsed<Expr> {
        self.skip_blanks();
        let start = self.pos;
        if self.eat('(') {
            self.enter()?;
            let inner = self.or();
            self.depth -= 1;
            let inner = inner?;
            self.skip_blanks();
            if self.eat(')') {
                return Ok(inner);
            }
            if self.rest().is_empty() {
                return self.no_match(start, Kind::Unclosed);
            }
            self.forget_misses_here();
            return self.no_match(self.pos, Kind::MissingCombinator);
        }
        if self.eat('~') {
            return self.operator(start);
        }
        let Some((source, inner)) = self.argument()? else {
            return self.no_match(start, Kind::MissingOperand);
        };
        self.pattern(Field::Url, &source, &inner)
    }

    /// Reads an operator after its `~`, which is at `start`.
    fn operator(&mut self, start: usize) -> Parsed<Expr> {
        let len = self.rest().bytes().take_while(u8::is_ascii_alphanumeric).count();
        let code = self.rest().get(..len).unwrap_or_default();
        self.pos += len;
        let next = self.rest().chars().next();
        let test = TESTS.iter().find(|entry| entry.code == code);
        let field = FIELDS.iter().find(|entry| entry.code == code);
        if test.is_none() && field.is_none() && code != CODE {
            return self.no_match(start, Kind::UnknownOperator(shortened(code)));
        }
        let glued = next.is_some_and(|c| c.is_ascii_graphic());
        let allowed = test.is_some() && next.is_some_and(|c| "()&|!".contains(c));
        if glued && !allowed {
            return self.no_match(self.pos, Kind::Glued(code.to_owned()));
        }
        self.count_term(start)?;
        if let Some(entry) = test {
            return Ok(Expr::Test(entry.test));
        }
        self.skip_blanks();
        let Some(entry) = field else { return self.code() };
        let Some((source, inner)) = self.argument()? else {
            let what = "a regular expression";
            return self.no_match(self.pos, Kind::MissingArgument { code: entry.code, what });
        };
        self.pattern(entry.field, &source, &inner)
    }

    fn code(&mut self) -> Parsed<Expr> {
        let len = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let digits = self.rest().get(..len).unwrap_or_default();
        if digits.is_empty() {
            let what = "a number";
            return self.no_match(self.pos, Kind::MissingArgument { code: CODE, what });
        }
        self.pos += len;
        Ok(Expr::Code(digits.parse().unwrap_or(u64::MAX)))
    }

    /// Reads a word or a quoted string. Returns its source and what it stands for.
    fn argument(&mut self) -> Parsed<Option<(Source<'a>, String)>> {
        let start = self.pos;
        let rest = self.rest();
        let Some(quote @ ('"' | '\'')) = rest.chars().next() else {
            let len = rest.find(|c| !is_word_char(c)).unwrap_or(rest.len());
            let Some(word) = rest.get(..len).filter(|word| !word.is_empty()) else {
                return Ok(None);
            };
            self.pos += len;
            return Ok(Some((Source { start, raw: word, quoted: false }, word.to_owned())));
        };
        let inside = rest.get(1..).unwrap_or_default();
        let mut escaped = false;
        for (at, c) in inside.char_indices() {
            match c {
                '\n' | '\r' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    let raw = inside.get(..at).unwrap_or_default();
                    self.pos = start + 1 + at + 1;
                    let source = Source { start: start + 1, raw, quoted: true };
                    let text = unquote(raw).map(|(_, c)| c).collect();
                    return Ok(Some((source, text)));
                }
                _ => {}
            }
        }
        self.no_match(start, Kind::UnclosedQuote)
    }

    fn pattern(&mut self, field: Field, source: &Source<'_>, text: &str) -> Parsed<Expr> {
        self.count_term(source.start)?;
        match Pattern::new(text, field, self.case) {
            Ok(pattern) => Ok(Expr::Match(field, pattern)),
            Err(error) => {
                Err(Failure::Final(source.offset(error.at), Kind::Pattern(error.message)))
            }
        }
    }

    fn count_term(&mut self, at: usize) -> Parsed<()> {
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(Failure::Final(at, Kind::TooMany(MAX_TERMS)));
        }
        Ok(())
    }

    fn enter(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Failure::Final(self.pos, Kind::TooDeep(MAX_DEPTH)));
        }
        Ok(())
    }

    fn no_match<T>(&mut self, at: usize, kind: Kind) -> Parsed<T> {
        self.miss(at, kind);
        Err(Failure::NoMatch)
    }

    /// Notes what was missing, unless the parser already got further.
    fn miss(&mut self, at: usize, kind: Kind) {
        if self.furthest.as_ref().is_none_or(|(offset, _)| *offset < at) {
            self.furthest = Some((at, kind));
        }
    }

    /// Makes room for a better reason than those of the rules tried at this place.
    fn forget_misses_here(&mut self) {
        self.furthest = self.furthest.take().filter(|(offset, _)| *offset > self.pos);
    }

    fn skip_blanks(&mut self) {
        let blanks = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
        self.pos += self.rest().bytes().take_while(blanks).count();
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        self.pos += if found { wanted.len_utf8() } else { 0 };
        found
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.pos..).unwrap_or_default()
    }
}

/// An argument as it stands in the filter.
struct Source<'a> {
    /// Where `raw` begins.
    start: usize,
    /// Without the quotes.
    raw: &'a str,
    quoted: bool,
}

impl Source<'_> {
    /// Returns the place in the filter of byte `at` of what the argument stands for.
    fn offset(&self, at: usize) -> usize {
        if !self.quoted {
            return self.start + at;
        }
        let mut len = 0;
        for (offset, c) in unquote(self.raw) {
            if len >= at {
                return self.start + offset;
            }
            len += c.len_utf8();
        }
        self.start + self.raw.len()
    }
}

/// Yields the characters of a quoted string and where each stands.
fn unquote(raw: &str) -> impl Iterator<Item = (usize, char)> {
    let mut chars = raw.char_indices().peekable();
    std::iter::from_fn(move || {
        let (at, c) = chars.next()?;
        if c != '\\' {
            return Some((at, c));
        }
        let replacement = match chars.peek() {
            Some((_, c @ ('"' | '\'' | '\\'))) => *c,
            Some((_, 't')) => '\t',
            Some((_, 'n')) => '\n',
            _ => return Some((at, '\\')),
        };
        chars.next();
        Some((at, replacement))
    })
}

fn one_or(mut children: Vec<Expr>, combine: impl Fn(Vec<Expr>) -> Expr) -> Option<Expr> {
    if children.len() > 1 { Some(combine(children)) } else { children.pop() }
}

/// An unknown operator as it goes into the error.
fn shortened(code: &str) -> String {
    code.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
