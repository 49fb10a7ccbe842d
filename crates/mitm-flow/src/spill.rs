//! The spill store: bodies that are too large for memory, in a file that nobody else can open.
//!
//! One store is one unlinked file in a directory that is on a disk. The file only grows; the bytes of
//! a body are given back to the file system by punching a hole when the last handle on it is dropped,
//! so offsets are never used twice and a stale read can hit zeros but never another body.
//!
//! All writing is done by one thread per store. What was pushed and is not written yet stays in memory
//! and is read from there, so a body can be read in full at any time. [`BodyBuilder`] is how the
//! engine collects a body; it never blocks, and asks the caller to wait when the disk is slow.
//!
//! A store does not survive the process, and knows nothing of flows.

mod builder;
mod extent;
mod platform;

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use event_listener::Event;
use parking_lot::{Condvar, Mutex};

pub use builder::{BodyBuilder, DEFAULT_MEMORY_LIMIT, Pushed};
use extent::{Segment, SpilledBody};

/// Bytes that may wait for the writer before those who push are asked to wait.
const QUEUE_BYTES: u64 = 8 << 20;

/// What the writer puts into one write.
const WRITE_BYTES: usize = 256 << 10;

/// The first segment of a body whose length is not known; each further one is twice as long.
const FIRST_SEGMENT: u64 = 4 << 20;

/// The longest segment. It bounds how far an announced length alone can move the end of the file.
const MAX_SEGMENT: u64 = 1 << 30;

/// Segments begin at multiples of this, so that freeing one frees whole blocks.
const ALIGNMENT: u64 = 64 << 10;

/// Where a file is left for a fresh one, well below the largest offset of common file systems.
const FILE_LIMIT: u64 = 1 << 40;

/// The same where holes cannot be punched: a file is then freed with its last body.
const FILE_LIMIT_WITHOUT_HOLES: u64 = 256 << 20;

/// A store of large bodies. Clones are handles on the same store, which lives as long as one of them
/// or one of its bodies does.
#[derive(Clone)]
pub struct SpillStore(Arc<Handle>);

