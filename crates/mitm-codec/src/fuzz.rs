//! The laws that hold for any input, as functions: fuzz targets and tests call them, and they panic if one is broken.

use bytes::{Bytes, BytesMut};
use mitm_flow::Headers;

use crate::{
    client_hello,
    http1::{
        BodyDecoder, BodyError, Decoded, Framing, HeadError, HeadReader, RequestHead, ResponseHead,
        Rules, request_framing, response_framing, settle_framing, write_chunk, write_last_chunk,
        write_request_head, write_response_head,
    },
};

/// Reads `data` as a request and as a response. The first byte chooses strictness and how the input is split.
///
/// - However the input is split, the result is the same.
/// - What was parsed is written so that it parses to the same.
/// - The wire form of a body is what was received, and its payload survives a new encoding.
/// - What is accepted without validation has a single framing once it is settled.
pub fn fuzz_h1(data: &[u8]) {
    let Some((&choice, input)) = data.split_first() else { return };
    let rules = Rules { validate: choice & 1 == 0, ..Rules::default() };
    let step = usize::from(choice >> 1).max(1);

    let whole = read_request(input, &rules, input.len());
    assert_eq!(whole, read_request(input, &rules, step), "request depends on the split");
    if let Some((Ok(head), rest)) = whole {
        check_request(&head, &rules, &rest, step);
    }
    let whole = read_response(input, &rules, input.len());
    assert_eq!(whole, read_response(input, &rules, step), "response depends on the split");
    if let Some((Ok(head), rest)) = whole {
        check_response(&head, &rules, &rest, step);
    }
    for framing in [Framing::Chunked, Framing::UntilClose, Framing::Length(u64::from(choice))] {
        check_body(framing, rules.validate, input, step);
    }
}

/// Reads `data` as the start of a TLS stream.
///
/// - A prefix has the same answer as the whole, or none yet.
/// - What was parsed can be written as records and read again.
pub fn fuzz_client_hello(data: &[u8]) {
    let whole = client_hello::parse(data);
    let step = data.len() / 64 + 1;
    for len in (0..data.len()).step_by(step) {
        match client_hello::parse(data.get(..len).unwrap_or_default()) {
            Ok(None) => {}
            Ok(part) => assert_eq!(Ok(part), whole, "hello found in {len} bytes and not in all"),
            Err(_) => assert!(whole.is_err(), "error in {len} bytes and not in all"),
        }
    }
    if let Ok(Some(hello)) = whole {
        assert_eq!(client_hello::parse(&hello.to_records()), Ok(Some(hello)));
    }
}

type Read<T> = Option<(Result<T, HeadError>, BytesMut)>;

/// Feeds `step` bytes at a time. Gives the head and all bytes after it.
fn read_head<T>(
    input: &[u8],
    step: usize,
    mut read: impl FnMut(&mut BytesMut) -> Result<Option<T>, HeadError>,
) -> Read<T> {
    let mut buf = BytesMut::new();
    let mut fed = 0;
    for part in input.chunks(step.max(1)) {
        buf.extend_from_slice(part);
        fed += part.len();
        match read(&mut buf) {
            Ok(None) => {}
            Ok(Some(head)) => {
                buf.extend_from_slice(input.get(fed..).unwrap_or_default());
                return Some((Ok(head), buf));
            }
            // How much is left after an error is of no interest: the connection is closed.
            Err(error) => return Some((Err(error), BytesMut::new())),
        }
    }
    None
}

fn read_request(input: &[u8], rules: &Rules, step: usize) -> Read<RequestHead> {
    let mut reader = HeadReader::new();
    read_head(input, step, |buf| reader.request(buf, rules))
}

fn read_response(input: &[u8], rules: &Rules, step: usize) -> Read<ResponseHead> {
    let mut reader = HeadReader::new();
    read_head(input, step, |buf| reader.response(buf, rules))
}

