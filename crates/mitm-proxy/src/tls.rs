//! TLS on both sides: the client's is ended with a certificate made for the occasion, the server's is begun.
//! Which library speaks it is settled before either has seen a byte.
//!
//! With the eager strategy the server comes first, so that our certificate has the names of its own and speaks
//! the protocol it chose; what a server showed is remembered for a while (`Sniffed`), so that the next client
//! need not wait for it. If the server's handshake fails, the client's is finished all the same: the first request then
//! gets an error page that says why.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mitm_codec::client_hello;
use mitm_flow::{Cert, Client, Server, Shared, connection::TlsFacts, now};
use mitm_tls::{
    AlpnChoice, Backend, CertStore, ClientFailure, Downstream, HelloFacts, KeyKind, LeafRequest,
    Severity, TlsOptions, Upstream, UpstreamChoice, UpstreamFacts, UpstreamKey, backend_for,
    choose_alpn, client_facts, describe_bad_hello, describe_client_error, describe_server_error,
    names_for_leaf, offers_for_server, openssl_client_facts, openssl_server_facts, server_facts,
};
use parking_lot::Mutex;
use tokio::time::{self, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{debug, info, warn};

use crate::{
    engine::Engine,
    error::Failure,
    exchange::Context,
    hooks::{ClientHelloData, Event, Hook, TlsData},
    io::{self, Buffered, Io},
    mode::ModeKind,
    upstream::{Destination, Opening, ServerConn, Upstreams, client_name, ended},
};

/// The certificates and configurations of both sides, made from the options.
pub struct TlsContext {
    pub store: Arc<CertStore>,
    pub downstream: Downstream,
    pub upstream: Upstream,
    pub client_options: TlsOptions,
}

/// How TLS with a client began.
pub(crate) enum Accepted {
    Established(Io),
    /// A hook wants the connection to pass; with what was read.
    Ignored(Io, BytesMut),
    /// It was logged.
    Failed,
}

/// Ends the client's TLS. `read` is what was read from it: at least the beginning of a `ClientHello`.
pub(crate) async fn accept(
    ctx: &mut Context,
    io: Io,
    read: BytesMut,
    upstreams: &Upstreams,
) -> Accepted {
    let engine = Arc::clone(&ctx.engine);
    let name = client_name(&ctx.client);
    let (mut reader, writer) = io::split(io, read);
    let due = time::Instant::now().checked_add(ctx.settings.handshake_timeout);
    let hello = loop {
        match client_hello::parse(&reader.buf) {
            Ok(Some(hello)) => break Arc::new(hello),
            Ok(None) => {}
            Err(_) => {
                let text = describe_bad_hello(&reader.buf);
                warn!(client = %name, "Client TLS handshake failed. {text}");
                return Accepted::Failed;
            }
        }
        if !matches!(reader.fill_until(due).await, Ok(1..)) {
            info!(client = %name, "Client TLS handshake failed. The client left within its ClientHello.");
            return Accepted::Failed;
        }
    };
    let sni: Option<Arc<str>> = hello.sni.as_deref().map(Arc::from);
    ctx.client.update(|client| {
        client.tls = true;
        client.tls_facts.sni.clone_from(&sni);
        client.tls_facts.alpn_offers = hello.alpn.clone().into();
    });
    let destination = ctx.target.take().map(|target| match &ctx.mode.kind {
        // There the specification says whether the server speaks TLS, and what it is called.
        ModeKind::Reverse(_) if !target.tls => target,
        ModeKind::Reverse(_) => Destination {
            sni: sni.clone().filter(|_| ctx.settings.keep_host_header),
            alpn: offers_for_server(&hello.alpn, ctx.settings.http2).into(),
            ..target
        },
        _ => Destination {
            tls: true,
            sni: sni.clone(),
            alpn: offers_for_server(&hello.alpn, ctx.settings.http2).into(),
            ..target
        },
    });
    let server = Shared::new(Server::new(destination.as_ref().map(Destination::address)));

    let mut server_first = ctx.settings.eager;
    if engine.hooks.wanted().has(Hook::TlsClienthello) {
        let data = Shared::new(ClientHelloData {
            client: ctx.client.clone(),
            server: server.clone(),
            client_hello: Arc::clone(&hello),
            ignore_connection: false,
            establish_server_tls_first: false,
        });
        engine.fire(Event::TlsClienthello(data.clone())).await;
        let (ignore, first) =
            data.with(|data| (data.ignore_connection, data.establish_server_tls_first));
        server_first |= first;
        if ignore {
            // What passes is between the client and the server alone.
            ctx.target = destination
                .map(|to| Destination { via: to.via, ..Destination::plain(to.host, to.port) });
            let (io, read) = io::join(reader, writer);
            return Accepted::Ignored(io, read);
        }
    }

    let tls = engine.tls().await;
    let offer = HelloFacts {
        version: hello.version,
        cipher_suites: &hello.cipher_suites,
        compression_methods: &hello.compression_methods,
        extensions: &hello.extensions,
    };
    let backend = backend_for(&offer, &tls.client_options);
    // A client that cannot be answered is told so by rustls, with the alert that fits.
    let (key, unsupported) = match &backend {
        Backend::Rustls(key) | Backend::Openssl(key) => (*key, None),
        Backend::Unsupported(reason) => (KeyKind::default(), Some(reason.to_string())),
        _ => (KeyKind::default(), Some("no TLS library can answer the client".to_owned())),
    };
    let facts = match &destination {
        Some(to)
            if server_first
                && to.tls
                && unsupported.is_none()
                && !ctx.settings.is_reserved(&to.host) =>
        {
            sniff(ctx, to, upstreams).await
        }
        _ => None,
    };
    let local = ctx.client.with(|client| {
        client.sockname.as_ref().and_then(|address| address.host.parse::<IpAddr>().ok())
    });
    let names = names_for_leaf(
        facts.as_ref().filter(|_| ctx.settings.upstream_cert).map(|facts| &facts.leaf),
        sni.as_deref(),
        local,
        destination.as_ref().map(|to| &*to.host),
    );
    let copied = facts.as_ref().filter(|_| ctx.settings.upstream_cert);
    let request = LeafRequest {
        names,
        organization: copied.and_then(|facts| facts.leaf.organization.clone()),
        crl_url: copied.and_then(|facts| tls.store.crl_url(&facts.leaf)),
        upstream_chain: match &facts {
            Some(facts) if ctx.settings.add_upstream_certs => facts.chain.to_vec(),
            _ => Vec::new(),
        },
        key,
    };
    let leaf = match tls.store.get_async(request).await {
        Ok(leaf) => leaf,
        Err(error) => {
            warn!(client = %name, "Client TLS handshake failed: {error}");
            return Accepted::Failed;
        }
    };
    let alpn = choose_alpn(&AlpnChoice {
        offers: &hello.alpn,
        secure_web_proxy: destination.is_none(),
        preset: None,
        server: facts.as_ref().map(|facts| facts.alpn.as_deref().unwrap_or_default()),
        http2: ctx.settings.http2,
    });
    let data = TlsData { client: ctx.client.clone(), server, on_client: true };
    engine.fire(Event::TlsStartClient(data.clone())).await;
    let (io, read) = io::join(reader, writer);
    let io = Buffered::new(read, io);
    let (name_asked, offers, suites) = (sni.as_deref(), &hello.alpn, &hello.cipher_suites);
    let handshake = async {
        if let Backend::Openssl(_) = backend {
            let acceptor = tls.downstream.openssl(&leaf, alpn.as_deref());
            let stream = acceptor.map_err(std::io::Error::other)?.accept(io).await?;
            let facts = openssl_client_facts(&stream, name_asked, offers, suites);
            return Ok((Io::Openssl(Box::new(stream)), facts));
        }
        let config = tls.downstream.config(&leaf, alpn.as_deref());
        let stream = TlsAcceptor::from(config).accept(io).await?;
        let facts = client_facts(stream.get_ref().1, name_asked, offers, suites);
        Ok((Io::Tls(Box::new(TlsStream::Server(stream))), facts))
    };
    let result = match timeout(ctx.settings.handshake_timeout, handshake).await {
        Ok(result) => result,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    };
    match result {
        Ok((io, facts)) => {
            ctx.client.update(|client| {
                client.tls_facts = facts;
                client.tls_facts.timestamp_setup = Some(now());
                client.mitmcert = Some(leaf.cert.clone());
            });
            engine.fire(Event::TlsEstablishedClient(data)).await;
            ctx.target = destination;
            Accepted::Established(io)
        }
        Err(error) => {
            let host = sni.or_else(|| destination.map(|to| to.host)).unwrap_or_default();
            let ClientFailure { severity, message } = match unsupported {
                Some(reason) => ClientFailure {
                    severity: Severity::Warn,
                    message: format!("Client TLS handshake failed: {reason}."),
                },
                None => describe_client_error(&error, &host),
            };
            match severity {
                Severity::Info => info!(client = %name, "{message}"),
                Severity::Warn => warn!(client = %name, "{message}"),
            }
            ctx.client.update(|client| client.error = Some(message.into()));
            engine.fire(Event::TlsFailedClient(data)).await;
            Accepted::Failed
        }
    }
}

/// Returns what the server's certificate says, asking it if that is not known.
async fn sniff(
    ctx: &Context,
    destination: &Destination,
    upstreams: &Upstreams,
) -> Option<Arc<ServerFacts>> {
    let engine = &ctx.engine;
    if !engine.hooks.servers_are_watched()
        && let Some(facts) = engine.sniffed.get(destination)
    {
        return Some(facts);
    }
    let conn = if let Some(conn) = upstreams.take(destination) {
        Ok(conn)
    } else {
        let server = Server::new(Some(destination.address()));
        upstreams.open(destination, server.into()).await
    };
    match conn {
        Ok(conn) => {
            let facts = conn.server.with(ServerFacts::of);
            upstreams.put_new(conn);
            facts.map(Arc::new)
        }
        Err(failure) => {
            upstreams.remember_failure(destination.clone(), failure);
            None
        }
    }
}

/// Begins TLS on a connection that was opened for it.
pub(crate) async fn upgrade(
    engine: &Arc<Engine>,
    client: &Shared<Client>,
    conn: ServerConn,
    destination: &Destination,
) -> Result<ServerConn, Failure> {
    let ServerConn { server, reader, writer, hop, .. } = conn;
    server.update(|server| {
        server.tls = true;
        server.tls_facts.sni.clone_from(&destination.sni);
    });
    let (io, _) = io::join(reader, writer);
    let mut attempt = Opening::connected(engine, client, &server, hop.as_ref());
    let connected = connect(engine, client, &server, destination, hop.as_ref(), io).await;
    attempt.is_over();
    match connected {
        Ok(io) => {
            let halves = io::split(io, BytesMut::new());
            Ok(ServerConn::new(engine, server, destination.clone(), halves).with_hop(hop))
        }
        Err(failure) => {
            ended(engine, client, server, hop).await;
            Err(failure)
        }
    }
}

/// Begins TLS with a server. Failures are logged, remembered in the server's cell and told to addons.
///
/// A server that finds nothing to its liking in the hello of rustls is met once more, with OpenSSL's, on a new
/// connection (through `hop` as before, if there is one), of which hooks learn nothing.
pub(crate) async fn connect(
    engine: &Arc<Engine>,
    client: &Shared<Client>,
    server: &Shared<Server>,
    destination: &Destination,
    hop: Option<&Shared<Server>>,
    io: Io,
) -> Result<Io, Failure> {
    let settings = engine.settings();
    let tls = engine.tls().await;
    let data = TlsData { client: client.clone(), server: server.clone(), on_client: false };
    engine.fire(Event::TlsStartServer(data.clone())).await;
    let (address, via, sni) = server
        .with(|server| (server.address.clone(), server.via.clone(), server.tls_facts.sni.clone()));
    let key = UpstreamKey {
        via,
        sni,
        alpn: destination.alpn.to_vec(),
        local: settings.connect_addr,
        ..UpstreamKey::new(address.unwrap_or_else(|| destination.address()))
    };
    let attempt = Attempt { engine, client, server, destination, hop, key: &key };
    match attempt.make(&tls.upstream, io).await {
        Ok((io, facts)) => {
            let known = server.update(|server| {
                server.tls_facts = facts;
                server.tls_facts.timestamp_setup = Some(now());
                ServerFacts::of(server)
            });
            if let Some(known) = known {
                engine.sniffed.put(destination, known);
            }
            engine.fire(Event::TlsEstablishedServer(data)).await;
            Ok(io)
        }
        Err(text) => {
            warn!(client = %client_name(client), "Server TLS handshake failed. {text}");
            engine.sniffed.forget(destination);
            let text: Arc<str> = text.into();
            server.update(|server| server.error = Some(Arc::clone(&text)));
            engine.fire(Event::TlsFailedServer(data)).await;
            Err(Failure::Connect(text))
        }
    }
}

/// A handshake with a server to come.
struct Attempt<'a> {
    engine: &'a Arc<Engine>,
    client: &'a Shared<Client>,
    server: &'a Shared<Server>,
    destination: &'a Destination,
    hop: Option<&'a Shared<Server>>,
    key: &'a UpstreamKey,
}

