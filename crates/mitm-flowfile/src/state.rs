//! States as values: what `get_state` and `set_state` of scripts exchange.
//!
//! Both directions go through the notation of files, so that there is one account of what a flow's state is.

use mitm_flow::{FlowSnapshot, Value};

use crate::{
    fault::{Fault, ReadError, ReadErrorKind},
    migrate::Migrator,
    record::RawRecord,
    tnetstring::{self, Span},
    writer::{self, WriteError},
};

/// Returns the state of a flow as a dict. Stored bodies are read into memory.
///
/// # Errors
/// A body cannot be read, or the metadata is nested too deeply.
pub fn to_value(flow: &FlowSnapshot) -> Result<Value, WriteError> {
    let bytes = writer::to_bytes(flow)?.into();
    tnetstring::decode(&bytes).map_err(|error| WriteError::Metadata(error.problem))
}

/// Makes a state from a dict of any version.
///
/// # Errors
/// As for a record of a file; offsets mean nothing here.
pub fn from_value(state: &Value) -> Result<FlowSnapshot, ReadError> {
    let bytes = tnetstring::encode(state).map_err(|problem| {
        let fault = Fault::new(Span::ABSENT, problem.into());
        ReadError::new(0, ReadErrorKind::State { at: 0, message: fault.to_string().into() })
    })?;
    RawRecord::new(bytes.into(), 0, None, &mut Migrator::new())?.snapshot()
}
