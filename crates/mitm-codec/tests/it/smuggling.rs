//! Messages that parsers have been known to read differently. Each is refused, or read and forwarded with exactly one
//! framing.

use bytes::BytesMut;
use mitm_codec::http1::{
    BodyDecoder, Decoded, Framing, HeadReader, Rules, parse_request, parse_response,
    request_framing, response_framing, settle_framing, write_request_head,
};

/// What became of a message: the payload of its body and the bytes after it, or the reason.
type Outcome = Result<(String, String), String>;

/// Reads one body; `closed`: nothing comes after `buf`.
fn read_body(framing: Framing, validate: bool, buf: &mut BytesMut) -> Outcome {
    let mut decoder = BodyDecoder::with_validation(framing, validate);
    let mut payload = Vec::new();
    loop {
        match decoder.decode(buf).map_err(|error| error.to_string())? {
            Decoded::NeedMore => {
                decoder.finish().map_err(|error| error.to_string())?;
                break;
            }
            Decoded::Piece(piece) => {
                piece.data.iter().for_each(|data| payload.extend_from_slice(data));
            }
            Decoded::End { .. } => break,
        }
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&payload), text(buf)))
}

fn read_request(raw: &[u8], validate: bool) -> Outcome {
    let rules = Rules { validate, ..Rules::default() };
    let mut buf = BytesMut::from(raw);
    let head = parse_request(&mut buf, &rules)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| "incomplete head".to_owned())?;
    let framing = request_framing(&head.method, head.version, &head.headers, validate)
        .map_err(|error| error.to_string())?;
    read_body(framing, validate, &mut buf)
}

fn read_response(raw: &[u8], validate: bool) -> Outcome {
    let rules = Rules { validate, ..Rules::default() };
    let mut buf = BytesMut::from(raw);
    let head = parse_response(&mut buf, &rules)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| "incomplete head".to_owned())?;
    let framing = response_framing(b"GET", head.version, head.status, &head.headers, validate)
        .map_err(|error| error.to_string())?;
    read_body(framing, validate, &mut buf)
}

