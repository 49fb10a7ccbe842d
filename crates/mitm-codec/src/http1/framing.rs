//! Where a body ends (RFC 9112 §6), and the checks that keep two parsers from seeing it differently.

use bytes::Bytes;
use mitm_flow::Headers;

use super::{Version, has_control, head::shown, is_token, trim_ows};
use crate::repr::Repr;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes. `Length(0)`: there is no body.
    Length(u64),
    /// At the last chunk.
    Chunked,
    /// When the peer closes. Responses only.
    UntilClose,
}

/// Why the headers of a message are refused. The text is the X of "Received X from client".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("invalid header name: {}", Repr(name))]
    InvalidName { name: Bytes },
    /// A name that is no token, but a framing header to parsers that overlook the difference.
    #[error("header name that may be mistaken for another: {}", Repr(name))]
    DisguisedName { name: Bytes },
    /// Only from [`check_fields`]: control characters in a value.
    #[error("invalid value of header {}: {}", Repr(name), Repr(value))]
    InvalidValue { name: Bytes, value: Bytes },
    #[error("message with both transfer-encoding and content-length headers")]
    EncodingAndLength,
    #[error("multiple transfer-encoding headers")]
    SeveralEncodings,
    #[error("unexpected HTTP transfer-encoding {} for HTTP/1.0", Repr(value))]
    EncodingInOldRequest { value: Bytes },
    #[error("unexpected HTTP transfer-encoding {} for HTTP/1.0", Repr(value))]
    EncodingInOldResponse { value: Bytes },
    #[error(
        "unexpected HTTP transfer-encoding {} for response with status code {status}",
        Repr(value)
    )]
    EncodingInStatus { value: Bytes, status: u16 },
    #[error("unknown transfer-encoding header: {}", Repr(value))]
    UnknownEncoding { value: Bytes },
    /// The body of a request can't end with the connection.
    #[error("unexpected HTTP transfer-encoding {} for request", Repr(value))]
    EncodingInRequest { value: Bytes },
    #[error("multiple content-length headers")]
    SeveralLengths,
    #[error("invalid content-length header: {}", Repr(value))]
    InvalidLength { value: Bytes },
    #[error("multiple host headers")]
    SeveralHosts,
    #[error("invalid host header: {}", Repr(value))]
    InvalidHost { value: Bytes },
}

impl FramingError {
    /// True if this is refused because of `validate` alone; false if the message has no single framing.
    pub fn only_when_validating(&self) -> bool {
        match self {
            Self::InvalidName { .. }
            | Self::InvalidValue { .. }
            | Self::EncodingAndLength
            | Self::SeveralEncodings
            | Self::EncodingInOldResponse { .. }
            | Self::EncodingInStatus { .. }
            | Self::SeveralHosts
            | Self::InvalidHost { .. } => true,
            Self::DisguisedName { .. }
            | Self::EncodingInOldRequest { .. }
            | Self::UnknownEncoding { .. }
            | Self::EncodingInRequest { .. }
            | Self::SeveralLengths
            | Self::InvalidLength { .. } => false,
        }
    }
}

/// Checks the headers of a request and says how its body is framed.
///
/// With `validate` also names and `Host` are checked, and whatever could smuggle a request is refused. After CONNECT
/// there is no body: what follows belongs to the tunnel.
pub fn request_framing(
    method: &[u8],
    version: Version,
    headers: &Headers,
    validate: bool,
) -> Result<Framing, FramingError> {
    let found = Found::in_headers(headers, validate)?;
    if validate {
        found.check_combination()?;
        found.check_host()?;
    }
    let framing = if let Some(value) = found.encoding {
        if version == Version::Http10 {
            // Who doesn't know the header reads the chunks as the next request.
            return Err(FramingError::EncodingInOldRequest { value: shown(value) });
        }
        match Coding::of(headers) {
            Some(Coding::Chunked) => Framing::Chunked,
            Some(Coding::Other) => {
                return Err(FramingError::EncodingInRequest { value: shown(value) });
            }
            None => return Err(FramingError::UnknownEncoding { value: shown(value) }),
        }
    } else {
        Framing::Length(found.length()?.unwrap_or(0))
    };
    Ok(if method == b"CONNECT" { Framing::Length(0) } else { framing })
}

