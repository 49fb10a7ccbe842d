//! [`Receiver`]: from frames to messages.

use bytes::{Buf, Bytes, BytesMut};
use mitm_flow::Opcode;
use smallvec::SmallVec;

use super::{
    Close, DeflateParams, Error, OpCode, Sender,
    deflate::Inflater,
    frame::{FrameHeader, FrameReader, Part},
    utf8::Utf8,
};

/// The lengths of so many frames of a message are remembered; the rest counts as one frame.
pub const MAX_FRAGMENTS: usize = 16 << 10;

/// Lengths of payloads, one per frame.
pub type Lengths = SmallVec<[u64; 2]>;

/// How a direction is read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub sender: Sender,
    /// Set if both ends agreed on compression.
    pub deflate: Option<DeflateParams>,
    /// A message has no more bytes than this, decompressed.
    pub limit: u64,
}

/// What was received. A message is one [`Start`](Self::Start), any number of [`Data`](Self::Data) and one
/// [`End`](Self::End); control frames may come in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Start {
        opcode: Opcode,
        compressed: bool,
    },
    /// A piece of the message, and for a compressed one the bytes of the wire it is made of, so far as they are new.
    Data {
        content: Bytes,
        wire: Bytes,
    },
    End(Shape),
    Ping(Bytes),
    Pong(Bytes),
    /// Nothing comes after it.
    Close(Close),
}

/// How a message was parted into frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The length of the content of each frame. For a compressed message that is what the frame made known, which may
    /// be less than what was put into it.
    pub content: Lengths,
    /// The length of each frame's payload, for a compressed message.
    pub wire: Lengths,
}

/// Reads the frames of one direction.
#[derive(Debug)]
pub struct Receiver {
    frames: FrameReader,
    inflater: Option<Inflater>,
    limit: u64,
    message: Option<Open>,
    closed: bool,
    failed: Option<Error>,
}

/// A message that has begun.
#[derive(Debug)]
struct Open {
    compressed: bool,
    /// Set for text.
    utf8: Option<Utf8>,
    /// The present frame is the last one.
    fin: bool,
    content: Counter,
    wire: Counter,
    rest: Rest,
}

/// What is to be told before more is read.
#[derive(Debug)]
enum Rest {
    Nothing,
    Compressed(Inflating),
    End,
}

/// Compressed bytes on their way.
#[derive(Debug)]
struct Inflating {
    input: Bytes,
    /// What goes out with the next piece.
    wire: Bytes,
    ends_frame: bool,
    /// What the message left out at its end was added.
    has_tail: bool,
}

#[derive(Debug, Default)]
struct Counter {
    total: u64,
    frame: u64,
    frames: Lengths,
}

impl Counter {
    fn add(&mut self, len: usize) {
        self.total += len as u64;
        self.frame += len as u64;
    }

    fn end_frame(&mut self) {
        let len = std::mem::take(&mut self.frame);
        if self.frames.len() < MAX_FRAGMENTS {
            self.frames.push(len);
        } else if let Some(last) = self.frames.last_mut() {
            *last += len;
        }
    }
}

impl Receiver {
    pub fn new(options: Options) -> Self {
        Self {
            frames: FrameReader::new(options.sender),
            inflater: options.deflate.map(|params| Inflater::new(params, options.sender)),
            limit: options.limit,
            message: None,
            closed: false,
            failed: None,
        }
    }

    /// True if the connection may end here without cutting a message.
    pub fn is_between_messages(&self) -> bool {
        self.message.is_none()
    }

    /// Takes the next event from the front of the buffer; `None` if more bytes are needed, or after a close.
    ///
    /// # Errors
    /// The connection must be failed. The error stays.
    pub fn read(&mut self, buf: &mut BytesMut) -> Result<Option<Received>, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.next(buf);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Received>, Error> {
        loop {
            if self.closed {
                return Ok(None);
            }
            if let Some(open) = &self.message {
                let received = match open.rest {
                    Rest::Nothing => None,
                    Rest::Compressed(_) => Some(self.inflate()?),
                    Rest::End => Some(Some(self.end_message()?)),
                };
                match received {
                    Some(Some(received)) => return Ok(Some(received)),
                    Some(None) => continue,
                    None => {}
                }
            }
            let Some(part) = self.frames.read(buf)? else { return Ok(None) };
            let received = match part {
                Part::Control(opcode, payload) => Some(self.control(opcode, payload)?),
                Part::Header(header, len) => self.header(header, len)?,
                Part::Payload { data, ends } => self.payload(data.freeze(), ends)?,
            };
            if received.is_some() {
                return Ok(received);
            }
        }
    }

