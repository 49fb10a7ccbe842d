//! The text forms that patterns are matched against, and Python's `repr`, which they contain.

use std::fmt::{self, Write};

use mitm_flow::{Headers, Value};

/// How deeply nested metadata is written out.
const MAX_VALUE_DEPTH: usize = 32;

/// Returns the headers as `name: value` lines that each end with CRLF.
pub(crate) fn header_block(headers: &Headers) -> Vec<u8> {
    let fields = headers.fields();
    let len = fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut block = Vec::with_capacity(len);
    for (name, value) in fields {
        block.extend_from_slice(name);
        block.extend_from_slice(b": ");
        block.extend_from_slice(value);
        block.extend_from_slice(b"\r\n");
    }
    block
}

/// Returns metadata as `key: value` lines, joined by line feeds.
pub(crate) fn metadata_lines(metadata: &[(Value, Value)]) -> String {
    let mut out = String::new();
    for (i, (key, value)) in metadata.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let _ = write_value(key, &mut out)
            .and_then(|()| out.write_str(": "))
            .and_then(|()| write_value(value, &mut out));
    }
    out
}

/// Writes a value as Python's `str` does: text without quotes.
fn write_value(value: &Value, out: &mut impl Write) -> fmt::Result {
    match value {
        Value::Str(text) => out.write_str(text),
        other => write_value_repr(other, out, 0),
    }
}

fn write_value_repr(value: &Value, out: &mut impl Write, depth: usize) -> fmt::Result {
    if depth > MAX_VALUE_DEPTH {
        return out.write_str("...");
    }
    match value {
        Value::Null => out.write_str("None"),
        Value::Bool(true) => out.write_str("True"),
        Value::Bool(false) => out.write_str("False"),
        Value::Int(int) => write!(out, "{int}"),
        Value::Float(float) => write_float_repr(*float, out),
        Value::Bytes(bytes) => write_bytes_repr(bytes, out),
        Value::Str(text) => write_str_repr(text, out),
        Value::List(items) => {
            out.write_char('[')?;
            for (i, item) in items.iter().enumerate() {
                out.write_str(if i > 0 { ", " } else { "" })?;
                write_value_repr(item, out, depth + 1)?;
            }
            out.write_char(']')
        }
        Value::Map(entries) => {
            out.write_char('{')?;
            for (i, (key, item)) in entries.iter().enumerate() {
                out.write_str(if i > 0 { ", " } else { "" })?;
                write_value_repr(key, out, depth + 1)?;
                out.write_str(": ")?;
                write_value_repr(item, out, depth + 1)?;
            }
            out.write_char('}')
        }
    }
}

/// Writes the shortest digits that give the number back, with an exponent where Python has one.
fn write_float_repr(float: f64, out: &mut impl Write) -> fmt::Result {
    if float.is_nan() {
        return out.write_str("nan");
    }
    if float.is_infinite() {
        return out.write_str(if float > 0.0 { "inf" } else { "-inf" });
    }
    let magnitude = float.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return write!(out, "{digits}e{sign}{exponent:0>2}");
    }
    write!(out, "{float:?}")
}

fn write_bytes_repr(bytes: &[u8], out: &mut impl Write) -> fmt::Result {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    write!(out, "b{quote}")?;
    for &byte in bytes {
        match byte {
            b'\n' => out.write_str("\\n")?,
            b'\r' => out.write_str("\\r")?,
            b'\t' => out.write_str("\\t")?,
            b'\\' => out.write_str("\\\\")?,
            b if char::from(b) == quote => write!(out, "\\{quote}")?,
            b' '..=b'~' => out.write_char(char::from(byte))?,
            _ => write!(out, "\\x{byte:02x}")?,
        }
    }
    out.write_char(quote)
}

/// Writes text in quotes as Python's `repr` does; what a terminal would not print is escaped.
pub(crate) fn write_str_repr(text: &str, out: &mut impl Write) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\\' => out.write_str("\\\\")?,
            c if c == quote => write!(out, "\\{quote}")?,
            ' '..='~' => out.write_char(c)?,
            // Rust escapes what is not printable by code; combining marks, too.
            c if c.is_alphanumeric() || c.escape_debug().len() == 1 => out.write_char(c)?,
            c => match u32::from(c) {
                code @ 0..=0xFF => write!(out, "\\x{code:02x}")?,
                code @ 0x100..=0xFFFF => write!(out, "\\u{code:04x}")?,
                code => write!(out, "\\U{code:08x}")?,
            },
        }
    }
    out.write_char(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &Value) -> String {
        let mut out = String::new();
        write_value(value, &mut out).unwrap();
        out
    }

    #[test]
    fn values_are_written_as_python_does() {
        let cases = [
            (Value::Null, "None"),
            (Value::Bool(true), "True"),
            (Value::Int(-7), "-7"),
            (Value::Float(1.0), "1.0"),
            (Value::Float(0.1), "0.1"),
            (Value::Float(1e16), "1e+16"),
            (Value::Float(-2.5e-5), "-2.5e-05"),
            (Value::Float(1.5e300), "1.5e+300"),
            (Value::Float(123_456_789_012_345.6), "123456789012345.6"),
            (Value::Float(f64::NEG_INFINITY), "-inf"),
            (Value::Str("it's".into()), "it's"),
            (Value::Bytes("a'\n\x7f".into()), "b\"a'\\n\\x7f\""),
            (
                Value::List(vec![Value::Str("it's \"x\"\u{e9}\u{1b}".into()), Value::Null]),
                "['it\\'s \"x\"\u{e9}\\x1b', None]",
            ),
            (Value::Map(vec![("k".into(), Value::Int(1))]), "{'k': 1}"),
        ];
        for (value, text) in cases {
            assert_eq!(shown(&value), text);
        }
    }

    #[test]
    fn deeply_nested_values_are_cut() {
        let mut value = Value::Null;
        for _ in 0..500 {
            value = Value::List(vec![value]);
        }
        assert!(shown(&value).contains("..."));
    }

    #[test]
    fn metadata_is_one_line_per_entry() {
        let metadata = [("a".into(), Value::Int(1)), (Value::Bytes("b".into()), "x".into())];
        assert_eq!(metadata_lines(&metadata), "a: 1\nb'b': x");
        assert_eq!(metadata_lines(&[]), "");
    }

    #[test]
    fn header_lines_keep_case_and_end_with_crlf() {
        let headers: Headers = [("X-A", "1"), ("x-a", "")].into_iter().collect();
        assert_eq!(header_block(&headers), b"X-A: 1\r\nx-a: \r\n");
        assert_eq!(header_block(&Headers::new()), b"");
    }
}
