//! The programs as their users meet them: command lines in, options, texts and exit codes out.

mod flags;
mod help;
mod seed;
