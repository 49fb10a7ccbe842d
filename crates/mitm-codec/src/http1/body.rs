//! Bodies: from the bytes of a buffer to pieces that have both their wire form and their payload.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use mitm_flow::Headers;
use smallvec::SmallVec;

use super::{
    Framing, HeadError, Limits,
    framing::is_disguised,
    has_control,
    head::{head_parts, shown},
    is_token,
    lines::{Leading, LineScan},
    trim_ows,
};
use crate::repr::Repr;

/// How long the line with the size and the extensions of one chunk may be.
pub const MAX_CHUNK_LINE_BYTES: usize = 4096;

/// What [`BodyDecoder::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Nothing, before more bytes are appended to the buffer.
    NeedMore,
    Piece(Piece),
    /// The end of the body.
    End {
        /// The last chunk, the trailers and the empty line as received; empty with other framings.
        wire: Bytes,
        /// `None` if there were none.
        trailers: Option<Headers>,
    },
}

/// Part of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What was received: sizes and extensions of chunks as well as data.
    pub wire: Bytes,
    /// The payload, as slices of `wire`; none if nothing but framing arrived.
    pub data: SmallVec<[Bytes; 2]>,
}

impl Piece {
    /// Returns the number of payload bytes.
    pub fn data_len(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }
}

/// Why a body can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// No size of 1 to 16 hexadecimal digits, or a control character in the extensions.
    #[error("invalid chunk size: {}", Repr(line))]
    ChunkSize { line: Bytes },
    #[error("chunk size line longer than {limit} bytes")]
    ChunkLineTooLong { limit: usize },
    /// Other bytes where the line end after the data of a chunk belongs.
    #[error("chunk is longer than its size says: expected a line end, got {}", Repr(found))]
    ChunkEnd { found: Bytes },
    #[error("invalid trailers: {0}")]
    Trailers(HeadError),
    /// No token, or a header that would change framing, routing or the connection after the fact.
    #[error("header not allowed as trailer: {}", Repr(name))]
    ForbiddenTrailer { name: Bytes },
    /// The peer closed before the end.
    #[error(
        "connection closed before the body was complete: received {received} bytes{}",
        expected.map_or_else(String::new, |expected| format!(", expected {expected}"))
    )]
    Incomplete {
        /// Payload bytes.
        received: u64,
        /// `None` if the body is chunked.
        expected: Option<u64>,
    },
}

/// Takes a body from the front of a buffer to which bytes are appended as they arrive.
///
/// ```text
///  Length ──all bytes──▶ Done ◀──closed── UntilClose
///  Size ──size──▶ Data ──all bytes──▶ DataEnd ──CRLF──▶ Size
///  Size ──size 0, left in the buffer──▶ Trailers ──empty line──▶ Done
/// ```
///
/// One call takes all that is complete, over chunk borders, in one piece. Lines that are not complete stay in the
/// buffer, so between two calls bytes may only be appended. An error repeats until the buffer is thrown away; what
/// came before it was delivered.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    /// Payload bytes delivered.
    received: u64,
    validate: bool,
}

#[derive(Clone, Debug)]
enum State {
    Length {
        total: u64,
    },
    UntilClose,
    /// Before a size line, in which there is no LF up to `searched`.
    Size {
        searched: usize,
    },
    Data {
        left: u64,
    },
    DataEnd,
    /// The last chunk and the trailers look like a head with `0` as its first line.
    Trailers(LineScan),
    Done,
}

impl BodyDecoder {
    pub fn new(framing: Framing) -> Self {
        Self::with_validation(framing, true)
    }

