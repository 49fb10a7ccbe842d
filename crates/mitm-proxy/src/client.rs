//! The life of a client connection: accepted, layer by layer, closed.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mitm_flow::{Client, FlowRef, Server, Shared, now};
use tokio::time::{self, sleep};
use tracing::{error, info, warn};

use crate::{
    engine::Engine,
    exchange::Context,
    hooks::{Event, Hook, LayerKind, NextLayerData},
    http1, http2,
    io::{self, Io, Reader, Writer},
    mode::{Mode, ModeKind},
    next_layer::{self, Decision, Ended, Known},
    pass, platform, socks5,
    tcp::{self, Watch},
    tls,
    upstream::{Destination, ServerConn, Upstreams, client_name, ended},
    websocket,
};

/// Serves one accepted connection to its end.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    io: Io,
    mode: Arc<Mode>,
    peer: SocketAddr,
    local: SocketAddr,
) {
    let _counted = engine.count_connection();
    let mut client = Client::new(peer.into(), local.into(), now());
    client.proxy_mode = Arc::clone(&mode.spec);
    let client = Shared::new(client);
    let name = client_name(&client);
    info!(client = %name, "client connect");
    engine.fire(Event::ClientConnected(client.clone())).await;
    if client.with(|client| client.error.is_some()) {
        info!(client = %name, "client kill connection");
    } else {
        let upstreams = Upstreams::new(Arc::clone(&engine), client.clone());
        let ctx = Context {
            settings: engine.settings(),
            engine: Arc::clone(&engine),
            client: client.clone(),
            mode,
            target: None,
        };
        arrive(ctx, io, &upstreams).await;
        disconnected(&engine, &client, &name).await;
        upstreams.finish().await;
        return;
    }
    disconnected(&engine, &client, &name).await;
}

async fn disconnected(engine: &Engine, client: &Shared<Client>, name: &str) {
    info!(client = %name, "client disconnect");
    client.update(|client| client.timestamp_end = Some(now()));
    engine.fire(Event::ClientDisconnected(client.clone())).await;
}

/// Finds out where the connection leads, as far as the mode tells, and runs the layers.
async fn arrive(mut ctx: Context, io: Io, upstreams: &Upstreams) {
    match &ctx.mode.kind {
        ModeKind::Regular | ModeKind::Upstream(_) => {}
        ModeKind::Reverse(target) => {
            ctx.target = Some(Destination {
                tls: target.scheme.is_tls(),
                ..Destination::plain(Arc::clone(&target.host), target.port)
            });
        }
        ModeKind::Transparent => match original_destination(&io).await {
            Ok(address) => {
                ctx.client.update(|client| client.sockname = Some(address.into()));
                let host = address.ip().to_canonical().to_string();
                ctx.target = Some(Destination::plain(host.into(), address.port()));
            }
            Err(error) => {
                error!(client = %client_name(&ctx.client), "Transparent mode failure: {error}");
                return;
            }
        },
        ModeKind::Socks5 => {
            let (mut reader, mut writer) = io::split(io, BytesMut::new());
            if socks5::serve(&mut ctx, &mut reader, &mut writer, upstreams).await {
                layers(ctx, reader, writer, upstreams).await;
            } else {
                writer.shutdown().await;
            }
            return;
        }
    }
    if let Some(target) = &ctx.target
        && wants_connection(&ctx, target)
    {
        let is_http = matches!(&ctx.mode.kind, ModeKind::Reverse(to) if to.scheme.is_http());
        // Whether HTTP over TLS offers HTTP/2, only the client can say. What passes unseen may be no TLS at all.
        let is_plain = is_http || next_layer::is_surely_ignored(&ctx.settings, target);
        let first = if is_plain { &target.without_tls() } else { target };
        let server = Server::new(Some(target.address()));
        match upstreams.fresh(first, server.into()).await {
            Ok(conn) => upstreams.put_new(conn),
            // Nothing can be said about it in raw TCP.
            Err(_) if matches!(&ctx.mode.kind, ModeKind::Reverse(_)) && !is_http => return,
            Err(failure) => upstreams.remember_failure(target.clone(), failure),
        }
    }
    let (reader, writer) = io::split(io, BytesMut::new());
    layers(ctx, reader, writer, upstreams).await;
}

async fn original_destination(io: &Io) -> std::io::Result<SocketAddr> {
    match io {
        Io::Tcp(tcp) => platform::original_destination(tcp).await,
        _ => Err(ErrorKind::Unsupported.into()),
    }
}

/// True if the server is connected before the client has said anything, because it might speak first, or because
/// somebody wants to see connections in their proper order.
pub(crate) fn wants_connection(ctx: &Context, target: &Destination) -> bool {
    let speaks_http = match &ctx.mode.kind {
        ModeKind::Reverse(target) => target.scheme.is_http(),
        _ => false,
    };
    ctx.settings.eager
        && target.via.is_none()
        && (ctx.engine.hooks.servers_are_watched()
            || !speaks_http && !ctx.engine.sniffed.knows_address(&ctx.engine, target))
}

