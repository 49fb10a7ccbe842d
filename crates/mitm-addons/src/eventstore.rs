//! [`EventStore`]: keeps the latest entries of the event log, for the console and the web UI.

use std::{collections::VecDeque, sync::Arc};

use mitm_addon::{Addon, HookResult, Level, Loader, LogEntry, log::Threshold};
use mitm_options::CommandDecl;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Older entries are dropped.
const MAX_ENTRIES: usize = 10_000;

/// The latest entries of all levels. Clones are handles on the same store.
#[derive(Clone, Default)]
pub struct EventStore(Arc<Inner>);

#[derive(Default)]
struct Inner {
    entries: Mutex<VecDeque<Arc<LogEntry>>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
    threshold: Mutex<Option<Threshold>>,
}

impl EventStore {
    /// Returns what is kept, oldest first.
    pub fn entries(&self) -> Vec<Arc<LogEntry>> {
        self.0.entries.lock().iter().cloned().collect()
    }

    /// Returns a receiver that is told of each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    pub fn clear(&self) {
        drop(std::mem::take(&mut *self.0.entries.lock()));
        self.0.changes.send_modify(|count| *count += 1);
    }
}

impl Inner {
    fn push(&self, entry: &LogEntry) {
        let entry = Arc::new(entry.clone());
        let dropped = {
            let mut entries = self.entries.lock();
            let oldest = if entries.len() < MAX_ENTRIES { None } else { entries.pop_front() };
            entries.push_back(entry);
            oldest
        };
        drop(dropped);
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Addon for EventStore {
    fn name(&self) -> &'static str {
        "eventstore"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        // The log must not keep the store that keeps a handle on the log.
        let store = Arc::downgrade(&self.0);
        let threshold = loader.master.log().subscribe_from(Level::Debug, move |entry| {
            if let Some(store) = store.upgrade() {
                store.push(entry);
            }
        });
        *self.0.threshold.lock() = Some(threshold);
        let store = self.clone();
        loader.master.commands().add(
            CommandDecl::new("eventstore.clear", "Clear the event log."),
            move |_| {
                store.clear();
                Ok(())
            },
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mitm_addon::testing;

    use super::*;

    #[test]
    fn the_latest_entries_are_kept() {
        let store = EventStore::default();
        let master = testing::master_with(Arc::new(store.clone())).unwrap();
        let changes = store.changes();
        for i in 0..MAX_ENTRIES + 2 {
            let msg = i.to_string();
            let (level, client) = (Level::Debug, None);
            let entry = LogEntry { level, client, msg, timestamp: 0.0, is_traffic: false };
            master.log().add(&entry);
        }
        let entries = store.entries();
        assert_eq!((entries.len(), entries[0].msg.as_str()), (MAX_ENTRIES, "2"));
        assert!(changes.has_changed().unwrap());
        master.commands().execute("eventstore.clear").unwrap();
        assert!(store.entries().is_empty());
    }
}
