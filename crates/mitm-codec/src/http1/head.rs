//! Request and response heads: from the bytes of a buffer to lines, and from lines to values.

use std::fmt;

use bytes::{Bytes, BytesMut};
use mitm_flow::{Field, Headers};

use super::{
    Limits, Target, has_control, is_token,
    lines::{Block, Leading, LineScan},
    parse_target, trim_ows,
};
use crate::repr::{Repr, SHOWN_BYTES};

/// How strictly heads are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub limits: Limits,
    /// Refuse what two parsers could read differently (the option `validate_inbound_headers`).
    pub validate: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { limits: Limits::default(), validate: true }
    }
}

/// The versions this codec speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Http10,
    Http11,
}

impl Version {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }

    pub fn as_bytes(self) -> &'static [u8] {
        self.as_str().as_bytes()
    }

    pub fn from_bytes(version: &[u8]) -> Option<Self> {
        match version {
            b"HTTP/1.1" => Some(Self::Http11),
            b"HTTP/1.0" => Some(Self::Http10),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// A token, case as sent.
    pub method: Bytes,
    /// The request target as sent.
    pub target: Bytes,
    /// What the target means.
    pub form: Target,
    pub version: Version,
    pub headers: Headers,
}

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    /// Empty if there was none.
    pub reason: Bytes,
    pub headers: Headers,
}

/// Why a head can't be read. The lines are cut to what an error text shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not three parts, a method that is no token, a target of no known form, or control characters.
    #[error("Bad HTTP request line: {}", Repr(line))]
    RequestLine { line: Bytes },
    #[error("Bad HTTP response line: {}", Repr(line))]
    ResponseLine { line: Bytes },
    /// No colon, no name, or control characters in the value.
    #[error("Invalid header line: {}", Repr(line))]
    HeaderLine { line: Bytes },
    /// A well-formed line with a version other than HTTP/1.0 and HTTP/1.1.
    #[error("Unsupported HTTP version: {}", Repr(version))]
    Version { version: Bytes },
    /// The peer speaks HTTP/2 (RFC 9113 §3.4) where HTTP/1 was expected.
    #[error("Unexpected HTTP/2 connection preface")]
    Http2Preface,
    /// A line that ends in LF without CR. Accepted without validation.
    #[error("Line without carriage return at its end: {}", Repr(line))]
    BareLineFeed { line: Bytes },
    /// A CR inside a line. Some parsers end the line there.
    #[error("Carriage return within a line: {}", Repr(line))]
    BareCarriageReturn { line: Bytes },
    /// A header that continues on the next line (RFC 9112 §5.2). Accepted without validation.
    #[error("Obsolete line folding: {}", Repr(line))]
    Folding { line: Bytes },
    #[error("HTTP head larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("HTTP head with more than {limit} header lines")]
    TooManyHeaders { limit: usize },
}

impl HeadError {
    /// True if the same head may pass with [`Rules::validate`] off, so that the answer can name the option.
    pub fn only_when_validating(&self) -> bool {
        matches!(self, Self::BareLineFeed { .. } | Self::Folding { .. })
    }
}

/// Reads heads from the front of a buffer to which bytes are appended as they arrive.
///
/// The reader remembers what it has looked at: a head costs the same whether it comes in one read or in a
/// thousand. Between two calls bytes may only be appended. After a head or an error it is as new, and may
/// be used for the next message.
#[derive(Clone, Debug, Default)]
pub struct HeadReader {
    scan: LineScan,
}