impl Attempt<'_> {
    /// Shakes hands, if need be twice. The error is for the user.
    async fn make(&self, upstream: &Upstream, io: Io) -> Result<(Io, TlsFacts), String> {
        let host = self.key.sni.as_ref().unwrap_or(&self.key.address.host);
        let words = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::TimedOut => format!("The TLS handshake with {host} took too long."),
            _ => describe_server_error(&error, host),
        };
        let choice = upstream.choose(self.key).map_err(|error| error.to_string())?;
        let may_retry = matches!(choice, UpstreamChoice::Rustls(_));
        let error = match self.shake_hands(choice, io).await {
            Err(error) if may_retry && Upstream::should_retry(&error) => error,
            result => return result.map_err(words),
        };
        let connector = upstream.fallback(self.key).map_err(|error| error.to_string())?;
        let Self { engine, client, server, destination, hop, .. } = *self;
        let reopened = crate::upstream::reopen(engine, client, server, destination, hop).await;
        let Ok(io) = reopened else { return Err(words(error)) };
        debug!(
            client = %client_name(client),
            "{host} turned the TLS handshake away ({}). Trying once more with OpenSSL.",
            words(error)
        );
        let result = self.shake_hands(UpstreamChoice::Openssl(connector), io).await;
        if result.is_ok() {
            upstream.remember_fallback(self.key);
        }
        result.map_err(words)
    }

    async fn shake_hands(&self, choice: UpstreamChoice, io: Io) -> std::io::Result<(Io, TlsFacts)> {
        let (sni, offers) = (self.key.sni.as_deref(), &self.key.alpn);
        let io = Buffered::new(BytesMut::new(), io);
        let handshake = async {
            match choice {
                UpstreamChoice::Rustls(config) => {
                    let connector = TlsConnector::from(config.config);
                    let stream = connector.connect(config.server_name, io).await?;
                    let facts = server_facts(stream.get_ref().1, sni, offers);
                    Ok((Io::Tls(Box::new(TlsStream::Client(stream))), facts))
                }
                UpstreamChoice::Openssl(connector) => {
                    let stream = connector.connect(io).await?;
                    let facts = openssl_server_facts(&stream, sni, offers);
                    Ok((Io::Openssl(Box::new(stream)), facts))
                }
            }
        };
        match timeout(self.engine.settings().handshake_timeout, handshake).await {
            Ok(result) => result,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}

/// What a server's handshake showed that goes into ours.
struct ServerFacts {
    leaf: UpstreamFacts,
    chain: Arc<[Cert]>,
    alpn: Option<Bytes>,
}

impl ServerFacts {
    fn of(server: &Server) -> Option<Self> {
        let facts = &server.tls_facts;
        let leaf = UpstreamFacts::of(facts.certificate_list.first()?);
        let chain = Arc::clone(&facts.certificate_list);
        Some(Self { leaf, chain, alpn: facts.alpn.clone() })
    }
}

/// How long what a server showed is taken for true.
const REMEMBERED: Duration = Duration::from_mins(10);
/// Of how many servers.
const REMEMBERED_MAX: usize = 10_000;

/// What servers showed lately.
#[derive(Default)]
pub(crate) struct Sniffed(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    by_destination: HashMap<Destination, (Arc<ServerFacts>, Instant)>,
    /// Hosts and ports of those.
    addresses: HashMap<(Arc<str>, u16), Instant>,
}

impl Sniffed {
    fn get(&self, destination: &Destination) -> Option<Arc<ServerFacts>> {
        let memory = self.0.lock();
        let (facts, since) = memory.by_destination.get(destination)?;
        (since.elapsed() < REMEMBERED).then(|| Arc::clone(facts))
    }

    fn put(&self, destination: &Destination, facts: ServerFacts) {
        let since = Instant::now();
        let mut memory = self.0.lock();
        if memory.by_destination.len() >= REMEMBERED_MAX {
            memory.by_destination.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
            memory.addresses.retain(|_, since| since.elapsed() < REMEMBERED);
            if memory.by_destination.len() >= REMEMBERED_MAX {
                memory.by_destination.clear();
                memory.addresses.clear();
            }
        }
        memory.addresses.insert((Arc::clone(&destination.host), destination.port), since);
        memory.by_destination.insert(destination.clone(), (Arc::new(facts), since));
    }

    pub(crate) fn forget(&self, destination: &Destination) {
        let mut memory = self.0.lock();
        memory.by_destination.remove(destination);
        memory.addresses.remove(&(Arc::clone(&destination.host), destination.port));
    }

    pub(crate) fn clear(&self) {
        *self.0.lock() = Memory::default();
    }

    /// True if a server at this address was spoken to lately, so that there is no need to connect before its TLS name
    /// is known.
    pub(crate) fn knows_address(&self, engine: &Engine, destination: &Destination) -> bool {
        if engine.hooks.servers_are_watched() {
            return false;
        }
        let memory = self.0.lock();
        let key = (Arc::clone(&destination.host), destination.port);
        memory.addresses.get(&key).is_some_and(|since| since.elapsed() < REMEMBERED)
    }
}
