//! [`Stream`]: what a hook ordered for a message's body.

use std::{fmt, pin::Pin, sync::Arc};

use bytes::Bytes;

/// What becomes of a body while it arrives; set in the head hooks, `message.stream` in scripts.
#[derive(Clone, Default)]
pub enum Stream {
    /// No order: the needs of those who look at the body decide.
    #[default]
    No,
    /// Forward the body as it comes, without keeping it.
    Pass,
    /// Forward what the function makes of each piece.
    Transform(Arc<dyn ChunkTransform>),
}

impl Stream {
    pub fn is_set(&self) -> bool {
        !matches!(self, Self::No)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "No",
            Self::Pass => "Pass",
            Self::Transform(_) => "Transform",
        })
    }
}

/// The result of a transformation: the pieces to send instead, possibly none, or what went wrong.
pub type TransformFuture = Pin<Box<dyn Future<Output = Result<Vec<Bytes>, String>> + Send>>;

/// A function over the pieces of a body.
pub trait ChunkTransform: Send + Sync {
    /// Called with each piece in order, and once with an empty one after the last.
    fn transform(&self, chunk: Bytes) -> TransformFuture;
}