/// Runs one layer after the other: each ends by closing, or by leaving a stream for the next.
pub(crate) async fn layers(
    mut ctx: Context,
    mut reader: Reader,
    mut writer: Writer,
    upstreams: &Upstreams,
) {
    let mut passed = Passed::default();
    loop {
        writer.set_patience(ctx.settings.idle_timeout);
        let Some(layer) = next(&ctx, &mut reader, upstreams, passed).await else { return };
        match layer {
            LayerKind::Http if speaks_http2(&ctx, &mut reader, passed).await => {
                if let Some(target) = &mut ctx.target
                    && !target.tls
                    && !passed.tls
                {
                    // Who begins like this without asking knows that the server speaks HTTP/2.
                    target.alpn = [Bytes::from_static(b"h2")].into();
                }
                let (io, read) = io::join(reader, writer);
                Box::pin(http2::serve(ctx, io, read, upstreams)).await;
                return;
            }
            LayerKind::Http => {
                match Box::pin(http1::serve(&mut ctx, &mut reader, &mut writer, upstreams)).await {
                    http1::End::Closed => {
                        writer.shutdown().await;
                        return;
                    }
                    http1::End::Aborted => {
                        writer.abandon();
                        return;
                    }
                    http1::End::Tunnel(destination) => {
                        ctx.target = Some(destination);
                        passed = Passed::default();
                    }
                    http1::End::Upgrade(conn, flow) => {
                        upgraded(&ctx, (reader, writer), *conn, flow).await;
                        return;
                    }
                }
            }
            LayerKind::Tls if !passed.tls => {
                passed.tls = true;
                let (io, read) = io::join(reader, writer);
                match Box::pin(tls::accept(&mut ctx, io, read, upstreams)).await {
                    tls::Accepted::Established(io) => {
                        (reader, writer) = io::split(io, BytesMut::new());
                    }
                    tls::Accepted::Ignored(io, read) => {
                        pass::unseen(&ctx, io::split(io, read), upstreams).await;
                        return;
                    }
                    tls::Accepted::Failed => return,
                }
            }
            LayerKind::Tls | LayerKind::Tcp => {
                let watch = if passed.tls { Watch::Nothing } else { Watch::Tls };
                let client = (reader, writer);
                match Box::pin(tcp::serve(&ctx, client, upstreams, watch)).await {
                    tcp::End::Closed => return,
                    tcp::End::Tls(on, out) => (reader, writer) = (on, out),
                }
                passed.raw = true;
                // The server is asked to begin TLS, too, whatever its mode said of the beginning.
                ctx.target = ctx.target.map(|target| Destination { tls: true, ..target });
            }
            LayerKind::Ignore => {
                if !passed.tls {
                    // What passes is between the client and the server alone.
                    ctx.target = ctx.target.map(|target| target.without_tls());
                }
                Box::pin(pass::ignored(&ctx, (reader, writer), upstreams)).await;
                return;
            }
        }
    }
}

/// What the layers so far were, on the way to the present target.
#[derive(Clone, Copy, Default)]
struct Passed {
    /// TLS was ended. That is done once on the way to the proxy, and once in a tunnel. What is TLS below that is the server's.
    tls: bool,
    /// Raw TCP, in which TLS then began.
    raw: bool,
}

/// As [`layers`], for a stream inside of another's: it owns what it uses, and hides its type, which would contain itself.
pub(crate) fn inner_layers(
    ctx: Context,
    reader: Reader,
    writer: Writer,
    upstreams: Upstreams,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { layers(ctx, reader, writer, &upstreams).await })
}

/// True if the client speaks HTTP/2: it said so in its TLS handshake, or by what it sends first.
async fn speaks_http2(ctx: &Context, reader: &mut Reader, passed: Passed) -> bool {
    if !ctx.settings.http2 {
        return false;
    }
    // What was agreed with the proxy itself says nothing about a tunnel.
    let alpn = || ctx.client.with(|client| client.tls_facts.alpn.clone());
    if passed.tls && alpn().as_deref() == Some(b"h2") {
        return true;
    }
    let mut begun = None;
    while reader.buf.len() < http2::PREFACE.len() && http2::PREFACE.starts_with(&reader.buf) {
        let read = if reader.buf.is_empty() {
            reader.fill_within(ctx.settings.idle_timeout).await
        } else {
            let begun = *begun.get_or_insert_with(time::Instant::now);
            reader.fill_until(begun.checked_add(ctx.settings.handshake_timeout)).await
        };
        if !matches!(read, Ok(1..)) {
            return false;
        }
    }
    reader.buf.starts_with(http2::PREFACE)
}

