//! Raw TCP as a flow: each read is a message, which hooks may change, hold back or kill before it goes on.
//!
//! One task serves both directions, so that the last message of a flow is the one that a hook is about. What waits to be
//! sent does not keep the other direction from being read: a peer that sends before it reads does not block
//! itself. Ends are passed on one by one; when both sides have ended, the flow has.
//!
//! If nobody listens, two plain copies do the same ([`pass`]).
//!
//! A client may begin TLS in mid-stream, as in STARTTLS: a whole `ClientHello` at the beginning of a read. Then the flow
//! ends and [`serve`] hands the client back; what is inside of TLS becomes a flow of its own.

mod talk;

use self::talk::{Ended, Talk};
use crate::{
    error::Failure,
    exchange::Context,
    hooks::{Direction, Event, Hook, HookSet, Need},
    hosts::Names,
    inject,
    io::{Reader, Writer},
    pass,
    upstream::{ServerConn, Upstreams, ended},
};
use mitm_flow::{Address, Client, FlowData, FlowError, FlowRef, Server, Shared};

/// What a conversation is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    Nothing,
    /// That the client begins TLS.
    Tls,
}

/// How the layer ended.
pub(crate) enum End {
    /// Both connections are closed.
    Closed,
    /// The client begins TLS: its hello was read and is still there. The connection to the server waits among those made
    /// ahead.
    Tls(Reader, Writer),
}

const HOOKS: HookSet =
    HookSet::of(&[Hook::TcpStart, Hook::TcpMessage, Hook::TcpEnd, Hook::TcpError]);

/// Serves a conversation with where the connection leads.
pub(crate) async fn serve(
    ctx: &Context,
    client: (Reader, Writer),
    upstreams: &Upstreams,
    watch: Watch,
) -> End {
    let Some(destination) = &ctx.target else { return End::Closed };
    let is_printed = is_printed(ctx, &destination.address());
    if !is_printed && !ctx.engine.hooks.wanted().intersects(HOOKS) {
        pass::unseen(ctx, client, upstreams).await;
        return End::Closed;
    }
    let server = match upstreams.ahead(destination) {
        Some((server, _)) => server,
        None => Server::new(Some(destination.address())).into(),
    };
    let running = Running::start(ctx, server.clone());
    let flow = &running.flow;
    ctx.engine.fire(Event::TcpStart(flow.clone())).await;
    let connecting = async {
        ctx.settle(flow).await?;
        tokio::select! {
            biased;
            conn = upstreams.get_raw(destination, server) => conn,
            () = flow.wait_for_kill() => Err(Failure::Killed),
        }
    };
    match connecting.await {
        Ok(conn) => {
            flow.set_server(conn.server.clone());
            match converse(ctx, running, client, conn, (watch, is_printed)).await {
                Some((client, conn)) => {
                    upstreams.put_new(conn);
                    End::Tls(client.0, client.1)
                }
                None => End::Closed,
            }
        }
        Err(failure) => {
            running.end(ctx, Err(failure)).await;
            // The end of the connection is all that the client is told.
            let (_, mut writer) = client;
            writer.shutdown().await;
            End::Closed
        }
    }
}

/// Serves a conversation over connections that exist: the server switched protocols.
pub(crate) async fn serve_both(ctx: &Context, client: (Reader, Writer), conn: ServerConn) {
    let is_printed = is_printed(ctx, &conn.destination.address());
    if !is_printed && !ctx.engine.hooks.wanted().intersects(HOOKS) {
        pass::relay(ctx, client, conn).await;
        return;
    }
    let running = Running::start(ctx, conn.server.clone());
    ctx.engine.fire(Event::TcpStart(running.flow.clone())).await;
    match ctx.settle(&running.flow).await {
        Ok(()) => {
            converse(ctx, running, client, conn, (Watch::Nothing, is_printed)).await;
        }
        Err(failure) => {
            running.end(ctx, Err(failure)).await;
            close(ctx, client, conn).await;
        }
    }
}

