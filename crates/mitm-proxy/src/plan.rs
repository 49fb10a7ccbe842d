//! What happens to a body while it arrives: the plan, made when the head hooks have run, and the keeping of
//! what passes.
//!
//! | plan | forwarded | kept |
//! |---|---|---|
//! | pass | as it comes | only its length, or all with `store_streamed_bodies` |
//! | transform | what a function makes of each piece | likewise |
//! | tee | as it comes | all |
//! | hold | after its hook | all |
//!
//! `message.stream` is an order: it means pass or transform, whoever set it. Without it the addons' needs decide. Event
//! streams are never held, since their end may never come.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Once},
};

use bytes::Bytes;
use mitm_codec::http1::Piece;
use mitm_flow::{
    Body, ChunkTransform, FlowRef, Headers, Request, Response, Shared, Stream,
    spill::{self, BodyBuilder, Pushed},
};
use smallvec::{SmallVec, smallvec};
use tracing::{error, info};

use crate::{
    body::Next,
    error::Failure,
    exchange::{Context, Incoming},
    hooks::{Direction, Need},
    settings::Settings,
};

/// See the [module](self).
#[derive(Clone)]
pub(crate) enum Plan {
    Pass { head_first: bool, store: bool },
    Transform { function: Arc<dyn ChunkTransform>, head_first: bool, store: bool },
    Tee { head_first: bool },
    Hold,
}

impl Plan {
    /// True if hooks that change heads only must run before the head is forwarded.
    pub(crate) fn head_first(&self) -> bool {
        match self {
            Self::Pass { head_first, .. }
            | Self::Transform { head_first, .. }
            | Self::Tee { head_first } => *head_first,
            Self::Hold => false,
        }
    }
}

/// Makes the plan for a body whose head hooks have run. `content_type` is that of a response.
pub(crate) fn make(
    ctx: &Context,
    flow: &FlowRef,
    direction: Direction,
    order: Stream,
    content_type: Option<&[u8]>,
) -> Plan {
    let (need, head_first) = ctx.engine.hooks.need(flow, direction);
    let store = ctx.settings.store_streamed_bodies;
    match order {
        Stream::Pass => return Plan::Pass { head_first, store },
        Stream::Transform(function) => return Plan::Transform { function, head_first, store },
        Stream::No => {}
    }
    match need {
        Need::Nothing | Need::Head => Plan::Pass { head_first, store: false },
        Need::Tee => Plan::Tee { head_first },
        Need::Hold if content_type.is_some_and(is_endless) => {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                info!("Event streams are forwarded as they come and can be read, but not changed.");
            });
            Plan::Tee { head_first }
        }
        Need::Hold => Plan::Hold,
    }
}

/// The plan for a body that turned out to be large while it was held.
pub(crate) fn pass(settings: &Settings) -> Plan {
    Plan::Pass { head_first: false, store: settings.store_streamed_bodies }
}

fn is_endless(content_type: &[u8]) -> bool {
    let kind = content_type.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    [&b"text/event-stream"[..], b"multipart/x-mixed-replace"]
        .iter()
        .any(|endless| kind.eq_ignore_ascii_case(endless))
}

/// True if a body of this length is to be streamed by `stream_large_bodies`.
pub(crate) fn is_large(settings: &Settings, known: Option<u64>) -> bool {
    matches!((settings.stream_large_bodies, known), (Some(limit), Some(len)) if len > limit)
}

/// What [`collect`] found.
pub(crate) enum Collected {
    /// The whole body is in the builder.
    Whole(Option<Headers>),
    /// It is longer than `stream_large_bodies`, and not all there.
    TooLong,
}

/// Reads a request body into `arriving`.
pub(crate) async fn collect<I: Incoming>(
    ctx: &Context,
    incoming: &mut I,
    arriving: &mut Arriving<'_, Request>,
    known: Option<u64>,
) -> Result<Collected, Failure> {
    let settings = &ctx.settings;
    loop {
        match incoming.next()? {
            None => incoming.fill().await?,
            Some(Next::End { trailers, .. }) => return Ok(Collected::Whole(trailers)),
            Some(Next::Piece(piece)) => {
                arriving.keep(&piece).await;
                if settings.body_size_limit.is_some_and(|limit| arriving.received > limit) {
                    return Err(Failure::RequestTooLarge);
                }
                if known.is_none() && is_large(settings, Some(arriving.received)) {
                    return Ok(Collected::TooLong);
                }
            }
        }
    }
}

/// Adds what a piece carries, and waits for the disk if it is behind.
async fn push(builder: &mut BodyBuilder, piece: &Piece) {
    for data in &piece.data {
        push_data(builder, data.clone()).await;
    }
}

