//! The scanner below heads and trailer sections: finds the empty line that ends a block, and the lines in it.

use bytes::BytesMut;
use memchr::memchr2;
use smallvec::SmallVec;

use super::{HeadError, head::shown};

/// How much one head or trailer section may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes from the first line to the empty line, both included.
    pub head_bytes: usize,
    /// Header lines.
    pub header_count: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 64 * 1024, header_count: 256 }
    }
}

/// What is done with empty lines before the first line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leading {
    /// Removed from the buffer (RFC 9112 §2.2).
    Skip,
    /// Part of the block, and for the caller to refuse.
    Keep,
}

/// Remembers how far a block was scanned, so that bytes are looked at once however they arrive. Between calls
/// the buffer may only grow at its end.
#[derive(Clone, Debug, Default)]
pub(super) struct LineScan {
    /// Where each complete line ends: the offset of its LF.
    ends: SmallVec<[u32; 32]>,
    /// No line end between the last complete line and here.
    searched: usize,
    /// Bytes of empty lines removed before the first line.
    skipped: usize,
    /// A line ended in LF alone.
    bare_lf: bool,
}

/// A complete block: lines, and the empty line at its end.
pub(super) struct Block {
    /// Bytes, the empty line included.
    pub(super) len: usize,
    /// Offsets of the LF of each line, the empty one included.
    pub(super) ends: SmallVec<[u32; 32]>,
    pub(super) bare_lf: bool,
}

impl LineScan {
    /// Looks for the end of the block at the front of `buf`; `None` if it isn't there yet. The scan is then as new.
    pub(super) fn find(
        &mut self,
        buf: &mut BytesMut,
        limits: Limits,
        validate: bool,
        leading: Leading,
    ) -> Result<Option<Block>, HeadError> {
        loop {
            let start = self.ends.last().map_or(0, |&end| end as usize + 1);
            let rest = buf.get(self.searched..).unwrap_or_default();
            let found = memchr2(b'\r', b'\n', rest);
            let line_end = found.and_then(|at| rest.get(at..));
            let (text_end, end) = match (found, line_end) {
                (Some(at), Some([b'\r', b'\n', ..])) => {
                    (self.searched + at, self.searched + at + 1)
                }
                (Some(at), Some([b'\n', ..])) => (self.searched + at, self.searched + at),
                (Some(at), Some([b'\r', _, ..])) => {
                    let end = self.searched + at;
                    if self.skipped + end >= limits.head_bytes {
                        return Err(HeadError::TooLarge { limit: limits.head_bytes });
                    }
                    let line = buf.get(start..=end).unwrap_or_default();
                    return Err(HeadError::BareCarriageReturn { line: shown(line) });
                }
                // Nothing, or a CR after which nothing has arrived yet.
                (at, _) => {
                    self.searched += at.unwrap_or(rest.len());
                    if buf.len() > limits.head_bytes {
                        return Err(HeadError::TooLarge { limit: limits.head_bytes });
                    }
                    return Ok(None);
                }
            };
            if self.skipped + end >= limits.head_bytes {
                return Err(HeadError::TooLarge { limit: limits.head_bytes });
            }
            let text = buf.get(start..text_end).unwrap_or_default();
            if text_end == end {
                if validate {
                    return Err(HeadError::BareLineFeed { line: shown(text) });
                }
                self.bare_lf = true;
            }
            if text.is_empty() && start == 0 && leading == Leading::Skip {
                let _ = buf.split_to(end + 1);
                *self = Self { skipped: self.skipped + end + 1, ..Self::default() };
                continue;
            }
            let block_ends = text.is_empty();
            if !block_ends && self.ends.len() > limits.header_count {
                return Err(HeadError::TooManyHeaders { limit: limits.header_count });
            }
            self.ends.push(u32::try_from(end).unwrap_or(u32::MAX));
            self.searched = end + 1;
            if block_ends {
                let Self { ends, bare_lf, .. } = std::mem::take(self);
                return Ok(Some(Block { len: end + 1, ends, bare_lf }));
            }
        }
    }
}
