//! Python's regular expression syntax, read into a [`Tree`].
//!
//! Accepts and refuses what `re.compile` of Python 3.11 and later does: octal escapes, conditionals,
//! flags that must come first, look-behind of fixed width, possessive repeats. The words of the
//! errors are ours.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Settings,
    tree::{Case, Category, Class, ClassItem, Node, RepeatMode, Tree},
};

/// How deeply groups may nest.
const MAX_DEPTH: usize = 100;
/// Counts from here on are refused, as in Python.
const MAX_REPEAT: u64 = 4_294_967_295;

/// Why a pattern is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// Byte offset into the pattern.
    pub at: usize,
    pub message: String,
}

/// The smallest and the largest number of units a node can match.
type Width = (u64, u64);

#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of Python's re")]
struct Flags {
    ignore_case: bool,
    multi_line: bool,
    dot_all: bool,
    ascii: bool,
    verbose: bool,
}

/// What a flag group said.
#[derive(Default)]
struct FlagChange {
    ignore_case: Option<bool>,
    multi_line: Option<bool>,
    dot_all: Option<bool>,
    verbose: Option<bool>,
    ascii: Option<bool>,
}

/// A sequence item before it is known whether a quantifier follows.
struct Item {
    node: Node,
    width: Width,
    /// Anchors and repeats cannot be repeated.
    repeatable: Result<(), &'static str>,
}

pub(super) fn parse(pattern: &str, settings: Settings) -> Result<Tree, SyntaxError> {
    let (units, offsets) = if settings.bytes {
        (pattern.bytes().map(u32::from).collect(), None)
    } else {
        let offsets: Vec<usize> = pattern.char_indices().map(|(at, _)| at).collect();
        (pattern.chars().map(u32::from).collect::<Vec<u32>>(), Some(offsets))
    };
    let mut parser = Parser {
        units,
        pos: 0,
        bytes: settings.bytes,
        names: BTreeMap::new(),
        widths: vec![None],
        look_behind_from: None,
        conditions: Vec::new(),
        global: None,
        referenced: BTreeSet::new(),
        cases: BTreeSet::new(),
        text_boundaries: false,
    };
    let flags = Flags {
        ignore_case: settings.ignore_case,
        multi_line: settings.multi_line,
        dot_all: settings.dot_all,
        ascii: settings.bytes,
        verbose: false,
    };
    match parser.whole(flags) {
        Ok(node) => Ok(Tree {
            node,
            referenced: parser.referenced,
            cases: parser.cases,
            text_boundaries: parser.text_boundaries,
        }),
        Err(mut error) => {
            if let Some(offsets) = offsets {
                error.at = offsets.get(error.at).copied().unwrap_or(pattern.len());
            }
            Err(error)
        }
    }
}

struct Parser {
    units: Vec<u32>,
    pos: usize,
    bytes: bool,
    names: BTreeMap<String, usize>,
    /// Widths of the groups by number; `None` while a group is open. The first is not used.
    widths: Vec<Option<Width>>,
    /// Within a look-behind: the number of groups there were when it began.
    look_behind_from: Option<usize>,
    /// Groups that conditionals ask for by number, with the place: they may come later.
    conditions: Vec<(usize, usize)>,
    /// Whether global `a` or `u` was said.
    global: Option<bool>,
    referenced: BTreeSet<usize>,
    cases: BTreeSet<Case>,
    text_boundaries: bool,
}

type Parsed<T> = Result<T, SyntaxError>;

impl Parser {
    fn whole(&mut self, mut flags: Flags) -> Parsed<Node> {
        let (node, _) = self.alternation(&mut flags, 0)?;
        if self.pos < self.units.len() {
            return self.fail(self.pos, "unbalanced parenthesis");
        }
        let count = self.widths.len();
        if let Some((_, at)) = self.conditions.iter().find(|(group, _)| *group >= count) {
            return self.fail(*at, "no such group");
        }
        Ok(node)
    }

