//! [`FlowRef`]: the handle on a flow.
//!
//! Interception and killing are *levels*, not messages: [`FlowRef::intercept`], [`resume`](FlowRef::resume) and
//! [`kill`](FlowRef::kill) set state, and whoever waits looks at the state again when woken. A resume before the
//! wait counts; a kill ends any wait of its flow.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
};

use bytes::Bytes;
use event_listener::Event;
use parking_lot::Mutex;
use thiserror::Error;
use uuid::Uuid;

use crate::{
    Client, Facts, FlowSnapshot, Request, Response, Server, Shared, SnapshotData, Value,
    WebSocketData, dns::DnsMessage, now, snapshot::WebSocketSnapshot, websocket::StreamMessage,
};

/// The identity of a flow: text, in practice that of a UUID.
pub type FlowId = Arc<str>;

/// Returns a fresh id.
pub fn new_id() -> FlowId {
    let mut buffer = Uuid::encode_buffer();
    Arc::from(&*Uuid::new_v4().hyphenated().encode_lower(&mut buffer))
}

/// The kinds of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKind {
    Http,
    Tcp,
    Udp,
    Dns,
}

impl FlowKind {
    /// Returns the name used in flow files and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Dns => "dns",
        }
    }
}

/// What of a flow was replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replay {
    Request,
    Response,
}

impl Replay {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
        }
    }
}

/// Why a flow ended early.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowError {
    pub msg: Arc<str>,
    pub timestamp: f64,
}

impl FlowError {
    /// The message of a flow that a user or script killed.
    pub const KILLED: &'static str = "Connection killed.";

    pub fn new(msg: impl Into<Arc<str>>) -> Self {
        Self { msg: msg.into(), timestamp: now() }
    }
}

/// A flow that is not live, or was killed before, cannot be killed.
#[derive(Clone, Copy, Debug, Error)]
#[error("Flow is not killable.")]
pub struct NotKillable;

/// A state that is decoded when it is first looked at: a flow read from a file.
pub trait LazyState: Send + Sync {
    /// Returns the decoded state. Called once.
    fn load(&self) -> FlowSnapshot;

    /// Returns the record the state is decoded from, as it stands in the file.
    fn record(&self) -> &[u8];

    /// Answers single questions about the state without decoding all of it.
    fn facts(&self) -> Option<&dyn Facts> {
        None
    }

    /// Returns [`record`](Self::record) as bytes to keep.
    fn record_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.record())
    }
}

/// The handle on a flow. Clones lead to the same flow; it is never compared by content.
#[derive(Clone)]
pub struct FlowRef(Arc<Inner>);

struct Inner {
    state: OnceLock<Mutex<State>>,
    lazy: Option<Box<dyn LazyState>>,
    flags: AtomicU8,
    /// Wakes those who wait for a resume or a kill.
    changed: Event,
}

const INTERCEPTED: u8 = 1;
const LIVE: u8 = 2;
const KILLED: u8 = 4;

struct State {
    id: FlowId,
    client: Shared<Client>,
    server: Shared<Server>,
    error: Option<FlowError>,
    is_replay: Option<Replay>,
    marked: Arc<str>,
    comment: Arc<str>,
    metadata: Arc<Vec<(Value, Value)>>,
    timestamp_created: f64,
    backup: Option<Arc<FlowSnapshot>>,
    data: FlowData,
}

/// What differs by the kind of flow: handles on cells.
#[derive(Clone, Debug)]
pub enum FlowData {
    Http {
        request: Shared<Request>,
        response: Option<Shared<Response>>,
        websocket: Option<Shared<WebSocketData>>,
    },
    Tcp(Vec<Shared<StreamMessage>>),
    Udp(Vec<Shared<StreamMessage>>),
    Dns {
        request: Shared<DnsMessage>,
        response: Option<Shared<DnsMessage>>,
    },
}

impl FlowData {
    pub fn kind(&self) -> FlowKind {
        match self {
            Self::Http { .. } => FlowKind::Http,
            Self::Tcp(_) => FlowKind::Tcp,
            Self::Udp(_) => FlowKind::Udp,
            Self::Dns { .. } => FlowKind::Dns,
        }
    }
}

impl FlowRef {
    /// Makes a live flow with a fresh id.
    pub fn new(client: Shared<Client>, server: Shared<Server>, data: FlowData) -> Self {
        let state = State {
            id: new_id(),
            client,
            server,
            error: None,
            is_replay: None,
            marked: empty(),
            comment: empty(),
            metadata: no_metadata(),
            timestamp_created: now(),
            backup: None,
            data,
        };
        Self::from_state(state, LIVE)
    }

