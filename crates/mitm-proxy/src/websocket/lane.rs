//! [`Lane`]: one direction, from the frames of its sender to those for the other side.

use bytes::Bytes;
use mitm_codec::websocket::{
    Close, DeflateParams, Error, OpCode, Options, Received, Receiver, Sender, Shape,
};
use mitm_flow::{Body, Opcode, Shared, WebSocketMessage, now, spill::BodyBuilder};
use tokio::sync::mpsc;
use tracing::info;

use super::{
    Session,
    send::{Outgoing, SendError, Sink},
    side_name,
};
use crate::{
    hooks::Event,
    inject::Injected,
    io::{Reader, Writer},
    plan,
    tcp::is_kept,
};

/// Pieces of memory up to this size are copied out of what was read: a message is kept for long, and must not keep
/// more than itself.
const COPY_MAX: usize = 16 << 10;

/// Why a lane stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its sender closed; the other side was told.
    Closed(Close),
    /// Its sender broke the rules, or a message could not be kept.
    Failed(Error),
    /// Its sender is gone.
    Lost,
    /// The other side takes no more.
    Unwritable,
}

pub(super) struct Lane {
    sender: Sender,
    receiver: Receiver,
    pub(super) reader: Reader,
    pub(super) sink: Sink,
    injected: mpsc::Receiver<Injected>,
    /// The message that is being received.
    message: Option<Arriving>,
}

struct Arriving {
    opcode: Opcode,
    compressed: bool,
    content: BodyBuilder,
    /// The compressed form, while it can be forwarded as it is.
    wire: Option<BodyBuilder>,
}

impl Lane {
    pub(super) fn new(
        session: &Session<'_>,
        sender: Sender,
        deflate: Option<DeflateParams>,
        reader: Reader,
        writer: Writer,
        injected: mpsc::Receiver<Injected>,
    ) -> Self {
        let receiver = Receiver::new(Options { sender, deflate, limit: session.limit });
        let sink = Sink::new(writer, sender, deflate, session.ctx.settings.body_memory_limit);
        Self { sender, receiver, reader, sink, injected, message: None }
    }

    /// Forwards until this direction ends.
    pub(super) async fn run(&mut self, session: &Session<'_>) -> Stop {
        loop {
            if let Err(stop) = self.forward_what_is_there(session).await {
                return stop;
            }
            if self.reader.eof {
                return Stop::Lost;
            }
            self.reader.rest();
            tokio::select! {
                Some(injected) = self.injected.recv() => {
                    session.note_event();
                    if let Err(stop) = self.inject(session, injected).await {
                        return stop;
                    }
                }
                read = self.reader.fill() => match read {
                    Ok(_) => session.note_event(),
                    Err(_) => return Stop::Lost,
                },
            }
        }
    }

    async fn forward_what_is_there(&mut self, session: &Session<'_>) -> Result<(), Stop> {
        while let Some(received) = self.receiver.read(&mut self.reader.buf).map_err(Stop::Failed)? {
            match received {
                Received::Start { opcode, compressed } => {
                    let limit = session.ctx.settings.body_memory_limit;
                    let wire = compressed && self.sink.passes_compressed();
                    self.message = Some(Arriving {
                        opcode,
                        compressed,
                        content: BodyBuilder::new(limit, None),
                        wire: wire.then(|| BodyBuilder::new(limit, None)),
                    });
                }
                Received::Data { content, wire } => {
                    let Some(message) = &mut self.message else { continue };
                    plan::push_data(&mut message.content, content).await;
                    if let Some(builder) = &mut message.wire {
                        plan::push_data(builder, wire).await;
                    }
                }
                Received::End(shape) => {
                    if let Some(message) = self.message.take() {
                        self.complete(session, message, shape).await?;
                    }
                }
                Received::Ping(payload) => self.control(session, OpCode::Ping, &payload).await?,
                Received::Pong(payload) => self.control(session, OpCode::Pong, &payload).await?,
                Received::Close(close) => {
                    self.sink.forward_close(&close).await;
                    return Err(Stop::Closed(close));
                }
            }
        }
        Ok(())
    }

    async fn control(
        &mut self,
        session: &Session<'_>,
        opcode: OpCode,
        payload: &Bytes,
    ) -> Result<(), Stop> {
        let what = if opcode == OpCode::Ping { "ping" } else { "pong" };
        let from = side_name(self.sender);
        info!(client = %session.client_name, "WebSocket {what} from {from}: {payload:?}");
        self.sink.control(opcode, payload).await.map_err(|_| Stop::Unwritable)
    }

    async fn complete(
        &mut self,
        session: &Session<'_>,
        message: Arriving,
        shape: Shape,
    ) -> Result<(), Stop> {
        let content = compact(message.content.finish());
        if content.is_missing() {
            return Err(Stop::Failed(not_stored()));
        }
        let wire = message.wire.map(BodyBuilder::finish).filter(|wire| !wire.is_missing());
        let how = Outgoing { compressed: message.compressed, shape, wire };
        self.pass(session, message.opcode, content, false, how).await
    }

    /// Treats a message of a user or script as if the sender had sent it.
    async fn inject(&mut self, session: &Session<'_>, injected: Injected) -> Result<(), Stop> {
        let opcode = if injected.is_text { Opcode::Text } else { Opcode::Binary };
        let content = injected.content.into();
        self.pass(session, opcode, content, true, Outgoing::default()).await
    }

    /// Shows a message to those who want to see it, and sends what they leave of it.
    async fn pass(
        &mut self,
        session: &Session<'_>,
        opcode: Opcode,
        original: Body,
        injected: bool,
        how: Outgoing,
    ) -> Result<(), Stop> {
        let message = Shared::new(WebSocketMessage {
            opcode,
            from_client: self.sender == Sender::Client,
            content: original.clone(),
            timestamp: now(),
            dropped: false,
            injected,
        });
        let turn = session.turn.lock().await;
        if is_kept(session.ctx, session.flow) {
            session.data.update(|data| data.messages.push(message.clone()));
        } else {
            // A hook is about the last one; nobody looks at those before.
            let last = vec![message.clone()];
            let before = session.data.update(|data| std::mem::replace(&mut data.messages, last));
            drop(before);
        }
        session.ctx.engine.fire(Event::WebsocketMessage(session.flow.clone())).await;
        session.flow.wait_for_resume().await;
        drop(turn);
        session.note_event();
        if session.flow.is_killed() {
            // Whoever waits for that ends everything.
            return std::future::pending().await;
        }
        let now = message.get();
        let sent = if now.dropped {
            self.sink.skip(&how);
            Ok(())
        } else {
            let unchanged = now.content == original;
            self.sink.message(now.opcode, &now.content, unchanged, original.len(), how).await
        };
        session.kept.lock().await.add(&message).await;
        sent.map_err(|error| match error {
            SendError::Unwritable => Stop::Unwritable,
            SendError::Unreadable => Stop::Failed(not_stored()),
        })
    }
}

fn compact(body: Body) -> Body {
    match body.in_memory() {
        Some(bytes) if bytes.len() <= COPY_MAX => Bytes::copy_from_slice(bytes).into(),
        _ => body,
    }
}

/// The disk is full or broken: that is not the fault of either side (RFC 6455 §7.4.1).
fn not_stored() -> Error {
    Error { code: 1011, reason: "message could not be stored by the proxy".into() }
}