    fn alternation(&mut self, flags: &mut Flags, depth: usize) -> Parsed<(Node, Width)> {
        if depth > MAX_DEPTH {
            return self.fail(self.pos, "groups are nested too deeply");
        }
        let (first, mut width) = self.sequence(flags, depth, depth == 0)?;
        let mut branches = vec![first];
        while self.eat('|') {
            let (node, w) = self.sequence(flags, depth, false)?;
            width = (width.0.min(w.0), width.1.max(w.1));
            branches.push(node);
        }
        let node = match branches.pop() {
            Some(only) if branches.is_empty() => only,
            Some(last) => {
                branches.push(last);
                Node::Alternate(branches)
            }
            None => Node::Empty,
        };
        Ok((node, width))
    }

    /// Reads up to `|`, `)` or the end. `first`: global flags may still come.
    fn sequence(&mut self, flags: &mut Flags, depth: usize, first: bool) -> Parsed<(Node, Width)> {
        let mut items: Vec<Item> = Vec::new();
        while let Some(unit) = self.peek() {
            let start = self.pos;
            let ch = ascii(unit);
            if matches!(ch, '|' | ')') {
                break;
            }
            self.pos += 1;
            if flags.verbose {
                if matches!(ch, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c') {
                    continue;
                }
                if ch == '#' {
                    // A backslash hides the character after it, also a line feed.
                    while let Some(unit) = self.next() {
                        match ascii(unit) {
                            '\n' => break,
                            '\\' if self.next().is_none() => {
                                return self.fail(self.pos, "a backslash ends the pattern");
                            }
                            _ => {}
                        }
                    }
                    continue;
                }
            }
            match ch {
                '\\' => items.push(self.escape(*flags)?),
                '[' => items.push(self.class(*flags)?),
                '.' => items.push(Item::unit(Node::Any { dot_all: flags.dot_all })),
                '^' if flags.multi_line => items.push(Item::anchor(Node::LineStart)),
                '^' => items.push(Item::anchor(Node::TextStart)),
                '$' if flags.multi_line => items.push(Item::anchor(Node::LineEnd)),
                '$' => items.push(Item::anchor(Node::LastLineEnd)),
                '*' | '+' | '?' | '{' => {
                    let Some((min, max)) = self.quantifier(ch)? else {
                        items.push(self.unit_item(unit, *flags));
                        continue;
                    };
                    self.repeat(&mut items, min, max, start)?;
                }
                '(' => {
                    let may_set = first && items.is_empty();
                    if let Some(item) = self.group(flags, depth, start, may_set)? {
                        items.push(item);
                    }
                }
                _ => items.push(self.unit_item(unit, *flags)),
            }
        }
        let width = items.iter().fold((0u64, 0u64), |sum, item| {
            (sum.0.saturating_add(item.width.0), sum.1.saturating_add(item.width.1))
        });
        let mut nodes: Vec<Node> = items.into_iter().map(|item| item.node).collect();
        let node = match nodes.pop() {
            None => Node::Empty,
            Some(only) if nodes.is_empty() => only,
            Some(last) => {
                nodes.push(last);
                Node::Concat(nodes)
            }
        };
        Ok((node, width))
    }

    /// Reads a quantifier's counts; `None` if a brace is only a character.
    fn quantifier(&mut self, ch: char) -> Parsed<Option<(u64, Option<u64>)>> {
        match ch {
            '*' => return Ok(Some((0, None))),
            '+' => return Ok(Some((1, None))),
            '?' => return Ok(Some((0, Some(1)))),
            _ => {}
        }
        let start = self.pos;
        if self.peek().map(ascii) == Some('}') {
            return Ok(None);
        }
        let low = self.digits();
        let high = if self.eat(',') { self.digits() } else { low.clone() };
        if !self.eat('}') {
            self.pos = start;
            return Ok(None);
        }
        let min = self.count(&low, start)?.unwrap_or(0);
        let max = self.count(&high, start)?;
        if max.is_some_and(|max| max < min) {
            return self.fail(start, "the least number of repeats is greater than the most");
        }
        Ok(Some((min, max)))
    }

