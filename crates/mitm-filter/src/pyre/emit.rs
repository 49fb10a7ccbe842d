//! Writes a [`Tree`] in the syntax of an engine.
//!
//! Both engines share a syntax, so there is one writer; what only the backtracking one has makes it
//! return `None` for the linear one. Characters other than ASCII letters and digits are written as
//! escapes, which mean the same everywhere, in and out of classes.

use std::fmt::Write as _;

use super::{
    Settings,
    tree::{Case, Category, Class, ClassItem, Node, RepeatMode, Tree},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Linear,
    Backtracking,
}

/// How Unicode word boundaries are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boundary {
    /// As the engine's own: the same for ASCII text.
    Native,
    /// As look-around over Python's word characters.
    Spelled,
}

#[derive(Clone)]
pub(super) struct Emitted {
    pub pattern: String,
    pub ignore_case: bool,
}

/// What Python's `str.isspace` holds for white space (Unicode's, and four separators).
const SPACE: &[(u32, u32)] = &[
    (0x09, 0x0D),
    (0x1C, 0x20),
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
];
const ASCII_SPACE: &[(u32, u32)] = &[(0x09, 0x0D), (0x20, 0x20)];
const ASCII_DIGIT: &[(u32, u32)] = &[(0x30, 0x39)];
const ASCII_WORD: &[(u32, u32)] = &[(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)];
/// Letters, numbers and the underscore; unlike in Unicode's own definition no marks or joiners.
const WORD: &str = r"\p{L}\p{N}_";

/// The letters that Python takes for the same without case and simple case folding does not.
const DOTTED_AND_DOTLESS_I: &[u32] = &[0x49, 0x69, 0x130, 0x131];

/// Returns `None` if the dialect cannot express the pattern.
pub(super) fn emit(
    tree: &Tree,
    settings: Settings,
    dialect: Dialect,
    boundary: Boundary,
) -> Option<Emitted> {
    // What the engine ignores without being told per leaf: ASCII case in bytes, Unicode's in text.
    let native = if settings.bytes { Case::Ascii } else { Case::Unicode };
    let ignore_case = tree.cases.contains(&native) && !has_exact_leaf(&tree.node);
    let mut writer =
        Writer { out: String::new(), tree, settings, dialect, boundary, native, ignore_case };
    writer.node(&tree.node, true)?;
    Some(Emitted { pattern: writer.out, ignore_case })
}

/// True if a leaf is about letters and minds their case: `\d` and `.` don't count.
fn has_exact_leaf(node: &Node) -> bool {
    match node {
        Node::Unit(_, case) | Node::BackReference(_, case) => *case == Case::Exact,
        Node::Class(class, case) => {
            *case == Case::Exact && class.items.iter().any(|i| matches!(i, ClassItem::Range(..)))
        }
        Node::Concat(nodes) | Node::Alternate(nodes) => nodes.iter().any(has_exact_leaf),
        Node::Repeat { node, .. }
        | Node::Group(_, node)
        | Node::Atomic(node)
        | Node::Look { node, .. } => has_exact_leaf(node),
        Node::Conditional { yes, no, .. } => {
            has_exact_leaf(yes) || no.as_deref().is_some_and(has_exact_leaf)
        }
        Node::Empty
        | Node::Any { .. }
        | Node::TextStart
        | Node::LineStart
        | Node::LastLineEnd
        | Node::LineEnd
        | Node::TextEnd
        | Node::Boundary { .. } => false,
    }
}

struct Writer<'a> {
    out: String,
    tree: &'a Tree,
    settings: Settings,
    dialect: Dialect,
    boundary: Boundary,
    native: Case,
    /// The whole pattern ignores case.
    ignore_case: bool,
}

