//! WebSocket connections (RFC 6455) after their handshake.
//!
//! Each direction is a [`Lane`]: it reads frames from one side, joins them to messages, and writes to the other side. Both
//! run in one task. A message is appended to the flow, passes `websocket_message` and waits while the flow is
//! intercepted; only then it is forwarded, in the frames it came in unless its length changed. Messages take turns for
//! that over both directions, so that the last of the flow's messages is the one a hook is about; what one
//! direction sends does not keep the other from reading. Pings and pongs are passed on, not answered.
//!
//! The end comes in one of these ways, and `websocket_end` tells it:
//!
//! 1. One side closes. Its close frame goes to the other side, which may send what it still has and its own close frame.
//! 2. One side breaks the rules. The other has a moment for its answer to what was right, then both are sent a close
//!    frame with the reason.
//! 3. One side is gone, or neither had anything to say for too long: 1006. The other is sent a close frame.
//! 4. The flow is killed. Both connections are reset.
//!
//! What was lost in the middle of a message is not a message.

mod lane;
mod send;

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mitm_codec::websocket::{Close, Sender, code, parse_extensions};
use mitm_flow::{FlowRef, Request, Response, Shared, WebSocketData, WebSocketMessage, now};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    exchange::Context,
    hooks::Event,
    inject,
    io::{Reader, Writer},
    kept::Kept,
    upstream::client_name,
};
use lane::{Lane, Stop};

/// A message is no longer than this, unless `body_size_limit` says otherwise.
const MESSAGE_LIMIT: u64 = 256 << 20;
/// How long the other side has to answer a close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How long the other side's answers are waited for when the connection is about to be failed. Once told of that, it
/// would have no occasion.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long a peer has to take the last frame, and to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// Gives the flow of a finished handshake its WebSocket part, if options allow it and the version is known here.
pub(crate) fn announce(ctx: &Context, flow: &FlowRef) {
    let (Some(request), Some(response)) = (flow.request(), flow.response()) else { return };
    if ctx.settings.websocket && request.with(asks_for_it) && response.with(grants_it) {
        flow.set_websocket(Some(Shared::new(WebSocketData::default())));
    }
}

fn asks_for_it(request: &Request) -> bool {
    request.headers.get("sec-websocket-version").is_some_and(|version| &version[..] == b"13")
}

fn grants_it(response: &Response) -> bool {
    response.status_code == 101 && response.headers.has_token("upgrade", "websocket")
}

/// What both lanes share.
struct Session<'a> {
    ctx: &'a Context,
    flow: &'a FlowRef,
    data: &'a Shared<WebSocketData>,
    /// Who holds it may append a message and call its hook.
    turn: Mutex<()>,
    /// Counts what happened, to notice silence.
    events: AtomicU64,
    kept: Mutex<Kept<WebSocketMessage>>,
    limit: u64,
    client_name: String,
}

impl Session<'_> {
    fn note_event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nothing happened for too long. While a message has its turn, that does not count.
    async fn silence(&self) {
        let mut seen = self.events.load(Ordering::Relaxed);
        loop {
            sleep(self.ctx.settings.idle_timeout).await;
            let now = self.events.load(Ordering::Relaxed);
            if std::mem::replace(&mut seen, now) == now && self.turn.try_lock().is_ok() {
                return;
            }
        }
    }
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    Stopped(Sender, Stop),
    Silent,
    Killed,
}

/// Carries the connection between the two sides to its end. `flow` is that of the handshake, has a response, and is
/// live until then.
pub(crate) async fn serve(
    ctx: &Context,
    client: (Reader, Writer),
    server: (Reader, Writer),
    flow: &FlowRef,
) {
    let data = flow.websocket().unwrap_or_else(|| {
        let data = Shared::new(WebSocketData::default());
        flow.set_websocket(Some(data.clone()));
        data
    });
    let mut over = Over { flow, data: &data, done: false };
    let session = Session {
        ctx,
        flow,
        data: &data,
        turn: Mutex::default(),
        events: AtomicU64::new(0),
        kept: Mutex::new(Kept::new(ctx.settings.body_memory_limit)),
        limit: ctx.settings.body_size_limit.unwrap_or(MESSAGE_LIMIT),
        client_name: client_name(&ctx.client),
    };
    let extensions = flow.response().map(|response| {
        response.with(|response| {
            let fields = response.headers.get_all("sec-websocket-extensions");
            parse_extensions(fields.map(|field| &field[..]))
        })
    });
    let extensions = extensions.unwrap_or_default();
    for name in &extensions.unknown {
        info!(client = %session.client_name, "Ignoring unknown WebSocket extension {name:?}.");
    }
    let (registration, for_client, for_server) = inject::register(&ctx.engine, flow);
    let deflate = extensions.deflate;
    let mut up = Lane::new(&session, Sender::Client, deflate, client.0, server.1, for_server);
    let mut down = Lane::new(&session, Sender::Server, deflate, server.0, client.1, for_client);

    let start = ctx.engine.fire(Event::WebsocketStart(flow.clone()));
    let end = tokio::select! {
        biased;
        () = flow.wait_for_kill() => End::Killed,
        end = async {
            start.await;
            flow.wait_for_resume().await;
            run(&session, &mut up, &mut down).await
        } => end,
    };
    drop(registration);
    over.done = true;
    finish(&session, end, up, down).await;
}

