//! Tests over whole messages.

#![expect(clippy::unwrap_used, reason = "helpers of tests count as test code")]

mod corpus;
mod hellos;
mod properties;
mod smuggling;
mod websocket;