    fn count(&self, digits: &str, at: usize) -> Parsed<Option<u64>> {
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse::<u64>() {
            Ok(count) if count < MAX_REPEAT => Ok(Some(count)),
            _ => self.fail(at, "the number of repeats is too large"),
        }
    }

    fn repeat(
        &mut self,
        items: &mut Vec<Item>,
        min: u64,
        max: Option<u64>,
        at: usize,
    ) -> Parsed<()> {
        let Some(item) = items.pop() else { return self.fail(at, "nothing to repeat") };
        if let Err(why) = item.repeatable {
            return self.fail(at, why);
        }
        let mode = if self.eat('?') {
            RepeatMode::Lazy
        } else if self.eat('+') {
            RepeatMode::Possessive
        } else {
            RepeatMode::Greedy
        };
        let most = match max {
            Some(max) => item.width.1.saturating_mul(max),
            None if item.width.1 == 0 => 0,
            None => u64::MAX,
        };
        items.push(Item {
            width: (item.width.0.saturating_mul(min), most),
            node: Node::Repeat { node: Box::new(item.node), min, max, mode },
            repeatable: Err("a repeat cannot be repeated"),
        });
        Ok(())
    }

    /// Reads what follows a `(`. `None` for comments and global flags.
    fn group(
        &mut self,
        flags: &mut Flags,
        depth: usize,
        start: usize,
        may_set: bool,
    ) -> Parsed<Option<Item>> {
        if !self.eat('?') {
            return self.capture(None, *flags, depth, start).map(Some);
        }
        let at = self.pos;
        let Some(unit) = self.next() else { return self.fail(at, "unexpected end of pattern") };
        match ascii(unit) {
            'P' => self.python_extension(*flags, depth, start),
            ':' => self.plain(*flags, depth, start).map(Some),
            '#' => loop {
                match self.next().map(ascii) {
                    Some(')') => return Ok(None),
                    Some('\\') => self.pos += 1,
                    Some(_) => {}
                    None => return self.fail(start, "missing ), unterminated comment"),
                }
            },
            '=' => self.look(false, false, *flags, depth, start).map(Some),
            '!' => self.look(false, true, *flags, depth, start).map(Some),
            '<' => match self.next().map(ascii) {
                Some('=') => self.look(true, false, *flags, depth, start).map(Some),
                Some('!') => self.look(true, true, *flags, depth, start).map(Some),
                Some(_) => self.fail(at, "unknown extension ?<"),
                None => self.fail(at, "unexpected end of pattern"),
            },
            '(' => self.conditional(*flags, depth, start).map(Some),
            '>' => {
                let item = self.plain(*flags, depth, start)?;
                Ok(Some(Item { node: Node::Atomic(Box::new(item.node)), ..item }))
            }
            'i' | 'L' | 'm' | 's' | 'x' | 'a' | 'u' | '-' => {
                self.pos = at;
                let (change, global) = self.flag_letters()?;
                if !global {
                    return self.plain(change.apply(*flags), depth, start).map(Some);
                }
                if !may_set {
                    return self.fail(start, "global flags must be at the start of the pattern");
                }
                if let Some(wanted) = change.ascii
                    && !self.bytes
                {
                    if self.global.is_some_and(|said| said != wanted) {
                        return self.fail(start, "flags a and u exclude each other");
                    }
                    self.global = Some(wanted);
                }
                *flags = change.apply(*flags);
                Ok(None)
            }
            _ => self.fail(at, "unknown extension after (?"),
        }
    }

