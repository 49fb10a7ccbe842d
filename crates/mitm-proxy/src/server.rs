//! [`Proxy`]: the listeners, and the handle on the engine that the rest of the program holds.

use std::{
    borrow::Cow,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mitm_flow::Address;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    client,
    engine::Engine,
    hooks::Hooks,
    io::Io,
    mode::{Mode, ModeKind},
    platform,
    settings::Settings,
    tls::TlsContext,
};

/// A listener cannot be started.
#[derive(Debug, Error)]
#[error("{description} failed to listen on {address} with {source}")]
pub struct ListenError {
    pub description: Cow<'static, str>,
    pub address: String,
    pub source: io::Error,
    /// A port of its own was given: in the mode's specification or by option.
    pub has_own_port: bool,
}

/// Where the modes that do not say so listen.
#[derive(Clone, Debug, Default)]
pub struct ListenDefaults {
    /// Empty: all addresses.
    pub host: String,
    pub port: Option<u16>,
}

impl ListenDefaults {
    /// Returns the host a mode listens on, and the port if one is given.
    fn place(&self, mode: &Mode) -> (String, Option<u16>) {
        let host = mode.host.clone().unwrap_or_else(|| self.host.clone());
        (host, mode.port.or(self.port))
    }
}

/// The proxy. Clones are handles on the same one.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    engine: Arc<Engine>,
    listeners: Mutex<Vec<Listener>>,
    /// Those that listen no more, but whose clients are still there.
    retired: Mutex<Vec<Listener>>,
    /// Permits for client connections, from the limit of open files.
    permits: Arc<Semaphore>,
}

struct Listener {
    mode: Arc<Mode>,
    /// Where it was asked to listen: the host, and the port if one was given.
    place: (String, Option<u16>),
    addresses: Vec<SocketAddr>,
    /// Ends when the sockets are closed.
    open: Vec<oneshot::Receiver<()>>,
    stop: watch::Sender<Stop>,
    tasks: Vec<JoinHandle<()>>,
}

/// What is asked of a listener.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stop {
    /// Nothing.
    No,
    /// To accept no more connections.
    Accepting,
    /// To end those that were accepted as well.
    Serving,
}

/// How long the end of a connection may take, which waits for nobody.
const ABORT: Duration = Duration::from_secs(2);

impl Proxy {
    /// Makes a proxy that listens nowhere yet.
    pub fn new(hooks: Arc<dyn Hooks>, settings: Settings) -> Self {
        let permits = Arc::new(Semaphore::new(platform::client_connections()));
        Self(Arc::new(Inner {
            engine: Arc::new(Engine::new(hooks, settings)),
            listeners: Mutex::default(),
            retired: Mutex::default(),
            permits,
        }))
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.0.engine
    }

    /// Puts other settings in force: for each connection from its next request on.
    pub fn configure(&self, settings: Settings) {
        self.0.engine.set_settings(settings);
    }

    /// Gives certificates and TLS configurations. Handshakes that came before wait for it.
    pub fn set_tls(&self, tls: TlsContext) {
        self.0.engine.set_tls(tls);
    }

    /// Closes connections that wait to be shared.
    pub fn clear_pool(&self) {
        self.0.engine.pool.clear();
    }

    /// Returns the number of open client connections.
    pub fn connections(&self) -> usize {
        self.0.engine.connections()
    }

    /// Returns the addresses listened on.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.0.engine.listening()
    }

    /// Listens for exactly these modes: those that are gone are stopped first, unchanged ones go on.
    ///
    /// # Errors
    /// Of each mode that cannot be started; the others are.
    pub async fn listen(&self, modes: Vec<Mode>, defaults: &ListenDefaults) -> Vec<ListenError> {
        let (kept, gone): (Vec<_>, Vec<_>) = {
            let mut listeners = self.0.listeners.lock();
            listeners.drain(..).partition(|listener| {
                modes.contains(&listener.mode) && listener.place == defaults.place(&listener.mode)
            })
        };
        for mut listener in gone {
            listener.stop().await;
            // Its clients are served to their end.
            let mut retired = self.0.retired.lock();
            retired.retain(|old| !old.has_ended());
            retired.push(listener);
        }
        let started: Vec<Arc<Mode>> =
            kept.iter().map(|listener| Arc::clone(&listener.mode)).collect();
        *self.0.listeners.lock() = kept;
        let mut errors = Vec::new();
        for mode in modes {
            if started.iter().any(|known| **known == mode) {
                continue;
            }
            match self.start(mode, defaults) {
                Ok(listener) => self.0.listeners.lock().push(listener),
                Err(error) => errors.push(error),
            }
        }
        let addresses = {
            let listeners = self.0.listeners.lock();
            listeners.iter().flat_map(|listener| listener.addresses.clone()).collect()
        };
        self.0.engine.set_listening(addresses);
        errors
    }

    fn start(&self, mode: Mode, defaults: &ListenDefaults) -> Result<Listener, ListenError> {
        let place = defaults.place(&mode);
        let (host, given) = place.clone();
        let port = given.unwrap_or_else(|| mode.default_port());
        let foreign = mode.kind == ModeKind::Transparent;
        let sockets = bind(&host, port, foreign).map_err(|source| {
            let host = if host.is_empty() { "*" } else { &host };
            ListenError {
                description: mode.description(),
                address: format!("{host}:{port}"),
                source,
                has_own_port: given.is_some(),
            }
        })?;
        let addresses: Vec<SocketAddr> =
            sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let mut shown: Vec<String> =
            addresses.iter().map(|&address| Address::from(address).to_string()).collect();
        shown.dedup();
        info!("{} listening at {}.", mode.description(), shown.join(" and "));
        let mode = Arc::new(mode);
        let (stop, stopping) = watch::channel(Stop::No);
        let mut open = Vec::new();
        let tasks = sockets
            .into_iter()
            .map(|socket| {
                let (is_open, closed) = oneshot::channel();
                open.push(closed);
                let accept = accept(
                    Arc::clone(&self.0.engine),
                    socket,
                    Arc::clone(&mode),
                    Arc::clone(&self.0.permits),
                    (stopping.clone(), is_open),
                );
                tokio::spawn(accept)
            })
            .collect();
        Ok(Listener { mode, place, addresses, open, stop, tasks })
    }

    /// Serves a connection that was accepted elsewhere, to its end.
    pub async fn serve(&self, io: Io, mode: Arc<Mode>, peer: SocketAddr, local: SocketAddr) {
        client::serve(Arc::clone(&self.0.engine), io, mode, peer, local).await;
    }

    /// Stops listening, lets running exchanges finish for `grace` at most, then ends all connections.
    pub async fn shutdown(&self, grace: Duration) {
        let mut listeners = std::mem::take(&mut *self.0.listeners.lock());
        listeners.append(&mut self.0.retired.lock());
        self.0.engine.set_listening(Vec::new());
        for listener in &listeners {
            // Nobody listens if its tasks have ended already.
            let _ = listener.stop.send(Stop::Accepting);
        }
        let deadline = Instant::now() + grace;
        while self.0.engine.exchanges() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        for listener in listeners {
            listener.end().await;
        }
        self.0.engine.pool.clear();
    }
}

