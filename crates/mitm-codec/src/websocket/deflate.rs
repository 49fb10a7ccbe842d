//! permessage-deflate (RFC 7692): what was agreed on, and the two directions of it.

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Error, Sender};
use crate::http1::trim_ows;

/// What both ends agreed on, as the response to the handshake says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateParams {
    /// The server begins each message without knowledge of those before.
    pub server_no_context_takeover: bool,
    pub client_no_context_takeover: bool,
    /// The server refers back no further than 2 to the power of this; 8 to 15.
    pub server_max_window_bits: u8,
    pub client_max_window_bits: u8,
}

impl Default for DeflateParams {
    fn default() -> Self {
        Self {
            server_no_context_takeover: false,
            client_no_context_takeover: false,
            server_max_window_bits: 15,
            client_max_window_bits: 15,
        }
    }
}

impl DeflateParams {
    /// True if messages of `sender` may refer back to earlier ones.
    pub fn keeps_context(self, sender: Sender) -> bool {
        !match sender {
            Sender::Client => self.client_no_context_takeover,
            Sender::Server => self.server_no_context_takeover,
        }
    }

    fn window_bits(self, sender: Sender) -> u8 {
        match sender {
            Sender::Client => self.client_max_window_bits,
            Sender::Server => self.server_max_window_bits,
        }
    }
}

/// The extensions that a handshake ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    pub deflate: Option<DeflateParams>,
    /// The names of those nobody here knows.
    pub unknown: Vec<String>,
}