    fn control(&mut self, opcode: OpCode, payload: Bytes) -> Result<Received, Error> {
        Ok(match opcode {
            OpCode::Ping => Received::Ping(payload),
            OpCode::Pong => Received::Pong(payload),
            _ => {
                let close = Close::parse(&payload)?;
                self.closed = true;
                Received::Close(close)
            }
        })
    }

    fn header(&mut self, header: FrameHeader, len: u64) -> Result<Option<Received>, Error> {
        let opcode = match header.opcode {
            OpCode::Text => Some(Opcode::Text),
            OpCode::Binary => Some(Opcode::Binary),
            _ => None,
        };
        match (&opcode, &self.message) {
            (Some(_), Some(_)) => {
                return Err(Error::protocol("message inside of another message"));
            }
            (None, None) => return Err(Error::protocol("continuation of no message")),
            _ => {}
        }
        if header.rsv1 && self.inflater.is_none() {
            return Err(Error::protocol("reserved bits are set"));
        }
        let limit = self.limit;
        let open = self.message.get_or_insert_with(|| Open {
            compressed: header.rsv1,
            utf8: (opcode == Some(Opcode::Text)).then(Utf8::default),
            fin: false,
            content: Counter::default(),
            wire: Counter::default(),
            rest: Rest::Nothing,
        });
        open.fin = header.fin;
        // What cannot be compressed grows a little; beyond that, wire without content is not wanted either.
        let (counter, allowed) = if open.compressed {
            (&open.wire, limit.saturating_add(limit / 8 + 1024))
        } else {
            (&open.content, limit)
        };
        if counter.total.saturating_add(len) > allowed {
            return Err(Error::too_big(limit));
        }
        Ok(opcode.map(|opcode| Received::Start { opcode, compressed: header.rsv1 }))
    }

    fn payload(&mut self, data: Bytes, ends: bool) -> Result<Option<Received>, Error> {
        let Some(open) = &mut self.message else { return Ok(None) };
        if open.compressed {
            open.wire.add(data.len());
            open.rest = Rest::Compressed(Inflating {
                input: data.clone(),
                wire: data,
                ends_frame: ends,
                has_tail: false,
            });
            return Ok(None);
        }
        if let Some(utf8) = &mut open.utf8 {
            utf8.push(&data)?;
        }
        open.content.add(data.len());
        if ends {
            open.content.end_frame();
            if open.fin {
                open.rest = Rest::End;
            }
        }
        Ok((!data.is_empty()).then(|| Received::Data { content: data, wire: Bytes::new() }))
    }

    /// Goes on with what is being decompressed.
    fn inflate(&mut self) -> Result<Option<Received>, Error> {
        let (Some(open), Some(inflater)) = (&mut self.message, &mut self.inflater) else {
            return Ok(None);
        };
        let Rest::Compressed(now) = &mut open.rest else { return Ok(None) };
        let step = inflater.inflate(&now.input)?;
        now.input.advance(step.consumed);
        let wire = std::mem::take(&mut now.wire);
        // Of what is too large, only what is not is looked at: so the error is the same however it arrives.
        let allowed = self.limit.saturating_sub(open.content.total);
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        if let Some(utf8) = &mut open.utf8 {
            utf8.push(step.output.get(..allowed).unwrap_or(&step.output))?;
        }
        open.content.add(step.output.len());
        if open.content.total > self.limit {
            return Err(Error::too_big(self.limit));
        }
        if step.is_drained && now.ends_frame && open.fin && !now.has_tail {
            now.has_tail = true;
            now.input = inflater.tail();
        } else if step.is_drained {
            let ends_frame = now.ends_frame;
            open.rest = Rest::Nothing;
            if ends_frame {
                open.content.end_frame();
                open.wire.end_frame();
            }
            if ends_frame && open.fin {
                inflater.end_message();
                open.rest = Rest::End;
            }
        }
        let is_empty = step.output.is_empty() && wire.is_empty();
        Ok((!is_empty).then_some(Received::Data { content: step.output, wire }))
    }

