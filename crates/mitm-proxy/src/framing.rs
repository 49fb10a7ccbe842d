//! The framing of what is sent: headers that say exactly one length, whatever hooks did to them.
//!
//! Unchanged messages keep their headers and their framing. Where a body is sent whole, its real length
//! wins over what the headers claim. Where it is forwarded as it comes, the framing it came with wins.

use bytes::Bytes;
use mitm_codec::http1::{self, Framing, Version};
use mitm_flow::{Body, Headers, Request, Response};

use crate::{body::BodyWriter, http2};

/// Settles the head of a request whose body is `body`.
pub(crate) fn settle_whole_request(request: &mut Request, body: &Body) -> BodyWriter {
    let len = body.len().unwrap_or(0);
    let version = Version::from_bytes(&request.http_version).unwrap_or(Version::Http11);
    match http1::request_framing(&request.method, version, &request.headers, false) {
        Ok(Framing::Chunked) => {
            http1::settle_framing(&mut request.headers);
            BodyWriter::Chunked
        }
        Ok(Framing::Length(announced)) if announced == len => BodyWriter::Raw,
        Ok(_) => {
            request.headers.set("content-length", len.to_string());
            BodyWriter::Raw
        }
        Err(_) => {
            set_length(&mut request.headers, len);
            BodyWriter::Raw
        }
    }
}

/// Settles the head of a request whose body came with the framing `received` and is forwarded as it comes.
pub(crate) fn settle_live_request(
    request: &mut Request,
    received: Framing,
    is_changed: bool,
) -> BodyWriter {
    if is_changed {
        set_chunked(&mut request.headers);
        request.http_version = Bytes::from_static(Version::Http11.as_bytes());
        return BodyWriter::Chunked;
    }
    let version = Version::from_bytes(&request.http_version).unwrap_or(Version::Http11);
    let now = http1::request_framing(&request.method, version, &request.headers, false);
    if now.as_ref() != Ok(&received) {
        match received {
            Framing::Length(len) => set_length(&mut request.headers, len),
            Framing::Chunked | Framing::UntilClose => set_chunked(&mut request.headers),
        }
    }
    http1::settle_framing(&mut request.headers);
    BodyWriter::Verbatim { chunked: received == Framing::Chunked }
}

/// Who a response is for.
#[derive(Clone, Copy)]
pub(crate) struct Recipient<'a> {
    pub(crate) method: &'a [u8],
    pub(crate) version: &'a [u8],
}

impl Recipient<'_> {
    /// True if the recipient can read chunks.
    fn knows_chunks(self) -> bool {
        self.version != b"HTTP/1.0"
    }

    /// True if a body without a length would end with the recipient's connection, but did not end with the server's.
    fn needs_length_of(self, response: &Response) -> bool {
        let is_http1 = |version| Version::from_bytes(version).is_some();
        is_http1(self.version) && !is_http1(&response.http_version)
    }

    fn has_no_body(self, status: u16) -> bool {
        self.method == b"HEAD" || matches!(status, 100..=199 | 204 | 304)
    }
}

/// Settles the head of a response whose body is `body`. The second value is true if the recipient finds the end
/// without the connection being closed.
pub(crate) fn settle_whole_response(
    response: &mut Response,
    body: &Body,
    to: Recipient<'_>,
) -> (BodyWriter, bool) {
    if to.has_no_body(response.status_code) {
        return (BodyWriter::Nothing, true);
    }
    let len = body.len().unwrap_or(0);
    if to.version == http2::HTTP2 {
        // There a length is no framing, but it must be right.
        if response.headers.get("content-length").is_some_and(|old| *old != len.to_string()) {
            set_length(&mut response.headers, len);
        }
        return (BodyWriter::Raw, true);
    }
    match current(response, to) {
        Some(Framing::Chunked) if to.knows_chunks() => {
            http1::settle_framing(&mut response.headers);
            (BodyWriter::Chunked, true)
        }
        Some(Framing::Length(announced)) if announced == len => (BodyWriter::Raw, true),
        // What came in HTTP/2 had an end of its own, and goes on having one.
        Some(Framing::UntilClose) if !to.needs_length_of(response) => (BodyWriter::Raw, false),
        _ => {
            set_length(&mut response.headers, len);
            (BodyWriter::Raw, true)
        }
    }
}

