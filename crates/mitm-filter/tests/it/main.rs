//! The filter language from outside: what operators match, what is foreseen, and agreement with
//! mitmproxy and Python.

mod agreement;
mod facts;
mod foresight;
mod fuzz_corpus;
mod operators;
mod peer;
