//! Copying between two connections that nobody looks into.
//!
//! Where the system can (Linux, `splice(2)`), the bytes of two plain TCP connections stay in the kernel: they move from
//! one socket to a pipe, and from there to the other. Elsewhere, and for anything else, this is [`io::relay`].
//!
//! A pipe costs two descriptors, so it is borrowed for as long as bytes are on their way and then goes to the next
//! connection: idle connections have none. There is a fixed number of them. If all are in use, by receivers that do not
//! read, bytes are copied the ordinary way.

use std::{io::Result, time::Duration};

use bytes::BytesMut;

use crate::io::{self, Io, Reader, Writer};

/// Copies both directions until both have ended, or neither had anything to say for `silence`. What was read already and
/// what waits to be sent goes first.
///
/// # Errors
/// Those of the connections, and `TimedOut`.
pub(crate) async fn pass(
    client: (Reader, Writer),
    server: (Reader, Writer),
    silence: Duration,
) -> Result<()> {
    let (mut client_reader, mut client_writer) = client;
    let (mut server_reader, mut server_writer) = server;
    client_writer.set_patience(silence);
    server_writer.set_patience(silence);
    let up = forward(&mut client_reader, &mut server_writer);
    let down = forward(&mut server_reader, &mut client_writer);
    tokio::try_join!(up, down)?;
    // Nothing is left to be sent or in a buffer now, so the connections can be taken as they are.
    let (client, _) = io::join(client_reader, client_writer);
    let (server, _) = io::join(server_reader, server_writer);
    match (client, server) {
        (Io::Tcp(client), Io::Tcp(server)) => splice(client, server, silence).await,
        (client, server) => relay(client, server, silence).await,
    }
}

/// Sends what was read already.
async fn forward(from: &mut Reader, to: &mut Writer) -> Result<()> {
    let bytes = from.buf.split();
    to.write(&bytes).await?;
    to.flush().await
}

async fn relay(client: Io, server: Io, silence: Duration) -> Result<()> {
    let mut client = io::split(client, BytesMut::new());
    let mut server = io::split(server, BytesMut::new());
    client.1.set_patience(silence);
    server.1.set_patience(silence);
    io::relay(client, server, silence).await
}

/// Copies both directions between two TCP connections until both have ended, or neither had anything to say for
/// `silence`.
///
/// # Errors
/// Those of the connections, and `TimedOut`.
#[cfg(not(target_os = "linux"))]
pub(crate) async fn splice(
    client: tokio::net::TcpStream,
    server: tokio::net::TcpStream,
    silence: Duration,
) -> Result<()> {
    relay(Io::Tcp(client), Io::Tcp(server), silence).await
}

#[cfg(target_os = "linux")]
pub(crate) use in_kernel::splice;

#[cfg(target_os = "linux")]
mod in_kernel {
    use std::{
        io::{self, ErrorKind, Result},
        net::Shutdown,
        os::fd::OwnedFd,
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use nix::{
        errno::Errno,
        fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl},
        unistd::pipe2,
    };
    use parking_lot::Mutex;
    use socket2::SockRef;
    use tokio::{io::Interest, net::TcpStream, time::sleep};

    /// How many pipes there are at most.
    const PIPES: usize = 64;
    /// How much a pipe holds, if the system allows it.
    const PIPE_SIZE: i32 = 256 << 10;
    /// How much is copied at once where no pipe is to be had.
    const PIECE: usize = 32 << 10;

