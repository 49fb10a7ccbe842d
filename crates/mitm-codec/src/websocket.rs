//! WebSocket (RFC 6455): frames, messages, and their compression (permessage-deflate, RFC 7692).
//!
//! [`Receiver`] turns the bytes of one direction into [`Received`] events: the pieces of messages, joined over
//! fragments, decompressed and checked, and control frames. Messages come in pieces, so that the size of one
//! is not a matter of memory here. With the end of a message come the lengths of its frames, so that it can be
//! forwarded in the same ones, and with the pieces of a compressed one the bytes as they were on the wire, so
//! that it need not be compressed again.
//!
//! For the way back there are [`write_frame`] and its parts, and [`Deflater`].
//!
//! Errors are those for which an endpoint has to fail the connection; each says the close code to do it with.
//! Nothing here answers pings, sends a close, or knows who keeps what.

mod close;
mod deflate;
mod frame;
mod receive;
mod utf8;

use std::borrow::Cow;

use thiserror::Error;

pub use close::{Close, MAX_REASON_BYTES, is_valid_close_code};
pub use deflate::{DeflateParams, Deflater, Extensions, parse_extensions};
pub use frame::{
    FrameHeader, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, OpCode, apply_mask, write_control,
    write_frame, write_header,
};
pub use receive::{Lengths, MAX_FRAGMENTS, Options, Received, Receiver, Shape};

/// Close codes (RFC 6455 §7.4.1).
pub mod code {
    pub const NORMAL: u16 = 1000;
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// The close frame had no code. Never sent.
    pub const NO_STATUS: u16 = 1005;
    /// There was no close frame. Never sent.
    pub const ABNORMAL: u16 = 1006;
    pub const INVALID_DATA: u16 = 1007;
    pub const TOO_BIG: u16 = 1009;
}

/// Which end of a connection sent the bytes. A client masks its frames, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    Client,
    Server,
}

/// Why a connection must be failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct Error {
    /// The close code to send.
    pub code: u16,
    /// What is wrong, for the close frame and for people.
    pub reason: Cow<'static, str>,
}

impl Error {
    pub(crate) fn protocol(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code: code::PROTOCOL_ERROR, reason: reason.into() }
    }

    pub(crate) fn data(reason: &'static str) -> Self {
        Self { code: code::INVALID_DATA, reason: reason.into() }
    }

    pub(crate) fn too_big(limit: u64) -> Self {
        let reason = format!("message is larger than the limit of {limit} bytes");
        Self { code: code::TOO_BIG, reason: reason.into() }
    }
}
