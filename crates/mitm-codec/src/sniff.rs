//! Guesses about a protocol from its first bytes. What they lead to is decided by the engine.

use bytes::Bytes;
use memchr::memmem;

use crate::http1::Limits;

/// True if the bytes are the start of a TLS record with a handshake: at least three, `16 03 00` to `16 03 03`.
pub fn is_tls_record_start(buf: &[u8]) -> bool {
    matches!(buf, [0x16, 0x03, 0x00..=0x03, ..])
}

/// True if a stream that starts with these bytes is better relayed as it is than read as HTTP.
///
/// That is so if the server spoke first, if there are fewer than three bytes, if they are not three letters, if there
/// is no blank on the first line, or if SSH says hello.
pub fn is_probably_not_http(buf: &[u8], server_spoke_first: bool) -> bool {
    let Some(start) = buf.first_chunk::<3>() else { return true };
    if server_spoke_first || start == b"SSH" || !start.iter().all(u8::is_ascii_alphabetic) {
        return true;
    }
    memchr::memchr2(b' ', b'\n', buf).and_then(|at| buf.get(at)) != Some(&b' ')
}

/// What [`request_host`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestHost {
    /// The bytes don't begin like a request.
    NotHttp,
    /// They do, and the end of the headers is not there.
    NeedMore,
    /// The value of the first `Host` header, if there is one.
    Found(Option<Bytes>),
}

/// Finds the `Host` of a request without parsing it, to decide whether the connection is to be ignored. So it
/// takes whatever looks like `METHOD … HTTP/`, with any line ends.
pub fn request_host(buf: &[u8]) -> RequestHost {
    let mut lines = buf.split(|&b| b == b'\n');
    if !lines.next().is_some_and(is_request_line) {
        return RequestHost::NotHttp;
    }
    let mut host = None;
    while let Some(line) = lines.next() {
        // The last part has no LF: it is not a line yet.
        let complete = lines.clone().next().is_some();
        if complete && matches!(line, [] | [b'\r']) {
            return RequestHost::Found(host);
        }
        if !complete {
            break;
        }
        if host.is_none()
            && let Some((name, [b':', value @ ..])) = line.split_at_checked(4)
            && name.eq_ignore_ascii_case(b"host")
        {
            host = Some(Bytes::copy_from_slice(value.trim_ascii()));
        }
    }
    if buf.len() > Limits::default().head_bytes {
        return RequestHost::Found(host);
    }
    RequestHost::NeedMore
}

fn is_request_line(line: &[u8]) -> bool {
    let letters = line.iter().take_while(|b| b.is_ascii_alphabetic()).count();
    letters > 0
        && line.get(letters) == Some(&b' ')
        && line.get(letters..).is_some_and(|rest| memmem::find(rest, b" HTTP/").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_records() {
        assert!(is_tls_record_start(b"\x16\x03\x01\x02"));
        assert!(is_tls_record_start(b"\x16\x03\x03"));
        for no in [&b""[..], b"\x16\x03", b"\x16\x03\x04", b"\x17\x03\x01", b"GET"] {
            assert!(!is_tls_record_start(no), "{no:?}");
        }
    }

    #[test]
    fn http_needs_three_letters_and_a_blank() {
        for yes in [&b"GET / HTTP/1.1\r\n"[..], b"get /", b"PRI * HTTP/2.0"] {
            assert!(!is_probably_not_http(yes, false), "{yes:?}");
            assert!(is_probably_not_http(yes, true));
        }
        for no in
            [&b""[..], b"GE", b"GET/", b"QUIT\r\n", b"HI\r\n x", b"SSH-2.0 x", b"G3T /", b"\0\0\0 "]
        {
            assert!(is_probably_not_http(no, false), "{no:?}");
        }
        assert!(is_probably_not_http(b"ABC\n d", false));
    }

    #[test]
    fn the_host_is_found_once_the_headers_are_complete() {
        let head = b"GET /x HTTP/1.1\r\nA: b\r\nhOST:  example.com:8 \r\nHost: second\r\n\r\n";
        let line = head.iter().position(|&b| b == b'\r').unwrap();
        for len in 0..head.len() {
            let expected = if len < b"GET /x HTTP/".len() {
                RequestHost::NotHttp
            } else {
                RequestHost::NeedMore
            };
            assert_eq!(request_host(&head[..len]), expected, "{len}");
        }
        let found = |host: &'static str| RequestHost::Found(Some(host.into()));
        assert_eq!(request_host(head), found("example.com:8"));
        assert_eq!(request_host(b"GET / HTTP/1.1\nHost: a\n\n"), found("a"));
        assert_eq!(request_host(b"GET / HTTP/1.1\r\n\r\n"), RequestHost::Found(None));
        assert_eq!(request_host(&head[line..]), RequestHost::NotHttp);
        assert_eq!(request_host(b"EHLO x\r\n"), RequestHost::NotHttp);
        let mut endless = b"GET / HTTP/1.1\r\n".to_vec();
        endless.resize(70_000, b'x');
        assert_eq!(request_host(&endless), RequestHost::Found(None));
    }
}
