//! Bodies on HTTP/1 connections: read in pieces, written with the framing that the head announced.

use std::io;

use bytes::Bytes;
use mitm_codec::http1::{self, BodyDecoder, BodyError, Decoded, Framing, Piece};
use mitm_flow::Headers;

use crate::io::{Reader, Writer};

/// What of a body comes next.
pub(crate) enum Next {
    Piece(Piece),
    /// The end: of a chunked body as received, and the trailers.
    End {
        wire: Bytes,
        trailers: Option<Headers>,
    },
}

/// Takes a body out of a reader's buffer.
pub(crate) struct BodyReader {
    decoder: BodyDecoder,
}

impl BodyReader {
    pub(crate) fn new(framing: Framing, validate: bool) -> Self {
        Self { decoder: BodyDecoder::with_validation(framing, validate) }
    }

    /// Returns what is there; `None` if the reader must be filled first.
    ///
    /// # Errors
    /// The body is malformed, or its sender closed before its end.
    pub(crate) fn next(&mut self, reader: &mut Reader) -> Result<Option<Next>, BodyError> {
        match self.decoder.decode(&mut reader.buf)? {
            Decoded::Piece(piece) => Ok(Some(Next::Piece(piece))),
            Decoded::End { wire, trailers } => Ok(Some(Next::End { wire, trailers })),
            Decoded::NeedMore if reader.eof => {
                self.decoder.finish()?;
                Ok(Some(Next::End { wire: Bytes::new(), trailers: None }))
            }
            Decoded::NeedMore => Ok(None),
        }
    }

    /// True if nothing but the end can follow.
    pub(crate) fn is_complete(&self, framing: Framing) -> bool {
        match framing {
            Framing::Length(total) => self.decoder.received() == total,
            Framing::Chunked | Framing::UntilClose => self.decoder.is_done(),
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyWriter {
    /// There is no body: HEAD, 204, 304.
    Nothing,
    /// As it was received, chunk sizes and extensions included.
    Verbatim { chunked: bool },
    /// One chunk per piece.
    Chunked,
    /// Without framing: the head has the length, or the end is that of the connection.
    Raw,
}

impl BodyWriter {
    /// Returns how to write pieces that do not carry HTTP/1's framing.
    pub(crate) fn reframing(self) -> Self {
        match self {
            Self::Verbatim { chunked: true } => Self::Chunked,
            Self::Verbatim { chunked: false } => Self::Raw,
            writer => writer,
        }
    }

    /// Writes a piece that was received.
    pub(crate) async fn piece(self, writer: &mut Writer, piece: &Piece) -> io::Result<()> {
        if let Self::Verbatim { .. } = self {
            return writer.write(&piece.wire).await;
        }
        for data in &piece.data {
            self.data(writer, data).await?;
        }
        Ok(())
    }

    /// Writes payload that is not as it was received.
    pub(crate) async fn data(self, writer: &mut Writer, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Raw | Self::Verbatim { chunked: false } => writer.write(data).await,
            Self::Chunked | Self::Verbatim { chunked: true } => {
                if data.is_empty() {
                    return Ok(());
                }
                writer.out().extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                writer.write(data).await?;
                writer.write(b"\r\n").await
            }
        }
    }

    /// Appends the end to what the next flush sends; `wire` is the end as received, if it is unchanged.
    pub(crate) fn end(self, writer: &mut Writer, wire: Option<&Bytes>, trailers: Option<&Headers>) {
        match (self, wire) {
            (Self::Verbatim { chunked: true }, Some(wire)) => writer.out().extend_from_slice(wire),
            (Self::Chunked | Self::Verbatim { chunked: true }, _) => {
                http1::write_last_chunk(writer.out(), trailers);
            }
            (Self::Nothing | Self::Raw | Self::Verbatim { chunked: false }, _) => {}
        }
    }
}
