//! [`Output`]: standard output, shared by all who print to it, and [`Style`]s for terminals.
//!
//! What is printed at once stays together: a writer hands over a whole block. Blocks of live traffic are
//! flushed at once; those of flows from files are gathered, since a system call for each would be most of
//! the work, and flushed a moment later.
//!
//! If standard output is gone (`mitmdump | head`), the run ends with exit code 1, as it would for any other program in
//! a pipe.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    sync::{Arc, OnceLock},
    time::Duration,
};

use mitm_addon::WeakMaster;
use parking_lot::Mutex;

/// How much is gathered before it is written.
const BUFFER: usize = 64 * 1024;

/// How long gathered output may wait.
const LATER: Duration = Duration::from_millis(50);

/// When a block is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    Now,
    /// Together with what follows, within a moment.
    Later,
}

/// The place that lines are printed to. Clones share it.
#[derive(Clone)]
pub struct Output(Arc<Inner>);

struct Inner {
    sink: Mutex<Sink>,
    is_terminal: bool,
    /// Told when nothing can be printed any more.
    master: OnceLock<WeakMaster>,
}

struct Sink {
    buffer: Vec<u8>,
    to: Box<dyn Write + Send>,
    /// A flush is on its way.
    scheduled: bool,
    failed: bool,
}

impl Output {
    /// Prints to standard output.
    pub fn stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self::new(io::stdout(), is_terminal)
    }

    /// Prints to any writer, with colours if it is a terminal.
    pub fn new(to: impl Write + Send + 'static, is_terminal: bool) -> Self {
        let sink = Sink { buffer: Vec::new(), to: Box::new(to), scheduled: false, failed: false };
        Self(Arc::new(Inner { sink: Mutex::new(sink), is_terminal, master: OnceLock::new() }))
    }

    /// Says whose run ends if nothing can be printed any more.
    pub fn report_failure_to(&self, master: WeakMaster) {
        // The first one stays: all addons of a program have the same.
        let _ = self.0.master.set(master);
    }

    /// True if styles can be shown.
    pub fn is_terminal(&self) -> bool {
        self.0.is_terminal
    }

    /// Returns the number of characters in a line: `COLUMNS`, else that of the terminal, else 80.
    pub fn columns(&self) -> usize {
        let given = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let found = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        given.filter(|&columns| columns > 0).or_else(found).unwrap_or(80)
    }

    /// Prints a block, which ends with a line end.
    pub fn print(&self, block: &str, flush: Flush) {
        let mut sink = self.0.sink.lock();
        if sink.failed {
            return;
        }
        sink.buffer.extend_from_slice(block.as_bytes());
        let mut is_lost = false;
        match flush {
            Flush::Later if sink.buffer.len() < BUFFER && sink.scheduled => {}
            Flush::Later if sink.buffer.len() < BUFFER => match self.flush_later() {
                Some(()) => sink.scheduled = true,
                None => is_lost = !sink.flush(),
            },
            Flush::Later | Flush::Now => is_lost = !sink.flush(),
        }
        drop(sink);
        if is_lost {
            self.give_up();
        }
    }

    /// Writes what was gathered.
    pub fn flush(&self) {
        let mut sink = self.0.sink.lock();
        sink.scheduled = false;
        let is_lost = !sink.failed && !sink.flush();
        drop(sink);
        if is_lost {
            self.give_up();
        }
    }

    fn flush_later(&self) -> Option<()> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let output = self.clone();
        runtime.spawn(async move {
            tokio::time::sleep(LATER).await;
            output.flush();
        });
        Some(())
    }

    fn give_up(&self) {
        if let Some(master) = self.0.master.get().and_then(WeakMaster::upgrade) {
            master.shutdown_with(1);
        }
    }
}

impl Sink {
    fn flush(&mut self) -> bool {
        let written = self.to.write_all(&self.buffer).and_then(|()| self.to.flush());
        self.buffer.clear();
        // One large body must not hold its memory for ever.
        self.buffer.shrink_to(2 * BUFFER);
        self.failed = written.is_err();
        !self.failed
    }
}

/// How text looks on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// The number of the foreground colour (ECMA-48 §8.3.117).
    colour: Option<u8>,
    bold: bool,
    dim: bool,
    blink: Option<bool>,
}

impl Style {
    pub const PLAIN: Self = Self { colour: None, bold: false, dim: false, blink: None };
    pub const BOLD: Self = Self { bold: true, ..Self::PLAIN };
    pub const DIM: Self = Self { dim: true, ..Self::PLAIN };
    pub const RED: Self = Self::colour(31);
    pub const GREEN: Self = Self::colour(32);
    pub const YELLOW: Self = Self::colour(33);
    pub const BLUE: Self = Self::colour(34);
    pub const MAGENTA: Self = Self::colour(35);
    pub const CYAN: Self = Self::colour(36);
    pub const BRIGHT_BLUE: Self = Self::colour(94);