/// Goes on after the server switched protocols.
pub(crate) async fn upgraded(
    ctx: &Context,
    client: (Reader, Writer),
    conn: ServerConn,
    flow: FlowRef,
) {
    if flow.websocket().is_none() {
        flow.set_live(false);
        Box::pin(switched(ctx, client, conn)).await;
        return;
    }
    let ServerConn { server, reader, writer, hop, .. } = conn;
    Box::pin(websocket::serve(ctx, client, (reader, writer), &flow)).await;
    ended(&ctx.engine, &ctx.client, server, hop).await;
}

/// Goes on after the server switched to a protocol that is not known here.
async fn switched(ctx: &Context, client: (Reader, Writer), conn: ServerConn) {
    if ctx.settings.rawtcp {
        tcp::serve_both(ctx, client, conn).await;
        return;
    }
    warn!(
        client = %client_name(&ctx.client),
        "The server switched to another protocol, which is passed on only as raw TCP: rawtcp is off."
    );
    tcp::close(ctx, client, conn).await;
}

/// Behind another proxy, servers are connected when they are needed, and a client has something to say soon. One that is
/// silent for this long may wait for its server to speak first.
const SILENCE: Duration = Duration::from_secs(1);

/// Decides what the stream speaks; `None` if it ended before that could be told.
async fn next(
    ctx: &Context,
    reader: &mut Reader,
    upstreams: &Upstreams,
    passed: Passed,
) -> Option<LayerKind> {
    let (sni, alpn) = ctx.client.with(|client| {
        let facts = &client.tls_facts;
        (facts.sni.clone(), facts.alpn.clone())
    });
    let ended = Ended { sni: sni.as_deref(), alpn: alpn.as_deref() };
    let (server, greeting) = match &ctx.target {
        Some(target) => upstreams.ahead(target).unzip(),
        None => (None, None),
    };
    let peer = server.as_ref().and_then(|server| server.with(|server| server.peername.clone()));
    let behind = ctx.target.as_ref().filter(|to| to.via.is_some() && ctx.settings.eager);
    let mut unconnected = behind.filter(|_| server.is_none());
    let mut server_spoke = greeting.is_some_and(|greeting| !greeting.is_empty());
    // Whoever has begun must come to the point.
    let mut deadline: Option<Instant> = None;
    let mut late = false;
    let choice = loop {
        let known = Known {
            data: &reader.buf,
            complete: reader.eof || late,
            server_spoke,
            mode: &ctx.mode.kind,
            target: ctx.target.as_ref(),
            peer: peer.as_ref(),
            ended: passed.tls.then_some(ended),
            was_raw: passed.raw,
            settings: &ctx.settings,
        };
        match next_layer::decide(&known) {
            Decision::Layer(layer) => break layer,
            Decision::NeedMore if reader.eof => return None,
            Decision::NeedMore => {}
        }
        if !reader.buf.is_empty() && deadline.is_none() {
            deadline = Some(Instant::now() + ctx.settings.handshake_timeout);
        }
        let patience = deadline
            .map_or(ctx.settings.idle_timeout, |due| due.saturating_duration_since(Instant::now()));
        let read = tokio::select! {
            biased;
            read = reader.fill_within(patience) => read,
            // SMTP, FTP and their kin begin with a greeting.
            () = server_speaks(ctx, upstreams), if !server_spoke => {
                server_spoke = true;
                continue;
            }
            () = sleep(SILENCE), if unconnected.is_some() && reader.buf.is_empty() => {
                if let Some(target) = unconnected.take() {
                    let server = Server::new(Some(target.address()));
                    // If that fails it was logged. Who waits for a greeting is told by the end.
                    let conn = upstreams.fresh(target, server.into()).await.ok()?;
                    upstreams.put_new(conn);
                }
                continue;
            }
        };
        match read {
            Ok(_) => {}
            Err(error) if error.kind() != ErrorKind::TimedOut => return None,
            Err(_) if deadline.is_some() => late = true,
            Err(_) => {
                info!(client = %client_name(&ctx.client), "Closing connection due to inactivity.");
                return None;
            }
        }
    };
    if !ctx.engine.hooks.wanted().has(Hook::NextLayer) {
        return Some(choice);
    }
    let ahead = ctx.target.as_ref().and_then(|target| upstreams.ahead(target));
    let (server, greeting) = ahead.unwrap_or_else(|| {
        let address = ctx.target.as_ref().map(Destination::address);
        (Server::new(address).into(), Bytes::new())
    });
    let data = Shared::new(NextLayerData {
        client: ctx.client.clone(),
        server,
        data_client: Bytes::copy_from_slice(&reader.buf),
        data_server: greeting,
        layer: Some(choice),
    });
    ctx.engine.fire(Event::NextLayer(data.clone())).await;
    data.with(|data| data.layer).or(Some(choice))
}

async fn server_speaks(ctx: &Context, upstreams: &Upstreams) {
    match &ctx.target {
        Some(target) => upstreams.server_speaks(target).await,
        None => std::future::pending().await,
    }
}
