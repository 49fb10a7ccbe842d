//! A stream of HTTP/2 as a stream of bytes: after CONNECT, and after an upgrade.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::SendStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{BodyError, BodyIn, io_error};
use crate::body::Next;

fn body_error(error: BodyError) -> io::Error {
    match error {
        BodyError::Http2(error) => io_error(error),
        BodyError::Malformed(text) => io::Error::new(io::ErrorKind::InvalidData, text),
    }
}

/// Reads and writes DATA frames.
pub(super) struct Tunnel {
    body: BodyIn,
    /// What arrived and did not fit.
    read: Bytes,
    is_over: bool,
    stream: SendStream<Bytes>,
}

impl Tunnel {
    pub(super) fn new(body: BodyIn, stream: SendStream<Bytes>) -> Self {
        Self { body, read: Bytes::new(), is_over: false, stream }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() && !self.is_over {
            match ready!(self.body.poll_next(cx)).map_err(body_error)? {
                Next::Piece(piece) => self.read = piece.data.into_iter().next().unwrap_or_default(),
                Next::End { .. } => self.is_over = true,
            }
        }
        let len = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.stream.reserve_capacity(buf.len());
        let capacity = loop {
            match ready!(self.stream.poll_capacity(cx)) {
                // Capacity of 0 is news of no use. To learn of more it must be asked again.
                Some(Ok(0)) => {}
                Some(capacity) => break capacity.map_err(io_error)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        let len = capacity.min(buf.len());
        let piece = buf.get(..len).unwrap_or(buf);
        self.stream.send_data(Bytes::copy_from_slice(piece), false).map_err(io_error)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task of the connection sends what it has.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(io_error))
    }
}
