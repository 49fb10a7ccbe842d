//! WebSocket connections through the proxy, frame by frame.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use mitm_codec::websocket::{
    DeflateParams, Deflater, FrameHeader, OpCode, Options, Received, Receiver, Sender,
    parse_extensions, write_frame,
};
use mitm_flow::{Body, FlowError, FlowRef, Opcode, WebSocketData, WebSocketMessage};
use mitm_proxy::{Event, Hook, InjectError, Settings, hooks::Need};
use mitm_testkit::wait::{until, within};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
};

use crate::harness::{Proxied, Setup};

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One end of a connection.
struct Peer {
    stream: Box<dyn Stream>,
    buf: BytesMut,
    is_client: bool,
}

impl Peer {
    fn new(stream: impl Stream + 'static, is_client: bool) -> Self {
        Self { stream: Box::new(stream), buf: BytesMut::new(), is_client }
    }

    async fn send_raw(&mut self, bytes: &[u8]) {
        within("sending", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Sends a frame with this first byte.
    async fn send(&mut self, first: u8, payload: &[u8]) {
        let mask = self.is_client.then_some([3, 1, 4, 1]);
        let header = FrameHeader { opcode: OpCode::Text, fin: true, rsv1: false };
        let mut out = BytesMut::new();
        write_frame(&mut out, header, payload, mask);
        out[0] = first;
        self.send_raw(&out).await;
    }

    async fn fill(&mut self) -> usize {
        within("the peer's bytes", self.stream.read_buf(&mut self.buf)).await.unwrap_or(0)
    }

    /// Receives a frame: its first byte and its payload. `None` if the connection ended before.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((first, payload, len)) = self.parse() {
                let _ = self.buf.split_to(len);
                return Some((first, payload));
            }
            if self.fill().await == 0 {
                assert!(self.buf.is_empty(), "the connection ended in a frame");
                return None;
            }
        }
    }

    fn parse(&self) -> Option<(u8, Vec<u8>, usize)> {
        let (&first, &second) = (self.buf.first()?, self.buf.get(1)?);
        let (len, at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*self.buf.get(2..)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*self.buf.get(2..)?.first_chunk()?), 10),
            len => (u64::from(len), 2),
        };
        let len = usize::try_from(len).unwrap();
        // What a client gets is not masked, what a server gets is.
        assert_eq!(second & 0x80 != 0, !self.is_client, "masking");
        let (key, at) = if self.is_client {
            ([0; 4], at)
        } else {
            (*self.buf.get(at..)?.first_chunk::<4>()?, at + 4)
        };
        let masked = self.buf.get(at..at + len)?;
        let payload = masked.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        Some((first, payload, at + len))
    }

    async fn expect(&mut self, first: u8, payload: &[u8]) {
        let (found, content) = self.frame().await.expect("a frame");
        assert_eq!((found, Bytes::from(content)), (first, Bytes::copy_from_slice(payload)));
    }

    async fn expect_close(&mut self, code: u16) {
        let (first, payload) = self.frame().await.expect("a close frame");
        assert_eq!(first, CLOSE);
        assert_eq!(payload[..2], code.to_be_bytes());
    }

    async fn expect_end(&mut self) {
        assert_eq!(self.frame().await, None);
    }
}

/// A proxy with a connection through it.
struct Connection {
    proxy: Proxied,
    client: Peer,
    server: Peer,
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a head", stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

impl Connection {
    async fn new(setup: Setup) -> Self {
        Self::with_extensions(setup, "").await
    }

    async fn with_extensions(setup: Setup, extensions: &str) -> Self {
        // Somebody records.
        Self::start(Setup { need: Need::Tee, ..setup }, extensions).await
    }

    async fn start(setup: Setup, extensions: &str) -> Self {
        let proxy = setup.start().await;
        let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let address = origin.local_addr().unwrap();
        let request = format!(
            "GET http://{address}/chat HTTP/1.1\r\nHost: {address}\r\nUpgrade: WebSocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate, x-other\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        let (mut server, _) = within("the proxy's connection", origin.accept()).await.unwrap();
        let asked = head(&mut server).await;
        assert!(asked.contains("permessage-deflate, x-other"), "{asked}");
        let extensions = match extensions {
            "" => String::new(),
            some => format!("Sec-WebSocket-Extensions: {some}\r\n"),
        };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{extensions}\r\n"
        );
        server.write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(head(&mut client).await, answer);
        Self { proxy, client: Peer::new(client, true), server: Peer::new(server, false) }
    }

