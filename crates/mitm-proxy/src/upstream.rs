//! Connections to servers: making, reusing and sharing them.
//!
//! [`Upstreams`] are those of one client connection: one that this client used is reused freely. When the client
//! leaves, its idle connections go to the [`Pool`], from which other clients take them for requests that are safe to
//! repeat, within a few seconds, if the server has neither closed nor sent anything. Connections that carry an
//! authentication of their own (NTLM and kin) are never shared, and none is while a script listens to server
//! hooks.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mitm_flow::{Address, Client, Server, Shared, now};
use parking_lot::Mutex;
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime::Handle,
    time::timeout,
};
use tracing::info;

use crate::{
    engine::Engine,
    error::Failure,
    hooks::{Event, ServerData},
    http2::{self, NoSession},
    io::{self, Io, Reader, Writer},
    platform, tls,
    via::{self, Via},
};

/// Where a request goes, and how. Connections are reused only for the same destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    pub host: Arc<str>,
    pub port: u16,
    pub tls: bool,
    /// The name to ask for in the TLS handshake; the host if `None`.
    pub sni: Option<Arc<str>>,
    /// The protocols to offer in it. Without TLS: `h2` if the server is known to speak HTTP/2 (RFC 9113 §3.3).
    pub alpn: Arc<[Bytes]>,
    /// The proxy to go through.
    pub via: Option<Via>,
}

impl Destination {
    /// A destination without TLS.
    pub fn plain(host: Arc<str>, port: u16) -> Self {
        Self { host, port, tls: false, sni: None, alpn: Arc::default(), via: None }
    }

    /// Returns the same place, to be spoken to in plain.
    pub(crate) fn without_tls(&self) -> Self {
        Self { tls: false, sni: None, alpn: Arc::default(), ..self.clone() }
    }

    /// True if the connection may turn out to speak HTTP/2.
    pub(crate) fn may_be_http2(&self) -> bool {
        self.alpn.iter().any(|protocol| &protocol[..] == b"h2")
    }

    pub fn address(&self) -> Address {
        Address::new(Arc::clone(&self.host), self.port)
    }
}

/// An open connection to a server.
pub struct ServerConn {
    pub server: Shared<Server>,
    pub destination: Destination,
    pub reader: Reader,
    pub writer: Writer,
    /// A request was answered on it: the next one may meet a server that is just closing it.
    pub used: bool,
    /// It carries an authentication of its client and must not serve others.
    pub married: bool,
    /// The connection as hooks know it, if it leads to a proxy on the way: the cell that `server` has is then that of
    /// what lies behind.
    pub(crate) hop: Option<Shared<Server>>,
    /// Which options it was made under.
    generation: usize,
}

impl ServerConn {
    pub(crate) fn new(
        engine: &Engine,
        server: Shared<Server>,
        destination: Destination,
        (reader, mut writer): (Reader, Writer),
    ) -> Self {
        writer.set_patience(engine.settings().idle_timeout);
        let generation = engine.generation();
        Self {
            server,
            destination,
            reader,
            writer,
            used: false,
            married: false,
            hop: None,
            generation,
        }
    }

    pub(crate) fn with_hop(self, hop: Option<Shared<Server>>) -> Self {
        Self { hop, ..self }
    }

    /// True if the server agreed to speak HTTP/2 on it.
    fn is_http2(&self) -> bool {
        if self.destination.tls {
            self.server.with(|server| server.tls_facts.alpn.as_deref() == Some(b"h2"))
        } else {
            self.destination.may_be_http2()
        }
    }

    /// True if another request may be sent on it: it is as quiet as it should be, and options have not changed.
    fn is_good(&mut self, engine: &Engine) -> bool {
        if self.generation != engine.generation() {
            return false;
        }
        // A server of HTTP/2 begins by itself, with its settings.
        let may_speak = !self.used && self.is_http2();
        io::is_quiet(&mut self.reader) || may_speak && !self.reader.eof
    }
}

/// The connections of one client connection. Clones are handles on the same ones: the streams of an HTTP/2 client share
/// them.
#[derive(Clone)]
pub struct Upstreams(Arc<Own>);