/// Reads the `Sec-WebSocket-Extensions` fields of a response. Parameters that are not valid are as if they were not
/// there: it is for the client to fail the handshake over them.
pub fn parse_extensions<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Extensions {
    let mut found = Extensions::default();
    for extension in fields.into_iter().flat_map(|field| split_outside_quotes(field, b',')) {
        let mut parts = split_outside_quotes(extension, b';');
        let name = parts.next().unwrap_or_default();
        if name.eq_ignore_ascii_case(b"permessage-deflate") {
            found.deflate.get_or_insert_with(|| deflate_params(parts));
        } else if !name.is_empty() {
            found.unknown.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    found
}

fn deflate_params<'a>(parts: impl Iterator<Item = &'a [u8]>) -> DeflateParams {
    let mut params = DeflateParams::default();
    for part in parts {
        let mut sides = part.splitn(2, |&b| b == b'=');
        let name = trim_ows(sides.next().unwrap_or_default());
        let mut bits = || {
            let value = trim_ows(sides.next()?);
            let value = value.strip_prefix(b"\"").unwrap_or(value);
            let value = value.strip_suffix(b"\"").unwrap_or(value);
            str::from_utf8(value).ok()?.parse().ok().filter(|bits| (8..=15).contains(bits))
        };
        match &name.to_ascii_lowercase()[..] {
            b"server_no_context_takeover" => params.server_no_context_takeover = true,
            b"client_no_context_takeover" => params.client_no_context_takeover = true,
            b"server_max_window_bits" => params.server_max_window_bits = bits().unwrap_or(15),
            b"client_max_window_bits" => params.client_max_window_bits = bits().unwrap_or(15),
            _ => {}
        }
    }
    params
}

fn split_outside_quotes(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    text.split(move |&byte| {
        quoted ^= byte == b'"';
        byte == separator && !quoted
    })
    .map(trim_ows)
}

/// What a compressed message ends with, and leaves out (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Decompressed pieces have up to this many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Decompresses the messages of one direction.
#[derive(Debug)]
pub(super) struct Inflater {
    /// Made when the first compressed message comes.
    stream: Option<Decompress>,
    keeps_context: bool,
    /// The last block of the message said that it is the last: nothing is left out at its end.
    ended: bool,
}

/// A step of decompression.
pub(super) struct Inflated {
    pub(super) consumed: usize,
    pub(super) output: Bytes,
    /// There is no more output without more input.
    pub(super) is_drained: bool,
}

impl Inflater {
    pub(super) fn new(params: DeflateParams, sender: Sender) -> Self {
        Self { stream: None, keeps_context: params.keeps_context(sender), ended: false }
    }

    /// Decompresses some of `input`.
    pub(super) fn inflate(&mut self, input: &[u8]) -> Result<Inflated, Error> {
        // The largest window reads what was made for any: some peers ignore the size agreed on.
        let stream = self.stream.get_or_insert_with(|| Decompress::new(false));
        let mut output = Vec::with_capacity((input.len() * 4).clamp(2 << 10, PIECE_BYTES));
        let mut consumed = 0;
        let is_drained = loop {
            let rest = input.get(consumed..).unwrap_or_default();
            if output.len() == output.capacity() {
                break false;
            }
            let (before, made) = (stream.total_in(), output.len());
            let status = stream.decompress_vec(rest, &mut output, FlushDecompress::Sync);
            let taken = usize::try_from(stream.total_in() - before).unwrap_or(rest.len());
            consumed += taken;
            // What came before the error counts; the error stays.
            let Ok(status) = status else {
                if output.is_empty() {
                    return Err(invalid());
                }
                break false;
            };
            if status == Status::StreamEnd {
                stream.reset(false);
                self.ended = taken == rest.len();
            } else {
                self.ended &= rest.is_empty();
                if taken == 0 && made == output.len() {
                    if rest.is_empty() {
                        break true;
                    }
                    return Err(invalid());
                }
            }
            if consumed == input.len() && output.len() < output.capacity() {
                break true;
            }
        };
        Ok(Inflated { consumed, output: output.into(), is_drained })
    }

    /// Returns the input that ends a message.
    pub(super) fn tail(&mut self) -> Bytes {
        if std::mem::take(&mut self.ended) { Bytes::new() } else { Bytes::from_static(&TAIL) }
    }

    /// Makes ready for the next message.
    pub(super) fn end_message(&mut self) {
        if !self.keeps_context
            && let Some(stream) = &mut self.stream
        {
            stream.reset(false);
        }
    }
}

fn invalid() -> Error {
    Error::data("invalid compressed data")
}

/// Compresses the messages of one direction.
#[derive(Debug)]
pub struct Deflater {
    /// Made when it is needed. It takes some hundred kilobytes.
    stream: Option<Compress>,
    bits: u8,
    keeps_context: bool,
    /// Something was compressed since the last message ended.
    begun: bool,
}

impl Deflater {
    /// Makes one for what is sent in the name of `sender`.
    pub fn new(params: DeflateParams, sender: Sender) -> Self {
        // zlib cannot compress without header for a window of 8 bits; with 9 it refers back less than 256 bytes anyway.
        let bits = params.window_bits(sender).clamp(9, 15);
        Self { stream: None, bits, keeps_context: params.keeps_context(sender), begun: false }
    }

    /// Compresses a piece of a message and appends what comes of it so far.
    pub fn push(&mut self, piece: &[u8], out: &mut BytesMut) {
        if !piece.is_empty() {
            self.begun = true;
            self.run(piece, FlushCompress::None, out);
        }
    }

    /// Ends a message and appends the rest.
    pub fn finish(&mut self, out: &mut BytesMut) {
        if !std::mem::take(&mut self.begun) {
            // An empty block (RFC 7692 §7.2.3.6).
            out.extend_from_slice(&[0]);
            return;
        }
        self.run(&[], FlushCompress::Sync, out);
        debug_assert!(out.ends_with(&TAIL));
        out.truncate(out.len().saturating_sub(TAIL.len()));
        if !self.keeps_context
            && let Some(stream) = &mut self.stream
        {
            stream.reset();
        }
    }

    /// Gives memory back; the next message does not refer to those before.
    pub fn rest(&mut self) {
        if !self.begun {
            self.stream = None;
        }
    }

    fn run(&mut self, mut input: &[u8], flush: FlushCompress, out: &mut BytesMut) {
        let bits = self.bits;
        let stream = self.stream.get_or_insert_with(|| {
            Compress::new_with_window_bits(Compression::default(), false, bits)
        });
        let mut made = Vec::with_capacity(input.len().clamp(512, PIECE_BYTES));
        loop {
            let before = stream.total_in();
            // Compressing fails only for a stream that was finished, which these never are.
            let status = stream.compress_vec(input, &mut made, flush);
            let taken = usize::try_from(stream.total_in() - before).unwrap_or(input.len());
            input = input.get(taken..).unwrap_or_default();
            let is_full = made.len() == made.capacity();
            out.extend_from_slice(&made);
            made.clear();
            if status.is_err() || (input.is_empty() && !is_full) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn params(text: &str) -> Option<DeflateParams> {
        parse_extensions([text.as_bytes()]).deflate
    }

    fn inflate(inflater: &mut Inflater, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut feed = |inflater: &mut Inflater, mut input: &[u8]| {
            loop {
                let step = inflater.inflate(input)?;
                out.extend_from_slice(&step.output);
                input = &input[step.consumed..];
                if step.is_drained {
                    return Ok(());
                }
            }
        };
        feed(inflater, message)?;
        let tail = inflater.tail();
        feed(inflater, &tail)?;
        inflater.end_message();
        Ok(out)
    }

    #[test]
    fn negotiation() {
        assert_eq!(params("permessage-deflate"), Some(DeflateParams::default()));
        assert_eq!(params("x-webkit-deflate-frame"), None);
        assert_eq!(
            params(
                "foo; a=\"b,c;d\", PerMessage-Deflate ;server_no_context_takeover; \
                 client_max_window_bits=\"10\" ; server_max_window_bits = 8"
            ),
            Some(DeflateParams {
                server_no_context_takeover: true,
                client_no_context_takeover: false,
                server_max_window_bits: 8,
                client_max_window_bits: 10,
            })
        );
        for odd in ["client_max_window_bits", "client_max_window_bits=16", "x=1", "=", ";;"] {
            assert_eq!(
                params(&format!("permessage-deflate;{odd}")),
                Some(DeflateParams::default())
            );
        }
        let several = parse_extensions([&b"foo, permessage-deflate"[..], b", bar;x"]);
        assert_eq!(several.unknown, ["foo", "bar"]);
        assert!(several.deflate.is_some());
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let mut inflater = Inflater::new(DeflateParams::default(), Sender::Server);
        let hello = b"Hello";
        assert_eq!(inflate(&mut inflater, b"\xf2\x48\xcd\xc9\xc9\x07\x00").unwrap(), hello);
        assert_eq!(inflate(&mut inflater, b"\xf2\x00\x11\x00\x00").unwrap(), hello);
        // Without compression, with the last block marked, two blocks, and an empty message.
        assert_eq!(
            inflate(&mut inflater, b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00").unwrap(),
            hello
        );
        assert_eq!(inflate(&mut inflater, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00").unwrap(), hello);
        assert_eq!(inflate(&mut inflater, b"\xf3\x48\xcd\xc9\xc9\x07\x00").unwrap(), hello);
        assert_eq!(
            inflate(&mut inflater, b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00")
                .unwrap(),
            hello
        );
        assert_eq!(inflate(&mut inflater, b"\x00").unwrap(), b"");
        assert_eq!(inflate(&mut inflater, b"\xff\xff").unwrap_err().code, 1007);
    }

    fn pair(keeps: bool, bits: u8) -> (Deflater, Inflater) {
        let params = DeflateParams {
            server_no_context_takeover: !keeps,
            server_max_window_bits: bits,
            ..DeflateParams::default()
        };
        (Deflater::new(params, Sender::Server), Inflater::new(params, Sender::Server))
    }

    #[test]
    fn context_is_used_if_it_may_be() {
        let text = b"a text that nobody says twice, unless it was told to";
        for keeps in [true, false] {
            let (mut deflater, mut inflater) = pair(keeps, 15);
            let mut sizes = Vec::new();
            for _ in 0..2 {
                let mut out = BytesMut::new();
                deflater.push(text, &mut out);
                deflater.finish(&mut out);
                sizes.push(out.len());
                assert_eq!(inflate(&mut inflater, &out).unwrap(), text);
            }
            assert_eq!(sizes[1] < sizes[0], keeps, "{sizes:?}");
        }
    }

    #[test]
    fn a_message_after_a_rest_does_not_refer_back() {
        let (mut deflater, mut inflater) = pair(true, 15);
        for _ in 0..3 {
            let mut out = BytesMut::new();
            deflater.push(b"hello hello hello", &mut out);
            deflater.finish(&mut out);
            deflater.rest();
            assert_eq!(inflate(&mut inflater, &out).unwrap(), b"hello hello hello");
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(
            messages in vec(vec(prop_oneof![vec(any::<u8>(), 0..200), vec(0u8..2, 0..3000)], 0..5), 0..5),
            keeps in any::<bool>(),
            bits in 8u8..=15,
        ) {
            let (mut deflater, mut inflater) = pair(keeps, bits);
            for pieces in messages {
                let mut out = BytesMut::new();
                for piece in &pieces {
                    deflater.push(piece, &mut out);
                }
                deflater.finish(&mut out);
                prop_assert_eq!(inflate(&mut inflater, &out).unwrap(), pieces.concat());
            }
        }
    }

    #[test]
    fn large_messages_come_in_pieces() {
        let (mut deflater, mut inflater) = pair(true, 9);
        let (mut out, zeros) = (BytesMut::new(), vec![0; 100_000]);
        for _ in 0..100 {
            deflater.push(&zeros, &mut out);
        }
        deflater.finish(&mut out);
        let step = inflater.inflate(&out).unwrap();
        assert!(!step.is_drained && step.output.len() <= PIECE_BYTES);
        let mut inflater = pair(true, 9).1;
        assert_eq!(inflate(&mut inflater, &out).unwrap().len(), 10_000_000);
    }
}