/// Ends the writer when the last handle is gone.
struct Handle(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    queue: Mutex<Queue>,
    work: Condvar,
    /// Bytes that were pushed and are not written yet.
    waiting: AtomicU64,
    /// Wakes those who wait for `waiting` to fall.
    drained: Event,
    /// Bytes that are written and not freed.
    live: AtomicU64,
    /// The most bytes to keep at a time.
    cap: AtomicU64,
    holes: AtomicBool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

enum Job {
    /// Write what waits in this body.
    Write(Arc<SpilledBody>),
    /// Give these ranges back.
    Free(Vec<Segment>),
}

impl SpillStore {
    /// Opens a store in `dir`, which is created if need be.
    ///
    /// # Errors
    /// Those of the file system, and `Unsupported` if the directory is in memory (tmpfs, ramfs): there
    /// a spilled body would save nothing.
    pub fn open(dir: &Path) -> io::Result<Self> {
        platform::create_private_dir(dir)?;
        if platform::is_in_memory(dir)? {
            let text = format!("{} is in memory, large bodies need a disk", dir.display());
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let file = Arc::new(tempfile::tempfile_in(dir)?);
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            queue: Mutex::default(),
            work: Condvar::new(),
            waiting: AtomicU64::new(0),
            drained: Event::new(),
            live: AtomicU64::new(0),
            cap: AtomicU64::new(u64::MAX),
            holes: AtomicBool::new(platform::HOLES),
        });
        let writer = Writer { inner: Arc::clone(&inner), file, end: 0, scratch: Vec::new() };
        std::thread::Builder::new().name("spill-writer".into()).spawn(move || writer.run())?;
        Ok(Self(Arc::new(Handle(inner))))
    }

    /// Returns the store of the process, opening it in the default directory if there is none yet: the
    /// user's cache directory, else `/var/tmp`.
    ///
    /// # Errors
    /// The last of those that the candidates gave.
    pub fn global() -> io::Result<Self> {
        let mut global = GLOBAL.lock();
        if let Some(store) = &*global {
            return Ok(store.clone());
        }
        let mut result =
            Err(io::Error::new(io::ErrorKind::NotFound, "no directory for large bodies"));
        for dir in platform::default_dirs() {
            result = Self::open(&dir);
            if let Ok(store) = &result {
                *global = Some(store.clone());
                break;
            }
        }
        result
    }

    /// Returns the store of the process if there is one.
    pub fn current() -> Option<Self> {
        GLOBAL.lock().clone()
    }

    /// Makes `store` the one of the process. Bodies in the previous one stay readable.
    pub fn set_global(store: Self) {
        let previous = GLOBAL.lock().replace(store);
        drop(previous);
    }

    /// Sets the most bytes to keep at a time; a body that would exceed it fails.
    pub fn set_cap(&self, cap: Option<u64>) {
        self.0.0.cap.store(cap.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns the number of bytes in the store.
    pub fn live_bytes(&self) -> u64 {
        self.0.0.live.load(Ordering::Relaxed)
    }

    /// Returns the directory of the file.
    pub fn dir(&self) -> &Path {
        &self.0.0.dir
    }

    fn is_full(&self) -> bool {
        self.0.0.waiting.load(Ordering::Acquire) >= QUEUE_BYTES
    }

    /// Waits until less than the bound waits for the writer.
    async fn ready(&self) {
        while self.is_full() {
            let listener = self.0.0.drained.listen();
            if !self.is_full() {
                return;
            }
            listener.await;
        }
    }

    fn enqueue(&self, job: Job) {
        self.0.0.queue.lock().jobs.push_back(job);
        self.0.0.work.notify_one();
    }

    fn add_waiting(&self, bytes: u64) {
        self.0.0.waiting.fetch_add(bytes, Ordering::AcqRel);
    }

    fn remove_waiting(&self, bytes: u64) {
        let before = self.0.0.waiting.fetch_sub(bytes, Ordering::AcqRel);
        if before >= QUEUE_BYTES && before.saturating_sub(bytes) < QUEUE_BYTES {
            self.0.0.drained.notify(usize::MAX);
        }
    }

    fn free(&self, segments: Vec<Segment>, bytes: u64) {
        self.0.0.live.fetch_sub(bytes, Ordering::Relaxed);
        if !segments.is_empty() {
            self.enqueue(Job::Free(segments));
        }
    }
}

static GLOBAL: Mutex<Option<SpillStore>> = Mutex::new(None);

/// Returns the text of the first failure of this process to store a body, once: what is to be logged.
pub fn take_failure() -> Option<String> {
    FAILURE.lock().take()
}

/// Remembers a failure, if it is the first.
fn report_failure(place: &str, error: &io::Error) {
    if !FAILED_BEFORE.swap(true, Ordering::Relaxed) {
        let text = format!(
            "Cannot store large bodies in {place}: {error}. They will be missing from flows."
        );
        *FAILURE.lock() = Some(text);
    }
}

static FAILURE: Mutex<Option<String>> = Mutex::new(None);
static FAILED_BEFORE: AtomicBool = AtomicBool::new(false);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.queue.lock().closed = true;
        self.0.work.notify_one();
    }
}

/// The thread that writes.
struct Writer {
    inner: Arc<Inner>,
    file: Arc<File>,
    /// Where the next segment begins.
    end: u64,
    scratch: Vec<u8>,
}

impl Writer {
    fn run(mut self) {
        while let Some(job) = self.next_job() {
            match job {
                Job::Write(body) => self.write(&body),
                Job::Free(segments) => self.punch(&segments),
            }
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = self.inner.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            self.inner.work.wait(&mut queue);
        }
    }

    fn write(&mut self, body: &Arc<SpilledBody>) {
        // Nobody else holds the body, and from here nobody can: there is no reader left.
        if Arc::strong_count(body) == 1 {
            return;
        }
        let pieces = body.waiting_pieces(WRITE_BYTES);
        let result = match pieces.as_slice() {
            [] => Ok(()),
            [piece] => self.append(body, piece),
            pieces => {
                let mut scratch = std::mem::take(&mut self.scratch);
                scratch.clear();
                for piece in pieces {
                    scratch.extend_from_slice(piece);
                }
                let result = self.append(body, &scratch);
                self.scratch = scratch;
                result
            }
        };
        match result {
            Ok(()) if body.commit(pieces.len()) => {
                body.store().enqueue(Job::Write(Arc::clone(body)));
            }
            Ok(()) => {}
            Err(error) => {
                report_failure(&self.inner.dir.display().to_string(), &error);
                body.fail(&error);
            }
        }
    }