struct Own {
    engine: Arc<Engine>,
    client: Shared<Client>,
    idle: Mutex<Vec<ServerConn>>,
    /// What went wrong when a connection was made ahead of the first request.
    failed: Mutex<Option<(Destination, Failure)>>,
    /// Those that speak HTTP/2, and what else is known of destinations that might.
    sessions: Mutex<HashMap<Destination, Arc<tokio::sync::Mutex<Speaks>>>>,
}

/// What a destination speaks that might speak HTTP/2.
#[derive(Default)]
enum Speaks {
    #[default]
    Unknown,
    /// Connecting just failed. Those who waited for it are told the same.
    Failed(Failure, Instant),
    Http1,
    Http2(http2::Session),
}

/// How many sessions one client keeps.
const SESSIONS_MAX: usize = 32;

/// How long a failure to connect is the answer to those who waited for the connection.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// A connection to send a request on.
#[expect(clippy::large_enum_variant, reason = "the large one is the common one, on the stack")]
pub(crate) enum Line {
    Http1(ServerConn),
    Http2(http2::Session),
}

impl Line {
    /// True if a request was answered on it already.
    pub(crate) fn was_used(&self) -> bool {
        match self {
            Self::Http1(conn) => conn.used,
            Self::Http2(session) => session.was_used(),
        }
    }
}

/// Whether a connection that another client used may serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The request is safe to repeat.
    Allowed,
    Own,
}

impl Upstreams {
    pub fn new(engine: Arc<Engine>, client: Shared<Client>) -> Self {
        Self(Arc::new(Own {
            engine,
            client,
            idle: Mutex::default(),
            failed: Mutex::default(),
            sessions: Mutex::default(),
        }))
    }

    /// Returns a connection to `destination`: an idle one, or a new one described by `server`.
    ///
    /// # Errors
    /// [`Failure::Connect`] with the server's name and the reason.
    pub(crate) async fn get(
        &self,
        destination: &Destination,
        server: Shared<Server>,
        sharing: Sharing,
    ) -> Result<Line, Failure> {
        if !destination.may_be_http2() {
            return self.get_http1(destination, server, sharing).await.map(Line::Http1);
        }
        // Whoever comes first finds out what the server speaks; the others wait for that.
        let speaks = self.speaks(destination);
        let mut speaks = speaks.lock().await;
        match &*speaks {
            Speaks::Http2(session) if session.is_open(&self.0.engine) => {
                return Ok(Line::Http2(session.clone()));
            }
            // Streams that go on there hold it as long as they need it.
            Speaks::Http2(_) => *speaks = Speaks::Unknown,
            Speaks::Failed(failure, since) if since.elapsed() < FAILED_FOR => {
                return Err(failure.clone());
            }
            Speaks::Http1 if destination.tls => {}
            // Without TLS nobody agrees on a version; what was found out is true for a while.
            Speaks::Http1 | Speaks::Unknown | Speaks::Failed(..) => {
                let is_known = !destination.tls && self.0.engine.http1_only.has(destination);
                *speaks = if is_known { Speaks::Http1 } else { Speaks::Unknown };
            }
        }
        if matches!(*speaks, Speaks::Http1) {
            // Each request has a connection of its own, so nobody waits for another.
            drop(speaks);
            let conn = self.get_http1(destination, server, sharing).await?;
            if !destination.tls || !conn.is_http2() {
                return Ok(Line::Http1(conn));
            }
            // Another server answers there by now.
            let session = self.session(conn).await.map_err(|NoSession { failure, .. }| failure)?;
            return Ok(Line::Http2(session));
        }
        let conn = match self.get_http1(destination, server, sharing).await {
            Ok(conn) => conn,
            Err(failure) => {
                *speaks = Speaks::Failed(failure.clone(), Instant::now());
                return Err(failure);
            }
        };
        if !conn.is_http2() {
            *speaks = Speaks::Http1;
            return Ok(Line::Http1(conn));
        }
        match self.session(conn).await {
            Ok(session) => {
                *speaks = Speaks::Http2(session.clone());
                Ok(Line::Http2(session))
            }
            Err(NoSession { speaks_http1, .. }) if !destination.tls => {
                // The client believed it, but the server does not know HTTP/2; or it just closed, for this reason or another.
                drop(speaks);
                let time = if speaks_http1 { HTTP1_ONLY_FOR } else { HTTP1_MAYBE_FOR };
                self.0.engine.http1_only.put(destination.address(), time);
                let server = Shared::new(Server::new(None));
                self.get_http1(destination, server, Sharing::Own).await.map(Line::Http1)
            }
            Err(NoSession { failure, .. }) => Err(failure),
        }
    }

