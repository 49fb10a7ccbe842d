//! [`Request`] and [`Response`]: one HTTP message as plain values.
//!
//! Everything is kept as it was on the wire. What is computed from it (content without codings, text,
//! cookies, query, forms) is a method here, over the functions of the modules of the same name, and
//! is never stored twice.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Body, Headers, Stream};

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

impl Response {
    /// Builds an HTTP/1.1 response with the standard reason phrase and a `content-length`, timestamps now.
    pub fn make(status_code: u16, content: impl Into<Bytes>, headers: Headers) -> Self {
        let content = content.into();
        let mut headers = headers;
        headers.set("content-length", content.len().to_string());
        let now = crate::now();
        Self {
            http_version: Bytes::from_static(b"HTTP/1.1"),
            status_code,
            reason: crate::status::reason(status_code).unwrap_or("").into(),
            headers,
            body: content.into(),
            trailers: None,
            timestamp_start: now,
            timestamp_end: Some(now),
            stream: Stream::No,
        }
    }
}
