//! Charsets of text bodies: guessing one, decoding with it, encoding to it.
//!
//! Names are those found in the wild: WHATWG labels, and Python's spellings of them. Latin-1 and ASCII are
//! taken literally (byte n is character n), not as windows-1252: a body must survive being read as
//! text and written back. Charsets that the field has given up (utf-7, EBCDIC) are unknown.

use std::borrow::Cow;

use encoding_rs::{Encoding, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE, X_USER_DEFINED};
use memchr::memmem;

/// Where a declaration inside of a body is looked for. Browsers look at 1024 bytes.
const SNIFF_BYTES: usize = 64 << 10;

/// A `content-type` value in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType {
    /// Lower-cased.
    pub main: String,
    /// Lower-cased.
    pub sub: String,
    /// In order, each name once, values as written.
    pub params: Vec<(String, String)>,
}

impl ContentType {
    /// Returns the parameter `name`, compared without case.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Sets the parameter `name`.
    pub fn set_param(&mut self, name: &str, value: &str) {
        match self.params.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            Some((_, old)) => value.clone_into(old),
            None => self.params.push((name.to_owned(), value.to_owned())),
        }
    }
}

/// Puts the parts together again.
impl std::fmt::Display for ContentType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.main, self.sub)?;
        self.params.iter().try_for_each(|(name, value)| write!(f, "; {name}={value}"))
    }
}

/// Takes a `content-type` value apart; `None` without a slash. Parameters without `=` are dropped, of repeated
/// ones the last counts.
pub fn parse_content_type(value: &str) -> Option<ContentType> {
    let (essence, params) = value.split_once(';').unwrap_or((value, ""));
    let (main, sub) = essence.split_once('/')?;
    let mut parsed = ContentType {
        main: main.trim().to_ascii_lowercase(),
        sub: sub.trim().to_ascii_lowercase(),
        params: Vec::new(),
    };
    // A header has at most a handful; a hostile one must not cost quadratic time.
    for (name, value) in params.split(';').take(100).filter_map(|param| param.split_once('=')) {
        let (name, value) = (name.trim(), value.trim());
        match parsed.params.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => value.clone_into(old),
            None => parsed.params.push((name.to_owned(), value.to_owned())),
        }
    }
    Some(parsed)
}

/// Guesses the name of the charset of a body.
///
/// A byte order mark decides, then the `charset` parameter, then what the body declares if its type has a way of
/// declaring it, then the default of the type. Give an empty `content` to guess from the type alone.
pub fn guess<'a>(content_type: &'a str, content: &'a [u8]) -> Cow<'a, str> {
    const MARKS: [(&[u8], &str); 5] = [
        (&[0, 0, 0xfe, 0xff], "utf-32be"),
        (&[0xff, 0xfe, 0, 0], "utf-32le"),
        (&[0xfe, 0xff], "utf-16be"),
        (&[0xff, 0xfe], "utf-16le"),
        (&[0xef, 0xbb, 0xbf], "utf-8-sig"),
    ];
    if let Some((_, name)) = MARKS.iter().find(|(mark, _)| content.starts_with(mark)) {
        return (*name).into();
    }
    let head = content.get(..SNIFF_BYTES).unwrap_or(content);
    let param = content_type.contains('/').then(|| charset_param(content_type)).flatten();
    let name = match param {
        Some(name) => Cow::from(name),
        None if contains(content_type, "json") => "utf8".into(),
        None if contains(content_type, "html") => declared(meta_charset(head)),
        None if contains(content_type, "xml") => declared(xml_encoding(head)),
        None if contains(content_type, "javascript") || contains(content_type, "ecmascript") => {
            "utf8".into()
        }
        None if contains(content_type, "text/css") => declared(css_charset(head)),
        None => "latin-1".into(),
    };
    // Both are subsets of it, and servers that say one of them send all of it.
    if name.eq_ignore_ascii_case("gb2312") || name.eq_ignore_ascii_case("gbk") {
        return "gb18030".into();
    }
    name
}

fn charset_param(content_type: &str) -> Option<&str> {
    content_type
        .split(';')
        .skip(1)
        .filter_map(|param| param.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim())
        .last()
        .filter(|value| !value.is_empty())
}

