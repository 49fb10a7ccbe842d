//! [`KeepServing`]: ends `mitmdump` when there is nothing left to do.

use std::time::Duration;

use mitm_addon::{Addon, HookResult, Loader, Master, Outcome, WeakMaster};
use mitm_options::{Opt, OptionValue, RetValue};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};

use crate::readfile::{Progress, RFILE, ReadFile};

static KEEPSERVING: Opt<bool> = Opt::new(
    "keepserving",
    false,
    "Go on after flows were read from a file or replayed. Otherwise the program ends then.",
);

/// Options that give a run an end.
const LISTS: &[&str] = &["client_replay", "server_replay"];

/// Commands that count what is still to do.
const COUNTS: &[&str] = &["replay.client.count", "replay.server.count"];

/// How often it looks whether connections and replays are over.
const INTERVAL: Duration = Duration::from_millis(100);

/// Shuts down when the file is read, the replays are done and no client is connected.
pub struct KeepServing {
    progress: watch::Receiver<Progress>,
    master: Mutex<WeakMaster>,
    watcher: Mutex<Option<JoinHandle<()>>>,
}

impl KeepServing {
    pub fn new(readfile: &ReadFile) -> Self {
        Self { progress: readfile.progress(), master: Mutex::default(), watcher: Mutex::default() }
    }
}

impl Addon for KeepServing {
    fn name(&self) -> &'static str {
        "keepserving"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        *self.master.lock() = loader.master.downgrade();
        loader.master.options().register_all(&[&KEEPSERVING]);
        Ok(())
    }

    fn running(&self) -> Outcome {
        let Some(master) = self.master.lock().upgrade() else { return Outcome::Done };
        let options = master.options();
        let reads = options.get(&RFILE).is_some_and(|name| !name.is_empty());
        let is_set = |name: &&str| match options.get_value(name) {
            Some(OptionValue::Strs(list)) => !list.is_empty(),
            _ => false,
        };
        if !options.get(&KEEPSERVING) && (reads || LISTS.iter().any(is_set)) {
            let watch = watch(master, reads.then(|| self.progress.clone()));
            *self.watcher.lock() = Some(tokio::spawn(watch));
        }
        Outcome::Done
    }

    fn done(&self) -> Outcome {
        if let Some(watcher) = self.watcher.lock().take() {
            watcher.abort();
        }
        Outcome::Done
    }
}

async fn watch(master: Master, reading: Option<watch::Receiver<Progress>>) {
    if let Some(mut reading) = reading {
        // An error means that the addon is gone, and with it the reading.
        let _ = reading.wait_for(|progress| *progress == Progress::Finished).await;
    }
    while is_busy(&master) {
        tokio::time::sleep(INTERVAL).await;
    }
    master.shutdown();
}

fn is_busy(master: &Master) -> bool {
    let commands = master.commands();
    let counts = COUNTS.iter().filter(|&&name| commands.contains(name));
    let mut counts = counts.map(|&name| commands.call(name, Vec::new()));
    counts.any(|count| matches!(count, Ok(RetValue::Int(1..)))) || master.proxy().connections() > 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mitm_addon::testing;

    use super::*;

    fn master(readfile: &ReadFile) -> Master {
        let master = testing::master_with(Arc::new(KeepServing::new(readfile))).unwrap();
        master.add(Arc::new(readfile.clone())).unwrap();
        testing::set(&master, &["server=false"]).unwrap();
        master
    }

    #[tokio::test]
    async fn the_run_ends_when_the_file_is_read() {
        let readfile = ReadFile::new();
        let master = master(&readfile);
        testing::set(&master, &["rfile=/dev/null"]).unwrap();
        let run = master.run(|| None);
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), run).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_if_asked_to_or_without_anything_to_read() {
        for specs in [&["keepserving", "rfile=/dev/null"][..], &["keepserving=false"]] {
            let readfile = ReadFile::new();
            let master = master(&readfile);
            testing::set(&master, specs).unwrap();
            let run = master.run(|| None);
            assert!(tokio::time::timeout(Duration::from_secs(10), run).await.is_err(), "{specs:?}");
        }
    }
}
