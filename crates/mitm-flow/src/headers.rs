//! [`Headers`]: an ordered list of fields, byte for byte as they were on the wire.
//!
//! Names are never normalised and duplicates never joined; the multidict methods on top compare
//! names without case (RFC 9110 §5.1). A list that came from the wire remembers the block of bytes it was
//! parsed from and is written back as exactly these bytes until a field is changed.

use std::{fmt, sync::Arc};

use bytes::{BufMut, Bytes};

/// One field: name and value.
pub type Field = (Bytes, Bytes);

/// An ordered, case-insensitive byte multidict. Cloning shares the list; a change copies it first.
#[derive(Clone, Default)]
pub struct Headers {
    fields: Arc<Vec<Field>>,
    /// The field lines as received, each with its CRLF, without the empty line at the end.
    wire: Option<Bytes>,
}

impl Headers {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn from_fields(fields: Vec<Field>) -> Self {
        Self { fields: Arc::new(fields), wire: None }
    }

    /// Builds a list from fields and the block of lines they were parsed from.
    pub fn from_wire(fields: Vec<Field>, block: Bytes) -> Self {
        Self { fields: Arc::new(fields), wire: Some(block) }
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Returns the value of the first field called `name`.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.fields.iter().find(|(n, _)| same_name(n, name)).map(|(_, value)| value)
    }

    /// Returns the values of all fields called `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> + 'a {
        self.fields.iter().filter(move |(n, _)| same_name(n, name)).map(|(_, value)| value)
    }

    /// Returns the values of all fields called `name`, joined with `", "` (RFC 9110 §5.3).
    pub fn get_folded(&self, name: &str) -> Option<Bytes> {
        let mut values = self.get_all(name);
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(first.clone()) };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value);
        }
        Some(joined.into())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Returns the elements of all comma-separated lists called `name`, trimmed, empty ones left out.
    pub fn tokens<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.get_all(name)
            .flat_map(|value| value.split(|&b| b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|token| !token.is_empty())
    }

    /// True if a list called `name` has the element `token`, compared without case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|t| t.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Appends a field.
    pub fn add(&mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.fields_mut().push((name.into(), value.into()));
    }

    /// Inserts a field at `index` (at the end, if there are fewer).
    pub fn insert(&mut self, index: usize, name: impl Into<Bytes>, value: impl Into<Bytes>) {
        let fields = self.fields_mut();
        let index = index.min(fields.len());
        fields.insert(index, (name.into(), value.into()));
    }

    /// Makes `value` the only one of `name`. See [`set_all`](Self::set_all) for the position.
    pub fn set(&mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.set_all(name, [value.into()]);
    }

    /// Makes `values` the values of `name`: existing fields are overwritten in place and keep the spelling
    /// of their name, surplus ones are dropped, further values are appended.
    pub fn set_all(&mut self, name: impl Into<Bytes>, values: impl IntoIterator<Item = Bytes>) {
        let name = name.into();
        let mut values = values.into_iter();
        let fields = self.fields_mut();
        fields.retain_mut(|(n, value)| {
            if !n.eq_ignore_ascii_case(&name) {
                return true;
            }
            let next = values.next();
            let keep = next.is_some();
            if let Some(next) = next {
                *value = next;
            }
            keep
        });
        fields.extend(values.map(|value| (name.clone(), value)));
    }

    /// Removes all fields called `name`; true if there were any.
    pub fn remove(&mut self, name: &str) -> bool {
        if !self.contains(name) {
            return false;
        }
        self.fields_mut().retain(|(n, _)| !same_name(n, name));
        true
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Gives the list for any change; what was on the wire no longer holds after it.
    pub fn fields_mut(&mut self) -> &mut Vec<Field> {
        self.wire = None;
        Arc::make_mut(&mut self.fields)
    }

    /// Appends the field lines, each with CRLF: the bytes received if nothing was changed.
    pub fn write_to(&self, out: &mut impl BufMut) {
        if let Some(wire) = &self.wire {
            out.put_slice(wire);
            return;
        }
        for (name, value) in self.fields.iter() {
            out.put_slice(name);
            out.put_slice(b": ");
            out.put_slice(value);
            out.put_slice(b"\r\n");
        }
    }

    /// Returns the number of bytes [`write_to`](Self::write_to) appends.
    pub fn wire_len(&self) -> usize {
        match &self.wire {
            Some(wire) => wire.len(),
            None => self.fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum(),
        }
    }

    /// True if nothing was changed since the list was parsed from the wire.
    pub fn is_verbatim(&self) -> bool {
        self.wire.is_some()
    }
}

fn same_name(name: &[u8], wanted: &str) -> bool {
    name.eq_ignore_ascii_case(wanted.as_bytes())
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fields, &other.fields) || self.fields == other.fields
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields.iter()).finish()
    }
}

impl<N: Into<Bytes>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        Self::from_fields(fields.into_iter().map(|(n, v)| (n.into(), v.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Headers {
        [("Host", "a"), ("X-One", "1"), ("x-one", "2"), ("X-Two", "3")].into_iter().collect()
    }

    fn written(headers: &Headers) -> String {
        let mut out = Vec::new();
        headers.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lookup_ignores_case_and_keeps_order() {
        let headers = sample();
        assert_eq!(headers.get("X-ONE").unwrap(), "1");
        assert_eq!(headers.get_folded("x-One").unwrap(), "1, 2");
        assert_eq!(headers.get("nope"), None);
    }

    #[test]
    fn set_all_overwrites_in_place_and_keeps_spelling() {
        let mut headers = sample();
        headers.set_all("X-ONE", ["9".into()]);
        assert_eq!(written(&headers), "Host: a\r\nX-One: 9\r\nX-Two: 3\r\n");
        headers.set_all("x-two", ["4".into(), "5".into()]);
        assert_eq!(written(&headers), "Host: a\r\nX-One: 9\r\nX-Two: 4\r\nx-two: 5\r\n");
    }

    #[test]
    fn wire_form_is_kept_until_a_change() {
        let block = Bytes::from_static(b"A:  1 \r\n");
        let mut headers = Headers::from_wire(vec![("A".into(), "1".into())], block);
        assert_eq!(written(&headers), "A:  1 \r\n");
        assert!(!headers.remove("b"));
        assert!(headers.is_verbatim());
        headers.add("B", "2");
        assert_eq!(written(&headers), "A: 1\r\nB: 2\r\n");
        assert_eq!(headers.wire_len(), written(&headers).len());
    }

    #[test]
    fn a_clone_is_not_changed_with_its_origin() {
        let mut headers = sample();
        let before = headers.clone();
        headers.remove("host");
        assert!(before.contains("host") && !headers.contains("host"));
    }

    #[test]
    fn tokens_are_split_and_trimmed() {
        let headers: Headers =
            [("Connection", "close, ,X-A"), ("connection", "Upgrade")].into_iter().collect();
        assert_eq!(headers.tokens("connection").count(), 3);
        assert!(headers.has_token("Connection", "upgrade"));
    }
}
