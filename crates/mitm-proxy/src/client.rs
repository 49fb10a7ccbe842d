//! The life of a client connection: accepted, layer by layer, closed.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use mitm_flow::{Client, FlowRef, Server, Shared, now};
use tracing::{error, info};

use crate::{
    engine::Engine,
    exchange::Context,
    hooks::{Event, Hook, LayerKind, NextLayerData},
    http1, http2,
    io::{self, Io, Reader, Writer},
    mode::{Mode, ModeKind},
    next_layer::{self, Decision, Known},
    platform, socks5, tls,
    upstream::{Destination, ServerConn, Upstreams, client_name, ended},
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
            match socks5::serve(&mut ctx, &mut reader, &mut writer, upstreams).await {
                true => layers(ctx, reader, writer, upstreams).await,
                false => writer.shutdown().await,
            }
            return;
        }
    }
    if let Some(target) = &ctx.target
        && wants_connection(&ctx, target)
    {
        // Whether HTTP over TLS offers HTTP/2, only the client can say.
        let first = match &ctx.mode.kind {
            ModeKind::Reverse(mode) if mode.scheme.is_http() => {
                &Destination::plain(Arc::clone(&target.host), target.port)
            }
            _ => target,
        };
        let server = Server::new(Some(target.address()));
        match upstreams.fresh(first, server.into()).await {
            Ok(conn) => upstreams.put_new(conn),
            Err(failure) => upstreams.remember_failure(target.clone(), failure),
        }
    }
    let (reader, writer) = io::split(io, BytesMut::new());
    layers(ctx, reader, writer, upstreams).await;
}

async fn original_destination(io: &Io) -> std::io::Result<SocketAddr> {
    match io {
        Io::Tcp(tcp) => platform::original_destination(tcp).await,
        _ => Err(std::io::ErrorKind::Unsupported.into()),
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
    // TLS is ended once on the way to the proxy, and once in a tunnel. What is TLS below that is the server's.
    let mut tls_ended = false;
    loop {
        writer.set_patience(ctx.settings.idle_timeout);
        let Some(layer) = next(&ctx, &mut reader, upstreams).await else { return };
        match layer {
            LayerKind::Http if speaks_http2(&ctx, &mut reader).await => {
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
                        tls_ended = false;
                    }
                    http1::End::Upgrade(conn, flow) => {
                        upgraded(&ctx, (reader, writer), *conn, flow).await;
                        return;
                    }
                }
            }
            LayerKind::Tls if !tls_ended => {
                tls_ended = true;
                let (io, read) = io::join(reader, writer);
                match Box::pin(tls::accept(&mut ctx, io, read, upstreams)).await {
                    tls::Accepted::Established(io) => {
                        (reader, writer) = io::split(io, BytesMut::new());
                    }
                    tls::Accepted::Ignored(io, read) => {
                        (reader, writer) = io::split(io, read);
                        pass(&ctx, reader, writer, upstreams).await;
                        return;
                    }
                    tls::Accepted::Failed => return,
                }
            }
            LayerKind::Tls | LayerKind::Tcp | LayerKind::Ignore => {
                pass(&ctx, reader, writer, upstreams).await;
                return;
            }
        }
    }
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
async fn speaks_http2(ctx: &Context, reader: &mut Reader) -> bool {
    if !ctx.settings.http2 {
        return false;
    }
    if ctx.client.with(|client| client.tls && client.tls_facts.alpn.as_deref() == Some(b"h2")) {
        return true;
    }
    while reader.buf.len() < http2::PREFACE.len() && http2::PREFACE.starts_with(&reader.buf) {
        if !matches!(reader.fill_within(ctx.settings.idle_timeout).await, Ok(1..)) {
            return false;
        }
    }
    reader.buf.starts_with(http2::PREFACE)
}

/// Goes on after the server switched protocols.
pub(crate) async fn upgraded(ctx: &Context, client: (Reader, Writer), conn: ServerConn, flow: FlowRef) {
    flow.set_live(false);
    relay(ctx, client, conn).await;
}

/// Decides what the stream speaks; `None` if it ended before that could be told.
async fn next(ctx: &Context, reader: &mut Reader, upstreams: &Upstreams) -> Option<LayerKind> {
    let choice = loop {
        let known = Known {
            data: &reader.buf,
            in_tunnel: ctx.target.is_some(),
            eof: reader.eof,
            rawtcp: ctx.settings.rawtcp,
        };
        match next_layer::decide(&known) {
            Decision::Layer(layer) => break layer,
            Decision::NeedMore if reader.eof => return None,
            Decision::NeedMore => {}
        }
        let read = tokio::select! {
            biased;
            read = reader.fill_within(ctx.settings.idle_timeout) => read,
            // SMTP, FTP and their kin begin with a greeting.
            () = upstreams.server_speaks(), if ctx.target.is_some() => {
                break if ctx.settings.rawtcp { LayerKind::Tcp } else { LayerKind::Http };
            }
        };
        match read {
            Ok(0) if reader.buf.is_empty() => return None,
            Ok(_) => {}
            Err(error) => {
                if error.kind() == std::io::ErrorKind::TimedOut {
                    info!(client = %client_name(&ctx.client), "Closing connection due to inactivity.");
                }
                return None;
            }
        }
    };
    if !ctx.engine.hooks.wanted().has(Hook::NextLayer) {
        return Some(choice);
    }
    let server = ctx.target.as_ref().map(Destination::address);
    let data = Shared::new(NextLayerData {
        client: ctx.client.clone(),
        server: Server::new(server).into(),
        data_client: Bytes::copy_from_slice(&reader.buf),
        data_server: Bytes::new(),
        layer: Some(choice),
    });
    ctx.engine.fire(Event::NextLayer(data.clone())).await;
    data.with(|data| data.layer).or(Some(choice))
}

/// Connects the client with the server and leaves them alone. Inside of TLS the server is spoken to in TLS as well.
async fn pass(ctx: &Context, reader: Reader, writer: Writer, upstreams: &Upstreams) {
    let Some(destination) = &ctx.target else { return };
    let conn = if let Some(conn) = upstreams.take(destination) {
        conn
    } else {
        let server = Server::new(Some(destination.address()));
        match upstreams.open(destination, server.into()).await {
            Ok(conn) => conn,
            // It was logged, and there is nothing that could be answered.
            Err(_) => return,
        }
    };
    relay(ctx, (reader, writer), conn).await;
}

/// Copies both directions until the end, and closes the server connection.
async fn relay(ctx: &Context, client: (Reader, Writer), conn: ServerConn) {
    let ServerConn { server, reader, writer, hop, .. } = conn;
    // Either side may end this as it likes.
    let _ = io::relay(client, (reader, writer), ctx.settings.idle_timeout).await;
    ended(&ctx.engine, &ctx.client, server, hop).await;
}
