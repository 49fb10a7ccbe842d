//! Scripted peers and fixtures for tests.
