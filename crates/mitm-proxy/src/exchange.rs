//! The exchange: one request and its response, from the request's head to the response's end.
//!
//! Everything users know of HTTP happens here, whatever version either side speaks: the version modules turn bytes
//! into an [`Incoming`] request and an [`Outgoing`] response and know nothing of flows. In order:
//!
//! 1. `requestheaders`. The [plan](Plan) for the body is made: forward it, copy it, or hold it.
//! 2. Held, or without body: read all, `request`, then connect and send. Otherwise connect, and send while it arrives;
//!    `request` fires before its end goes out.
//! 3. Sending and receiving run at once in one task, since an answer may begin and end before its request did.
//! 4. `responseheaders`, a plan for that body, `response`, and the same in the other direction ([`answer`]).
//!
//! What is sent is taken out of the flow at commit points (head, piece, end); later edits change the flow
//! only. After any failure the flow has an error and `error` fires, unless `response` did; the client gets an error
//! page if it was sent nothing yet, else its connection is closed, so that it can tell.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use mitm_codec::http1::{self, Framing, Piece};
use mitm_flow::{
    Body, Client, FlowError, FlowRef, Headers, Request, Response, Server, Shared, now, url,
};
use tracing::info;

use crate::{
    body::{BodyWriter, Next},
    engine::Engine,
    error::Failure,
    framing,
    hooks::{Direction, Event, Hook, Stage},
    http2,
    mode::{Mode, ModeKind},
    plan::{self, Arriving, Keeper, Plan},
    settings::Settings,
    upstream::{Destination, Line, ServerConn, Sharing, Upstreams, client_name},
    via::Via,
};

pub(crate) mod answer;
pub(crate) mod origin;

use origin::{AnswerHead, Reply, Sink};

/// A request whose head was read.
pub(crate) trait Incoming: Send {
    /// Returns the next part of the body that is there; `None` if [`fill`](Self::fill) must be called first.
    fn next(&mut self) -> Result<Option<Next>, Failure>;

    /// Waits for more of the body.
    fn fill(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// True if all of the body was returned, and only its end is to come.
    fn is_complete(&self) -> bool;

    /// True if pieces carry HTTP/1's framing.
    fn is_http1(&self) -> bool;

    /// Waits until the client is gone and tells how. What it sends meanwhile is kept, up to a limit. A client that only closed
    /// its own direction is not gone, unless `close_counts`.
    fn gone(&mut self, close_counts: bool) -> impl Future<Output = Failure> + Send;
}

/// The place a response goes to.
pub(crate) trait Outgoing: Send {
    /// Sends a 1xx response.
    fn informational(
        &mut self,
        head: &AnswerHead,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes the head of the response, to be sent with what follows. Not `delimited`: the body ends with the
    /// connection.
    fn head(&mut self, response: &Response, body: BodyWriter, delimited: bool);

    /// Sends a piece as it was received.
    fn piece(&mut self, piece: &Piece) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Sends payload.
    fn data(&mut self, data: &Bytes) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes the end of the body, to be sent with the next flush.
    fn end(&mut self, wire: Option<&Bytes>, trailers: Option<&Headers>);

    fn flush(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Learns why what it was given is not all.
    fn failed(&mut self, _: &Failure) {}

    /// Forgets the head and what followed it, if nothing of it was sent yet.
    fn retract(&mut self) -> bool;

    /// Sends a complete error answer.
    fn error_page(&mut self, status: u16, message: &str) -> impl Future<Output = ()> + Send;
}

/// What an exchange needs to know of its surroundings.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) engine: Arc<Engine>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) client: Shared<Client>,
    pub(crate) mode: Arc<Mode>,
    /// Where the connection leads, if that is known without a request: the client asked for a tunnel, or the mode says it.
    pub(crate) target: Option<Destination>,
}

impl Context {
    /// Returns where a request goes. Unless a hook redirected it, that is where the connection leads, if that is known,
    /// with the name that the client gave in its TLS handshake.
    pub(crate) fn destination(&self, request: &Request) -> Destination {
        let tls = &request.scheme[..] == b"https";
        match &self.target {
            Some(target)
                if target.host == request.host
                    && target.port == request.port
                    && target.tls == tls =>
            {
                target.clone()
            }
            target => {
                let plain = Destination::plain(Arc::clone(&request.host), request.port);
                let alpn: &[Bytes] = match (&request.http_version[..], tls) {
                    (_, false) => &[],
                    (b"HTTP/2.0", true) if self.settings.http2 => {
                        &[Bytes::from_static(b"h2"), Bytes::from_static(b"http/1.1")]
                    }
                    (_, true) => &[Bytes::from_static(b"http/1.1")],
                };
                let via = self.via(target.is_none() && !tls);
                Destination { tls, alpn: alpn.into(), via, ..plain }
            }
        }
    }

