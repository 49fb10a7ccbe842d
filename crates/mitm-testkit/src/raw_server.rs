//! An origin that follows a script to the byte.
//!
//! Each accepted connection gets the list of [`Step`]s that the test's function returns for its
//! number (0 is the first). All that arrives is noted per connection, whether or not the script
//! waits for it, until the script ends; [`Step::StopReading`] lets the peer feel backpressure.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustls::ServerConfig;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::naive::{self, Message, Trust};
use crate::wait::until;

/// What a scripted origin does next on a connection.
#[derive(Clone, Debug)]
pub enum Step {
    /// Wait for one more complete request, as a lenient parser sees it.
    Request,
    /// Wait until this many bytes arrived on the connection in all.
    Bytes(usize),
    /// Wait until the peer has closed its side.
    End,
    /// Send these bytes.
    Send(Vec<u8>),
    /// Let time pass, for answers that come in pieces.
    Pause(Duration),
    /// Go on at the first step.
    Again,
    /// Leave what arrives in the socket's buffers.
    StopReading,
    /// Read again.
    GoOnReading,
    /// Close the sending side and go on reading.
    Finish,
    /// Close with a reset.
    Reset,
    /// Close. The end of a script does the same.
    Close,
}

/// The steps of one connection.
pub type Script = Vec<Step>;

/// A listening origin; it stops when dropped.
pub struct RawServer {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    received: Mutex<Vec<Vec<u8>>>,
    open: AtomicUsize,
}

impl State {
    fn received(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.received.lock().expect("nobody panics while noting bytes")
    }
}

impl RawServer {
    /// Listens on a free loopback port and gives each connection its script.
    pub async fn start(script: impl Fn(usize) -> Script + Send + Sync + 'static) -> Self {
        Self::listen(None, script).await
    }

