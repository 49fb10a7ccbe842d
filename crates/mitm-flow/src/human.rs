//! Numbers, sizes and text in the form that people read. Times of day are not here: they need a time zone.

use std::{borrow::Cow, fmt::Write};

use thiserror::Error;

/// Formats a number of bytes in at most five characters: `1023b`, `1.0k`, `100k`.
pub fn pretty_size(size: u64) -> String {
    const UNITS: [char; 4] = ['k', 'm', 'g', 't'];
    if size < 1024 {
        return format!("{size}b");
    }
    let mut value = size as f64;
    let mut last = 't';
    for unit in UNITS {
        value /= 1024.0;
        last = unit;
        if value < 99.95 {
            return format!("{value:.1}{unit}");
        }
        if value < 1024.0 {
            break;
        }
    }
    format!("{value:.0}{last}")
}

/// The text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("Invalid size specification.")]
pub struct InvalidSize;

/// Reads a whole number, with one of `b k m g t` after it or without.
///
/// # Errors
/// The text is nothing of this, or the product is too large.
pub fn parse_size(text: &str) -> Result<i64, InvalidSize> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'b') => (text.strip_suffix('b'), 1),
        Some(b'k') => (text.strip_suffix('k'), 1 << 10),
        Some(b'm') => (text.strip_suffix('m'), 1 << 20),
        Some(b'g') => (text.strip_suffix('g'), 1 << 30),
        Some(b't') => (text.strip_suffix('t'), 1 << 40),
        _ => (Some(text), 1),
    };
    let number: i64 = digits.and_then(|text| text.trim().parse().ok()).ok_or(InvalidSize)?;
    number.checked_mul(factor).ok_or(InvalidSize)
}

/// Formats seconds: `2ms`, `1.00s`, `10.1s`, `100s`.
pub fn pretty_duration(seconds: f64) -> String {
    if seconds >= 100.0 {
        format!("{seconds:.0}s")
    } else if seconds >= 10.0 {
        format!("{seconds:.1}s")
    } else if seconds >= 1.0 {
        format!("{seconds:.2}s")
    } else {
        format!("{:.0}ms", seconds * 1000.0)
    }
}

/// Replaces characters that would control a terminal by a dot. Tab, CR and LF stay if `keep_spacing`.
/// Beyond ASCII's, the C1 controls (U+0080 to U+009F) are replaced too: some terminals obey them.
pub fn escape_control_characters(text: &str, keep_spacing: bool) -> Cow<'_, str> {
    let is_control = |c: char| c.is_control() && !(keep_spacing && matches!(c, '\t' | '\r' | '\n'));
    if text.contains(is_control) { text.replace(is_control, ".").into() } else { text.into() }
}

/// Formats bytes like Python's `repr`, without the quotes: printable ASCII, `\n`, `\xff`, `\\`.
/// Tab, CR and LF stay if `keep_spacing`; single quotes are escaped if `escape_quotes`.
pub fn bytes_to_escaped_str(bytes: &[u8], keep_spacing: bool, escape_quotes: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\t' | b'\r' | b'\n' if keep_spacing => out.push(char::from(byte)),
            b'\t' => out.push_str("\\t"),
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            b'\\' => out.push_str("\\\\"),
            b'\'' if escape_quotes => out.push_str("\\'"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => write!(out, "\\x{byte:02x}").expect("writing to a string succeeds"),
        }
    }
    out
}

/// Formats bytes as Python's `repr` does: `b'it\\x00'`, in double quotes if only these need no escape.
pub fn bytes_repr(bytes: &[u8]) -> String {
    if bytes.contains(&b'\'') && !bytes.contains(&b'"') {
        format!("b\"{}\"", bytes_to_escaped_str(bytes, false, false))
    } else {
        format!("b'{}'", bytes_to_escaped_str(bytes, false, true))
    }
}

/// A `\x` without two hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("invalid \\x escape at position {0}")]
pub struct InvalidEscape(pub usize);

