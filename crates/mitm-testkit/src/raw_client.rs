//! A client that sends exactly the bytes it is given and hands back exactly what came.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::naive::{self, Message, Trust};
use crate::wait::within;

/// One connection. Waits fail the test after [`PATIENCE`](crate::wait::PATIENCE).
pub struct RawClient {
    stream: Box<dyn Stream>,
    socket: Socket,
    buffer: Vec<u8>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl RawClient {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens there.
    pub async fn connect(address: impl Into<SocketAddr>) -> Self {
        let stream = within("connecting", TcpStream::connect(address.into()));
        let stream = stream.await.expect("somebody listens at the address");
        stream.set_nodelay(true).expect("an option of a fresh socket");
        let socket = stream.as_fd().try_clone_to_owned().expect("a free file descriptor");
        Self { stream: Box::new(stream), socket: socket.into(), buffer: Vec::new() }
    }

    /// Opens a tunnel to `target` (host:port) through the proxy it is connected to.
    ///
    /// # Errors
    /// The proxy's answer, when it is not a 200.
    pub async fn tunnel(&mut self, target: &str) -> Result<(), Message> {
        self.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
        // whatever the answer to a CONNECT says, it has no body when it succeeds
        let head = self.read_until(b"\r\n\r\n").await;
        let answer = Message { head, body: Vec::new() };
        if answer.status() == 200 {
            return Ok(());
        }
        let length = answer.header("content-length").first().and_then(|value| value.parse().ok());
        let body = self.read_exactly(length.unwrap_or(0)).await;
        Err(Message { body, ..answer })
    }

    /// Starts TLS on the connection, with this server name.
    ///
    /// # Errors
    /// When the handshake fails, for instance for want of trust.
    pub async fn start_tls(self, config: Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let handshake = TlsConnector::from(config).connect(name, self.stream);
        let stream = within("the handshake", handshake).await?;
        Ok(Self { stream: Box::new(stream), socket: self.socket, buffer: Vec::new() })
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// When the peer has closed; [`RawClient::try_send`] says so instead.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the peer still reads");
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the peer has closed.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within("sending", async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Sends a request and reads its answer.
    pub async fn request(&mut self, bytes: impl AsRef<[u8]>) -> Message {
        self.send(bytes).await;
        self.response().await
    }

    /// Reads one response. Its body ends as its head says, or with the connection.
    ///
    /// An answer to HEAD must be read with [`RawClient::read_until`], since its head tells a length.
    pub async fn response(&mut self) -> Message {
        loop {
            if let Some(end) = naive::find(&self.buffer, b"\r\n\r\n") {
                if !delimited(&self.buffer[..end]) {
                    let all = self.read_to_end().await;
                    return Message { head: all[..end].to_vec(), body: all[end + 4..].to_vec() };
                }
                if let Some((message, used)) = naive::first(&self.buffer, Trust::TransferEncoding) {
                    self.buffer.drain(..used);
                    return message;
                }
            }
            assert!(
                self.fill().await,
                "the connection ended within a response: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Reads up to and including a byte string. What came behind it stays for the next call.
    ///
    /// # Panics
    /// When the connection ends before.
    pub async fn read_until(&mut self, needle: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = naive::find(&self.buffer, needle) {
                return self.buffer.drain(..at + needle.len()).collect();
            }
            assert!(
                self.fill().await,
                "the connection ended before {:?}: {:?}",
                String::from_utf8_lossy(needle),
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Reads this many bytes, or fewer if the connection ends.
    pub async fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.fill().await {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// Reads until the peer closes. A reset counts as an end.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Says whether nothing arrives for this long and the connection stays open.
    pub async fn is_quiet_for(&mut self, time: Duration) -> bool {
        self.buffer.is_empty() && tokio::time::timeout(time, self.fill()).await.is_err()
    }

    /// Closes the sending side and stays to read.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.ok();
    }

    /// Closes with a reset.
    pub fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).ok();
    }

    /// Reads more into the buffer and says whether anything came.
    async fn fill(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.buffer);
        matches!(within("the peer's bytes", read).await, Ok(count) if count > 0)
    }
}

/// Says whether a response head tells where the body ends.
fn delimited(head: &[u8]) -> bool {
    let message = Message { head: head.to_vec(), body: Vec::new() };
    let status = message.status();
    !naive::framings(head).is_empty() || status < 200 || status == 204 || status == 304
}
