//! The engine over loopback: scripted clients and origins, and hooks that are noted.

#![expect(clippy::unwrap_used, reason = "what cannot be set up has failed")]

mod bodies;
mod exchanges;
mod harness;
mod hooks;
mod ignored;
mod old_tls;
mod order;
mod http2;
mod smuggling;
mod tcp;
mod socks5;
mod tunnels;
mod upstream;
mod websocket;