/// Settles the head of a response whose body came with the framing `received` and is forwarded as it comes. The second
/// value is as that of [`settle_whole_response`].
pub(crate) fn settle_live_response(
    response: &mut Response,
    received: Framing,
    is_changed: bool,
    to: Recipient<'_>,
) -> (BodyWriter, bool) {
    if to.has_no_body(response.status_code) {
        return (BodyWriter::Nothing, true);
    }
    if received == Framing::Chunked && !to.knows_chunks() || is_changed && !to.knows_chunks() {
        response.headers.remove("transfer-encoding");
        response.headers.remove("content-length");
        return (BodyWriter::Raw, false);
    }
    if is_changed {
        set_chunked(&mut response.headers);
        return (BodyWriter::Chunked, true);
    }
    if current(response, to) != Some(received) {
        match received {
            Framing::Length(len) => set_length(&mut response.headers, len),
            Framing::Chunked => set_chunked(&mut response.headers),
            Framing::UntilClose => {
                response.headers.remove("transfer-encoding");
                response.headers.remove("content-length");
            }
        }
    }
    http1::settle_framing(&mut response.headers);
    let chunked = received == Framing::Chunked;
    (BodyWriter::Verbatim { chunked }, received != Framing::UntilClose)
}

fn current(response: &Response, to: Recipient<'_>) -> Option<Framing> {
    let version = Version::from_bytes(&response.http_version).unwrap_or(Version::Http11);
    let (status, headers) = (response.status_code, &response.headers);
    let framing = http1::response_framing(to.method, version, status, headers, false).ok()?;
    // Only HTTP/1 ends a body with the connection.
    let ends = Version::from_bytes(&response.http_version).is_some();
    (ends || framing != Framing::UntilClose).then_some(framing)
}

fn set_length(headers: &mut Headers, len: u64) {
    headers.remove("transfer-encoding");
    headers.set("content-length", len.to_string());
}

fn set_chunked(headers: &mut Headers) {
    headers.remove("content-length");
    headers.set("Transfer-Encoding", "chunked");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(headers: &[(&'static str, &'static str)]) -> Response {
        let headers = headers.iter().copied().collect();
        Response {
            http_version: "HTTP/1.1".into(),
            status_code: 200,
            headers,
            ..Response::default()
        }
    }

    const GET: Recipient<'static> = Recipient { method: b"GET", version: b"HTTP/1.1" };
    const OLD: Recipient<'static> = Recipient { method: b"GET", version: b"HTTP/1.0" };

    #[test]
    fn the_real_length_wins_over_the_announced_one() {
        let mut r = response(&[("Content-Length", "3")]);
        let (writer, delimited) = settle_whole_response(&mut r, &Bytes::from("hello").into(), GET);
        assert_eq!((writer, delimited), (BodyWriter::Raw, true));
        assert_eq!(r.headers.get("content-length").unwrap(), "5");
    }

    #[test]
    fn old_clients_get_no_chunks() {
        let mut r = response(&[("Transfer-Encoding", "chunked")]);
        let settled = settle_live_response(&mut r, Framing::Chunked, false, OLD);
        assert_eq!(settled, (BodyWriter::Raw, false));
        assert!(r.headers.is_empty());
        let mut r = response(&[("Transfer-Encoding", "chunked")]);
        let settled = settle_whole_response(&mut r, &Bytes::from("x").into(), OLD);
        assert_eq!(settled, (BodyWriter::Raw, true));
        assert_eq!(r.headers.get("content-length").unwrap(), "1");
    }

    #[test]
    fn a_forwarded_body_keeps_its_framing_whatever_hooks_did() {
        let mut r = response(&[("Content-Length", "77")]);
        let settled = settle_live_response(&mut r, Framing::Chunked, false, GET);
        assert_eq!(settled, (BodyWriter::Verbatim { chunked: true }, true));
        assert!(!r.headers.contains("content-length") && r.headers.contains("transfer-encoding"));
    }

    #[test]
    fn unchanged_heads_stay_verbatim() {
        let block = Bytes::from_static(b"content-LENGTH:5\r\n");
        let fields = vec![("content-LENGTH".into(), "5".into())];
        let mut r = response(&[]);
        r.headers = Headers::from_wire(fields, block);
        settle_live_response(&mut r, Framing::Length(5), false, GET);
        assert!(r.headers.is_verbatim());
        settle_whole_response(&mut r, &Bytes::from("hello").into(), GET);
        assert!(r.headers.is_verbatim());
    }

    #[test]
    fn requests_with_a_changed_body_are_chunked() {
        let mut request = Request {
            http_version: "HTTP/1.1".into(),
            method: "POST".into(),
            headers: [("content-length", "5")].into_iter().collect(),
            ..Request::default()
        };
        let writer = settle_live_request(&mut request, Framing::Length(5), true);
        assert_eq!(writer, BodyWriter::Chunked);
        assert!(!request.headers.contains("content-length"));
    }
}
