//! Codecs without I/O: HTTP/1, WebSocket, SOCKS5 and the TLS `ClientHello`.
//!
//! Everything here is a function or a small state machine over byte buffers: bytes in, values out, and "not
//! enough yet" is `Ok(None)` or `NeedMore`, never an error. There are no sockets, clocks or tasks, and
//! no policy: what is done about an error (which status, which hook, whether the connection is closed)
//! is the engine's business.
//!
//! All input is taken to be hostile. Nothing panics on it, every buffer has a limit, and no work is repeated
//! when the bytes trickle in.

pub mod client_hello;
pub mod fuzz;
pub mod http1;
mod repr;
pub mod sniff;
pub mod socks5;
pub mod websocket;