impl Writer<'_> {
    /// `tail`: nothing follows the node, so that it may consume what it should only look at.
    fn node(&mut self, node: &Node, tail: bool) -> Option<()> {
        match node {
            Node::Empty => {}
            Node::Unit(unit, case) => self.unit(*unit, *case),
            Node::Any { dot_all: true } => self.out.push_str("(?s:.)"),
            Node::Any { dot_all: false } => self.out.push_str(r"[^\x0A]"),
            Node::Class(class, case) => self.cased(*case, |w| w.class(class, *case)),
            Node::TextStart => self.out.push_str(r"\A"),
            Node::LineStart => self.out.push_str("(?m:^)"),
            Node::TextEnd => self.out.push_str(r"\z"),
            Node::LastLineEnd => match self.dialect {
                Dialect::Linear if tail => self.out.push_str(r"(?:\x0A?\z)"),
                Dialect::Linear => return None,
                Dialect::Backtracking => self.out.push_str(r"(?=\x0A?\z)"),
            },
            Node::LineEnd => self.out.push_str(match (self.settings.crlf, self.dialect) {
                (false, _) => "(?m:$)",
                (true, Dialect::Linear) => "(?:(?m:$)|(?mR:$))",
                (true, Dialect::Backtracking) => r"(?:(?m:$)|(?=\x0D\x0A))",
            }),
            Node::Boundary { negated, ascii } => return self.word_boundary(*negated, *ascii),
            Node::Concat(nodes) => {
                let last = nodes.len().saturating_sub(1);
                for (i, node) in nodes.iter().enumerate() {
                    let tail = tail && i == last;
                    match node {
                        Node::Alternate(_) => self.wrapped("(?:", node, tail)?,
                        _ => self.node(node, tail)?,
                    }
                }
            }
            Node::Alternate(nodes) => {
                for (i, node) in nodes.iter().enumerate() {
                    if i > 0 {
                        self.out.push('|');
                    }
                    self.node(node, tail)?;
                }
            }
            Node::Repeat { node, min, max, mode } => self.repeat(node, *min, *max, *mode)?,
            Node::Group(group, node) => {
                let captures =
                    self.dialect == Dialect::Backtracking && self.tree.referenced.contains(group);
                self.wrapped(if captures { "(" } else { "(?:" }, node, tail)?;
            }
            _ if self.dialect == Dialect::Linear => return None,
            Node::Atomic(node) => self.wrapped("(?>", node, false)?,
            Node::Look { behind, negated, node } => {
                let open = match (behind, negated) {
                    (false, false) => "(?=",
                    (false, true) => "(?!",
                    (true, false) => "(?<=",
                    (true, true) => "(?<!",
                };
                self.wrapped(open, node, false)?;
            }
            Node::BackReference(group, case) => {
                let number = self.number(*group);
                // In a group of its own, so that a digit may follow.
                self.cased(*case, |w| {
                    let _ = write!(w.out, r"(?:\{number})");
                });
            }
            Node::Conditional { group, yes, no } => {
                let _ = write!(self.out, "(?({})", self.number(*group));
                self.wrapped("(?:", yes, false)?;
                if let Some(no) = no {
                    self.out.push('|');
                    self.wrapped("(?:", no, false)?;
                }
                self.out.push(')');
            }
        }
        Some(())
    }

    fn wrapped(&mut self, open: &str, node: &Node, tail: bool) -> Option<()> {
        self.out.push_str(open);
        self.node(node, tail)?;
        self.out.push(')');
        Some(())
    }

    fn repeat(&mut self, node: &Node, min: u64, max: Option<u64>, mode: RepeatMode) -> Option<()> {
        if mode == RepeatMode::Possessive {
            if self.dialect == Dialect::Linear {
                return None;
            }
            self.out.push_str("(?>");
            self.repeat(node, min, max, RepeatMode::Greedy)?;
            self.out.push(')');
            return Some(());
        }
        if self.is_empty(node) {
            return Some(());
        }
        if is_assertion(node) {
            // Looking again finds nothing new, and the backtracking engine refuses to.
            let (before, after) = match (min, mode) {
                (0, RepeatMode::Lazy) => ("(?:|", ""),
                (0, RepeatMode::Greedy | RepeatMode::Possessive) => ("(?:", "|"),
                _ => ("", ""),
            };
            self.out.push_str(before);
            self.wrapped("(?:", node, false)?;
            self.out.push_str(after);
            if min == 0 {
                self.out.push(')');
            }
            return Some(());
        }
        match node {
            Node::Unit(..) | Node::Any { .. } | Node::Class(..) | Node::Group(..) => {
                self.node(node, false)?;
            }
            _ => self.wrapped("(?:", node, false)?,
        }
        match (min, max) {
            (0, None) => self.out.push('*'),
            (1, None) => self.out.push('+'),
            (0, Some(1)) => self.out.push('?'),
            (min, None) => {
                let _ = write!(self.out, "{{{min},}}");
            }
            (min, Some(max)) => {
                let _ = write!(self.out, "{{{min},{max}}}");
            }
        }
        if mode == RepeatMode::Lazy {
            self.out.push('?');
        }
        Some(())
    }

    /// Writes a leaf, in a group with its own flag if its case differs from the pattern's.
    fn cased(&mut self, case: Case, write: impl FnOnce(&mut Self)) {
        let ignores = case == self.native;
        if ignores == self.ignore_case {
            write(self);
            return;
        }
        self.out.push_str(if ignores { "(?i:" } else { "(?-i:" });
        write(self);
        self.out.push(')');
    }

    fn unit(&mut self, unit: u32, case: Case) {
        let letter = char::from_u32(unit).filter(char::is_ascii_alphabetic);
        let special_i = case == Case::Unicode && DOTTED_AND_DOTLESS_I.contains(&unit);
        // ASCII case in a text pattern is something that no engine's flag says.
        let two = case == Case::Ascii && !self.settings.bytes && letter.is_some();
        if special_i || two || (!self.settings.bytes && char::from_u32(unit).is_none()) {
            let class = Class { negated: false, items: vec![ClassItem::Range(unit, unit)] };
            self.cased(case, |w| w.class(&class, case));
        } else if unit < 0x80 && letter.is_none() || unit >= 0x80 && self.settings.bytes {
            self.code(unit);
        } else {
            self.cased(case, |w| w.code(unit));
        }
    }

    fn code(&mut self, unit: u32) {
        match char::from_u32(unit) {
            Some(c) if c.is_ascii_alphanumeric() => self.out.push(c),
            _ if unit <= 0xFF && (self.settings.bytes || unit < 0x80) => {
                let _ = write!(self.out, r"\x{unit:02X}");
            }
            _ => {
                let _ = write!(self.out, r"\x{{{unit:X}}}");
            }
        }
    }

    fn class(&mut self, class: &Class, case: Case) {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        let mut categories = String::new();
        for item in &class.items {
            match *item {
                ClassItem::Range(low, high) => ranges.push((low, high)),
                ClassItem::Category { kind, negated, ascii } => {
                    self.category(kind, negated, ascii, &mut ranges, &mut categories);
                }
            }
        }
        if case == Case::Unicode && ranges.iter().any(|r| touches(*r, DOTTED_AND_DOTLESS_I)) {
            ranges.extend(DOTTED_AND_DOTLESS_I.iter().map(|&unit| (unit, unit)));
        }
        if case == Case::Ascii && !self.settings.bytes {
            for (low, high) in ranges.clone() {
                ranges.extend(overlap((low, high), (0x41, 0x5A)).map(|(a, b)| (a + 32, b + 32)));
                ranges.extend(overlap((low, high), (0x61, 0x7A)).map(|(a, b)| (a - 32, b - 32)));
            }
        }
        if !self.settings.bytes {
            ranges = ranges.into_iter().flat_map(without_surrogates).collect();
        }
        if ranges.is_empty() && categories.is_empty() {
            // Only surrogates, which no text has.
            self.out.push_str(if class.negated { "(?s:.)" } else { r"[^\x{0}-\x{10FFFF}]" });
            return;
        }
        self.out.push_str(if class.negated { "[^" } else { "[" });
        for (low, high) in ranges {
            self.code(low);
            if high > low {
                self.out.push('-');
                self.code(high);
            }
        }
        self.out.push_str(&categories);
        self.out.push(']');
    }

    fn category(
        &self,
        kind: Category,
        negated: bool,
        ascii: bool,
        ranges: &mut Vec<(u32, u32)>,
        categories: &mut String,
    ) {
        let table = match (kind, ascii) {
            (Category::Space, false) => SPACE,
            (Category::Space, true) => ASCII_SPACE,
            (Category::Digit, true) => ASCII_DIGIT,
            (Category::Word, true) => ASCII_WORD,
            (Category::Digit, false) => {
                categories.push_str(if negated { r"[^\p{Nd}]" } else { r"\p{Nd}" });
                return;
            }
            (Category::Word, false) => {
                if negated {
                    let _ = write!(categories, "[^{WORD}]");
                } else {
                    categories.push_str(WORD);
                }
                return;
            }
        };
        if !negated {
            ranges.extend_from_slice(table);
            return;
        }
        let mut next = 0;
        for &(low, high) in table {
            if low > next {
                ranges.push((next, low - 1));
            }
            next = high + 1;
        }
        ranges.push((next, if self.settings.bytes { 0xFF } else { 0x10_FFFF }));
    }

    fn word_boundary(&mut self, negated: bool, ascii: bool) -> Option<()> {
        if ascii || self.boundary == Boundary::Native {
            let flag = if ascii && !self.settings.bytes {
                if self.dialect == Dialect::Backtracking {
                    return self.spelled_boundary(negated, "0-9A-Za-z\\x5F");
                }
                "(?-u:"
            } else {
                "(?:"
            };
            let _ = write!(self.out, "{flag}{})", if negated { r"\B" } else { r"\b" });
            return Some(());
        }
        self.spelled_boundary(negated, WORD)
    }

    fn spelled_boundary(&mut self, negated: bool, word: &str) -> Option<()> {
        if self.dialect == Dialect::Linear {
            return None;
        }
        let (after, not_after) = if negated { ("(?=", "(?!") } else { ("(?!", "(?=") };
        let _ =
            write!(self.out, "(?:(?<=[{word}]){after}[{word}])|(?<![{word}]){not_after}[{word}]))");
        Some(())
    }

    /// True if the node matches the empty text only, without looking around: the backtracking
    /// engine finds nothing to repeat in it.
    fn is_empty(&self, node: &Node) -> bool {
        match node {
            Node::Empty => true,
            Node::Concat(nodes) | Node::Alternate(nodes) => nodes.iter().all(|n| self.is_empty(n)),
            Node::Group(group, node) => {
                !self.tree.referenced.contains(group) && self.is_empty(node)
            }
            Node::Repeat { node, .. } | Node::Atomic(node) => self.is_empty(node),
            _ => false,
        }
    }

    /// The number of a group among those that capture.
    fn number(&self, group: usize) -> usize {
        self.tree.referenced.range(..=group).count()
    }
}

