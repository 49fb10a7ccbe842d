//! [`Queue`]: between the hooks and the writer.
//!
//! It is bounded by what its content weighs, not by its length: bodies differ too much. A job is always taken; whoever
//! added one beyond the limit then waits for room, so that the overshoot is one flow for each exchange
//! that is running.
//!
//! Waking a thread costs more than writing a small flow. Flows of live traffic wake the writer at once; those from a file,
//! which come in hundreds of thousands, once there are enough of them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mitm_flow::{Body, FlowSnapshot, SnapshotData};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::target::Target;

/// What may wait to be written.
const LIMIT: usize = 4 << 20;

/// The writer is woken for as much, though nothing is urgent.
const ENOUGH: usize = 256 << 10;

/// Jobs that are not urgent wait as long at most.
const PATIENCE: Duration = Duration::from_millis(50);

/// A flow to be written.
pub(super) enum Item {
    /// As it was read from another file.
    Record(Bytes),
    Snapshot(Box<FlowSnapshot>),
}

/// Something for the writer to do.
pub(super) enum Job {
    /// Open the file: there may be no flows.
    Begin(Arc<Target>),
    Write {
        target: Arc<Target>,
        item: Item,
        is_live: bool,
    },
    /// Close the file: nothing more is to be written for now.
    Close,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    room: Notify,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    /// Of all jobs that were added and are not done.
    weight: usize,
    /// Of those in `jobs`.
    waiting: usize,
    is_urgent: bool,
    /// The writer sleeps.
    is_idle: bool,
    is_closed: bool,
}

impl Queue {
    /// Adds a job; false if the queue is now beyond its limit. After [`close`](Self::close) nothing is added.
    pub(super) fn push(&self, job: Job) -> bool {
        let weight = job.weight();
        let is_urgent = !matches!(job, Job::Write { is_live: false, .. });
        let mut state = self.state.lock();
        if state.is_closed {
            return true;
        }
        // From the first one on, the writer waits for a limited time only.
        let is_first = state.jobs.is_empty();
        state.jobs.push(job);
        state.weight += weight;
        state.waiting += weight;
        state.is_urgent |= is_urgent;
        let wake = state.is_idle && (is_first || state.is_ready());
        if wake {
            state.is_idle = false;
        }
        let has_room = state.weight <= LIMIT;
        drop(state);
        if wake {
            self.work.notify_one();
        }
        has_room
    }

    /// Waits until the queue is within its limit.
    pub(super) async fn room(&self) {
        loop {
            let freed = self.room.notified();
            if self.state.lock().weight <= LIMIT {
                return;
            }
            freed.await;
        }
    }

    /// Takes no more jobs; the writer ends after those that are there.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.work.notify_one();
    }

    /// Returns all jobs and what they weigh, `None` at the end. For the writer, which calls
    /// [`finished`](Self::finished) for them.
    pub(super) fn take(&self) -> Option<(Vec<Job>, usize)> {
        let mut state = self.state.lock();
        while !state.is_ready() && !state.is_closed {
            state.is_idle = true;
            if state.jobs.is_empty() {
                self.work.wait(&mut state);
            } else if self.work.wait_for(&mut state, PATIENCE).timed_out() {
                break;
            }
        }
        state.is_idle = false;
        if state.jobs.is_empty() && state.is_closed {
            return None;
        }
        state.is_urgent = false;
        let weight = std::mem::take(&mut state.waiting);
        Some((std::mem::take(&mut state.jobs), weight))
    }

    /// Makes room for others.
    pub(super) fn finished(&self, weight: usize) {
        let mut state = self.state.lock();
        let was_full = state.weight > LIMIT;
        state.weight -= weight;
        let has_room = state.weight <= LIMIT;
        drop(state);
        if was_full && has_room {
            self.room.notify_waiters();
        }
    }
}

impl State {
    fn is_ready(&self) -> bool {
        !self.jobs.is_empty() && (self.is_urgent || self.waiting >= ENOUGH)
    }
}

impl Job {
    /// Returns about how many bytes it keeps in memory.
    fn weight(&self) -> usize {
        const RECORD: usize = 128;
        const SNAPSHOT: usize = 2048;
        const MESSAGE: usize = 128;
        let in_memory = |body: &Body| body.in_memory().map_or(0, Bytes::len);
        match self {
            Self::Begin(_) | Self::Close => 0,
            Self::Write { item: Item::Record(bytes), .. } => RECORD + bytes.len(),
            Self::Write { item: Item::Snapshot(snapshot), .. } => {
                SNAPSHOT
                    + match &snapshot.data {
                        SnapshotData::Http { request, response, websocket } => {
                            let messages = websocket.iter().flat_map(|data| &data.messages);
                            in_memory(&request.body)
                                + response.as_ref().map_or(0, |response| in_memory(&response.body))
                                + messages.map(|m| MESSAGE + in_memory(&m.content)).sum::<usize>()
                        }
                        SnapshotData::Tcp(messages) | SnapshotData::Udp(messages) => {
                            messages.iter().map(|m| MESSAGE + in_memory(&m.content)).sum()
                        }
                        SnapshotData::Dns { .. } => 0,
                    }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(target: &Arc<Target>, len: usize) -> Job {
        let item = Item::Record(vec![0; len].into());
        Job::Write { target: target.clone(), item, is_live: false }
    }

    #[tokio::test]
    async fn whoever_fills_it_waits_for_room() {
        let target = Arc::new(Target::new("x"));
        let queue = Arc::new(Queue::default());
        assert!(queue.push(job(&target, 10)));
        assert!(!queue.push(job(&target, LIMIT)));
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.room().await }
        });
        let (jobs, weight) = queue.take().unwrap();
        assert_eq!(jobs.len(), 2);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        queue.finished(weight);
        waiting.await.unwrap();
    }

    #[test]
    fn it_is_emptied_before_it_ends() {
        let target = Arc::new(Target::new("x"));
        let queue = Queue::default();
        queue.push(job(&target, 1));
        queue.close();
        assert!(queue.push(job(&target, 1)));
        assert_eq!(queue.take().unwrap().0.len(), 1);
        assert!(queue.take().is_none());
    }

    #[test]
    fn a_single_job_is_not_left_lying() {
        let target = Arc::new(Target::new("x"));
        let queue = Queue::default();
        queue.push(job(&target, 1));
        assert_eq!(queue.take().unwrap().0.len(), 1);
    }

    #[test]
    fn a_sleeping_writer_hears_of_a_single_job() {
        let target = Arc::new(Target::new("x"));
        let queue = Arc::new(Queue::default());
        let (taken, receiver) = std::sync::mpsc::channel();
        let writer = queue.clone();
        std::thread::spawn(move || taken.send(writer.take().unwrap().0.len()));
        while !queue.state.lock().is_idle {
            std::thread::yield_now();
        }
        queue.push(job(&target, 1));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(30)), Ok(1));
    }
}
