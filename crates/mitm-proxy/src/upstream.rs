//! Connections to servers: making, reusing and sharing them.
//!
//! [`Upstreams`] are those of one client connection: one that this client used is reused freely. When the client
//! leaves, its idle connections go to the [`Pool`], from which other clients take them for requests that are safe to
//! repeat, within a few seconds, if the server has neither closed nor sent anything. Connections that carry an
//! authentication of their own (NTLM and kin) are never shared, and none is while a script listens to server
//! hooks.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mitm_flow::{Address, Client, Server, Shared, now};
use parking_lot::Mutex;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tracing::info;

use crate::{
    engine::Engine,
    error::Failure,
    hooks::{Event, ServerData},
    io::{self, Io, Reader, Writer},
};

/// Where a request goes, and how. Connections are reused only for the same destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    pub host: Arc<str>,
    pub port: u16,
    pub tls: bool,
    /// The name to ask for in the TLS handshake; the host if `None`.
    pub sni: Option<Arc<str>>,
    /// The protocols to offer in it.
    pub alpn: Arc<[Bytes]>,
}

impl Destination {
    /// A destination without TLS.
    pub fn plain(host: Arc<str>, port: u16) -> Self {
        Self { host, port, tls: false, sni: None, alpn: Arc::default() }
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
}

/// The connections of one client connection.
pub struct Upstreams {
    engine: Arc<Engine>,
    client: Shared<Client>,
    idle: Vec<ServerConn>,
    /// What went wrong when a connection was made ahead of the first request.
    failed: Option<(Destination, Failure)>,
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
        Self { engine, client, idle: Vec::new(), failed: None }
    }

    /// Returns a connection to `destination`: an idle one, or a new one described by `server`.
    ///
    /// # Errors
    /// [`Failure::Connect`] with the server's name and the reason.
    pub async fn get(
        &mut self,
        destination: &Destination,
        server: Shared<Server>,
        sharing: Sharing,
    ) -> Result<ServerConn, Failure> {
        while let Some(at) = self.idle.iter().position(|conn| conn.destination == *destination) {
            let mut conn = self.idle.swap_remove(at);
            if io::is_quiet(&mut conn.reader) {
                return Ok(conn);
            }
            self.close(conn).await;
        }
        if let Some((_, failure)) = self.failed.take_if(|(failed, _)| failed == destination) {
            return Err(failure);
        }
        if sharing == Sharing::Allowed
            && let Some(conn) = self.engine.pool.take(destination)
        {
            return Ok(conn);
        }
        connect(&self.engine, &self.client, server, destination).await
    }

    /// Returns a new connection, whatever is idle.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn fresh(
        &mut self,
        destination: &Destination,
        server: Shared<Server>,
    ) -> Result<ServerConn, Failure> {
        connect(&self.engine, &self.client, server, destination).await
    }

    /// Keeps a connection for the next request.
    pub fn put(&mut self, mut conn: ServerConn) {
        conn.reader.rest();
        conn.writer.rest();
        conn.used = true;
        self.idle.push(conn);
    }

    /// Keeps a connection that was made ahead of the first request.
    pub fn put_new(&mut self, conn: ServerConn) {
        self.idle.push(conn);
    }

    /// Remembers that a connection made ahead of the first request failed: that request is told.
    pub fn remember_failure(&mut self, destination: Destination, failure: Failure) {
        self.failed = Some((destination, failure));
    }

    /// Returns the connection that was made ahead of the first request.
    pub fn peek(&self, destination: &Destination) -> Option<&ServerConn> {
        self.idle.iter().find(|conn| conn.destination == *destination)
    }

    /// Takes the connection that was made ahead of the first request.
    pub fn take(&mut self, destination: &Destination) -> Option<ServerConn> {
        let at = self.idle.iter().position(|conn| conn.destination == *destination)?;
        Some(self.idle.swap_remove(at))
    }

    /// Closes a connection and tells those who want to know.
    pub async fn close(&self, conn: ServerConn) {
        disconnect(&self.engine, &self.client, conn).await;
    }

    /// Waits until the server closes an idle connection, and closes it here too. Never ends without idle ones.
    pub async fn watch_idle(&mut self) {
        let Some(conn) = self.idle.last_mut() else { return std::future::pending().await };
        // Whatever comes is the end: an idle connection has nothing to say.
        let _ = conn.reader.fill().await;
        if let Some(conn) = self.idle.pop() {
            self.close(conn).await;
        }
    }

    /// The client left: idle connections are shared or closed.
    pub async fn finish(mut self) {
        for conn in std::mem::take(&mut self.idle) {
            let shareable = conn.used && !conn.married && !self.engine.hooks.servers_are_watched();
            if shareable {
                self.engine.pool.put(&self.engine, &self.client, conn);
            } else {
                self.close(conn).await;
            }
        }
    }
}

