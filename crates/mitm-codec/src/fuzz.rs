//! The laws that hold for any input, as functions: fuzz targets and tests call them, and they panic if one is broken.

use bytes::{Bytes, BytesMut};
use mitm_flow::{Headers, Opcode};

use crate::{
    client_hello,
    http1::{
        BodyDecoder, BodyError, Decoded, Framing, HeadError, HeadReader, RequestHead, ResponseHead,
        Rules, request_framing, response_framing, settle_framing, write_chunk, write_last_chunk,
        write_request_head, write_response_head,
    },
    websocket::{
        self, DeflateParams, Deflater, FrameHeader, OpCode, Options, Received, Receiver, Sender,
        Shape, write_control, write_frame,
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

/// Reads `data` as one direction of a WebSocket connection. The first two bytes choose who sent it, compression, the
/// limit, and how the input is split.
///
/// - However the input is split, the messages, control frames and the error are the same.
/// - A message that is written with the frames it had is read as the same message.
/// - A message that is compressed again has the same content.
pub fn fuzz_websocket(data: &[u8]) {
    let &[choice, step, ref input @ ..] = data else { return };
    let sender = if choice & 1 == 0 { Sender::Client } else { Sender::Server };
    let deflate = (choice & 2 != 0).then(|| DeflateParams {
        client_no_context_takeover: choice & 4 != 0,
        server_no_context_takeover: choice & 4 != 0,
        ..DeflateParams::default()
    });
    let options = Options { sender, deflate, limit: u64::from(choice >> 3) << 12 };
    let whole = read_websocket(options, input, input.len());
    let split = read_websocket(options, input, usize::from(step));
    assert_eq!(whole, split, "result depends on the split");

    let options = Options { limit: u64::MAX, ..options };
    let (mut wire, mut packed) = (BytesMut::new(), BytesMut::new());
    let mut deflater = deflate.map(|params| Deflater::new(params, sender));
    let mask = (sender == Sender::Client).then_some([step, choice, 0, 255]);
    for message in &whole.0 {
        write_as_it_was(&mut wire, message, mask);
        if let (Some(deflater), Content::Message { opcode, content, .. }) = (&mut deflater, message)
        {
            let mut payload = BytesMut::new();
            deflater.push(content, &mut payload);
            deflater.finish(&mut payload);
            let opcode = frame_opcode(*opcode);
            let header = FrameHeader { opcode, fin: true, rsv1: true };
            write_frame(&mut packed, header, &payload, mask);
        }
    }
    assert_eq!(read_websocket(options, &wire, usize::from(step)), (whole.0.clone(), None));
    let (again, error) = read_websocket(options, &packed, usize::from(step));
    assert_eq!(error, None);
    let text = |contents: &[Content]| -> Vec<_> {
        let content = |content: &Content| match content {
            Content::Message { opcode, content, .. } => Some((*opcode, content.clone())),
            Content::Control(_) => None,
        };
        contents.iter().filter_map(content).collect()
    };
    if deflate.is_some() {
        assert_eq!(text(&again), text(&whole.0), "recompressed messages differ");
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Message { opcode: Opcode, compressed: bool, content: Vec<u8>, wire: Vec<u8>, shape: Shape },
    Control(Received),
}

fn read_websocket(
    options: Options,
    input: &[u8],
    step: usize,
) -> (Vec<Content>, Option<websocket::Error>) {
    let mut receiver = Receiver::new(options);
    let mut buf = BytesMut::new();
    let mut found = Vec::new();
    let mut open = None;
    let (mut content, mut wire) = (Vec::new(), Vec::new());
    for piece in input.chunks(step.max(1)) {
        buf.extend_from_slice(piece);
        loop {
            match receiver.read(&mut buf) {
                Ok(None) => break,
                Ok(Some(Received::Start { opcode, compressed })) => {
                    assert!(open.is_none(), "message begins inside of another");
                    open = Some((opcode, compressed));
                }
                Ok(Some(Received::Data { content: more, wire: raw })) => {
                    content.extend_from_slice(&more);
                    wire.extend_from_slice(&raw);
                }
                Ok(Some(Received::End(shape))) => {
                    let (opcode, compressed) = open.take().expect("message ends that never began");
                    let (content, wire) = (std::mem::take(&mut content), std::mem::take(&mut wire));
                    assert!(content.len() as u64 <= options.limit);
                    assert!(opcode == Opcode::Binary || str::from_utf8(&content).is_ok());
                    assert_eq!(shape.content.iter().sum::<u64>(), content.len() as u64);
                    assert_eq!(shape.wire.iter().sum::<u64>(), wire.len() as u64);
                    found.push(Content::Message { opcode, compressed, content, wire, shape });
                }
                Ok(Some(control)) => found.push(Content::Control(control)),
                Err(error) => {
                    assert_eq!(receiver.read(&mut buf), Err(error.clone()), "error goes away");
                    return (found, Some(error));
                }
            }
        }
    }
    (found, None)
}

fn frame_opcode(opcode: Opcode) -> OpCode {
    match opcode {
        Opcode::Text => OpCode::Text,
        Opcode::Binary => OpCode::Binary,
    }
}

fn write_as_it_was(out: &mut BytesMut, content: &Content, mask: Option<[u8; 4]>) {
    match content {
        Content::Message { opcode, compressed, content, wire, shape } => {
            let (mut rest, lengths) =
                if *compressed { (&wire[..], &shape.wire) } else { (&content[..], &shape.content) };
            for (at, len) in lengths.iter().enumerate() {
                let (payload, next) = rest.split_at(usize::try_from(*len).unwrap_or(usize::MAX));
                rest = next;
                let header = FrameHeader {
                    opcode: if at == 0 { frame_opcode(*opcode) } else { OpCode::Continuation },
                    fin: at + 1 == lengths.len(),
                    rsv1: at == 0 && *compressed,
                };
                write_frame(out, header, payload, mask);
            }
        }
        Content::Control(Received::Ping(payload)) => {
            write_control(out, OpCode::Ping, payload, mask);
        }
        Content::Control(Received::Pong(payload)) => {
            write_control(out, OpCode::Pong, payload, mask);
        }
        Content::Control(Received::Close(close)) => {
            write_control(out, OpCode::Close, &close.payload(), mask);
        }
        Content::Control(other) => panic!("not a control frame: {other:?}"),
    }
}

/// Reads `data` as a message of SOCKS5. The first byte chooses which one and how the input is split.
///
/// - However the input is split, the result is the same, and what follows the message is left.
/// - What was read is written so that it reads the same; but for replies, it is what was received.
/// - Nothing is taken from the buffer before the message is complete.
pub fn fuzz_socks5(data: &[u8]) {
    use crate::socks5::{
        read_choice, read_greeting, read_login, read_reply, read_request, read_verdict,
        write_choice, write_greeting, write_login, write_request,
    };
    let Some((&choice, input)) = data.split_first() else { return };
    let step = usize::from(choice / 6).max(1);
    match choice % 6 {
        0 => check_socks5(input, step, read_greeting, |out, methods| write_greeting(out, methods)),
        1 => check_socks5(input, step, read_choice, |out, method| write_choice(out, *method)),
        2 => check_socks5(input, step, read_login, |out, login| {
            write_login(out, &login.name, &login.password);
        }),
        3 => check_socks5(input, step, read_request, |out, (host, port)| {
            write_request(out, host, *port);
        }),
        4 => {
            let verdict =
                read_socks5(input, input.len(), &read_verdict).map(|(verdict, _)| verdict);
            let split = read_socks5(input, step, &read_verdict).map(|(verdict, _)| verdict);
            assert_eq!(verdict, split);
        }
        _ => {
            let reply = read_socks5(input, input.len(), &read_reply).map(|(reply, _)| reply);
            let split = read_socks5(input, step, &read_reply).map(|(reply, _)| reply);
            assert_eq!(reply, split);
        }
    }
}

type Socks5<T> = Option<(Result<T, crate::socks5::Socks5Error>, usize)>;

/// Feeds `step` bytes at a time. Gives the message and how many bytes it had.
fn read_socks5<T>(
    input: &[u8],
    step: usize,
    read: &impl Fn(&mut BytesMut) -> crate::socks5::Read<T>,
) -> Socks5<T> {
    let mut buf = BytesMut::new();
    let mut fed = 0;
    for part in input.chunks(step.max(1)) {
        buf.extend_from_slice(part);
        fed += part.len();
        match read(&mut buf) {
            Ok(Some(message)) => return Some((Ok(message), fed - buf.len())),
            Ok(None) => assert_eq!(buf.len(), fed, "bytes are lost"),
            Err(error) => return Some((Err(error), 0)),
        }
    }
    None
}

fn check_socks5<T: PartialEq + std::fmt::Debug>(
    input: &[u8],
    step: usize,
    read: impl Fn(&mut BytesMut) -> crate::socks5::Read<T>,
    write: impl Fn(&mut BytesMut, &T),
) {
    let whole = read_socks5(input, input.len(), &read);
    assert_eq!(whole, read_socks5(input, step, &read), "message depends on the split");
    if let Some((Ok(message), len)) = whole {
        let mut out = BytesMut::new();
        write(&mut out, &message);
        assert_eq!(Some(&out[..]), input.get(..len), "written message differs");
    }
}