    /// Points a request to where the connection leads, if that is known without it.
    pub(crate) fn lead(&self, request: &mut Request) {
        let Some(target) = &self.target else { return };
        request.host = Arc::clone(&target.host);
        request.port = target.port;
        request.scheme = Bytes::from_static(if target.tls { b"https" } else { b"http" });
        if matches!(self.mode.kind, ModeKind::Reverse(_)) && !self.settings.keep_host_header {
            // The client asked for the proxy's name, which the server need not know.
            let authority = Bytes::from(url::authority(&request.scheme, &target.host, target.port));
            let hosts = &mut request.headers;
            if hosts.contains("host") || request.authority.is_empty() {
                // Headers that are not touched go out as the bytes they came as.
                if !hosts.get_all("host").eq([&authority]) {
                    hosts.set("Host", authority.clone());
                }
            }
            if !request.authority.is_empty() {
                request.authority = authority;
            }
        }
    }

    /// Returns the proxy to go through, if the mode says so; with `forward` by requests in absolute form.
    pub(crate) fn via(&self, forward: bool) -> Option<Via> {
        match &self.mode.kind {
            ModeKind::Upstream(proxy) => Some(Via::new(Arc::clone(proxy), forward)),
            _ => None,
        }
    }

    /// Ends an intercepted wait or a kill: to be called after each hook that may do either.
    ///
    /// # Errors
    /// [`Failure::Killed`].
    pub(crate) async fn settle(&self, flow: &FlowRef) -> Result<(), Failure> {
        if flow.is_killed() {
            return Err(Failure::Killed);
        }
        if flow.is_intercepted() {
            flow.wait_for_resume().await;
            if flow.is_killed() {
                return Err(Failure::Killed);
            }
        }
        Ok(())
    }
}

/// What becomes of the client connection.
pub(crate) enum After {
    KeepAlive,
    Close,
    /// Close so that the client can tell that the response is not complete.
    Abort,
    /// Close, but read a little of what the client still sends, so that it sees the answer.
    Drain,
    /// The server switched protocols: both connections are raw now. The flow is that of the request, and live.
    Upgrade(Box<ServerConn>, FlowRef),
}

/// Where the body that is sent to the server comes from.
enum Source {
    Whole(Whole),
    Live(Live),
}

/// A body that is all there.
#[derive(Clone)]
struct Whole {
    body: Body,
    trailers: Option<Headers>,
}

/// A body that is still arriving.
struct Live {
    /// How it is framed.
    received: Framing,
    /// What was read of it already.
    begun: Option<Body>,
    keeper: Keeper,
}

/// What the two directions know of each other.
#[derive(Default)]
pub(crate) struct Progress {
    /// The request was sent completely.
    sent: AtomicBool,
    /// The server does not take the rest of the request.
    declined: AtomicBool,
    /// Something of an answer came from the server.
    heard: AtomicBool,
    /// The head of the response is on its way to the client.
    answered: AtomicBool,
    /// The `response` hook fired, so `error` must not.
    told: AtomicBool,
}

impl Progress {
    /// Nothing more of the request will be sent.
    fn is_done(&self) -> bool {
        self.sent.load(Ordering::Relaxed) || self.declined.load(Ordering::Relaxed)
    }
}

/// What the client asked for, before any hook saw it: it decides what the client can be sent.
pub(crate) struct Asked {
    pub(crate) method: Bytes,
    pub(crate) version: Bytes,
    /// The client keeps its connection open.
    pub(crate) stays: bool,
}

/// Carries one request and its response.
///
/// `refused` is what is wrong with the request beyond its head; addons see the flow all the same.
pub(crate) async fn exchange<I: Incoming, O: Outgoing>(
    ctx: &Context,
    request: Request,
    framing: Result<Framing, Failure>,
    incoming: &mut I,
    outgoing: &mut O,
    upstreams: &Upstreams,
) -> After {
    let _counted = ctx.engine.count_exchange();
    let address = ctx.destination(&request).address();
    let asked = Asked {
        method: request.method.clone(),
        version: request.http_version.clone(),
        stays: http1::keep_alive(&request.http_version, &request.headers),
    };
    let flow = FlowRef::http(ctx.client.clone(), Server::new(Some(address)).into(), request);
    let request = flow.request().expect("an HTTP flow has a request");
    let progress = Progress::default();
    let mut exchange = Exchange {
        ctx,
        asked,
        flow,
        request,
        incoming,
        outgoing,
        upstreams,
        progress,
        is_over: false,
    };
    let after = match exchange.run(framing).await {
        Ok(after) => after,
        Err(failure) => exchange.fail(&failure).await,
    };
    if !matches!(after, After::Upgrade(..)) {
        exchange.flow.set_live(false);
    }
    exchange.is_over = true;
    after
}

struct Exchange<'a, I, O> {
    ctx: &'a Context,
    asked: Asked,
    flow: FlowRef,
    request: Shared<Request>,
    incoming: &'a mut I,
    outgoing: &'a mut O,
    upstreams: &'a Upstreams,
    progress: Progress,
    is_over: bool,
}

/// The end of a run cancels what is running. Addons that write their flows then must not take this one for complete.
impl<I, O> Drop for Exchange<'_, I, O> {
    fn drop(&mut self) {
        if !self.is_over {
            if !self.progress.told.load(Ordering::Relaxed) {
                self.flow.set_error(Some(FlowError::new("interrupted by the end of the proxy")));
            }
            self.flow.set_live(false);
        }
    }
}