impl HeadReader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a request head from `buf`; `Ok(None)` if it isn't complete. Empty lines before it are removed.
    pub fn request(
        &mut self,
        buf: &mut BytesMut,
        rules: &Rules,
    ) -> Result<Option<RequestHead>, HeadError> {
        let Some((head, block)) = self.block(buf, rules, Leading::Skip)? else { return Ok(None) };
        let (line, headers) = head_parts(&head, &block, rules.validate)?;
        let bad = || HeadError::RequestLine { line: shown(&line) };
        let [method, target, version] = request_parts(&line, rules.validate).ok_or_else(bad)?;
        if !is_token(method) {
            return Err(bad());
        }
        let Some(version) = Version::from_bytes(version) else {
            return Err(match (method, target, version) {
                (b"PRI", b"*", b"HTTP/2.0") => HeadError::Http2Preface,
                _ if looks_like_version(version) => HeadError::Version { version: shown(version) },
                _ => bad(),
            });
        };
        let (method, target) = (head.slice_ref(method), head.slice_ref(target));
        let form = parse_target(&method, &target).ok_or_else(bad)?;
        Ok(Some(RequestHead { method, target, form, version, headers }))
    }

    /// Takes a response head from `buf`; `Ok(None)` if it isn't complete.
    pub fn response(
        &mut self,
        buf: &mut BytesMut,
        rules: &Rules,
    ) -> Result<Option<ResponseHead>, HeadError> {
        let leading = if rules.validate { Leading::Keep } else { Leading::Skip };
        let Some((head, block)) = self.block(buf, rules, leading)? else { return Ok(None) };
        let (line, headers) = head_parts(&head, &block, rules.validate)?;
        let bad = || HeadError::ResponseLine { line: shown(&line) };
        let (version, rest) = line.split_at_checked(8).ok_or_else(bad)?;
        let Some(version) = Version::from_bytes(version) else {
            return Err(if looks_like_version(version) {
                HeadError::Version { version: shown(version) }
            } else {
                bad()
            });
        };
        let rest = rest.strip_prefix(b" ").ok_or_else(bad)?;
        let rest = if rules.validate { rest } else { trim_ows(rest) };
        let (&status, reason) = rest.split_first_chunk::<3>().ok_or_else(bad)?;
        let status = status_code(status).ok_or_else(bad)?;
        let reason = match reason {
            [] => reason,
            [b' ', reason @ ..] => reason,
            _ => return Err(bad()),
        };
        if has_control(reason) {
            return Err(bad());
        }
        Ok(Some(ResponseHead { version, status, reason: head.slice_ref(reason), headers }))
    }

    fn block(
        &mut self,
        buf: &mut BytesMut,
        rules: &Rules,
        leading: Leading,
    ) -> Result<Option<(Bytes, Block)>, HeadError> {
        match self.scan.find(buf, rules.limits, rules.validate, leading) {
            Ok(Some(block)) => Ok(Some((buf.split_to(block.len).freeze(), block))),
            Ok(None) => Ok(None),
            Err(error) => {
                self.scan = LineScan::default();
                Err(error)
            }
        }
    }
}

/// Takes a request head from the front of `buf` in one go. Where the bytes arrive bit by bit,
/// [`HeadReader::request`] saves looking at them again.
pub fn parse_request(buf: &mut BytesMut, rules: &Rules) -> Result<Option<RequestHead>, HeadError> {
    HeadReader::new().request(buf, rules)
}

/// Takes a response head from the front of `buf` in one go. See [`parse_request`].
pub fn parse_response(
    buf: &mut BytesMut,
    rules: &Rules,
) -> Result<Option<ResponseHead>, HeadError> {
    HeadReader::new().response(buf, rules)
}