/// What a message does with validation on and off.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// Refused by both.
    Never,
    /// Refused with validation; without it, this is the payload of the body.
    Lenient(&'static str),
    /// Read by both, with this payload.
    Always(&'static str),
}
use Expect::{Always, Lenient, Never};

/// Header lines and what follows the head of `POST /x`; what is not taken is the next request.
const REQUESTS: &[(&str, &str, &str, Expect)] = &[
    // Lengths
    ("length", "Content-Length: 3\r\n", "abc", Always("abc")),
    ("no body", "", "", Always("")),
    ("equal lengths", "Content-Length: 3\r\nContent-Length: 3\r\n", "abc", Never),
    ("different lengths", "Content-Length: 3\r\nContent-Length: 0\r\n", "abc", Never),
    ("list of lengths", "Content-Length: 3, 3\r\n", "abc", Never),
    ("empty length", "Content-Length:\r\n", "abc", Never),
    ("plus sign", "Content-Length: +3\r\n", "abc", Never),
    ("minus sign", "Content-Length: -3\r\n", "abc", Never),
    ("minus zero", "Content-Length: -0\r\n", "", Never),
    ("leading zero", "Content-Length: 03\r\n", "abc", Never),
    ("hexadecimal length", "Content-Length: 0x3\r\n", "abc", Never),
    ("decimal point", "Content-Length: 3.0\r\n", "abc", Never),
    ("exponent", "Content-Length: 3e0\r\n", "abc", Never),
    ("separators", "Content-Length: 1_0\r\n", "0123456789", Never),
    ("blank inside", "Content-Length: 1 0\r\n", "0123456789", Never),
    ("letters after", "Content-Length: 3abc\r\n", "abc", Never),
    ("quoted", "Content-Length: \"3\"\r\n", "abc", Never),
    ("64 bits", "Content-Length: 18446744073709551619\r\n", "abc", Never),
    ("63 bits", "Content-Length: 9223372036854775808\r\n", "abc", Never),
    ("digits of another script", "Content-Length: \u{663}\r\n", "abc", Never),
    ("NUL after the length", "Content-Length: 3\0\r\n", "abc", Never),
    ("vertical tab", "Content-Length: \x0b3\r\n", "abc", Never),
    ("blanks around", "Content-Length: \t 3 \t\r\n", "abc", Always("abc")),
    // Length and encoding
    (
        "length and chunked",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        Lenient(""),
    ),
    (
        "chunked and length",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "1\r\na\r\n0\r\n\r\n",
        Lenient("a"),
    ),
    ("length and identity", "Content-Length: 3\r\nTransfer-Encoding: identity\r\n", "abc", Never),
    // Encodings
    ("chunked", "Transfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n", Always("a")),
    ("upper case", "TRANSFER-ENCODING: CHUNKED\r\n", "0\r\n\r\n", Always("")),
    ("gzip, chunked", "Transfer-Encoding: gzip,chunked\r\n", "0\r\n\r\n", Always("")),
    ("twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", Never),
    (
        "on two lines",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        Lenient(""),
    ),
    (
        "hidden second",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n",
        "0\r\n\r\n",
        Never,
    ),
    ("unknown", "Transfer-Encoding: cow\r\n", "0\r\n\r\n", Never),
    ("xchunked", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", Never),
    ("not last", "Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n", Never),
    ("chunked, identity", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", Never),
    ("chunked, chunked", "Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n", Never),
    ("empty element", "Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n", Never),
    ("empty", "Transfer-Encoding:\r\n", "", Never),
    ("gzip alone", "Transfer-Encoding: gzip\r\n", "abc", Never),
    ("identity", "Transfer-Encoding: identity\r\n", "abc", Never),
    ("quotes", "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n", Never),
    ("parameter", "Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n", Never),
    ("vertical tab", "Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n", Never),
    ("NUL", "Transfer-Encoding: chunked\0\r\n", "0\r\n\r\n", Never),
    ("bare CR", "Transfer-Encoding: chunked\rX: y\r\n", "0\r\n\r\n", Never),
    (
        "dotless i",
        "Transfer-Encod\u{131}ng: chunked\r\nContent-Length: 3\r\n",
        "abc",
        Lenient("abc"),
    ),
    // Names
    ("blank before the colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n", Never),
    ("tab before the colon", "Content-Length\t: 3\r\n", "abc", Never),
    ("NUL in the name", "Content\0-Length: 3\r\n", "abc", Never),
    ("blank in another name", "Fo o: 3\r\n", "", Lenient("")),
    ("no colon", "Content-Length 3\r\n", "abc", Never),
    ("no name", ": 3\r\n", "", Never),
    ("underscore", "Content_Length: 3\r\n", "", Always("")),
    // Lines
    ("bare LF", "A: b\nContent-Length: 3\r\n", "abc", Lenient("abc")),
    ("bare CR", "A: b\rContent-Length: 3\r\n", "", Never),
    ("CR CR LF", "A: b\r\r\nContent-Length: 3\r\n", "abc", Never),
    ("folded", "A: b\r\n Content-Length: 3\r\n", "", Lenient("")),
    ("folded length", "Content-Length:\r\n 3\r\n", "abc", Lenient("abc")),
    ("length over two lines", "Content-Length: 1\r\n 0\r\n", "0123456789", Never),
    ("folded encoding", "Transfer-Encoding:\r\n\tchunked\r\n", "0\r\n\r\n", Lenient("")),
    ("folded host", " b\r\n", "", Lenient("")),
    ("line of blanks", "A: b\r\n \r\nContent-Length: 3\r\n", "abc", Lenient("abc")),
    ("LF LF ends the head", "A: b\n\nGET /smuggled HTTP/1.1\r\n", "", Lenient("")),
    // Hosts
    ("two hosts", "Host: b\r\n", "", Lenient("")),
    // Chunks
    ("extension", "Transfer-Encoding: chunked\r\n", "1;a=b\r\na\r\n0;c\r\n\r\n", Always("a")),
    ("leading zeros", "Transfer-Encoding: chunked\r\n", "0001\r\na\r\n00\r\n\r\n", Always("a")),
    ("0x", "Transfer-Encoding: chunked\r\n", "0x1\r\na\r\n0\r\n\r\n", Never),
    ("sign", "Transfer-Encoding: chunked\r\n", "+1\r\na\r\n0\r\n\r\n", Never),
    ("blank before", "Transfer-Encoding: chunked\r\n", " 1\r\na\r\n0\r\n\r\n", Never),
    ("blank after", "Transfer-Encoding: chunked\r\n", "1 \r\na\r\n0\r\n\r\n", Lenient("a")),
    ("17 digits", "Transfer-Encoding: chunked\r\n", "00000000000000001\r\na\r\n0\r\n\r\n", Never),
    ("overflow", "Transfer-Encoding: chunked\r\n", "10000000000000001\r\na\r\n0\r\n\r\n", Never),
    ("LF after the size", "Transfer-Encoding: chunked\r\n", "1\na\r\n0\r\n\r\n", Never),
    ("LF in extension", "Transfer-Encoding: chunked\r\n", "1;\na\r\na\r\n0\r\n\r\n", Never),
    ("LF after the data", "Transfer-Encoding: chunked\r\n", "1\r\na\n0\r\n\r\n", Never),
    ("no line end after the data", "Transfer-Encoding: chunked\r\n", "1\r\na0\r\n\r\n", Never),
    ("other bytes after the data", "Transfer-Encoding: chunked\r\n", "1\r\naXY0\r\n\r\n", Never),
    ("LF after the last chunk", "Transfer-Encoding: chunked\r\n", "0\n\r\n", Never),
    ("LF as the end", "Transfer-Encoding: chunked\r\n", "0\r\n\n", Never),
    ("no last chunk", "Transfer-Encoding: chunked\r\n", "1\r\na\r\n", Never),
    ("trailer", "Transfer-Encoding: chunked\r\n", "0\r\nA: b\r\n\r\n", Always("")),
    (
        "length as trailer",
        "Transfer-Encoding: chunked\r\n",
        "0\r\nContent-Length: 3\r\n\r\n",
        Never,
    ),
    (
        "encoding as trailer",
        "Transfer-Encoding: chunked\r\n",
        "0\r\ntransfer-encoding: chunked\r\n\r\n",
        Never,
    ),
    ("host as trailer", "Transfer-Encoding: chunked\r\n", "0\r\nHost: b\r\n\r\n", Never),
    ("line without colon as trailer", "Transfer-Encoding: chunked\r\n", "0\r\nGET\r\n\r\n", Never),
];

/// Whole heads, with a body of three bytes after them.
const HEADS: &[(&str, &str, Expect)] = &[
    ("empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Always("")),
    ("LF before", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Lenient("")),
    ("CR before", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Never),
    ("blank in the target", "GET /a HTTP/1.1 b HTTP/1.1\r\nHost: a\r\n\r\n", Never),
    ("tabs", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", Lenient("")),
    ("version 0.9", "GET /\r\n\r\n", Never),
    ("version 1.9", "GET / HTTP/1.9\r\nHost: a\r\n\r\n", Never),
    ("version of HTTP/2", "PRI * HTTP/2.0\r\n\r\n", Never),
    ("folded first line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", Never),
    ("NUL in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Never),
    ("name and password", "GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Never),
    (
        "chunked in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Never,
    ),
    ("invalid host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Lenient("")),
    ("two hosts in one", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Lenient("")),
    ("no host", "GET / HTTP/1.1\r\n\r\n", Always("")),
    ("body after GET", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Always("abc")),
    ("CONNECT with a length", "CONNECT a:1 HTTP/1.1\r\nContent-Length: 3\r\n\r\n", Always("")),
];

const RESPONSES: &[(&str, &str, Expect)] = &[
    ("until close", "HTTP/1.1 200 OK\r\n\r\nabcNEXT", Always("abcNEXT")),
    ("length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcNEXT", Always("abc")),
    ("gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", Always("abc")),
    (
        "length and chunked",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Lenient(""),
    ),
    (
        "different lengths",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 0\r\n\r\nabc",
        Never,
    ),
    ("bad length", "HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\nabc", Never),
    ("short body", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", Never),
    ("unknown encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: cow\r\n\r\nabc", Never),
    ("encoding in 204", "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", Lenient("")),
    ("encoding in 101", "HTTP/1.1 101 S\r\nTransfer-Encoding: chunked\r\n\r\n", Lenient("")),
    (
        "chunked in HTTP/1.0",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Lenient(""),
    ),
    ("empty line before", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Lenient("")),
    ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", Lenient("abc")),
    ("bare CR", "HTTP/1.1 200 OK\r\nA: b\rContent-Length: 3\r\n\r\nabc", Never),
    ("folded", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n", Lenient("")),
    ("blank before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\nabc", Never),
    ("NUL in a value", "HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 0\r\n\r\n", Lenient("")),
    ("status of two digits", "HTTP/1.1 20 OK\r\n\r\n", Never),
    ("other protocol", "ICY 200 OK\r\n\r\n", Never),
];

#[track_caller]
fn check(name: &str, expected: Expect, read: impl Fn(bool) -> Outcome) {
    let (strict, lenient) = (read(true), read(false));
    let payload = |outcome: &Outcome| outcome.as_ref().ok().map(|(payload, _)| payload.clone());
    let expected_payloads = match expected {
        Never => (None, None),
        Lenient(text) => (None, Some(text.to_owned())),
        Always(text) => (Some(text.to_owned()), Some(text.to_owned())),
    };
    assert_eq!(
        (payload(&strict), payload(&lenient)),
        expected_payloads,
        "{name}: {strict:?}, {lenient:?}"
    );
}

/// What is forwarded of an accepted request must be read in the same way by a strict parser that has the next request
/// behind it, and must not contain what a sloppy one could take for another framing.
fn check_forwarded(name: &str, raw: &[u8], payload: &str) {
    let rules = Rules { validate: false, ..Rules::default() };
    let mut buf = BytesMut::from(raw);
    let head = HeadReader::new().request(&mut buf, &rules).unwrap().unwrap();
    let mut headers = head.headers.clone();
    settle_framing(&mut headers);
    let mut out = BytesMut::new();
    write_request_head(&mut out, &head.method, &head.target, head.version.as_bytes(), &headers);
    let head_len = out.len();
    let framing_lines = ["content-length", "transfer-encoding"]
        .map(|name| headers.get_all(name).count())
        .iter()
        .sum::<usize>();
    assert!(framing_lines <= 1, "{name}: {headers:?}");
    let count = |byte| memchr::memchr_iter(byte, &out).count();
    assert_eq!(count(b'\n'), count(b'\r'), "{name}: {out:?}");
    let framing = request_framing(&head.method, head.version, &headers, false).unwrap();
    let taken = match read_body(framing, false, &mut buf.clone()) {
        Ok((_, rest)) => buf.len() - rest.len(),
        Err(error) => panic!("{name}: {error}"),
    };
    out.extend_from_slice(&buf[..taken]);
    let again = read_request(&out, false).unwrap();
    assert_eq!(again, (payload.to_owned(), String::new()), "{name}");
    assert!(head_len <= out.len());
}

#[test]
fn requests_are_refused_or_have_one_framing() {
    for (name, headers, body, expected) in REQUESTS {
        let raw = format!("POST /x HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}");
        check(name, *expected, |validate| read_request(raw.as_bytes(), validate));
        if let Lenient(payload) | Always(payload) = expected {
            check_forwarded(name, raw.as_bytes(), payload);
        }
    }
    for (name, raw, expected) in HEADS {
        check(name, *expected, |validate| read_request(raw.as_bytes(), validate));
        if let Lenient(payload) | Always(payload) = expected {
            check_forwarded(name, raw.as_bytes(), payload);
        }
    }
}

#[test]
fn responses_are_refused_or_have_one_framing() {
    for (name, raw, expected) in RESPONSES {
        check(name, *expected, |validate| read_response(raw.as_bytes(), validate));
    }
}

#[test]
fn the_bytes_after_a_body_are_the_next_request() {
    for (headers, body) in [
        ("Content-Length: 3\r\n", "abc"),
        ("", ""),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\nA: b\r\n\r\n"),
    ] {
        let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
        let raw = format!("POST /x HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}{next}");
        assert_eq!(read_request(raw.as_bytes(), true).unwrap().1, next);
    }
}
