//! The engine: listeners, layers, exchanges, upstream connections.
