//! HTTP/1 messages (RFC 9112): heads, framing, bodies, and their way back to bytes.
//!
//! What is forwarded unchanged is forwarded byte for byte, so every parsed thing keeps its wire form: header
//! lists remember their block of lines, a [`Piece`] of a body has the bytes as received beside the payload
//! inside them. All of it is slices of the input buffer; nothing is copied.
//!
//! The steps for one message:
//!
//! 1. [`HeadReader`] (or [`parse_request`], [`parse_response`]) takes the head from the front of the buffer.
//! 2. [`request_framing`] or [`response_framing`] checks the headers and says where the body ends.
//! 3. [`BodyDecoder`] takes the body, piece by piece.
//!
//! With `validate` whatever two parsers could read differently is refused. Without it more is accepted, but what
//! has no single framing is an error even then; two shapes are accepted only because they are *made*
//! unambiguous: heads with bare LF or folded lines lose their wire form, and [`settle_framing`] removes
//! the `Content-Length` that `Transfer-Encoding` overrides.
//!
//! Tokens are found by our own line scanner and not by httparse, since errors have to show the line, the wire
//! form has to be kept, and both grades of strictness must agree on what a line is. The tests compare
//! what is accepted with httparse.

mod body;
mod framing;
mod head;
mod lines;
mod target;
mod write;

pub use body::{BodyDecoder, BodyError, Decoded, MAX_CHUNK_LINE_BYTES, Piece, check_trailers};
pub use framing::{
    Framing, FramingError, check_fields, keep_alive, request_framing, response_framing,
    settle_framing,
};
pub use head::{
    HeadError, HeadReader, RequestHead, ResponseHead, Rules, Version, parse_request, parse_response,
};
pub use lines::Limits;
pub use target::{Target, is_valid_host, parse_host_port, parse_target};
pub use write::{write_chunk, write_last_chunk, write_request_head, write_response_head};

/// True for the characters of a token (RFC 9110 §5.6.2): methods and field names.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| TOKEN[usize::from(b)])
}

/// True for control characters that no line of a head may contain; HTAB is allowed.
pub(crate) fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

pub(crate) fn has_control(bytes: &[u8]) -> bool {
    // Without an early exit, so that it is vectorised: the answer is nearly always no.
    bytes.iter().fold(false, |found, &b| found | is_control(b))
}

/// Removes optional whitespace (RFC 9110 §5.6.3) at both ends.
pub(crate) fn trim_ows(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "the loop ends at 256")]
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};