fn contains(text: &str, part: &str) -> bool {
    let (text, part) = (text.as_bytes(), part.as_bytes());
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

fn declared(name: Option<&[u8]>) -> Cow<'_, str> {
    match name {
        Some(name) => String::from_utf8_lossy(name),
        None => "utf8".into(),
    }
}

/// Finds the first `<meta … charset=X`, in either of HTML's two forms.
fn meta_charset(content: &[u8]) -> Option<&[u8]> {
    let mut from = 0;
    while let Some(at) = memchr::memchr(b'<', content.get(from..)?) {
        from += at + 1;
        let tag = content.get(from..)?;
        if !starts_with_ignore_case(tag, b"meta") {
            continue;
        }
        let tag = tag.get(..memchr::memchr(b'>', tag).unwrap_or(tag.len()))?;
        from += tag.len();
        let mut at = 0;
        while let Some(rest) = tag.get(at..).filter(|rest| rest.len() > b"charset".len()) {
            at += 1;
            if !starts_with_ignore_case(rest, b"charset") {
                continue;
            }
            let value = rest.get(b"charset".len()..)?.trim_ascii_start();
            let Some(value) = value.strip_prefix(b"=") else { continue };
            let value = value.trim_ascii_start();
            let value = value.strip_prefix(b"\"").or(value.strip_prefix(b"'")).unwrap_or(value);
            let end = value.iter().position(|b| matches!(b, b'"' | b'\'' | b'>' | b';'));
            let name = value.get(..end.unwrap_or(value.len()))?.trim_ascii();
            // `<meta charset=x/>`
            let name = name.strip_suffix(b"/").unwrap_or(name).trim_ascii();
            if !name.is_empty() {
                return Some(name);
            }
        }
    }
    None
}

/// Finds `<?xml … encoding="X"`.
fn xml_encoding(content: &[u8]) -> Option<&[u8]> {
    let at = memmem::find(content, b"<?xml")?;
    let declaration = content.get(at..)?;
    let end = memchr::memchr(b'>', declaration).unwrap_or(declaration.len());
    let declaration = declaration.get(..end)?;
    let value = declaration.get(memmem::find(declaration, b"encoding")? + b"encoding".len()..)?;
    let value = value.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    quoted(value)
}

/// Reads `@charset "X";`, which counts at the very start only.
fn css_charset(content: &[u8]) -> Option<&[u8]> {
    let value = quoted(content.strip_prefix(b"@charset ")?)?;
    content.get(b"@charset \"\"".len() + value.len()..)?.starts_with(b";").then_some(value)
}

fn quoted(text: &[u8]) -> Option<&[u8]> {
    let quote = *text.first().filter(|b| matches!(b, b'"' | b'\''))?;
    let text = text.get(1..)?;
    text.get(..memchr::memchr(quote, text)?).filter(|name| !name.is_empty())
}

fn starts_with_ignore_case(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// A charset that can be decoded and encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    Latin1,
    Ascii,
    /// UTF-8; with a byte order mark that is dropped when read and added when written.
    Utf8 {
        signature: bool,
    },
    Utf16 {
        order: ByteOrder,
    },
    Utf32 {
        order: ByteOrder,
    },
    Other(&'static Encoding),
}

/// The order of bytes in UTF-16 and UTF-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    Little,
    Big,
    /// A mark says it; it is written, and without one it is little-endian.
    Marked,
}

