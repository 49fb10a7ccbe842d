//! The server's side of an exchange, whatever version it speaks: a [`Sink`] takes the request, a [`Reply`] gives the
//! response.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use mitm_codec::http1::{self, Framing, HeadReader, Piece, ResponseHead, Rules, Version};
use mitm_flow::Headers;

use crate::{
    body::{BodyReader, BodyWriter, Next},
    error::Failure,
    http2,
    io::{Reader, Writer},
};

/// The head of a response.
pub(crate) struct AnswerHead {
    pub(crate) version: Bytes,
    pub(crate) status: u16,
    pub(crate) reason: Bytes,
    pub(crate) headers: Headers,
}

impl From<ResponseHead> for AnswerHead {
    fn from(head: ResponseHead) -> Self {
        Self {
            version: Bytes::from_static(head.version.as_bytes()),
            status: head.status,
            reason: head.reason,
            headers: head.headers,
        }
    }
}

/// Where a request goes to.
pub(crate) enum Sink<'a> {
    Http1 {
        writer: &'a mut Writer,
        head: BytesMut,
        body: BodyWriter,
    },
    /// The head was sent.
    Http2(http2::RequestOut),
}

impl Sink<'_> {
    pub(crate) async fn head(&mut self) -> io::Result<()> {
        match self {
            Self::Http1 { writer, head, .. } => writer.write(head).await,
            Self::Http2(_) => Ok(()),
        }
    }

    /// Sends a piece as it was received.
    pub(crate) async fn piece(&mut self, piece: &Piece) -> io::Result<()> {
        match self {
            Self::Http1 { writer, body, .. } => body.piece(writer, piece).await,
            Self::Http2(out) => {
                for data in &piece.data {
                    out.data(data).await?;
                }
                Ok(())
            }
        }
    }

    /// Sends payload that is not as it was received.
    pub(crate) async fn data(&mut self, data: &Bytes) -> io::Result<()> {
        match self {
            Self::Http1 { writer, body, .. } => body.data(writer, data).await,
            Self::Http2(out) => out.data(data).await,
        }
    }

    /// Takes the end; `wire` is that as received, if it is unchanged.
    pub(crate) fn end(
        &mut self,
        wire: Option<&Bytes>,
        trailers: Option<&Headers>,
    ) -> io::Result<()> {
        match self {
            Self::Http1 { writer, body, .. } => {
                if let (None, Some(trailers)) = (wire, trailers) {
                    http1::check_fields(trailers).map_err(|error| {
                        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                    })?;
                }
                body.end(writer, wire, trailers);
                Ok(())
            }
            Self::Http2(out) => out.end(trailers),
        }
    }

    /// Waits until the server says that it wants no more. Never ends if it cannot say so.
    pub(crate) async fn gone(&mut self) {
        match self {
            Self::Http1 { .. } => std::future::pending().await,
            Self::Http2(out) => out.gone().await,
        }
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Http1 { writer, .. } => writer.flush().await,
            // The task of the connection sends what it has.
            Self::Http2(_) => Ok(()),
        }
    }
}

/// Where a response comes from.
#[expect(clippy::large_enum_variant, reason = "the large one is the common one, on the stack")]
pub(crate) enum Reply<'a> {
    Http1(Http1Reply<'a>),
    Http2(Box<http2::ResponseIn>),
}

pub(crate) struct Http1Reply<'a> {
    reader: &'a mut Reader,
    heads: HeadReader,
    body: Option<(BodyReader, Framing)>,
}

/// How a wait for the server ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Something came, if only the end.
    More,
    /// The time is over.
    Silence,
}

impl<'a> Reply<'a> {
    pub(crate) fn http1(reader: &'a mut Reader) -> Self {
        Self::Http1(Http1Reply { reader, heads: HeadReader::new(), body: None })
    }

    /// True if pieces carry HTTP/1's framing.
    pub(crate) fn is_http1(&self) -> bool {
        matches!(self, Self::Http1(_))
    }

