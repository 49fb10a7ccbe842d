//! Records too large for memory: their long byte strings stay in the file.
//!
//! [`skeleton`] walks a record in the file, jumping over long byte strings by their length, and builds a copy in
//! which each of those is an element of our own, `@` with the place in the file as its payload. The copy is small and
//! is scanned, checked, migrated and decoded like any other record; a body that is such an element becomes a range
//! of the file. The tag cannot come from outside: the walk refuses tags it does not know.

use std::{fs::File, io, sync::Arc};

use bytes::Bytes;
use mitm_flow::{Body, Extent};

use crate::{
    fault::ReadErrorKind,
    tnetstring::{self, MAX_DEPTH, Prefix, Problem, STORED},
};

/// Byte strings from this length on are left in the file.
const LEAVE_FROM: u64 = 4096;

/// The bytes read at a time while walking.
const WINDOW: usize = 16 * 1024;

/// A range of a file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Extent for Place {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read_exact_at(&self.file, buf, self.offset + offset)
    }
}

impl Place {
    /// Returns the part of the file that the payload of an `@` element names.
    pub(crate) fn part(&self, payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        let (offset, len) = text.split_once(':')?;
        let (offset, len) = (offset.parse().ok()?, len.parse().ok()?);
        Some(Self { file: self.file.clone(), offset, len })
    }

    pub(crate) fn body(&self, payload: &[u8]) -> Option<Body> {
        Some(Body::stored(Arc::new(self.part(payload)?)))
    }
}

/// Reads at a position, leaving the file's own position alone.
#[cfg(unix)]
pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

/// Reads at a position.
#[cfg(windows)]
pub(crate) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buf, offset)
}

fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match read_at(file, buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buf = buf.get_mut(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Builds the copy of a record without its long byte strings. At most `limit` bytes are kept of it.
pub(crate) fn skeleton(place: &Place, limit: u64) -> Result<Bytes, ReadErrorKind> {
    let mut walk = Walk { place, window: Vec::new(), window_at: 0, used: 0, limit };
    let mut out = Vec::new();
    let end = walk.element(place.offset, place.offset + place.len, 0, &mut out)?;
    if end == place.offset + place.len {
        Ok(out.into())
    } else {
        Err(ReadErrorKind::Framing(Problem::Trailing))
    }
}

struct Walk<'a> {
    place: &'a Place,
    /// Bytes of the file from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
    /// Bytes kept so far.
    used: u64,
    limit: u64,
}

impl Walk<'_> {
    /// Appends the element at `at` to `out` and returns where it ends; it must not reach beyond `end`.
    fn element(
        &mut self,
        at: u64,
        end: u64,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<u64, ReadErrorKind> {
        if depth > MAX_DEPTH {
            return Err(ReadErrorKind::Framing(Problem::TooDeep));
        }
        let available = usize::try_from(end - at).unwrap_or(usize::MAX);
        let head = self.bytes(at, available.min(16))?;
        let prefix = tnetstring::prefix(head, 0).map_err(|e| ReadErrorKind::Framing(e.problem))?;
        let Prefix::Complete { start, len } = prefix else {
            return Err(ReadErrorKind::Framing(Problem::Truncated));
        };
        let start = at + start as u64;
        let tag_at = start + len;
        if tag_at >= end {
            return Err(ReadErrorKind::Framing(Problem::Truncated));
        }
        let tag = self.bytes(tag_at, 1)?.first().copied().unwrap_or_default();
        match tag {
            b']' | b'}' => {
                let mut inside = Vec::new();
                let mut next = start;
                while next < tag_at {
                    next = self.element(next, tag_at, depth + 1, &mut inside)?;
                }
                self.keep(tag, &inside, out)?;
            }
            b',' if len >= LEAVE_FROM => {
                self.keep(STORED, format!("{start}:{len}").as_bytes(), out)?;
            }
            b',' | b';' | b'#' | b'^' | b'!' | b'~' => {
                self.claim(len)?;
                let len = usize::try_from(len).map_err(|_| self.over_limit())?;
                let mut payload = vec![0; len];
                read_exact_at(&self.place.file, &mut payload, start).map_err(ReadErrorKind::Io)?;
                self.keep(tag, &payload, out)?;
            }
            tag => return Err(ReadErrorKind::Framing(Problem::Tag(tag))),
        }
        Ok(tag_at + 1)
    }

    fn keep(&mut self, tag: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ReadErrorKind> {
        self.claim(8)?;
        out.extend_from_slice(payload.len().to_string().as_bytes());
        out.push(b':');
        out.extend_from_slice(payload);
        out.push(tag);
        Ok(())
    }

    fn claim(&mut self, len: u64) -> Result<(), ReadErrorKind> {
        self.used += len;
        if self.used > self.limit { Err(self.over_limit()) } else { Ok(()) }
    }

    fn over_limit(&self) -> ReadErrorKind {
        ReadErrorKind::OverLimit { len: self.place.len, limit: self.limit }
    }

    /// Returns `len` bytes at `at`, which are known to be inside the record.
    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], ReadErrorKind> {
        let inside = at.checked_sub(self.window_at).and_then(|from| usize::try_from(from).ok());
        let from = match inside {
            Some(from) if from.saturating_add(len) <= self.window.len() => from,
            _ => {
                let left = (self.place.offset + self.place.len).saturating_sub(at);
                let size = usize::try_from(left).map_or(WINDOW, |left| left.min(WINDOW));
                self.window.resize(size, 0);
                read_exact_at(&self.place.file, &mut self.window, at).map_err(ReadErrorKind::Io)?;
                self.window_at = at;
                0
            }
        };
        Ok(self.window.get(from..from + len).unwrap_or_default())
    }
}
