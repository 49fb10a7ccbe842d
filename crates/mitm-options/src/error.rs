//! [`OptionsError`].

use std::sync::Arc;

use thiserror::Error;

use crate::OptionType;

/// Why options were not changed, read or written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OptionsError {
    /// No option has one of these names.
    #[error("Unknown option(s): {} (--options lists all)", .0.join(", "))]
    Unknown(Vec<String>),

    /// The value is of another type than the option.
    #[error("Expected {expected} for {name}, but got {got}.")]
    Type { name: String, expected: OptionType, got: String },

    /// The option takes one of a few values, and this is none of them.
    #[error("invalid value '{value}' for {name}: valid values are {valid}")]
    Choice { name: String, value: String, valid: String },

    /// `--set name` for an option that needs a value.
    #[error("Option is required: {name} (a value of type {expected}: {name}=VALUE)")]
    Required { name: String, expected: OptionType },

    /// The text is not what the option's type is written like.
    #[error("Failed to parse option {name}: {reason}")]
    Parse { name: String, reason: String },

    /// Several values for an option that holds one.
    #[error("Received multiple values for {name}: [{}]", .values.join(", "))]
    Multiple { name: String, values: Vec<String> },

    /// A declaration with a name that could not be set.
    #[error("invalid option name '{0}': it must not be empty nor have '=' or spaces in it")]
    Name(String),

    /// The configuration file is not a mapping, or not YAML.
    #[error("Config error{}", .0)]
    Config(String),

    /// An entry of the configuration file was refused.
    #[error("line {line}: {error}")]
    Line { line: u64, error: Box<OptionsError> },

    /// A configuration file could not be read or was refused.
    #[error("Error reading {path}: {reason}")]
    Read { path: String, reason: String },

    /// A configuration file could not be written.
    #[error("Could not write {path}: {reason}")]
    Write { path: String, reason: String },

    /// Another change of options did not end in time.
    #[error("options cannot be changed now: another change is still running")]
    Busy,

    /// A change that causes a change that causes a change, without end.
    #[error("options cannot be changed: too many changes caused by one another ({})", .0.join(", "))]
    TooDeep(Vec<String>),

    /// Whoever reads the option refused its value. The text names the option.
    #[error("{0}")]
    Invalid(Arc<str>),
}

impl OptionsError {
    /// Makes the error of a subscriber that refuses a value; `message` names the option.
    pub fn invalid(message: impl Into<Arc<str>>) -> Self {
        Self::Invalid(message.into())
    }
}
