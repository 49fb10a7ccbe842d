//! [`Talk`]: a conversation, from its first message to its end.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mitm_codec::client_hello;
use mitm_flow::{FlowRef, Shared, now, websocket::StreamMessage};
use tokio::{
    sync::mpsc::Receiver,
    time::{self, sleep},
};
use tracing::info;

use super::{Watch, is_kept};
use crate::{
    error::Failure,
    exchange::{Context, STORED_PIECE},
    hooks::Event,
    inject::Injected,
    io::{Reader, Writer},
    kept::Kept,
    upstream::{ServerConn, client_name},
};

/// The largest message.
const MESSAGE_MAX: usize = 65_535;
/// How long the rest of what may be a `ClientHello` is waited for.
const HELLO_WAIT: Duration = Duration::from_secs(1);
/// How much of a message is printed.
const PRINTED_BYTES: usize = 4096;

/// How a conversation ended.
pub(super) enum Ended {
    Closed,
    /// The client begins TLS.
    Tls,
}

/// See the [module](self).
pub(super) struct Talk<'a> {
    ctx: &'a Context,
    flow: &'a FlowRef,
    client: Peer,
    server: Peer,
    /// What else there is of the server connection.
    conn: Conn,
    kept: Kept<StreamMessage>,
    /// Messages are kept, rather than the latest only. Asked again when options change.
    keeps: bool,
    generation: usize,
    is_printed: bool,
    hello: Hello,
}

struct Conn {
    server: Shared<mitm_flow::Server>,
    destination: crate::upstream::Destination,
    hop: Option<Shared<mitm_flow::Server>>,
}

/// One of the two sides.
struct Peer {
    reader: Reader,
    writer: Writer,
    /// There is something for it that was not sent yet.
    unsent: bool,
    /// Nothing more comes from it, or of what comes nothing can be sent on; the other side was told.
    ended: bool,
}

impl Peer {
    fn new((reader, writer): (Reader, Writer)) -> Self {
        Self { reader, writer, unsent: false, ended: false }
    }
}

