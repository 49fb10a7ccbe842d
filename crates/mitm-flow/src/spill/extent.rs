//! A body in the spill store: segments of the file, and what still waits to be written to them.

use std::{collections::VecDeque, fs::File, io, sync::Arc};

use bytes::Bytes;
use event_listener::Event;
use parking_lot::Mutex;

use super::{FIRST_SEGMENT, Job, MAX_SEGMENT, SpillStore, platform};
use crate::Extent;

/// A range of a file that belongs to one body.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) file: Arc<File>,
    pub(super) at: u64,
    pub(super) len: u64,
}

/// Where the writer goes on.
pub(super) struct Place {
    pub(super) file: Arc<File>,
    pub(super) at: u64,
    pub(super) room: u64,
}

/// A body that is pushed by one builder, written by the store's thread and read by anybody.
pub(super) struct SpilledBody {
    store: SpillStore,
    /// The length that was announced, if any. Peers may lie.
    expected: Option<u64>,
    state: Mutex<State>,
    /// Wakes those who wait for the writer to be done with this body.
    settled: Event,
}

/// `committed + (sum of waiting) == pushed`, unless failed.
#[derive(Default)]
struct State {
    segments: Vec<Segment>,
    /// Bytes that are in the file.
    committed: u64,
    pushed: u64,
    waiting: VecDeque<Bytes>,
    /// True while the writer has a job for this body.
    queued: bool,
    failed: Option<(io::ErrorKind, Arc<str>)>,
}

impl SpilledBody {
    pub(super) fn new(store: SpillStore, expected: Option<u64>) -> Self {
        Self { store, expected, state: Mutex::default(), settled: Event::new() }
    }

    pub(super) fn store(&self) -> &SpillStore {
        &self.store
    }

    /// Appends `bytes`; false if the body has failed.
    pub(super) fn push(self: &Arc<Self>, bytes: Bytes) -> bool {
        if bytes.is_empty() {
            return !self.has_failed();
        }
        let len = bytes.len() as u64;
        self.store.add_waiting(len);
        let (failed, enqueue) = {
            let mut state = self.state.lock();
            if state.failed.is_some() {
                (true, false)
            } else {
                state.waiting.push_back(bytes);
                state.pushed += len;
                (false, !std::mem::replace(&mut state.queued, true))
            }
        };
        if failed {
            self.store.remove_waiting(len);
        }
        if enqueue {
            self.store.enqueue(Job::Write(Arc::clone(self)));
        }
        !failed
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state.lock().failed.is_some()
    }

    /// Waits until everything pushed is in the file; false if the body has failed.
    pub(super) async fn settled(&self) -> bool {
        let outcome = || {
            let state = self.state.lock();
            match (&state.failed, state.waiting.is_empty()) {
                (Some(_), _) => Some(false),
                (None, true) => Some(true),
                (None, false) => None,
            }
        };
        loop {
            if let Some(outcome) = outcome() {
                return outcome;
            }
            let listener = self.settled.listen();
            if let Some(outcome) = outcome() {
                return outcome;
            }
            listener.await;
        }
    }

    /// Returns the first pieces that wait, about `limit` bytes, one at least.
    pub(super) fn waiting_pieces(&self, limit: usize) -> Vec<Bytes> {
        let state = self.state.lock();
        let mut sum = 0;
        let fits = |piece: &&Bytes| {
            let first = sum == 0;
            sum += piece.len();
            first || sum <= limit
        };
        state.waiting.iter().take_while(fits).cloned().collect()
    }

    /// Records that the first `count` pieces are in the file; true if more wait.
    pub(super) fn commit(&self, count: usize) -> bool {
        let (done, written, more) = {
            let mut state = self.state.lock();
            let count = count.min(state.waiting.len());
            let done: Vec<Bytes> = state.waiting.drain(..count).collect();
            let written = done.iter().map(|piece| piece.len() as u64).sum();
            state.committed += written;
            state.queued = !state.waiting.is_empty();
            (done, written, state.queued)
        };
        drop(done);
        self.store.remove_waiting(written);
        if !more {
            self.settled.notify(usize::MAX);
        }
        more
    }

    /// Gives up the body: nothing of it can be read any more.
    pub(super) fn fail(&self, error: &io::Error) {
        let text: Arc<str> = error.to_string().into();
        let (segments, waiting, committed) = {
            let mut state = self.state.lock();
            state.failed = Some((error.kind(), text));
            state.queued = false;
            let committed = std::mem::take(&mut state.committed);
            (std::mem::take(&mut state.segments), std::mem::take(&mut state.waiting), committed)
        };
        self.store.remove_waiting(waiting.iter().map(|piece| piece.len() as u64).sum());
        self.store.free(segments, committed);
        self.settled.notify(usize::MAX);
    }

    /// Returns where the byte `ahead` of the committed ones belongs, if a segment has room for it.
    pub(super) fn place(&self, ahead: u64) -> Option<Place> {
        let state = self.state.lock();
        let mut offset = state.committed + ahead;
        for segment in &state.segments {
            if offset < segment.len {
                let file = Arc::clone(&segment.file);
                return Some(Place { file, at: segment.at + offset, room: segment.len - offset });
            }
            offset -= segment.len;
        }
        None
    }

