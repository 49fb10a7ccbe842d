//! Connections that pass without being looked into: no flow, and the bytes of both sides as they came.

use std::io::ErrorKind;

use mitm_flow::Server;
use tracing::info;

use crate::{
    exchange::Context,
    io::{Reader, Writer},
    platform::splice,
    tcp::{self, Watch},
    upstream::{ServerConn, Upstreams, client_name, ended},
};

/// Serves a connection that the lists of hosts exclude. With `show_ignored_hosts` it becomes a flow all the same.
pub(crate) async fn ignored(ctx: &Context, client: (Reader, Writer), upstreams: &Upstreams) {
    if ctx.settings.show_ignored_hosts {
        // Without watching there is no other end than the last.
        let _ = tcp::serve(ctx, client, upstreams, Watch::Nothing).await;
    } else {
        unseen(ctx, client, upstreams).await;
    }
}

/// Connects the client with the server and leaves them alone. Inside of TLS the server is spoken to in TLS as well.
pub(crate) async fn unseen(ctx: &Context, client: (Reader, Writer), upstreams: &Upstreams) {
    let Some(destination) = &ctx.target else { return };
    let server = Server::new(Some(destination.address()));
    let Ok(conn) = upstreams.get_raw(destination, server.into()).await else {
        // It was logged, and there is nothing that could be answered.
        return;
    };
    relay(ctx, client, conn).await;
}

/// Copies both directions until the end, and closes the server connection.
pub(crate) async fn relay(ctx: &Context, client: (Reader, Writer), conn: ServerConn) {
    tcp::forget_handshake(ctx, &conn);
    let ServerConn { server, reader, writer, hop, .. } = conn;
    match splice::pass(client, (reader, writer), ctx.settings.idle_timeout).await {
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            info!(client = %client_name(&ctx.client), "Closing connection due to inactivity.");
        }
        // Either side may end this as it likes.
        Ok(()) | Err(_) => {}
    }
    ended(&ctx.engine, &ctx.client, server, hop).await;
}