    fn end_message(&mut self) -> Result<Received, Error> {
        let Some(mut open) = self.message.take() else {
            return Ok(Received::End(Shape::default()));
        };
        if let Some(utf8) = &mut open.utf8 {
            utf8.finish()?;
        }
        Ok(Received::End(Shape { content: open.content.frames, wire: open.wire.frames }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::{Deflater, write_control, write_frame};

    const MASK: Option<[u8; 4]> = Some([9, 8, 7, 6]);

    fn options(deflate: bool, limit: u64) -> Options {
        let deflate = deflate.then(DeflateParams::default);
        Options { sender: Sender::Client, deflate, limit }
    }

    fn frame(out: &mut BytesMut, opcode: OpCode, fin: bool, rsv1: bool, payload: &[u8]) {
        write_frame(out, FrameHeader { opcode, fin, rsv1 }, payload, MASK);
    }

    fn read(options: Options, input: &[u8], step: usize) -> (Vec<Received>, Option<Error>) {
        let mut receiver = Receiver::new(options);
        let (mut buf, mut events) = (BytesMut::new(), Vec::new());
        for piece in input.chunks(step) {
            buf.extend_from_slice(piece);
            loop {
                match receiver.read(&mut buf) {
                    Ok(None) => break,
                    Ok(Some(event)) => events.push(event),
                    Err(error) => return (events, Some(error)),
                }
            }
        }
        (events, None)
    }

    fn error(options: Options, input: &[u8]) -> Error {
        let error = read(options, input, 1).1.unwrap();
        assert_eq!(read(options, input, input.len()).1.as_ref(), Some(&error));
        error
    }

    #[test]
    fn fragments_are_joined_and_control_frames_come_between() {
        let mut wire = BytesMut::new();
        frame(&mut wire, OpCode::Text, false, false, b"He");
        frame(&mut wire, OpCode::Continuation, false, false, b"");
        write_control(&mut wire, OpCode::Ping, b"p", MASK);
        frame(&mut wire, OpCode::Continuation, true, false, b"llo");
        write_control(&mut wire, OpCode::Close, b"\x03\xe8bye", MASK);
        wire.extend_from_slice(b"whatever");
        let data = |text: &'static str| Received::Data { content: text.into(), wire: Bytes::new() };
        assert_eq!(
            read(options(false, 100), &wire, wire.len()),
            (
                vec![
                    Received::Start { opcode: Opcode::Text, compressed: false },
                    data("He"),
                    Received::Ping("p".into()),
                    data("llo"),
                    Received::End(Shape {
                        content: [2, 0, 3].into_iter().collect(),
                        wire: Lengths::new()
                    }),
                    Received::Close(Close::new(1000, "bye")),
                ],
                None
            )
        );
    }

    #[test]
    fn compressed_messages_are_told_with_their_wire_form() {
        let mut deflater = Deflater::new(DeflateParams::default(), Sender::Client);
        let mut wire = BytesMut::new();
        let mut payloads = Vec::new();
        for _ in 0..2 {
            let mut payload = BytesMut::new();
            deflater.push(b"hello hello hello hello", &mut payload);
            deflater.finish(&mut payload);
            frame(&mut wire, OpCode::Binary, false, true, &payload[..3]);
            frame(&mut wire, OpCode::Continuation, true, false, &payload[3..]);
            payloads.push(payload);
        }
        for step in [1, 5, wire.len()] {
            let (events, error) = read(options(true, 23), &wire, step);
            assert_eq!(error, None);
            let mut found = Vec::new();
            let (mut content, mut raw) = (BytesMut::new(), BytesMut::new());
            for event in events {
                match event {
                    Received::Start { compressed, .. } => assert!(compressed),
                    Received::Data { content: more, wire } => {
                        content.extend_from_slice(&more);
                        raw.extend_from_slice(&wire);
                    }
                    Received::End(shape) => {
                        assert_eq!(shape.content.iter().sum::<u64>(), 23);
                        assert_eq!(shape.wire[..], [3, raw.len() as u64 - 3]);
                        assert_eq!(content.split(), "hello hello hello hello");
                        found.push(raw.split());
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(found, payloads);
        }
        assert_eq!(error(options(true, 22), &wire).code, 1009);
    }

    #[test]
    fn bombs_end_at_the_limit() {
        let mut deflater = Deflater::new(DeflateParams::default(), Sender::Client);
        let (mut payload, zeros) = (BytesMut::new(), vec![0; 100_000]);
        for _ in 0..100 {
            deflater.push(&zeros, &mut payload);
        }
        deflater.finish(&mut payload);
        let mut wire = BytesMut::new();
        frame(&mut wire, OpCode::Binary, true, true, &payload);
        let (events, error) = read(options(true, 1_000_000), &wire, wire.len());
        assert_eq!(error.unwrap().code, 1009);
        assert!(events.len() < 100);

        // Empty blocks without end have no content; their wire form is limited too.
        let mut wire = BytesMut::new();
        frame(&mut wire, OpCode::Binary, false, true, &b"\0\0\0\xff\xff".repeat(100));
        for _ in 0..10 {
            frame(&mut wire, OpCode::Continuation, false, false, &b"\0\0\0\xff\xff".repeat(100));
        }
        assert_eq!(read(options(true, 100), &wire, wire.len()).1.unwrap().code, 1009);
    }

    #[test]
    fn what_is_refused() {
        let one = |opcode, fin, rsv1, payload: &[u8]| {
            let mut wire = BytesMut::new();
            frame(&mut wire, opcode, fin, rsv1, payload);
            wire
        };
        let plain = options(false, 4);
        let text = one(OpCode::Text, false, false, b"x");
        assert_eq!(error(plain, &one(OpCode::Continuation, true, false, b"")).code, 1002);
        assert_eq!(error(plain, &[&text[..], &text[..]].concat()).code, 1002);
        assert_eq!(error(plain, &one(OpCode::Text, true, true, b"")).code, 1002);
        assert_eq!(error(plain, &one(OpCode::Binary, true, false, b"12345")).code, 1009);
        assert_eq!(error(plain, &one(OpCode::Text, true, false, b"a\xff")).code, 1007);
        assert_eq!(error(plain, &one(OpCode::Text, false, false, b"a\xff")).code, 1007);
        assert_eq!(error(plain, &one(OpCode::Text, true, false, b"a\xc3")).code, 1007);
        assert_eq!(error(plain, &one(OpCode::Close, true, false, b"\x03")).code, 1002);
        assert_eq!(
            error(options(true, 9), &one(OpCode::Binary, true, true, b"\xff\xff")).code,
            1007
        );
        let mut receiver = Receiver::new(plain);
        let mut buf = one(OpCode::Continuation, true, false, b"");
        let first = receiver.read(&mut buf).unwrap_err();
        assert_eq!(receiver.read(&mut one(OpCode::Ping, true, false, b"")), Err(first));
    }

    #[test]
    fn remembered_fragments_are_limited() {
        let mut wire = BytesMut::new();
        frame(&mut wire, OpCode::Binary, false, false, b"");
        for _ in 0..MAX_FRAGMENTS + 10 {
            frame(&mut wire, OpCode::Continuation, false, false, b"x");
        }
        frame(&mut wire, OpCode::Continuation, true, false, b"");
        let (events, error) = read(options(false, u64::MAX), &wire, wire.len());
        assert_eq!(error, None);
        let Some(Received::End(shape)) = events.last() else { panic!("{:?}", events.last()) };
        assert_eq!(shape.content.len(), MAX_FRAGMENTS);
        assert_eq!(shape.content.iter().sum::<u64>(), MAX_FRAGMENTS as u64 + 10);
    }
}