impl<I: Incoming, O: Outgoing> Exchange<'_, I, O> {
    async fn run(&mut self, framing: Result<Framing, Failure>) -> Result<After, Failure> {
        let settings = &self.ctx.settings;
        let known = match framing {
            Ok(Framing::Length(length)) => Some(length),
            _ => None,
        };
        if plan::is_large(settings, known) {
            self.request.update(|request| request.stream = mitm_flow::Stream::Pass);
        }
        self.ctx.engine.fire(Event::Requestheaders(self.flow.clone())).await;
        let received = framing?;
        self.settle().await?;
        if settings.body_size_limit.is_some_and(|limit| known.is_some_and(|n| n > limit)) {
            return Err(Failure::RequestTooLarge);
        }
        let plan = if self.flow.has_response() && !self.is_worth_reading(known) {
            // The answer is known, and nobody needs what the client would send before it.
            self.ctx.engine.fire(Event::Request(self.flow.clone())).await;
            self.settle().await?;
            let response = self.flow.response();
            return match response {
                Some(response) => self.answer_from_here(&response, true).await,
                None => Err(Failure::Killed),
            };
        } else if known == Some(0) || self.flow.has_response() {
            Plan::Hold
        } else {
            let order = self.request.with(|request| request.stream.clone());
            plan::make(self.ctx, &self.flow, Direction::Request, order, None)
        };
        let source = match plan {
            Plan::Hold => self.hold_request(received, known).await?,
            plan => {
                if plan.head_first() {
                    let event = Event::Request(self.flow.clone());
                    self.ctx.engine.fire_stage(event, Stage::Head).await;
                    self.settle().await?;
                }
                let keeper = Keeper::new(plan, settings, known);
                Source::Live(Live { received, begun: None, keeper })
            }
        };
        if let Some(response) = self.flow.response() {
            let unread = matches!(source, Source::Live(_));
            return self.answer_from_here(&response, unread).await;
        }
        self.ask_server(source).await
    }

    /// True if the body of a request that is answered already is read, so that the connection can go on: it is short, and
    /// the client does not wait to be asked for it.
    fn is_worth_reading(&self, known: Option<u64>) -> bool {
        let is_short = known.is_some_and(|len| len <= self.ctx.settings.body_memory_limit as u64);
        is_short && !self.request.with(|r| r.headers.has_token("expect", "100-continue"))
    }

    /// Reads the whole request and fires `request`.
    async fn hold_request(
        &mut self,
        received: Framing,
        known: Option<u64>,
    ) -> Result<Source, Failure> {
        let settings = &self.ctx.settings;
        if known == Some(0) {
            self.request.update(|request| {
                request.body = Body::empty();
                request.timestamp_end = Some(now());
            });
        } else {
            let expects = self.request.with(|r| r.headers.has_token("expect", "100-continue"));
            if expects && &self.asked.version[..] != b"HTTP/1.0" {
                self.outgoing.informational(&continue_head()).await?;
                self.request.update(|request| request.headers.remove("expect"));
            }
            let keeper = Keeper::new(Plan::Hold, settings, known);
            let mut arriving = Arriving::new(&self.request, keeper);
            let collected = tokio::select! {
                biased;
                collected = plan::collect(self.ctx, self.incoming, &mut arriving, known) => collected?,
                () = self.flow.wait_for_kill() => return Err(Failure::Killed),
            };
            let stored = arriving.flushed().await;
            let body = arriving.finish();
            let trailers = match collected {
                plan::Collected::Whole(trailers) if stored => trailers,
                plan::Collected::Whole(_) => return Err(Failure::Storage("request")),
                plan::Collected::TooLong => {
                    // It turned out to be large: what is here goes first, the rest as it comes.
                    self.request.update(|request| request.stream = mitm_flow::Stream::Pass);
                    if self.ctx.engine.hooks.need(&self.flow, Direction::Request).1 {
                        let event = Event::Request(self.flow.clone());
                        self.ctx.engine.fire_stage(event, Stage::Head).await;
                        self.settle().await?;
                    }
                    let keeper = Keeper::new(plan::pass(settings), settings, None);
                    return Ok(Source::Live(Live { received, begun: Some(body), keeper }));
                }
            };
            self.request.update(|request| {
                request.body = body;
                request.trailers = trailers;
                request.timestamp_end = Some(now());
            });
        }
        self.ctx.engine.fire(Event::Request(self.flow.clone())).await;
        self.settle().await?;
        let (body, trailers) =
            self.request.with(|request| (request.body.clone(), request.trailers.clone()));
        Ok(Source::Whole(Whole { body, trailers }))
    }

    /// Waits while the flow is intercepted; a client that closes meanwhile ends it.
    async fn settle(&mut self) -> Result<(), Failure> {
        if !self.flow.is_intercepted() {
            return self.ctx.settle(&self.flow).await;
        }
        tokio::select! {
            biased;
            settled = self.ctx.settle(&self.flow) => settled,
            gone = self.incoming.gone(true) => Err(gone),
        }
    }

    /// Sends a response that an addon made.
    async fn answer_from_here(
        &mut self,
        response: &Shared<Response>,
        unread: bool,
    ) -> Result<After, Failure> {
        let Self { ctx, flow, request, asked, progress, incoming, outgoing, .. } = self;
        let answer = answer::Answer::new(ctx, flow, request, asked, progress);
        let sending = answer.send_own(response, *outgoing);
        let keep_alive = tokio::select! {
            biased;
            sent = sending => sent?,
            () = flow.wait_for_kill() => return Err(Failure::Killed),
            gone = incoming.gone(false), if !unread => return Err(gone),
        };
        Ok(match (unread, keep_alive) {
            (true, _) => After::Drain,
            (false, true) => After::KeepAlive,
            (false, false) => After::Close,
        })
    }

    async fn ask_server(&mut self, source: Source) -> Result<After, Failure> {
        let destination = self.request.with(|request| self.ctx.destination(request));
        if self.ctx.settings.is_reserved(&destination.host) {
            return Err(Failure::Connect(
                format!("{} is the proxy's own name for its certificate page.", destination.host)
                    .into(),
            ));
        }
        let safe = self.request.with(|request| {
            matches!(&request.method[..], b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE")
        });
        let (repeatable, bodiless) = match &source {
            Source::Whole(Whole { body, .. }) => {
                let idempotent =
                    safe || self.request.with(|r| matches!(&r.method[..], b"PUT" | b"DELETE"));
                (idempotent && !body.is_missing(), body.is_empty())
            }
            Source::Live(_) => (false, false),
        };
        let sharing = if safe && bodiless { Sharing::Allowed } else { Sharing::Own };

        let mut line = self.reach(&destination, Some(sharing)).await?;
        if matches!(line, Line::Http2(_)) && self.request.with(wants_upgrade) {
            // Only HTTP/1 connections can become something else.
            let alpn = [Bytes::from_static(b"http/1.1")].into();
            self.flow.set_server(Shared::new(Server::new(None)));
            line = self.reach(&Destination { alpn, ..destination.clone() }, None).await?;
        }
        let whole = match source {
            Source::Whole(whole) => whole,
            Source::Live(live) => {
                return self.transact(line, &destination, Source::Live(live)).await;
            }
        };
        let was_used = line.was_used();
        let was_http1 = matches!(line, Line::Http1(_));
        match self.transact(line, &destination, Source::Whole(whole.clone())).await {
            // A server may close an idle connection just when it is used again.
            Err(Failure::ServerClosed)
                if was_used && repeatable && !self.progress.heard.load(Ordering::Relaxed) => {}
            // It says that it did nothing (RFC 9113 §8.7).
            Err(Failure::NotProcessed(_)) if !whole.body.is_missing() => {}
            result => return result,
        }
        self.progress.sent.store(false, Ordering::Relaxed);
        self.progress.declined.store(false, Ordering::Relaxed);
        let line = self.reach_anew(&destination, !was_http1).await?;
        self.transact(line, &destination, Source::Whole(whole)).await
    }

    /// Gets a connection, a new one without `sharing`. A kill, or a client that is gone, ends the wait.
    async fn reach(
        &mut self,
        destination: &Destination,
        sharing: Option<Sharing>,
    ) -> Result<Line, Failure> {
        let server = self.flow.server();
        // A hook may have sent the request elsewhere.
        server.update(|server| server.address = Some(destination.address()));
        let connecting = async {
            match sharing {
                Some(sharing) => self.upstreams.get(destination, server, sharing).await,
                None => self.upstreams.anew(destination, server).await,
            }
        };
        tokio::select! {
            biased;
            conn = connecting => conn,
            () = self.flow.wait_for_kill() => Err(Failure::Killed),
            gone = self.incoming.gone(false) => Err(gone),
        }
    }

    /// Sends the request and receives the response.
    async fn transact(
        &mut self,
        line: Line,
        destination: &Destination,
        source: Source,
    ) -> Result<After, Failure> {
        let request = self.request.with(|request| Request {
            body: Body::missing(),
            trailers: None,
            ..request.clone()
        });
        match line {
            Line::Http1(conn) => self.transact_http1(conn, request, source).await,
            Line::Http2(session) => {
                self.transact_http2(session, destination, request, source).await
            }
        }
    }

    async fn transact_http1(
        &mut self,
        mut conn: ServerConn,
        mut request: Request,
        source: Source,
    ) -> Result<After, Failure> {
        self.flow.set_server(conn.server.clone());
        conn.married |= is_connection_auth(&request.headers, "authorization");
        let forward = conn.destination.via.as_ref().is_some_and(|via| via.forward);
        let committed = self.commit_http1(&mut request, &source, forward);
        let result = match committed {
            Ok((head, body)) => {
                let sink = Sink::Http1 { writer: &mut conn.writer, head, body };
                self.both_ways(sink, Reply::http1(&mut conn.reader), source).await
            }
            Err(failure) => Err(failure),
        };
        let received = match result {
            Ok(received) => received,
            Err(failure) => {
                self.upstreams.close(conn).await;
                return Err(failure);
            }
        };
        conn.married |= received.married;
        let sent = self.progress.sent.load(Ordering::Relaxed);
        if received.upgrade && sent {
            return Ok(After::Upgrade(Box::new(conn), self.flow.clone()));
        }
        if received.reusable && sent {
            self.upstreams.put(conn).await;
        } else {
            self.upstreams.close(conn).await;
        }
        Ok(after(sent, received.keep_alive && !received.upgrade))
    }

    async fn transact_http2(
        &mut self,
        session: http2::Session,
        destination: &Destination,
        mut request: Request,
        source: Source,
    ) -> Result<After, Failure> {
        self.flow.set_server(session.server());
        let unsettled = request.clone();
        let ended = match &source {
            Source::Whole(Whole { body, trailers }) => {
                framing::settle_whole_request(&mut request, body);
                body.is_empty() && trailers.is_none()
            }
            Source::Live(live) => {
                let is_changed = live.keeper.is_transform();
                framing::settle_live_request(&mut request, live.received, is_changed);
                false
            }
        };
        let head = http2::request_to_http2(&request).map_err(|error| {
            Failure::BadRequest(format!("The request cannot be sent over HTTP/2: {error}"))
        })?;
        let (out, reply) = match self.open(&session, head.clone(), ended).await {
            // The server does not want new streams on this connection. Nothing of the body was taken.
            Err(Failure::NotProcessed(_)) => match self.reach_anew(destination, true).await? {
                Line::Http2(session) => {
                    self.flow.set_server(session.server());
                    self.open(&session, head, ended).await?
                }
                Line::Http1(conn) => {
                    return self.transact_http1(conn, unsettled, source).await;
                }
            },
            opened => opened?,
        };
        let reply = Reply::Http2(Box::new(reply));
        let received = self.both_ways(Sink::Http2(out), reply, source).await?;
        Ok(after(self.progress.sent.load(Ordering::Relaxed), received.keep_alive))
    }

    /// Opens a stream for a request.
    async fn open(
        &mut self,
        session: &http2::Session,
        head: http::Request<()>,
        ended: bool,
    ) -> Result<(http2::RequestOut, http2::ResponseIn), Failure> {
        tokio::select! {
            biased;
            opened = session.send(head, ended) => opened,
            () = self.flow.wait_for_kill() => Err(Failure::Killed),
            gone = self.incoming.gone(false) => Err(gone),
        }
    }

    /// Gets another connection than the last: a new one, or a session that others have begun if `shared`.
    async fn reach_anew(
        &mut self,
        destination: &Destination,
        shared: bool,
    ) -> Result<Line, Failure> {
        self.flow.set_server(Shared::new(Server::new(None)));
        let sharing = (shared && destination.may_be_http2()).then_some(Sharing::Own);
        self.reach(destination, sharing).await
    }

    /// Sends the request and receives the response, both at once.
    async fn both_ways(
        &mut self,
        sink: Sink<'_>,
        mut reply: Reply<'_>,
        source: Source,
    ) -> Result<answer::Received, Failure> {
        let Self { ctx, asked, flow, request, incoming, outgoing, progress, .. } = self;
        let mut sending = pin!(send(ctx, flow, request, *incoming, sink, source, progress));
        let answer = answer::Answer::new(ctx, flow, request, asked, progress);
        let received = tokio::select! {
            biased;
            received = answer.receive(&mut reply, *outgoing) => received,
            failure = &mut sending => Err(failure),
            () = flow.wait_for_kill() => Err(Failure::Killed),
        };
        match received {
            // The answer was early, and both sides go on: the server wants the rest as well.
            Ok(received) if received.reusable && received.keep_alive && !progress.is_done() => {
                let rest = poll_fn(|cx| match sending.as_mut().poll(cx) {
                    Poll::Ready(failure) => Poll::Ready(Err(failure)),
                    Poll::Pending if progress.is_done() => Poll::Ready(Ok(())),
                    Poll::Pending => Poll::Pending,
                });
                tokio::select! {
                    biased;
                    ended = rest => ended.map(|()| received),
                    () = flow.wait_for_kill() => Err(Failure::Killed),
                    // The server has had enough.
                    () = reply.says_more() => Ok(received),
                }
            }
            received => received,
        }
    }

    /// Returns the head as HTTP/1 writes it, and how the body after it is framed.
    fn commit_http1(
        &self,
        request: &mut Request,
        source: &Source,
        forward: bool,
    ) -> Result<(BytesMut, BodyWriter), Failure> {
        let absolute_host = request.authority.clone();
        // What a hook calls it does not make it what HTTP/1 can carry.
        let was_http1 = http1::Version::from_bytes(&self.asked.version).is_some();
        if !was_http1 {
            http2::request_to_http1(request).map_err(|error| {
                Failure::BadRequest(format!("The request cannot be sent over HTTP/1: {error}"))
            })?;
        }
        let body_writer = match source {
            Source::Whole(whole) => framing::settle_whole_request(request, &whole.body),
            Source::Live(live) => {
                let is_changed = live.keeper.is_transform();
                let writer = framing::settle_live_request(request, live.received, is_changed);
                if self.incoming.is_http1() { writer } else { writer.reframing() }
            }
        };
        let mut head = BytesMut::new();
        let absolute;
        let target: &[u8] = if forward {
            // Not in the flow: it is for the proxy alone, and not for a file.
            if let Some(ours) = &self.ctx.settings.upstream_auth {
                request.headers.set("Proxy-Authorization", ours.to_basic());
            }
            let authority = url::authority(&request.scheme, &request.host, request.port);
            absolute = [&request.scheme[..], b"://", authority.as_bytes(), &request.path].concat();
            &absolute
        } else if absolute_host.is_empty() || !was_http1 {
            &request.path
        } else {
            absolute = [&request.scheme[..], b"://", &absolute_host, &request.path].concat();
            &absolute
        };
        http1::write_request_head(
            &mut head,
            &request.method,
            target,
            &request.http_version,
            &request.headers,
        );
        Ok((head, body_writer))
    }

    /// Ends the flow and tells everybody.
    async fn fail(&mut self, failure: &Failure) -> After {
        let text = failure.to_string();
        if !matches!(failure, Failure::Killed) {
            self.flow.set_error(Some(FlowError::new(text.as_str())));
        }
        if let Failure::BadRequest(_) | Failure::BadResponse(_) = failure {
            info!(client = %client_name(&self.ctx.client), "{text}");
        }
        self.outgoing.failed(failure);
        if !self.progress.told.load(Ordering::Relaxed) {
            self.ctx.engine.fire(Event::Error(self.flow.clone())).await;
        }
        if self.progress.answered.load(Ordering::Relaxed) && !self.outgoing.retract() {
            return After::Abort;
        }
        let Some(status) = failure.status() else { return After::Close };
        self.outgoing.error_page(status, &text).await;
        After::Drain
    }
}

