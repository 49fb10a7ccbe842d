//! Unfinished lines: what each word is, what may come next.

use std::{fs, path::Path};

use super::{
    ArgType, CommandDecl, Commands, Param, ParamKind,
    lexer::{self, Token},
    marker, types,
};
use crate::text;

/// The most entries of a directory that are offered.
const MAX_ENTRIES: usize = 1000;

/// Words that stand for flows; and the filter operators used most.
const FLOW_SPECS: &[&str] = &[
    "@all",
    "@focus",
    "@shown",
    "@hidden",
    "@marked",
    "@unmarked",
    "~q",
    "~s",
    "~a",
    "~hq",
    "~hs",
    "~b",
    "~bq",
    "~bs",
    "~t",
    "~d",
    "~m",
    "~u",
    "~c",
];

const CUTS: &[&str] = &[
    "request.method",
    "request.scheme",
    "request.host",
    "request.http_version",
    "request.port",
    "request.path",
    "request.url",
    "request.text",
    "request.content",
    "request.raw_content",
    "request.timestamp_start",
    "request.timestamp_end",
    "request.header[",
    "response.status_code",
    "response.reason",
    "response.text",
    "response.content",
    "response.timestamp_start",
    "response.timestamp_end",
    "response.raw_content",
    "response.header[",
    "client_conn.peername.port",
    "client_conn.peername.host",
    "client_conn.tls_version",
    "client_conn.sni",
    "client_conn.tls_established",
    "server_conn.address.port",
    "server_conn.address.host",
    "server_conn.ip_address.host",
    "server_conn.tls_version",
    "server_conn.sni",
    "server_conn.tls_established",
];

/// An unfinished line, understood as far as it goes.
#[derive(Clone, Debug)]
pub struct Partial {
    /// The pieces of the line; together they are the line.
    pub parts: Vec<Part>,
    /// The parameters that are not given yet.
    pub remaining: Vec<Param>,
}

/// A piece of an unfinished line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// As it stands in the line, quotes included.
    pub text: String,
    /// Where it starts, in bytes.
    pub start: usize,
    pub ty: PartType,
    /// Whether it can be read as that.
    pub valid: bool,
}

/// What a piece of a line is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartType {
    Space,
    Arg(ArgType),
    /// There is no parameter for it.
    Unknown,
}

/// What may stand in place of the unfinished word at the end of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Where that word starts, in bytes; the end of the line if the next word is yet to come.
    pub start: usize,
    /// Words to put there, quoted where needed, in the order to offer them.
    pub candidates: Vec<String>,
}

impl Commands {
    /// Tells what the pieces of an unfinished line are, for highlighting and hints.
    ///
    /// Reading a word may run a command: `view.flows.resolve`, or the one that lists choices.
    pub fn parse_partial(&self, line: &str) -> Partial {
        let param = |ty| Param { name: "".into(), ty, kind: ParamKind::Required };
        // In reverse: the next is the last.
        let mut next = vec![param(ArgType::Arg), param(ArgType::Cmd)];
        let mut rest = None;
        let mut parts = Vec::new();
        for token in lexer::tokens(line) {
            let Token { text, start } = token;
            let text = text.to_owned();
            if token.is_space() {
                parts.push(Part { text, start, ty: PartType::Space, valid: true });
                continue;
            }
            let Some(ty) = rest.clone().or_else(|| {
                next.pop().map(|param: Param| {
                    if matches!(param.kind, ParamKind::Rest) {
                        rest = Some(param.ty.clone());
                    }
                    param.ty
                })
            }) else {
                parts.push(Part { text, start, ty: PartType::Unknown, valid: false });
                continue;
            };
            if ty == ArgType::Cmd && next.last().is_some_and(|param| param.ty == ArgType::Arg) {
                // The words after a command are its arguments.
                next.pop();
                let decl = self.decl(token.word());
                let params = decl.as_ref().map(CommandDecl::params).unwrap_or_default();
                next.extend(params.iter().rev().cloned());
            }
            let valid = ty.parse(self, token.word()).is_ok();
            parts.push(Part { text, start, ty: PartType::Arg(ty), valid });
        }
        next.reverse();
        Partial { parts, remaining: next }
    }

