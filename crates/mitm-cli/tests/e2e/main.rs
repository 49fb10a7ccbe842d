//! `mitmdump` between real programs, over the wire: what a user is promised, shown from outside.
//!
//! The binary under test is the one that cargo built; `MITM_MITMDUMP` names another, such as that of
//! a release build. Each test has a home directory of its own, the proxy listens on a free port
//! that it logs, every wait has a deadline, and all that was started ends with the test.
//! Some sizes can be raised by hand: `MITM_BIG_MB`, `MITM_IDLE_CLIENTS`.
//!
//! How parts behave one by one is tested where they are; here are only few tests of each.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod auth;
mod bad_input;
mod big;
mod certificates;
mod chains;
mod clients;
mod flags;
mod http2_clients;
mod idle;
mod main_job;
mod matrix;
mod old_tls;
mod peer;
mod raw_tcp;
mod streaming;
mod support;
mod transparent;
mod upstream;
mod websocket;