/// What becomes of the client connection after an answer, depending on whether the request was sent completely.
fn after(sent: bool, keep_alive: bool) -> After {
    match (sent, keep_alive) {
        (false, _) => After::Drain,
        (true, true) => After::KeepAlive,
        (true, false) => After::Close,
    }
}

/// True if a request asks the server to switch protocols.
fn wants_upgrade(request: &Request) -> bool {
    request.headers.contains("upgrade") && request.headers.has_token("connection", "upgrade")
}

/// Sends the request, then watches the client. Returns only with a failure.
async fn send<I: Incoming>(
    ctx: &Context,
    flow: &FlowRef,
    request: &Shared<Request>,
    incoming: &mut I,
    mut sink: Sink<'_>,
    source: Source,
    progress: &Progress,
) -> Failure {
    let result = match source {
        Source::Whole(whole) => unless_gone(incoming, send_whole(&mut sink, &whole)).await,
        Source::Live(live) => send_live(ctx, flow, request, incoming, &mut sink, live).await,
    };
    match result {
        Ok(()) => progress.sent.store(true, Ordering::Relaxed),
        Err(SendError::Flow(failure)) => return failure,
        // The server does not listen any more; it may still have answered.
        Err(SendError::Server) => progress.declined.store(true, Ordering::Relaxed),
    }
    incoming.gone(false).await
}

