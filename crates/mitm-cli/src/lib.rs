//! The programs: parse the command line, wire the parts, run.