    /// Makes a live HTTP flow.
    pub fn http(client: Shared<Client>, server: Shared<Server>, request: Request) -> Self {
        let request = Shared::new(request);
        Self::new(client, server, FlowData::Http { request, response: None, websocket: None })
    }

    /// Makes a flow from a snapshot; it is not live.
    pub fn from_snapshot(snapshot: FlowSnapshot) -> Self {
        let flags = if snapshot.intercepted { INTERCEPTED } else { 0 };
        Self::from_state(State::from_snapshot(snapshot), flags)
    }

    /// Makes a flow whose state is decoded when it is first looked at; it is not live.
    pub fn lazy(source: Box<dyn LazyState>) -> Self {
        Self(Arc::new(Inner {
            state: OnceLock::new(),
            lazy: Some(source),
            flags: AtomicU8::new(0),
            changed: Event::new(),
        }))
    }

    fn from_state(state: State, flags: u8) -> Self {
        Self(Arc::new(Inner {
            state: OnceLock::from(Mutex::new(state)),
            lazy: None,
            flags: AtomicU8::new(flags),
            changed: Event::new(),
        }))
    }

    fn state(&self) -> &Mutex<State> {
        self.0.state.get_or_init(|| {
            let source = self.0.lazy.as_ref().expect("a flow without a state has a source");
            let snapshot = source.load();
            if snapshot.intercepted {
                self.0.flags.fetch_or(INTERCEPTED, Ordering::AcqRel);
            }
            Mutex::new(State::from_snapshot(snapshot))
        })
    }