    async fn session(&self, conn: ServerConn) -> Result<http2::Session, NoSession> {
        http2::Session::start(&self.0.engine, &self.0.client, conn).await
    }

    /// Returns a new connection, whatever is there.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn anew(
        &self,
        destination: &Destination,
        server: Shared<Server>,
    ) -> Result<Line, Failure> {
        let conn = self.fresh(destination, server).await?;
        if !destination.tls || !conn.is_http2() {
            return Ok(Line::Http1(conn));
        }
        let session = self.session(conn).await.map_err(|NoSession { failure, .. }| failure)?;
        Ok(Line::Http2(session))
    }

    /// Returns what is known of a destination that might speak HTTP/2. Of many, those that nobody uses are forgotten.
    fn speaks(&self, destination: &Destination) -> Arc<tokio::sync::Mutex<Speaks>> {
        let mut sessions = self.0.sessions.lock();
        if sessions.len() >= SESSIONS_MAX && !sessions.contains_key(destination) {
            // A session without streams ends when it is let go.
            sessions.retain(|_, speaks| match speaks.try_lock().as_deref() {
                Ok(Speaks::Http2(session)) => session.is_busy(),
                Ok(_) => false,
                Err(_) => true,
            });
        }
        Arc::clone(sessions.entry(destination.clone()).or_default())
    }

    async fn get_http1(
        &self,
        destination: &Destination,
        server: Shared<Server>,
        sharing: Sharing,
    ) -> Result<ServerConn, Failure> {
        let Own { engine, client, failed, .. } = &*self.0;
        while let Some(mut conn) = self.take(destination) {
            if conn.is_good(engine) {
                return Ok(conn);
            }
            self.close(conn).await;
        }
        let known = failed.lock().take_if(|(failed, _)| failed == destination);
        if let Some((_, failure)) = known {
            return Err(failure);
        }
        if sharing == Sharing::Allowed
            && let Some(conn) = engine.pool.take(engine, client, destination)
        {
            return Ok(conn);
        }
        self.open(destination, server).await
    }

    /// Returns a new connection. A plain one that was made ahead is used, and TLS begun on it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn open(
        &self,
        destination: &Destination,
        server: Shared<Server>,
    ) -> Result<ServerConn, Failure> {
        let plain = destination.without_tls();
        if plain != *destination
            && let Some(mut conn) = self.take_new(&plain)
        {
            if destination.tls {
                return tls::upgrade(&self.0.engine, &self.0.client, conn, destination).await;
            }
            conn.destination = destination.clone();
            return Ok(conn);
        }
        self.fresh(destination, server).await
    }

    /// Returns a new connection, whatever is idle.
    ///
    /// # Errors
    /// [`Failure::Connect`] with the server's name and the reason.
    pub async fn fresh(
        &self,
        destination: &Destination,
        server: Shared<Server>,
    ) -> Result<ServerConn, Failure> {
        connect(&self.0.engine, &self.0.client, server, destination).await
    }

    /// Keeps a connection for the next request. Of many the oldest is closed.
    pub async fn put(&self, mut conn: ServerConn) {
        conn.reader.rest();
        conn.writer.rest();
        conn.used = true;
        let oldest = {
            let mut idle = self.0.idle.lock();
            idle.push(conn);
            (idle.len() > IDLE_MAX).then(|| idle.remove(0))
        };
        if let Some(oldest) = oldest {
            self.close(oldest).await;
        }
    }

    /// Keeps a connection that was made ahead of the first request.
    pub fn put_new(&self, conn: ServerConn) {
        self.0.idle.lock().push(conn);
    }

    /// Remembers that a connection made ahead of the first request failed: that request is told.
    pub fn remember_failure(&self, destination: Destination, failure: Failure) {
        *self.0.failed.lock() = Some((destination, failure));
    }

    /// Takes a connection that waits for its next request, or was made ahead of the first.
    pub fn take(&self, destination: &Destination) -> Option<ServerConn> {
        let mut idle = self.0.idle.lock();
        let at = idle.iter().position(|conn| conn.destination == *destination)?;
        Some(idle.swap_remove(at))
    }

    /// Takes a connection that was made ahead, and on which nothing was sent yet.
    fn take_new(&self, destination: &Destination) -> Option<ServerConn> {
        let mut idle = self.0.idle.lock();
        let at = idle.iter().position(|conn| !conn.used && conn.destination == *destination)?;
        Some(idle.swap_remove(at))
    }

    /// Returns a connection for a stream of its own: the one that was made ahead, with what the server said on it, or a
    /// new one.
    ///
    /// # Errors
    /// As [`get`](Self::get); also if one was to be made ahead and that failed.
    pub(crate) async fn get_raw(
        &self,
        destination: &Destination,
        server: Shared<Server>,
    ) -> Result<ServerConn, Failure> {
        if let Some(conn) = self.take_new(destination) {
            return Ok(conn);
        }
        let known = self.0.failed.lock().take_if(|(failed, _)| failed == destination);
        if let Some((_, failure)) = known {
            return Err(failure);
        }
        self.open(destination, server).await
    }

    /// Returns the server of the connection that was made ahead to a destination, TLS begun or not yet, and what it said
    /// first.
    pub(crate) fn ahead(&self, destination: &Destination) -> Option<(Shared<Server>, Bytes)> {
        let mut idle = self.0.idle.lock();
        let conn = made_ahead(&mut idle, destination, &destination.without_tls())?;
        Some((conn.server.clone(), Bytes::copy_from_slice(&conn.reader.buf)))
    }

    /// Closes a connection and tells those who want to know.
    pub async fn close(&self, conn: ServerConn) {
        close(&self.0.engine, &self.0.client, conn).await;
    }

    /// Waits until the server closes an idle connection, and closes it here too. Never ends without idle ones.
    pub async fn watch_idle(&self) {
        let ended = poll_fn(|cx| {
            let mut idle = self.0.idle.lock();
            let ended = idle.iter_mut().position(|conn| {
                // Whatever comes is the end: an idle connection has nothing to say.
                pin!(conn.reader.fill()).poll(cx).is_ready()
            });
            match ended {
                Some(at) => Poll::Ready(idle.swap_remove(at)),
                None => Poll::Pending,
            }
        })
        .await;
        self.close(ended).await;
    }

    /// Waits until the server of the connection that was made ahead to a destination says something first. Never ends
    /// otherwise.
    pub(crate) async fn server_speaks(&self, destination: &Destination) {
        let plain = destination.without_tls();
        poll_fn(|cx| {
            let mut idle = self.0.idle.lock();
            let Some(conn) = made_ahead(&mut idle, destination, &plain) else {
                return Poll::Pending;
            };
            match pin!(conn.reader.fill()).poll(cx) {
                Poll::Ready(Ok(1..)) => Poll::Ready(()),
                Poll::Ready(_) | Poll::Pending => Poll::Pending,
            }
        })
        .await;
    }

    /// The client left: idle connections are shared or closed.
    pub async fn finish(self) {
        let Own { engine, client, .. } = &*self.0;
        let idle = std::mem::take(&mut *self.0.idle.lock());
        for conn in idle {
            let shareable = conn.used
                && !conn.married
                && conn.generation == engine.generation()
                && !engine.hooks.servers_are_watched()
                && !engine.settings().spoof_source_address;
            let left = if shareable { engine.pool.put(engine, client, conn) } else { Some(conn) };
            if let Some(conn) = left {
                self.close(conn).await;
            }
        }
        let sessions = std::mem::take(&mut *self.0.sessions.lock());
        for speaks in sessions.into_values() {
            let speaks = std::mem::take(&mut *speaks.lock().await);
            if let Speaks::Http2(session) = speaks {
                session.close().await;
            }
        }
    }
}