/// Undoes [`bytes_to_escaped_str`]: reads the escapes of Python's bytes literals. Unknown ones stay as they are.
///
/// # Errors
/// A `\x` without two digits.
pub fn escaped_str_to_bytes(text: &str) -> Result<Vec<u8>, InvalidEscape> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some(&escape) = bytes.get(at) else {
            out.push(byte);
            break;
        };
        at += 1;
        match escape {
            b'\n' => {}
            b'\\' | b'\'' | b'"' => out.push(escape),
            b'a' => out.push(0x07),
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(0x0b),
            b'x' => {
                let digits =
                    text.get(at..at + 2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                out.push(value.ok_or(InvalidEscape(start))?);
                at += 2;
            }
            b'0'..=b'7' => {
                let mut value = u32::from(escape - b'0');
                for _ in 0..2 {
                    let Some(digit @ b'0'..=b'7') = bytes.get(at) else { break };
                    value = value * 8 + u32::from(digit - b'0');
                    at += 1;
                }
                out.push((value & 0xff) as u8);
            }
            other => out.extend([byte, other]),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (size, text) in [
            (0, "0b"),
            (1023, "1023b"),
            (1024, "1.0k"),
            (10_000, "9.8k"),
            (102_400, "100k"),
            (1_048_575, "1024k"),
            (1_048_576, "1.0m"),
            (100_000_000_000_000_000, "90949t"),
        ] {
            assert_eq!(pretty_size(size), text);
        }
        for (text, size) in [
            ("1", Ok(1)),
            ("1k", Ok(1024)),
            (" 2 m", Ok(2 << 20)),
            ("-1", Ok(-1)),
            ("3t", Ok(3 << 40)),
        ] {
            assert_eq!(parse_size(text), size);
        }
        for bad in ["", "k", "1.5k", "1K", "1kb", "99999999t", "9999999999999999999", "ü"] {
            assert_eq!(parse_size(bad), Err(InvalidSize), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0.0015, "2ms"),
            (0.0, "0ms"),
            (1.0, "1.00s"),
            (10.05, "10.1s"),
            (100.0, "100s"),
            (100.5, "100s"),
        ] {
            assert_eq!(pretty_duration(seconds), text);
        }
    }

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(escape_control_characters("a\x1b[1m\t\x7f\u{9b}é", true), "a.[1m\t..é");
        assert_eq!(escape_control_characters("a\tb", false), "a.b");
        assert!(matches!(escape_control_characters("plain", false), Cow::Borrowed(_)));
    }

    #[test]
    fn escapes() {
        let escaped = bytes_to_escaped_str(b"caf\xe9\\ 'q' \"d\" \n\0", false, false);
        assert_eq!(escaped, "caf\\xe9\\\\ 'q' \"d\" \\n\\x00");
        assert_eq!(bytes_to_escaped_str(b"'\t", true, true), "\\'\t");
        assert_eq!(bytes_repr(b"message\0"), r"b'message\x00'");
        assert_eq!(bytes_repr(b"it's"), r#"b"it's""#);
        assert_eq!(bytes_repr(b"it's \""), r#"b'it\'s "'"#);
        assert_eq!(escaped_str_to_bytes("\\101\\q\\").unwrap(), b"A\\q\\");
        assert_eq!(escaped_str_to_bytes("ab\\xg0"), Err(InvalidEscape(2)));
        assert_eq!(escaped_str_to_bytes("\\x+1"), Err(InvalidEscape(0)));
        assert_eq!(escaped_str_to_bytes("\\x0ü"), Err(InvalidEscape(0)));
    }

    proptest! {
        #[test]
        fn unescaping_undoes_escaping(bytes: Vec<u8>, spacing: bool, quotes: bool) {
            let text = bytes_to_escaped_str(&bytes, spacing, quotes);
            prop_assert_eq!(escaped_str_to_bytes(&text).unwrap(), bytes);
        }

        #[test]
        fn any_text_unescapes_or_not(text: String) {
            drop(escaped_str_to_bytes(&text));
            let _ = parse_size(&text);
        }

        #[test]
        fn sizes_stay_short(size in 0..(1_u64 << 53)) {
            prop_assert!(pretty_size(size).len() <= 5);
        }
    }
}
