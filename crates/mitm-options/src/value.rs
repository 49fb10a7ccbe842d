//! [`OptionType`] and [`OptionValue`]: the six types an option can have, and a value of one of them.

use std::fmt;

use mitm_flow::Value;

/// The type of an option. `Display` gives the name users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OptionType {
    Bool,
    Str,
    OptionalStr,
    Int,
    OptionalInt,
    /// A list of strings.
    Sequence,
}

impl OptionType {
    /// Returns the name used in messages, in `--options` and by the web API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Str => "str",
            Self::OptionalStr => "optional str",
            Self::Int => "int",
            Self::OptionalInt => "optional int",
            Self::Sequence => "sequence of str",
        }
    }

    /// Returns whether `value` is of this type. A bool is no int.
    pub fn accepts(self, value: &OptionValue) -> bool {
        match value {
            OptionValue::None => matches!(self, Self::OptionalStr | Self::OptionalInt),
            OptionValue::Bool(_) => self == Self::Bool,
            OptionValue::Int(_) => matches!(self, Self::Int | Self::OptionalInt),
            OptionValue::Str(_) => matches!(self, Self::Str | Self::OptionalStr),
            OptionValue::Strs(_) => self == Self::Sequence,
        }
    }
}

impl fmt::Display for OptionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The value of an option. Which variants an option may hold is a matter of its [`OptionType`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    /// An optional option without a value.
    None,
    Bool(bool),
    Int(i64),
    Str(String),
    Strs(Vec<String>),
}

impl OptionValue {
    /// Returns what the value is, for the message that says it should have been something else.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Str(_) => "str",
            Self::Strs(_) => "sequence of str",
        }
    }

    /// Returns the value as a schemaless one.
    pub fn to_value(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(i) => Value::Int(*i),
            Self::Str(s) => Value::Str(s.clone()),
            Self::Strs(list) => Value::List(list.iter().cloned().map(Value::Str).collect()),
        }
    }
}

/// As a person types it: lists are joined with `, `, no value is empty.
impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Bool(b) => b.fmt(f),
            Self::Int(i) => i.fmt(f),
            Self::Str(s) => f.write_str(s),
            Self::Strs(list) => f.write_str(&list.join(", ")),
        }
    }
}

/// Fails with a description of what the value is, if no option could hold it.
impl TryFrom<Value> for OptionValue {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        Ok(match value {
            Value::Null => Self::None,
            Value::Bool(b) => Self::Bool(b),
            Value::Int(i) => Self::Int(i),
            Value::Str(s) => Self::Str(s),
            Value::List(items) => Self::Strs(
                items
                    .into_iter()
                    .map(|item| match item {
                        Value::Str(s) => Ok(s),
                        _ => Err("a list with items that are not strings"),
                    })
                    .collect::<Result<_, _>>()?,
            ),
            Value::Float(_) => return Err("float"),
            Value::Bytes(_) => return Err("bytes"),
            Value::Map(_) => return Err("mapping"),
        })
    }
}

impl From<bool> for OptionValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for OptionValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for OptionValue {
    fn from(value: &str) -> Self {
        Self::Str(value.to_owned())
    }
}

impl From<String> for OptionValue {
    fn from(value: String) -> Self {
        Self::Str(value)
    }
}

impl From<Vec<String>> for OptionValue {
    fn from(value: Vec<String>) -> Self {
        Self::Strs(value)
    }
}

impl<T: Into<OptionValue>> From<Option<T>> for OptionValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_accept_their_own_values_only() {
        assert!(OptionType::Bool.accepts(&true.into()));
        assert!(!OptionType::Int.accepts(&true.into()));
        assert!(OptionType::OptionalInt.accepts(&OptionValue::None));
        assert!(!OptionType::Int.accepts(&OptionValue::None));
        assert!(!OptionType::Sequence.accepts(&"x".into()));
    }

    #[test]
    fn lists_of_other_things_are_no_option_value() {
        assert!(OptionValue::try_from(Value::List(vec![Value::Int(1)])).is_err());
        assert_eq!(OptionValue::try_from(Value::Float(1.0)), Err("float"));
    }
}
