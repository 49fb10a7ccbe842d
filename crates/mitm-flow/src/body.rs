//! [`Body`]: the bytes of a message, wherever they are kept.
//!
//! Small bodies are in memory. Large ones are an [`Extent`]: a range of the spill store, or of the
//! flow file they were loaded from. Reading is the same either way, and whoever may meet a large body reads
//! it in [`chunks`](Body::chunks) instead of asking for all of it.

use std::{fmt, io, sync::Arc};

use bytes::{Bytes, BytesMut};

/// Bytes that are stored outside of memory and never change.
pub trait Extent: Send + Sync {
    /// Returns the length in bytes.
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// The storage's own, and `UnexpectedEof` if the extent has fewer bytes.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A message's body as it was on the wire after de-chunking: content codings are still applied.
#[derive(Clone, Default)]
pub struct Body {
    repr: Repr,
    partial: bool,
}

#[derive(Clone, Default)]
enum Repr {
    /// Not known: it was forwarded without being kept, or has not arrived yet.
    #[default]
    Missing,
    /// Forwarded without being kept; only its length is known.
    Counted(u64),
    Memory(Bytes),
    Stored(Arc<dyn Extent>),
}

impl Body {
    /// A body that is not known. Scripts see `None`.
    pub fn missing() -> Self {
        Self::default()
    }

    pub fn empty() -> Self {
        Bytes::new().into()
    }

    /// A body that was forwarded without being kept: missing, but its length is known.
    pub fn counted(len: u64) -> Self {
        Self { repr: Repr::Counted(len), partial: false }
    }

    pub fn stored(extent: Arc<dyn Extent>) -> Self {
        Self { repr: Repr::Stored(extent), partial: false }
    }

    /// Marks the body as the beginning of one that never arrived completely.
    #[must_use]
    pub fn as_partial(mut self) -> Self {
        self.partial = true;
        self
    }

    /// True if the bytes are not available.
    pub fn is_missing(&self) -> bool {
        matches!(self.repr, Repr::Missing | Repr::Counted(_))
    }

    /// True if the rest of the body never arrived: such a message is not replayed.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// Returns the length in bytes, or `None` if it is not known. A [`counted`](Self::counted) body has
    /// a length although it is missing.
    pub fn len(&self) -> Option<u64> {
        match &self.repr {
            Repr::Missing => None,
            Repr::Counted(len) => Some(*len),
            Repr::Memory(bytes) => Some(bytes.len() as u64),
            Repr::Stored(extent) => Some(extent.len()),
        }
    }

    /// True if the body is known and has no bytes.
    pub fn is_empty(&self) -> bool {
        !self.is_missing() && self.len() == Some(0)
    }

    /// Returns the bytes if they are in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.repr {
            Repr::Memory(bytes) => Some(bytes),
            Repr::Missing | Repr::Counted(_) | Repr::Stored(_) => None,
        }
    }

    /// Returns all bytes, `None` if the body is missing. A stored body is read into memory.
    ///
    /// # Errors
    /// Those of reading a stored body.
    pub fn bytes(&self) -> io::Result<Option<Bytes>> {
        match &self.repr {
            Repr::Missing | Repr::Counted(_) => Ok(None),
            Repr::Memory(bytes) => Ok(Some(bytes.clone())),
            Repr::Stored(extent) => {
                let len = usize::try_from(extent.len()).map_err(io::Error::other)?;
                let mut buf = BytesMut::zeroed(len);
                extent.read_exact_at(&mut buf, 0)?;
                Ok(Some(buf.freeze()))
            }
        }
    }

    /// Returns the first `limit` bytes at most.
    ///
    /// # Errors
    /// Those of reading a stored body.
    pub fn prefix(&self, limit: usize) -> io::Result<Bytes> {
        match &self.repr {
            Repr::Missing | Repr::Counted(_) => Ok(Bytes::new()),
            Repr::Memory(bytes) => Ok(bytes.slice(..limit.min(bytes.len()))),
            Repr::Stored(extent) => {
                let len = usize::try_from(extent.len()).map_or(limit, |len| len.min(limit));
                let mut buf = BytesMut::zeroed(len);
                extent.read_exact_at(&mut buf, 0)?;
                Ok(buf.freeze())
            }
        }
    }

    /// Returns `len` bytes from `offset` on, as far as there are so many, without reading them. Of a missing body that is
    /// one that is missing, too.
    #[must_use]
    pub fn slice(&self, offset: u64, len: u64) -> Self {
        let whole = self.len().unwrap_or_default();
        let len = len.min(whole.saturating_sub(offset));
        let repr = match &self.repr {
            Repr::Missing => Repr::Missing,
            Repr::Counted(_) => Repr::Counted(len),
            Repr::Memory(bytes) => {
                // What is beyond memory is beyond the body.
                let from = usize::try_from(offset.min(whole)).unwrap_or(bytes.len());
                let len = usize::try_from(len).unwrap_or_default();
                Repr::Memory(bytes.slice(from..from + len))
            }
            Repr::Stored(extent) => {
                Repr::Stored(Arc::new(Part { whole: Arc::clone(extent), offset, len }))
            }
        };
        Self { repr, partial: self.partial }
    }

    /// Reads the body piece by piece: one piece if it is in memory, else of `size` bytes each.
    pub fn chunks(&self, size: usize) -> Chunks {
        Chunks { body: self.repr.clone(), offset: 0, size: size.max(1) }
    }
}