/// Finds the connection that was made ahead to a destination, TLS begun or not yet.
fn made_ahead<'a>(
    idle: &'a mut [ServerConn],
    destination: &Destination,
    plain: &Destination,
) -> Option<&'a mut ServerConn> {
    idle.iter_mut().rfind(|conn| {
        !conn.used && (conn.destination == *destination || conn.destination == *plain)
    })
}

/// Closes a connection and tells those who want to know. What was begun on it is given up; once begun, this goes on
/// whatever becomes of the caller.
async fn close(engine: &Arc<Engine>, client: &Shared<Client>, mut conn: ServerConn) {
    let (engine, client) = (Arc::clone(engine), client.clone());
    let closing = tokio::spawn(async move {
        conn.writer.discard();
        conn.writer.shutdown().await;
        ended(&engine, &client, conn.server, conn.hop).await;
    });
    // It has no result.
    let _ = closing.await;
}

/// Tells those who want to know that the connection to `server` is closed, or to the proxy on the way, if there is one.
pub(crate) async fn ended(
    engine: &Engine,
    client: &Shared<Client>,
    server: Shared<Server>,
    hop: Option<Shared<Server>>,
) {
    match hop {
        None => disconnected(engine, client, server).await,
        Some(hop) => {
            server.update(|server| server.timestamp_end = Some(now()));
            disconnected(engine, client, hop).await;
        }
    }
}

