//! [`ReadFile`]: loads the flows of a file and plays their events, so that every addon sees them as if they happened now.
//!
//! A thread cuts the file into records, drops those that the filter refuses without decoding them, and
//! hands the rest over in batches. A task plays them, one after the other. The channel between
//! them is short: a large file is in memory only in small pieces.
//!
//! A flow that is not valid is skipped with a warning; the rest of the file is still loaded if it can be
//! found. Whatever is wrong with the file makes the exit code 1.

mod source;

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwapOption;
use mitm_addon::{Addon, HookResult, Loader, Master, Outcome, WeakMaster};
use mitm_filter::Filter;
use mitm_options::{ArgType, CommandDecl, Opt, Options, OptionsError};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{error, warn};

use self::source::{Message, Summary};
use crate::filters;

/// The file to load; also looked at by those who end a run when it is loaded.
pub(crate) static RFILE: Opt<Option<String>> = Opt::<Option<String>>::new(
    "rfile",
    None,
    "Read flows from this file when the program starts; - stands for standard input.",
);
static READFILE_FILTER: Opt<Option<String>> =
    Opt::<Option<String>>::new("readfile_filter", None, "Read only flows that match this filter.");

/// How far the reading is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// It has not begun.
    #[default]
    Waiting,
    Reading,
    /// All flows were played, or the file cannot be read.
    Finished,
}

/// Loads flows. Clones are handles on the same addon.
#[derive(Clone)]
pub struct ReadFile(Arc<Inner>);

struct Inner {
    /// `-` is standard input, not a file of this name.
    takes_stdin: bool,
    master: Mutex<WeakMaster>,
    filter: ArcSwapOption<Filter>,
    progress: watch::Sender<Progress>,
    player: Mutex<Option<JoinHandle<()>>>,
}

impl ReadFile {
    /// For programs in which `-` is a file name: their standard input is the keyboard.
    pub fn new() -> Self {
        Self::with(false)
    }

    /// For programs that read standard input if the file is `-`.
    pub fn with_stdin() -> Self {
        Self::with(true)
    }

    fn with(takes_stdin: bool) -> Self {
        Self(Arc::new(Inner {
            takes_stdin,
            master: Mutex::default(),
            filter: ArcSwapOption::empty(),
            progress: watch::Sender::default(),
            player: Mutex::default(),
        }))
    }

    /// Returns a receiver that is told how far the reading is.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.subscribe()
    }
}

impl Default for ReadFile {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    /// Begins to read. Waits for the first flow, so that what is wrong with the file as a whole is known while the program
    /// starts.
    async fn start(self: Arc<Self>, master: Master, name: String) {
        let source = source::Source {
            path: (name != "-" || !self.takes_stdin).then(|| mitm_options::expand_user(&name)),
            filter: self.filter.load_full(),
        };
        let waits = source
            .path
            .as_ref()
            .is_some_and(|path| !path.exists() || path.is_file() || path.is_dir());
        let (sender, mut receiver) = mpsc::channel(source::BATCHES);
        if let Err(error) = source.start(sender) {
            self.finish(&master, &name, &Summary::unopened(error));
            return;
        }
        let first = if waits { receiver.recv().await } else { None };
        if let Some(Message::End(summary)) = &first
            && summary.loaded == 0
        {
            self.finish(&master, &name, summary);
            return;
        }
        let this = self.clone();
        let player = tokio::spawn(async move { this.play(&master, &name, first, receiver).await });
        *self.player.lock() = Some(player);
    }

    async fn play(
        &self,
        master: &Master,
        name: &str,
        first: Option<Message>,
        mut receiver: mpsc::Receiver<Message>,
    ) {
        let mut next = first;
        loop {
            let message = match next.take() {
                Some(message) => Some(message),
                None => receiver.recv().await,
            };
            match message {
                Some(Message::Flows(flows)) => {
                    for (flow, shape) in flows {
                        master.play(&flow, shape).await;
                    }
                }
                Some(Message::End(summary)) => return self.finish(master, name, &summary),
                None => return self.finish(master, name, &Summary::default()),
            }
        }
    }

    fn finish(&self, master: &Master, name: &str, summary: &Summary) {
        match summary {
            Summary { unopened: Some(error), .. } => {
                error!("Cannot load flows: {error}: '{name}'");
            }
            Summary { first_error: Some(error), loaded: 0, .. } => {
                error!("Flow file corrupted.");
                error!("Failed to read {name}: {error}");
            }
            Summary { first_error: Some(error), loaded, skipped, .. } => {
                let skipped = match skipped {
                    0 => String::new(),
                    _ => format!(", skipped {skipped}"),
                };
                warn!("Flow file corrupted - loaded {loaded} flows{skipped}.");
                error!("Failed to read {name}: {error}");
            }
            Summary { unopened: None, first_error: None, .. } => {}
        }
        if summary.unopened.is_some() || summary.first_error.is_some() {
            master.set_exit_code(1);
        }
        self.progress.send_replace(Progress::Finished);
    }
}

impl Addon for ReadFile {
    fn name(&self) -> &'static str {
        "readfile"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        let master = loader.master;
        *self.0.master.lock() = master.downgrade();
        master.options().register_all(&[&RFILE, &READFILE_FILTER]);
        let decl = CommandDecl::new("readfile.reading", "Tell whether a file is being read.")
            .returns(ArgType::Bool);
        let progress = self.progress();
        master.commands().add(decl, move |_| Ok(*progress.borrow() == Progress::Reading));
        Ok(())
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        if updated.contains(READFILE_FILTER.name()) {
            self.0.filter.store(filters::from_option(options, &READFILE_FILTER)?);
        }
        Ok(())
    }

    fn running(&self) -> Outcome {
        let Some(master) = self.0.master.lock().upgrade() else { return Outcome::Done };
        let name = master.options().get(&RFILE).filter(|name| !name.is_empty());
        let Some(name) = name else { return Outcome::Done };
        self.0.progress.send_replace(Progress::Reading);
        let inner = self.0.clone();
        Outcome::wait(async move {
            inner.start(master, name).await;
            Ok(())
        })
    }

    fn done(&self) -> Outcome {
        // The thread ends when it finds the channel closed.
        if let Some(player) = self.0.player.lock().take() {
            player.abort();
            self.0.progress.send_replace(Progress::Finished);
        }
        Outcome::Done
    }
}

#[cfg(test)]
mod tests;
