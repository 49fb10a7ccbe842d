//! [`FlowWriter`]: appends flows to a file.
//!
//! Records are gathered in a buffer and written when it is full or on [`FlowWriter::flush`]. A flow that nobody touched
//! since it was read is written as it was; others are encoded from a snapshot. Large bodies are streamed from where they
//! are kept.
//!
//! If the output fails, the file may end in the middle of a record, and what is appended to it later could not be read.
//! [`FlowWriter::committed`] says how many bytes of whole records arrived; whoever owns the file cuts it there, calls
//! [`FlowWriter::reset`] and may go on.

use std::{
    io::{self, Write},
    sync::Arc,
};

use mitm_flow::{Body, FlowRef, FlowSnapshot};
use thiserror::Error;

use crate::{
    back::{self, Back, EmitError},
    encode::put_flow,
    fault::ReadError,
    large::Place,
    record::RawRecord,
    tnetstring::Problem,
};

/// The size of the buffer.
const BUFFER: usize = 256 * 1024;

/// A flow was not written, or not as it should be.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The output failed. See [`FlowWriter::committed`].
    #[error("cannot write to the flow file: {0}")]
    Output(#[source] io::Error),
    /// A body could not be read from where it is kept. The record is in the file, with zeros for what is missing.
    #[error("a message body cannot be read and is lost: {0}")]
    Body(#[source] io::Error),
    /// The flow cannot be represented.
    #[error("a flow cannot be written: its metadata has {0}")]
    Metadata(Problem),
    #[error("a flow cannot be copied: {0}")]
    Record(#[source] Box<ReadError>),
}

/// Writes flows in the current version. [`flush`](Self::flush) before dropping it.
pub struct FlowWriter<W> {
    out: W,
    buffer: Vec<u8>,
    /// Where in `buffer` records end.
    ends: Vec<usize>,
    back: Back,
    committed: u64,
    failed: bool,
}

impl<W: Write> FlowWriter<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: Vec::new(),
            ends: Vec::new(),
            back: Back::new(),
            committed: 0,
            failed: false,
        }
    }

    /// Writes a flow as it is now.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write(&mut self, flow: &FlowRef) -> Result<(), WriteError> {
        match flow.untouched_record() {
            Some(record) => self.put(record),
            None => self.write_snapshot(&flow.snapshot()),
        }
    }

    /// Writes the state of a flow.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write_snapshot(&mut self, flow: &FlowSnapshot) -> Result<(), WriteError> {
        let mut back = std::mem::replace(&mut self.back, Back::new());
        back.clear();
        let result = match put_flow(&mut back, flow) {
            Ok(()) => self.put_back(&back),
            Err(problem) => Err(WriteError::Metadata(problem)),
        };
        back.clear();
        self.back = back;
        result
    }

    /// Copies a record that was checked before: that of a flow which nobody touched.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write_untouched(&mut self, record: &[u8]) -> Result<(), WriteError> {
        self.put(record)
    }

    /// Copies a record of another file, having checked it.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write_record(&mut self, record: &RawRecord) -> Result<(), WriteError> {
        let invalid = |error| WriteError::Record(Box::new(error));
        if let Some(bytes) = record.bytes() {
            record.check().map_err(invalid)?;
            return self.put(bytes);
        }
        match record.verbatim_place() {
            Some(place) => {
                record.check().map_err(invalid)?;
                self.copy(place)
            }
            None => self.write_snapshot(&record.snapshot().map_err(invalid)?),
        }
    }

    /// Hands everything over to the output and flushes that.
    ///
    /// # Errors
    /// Those of the output.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.drain()?;
        self.out.flush().map_err(WriteError::Output)
    }

    /// Returns the number of bytes of whole records that the output took.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Goes on after a failure. What was not [`committed`](Self::committed) is gone.
    pub fn reset(&mut self) {
        self.buffer.clear();
        self.ends.clear();
        self.failed = false;
    }

    pub fn get_ref(&self) -> &W {
        &self.out
    }

    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Flushes and returns the output.
    ///
    /// # Errors
    /// Those of the output.
    pub fn into_inner(mut self) -> Result<W, WriteError> {
        self.flush()?;
        Ok(self.out)
    }

    fn put(&mut self, record: &[u8]) -> Result<(), WriteError> {
        self.usable()?;
        if self.buffer.len() + record.len() > BUFFER {
            self.drain()?;
        }
        if record.len() > BUFFER {
            let written = self.out.write_all(record);
            return self.finish_record(written, record.len() as u64);
        }
        self.buffer.extend_from_slice(record);
        self.ends.push(self.buffer.len());
        Ok(())
    }

    fn put_back(&mut self, back: &Back) -> Result<(), WriteError> {
        if let Some(record) = back.as_slice() {
            return self.put(record);
        }
        self.usable()?;
        self.drain()?;
        match back.emit(&mut self.out) {
            Ok(()) => self.finish_record(Ok(()), back.len()),
            Err(EmitError::Output(error)) => self.finish_record(Err(error), 0),
            Err(EmitError::Body(error)) => {
                self.finish_record(Ok(()), back.len())?;
                Err(WriteError::Body(error))
            }
        }
    }

    /// Copies a record from one file to the other.
    fn copy(&mut self, place: &Place) -> Result<(), WriteError> {
        self.usable()?;
        self.drain()?;
        let record = Body::stored(Arc::new(place.clone()));
        match back::emit_body(&record, &mut self.out) {
            Ok(read) => {
                self.finish_record(Ok(()), place.len)?;
                read.map_err(WriteError::Body)
            }
            Err(EmitError::Body(error) | EmitError::Output(error)) => {
                self.finish_record(Err(error), 0)
            }
        }
    }

    fn finish_record(&mut self, written: io::Result<()>, len: u64) -> Result<(), WriteError> {
        match written {
            Ok(()) => {
                self.committed += len;
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                Err(WriteError::Output(error))
            }
        }
    }

    fn usable(&self) -> Result<(), WriteError> {
        if self.failed {
            let reason = "an earlier write failed, the file may end in the middle of a flow";
            return Err(WriteError::Output(io::Error::other(reason)));
        }
        Ok(())
    }

    /// Writes the buffer, keeping count of the records that arrived.
    fn drain(&mut self) -> Result<(), WriteError> {
        self.usable()?;
        let mut written = 0;
        let mut result = Ok(());
        while let Some(rest) = self.buffer.get(written..).filter(|rest| !rest.is_empty()) {
            match self.out.write(rest) {
                Ok(0) => {
                    result = Err(io::ErrorKind::WriteZero.into());
                    break;
                }
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let whole = self.ends.iter().rev().find(|&&end| end <= written).copied().unwrap_or(0);
        self.buffer.clear();
        self.ends.clear();
        self.committed += whole as u64;
        self.finish_record(result, 0)
    }
}

/// Encodes a flow as a record in memory; stored bodies are read.
pub(crate) fn to_bytes(flow: &FlowSnapshot) -> Result<Vec<u8>, WriteError> {
    let mut back = Back::new();
    put_flow(&mut back, flow).map_err(WriteError::Metadata)?;
    let mut out = Vec::new();
    match back.emit(&mut out) {
        Ok(()) => Ok(out),
        Err(EmitError::Output(error)) => Err(WriteError::Output(error)),
        Err(EmitError::Body(error)) => Err(WriteError::Body(error)),
    }
}