    const fn colour(number: u8) -> Self {
        Self { colour: Some(number), ..Self::PLAIN }
    }

    #[must_use]
    pub const fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    #[must_use]
    pub const fn dim(self) -> Self {
        Self { dim: true, ..self }
    }

    #[must_use]
    pub const fn blink(self, blink: bool) -> Self {
        Self { blink: Some(blink), ..self }
    }

    fn push_codes(self, out: &mut String) {
        if let Some(number) = self.colour {
            // Writing to a string does not fail.
            let _ = write!(out, "\x1b[{number}m");
        }
        if self.bold {
            out.push_str("\x1b[1m");
        }
        if self.dim {
            out.push_str("\x1b[2m");
        }
        match self.blink {
            Some(true) => out.push_str("\x1b[5m"),
            Some(false) => out.push_str("\x1b[25m"),
            None => {}
        }
    }
}

/// Text being put together for an [`Output`], styled if that is a terminal.
#[derive(Debug, Default)]
pub struct Block {
    text: String,
    styled: bool,
}

impl Block {
    pub fn new(styled: bool) -> Self {
        Self { text: String::with_capacity(256), styled }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Appends text as it is.
    pub fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends text in a style.
    pub fn styled(&mut self, style: Style, text: &str) -> &mut Self {
        if !self.styled {
            return self.push(text);
        }
        style.push_codes(&mut self.text);
        self.text.push_str(text);
        self.text.push_str("\x1b[0m");
        self
    }

    /// Appends a number of blanks.
    pub fn blanks(&mut self, count: usize) -> &mut Self {
        self.text.extend(std::iter::repeat_n(' ', count));
        self
    }

    /// Ends the line.
    pub fn end(&mut self) -> &mut Self {
        self.push("\n")
    }
}

impl std::fmt::Write for Block {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.text.push_str(text);
        Ok(())
    }
}

/// Makes text safe for one line of a terminal: each control character becomes a dot.
pub fn one_line(text: &str) -> Cow<'_, str> {
    mitm_flow::human::escape_control_characters(text, false)
}

/// Makes text of several lines safe for a terminal: control characters but tab and line feed become dots. A carriage
/// return would overwrite the line it stands in.
pub fn many_lines(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| c.is_control() && !matches!(c, '\t' | '\n');
    if text.contains(is_bad) { text.replace(is_bad, ".").into() } else { text.into() }
}

/// A writer that keeps what is written, for tests.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<u8>>>);

#[cfg(test)]
impl Capture {
    /// Makes an output that is kept.
    pub(crate) fn output(is_terminal: bool) -> (Output, Self) {
        let capture = Self::default();
        (Output::new(capture.clone(), is_terminal), capture)
    }

    /// Returns what was written since the last call.
    pub(crate) fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap()
    }
}

#[cfg(test)]
impl Write for Capture {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mitm_addon::{Master, log::EventLog};

    use super::*;

    #[test]
    fn styles_are_in_order_and_only_on_terminals() {
        let style = Style::RED.bold().dim().blink(true);
        let mut block = Block::new(true);
        block.styled(style, "x");
        assert_eq!(block.as_str(), "\x1b[31m\x1b[1m\x1b[2m\x1b[5mx\x1b[0m");
        let mut block = Block::new(false);
        block.styled(style, "x").blanks(2).end();
        assert_eq!(block.as_str(), "x  \n");
    }

    #[test]
    fn nothing_controls_the_terminal() {
        assert_eq!(one_line("a\x1b[31m\r\nb\u{9b}c"), "a.[31m..b.c");
        assert_eq!(many_lines("a\x1b\r\n\tb"), "a..\n\tb");
    }

    #[tokio::test(start_paused = true)]
    async fn gathered_output_is_flushed_soon() {
        let (output, capture) = Capture::output(false);
        output.print("a\n", Flush::Later);
        output.print("b\n", Flush::Later);
        assert_eq!(capture.take(), "");
        tokio::time::sleep(2 * LATER).await;
        assert_eq!(capture.take(), "a\nb\n");
        output.print("c\n", Flush::Later);
        output.print("d\n", Flush::Now);
        assert_eq!(capture.take(), "c\nd\n");
        output.print(&"e".repeat(BUFFER), Flush::Later);
        assert_eq!(capture.take().len(), BUFFER);
    }

    #[test]
    fn without_a_runtime_nothing_waits() {
        let (output, capture) = Capture::output(false);
        output.print("a\n", Flush::Later);
        assert_eq!(capture.take(), "a\n");
    }

    #[tokio::test]
    async fn the_run_ends_when_nothing_can_be_printed() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let master = Master::new(EventLog::default());
        master.options().set_specs(&["server=false"], false).unwrap();
        let output = Output::new(Gone, false);
        output.report_failure_to(master.downgrade());
        output.print("a\n", Flush::Now);
        assert_eq!(master.run(|| None).await, 1);
    }
}