/// Splits a block into its first line and the fields after it.
pub(super) fn head_parts(
    head: &Bytes,
    block: &Block,
    validate: bool,
) -> Result<(Bytes, Headers), HeadError> {
    // The last of the ends belongs to the empty line.
    let ends = block.ends.split_last().map_or(&[][..], |(_, ends)| ends);
    let Some((&first, ends)) = ends.split_first() else {
        return Ok((Bytes::new(), Headers::new()));
    };
    let first = first as usize;
    let line = head.slice_ref(without_cr(head.get(..first).unwrap_or_default()));
    let mut fields: Vec<Field> = Vec::with_capacity(ends.len());
    let mut folded = Folded::default();
    let mut start = first + 1;
    for &end in ends {
        let end = end as usize;
        let text = without_cr(head.get(start..end).unwrap_or_default());
        start = end + 1;
        if let [b' ' | b'\t', ..] = text {
            if validate {
                return Err(HeadError::Folding { line: shown(text) });
            }
            if !folded.add(&fields, text) {
                return Err(HeadError::HeaderLine { line: shown(text) });
            }
            continue;
        }
        folded.flush(&mut fields);
        // Names are so short that a plain loop is faster than memchr.
        let colon = text.iter().position(|&b| b == b':');
        let (name, value) = match colon.and_then(|colon| text.split_at_checked(colon)) {
            Some((name, [_, value @ ..])) if !name.is_empty() => (name, trim_ows(value)),
            _ => return Err(HeadError::HeaderLine { line: shown(text) }),
        };
        if validate && has_control(value) {
            return Err(HeadError::HeaderLine { line: shown(text) });
        }
        fields.push((head.slice_ref(name), head.slice_ref(value)));
    }
    folded.flush(&mut fields);
    // Other parsers see other lines in a block with bare LF or folding: such a list is written anew.
    let headers = if block.bare_lf || folded.seen {
        Headers::from_fields(fields)
    } else {
        Headers::from_wire(fields, head.slice(first + 1..start))
    };
    Ok((line, headers))
}

/// Keeps the beginning of a line for an error text.
pub(super) fn shown(line: &[u8]) -> Bytes {
    // One byte more than is shown, so that the text says it was cut.
    Bytes::copy_from_slice(line.get(..=SHOWN_BYTES).unwrap_or(line))
}

/// Gathers the lines of a folded value, each separated by one space.
#[derive(Default)]
struct Folded {
    value: Option<Vec<u8>>,
    seen: bool,
}

impl Folded {
    /// Appends a continuation of the last field; false if there is none.
    fn add(&mut self, fields: &[Field], text: &[u8]) -> bool {
        let Some((_, first)) = fields.last() else { return false };
        let value = self.value.get_or_insert_with(|| first.to_vec());
        let text = trim_ows(text);
        if !value.is_empty() && !text.is_empty() {
            value.push(b' ');
        }
        value.extend_from_slice(text);
        self.seen = true;
        true
    }

    fn flush(&mut self, fields: &mut [Field]) {
        if let Some(value) = self.value.take()
            && let Some((_, last)) = fields.last_mut()
        {
            *last = value.into();
        }
    }
}

fn request_parts(line: &[u8], validate: bool) -> Option<[&[u8]; 3]> {
    if has_control(line) {
        return None;
    }
    let mut parts = [&[][..]; 3];
    if validate {
        let mut found = line.split(|&b| b == b' ');
        for part in &mut parts {
            *part = found.next()?;
        }
        if found.next().is_some() || line.contains(&b'\t') {
            return None;
        }
    } else {
        let mut found = line.split(|&b| matches!(b, b' ' | b'\t')).filter(|part| !part.is_empty());
        for part in &mut parts {
            *part = found.next()?;
        }
        if found.next().is_some() {
            return None;
        }
    }
    Some(parts)
}