    fn python_extension(
        &mut self,
        flags: Flags,
        depth: usize,
        start: usize,
    ) -> Parsed<Option<Item>> {
        let at = self.pos;
        match self.next().map(ascii) {
            Some('<') => {
                let name = self.name('>')?;
                self.capture(Some(name), flags, depth, start).map(Some)
            }
            Some('=') => {
                let name = self.name(')')?;
                let Some(&group) = self.names.get(&name) else {
                    return self.fail(at + 1, "no group of this name");
                };
                self.back_reference(group, at + 1, flags).map(Some)
            }
            Some(_) => self.fail(at, "unknown extension after (?P"),
            None => self.fail(at, "unexpected end of pattern"),
        }
    }

    fn capture(
        &mut self,
        name: Option<String>,
        flags: Flags,
        depth: usize,
        start: usize,
    ) -> Parsed<Item> {
        let group = self.widths.len();
        self.widths.push(None);
        if let Some(name) = name
            && self.names.insert(name, group).is_some()
        {
            return self.fail(start, "two groups have the same name");
        }
        let item = self.plain(flags, depth, start)?;
        if let Some(slot) = self.widths.get_mut(group) {
            *slot = Some(item.width);
        }
        Ok(Item { node: Node::Group(group, Box::new(item.node)), ..item })
    }

    /// Reads the inside of a group and its parenthesis.
    fn plain(&mut self, mut flags: Flags, depth: usize, start: usize) -> Parsed<Item> {
        let (node, width) = self.alternation(&mut flags, depth + 1)?;
        self.close(start)?;
        Ok(Item { node, width, repeatable: Ok(()) })
    }

    fn close(&mut self, start: usize) -> Parsed<()> {
        if self.eat(')') { Ok(()) } else { self.fail(start, "missing ), unterminated group") }
    }

    fn look(
        &mut self,
        behind: bool,
        negated: bool,
        flags: Flags,
        depth: usize,
        start: usize,
    ) -> Parsed<Item> {
        let outer = self.look_behind_from;
        if behind && outer.is_none() {
            self.look_behind_from = Some(self.widths.len());
        }
        let item = self.plain(flags, depth, start)?;
        if behind {
            self.look_behind_from = outer;
            if item.width.0 != item.width.1 {
                return self.fail(start, "a look-behind needs a fixed width");
            }
        }
        let node = Node::Look { behind, negated, node: Box::new(item.node) };
        Ok(Item { node, width: (0, 0), repeatable: Ok(()) })
    }

    fn conditional(&mut self, flags: Flags, depth: usize, start: usize) -> Parsed<Item> {
        let at = self.pos;
        let name = self.until(')')?;
        let group = if is_identifier(&name) {
            self.check_name(&name, at)?;
            match self.names.get(&name) {
                Some(&group) => group,
                None => return self.fail(at, "no group of this name"),
            }
        } else {
            let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
            let Some(group) = name.parse::<usize>().ok().filter(|&group| digits && group > 0)
            else {
                return self.fail(at, "not the name or number of a group");
            };
            self.conditions.push((group, at));
            group
        };
        self.check_look_behind(group, at)?;
        if depth >= MAX_DEPTH {
            return self.fail(at, "groups are nested too deeply");
        }
        let mut inner = flags;
        let (yes, yes_width) = self.sequence(&mut inner, depth + 1, false)?;
        let mut no = None;
        let mut width = (0, yes_width.1);
        if self.eat('|') {
            let (node, no_width) = self.sequence(&mut inner, depth + 1, false)?;
            if self.peek().map(ascii) == Some('|') {
                return self.fail(self.pos, "a conditional has at most two branches");
            }
            width = (yes_width.0.min(no_width.0), yes_width.1.max(no_width.1));
            no = Some(Box::new(node));
        }
        self.close(start)?;
        self.referenced.insert(group);
        let node = Node::Conditional { group, yes: Box::new(yes), no };
        Ok(Item { node, width, repeatable: Ok(()) })
    }

