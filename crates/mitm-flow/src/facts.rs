//! [`Facts`]: what filters ask of a flow, answered by a flow in memory or by a record of a flow file.
//!
//! Each method is one fact, so that a source which has to decode them pays only for those asked for.

use std::borrow::Cow;

use crate::{Body, FlowKind, Headers, Replay, Value, dns::DnsMessage};

/// One message of a WebSocket, TCP or UDP conversation.
#[derive(Clone, Debug)]
pub struct MessageFacts {
    pub from_client: bool,
    pub content: Body,
}

/// The facts of one flow. Those of another kind of flow are `None`, `false` or empty.
pub trait Facts {
    fn kind(&self) -> FlowKind;

    /// The request's method as sent (HTTP).
    fn method(&self) -> Option<Cow<'_, [u8]>>;
    /// `request.host` (HTTP).
    fn host(&self) -> Option<Cow<'_, str>>;
    /// The host of the Host header or authority, else `request.host` (HTTP).
    fn pretty_host(&self) -> Option<Cow<'_, str>>;
    /// The URL with the host of the Host header (HTTP).
    fn pretty_url(&self) -> Option<Cow<'_, str>>;
    fn request_headers(&self) -> Option<Headers>;
    fn request_body(&self) -> Option<Body>;

    /// True if there is a response (HTTP, DNS).
    fn has_response(&self) -> bool;
    fn status_code(&self) -> Option<i64>;
    fn response_headers(&self) -> Option<Headers>;
    fn response_body(&self) -> Option<Body>;

    fn is_websocket(&self) -> bool;
    /// WebSocket, TCP and UDP messages in order.
    fn messages(&self) -> Vec<MessageFacts>;
    fn dns_request(&self) -> Option<DnsMessage>;
    fn dns_response(&self) -> Option<DnsMessage>;

    fn has_error(&self) -> bool;
    fn marked(&self) -> Cow<'_, str>;
    fn comment(&self) -> Cow<'_, str>;
    fn metadata(&self) -> Vec<(Value, Value)>;
    fn replay(&self) -> Option<Replay>;
    /// `ip:port` of the client.
    fn client_address(&self) -> Option<String>;
    /// `host:port` of the server as named by the request.
    fn server_address(&self) -> Option<String>;
}
