//! Frames (RFC 6455 §5.2): reading them as they arrive, and writing them.
//!
//! ```text
//!              header complete                    all of the payload was there
//! ┌──────────┐ ───────────────► ┌─────────────┐ ───────────────────┐
//! │ Expect-  │   data frame     │ InPayload   │                    │
//! │ Header   │ ◄─────────────── └─────────────┘ ◄── some of it ──┐ │
//! └──────────┘   end of payload        └──────────────────────────┘ │
//!   ▲      │ control frame, once it is complete                      │
//!   └──────┴─────────────────────────────────────────────────────────┘
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Error, Sender};

/// The payload of a control frame is no longer than this.
pub const MAX_CONTROL_BYTES: usize = 125;
/// No header is longer.
pub const MAX_HEADER_BYTES: usize = 14;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpCode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl OpCode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// What the header of a frame says, but for its length and mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub opcode: OpCode,
    /// The last frame of its message.
    pub fin: bool,
    /// The first reserved bit: the message is compressed.
    pub rsv1: bool,
}

/// A part of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A data frame begins; its payload has this many bytes.
    Header(FrameHeader, u64),
    /// Some payload of the data frame, unmasked. The one that ends the frame may be empty.
    Payload { data: BytesMut, ends: bool },
    /// A whole control frame.
    Control(OpCode, Bytes),
}

/// Takes frames from the front of a buffer.
#[derive(Debug)]
pub(super) struct FrameReader {
    sender: Sender,
    state: State,
}

#[derive(Debug)]
enum State {
    ExpectHeader,
    InPayload { left: u64, mask: Option<[u8; 4]> },
}

impl FrameReader {
    pub(super) fn new(sender: Sender) -> Self {
        Self { sender, state: State::ExpectHeader }
    }

    /// Returns the next part, `None` if more bytes are needed.
    pub(super) fn read(&mut self, buf: &mut BytesMut) -> Result<Option<Part>, Error> {
        let State::InPayload { left, mask } = &mut self.state else { return self.header(buf) };
        let len = usize::try_from(*left).map_or(buf.len(), |left| left.min(buf.len()));
        if len == 0 && *left > 0 {
            return Ok(None);
        }
        let mut data = buf.split_to(len);
        if let Some(key) = mask {
            apply_mask(&mut data, *key);
            key.rotate_left(len % 4);
        }
        *left -= len as u64;
        let ends = *left == 0;
        if ends {
            self.state = State::ExpectHeader;
        }
        Ok(Some(Part::Payload { data, ends }))
    }

    fn header(&mut self, buf: &mut BytesMut) -> Result<Option<Part>, Error> {
        let &[first, second, ref rest @ ..] = &buf[..] else {
            return self.check_early(buf).map(|()| None);
        };
        let header = parse_first(first)?;
        let masked = second & 0x80 != 0;
        match (self.sender, masked) {
            (Sender::Client, false) => {
                return Err(Error::protocol("frame of a client without mask"));
            }
            (Sender::Server, true) => return Err(Error::protocol("masked frame of a server")),
            (Sender::Client, true) | (Sender::Server, false) => {}
        }
        let short = second & 0x7f;
        if header.opcode.is_control() && usize::from(short) > MAX_CONTROL_BYTES {
            return Err(Error::protocol("control frame with too long a payload"));
        }
        let (len, len_bytes) = match short {
            126 => {
                let Some(len) = rest.first_chunk() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*len)), 2)
            }
            127 => {
                let Some(len) = rest.first_chunk() else { return Ok(None) };
                (u64::from_be_bytes(*len), 8)
            }
            len => (u64::from(len), 0),
        };
        if len >> 63 != 0 {
            return Err(Error::protocol("frame length with its highest bit set"));
        }
        let mask_at = rest.get(len_bytes..).unwrap_or_default();
        let mask = match (masked, mask_at.first_chunk::<4>()) {
            (true, None) => return Ok(None),
            (true, key) => key.copied(),
            (false, _) => None,
        };
        let header_len = 2 + len_bytes + if masked { 4 } else { 0 };
        if !header.opcode.is_control() {
            buf.advance(header_len);
            self.state = State::InPayload { left: len, mask };
            return Ok(Some(Part::Header(header, len)));
        }
        let total = header_len + usize::from(short);
        if buf.len() < total {
            return Ok(None);
        }
        let mut payload = buf.split_to(total).split_off(header_len);
        if let Some(key) = mask {
            apply_mask(&mut payload, key);
        }
        Ok(Some(Part::Control(header.opcode, payload.freeze())))
    }

    /// What is wrong with the first byte is wrong before the second one is there.
    #[expect(clippy::unused_self, reason = "belongs to the states")]
    fn check_early(&self, buf: &[u8]) -> Result<(), Error> {
        buf.first().map_or(Ok(()), |&first| parse_first(first).map(|_| ()))
    }
}

fn parse_first(byte: u8) -> Result<FrameHeader, Error> {
    let Some(opcode) = OpCode::from_bits(byte & 0x0f) else {
        return Err(Error::protocol(format!("unknown opcode {:#x}", byte & 0x0f)));
    };
    let header = FrameHeader { opcode, fin: byte & 0x80 != 0, rsv1: byte & 0x40 != 0 };
    if byte & 0x30 != 0 {
        return Err(Error::protocol("reserved bits are set"));
    }
    if opcode.is_control() && !header.fin {
        return Err(Error::protocol("fragmented control frame"));
    }
    if header.rsv1 && (opcode.is_control() || opcode == OpCode::Continuation) {
        return Err(Error::protocol("reserved bits are set"));
    }
    Ok(header)
}

