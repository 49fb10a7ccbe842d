//! HTTP/2 with a server.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason, SendStream,
    client::{Builder, Connection, ResponseFuture, SendRequest},
};
use mitm_codec::http1::Rules;
use mitm_flow::{Client, Headers, Server, Shared};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{debug, info};

use super::{
    BodyError, BodyIn, CONNECTION_WINDOW, FRAME_MAX, HTTP2, SEND_BUFFER, STREAM_WINDOW, convert,
    describe, name, poll_send, send_data, send_end,
};
use crate::{
    body::Next,
    engine::Engine,
    error::Failure,
    exchange::origin::AnswerHead,
    io::{self as streams, Buffered},
    upstream::{self, Opening, ServerConn, client_name},
};

/// A connection to a server that speaks HTTP/2. Clones are handles on the same one.
#[derive(Clone)]
pub(crate) struct Session(Arc<Inner>);

struct Inner {
    server: Shared<Server>,
    /// Opens streams.
    requests: SendRequest<Bytes>,
    /// Drives the connection, and tells hooks when it has ended.
    driver: Mutex<Option<JoinHandle<()>>>,
    state: Arc<State>,
    generation: usize,
    patience: Duration,
    rules: Rules,
}

#[derive(Default)]
struct State {
    closed: AtomicBool,
    /// A stream was opened.
    used: AtomicBool,
    /// Something happened since the last time somebody looked.
    active: AtomicBool,
    /// Nobody holds the session any more.
    left: Notify,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.state.left.notify_one();
    }
}

/// Why a session could not be begun.
pub(crate) struct NoSession {
    pub(crate) failure: Failure,
    /// The peer answered, but not in HTTP/2.
    pub(crate) speaks_http1: bool,
}

/// How long the end of a session may take.
const LINGER: Duration = Duration::from_secs(2);
/// How many streams are opened before the server said how many it allows.
const STREAMS_AT_FIRST: usize = 100;