/// True if the node looks at most, and never moves.
fn is_assertion(node: &Node) -> bool {
    match node {
        Node::Empty
        | Node::Look { .. }
        | Node::TextStart
        | Node::LineStart
        | Node::LastLineEnd
        | Node::LineEnd
        | Node::TextEnd
        | Node::Boundary { .. } => true,
        Node::Group(_, node) | Node::Atomic(node) | Node::Repeat { node, .. } => is_assertion(node),
        Node::Concat(nodes) | Node::Alternate(nodes) => nodes.iter().all(is_assertion),
        Node::Unit(..)
        | Node::Any { .. }
        | Node::Class(..)
        | Node::BackReference(..)
        | Node::Conditional { .. } => false,
    }
}

fn touches(range: (u32, u32), units: &[u32]) -> bool {
    units.iter().any(|&unit| range.0 <= unit && unit <= range.1)
}

fn overlap(a: (u32, u32), b: (u32, u32)) -> Option<(u32, u32)> {
    let (low, high) = (a.0.max(b.0), a.1.min(b.1));
    (low <= high).then_some((low, high))
}

/// Surrogates are no characters to the engines.
fn without_surrogates((low, high): (u32, u32)) -> impl Iterator<Item = (u32, u32)> {
    [overlap((low, high), (0, 0xD7FF)), overlap((low, high), (0xE000, 0x10_FFFF))]
        .into_iter()
        .flatten()
}