/// Tells those who want to know that a server connection is closed.
pub(crate) async fn disconnected(engine: &Engine, client: &Shared<Client>, server: Shared<Server>) {
    let address = server.update(|server| {
        server.timestamp_end = Some(now());
        describe(server)
    });
    info!(client = %client_name(client), "server disconnect {address}");
    let data = ServerData { server, client: client.clone() };
    engine.fire(Event::ServerDisconnected(data)).await;
}

/// Connects to `destination`; `server` is filled with what is learnt. If the way leads through another proxy, hooks see
/// the connection to that one, in a cell of its own.
async fn connect(
    engine: &Arc<Engine>,
    client: &Shared<Client>,
    server: Shared<Server>,
    destination: &Destination,
) -> Result<ServerConn, Failure> {
    server.update(|server| {
        server.address.get_or_insert_with(|| destination.address());
        server.tls = destination.tls;
        server.via = destination.via.as_ref().map(Via::as_flow_value);
        if destination.tls {
            server.tls_facts.sni.get_or_insert_with(|| {
                destination.sni.clone().unwrap_or_else(|| Arc::clone(&destination.host))
            });
        }
    });
    let hop = destination.via.as_ref().map(|via| Shared::new(Server::new(Some(via.address()))));
    let mut attempt = Opening::new(engine, client, &server, hop.as_ref());
    let tcp = connect_tcp(&mut attempt).await.inspect_err(|failure| {
        if hop.is_some() {
            server.update(|server| server.error = Some(failure.to_string().into()));
        }
    })?;
    let mut io = Io::Tcp(tcp);
    if let (Some(via), Some(hop)) = (&destination.via, &hop) {
        let (peer, sock, begun, setup) = hop.with(|hop| {
            let times = (hop.timestamp_start, hop.timestamp_tcp_setup);
            (hop.peername.clone(), hop.sockname.clone(), times.0, times.1)
        });
        server.update(|server| {
            server.peername = peer;
            server.sockname = sock;
            server.timestamp_start = begun;
            server.timestamp_tcp_setup = setup;
        });
        io = match via::reach(engine, client, hop, via, destination, io).await {
            Ok(io) => io,
            Err(failure) => {
                server.update(|server| server.error = Some(failure.to_string().into()));
                attempt.is_over();
                disconnected(engine, client, hop.clone()).await;
                return Err(failure);
            }
        };
    }
    if destination.tls {
        io = match tls::connect(engine, client, &server, destination, hop.as_ref(), io).await {
            Ok(io) => io,
            Err(error) => {
                attempt.is_over();
                ended(engine, client, server, hop).await;
                return Err(error);
            }
        };
    }
    attempt.is_over();
    let halves = io::split(io, BytesMut::new());
    Ok(ServerConn::new(engine, server, destination.clone(), halves).with_hop(hop))
}