fn check_request(head: &RequestHead, rules: &Rules, rest: &[u8], step: usize) {
    let framing =
        |headers: &Headers| request_framing(&head.method, head.version, headers, rules.validate);
    let Ok(found) = framing(&head.headers) else { return };
    let mut settled = head.headers.clone();
    settle_framing(&mut settled);
    assert_eq!(framing(&settled), Ok(found));
    check_settled(&settled, rules.validate);

    let mut out = BytesMut::new();
    write_request_head(&mut out, &head.method, &head.target, head.version.as_bytes(), &settled);
    let len = out.len();
    let (again, _) = read_request(&out, rules, len).expect("a written head is complete");
    let expected = RequestHead { headers: settled, ..head.clone() };
    assert_eq!(again, Ok(expected), "written head differs");
    check_body(found, rules.validate, rest, step);
}

fn check_response(head: &ResponseHead, rules: &Rules, rest: &[u8], step: usize) {
    let framing = |headers: &Headers| {
        response_framing(b"GET", head.version, head.status, headers, rules.validate)
    };
    let Ok(found) = framing(&head.headers) else { return };
    let mut settled = head.headers.clone();
    settle_framing(&mut settled);
    assert_eq!(framing(&settled), Ok(found));

    let mut out = BytesMut::new();
    write_response_head(&mut out, head.version.as_bytes(), head.status, &head.reason, &settled);
    let len = out.len();
    let (again, _) = read_response(&out, rules, len).expect("a written head is complete");
    let expected = ResponseHead { headers: settled, ..head.clone() };
    assert_eq!(again, Ok(expected), "written head differs");
    check_body(found, rules.validate, rest, step);
}

fn check_settled(headers: &Headers, validate: bool) {
    let encodings = headers.get_all("transfer-encoding").count();
    let lengths = headers.get_all("content-length").count();
    assert!(encodings + lengths <= 1, "two framings in {headers:?}");
    if validate {
        assert!(headers.is_verbatim(), "a valid head is forwarded as it came");
    }
}

/// A body in full.
#[derive(Debug, PartialEq)]
struct Body {
    wire: Vec<u8>,
    data: Vec<u8>,
    trailers: Option<Headers>,
    error: Option<BodyError>,
    done: bool,
}

fn read_body(framing: Framing, validate: bool, input: &[u8], step: usize) -> Body {
    let mut decoder = BodyDecoder::with_validation(framing, validate);
    let mut body =
        Body { wire: Vec::new(), data: Vec::new(), trailers: None, error: None, done: false };
    let mut buf = BytesMut::new();
    let mut fed = 0;
    'parts: for part in std::iter::once(&[][..]).chain(input.chunks(step.max(1))) {
        buf.extend_from_slice(part);
        fed += part.len();
        loop {
            match decoder.decode(&mut buf) {
                Ok(Decoded::NeedMore) => break,
                Ok(Decoded::Piece(piece)) => {
                    body.wire.extend_from_slice(&piece.wire);
                    piece.data.iter().for_each(|data| body.data.extend_from_slice(data));
                }
                Ok(Decoded::End { wire, trailers }) => {
                    body.wire.extend_from_slice(&wire);
                    body.trailers = trailers;
                    break 'parts;
                }
                Err(error) => {
                    assert_eq!(decoder.decode(&mut buf), Err(error.clone()), "error goes away");
                    body.error = Some(error);
                    break 'parts;
                }
            }
        }
    }
    body.done = decoder.is_done();
    assert_eq!(decoder.received(), body.data.len() as u64);
    assert!(input.starts_with(&body.wire), "wire form is not what was received");
    // Trailers that are refused are consumed and not delivered.
    assert!(body.error.is_some() || body.wire.len() == fed - buf.len(), "bytes are lost");
    body
}

fn check_body(framing: Framing, validate: bool, input: &[u8], step: usize) {
    let body = read_body(framing, validate, input, input.len());
    assert_eq!(body, read_body(framing, validate, input, step), "body depends on the split");
    if framing != Framing::Chunked {
        assert_eq!(body.wire, body.data);
        return;
    }
    let mut out = BytesMut::new();
    for piece in body.data.chunks(step) {
        write_chunk(&mut out, piece);
    }
    write_last_chunk(&mut out, body.trailers.as_ref());
    let wire = Bytes::from(out);
    let again = read_body(framing, true, &wire, step);
    assert!(again.done && again.error.is_none(), "written body is refused: {again:?}");
    assert_eq!((again.data, again.trailers), (body.data, body.trailers));
    assert_eq!(again.wire, wire);
}