    /// Returns the ways to complete the last word of an unfinished line, or to begin the next.
    pub fn complete(&self, partial: &str) -> Completion {
        let last = lexer::tokens(partial).last().filter(|token| !token.is_space());
        let start = last.map_or(partial.len(), |token| token.start);
        let before = partial.get(..start).unwrap_or_default();
        let Partial { parts, remaining } = self.parse_partial(before);
        let ty = match remaining.into_iter().next() {
            Some(param) => Some(param.ty),
            // The last parameter may take any number of words.
            None => parts
                .iter()
                .rev()
                .find_map(|part| match &part.ty {
                    PartType::Arg(ty) => Some(ty.clone()),
                    _ => None,
                })
                .filter(|_| self.takes_rest(before)),
        };
        let prefix = last.map_or("", |token| unfinished(token.text));
        let candidates = ty.map(|ty| self.candidates(&ty, prefix)).unwrap_or_default();
        let fitting = candidates.into_iter().filter(|candidate| candidate.starts_with(prefix));
        let candidates = fitting.map(|candidate| lexer::quote(&candidate).into_owned()).collect();
        Completion { start, candidates }
    }

    /// Returns whether the command at the start of the line takes any number of words.
    fn takes_rest(&self, line: &str) -> bool {
        let decl = lexer::words(line).first().and_then(|name| self.decl(name));
        let is_rest =
            |param: &Param| matches!(param.kind, ParamKind::Rest) && param.ty != ArgType::Arg;
        decl.is_some_and(|decl| decl.params().last().is_some_and(is_rest))
    }

    fn candidates(&self, ty: &ArgType, prefix: &str) -> Vec<String> {
        let all = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect();
        match ty {
            ArgType::Bool => all(&["false", "true"]),
            ArgType::Cmd => self.names(),
            ArgType::Choice(source) => types::choices(self, source).unwrap_or_default(),
            ArgType::Marker => marker::names(),
            ArgType::Flow | ArgType::Flows => all(FLOW_SPECS),
            ArgType::CutSpec => {
                let done = prefix.rfind(',').and_then(|comma| prefix.get(..=comma)).unwrap_or("");
                CUTS.iter().map(|cut| format!("{done}{cut}")).collect()
            }
            ArgType::Path => paths(prefix),
            ArgType::Str
            | ArgType::Bytes
            | ArgType::Int
            | ArgType::Arg
            | ArgType::StrSeq
            | ArgType::Data => Vec::new(),
        }
    }
}

/// Takes the quotes off a word that may lack the closing one.
fn unfinished(token: &str) -> &str {
    let word = lexer::unquote(token);
    if word.len() < token.len() {
        return word;
    }
    word.strip_prefix(['"', '\'']).unwrap_or(word)
}

/// Returns the paths that begin with `prefix`; directories end in a slash.
fn paths(prefix: &str) -> Vec<String> {
    let (shown, name) = match prefix.rfind('/').and_then(|slash| prefix.split_at_checked(slash + 1))
    {
        Some((dir, name)) => (dir, name),
        None if prefix.is_empty() => ("./", ""),
        None => ("", prefix),
    };
    let dir = if shown.is_empty() { Path::new(".").to_owned() } else { text::expand_user(shown) };
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let fitting = entries.flatten().filter_map(|entry| {
        let entry_name = entry.file_name().into_string().ok()?;
        // Hidden files are for those who ask.
        if !entry_name.starts_with(name) || (entry_name.starts_with('.') && !name.starts_with('.'))
        {
            return None;
        }
        let slash = if entry.path().is_dir() { "/" } else { "" };
        Some(format!("{shown}{entry_name}{slash}"))
    });
    let mut paths: Vec<_> = fitting.take(MAX_ENTRIES).collect();
    paths.sort_unstable();
    paths
}
