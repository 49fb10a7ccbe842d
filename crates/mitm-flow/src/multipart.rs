//! Multipart form data (RFC 7578).
//!
//! Reading is lenient: line breaks may be bare LF, the last delimiter may be missing. Line breaks inside of
//! a value are part of it.

use bytes::Bytes;
use memchr::memmem::Finder;
use thiserror::Error;

use crate::{Headers, charset};

/// One part of a form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub headers: Headers,
    /// The name of the field; empty if the part does not say one.
    pub name: Bytes,
    pub filename: Option<Bytes>,
    pub content: Bytes,
}

/// A value contains the delimiter that is to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the multipart boundary occurs inside of a value")]
pub struct BoundaryInValue;

/// Returns the boundary that a `content-type` value names.
pub fn boundary(content_type: &str) -> Option<String> {
    let boundary = charset::parse_content_type(content_type)?;
    let boundary = boundary.param("boundary")?;
    let unquoted = boundary.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let boundary = unquoted.unwrap_or(boundary);
    // RFC 2046 §5.1.1 allows 70.
    (!boundary.is_empty() && boundary.len() <= 256).then(|| boundary.to_owned())
}

/// Reads the parts of a form. What stands before the first delimiter and behind the last is left out.
pub fn decode(boundary: &str, body: &Bytes) -> Vec<Part> {
    let delimiter = format!("--{boundary}");
    let finder = Finder::new(delimiter.as_bytes());
    let mut parts = Vec::new();
    // Where the content of the part before the present delimiter begins.
    let mut open: Option<usize> = None;
    for at in finder.find_iter(body) {
        if at > 0 && body.get(at - 1) != Some(&b'\n') {
            continue;
        }
        let behind = body.get(at + delimiter.len()..).unwrap_or_default();
        let line_len = memchr::memchr(b'\n', behind).map_or(behind.len(), |end| end + 1);
        let line = behind.get(..line_len).unwrap_or_default();
        let is_last = line.starts_with(b"--");
        // Another boundary may begin with this one.
        if !is_last && !line.trim_ascii().is_empty() {
            continue;
        }
        if let Some(start) = open.take() {
            parts.push(read_part(body, start, without_line_break(body, start, at)));
        }
        if is_last {
            return parts;
        }
        open = Some(at + delimiter.len() + line_len);
    }
    if let Some(start) = open.filter(|start| *start < body.len()) {
        parts.push(read_part(body, start, body.len()));
    }
    parts
}

/// Returns where the content ends: the line break before a delimiter belongs to the delimiter.
fn without_line_break(body: &Bytes, start: usize, at: usize) -> usize {
    let content = body.get(start..at).unwrap_or_default();
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    start + content.len()
}

fn read_part(body: &Bytes, start: usize, end: usize) -> Part {
    let mut part = Part::default();
    let mut fields = Vec::new();
    let mut at = start;
    while at < end {
        let rest = body.get(at..end).unwrap_or_default();
        let len = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let line = rest.get(..len).unwrap_or_default().trim_ascii();
        at += len;
        if line.is_empty() {
            break;
        }
        if let Some(colon) = memchr::memchr(b':', line) {
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            fields.push((body.slice_ref(name.trim_ascii()), body.slice_ref(value)));
        }
    }
    part.headers = Headers::from_fields(fields);
    if let Some(disposition) = part.headers.get("content-disposition") {
        part.name = parameter(disposition, b"name").unwrap_or_default();
        part.filename = parameter(disposition, b"filename");
    }
    part.content = if at < end { body.slice(at..end) } else { Bytes::new() };
    part
}