    /// Writes `bytes` behind what is committed.
    fn append(&mut self, body: &SpilledBody, mut bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        if self.inner.live.load(Ordering::Relaxed).saturating_add(len)
            > self.inner.cap.load(Ordering::Relaxed)
        {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the limit is reached"));
        }
        let mut written = 0;
        while !bytes.is_empty() {
            let Some(place) = body.place(written) else {
                body.add_segment(self.allocate(body.next_segment_len())?);
                continue;
            };
            let room = usize::try_from(place.room).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            platform::write_all_at(&place.file, now, place.at)?;
            written += now.len() as u64;
            bytes = later;
        }
        self.inner.live.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn allocate(&mut self, len: u64) -> io::Result<Segment> {
        let holes = self.inner.holes.load(Ordering::Relaxed);
        if self.end >= if holes { FILE_LIMIT } else { FILE_LIMIT_WITHOUT_HOLES } {
            self.file = Arc::new(tempfile::tempfile_in(&self.inner.dir)?);
            self.end = 0;
        }
        let segment = Segment { file: Arc::clone(&self.file), at: self.end, len };
        self.end = (self.end + len).next_multiple_of(ALIGNMENT);
        Ok(segment)
    }

    fn punch(&self, segments: &[Segment]) {
        for segment in segments {
            // To where the next one begins: the block with the last bytes would stay otherwise.
            let len = segment.len.next_multiple_of(ALIGNMENT);
            if self.inner.holes.load(Ordering::Relaxed)
                && platform::punch(&segment.file, segment.at, len).is_err()
            {
                self.inner.holes.store(false, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::mpsc,
        task::{Context, Poll, Wake, Waker},
        time::{Duration, Instant},
    };

    use bytes::Bytes;

    use super::*;
    use crate::Body;

    fn store() -> (tempfile::TempDir, SpillStore) {
        // The default directory of temporary files may be in memory.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = SpillStore::open(&dir.path().join("new")).unwrap();
        (dir, store)
    }

    fn piece(seed: usize, len: usize) -> Bytes {
        (0..len).map(|i| ((i * 31 + seed * 7) % 251) as u8).collect()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        struct Notify(mpsc::Sender<()>);
        impl Wake for Notify {
            fn wake(self: Arc<Self>) {
                self.0.send(()).ok();
            }
        }
        let (sender, woken) = mpsc::channel();
        let waker = Waker::from(Arc::new(Notify(sender)));
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            woken.recv_timeout(Duration::from_secs(30)).unwrap();
        }
    }

    /// Pushes as the engine does.
    fn push_all(builder: &mut BodyBuilder, pieces: impl IntoIterator<Item = Bytes>) {
        for piece in pieces {
            match builder.push(piece) {
                Pushed::Ok => {}
                Pushed::Full => block_on(builder.ready()),
                Pushed::Failed => return,
            }
        }
    }

    fn eventually(condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < end, "did not happen");
            std::thread::yield_now();
        }
    }

    fn joined(pieces: &[Bytes]) -> Vec<u8> {
        pieces.concat()
    }

    #[test]
    fn small_bodies_stay_in_memory() {
        let mut builder = BodyBuilder::new(8, Some(u64::MAX));
        assert!(builder.is_empty());
        push_all(&mut builder, ["abc".into(), "".into(), "defgh".into()]);
        assert_eq!((builder.len(), builder.failed()), (8, false));
        assert!(block_on(builder.flushed()));
        assert_eq!(builder.finish().in_memory().unwrap(), "abcdefgh");
        assert!(BodyBuilder::default().finish().is_empty());
    }

    #[test]
    fn large_bodies_read_as_they_were_pushed() {
        let (_dir, store) = store();
        // Longer than the first segment, so that reads cross a border.
        let pieces: Vec<Bytes> = (0..150).map(|i| piece(i, 60_000 + i * 100)).collect();
        let expected = joined(&pieces);
        for announced in [None, Some(10), Some(expected.len() as u64), Some(u64::MAX)] {
            let mut builder = BodyBuilder::new(1000, announced).with_store(store.clone());
            push_all(&mut builder, pieces.clone());
            let flushed = builder.flushed();
            let body = builder.finish();
            // Before and after everything is in the file.
            assert!(body.bytes().unwrap().unwrap() == expected);
            assert!(block_on(flushed));
            assert_eq!(body.len(), Some(expected.len() as u64));
            assert!(body.bytes().unwrap().unwrap() == expected);
            let again: Vec<Bytes> = body.chunks(77_777).collect::<io::Result<_>>().unwrap();
            assert!(joined(&again) == expected);
            assert_eq!(store.live_bytes(), expected.len() as u64);
            drop((body, again));
            eventually(|| store.live_bytes() == 0);
        }
    }

    #[test]
    fn bodies_pushed_at_once_do_not_mix() {
        let (_dir, store) = store();
        std::thread::scope(|scope| {
            for seed in 0..6 {
                let store = store.clone();
                scope.spawn(move || {
                    let pieces: Vec<Bytes> =
                        (0..40).map(|i| piece(seed * 40 + i, 50_001)).collect();
                    let mut builder = BodyBuilder::new(0, None).with_store(store);
                    push_all(&mut builder, pieces.clone());
                    assert!(builder.finish().bytes().unwrap().unwrap() == joined(&pieces));
                });
            }
        });
        eventually(|| store.live_bytes() == 0);
    }

    #[test]
    fn a_body_that_exceeds_the_cap_is_missing_and_others_are_not() {
        let (_dir, store) = store();
        store.set_cap(Some(3_000_000));
        let builder = |len: usize| {
            let mut builder = BodyBuilder::new(0, None).with_store(store.clone());
            push_all(&mut builder, (0..len / 100_000).map(|i| piece(i, 100_000)));
            let ok = block_on(builder.flushed());
            (ok, builder)
        };
        let (kept_ok, kept) = builder(2_000_000);
        let (large_ok, mut large) = builder(2_000_000);
        assert!(kept_ok && !large_ok && large.failed());
        assert_eq!(large.push("more".into()), Pushed::Failed);
        let (len, body) = (large.len(), large.finish());
        assert!(body.is_missing());
        assert_eq!(body.len(), Some(len));
        assert_eq!(kept.finish().len(), Some(2_000_000));
        assert!(take_failure().is_some_and(|text| text.contains("limit")));
        assert!(take_failure().is_none());
    }

    #[test]
    fn a_failure_after_the_end_is_an_error_of_the_reader() {
        let (_dir, store) = store();
        let body = Arc::new(SpilledBody::new(store.clone(), None));
        assert!(body.push(piece(1, 5000)));
        body.fail(&io::Error::new(io::ErrorKind::StorageFull, "no space"));
        let body = Body::stored(body);
        assert_eq!(body.bytes().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(body.chunks(10).next().unwrap().is_err());
        assert_eq!(store.0.0.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_pushes_fast_is_asked_to_wait() {
        let (_dir, store) = store();
        let mut builder = BodyBuilder::new(0, None).with_store(store.clone());
        // One piece of the whole bound is taken, and the writer cannot be that fast.
        let full = builder.push(piece(3, 2 * QUEUE_BYTES as usize));
        if full == Pushed::Full {
            block_on(builder.ready());
        }
        assert!(!store.is_full());
        assert_eq!(builder.push("x".into()), Pushed::Ok);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn freeing_gives_the_space_back() {
        use std::os::unix::fs::MetadataExt;
        let (_dir, store) = store();
        let body = Arc::new(SpilledBody::new(store.clone(), None));
        assert!(body.push(piece(1, 20 << 20)));
        assert!(block_on(body.settled()));
        let file = body.place(0).unwrap().file;
        let used = || {
            file.sync_all().unwrap();
            file.metadata().unwrap().blocks() * 512
        };
        assert!(used() >= 20 << 20);
        drop(body);
        eventually(|| used() < 1 << 20);
        // Offsets are not used again.
        let next = Arc::new(SpilledBody::new(store, None));
        assert!(next.push(piece(2, 1)) && block_on(next.settled()));
        assert!(next.place(0).unwrap().at >= 20 << 20);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn no_block_of_a_body_stays_whatever_its_length() {
        use std::os::unix::fs::MetadataExt;
        let (_dir, store) = store();
        let bodies: Vec<_> = (0..50)
            .map(|i| {
                let body = Arc::new(SpilledBody::new(store.clone(), Some(70_001 + i)));
                assert!(body.push(piece(1, 70_001 + i as usize)) && block_on(body.settled()));
                body
            })
            .collect();
        // A body whose length is not known has room, which tells the file.
        let open = Arc::new(SpilledBody::new(store, None));
        assert!(open.push(piece(2, 1)) && block_on(open.settled()));
        let file = open.place(0).unwrap().file;
        let used = || {
            file.sync_all().unwrap();
            file.metadata().unwrap().blocks() * 512
        };
        assert!(used() >= 50 * 70_000);
        drop(bodies);
        // The one that is left, and what the file system notes about a file with holes.
        eventually(|| used() <= 32 << 10);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_no_place_to_spill_to() {
        let shm = Path::new("/dev/shm");
        if shm.is_dir() && platform::is_in_memory(shm).unwrap() {
            let error = SpillStore::open(shm).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        }
    }

    #[test]
    fn the_writer_ends_with_its_store() {
        let (_dir, store) = store();
        let inner = Arc::downgrade(&store.0.0);
        let mut builder = BodyBuilder::new(0, None).with_store(store.clone());
        push_all(&mut builder, [piece(1, 100_000)]);
        let body = builder.finish();
        drop(store);
        assert_eq!(body.bytes().unwrap().unwrap(), piece(1, 100_000));
        drop(body);
        eventually(|| inner.strong_count() == 0);
    }
}
