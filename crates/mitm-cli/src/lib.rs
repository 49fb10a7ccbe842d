//! The programs: parse the command line, wire the parts, run.
//!
//! - [`flags`]: the table of all flags, and the parser made of it;
//! - [`args`]: from words to what they ask for;
//! - [`not_yet`]: what users of mitmproxy know and this version refuses;
//!
//! What the programs do is in the addons; here they are put together.

pub mod args;
pub mod flags;
pub mod not_yet;
pub mod version;
