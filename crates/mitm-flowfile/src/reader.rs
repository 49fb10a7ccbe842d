//! [`FlowReader`]: the records of a flow file, one after the other.
//!
//! The input is read through one buffer, and records are slices of it. A record that is larger than the buffer gets memory of
//! its own, up to a limit; beyond that only its skeleton is in memory and its bodies are ranges of the file
//! (see [`crate::large`]). For that the input must be a file. From a pipe, larger records are
//! accepted up to a higher limit, or, with [`FlowReader::spool_with`], copied to a file first.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use crate::{
    fault::{ReadError, ReadErrorKind},
    large::{self, Place},
    migrate::Migrator,
    record::RawRecord,
    tnetstring::{self, Prefix, Problem, TnetError},
};

/// The size of the buffer.
const BUFFER: usize = 256 * 1024;

/// The largest record that is read into memory from a file, and from a pipe if there is a spool.
const IN_MEMORY: u64 = 1024 * 1024;

/// The largest record that is read into memory from a pipe.
const IN_MEMORY_FROM_PIPE: u64 = 64 * 1024 * 1024;

/// How much of a record may be in memory besides its bodies.
const SKELETON: u64 = 64 * 1024 * 1024;

type Spool = Box<dyn FnMut() -> io::Result<File> + Send>;

/// Reads the flows of a file of any version.
///
/// ```
/// # fn main() -> Result<(), mitm_flowfile::ReadError> {
/// let mut reader = mitm_flowfile::FlowReader::new(std::io::empty());
/// while let Some(record) = reader.next_record()? {
///     let flow = record.into_flow()?;
///     // …
/// #   drop(flow);
/// }
/// # Ok(())
/// # }
/// ```
pub struct FlowReader<R> {
    input: Input<R>,
    /// Bytes read; the first `filled` are valid, the rest is room.
    buffer: BytesMut,
    filled: usize,
    /// Where in the input the buffer begins.
    offset: u64,
    started: bool,
    /// Nothing more will come.
    done: bool,
    spool: Option<Spool>,
    migrator: Migrator,
}

enum Input<R> {
    Stream(R),
    /// Read at positions of our own, since bodies are read from it as well.
    File {
        file: Arc<File>,
        at: u64,
    },
}

impl FlowReader<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_file(File::open(path)?)
    }

    /// Reads a file from its current position on. What is not a regular file is read like a pipe.
    ///
    /// # Errors
    /// Those of asking for type and position.
    pub fn from_file(mut file: File) -> io::Result<Self> {
        if !file.metadata()?.is_file() {
            return Ok(Self::new(file));
        }
        let at = file.stream_position()?;
        let mut reader = Self::with_input(Input::File { file: Arc::new(file), at });
        reader.offset = at;
        Ok(reader)
    }
}

impl<R: Read> FlowReader<R> {
    /// Reads from any source.
    pub fn new(source: R) -> Self {
        Self::with_input(Input::Stream(source))
    }

    fn with_input(input: Input<R>) -> Self {
        Self {
            input,
            buffer: BytesMut::new(),
            filled: 0,
            offset: 0,
            started: false,
            done: false,
            spool: None,
            migrator: Migrator::new(),
        }
    }

    /// Sets what makes an (unlinked) file for each record that is too large for memory. Only needed if the source is a
    /// pipe; without it such records are an error.
    #[must_use]
    pub fn spool_with(mut self, make: impl FnMut() -> io::Result<File> + Send + 'static) -> Self {
        self.spool = Some(Box::new(make));
        self
    }

    /// Returns where in the input the next record begins.
    pub fn position(&self) -> u64 {
        self.offset
    }

    /// Returns the next record, `None` at the end. Flows of older versions come out migrated.
    ///
    /// # Errors
    /// See [`ReadErrorKind`]. After an error that is not [recoverable](ReadError::is_recoverable) there are no more
    /// records; after one that is, the next call goes on behind the faulty one.
    pub fn next_record(&mut self) -> Result<Option<RawRecord>, ReadError> {
        if self.done {
            return Ok(None);
        }
        if !self.started {
            self.start()?;
        }
        let offset = self.offset;
        match self.next_element() {
            Ok(None) => {
                self.done = true;
                Ok(None)
            }
            Ok(Some((bytes, place))) => {
                RawRecord::new(bytes, offset, place, &mut self.migrator).map(Some)
            }
            Err(kind) => {
                self.done = true;
                Err(ReadError::new(offset, kind))
            }
        }
    }

