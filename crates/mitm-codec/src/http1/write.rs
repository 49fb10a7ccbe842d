//! Heads and chunks as bytes. Header lists from the wire are written as they were received.

use bytes::BytesMut;
use mitm_flow::Headers;

/// Appends a request head. The parts of the first line must be free of blanks and control characters, as
/// parsed ones are.
pub fn write_request_head(
    out: &mut BytesMut,
    method: &[u8],
    target: &[u8],
    version: &[u8],
    headers: &Headers,
) {
    out.reserve(method.len() + target.len() + version.len() + headers.wire_len() + 6);
    for part in [method, b" ", target, b" ", version, b"\r\n"] {
        out.extend_from_slice(part);
    }
    headers.write_to(out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a response head. The blank after the status is always there, as RFC 9112 §4 asks.
pub fn write_response_head(
    out: &mut BytesMut,
    version: &[u8],
    status: u16,
    reason: &[u8],
    headers: &Headers,
) {
    let mut digits = itoa::Buffer::new();
    out.reserve(version.len() + reason.len() + headers.wire_len() + 11);
    for part in [version, b" ", digits.format(status).as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
    headers.write_to(out);
    out.extend_from_slice(b"\r\n");
}

/// Appends `data` as one chunk. Nothing is written for empty data, since a chunk of size 0 ends the body.
pub fn write_chunk(out: &mut BytesMut, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    out.reserve(data.len() + 20);
    write_hex(out, data.len());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk, the trailers and the empty line.
pub fn write_last_chunk(out: &mut BytesMut, trailers: Option<&Headers>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        trailers.write_to(out);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_hex(out: &mut BytesMut, number: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let significant = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..significant).rev() {
        out.extend_from_slice(&[DIGITS[(number >> (4 * place)) & 0xf]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 0xdead_beef, usize::MAX] {
            let mut out = BytesMut::new();
            write_hex(&mut out, number);
            assert_eq!(out, format!("{number:x}"));
        }
    }

    #[test]
    fn messages_are_written_with_crlf() {
        let headers: Headers = [("A", "1"), ("b", "")].into_iter().collect();
        let mut out = BytesMut::new();
        write_request_head(&mut out, b"GET", b"/", b"HTTP/1.1", &headers);
        assert_eq!(out, "GET / HTTP/1.1\r\nA: 1\r\nb: \r\n\r\n");
        out.clear();
        write_response_head(&mut out, b"HTTP/1.0", 200, b"", &Headers::new());
        assert_eq!(out, "HTTP/1.0 200 \r\n\r\n");
        out.clear();
        write_chunk(&mut out, b"");
        write_chunk(&mut out, &[b'x'; 17]);
        write_last_chunk(&mut out, Some(&headers));
        assert_eq!(out, "11\r\nxxxxxxxxxxxxxxxxx\r\n0\r\nA: 1\r\nb: \r\n\r\n");
    }
}