    fn flow(&self) -> FlowRef {
        self.proxy.flow(0)
    }

    /// Waits for the end, and returns what the flow then knows.
    async fn data(&self) -> WebSocketData {
        self.proxy.wait_for_hook(Hook::WebsocketEnd).await;
        until("the flow's end", || !self.flow().is_live()).await;
        assert_eq!(self.hooks(Hook::WebsocketEnd), 1);
        self.flow().websocket().unwrap().get()
    }

    fn hooks(&self, hook: Hook) -> usize {
        self.proxy.hooks().iter().filter(|name| *name == hook.name()).count()
    }

    /// What was said, as (from the client, opcode, content).
    fn messages(&self) -> Vec<(bool, Opcode, Bytes)> {
        let data = self.flow().websocket().unwrap().get();
        let content = |message: WebSocketMessage| {
            (message.from_client, message.opcode, message.content.bytes().unwrap().unwrap())
        };
        data.messages.iter().map(|message| content(message.get())).collect()
    }

    /// Closes from the client's side.
    async fn close(&mut self) {
        self.client.send(CLOSE, b"\x03\xe8").await;
        self.server.expect(CLOSE, b"\x03\xe8").await;
        self.server.send(CLOSE, b"\x03\xe8").await;
        self.client.expect(CLOSE, b"\x03\xe8").await;
        self.client.expect_end().await;
        self.server.expect_end().await;
        let data = self.data().await;
        assert_eq!((data.close_code, data.closed_by_client), (Some(1000), Some(true)));
    }
}

fn last(flow: &FlowRef) -> mitm_flow::Shared<WebSocketMessage> {
    flow.websocket().unwrap().with(|data| data.messages.last().unwrap().clone())
}

/// A setup that changes messages.
fn editing(edit: impl Fn(&mut WebSocketMessage) + Send + Sync + 'static) -> Setup {
    Setup::reacting(move |event| {
        if let Event::WebsocketMessage(flow) = event {
            last(flow).update(|message| edit(message));
        }
    })
}

#[tokio::test]
async fn messages_are_forwarded_and_recorded() {
    let mut connection = Connection::new(Setup::default()).await;
    let Connection { client, server, .. } = &mut connection;
    client.send(FIN | TEXT, "grüße".as_bytes()).await;
    server.expect(FIN | TEXT, "grüße".as_bytes()).await;
    server.send(FIN | BINARY, b"\0\xff").await;
    client.expect(FIN | BINARY, b"\0\xff").await;
    client.send(FIN | TEXT, b"").await;
    server.expect(FIN | TEXT, b"").await;
    client.send(PING, b"are you there").await;
    server.expect(PING, b"are you there").await;
    server.send(PONG, b"are you there").await;
    client.expect(PONG, b"are you there").await;
    connection.close().await;
    assert_eq!(
        connection.messages(),
        [
            (true, Opcode::Text, "grüße".into()),
            (false, Opcode::Binary, Bytes::from_static(b"\0\xff")),
            (true, Opcode::Text, Bytes::new()),
        ]
    );
    let hooks = connection.proxy.hooks();
    let at = hooks.iter().position(|hook| hook == "responseheaders").unwrap();
    assert_eq!(
        hooks[at..at + 7],
        [
            "responseheaders",
            "response",
            "websocket_start",
            "websocket_message",
            "websocket_message",
            "websocket_message",
            "websocket_end"
        ]
    );
    assert!(!hooks.contains(&"error".to_owned()));
}

#[tokio::test]
async fn the_flow_has_its_websocket_in_the_response_hook() {
    let seen = Arc::new(AtomicUsize::new(0));
    let setup = Setup::reacting({
        let seen = Arc::clone(&seen);
        move |event| {
            if let Event::Response(flow) = event
                && flow.websocket().is_some()
            {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let mut connection = Connection::new(setup).await;
    connection.close().await;
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn fragments_are_kept_and_control_frames_pass_between_them() {
    let mut connection = Connection::new(Setup::default()).await;
    let Connection { client, server, .. } = &mut connection;
    client.send(TEXT, b"fra").await;
    client.send(0, b"").await;
    client.send(PING, b"between").await;
    server.expect(PING, b"between").await;
    client.send(0, b"gmen").await;
    client.send(FIN, b"ts").await;
    server.expect(TEXT, b"fra").await;
    server.expect(0, b"").await;
    server.expect(0, b"gmen").await;
    server.expect(FIN, b"ts").await;
    connection.close().await;
    assert_eq!(connection.messages(), [(true, Opcode::Text, "fragments".into())]);
}

#[tokio::test]
async fn changed_messages_are_sent_instead() {
    let setup = editing(|message| {
        let content = message.content.bytes().unwrap().unwrap();
        message.content = match &content[..] {
            b"same length" => Bytes::from_static(b"SAME LENGTH").into(),
            b"long" => vec![b'x'; 8001].into(),
            _ => content.into(),
        };
    });
    let mut connection = Connection::new(setup).await;
    let Connection { client, server, .. } = &mut connection;
    client.send(BINARY, b"same ").await;
    client.send(FIN, b"length").await;
    server.expect(BINARY, b"SAME ").await;
    server.expect(FIN, b"LENGTH").await;
    server.send(FIN | BINARY, b"long").await;
    client.expect(BINARY, &[b'x'; 4000]).await;
    client.expect(0, &[b'x'; 4000]).await;
    client.expect(FIN, b"x").await;
    connection.close().await;
}

#[tokio::test]
async fn dropped_messages_are_recorded_and_not_sent() {
    let setup = editing(|message| {
        message.dropped = message.content == Body::from(Bytes::from_static(b"secret"));
    });
    let mut connection = Connection::new(setup).await;
    let Connection { client, server, .. } = &mut connection;
    client.send(FIN | TEXT, b"secret").await;
    client.send(FIN | TEXT, b"known").await;
    server.expect(FIN | TEXT, b"known").await;
    connection.close().await;
    let data = connection.data().await;
    let dropped: Vec<bool> = data.messages.iter().map(|m| m.with(|m| m.dropped)).collect();
    assert_eq!(dropped, [true, false]);
}

#[tokio::test]
async fn a_kill_resets_both_sides() {
    let setup = Setup::reacting(|event| {
        if let Event::WebsocketMessage(flow) = event {
            flow.kill().unwrap();
        }
    });
    let mut connection = Connection::new(setup).await;
    connection.client.send(FIN | TEXT, b"x").await;
    assert!(within("a reset", connection.client.stream.read_u8()).await.is_err());
    assert!(within("a reset", connection.server.stream.read_u8()).await.is_err());
    assert_eq!(connection.server.buf, "");
    let data = connection.data().await;
    assert_eq!((data.close_code, data.messages.len()), (Some(1006), 1));
    assert_eq!(&*connection.flow().error().unwrap().msg, FlowError::KILLED);
}

#[tokio::test]
async fn intercepted_messages_wait() {
    let setup = Setup::reacting(|event| {
        if let Event::WebsocketMessage(flow) = event
            && last(flow).with(|message| message.from_client)
        {
            flow.intercept();
        }
    });
    let mut connection = Connection::new(setup).await;
    let Connection { client, server, proxy } = &mut connection;
    client.send(FIN | TEXT, b"held").await;
    proxy.wait_for_hook(Hook::WebsocketMessage).await;
    // Control frames of the other side pass; its messages wait for their turn.
    server.send(PING, b"p").await;
    client.expect(PING, b"p").await;
    server.send(FIN | TEXT, b"later").await;
    server.send(PING, b"q").await;
    let flow = proxy.flow(0);
    last(&flow).update(|message| message.content = Bytes::from_static(b"edited").into());
    flow.resume();
    server.expect(FIN | TEXT, b"edited").await;
    client.expect(FIN | TEXT, b"later").await;
    client.expect(PING, b"q").await;
    connection.close().await;
    assert_eq!(connection.messages().len(), 2);
}

#[tokio::test]
async fn the_end_of_the_other_side_ends_an_interception() {
    let setup = Setup::reacting(|event| {
        if let Event::WebsocketMessage(flow) = event {
            flow.intercept();
        }
    });
    let mut connection = Connection::new(setup).await;
    connection.client.send(FIN | TEXT, b"held").await;
    connection.proxy.wait_for_hook(Hook::WebsocketMessage).await;
    connection.server.stream.shutdown().await.unwrap();
    connection.client.expect_close(1000).await;
    let data = connection.data().await;
    assert_eq!((data.close_code, data.closed_by_client), (Some(1006), Some(false)));
}

#[tokio::test]
async fn messages_are_injected_both_ways() {
    let mut connection = Connection::with_extensions(Setup::default(), "permessage-deflate").await;
    let flow = connection.flow();
    connection.proxy.wait_for_hook(Hook::WebsocketStart).await;
    let proxy = connection.proxy.proxy.clone();
    let inject = |to_client, content: &'static [u8], is_text| {
        proxy.inject_websocket(&flow, to_client, Bytes::from_static(content), is_text)
    };
    connection.client.send(TEXT, b"begun and ").await;
    inject(false, b"hi", true).unwrap();
    connection.server.expect(FIN | TEXT, b"hi").await;
    connection.client.send(FIN, b"finished").await;
    connection.server.expect(TEXT, b"begun and ").await;
    connection.server.expect(FIN, b"finished").await;
    inject(true, b"\x00", false).unwrap();
    connection.client.expect(FIN | BINARY, b"\x00").await;
    connection.close().await;
    let injected = |message: &mitm_flow::Shared<WebSocketMessage>| {
        message.with(|message| (message.injected, message.from_client))
    };
    let data = connection.data().await;
    let found: Vec<_> = data.messages.iter().map(injected).collect();
    assert_eq!(found, [(true, true), (false, true), (true, false)]);
    assert_eq!(connection.hooks(Hook::WebsocketMessage), 3);
    assert_eq!(inject(true, b"x", true), Err(InjectError::NotLive));
    assert_eq!(inject(true, b"\xff", true), Err(InjectError::NotText));
}

/// A peer that compresses what it sends and decompresses what it gets.
struct Packer {
    deflater: Deflater,
    receiver: Receiver,
    buf: BytesMut,
}

impl Packer {
    fn new(extensions: &str, is_client: bool) -> Self {
        let deflate = parse_extensions([extensions.as_bytes()]).deflate;
        let (own, other) = if is_client {
            (Sender::Client, Sender::Server)
        } else {
            (Sender::Server, Sender::Client)
        };
        let options = Options { sender: other, deflate, limit: 1 << 30 };
        Self {
            deflater: Deflater::new(deflate.unwrap(), own),
            receiver: Receiver::new(options),
            buf: BytesMut::new(),
        }
    }

    async fn send(&mut self, peer: &mut Peer, text: &str) -> Bytes {
        let mut out = BytesMut::new();
        self.deflater.push(text.as_bytes(), &mut out);
        self.deflater.finish(&mut out);
        peer.send(FIN | RSV1 | TEXT, &out).await;
        out.freeze()
    }

    /// Receives a message: its content, and what it was on the wire.
    async fn receive(&mut self, peer: &mut Peer) -> (String, Bytes) {
        let (mut content, mut raw) = (Vec::new(), BytesMut::new());
        loop {
            match self.receiver.read(&mut self.buf).unwrap() {
                Some(Received::Start { compressed, .. }) => assert!(compressed),
                Some(Received::Data { content: more, wire }) => {
                    content.extend_from_slice(&more);
                    raw.extend_from_slice(&wire);
                }
                Some(Received::End(_)) => {
                    return (String::from_utf8(content).unwrap(), raw.freeze());
                }
                Some(other) => panic!("{other:?}"),
                None => {
                    if peer.buf.is_empty() {
                        assert!(peer.fill().await > 0, "the connection ended");
                    }
                    self.buf.unsplit(peer.buf.split());
                }
            }
        }
    }
}

#[tokio::test]
async fn compressed_messages_stay_readable_whatever_is_done_to_them() {
    for extensions in [
        "permessage-deflate",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; client_max_window_bits=9; server_max_window_bits=8",
    ] {
        let setup = editing(|message| {
            let content = message.content.bytes().unwrap().unwrap();
            message.dropped = content.starts_with(b"drop");
            if content.starts_with(b"edit") {
                message.content = content.to_ascii_uppercase().into();
            }
        });
        let mut connection = Connection::with_extensions(setup, extensions).await;
        let Connection { client, server, .. } = &mut connection;
        let mut ends = [Packer::new(extensions, true), Packer::new(extensions, false)];
        for from_client in [true, false] {
            let (sender, receiver) = if from_client {
                (&mut *client, &mut *server)
            } else {
                (&mut *server, &mut *client)
            };
            let [first, second] = &mut ends;
            let (packer, unpacker) = if from_client { (first, second) } else { (second, first) };
            let same = "the same text as ever, and ever, and ever";
            for text in [same, same] {
                let sent = packer.send(sender, text).await;
                let (found, wire) = unpacker.receive(receiver).await;
                assert_eq!((found.as_str(), wire), (text, sent), "untouched, so as it came");
            }
            let edited = format!("edit: {same}");
            packer.send(sender, &edited).await;
            assert_eq!(unpacker.receive(receiver).await.0, edited.to_ascii_uppercase());
            packer.send(sender, same).await;
            assert_eq!(unpacker.receive(receiver).await.0, same);
            packer.send(sender, &format!("drop: {same}")).await;
            for text in [same, same, "", "another"] {
                packer.send(sender, text).await;
                assert_eq!(unpacker.receive(receiver).await.0, text);
            }
        }
        connection.close().await;
        assert_eq!(connection.messages().len(), 18);
    }
}

#[tokio::test]
async fn fragments_of_compressed_messages_are_kept() {
    let extensions = "permessage-deflate";
    for edit in [false, true] {
        let setup = editing(move |message| {
            let content = message.content.bytes().unwrap().unwrap();
            if edit {
                message.content = content.to_ascii_uppercase().into();
            }
        });
        let mut connection = Connection::with_extensions(setup, extensions).await;
        let mut deflater = Deflater::new(DeflateParams::default(), Sender::Client);
        let mut payload = BytesMut::new();
        deflater.push(&b"fragmented text ".repeat(20), &mut payload);
        deflater.finish(&mut payload);
        let parts = [&payload[..7], &payload[7..12], &payload[12..]];
        let Connection { client, server, .. } = &mut connection;
        client.send(RSV1 | TEXT, parts[0]).await;
        client.send(0, parts[1]).await;
        client.send(FIN, parts[2]).await;
        if edit {
            for first in [RSV1 | TEXT, 0, FIN] {
                assert_eq!(server.frame().await.unwrap().0, first);
            }
        } else {
            server.expect(RSV1 | TEXT, parts[0]).await;
            server.expect(0, parts[1]).await;
            server.expect(FIN, parts[2]).await;
        }
        connection.close().await;
    }
}

#[tokio::test]
async fn close_frames_are_recorded_and_forwarded() {
    let table: &[(&[u8], u16, &str)] =
        &[(b"", 1005, ""), (b"\x03\xe9going", 1001, "going"), (b"\x0f\xa0", 4000, "")];
    for (payload, code, reason) in table {
        let mut connection = Connection::new(Setup::default()).await;
        let Connection { client, server, .. } = &mut connection;
        server.send(CLOSE, payload).await;
        client.expect(CLOSE, payload).await;
        // The other side may still have something to say.
        client.send(FIN | TEXT, b"late").await;
        client.send(CLOSE, payload).await;
        server.expect(FIN | TEXT, b"late").await;
        server.expect(CLOSE, payload).await;
        server.expect_end().await;
        client.expect_end().await;
        let data = connection.data().await;
        assert_eq!(data.close_code, Some(i64::from(*code)));
        assert_eq!(data.close_reason.as_deref(), Some(*reason));
        assert_eq!(data.closed_by_client, Some(false));
        assert!(data.timestamp_end.is_some());
        assert_eq!(connection.messages().len(), 1);
    }
}

#[tokio::test]
async fn violations_are_told_to_both_sides() {
    let frame = |first: u8, payload: &[u8]| {
        let mut out = BytesMut::new();
        let header = FrameHeader { opcode: OpCode::Text, fin: true, rsv1: false };
        write_frame(&mut out, header, payload, Some([1, 2, 3, 4]));
        out[0] = first;
        out
    };
    let table = [
        (frame(0x83, b""), 1002),
        (frame(0xc1, b""), 1002),
        (frame(FIN, b""), 1002),
        (BytesMut::from(&b"\x81\x01x"[..]), 1002),
        (frame(CLOSE, b"\x03\xec"), 1002),
        (frame(FIN | TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xce\xba\xf4\x90"), 1007),
        (frame(FIN | BINARY, &[0; 101]), 1009),
    ];
    for (bytes, code) in table {
        let settings = Settings { body_size_limit: Some(100), ..Settings::default() };
        let mut connection = Connection::new(Setup { settings, ..Setup::default() }).await;
        connection.client.send_raw(&bytes).await;
        connection.client.expect_close(code).await;
        connection.client.expect_end().await;
        connection.server.expect_close(code).await;
        connection.server.expect_end().await;
        let data = connection.data().await;
        assert_eq!(data.close_code, Some(i64::from(code)));
        assert!(!data.close_reason.unwrap().is_empty());
        assert_eq!(data.closed_by_client, Some(true));
        assert!(data.messages.is_empty());
    }
}

#[tokio::test]
async fn lost_connections_end_both_sides() {
    for lose_client in [true, false] {
        let mut connection = Connection::new(Setup::default()).await;
        let Connection { client, server, .. } = &mut connection;
        let (lost, left) = if lose_client { (client, server) } else { (server, client) };
        lost.send(FIN | TEXT, b"whole").await;
        lost.send(TEXT, b"half").await;
        lost.stream.shutdown().await.unwrap();
        left.expect(FIN | TEXT, b"whole").await;
        left.expect_close(1000).await;
        left.expect_end().await;
        let data = connection.data().await;
        assert_eq!(data.close_code, Some(1006));
        assert_eq!(data.closed_by_client, Some(lose_client));
        assert_eq!(connection.messages(), [(lose_client, Opcode::Text, "whole".into())]);
    }
}

#[tokio::test]
async fn a_peer_that_does_not_answer_a_close_is_not_waited_for_forever() {
    let mut connection = Connection::new(Setup::default()).await;
    connection.client.send(CLOSE, b"\x03\xe8").await;
    connection.server.expect(CLOSE, b"\x03\xe8").await;
    connection.client.expect_close(1000).await;
    connection.client.expect_end().await;
    assert_eq!(connection.data().await.close_code, Some(1000));
}

#[tokio::test]
async fn silence_ends_the_connection() {
    let settings = Settings { idle_timeout: Duration::from_millis(50), ..Settings::default() };
    let mut connection = Connection::new(Setup { settings, ..Setup::default() }).await;
    connection.server.expect_close(1000).await;
    connection.client.expect_end().await;
    assert_eq!(connection.data().await.close_code, Some(1006));
}

#[tokio::test]
async fn large_messages_and_many_do_not_stay_in_memory() {
    let settings = Settings { body_memory_limit: 10_000, ..Settings::default() };
    let mut connection = Connection::new(Setup { settings, ..Setup::default() }).await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 8) as u8).collect();
    let Connection { client, server, .. } = &mut connection;
    // Both write before they read.
    tokio::join!(client.send(FIN | BINARY, &large), server.send(FIN | BINARY, &large));
    client.expect(FIN | BINARY, &large).await;
    server.expect(FIN | BINARY, &large).await;
    for n in 0..30_u8 {
        client.send(FIN | BINARY, &[n; 1000]).await;
        server.expect(FIN | BINARY, &[n; 1000]).await;
    }
    connection.close().await;
    let data = connection.data().await;
    let in_memory = |m: &mitm_flow::Shared<WebSocketMessage>| {
        m.with(|m| m.content.in_memory().map_or(0, Bytes::len))
    };
    assert!(data.messages.iter().map(in_memory).sum::<usize>() <= 10_000);
    let messages = connection.messages();
    assert_eq!(messages.len(), 32);
    assert!(messages[..2].iter().all(|(_, _, content)| content == &large));
    for (n, (_, _, content)) in messages[2..].iter().enumerate() {
        assert_eq!(content, &vec![n as u8; 1000]);
    }
}

#[tokio::test]
async fn without_the_option_the_bytes_are_relayed() {
    let settings = Settings { websocket: false, ..Settings::default() };
    let mut connection = Connection::new(Setup { settings, ..Setup::default() }).await;
    connection.client.send_raw(b"anything").await;
    let mut found = [0; 8];
    within("the bytes", connection.server.stream.read_exact(&mut found)).await.unwrap();
    assert_eq!(&found, b"anything");
    assert!(connection.flow().websocket().is_none());
    assert_eq!(connection.hooks(Hook::WebsocketStart), 0);
}

/// Opens a WebSocket connection over HTTP/2 (RFC 8441), and returns what comes and goes on its stream.
async fn over_http2(proxy: &Proxied, origin: &TcpListener) -> (DuplexStream, TcpStream) {
    let tcp = TcpStream::connect(proxy.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut sender = within("the connection", sender.ready()).await.unwrap();
    until("the proxy's settings", || sender.is_extended_connect_protocol_enabled()).await;
    let mut request = http::Request::builder()
        .method("CONNECT")
        .uri(format!("http://{}/chat", origin.local_addr().unwrap()))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (response, mut out) = sender.send_request(request, false).unwrap();
    let (mut server, _) = within("the proxy's connection", origin.accept()).await.unwrap();
    let asked = head(&mut server).await;
    assert!(asked.starts_with("GET /chat HTTP/1.1\r\n"), "{asked}");
    let key = asked.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
    assert!(key.is_some_and(|key| key.len() == 24), "{asked}");
    server
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: x\r\n\r\n",
        )
        .await
        .unwrap();
    let response = within("the answer", response).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let (near, far) = duplex(1 << 16);
    let (mut from_test, mut to_test) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            to_test.write_all(&data).await.unwrap();
        }
        let _ = to_test.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buf = BytesMut::new();
        // Without a limit, which is good enough for a test: the library keeps what may not be sent yet.
        while let Ok(1..) = from_test.read_buf(&mut buf).await {
            out.send_data(buf.split().freeze(), false).unwrap();
        }
        let _ = out.send_data(Bytes::new(), true);
        // Kept to its end.
        let _sender = sender;
        std::future::pending::<()>().await;
    });
    (near, server)
}

#[tokio::test]
async fn connections_over_http2() {
    let proxy = Setup::needing(Need::Tee).start().await;
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = over_http2(&proxy, &origin).await;
    let (client, server) = (Peer::new(client, true), Peer::new(server, false));
    let mut connection = Connection { proxy, client, server };
    let large = vec![b'x'; 300_000];
    let Connection { client, server, .. } = &mut connection;
    client.send(TEXT, b"Hello, ").await;
    client.send(FIN, b"world").await;
    server.expect(TEXT, b"Hello, ").await;
    server.expect(FIN, b"world").await;
    server.send(FIN | BINARY, &large).await;
    client.expect(FIN | BINARY, &large).await;
    client.send(FIN | BINARY, &large).await;
    server.expect(FIN | BINARY, &large).await;
    connection.close().await;
    assert_eq!(connection.messages().len(), 3);
}

#[tokio::test]
async fn only_the_last_message_is_there_if_nobody_records() {
    let mut connection = Connection::start(Setup::default(), "").await;
    for text in [b"one", b"two"] {
        connection.client.send(FIN | TEXT, text).await;
        connection.server.expect(FIN | TEXT, text).await;
    }
    connection.close().await;
    let data = connection.data().await;
    assert_eq!(data.messages.len(), 1);
    assert_eq!(connection.hooks(Hook::WebsocketMessage), 2);
}