    /// Looks at the beginning of the input.
    fn start(&mut self) -> Result<(), ReadError> {
        const BOM: &[u8] = b"\xef\xbb\xbf";
        self.started = true;
        let offset = self.offset;
        let fail = |this: &mut Self, kind| {
            this.done = true;
            Err(ReadError::new(offset, kind))
        };
        while self.filled < BOM.len() + 1 {
            match self.fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return fail(self, ReadErrorKind::Io(error)),
            }
        }
        if self.valid().starts_with(BOM) {
            drop(self.take(BOM.len()));
        }
        match self.valid().first() {
            None => Ok(()),
            Some(b'{') => fail(self, ReadErrorKind::Har),
            Some(byte) if byte.is_ascii_digit() => Ok(()),
            Some(_) => fail(self, ReadErrorKind::NotAFlowFile(Problem::Length)),
        }
    }

    /// Cuts the next element off the input: its bytes, or its skeleton and place.
    #[expect(clippy::type_complexity, reason = "private, and a struct would say no more")]
    fn next_element(&mut self) -> Result<Option<(Bytes, Option<Arc<Place>>)>, ReadErrorKind> {
        let total = loop {
            match tnetstring::prefix(self.valid(), 0) {
                Ok(Prefix::Complete { start, len }) => break start as u64 + len + 1,
                Ok(Prefix::Incomplete) => {
                    if self.fill().map_err(ReadErrorKind::Io)? == 0 {
                        if self.filled == 0 {
                            return Ok(None);
                        }
                        return Err(ReadErrorKind::Framing(Problem::Truncated));
                    }
                }
                Err(TnetError { problem, .. }) => return Err(ReadErrorKind::Framing(problem)),
            }
        };
        let limit = match &self.input {
            Input::Stream(_) if self.spool.is_none() => IN_MEMORY_FROM_PIPE,
            Input::Stream(_) | Input::File { .. } => IN_MEMORY,
        };
        match usize::try_from(total) {
            Ok(len) if total <= limit => {
                while self.filled < len {
                    if self.fill().map_err(ReadErrorKind::Io)? == 0 {
                        return Err(ReadErrorKind::Framing(Problem::Truncated));
                    }
                }
                Ok(Some((self.take(len), None)))
            }
            _ => self.large(total).map(Some),
        }
    }

    /// Returns a record that is too large for memory.
    fn large(&mut self, len: u64) -> Result<(Bytes, Option<Arc<Place>>), ReadErrorKind> {
        let place = match &mut self.input {
            Input::File { file, at } => {
                let place = Place { file: file.clone(), offset: self.offset, len };
                let end = self.offset + len;
                if file.metadata().map_err(ReadErrorKind::Io)?.len() < end {
                    return Err(ReadErrorKind::Framing(Problem::Truncated));
                }
                *at = end;
                self.filled = 0;
                place
            }
            Input::Stream(source) => {
                let Some(spool) = &mut self.spool else {
                    return Err(ReadErrorKind::TooLarge { len });
                };
                let mut file = spool().map_err(ReadErrorKind::Io)?;
                let offset = file.stream_position().map_err(ReadErrorKind::Io)?;
                let buffered = usize::try_from(len).map_or(self.filled, |len| len.min(self.filled));
                self.filled -= buffered;
                let head = self.buffer.split_to(buffered);
                file.write_all(&head).map_err(ReadErrorKind::Io)?;
                let rest = len - buffered as u64;
                let copied = io::copy(&mut source.take(rest), &mut file);
                if copied.map_err(ReadErrorKind::Io)? < rest {
                    return Err(ReadErrorKind::Framing(Problem::Truncated));
                }
                Place { file: Arc::new(file), offset, len }
            }
        };
        self.offset += len;
        let skeleton = large::skeleton(&place, SKELETON)?;
        Ok((skeleton, Some(Arc::new(place))))
    }

    fn valid(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }

    /// Cuts `len` valid bytes off the buffer.
    fn take(&mut self, len: usize) -> Bytes {
        self.filled -= len;
        self.offset += len as u64;
        self.buffer.split_to(len).freeze()
    }

    /// Reads once, growing the buffer if it is full. Memory follows what has arrived, not what a length claims.
    fn fill(&mut self) -> io::Result<usize> {
        if self.filled == self.buffer.len() {
            self.grow();
        }
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        let count = loop {
            let result = match &mut self.input {
                Input::Stream(source) => source.read(room),
                Input::File { file, at } => large::read_at(file, room, *at),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        // A source that claims more than it was given room for is not believed.
        let count = count.min(room.len());
        if let Input::File { at, .. } = &mut self.input {
            *at += count as u64;
        }
        self.filled += count;
        Ok(count)
    }

    #[cold]
    fn grow(&mut self) {
        let more = if self.filled < BUFFER / 2 { BUFFER - self.filled } else { self.filled };
        // Takes the old buffer again if no record of it is left.
        self.buffer.reserve(more);
        self.buffer.resize(self.filled + more, 0);
    }
}

impl<R: Read> Iterator for FlowReader<R> {
    type Item = Result<RawRecord, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}
