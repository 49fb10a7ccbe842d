//! The data model of mitm-rs: flows, messages, connections, and what is computed from them.
//!
//! A **flow** is one exchange (HTTP, DNS) or one conversation (TCP, UDP, WebSocket inside HTTP). It
//! is made of *cells* ([`Shared`]): the request, the response, the client and the server connection
//! and each message are cells of their own, so that two flows may share one response, a script may
//! keep a client, and a change made through one handle is seen through all of them. [`FlowRef`] is
//! the cheap handle everybody passes around; [`FlowSnapshot`] is the same data as plain values, which
//! is what files, backups and copies are made of.
//!
//! Three rules keep this safe to use from many threads:
//!
//! 1. Locks are leaves. A cell is locked inside [`Shared::with`] or [`Shared::update`] and nowhere
//!    else, for the time of the closure; closures clone or swap and do no work.
//! 2. What is expensive (decoding, charset detection, parsing of forms) is a function over values
//!    that were cloned out of a cell. Cloning is cheap: headers, bodies and names are shared.
//! 3. The only I/O here is the spill store ([`spill`]), where large bodies live. No sockets, no
//!    clocks beyond [`now`], no tasks.

pub mod body;
pub mod cert;
pub mod charset;
pub mod coding;
pub mod connection;
pub mod cookies;
pub mod date;
pub mod dns;
pub mod facts;
pub mod flow;
pub mod form;
pub mod headers;
pub mod human;
pub mod message;
pub mod multipart;
pub mod shared;
pub mod snapshot;
pub mod spill;
pub mod status;
pub mod stream;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
pub mod url;
pub mod value;
pub mod websocket;

pub use body::{Body, Extent};
pub use cert::Cert;
pub use connection::{Address, Client, Server, TlsVersion, Transport, Via};
pub use facts::Facts;
pub use flow::{FlowData, FlowError, FlowId, FlowKind, FlowRef, NotKillable, Replay};
pub use headers::{Field, Headers};
pub use message::{Message, Request, Response};
pub use shared::Shared;
pub use snapshot::{FlowSnapshot, SnapshotData};
pub use stream::{ChunkTransform, Stream};
pub use value::Value;
pub use websocket::{Opcode, WebSocketData, WebSocketMessage};

/// Returns the present time as Unix seconds, the unit of every timestamp in a flow.
pub fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
