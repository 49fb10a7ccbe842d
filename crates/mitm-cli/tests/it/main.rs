//! The programs as their users meet them: command lines in, options, texts and exit codes out.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod flags;
mod help;
mod program;
mod seed;