fn looks_like_version(version: &[u8]) -> bool {
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn status_code(digits: [u8; 3]) -> Option<u16> {
    if digits[0] == b'0' || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0')))
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENIENT: Rules =
        Rules { limits: Limits { head_bytes: 65536, header_count: 256 }, validate: false };

    fn request(text: &str, rules: &Rules) -> Result<Option<RequestHead>, HeadError> {
        parse_request(&mut BytesMut::from(text), rules)
    }

    #[track_caller]
    fn refused(text: &str, rules: &Rules, expected: &str) {
        assert_eq!(request(text, rules).unwrap_err().to_string(), expected, "{text:?}");
    }

    #[test]
    fn a_request_is_taken_from_the_front() {
        let mut buf =
            BytesMut::from("\r\n\r\nPOST /a?b HTTP/1.1\r\nHost:x\r\nA:  b c \t\r\nE:\r\n\r\nbody");
        let head = parse_request(&mut buf, &Rules::default()).unwrap().unwrap();
        assert_eq!((&head.method[..], &head.target[..]), (&b"POST"[..], &b"/a?b"[..]));
        assert_eq!((head.version, head.form), (Version::Http11, Target::Origin));
        let expected: Headers = [("Host", "x"), ("A", "b c"), ("E", "")].into_iter().collect();
        assert_eq!(head.headers, expected);
        assert!(head.headers.is_verbatim());
        let mut out = BytesMut::new();
        head.headers.write_to(&mut out);
        assert_eq!(out, "Host:x\r\nA:  b c \t\r\nE:\r\n");
        assert_eq!(buf, "body");
    }

    #[test]
    fn a_response_is_taken_from_the_front() {
        #[track_caller]
        fn check(line: &str, status: u16, reason: &str) {
            let mut buf = BytesMut::from(format!("{line}\r\nA: b\r\n\r\nbody").as_bytes());
            let head = parse_response(&mut buf, &Rules::default()).unwrap().unwrap();
            assert_eq!((head.status, &head.reason[..]), (status, reason.as_bytes()));
            assert_eq!(head.headers.len(), 1);
            assert_eq!(buf, "body");
        }
        check("HTTP/1.1 200 OK", 200, "OK");
        check("HTTP/1.0 404 Not  Found ", 404, "Not  Found ");
        check("HTTP/1.1 999 ", 999, "");
        check("HTTP/1.1 100", 100, "");
        check("HTTP/1.1 200 \u{e4}\t", 200, "\u{e4}\t");
    }

    #[test]
    fn malformed_response_lines() {
        for line in [
            "",
            "HTTP/1.1",
            "HTTP/1.1 ",
            "HTTP/1.1 20",
            "HTTP/1.1 2000",
            "HTTP/1.1 099",
            "HTTP/1.1 +20 OK",
            "HTTP/1.1  200 OK",
            "HTTP/1.1 200\tOK",
            "HTTP/1.1 200 a\0",
            "HTTP/1.1200 OK",
            " HTTP/1.1 200 OK",
            "http/1.1 200 OK",
            "ICY 200 OK",
            "\u{e4}\u{e4}\u{e4}\u{e4}\u{e4} 200",
        ] {
            let mut buf = BytesMut::from(format!("{line}\r\n\r\n").as_bytes());
            let error = parse_response(&mut buf, &Rules::default()).unwrap_err();
            assert!(matches!(error, HeadError::ResponseLine { .. }), "{line}: {error}");
        }
        let mut buf = BytesMut::from("HTTP/2.0 200 OK\r\n\r\n");
        let error = parse_response(&mut buf, &Rules::default()).unwrap_err();
        assert_eq!(error.to_string(), "Unsupported HTTP version: b'HTTP/2.0'");
    }

    #[test]
    fn malformed_request_lines() {
        for line in [
            "GET",
            "GET /",
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            " GET / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET /a b HTTP/1.1",
            "GET\t/\tHTTP/1.1",
            "GET /\t HTTP/1.1",
            "G(T / HTTP/1.1",
            "G\u{e4}T / HTTP/1.1",
            "GET a HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/11",
            "GET / HTTP/1.10",
            "GET / HTTP/1.x",
            "GET /\0 HTTP/1.1",
            "GET /\x7f HTTP/1.1",
            "CONNECT a HTTP/1.1",
            "CONNECT / HTTP/1.1",
        ] {
            let head = format!("{line}\r\n\r\n");
            let expected = format!("Bad HTTP request line: {}", Repr(line.as_bytes()));
            refused(&head, &Rules::default(), &expected);
        }
        refused("GET / HTTP/1.2\r\n\r\n", &LENIENT, "Unsupported HTTP version: b'HTTP/1.2'");
        refused("PRI * HTTP/2.0\r\n\r\n", &LENIENT, "Unexpected HTTP/2 connection preface");
        for blanks in ["GET  / HTTP/1.1", "GET\t/\tHTTP/1.1 "] {
            let head = request(&format!("{blanks}\r\n\r\n"), &LENIENT).unwrap().unwrap();
            assert_eq!(head.target, "/");
        }
    }

    #[test]
    fn malformed_header_lines() {
        let strict = Rules::default();
        let with = |line: &str| format!("GET / HTTP/1.1\r\nA: b\r\n{line}\r\n\r\n");
        for rules in [&strict, &LENIENT] {
            refused(&with("abc"), rules, "Invalid header line: b'abc'");
            refused(&with(":abc"), rules, "Invalid header line: b':abc'");
            refused(&with("a: b\rc"), rules, "Carriage return within a line: b'a: b\\r'");
            refused(&with("a: b\r"), rules, "Carriage return within a line: b'a: b\\r'");
        }
        refused(&with("a: \0"), &strict, "Invalid header line: b'a: \\x00'");
        refused(&with("a: b\nc: d"), &strict, "Line without carriage return at its end: b'a: b'");
        refused(&with(" folded"), &strict, "Obsolete line folding: b' folded'");
        refused("GET / HTTP/1.1\r\n folded\r\n\r\n", &LENIENT, "Invalid header line: b' folded'");
        // Refused as soon as it is seen, or the reader would wait for another end.
        refused(
            "GET / HTTP/1.1\n\n",
            &strict,
            "Line without carriage return at its end: b'GET / HTTP/1.1'",
        );
    }

    #[test]
    fn without_validation_odd_lines_are_put_right() {
        let text = "\nGET / HTTP/1.1\nA: b\n c\r\n\t d \n \nE:\n  f\nG: h\n\nbody";
        let mut buf = BytesMut::from(text);
        let head = parse_request(&mut buf, &LENIENT).unwrap().unwrap();
        let mut out = BytesMut::new();
        head.headers.write_to(&mut out);
        assert_eq!(out, "A: b c d\r\nE: f\r\nG: h\r\n");
        assert_eq!(buf, "body");
    }

    #[test]
    fn limits_hold() {
        let rules = Rules { limits: Limits { head_bytes: 40, header_count: 2 }, validate: true };
        let exact = "GET / HTTP/1.1\r\nA: bbbbbbbbbbbbbbbbb\r\n\r\n";
        assert_eq!(exact.len(), 40);
        assert!(request(exact, &rules).unwrap().is_some());
        refused(&exact.replace('A', "AA"), &rules, "HTTP head larger than 40 bytes");
        refused(&"x".repeat(41), &rules, "HTTP head larger than 40 bytes");
        refused(&"\r\n".repeat(30), &rules, "HTTP head larger than 40 bytes");
        let head = "GET / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\n\r\n";
        refused(head, &rules, "HTTP head with more than 2 header lines");
        let incomplete = head.strip_suffix('\n').unwrap();
        assert_eq!(request(incomplete, &Rules::default()), Ok(None));
    }

    #[test]
    fn a_reader_is_used_again_for_the_next_head() {
        let mut reader = HeadReader::new();
        let mut buf = BytesMut::from("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\nA: b");
        let rules = Rules::default();
        assert_eq!(reader.request(&mut buf, &rules).unwrap().unwrap().target, "/1");
        assert_eq!(reader.request(&mut buf, &rules), Ok(None));
        buf.extend_from_slice(b"\r\n\r\n");
        assert_eq!(reader.request(&mut buf, &rules).unwrap().unwrap().target, "/2");
        assert!(buf.is_empty());
    }

    #[test]
    fn error_texts_are_cut() {
        let line = "x".repeat(1000);
        let error = request(&format!("{line}\r\n\r\n"), &Rules::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("Bad HTTP request line: b'{}'…", "x".repeat(SHOWN_BYTES))
        );
    }
}
