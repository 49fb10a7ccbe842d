//! The thread that reads.

use std::{fs::File, io, path::PathBuf, sync::Arc};

use mitm_addon::Shape;
use mitm_filter::Filter;
use mitm_flow::{FlowRef, spill::SpillStore};
use mitm_flowfile::{FlowReader, RawRecord, ReadError};
use tokio::sync::mpsc;

use crate::platform;

/// How many batches may wait to be played.
pub(super) const BATCHES: usize = 4;

/// A batch is handed over when it has as many flows, or as many bytes.
const MAX_FLOWS: usize = 256;
const MAX_BYTES: u64 = 256 * 1024;

/// What to read.
pub(super) struct Source {
    /// `None` is standard input.
    pub(super) path: Option<PathBuf>,
    pub(super) filter: Option<Arc<Filter>>,
}

pub(super) enum Message {
    /// Flows, each with what decides about its events: asked for before, so that playing does not touch the flow.
    Flows(Vec<(FlowRef, Shape)>),
    End(Summary),
}

/// What became of the file.
#[derive(Default)]
pub(super) struct Summary {
    pub(super) unopened: Option<io::Error>,
    /// Flows that were handed over.
    pub(super) loaded: u64,
    /// Flows that are not valid.
    pub(super) skipped: u64,
    pub(super) first_error: Option<ReadError>,
}

impl Summary {
    pub(super) fn unopened(error: io::Error) -> Self {
        Self { unopened: Some(error), ..Self::default() }
    }
}

/// Nobody listens any more.
struct Gone;

impl Source {
    /// Starts a thread that sends the flows and, at last, the summary.
    pub(super) fn start(self, sender: mpsc::Sender<Message>) -> io::Result<()> {
        let work = move || {
            let summary = match self.open() {
                Ok((reader, is_file)) => {
                    let filter = self.filter.clone();
                    let mut batch = Batch::new(sender.clone(), is_file);
                    match read(reader, filter.as_deref(), &mut batch) {
                        Ok(summary) => summary,
                        Err(Gone) => return,
                    }
                }
                Err(error) => Summary::unopened(error),
            };
            // If nobody listens any more nobody misses it.
            let _ = sender.blocking_send(Message::End(summary));
        };
        std::thread::Builder::new().name("readfile".to_owned()).spawn(work).map(drop)
    }

    /// Returns the reader, and whether the input is a regular file.
    fn open(&self) -> io::Result<(FlowReader<File>, bool)> {
        let file = match &self.path {
            Some(path) => File::open(path)?,
            None => platform::stdin()?,
        };
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // What comes from a pipe cannot be read again, so what is too large for memory goes where large bodies go.
        let reader = FlowReader::from_file(file)?
            .spool_with(|| tempfile::tempfile_in(SpillStore::global()?.dir()));
        Ok((reader, metadata.is_file()))
    }
}

fn read(
    mut reader: FlowReader<File>,
    filter: Option<&Filter>,
    batch: &mut Batch,
) -> Result<Summary, Gone> {
    let mut summary = Summary::default();
    let mut is_first = true;
    loop {
        let flow = match reader.next_record() {
            Ok(None) => break,
            Ok(Some(record)) if filter.is_some_and(|filter| !filter.matches(&record)) => Ok(None),
            Ok(Some(record)) => flow(record).map(Some),
            Err(error) => Err(error),
        };
        match flow {
            Ok(Some((flow, shape, len))) => {
                summary.loaded += 1;
                batch.add(flow, shape, len)?;
            }
            Ok(None) => {}
            Err(error) => {
                let goes_on = error.is_recoverable();
                summary.skipped += u64::from(goes_on);
                summary.first_error.get_or_insert(error);
                if !goes_on {
                    break;
                }
            }
        }
        if is_first && summary.first_error.is_none() {
            // The beginning is a flow, which is all that the start-up waits for.
            is_first = false;
            batch.send()?;
        }
    }
    if !batch.flows.is_empty() {
        batch.send()?;
    }
    Ok(summary)
}

fn flow(record: RawRecord) -> Result<(FlowRef, Shape, u64), ReadError> {
    let shape = Shape::of(&record);
    let len = record.bytes().map_or(0, |bytes| bytes.len() as u64);
    Ok((record.into_flow()?, shape, len))
}

/// Flows on their way.
struct Batch {
    flows: Vec<(FlowRef, Shape)>,
    bytes: u64,
    sender: mpsc::Sender<Message>,
    /// From a pipe each flow is handed over when it is there: who knows when the next will come.
    gathers: bool,
}

impl Batch {
    fn new(sender: mpsc::Sender<Message>, gathers: bool) -> Self {
        Self { flows: Vec::new(), bytes: 0, sender, gathers }
    }

    fn add(&mut self, flow: FlowRef, shape: Shape, len: u64) -> Result<(), Gone> {
        self.flows.push((flow, shape));
        self.bytes += len;
        if !self.gathers || self.flows.len() >= MAX_FLOWS || self.bytes >= MAX_BYTES {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Gone> {
        self.bytes = 0;
        let flows = std::mem::take(&mut self.flows);
        self.sender.blocking_send(Message::Flows(flows)).map_err(|_| Gone)
    }
}