/// Returns the parameter `wanted` of a `content-disposition` value. Browsers escape a quote as `%22`, others
/// with a backslash; the former is left as it is, like everything they percent-encode.
fn parameter(value: &Bytes, wanted: &[u8]) -> Option<Bytes> {
    let mut rest: &[u8] = value;
    loop {
        let semicolon = memchr::memchr(b';', rest)?;
        rest = rest.get(semicolon + 1..)?.trim_ascii_start();
        let name_len = rest.iter().position(|b| matches!(b, b'=' | b';')).unwrap_or(rest.len());
        let (name, value) = rest.split_at(name_len);
        let Some(value) = value.strip_prefix(b"=") else { continue };
        let value = value.trim_ascii_start();
        let mut text = Vec::new();
        if let Some(quoted) = value.strip_prefix(b"\"") {
            let mut bytes = quoted.iter().enumerate();
            rest = &[];
            while let Some((i, &byte)) = bytes.next() {
                match byte {
                    b'"' => {
                        rest = quoted.get(i + 1..)?;
                        break;
                    }
                    // A backslash before anything else is that of a Windows path.
                    b'\\' if matches!(quoted.get(i + 1), Some(b'"' | b'\\')) => {
                        text.extend(bytes.next().map(|(_, byte)| byte));
                    }
                    _ => text.push(byte),
                }
            }
        } else {
            let len = memchr::memchr(b';', value).unwrap_or(value.len());
            let (token, behind) = value.split_at(len);
            text.extend_from_slice(token.trim_ascii_end());
            rest = behind;
        }
        if name.trim_ascii().eq_ignore_ascii_case(wanted) {
            return Some(text.into());
        }
    }
}

