//! Percent-encoding, query strings and urlencoded forms.
//!
//! Names and values are bytes: what was sent need not be text. They are read as Python's `parse_qsl` does
//! with blank values kept: split at `&` only, a pair without `=` has an empty value, empty pairs
//! are dropped.

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// What is never quoted: letters, digits, `_.-~`.
const QUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');
const QUOTED_IN_PATH: &AsciiSet = &QUOTED.remove(b'/');
const QUOTED_IN_FORM: &AsciiSet = &QUOTED.remove(b' ');

/// Reads the pairs of a query or urlencoded form.
pub fn decode(text: &[u8]) -> Vec<(Bytes, Bytes)> {
    let pairs = text.split(|&b| b == b'&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = match memchr::memchr(b'=', pair) {
                Some(at) => {
                    let (name, value) = pair.split_at(at);
                    (name, value.get(1..).unwrap_or_default())
                }
                None => (pair, &[][..]),
            };
            (unquote_plus(name), unquote_plus(value))
        })
        .collect()
}

fn unquote_plus(text: &[u8]) -> Bytes {
    if !text.iter().any(|b| matches!(b, b'+' | b'%')) {
        return Bytes::copy_from_slice(text);
    }
    let spaced: Vec<u8> = text.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect();
    match Cow::from(percent_decode(&spaced)) {
        Cow::Borrowed(_) => spaced.into(),
        Cow::Owned(decoded) => decoded.into(),
    }
}

/// Writes pairs. If `similar_to` has a pair without `=`, pairs with an empty value are written so too.
pub fn encode<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    pairs: impl IntoIterator<Item = (N, V)>,
    similar_to: &[u8],
) -> String {
    let bare = !similar_to.is_empty()
        && similar_to.split(|&b| b == b'&').any(|pair| !pair.contains(&b'='));
    let mut out = String::new();
    for (i, (name, value)) in pairs.into_iter().enumerate() {
        if i > 0 {
            out.push('&');
        }
        quote_plus(&mut out, name.as_ref());
        if !(bare && value.as_ref().is_empty()) {
            out.push('=');
            quote_plus(&mut out, value.as_ref());
        }
    }
    out
}

fn quote_plus(out: &mut String, text: &[u8]) {
    for part in percent_encode(text, QUOTED_IN_FORM) {
        for (i, part) in part.split(' ').enumerate() {
            if i > 0 {
                out.push('+');
            }
            out.push_str(part);
        }
    }
}

/// Quotes all but letters, digits, `_.-~`, and `/` if `keep_slash`.
pub fn quote(text: &[u8], keep_slash: bool) -> String {
    percent_encode(text, if keep_slash { QUOTED_IN_PATH } else { QUOTED }).to_string()
}

/// Undoes [`quote`]; what is not a valid escape stays.
pub fn unquote(text: &[u8]) -> Cow<'_, [u8]> {
    percent_decode(text).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_are_read_like_python() {
        let check = |text: &[u8], expected: &[(&[u8], &[u8])]| {
            let pairs = decode(text);
            let pairs: Vec<(&[u8], &[u8])> = pairs.iter().map(|(n, v)| (&n[..], &v[..])).collect();
            assert_eq!(pairs, expected);
        };
        check(b"a=b&c=d", &[(b"a", b"b"), (b"c", b"d")]);
        check(b"&&a=1&", &[(b"a", b"1")]);
        check(b"a&a=&=b&=", &[(b"a", b""), (b"a", b""), (b"", b"b"), (b"", b"")]);
        check(b"a=b=c;d", &[(b"a", b"b=c;d")]);
        check(b"a+b=%ff%zz%", &[(b"a b", b"\xff%zz%")]);
        check(b"a=+%2B", &[(b"a", b" +")]);
        check(b"", &[]);
    }

    #[test]
    fn pairs_are_written_like_python() {
        assert_eq!(encode([("a b", "c/d&=~*.-_")], b""), "a+b=c%2Fd%26%3D~%2A.-_");
        assert_eq!(
            encode([("ü", &b"\xff"[..])].map(|(n, v)| (n.as_bytes(), v)), b""),
            "%C3%BC=%FF"
        );
        assert_eq!(encode([("a", ""), ("b", "c")], b"x=1"), "a=&b=c");
        assert_eq!(encode([("a", ""), ("b", "c")], b"y=1&x"), "a&b=c");
        assert_eq!(encode([("", "")], b""), "=");
        assert_eq!(encode(<[(&str, &str); 0]>::default(), b"x"), "");
        assert_eq!(quote("a b/ü".as_bytes(), true), "a%20b/%C3%BC");
        assert_eq!(quote(b"a/b", false), "a%2Fb");
        assert_eq!(&*unquote(b"%41+%zz%"), b"A+%zz%");
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(pairs: Vec<(Vec<u8>, Vec<u8>)>) {
            let expected: Vec<(Bytes, Bytes)> =
                pairs.iter().map(|(n, v)| (n.clone().into(), v.clone().into())).collect();
            prop_assert_eq!(decode(encode(pairs, b"").as_bytes()), expected);
        }
    }
}
