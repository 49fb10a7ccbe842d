//! The programs: parse the command line, wire the parts, run.
//!
//! - [`flags`]: the table of all flags, and the parser made of it;
//! - [`args`]: from words to what they ask for;
//! - `startup`: from what they ask for to options;
//! - [`not_yet`]: what users of mitmproxy know and this version refuses;
//! - [`mitmdump`]: the program.
//!
//! What the programs do is in the addons; here they are put together.

pub mod args;
mod dump;
pub mod flags;
pub mod not_yet;
mod startup;
mod status;
mod terminal;
pub mod version;

pub use dump::mitmdump;
