//! [`Shared`]: a value that several owners see and change.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;

/// A shared cell. Clones are handles on the same value.
///
/// The lock is held only for the closure given to [`with`](Self::with) or
/// [`update`](Self::update). Inside it: clone, swap, compare. Never take another lock, wait, decode
/// or call out, and let replaced values be dropped outside (return them from the closure).
pub struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    /// Runs `read` on the value.
    pub fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.0.lock())
    }

    /// Runs `change` on the value. Return what was replaced, so that it is dropped after the lock.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.0.lock())
    }

    /// Replaces the value and returns the previous one.
    pub fn replace(&self, value: T) -> T {
        std::mem::replace(&mut *self.0.lock(), value)
    }

    /// True if both handles lead to the same cell: identity, as scripts see it.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number that is the same for handles of the same cell while any of them lives.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.0).cast::<u8>() as usize
    }
}

impl<T: Clone> Shared<T> {
    /// Returns a copy of the value as it is now.
    pub fn get(&self) -> T {
        self.with(Clone::clone)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|value| value.fmt(f))
    }
}
