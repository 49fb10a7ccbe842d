//! The engine over loopback: scripted clients and origins, and hooks that are noted.

#![expect(clippy::unwrap_used, reason = "what cannot be set up has failed")]

mod bodies;
mod exchanges;
mod frames;
mod harness;
mod hooks;
mod http2;
mod http2_floods;
mod http2_flow;
mod http2_smuggling;
mod ignored;
mod log;
mod old_tls;
mod order;
mod slow;
mod smuggling;
mod socks5;
mod tcp;
mod tunnels;
mod upstream;
mod websocket;
