//! [`OpensslStream`]: a TLS session over any stream.
//!
//! The session reads from and writes to memory ([`Wire`]); this moves what is there from and to the
//! stream below. So the library never calls into a stream that may not be ready, and a waker that one
//! direction registered is not lost to the other.

use std::{
    fmt,
    future::poll_fn,
    io::{self, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use bytes::{Buf, BytesMut};
use openssl::ssl::{ErrorCode, Ssl, SslRef, SslStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::{io_error, setup_error};

/// What is read from the stream below at a time.
const READ: usize = 16 << 10;
/// What is encrypted at a time: one record.
const RECORD: usize = 16 << 10;
/// The session may have written this much before it has to wait.
const OUTGOING: usize = 128 << 10;

/// What a session reads from and writes to.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) incoming: BytesMut,
    pub(super) outgoing: BytesMut,
    /// Nothing will be added to `incoming`.
    pub(super) eof: bool,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            return if self.eof { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let len = self.incoming.len().min(buf.len());
        self.incoming.split_to(len).copy_to_slice(&mut buf[..len]);
        Ok(len)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.outgoing.len() >= OUTGOING {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.outgoing.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A TLS session of OpenSSL over a stream.
///
/// A stream below that ends without a `close_notify` is [`io::ErrorKind::UnexpectedEof`], as with rustls.
/// Shutting down ends this direction only; the other goes on.
pub struct OpensslStream<S> {
    session: SslStream<Wire>,
    io: S,
    /// Who waits for this direction, since the other may have to read or write for its own ends.
    reader: Option<Waker>,
    writer: Option<Waker>,
    close_notified: bool,
}

/// What a session waits for.
enum Wants {
    Read,
    Write,
}

impl<S: AsyncRead + AsyncWrite + Unpin> OpensslStream<S> {
    pub(super) fn new(session: Ssl, io: S) -> io::Result<Self> {
        let session =
            SslStream::new(session, Wire::default()).map_err(|error| setup_error(&error))?;
        Ok(Self { session, io, reader: None, writer: None, close_notified: false })
    }

    /// Shakes hands, in the role the session was given. If it fails, the peer is told why.
    pub(super) async fn handshake(&mut self) -> io::Result<()> {
        let result = poll_fn(|cx| self.poll_handshake(cx)).await;
        let sent = poll_fn(|cx| self.poll_send(cx)).await;
        result.and(sent)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.session.do_handshake() {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) => match wanted(error) {
                    Ok(Wants::Write) => std::task::ready!(self.poll_send(cx))?,
                    Ok(Wants::Read) => {
                        std::task::ready!(self.poll_send(cx))?;
                        std::task::ready!(self.poll_fill(cx))?;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                },
            }
        }
    }

    /// Sends what the session has written.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.session.get_mut();
        while !wire.outgoing.is_empty() {
            let sent = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, &wire.outgoing))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            wire.outgoing.advance(sent);
        }
        // Idle sessions hold no memory.
        wire.outgoing = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Reads something for the session.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.session.get_mut();
        if wire.eof {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut room = [0; READ];
        let mut buf = ReadBuf::new(&mut room);
        if Pin::new(&mut self.io).poll_read(cx, &mut buf)?.is_pending() {
            if wire.incoming.is_empty() {
                wire.incoming = BytesMut::new();
            }
            return Poll::Pending;
        }
        wire.eof = buf.filled().is_empty();
        wire.incoming.extend_from_slice(buf.filled());
        Poll::Ready(Ok(()))
    }

    /// A read that has to send something, such as an answer to a renegotiation.
    fn send_for_reader(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let waker = both(cx.waker(), self.writer.as_ref());
        self.poll_send(&mut Context::from_waker(&waker))
    }

    /// A write that has to read something first.
    fn fill_for_writer(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let waker = both(cx.waker(), self.reader.as_ref());
        self.poll_fill(&mut Context::from_waker(&waker))
    }
}

impl<S> OpensslStream<S> {
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    pub fn get_mut(&mut self) -> &mut S {
        &mut self.io
    }

    pub(crate) fn ssl(&self) -> &SslRef {
        self.session.ssl()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for OpensslStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let error = match this.session.ssl_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    this.reader = None;
                    if !this.session.get_ref().outgoing.is_empty()
                        && let Poll::Ready(sent) = this.send_for_reader(cx)
                    {
                        sent?;
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => return Poll::Ready(Ok(())),
                Err(error) => error,
            };
            match wanted(error) {
                Ok(Wants::Write) => std::task::ready!(this.send_for_reader(cx))?,
                Ok(Wants::Read) => {
                    if !this.session.get_ref().outgoing.is_empty()
                        && let Poll::Ready(sent) = this.send_for_reader(cx)
                    {
                        sent?;
                    }
                    if this.poll_fill(cx)?.is_pending() {
                        this.reader = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for OpensslStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let piece = buf.get(..RECORD).unwrap_or(buf);
        if piece.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            // What was encrypted before goes first, so that not much is ever kept.
            if this.poll_send(cx)?.is_pending() {
                this.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            this.writer = None;
            match this.session.ssl_write(piece) {
                Ok(written) => {
                    // What does not go out at once does with the next write or flush.
                    if let Poll::Ready(sent) = this.poll_send(cx) {
                        sent?;
                    }
                    return Poll::Ready(Ok(written));
                }
                Err(error) => match wanted(error) {
                    Ok(Wants::Write) => {}
                    Ok(Wants::Read) => {
                        std::task::ready!(this.poll_send(cx))?;
                        std::task::ready!(this.fill_for_writer(cx))?;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                },
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.poll_send(cx)?.is_pending() {
            this.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        this.writer = None;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.close_notified {
            std::task::ready!(self.as_mut().poll_flush(cx))?;
            self.close_notified = true;
            // A session that failed has nothing to close.
            let _ = self.session.shutdown();
        }
        std::task::ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl<S> fmt::Debug for OpensslStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpensslStream")
            .field("version", &self.ssl().version_str())
            .finish_non_exhaustive()
    }
}

fn wanted(error: openssl::ssl::Error) -> io::Result<Wants> {
    match error.code() {
        ErrorCode::WANT_READ => Ok(Wants::Read),
        ErrorCode::WANT_WRITE => Ok(Wants::Write),
        _ => Err(io_error(error)),
    }
}

/// A waker of both tasks, since a stream keeps only the last it was given for each direction.
fn both(own: &Waker, other: Option<&Waker>) -> Waker {
    struct Pair(Waker, Waker);

    impl Wake for Pair {
        fn wake(self: Arc<Self>) {
            self.0.wake_by_ref();
            self.1.wake_by_ref();
        }
    }

    match other {
        Some(other) if !other.will_wake(own) => Arc::new(Pair(own.clone(), other.clone())).into(),
        _ => own.clone(),
    }
}
