//! Programs that a test needs and a machine may lack.
//!
//! A developer without nginx still gets a green `cargo test`; CI sets [`REQUIRE`] and fails instead.

use std::env;
use std::path::PathBuf;

/// With this variable set to `1` a missing program is a failure, not a skipped test.
pub const REQUIRE: &str = "MITM_REQUIRE_EXTERNAL";

/// Names the Python of an environment that has mitmproxy 11.0.2.
pub const PEER_PYTHON: &str = "MITM_PEER_PYTHON";

/// Returns where a program is, or `None` when the calling test should return early.
///
/// Beside `PATH` the system directories are searched, where Debian puts servers.
///
/// # Panics
/// When the program is missing and external tests are required.
pub fn external(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(tool))
        .find(|candidate| candidate.is_file());
    found.or_else(|| missing(tool))
}

/// Returns the Python that can import mitmproxy 11.0.2, or `None` when the test should return early.
///
/// # Panics
/// When [`PEER_PYTHON`] is not set or names no file, and external tests are required.
pub fn peer_python() -> Option<PathBuf> {
    env::var_os(PEER_PYTHON)
        .map(PathBuf::from)
        .filter(|python| python.is_file())
        .or_else(|| missing("a Python with mitmproxy 11.0.2, named by MITM_PEER_PYTHON"))
}

fn missing(what: &str) -> Option<PathBuf> {
    assert!(env::var_os(REQUIRE).is_none_or(|value| value != "1"), "this test needs {what}");
    eprintln!("skipped: this test needs {what}");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_every_machine_is_found() {
        assert!(external("sh").is_some());
    }
}