/// Masks or unmasks in place (RFC 6455 §5.3): the same either way. Later parts of the same payload need the key
/// rotated left by the length of what went before.
pub fn apply_mask(data: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let long = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = data.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ long).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

/// Appends the header of a frame whose payload has `len` bytes, in its shortest form. The payload has to
/// follow, masked if there is a key.
pub fn write_header(out: &mut BytesMut, header: FrameHeader, len: u64, mask: Option<[u8; 4]>) {
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    out.put_u8(bit(header.fin, 0x80) | bit(header.rsv1, 0x40) | header.opcode as u8);
    let masked = bit(mask.is_some(), 0x80);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..126), _) => out.put_u8(masked | len),
        (_, Ok(len)) => {
            out.put_u8(masked | 0x7e);
            out.put_u16(len);
        }
        _ => {
            out.put_u8(masked | 0x7f);
            out.put_u64(len);
        }
    }
    if let Some(key) = mask {
        out.put_slice(&key);
    }
}

/// Appends a whole frame.
pub fn write_frame(out: &mut BytesMut, header: FrameHeader, payload: &[u8], mask: Option<[u8; 4]>) {
    out.reserve(MAX_HEADER_BYTES + payload.len());
    write_header(out, header, payload.len() as u64, mask);
    let at = out.len();
    out.put_slice(payload);
    if let (Some(key), Some(payload)) = (mask, out.get_mut(at..)) {
        apply_mask(payload, key);
    }
}

/// Appends a control frame. What is beyond [`MAX_CONTROL_BYTES`] of the payload is left out.
pub fn write_control(out: &mut BytesMut, opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) {
    let payload = payload.get(..MAX_CONTROL_BYTES).unwrap_or(payload);
    write_frame(out, FrameHeader { opcode, fin: true, rsv1: false }, payload, mask);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(sender: Sender, input: &[u8], step: usize) -> Result<Vec<Part>, Error> {
        let mut reader = FrameReader::new(sender);
        let mut buf = BytesMut::new();
        let mut parts = Vec::new();
        for piece in input.chunks(step) {
            buf.extend_from_slice(piece);
            while let Some(part) = reader.read(&mut buf)? {
                parts.push(part);
            }
        }
        Ok(parts)
    }

    fn error(sender: Sender, input: &[u8]) -> (u16, String) {
        let error = read_all(sender, input, 1).unwrap_err();
        assert_eq!(read_all(sender, input, input.len()), Err(error.clone()));
        (error.code, error.reason.into_owned())
    }

    const TEXT: FrameHeader = FrameHeader { opcode: OpCode::Text, fin: true, rsv1: false };

    #[test]
    fn the_examples_of_the_rfc() {
        let hello = |sender, input| read_all(sender, input, 100).unwrap();
        let expected =
            [Part::Header(TEXT, 5), Part::Payload { data: b"Hello"[..].into(), ends: true }];
        assert_eq!(hello(Sender::Server, b"\x81\x05Hello"), expected);
        let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        assert_eq!(hello(Sender::Client, masked), expected);
        let mut out = BytesMut::new();
        write_frame(&mut out, TEXT, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d]));
        assert_eq!(&out[..], masked);
        let ping = hello(Sender::Server, b"\x89\x05Hello");
        assert_eq!(ping, [Part::Control(OpCode::Ping, "Hello".into())]);
    }

    #[test]
    fn lengths_in_all_forms() {
        for len in [0usize, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            for mask in [None, Some([1, 2, 3, 250])] {
                let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
                let mut out = BytesMut::new();
                write_frame(&mut out, TEXT, &payload, mask);
                let sender = if mask.is_some() { Sender::Client } else { Sender::Server };
                for step in [1, 7, out.len()] {
                    let mut parts = read_all(sender, &out, step).unwrap().into_iter();
                    assert_eq!(parts.next(), Some(Part::Header(TEXT, len as u64)));
                    let mut found = BytesMut::new();
                    for part in parts {
                        let Part::Payload { data, .. } = part else { panic!("{part:?}") };
                        found.unsplit(data);
                    }
                    assert_eq!(found, payload);
                }
            }
        }
        // Longer than need be is allowed.
        assert!(read_all(Sender::Server, b"\x82\x7f\0\0\0\0\0\0\0\x01x", 1).is_ok());
    }

    #[test]
    fn what_is_refused() {
        let server = |input: &[u8]| error(Sender::Server, input);
        assert_eq!(server(b"\x83\0"), (1002, "unknown opcode 0x3".into()));
        assert_eq!(server(b"\x8f\0"), (1002, "unknown opcode 0xf".into()));
        assert_eq!(server(b"\xa1\0"), (1002, "reserved bits are set".into()));
        assert_eq!(server(b"\x91\0"), (1002, "reserved bits are set".into()));
        assert_eq!(server(b"\xc9\0"), (1002, "reserved bits are set".into()));
        assert_eq!(server(b"\xc0\0"), (1002, "reserved bits are set".into()));
        assert_eq!(server(b"\x09\0"), (1002, "fragmented control frame".into()));
        assert_eq!(
            server(b"\x89\x7e\0\x7e"),
            (1002, "control frame with too long a payload".into())
        );
        assert_eq!(server(b"\x81\x80abcd"), (1002, "masked frame of a server".into()));
        assert_eq!(
            error(Sender::Client, b"\x81\0"),
            (1002, "frame of a client without mask".into())
        );
        assert_eq!(
            server(b"\x81\x7f\x80\0\0\0\0\0\0\0"),
            (1002, "frame length with its highest bit set".into())
        );
    }
}