    /// Returns how long the next segment is to be: exact if the length is known, else doubling.
    pub(super) fn next_segment_len(&self) -> u64 {
        let state = self.state.lock();
        let have: u64 = state.segments.iter().map(|segment| segment.len).sum();
        match self.expected {
            Some(expected) if expected > have => (expected - have).min(MAX_SEGMENT),
            _ => state
                .segments
                .last()
                .map_or(FIRST_SEGMENT, |last| (last.len * 2).clamp(FIRST_SEGMENT, MAX_SEGMENT)),
        }
    }

    pub(super) fn add_segment(&self, segment: Segment) {
        self.state.lock().segments.push(segment);
    }
}

impl State {
    /// Returns the waiting pieces that have bytes of `from..to`, and the place in the first of them where the
    /// range begins.
    fn overlapping(&self, from: u64, to: u64) -> (Vec<Bytes>, u64) {
        let mut at = self.committed;
        let mut skip = 0;
        let mut pieces = Vec::new();
        for piece in &self.waiting {
            if at >= to {
                break;
            }
            let end = at + piece.len() as u64;
            if end > from {
                if pieces.is_empty() {
                    skip = from.saturating_sub(at);
                }
                pieces.push(piece.clone());
            }
            at = end;
        }
        (pieces, skip)
    }
}

impl Extent for SpilledBody {
    fn len(&self) -> u64 {
        self.state.lock().pushed
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let (segments, committed, (waiting, skip)) = {
            let state = self.state.lock();
            if let Some((kind, text)) = &state.failed {
                return Err(io::Error::new(*kind, text.to_string()));
            }
            let end = offset.checked_add(buf.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
            if end > state.pushed {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            (state.segments.clone(), state.committed, state.overlapping(offset, end))
        };
        let stored = committed.saturating_sub(offset).min(buf.len() as u64);
        let (from_file, from_memory) =
            buf.split_at_mut(usize::try_from(stored).map_err(io::Error::other)?);
        read_segments(&segments, from_file, offset)?;
        copy_pieces(&waiting, from_memory, skip);
        Ok(())
    }
}

fn read_segments(segments: &[Segment], mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    for segment in segments {
        if buf.is_empty() {
            break;
        }
        if offset >= segment.len {
            offset -= segment.len;
            continue;
        }
        let room = usize::try_from(segment.len - offset).unwrap_or(usize::MAX);
        let (now, later) = buf.split_at_mut(room.min(buf.len()));
        platform::read_exact_at(&segment.file, now, segment.at + offset)?;
        offset = 0;
        buf = later;
    }
    Ok(())
}

/// Fills `buf` from the pieces, from byte `offset` of the first on.
fn copy_pieces(pieces: &[Bytes], mut buf: &mut [u8], offset: u64) {
    let mut skip = usize::try_from(offset).unwrap_or(usize::MAX);
    for piece in pieces {
        let piece = piece.get(std::mem::take(&mut skip)..).unwrap_or_default();
        let (now, later) = buf.split_at_mut(piece.len().min(buf.len()));
        now.copy_from_slice(piece.get(..now.len()).unwrap_or_default());
        buf = later;
    }
}

impl Drop for SpilledBody {
    fn drop(&mut self) {
        let state = std::mem::take(self.state.get_mut());
        self.store.remove_waiting(state.waiting.iter().map(|piece| piece.len() as u64).sum());
        self.store.free(state.segments, state.committed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_is_read_whether_it_is_written_or_not() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = SpillStore::open(dir.path()).unwrap();
        let body = Arc::new(SpilledBody::new(store, None));
        // The writer is kept away, and its work done by hand.
        body.state.lock().queued = true;
        let pieces = ["abc", "d", "efghi", "jk"];
        assert!(pieces.iter().all(|piece| body.push(Bytes::from_static(piece.as_bytes()))));
        let file = Arc::new(tempfile::tempfile_in(dir.path()).unwrap());
        platform::write_all_at(&file, b"abc", 0).unwrap();
        platform::write_all_at(&file, b"defghijk", 100).unwrap();
        body.add_segment(Segment { file: Arc::clone(&file), at: 0, len: 3 });
        body.add_segment(Segment { file, at: 100, len: 20 });
        for committed in [0, 1, 2, 3, 4] {
            for from in 0..=11 {
                for to in from..=11 {
                    let mut buf = vec![0; to - from];
                    body.read_exact_at(&mut buf, from as u64).unwrap();
                    assert_eq!(buf, b"abcdefghijk"[from..to], "{committed} {from}..{to}");
                }
            }
            assert!(body.read_exact_at(&mut [0; 2], 10).is_err());
            assert!(body.read_exact_at(&mut [0; 2], u64::MAX).is_err());
            body.commit(usize::from(committed < 4));
        }
    }
}