impl Session {
    /// Begins to speak HTTP/2.
    pub(crate) async fn start(
        engine: &Arc<Engine>,
        client: &Shared<Client>,
        conn: ServerConn,
    ) -> Result<Self, NoSession> {
        let settings = engine.settings();
        let is_certain = conn.destination.tls;
        let ServerConn { server, reader, writer, hop, .. } = conn;
        let mut attempt = Opening::connected(engine, client, &server, hop.as_ref());
        let (io, read) = streams::join(reader, writer);
        let handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX)
            .max_header_list_size(
                u32::try_from(settings.rules.limits.head_bytes).unwrap_or(u32::MAX),
            )
            .max_send_buffer_size(SEND_BUFFER)
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .enable_push(false)
            .handshake(Buffered::new(read, io));
        let begin = async {
            let (requests, mut connection) = handshake.await?;
            let mut pings = connection.ping_pong();
            if !is_certain && let Some(pings) = &mut pings {
                // Nobody agreed to this: an answer shows that the server understands.
                tokio::select! {
                    biased;
                    ended = &mut connection => {
                        ended?;
                        return Err(Reason::HTTP_1_1_REQUIRED.into());
                    }
                    Ok(_) = pings.ping(Ping::opaque()) => {}
                }
            }
            Ok((requests, connection, pings))
        };
        let started = match timeout(settings.handshake_timeout, begin).await {
            Ok(started) => started.map_err(|error: h2::Error| {
                // Frames that are none: the library gives the connection up.
                (describe(&error), error.is_go_away() && error.is_library())
            }),
            Err(_) => {
                Err(("HTTP/2 connection closed: it could not be begun in time".to_owned(), false))
            }
        };
        let (requests, connection, pings) = match started {
            Ok(started) => started,
            Err((text, speaks_http1)) => {
                attempt.is_over();
                upstream::ended(engine, client, server, hop).await;
                return Err(NoSession { failure: Failure::BadResponse(text), speaks_http1 });
            }
        };
        attempt.is_over();
        let state = Arc::new(State::default());
        let driver = {
            let (engine, client) = (Arc::clone(engine), client.clone());
            let (server, state) = (server.clone(), Arc::clone(&state));
            let every = settings.http2_ping_keepalive;
            tokio::spawn(async move {
                drive(connection, pings, every, &state, &client).await;
                state.closed.store(true, Ordering::Release);
                upstream::ended(&engine, &client, server, hop).await;
            })
        };
        Ok(Self(Arc::new(Inner {
            server,
            requests,
            driver: Mutex::new(Some(driver)),
            state,
            generation: engine.generation(),
            patience: settings.idle_timeout,
            rules: settings.rules,
        })))
    }

    pub(crate) fn server(&self) -> Shared<Server> {
        self.0.server.clone()
    }

    /// True if requests may be sent on it.
    pub(crate) fn is_open(&self, engine: &Engine) -> bool {
        self.0.generation == engine.generation() && !self.0.state.closed.load(Ordering::Acquire)
    }

    /// True if streams go on.
    pub(crate) fn is_busy(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    pub(crate) fn was_used(&self) -> bool {
        self.0.state.used.load(Ordering::Relaxed)
    }

    /// Opens a stream: sends the head of a request. `ended`: it has no body.
    pub(crate) async fn send(
        &self,
        head: http::Request<()>,
        ended: bool,
    ) -> Result<(RequestOut, ResponseIn), Failure> {
        let state = &self.0.state;
        let requests = self.0.requests.clone();
        let opened = async { requests.ready().await?.send_request(head, ended) };
        let (response, stream) = opened.await.map_err(|error| {
            // Nothing was sent of it.
            if error.is_io() || error.is_go_away() {
                state.closed.store(true, Ordering::Release);
                Failure::NotProcessed(describe(&error))
            } else {
                Failure::BadResponse(describe(&error))
            }
        })?;
        state.used.store(true, Ordering::Relaxed);
        state.active.store(true, Ordering::Relaxed);
        let reply = ResponseIn {
            response,
            session: self.clone(),
            head: None,
            body: None,
            is_answered: false,
        };
        Ok((RequestOut { stream, is_ended: ended, patience: self.0.patience }, reply))
    }

    /// Ends the session, unless streams still use it. Hooks are told.
    pub(crate) async fn close(self) {
        let driver = self.0.driver.lock().take();
        drop(self);
        if let Some(driver) = driver {
            // It ends by itself, sooner or later.
            let _ = timeout(LINGER * 2, driver).await;
        }
    }
}

/// Drives a connection to its end, and asks for a sign of life when there was none for `every`.
async fn drive(
    mut connection: Connection<Buffered, Bytes>,
    pings: Option<PingPong>,
    every: Option<Duration>,
    state: &State,
    client: &Shared<Client>,
) {
    let keep_alive = async {
        let (Some(mut pings), Some(every)) = (pings, every) else {
            return std::future::pending().await;
        };
        loop {
            sleep(every).await;
            if !state.active.swap(false, Ordering::Relaxed)
                && !matches!(timeout(every, pings.ping(Ping::opaque())).await, Ok(Ok(_)))
            {
                return;
            }
        }
    };
    tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                debug!(client = %client_name(client), "server: {}", describe(&error));
            }
        }
        () = state.left.notified() => {
            // It says good-bye if the server listens.
            let _ = timeout(LINGER, connection).await;
        }
        () = keep_alive => {
            info!(client = %client_name(client), "HTTP/2 server does not answer pings, closing the connection.");
        }
    }
}

/// The body of a request on its way to the server.
pub(crate) struct RequestOut {
    stream: SendStream<Bytes>,
    is_ended: bool,
    patience: Duration,
}

impl RequestOut {
    pub(crate) async fn data(&mut self, data: &Bytes) -> io::Result<()> {
        let Self { stream, patience, .. } = self;
        send_data(data, *patience, |cx, rest| poll_send(stream, cx, rest)).await
    }

    /// Waits until the server resets the stream.
    pub(crate) async fn gone(&mut self) {
        // Whatever it says, what is sent is for nobody.
        let _ = poll_fn(|cx| self.stream.poll_reset(cx)).await;
    }

    pub(crate) fn end(&mut self, trailers: Option<&Headers>) -> io::Result<()> {
        if !self.is_ended {
            send_end(&mut self.stream, trailers)?;
            self.is_ended = true;
        }
        Ok(())
    }
}

