//! Bytes as error texts show them: printable ASCII in quotes, the rest escaped, long ones cut.

use std::fmt::{self, Write as _};

/// How many bytes of a peer's input an error text repeats.
pub(crate) const SHOWN_BYTES: usize = 256;

/// Displays bytes as a Python bytes literal, which is what users of this kind of message are used to.
pub(crate) struct Repr<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Repr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, cut) = match self.0.split_at_checked(SHOWN_BYTES) {
            Some((shown, rest)) if !rest.is_empty() => (shown, true),
            _ => (self.0, false),
        };
        let quote = if shown.contains(&b'\'') && !shown.contains(&b'"') { '"' } else { '\'' };
        write!(f, "b{quote}")?;
        for &byte in shown {
            match byte {
                b'\t' => f.write_str("\\t")?,
                b'\n' => f.write_str("\\n")?,
                b'\r' => f.write_str("\\r")?,
                b'\\' => f.write_str("\\\\")?,
                b'\'' if quote == '\'' => f.write_str("\\'")?,
                0x20..=0x7e => f.write_char(char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        f.write_char(quote)?;
        if cut { f.write_char('…') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_quoted_and_escaped() {
        assert_eq!(Repr(b"a\r\n\t\\\x00\xff").to_string(), r"b'a\r\n\t\\\x00\xff'");
        assert_eq!(Repr(b"it's").to_string(), r#"b"it's""#);
        assert_eq!(Repr(b"it's \"x\"").to_string(), r#"b'it\'s "x"'"#);
        assert!(Repr(&[b'x'; 300]).to_string().ends_with("x'…"));
        assert!(Repr(&[b'x'; SHOWN_BYTES]).to_string().ends_with("x'"));
    }
}
