//! Tests of `mitm-tls` from outside: rustls against rustls in memory, and the real OpenSSL.
//!
//! What needs another program is skipped with a printed reason where it is missing, and fails where
//! `MITM_REQUIRE_EXTERNAL=1` is set.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod backend;
mod downstream;
mod hostile;
mod keylog;
mod openssl;
mod ossl;
mod peer;
mod store;
mod support;
mod upstream;