impl Drop for RequestOut {
    fn drop(&mut self) {
        if !self.is_ended {
            // What was sent is not all of it, and must not be taken for that. (The library resets streams that nobody holds
            // any more, but this one's answer may still be held.)
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

/// A response as it arrives.
pub(crate) struct ResponseIn {
    response: ResponseFuture,
    session: Session,
    /// A head that arrived and was not asked for yet.
    head: Option<(u16, http::HeaderMap)>,
    body: Option<BodyIn>,
    /// The final head was returned.
    is_answered: bool,
}

impl ResponseIn {
    pub(crate) fn has_begun(&self) -> bool {
        self.head.is_some()
    }

    /// Returns a head that arrived.
    pub(crate) fn head(&mut self, rules: &Rules) -> Result<Option<AnswerHead>, Failure> {
        let Some((status, headers)) = self.head.take() else { return Ok(None) };
        self.is_answered = self.body.is_some();
        let headers = convert::headers_of(&headers, rules)
            .map_err(|text| Failure::BadResponse(format!("Received a {text} from server.")))?;
        Ok(Some(AnswerHead {
            version: Bytes::from_static(HTTP2),
            status,
            reason: Bytes::new(),
            headers,
        }))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.body.as_ref().is_some_and(BodyIn::is_complete)
    }

    pub(crate) fn next(&mut self) -> Result<Option<Next>, Failure> {
        let session = &self.session;
        match &mut self.body {
            Some(body) => body.next().map_err(|error| body_failed(session, error)),
            None => Ok(None),
        }
    }

    /// Waits for the next head, or the next part of the body.
    pub(crate) async fn fill(&mut self) -> Result<(), Failure> {
        self.session.0.state.active.store(true, Ordering::Relaxed);
        if self.is_answered {
            if let Some(body) = &mut self.body {
                body.fill().await.map_err(|error| body_failed(&self.session, error))?;
            }
            return Ok(());
        }
        if self.head.is_some() {
            return Ok(());
        }
        let arrived = poll_fn(|cx| self.poll_head(cx)).await;
        arrived.map_err(|error| failed(&self.session, &error, false))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
            let (parts, ()) = interim?.into_parts();
            self.head = Some((parts.status.as_u16(), parts.headers));
            return Poll::Ready(Ok(()));
        }
        let response = std::task::ready!(std::pin::Pin::new(&mut self.response).poll(cx))?;
        let (parts, body) = response.into_parts();
        self.head = Some((parts.status.as_u16(), parts.headers));
        self.body = Some(BodyIn::new(body, self.session.0.rules));
        Poll::Ready(Ok(()))
    }
}

fn body_failed(session: &Session, error: BodyError) -> Failure {
    match error {
        BodyError::Http2(error) => failed(session, &error, true),
        BodyError::Malformed(text) => {
            Failure::BadResponse(format!("Received a {text} from server."))
        }
    }
}

/// Tells what the failure of a stream means.
fn failed(session: &Session, error: &h2::Error, in_body: bool) -> Failure {
    let is_refused = error.reason() == Some(Reason::REFUSED_STREAM);
    if error.is_go_away() || error.is_io() {
        session.0.state.closed.store(true, Ordering::Release);
    }
    if !in_body && is_refused {
        return Failure::NotProcessed("stream reset by server (REFUSED_STREAM)".into());
    }
    // The library fails those streams above the last that the server says it has seen (RFC 9113 §6.8).
    if !in_body && error.is_go_away() && error.is_remote() {
        return Failure::NotProcessed(describe(error));
    }
    if error.is_io() && !in_body {
        return Failure::ServerClosed;
    }
    match error.reason() {
        // What the client may do about it, it must know.
        Some(reason @ (Reason::CANCEL | Reason::HTTP_1_1_REQUIRED)) if error.is_reset() => {
            Failure::ServerReset(
                format!("stream reset by server ({})", name(reason)),
                reason.into(),
            )
        }
        Some(reason) if error.is_reset() => {
            Failure::BadResponse(format!("stream reset by server ({})", name(reason)))
        }
        _ => Failure::BadResponse(describe(error)),
    }
}
