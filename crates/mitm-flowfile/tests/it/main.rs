//! Tests of flow files as their users see them: what released versions wrote, what mitmproxy makes of ours, and laws.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "for the reader of a failed or skipped test")]

mod corpus;
mod errors;
mod fixtures;
mod large;
mod laws;
mod peer;
mod support;
