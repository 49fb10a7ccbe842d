//! [`FlowSnapshot`]: a flow as plain values, detached from its cells.
//!
//! Files are written from snapshots and read into them; a backup is one; a copy of a flow is a
//! new flow made from one. Taking a snapshot shares all bytes with the flow.

use std::sync::Arc;

use crate::{
    Client, FlowError, FlowId, FlowKind, Replay, Request, Response, Server, Value,
    WebSocketMessage, dns::DnsMessage, websocket::StreamMessage,
};

/// The complete state of a flow.
#[derive(Clone, Debug)]
pub struct FlowSnapshot {
    pub id: FlowId,
    pub client: Client,
    pub server: Server,
    pub error: Option<FlowError>,
    pub intercepted: bool,
    pub is_replay: Option<Replay>,
    /// Empty, `:name:` of an emoji, or one character.
    pub marked: Arc<str>,
    pub comment: Arc<str>,
    /// Entries in order, keys as text.
    pub metadata: Arc<Vec<(Value, Value)>>,
    pub timestamp_created: f64,
    /// The state before the first modification, if there was one.
    pub backup: Option<Arc<FlowSnapshot>>,
    pub data: SnapshotData,
}

/// What differs by the kind of flow.
#[derive(Clone, Debug)]
pub enum SnapshotData {
    Http {
        request: Box<Request>,
        response: Option<Box<Response>>,
        websocket: Option<WebSocketSnapshot>,
    },
    Tcp(Vec<StreamMessage>),
    Udp(Vec<StreamMessage>),
    Dns {
        request: Box<DnsMessage>,
        response: Option<Box<DnsMessage>>,
    },
}

impl SnapshotData {
    pub fn kind(&self) -> FlowKind {
        match self {
            Self::Http { .. } => FlowKind::Http,
            Self::Tcp(_) => FlowKind::Tcp,
            Self::Udp(_) => FlowKind::Udp,
            Self::Dns { .. } => FlowKind::Dns,
        }
    }
}

/// The WebSocket part of a snapshot, see [`WebSocketData`](crate::WebSocketData).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WebSocketSnapshot {
    pub messages: Vec<WebSocketMessage>,
    pub closed_by_client: Option<bool>,
    pub close_code: Option<i64>,
    pub close_reason: Option<String>,
    pub timestamp_end: Option<f64>,
}
