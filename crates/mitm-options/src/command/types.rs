//! [`ArgType`]: the types of parameters and results: how a word is read, what may be returned.

use std::{borrow::Cow, fmt};

use super::{ArgValue, CommandError, Commands, RetValue, escape, marker};
use crate::text;

/// The type of a parameter or of a result. `Display` gives the name users see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgType {
    /// Text; escapes are decoded.
    Str,
    /// Bytes; escapes are decoded.
    Bytes,
    Int,
    /// `true` or `false`.
    Bool,
    /// A file name; `~` is expanded.
    Path,
    /// The name of a command.
    Cmd,
    /// A word for the command named before, left as it is.
    Arg,
    /// Text split at commas, white space around the parts removed.
    StrSeq,
    /// Attributes of flows, split at commas.
    CutSpec,
    /// A flow spec that matches exactly one flow.
    Flow,
    /// A flow spec.
    Flows,
    /// A table; only returned.
    Data,
    /// One of the strings that the command of this name returns.
    Choice(Cow<'static, str>),
    /// The marker of a flow, or `true` or `false`.
    Marker,
}

impl fmt::Display for ArgType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ArgType {
    /// Returns the name shown to users.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Bytes => "bytes",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Path => "path",
            Self::Cmd => "cmd",
            Self::Arg => "arg",
            Self::StrSeq => "str[]",
            Self::CutSpec => "cut[]",
            Self::Flow => "flow",
            Self::Flows => "flow[]",
            Self::Data => "data[][]",
            Self::Choice(_) => "choice",
            Self::Marker => "marker",
        }
    }

    /// Reads a word, of which the quotes have been taken off.
    pub fn parse(&self, commands: &Commands, word: &str) -> Result<ArgValue, CommandError> {
        let text = |text: &str| Ok(ArgValue::Str(text.to_owned()));
        match self {
            Self::Str => escape::decode_str(word).map(ArgValue::Str).map_err(CommandError::new),
            Self::Bytes => {
                escape::decode_bytes(word).map(ArgValue::Bytes).map_err(CommandError::new)
            }
            Self::Int => text::parse_int(word)
                .map(ArgValue::Int)
                .ok_or_else(|| CommandError::new(format!("Not an integer: {word}"))),
            Self::Bool => match word {
                "true" => Ok(ArgValue::Bool(true)),
                "false" => Ok(ArgValue::Bool(false)),
                _ => Err(CommandError::new(format!("Booleans are 'true' or 'false', got {word}"))),
            },
            Self::Path => text(&text::expand_user(word).to_string_lossy()),
            Self::Cmd if commands.contains(word) => text(word),
            Self::Cmd => Err(CommandError::Unknown(word.to_owned())),
            Self::Arg => text(word),
            Self::StrSeq => {
                Ok(ArgValue::Strs(word.split(',').map(|part| part.trim().to_owned()).collect()))
            }
            Self::CutSpec => Ok(ArgValue::Strs(word.split(',').map(str::to_owned).collect())),
            Self::Flow => {
                let mut flows = commands.resolve(word)?;
                match (flows.pop(), flows.len()) {
                    (Some(flow), 0) => Ok(ArgValue::Flow(flow)),
                    (last, rest) => Err(CommandError::new(format!(
                        "Command requires one flow, specification matched {}.",
                        rest + usize::from(last.is_some())
                    ))),
                }
            }
            Self::Flows => commands.resolve(word).map(ArgValue::Flows),
            Self::Data => Err(CommandError::new("data cannot be passed as argument")),
            Self::Choice(source) => {
                let valid = choices(commands, source)?;
                if valid.iter().any(|choice| choice == word) {
                    return text(word);
                }
                Err(CommandError::new(format!(
                    "Invalid choice. Valid are {}, got {word}",
                    text::quoted_list(&valid)
                )))
            }
            Self::Marker => marker::parse(word).map(ArgValue::Str).ok_or_else(|| {
                CommandError::new(format!(
                    "Invalid choice. Markers are true, false, a character or an emoji code such as \
                     :grapes:, got {word}"
                ))
            }),
        }
    }

    /// Returns whether a parameter of this type can take a ready value.
    pub(super) fn accepts(&self, value: &ArgValue) -> bool {
        match self {
            Self::Str | Self::Path | Self::Cmd | Self::Arg | Self::Choice(_) | Self::Marker => {
                matches!(value, ArgValue::Str(_))
            }
            Self::Bytes => matches!(value, ArgValue::Bytes(_)),
            Self::Int => matches!(value, ArgValue::Int(_)),
            Self::Bool => matches!(value, ArgValue::Bool(_)),
            Self::StrSeq | Self::CutSpec => matches!(value, ArgValue::Strs(_)),
            Self::Flow => matches!(value, ArgValue::Flow(_)),
            Self::Flows => matches!(value, ArgValue::Flows(_)),
            Self::Data => false,
        }
    }

    /// Returns whether a command that returns this type can return `value`.
    pub(super) fn returnable(&self, commands: &Commands, value: &RetValue) -> bool {
        match (self, value) {
            (Self::Str | Self::Path | Self::Arg, RetValue::Str(_))
            | (Self::Bytes, RetValue::Bytes(_))
            | (Self::Int, RetValue::Int(_))
            | (Self::Bool, RetValue::Bool(_))
            | (Self::StrSeq, RetValue::Strs(_))
            | (Self::Flow, RetValue::Flow(_))
            | (Self::Flows, RetValue::Flows(_))
            | (Self::Data, RetValue::Data(_)) => true,
            (Self::Cmd, RetValue::Str(name)) => commands.contains(name),
            (Self::Choice(source), RetValue::Str(choice)) => {
                choices(commands, source).is_ok_and(|valid| valid.contains(choice))
            }
            (Self::Marker, RetValue::Str(name)) => marker::parse(name).is_some(),
            _ => false,
        }
    }
}

/// Returns the strings that the command `source` returns.
pub(super) fn choices(commands: &Commands, source: &str) -> Result<Vec<String>, CommandError> {
    match commands.call(source, Vec::new())? {
        RetValue::Strs(choices) => Ok(choices),
        _ => Err(super::returned(source, &ArgType::StrSeq)),
    }
}
