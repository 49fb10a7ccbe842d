//! Flow files: read, write, migrate old versions.
//!
//! A flow file is a sequence of tnetstrings ([`tnetstring`]), one dict per flow, without header or separator. Flows
//! recorded by every release of mitmproxy since 0.11 can be read; what is written is format version 21, which
//! mitmproxy reads from 11.0 on.
//!
//! - [`FlowReader`] cuts the input into records and migrates those of older versions.
//! - [`RawRecord`] answers single questions about a flow ([`mitm_flow::Facts`]) from its bytes, so that filtering a file
//!   does not decode it, and becomes a [`mitm_flow::FlowRef`] that is decoded on touch.
//! - [`FlowWriter`] writes flows, snapshots and records.
//! - [`state`] converts states to and from values.
//!
//! Files are hostile input: errors say where, nothing panics, memory is bounded, bodies above a limit
//! stay in the file. Opening output paths, rotating and filtering is not done here.

mod back;
mod decode;
mod encode;
mod fault;
pub mod fuzz;
mod large;
mod migrate;
mod reader;
mod record;
mod schema;
pub mod state;
pub mod tnetstring;
mod writer;

pub use fault::{ReadError, ReadErrorKind};
pub use reader::FlowReader;
pub use record::{CURRENT_VERSION, FormatVersion, RawRecord};
pub use writer::{FlowWriter, WriteError};