    /// Without `validate`, blanks after a chunk size are accepted: some old servers pad with them, and all who
    /// read such a line see the same number.
    pub fn with_validation(framing: Framing, validate: bool) -> Self {
        let state = match framing {
            Framing::Length(total) => State::Length { total },
            Framing::Chunked => State::Size { searched: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, received: 0, validate }
    }

    /// Consumes as much of `buf` as belongs to the body and is complete. After the end it answers
    /// [`Decoded::End`] again and consumes nothing.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        match &self.state {
            State::Length { total } => {
                let left = total.saturating_sub(self.received);
                if left == 0 {
                    return Ok(self.end());
                }
                let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
                Ok(self.raw_piece(buf, len))
            }
            State::UntilClose => {
                let len = buf.len();
                Ok(self.raw_piece(buf, len))
            }
            State::Done => Ok(self.end()),
            State::Size { .. } | State::Data { .. } | State::DataEnd | State::Trailers(_) => {
                self.decode_chunks(buf)
            }
        }
    }

    /// The peer has closed, and all it sent went through [`decode`](Self::decode): the regular end of
    /// [`Framing::UntilClose`].
    pub fn finish(&mut self) -> Result<(), BodyError> {
        let expected = match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                return Ok(());
            }
            State::Length { total } if total == self.received => {
                self.state = State::Done;
                return Ok(());
            }
            State::Length { total } => Some(total),
            _ => None,
        };
        Err(BodyError::Incomplete { received: self.received, expected })
    }

    /// True once [`Decoded::End`] was delivered, or [`finish`](Self::finish) went well.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Returns the number of payload bytes delivered so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    fn end(&mut self) -> Decoded {
        self.state = State::Done;
        Decoded::End { wire: Bytes::new(), trailers: None }
    }

    fn raw_piece(&mut self, buf: &mut BytesMut, len: usize) -> Decoded {
        if len == 0 {
            return Decoded::NeedMore;
        }
        let wire = buf.split_to(len).freeze();
        self.received += wire.len() as u64;
        Decoded::Piece(Piece { data: SmallVec::from_iter([wire.clone()]), wire })
    }

    fn decode_chunks(&mut self, buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        let mut taken = 0;
        let mut data: SmallVec<[Range<usize>; 4]> = SmallVec::new();
        let error = loop {
            let rest = buf.get(taken..).unwrap_or_default();
            match &mut self.state {
                State::Size { searched } => {
                    let Some(found) = memchr(b'\n', rest.get(*searched..).unwrap_or_default())
                    else {
                        *searched = rest.len();
                        if rest.len() > MAX_CHUNK_LINE_BYTES {
                            break Some(BodyError::ChunkLineTooLong {
                                limit: MAX_CHUNK_LINE_BYTES,
                            });
                        }
                        break None;
                    };
                    let len = *searched + found + 1;
                    if len > MAX_CHUNK_LINE_BYTES {
                        break Some(BodyError::ChunkLineTooLong { limit: MAX_CHUNK_LINE_BYTES });
                    }
                    let line = rest.get(..len).unwrap_or_default();
                    match parse_size_line(line, self.validate) {
                        None => break Some(BodyError::ChunkSize { line: shown(line) }),
                        // What precedes the last chunk is delivered first.
                        Some(0) if taken > 0 => break None,
                        Some(0) => self.state = State::Trailers(LineScan::default()),
                        Some(size) => {
                            taken += len;
                            self.state = State::Data { left: size };
                        }
                    }
                }
                State::Data { left } => {
                    let len = usize::try_from(*left).map_or(rest.len(), |n| n.min(rest.len()));
                    if len == 0 {
                        break None;
                    }
                    data.push(taken..taken + len);
                    taken += len;
                    self.received = self.received.saturating_add(len as u64);
                    *left -= len as u64;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                }
                State::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        taken += 2;
                        self.state = State::Size { searched: 0 };
                    }
                    [] | [b'\r'] => break None,
                    _ => {
                        let found = rest.get(..2).unwrap_or(rest);
                        break Some(BodyError::ChunkEnd { found: shown(found) });
                    }
                },
                State::Trailers(_) => return self.decode_trailers(buf),
                State::Length { .. } | State::UntilClose | State::Done => return Ok(self.end()),
            }
        };
        if taken == 0 {
            return error.map_or(Ok(Decoded::NeedMore), Err);
        }
        let wire = buf.split_to(taken).freeze();
        let data = data.into_iter().map(|range| wire.slice(range)).collect();
        Ok(Decoded::Piece(Piece { wire, data }))
    }

    fn decode_trailers(&mut self, buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        let State::Trailers(scan) = &mut self.state else { return Ok(Decoded::NeedMore) };
        // Folding and bare LF are refused here in any case: nobody needs them, and the wire form is forwarded.
        let found = scan.find(buf, Limits::default(), true, Leading::Keep);
        let Some(block) = found.map_err(BodyError::Trailers)? else { return Ok(Decoded::NeedMore) };
        let wire = buf.split_to(block.len).freeze();
        let (_, trailers) = head_parts(&wire, &block, true).map_err(BodyError::Trailers)?;
        for (name, _) in trailers.fields() {
            if !is_token(name) || is_forbidden_trailer(name) {
                return Err(BodyError::ForbiddenTrailer { name: shown(name) });
            }
        }
        self.state = State::Done;
        Ok(Decoded::End { wire, trailers: (!trailers.is_empty()).then_some(trailers) })
    }
}

/// Reads a chunk size line, its line end included; `None` if it is malformed.
fn parse_size_line(line: &[u8], validate: bool) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at_checked(digits)?;
    if !(1..=16).contains(&digits.len()) || has_control(extensions) {
        return None;
    }
    let extensions = if validate { extensions } else { trim_ows(extensions) };
    if !matches!(extensions, [] | [b';', ..]) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Headers that say something about framing, routing or the connection mean nothing at the end of a message, but
/// to a recipient that merges trailers into its headers (RFC 9110 §6.5.1).
fn is_forbidden_trailer(name: &[u8]) -> bool {
    const FORBIDDEN: [&str; 9] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    is_disguised(name)
        || FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
}
