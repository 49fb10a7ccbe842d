//! Flow files: read, write, migrate old versions.