    /// The same behind TLS; what is noted is the plain text.
    pub async fn start_tls(
        config: Arc<ServerConfig>,
        script: impl Fn(usize) -> Script + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(TlsAcceptor::from(config)), script).await
    }

    /// Sends the same bytes for every request and keeps the connection.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_| vec![Step::Request, Step::Send(answer.clone()), Step::Again]).await
    }

    /// Sends the same bytes for the first request of a connection and closes it.
    pub async fn answering_once(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_| vec![Step::Request, Step::Send(answer.clone()), Step::Close]).await
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns how many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.state.received().len()
    }

    /// Returns how many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Returns all bytes that arrived, per connection in the order of acceptance.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.state.received().clone()
    }

    /// Returns the complete requests that a parser with this trust sees, over all connections.
    pub fn requests_by(&self, trust: Trust) -> Vec<Message> {
        self.received().iter().flat_map(|bytes| naive::messages(bytes, trust).0).collect()
    }

    /// Returns the complete requests by the RFC's reading.
    pub fn requests(&self) -> Vec<Message> {
        self.requests_by(Trust::TransferEncoding)
    }

    /// Waits until this many requests have arrived in all.
    pub async fn wait_for_requests(&self, count: usize) {
        until(&format!("{count} requests at the origin"), || self.requests().len() >= count).await;
    }

    async fn listen(
        acceptor: Option<TlsAcceptor>,
        script: impl Fn(usize) -> Script + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State::default());
        let accepting = tokio::spawn(accept(listener, acceptor, script, Arc::clone(&state)));
        Self { address, state, accepting }
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        // the connections are owned by this task and end with it
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    script: impl Fn(usize) -> Script,
    state: Arc<State>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = {
            let mut received = state.received();
            received.push(Vec::new());
            received.len() - 1
        };
        let steps = script(number);
        let acceptor = acceptor.clone();
        let state = Arc::clone(&state);
        connections.spawn(async move {
            state.open.fetch_add(1, Ordering::SeqCst);
            // a peer that goes away, or does not trust the certificate, just ends the conversation
            converse(stream, acceptor, &steps, number, &state).await.ok();
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn converse(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    steps: &[Step],
    number: usize,
    state: &State,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // a second handle on the socket, to reset it when the stream is out of reach
    let socket = Socket::from(stream.as_fd().try_clone_to_owned()?);
    match acceptor {
        None => follow(stream, socket, steps, number, state).await,
        Some(acceptor) => {
            let stream = acceptor.accept(stream).await?;
            follow(stream, socket, steps, number, state).await
        }
    }
}

/// Reads and follows the script at once; ends with the script.
async fn follow(
    stream: impl AsyncRead + AsyncWrite,
    socket: Socket,
    steps: &[Step],
    number: usize,
    state: &State,
) -> io::Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let reading = Reading::new(number, state);
    let result = tokio::select! {
        result = act(&mut writer, steps, &reading) => result,
        never = reading.run(reader) => match never {},
    };
    if let Ok(Ending::Reset) = result {
        socket.set_linger(Some(Duration::ZERO))?;
        return Ok(());
    }
    writer.shutdown().await
}

enum Ending {
    Close,
    Reset,
}

async fn act(
    writer: &mut (impl AsyncWrite + Unpin),
    steps: &[Step],
    reading: &Reading<'_>,
) -> io::Result<Ending> {
    let mut requests = 0;
    let mut next = 0;
    while let Some(step) = steps.get(next) {
        next += 1;
        match step {
            Step::Request => {
                requests += 1;
                reading.wait(|bytes| complete_requests(bytes) >= requests).await?;
            }
            Step::Bytes(count) => reading.wait(|bytes| bytes.len() >= *count).await?,
            Step::End => reading.wait_for_end().await,
            Step::Send(bytes) => {
                writer.write_all(bytes).await?;
                writer.flush().await?;
            }
            Step::Pause(time) => tokio::time::sleep(*time).await,
            Step::Again => next = 0,
            Step::StopReading => reading.paused.store(true, Ordering::SeqCst),
            Step::GoOnReading => {
                reading.paused.store(false, Ordering::SeqCst);
                reading.resumed.notify_one();
            }
            Step::Finish => writer.shutdown().await?,
            Step::Reset => return Ok(Ending::Reset),
            Step::Close => return Ok(Ending::Close),
        }
    }
    Ok(Ending::Close)
}

fn complete_requests(bytes: &[u8]) -> usize {
    naive::messages(bytes, Trust::TransferEncoding).0.len()
}

/// The incoming side of one connection.
struct Reading<'a> {
    number: usize,
    state: &'a State,
    /// Signalled after each arrival and at the end.
    arrived: Notify,
    resumed: Notify,
    ended: AtomicBool,
    paused: AtomicBool,
}

impl<'a> Reading<'a> {
    fn new(number: usize, state: &'a State) -> Self {
        Self {
            number,
            state,
            arrived: Notify::new(),
            resumed: Notify::new(),
            ended: AtomicBool::new(false),
            paused: AtomicBool::new(false),
        }
    }

    /// Notes what arrives, for ever: the script decides when the connection is over.
    async fn run(&self, mut reader: impl AsyncRead + Unpin) -> Infallible {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            while self.paused.load(Ordering::SeqCst) {
                self.resumed.notified().await;
            }
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    self.state.received()[self.number].extend_from_slice(&buffer[..count]);
                    self.arrived.notify_one();
                }
            }
        }
        self.ended.store(true, Ordering::SeqCst);
        self.arrived.notify_one();
        std::future::pending().await
    }

    async fn wait(&self, enough: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        loop {
            // the flag first: what arrived before the end is looked at once more
            let ended = self.ended.load(Ordering::SeqCst);
            if enough(&self.state.received()[self.number]) {
                return Ok(());
            }
            if ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.arrived.notified().await;
        }
    }

    async fn wait_for_end(&self) {
        while !self.ended.load(Ordering::SeqCst) {
            self.arrived.notified().await;
        }
    }
}
