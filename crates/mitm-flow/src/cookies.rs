//! Cookies as browsers and servers write them, which is looser than RFC 6265.
//!
//! Names and values are bytes. A quoted value is unescaped when read, and quoted again when written if it needs to be.
//! Several cookies in one `set-cookie` field, separated by commas, are told apart.

use std::ops::Range;

use bytes::Bytes;

use crate::date;

/// A cookie as a server sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetCookie {
    pub name: Bytes,
    /// `None` without `=`.
    pub value: Option<Bytes>,
    pub attrs: CookieAttrs,
}

/// The attributes of a cookie: ordered, names without case, of repeated ones the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CookieAttrs(pub Vec<(Bytes, Option<Bytes>)>);

impl CookieAttrs {
    /// Returns the attribute `name`; the inner option is `None` if it has no value.
    pub fn get(&self, name: &str) -> Option<Option<&Bytes>> {
        let found = self.0.iter().rev().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| value.as_ref())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Returns when the cookie ends, in Unix seconds: by `expires`, else by `max-age` counted from `now`.
    pub fn expiration(&self, now: f64) -> Option<f64> {
        let text = |name| self.get(name).flatten().and_then(|v| std::str::from_utf8(v).ok());
        if self.contains("expires") {
            return text("expires").and_then(date::parse).map(|seconds| seconds as f64);
        }
        let seconds: i64 = text("max-age")?.trim().parse().ok()?;
        Some(now + seconds as f64)
    }

    /// True if the cookie has ended at `now`.
    pub fn is_expired(&self, now: f64) -> bool {
        self.expiration(now).is_some_and(|end| end <= now)
    }
}

/// Reads the cookies of a `cookie` field.
pub fn parse_cookie_header(text: &[u8]) -> Vec<(Bytes, Bytes)> {
    Pairs { text, at: 0, commas: false }
        .map(|pair| (pair.name(text), pair.value.unwrap_or_default()))
        .collect()
}

/// Writes the value of a `cookie` field. A cookie with the value `None` is a bare name.
pub fn format_cookie_header<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    cookies: impl IntoIterator<Item = (N, Option<V>)>,
) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in cookies {
        if !out.is_empty() {
            out.extend_from_slice(b"; ");
        }
        write_pair(&mut out, name.as_ref(), value.as_ref().map(AsRef::as_ref));
    }
    out
}

/// Reads the cookies of a `set-cookie` field: normally one.
pub fn parse_set_cookie_header(text: &[u8]) -> Vec<SetCookie> {
    let mut cookies: Vec<SetCookie> = Vec::new();
    for pair in (Pairs { text, at: 0, commas: true }) {
        let name = pair.name(text);
        match cookies.last_mut() {
            Some(cookie) if !pair.starts_cookie => cookie.attrs.0.push((name, pair.value)),
            _ => {
                let attrs = CookieAttrs::default();
                cookies.push(SetCookie { name, value: pair.value, attrs });
            }
        }
    }
    cookies
}

/// Writes the value of a `set-cookie` field; several cookies are separated by commas.
pub fn format_set_cookie_header(cookies: &[SetCookie]) -> Vec<u8> {
    let mut out = Vec::new();
    for cookie in cookies {
        if !out.is_empty() {
            out.extend_from_slice(b", ");
        }
        write_pair(&mut out, &cookie.name, cookie.value.as_deref());
        for (name, value) in &cookie.attrs.0 {
            out.extend_from_slice(b"; ");
            write_pair(&mut out, name, value.as_deref());
        }
    }
    out
}