/// Opens another connection in place of one that was given up, of which hooks learn nothing, up to where TLS begins.
pub(crate) fn reopen<'a>(
    engine: &'a Arc<Engine>,
    client: &'a Shared<Client>,
    server: &'a Shared<Server>,
    destination: &'a Destination,
    hop: Option<&'a Shared<Server>>,
) -> Pin<Box<dyn Future<Output = Result<Io, Failure>> + Send + 'a>> {
    // Boxed, since reaching a proxy on the way may be a TLS handshake as well.
    Box::pin(async move {
        let first = hop.unwrap_or(server);
        let tcp =
            open(engine, client, first).await.map_err(|error| Failure::Connect(error.into()))?;
        let (peer, sock) = (tcp.peer_addr().ok(), tcp.local_addr().ok());
        for cell in [Some(server), hop].into_iter().flatten() {
            cell.update(|cell| {
                cell.peername = peer.map(Address::from);
                cell.sockname = sock.map(Address::from);
                cell.timestamp_tcp_setup = Some(now());
            });
        }
        match (&destination.via, hop) {
            (Some(via), Some(hop)) => {
                via::reach(engine, client, hop, via, destination, Io::Tcp(tcp)).await
            }
            _ => Ok(Io::Tcp(tcp)),
        }
    })
}

/// A connection on its way. If it is given up, because nobody waits for it any more, hooks are told how it ended.
pub(crate) struct Opening {
    engine: Arc<Engine>,
    client: Shared<Client>,
    server: Shared<Server>,
    hop: Option<Shared<Server>>,
    stage: Stage,
}

/// Which hook was the last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// None that another must follow.
    Over,
    Connecting,
    Connected,
}

impl Opening {
    fn new(
        engine: &Arc<Engine>,
        client: &Shared<Client>,
        server: &Shared<Server>,
        hop: Option<&Shared<Server>>,
    ) -> Self {
        Self {
            engine: Arc::clone(engine),
            client: client.clone(),
            server: server.clone(),
            hop: hop.cloned(),
            stage: Stage::Over,
        }
    }

    /// What is done on a connection that hooks know.
    pub(crate) fn connected(
        engine: &Arc<Engine>,
        client: &Shared<Client>,
        server: &Shared<Server>,
        hop: Option<&Shared<Server>>,
    ) -> Self {
        let mut attempt = Self::new(engine, client, server, hop);
        attempt.stage = Stage::Connected;
        attempt
    }

    /// Somebody else tells hooks from now on.
    pub(crate) fn is_over(&mut self) {
        self.stage = Stage::Over;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        // At the end of the program nobody listens.
        let (Ok(runtime), true) = (Handle::try_current(), self.stage != Stage::Over) else {
            return;
        };
        let (engine, client, stage) = (Arc::clone(&self.engine), self.client.clone(), self.stage);
        let (server, hop) = (self.server.clone(), self.hop.take());
        runtime.spawn(async move {
            if stage == Stage::Connected {
                ended(&engine, &client, server, hop).await;
                return;
            }
            let server = hop.unwrap_or(server);
            server.update(|server| server.error = Some("Client disconnected.".into()));
            engine.fire(Event::ServerConnectError(ServerData { server, client })).await;
        });
    }
}