/// Sends, unless the client leaves: a server that takes its time must not keep what nobody wants any more.
async fn unless_gone<I: Incoming, E: Into<SendError>>(
    incoming: &mut I,
    sending: impl Future<Output = Result<(), E>>,
) -> Result<(), SendError> {
    tokio::select! {
        biased;
        sent = sending => sent.map_err(Into::into),
        failure = incoming.gone(false) => Err(failure.into()),
    }
}

enum SendError {
    Server,
    Flow(Failure),
}

impl From<std::io::Error> for SendError {
    fn from(error: std::io::Error) -> Self {
        tracing::debug!("server connection: {error}");
        Self::Server
    }
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        Self::Flow(failure)
    }
}

/// Bodies that are stored are sent in pieces of this size.
pub(crate) const STORED_PIECE: usize = 256 << 10;

async fn send_whole(sink: &mut Sink<'_>, whole: &Whole) -> Result<(), SendError> {
    sink.head().await?;
    for piece in whole.body.chunks(STORED_PIECE) {
        let piece = piece.map_err(|_| Failure::Storage("request"))?;
        sink.data(&piece).await?;
    }
    sink.end(None, whole.trailers.as_ref())?;
    sink.flush().await?;
    Ok(())
}

async fn send_live<I: Incoming>(
    ctx: &Context,
    flow: &FlowRef,
    request: &Shared<Request>,
    incoming: &mut I,
    sink: &mut Sink<'_>,
    live: Live,
) -> Result<(), SendError> {
    let Live { begun, keeper, .. } = live;
    let mut keeper = Arriving::new(request, keeper);
    // With listeners the end is kept back until their hook is over.
    let listened = ctx.engine.hooks.wanted().has(Hook::Request);
    let mut last = None;
    sink.head().await?;
    if let Some(begun) = begun {
        for piece in begun.chunks(STORED_PIECE) {
            let piece = piece.map_err(|_| Failure::Storage("request"))?;
            for data in keeper.take(piece).await? {
                unless_gone(incoming, sink.data(&data)).await?;
            }
        }
    }
    let (wire, received) = loop {
        let next = match incoming.next() {
            Ok(Some(next)) => next,
            Ok(None) => {
                sink.flush().await?;
                tokio::select! {
                    biased;
                    filled = incoming.fill() => filled?,
                    () = sink.gone() => return Err(SendError::Server),
                }
                continue;
            }
            Err(failure) => return Err(failure.into()),
        };
        match next {
            Next::Piece(piece) => {
                if ctx.settings.body_size_limit.is_some_and(|limit| keeper.exceeds(limit, &piece)) {
                    return Err(Failure::RequestTooLarge.into());
                }
                if keeper.is_transform() {
                    for piece in piece.data {
                        for data in keeper.take(piece).await? {
                            unless_gone(incoming, sink.data(&data)).await?;
                        }
                    }
                } else {
                    keeper.keep(&piece).await;
                    if listened && incoming.is_complete() {
                        last = Some(piece);
                    } else {
                        unless_gone(incoming, sink.piece(&piece)).await?;
                    }
                }
            }
            Next::End { wire, trailers } => break (wire, trailers),
        }
    };
    for data in keeper.take_end().await? {
        sink.data(&data).await?;
    }
    let body = keeper.finish();
    request.update(|request| {
        request.body = body;
        request.trailers.clone_from(&received);
        request.timestamp_end = Some(now());
    });
    ctx.engine.fire_stage(Event::Request(flow.clone()), Stage::Tail).await;
    ctx.settle(flow).await?;
    if let Some(last) = last {
        unless_gone(incoming, sink.piece(&last)).await?;
    }
    let trailers = request.with(|request| request.trailers.clone());
    sink.end((trailers == received).then_some(&wire), trailers.as_ref())?;
    sink.flush().await?;
    Ok(())
}

/// True for schemes that authenticate the connection rather than the request.
pub(crate) fn is_connection_auth(headers: &Headers, name: &str) -> bool {
    headers.get_all(name).any(|value| {
        let scheme = value.split(|&b| b == b' ').next().unwrap_or_default();
        [&b"NTLM"[..], b"Negotiate", b"Kerberos"].iter().any(|s| scheme.eq_ignore_ascii_case(s))
    })
}

fn continue_head() -> AnswerHead {
    AnswerHead {
        version: Bytes::from_static(b"HTTP/1.1"),
        status: 100,
        reason: Bytes::from_static(b"Continue"),
        headers: Headers::new(),
    }
}
