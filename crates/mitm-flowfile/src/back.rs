//! [`Back`]: a buffer that is filled from its end.
//!
//! A tnetstring begins with the length of what follows. Written back to front, the length of each list and dict is
//! known when its prefix is due, so one pass suffices and nothing is measured twice. Large bodies are not
//! copied in: the buffer remembers where they belong, counts their length, and [`Back::emit`] streams them.

use std::io::{self, Write};

use mitm_flow::Body;

use crate::tnetstring;

/// Bodies from this size on are streamed instead of copied.
const STREAM_FROM: u64 = 32 * 1024;

/// The size of the pieces a stored body is read in.
const CHUNK: usize = 256 * 1024;

/// A buffer that outgrew this is given up after its record was written.
const KEEP: usize = 1024 * 1024;

/// Bytes written from the end to the beginning.
pub(crate) struct Back {
    buf: Vec<u8>,
    /// What was written is `buf[at..]`.
    at: usize,
    /// Bodies to be streamed, each with the number of bytes of `buf` that come after it.
    holes: Vec<(usize, Body)>,
    hole_bytes: u64,
    float: Vec<u8>,
}

/// What went wrong while writing out.
pub(crate) enum EmitError {
    /// The output failed: the record is incomplete.
    Output(io::Error),
    /// A stored body could not be read: the record is complete, zeros stand for the missing bytes.
    Body(io::Error),
}

impl Back {
    pub(crate) fn new() -> Self {
        Self { buf: Vec::new(), at: 0, holes: Vec::new(), hole_bytes: 0, float: Vec::new() }
    }

    /// Forgets what was written.
    pub(crate) fn clear(&mut self) {
        if self.buf.len() > KEEP {
            self.buf = Vec::new();
        }
        self.at = self.buf.len();
        self.holes.clear();
        self.hole_bytes = 0;
    }