/// A part of another extent, which lives as long as its parts do.
struct Part {
    whole: Arc<dyn Extent>,
    offset: u64,
    len: u64,
}

impl Extent for Part {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.whole.read_exact_at(buf, self.offset + offset)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { repr: Repr::Memory(bytes), partial: false }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<Option<Bytes>> for Body {
    fn from(bytes: Option<Bytes>) -> Self {
        bytes.map_or_else(Self::missing, Self::from)
    }
}

/// Equal if both are missing (and of one length), have the same bytes in memory, or are the same stored extent.
impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        match (&self.repr, &other.repr) {
            (Repr::Missing, Repr::Missing) => true,
            (Repr::Counted(a), Repr::Counted(b)) => a == b,
            (Repr::Memory(a), Repr::Memory(b)) => a == b,
            (Repr::Stored(a), Repr::Stored(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.repr {
            Repr::Missing => f.write_str("missing"),
            Repr::Counted(len) => write!(f, "not kept, {len} bytes"),
            Repr::Memory(bytes) => bytes.fmt(f),
            Repr::Stored(extent) => write!(f, "stored, {} bytes", extent.len()),
        }
    }
}

/// The pieces of a body, see [`Body::chunks`].
pub struct Chunks {
    body: Repr,
    offset: u64,
    size: usize,
}

impl Iterator for Chunks {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        match &self.body {
            Repr::Missing | Repr::Counted(_) => None,
            Repr::Memory(bytes) => {
                let bytes = bytes.clone();
                self.body = Repr::Missing;
                (!bytes.is_empty()).then_some(Ok(bytes))
            }
            Repr::Stored(extent) => {
                let left = extent.len().saturating_sub(self.offset);
                if left == 0 {
                    return None;
                }
                let len = usize::try_from(left).map_or(self.size, |left| left.min(self.size));
                let mut buf = BytesMut::zeroed(len);
                if let Err(error) = extent.read_exact_at(&mut buf, self.offset) {
                    self.body = Repr::Missing;
                    return Some(Err(error));
                }
                self.offset += len as u64;
                Some(Ok(buf.freeze()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct InMemory(Vec<u8>);

    impl Extent for InMemory {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            let from = usize::try_from(offset).map_err(io::Error::other)?;
            let range = self.0.get(from..from + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(range);
            Ok(())
        }
    }

    #[test]
    fn stored_bodies_read_like_others() {
        let body = Body::stored(Arc::new(InMemory(b"hello world".to_vec())));
        assert_eq!(body.len(), Some(11));
        assert_eq!(body.bytes().unwrap().unwrap(), "hello world");
        assert_eq!(body.prefix(5).unwrap(), "hello");
        let pieces: Vec<Bytes> = body.chunks(4).collect::<io::Result<_>>().unwrap();
        assert_eq!(pieces, ["hell", "o wo", "rld"]);
    }

    #[test]
    fn parts_are_read_like_wholes() {
        let stored = Body::stored(Arc::new(InMemory(b"hello world".to_vec())));
        for body in [stored, Body::from(b"hello world".to_vec())] {
            assert_eq!(body.slice(6, 3).bytes().unwrap().unwrap(), "wor");
            assert_eq!(body.slice(6, 30).bytes().unwrap().unwrap(), "world");
            assert_eq!(body.slice(2, 6).slice(1, 2).bytes().unwrap().unwrap(), "lo");
            assert!(body.slice(11, 1).is_empty() && body.slice(u64::MAX, u64::MAX).is_empty());
            let mut beyond = [0; 4];
            if let Repr::Stored(part) = &body.slice(0, 3).repr {
                assert!(part.read_exact_at(&mut beyond, 0).is_err());
            }
        }
        assert_eq!(Body::counted(5).slice(3, 9).len(), Some(2));
        assert_eq!(Body::missing().slice(0, 1).len(), None);
    }

    #[test]
    fn missing_differs_from_empty() {
        assert!(Body::missing().is_missing() && !Body::missing().is_empty());
        assert!(Body::empty().is_empty() && !Body::empty().is_missing());
        assert_eq!(Body::missing().chunks(8).count() + Body::empty().chunks(8).count(), 0);
    }
}
