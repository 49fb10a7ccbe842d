//! [`Request`] and [`Response`]: one HTTP message as plain values.
//!
//! Everything is kept as it was on the wire. What is computed from it (content without codings, text,
//! cookies, query, forms) is a method here, over the functions of the modules of the same name, and
//! is never stored twice.

mod request;
mod response;

use std::{borrow::Cow, io, sync::Arc};

use bytes::Bytes;
use thiserror::Error;

use crate::{
    Body, Headers, Stream, charset,
    coding::{self, CodingError, MAX_DECODED},
};

pub use request::FirstLineFormat;

/// An HTTP request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The destination: a name or an IP address without brackets.
    pub host: Arc<str>,
    pub port: u16,
    pub method: Bytes,
    /// `http` or `https`.
    pub scheme: Bytes,
    /// `host:port` of an absolute- or authority-form target, `:authority` of HTTP/2; else empty.
    pub authority: Bytes,
    /// Path and query, `*` for the asterisk form.
    pub path: Bytes,
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2.0`, `HTTP/3`.
    pub http_version: Bytes,
    pub headers: Headers,
    pub body: Body,
    pub trailers: Option<Headers>,
    pub timestamp_start: f64,
    pub timestamp_end: Option<f64>,
    pub stream: Stream,
}

/// An HTTP response.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub http_version: Bytes,
    pub status_code: u16,
    pub reason: Bytes,
    pub headers: Headers,
    pub body: Body,
    pub trailers: Option<Headers>,
    pub timestamp_start: f64,
    pub timestamp_end: Option<f64>,
    pub stream: Stream,
}

/// Why the content of a message cannot be had.
#[derive(Debug, Error)]
pub enum ContentError {
    /// The body is stored, and reading it failed.
    #[error("the body cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The content coding is unknown, or the body is not of it, or too large.
    #[error(transparent)]
    Coding(#[from] CodingError),
    /// The charset is unknown, or the content is not of it.
    #[error("the content is not valid {0:?} text")]
    Charset(String),
}

/// What requests and responses have in common.
///
/// *Body* is what is on the wire after de-chunking, *content* is that without content codings, *text* is the
/// content decoded from its charset. Where a limit is asked for, it is that of the decoded size; a stored body is read
/// only up to it too. [`MAX_DECODED`] is a good one.
pub trait Message {
    fn http_version(&self) -> &Bytes;
    fn headers(&self) -> &Headers;
    fn headers_mut(&mut self) -> &mut Headers;
    fn body(&self) -> &Body;
    fn body_mut(&mut self) -> &mut Body;

    fn is_http10(&self) -> bool {
        self.http_version().as_ref() == b"HTTP/1.0"
    }

    fn is_http11(&self) -> bool {
        self.http_version().as_ref() == b"HTTP/1.1"
    }

    fn is_http2(&self) -> bool {
        self.http_version().as_ref() == b"HTTP/2.0"
    }

    fn is_http3(&self) -> bool {
        self.http_version().as_ref() == b"HTTP/3"
    }

    /// Returns the value of a header as text, several fields joined, invalid UTF-8 replaced.
    fn header_text(&self, name: &str) -> Option<Cow<'_, str>> {
        header_text(self.headers(), name)
    }

    /// Returns the content; `None` if the body is missing.
    ///
    /// # Errors
    /// The body cannot be read or decoded, or is larger than `limit`.
    fn content(&self, limit: u64) -> Result<Option<Bytes>, ContentError> {
        content(self.headers(), self.body(), limit)
    }

    /// Like [`content`](Self::content), but what cannot be decoded is returned as it is on the wire, of a
    /// stored body no more than `limit` bytes. A body that cannot be read counts as missing.
    fn content_lenient(&self, limit: u64) -> Option<Bytes> {
        content(self.headers(), self.body(), limit).unwrap_or_else(|_| {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            match self.body().in_memory() {
                Some(bytes) => Some(bytes.clone()),
                None => self.body().prefix(limit).ok(),
            }
        })
    }

    /// Sets the content, and with it `content-length` unless there is a `transfer-encoding`. It is encoded as
    /// `content-encoding` says; that is removed if it is unknown. Content that did not change leaves the body as
    /// it was, byte for byte. `None` makes the body missing and leaves the headers.
    fn set_content(&mut self, new: Option<Bytes>) {
        let Some(new) = new else {
            *self.body_mut() = Body::missing();
            return;
        };
        if let Some(value) = self.headers().get_folded("content-encoding") {
            let in_memory = self.body().in_memory().is_some();
            let unchanged =
                in_memory && self.content(MAX_DECODED).is_ok_and(|old| old.as_ref() == Some(&new));
            if !unchanged {
                if let Ok(encoded) = coding::encode(&value, &new) {
                    *self.body_mut() = encoded.into();
                } else {
                    self.headers_mut().remove("content-encoding");
                    *self.body_mut() = new.into();
                }
            }
        } else {
            *self.body_mut() = new.into();
        }
        update_length(self);
    }

    /// Returns the content as text; `None` if the body is missing.
    ///
    /// # Errors
    /// Those of [`content`](Self::content), and content that is not of its charset.
    fn text(&self, limit: u64) -> Result<Option<String>, ContentError> {
        let Some(content) = self.content(limit)? else { return Ok(None) };
        let content_type = self.header_text("content-type").unwrap_or_default();
        let name = charset::guess(&content_type, &content);
        match charset::decode(&name, &content) {
            Some(text) => Ok(Some(text.into_owned())),
            None => Err(ContentError::Charset(name.into_owned())),
        }
    }

    /// Like [`text`](Self::text), but of [lenient](Self::content_lenient) content, with UTF-8 as the fallback
    /// and invalid bytes replaced.
    fn text_lenient(&self, limit: u64) -> Option<String> {
        let content = self.content_lenient(limit)?;
        let content_type = self.header_text("content-type").unwrap_or_default();
        let name = charset::guess(&content_type, &content);
        Some(charset::decode_lenient(&name, &content).into_owned())
    }

    /// Sets the content to text, encoded as `content-type` says. If that is not possible, it becomes UTF-8 and
    /// `content-type` says so.
    fn set_text(&mut self, text: Option<&str>) {
        let Some(text) = text else {
            self.set_content(None);
            return;
        };
        let content_type = self.header_text("content-type").unwrap_or_default();
        let encoded = charset::encode(&charset::guess(&content_type, b""), text);
        if let Some(encoded) = encoded {
            self.set_content(Some(encoded.into()));
            return;
        }
        let mut parsed = charset::parse_content_type(&content_type).unwrap_or_else(|| {
            charset::ContentType { main: "text".into(), sub: "plain".into(), params: Vec::new() }
        });
        parsed.set_param("charset", "utf-8");
        self.headers_mut().set("content-type", parsed.to_string());
        self.set_content(Some(Bytes::copy_from_slice(text.as_bytes())));
    }

    /// Removes the content codings from the body. Does nothing if it is missing or empty.
    ///
    /// # Errors
    /// Those of [`content`](Self::content); nothing has changed then.
    fn decode(&mut self, limit: u64) -> Result<(), ContentError> {
        if self.body().is_missing() || self.body().is_empty() {
            return Ok(());
        }
        if let Some(content) = self.content(limit)? {
            self.headers_mut().remove("content-encoding");
            self.set_content(Some(content));
        }
        Ok(())
    }

    /// Applies content codings to the body as it is, and names them in `content-encoding`.
    ///
    /// # Errors
    /// An unknown name, or a body that cannot be read or is missing; nothing has changed then.
    fn encode(&mut self, codings: &str) -> Result<(), ContentError> {
        coding::parse(codings.as_bytes())?;
        if let Some(body) = self.body().bytes()? {
            let encoded = coding::encode(codings.as_bytes(), &body)?;
            self.headers_mut().set("content-encoding", codings.to_owned());
            *self.body_mut() = encoded.into();
            update_length(self);
        } else {
            self.headers_mut().set("content-encoding", codings.to_owned());
        }
        Ok(())
    }
}

macro_rules! message {
    ($type:ty) => {
        impl Message for $type {
            fn http_version(&self) -> &Bytes {
                &self.http_version
            }

            fn headers(&self) -> &Headers {
                &self.headers
            }

            fn headers_mut(&mut self) -> &mut Headers {
                &mut self.headers
            }

            fn body(&self) -> &Body {
                &self.body
            }

            fn body_mut(&mut self) -> &mut Body {
                &mut self.body
            }
        }
    };
}

message!(Request);
message!(Response);

/// Returns what `body` is without the codings that `headers` name; `None` if it is missing. See
/// [`Message::content`].
///
/// # Errors
/// The body cannot be read or decoded, or is larger than `limit`.
pub fn content(headers: &Headers, body: &Body, limit: u64) -> Result<Option<Bytes>, ContentError> {
    if body.in_memory().is_none() && body.len().is_some_and(|len| len > limit) && !body.is_missing()
    {
        return Err(CodingError::TooLarge { limit }.into());
    }
    let Some(bytes) = body.bytes()? else { return Ok(None) };
    match headers.get_folded("content-encoding") {
        Some(value) if !coding::parse(&value)?.is_empty() => {
            Ok(Some(coding::decode(&value, &bytes, limit)?))
        }
        _ => Ok(Some(bytes)),
    }
}

fn header_text<'a>(headers: &'a Headers, name: &str) -> Option<Cow<'a, str>> {
    let first = headers.get(name)?;
    if headers.get_all(name).nth(1).is_none() {
        return Some(String::from_utf8_lossy(first));
    }
    headers.get_folded(name).map(|value| String::from_utf8_lossy(&value).into_owned().into())
}

/// Makes `content-length` that of the body, unless the body is framed otherwise.
fn update_length<M: Message + ?Sized>(message: &mut M) {
    let Some(len) = message.body().len() else { return };
    if message.headers().contains("transfer-encoding") {
        return;
    }
    let mut buffer = itoa::Buffer::new();
    let len = buffer.format(len);
    // A field that is right keeps the form it has on the wire.
    if message.headers().get_all("content-length").count() != 1
        || message.headers().get("content-length").is_none_or(|value| value != len)
    {
        message.headers_mut().set("content-length", Bytes::copy_from_slice(len.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(headers: &[(&'static str, &'static str)], body: &'static str) -> Response {
        Response {
            headers: headers.iter().copied().collect(),
            body: Bytes::from(body).into(),
            ..Response::default()
        }
    }

    fn field(message: &impl Message, name: &str) -> Option<String> {
        message.header_text(name).map(Cow::into_owned)
    }

    #[test]
    fn content_is_decoded_and_encoded() {
        let mut message = response(&[("Content-Encoding", "gzip")], "");
        message.set_content(Some("hello".into()));
        assert!(message.body.in_memory().unwrap().starts_with(b"\x1f\x8b"));
        assert_eq!(message.content(MAX_DECODED).unwrap().unwrap(), "hello");
        let len = message.body.len().unwrap().to_string();
        assert_eq!(field(&message, "content-length"), Some(len));
        message.decode(MAX_DECODED).unwrap();
        assert_eq!(message.body.in_memory().unwrap(), "hello");
        assert_eq!(field(&message, "content-encoding"), None);
        assert_eq!(field(&message, "content-length").unwrap(), "5");
        message.encode("br").unwrap();
        assert_eq!(message.content(MAX_DECODED).unwrap().unwrap(), "hello");
        assert!(message.encode("nope").is_err());
        assert_eq!(field(&message, "content-encoding").unwrap(), "br");
        message.set_content(None);
        assert!(message.body.is_missing());
        assert_eq!(message.content(1).unwrap(), None);
        assert_eq!(message.content_lenient(1), None);
    }

    #[test]
    fn content_that_does_not_change_keeps_its_bytes() {
        // Compressed in another way than we do it.
        let mut slow = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        io::Write::write_all(&mut slow, &b"hello ".repeat(20)).unwrap();
        let body = Bytes::from(slow.finish().unwrap());
        let mut message = response(&[("content-encoding", "gzip"), ("content-length", "0")], "");
        message.body = body.clone().into();
        let content = message.content(MAX_DECODED).unwrap();
        message.set_content(content);
        assert_eq!(message.body.in_memory(), Some(&body));
        assert_eq!(field(&message, "content-length").unwrap(), body.len().to_string());
    }

    #[test]
    fn what_cannot_be_decoded_is_an_error_or_the_body() {
        for (coding, body) in [("gzip", "not gzip"), ("nope", "x")] {
            let mut message = response(&[("content-encoding", "gzip")], "not gzip");
            message.headers.set("content-encoding", coding);
            message.body = Bytes::from(body).into();
            assert!(matches!(message.content(MAX_DECODED), Err(ContentError::Coding(_))));
            assert_eq!(message.content_lenient(MAX_DECODED).unwrap(), body);
            assert!(message.decode(MAX_DECODED).is_err());
            assert_eq!(field(&message, "content-encoding").unwrap(), coding);
        }
        let mut message = response(&[("content-encoding", "nope")], "");
        message.set_content(Some("x".into()));
        assert_eq!(field(&message, "content-encoding"), None);
        assert_eq!(message.body.in_memory().unwrap(), "x");
    }

    #[test]
    fn length_is_set_where_it_frames() {
        let mut message = response(&[("transfer-encoding", "chunked")], "");
        message.set_content(Some("abc".into()));
        assert_eq!(field(&message, "content-length"), None);
        // A wire form that stays right is kept.
        let block = Bytes::from_static(b"Content-Length:  3\r\n");
        message.headers = Headers::from_wire(vec![("Content-Length".into(), "3".into())], block);
        message.set_content(Some("xyz".into()));
        assert!(message.headers.is_verbatim());
        message.set_content(Some("".into()));
        assert_eq!(field(&message, "content-length").unwrap(), "0");
    }

    #[test]
    fn text_is_read_and_written() {
        let check = |kind: Option<&'static str>, text: &str, body: &[u8], after: Option<&str>| {
            let mut message = response(&[], "");
            if let Some(kind) = kind {
                message.headers.set("content-type", kind);
            }
            message.set_text(Some(text));
            assert_eq!(message.body.in_memory().unwrap(), body, "{kind:?}");
            assert_eq!(field(&message, "content-type").as_deref(), after);
            assert_eq!(message.text(MAX_DECODED).unwrap().unwrap(), text);
            assert_eq!(message.text_lenient(MAX_DECODED).unwrap(), text);
        };
        let utf8 = "text/plain; charset=utf-8";
        check(None, "é", b"\xe9", None);
        check(None, "日", "日".as_bytes(), Some(utf8));
        check(Some("foo"), "日", "日".as_bytes(), Some(utf8));
        check(Some("text/html"), "é", "é".as_bytes(), Some("text/html"));
        check(Some("text/plain;charset=nope"), "a", b"a", Some(utf8));
        check(
            Some("text/plain;charset=gb2312"),
            "日",
            b"\xc8\xd5",
            Some("text/plain;charset=gb2312"),
        );
        check(
            Some("TEXT/Plain; CharSet=ascii; x=y"),
            "日",
            "日".as_bytes(),
            Some("text/plain; CharSet=utf-8; x=y"),
        );
        let mut message = response(&[("content-type", "text/plain; charset=utf-8")], "");
        message.body = Bytes::from_static(b"a\xff").into();
        assert!(matches!(message.text(9), Err(ContentError::Charset(name)) if name == "utf-8"));
        assert_eq!(message.text_lenient(9).unwrap(), "a\u{fffd}");
    }
}
