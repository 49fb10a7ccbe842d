//! The test kit tried on itself, and the shape of the workspace.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod peers;
mod workspace;