/// Writes a form. Fields without a name are left out; the type of a value is guessed from the name, as if it were that of
/// a file.
///
/// # Errors
/// A value has a line that begins with the delimiter.
pub fn encode<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    boundary: &str,
    fields: impl IntoIterator<Item = (N, V)>,
) -> Result<Vec<u8>, BoundaryInValue> {
    let delimiter = format!("--{boundary}");
    let finder = Finder::new(delimiter.as_bytes());
    let mut out = Vec::new();
    for (name, value) in fields {
        let (name, value) = (name.as_ref(), value.as_ref());
        if name.is_empty() {
            continue;
        }
        if finder.find_iter(value).any(|at| at == 0 || value.get(at - 1) == Some(&b'\n')) {
            return Err(BoundaryInValue);
        }
        out.extend_from_slice(delimiter.as_bytes());
        out.extend_from_slice(b"\r\nContent-Disposition: form-data; name=\"");
        for &byte in name {
            // The escapes of the HTML standard: nothing may end the name or the line.
            match byte {
                b'"' => out.extend_from_slice(b"%22"),
                b'\r' => out.extend_from_slice(b"%0D"),
                b'\n' => out.extend_from_slice(b"%0A"),
                b'\\' => out.extend_from_slice(b"\\\\"),
                _ => out.push(byte),
            }
        }
        out.extend_from_slice(b"\"\r\nContent-Type: ");
        out.extend_from_slice(guess_type(name).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(delimiter.as_bytes());
    out.extend_from_slice(b"--\r\n");
    Ok(out)
}

fn guess_type(name: &[u8]) -> &'static str {
    const TYPES: [(&str, &str); 20] = [
        ("bin", "application/octet-stream"),
        ("css", "text/css"),
        ("csv", "text/csv"),
        ("gif", "image/gif"),
        ("htm", "text/html"),
        ("html", "text/html"),
        ("jpeg", "image/jpeg"),
        ("jpg", "image/jpeg"),
        ("js", "text/javascript"),
        ("json", "application/json"),
        ("mp3", "audio/mpeg"),
        ("mp4", "video/mp4"),
        ("pdf", "application/pdf"),
        ("png", "image/png"),
        ("svg", "image/svg+xml"),
        ("tar", "application/x-tar"),
        ("wasm", "application/wasm"),
        ("webp", "image/webp"),
        ("xml", "text/xml"),
        ("zip", "application/zip"),
    ];
    let extension =
        memchr::memrchr(b'.', name).and_then(|dot| name.get(dot + 1..)).unwrap_or_default();
    TYPES
        .iter()
        .find(|(known, _)| extension.eq_ignore_ascii_case(known.as_bytes()))
        .map_or("text/plain; charset=utf-8", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(body: &str) -> Vec<(String, String)> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let parts = decode("BB", &Bytes::copy_from_slice(body.as_bytes()));
        parts.iter().map(|part| (text(&part.name), text(&part.content))).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn line_breaks_in_values_are_kept() {
        let body = "preamble\r\n--BB\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n2\r\n\r\n\
                    --BB  \r\nContent-Type: x/y\r\ncontent-disposition: form-data; filename=\"x\"; name=b\r\n\r\n\r\n\
                    --BB--\r\n--BB\r\nepilogue";
        assert_eq!(pairs(body), [pair("a", "1\r\n2\r\n"), pair("b", "")]);
        assert_eq!(pairs(&body.replace("\r\n", "\n")), [pair("a", "1\n2\n"), pair("b", "")]);
        let parts = decode("BB", &body.as_bytes().to_vec().into());
        assert_eq!(parts[1].filename.as_deref(), Some(&b"x"[..]));
        assert_eq!(parts[1].headers.get("content-type").unwrap(), "x/y");
    }

    #[test]
    fn odd_forms_are_read() {
        let part =
            |value: &str| format!("--BB\r\nContent-Disposition: form-data; name=a\r\n\r\n{value}");
        // Delimiters of other boundaries, or in the middle of a line, are content.
        assert_eq!(pairs(&part("--BBx\r\n--BB--")), [pair("a", "--BBx")]);
        assert_eq!(pairs(&part("x--BB--")), [pair("a", "x--BB--")]);
        assert_eq!(pairs(&part("cut off")), [pair("a", "cut off")]);
        assert_eq!(pairs("--BB\r\n--BB--"), [pair("", "")]);
        assert_eq!(pairs("--BB"), []);
        assert_eq!(pairs("nothing"), []);
        let name =
            |disposition: &str| parameter(&Bytes::copy_from_slice(disposition.as_bytes()), b"name");
        assert_eq!(
            name(r#"form-data; x; name="a\"b\c; name=d"; name=e"#).unwrap(),
            r#"a"b\c; name=d"#
        );
        assert_eq!(name("form-data; filename=name; NAME = x ").unwrap(), "x");
        assert_eq!(name("form-data; name=\"open").unwrap(), "open");
        assert_eq!(name("form-data; name"), None);
    }

    #[test]
    fn boundaries() {
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\"").unwrap(), "a b");
        assert_eq!(boundary("multipart/form-data; Boundary=x").unwrap(), "x");
        assert_eq!(boundary("multipart/form-data"), None);
        assert_eq!(boundary("multipart/form-data; boundary="), None);
        assert_eq!(encode("B", [("a", "x\r\n--B")]), Err(BoundaryInValue));
        assert!(encode("B", [("a", "x--B")]).is_ok());
    }

    #[test]
    fn forms_are_written() {
        let body = encode("B", [("a", "1"), ("", "dropped"), ("f\r\n\".png", "2")]).unwrap();
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "--B\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
             1\r\n--B\r\nContent-Disposition: form-data; name=\"f%0D%0A%22.png\"\r\nContent-Type: image/png\r\n\r\n\
             2\r\n--B--\r\n"
        );
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(fields in prop::collection::vec(("[a-zß\\\\;=. ]{1,8}", any::<Vec<u8>>()), 0..4)) {
            let body = encode("BB", fields.iter().map(|(n, v)| (n, v))).unwrap();
            let parts = decode("BB", &body.into());
            let found: Vec<(Vec<u8>, Vec<u8>)> =
                parts.iter().map(|part| (part.name.to_vec(), part.content.to_vec())).collect();
            let expected: Vec<(Vec<u8>, Vec<u8>)> =
                fields.into_iter().map(|(n, v)| (n.into_bytes(), v)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn junk_does_no_harm(text in "(--BB|--|\r\n|\n|a|name=|;|\"|:|content-disposition: ){0,30}") {
            decode("BB", &text.into_bytes().into());
        }
    }
}
