//! A parsed pattern, free of flags: what a leaf does is said in the leaf.

use std::collections::BTreeSet;

/// A parsed pattern.
#[derive(Debug)]
pub(super) struct Tree {
    pub node: Node,
    /// Groups that something refers to: only these need to capture.
    pub referenced: BTreeSet<usize>,
    /// The ways in which leaves treat case.
    pub cases: BTreeSet<Case>,
    /// Has a `\b` or `\B` of the Unicode kind.
    pub text_boundaries: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Case {
    Exact,
    /// Only `a-z` and `A-Z` are the same.
    Ascii,
    Unicode,
}

#[derive(Debug)]
pub(super) enum Node {
    Empty,
    /// A character, or a byte of a bytes pattern.
    Unit(u32, Case),
    Any {
        dot_all: bool,
    },
    Class(Class, Case),
    /// `^` and `\A`.
    TextStart,
    LineStart,
    /// `$` without multi-line mode: the end, or before a line feed that ends the text.
    LastLineEnd,
    LineEnd,
    /// `\Z`.
    TextEnd,
    Boundary {
        negated: bool,
        ascii: bool,
    },
    Concat(Vec<Node>),
    Alternate(Vec<Node>),
    Repeat {
        node: Box<Node>,
        min: u64,
        max: Option<u64>,
        mode: RepeatMode,
    },
    /// A capturing group, by its number.
    Group(usize, Box<Node>),
    Atomic(Box<Node>),
    Look {
        behind: bool,
        negated: bool,
        node: Box<Node>,
    },
    BackReference(usize, Case),
    Conditional {
        group: usize,
        yes: Box<Node>,
        no: Option<Box<Node>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepeatMode {
    Greedy,
    Lazy,
    Possessive,
}

#[derive(Debug, Default)]
pub(super) struct Class {
    pub negated: bool,
    pub items: Vec<ClassItem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClassItem {
    Range(u32, u32),
    Category { kind: Category, negated: bool, ascii: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Category {
    Digit,
    Space,
    Word,
}