/// Whether the client may begin TLS.
struct Hello {
    is_watched: bool,
    /// A message was exchanged. Who begins with TLS has been told apart before.
    is_exchanged: bool,
    /// What was read of the client and not taken is all of a read, or of several that may be one hello.
    is_fresh: bool,
    /// The beginning of a hello is there. It is a message like others if the rest does not come in time.
    until: Option<time::Instant>,
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        ctx: &'a Context,
        flow: &'a FlowRef,
        client: (Reader, Writer),
        conn: ServerConn,
        watch: Watch,
        is_printed: bool,
    ) -> Self {
        let ServerConn { server, destination, reader, writer, hop, .. } = conn;
        Self {
            client: Peer::new(client),
            server: Peer::new((reader, writer)),
            conn: Conn { server, destination, hop },
            kept: Kept::new(ctx.settings.body_memory_limit),
            keeps: is_kept(ctx, flow),
            generation: ctx.engine.generation(),
            is_printed,
            hello: Hello {
                is_watched: watch == Watch::Tls,
                is_exchanged: false,
                is_fresh: true,
                until: None,
            },
            ctx,
            flow,
        }
    }

    /// Returns the connections.
    pub(super) fn into_parts(self) -> ((Reader, Writer), ServerConn) {
        let Self { ctx, client, server, conn: Conn { server: cell, destination, hop }, .. } = self;
        let halves = (server.reader, server.writer);
        let conn = ServerConn::new(&ctx.engine, cell, destination, halves).with_hop(hop);
        ((client.reader, client.writer), conn)
    }

    /// Carries messages. `injected` are those for the client and those for the server.
    pub(super) async fn run(
        &mut self,
        injected: (Receiver<Injected>, Receiver<Injected>),
    ) -> Result<Ended, Failure> {
        let (mut for_client, mut for_server) = injected;
        let silence = self.ctx.settings.idle_timeout;
        let mut idle = pin!(sleep(silence));
        let flow = self.flow.clone();
        let mut killed = pin!(flow.wait_for_kill());
        loop {
            if let Some(ended) = self.catch_up().await? {
                return Ok(ended);
            }
            // However long hooks and users took: the silence begins when it is the peers' turn.
            let since = Instant::now();
            let Self { client, server, hello, .. } = self;
            let awaited = hello.until;
            let reads_client = !client.ended
                && !server.unsent
                && !client.reader.eof
                && (client.reader.buf.is_empty() || awaited.is_some());
            let reads_server = !server.ended
                && !client.unsent
                && !server.reader.eof
                && server.reader.buf.is_empty();
            loop {
                tokio::select! {
                    () = &mut killed => return Err(Failure::Killed),
                    read = client.reader.fill(), if reads_client => {
                        // A reset is an end, too.
                        client.reader.eof |= read.is_err();
                        hello.is_fresh |= awaited.is_none();
                    }
                    read = server.reader.fill(), if reads_server => {
                        server.reader.eof |= read.is_err();
                    }
                    sent = client.writer.flush(), if client.unsent => settle_sent(&sent, client, server),
                    sent = server.writer.flush(), if server.unsent => settle_sent(&sent, server, client),
                    Some(message) = for_client.recv(), if !client.unsent && !server.ended => {
                        self.message(false, message.content).await?;
                    }
                    Some(message) = for_server.recv(), if !server.unsent && !client.ended => {
                        self.message(true, message.content).await?;
                    }
                    () = time::sleep_until(awaited.unwrap_or_else(time::Instant::now)), if awaited.is_some() => {
                        hello.until = None;
                        hello.is_fresh = false;
                    }
                    () = &mut idle => {
                        let left = silence.saturating_sub(since.elapsed());
                        if !left.is_zero() {
                            idle.set(sleep(left));
                            continue;
                        }
                        info!(client = %client_name(&self.ctx.client), "Closing connection due to inactivity.");
                        return Ok(Ended::Closed);
                    }
                }
                break;
            }
        }
    }

    /// Deals with what was read, and with ends, as far as that is possible now.
    async fn catch_up(&mut self) -> Result<Option<Ended>, Failure> {
        loop {
            // The server's first: it may have spoken before the client did.
            if !self.server.reader.buf.is_empty() && !self.client.unsent && !self.server.ended {
                let content = self.take(false);
                self.message(false, content).await?;
                continue;
            }
            if !self.client.reader.buf.is_empty() && !self.server.unsent && !self.client.ended {
                match self.begins_tls() {
                    Some(true) => return Ok(Some(Ended::Tls)),
                    Some(false) => {}
                    None => break,
                }
                let content = self.take(true);
                self.message(true, content).await?;
                continue;
            }
            break;
        }
        pass_end(&mut self.client, &mut self.server).await;
        pass_end(&mut self.server, &mut self.client).await;
        Ok((self.client.ended && self.server.ended).then_some(Ended::Closed))
    }

    /// Takes a message out of what was read.
    fn take(&mut self, from_client: bool) -> Bytes {
        let from = if from_client { &mut self.client } else { &mut self.server };
        let buf = &mut from.reader.buf;
        let len = buf.len().min(MESSAGE_MAX);
        if from_client {
            // What may be left over is not the beginning of a read.
            self.hello.is_fresh = false;
            self.hello.until = None;
        }
        let content = buf.split_to(len);
        // What is kept must not hold on to all of the buffer.
        if self.keeps { Bytes::copy_from_slice(&content) } else { content.freeze() }
    }

    /// Tells everybody of a message, and prepares what became of it for sending.
    async fn message(&mut self, from_client: bool, content: Bytes) -> Result<(), Failure> {
        if self.is_printed {
            self.print(from_client, &content);
        }
        if self.generation != self.ctx.engine.generation() {
            self.generation = self.ctx.engine.generation();
            self.keeps = is_kept(self.ctx, self.flow);
        }
        let message: Shared<_> = StreamMessage::new(from_client, content, now()).into();
        if self.keeps {
            self.flow.push_message(message.clone());
        } else {
            self.flow.set_messages(vec![message.clone()]);
        }
        self.ctx.engine.fire(Event::TcpMessage(self.flow.clone())).await;
        self.ctx.settle(self.flow).await?;
        self.hello.is_exchanged = true;
        let content = message.with(|message| message.content.clone());
        let (from, to) = if from_client {
            (&self.client, &mut self.server)
        } else {
            (&self.server, &mut self.client)
        };
        if !from.ended {
            let out: &mut BytesMut = to.writer.out();
            for piece in content.chunks(STORED_PIECE) {
                out.extend_from_slice(&piece.map_err(|_| Failure::Storage("message"))?);
            }
            to.unsent |= !out.is_empty();
        }
        if self.keeps {
            self.kept.add(&message).await;
        }
        Ok(())
    }

    fn print(&self, from_client: bool, content: &[u8]) {
        let arrow = if from_client { "->" } else { "<-" };
        let address = self.conn.destination.address();
        let shown = content.get(..PRINTED_BYTES).unwrap_or(content);
        let more = match content.len() - shown.len() {
            0 => String::new(),
            more => format!(" ({more} more bytes)"),
        };
        info!(
            client = %client_name(&self.ctx.client),
            "{arrow} tcp {arrow} {address}: {}{more}", shown.escape_ascii()
        );
    }

    /// True if the client's next message is a `ClientHello`; `None` if that cannot be told yet.
    fn begins_tls(&mut self) -> Option<bool> {
        let Hello { is_watched: true, is_exchanged: true, is_fresh: true, .. } = self.hello else {
            return Some(false);
        };
        let Peer { reader, .. } = &self.client;
        let [0x16, 3, 0..=3, _, _, 1, ..] = reader.buf[..] else { return Some(false) };
        match client_hello::parse(&reader.buf) {
            // What is for the client goes out before.
            Ok(Some(_)) if self.client.unsent => None,
            Ok(Some(_)) => Some(!self.server.reader.eof),
            Ok(None) if !reader.eof => {
                self.hello.until.get_or_insert_with(|| time::Instant::now() + HELLO_WAIT);
                None
            }
            Ok(None) | Err(_) => Some(false),
        }
    }
}

/// Tells `to` of the end of `from`, when all that came before it was sent.
async fn pass_end(from: &mut Peer, to: &mut Peer) {
    if from.reader.eof && from.reader.buf.is_empty() && !to.unsent && !from.ended {
        from.ended = true;
        to.writer.shutdown().await;
    }
}

/// Something was sent to `peer`. If that failed it hears nothing more, so from the other side nothing more is read.
fn settle_sent(sent: &std::io::Result<()>, peer: &mut Peer, other: &mut Peer) {
    peer.unsent = false;
    if sent.is_err() {
        peer.writer.discard();
        other.ended = true;
        other.reader.buf.clear();
    }
}