    fn back_reference(&mut self, group: usize, at: usize, flags: Flags) -> Parsed<Item> {
        let Some(Some(width)) = self.widths.get(group).copied() else {
            return self.fail(at, "a group cannot be referred to from within itself");
        };
        self.check_look_behind(group, at)?;
        self.referenced.insert(group);
        let node = Node::BackReference(group, self.case(flags));
        Ok(Item { node, width, repeatable: Ok(()) })
    }

    fn check_look_behind(&self, group: usize, at: usize) -> Parsed<()> {
        let Some(from) = self.look_behind_from else { return Ok(()) };
        if !matches!(self.widths.get(group), Some(Some(_))) {
            return self.fail(at, "a group cannot be referred to from within itself");
        }
        if group >= from {
            return self.fail(at, "a look-behind cannot refer to a group of its own");
        }
        Ok(())
    }

    fn flag_letters(&mut self) -> Parsed<(FlagChange, bool)> {
        let start = self.pos;
        let mut change = FlagChange::default();
        let mut kinds = BTreeSet::new();
        let mut on = true;
        let mut letters = 0;
        while let Some(unit) = self.next() {
            match ascii(unit) {
                ')' if on && letters > 0 => return Ok((change, true)),
                ':' if letters > 0 => return Ok((change, false)),
                '-' if on => {
                    on = false;
                    letters = 0;
                    continue;
                }
                'i' => change.ignore_case = self.flag(change.ignore_case, on)?,
                'm' => change.multi_line = self.flag(change.multi_line, on)?,
                's' => change.dot_all = self.flag(change.dot_all, on)?,
                'x' => change.verbose = self.flag(change.verbose, on)?,
                kind @ ('a' | 'u' | 'L') => {
                    let known = if self.bytes { kind != 'u' } else { kind != 'L' };
                    if !on || !known {
                        return self.fail(start, "this flag cannot be used here");
                    }
                    kinds.insert(kind);
                    change.ascii = Some(kind != 'u');
                }
                _ => return self.fail(self.pos - 1, "unknown flag, or missing : or )"),
            }
            letters += 1;
            if kinds.len() > 1 {
                return self.fail(start, "flags a, u and L exclude each other");
            }
        }
        self.fail(self.pos, "missing : or )")
    }

    fn flag(&self, before: Option<bool>, on: bool) -> Parsed<Option<bool>> {
        if before.is_some_and(|before| before != on) {
            return self.fail(self.pos - 1, "flag turned on and off");
        }
        Ok(Some(on))
    }

    fn name(&mut self, end: char) -> Parsed<String> {
        let at = self.pos;
        let name = self.until(end)?;
        if !is_identifier(&name) {
            return self.fail(at, "not the name of a group");
        }
        self.check_name(&name, at)?;
        Ok(name)
    }

    fn check_name(&self, name: &str, at: usize) -> Parsed<()> {
        if self.bytes && !name.is_ascii() {
            return self.fail(at, "not the name of a group");
        }
        Ok(())
    }

