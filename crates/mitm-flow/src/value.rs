//! [`Value`]: a value without a schema, as in a flow's metadata and in flow files.

use bytes::Bytes;

/// What a flow file can hold: the types of Python that mitmproxy serialises.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Bytes(Bytes),
    Str(String),
    List(Vec<Value>),
    /// Entries in order; a key is nearly always a [`Value::Str`], in old files [`Value::Bytes`].
    Map(Vec<(Value, Value)>),
}

impl Value {
    /// Returns the entry called `key` of a map, whether it is stored as text or as bytes.
    /// The last one wins, as in the files that repeat a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Self::Map(entries) = self else { return None };
        entries.iter().rev().find(|(k, _)| k.is_text(key)).map(|(_, value)| value)
    }

    /// Removes the entries called `key` from a map and returns the last of them.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let Self::Map(entries) = self else { return None };
        let mut found = None;
        while let Some(at) = entries.iter().rposition(|(k, _)| k.is_text(key)) {
            let (_, value) = entries.remove(at);
            found.get_or_insert(value);
        }
        found
    }

    /// Sets the entry `key` of a map; does nothing to other values.
    pub fn set(&mut self, key: &str, value: Value) {
        let Self::Map(entries) = self else { return };
        match entries.iter_mut().rev().find(|(k, _)| k.is_text(key)) {
            Some((_, old)) => *old = value,
            None => entries.push((Self::Str(key.to_owned()), value)),
        }
    }

    /// Python's truth value.
    pub fn is_truthy(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(f) => *f != 0.0,
            Self::Bytes(b) => !b.is_empty(),
            Self::Str(s) => !s.is_empty(),
            Self::List(l) => !l.is_empty(),
            Self::Map(m) => !m.is_empty(),
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    fn is_text(&self, text: &str) -> bool {
        match self {
            Self::Str(s) => s == text,
            Self::Bytes(b) => b.as_ref() == text.as_bytes(),
            _ => false,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_access_takes_both_kinds_of_keys() {
        let mut map = Value::Map(vec![
            (Value::Bytes("a".into()), Value::Int(1)),
            (Value::Str("a".into()), Value::Int(2)),
        ]);
        assert_eq!(map.get("a"), Some(&Value::Int(2)));
        map.set("b", Value::Null);
        assert_eq!(map.remove("a"), Some(Value::Int(2)));
        assert_eq!(map.get("a"), None);
        assert_eq!(map.get("b"), Some(&Value::Null));
    }
}