    /// True if something of an answer is there.
    pub(crate) fn has_begun(&self) -> bool {
        match self {
            Self::Http1(reply) => !reply.reader.buf.is_empty(),
            Self::Http2(reply) => reply.has_begun(),
        }
    }

    /// Returns the next head that is there; `None` if [`fill`](Self::fill) must be called first.
    pub(crate) fn head(&mut self, rules: &Rules) -> Result<Option<AnswerHead>, Failure> {
        match self {
            Self::Http1(reply) => {
                let head = reply.heads.response(&mut reply.reader.buf, rules);
                Ok(head.map_err(|error| Failure::response_head(&error))?.map(AnswerHead::from))
            }
            Self::Http2(reply) => reply.head(rules),
        }
    }

    /// Returns how the body after a head is framed. What is wrong with it fails the flow after its hook.
    pub(crate) fn framing(
        &self,
        method: &[u8],
        head: &AnswerHead,
        validate: bool,
    ) -> Result<Framing, Failure> {
        match self {
            Self::Http1(_) => {
                let version = Version::from_bytes(&head.version).unwrap_or(Version::Http11);
                http1::response_framing(method, version, head.status, &head.headers, validate)
                    .map_err(|error| Failure::response_framing(&error))
            }
            Self::Http2(reply) => {
                let ended = reply.is_complete() || method == b"HEAD";
                http2::framing(&head.headers, ended).map_err(Failure::BadResponse)
            }
        }
    }

    /// The head was read, and the body comes.
    pub(crate) fn begin(&mut self, framing: Framing, validate: bool) {
        if let Self::Http1(reply) = self {
            reply.body = Some((BodyReader::new(framing, validate), framing));
        }
    }

    /// Returns the next part of the body that is there; `None` if [`fill`](Self::fill) must be called first.
    pub(crate) fn next(&mut self) -> Result<Option<Next>, Failure> {
        match self {
            Self::Http1(Http1Reply { reader, body, .. }) => match body {
                Some((body, _)) => {
                    body.next(reader).map_err(|error| Failure::response_body(&error))
                }
                None => Ok(Some(Next::End { wire: Bytes::new(), trailers: None })),
            },
            Self::Http2(reply) => reply.next(),
        }
    }

    /// True if nothing but the end can follow.
    pub(crate) fn is_complete(&self) -> bool {
        match self {
            Self::Http1(reply) => {
                reply.body.as_ref().is_none_or(|(body, framing)| body.is_complete(*framing))
            }
            Self::Http2(reply) => reply.is_complete(),
        }
    }

    /// Waits for more, for `silence` at most.
    pub(crate) async fn fill(&mut self, silence: Duration) -> Result<Filled, Failure> {
        let reply = match self {
            Self::Http1(reply) => reply,
            Self::Http2(reply) => {
                return match tokio::time::timeout(silence, reply.fill()).await {
                    Ok(filled) => filled.map(|()| Filled::More),
                    Err(_) => Ok(Filled::Silence),
                };
            }
        };
        let before_head = reply.body.is_none();
        match reply.reader.fill_within(silence).await {
            Ok(1..) => Ok(Filled::More),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Filled::Silence),
            // The body knows whether it may end here.
            Ok(0) if !before_head => Ok(Filled::More),
            Ok(0) | Err(_) if before_head && reply.reader.buf.is_empty() => {
                Err(Failure::ServerClosed)
            }
            Ok(0) => Err(Failure::BadResponse(
                "server closed the connection within the head of its response".into(),
            )),
            Err(error) => Err(Failure::BadResponse(format!("server connection failed: {error}"))),
        }
    }

    /// Waits until the server says something after its response. Never ends if it cannot.
    pub(crate) async fn says_more(&mut self) {
        match self {
            Self::Http1(reply) => {
                // Whatever comes is not for this exchange.
                let _ = reply.reader.fill().await;
            }
            Self::Http2(_) => std::future::pending().await,
        }
    }
}
