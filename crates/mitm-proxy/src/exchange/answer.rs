//! The second half of an exchange: the response, from a server or made by an addon.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use mitm_codec::http1::{self, Framing, Piece};
use mitm_flow::{Body, FlowRef, Request, Response, Shared, Stream, now};

use super::{
    Asked, Context, Outgoing, Progress, STORED_PIECE, is_connection_auth,
    origin::{AnswerHead, Filled, Reply},
};
use crate::{
    body::Next,
    error::Failure,
    framing::{self, Recipient},
    hooks::{Direction, Event, Hook, Stage},
    plan::{self, Arriving, Keeper, Plan},
    websocket,
};

/// How a response ended.
#[expect(clippy::struct_excessive_bools, reason = "four independent facts")]
pub(crate) struct Received {
    /// The server keeps its connection open for another request.
    pub(crate) reusable: bool,
    /// The client connection can take another request.
    pub(crate) keep_alive: bool,
    /// The server authenticates the connection.
    pub(crate) married: bool,
    /// The server switched protocols.
    pub(crate) upgrade: bool,
}

pub(crate) struct Answer<'a> {
    ctx: &'a Context,
    flow: &'a FlowRef,
    request: &'a Shared<Request>,
    asked: &'a Asked,
    progress: &'a Progress,
}

/// How many interim responses one request may get.
const INTERIM_MAX: usize = 64;

impl<'a> Answer<'a> {
    pub(crate) fn new(
        ctx: &'a Context,
        flow: &'a FlowRef,
        request: &'a Shared<Request>,
        asked: &'a Asked,
        progress: &'a Progress,
    ) -> Self {
        Self { ctx, flow, request, asked, progress }
    }

