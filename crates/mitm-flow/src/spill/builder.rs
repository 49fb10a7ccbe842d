//! [`BodyBuilder`]: collects a body while it arrives, in memory first, then in the spill store.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{SpillStore, extent::SpilledBody};
use crate::Body;

/// Bodies up to this many bytes stay in memory.
pub const DEFAULT_MEMORY_LIMIT: usize = 1 << 20;

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// Taken; go on.
    Ok,
    /// Taken, but the disk is behind: await [`BodyBuilder::ready`] before the next one.
    Full,
    /// Not kept: the storage failed, now or before. The body will be missing.
    Failed,
}

/// Collects the pieces of a body. Nothing here blocks.
pub struct BodyBuilder {
    pieces: Pieces,
    memory_limit: usize,
    expected: Option<u64>,
    store: Option<SpillStore>,
    len: u64,
}

enum Pieces {
    None,
    /// A body of one piece is kept without a copy.
    One(Bytes),
    Memory(BytesMut),
    Spilled(Arc<SpilledBody>),
    Failed,
}

impl BodyBuilder {
    /// Makes a builder that keeps up to `memory_limit` bytes in memory. `expected` is the announced
    /// length, if there is one; it is a hint.
    pub fn new(memory_limit: usize, expected: Option<u64>) -> Self {
        Self { pieces: Pieces::None, memory_limit, expected, store: None, len: 0 }
    }

    /// Uses `store` instead of the one of the process.
    #[must_use]
    pub fn with_store(mut self, store: SpillStore) -> Self {
        self.store = Some(store);
        self
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) -> Pushed {
        self.len += piece.len() as u64;
        if piece.is_empty() {
            return if self.failed() { Pushed::Failed } else { Pushed::Ok };
        }
        let in_memory = self.len <= self.memory_limit as u64;
        self.pieces = match std::mem::replace(&mut self.pieces, Pieces::Failed) {
            Pieces::Failed => Pieces::Failed,
            Pieces::None if in_memory => Pieces::One(piece),
            Pieces::One(first) if in_memory => {
                let mut memory = BytesMut::with_capacity(self.capacity());
                memory.extend_from_slice(&first);
                memory.extend_from_slice(&piece);
                Pieces::Memory(memory)
            }
            Pieces::Memory(mut memory) if in_memory => {
                memory.extend_from_slice(&piece);
                Pieces::Memory(memory)
            }
            Pieces::None => self.spill([Bytes::new(), piece]),
            Pieces::One(first) => self.spill([first, piece]),
            Pieces::Memory(memory) => self.spill([memory.freeze(), piece]),
            Pieces::Spilled(body) => {
                if body.push(piece) {
                    Pieces::Spilled(body)
                } else {
                    Pieces::Failed
                }
            }
        };
        match &self.pieces {
            Pieces::Failed => Pushed::Failed,
            Pieces::Spilled(body) if body.store().is_full() => Pushed::Full,
            _ => Pushed::Ok,
        }
    }

    fn capacity(&self) -> usize {
        // The announced length is not trusted beyond what memory may hold anyway.
        let expected = self.expected.and_then(|len| usize::try_from(len).ok());
        let wanted = expected.unwrap_or(0).min(self.memory_limit);
        wanted.max(usize::try_from(self.len).unwrap_or(0))
    }

    fn spill(&mut self, pieces: [Bytes; 2]) -> Pieces {
        let store = match self.store.take().map_or_else(SpillStore::global, Ok) {
            Ok(store) => store,
            Err(error) => {
                super::report_failure("the cache directory", &error);
                return Pieces::Failed;
            }
        };
        let body = Arc::new(SpilledBody::new(store, self.expected));
        let taken = pieces.into_iter().all(|piece| body.push(piece));
        if taken { Pieces::Spilled(body) } else { Pieces::Failed }
    }

    /// Returns a future that ends when the disk has caught up. It borrows nothing.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let store = match &self.pieces {
            Pieces::Spilled(body) => Some(body.store().clone()),
            _ => None,
        };
        async move {
            if let Some(store) = store {
                store.ready().await;
            }
        }
    }

    /// Returns a future that ends when all pieces are where they belong: true, or false if the storage
    /// failed. Who must know that the body is safe awaits it before [`finish`](Self::finish).
    pub fn flushed(&self) -> impl Future<Output = bool> + Send + 'static {
        let (body, failed) = match &self.pieces {
            Pieces::Spilled(body) => (Some(Arc::clone(body)), false),
            Pieces::Failed => (None, true),
            _ => (None, false),
        };
        async move {
            match body {
                Some(body) => body.settled().await,
                None => !failed,
            }
        }
    }

    /// Returns the number of bytes pushed so far, kept or not.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True if the storage failed.
    pub fn failed(&self) -> bool {
        match &self.pieces {
            Pieces::Failed => true,
            Pieces::Spilled(body) => body.has_failed(),
            _ => false,
        }
    }

    /// Returns the body: empty if nothing was pushed, [counted](Body::counted) if the storage
    /// failed. What is not written yet can be read all the same.
    pub fn finish(self) -> Body {
        match self.pieces {
            Pieces::None => Body::empty(),
            Pieces::One(piece) => piece.into(),
            Pieces::Memory(memory) => compact(memory).into(),
            Pieces::Spilled(body) if !body.has_failed() => Body::stored(body),
            Pieces::Spilled(_) | Pieces::Failed => Body::counted(self.len),
        }
    }
}

/// Gives memory back that was reserved in vain: bodies are kept for long.
fn compact(memory: BytesMut) -> Bytes {
    if memory.capacity() - memory.len() > memory.len() / 4 {
        Bytes::copy_from_slice(&memory)
    } else {
        memory.freeze()
    }
}

/// A builder with the default limit and no announced length.
impl Default for BodyBuilder {
    fn default() -> Self {
        Self::new(DEFAULT_MEMORY_LIMIT, None)
    }
}

impl std::fmt::Debug for BodyBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match &self.pieces {
            Pieces::None | Pieces::One(_) | Pieces::Memory(_) => "in memory",
            Pieces::Spilled(_) => "spilled",
            Pieces::Failed => "failed",
        };
        write!(f, "BodyBuilder({} bytes, {place})", self.len)
    }
}
