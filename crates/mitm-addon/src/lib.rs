//! Addons: the trait they implement, the chain they stand in, and the master that ties options, commands, the event
//! log and the engine together.
//!
//! Everything a user knows as a feature is an [`Addon`]; the engine knows none of them, it fires hooks at the
//! [`Manager`]. The [`Master`] is what the programs build, fill with addons and run.

pub mod addon;
pub mod log;
pub mod manager;
pub mod master;
pub mod sequence;
pub mod testing;

pub use addon::{Addon, AddonError, HookResult, Loader, Outcome};
pub use log::{Level, LogEntry};
pub use manager::Manager;
pub use master::{Master, MasterError, WeakMaster};
pub use sequence::Shape;