    /// Reads up to `end` and over it.
    fn until(&mut self, end: char) -> Parsed<String> {
        let start = self.pos;
        let mut text = String::new();
        while let Some(unit) = self.next() {
            if ascii(unit) == end {
                if text.is_empty() {
                    return self.fail(start, "missing group name");
                }
                return Ok(text);
            }
            text.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        self.fail(start, "unterminated group name")
    }

    /// Reads what follows a backslash outside of a class.
    fn escape(&mut self, flags: Flags) -> Parsed<Item> {
        let at = self.pos - 1;
        let Some(unit) = self.next() else { return self.fail(at, "a backslash ends the pattern") };
        let ch = ascii(unit);
        if let Some(item) = category(ch, flags) {
            let class = Class { negated: false, items: vec![item] };
            let case = self.case(flags);
            return Ok(Item::unit(Node::Class(class, case)));
        }
        match ch {
            'A' => return Ok(Item::anchor(Node::TextStart)),
            // `\z` is what Python 3.14 added.
            'Z' | 'z' => return Ok(Item::anchor(Node::TextEnd)),
            'b' | 'B' => {
                self.text_boundaries |= !flags.ascii;
                let node = Node::Boundary { negated: ch == 'B', ascii: flags.ascii };
                return Ok(Item::anchor(node));
            }
            '0' => {
                let value = self.radix_digits(8, 2).0;
                return Ok(self.unit_item(value, flags));
            }
            '1'..='9' => return self.octal_or_reference(unit, at, flags),
            _ => {}
        }
        let value = self.character_escape(unit, at)?;
        Ok(self.unit_item(value, flags))
    }

    /// `\1` to `\99` are references, three octal digits are a character.
    fn octal_or_reference(&mut self, first: u32, at: usize, flags: Flags) -> Parsed<Item> {
        let digit = |unit: u32| char::from_u32(unit).and_then(|c| c.to_digit(10));
        let mut number = digit(first).unwrap_or_default();
        if let Some(second) = self.peek().and_then(digit) {
            self.pos += 1;
            if number < 8
                && second < 8
                && let Some(third) = self.peek().and_then(digit).filter(|&third| third < 8)
            {
                self.pos += 1;
                let value = number * 64 + second * 8 + third;
                if value > 0o377 {
                    return self.fail(at, "an octal escape is at most \\377");
                }
                return Ok(self.unit_item(value, flags));
            }
            number = number * 10 + second;
        }
        let group = number as usize;
        if group >= self.widths.len() {
            return self.fail(at, "no such group");
        }
        self.back_reference(group, at, flags)
    }

    /// The escapes that name one character, inside of classes and outside.
    fn character_escape(&mut self, unit: u32, at: usize) -> Parsed<u32> {
        let ch = ascii(unit);
        let digits = match ch {
            'a' => return Ok(7),
            'f' => return Ok(12),
            'n' => return Ok(10),
            'r' => return Ok(13),
            't' => return Ok(9),
            'v' => return Ok(11),
            'x' => 2,
            'u' if !self.bytes => 4,
            'U' if !self.bytes => 8,
            'N' if !self.bytes => {
                return self.fail(at, "names of characters are not supported, use \\uXXXX");
            }
            _ if ch.is_ascii_alphabetic() => return self.fail(at, "unknown escape"),
            _ => return Ok(unit),
        };
        let (value, read) = self.radix_digits(16, digits);
        if read != digits {
            return self.fail(at, "the escape has too few digits");
        }
        if value > 0x10_FFFF {
            return self.fail(at, "the escape is beyond Unicode");
        }
        Ok(value)
    }

    /// Reads `[…]` after the bracket.
    fn class(&mut self, flags: Flags) -> Parsed<Item> {
        let start = self.pos - 1;
        let unterminated = "missing ], unterminated set";
        let mut class = Class { negated: self.eat('^'), items: Vec::new() };
        loop {
            let Some(unit) = self.next() else { return self.fail(start, unterminated) };
            if ascii(unit) == ']' && !class.items.is_empty() {
                break;
            }
            let at = self.pos - 1;
            let low = self.class_member(unit, flags)?;
            if !self.eat('-') {
                class.items.push(low);
                continue;
            }
            let Some(unit) = self.next() else { return self.fail(start, unterminated) };
            if ascii(unit) == ']' {
                class.items.push(low);
                class.items.push(ClassItem::Range(u32::from(b'-'), u32::from(b'-')));
                break;
            }
            let high = self.class_member(unit, flags)?;
            match (low, high) {
                (ClassItem::Range(low, _), ClassItem::Range(high, _)) if low <= high => {
                    class.items.push(ClassItem::Range(low, high));
                }
                _ => return self.fail(at, "not a range of characters"),
            }
        }
        let case = self.case(flags);
        Ok(Item::unit(Node::Class(class, case)))
    }

    fn class_member(&mut self, unit: u32, flags: Flags) -> Parsed<ClassItem> {
        if ascii(unit) != '\\' {
            return Ok(ClassItem::Range(unit, unit));
        }
        let at = self.pos - 1;
        let Some(unit) = self.next() else { return self.fail(at, "a backslash ends the pattern") };
        let ch = ascii(unit);
        if let Some(item) = category(ch, flags) {
            return Ok(item);
        }
        let value = match ch {
            'b' => 8,
            '0'..='7' => {
                self.pos -= 1;
                let value = self.radix_digits(8, 3).0;
                if value > 0o377 {
                    return self.fail(at, "an octal escape is at most \\377");
                }
                value
            }
            '8' | '9' => return self.fail(at, "unknown escape"),
            _ => self.character_escape(unit, at)?,
        };
        Ok(ClassItem::Range(value, value))
    }

    fn unit_item(&mut self, unit: u32, flags: Flags) -> Item {
        Item::unit(Node::Unit(unit, self.case(flags)))
    }

    fn case(&mut self, flags: Flags) -> Case {
        let case = match (flags.ignore_case, flags.ascii) {
            (false, _) => Case::Exact,
            (true, true) => Case::Ascii,
            (true, false) => Case::Unicode,
        };
        self.cases.insert(case);
        case
    }

    fn digits(&mut self) -> String {
        let mut text = String::new();
        while let Some(digit) = self.peek().map(ascii).filter(char::is_ascii_digit) {
            self.pos += 1;
            text.push(digit);
        }
        text
    }

    /// Reads at most `most` digits; returns the value and how many there were.
    fn radix_digits(&mut self, radix: u32, most: usize) -> (u32, usize) {
        let (mut value, mut read) = (0u32, 0);
        while read < most
            && let Some(digit) = self.peek().and_then(|unit| ascii(unit).to_digit(radix))
        {
            self.pos += 1;
            read += 1;
            value = value.saturating_mul(radix).saturating_add(digit);
        }
        (value, read)
    }

    fn peek(&self) -> Option<u32> {
        self.units.get(self.pos).copied()
    }

    fn next(&mut self) -> Option<u32> {
        let unit = self.peek()?;
        self.pos += 1;
        Some(unit)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(u32::from(wanted));
        self.pos += usize::from(found);
        found
    }

    #[expect(clippy::unused_self, reason = "reads as the other methods do")]
    fn fail<T>(&self, at: usize, message: &str) -> Parsed<T> {
        Err(SyntaxError { at, message: message.to_owned() })
    }
}

impl Item {
    fn unit(node: Node) -> Self {
        Self { node, width: (1, 1), repeatable: Ok(()) }
    }

