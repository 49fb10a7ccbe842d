//! HTTP/2 (RFC 9113), on both sides.

use std::sync::Arc;

use mitm_flow::{Client, Server, Shared};

use crate::{engine::Engine, error::Failure, upstream::ServerConn};

/// A connection to a server, shared by the streams of one client.
#[derive(Clone)]
pub(crate) struct Session {
    server: Shared<Server>,
}

impl Session {
    pub(crate) async fn start(
        _engine: &Arc<Engine>,
        _client: &Shared<Client>,
        conn: ServerConn,
    ) -> Result<Self, Failure> {
        Ok(Self { server: conn.server })
    }

    pub(crate) fn is_open(&self, _engine: &Engine) -> bool {
        true
    }

    pub(crate) async fn close(self) -> Shared<Server> {
        self.server
    }
}
