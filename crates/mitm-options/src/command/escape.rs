//! Escapes in the arguments of commands, as in the string literals of Python.

/// Decodes the escapes of a `str` argument: `\\ \' \" \a \b \f \n \r \t \v`, octal `\0` to `\777`,
/// `\xHH`, `\uHHHH`, `\UHHHHHHHH` and `\N{NAME}`. Any other backslash stays.
///
/// # Errors
///
/// A text for the user, if an escape has its length but no meaning, such as `\xzz`.
pub fn decode_str(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let Some(kind) = after.chars().next() else {
            out.push('\\');
            return Ok(out);
        };
        rest = after;
        if let Some(byte) = simple(kind) {
            out.push(char::from(byte));
            rest = after.strip_prefix(kind).unwrap_or_default();
        } else if let Some((value, tail)) = octal(after) {
            // Three octal digits stay below the surrogates.
            out.push(char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER));
            rest = tail;
        } else if let Some((c, tail)) = long(kind, after)? {
            out.push(c);
            rest = tail;
        } else {
            out.push('\\');
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Decodes the escapes of a `bytes` argument: those of one byte, `\N`, `\u` and `\U` not being among
/// them. Characters outside ASCII become UTF-8. A backslash before a line end removes both.
///
/// # Errors
///
/// A text for the user, if `\x` is not followed by two digits, or the text ends in a backslash.
pub fn decode_bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.extend_from_slice(before.as_bytes());
        let Some(kind) = after.chars().next() else {
            return Err("trailing \\ in bytes".to_owned());
        };
        rest = after;
        if let Some(byte) = simple(kind) {
            out.push(byte);
            rest = after.strip_prefix(kind).unwrap_or_default();
        } else if let Some((value, tail)) = octal(after) {
            out.push((value & 0xff) as u8);
            rest = tail;
        } else if let Some(after) = after.strip_prefix('x') {
            let digits = after.get(..2).ok_or_else(|| invalid("\\x"))?;
            out.push(hex(digits).and_then(|v| u8::try_from(v).ok()).ok_or_else(|| invalid("\\x"))?);
            rest = after.get(2..).unwrap_or_default();
        } else if let Some(after) = after.strip_prefix('\n') {
            rest = after;
        } else {
            out.push(b'\\');
        }
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

fn simple(kind: char) -> Option<u8> {
    Some(match kind {
        '\\' => b'\\',
        '\'' => b'\'',
        '"' => b'"',
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        _ => return None,
    })
}

/// Reads up to three octal digits; returns what follows.
fn octal(text: &str) -> Option<(u32, &str)> {
    let digits = text.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
    let (digits, tail) = text.split_at_checked(digits)?;
    Some((u32::from_str_radix(digits, 8).ok()?, tail))
}

/// Reads `xHH`, `uHHHH`, `UHHHHHHHH` or `N{NAME}`; `None` if the text is too short for one.
fn long(kind: char, after: &str) -> Result<Option<(char, &str)>, String> {
    let digits = match kind {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        'N' => return named(after),
        _ => return Ok(None),
    };
    let body = after.strip_prefix(kind).unwrap_or_default();
    let Some((end, _)) = body.char_indices().nth(digits - 1) else { return Ok(None) };
    let value = body
        .get(..digits)
        .filter(|_| end == digits - 1)
        .and_then(hex)
        .and_then(char::from_u32)
        .ok_or_else(|| invalid(&format!("\\{kind}")))?;
    Ok(Some((value, body.get(digits..).unwrap_or_default())))
}

fn named(after: &str) -> Result<Option<(char, &str)>, String> {
    let Some((name, tail)) = after.strip_prefix("N{").and_then(|body| body.split_once('}')) else {
        return Ok(None);
    };
    if name.is_empty() {
        return Ok(None);
    }
    let c = unicode_names2::character(name);
    c.map(|c| Some((c, tail))).ok_or_else(|| format!("unknown Unicode character name: {name}"))
}

fn hex(digits: &str) -> Option<u32> {
    // `from_str_radix` would take a sign.
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

fn invalid(escape: &str) -> String {
    format!("invalid {escape} escape")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_escapes() {
        for (escaped, text) in [
            ("a\\nb", "a\nb"),
            ("\\\\n", "\\n"),
            ("\\x41\\101\\u0041\\U00000041\\N{LATIN CAPITAL LETTER A}", "AAAAA"),
            ("\\'\\\"\\a\\b\\f\\r\\t\\v\\0", "'\"\u{7}\u{8}\u{c}\r\t\u{b}\0"),
            ("\\1234", "S4"),
            ("\\777", "\u{1ff}"),
            ("\\d\\", "\\d\\"),
            ("\\x4", "\\x4"),
            ("\\u12", "\\u12"),
            ("\\N\\N{}\\N{x", "\\N\\N{}\\N{x"),
            ("é\\é", "é\\é"),
        ] {
            assert_eq!(decode_str(escaped).as_deref(), Ok(text), "{escaped}");
        }
        for escaped in ["\\xzz", "\\x+4", "\\u12 4", "\\ud800", "\\U00110000", "\\N{NOPE}", "\\xéé"]
        {
            assert!(decode_str(escaped).is_err(), "{escaped}");
        }
    }

    #[test]
    fn byte_escapes() {
        for (escaped, bytes) in [
            ("a\\xff\\n", &b"a\xff\n"[..]),
            ("\\377\\777", b"\xff\xff"),
            ("\\u0041\\N{x}\\d", b"\\u0041\\N{x}\\d"),
            ("é", "é".as_bytes()),
            ("a\\\nb", b"ab"),
        ] {
            assert_eq!(decode_bytes(escaped).as_deref(), Ok(bytes), "{escaped}");
        }
        for escaped in ["\\", "\\x", "\\x4", "\\xg0", "\\xé"] {
            assert!(decode_bytes(escaped).is_err(), "{escaped}");
        }
    }

    proptest! {
        #[test]
        fn any_text_decodes_or_is_refused(text in "(\\\\|[xuUN{}0-9a-f]|.){0,20}") {
            let _ = decode_str(&text);
            let _ = decode_bytes(&text);
            if !text.contains('\\') {
                prop_assert_eq!(decode_str(&text), Ok(text.clone()));
                prop_assert_eq!(decode_bytes(&text), Ok(text.into_bytes()));
            }
        }
    }
}