    fn anchor(node: Node) -> Self {
        Self { node, width: (0, 0), repeatable: Err("nothing to repeat") }
    }
}

impl FlagChange {
    fn apply(&self, flags: Flags) -> Flags {
        Flags {
            ignore_case: self.ignore_case.unwrap_or(flags.ignore_case),
            multi_line: self.multi_line.unwrap_or(flags.multi_line),
            dot_all: self.dot_all.unwrap_or(flags.dot_all),
            ascii: self.ascii.unwrap_or(flags.ascii),
            verbose: self.verbose.unwrap_or(flags.verbose),
        }
    }
}

/// The character of an ASCII unit, NUL for any other: enough to tell syntax.
fn ascii(unit: u32) -> char {
    char::from_u32(unit).filter(char::is_ascii).unwrap_or('\0')
}

fn category(ch: char, flags: Flags) -> Option<ClassItem> {
    let kind = match ch.to_ascii_lowercase() {
        'd' => Category::Digit,
        's' => Category::Space,
        'w' => Category::Word,
        _ => return None,
    };
    Some(ClassItem::Category { kind, negated: ch.is_ascii_uppercase(), ascii: flags.ascii })
}

fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c == '_' || c.is_alphabetic())
        && chars.all(|c| c == '_' || c.is_alphanumeric())
}