    fn with<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.state().lock())
    }

    fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.state().lock())
    }

    /// Returns the record this flow was read from, if nobody has looked at its state since.
    pub fn untouched_record(&self) -> Option<&[u8]> {
        match (&self.0.lazy, self.0.state.get()) {
            (Some(source), None) => Some(source.record()),
            _ => None,
        }
    }

    /// Returns what answers questions about this flow without touching it, if nobody has touched it since it was read.
    pub fn untouched_facts(&self) -> Option<&dyn Facts> {
        match (&self.0.lazy, self.0.state.get()) {
            (Some(source), None) => source.facts(),
            _ => None,
        }
    }

    /// Like [`untouched_record`](Self::untouched_record), to keep.
    pub fn untouched_bytes(&self) -> Option<Bytes> {
        match (&self.0.lazy, self.0.state.get()) {
            (Some(source), None) => Some(source.record_bytes()),
            _ => None,
        }
    }

    /// True if both handles lead to the same flow.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number that is the same for handles on the same flow while any of them lives.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0).cast::<u8>() as usize
    }

    pub fn id(&self) -> FlowId {
        self.with(|state| state.id.clone())
    }

    pub fn kind(&self) -> FlowKind {
        self.with(|state| state.data.kind())
    }

    pub fn client(&self) -> Shared<Client> {
        self.with(|state| state.client.clone())
    }

    pub fn set_client(&self, client: Shared<Client>) {
        drop(self.update(|state| std::mem::replace(&mut state.client, client)));
    }

    pub fn server(&self) -> Shared<Server> {
        self.with(|state| state.server.clone())
    }

    pub fn set_server(&self, server: Shared<Server>) {
        drop(self.update(|state| std::mem::replace(&mut state.server, server)));
    }

    /// Returns the handles on the cells of this flow.
    pub fn data(&self) -> FlowData {
        self.with(|state| state.data.clone())
    }

    /// Returns the request of an HTTP flow.
    pub fn request(&self) -> Option<Shared<Request>> {
        self.with(|state| match &state.data {
            FlowData::Http { request, .. } => Some(request.clone()),
            _ => None,
        })
    }

    /// Replaces the request of an HTTP flow.
    pub fn set_request(&self, new: Shared<Request>) {
        drop(self.update(|state| match &mut state.data {
            FlowData::Http { request, .. } => std::mem::replace(request, new),
            _ => new,
        }));
    }

    /// Returns the response of an HTTP flow.
    pub fn response(&self) -> Option<Shared<Response>> {
        self.with(|state| match &state.data {
            FlowData::Http { response, .. } => response.clone(),
            _ => None,
        })
    }

    pub fn has_response(&self) -> bool {
        self.with(|state| match &state.data {
            FlowData::Http { response, .. } => response.is_some(),
            FlowData::Dns { response, .. } => response.is_some(),
            FlowData::Tcp(_) | FlowData::Udp(_) => false,
        })
    }

    /// Sets or removes the response of an HTTP flow.
    pub fn set_response(&self, new: Option<Shared<Response>>) {
        drop(self.update(|state| match &mut state.data {
            FlowData::Http { response, .. } => std::mem::replace(response, new),
            _ => new,
        }));
    }

    /// Returns the WebSocket part of an HTTP flow.
    pub fn websocket(&self) -> Option<Shared<WebSocketData>> {
        self.with(|state| match &state.data {
            FlowData::Http { websocket, .. } => websocket.clone(),
            _ => None,
        })
    }

    /// Sets the WebSocket part of an HTTP flow.
    pub fn set_websocket(&self, new: Option<Shared<WebSocketData>>) {
        drop(self.update(|state| match &mut state.data {
            FlowData::Http { websocket, .. } => std::mem::replace(websocket, new),
            _ => new,
        }));
    }

    /// Returns the messages of a TCP or UDP flow, none for other kinds.
    pub fn messages(&self) -> Vec<Shared<StreamMessage>> {
        self.with(|state| match &state.data {
            FlowData::Tcp(messages) | FlowData::Udp(messages) => messages.clone(),
            _ => Vec::new(),
        })
    }

    /// Returns the latest message of a TCP or UDP flow.
    pub fn last_message(&self) -> Option<Shared<StreamMessage>> {
        self.with(|state| match &state.data {
            FlowData::Tcp(messages) | FlowData::Udp(messages) => messages.last().cloned(),
            _ => None,
        })
    }

    /// Appends a message to a TCP or UDP flow.
    pub fn push_message(&self, message: Shared<StreamMessage>) {
        self.update(|state| {
            if let FlowData::Tcp(messages) | FlowData::Udp(messages) = &mut state.data {
                messages.push(message);
            }
        });
    }

    /// Replaces the messages of a TCP or UDP flow.
    pub fn set_messages(&self, new: Vec<Shared<StreamMessage>>) {
        drop(self.update(|state| match &mut state.data {
            FlowData::Tcp(messages) | FlowData::Udp(messages) => std::mem::replace(messages, new),
            _ => new,
        }));
    }

    /// Sets the response of a DNS flow.
    pub fn set_dns_response(&self, new: Option<Shared<DnsMessage>>) {
        drop(self.update(|state| match &mut state.data {
            FlowData::Dns { response, .. } => std::mem::replace(response, new),
            _ => new,
        }));
    }

    pub fn error(&self) -> Option<FlowError> {
        self.with(|state| state.error.clone())
    }

    pub fn set_error(&self, error: Option<FlowError>) {
        drop(self.update(|state| std::mem::replace(&mut state.error, error)));
    }

    pub fn is_replay(&self) -> Option<Replay> {
        self.with(|state| state.is_replay)
    }

    pub fn set_is_replay(&self, replay: Option<Replay>) {
        self.update(|state| state.is_replay = replay);
    }

    pub fn marked(&self) -> Arc<str> {
        self.with(|state| state.marked.clone())
    }

    pub fn set_marked(&self, marked: impl Into<Arc<str>>) {
        let marked = marked.into();
        drop(self.update(|state| std::mem::replace(&mut state.marked, marked)));
    }

    pub fn comment(&self) -> Arc<str> {
        self.with(|state| state.comment.clone())
    }

    pub fn set_comment(&self, comment: impl Into<Arc<str>>) {
        let comment = comment.into();
        drop(self.update(|state| std::mem::replace(&mut state.comment, comment)));
    }

    pub fn metadata(&self) -> Arc<Vec<(Value, Value)>> {
        self.with(|state| state.metadata.clone())
    }

    pub fn set_metadata(&self, metadata: Vec<(Value, Value)>) {
        let metadata = Arc::new(metadata);
        drop(self.update(|state| std::mem::replace(&mut state.metadata, metadata)));
    }

    /// Sets one entry of the metadata.
    pub fn set_metadata_entry(&self, key: &str, value: Value) {
        let mut map = Value::Map(self.metadata().to_vec());
        map.set(key, value);
        if let Value::Map(entries) = map {
            self.set_metadata(entries);
        }
    }

    pub fn timestamp_created(&self) -> f64 {
        self.with(|state| state.timestamp_created)
    }

    /// True while the flow is on a connection of ours.
    pub fn is_live(&self) -> bool {
        self.has(LIVE)
    }

    pub fn set_live(&self, live: bool) {
        self.flag(LIVE, live);
    }

    /// True while the flow is held back for a user.
    pub fn is_intercepted(&self) -> bool {
        self.state();
        self.has(INTERCEPTED)
    }

    /// True once the flow was killed.
    pub fn is_killed(&self) -> bool {
        self.has(KILLED)
    }

    /// Holds the flow back at the next point where the engine waits, until resumed or killed.
    pub fn intercept(&self) {
        self.flag(INTERCEPTED, true);
    }

    /// Lets an intercepted flow go on.
    pub fn resume(&self) {
        self.flag(INTERCEPTED, false);
        self.0.changed.notify(usize::MAX);
    }

    pub fn is_killable(&self) -> bool {
        self.is_live() && !self.is_killed()
    }

    /// Ends the flow: its error is set, whatever it waits for is cancelled.
    ///
    /// # Errors
    /// The flow is not live, or was killed before.
    pub fn kill(&self) -> Result<(), NotKillable> {
        let killable = |flags: u8| (flags & (LIVE | KILLED) == LIVE).then_some(KILLED);
        self.0
            .flags
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, killable)
            .map_err(|_| NotKillable)?;
        self.set_error(Some(FlowError::new(FlowError::KILLED)));
        self.0.changed.notify(usize::MAX);
        Ok(())
    }

    /// Waits until the flow is not intercepted; at once if it is not.
    pub async fn wait_for_resume(&self) {
        self.wait_until(|| !self.has(INTERCEPTED)).await;
    }

    /// Waits until the flow is killed.
    pub async fn wait_for_kill(&self) {
        self.wait_until(|| self.is_killed()).await;
    }

    async fn wait_until(&self, condition: impl Fn() -> bool) {
        while !condition() {
            let listener = self.0.changed.listen();
            if condition() {
                return;
            }
            listener.await;
        }
    }

    fn has(&self, flag: u8) -> bool {
        self.0.flags.load(Ordering::Acquire) & flag != 0
    }

    fn flag(&self, flag: u8, on: bool) {
        if on {
            self.0.flags.fetch_or(flag, Ordering::AcqRel);
        } else {
            self.0.flags.fetch_and(!flag, Ordering::AcqRel);
        }
    }

    /// Returns the state as plain values.
    pub fn snapshot(&self) -> FlowSnapshot {
        let intercepted = self.is_intercepted();
        let (mut snapshot, client, server, data) = self.with(|state| {
            let shell = (
                state.id.clone(),
                state.error.clone(),
                state.is_replay,
                state.marked.clone(),
                state.comment.clone(),
                state.metadata.clone(),
                state.timestamp_created,
                state.backup.clone(),
            );
            (shell, state.client.clone(), state.server.clone(), state.data.clone())
        });
        FlowSnapshot {
            id: std::mem::replace(&mut snapshot.0, empty()),
            client: client.get(),
            server: server.get(),
            error: snapshot.1,
            intercepted,
            is_replay: snapshot.2,
            marked: snapshot.3,
            comment: snapshot.4,
            metadata: snapshot.5,
            timestamp_created: snapshot.6,
            backup: snapshot.7,
            data: snapshot_data(&data),
        }
    }

    /// Replaces the state by that of a snapshot, as loading a script's `set_state` does. Cells of the same
    /// kind are kept and filled anew, so that handles on them stay good.
    pub fn restore(&self, snapshot: FlowSnapshot) {
        self.flag(INTERCEPTED, snapshot.intercepted);
        let mut fresh = State::from_snapshot(snapshot);
        let old = self.update(|state| {
            std::mem::swap(state, &mut fresh);
            (fresh.client.clone(), fresh.server.clone(), fresh.data.clone())
        });
        let new = self.data();
        if let (
            FlowData::Http { request: old_request, response: old_response, .. },
            FlowData::Http { request, response, .. },
        ) = (old.2, new)
        {
            old_request.replace(request.get());
            self.set_request(old_request);
            if let (Some(old), Some(new)) = (old_response, response) {
                old.replace(new.get());
                self.set_response(Some(old));
            }
        }
        old.0.replace(self.client().get());
        self.set_client(old.0);
        old.1.replace(self.server().get());
        self.set_server(old.1);
    }

    /// Remembers the present state, unless one is remembered already.
    pub fn backup(&self) {
        if self.with(|state| state.backup.is_some()) {
            return;
        }
        let snapshot = Arc::new(self.snapshot());
        self.update(|state| {
            state.backup.get_or_insert(snapshot);
        });
    }

    pub fn has_backup(&self) -> bool {
        self.with(|state| state.backup.is_some())
    }

    /// Returns to the remembered state and forgets it; does nothing without one.
    pub fn revert(&self) {
        if let Some(backup) = self.update(|state| state.backup.take()) {
            self.restore(Arc::unwrap_or_clone(backup));
        }
    }

    /// Makes a flow of its own with the same content and a fresh id; it is not live.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut snapshot = self.snapshot();
        snapshot.id = new_id();
        snapshot.intercepted = false;
        Self::from_snapshot(snapshot)
    }
}