    fn recipient(&self) -> Recipient<'_> {
        Recipient { method: &self.asked.method, version: &self.asked.version }
    }

    /// Sends a response that an addon made. True if the client connection can take another request.
    pub(crate) async fn send_own<O: Outgoing>(
        &self,
        response: &Shared<Response>,
        outgoing: &mut O,
    ) -> Result<bool, Failure> {
        let engine = &self.ctx.engine;
        engine.fire(Event::Responseheaders(self.flow.clone())).await;
        self.ctx.settle(self.flow).await?;
        self.fire_response(Stage::Whole).await?;
        let response = self.flow.response().unwrap_or_else(|| response.clone());
        self.send_whole(&response, outgoing).await
    }

    /// Receives the server's response and sends it on.
    pub(crate) async fn receive<O: Outgoing>(
        &self,
        reply: &mut Reply<'_>,
        outgoing: &mut O,
    ) -> Result<Received, Failure> {
        let settings = &self.ctx.settings;
        // As it was sent, which a hook may have made something else than what the client asked for.
        let (method, wants_upgrade, stays_asked) = self.request.with(|request| {
            let upgrade = request.headers.contains("upgrade")
                && request.headers.has_token("connection", "upgrade")
                && &self.asked.version[..] != b"HTTP/1.0";
            let stays = http1::keep_alive(&request.http_version, &request.headers);
            (request.method.clone(), upgrade, stays)
        });
        let mut interim = 0;
        let head = loop {
            let head = self.read_head(reply).await?;
            if !matches!(head.status, 100..=199) || head.status == 101 {
                break head;
            }
            interim += 1;
            if interim > INTERIM_MAX {
                return Err(Failure::BadResponse("server sent too many interim responses".into()));
            }
            // HTTP/1.0 does not know interim responses (RFC 9110 §15.2).
            if &self.asked.version[..] != b"HTTP/1.0" {
                outgoing.informational(&head).await?;
            }
        };
        if head.status == 101 && !wants_upgrade {
            return Err(Failure::BadResponse(
                "server switched protocols without being asked to".into(),
            ));
        }
        let validate = settings.rules.validate;
        let received = reply.framing(&method, &head, validate);
        let stays = stays_asked && http1::keep_alive(&head.version, &head.headers);
        let married = is_connection_auth(&head.headers, "www-authenticate");
        let content_type = head.headers.get("content-type").cloned();
        let switched = head.status == 101;
        let known = match received {
            Ok(Framing::Length(length)) => Some(length),
            _ => None,
        };
        let response = Shared::new(Response {
            http_version: head.version,
            status_code: head.status,
            reason: head.reason,
            headers: head.headers,
            timestamp_start: now(),
            stream: if plan::is_large(settings, known) { Stream::Pass } else { Stream::No },
            ..Response::default()
        });
        self.flow.set_response(Some(response.clone()));
        self.ctx.engine.fire(Event::Responseheaders(self.flow.clone())).await;
        let received = received?;
        self.ctx.settle(self.flow).await?;
        if settings.body_size_limit.is_some_and(|limit| known.is_some_and(|n| n > limit)) {
            return Err(Failure::ResponseTooLarge);
        }
        let reusable = stays && received != Framing::UntilClose && !switched;
        if let Some(replaced) = self.flow.response().filter(|now| !now.is(&response)) {
            // A hook answers in the server's place; what the server still sends is not wanted.
            self.fire_response(Stage::Whole).await?;
            let keep_alive = self.send_whole(&replaced, outgoing).await?;
            return Ok(Received { reusable: false, keep_alive, married, upgrade: false });
        }

        reply.begin(received, validate);
        let plan = if known == Some(0) {
            Plan::Hold
        } else {
            let order = response.with(|response| response.stream.clone());
            plan::make(self.ctx, self.flow, Direction::Response, order, content_type.as_deref())
        };
        let mut upgrade = false;
        let keep_alive = match plan {
            Plan::Hold => {
                let begun = if known == Some(0) {
                    response.update(|response| {
                        response.body = Body::empty();
                        response.timestamp_end = Some(now());
                    });
                    None
                } else {
                    self.hold(reply, &response, known).await?
                };
                if let Some(begun) = begun {
                    if self.ctx.engine.hooks.need(self.flow, Direction::Response).1 {
                        let event = Event::Response(self.flow.clone());
                        self.ctx.engine.fire_stage(event, Stage::Head).await;
                        self.ctx.settle(self.flow).await?;
                    }
                    let keeper = Keeper::new(plan::pass(settings), settings, None);
                    let live = Live { received, begun: Some(begun), keeper };
                    self.forward(reply, &response, live, outgoing).await?
                } else {
                    if switched {
                        websocket::announce(self.ctx, self.flow);
                    }
                    self.fire_response(Stage::Whole).await?;
                    let response = self.flow.response().unwrap_or(response);
                    // A hook may have refused to switch.
                    upgrade = switched && response.with(|response| response.status_code == 101);
                    self.send_whole(&response, outgoing).await?
                }
            }
            plan => {
                if plan.head_first() {
                    self.ctx
                        .engine
                        .fire_stage(Event::Response(self.flow.clone()), Stage::Head)
                        .await;
                    self.ctx.settle(self.flow).await?;
                }
                let keeper = Keeper::new(plan, settings, known);
                let live = Live { received, begun: None, keeper };
                self.forward(reply, &response, live, outgoing).await?
            }
        };
        Ok(Received { reusable, keep_alive, married, upgrade })
    }

    async fn read_head(&self, reply: &mut Reply<'_>) -> Result<AnswerHead, Failure> {
        loop {
            if reply.has_begun() {
                self.progress.heard.store(true, Ordering::Relaxed);
                if let Some(head) = reply.head(&self.ctx.settings.rules)? {
                    return Ok(head);
                }
            }
            self.fill(reply).await?;
        }
    }

    /// Waits for more from the server, but not longer than a connection may be silent.
    async fn fill(&self, reply: &mut Reply<'_>) -> Result<(), Failure> {
        let silence = self.ctx.settings.idle_timeout;
        loop {
            // Before it has the whole request it has no reason to speak.
            let may_speak = self.progress.is_done();
            match reply.fill(silence).await? {
                Filled::More => return Ok(()),
                Filled::Silence if may_speak => {
                    let seconds = silence.as_secs();
                    return Err(Failure::BadResponse(format!(
                        "server sent nothing for {seconds} s (tcp_timeout)"
                    )));
                }
                Filled::Silence => {}
            }
        }
    }

    /// Reads the whole body into the response. Returns what was read if it is too long to be held.
    async fn hold(
        &self,
        reply: &mut Reply<'_>,
        response: &Shared<Response>,
        known: Option<u64>,
    ) -> Result<Option<Body>, Failure> {
        let settings = &self.ctx.settings;
        let mut arriving = Arriving::new(response, Keeper::new(Plan::Hold, settings, known));
        let trailers = loop {
            match reply.next()? {
                Some(Next::End { trailers, .. }) => break trailers,
                Some(Next::Piece(piece)) => {
                    arriving.keep(&piece).await;
                    let received = arriving.received();
                    if settings.body_size_limit.is_some_and(|limit| received > limit) {
                        return Err(Failure::ResponseTooLarge);
                    }
                    if known.is_none() && plan::is_large(settings, Some(received)) {
                        response.update(|response| response.stream = Stream::Pass);
                        return Ok(Some(arriving.finish()));
                    }
                }
                None => self.fill(reply).await?,
            }
        };
        let stored = arriving.flushed().await;
        let body = arriving.finish();
        response.update(|response| {
            response.body = body;
            response.trailers = trailers;
            response.timestamp_end = Some(now());
        });
        if stored { Ok(None) } else { Err(Failure::Storage("response")) }
    }

    /// Sends a response that is all there.
    async fn send_whole<O: Outgoing>(
        &self,
        response: &Shared<Response>,
        outgoing: &mut O,
    ) -> Result<bool, Failure> {
        let mut head = response.get();
        let (body, trailers) = (std::mem::take(&mut head.body), head.trailers.take());
        let (writer, delimited) =
            framing::settle_whole_response(&mut head, &body, self.recipient());
        self.progress.answered.store(true, Ordering::Relaxed);
        outgoing.head(&head, writer, delimited);
        for piece in body.chunks(STORED_PIECE) {
            let piece = piece.map_err(|_| Failure::Storage("response"))?;
            outgoing.data(&piece).await?;
        }
        outgoing.end(None, trailers.as_ref());
        outgoing.flush().await?;
        Ok(self.keeps_alive(&head, delimited))
    }

    /// Sends a response as it comes.
    async fn forward<O: Outgoing>(
        &self,
        reply: &mut Reply<'_>,
        response: &Shared<Response>,
        live: Live,
        outgoing: &mut O,
    ) -> Result<bool, Failure> {
        let Live { received, begun, keeper } = live;
        let mut arriving = Arriving::new(response, keeper);
        let mut head = response.with(|response| Response {
            body: Body::missing(),
            trailers: None,
            ..response.clone()
        });
        let (writer, delimited) = framing::settle_live_response(
            &mut head,
            received,
            arriving.is_transform(),
            self.recipient(),
        );
        let writer = if reply.is_http1() { writer } else { writer.reframing() };
        self.progress.answered.store(true, Ordering::Relaxed);
        outgoing.head(&head, writer, delimited);
        let (last, wire, trailers) =
            self.forward_body(reply, begun, &mut arriving, outgoing).await?;
        let kept = arriving.finish();
        response.update(|response| {
            response.body = kept;
            response.trailers.clone_from(&trailers);
            response.timestamp_end = Some(now());
        });
        self.fire_response(Stage::Tail).await?;
        if let Some(last) = last {
            outgoing.piece(&last).await?;
        }
        let final_trailers = response.with(|response| response.trailers.clone());
        let wire = (final_trailers == trailers).then_some(&wire);
        outgoing.end(wire, final_trailers.as_ref());
        outgoing.flush().await?;
        Ok(self.keeps_alive(&head, delimited))
    }

    /// Sends the pieces of a body. With listeners the last one is kept back, and returned with the end.
    async fn forward_body<O: Outgoing>(
        &self,
        reply: &mut Reply<'_>,
        begun: Option<Body>,
        keeper: &mut Keeper,
        outgoing: &mut O,
    ) -> Result<(Option<Piece>, Bytes, Option<mitm_flow::Headers>), Failure> {
        let listened = self.ctx.engine.hooks.wanted().has(Hook::Response);
        let limit = self.ctx.settings.body_size_limit;
        if let Some(begun) = begun {
            for piece in begun.chunks(STORED_PIECE) {
                let piece = piece.map_err(|_| Failure::Storage("response"))?;
                for data in keeper.take(piece).await? {
                    outgoing.data(&data).await?;
                }
            }
        }
        let mut last = None;
        loop {
            match reply.next()? {
                None => {
                    outgoing.flush().await?;
                    self.fill(reply).await?;
                }
                Some(Next::Piece(piece)) => {
                    if limit.is_some_and(|limit| keeper.exceeds(limit, &piece)) {
                        return Err(Failure::ResponseTooLarge);
                    }
                    if keeper.is_transform() {
                        for piece in piece.data {
                            for data in keeper.take(piece).await? {
                                outgoing.data(&data).await?;
                            }
                        }
                        continue;
                    }
                    keeper.keep(&piece).await;
                    if listened && reply.is_complete() {
                        last = Some(piece);
                    } else {
                        outgoing.piece(&piece).await?;
                    }
                }
                Some(Next::End { wire, trailers }) => {
                    for data in keeper.take_end().await? {
                        outgoing.data(&data).await?;
                    }
                    return Ok((last, wire, trailers));
                }
            }
        }
    }

    /// Fires `response`; from then on `error` must not fire.
    async fn fire_response(&self, stage: Stage) -> Result<(), Failure> {
        self.progress.told.store(true, Ordering::Relaxed);
        self.ctx.engine.fire_stage(Event::Response(self.flow.clone()), stage).await;
        self.ctx.settle(self.flow).await
    }

    fn keeps_alive(&self, head: &Response, delimited: bool) -> bool {
        self.asked.stays && delimited && http1::keep_alive(&head.http_version, &head.headers)
    }
}

/// A body on its way.
struct Live {
    received: Framing,
    /// What was read already.
    begun: Option<Body>,
    keeper: Keeper,
}
