//! The addon trait, the manager and the master that holds options, commands, events and the engine.