/// Checks the headers of a response and says how its body is framed.
///
/// There is no body after HEAD, in 1xx, 204 and 304, and in a 2xx to CONNECT, whatever the headers say.
pub fn response_framing(
    request_method: &[u8],
    version: Version,
    status: u16,
    headers: &Headers,
    validate: bool,
) -> Result<Framing, FramingError> {
    let found = Found::in_headers(headers, validate)?;
    if validate {
        found.check_combination()?;
        if let Some(value) = found.encoding {
            if version == Version::Http10 {
                return Err(FramingError::EncodingInOldResponse { value: shown(value) });
            }
            if matches!(status, 100..=199 | 204) {
                return Err(FramingError::EncodingInStatus { value: shown(value), status });
            }
            if Coding::of(headers).is_none() {
                return Err(FramingError::UnknownEncoding { value: shown(value) });
            }
        } else {
            found.length()?;
        }
    }
    if request_method == b"HEAD"
        || matches!(status, 100..=199 | 204 | 304)
        || (request_method == b"CONNECT" && matches!(status, 200..=299))
    {
        return Ok(Framing::Length(0));
    }
    if let Some(value) = found.encoding {
        return match Coding::of(headers) {
            Some(Coding::Chunked) => Ok(Framing::Chunked),
            Some(Coding::Other) => Ok(Framing::UntilClose),
            None => Err(FramingError::UnknownEncoding { value: shown(value) }),
        };
    }
    Ok(found.length()?.map_or(Framing::UntilClose, Framing::Length))
}

/// Makes the headers of a message accepted without validation say one thing: the length goes where an encoding
/// overrides it (RFC 9112 §6.3), several encodings become one line. Valid messages stay as they are.
pub fn settle_framing(headers: &mut Headers) {
    let Some(folded) = headers.get_folded("transfer-encoding") else { return };
    headers.remove("content-length");
    if headers.get_all("transfer-encoding").nth(1).is_some() {
        headers.set("Transfer-Encoding", folded);
    }
}

/// Checks that a list can be written as lines: names are tokens, values have no control characters. For headers
/// that come from elsewhere than an HTTP/1 head, such as from HTTP/2.
pub fn check_fields(headers: &Headers) -> Result<(), FramingError> {
    for (name, value) in headers.fields() {
        if !is_token(name) {
            return Err(FramingError::InvalidName { name: shown(name) });
        }
        if has_control(value) {
            return Err(FramingError::InvalidValue { name: shown(name), value: shown(value) });
        }
    }
    Ok(())
}

/// True if the sender of this head keeps the connection open after the message (RFC 9112 §9.3).
pub fn keep_alive(version: &[u8], headers: &Headers) -> bool {
    if headers.has_token("connection", "close") {
        return false;
    }
    if version == b"HTTP/1.0" {
        // An encoding here means that someone on the way may not have understood the framing (§6.1).
        return headers.has_token("connection", "keep-alive")
            && !headers.contains("transfer-encoding");
    }
    version != b"HTTP/0.9"
}

/// True if the name is a framing header once the characters that no name may have are left out.
pub(super) fn is_disguised(name: &[u8]) -> bool {
    ["content-length", "transfer-encoding"].iter().any(|framing| {
        name.len() > framing.len()
            && name
                .iter()
                .filter(|&&b| is_token(&[b]))
                .map(u8::to_ascii_lowercase)
                .eq(framing.bytes())
    })
}

/// The headers that matter here, from one walk over the list.
#[derive(Default)]
struct Found<'a> {
    encoding: Option<&'a Bytes>,
    encodings: usize,
    length: Option<&'a Bytes>,
    lengths: usize,
    host: Option<&'a Bytes>,
    hosts: usize,
}

