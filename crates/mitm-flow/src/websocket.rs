//! WebSocket messages, and the messages of TCP and UDP flows.

use bytes::Bytes;

use crate::{Body, Shared};

/// The kind of a WebSocket data message (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opcode {
    Text = 1,
    Binary = 2,
}

/// One complete WebSocket message, fragments joined.
#[derive(Clone, Debug, PartialEq)]
pub struct WebSocketMessage {
    pub opcode: Opcode,
    pub from_client: bool,
    pub content: Body,
    pub timestamp: f64,
    /// Not forwarded.
    pub dropped: bool,
    /// Made by a user or script, not by a peer.
    pub injected: bool,
}

/// The WebSocket part of an HTTP flow whose request was upgraded.
#[derive(Clone, Debug, Default)]
pub struct WebSocketData {
    pub messages: Vec<Shared<WebSocketMessage>>,
    /// Who closed the connection; `None` while it is open.
    pub closed_by_client: Option<bool>,
    pub close_code: Option<i64>,
    pub close_reason: Option<String>,
    pub timestamp_end: Option<f64>,
}

/// A piece of a TCP flow as one read delivered it, or one datagram of a UDP flow.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamMessage {
    pub from_client: bool,
    pub content: Body,
    pub timestamp: f64,
}

impl StreamMessage {
    pub fn new(from_client: bool, content: impl Into<Bytes>, timestamp: f64) -> Self {
        Self { from_client, content: content.into().into(), timestamp }
    }
}