    /// Copies both directions between two TCP connections until both have ended, or neither had anything to say for
    /// `silence`.
    ///
    /// # Errors
    /// Those of the connections, and `TimedOut`.
    pub(crate) async fn splice(
        client: TcpStream,
        server: TcpStream,
        silence: Duration,
    ) -> Result<()> {
        let moved = AtomicU64::new(0);
        let up = one_way(&client, &server, &moved);
        let down = one_way(&server, &client, &moved);
        let watch = async {
            let mut seen = 0;
            loop {
                sleep(silence).await;
                let now = moved.load(Ordering::Relaxed);
                if std::mem::replace(&mut seen, now) == now {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
        };
        tokio::select! {
            ended = async { tokio::try_join!(up, down).map(|_| ()) } => ended,
            late = watch => late,
        }
    }

    async fn one_way(from: &TcpStream, to: &TcpStream, moved: &AtomicU64) -> Result<()> {
        loop {
            from.readable().await?;
            let ended = match Pipe::borrow(&POOL) {
                Some(mut pipe) => through(&mut pipe, from, to, moved).await,
                None => copied(from, to, moved).await,
            };
            match ended {
                Ok(Progress::Waits) => {}
                Ok(Progress::Ended) => {
                    // The peer may be gone already; then its own direction says so.
                    let _ = SockRef::from(to).shutdown(Shutdown::Write);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How a direction stands when it lets go of its pipe.
    enum Progress {
        /// There is nothing to read at present.
        Waits,
        Ended,
    }

    /// Moves what there is. Leaves the pipe empty, unless it fails.
    async fn through(
        pipe: &mut Pipe,
        from: &TcpStream,
        to: &TcpStream,
        moved: &AtomicU64,
    ) -> Result<Progress> {
        loop {
            let read = from.try_io(Interest::READABLE, || pipe.fill(from));
            match read {
                Ok(0) => return Ok(Progress::Ended),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waits),
                // A kind of socket or a kernel that cannot do this.
                Err(error) if cannot(&error) => return copied(from, to, moved).await,
                Err(error) => return Err(error),
            }
            while pipe.held > 0 {
                match to.async_io(Interest::WRITABLE, || pipe.drain(to)).await {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(_) => moved.fetch_add(1, Ordering::Relaxed),
                    Err(error) => return Err(error),
                };
            }
            // A fast sender would keep this thread to itself otherwise.
            tokio::task::consume_budget().await;
        }
    }

    fn cannot(error: &io::Error) -> bool {
        let code = error.raw_os_error().map(Errno::from_raw);
        matches!(code, Some(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM))
    }

    /// Copies one piece by way of this program.
    async fn copied(from: &TcpStream, to: &TcpStream, moved: &AtomicU64) -> Result<Progress> {
        let mut piece = vec![0; PIECE];
        let read = match from.try_read(&mut piece) {
            Ok(0) => return Ok(Progress::Ended),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waits),
            Err(error) => return Err(error),
        };
        let mut rest = piece.get(..read).unwrap_or_default();
        while !rest.is_empty() {
            to.writable().await?;
            match to.try_write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    moved.fetch_add(1, Ordering::Relaxed);
                    rest = rest.get(sent..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        tokio::task::consume_budget().await;
        Ok(Progress::Waits)
    }

    static POOL: Pool = Pool { pipes: Mutex::new(Pipes { idle: Vec::new(), lent: 0 }) };

    struct Pool {
        pipes: Mutex<Pipes>,
    }

    struct Pipes {
        idle: Vec<Ends>,
        lent: usize,
    }

    /// A pipe's readable and its writable end.
    struct Ends(OwnedFd, OwnedFd);

    /// A pipe of the pool. It goes back there if it is empty.
    struct Pipe {
        pool: &'static Pool,
        /// Taken only when this is dropped.
        ends: Option<Ends>,
        /// How many bytes are in it.
        held: usize,
        /// How many fit.
        room: usize,
    }

    impl Pipe {
        fn borrow(pool: &'static Pool) -> Option<Self> {
            let idle = {
                let mut pipes = pool.pipes.lock();
                if pipes.lent >= PIPES {
                    return None;
                }
                pipes.lent += 1;
                pipes.idle.pop()
            };
            // From here on dropping it counts it back.
            let mut pipe = Self { pool, ends: idle, held: 0, room: PIPE_SIZE as usize };
            if pipe.ends.is_none() {
                // Without a descriptor to spare, it goes without.
                let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
                // What it holds by default serves too.
                let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
                pipe.ends = Some(Ends(read, write));
            }
            Some(pipe)
        }

        /// Moves bytes from a socket into the empty pipe; 0 at the end of the stream.
        fn fill(&mut self, from: &TcpStream) -> Result<usize> {
            let Some(Ends(_, write)) = &self.ends else { return Err(ErrorKind::BrokenPipe.into()) };
            let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
            let moved = retry(|| nix::fcntl::splice(from, None, write, None, self.room, flags))?;
            self.held += moved;
            Ok(moved)
        }

        /// Moves bytes from the pipe into a socket.
        fn drain(&mut self, to: &TcpStream) -> Result<usize> {
            let Some(Ends(read, _)) = &self.ends else { return Err(ErrorKind::BrokenPipe.into()) };
            let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
            let moved = retry(|| nix::fcntl::splice(read, None, to, None, self.held, flags))?;
            self.held = self.held.saturating_sub(moved);
            Ok(moved)
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            // One that holds something still is closed.
            let ends = self.ends.take().filter(|_| self.held == 0);
            let mut pipes = self.pool.pipes.lock();
            pipes.lent -= 1;
            pipes.idle.extend(ends);
        }
    }

    fn retry(mut call: impl FnMut() -> nix::Result<usize>) -> Result<usize> {
        loop {
            match call() {
                Err(Errno::EINTR) => {}
                result => return result.map_err(io::Error::from),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, net::Ipv4Addr};

    use socket2::SockRef;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        task::JoinHandle,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (near, far) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// A client and a server with the copying between them.
    async fn joined(silence: Duration) -> (TcpStream, TcpStream, JoinHandle<Result<()>>) {
        let (client, client_far) = pair().await;
        let (server, server_far) = pair().await;
        let client_far = io::split(Io::Tcp(client_far), BytesMut::from("early "));
        let mut server_far = io::split(Io::Tcp(server_far), BytesMut::new());
        server_far.1.out().extend_from_slice(b"very ");
        (client, server, tokio::spawn(pass(client_far, server_far, silence)))
    }

    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn both_ways_to_the_end() {
        let (mut client, mut server, done) = joined(LONG).await;
        let up: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let down: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 241) as u8).collect();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let (mut up_read, mut down_read) = (Vec::new(), Vec::new());
        tokio::join!(
            async {
                to_client.write_all(&up).await.unwrap();
                to_client.shutdown().await.unwrap();
            },
            async {
                to_server.write_all(&down).await.unwrap();
                to_server.shutdown().await.unwrap();
            },
            async { from_client.read_to_end(&mut down_read).await.unwrap() },
            async { from_server.read_to_end(&mut up_read).await.unwrap() },
        );
        assert_eq!(up_read, [b"very early ", &up[..]].concat());
        assert!(down_read == down);
        done.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_end_goes_one_way_only() {
        let (mut client, mut server, done) = joined(LONG).await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "very early question");
        assert!(!done.is_finished());
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
        done.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reset_ends_it() {
        let (client, mut server, done) = joined(LONG).await;
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(done.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
        let mut rest = Vec::new();
        // What came before the reset is there; whether it also reset this side is not the point.
        let _ = server.read_to_end(&mut rest).await;
    }

    #[tokio::test]
    async fn silence_ends_it() {
        let (_client, _server, done) = joined(Duration::from_millis(20)).await;
        assert_eq!(done.await.unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
    }

    /// Receivers that do not read hold all pipes; the others do without.
    #[tokio::test]
    async fn without_a_pipe() {
        let piece = vec![0; 64 << 10];
        let mut held = Vec::new();
        for _ in 0..66 {
            let (client, server, done) = joined(LONG).await;
            // Enough to fill the buffers on the way, so that the pipe is not empty.
            while let Ok(1..) = client.try_write(&piece) {
                tokio::task::yield_now().await;
            }
            held.push((client, server, done));
        }
        let (mut client, mut server, done) = joined(LONG).await;
        client.write_all(b"through").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "very early through");
        drop(server);
        done.await.unwrap().unwrap();
        for (client, server, done) in held {
            drop((client, server));
            // It fails with a reset or ends, whichever is noticed first.
            let _ = done.await.unwrap();
        }
    }

    #[tokio::test]
    async fn other_streams_are_relayed() {
        let (mut client, client_far) = pair().await;
        let (mut server, server_far) = tokio::io::duplex(100);
        let halves = (
            io::split(Io::Tcp(client_far), BytesMut::new()),
            io::split(Io::Any(Box::new(server_far)), BytesMut::from("greeting")),
        );
        let done = tokio::spawn(pass(halves.0, halves.1, LONG));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        server.shutdown().await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "greeting");
        done.await.unwrap().unwrap();
    }
}
