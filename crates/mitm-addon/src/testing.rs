//! A harness for the tests of one addon: a master with nothing but it.

use mitm_flow::FlowRef;
use mitm_options::OptionsError;

use crate::{Master, MasterError, addon::AddonRef, log::EventLog};

/// Makes a master that has the addon.
///
/// # Errors
/// The addon does not load.
pub fn master_with(addon: AddonRef) -> Result<Master, MasterError> {
    let master = Master::new(EventLog::default());
    master.add(addon)?;
    Ok(master)
}

/// Sets options as `--set` does.
///
/// # Errors
/// What the options or the addon say against it.
pub fn set(master: &Master, specs: &[&str]) -> Result<(), OptionsError> {
    master.options().set_specs(specs, false).map(|_| ())
}

/// Plays the events of a flow.
pub async fn cycle(master: &Master, flow: &FlowRef) {
    master.load_flow(flow).await;
}