impl State {
    fn from_snapshot(snapshot: FlowSnapshot) -> Self {
        let data = match snapshot.data {
            SnapshotData::Http { request, response, websocket } => FlowData::Http {
                request: Shared::new(*request),
                response: response.map(|response| Shared::new(*response)),
                websocket: websocket.map(|ws| {
                    Shared::new(WebSocketData {
                        messages: ws.messages.into_iter().map(Shared::new).collect(),
                        closed_by_client: ws.closed_by_client,
                        close_code: ws.close_code,
                        close_reason: ws.close_reason,
                        timestamp_end: ws.timestamp_end,
                    })
                }),
            },
            SnapshotData::Tcp(messages) => {
                FlowData::Tcp(messages.into_iter().map(Shared::new).collect())
            }
            SnapshotData::Udp(messages) => {
                FlowData::Udp(messages.into_iter().map(Shared::new).collect())
            }
            SnapshotData::Dns { request, response } => FlowData::Dns {
                request: Shared::new(*request),
                response: response.map(|response| Shared::new(*response)),
            },
        };
        Self {
            id: snapshot.id,
            client: Shared::new(snapshot.client),
            server: Shared::new(snapshot.server),
            error: snapshot.error,
            is_replay: snapshot.is_replay,
            marked: snapshot.marked,
            comment: snapshot.comment,
            metadata: snapshot.metadata,
            timestamp_created: snapshot.timestamp_created,
            backup: snapshot.backup,
            data,
        }
    }
}

