//! Streams and their halves: what every layer reads from and writes to.
//!
//! An [`Io`] is a TCP connection, a TLS session over one, or anything else that can be read and written (in tests, a
//! pipe in memory). [`split`] parts it into a [`Reader`] and a [`Writer`] with buffers of their own, so that both
//! directions of an exchange run at once.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use mitm_tls::OpensslStream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsStream;
use tokio_util::io::poll_read_buf;

/// Anything that is a stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static> Duplex for T {}

/// A connection.
pub enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<Buffered>>),
    Openssl(Box<OpensslStream<Buffered>>),
    Any(Box<dyn Duplex>),
}

/// A connection below a TLS session: what was read from it already comes first, and what comes after is read in large
/// pieces, since the session itself asks for 4 KiB at a time.
pub struct Buffered {
    buf: BytesMut,
    io: Io,
    room: usize,
}

impl Buffered {
    pub fn new(read: BytesMut, io: Io) -> Self {
        Self { buf: read, io, room: ROOM_MIN }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Self::Openssl(io) => Pin::new(io).poll_read(cx, buf),
            Self::Any(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Self::Openssl(io) => Pin::new(io).poll_write(cx, buf),
            Self::Any(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Openssl(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Any(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
            Self::Openssl(io) => io.is_write_vectored(),
            Self::Any(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            Self::Openssl(io) => Pin::new(io).poll_flush(cx),
            Self::Any(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Self::Openssl(io) => Pin::new(io).poll_shutdown(cx),
            Self::Any(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Buffered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buf.is_empty() {
            this.buf.reserve(this.room);
            let Poll::Ready(read) = poll_read_buf(Pin::new(&mut this.io), cx, &mut this.buf) else {
                // Nothing is kept for a wait of unknown length.
                this.buf = BytesMut::new();
                return Poll::Pending;
            };
            this.room = next_room(this.room, read?);
        }
        let len = this.buf.len().min(buf.remaining());
        buf.put_slice(&this.buf[..len]);
        this.buf.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

enum ReadSide {
    Tcp(OwnedReadHalf),
    Any(ReadHalf<Io>),
}

enum WriteSide {
    Tcp(OwnedWriteHalf),
    Any(WriteHalf<Io>),
}

/// The readable half of a connection, with what was read and not yet used.
pub struct Reader {
    side: ReadSide,
    pub buf: BytesMut,
    /// How much to make room for: grows while reads fill what they are given.
    room: usize,
    /// The peer has closed its direction.
    pub eof: bool,
    alarm: Alarm,
}

/// The writable half of a connection. Small pieces are gathered until [`flush`](Self::flush).
pub struct Writer {
    side: WriteSide,
    out: BytesMut,
    is_tls: bool,
    /// How often something was sent.
    sends: u64,
    patience: Duration,
    alarm: Alarm,
}

/// The room of a fresh or idle reader; most heads fit.
const ROOM_MIN: usize = 4 << 10;
const ROOM_MAX: usize = 64 << 10;
/// Pieces of this size and more are written without a copy.
const WRITE_THROUGH: usize = 16 << 10;
/// How long a peer may leave what is sent to it unread, unless told otherwise.
const PATIENCE: Duration = Duration::from_mins(10);
/// How long the end of a connection may take.
const LINGER: Duration = Duration::from_secs(2);
/// Gathered pieces are written when they reach this size.
const GATHER: usize = 64 << 10;

/// How much room to make for the next read, after one with this much room read so many bytes.
fn next_room(room: usize, read: usize) -> usize {
    if read >= room { (room * 4).min(ROOM_MAX) } else { room }
}

/// Parts a connection into its halves. `prefix` is what was read from it already.
pub fn split(io: Io, prefix: BytesMut) -> (Reader, Writer) {
    let is_tls = matches!(io, Io::Tls(_) | Io::Openssl(_));
    let (read, write) = match io {
        Io::Tcp(tcp) => {
            let (read, write) = tcp.into_split();
            (ReadSide::Tcp(read), WriteSide::Tcp(write))
        }
        io => {
            let (read, write) = tokio::io::split(io);
            (ReadSide::Any(read), WriteSide::Any(write))
        }
    };
    let reader =
        Reader { side: read, buf: prefix, room: ROOM_MIN, eof: false, alarm: Alarm::default() };
    let writer = Writer {
        side: write,
        out: BytesMut::new(),
        is_tls,
        sends: 0,
        patience: PATIENCE,
        alarm: Alarm::default(),
    };
    (reader, writer)
}

/// Puts the halves of one connection together again. What was read and not used is returned with it.
pub fn join(reader: Reader, writer: Writer) -> (Io, BytesMut) {
    let io = match (reader.side, writer.side) {
        (ReadSide::Tcp(read), WriteSide::Tcp(write)) => {
            Io::Tcp(read.reunite(write).expect("both halves are of one connection"))
        }
        (ReadSide::Any(read), WriteSide::Any(write)) => read.unsplit(write),
        _ => unreachable!("both halves are of one connection"),
    };
    (io, reader.buf)
}

impl Reader {
    /// Reads more into [`buf`](Self::buf); 0 at the end of the stream. Safe to cancel.
    ///
    /// # Errors
    /// Those of the connection. A TLS peer that closes without saying so counts as an end.
    pub async fn fill(&mut self) -> io::Result<usize> {
        if self.eof {
            return Ok(0);
        }
        self.buf.reserve(self.room);
        let result = match &mut self.side {
            ReadSide::Tcp(side) => side.read_buf(&mut self.buf).await,
            ReadSide::Any(side) => side.read_buf(&mut self.buf).await,
        };
        let read = match result {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            result => result?,
        };
        self.eof = read == 0;
        self.room = next_room(self.room, read);
        Ok(read)
    }

    /// As [`fill`](Self::fill), but waits for `limit` at most.
    ///
    /// # Errors
    /// `TimedOut`, and those of [`fill`](Self::fill).
    pub async fn fill_within(&mut self, limit: Duration) -> io::Result<usize> {
        self.fill_until(Instant::now().checked_add(limit)).await
    }

    /// As [`fill`](Self::fill), but waits no longer than `due`, if there is such a time.
    ///
    /// # Errors
    /// `TimedOut`, and those of [`fill`](Self::fill).
    pub async fn fill_until(&mut self, due: Option<Instant>) -> io::Result<usize> {
        let mut alarm = std::mem::take(&mut self.alarm);
        alarm.due = due;
        let result = {
            let mut fill = pin!(self.fill());
            poll_fn(|cx| match fill.as_mut().poll(cx) {
                Poll::Pending => alarm.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
                ready @ Poll::Ready(_) => ready,
            })
            .await
        };
        self.alarm = alarm;
        result
    }

    /// Gives memory back before a wait of unknown length.
    pub fn rest(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
            self.room = ROOM_MIN;
        }
    }
}

impl Writer {
    /// Returns the buffer that the next flush sends: for what is serialised.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Sends bytes, now or with the next flush.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() < WRITE_THROUGH {
            self.out.extend_from_slice(bytes);
            if self.out.len() >= GATHER {
                self.flush().await?;
            }
            return Ok(());
        }
        let mut rest = bytes;
        if self.is_tls {
            // A TLS session copies what it encrypts anyway.
            self.send().await?;
        }
        while !rest.is_empty() {
            let sent = self.write_some(rest).await?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    async fn send(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            self.write_some(&[]).await?;
        }
        if self.out.capacity() > GATHER {
            self.out = BytesMut::new();
        }
        Ok(())
    }

    /// Writes some of what was gathered and of `more`, and returns how much of `more` that was. What was sent is
    /// forgotten at once, so that nothing is sent twice if a write is cancelled.
    async fn write_some(&mut self, more: &[u8]) -> io::Result<usize> {
        self.alarm.set(self.patience);
        let Self { side, out, alarm, .. } = self;
        let sent = poll_fn(|cx| {
            let side: &mut (dyn AsyncWrite + Unpin + Send) = match side {
                WriteSide::Tcp(side) => side,
                WriteSide::Any(side) => side,
            };
            let side = Pin::new(side);
            // One piece at a time is cheaper where there is only one.
            let written = match (&out[..], more) {
                (out, []) => side.poll_write(cx, out),
                ([], more) => side.poll_write(cx, more),
                (out, more) => {
                    side.poll_write_vectored(cx, &[io::IoSlice::new(out), io::IoSlice::new(more)])
                }
            };
            match written {
                Poll::Pending => alarm.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
                ready @ Poll::Ready(_) => ready,
            }
        })
        .await?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.sends += 1;
        let of_out = sent.min(self.out.len());
        self.out.advance(of_out);
        Ok(sent - of_out)
    }

    /// Sends what was gathered.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.send().await?;
        match &mut self.side {
            WriteSide::Tcp(_) => Ok(()),
            WriteSide::Any(side) => side.flush().await,
        }
    }

    /// Sends what was gathered and closes this direction, without waiting long for either.
    pub async fn shutdown(&mut self) {
        let ending = async {
            self.send().await?;
            match &mut self.side {
                WriteSide::Tcp(side) => side.shutdown().await,
                WriteSide::Any(side) => side.shutdown().await,
            }
        };
        // The connection ends here; that it already has, or does not listen, is no news.
        let _ = timeout(LINGER, ending).await;
    }

    /// Forgets what was gathered: it belongs to a message that is given up.
    pub fn discard(&mut self) {
        self.out.clear();
    }

    /// Sets how long a peer may leave what is sent to it unread.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Returns a number that changes when something is sent.
    pub fn sends(&self) -> u64 {
        self.sends
    }

    /// Makes the end of the connection a reset rather than a proper close. A TLS session says its end itself, so
    /// leaving that out is enough there.
    pub fn reset_on_close(&self) {
        if let WriteSide::Tcp(side) = &self.side {
            let socket = socket2::SockRef::from(side.as_ref());
            // A connection that is gone needs no reset.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Gives the connection up without ending this direction first: its end is that of the reader.
    pub fn abandon(self) {
        if let WriteSide::Tcp(side) = self.side {
            side.forget();
        }
    }

    /// Gives memory back before a wait of unknown length.
    pub fn rest(&mut self) {
        if self.out.is_empty() && self.out.capacity() > 0 {
            self.out = BytesMut::new();
        }
    }
}

/// A timer for waits that hardly ever take long: setting it only notes the time, and the runtime's timer, once it is
/// running, is moved when it goes off too early.
#[derive(Default)]
struct Alarm {
    due: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    fn set(&mut self, limit: Duration) {
        self.due = Instant::now().checked_add(limit);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if due < sleep.deadline() {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

/// Copies both directions until both have ended, or neither had anything to say for `silence`.
///
/// # Errors
/// Those of the connections, and `TimedOut`.
pub async fn relay(
    client: (Reader, Writer),
    server: (Reader, Writer),
    silence: Duration,
) -> io::Result<()> {
    let (mut client_reader, mut client_writer) = client;
    let (mut server_reader, mut server_writer) = server;
    let pieces = AtomicU64::new(0);
    let up = copy(&mut client_reader, &mut server_writer, &pieces);
    let down = copy(&mut server_reader, &mut client_writer, &pieces);
    let watch = async {
        let mut seen = 0;
        loop {
            sleep(silence).await;
            let now = pieces.load(Ordering::Relaxed);
            if std::mem::replace(&mut seen, now) == now {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    };
    tokio::select! {
        ended = async { tokio::try_join!(up, down).map(|_| ()) } => ended,
        late = watch => late,
    }
}

async fn copy(from: &mut Reader, to: &mut Writer, pieces: &AtomicU64) -> io::Result<()> {
    loop {
        let bytes = from.buf.split();
        to.write(&bytes).await?;
        to.flush().await?;
        drop(bytes);
        if from.fill().await? == 0 {
            to.shutdown().await;
            return Ok(());
        }
        pieces.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls a future once and drops it if it is not ready.
pub(crate) fn poll_now<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// True if nothing is to be read: the peer neither sent something nor closed.
pub(crate) fn is_quiet(reader: &mut Reader) -> bool {
    reader.buf.is_empty() && !reader.eof && poll_now(reader.fill()).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> ((Reader, Writer), (Reader, Writer)) {
        let (a, b) = tokio::io::duplex(1 << 10);
        (split(Io::Any(Box::new(a)), BytesMut::new()), split(Io::Any(Box::new(b)), BytesMut::new()))
    }

    #[tokio::test]
    async fn small_pieces_wait_for_a_flush_and_large_ones_keep_order() {
        let ((_, mut writer), (mut reader, _other)) = pipe();
        let large = vec![7; WRITE_THROUGH * 2];
        let expected = [b"head".as_slice(), &large, b"tail"].concat();
        let write = async move {
            writer.write(b"head").await.unwrap();
            writer.write(&large).await.unwrap();
            writer.write(b"tail").await.unwrap();
            writer.flush().await.unwrap();
            writer.shutdown().await;
        };
        let read = async { while reader.fill().await.unwrap() > 0 {} };
        tokio::join!(write, read);
        assert_eq!(reader.buf, expected);
    }

    #[tokio::test]
    async fn relay_passes_half_closes() {
        let ((client_end, mut client_out), client) = pipe();
        let ((mut server_in, mut server_out), server) = pipe();
        let relayed = tokio::spawn(relay(client, server, Duration::from_mins(1)));
        client_out.write(b"ping").await.unwrap();
        client_out.shutdown().await;
        while server_in.fill().await.unwrap() > 0 {}
        assert_eq!(server_in.buf, "ping");
        server_out.write(b"pong").await.unwrap();
        server_out.shutdown().await;
        let mut client_end = client_end;
        while client_end.fill().await.unwrap() > 0 {}
        assert_eq!(client_end.buf, "pong");
        relayed.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_closed_connection_is_not_quiet() {
        let ((mut reader, _writer), (_r, mut writer)) = pipe();
        assert!(is_quiet(&mut reader));
        writer.shutdown().await;
        assert!(!is_quiet(&mut reader));
    }
}
