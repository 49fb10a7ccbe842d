//! [`Failure`]: how an exchange fails, and what everybody is told about it.
//!
//! One place decides, for each failure: who is at fault, what the client is answered (if nothing was sent yet),
//! what `flow.error` says.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use mitm_codec::http1::{self, BodyError, FramingError, HeadError};
use mitm_flow::{Headers, status};
use thiserror::Error;

/// Why an exchange ended early.
#[derive(Debug, Error, Clone)]
pub enum Failure {
    /// A user or script killed the flow.
    #[error("Connection killed.")]
    Killed,
    /// The client went away.
    #[error("Client disconnected.")]
    ClientGone,
    /// What the client sent is no HTTP that we forward.
    #[error("{0}")]
    BadRequest(String),
    #[error("Request body exceeds mitmproxy's body_size_limit.")]
    RequestTooLarge,
    #[error("Response body exceeds mitmproxy's body_size_limit.")]
    ResponseTooLarge,
    /// The server could not be reached; the text names it and the reason.
    #[error("{0}")]
    Connect(Arc<str>),
    /// The server closed before it answered; nothing of an answer came.
    #[error("server closed connection")]
    ServerClosed,
    /// The server says that it did nothing about the request, so that it may be sent again.
    #[error("{0}")]
    NotProcessed(String),
    /// The client's connection failed as a whole, which was logged; the text says how.
    #[error("{0}")]
    ClientFailed(String),
    /// The client gave up one stream of its connection.
    #[error("stream reset by client ({0})")]
    Reset(String),
    /// The server gave up the stream, for a reason that an HTTP/2 client is to be told: its code.
    #[error("{0}")]
    ServerReset(String, u32),
    /// What the server sent is no HTTP that we forward, or it broke off.
    #[error("{0}")]
    BadResponse(String),
    /// A body cannot be kept although somebody must see all of it.
    #[error("The {0} body could not be stored: the disk is full or cannot be written.")]
    Storage(&'static str),
    /// A script's stream function failed.
    #[error("The stream function failed: {0}")]
    Transform(String),
}

impl Failure {
    /// Returns the status of the page a client gets that was sent nothing yet; `None`: just close.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Killed | Self::ClientGone | Self::ClientFailed(_) | Self::Reset(_) => None,
            Self::BadRequest(_) => Some(400),
            Self::RequestTooLarge | Self::Storage("request") => Some(413),
            Self::ResponseTooLarge
            | Self::Connect(_)
            | Self::ServerClosed
            | Self::NotProcessed(_)
            | Self::ServerReset(..)
            | Self::BadResponse(_)
            | Self::Storage(_)
            | Self::Transform(_) => Some(502),
        }
    }

    pub(crate) fn client(error: &io::Error) -> Self {
        tracing::debug!("client connection: {error}");
        Self::ClientGone
    }

    /// A request whose framing or head is refused.
    pub(crate) fn request_framing(error: &FramingError) -> Self {
        Self::BadRequest(refusal(error, "client"))
    }

    pub(crate) fn request_body(error: &BodyError) -> Self {
        Self::BadRequest(format!("HTTP/1 protocol error: {error}"))
    }

    pub(crate) fn response_head(error: &HeadError) -> Self {
        Self::BadResponse(format!("Cannot parse HTTP response: {error}"))
    }

    pub(crate) fn response_framing(error: &FramingError) -> Self {
        Self::BadResponse(refusal(error, "server"))
    }

    pub(crate) fn response_body(error: &BodyError) -> Self {
        Self::BadResponse(format!("HTTP/1 protocol error: {error}"))
    }
}

fn refusal(error: &FramingError, sender: &str) -> String {
    let reason = "which two parties may read differently (request smuggling)";
    if error.only_when_validating() {
        format!(
            "Received {error} from {sender}, {reason}. Set validate_inbound_headers to false to let \
             it pass."
        )
    } else {
        format!("Received {error} from {sender}, {reason}.")
    }
}

/// Returns the page that tells people about an error.
pub(crate) fn page(status_code: u16, message: &str) -> String {
    let reason = status::reason(status_code).unwrap_or("");
    let mut text = String::with_capacity(message.len());
    for c in message.chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#x27;"),
            c => text.push(c),
        }
    }
    format!(
        "<html>\n<head>\n    <title>{status_code} {reason}</title>\n</head>\n<body>\n    \
         <h1>{status_code} {reason}</h1>\n    <p>{text}</p>\n</body>\n</html>"
    )
}

/// Appends a complete error answer: head and page. The connection is closed after it.
pub(crate) fn write_error_page(
    out: &mut BytesMut,
    status_code: u16,
    message: &str,
    head_only: bool,
) {
    let reason = status::reason(status_code).unwrap_or("");
    let body = page(status_code, message);
    let headers: Headers = [
        ("Server", SERVER.to_owned()),
        ("Connection", "close".to_owned()),
        ("Content-Type", "text/html".to_owned()),
        ("content-length", body.len().to_string()),
    ]
    .into_iter()
    .collect();
    http1::write_response_head(
        out,
        b"HTTP/1.1",
        status_code,
        &Bytes::from_static(reason.as_bytes()),
        &headers,
    );
    if !head_only {
        out.extend_from_slice(body.as_bytes());
    }
}

/// The `Server` header of answers made here.
pub const SERVER: &str = concat!("mitmproxy ", env!("CARGO_PKG_VERSION"));