    /// Returns the number of bytes that [`emit`](Self::emit) writes.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        (self.buf.len() - self.at) as u64 + self.hole_bytes
    }

    /// Returns the bytes if there are no bodies to be streamed.
    pub(crate) fn as_slice(&self) -> Option<&[u8]> {
        if self.holes.is_empty() { self.buf.get(self.at..) } else { None }
    }

    /// Returns the bytes without the bodies that would be streamed; used where there are none.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        debug_assert!(self.holes.is_empty());
        self.buf.get(self.at..).unwrap_or_default().to_vec()
    }

    /// Prepends bytes.
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if self.at < bytes.len() {
            self.grow(bytes.len());
        }
        let start = self.at - bytes.len();
        self.buf[start..self.at].copy_from_slice(bytes);
        self.at = start;
    }

    #[cold]
    fn grow(&mut self, need: usize) {
        let used = self.buf.len() - self.at;
        let capacity = (self.buf.len() * 2).max(used + need).max(8 * 1024);
        let mut grown = vec![0; capacity];
        grown[capacity - used..].copy_from_slice(&self.buf[self.at..]);
        self.buf = grown;
        self.at = capacity - used;
    }

    /// Prepends bytes whose number is known when compiling: no call to copy them.
    #[expect(clippy::inline_always, reason = "the point is that N is known")]
    #[inline(always)]
    pub(crate) fn put_array<const N: usize>(&mut self, bytes: &[u8; N]) {
        if self.at < N {
            self.grow(N);
        }
        let start = self.at - N;
        if let Some(place) = self.buf.get_mut(start..).and_then(|rest| rest.first_chunk_mut()) {
            *place = *bytes;
        }
        self.at = start;
    }

    /// Prepends `LENGTH:`.
    #[inline]
    fn put_prefix(&mut self, len: u64) {
        let digit = |n: u64| b'0' + (n % 10) as u8;
        match len {
            0..10 => self.put_array(&[digit(len), b':']),
            10..100 => self.put_array(&[digit(len / 10), digit(len), b':']),
            100..1000 => {
                self.put_array(&[digit(len / 100), digit(len / 10), digit(len), b':']);
            }
            _ => {
                self.put_array(b":");
                self.put(itoa::Buffer::new().format(len).as_bytes());
            }
        }
    }

    /// Prepends an element.
    #[inline]
    pub(crate) fn leaf(&mut self, tag: u8, payload: &[u8]) {
        self.put_array(&[tag]);
        self.put(payload);
        self.put_prefix(payload.len() as u64);
    }

    /// Prepends the end of a list or dict. Its elements follow from last to first, then [`close`](Self::close).
    #[inline]
    pub(crate) fn open(&mut self, tag: u8) -> u64 {
        self.put_array(&[tag]);
        self.len()
    }

    /// Prepends the length of the list or dict that `mark` was returned for.
    #[inline]
    pub(crate) fn close(&mut self, mark: u64) {
        self.put_prefix(self.len() - mark);
    }

    #[inline]
    pub(crate) fn null(&mut self) {
        self.put_array(b"0:~");
    }

    #[inline]
    pub(crate) fn boolean(&mut self, value: bool) {
        if value {
            self.put_array(b"4:true!");
        } else {
            self.put_array(b"5:false!");
        }
    }

    pub(crate) fn int(&mut self, value: i64) {
        self.leaf(b'#', itoa::Buffer::new().format(value).as_bytes());
    }

    pub(crate) fn float(&mut self, value: f64) {
        let mut text = std::mem::take(&mut self.float);
        text.clear();
        tnetstring::write_float(&mut text, value);
        self.leaf(b'^', &text);
        self.float = text;
    }

    /// Prepends a body as bytes, null if it is missing.
    pub(crate) fn body(&mut self, body: &Body) {
        let Some(len) = body.len().filter(|_| !body.is_missing()) else { return self.null() };
        match body.in_memory() {
            Some(bytes) if len < STREAM_FROM => self.leaf(b',', bytes),
            _ => {
                self.put_array(b",");
                self.holes.push((self.buf.len() - self.at, body.clone()));
                self.hole_bytes += len;
                self.put_prefix(len);
            }
        }
    }

    /// Writes everything to `out`.
    pub(crate) fn emit(&self, out: &mut impl Write) -> Result<(), EmitError> {
        let mut unread = None;
        let mut from = self.at;
        for (after, body) in self.holes.iter().rev() {
            let to = self.buf.len() - after;
            out.write_all(&self.buf[from..to]).map_err(EmitError::Output)?;
            from = to;
            if let Err(error) = emit_body(body, out)? {
                unread.get_or_insert(error);
            }
        }
        out.write_all(&self.buf[from..]).map_err(EmitError::Output)?;
        unread.map_or(Ok(()), |error| Err(EmitError::Body(error)))
    }
}

/// Writes a body of known length. If it cannot be read, zeros keep the record's framing, and with it all that
/// follows in the file, intact.
pub(crate) fn emit_body(body: &Body, out: &mut impl Write) -> Result<io::Result<()>, EmitError> {
    let mut left = body.len().unwrap_or(0);
    let mut result = Ok(());
    for chunk in body.chunks(CHUNK) {
        match chunk {
            Ok(chunk) => {
                let len = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
                out.write_all(&chunk[..len]).map_err(EmitError::Output)?;
                left -= len as u64;
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    if left > 0 {
        io::copy(&mut io::Read::take(io::repeat(0), left), out).map_err(EmitError::Output)?;
        if result.is_ok() {
            result = Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn large_bodies_are_streamed_into_their_place() {
        let large = Bytes::from(vec![b'x'; 100_000]);
        let mut out = Back::new();
        let mark = out.open(b']');
        out.int(2);
        out.body(&large.clone().into());
        out.int(1);
        out.body(&large.into());
        out.body(&Body::missing());
        out.close(mark);
        let mut written = Vec::new();
        assert!(out.emit(&mut written).is_ok());
        assert_eq!(written.len() as u64, out.len());
        let mitm_flow::Value::List(list) = tnetstring::decode(&written.into()).unwrap() else {
            panic!("a list was written")
        };
        assert_eq!(list.len(), 5);
        assert_eq!(list[4], mitm_flow::Value::Int(2));
    }
}