/// Carries messages until the flow ends, and closes the connections, unless TLS begins: then they are returned.
async fn converse(
    ctx: &Context,
    running: Running,
    client: (Reader, Writer),
    conn: ServerConn,
    (watch, is_printed): (Watch, bool),
) -> Option<((Reader, Writer), ServerConn)> {
    forget_handshake(ctx, &conn);
    let flow = running.flow.clone();
    let (_registration, for_client, for_server) = inject::register(&ctx.engine, &flow);
    // Over TLS already, the hello would be one inside of it.
    let watch = if conn.destination.tls { Watch::Nothing } else { watch };
    let mut talk = Talk::new(ctx, &flow, client, conn, watch, is_printed);
    let result = talk.run((for_client, for_server)).await;
    let (client, conn) = talk.into_parts();
    let begins_tls = matches!(result, Ok(Ended::Tls));
    running.end(ctx, result.map(|_| ())).await;
    if begins_tls {
        return Some((client, conn));
    }
    close(ctx, client, conn).await;
    None
}

/// Closes both connections. What could not be sent is given up.
pub(crate) async fn close(ctx: &Context, client: (Reader, Writer), conn: ServerConn) {
    let (_, mut client) = client;
    let ServerConn { server, mut writer, hop, .. } = conn;
    client.discard();
    writer.discard();
    tokio::join!(client.shutdown(), writer.shutdown());
    ended(&ctx.engine, &ctx.client, server, hop).await;
}

/// A server of raw TCP may speak first, inside of TLS as well. So it must be connected before the client says anything,
/// and nothing that is remembered of it may keep the next connection from that.
pub(crate) fn forget_handshake(ctx: &Context, conn: &ServerConn) {
    if conn.destination.tls {
        ctx.engine.sniffed.forget(&conn.destination);
    }
}

/// True if `tcp_hosts` asks for this server. Then messages go to the event log.
fn is_printed(ctx: &Context, server: &Address) -> bool {
    let hosts = &ctx.settings.tcp_hosts;
    if hosts.is_empty() {
        return false;
    }
    let mut names = Names::default();
    if let Some(sni) = ctx.client.with(|client| client.tls_facts.sni.clone()) {
        names.add(&*sni, server.port);
    }
    names.add(&*server.host, server.port);
    hosts.matches(&names)
}

/// True if somebody looks at more of a flow than its latest message.
pub(crate) fn is_kept(ctx: &Context, flow: &FlowRef) -> bool {
    [Direction::Request, Direction::Response]
        .into_iter()
        .any(|direction| ctx.engine.hooks.need(flow, direction).0 >= Need::Tee)
}

/// A flow that has begun.
struct Running {
    flow: FlowRef,
    is_over: bool,
}

impl Running {
    fn start(ctx: &Context, server: Shared<Server>) -> Self {
        let client: Shared<Client> = ctx.client.clone();
        let flow = FlowRef::new(client, server, FlowData::Tcp(Vec::new()));
        Self { flow, is_over: false }
    }

    /// Ends the flow and tells everybody.
    async fn end(mut self, ctx: &Context, result: Result<(), Failure>) {
        let flow = self.flow.clone();
        self.is_over = true;
        match result {
            // A kill that came with the end is a kill.
            Ok(()) if !flow.is_killed() => ctx.engine.fire(Event::TcpEnd(flow.clone())).await,
            Ok(()) | Err(Failure::Killed) => ctx.engine.fire(Event::TcpError(flow.clone())).await,
            Err(failure) => {
                flow.set_error(Some(FlowError::new(failure.to_string())));
                ctx.engine.fire(Event::TcpError(flow.clone())).await;
            }
        }
        flow.set_live(false);
    }
}

/// The end of a run cancels what is running. Addons that write their flows then must not take this one for complete.
impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            self.flow.set_error(Some(FlowError::new("interrupted by the end of the proxy")));
            self.flow.set_live(false);
        }
    }
}