impl Listener {
    /// Stops listening. Returns when the sockets are closed; clients are served on.
    async fn stop(&mut self) {
        // Nobody listens if its tasks have ended already.
        let _ = self.stop.send(Stop::Accepting);
        for closed in self.open.drain(..) {
            // The sender is dropped with the socket: that is the error.
            let _ = closed.await;
        }
        let shown = self.addresses.first().map(|&address| Address::from(address).to_string());
        info!("{} at {} stopped.", self.mode.description(), shown.unwrap_or_default());
    }

    fn has_ended(&self) -> bool {
        self.tasks.iter().all(JoinHandle::is_finished)
    }

    /// Ends the connections. When this returns they are gone, and flows have what there was of them.
    async fn end(self) {
        let _ = self.stop.send(Stop::Serving);
        for mut task in self.tasks {
            if timeout(ABORT, &mut task).await.is_err() {
                warn!("A connection does not end.");
                task.abort();
            }
        }
    }
}

/// Binds to `host`; to all IPv4 and IPv6 addresses if it is empty. With `foreign`, connections to other addresses are
/// accepted as well, if the system permits it.
fn bind(host: &str, port: u16, foreign: bool) -> io::Result<Vec<TcpListener>> {
    if host.is_empty() {
        let first = bind_one(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), foreign)?;
        let port = first.local_addr()?.port();
        // A machine without IPv6 is served by the first.
        let second =
            match bind_one(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port), foreign) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                second => second.ok(),
            };
        return Ok(std::iter::once(first).chain(second).collect());
    }
    let ip = match host.parse() {
        Ok(ip) => ip,
        Err(_) => std::net::ToSocketAddrs::to_socket_addrs(&(host, port))?
            .next()
            .ok_or(io::ErrorKind::AddrNotAvailable)?
            .ip(),
    };
    Ok(vec![bind_one(SocketAddr::new(ip, port), foreign)?])
}

fn bind_one(address: SocketAddr, foreign: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the connections of the last run to time out.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if foreign {
        platform::accept_foreign(&socket, address.ip());
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until told to stop; those it accepted end with it.
async fn accept(
    engine: Arc<Engine>,
    listener: TcpListener,
    mode: Arc<Mode>,
    permits: Arc<Semaphore>,
    (mut stop, is_open): (watch::Receiver<Stop>, oneshot::Sender<()>),
) {
    let mut clients = JoinSet::new();
    let mut warned = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop >= Stop::Accepting) => break,
            Some(_) = clients.join_next() => continue,
            accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                listener.accept().await.map(|accepted| (accepted, permit))
            } => accepted,
        };
        match accepted {
            Ok(((tcp, peer), permit)) => {
                // Without it packets wait for acknowledgements; a connection that is gone already does not care.
                let _ = tcp.set_nodelay(true);
                let local = tcp.local_addr().unwrap_or(peer);
                let (engine, mode) = (Arc::clone(&engine), Arc::clone(&mode));
                clients.spawn(async move {
                    let _permit = permit;
                    client::serve(engine, Io::Tcp(tcp), mode, peer, local).await;
                });
            }
            Err(error) => {
                // Out of descriptors, or a connection that was gone before it was accepted. The listener itself is
                // fine, so it goes on when there is room.
                if !std::mem::replace(&mut warned, true) {
                    warn!("Cannot accept connections at the moment: {error}");
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    drop(is_open);
    tokio::select! {
        () = async { while clients.join_next().await.is_some() {} } => {}
        _ = stop.wait_for(|stop| *stop >= Stop::Serving) => {}
    }
    clients.shutdown().await;
}