fn snapshot_data(data: &FlowData) -> SnapshotData {
    match data {
        FlowData::Http { request, response, websocket } => SnapshotData::Http {
            request: Box::new(request.get()),
            response: response.as_ref().map(|response| Box::new(response.get())),
            websocket: websocket.as_ref().map(|ws| {
                let ws = ws.get();
                WebSocketSnapshot {
                    messages: ws.messages.iter().map(Shared::get).collect(),
                    closed_by_client: ws.closed_by_client,
                    close_code: ws.close_code,
                    close_reason: ws.close_reason,
                    timestamp_end: ws.timestamp_end,
                }
            }),
        },
        FlowData::Tcp(messages) => SnapshotData::Tcp(messages.iter().map(Shared::get).collect()),
        FlowData::Udp(messages) => SnapshotData::Udp(messages.iter().map(Shared::get).collect()),
        FlowData::Dns { request, response } => SnapshotData::Dns {
            request: Box::new(request.get()),
            response: response.as_ref().map(|response| Box::new(response.get())),
        },
    }
}

fn empty() -> Arc<str> {
    static EMPTY: OnceLock<Arc<str>> = OnceLock::new();
    EMPTY.get_or_init(|| Arc::from("")).clone()
}

fn no_metadata() -> Arc<Vec<(Value, Value)>> {
    static EMPTY: OnceLock<Arc<Vec<(Value, Value)>>> = OnceLock::new();
    EMPTY.get_or_init(Arc::default).clone()
}

impl fmt::Debug for FlowRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlowRef({} {})", self.kind().as_str(), self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util;

    #[test]
    fn killing_needs_a_live_flow_and_works_once() {
        let flow = test_util::http_flow();
        flow.set_live(false);
        assert!(flow.kill().is_err());
        flow.set_live(true);
        flow.intercept();
        flow.kill().unwrap();
        assert!(!flow.is_live() && !flow.is_intercepted() && flow.is_killed());
        assert_eq!(&*flow.error().unwrap().msg, FlowError::KILLED);
        assert!(flow.kill().is_err());
    }

    #[test]
    fn revert_restores_values_in_the_same_cells() {
        let flow = test_util::http_flow();
        let request = flow.request().unwrap();
        let path = request.with(|r| r.path.clone());
        flow.backup();
        request.update(|r| r.path = "/other".into());
        flow.set_comment("changed");
        flow.revert();
        assert!(flow.request().unwrap().is(&request));
        assert_eq!(request.with(|r| r.path.clone()), path);
        assert_eq!(&*flow.comment(), "");
        assert!(!flow.has_backup());
    }

    #[test]
    fn a_copy_is_detached() {
        let flow = test_util::http_flow();
        let copy = flow.copy();
        assert_ne!(flow.id(), copy.id());
        assert!(!copy.is_live());
        copy.request().unwrap().update(|r| r.method = "PUT".into());
        assert_eq!(flow.request().unwrap().with(|r| r.method.clone()), "GET");
    }
}