impl Charset {
    /// Looks up a name: any case, `_` for `-`, quotes and blanks around it ignored.
    pub fn from_name(name: &str) -> Option<Self> {
        use ByteOrder::{Big, Little, Marked};
        let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        if name.len() > 40 {
            return None;
        }
        let name: String = name
            .chars()
            .map(|c| if c == '_' || c == ' ' { '-' } else { c.to_ascii_lowercase() })
            .collect();
        Some(match name.as_str() {
            "latin-1" | "latin1" | "iso-8859-1" | "iso8859-1" | "iso88591" | "8859" | "cp819"
            | "ibm819" | "l1" | "latin" | "iso-ir-100" | "csisolatin1" => Self::Latin1,
            "ascii" | "us-ascii" | "646" | "iso646-us" | "ansi-x3.4-1968" => Self::Ascii,
            "utf-8" | "utf8" | "u8" | "utf" | "cp65001" => Self::Utf8 { signature: false },
            "utf-8-sig" | "utf8-sig" => Self::Utf8 { signature: true },
            "utf-16" | "utf16" | "u16" => Self::Utf16 { order: Marked },
            "utf-16le" | "utf-16-le" => Self::Utf16 { order: Little },
            "utf-16be" | "utf-16-be" => Self::Utf16 { order: Big },
            "utf-32" | "utf32" | "u32" => Self::Utf32 { order: Marked },
            "utf-32le" | "utf-32-le" => Self::Utf32 { order: Little },
            "utf-32be" | "utf-32-be" => Self::Utf32 { order: Big },
            name => return Self::from_label(name),
        })
    }

    fn from_label(name: &str) -> Option<Self> {
        let label = match name {
            // Python's short names of what WHATWG labels otherwise.
            "latin2" | "latin-2" => "iso-8859-2",
            "cp932" | "ms932" | "mskanji" => "shift_jis",
            "cp949" | "uhc" | "euckr" => "euc-kr",
            "cp950" => "big5",
            "cp936" | "936" => "gbk",
            "eucjp" => "euc-jp",
            name => name,
        };
        let encoding = Encoding::for_label(label.as_bytes()).or_else(|| {
            // Labels with an underscore, and Python's cp1251 and iso8859-5.
            Encoding::for_label(label.replace('-', "_").as_bytes())
                .or_else(|| {
                    Encoding::for_label(format!("windows-{}", label.strip_prefix("cp")?).as_bytes())
                })
                .or_else(|| {
                    Encoding::for_label(format!("iso-{}", label.strip_prefix("iso")?).as_bytes())
                })
        })?;
        if encoding == UTF_8 {
            return Some(Self::Utf8 { signature: false });
        }
        let usable = encoding != REPLACEMENT && encoding != X_USER_DEFINED;
        usable.then_some(Self::Other(encoding))
    }

    /// Decodes `bytes`; `None` if they are not of this charset.
    pub fn decode(self, bytes: &[u8]) -> Option<Cow<'_, str>> {
        match self {
            Self::Latin1 if bytes.is_ascii() => std::str::from_utf8(bytes).ok().map(Cow::from),
            Self::Latin1 => Some(bytes.iter().map(|&b| char::from(b)).collect::<String>().into()),
            Self::Ascii if !bytes.is_ascii() => None,
            Self::Ascii | Self::Utf8 { signature: false } => {
                std::str::from_utf8(bytes).ok().map(Cow::from)
            }
            Self::Utf8 { signature: true } => {
                let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
                std::str::from_utf8(bytes).ok().map(Cow::from)
            }
            Self::Utf16 { order } => {
                let (big, bytes) = order.resolve(bytes, [0xff, 0xfe], [0xfe, 0xff]);
                let encoding = if big { UTF_16BE } else { UTF_16LE };
                encoding.decode_without_bom_handling_and_without_replacement(bytes)
            }
            Self::Utf32 { order } => {
                let (big, bytes) = order.resolve(bytes, [0xff, 0xfe, 0, 0], [0, 0, 0xfe, 0xff]);
                let (units, rest) = bytes.as_chunks::<4>();
                let decode = |unit: &[u8; 4]| {
                    let code =
                        if big { u32::from_be_bytes(*unit) } else { u32::from_le_bytes(*unit) };
                    char::from_u32(code)
                };
                let text: Option<String> = units.iter().map(decode).collect();
                text.filter(|_| rest.is_empty()).map(Cow::from)
            }
            Self::Other(encoding) => {
                encoding.decode_without_bom_handling_and_without_replacement(bytes)
            }
        }
    }

    /// Encodes `text`; `None` if a character does not exist in this charset.
    pub fn encode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Latin1 => text.chars().map(|c| u8::try_from(c).ok()).collect(),
            Self::Ascii => text.is_ascii().then(|| text.as_bytes().to_vec()),
            Self::Utf8 { signature: false } => Some(text.as_bytes().to_vec()),
            Self::Utf8 { signature: true } => Some([b"\xef\xbb\xbf", text.as_bytes()].concat()),
            Self::Utf16 { order } => {
                let units = order.mark().chars().chain(text.chars());
                let mut out = Vec::with_capacity(text.len() * 2 + 2);
                for unit in units.flat_map(|c| c.encode_utf16(&mut [0; 2]).to_vec()) {
                    out.extend(if order == ByteOrder::Big {
                        unit.to_be_bytes()
                    } else {
                        unit.to_le_bytes()
                    });
                }
                Some(out)
            }
            Self::Utf32 { order } => {
                let mut out = Vec::with_capacity(text.len() * 4 + 4);
                for code in order.mark().chars().chain(text.chars()).map(u32::from) {
                    out.extend(if order == ByteOrder::Big {
                        code.to_be_bytes()
                    } else {
                        code.to_le_bytes()
                    });
                }
                Some(out)
            }
            Self::Other(encoding) => {
                let (bytes, _, unmappable) = encoding.encode(text);
                (!unmappable).then(|| bytes.into_owned())
            }
        }
    }
}

