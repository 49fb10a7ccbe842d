//! HTTP/2 (RFC 9113) on both sides: the one module that knows the library for it.
//!
//! [`serve`](serve()) answers a client: each of its streams is an exchange, all run by turns in one task, and one that
//! waits holds up no other. A [`Session`] is a connection to a server; the streams of one client share it.
//! [`convert`](self) turns heads into those of flows and of HTTP/1, and back.
//!
//! Limits: a peer may have 100 streams open, send a header list as long as a head may be, and have 512 KiB of each body
//! on the way. The windows of connections are larger than those of all their streams, so that a stream which nobody reads
//! does not hold up the others. Peers that flood heads, small or empty frames, or resets of streams that were not seen yet
//! are sent away by the library (`ENHANCE_YOUR_CALM`), clients that open streams and give them up at once by
//! [`serve`](serve()).

mod convert;
mod serve;
mod session;
mod tunnel;

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use mitm_codec::http1::{Piece, Rules};
use mitm_flow::Headers;
use smallvec::smallvec;
use tokio::time::timeout;

pub(crate) use self::{
    convert::{HTTP2, framing, request_to_http1, request_to_http2, response_to_http1},
    serve::serve,
    session::{NoSession, RequestOut, ResponseIn, Session},
};
use crate::body::Next;

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many streams a peer may have open.
const STREAMS_MAX: u32 = 100;
/// How many streams of a client may be busy here: more than are open, since those that it reset take a moment to end.
const BUSY_MAX: u32 = STREAMS_MAX + 28;
/// How much of a body may be on the way.
const STREAM_WINDOW: u32 = 512 << 10;
/// Of all bodies of one connection: more than all its streams together.
const CONNECTION_WINDOW: u32 = (BUSY_MAX + 8) * STREAM_WINDOW;
/// The largest frame that is accepted.
const FRAME_MAX: u32 = 128 << 10;
/// How much of what is sent on a stream is gathered.
const SEND_BUFFER: usize = 256 << 10;

/// A body as it arrives.
struct BodyIn {
    stream: RecvStream,
    /// What arrived and was not asked for yet.
    waiting: Option<Next>,
    rules: Rules,
    is_over: bool,
}

/// Why a body does not go on.
enum BodyError {
    Http2(h2::Error),
    /// What the library let pass.
    Malformed(String),
}

impl From<h2::Error> for BodyError {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}

impl BodyIn {
    fn new(stream: RecvStream, rules: Rules) -> Self {
        Self { stream, waiting: None, rules, is_over: false }
    }

    fn is_complete(&self) -> bool {
        self.waiting.is_none() && (self.is_over || self.stream.is_end_stream())
    }

    /// Returns the next part, if it is there.
    fn next(&mut self) -> Result<Option<Next>, BodyError> {
        if let Some(next) = self.waiting.take() {
            return Ok(Some(next));
        }
        // Whoever finds nothing fills, which looks again with a waker of its own.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.poll(&mut cx) {
            Poll::Ready(next) => next.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    /// Waits for the next part.
    async fn fill(&mut self) -> Result<(), BodyError> {
        if self.waiting.is_none() {
            self.waiting = Some(poll_fn(|cx| self.poll(cx)).await?);
        }
        Ok(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, BodyError>> {
        match self.waiting.take() {
            Some(next) => Poll::Ready(Ok(next)),
            None => self.poll(cx),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, BodyError>> {
        if !self.is_over {
            match self.stream.poll_data(cx)? {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(data)) => {
                    // Whoever takes it has room for it: what is kept goes to the spill file, what is sent waits for the
                    // window of the other side before more is asked for.
                    self.stream.flow_control().release_capacity(data.len())?;
                    let piece = Piece { wire: Bytes::new(), data: smallvec![data] };
                    return Poll::Ready(Ok(Next::Piece(piece)));
                }
                Poll::Ready(None) => self.is_over = true,
            }
        }
        let trailers = match self.stream.poll_trailers(cx)? {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(trailers) => trailers,
        };
        let trailers = trailers.map(|map| convert::trailers_of(&map, &self.rules));
        let trailers = trailers.transpose().map_err(BodyError::Malformed)?;
        Poll::Ready(Ok(Next::End { wire: Bytes::new(), trailers }))
    }
}

/// Sends as much of `rest` as the peer's window allows; ready when something was sent.
fn poll_send(
    stream: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    rest: &mut Bytes,
) -> Poll<io::Result<()>> {
    stream.reserve_capacity(rest.len());
    let capacity = loop {
        match ready!(stream.poll_capacity(cx)) {
            // Capacity of 0 is news of no use. To learn of more it must be asked again.
            Some(Ok(0)) => {}
            Some(capacity) => break capacity.map_err(io_error)?,
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    };
    let piece = rest.split_to(capacity.min(rest.len()));
    Poll::Ready(stream.send_data(piece, false).map_err(io_error))
}

/// Sends a part of a body by `send`, which is [`poll_send`] on some stream. Gives up when nothing goes out for `patience`.
async fn send_data(
    data: &Bytes,
    patience: Duration,
    mut send: impl FnMut(&mut Context<'_>, &mut Bytes) -> Poll<io::Result<()>>,
) -> io::Result<()> {
    let mut rest = data.clone();
    while !rest.is_empty() {
        let sent = poll_fn(|cx| send(cx, &mut rest));
        timeout(patience, sent).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    }
    Ok(())
}

/// Sends the end of a body.
fn send_end(stream: &mut SendStream<Bytes>, trailers: Option<&Headers>) -> io::Result<()> {
    match trailers {
        None => stream.send_data(Bytes::new(), true).map_err(io_error),
        Some(trailers) => {
            let map = convert::map_of(trailers)
                .map_err(|text| io::Error::new(io::ErrorKind::InvalidData, text))?;
            stream.send_trailers(map).map_err(io_error)
        }
    }
}

fn io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::other(error)
    }
}

/// Returns what is wrong with a connection, for people.
fn describe(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) => format!("HTTP/2 connection closed: {}", name(reason)),
        None => format!("HTTP/2 connection closed: {error}"),
    }
}

/// Returns the name of an error code (RFC 9113 §7).
fn name(reason: Reason) -> String {
    match reason {
        Reason::NO_ERROR => "NO_ERROR".into(),
        Reason::PROTOCOL_ERROR => "PROTOCOL_ERROR".into(),
        Reason::INTERNAL_ERROR => "INTERNAL_ERROR".into(),
        Reason::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR".into(),
        Reason::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT".into(),
        Reason::STREAM_CLOSED => "STREAM_CLOSED".into(),
        Reason::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR".into(),
        Reason::REFUSED_STREAM => "REFUSED_STREAM".into(),
        Reason::CANCEL => "CANCEL".into(),
        Reason::COMPRESSION_ERROR => "COMPRESSION_ERROR".into(),
        Reason::CONNECT_ERROR => "CONNECT_ERROR".into(),
        Reason::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM".into(),
        Reason::INADEQUATE_SECURITY => "INADEQUATE_SECURITY".into(),
        Reason::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED".into(),
        other => format!("error code {}", u32::from(other)),
    }
}