impl<'a> Found<'a> {
    fn in_headers(headers: &'a Headers, validate: bool) -> Result<Self, FramingError> {
        let mut found = Self::default();
        for (name, value) in headers.fields() {
            if !is_token(name) {
                if validate {
                    return Err(FramingError::InvalidName { name: shown(name) });
                }
                if is_disguised(name) {
                    return Err(FramingError::DisguisedName { name: shown(name) });
                }
            }
            match name.len() {
                4 if name.eq_ignore_ascii_case(b"host") => {
                    found.hosts += 1;
                    found.host.get_or_insert(value);
                }
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    found.lengths += 1;
                    found.length.get_or_insert(value);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    found.encodings += 1;
                    found.encoding.get_or_insert(value);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn check_combination(&self) -> Result<(), FramingError> {
        if self.encodings > 0 && self.lengths > 0 {
            return Err(FramingError::EncodingAndLength);
        }
        if self.encodings > 1 {
            return Err(FramingError::SeveralEncodings);
        }
        Ok(())
    }

    fn check_host(&self) -> Result<(), FramingError> {
        if self.hosts > 1 {
            return Err(FramingError::SeveralHosts);
        }
        match self.host {
            Some(value) if !value.iter().all(|&b| is_host_byte(b)) => {
                Err(FramingError::InvalidHost { value: shown(value) })
            }
            _ => Ok(()),
        }
    }

    /// `0` or `[1-9][0-9]*`, up to what fits a signed 64-bit number: beyond that, parsers differ.
    fn length(&self) -> Result<Option<u64>, FramingError> {
        if self.lengths > 1 {
            return Err(FramingError::SeveralLengths);
        }
        let Some(value) = self.length else { return Ok(None) };
        let digits = match &value[..] {
            b"0" => return Ok(Some(0)),
            digits @ [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => digits,
            _ => return Err(FramingError::InvalidLength { value: shown(value) }),
        };
        std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse::<i64>().ok())
            .and_then(|length| u64::try_from(length).ok())
            .map(Some)
            .ok_or_else(|| FramingError::InvalidLength { value: shown(value) })
    }
}

/// The transfer codings a list may have (RFC 9112 §7).
enum Coding {
    /// Chunked, after at most one compression.
    Chunked,
    /// A compression or `identity`: the body ends with the connection.
    Other,
}

impl Coding {
    /// Reads all `Transfer-Encoding` headers as one list; `None` if it is none of the known ones.
    fn of(headers: &Headers) -> Option<Self> {
        let mut codings = headers
            .get_all("transfer-encoding")
            .flat_map(|value| value.split(|&b| b == b','))
            .map(trim_ows);
        let is = |coding: &[u8], name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
        let compresses =
            |coding: &[u8]| ["gzip", "deflate", "compress"].iter().any(|name| is(coding, name));
        match (codings.next()?, codings.next(), codings.next()) {
            (only, None, _) if is(only, "chunked") => Some(Self::Chunked),
            (only, None, _) if compresses(only) || is(only, "identity") => Some(Self::Other),
            (first, Some(last), None) if compresses(first) && is(last, "chunked") => {
                Some(Self::Chunked)
            }
            _ => None,
        }
    }
}

/// The characters of `uri-host [":" port]` (RFC 3986 §3.2.2); the comma is left out, since it would make a list.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b';'
                | b'='
                | b':'
                | b'['
                | b']'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
        fields.iter().copied().collect()
    }

    #[track_caller]
    fn request(fields: &[(&'static str, &'static str)]) -> Result<Framing, FramingError> {
        request_framing(b"POST", Version::Http11, &headers(fields), true)
    }

    #[test]
    fn request_bodies() {
        assert_eq!(request(&[]), Ok(Framing::Length(0)));
        assert_eq!(request(&[("content-LENGTH", "10")]), Ok(Framing::Length(10)));
        assert_eq!(request(&[("Transfer-Encoding", "ChunkeD")]), Ok(Framing::Chunked));
        assert_eq!(request(&[("Transfer-Encoding", "gzip ,chunked")]), Ok(Framing::Chunked));
        let max = "9223372036854775807";
        assert_eq!(request(&[("Content-Length", max)]), Ok(Framing::Length(i64::MAX as u64)));
        let connect = headers(&[("Content-Length", "10")]);
        let framing = request_framing(b"CONNECT", Version::Http11, &connect, true);
        assert_eq!(framing, Ok(Framing::Length(0)));
    }

    #[test]
    fn response_bodies() {
        let of = |method: &str, status, fields: &[(&'static str, &'static str)]| {
            let headers = headers(fields);
            response_framing(method.as_bytes(), Version::Http11, status, &headers, true)
        };
        let ten = &[("Content-Length", "10")][..];
        let chunked = &[("Transfer-Encoding", "chunked")][..];
        assert_eq!(of("GET", 200, &[]), Ok(Framing::UntilClose));
        assert_eq!(of("GET", 200, ten), Ok(Framing::Length(10)));
        assert_eq!(of("GET", 200, chunked), Ok(Framing::Chunked));
        assert_eq!(of("GET", 200, &[("Transfer-Encoding", "gzip")]), Ok(Framing::UntilClose));
        for (method, status) in [("HEAD", 200), ("GET", 304), ("CONNECT", 200), ("CONNECT", 299)] {
            assert_eq!(of(method, status, ten), Ok(Framing::Length(0)));
            assert_eq!(of(method, status, chunked), Ok(Framing::Length(0)));
        }
        assert_eq!(of("GET", 204, ten), Ok(Framing::Length(0)));
        assert_eq!(of("GET", 100, &[]), Ok(Framing::Length(0)));
        assert_eq!(of("GET", 101, &[]), Ok(Framing::Length(0)));
        assert_eq!(of("CONNECT", 407, ten), Ok(Framing::Length(10)));
    }

    #[test]
    fn refusals_say_why() {
        #[track_caller]
        fn check(fields: &[(&'static str, &'static str)], text: &str) {
            assert_eq!(request(fields).unwrap_err().to_string(), text);
        }
        let chunked = ("Transfer-Encoding", "chunked");
        check(&[("Fo o", "")], "invalid header name: b'Fo o'");
        check(&[("", "")], "invalid header name: b''");
        check(
            &[chunked, ("Content-Length", "1")],
            "message with both transfer-encoding and content-length headers",
        );
        check(&[chunked, chunked], "multiple transfer-encoding headers");
        check(
            &[("Content-Length", "1"), ("Content-Length", "1")],
            "multiple content-length headers",
        );
        check(&[("Content-Length", "+1")], "invalid content-length header: b'+1'");
        check(
            &[("Transfer-Encoding", "chunked, gzip")],
            "unknown transfer-encoding header: b'chunked, gzip'",
        );
        check(
            &[("Transfer-Encoding", "gzip")],
            "unexpected HTTP transfer-encoding b'gzip' for request",
        );
        check(&[("Host", "a"), ("Host", "a")], "multiple host headers");
        check(&[("Host", "a/b")], "invalid host header: b'a/b'");
        let headers = headers(&[chunked]);
        let old = request_framing(b"POST", Version::Http10, &headers, false).unwrap_err();
        assert_eq!(old.to_string(), "unexpected HTTP transfer-encoding b'chunked' for HTTP/1.0");
        let status = response_framing(b"GET", Version::Http11, 204, &headers, true).unwrap_err();
        assert_eq!(
            status.to_string(),
            "unexpected HTTP transfer-encoding b'chunked' for response with status code 204"
        );
    }

    #[test]
    fn without_validation_the_encoding_overrides_the_length() {
        let mut both = headers(&[
            ("Content-Length", "x"),
            ("Transfer-Encoding", "gzip"),
            ("transfer-encoding", "chunked"),
        ]);
        let framing = |headers: &Headers| request_framing(b"POST", Version::Http11, headers, false);
        assert_eq!(framing(&both), Ok(Framing::Chunked));
        settle_framing(&mut both);
        assert_eq!(both, headers(&[("Transfer-Encoding", "gzip, chunked")]));
        assert_eq!(framing(&both), Ok(Framing::Chunked));
        for fields in [
            [("Content-Length", "1"), ("Content-Length", "1")],
            [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
            [("Content-Length ", "1"), ("A", "b")],
            [("\x0bTransfer-Encoding", "1"), ("A", "b")],
        ] {
            let error = framing(&headers(&fields)).unwrap_err();
            assert!(!error.only_when_validating(), "{error}");
        }
        assert_eq!(framing(&headers(&[("Fo o", "")])), Ok(Framing::Length(0)));
    }

    #[test]
    fn connections_persist_as_version_and_tokens_say() {
        let of = |version: &str, value: &'static str| {
            keep_alive(version.as_bytes(), &headers(&[("Connection", value)]))
        };
        assert!(of("HTTP/1.1", "") && of("HTTP/1.1", "upgrade") && of("HTTP/2.0", ""));
        assert!(!of("HTTP/1.1", "x, CLOSE") && !of("HTTP/1.1", "keep-alive, close"));
        assert!(!of("HTTP/1.0", "") && of("HTTP/1.0", "Keep-Alive"));
        let chunked = headers(&[("Connection", "keep-alive"), ("Transfer-Encoding", "chunked")]);
        assert!(keep_alive(b"HTTP/1.1", &chunked) && !keep_alive(b"HTTP/1.0", &chunked));
    }

    #[test]
    fn fields_from_elsewhere_are_checked() {
        assert!(check_fields(&headers(&[("a", "b\tc")])).is_ok());
        for (name, value) in [("a", "b\r\nc"), ("a", "\0"), ("a:", ""), (":path", "/"), ("a b", "")]
        {
            assert!(check_fields(&headers(&[(name, value)])).is_err(), "{name:?}");
        }
    }
}