impl ByteOrder {
    /// Returns whether the text is big-endian, and the text without the mark if the charset is marked.
    fn resolve<const N: usize>(self, bytes: &[u8], little: [u8; N], big: [u8; N]) -> (bool, &[u8]) {
        match self {
            Self::Little => (false, bytes),
            Self::Big => (true, bytes),
            Self::Marked => match bytes.strip_prefix(&big) {
                Some(rest) => (true, rest),
                None => (false, bytes.strip_prefix(&little).unwrap_or(bytes)),
            },
        }
    }

    fn mark(self) -> &'static str {
        if self == Self::Marked { "\u{feff}" } else { "" }
    }
}

/// Decodes `bytes` from the charset called `name`; `None` if it is unknown or they are not of it.
pub fn decode<'a>(name: &str, bytes: &'a [u8]) -> Option<Cow<'a, str>> {
    Charset::from_name(name)?.decode(bytes)
}

/// Like [`decode`], but falls back to UTF-8, invalid bytes replaced.
pub fn decode_lenient<'a>(name: &str, bytes: &'a [u8]) -> Cow<'a, str> {
    decode(name, bytes).unwrap_or_else(|| String::from_utf8_lossy(bytes))
}

/// Encodes `text` to the charset called `name`; `None` if it is unknown or has not all characters.
pub fn encode(name: &str, text: &str) -> Option<Vec<u8>> {
    Charset::from_name(name)?.encode(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_types_are_taken_apart() {
        let parse = |text| parse_content_type(text).map(|parsed| parsed.to_string());
        for (text, parsed) in [
            ("TEXT/Html;a=1;a=2;=3;c= d =e;f", Some("text/html; a=2; =3; c=d =e")),
            ("a/b/c; x=\"Y\"", Some("a/b/c; x=\"Y\"")),
            ("text/html", Some("text/html")),
            ("/", Some("/")),
            ("text", None),
            (";/", None),
            ("", None),
        ] {
            assert_eq!(parse(text).as_deref(), parsed, "{text}");
        }
    }

    #[test]
    fn guesses() {
        for (content_type, content, name) in [
            ("", &b"\x00\x00\xfe\xffx"[..], "utf-32be"),
            ("", b"\xff\xfe\0\0", "utf-32le"),
            ("text/plain; charset=utf-8", b"\xfe\xff", "utf-16be"),
            ("", b"\xff\xfea\0", "utf-16le"),
            ("", b"\xef\xbb\xbf", "utf-8-sig"),
            ("text/html;charset=gbk", b"", "gb18030"),
            ("text/html; Charset=GB2312", b"", "gb18030"),
            ("text/html; charset=", b"<meta charset=x2>", "x2"),
            ("application/json", b"", "utf8"),
            ("Application/JSON", b"", "utf8"),
            ("text/html", b"<META charset = 'x-y'>", "x-y"),
            ("text/html", b"<meta content='text/html; charset=foo'>", "foo"),
            ("text/html", b"<meta name=a><meta name=charset><meta\ncharset=x/>", "x"),
            ("text/html", b"<meta charset=\"\">", "utf8"),
            ("text/html", b"<meta name=x>charset=zz", "utf8"),
            ("text/html", b"<meta charset", "utf8"),
            ("application/xhtml+xml", b"<?xml encoding='b'?><meta charset=a>", "a"),
            ("text/xml", b"  <?xml version='1.0' encoding='b'?>", "b"),
            ("text/xml", b"<?xml version='1.0'?><a encoding='b'>", "utf8"),
            ("text/javascript", b"", "utf8"),
            ("application/ecmascript", b"", "utf8"),
            ("text/css", b"@charset \"latin2\";", "latin2"),
            ("text/css", b" @charset \"latin2\";", "utf8"),
            ("text/css", b"@charset \"latin2\"", "utf8"),
            ("text/plain", b"<meta charset=x>", "latin-1"),
            ("", b"", "latin-1"),
        ] {
            assert_eq!(guess(content_type, content), name, "{content_type} {content:?}");
        }
    }

    #[test]
    fn names_are_found() {
        for (name, charset) in [
            ("\"UTF-8\"", Some(Charset::Utf8 { signature: false })),
            ("ISO_8859-1", Some(Charset::Latin1)),
            ("us-ascii", Some(Charset::Ascii)),
            ("cp1251", Some(Charset::Other(encoding_rs::WINDOWS_1251))),
            ("windows_1252", Some(Charset::Other(encoding_rs::WINDOWS_1252))),
            ("iso8859-5", Some(Charset::Other(encoding_rs::ISO_8859_5))),
            ("Shift_JIS", Some(Charset::Other(encoding_rs::SHIFT_JIS))),
            ("big5", Some(Charset::Other(encoding_rs::BIG5))),
            ("iso-2022-kr", None),
            ("nope", None),
            ("", None),
        ] {
            assert_eq!(Charset::from_name(name), charset, "{name}");
        }
    }

    #[test]
    fn strict_and_lenient() {
        assert_eq!(decode("latin-1", b"\x80\xe9").unwrap(), "\u{80}é");
        assert_eq!(decode("utf-8", b"\xff"), None);
        assert_eq!(decode_lenient("utf-8", b"a\xff"), "a\u{fffd}");
        assert_eq!(decode_lenient("ascii", "é".as_bytes()), "é");
        assert_eq!(decode("utf-8-sig", b"\xef\xbb\xbfa").unwrap(), "a");
        // Guessing by a mark names the order, and the mark is part of the text then.
        assert_eq!(decode("utf-16le", b"\xff\xfea\0").unwrap(), "\u{feff}a");
        assert_eq!(decode("utf-16", b"\xfe\xff\0a").unwrap(), "a");
        assert_eq!(decode("utf-16", b"a\0").unwrap(), "a");
        assert_eq!(decode("utf-16", b"a\0b"), None);
        assert_eq!(decode("utf-32be", b"\0\0\0a").unwrap(), "a");
        assert_eq!(decode("utf-32", b"\0\x11\x11\0"), None);
        assert_eq!(encode("utf-16", "a").unwrap(), b"\xff\xfea\0");
        assert_eq!(encode("gb18030", "日").unwrap(), b"\xc8\xd5");
        assert_eq!(encode("latin-1", "日"), None);
        assert_eq!(encode("koi8-r", "日"), None);
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text: String) {
            for name in ["utf-8", "utf-8-sig", "utf-16", "utf-16be", "utf-32", "utf-32be", "utf-32le", "gb18030"] {
                // The mark of marked charsets is not text.
                prop_assume!(!text.starts_with('\u{feff}'));
                if let Some(bytes) = encode(name, &text) {
                    prop_assert_eq!(decode(name, &bytes).unwrap(), text.clone(), "{}", name);
                }
            }
        }

        #[test]
        fn latin_1_is_lossless(bytes: Vec<u8>) {
            prop_assert_eq!(encode("latin-1", &decode("latin-1", &bytes).unwrap()).unwrap(), bytes);
        }

        #[test]
        fn guessing_does_no_harm(content_type: String, content: Vec<u8>) {
            for kind in ["text/html", "text/xml", "text/css", &content_type] {
                decode_lenient(&guess(kind, &content), &content);
            }
        }
    }
}