/// Moves the `expires` of the cookies in a `set-cookie` field by `delta` seconds; one that is no date is removed. All
/// else stays as it is. `None` if a cookie has no name or no value: it is not touched.
pub fn refresh_set_cookie_header(text: &[u8], delta: f64) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut copied = 0;
    let mut first = true;
    for pair in (Pairs { text, at: 0, commas: true }) {
        if std::mem::take(&mut first) || pair.starts_cookie {
            if pair.name.is_empty() || pair.value.is_none_or(|value| value.is_empty()) {
                return None;
            }
            continue;
        }
        if !is_expires(text.get(pair.name.clone())?) {
            continue;
        }
        let value = pair.value.unwrap_or_default();
        if let Some(seconds) = std::str::from_utf8(&value).ok().and_then(date::parse) {
            out.extend_from_slice(text.get(copied..pair.written.start)?);
            out.extend_from_slice(date::format(seconds as f64 + delta).as_bytes());
        } else {
            // With the semicolon before it.
            let before = text.get(copied..pair.name.start)?.trim_ascii_end();
            out.extend_from_slice(before.strip_suffix(b";").unwrap_or(before));
        }
        copied = pair.written.end;
    }
    out.extend_from_slice(text.get(copied..)?);
    (!first).then_some(out)
}

/// Joins the pairs of a `cookie` field that are attributes, as old clients send them, with the cookie before
/// them.
pub fn group_cookies(pairs: impl IntoIterator<Item = (Bytes, Option<Bytes>)>) -> Vec<SetCookie> {
    const ATTRIBUTES: [&str; 8] =
        ["expires", "path", "comment", "max-age", "secure", "httponly", "version", "domain"];
    let mut cookies: Vec<SetCookie> = Vec::new();
    for (name, value) in pairs {
        let is_attribute = ATTRIBUTES.iter().any(|a| name.eq_ignore_ascii_case(a.as_bytes()));
        match cookies.last_mut() {
            Some(cookie) if is_attribute => cookie.attrs.0.push((name, value)),
            _ => cookies.push(SetCookie { name, value, attrs: CookieAttrs::default() }),
        }
    }
    cookies
}

fn is_expires(name: &[u8]) -> bool {
    name.trim_ascii().eq_ignore_ascii_case(b"expires")
}

fn write_pair(out: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    out.extend_from_slice(name);
    let Some(value) = value else { return };
    out.push(b'=');
    let needs_quotes =
        |b: &u8| !matches!(b, 0x21..=0x7e) || matches!(b, b'"' | b',' | b';' | b'\\');
    let never_quoted = is_expires(name) || name.eq_ignore_ascii_case(b"path");
    if never_quoted || !value.iter().any(needs_quotes) {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'"');
    for &byte in value {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// The pairs of a field, blank ones left out.
struct Pairs<'a> {
    text: &'a [u8],
    at: usize,
    /// True if a comma ends a cookie.
    commas: bool,
}

struct Pair {
    name: Range<usize>,
    /// The value as it is written, with quotes.
    written: Range<usize>,
    value: Option<Bytes>,
    starts_cookie: bool,
}

impl Pair {
    fn name(&self, text: &[u8]) -> Bytes {
        Bytes::copy_from_slice(text.get(self.name.clone()).unwrap_or_default())
    }
}

impl Iterator for Pairs<'_> {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        let mut starts_cookie = false;
        while self.at < self.text.len() {
            // A comma that ended the last pair is seen here.
            match self.text.get(self.at)? {
                b',' if self.commas => {
                    starts_cookie = true;
                    self.at += 1;
                    continue;
                }
                b';' | b' ' | b'\t' => {
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            let start = self.at;
            let name = start..self.end_of(start, true);
            self.at = name.end;
            if self.text.get(self.at) != Some(&b'=') {
                let written = name.end..name.end;
                return Some(Pair { name, written, value: None, starts_cookie });
            }
            let value_start = self.at + 1;
            let (written, value) = if self.text.get(value_start) == Some(&b'"') {
                self.quoted(value_start)
            } else {
                let end = self.end_of_value(value_start, name.clone());
                let value = self.text.get(value_start..end).unwrap_or_default();
                (value_start..end, Bytes::copy_from_slice(value))
            };
            self.at = self.end_of(written.end, false);
            if name.is_empty() && value.is_empty() {
                continue;
            }
            return Some(Pair { name, written, value: Some(value), starts_cookie });
        }
        None
    }
}

impl Pairs<'_> {
    /// Returns where the text from `start` on ends: at a semicolon, at a comma if these count, at `=` in names.
    fn end_of(&self, start: usize, is_name: bool) -> usize {
        let rest = self.text.get(start..).unwrap_or_default();
        let ends = |b: &u8| *b == b';' || (self.commas && *b == b',') || (is_name && *b == b'=');
        start + rest.iter().position(ends).unwrap_or(rest.len())
    }

    fn end_of_value(&self, start: usize, name: Range<usize>) -> usize {
        let end = self.end_of(start, false);
        if self.commas
            && self.text.get(end) == Some(&b',')
            && self.text.get(name).is_some_and(is_expires)
            && self.text.get(start..end).is_some_and(is_weekday)
        {
            return self.end_of(end + 1, false);
        }
        end
    }

    fn quoted(&self, start: usize) -> (Range<usize>, Bytes) {
        let mut value = Vec::new();
        let mut at = start + 1;
        while let Some(&byte) = self.text.get(at) {
            at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    value.extend(self.text.get(at));
                    at += 1;
                }
                _ => value.push(byte),
            }
        }
        (start..at.min(self.text.len()), value.into())
    }
}

