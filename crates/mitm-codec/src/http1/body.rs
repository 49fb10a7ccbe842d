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
/// buffer, so between two calls bytes may only be appended. What comes before an error is delivered first; after it,
/// each call gives the same error.
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
    Failed(BodyError),
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
            State::Failed(error) => Err(error.clone()),
            State::Size { .. } | State::Data { .. } | State::DataEnd | State::Trailers(_) => {
                let decoded = self.decode_chunks(buf);
                if let Err(error) = &decoded {
                    self.state = State::Failed(error.clone());
                }
                decoded
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
            State::Failed(ref error) => return Err(error.clone()),
            State::Size { .. } | State::Data { .. } | State::DataEnd | State::Trailers(_) => None,
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
                        // As many bytes as it takes to know, however many more are there.
                        let shown_len = if rest.starts_with(b"\r") { 2 } else { 1 };
                        let found = rest.get(..shown_len).unwrap_or(rest);
                        break Some(BodyError::ChunkEnd { found: shown(found) });
                    }
                },
                State::Trailers(_) => return self.decode_trailers(buf),
                State::Length { .. } | State::UntilClose | State::Done | State::Failed(_) => {
                    unreachable!(
                        "only the states of a chunked body come here and follow each other"
                    )
                }
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
        check_trailers(&trailers)?;
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

