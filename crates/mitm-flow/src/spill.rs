//! The spill store: large bodies on disk.