/// Adds to a builder, and waits for the disk if it is behind.
pub(crate) async fn push_data(builder: &mut BodyBuilder, data: Bytes) {
    match builder.push(data) {
        Pushed::Ok => {}
        Pushed::Full => builder.ready().await,
        Pushed::Failed => report_storage_failure(),
    }
}

/// Tells the log, once, that bodies cannot be stored.
fn report_storage_failure() {
    if let Some(text) = spill::take_failure() {
        error!(traffic = true, "{text}");
    }
}

/// Keeps what a plan says of a body that is forwarded.
pub(crate) struct Keeper {
    builder: Option<BodyBuilder>,
    function: Option<Arc<dyn ChunkTransform>>,
    /// How much came in, and how much of it was sent on.
    received: u64,
    forwarded: u64,
}

impl Keeper {
    pub(crate) fn new(plan: Plan, settings: &Settings, known: Option<u64>) -> Self {
        let (store, function) = match plan {
            Plan::Pass { store, .. } => (store, None),
            Plan::Transform { function, store, .. } => (store, Some(function)),
            Plan::Tee { .. } | Plan::Hold => (true, None),
        };
        let builder = store.then(|| BodyBuilder::new(settings.body_memory_limit, known));
        Self { builder, function, received: 0, forwarded: 0 }
    }

    pub(crate) fn is_transform(&self) -> bool {
        self.function.is_some()
    }

    /// Returns how much of the body came in.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Waits until what is kept is where it belongs; false if it could not be stored.
    pub(crate) async fn flushed(&self) -> bool {
        match &self.builder {
            Some(builder) => builder.flushed().await,
            None => true,
        }
    }

    /// True if the body is longer than `limit` with this piece.
    pub(crate) fn exceeds(&self, limit: u64, piece: &Piece) -> bool {
        self.received + piece.data_len() as u64 > limit
    }

    /// Keeps a piece that is forwarded as it is.
    pub(crate) async fn keep(&mut self, piece: &Piece) {
        self.received += piece.data_len() as u64;
        self.forwarded += piece.data_len() as u64;
        if let Some(builder) = &mut self.builder {
            push(builder, piece).await;
        }
    }

    /// Returns what is to be forwarded for `data`, and keeps that.
    pub(crate) async fn take(&mut self, data: Bytes) -> Result<SmallVec<[Bytes; 1]>, Failure> {
        self.received += data.len() as u64;
        let pieces: SmallVec<[Bytes; 1]> = match &self.function {
            None => smallvec![data],
            Some(function) => {
                function.transform(data).await.map_err(Failure::Transform)?.into_iter().collect()
            }
        };
        for piece in &pieces {
            self.forwarded += piece.len() as u64;
            if let Some(builder) = &mut self.builder {
                push_data(builder, piece.clone()).await;
            }
        }
        Ok(pieces)
    }

    /// Returns what a function adds at the end.
    pub(crate) async fn take_end(&mut self) -> Result<SmallVec<[Bytes; 1]>, Failure> {
        if self.function.is_some() { self.take(Bytes::new()).await } else { Ok(SmallVec::new()) }
    }

    /// Returns the body as the flow keeps it.
    fn finish(&mut self) -> Body {
        match self.builder.take() {
            Some(builder) => {
                if builder.failed() {
                    report_storage_failure();
                }
                builder.finish()
            }
            None => Body::counted(self.forwarded),
        }
    }
}

/// A message whose body is on its way. If nobody [finishes](Self::finish) it, because the connection broke, the flow
/// was killed, the other direction failed or the run ended, the message gets what there is of the body.
pub(crate) struct Arriving<'a, M: HasBody> {
    message: &'a Shared<M>,
    keeper: Keeper,
    is_finished: bool,
}

pub(crate) trait HasBody {
    fn set_body(&mut self, body: Body);
}

impl HasBody for Request {
    fn set_body(&mut self, body: Body) {
        self.body = body;
    }
}

impl HasBody for Response {
    fn set_body(&mut self, body: Body) {
        self.body = body;
    }
}

impl<'a, M: HasBody> Arriving<'a, M> {
    pub(crate) fn new(message: &'a Shared<M>, keeper: Keeper) -> Self {
        Self { message, keeper, is_finished: false }
    }

    /// Returns the body, which is complete, for the message.
    pub(crate) fn finish(mut self) -> Body {
        self.is_finished = true;
        self.keeper.finish()
    }
}

impl<M: HasBody> Deref for Arriving<'_, M> {
    type Target = Keeper;

    fn deref(&self) -> &Keeper {
        &self.keeper
    }
}

impl<M: HasBody> DerefMut for Arriving<'_, M> {
    fn deref_mut(&mut self) -> &mut Keeper {
        &mut self.keeper
    }
}

impl<M: HasBody> Drop for Arriving<'_, M> {
    fn drop(&mut self) {
        if !self.is_finished {
            let body = self.keeper.finish().as_partial();
            self.message.update(|message| message.set_body(body));
        }
    }
}
