//! The engine over loopback: scripted clients and origins, and hooks that are noted.

mod bodies;
mod exchanges;
mod harness;
mod hooks;
mod smuggling;
mod tunnels;