/// Runs both directions until the connection is to end. After a close of one side the other has some time for its own.
async fn run(session: &Session<'_>, up: &mut Lane, down: &mut Lane) -> End {
    let mut up = pin!(up.run(session));
    let mut down = pin!(down.run(session));
    let (side, stop) = tokio::select! {
        stop = &mut up => (Sender::Client, stop),
        stop = &mut down => (Sender::Server, stop),
        () = session.silence() => return End::Silent,
    };
    let other = async {
        match side {
            Sender::Client => (Sender::Server, down.await),
            Sender::Server => (Sender::Client, up.await),
        }
    };
    match &stop {
        // It was told its own end; how it ends is of no further interest.
        Stop::Closed(_) => {
            let _ = timeout(CLOSE_WAIT, other).await;
            End::Stopped(side, stop)
        }
        // What it says to what came before the violation is still wanted.
        Stop::Failed(_) => {
            let _ = timeout(LAST_WORDS, other).await;
            End::Stopped(side, stop)
        }
        // A side that takes no more may have said why.
        Stop::Unwritable => match timeout(LINGER, other).await {
            Ok((other, Stop::Unwritable)) => End::Stopped(other, Stop::Lost),
            Ok((other, stop)) => End::Stopped(other, stop),
            Err(_) => End::Stopped(opposite(side), Stop::Lost),
        },
        Stop::Lost => End::Stopped(side, stop),
    }
}

fn opposite(side: Sender) -> Sender {
    match side {
        Sender::Client => Sender::Server,
        Sender::Server => Sender::Client,
    }
}

/// Notes how the connection ended, tells both sides, and closes.
async fn finish(session: &Session<'_>, end: End, mut up: Lane, mut down: Lane) {
    let name = &session.client_name;
    let (code, reason, by_client) = match &end {
        End::Stopped(side, Stop::Closed(close)) => {
            (close.recorded_code(), close.reason.clone(), Some(*side == Sender::Client))
        }
        End::Stopped(side, Stop::Failed(error)) => {
            let who = side_name(*side);
            warn!(client = %name, "WebSocket error caused by the {who}: {error}");
            (error.code, error.reason.to_string(), Some(*side == Sender::Client))
        }
        End::Stopped(side, _) => (code::ABNORMAL, String::new(), Some(*side == Sender::Client)),
        End::Silent => {
            info!(client = %name, "Closing connection due to inactivity.");
            (code::ABNORMAL, String::new(), Some(true))
        }
        End::Killed => (code::ABNORMAL, String::new(), None),
    };
    session.data.update(|data| {
        data.closed_by_client = by_client;
        data.close_code = Some(i64::from(code));
        data.close_reason = Some(reason.clone());
        data.timestamp_end = Some(now());
    });
    if matches!(end, End::Killed) {
        up.sink.writer.reset_on_close();
        down.sink.writer.reset_on_close();
        // They are reset now, not after the hook.
        drop((up, down));
        told(session).await;
        return;
    }
    let (to_client, to_server) = match &end {
        End::Stopped(_, Stop::Closed(close)) => (Some(close.clone()), Some(close.clone())),
        End::Stopped(_, Stop::Failed(_)) => {
            let close = Close::new(code, reason);
            (Some(close.clone()), Some(close))
        }
        End::Stopped(Sender::Client, _) | End::Silent => (None, Some(Close::new(code::NORMAL, ""))),
        End::Stopped(Sender::Server, _) => (Some(Close::new(code::NORMAL, "")), None),
        End::Killed => (None, None),
    };
    // What is sent to the client is sent by the lane from the server.
    tokio::join!(down.sink.close(to_client), up.sink.close(to_server));
    told(session).await;
    tokio::join!(drain(&mut up.reader), drain(&mut down.reader));
}

async fn told(session: &Session<'_>) {
    session.ctx.engine.fire(Event::WebsocketEnd(session.flow.clone())).await;
    session.flow.set_live(false);
}

/// Reads on until the peer closes as well, so that what was sent to it last is not lost by a reset.
async fn drain(reader: &mut Reader) {
    // Whether it does so in time is up to the peer.
    let _ = timeout(LINGER, async {
        reader.buf.clear();
        while reader.fill().await.is_ok_and(|read| read > 0) {
            reader.buf.clear();
        }
    })
    .await;
}

fn side_name(side: Sender) -> &'static str {
    match side {
        Sender::Client => "client",
        Sender::Server => "server",
    }
}

/// The end of a run cancels what is running: the flow then has an end all the same.
struct Over<'a> {
    flow: &'a FlowRef,
    data: &'a Shared<WebSocketData>,
    done: bool,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.data.update(|data| {
                data.close_code.get_or_insert(i64::from(code::ABNORMAL));
                data.timestamp_end.get_or_insert_with(now);
            });
            self.flow.set_live(false);
        }
    }
}
