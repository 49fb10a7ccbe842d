//! The thread that writes: opens, rotates, writes, flushes after each batch, and copes with errors.

use std::{fs::File, io, path::PathBuf, sync::Arc};

use mitm_addon::WeakMaster;
use mitm_flowfile::{FlowWriter, WriteError};
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::{
    queue::{Item, Job, Queue},
    target::Target,
};
use crate::platform::{self, FileId};

/// Starts the thread; the receiver is told when it has ended.
pub(super) fn start(queue: Arc<Queue>, master: WeakMaster) -> oneshot::Receiver<()> {
    let (ended, receiver) = oneshot::channel();
    let work = move || {
        let mut writer = Writer { master, open: None, latest: None };
        while let Some((jobs, weight)) = queue.take() {
            writer.batch(jobs);
            queue.finished(weight);
        }
        writer.close();
        // Nobody may be waiting.
        let _ = ended.send(());
    };
    let started = std::thread::Builder::new().name("save".to_owned()).spawn(work);
    if let Err(error) = started {
        error!("Flows cannot be saved, no thread can be started: {error}");
    }
    receiver
}

struct Writer {
    master: WeakMaster,
    open: Option<Open>,
    /// The file that was written last. It is continued, not emptied, if it is to be written again: an option may be
    /// set back.
    latest: Option<FileId>,
}

/// The file being written, or that could not be opened.
struct Open {
    target: Arc<Target>,
    path: PathBuf,
    /// The second that the path was made for.
    second: Option<u64>,
    /// `None` after an error: nothing more is written until the path changes.
    file: Option<Writing>,
}

struct Writing {
    flows: FlowWriter<File>,
    /// The length at the beginning, `None` if it is not a regular file.
    base: Option<u64>,
}

impl Writer {
    fn batch(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            match job {
                Job::Begin(target) => self.turn_to(&target),
                Job::Close => self.close(),
                Job::Write { target, item, .. } => {
                    self.turn_to(&target);
                    self.write(&item);
                }
            }
        }
        self.flush();
    }

    /// Opens the file of `target`, unless it is open.
    fn turn_to(&mut self, target: &Arc<Target>) {
        let second = target.second();
        if let Some(open) = &mut self.open
            && (Arc::ptr_eq(&open.target, target) || open.target.spec() == target.spec())
        {
            if open.second == second {
                return;
            }
            open.second = second;
            if open.path == target.path_now() {
                return;
            }
        }
        self.close();
        let path = target.path_now();
        let file = match self.begin(target, &path) {
            Ok(file) => Some(file),
            Err(error) => {
                error!("{}", Self::message(&path, &error));
                self.set_exit_code();
                None
            }
        };
        self.open = Some(Open { target: target.clone(), path, second, file });
    }

    fn begin(&mut self, target: &Target, path: &std::path::Path) -> io::Result<Writing> {
        let file = target.file(path)?;
        let metadata = file.metadata()?;
        let id = platform::file_id(&metadata);
        let mut base = metadata.is_file().then_some(metadata.len());
        let is_latest = id.is_some() && id == self.latest;
        if base.is_some() && !target.appends() && !is_latest {
            file.set_len(0)?;
            base = Some(0);
        }
        self.latest = id;
        Ok(Writing { flows: FlowWriter::new(file), base })
    }

    fn write(&mut self, item: &Item) {
        let Some(writing) = self.open.as_mut().and_then(|open| open.file.as_mut()) else { return };
        let written = match item {
            Item::Record(record) => writing.flows.write_untouched(record),
            Item::Snapshot(snapshot) => writing.flows.write_snapshot(snapshot),
        };
        self.judge(written);
    }

    fn flush(&mut self) {
        if let Some(writing) = self.open.as_mut().and_then(|open| open.file.as_mut()) {
            let flushed = writing.flows.flush();
            self.judge(flushed);
        }
    }

    fn close(&mut self) {
        self.flush();
        self.open = None;
    }

    fn judge(&mut self, result: Result<(), WriteError>) {
        match result {
            Ok(()) => {}
            Err(WriteError::Output(error)) => self.fail(&error),
            Err(error) => warn!("While saving: {error}"),
        }
    }

    /// Cuts the file behind its last whole flow and writes no more to it.
    fn fail(&mut self, error: &io::Error) {
        let Some(open) = &mut self.open else { return };
        let path = open.path.clone();
        if let Some(writing) = open.file.take()
            && let Some(base) = writing.base
        {
            // The part of a flow at the end would make what is appended later unreadable.
            let whole = base + writing.flows.committed();
            if let Err(error) = writing.flows.get_ref().set_len(whole) {
                warn!("{} may end in the middle of a flow: {error}", path.display());
            }
        }
        error!(traffic = true, "{}", Self::message(&path, error));
        self.set_exit_code();
    }

    fn message(path: &std::path::Path, error: &io::Error) -> String {
        let path = path.display();
        format!(
            "Error while writing to {path}: {error}. Flows are not saved any more, proxying goes on."
        )
    }

    fn set_exit_code(&self) {
        if let Some(master) = self.master.upgrade() {
            master.set_exit_code(1);
        }
    }
}