async fn disconnect(engine: &Engine, client: &Shared<Client>, mut conn: ServerConn) {
    conn.writer.shutdown().await;
    let address = conn.server.update(|server| {
        server.timestamp_end = Some(now());
        describe(server)
    });
    info!(client = %client_name(client), "server disconnect {address}");
    let data = ServerData { server: conn.server, client: client.clone() };
    engine.fire(Event::ServerDisconnected(data)).await;
}

/// Connects to `destination`; `server` is filled with what is learnt.
async fn connect(
    engine: &Arc<Engine>,
    client: &Shared<Client>,
    server: Shared<Server>,
    destination: &Destination,
) -> Result<ServerConn, Failure> {
    server.update(|server| {
        server.address.get_or_insert_with(|| destination.address());
        server.tls = destination.tls;
        if destination.tls {
            server.tls_facts.sni.get_or_insert_with(|| {
                destination.sni.clone().unwrap_or_else(|| Arc::clone(&destination.host))
            });
        }
    });
    let data = ServerData { server: server.clone(), client: client.clone() };
    engine.fire(Event::ServerConnect(data.clone())).await;
    if let Some(error) = server.with(|server| server.error.clone()) {
        let address = server.with(describe);
        info!(
            client = %client_name(client),
            "server connection to {address} killed before connect: {error}"
        );
        engine.fire(Event::ServerConnectError(data)).await;
        return Err(Failure::Connect(format!("Connection killed: {error}").into()));
    }
    let result = open(engine, &server).await;
    let tcp = match result {
        Ok(tcp) => tcp,
        Err(error) => {
            let error: Arc<str> = error.into();
            info!(client = %client_name(client), "error establishing server connection: {error}");
            server.update(|server| server.error = Some(Arc::clone(&error)));
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
    engine.fire(Event::ServerConnected(data.clone())).await;

    let io = if destination.tls {
        match crate::tls::connect(engine, client, &server, destination, Io::Tcp(tcp)).await {
            Ok(io) => io,
            Err(error) => {
                server.update(|server| server.timestamp_end = Some(now()));
                info!(client = %client_name(client), "server disconnect {address}");
                engine.fire(Event::ServerDisconnected(data)).await;
                return Err(error);
            }
        }
    } else {
        Io::Tcp(tcp)
    };
    let (reader, writer) = io::split(io, BytesMut::new());
    let destination = destination.clone();
    Ok(ServerConn { server, destination, reader, writer, used: false, married: false })
}

/// Resolves the server's name and opens a TCP connection to the first address that answers.
async fn open(engine: &Engine, server: &Shared<Server>) -> Result<TcpStream, String> {
    let settings = engine.settings();
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
        if engine.is_own_address(address, None) {
            return Err(own_address_error());
        }
        let attempt = open_one(address, settings.connect_addr);
        let error = match timeout(settings.connect_timeout, attempt).await {
            Ok(Ok(tcp)) => {
                let local = tcp.local_addr().map(|local| local.ip()).ok();
                if engine.is_own_address(address, local) {
                    return Err(own_address_error());
                }
                return Ok(tcp);
            }
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

async fn open_one(address: SocketAddr, local: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(ip) = local {
        socket.bind(SocketAddr::new(ip, 0))?;
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

/// How long a connection may wait for another client.
const SHARED_IDLE: Duration = Duration::from_secs(5);
/// How many may wait.
const SHARED_MAX: usize = 256;

impl Pool {
    fn take(&self, destination: &Destination) -> Option<ServerConn> {
        loop {
            let (mut conn, since) = {
                let mut idle = self.idle.lock();
                let queue = idle.by_destination.get_mut(destination)?;
                let (conn, _, since) = queue.pop_back()?;
                idle.count -= 1;
                (conn, since)
            };
            if since.elapsed() < SHARED_IDLE && io::is_quiet(&mut conn.reader) {
                return Some(conn);
            }
            conn.server.update(|server| server.timestamp_end = Some(now()));
        }
    }

    fn put(&self, engine: &Arc<Engine>, client: &Shared<Client>, conn: ServerConn) {
        let mut idle = self.idle.lock();
        if idle.count >= SHARED_MAX {
            drop(idle);
            conn.server.update(|server| server.timestamp_end = Some(now()));
            return;
        }
        idle.count += 1;
        let queue = idle.by_destination.entry(conn.destination.clone()).or_default();
        queue.push_back((conn, client.clone(), Instant::now()));
        if !std::mem::replace(&mut idle.is_swept, true) {
            tokio::spawn(sweep(Arc::clone(engine)));
        }
    }

    /// Closes all of them: options changed, a script began to listen, or the proxy stops.
    pub fn clear(&self) {
        let old = std::mem::take(&mut self.idle.lock().by_destination);
        self.idle.lock().count = 0;
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
            disconnect(&engine, &client, conn).await;
        }
    }
}