/// Opens the TCP connection to the first on the way, with the hooks around it.
async fn connect_tcp(attempt: &mut Opening) -> Result<TcpStream, Failure> {
    let (engine, client) = (&Arc::clone(&attempt.engine), &attempt.client.clone());
    let server = &attempt.hop.as_ref().unwrap_or(&attempt.server).clone();
    let data = ServerData { server: server.clone(), client: client.clone() };
    attempt.stage = Stage::Connecting;
    engine.fire(Event::ServerConnect(data.clone())).await;
    if let Some(error) = server.with(|server| server.error.clone()) {
        let address = server.with(describe);
        info!(
            client = %client_name(client),
            "server connection to {address} killed before connect: {error}"
        );
        attempt.is_over();
        engine.fire(Event::ServerConnectError(data)).await;
        return Err(Failure::Connect(format!("Connection killed: {error}").into()));
    }
    let tcp = match open(engine, client, server).await {
        Ok(tcp) => tcp,
        Err(error) => {
            let error: Arc<str> = error.into();
            info!(client = %client_name(client), "error establishing server connection: {error}");
            server.update(|server| server.error = Some(Arc::clone(&error)));
            attempt.is_over();
            engine.fire(Event::ServerConnectError(data)).await;
            return Err(Failure::Connect(error));
        }
    };
    let address = server.update(|server| {
        server.peername = tcp.peer_addr().ok().map(Address::from);
        server.sockname = tcp.local_addr().ok().map(Address::from);
        server.timestamp_tcp_setup = Some(now());
        describe(server)
    });
    info!(client = %client_name(client), "server connect {address}");
    attempt.stage = Stage::Connected;
    engine.fire(Event::ServerConnected(data)).await;
    Ok(tcp)
}

/// Resolves the server's name and opens a TCP connection to the first address that answers.
async fn open(
    engine: &Engine,
    client: &Shared<Client>,
    server: &Shared<Server>,
) -> Result<TcpStream, String> {
    let settings = engine.settings();
    let source = if settings.spoof_source_address {
        client.with(|client| client.peername.as_ref()?.host.parse().ok()).map(Source::Client)
    } else {
        settings.connect_addr.map(Source::Own)
    };
    let address = server.update(|server| {
        server.timestamp_start = Some(now());
        server.address.clone()
    });
    let address = address.ok_or("Cannot open connection, no hostname given.")?;
    let name = address.to_string();
    let addresses = if let Ok(ip) = address.host.parse::<IpAddr>() {
        vec![SocketAddr::new(ip, address.port)]
    } else {
        let lookup = tokio::net::lookup_host((&*address.host, address.port));
        match timeout(settings.connect_timeout, lookup).await {
            Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
            Ok(Err(error)) => return Err(format!("Cannot resolve {}: {error}", address.host)),
            Err(_) => return Err(format!("Cannot resolve {}: timed out", address.host)),
        }
    };
    if addresses.is_empty() {
        return Err(format!("Cannot resolve {}: no addresses", address.host));
    }
    let mut errors: Vec<String> = Vec::new();
    for address in addresses {
        if engine.is_own_address(address) {
            return Err(own_address_error());
        }
        let attempt = open_one(address, source);
        let error = match timeout(settings.connect_timeout, attempt).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", settings.connect_timeout.as_secs()),
        };
        if !errors.contains(&error) {
            errors.push(error);
        }
    }
    Err(format!("Cannot connect to {name}: {}", errors.join(", ")))
}

fn own_address_error() -> String {
    "Request destination unknown. The request leads to the proxy itself, which would be a loop: the client \
     must name the server it wants, or use the proxy by its proxy settings."
        .into()
}

/// Where connections to servers come from.
#[derive(Clone, Copy)]
enum Source {
    Own(IpAddr),
    /// The client's address, which is not this machine's as a rule.
    Client(IpAddr),
}

async fn open_one(address: SocketAddr, source: Option<Source>) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    match source {
        None => {}
        Some(Source::Own(ip)) => socket.bind(SocketAddr::new(ip, 0))?,
        Some(Source::Client(ip)) => platform::bind_foreign(&socket, ip.to_canonical())?,
    }
    let tcp = socket.connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// As the log shows a server: `host:port`, and the address it was resolved to if that says more.
fn describe(server: &Server) -> String {
    let Some(address) = &server.address else { return "<no address>".into() };
    match &server.peername {
        Some(peer) if peer.host != address.host => format!("{address} ({peer})"),
        _ => address.to_string(),
    }
}

pub(crate) fn client_name(client: &Shared<Client>) -> String {
    client.with(|client| client.peername.as_ref().map(ToString::to_string)).unwrap_or_default()
}