/// `Wed` or `Wednesday`: the comma behind it belongs to the date.
fn is_weekday(text: &[u8]) -> bool {
    const DAYS: [&[u8]; 7] = [b"mon", b"tue", b"wed", b"thu", b"fri", b"sat", b"sun"];
    let start = text.trim_ascii().get(..3);
    start.is_some_and(|start| DAYS.iter().any(|day| day.eq_ignore_ascii_case(start)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cookies_are_read() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let cookies = parse_cookie_header(text.as_bytes());
            let expected: Vec<(Bytes, Bytes)> = expected
                .iter()
                .map(|(n, v)| {
                    (Bytes::copy_from_slice(n.as_bytes()), Bytes::copy_from_slice(v.as_bytes()))
                })
                .collect();
            assert_eq!(cookies, expected, "{text}");
        };
        check("a=b; c=d", &[("a", "b"), ("c", "d")]);
        check(r#"a=b;c="d;e\"f"; g"#, &[("a", "b"), ("c", "d;e\"f"), ("g", "")]);
        check("=x; ;", &[("", "x")]);
        check("=", &[]);
        check("a=\"unterminated", &[("a", "unterminated")]);
        check("a=\"\\", &[("a", "")]);
        check("a = b ; c", &[("a ", " b "), ("c", "")]);
        check("a=b c; d=\"x\"y; z=1", &[("a", "b c"), ("d", "x"), ("z", "1")]);
        check("a=b, c=d", &[("a", "b, c=d")]);
        check("a=b\"c;;\"q\"=1;", &[("a", "b\"c"), ("\"q\"", "1")]);
    }

    #[test]
    fn cookies_are_written() {
        let cookies = [
            ("a", Some("b")),
            ("c", Some("d e")),
            ("f", None),
            ("g", Some("")),
            ("h", Some("x\"y\\z")),
            ("j", Some("a,b;c")),
        ];
        assert_eq!(
            String::from_utf8(format_cookie_header(cookies)).unwrap(),
            r#"a=b; c="d e"; f; g=; h="x\"y\\z"; j="a,b;c""#
        );
    }

    #[test]
    fn set_cookie_round_trips() {
        let check = |text: &str, count: usize, written: &str| {
            let cookies = parse_set_cookie_header(text.as_bytes());
            assert_eq!(cookies.len(), count, "{text}: {cookies:?}");
            let again = format_set_cookie_header(&cookies);
            assert_eq!(String::from_utf8(again).unwrap(), written);
        };
        let same = |text: &str, count: usize| check(text, count, text);
        same("a=b; Path=/; Secure; HttpOnly", 1);
        same("a=b; expires=Wed, 09 Jun 2021 10:18:14 GMT, c=d; path=/x", 2);
        same("a=b; expires=Thursday, 01-Jan-70 00:00:00 GMT", 1);
        same("a=b; max-age=10, c=d; x=y", 2);
        same("a; b", 1);
        same("=v; path=/", 1);
        same("a=\"x,y\"; b=c", 1);
        check("a=b,c=d", 2, "a=b, c=d");
        check("a=b; foo=x,y=z", 2, "a=b; foo=x, y=z");
        check("a=b; expires=\"Thu, 01 Jan\", c=d", 2, "a=b; expires=Thu, 01 Jan, c=d");
        check("a=b; expires=0, c=d", 2, "a=b; expires=0, c=d");
        check("a=b; path=\"/x\"; samesite", 1, "a=b; path=/x; samesite");
        check(";a=b;", 1, "a=b");
        check("", 0, "");
    }

    #[test]
    fn expiry_moves_and_nothing_else() {
        let refreshed = |text: &str| {
            let text = refresh_set_cookie_header(text.as_bytes(), 3600.0)?;
            Some(String::from_utf8(text).unwrap())
        };
        let moved = "a=b c; Expires=Wed, 09 Jun 2021 11:18:14 GMT;path=/";
        for from in ["Wed, 09 Jun 2021 10:18:14 GMT", "Wed, 09-Jun-2021 10:18:14 GMT"] {
            assert_eq!(refreshed(&format!("a=b c; Expires={from};path=/")).unwrap(), moved);
        }
        assert_eq!(refreshed("c=d; expires=foo; path=/").unwrap(), "c=d; path=/");
        assert_eq!(refreshed("c=d ; expires").unwrap(), "c=d ");
        assert_eq!(
            refreshed("a=b; expires=Thu, 01-Jan-1970 00:00:01 GMT, e=f; max-age=5").unwrap(),
            "a=b; expires=Thu, 01 Jan 1970 01:00:01 GMT, e=f; max-age=5"
        );
        for invalid in ["", "x", "=;x", "=v", "a=b, c"] {
            assert_eq!(refreshed(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn expiry() {
        let attrs = |text: &str| parse_set_cookie_header(text.as_bytes()).remove(0).attrs;
        assert_eq!(
            attrs("a=b; expires=Thu, 01 Jan 1970 00:01:00 GMT; max-age=9").expiration(5.0),
            Some(60.0)
        );
        assert_eq!(attrs("a=b; Max-Age=9").expiration(5.0), Some(14.0));
        assert_eq!(attrs("a=b; max-age=x").expiration(5.0), None);
        assert!(attrs("a=b; max-age=0").is_expired(5.0));
        assert!(!attrs("a=b").is_expired(5.0));
    }

    #[test]
    fn attributes_join_their_cookie() {
        let pair = |n: &'static str, v: &'static str| (Bytes::from(n), Some(Bytes::from(v)));
        let groups = group_cookies([pair("a", "b"), pair("Path", "/"), pair("c", "d")]);
        assert_eq!(groups.len(), 2);
        assert!(groups[0].attrs.contains("path"));
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(cookies in prop::collection::vec(("[a-z$_]{1,5}", ".{0,10}"), 0..5)) {
            let text = format_cookie_header(cookies.iter().map(|(n, v)| (n, Some(v))));
            let expected: Vec<(Bytes, Bytes)> =
                cookies.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
            prop_assert_eq!(parse_cookie_header(&text), expected);
        }

        #[test]
        fn junk_does_no_harm(text in "[a=;,\"\\\\ expirswdn]{0,40}", bytes: Vec<u8>) {
            for text in [text.as_bytes(), &bytes] {
                parse_cookie_header(text);
                format_set_cookie_header(&parse_set_cookie_header(text));
                refresh_set_cookie_header(text, 1e300);
            }
        }
    }
}
