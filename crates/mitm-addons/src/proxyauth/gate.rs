//! A limit to how many passwords are checked at once, and how many wait for that: whoever sends them need not be
//! anybody yet.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::warn;

/// How many may wait. The next are refused.
const WAITING_MAX: usize = 256;

/// See the [module](self).
pub(super) struct Gate {
    permits: Semaphore,
    waiting: AtomicUsize,
}

/// One that waits, until this is dropped: the client may leave.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(super) fn new(at_once: usize) -> Self {
        Self { permits: Semaphore::new(at_once), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a turn, which lasts until the permit is dropped; `None` if too many wait already.
    pub(super) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            warn!("More than {WAITING_MAX} passwords wait to be checked: the next are refused.");
            return None;
        }
        let _waiting = Waiting(&self.waiting);
        // It is never closed.
        self.permits.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_waits_beyond_the_limit_is_refused() {
        let gate = Arc::new(Gate::new(1));
        let held = gate.enter().await.unwrap();
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.enter().await.is_some() })
            })
            .collect();
        while gate.waiting.load(Ordering::Relaxed) < WAITING_MAX {
            tokio::task::yield_now().await;
        }
        assert!(gate.enter().await.is_none());
        drop(held);
        for waiting in waiting {
            assert!(waiting.await.unwrap());
        }
        assert!(gate.enter().await.is_some());
    }
}
