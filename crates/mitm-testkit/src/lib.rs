//! Peers for tests: an origin and a client that send exactly the bytes a test wrote down, a real
//! nginx, a real LDAP server, throw-away certificates, and the few helpers every socket test needs.
//!
//! Nothing here knows HTTP well, on purpose. [`RawServer`] and [`RawClient`] move bytes and note
//! them; [`naive`] reads them the way a careless peer would, which is what a test about request
//! smuggling needs. All sockets are on loopback, all waits have a deadline, and everything that was
//! started ends when its handle is dropped.
//!
//! A dev-dependency only: no other crate may list it under `[dependencies]`.

pub mod external;
pub mod naive;
pub mod net;
pub mod nginx;
pub mod raw_client;
pub mod raw_server;
pub mod slapd;
pub mod tls;
pub mod wait;

pub use external::{external, peer_python};
pub use nginx::Nginx;
pub use raw_client::RawClient;
pub use raw_server::{RawServer, Script, Step};
pub use slapd::Slapd;