/// Servers that did not know HTTP/2 when somebody spoke it to them unasked.
#[derive(Default)]
pub(crate) struct Http1Only(Mutex<HashMap<Address, Instant>>);

/// How long, and of how many servers, that is remembered.
const HTTP1_ONLY_FOR: Duration = Duration::from_mins(10);
const HTTP1_MAYBE_FOR: Duration = Duration::from_secs(5);
const HTTP1_ONLY_MAX: usize = 1_000;

impl Http1Only {
    fn has(&self, destination: &Destination) -> bool {
        let known = self.0.lock();
        known.get(&destination.address()).is_some_and(|until| *until > Instant::now())
    }

    fn put(&self, address: Address, time: Duration) {
        let mut known = self.0.lock();
        if known.len() >= HTTP1_ONLY_MAX {
            known.clear();
        }
        known.insert(address, Instant::now() + time);
    }
}

/// Idle connections whose clients left.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    by_destination: HashMap<Destination, VecDeque<(ServerConn, Shared<Client>, Instant)>>,
    count: usize,
    /// A task that closes old ones is running.
    is_swept: bool,
}

/// How many idle connections one client keeps.
const IDLE_MAX: usize = 8;
/// How long a connection may wait for another client.
const SHARED_IDLE: Duration = Duration::from_secs(5);
/// How many may wait.
const SHARED_MAX: usize = 256;

impl Pool {
    fn take(
        &self,
        engine: &Arc<Engine>,
        client: &Shared<Client>,
        destination: &Destination,
    ) -> Option<ServerConn> {
        loop {
            let (mut conn, since) = {
                let mut idle = self.idle.lock();
                let queue = idle.by_destination.get_mut(destination)?;
                let (conn, _, since) = queue.pop_back()?;
                idle.count -= 1;
                (conn, since)
            };
            if since.elapsed() < SHARED_IDLE && conn.is_good(engine) {
                return Some(conn);
            }
            let (engine, client) = (Arc::clone(engine), client.clone());
            tokio::spawn(async move { close(&engine, &client, conn).await });
        }
    }

    /// Keeps a connection; gives it back if there are too many.
    fn put(
        &self,
        engine: &Arc<Engine>,
        client: &Shared<Client>,
        conn: ServerConn,
    ) -> Option<ServerConn> {
        let mut idle = self.idle.lock();
        if idle.count >= SHARED_MAX {
            return Some(conn);
        }
        idle.count += 1;
        let queue = idle.by_destination.entry(conn.destination.clone()).or_default();
        queue.push_back((conn, client.clone(), Instant::now()));
        if !std::mem::replace(&mut idle.is_swept, true) {
            tokio::spawn(sweep(Arc::clone(engine)));
        }
        None
    }

    /// Closes all of them: options changed, a script began to listen, or the proxy stops.
    pub fn clear(&self) {
        let old = {
            let mut idle = self.idle.lock();
            idle.count = 0;
            std::mem::take(&mut idle.by_destination)
        };
        drop(old);
    }

    /// Takes out those older than [`SHARED_IDLE`]; `None` if none are left at all.
    fn expired(&self) -> Option<Vec<(ServerConn, Shared<Client>)>> {
        let mut expired = Vec::new();
        let mut idle = self.idle.lock();
        let Idle { by_destination, count, is_swept } = &mut *idle;
        by_destination.retain(|_, queue| {
            while queue.front().is_some_and(|(_, _, since)| since.elapsed() >= SHARED_IDLE) {
                if let Some((conn, client, _)) = queue.pop_front() {
                    *count -= 1;
                    expired.push((conn, client));
                }
            }
            !queue.is_empty()
        });
        if expired.is_empty() && by_destination.is_empty() {
            *is_swept = false;
            return None;
        }
        Some(expired)
    }
}

/// Closes idle connections in time. Ends when there are none.
async fn sweep(engine: Arc<Engine>) {
    loop {
        tokio::time::sleep(SHARED_IDLE / 5).await;
        let Some(expired) = engine.pool.expired() else { return };
        for (conn, client) in expired {
            close(&engine, &client, conn).await;
        }
    }
}
