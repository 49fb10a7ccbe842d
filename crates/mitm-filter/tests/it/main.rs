//! The filter language from outside: what operators match, what is foreseen, and agreement with
//! mitmproxy and Python.

#![expect(clippy::unwrap_used, reason = "helpers of tests count as test code")]

mod agreement;
mod expressions;
mod facts;
mod foresight;
mod fuzz_corpus;
mod live_flow;
mod operators;
mod peer;