/// Checks that trailers are named like headers, and like none that would say something else about their message.
///
/// # Errors
/// [`BodyError::ForbiddenTrailer`].
pub fn check_trailers(trailers: &Headers) -> Result<(), BodyError> {
    match trailers.fields().iter().find(|(name, _)| !is_token(name) || is_forbidden_trailer(name)) {
        Some((name, _)) => Err(BodyError::ForbiddenTrailer { name: shown(name) }),
        None => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds one part after the other; gives pieces as `wire|data|data`, and ends.
    fn decode(decoder: &mut BodyDecoder, parts: &[&str]) -> Result<Vec<String>, BodyError> {
        let mut buf = BytesMut::new();
        let mut seen = Vec::new();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        for part in parts {
            buf.extend_from_slice(part.as_bytes());
            loop {
                match decoder.decode(&mut buf)? {
                    Decoded::NeedMore => break,
                    Decoded::Piece(piece) => {
                        let mut shown = text(&piece.wire);
                        for data in &piece.data {
                            shown.push('|');
                            shown += &text(data);
                        }
                        seen.push(shown);
                    }
                    Decoded::End { wire, trailers } => {
                        seen.push(format!("end {}{trailers:?}, then {}", text(&wire), buf.len()));
                        return Ok(seen);
                    }
                }
            }
        }
        Ok(seen)
    }

    #[test]
    fn a_length_ends_before_the_next_message() {
        let mut decoder = BodyDecoder::new(Framing::Length(5));
        let seen = decode(&mut decoder, &["abc", "deGET"]).unwrap();
        assert_eq!(seen, ["abc|abc", "de|de", "end None, then 3"]);
        assert!(decoder.is_done() && decoder.finish().is_ok());
        let seen = decode(&mut BodyDecoder::new(Framing::Length(0)), &["GET"]).unwrap();
        assert_eq!(seen, ["end None, then 3"]);
    }

    #[test]
    fn until_close_ends_with_the_connection() {
        let mut decoder = BodyDecoder::new(Framing::UntilClose);
        assert_eq!(decode(&mut decoder, &["ab", "c"]).unwrap(), ["ab|ab", "c|c"]);
        assert!(!decoder.is_done());
        decoder.finish().unwrap();
        assert!(decoder.is_done());
    }

    #[test]
    fn chunks_that_arrive_together_are_one_piece() {
        let wire = "3;x=\"y\"\r\nabc\r\n02\r\nde\r\n0;z\r\nA: 1\r\n\r\nGET";
        let seen = decode(&mut BodyDecoder::new(Framing::Chunked), &[wire]).unwrap();
        assert_eq!(
            seen,
            [
                "3;x=\"y\"\r\nabc\r\n02\r\nde\r\n|abc|de",
                "end 0;z\r\nA: 1\r\n\r\nSome([(b\"A\", b\"1\")]), then 3",
            ]
        );
    }

    #[test]
    fn chunks_are_forwarded_as_they_come() {
        let parts = ["1", "0\r", "\nabc", "defghijklmnop\r", "\n0\r\n", "\r", "\n"];
        let seen = decode(&mut BodyDecoder::new(Framing::Chunked), &parts).unwrap();
        assert_eq!(
            seen,
            ["10\r\nabc|abc", "defghijklmnop|defghijklmnop", "\r\n", "end 0\r\n\r\nNone, then 0"]
        );
    }

    #[test]
    fn a_close_before_the_end_tells_the_counts() {
        #[track_caller]
        fn check(framing: Framing, wire: &str, text: &str) {
            let mut decoder = BodyDecoder::new(framing);
            decode(&mut decoder, &[wire]).unwrap();
            assert_eq!(decoder.finish().unwrap_err().to_string(), text);
            assert!(!decoder.is_done());
        }
        check(
            Framing::Length(10),
            "abc",
            "connection closed before the body was complete: received 3 bytes, expected 10",
        );
        check(
            Framing::Chunked,
            "5\r\nabc",
            "connection closed before the body was complete: received 3 bytes",
        );
        check(
            Framing::Chunked,
            "1\r\na\r\n0\r\n",
            "connection closed before the body was complete: received 1 bytes",
        );
    }

    #[test]
    fn a_complete_length_may_be_finished_without_asking_for_the_end() {
        let mut decoder = BodyDecoder::new(Framing::Length(3));
        let piece = decoder.decode(&mut BytesMut::from("abc")).unwrap();
        assert!(matches!(piece, Decoded::Piece(piece) if piece.data_len() == 3));
        decoder.finish().unwrap();
    }

    #[test]
    fn bad_chunks_are_refused_after_what_was_good() {
        #[track_caller]
        fn check(wire: &str, text: &str) {
            let error = decode(&mut BodyDecoder::new(Framing::Chunked), &[wire]).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
        for size in [
            "",
            "+1",
            "-1",
            "0x1",
            " 1",
            "1 ",
            "1 ;x",
            "1\t",
            "g",
            "1,",
            "00000000000000001",
            "1;\x07",
            "1;a\rb",
            "fffffffffffffffff",
        ] {
            let line = format!("{size}\r\n");
            check(&line, &format!("invalid chunk size: {}", Repr(line.as_bytes())));
        }
        check("1\na\r\n", "invalid chunk size: b'1\\n'");
        check("1\r\nab\r\n", "chunk is longer than its size says: expected a line end, got b'b'");
        check("1\r\na\n", "chunk is longer than its size says: expected a line end, got b'\\n'");
        check("1\r\na\rb", "chunk is longer than its size says: expected a line end, got b'\\rb'");
        check("0\r\n\n", "invalid trailers: Line without carriage return at its end: b''");
        check("0\r\nA: b\r\n c\r\n\r\n", "invalid trailers: Obsolete line folding: b' c'");
        check("0\r\nabc\r\n\r\n", "invalid trailers: Invalid header line: b'abc'");
        for name in ["Content-Length", "transfer-encoding", "HOST", "A b", "Connection", "Trailer"]
        {
            check(
                &format!("0\r\n{name}: 1\r\n\r\n"),
                &format!("header not allowed as trailer: b'{name}'"),
            );
        }
        let long = format!("1;{}", "x".repeat(MAX_CHUNK_LINE_BYTES));
        check(&long, "chunk size line longer than 4096 bytes");
        check(&format!("{long}\r\n"), "chunk size line longer than 4096 bytes");
        let long = format!("0\r\nA: {}", "x".repeat(65536));
        check(&long, "invalid trailers: HTTP head larger than 65536 bytes");
        let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(257));
        check(&many, "invalid trailers: HTTP head with more than 256 header lines");
    }

    #[test]
    fn padded_sizes_pass_without_validation() {
        let mut decoder = BodyDecoder::with_validation(Framing::Chunked, false);
        let seen = decode(&mut decoder, &["1  \r\na\r\n1 ;x\r\nb\r\n0 \r\n\r\n"]).unwrap();
        assert_eq!(seen, ["1  \r\na\r\n1 ;x\r\nb\r\n|a|b", "end 0 \r\n\r\nNone, then 0"]);
    }

    #[test]
    fn the_largest_size_is_counted_without_overflow() {
        let mut decoder = BodyDecoder::new(Framing::Chunked);
        let seen = decode(&mut decoder, &["ffffffffffffffff\r\nabc"]).unwrap();
        assert_eq!(seen, ["ffffffffffffffff\r\nabc|abc"]);
        let mut decoder = BodyDecoder::new(Framing::Length(u64::MAX));
        assert_eq!(decode(&mut decoder, &["abc"]).unwrap(), ["abc|abc"]);
    }
}
