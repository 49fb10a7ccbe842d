//! The one place that writes to standard output and standard error on behalf of the programs themselves. (Flows and
//! log lines are written by the addons that own them.)

use std::io::{self, IsTerminal as _, Write as _};

/// Writes text to standard output. Returns the exit code: whoever stopped reading has seen enough, anything else is
/// an error.
pub(crate) fn print(text: &str) -> i32 {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            complain(&format!("cannot write to standard output: {error}"));
            1
        }
    }
}

/// Writes a line to standard error.
pub(crate) fn complain(text: &str) {
    // There is no other place to say that this one is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints what the parser of the command line has to say, in colours if a person reads it. Returns the exit code.
pub(crate) fn usage(error: &clap::Error) -> i32 {
    let text = error.render();
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if error.use_stderr() {
        let colours = colours && io::stderr().is_terminal();
        let text = if colours { text.ansi().to_string() } else { text.to_string() };
        complain(text.trim_end());
    } else {
        let colours = colours && io::stdout().is_terminal();
        let code = print(&if colours { text.ansi().to_string() } else { text.to_string() });
        return code;
    }
    error.exit_code()
}

/// Returns the width to lay out help for.
pub(crate) fn width() -> usize {
    /// Longer lines are hard to read.
    const WIDEST: usize = 100;
    match terminal_size::terminal_size() {
        Some((width, _)) => usize::from(width.0).clamp(40, WIDEST),
        None => WIDEST,
    }
}
