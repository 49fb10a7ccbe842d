//! HTTP/2 frame by frame: for peers that no library would be. Field sections are literals without indexing or Huffman
//! code (RFC 7541 §6.2.2), so that any byte can stand anywhere; nothing here checks what is sent.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::{Buf, BytesMut};
use mitm_testkit::{tls, wait::within};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Makes a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + payload.len());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Makes a field section.
pub(crate) fn section<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            integer(&mut out, 7, text.len());
            out.extend_from_slice(text);
        }
    }
    out
}

/// Appends a number with a prefix of so many bits (RFC 7541 §5.1).
fn integer(out: &mut Vec<u8>, prefix: u32, mut number: usize) {
    let limit = (1 << prefix) - 1;
    if number < limit {
        out.push(u8::try_from(number).unwrap());
        return;
    }
    out.push(u8::try_from(limit).unwrap());
    number -= limit;
    while number >= 128 {
        out.push(u8::try_from(number % 128).unwrap() | 0x80);
        number /= 128;
    }
    out.push(u8::try_from(number).unwrap());
}

/// A number as frames have it.
pub(crate) fn word(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// The pseudo headers of `GET /` to a name.
pub(crate) fn get(path: &'static str) -> Vec<(Vec<u8>, Vec<u8>)> {
    [(":method", "GET"), (":scheme", "http"), (":authority", "origin.test"), (":path", path)]
        .map(|(name, value)| (name.into(), value.into()))
        .into()
}

/// A frame that arrived.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Returns the error code of a reset or a good-bye.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload[at..at + 4].try_into().map(u32::from_be_bytes).unwrap()
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the status that a field section begins with. It must be the first of its connection that is not in the
    /// static table.
    pub(crate) fn status(&self) -> u16 {
        match *self.payload.as_slice() {
            [first @ 0x88..=0x8e, ..] => {
                [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)]
            }
            // Three digits, plain or in Huffman code.
            [0x48 | 0x08, 3, a, b, c, ..] => {
                std::str::from_utf8(&[a, b, c]).unwrap().parse().unwrap()
            }
            [0x48 | 0x08, len @ 0x82..=0x83, ref rest @ ..] => {
                digits(&rest[..usize::from(len & 0x7f)])
            }
            _ => panic!("no status: {:x?}", self.payload),
        }
    }
}

/// Decodes digits in Huffman code (RFC 7541, appendix B): 0 to 2 have five bits, the others six.
fn digits(code: &[u8]) -> u16 {
    let bits =
        code.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)) << (64 - 8 * code.len());
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let five = bits << at >> 59;
        let digit = if five <= 2 {
            at += 5;
            five
        } else {
            at += 6;
            (bits << (at - 6) >> 58) - 0b01_1001 + 3
        };
        number = number * 10 + u16::try_from(digit).unwrap();
    }
    number
}

/// One end of a connection.
pub(crate) struct Peer {
    reader: Box<dyn AsyncRead + Unpin + Send>,
    writer: Box<dyn AsyncWrite + Unpin + Send>,
    buffer: BytesMut,
}

impl Peer {
    /// Takes a connection; nothing is sent.
    pub(crate) fn over(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (reader, writer) = tokio::io::split(io);
        Self { reader: Box::new(reader), writer: Box::new(writer), buffer: BytesMut::new() }
    }

    /// Connects as a client, and sends the preface and these settings.
    pub(crate) async fn connect(to: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let tcp = TcpStream::connect(to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self::over(tcp).greeting(settings).await
    }

    /// The same in TLS, which must agree on h2.
    pub(crate) async fn connect_tls(to: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let tcp = TcpStream::connect(to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let connecting = TlsConnector::from(config).connect("origin.test".try_into().unwrap(), tcp);
        let tls = within("the handshake", connecting).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(tls).greeting(&[]).await
    }

    async fn greeting(mut self, settings: &[(u16, u32)]) -> Self {
        let mut hello = PREFACE.to_vec();
        hello.extend(Self::settings(settings));
        self.send(&hello).await.unwrap();
        self
    }

    pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &word(*value)].concat())
            .collect();
        frame(SETTINGS, 0, 0, &payload)
    }

    /// Sends bytes, which need not be whole frames.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("sending", async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        })
        .await
    }

    /// Sends a request without body.
    pub(crate) async fn request(&mut self, stream: u32, path: &'static str) -> io::Result<()> {
        let request = frame(HEADERS, END_HEADERS | END_STREAM, stream, &section(&get(path)));
        self.send(&request).await
    }

    /// Returns the next frame, `None` at the end of the connection. Settings and pings are answered.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = within("a frame", self.read()).await?;
            match frame.kind {
                SETTINGS if !frame.has(ACK) => {
                    let _ = self.send(&self::frame(SETTINGS, ACK, 0, &[])).await;
                }
                PING if !frame.has(ACK) => {
                    let _ = self.send(&self::frame(PING, ACK, 0, &frame.payload)).await;
                }
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// Returns the next frame, whatever it is.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        while self.buffer.len() < 9 || self.buffer.len() < 9 + self.length() {
            if !matches!(self.reader.read_buf(&mut self.buffer).await, Ok(1..)) {
                return None;
            }
        }
        let length = self.length();
        let (kind, flags) = (self.buffer[3], self.buffer[4]);
        let stream = u32::from_be_bytes(self.buffer[5..9].try_into().unwrap()) & !(1 << 31);
        self.buffer.advance(9);
        let payload = self.buffer.split_to(length).to_vec();
        Some(Frame { kind, flags, stream, payload })
    }

    fn length(&self) -> usize {
        usize::from(self.buffer[0]) << 16
            | usize::from(self.buffer[1]) << 8
            | usize::from(self.buffer[2])
    }

    /// Sends bytes that the other end need not take, and reads until it has ended the connection; returns the code of
    /// its GOAWAY.
    pub(crate) async fn pour(&mut self, bytes: &[u8]) -> Option<u32> {
        let Self { reader, writer, buffer } = self;
        let mut writing = std::pin::pin!(writer.write_all(bytes));
        let mut is_written = false;
        loop {
            tokio::select! {
                read = reader.read_buf(buffer) => match read {
                    Ok(1..) => {}
                    _ => break,
                },
                _ = &mut writing, if !is_written => is_written = true,
            }
        }
        self.ended().await
    }

    /// Waits for the end of the connection; returns the code of the last GOAWAY, if there was one.
    pub(crate) async fn ended(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }

    /// Skips a client's preface.
    pub(crate) async fn expect_preface(&mut self) {
        while self.buffer.len() < PREFACE.len() {
            if !matches!(self.reader.read_buf(&mut self.buffer).await, Ok(1..)) {
                return;
            }
        }
        assert_eq!(&self.buffer[..PREFACE.len()], PREFACE);
        self.buffer.advance(PREFACE.len());
    }
}

/// A client's configuration that wants h2.
pub(crate) fn h2_only(trust: &str) -> Arc<ClientConfig> {
    tls::client_config(trust, &["h2"])
}

#[test]
fn digits_are_decoded() {
    // From RFC 7541 §C.6: 302 and 307.
    assert_eq!((digits(&[0x64, 0x02]), digits(&[0x64, 0x0e, 0xff])), (302, 307));
    assert_eq!(section(&[("a", "x".repeat(200))])[..6], [0, 1, b'a', 127, 73, b'x']);
}
