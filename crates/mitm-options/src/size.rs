//! Sizes as options write them: `100`, `64k`, `1m`.

use crate::{Opt, Options, OptionsError};

/// Reads a size in bytes: an integer, or one followed by `b`, `k`, `m`, `g` or `t` (powers of 1024).
///
/// Negative sizes are sizes too; what they mean is for the reader of the option to say. Returns
/// `None` for anything else, and for what is out of range.
pub fn parse_size(text: &str) -> Option<i64> {
    let text = text.trim();
    let (digits, shift) = match text.strip_suffix(['b', 'k', 'm', 'g', 't']) {
        None => (text, 0),
        Some(digits) => (
            digits,
            match text.as_bytes().last() {
                Some(b'k') => 10,
                Some(b'm') => 20,
                Some(b'g') => 30,
                Some(b't') => 40,
                _ => 0,
            },
        ),
    };
    // A space between number and unit, or a digit separator, is no size.
    let unsigned = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(1 << shift)
}

impl Options {
    /// Reads an optional size in bytes.
    pub fn size(&self, option: &Opt<Option<String>>) -> Result<Option<i64>, OptionsError> {
        self.get(option).map(|text| named_size(option.name(), &text)).transpose()
    }

    /// Reads a size in bytes that has a default.
    pub fn required_size(&self, option: &Opt<String>) -> Result<i64, OptionsError> {
        named_size(option.name(), &self.get(option))
    }
}

fn named_size(name: &str, text: &str) -> Result<i64, OptionsError> {
    parse_size(text).ok_or_else(|| {
        OptionsError::invalid(format!(
            "Invalid {name} specification: {text} (a number of bytes, or one followed by b, k, m, \
             g or t)"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", 0),
            ("100", 100),
            ("3b", 3),
            ("64k", 65_536),
            ("1m", 1 << 20),
            ("-1g", -(1 << 30)),
            ("2t", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for text in ["", "k", "1K", "1 k", "1.5m", "1kb", "0x1", "1_0", "9999999999999t", "é"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
