//! The way to a server through another proxy.
//!
//! | proxy | how |
//! |---|---|
//! | `http://` | CONNECT; plain requests go to the proxy in absolute form instead ([`Via::forward`]) |
//! | `https://` | the same, in TLS to the proxy |
//! | `socks5://` | the name of the server is resolved here, and the address asked for |
//! | `socks5h://` | the name is left to the proxy |
//!
//! Hooks see the connection to the proxy, as a server of its own, and the CONNECT, as a flow of its own, to which they may
//! add headers. What the proxy sends is hostile like anything else: heads are bounded, and each step has to be
//! finished in time. Credentials are those of the mode's specification, or of the option `upstream_auth`.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use mitm_codec::{
    http1::{HeadReader, write_request_head},
    socks5::{self, Host, ReplyCode, Socks5Error},
};
use mitm_flow::{Address, Body, Client, FlowRef, Headers, Request, Server, Shared, now, url};
use tokio::time::{Instant, timeout_at};
use tracing::info;

use crate::{
    engine::Engine,
    error::Failure,
    hooks::{Event, Hook},
    io::{self, Buffered, Io, Reader, Writer},
    mode::{Credentials, UpstreamProxy, UpstreamScheme},
    settings::Settings,
    tls,
    upstream::{Destination, client_name},
};

/// A proxy on the way to a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    pub proxy: Arc<UpstreamProxy>,
    /// It gets requests in absolute form and no CONNECT.
    pub forward: bool,
}

impl Via {
    /// With `forward`, plain requests go to an HTTP proxy as such; other proxies are always asked for a tunnel.
    pub(crate) fn new(proxy: Arc<UpstreamProxy>, forward: bool) -> Self {
        let forward = forward && !proxy.scheme.is_socks();
        Self { proxy, forward }
    }

    pub(crate) fn address(&self) -> Address {
        Address::new(Arc::clone(&self.proxy.host), self.proxy.port)
    }

    /// Returns it as flows record it.
    pub(crate) fn as_flow_value(&self) -> mitm_flow::Via {
        mitm_flow::Via { scheme: self.proxy.scheme.as_str().into(), address: self.address() }
    }
}

/// How many interim responses a proxy may send before its answer.
const INTERIM_MAX: usize = 16;

/// Makes a connection to the proxy lead to the destination. `hop` is the proxy, as hooks know it.
pub(crate) async fn reach(
    engine: &Arc<Engine>,
    client: &Shared<Client>,
    hop: &Shared<Server>,
    via: &Via,
    destination: &Destination,
    io: Io,
) -> Result<Io, Failure> {
    let proxy = &*via.proxy;
    let result = match proxy.scheme {
        UpstreamScheme::Http | UpstreamScheme::Https => {
            let io = match proxy.scheme {
                UpstreamScheme::Https => begin_tls(engine, client, hop, proxy, io).await?,
                _ => io,
            };
            if via.forward {
                return Ok(io);
            }
            connect(engine, client, hop, via, destination, io).await
        }
        UpstreamScheme::Socks5 | UpstreamScheme::Socks5h => {
            socks(&engine.settings(), via, destination, io).await
        }
    };
    if let Err(failure) = &result {
        info!(client = %client_name(client), "error establishing server connection: {failure}");
        hop.update(|hop| hop.error = Some(failure.to_string().into()));
    }
    result
}

/// Begins TLS with the proxy itself.
async fn begin_tls(
    engine: &Arc<Engine>,
    client: &Shared<Client>,
    hop: &Shared<Server>,
    proxy: &UpstreamProxy,
    io: Io,
) -> Result<Io, Failure> {
    hop.update(|hop| {
        hop.tls = true;
        hop.tls_facts.sni = Some(Arc::clone(&proxy.host));
    });
    let proxy = Destination {
        tls: true,
        sni: Some(Arc::clone(&proxy.host)),
        alpn: [Bytes::from_static(b"http/1.1")].into(),
        ..Destination::plain(Arc::clone(&proxy.host), proxy.port)
    };
    tls::connect(engine, client, hop, &proxy, None, io).await
}

/// A conversation with a proxy, before the connection leads anywhere.
struct Talk<'a> {
    reader: Reader,
    writer: Writer,
    via: &'a Via,
    deadline: Instant,
    patience: Duration,
}

impl<'a> Talk<'a> {
    fn new(settings: &Settings, via: &'a Via, io: Io) -> Self {
        let patience = settings.connect_timeout;
        let (reader, mut writer) = io::split(io, BytesMut::new());
        writer.set_patience(patience);
        Self { reader, writer, via, deadline: Instant::now() + patience, patience }
    }

    /// What went wrong, with the name of the proxy.
    fn failure(&self, reason: impl std::fmt::Display) -> Failure {
        Failure::Connect(format!("Error connecting to {}: {reason}", self.via.address()).into())
    }

    async fn send(&mut self) -> Result<(), Failure> {
        match timeout_at(self.deadline, self.writer.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failure(error)),
            Err(_) => Err(self.late()),
        }
    }

    /// Waits for more bytes.
    async fn hear(&mut self) -> Result<(), Failure> {
        match timeout_at(self.deadline, self.reader.fill()).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(0)) => Err(self.failure("the upstream proxy closed the connection")),
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => {
                Err(self.failure("the upstream proxy closed the connection"))
            }
            Ok(Err(error)) => Err(self.failure(error)),
            Err(_) => Err(self.late()),
        }
    }

    fn late(&self) -> Failure {
        self.failure(format_args!(
            "the upstream proxy did not answer within {} s",
            self.patience.as_secs()
        ))
    }

    /// Sends what was written and waits for the message that `read` takes from the buffer.
    async fn ask<T>(
        &mut self,
        read: impl Fn(&mut BytesMut) -> socks5::Read<T>,
    ) -> Result<T, Failure> {
        self.send().await?;
        loop {
            match read(&mut self.reader.buf) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => self.hear().await?,
                Err(Socks5Error::Version(_)) => {
                    return Err(self.failure("the upstream proxy does not speak SOCKS5"));
                }
                Err(error) => {
                    return Err(self.failure(format_args!("the upstream proxy sent {error}")));
                }
            }
        }
    }

    /// Gives the connection back. What came already is read first.
    fn end(self) -> Io {
        let (io, read) = io::join(self.reader, self.writer);
        if read.is_empty() { io } else { Io::Any(Box::new(Buffered::new(read, io))) }
    }
}

/// Asks an HTTP proxy for a tunnel (RFC 9110 §9.3.6).
async fn connect(
    engine: &Arc<Engine>,
    client: &Shared<Client>,
    hop: &Shared<Server>,
    via: &Via,
    destination: &Destination,
    io: Io,
) -> Result<Io, Failure> {
    let settings = engine.settings();
    let mut talk = Talk::new(&settings, via, io);
    let request = connect_request(&settings, destination);
    let request = if engine.hooks.wanted().has(Hook::HttpConnectUpstream) {
        let flow = FlowRef::http(client.clone(), hop.clone(), request);
        flow.set_live(false);
        engine.fire(Event::HttpConnectUpstream(flow.clone())).await;
        // Nobody can take the request out of a flow.
        flow.request().map(|request| request.get()).unwrap_or_default()
    } else {
        request
    };
    let Request { method, authority, http_version, headers, .. } = &request;
    if !authority.iter().all(u8::is_ascii_graphic) || authority.is_empty() {
        return Err(talk.failure("the name of the server cannot be sent to an upstream proxy"));
    }
    write_request_head(talk.writer.out(), method, authority, http_version, headers);
    // Hooks had their time; the proxy's begins.
    talk.deadline = Instant::now() + talk.patience;
    talk.send().await?;

    let mut heads = HeadReader::new();
    for _ in 0..INTERIM_MAX {
        let head = loop {
            match heads.response(&mut talk.reader.buf, &settings.rules) {
                Ok(Some(head)) => break head,
                Ok(None) => talk.hear().await?,
                Err(error) => return Err(talk.failure(error)),
            }
        };
        match head.status {
            100..=199 => {}
            // Whatever its headers say, there is no body (RFC 9110 §9.3.6).
            200..=299 => return Ok(talk.end()),
            status => {
                let mut text = format!(
                    "Upstream proxy {} refused HTTP CONNECT request: {status} {}",
                    via.address(),
                    String::from_utf8_lossy(&head.reason)
                );
                if status == 407 {
                    text.push_str(if settings.upstream_auth.is_none() {
                        ". Give its credentials by upstream_auth."
                    } else {
                        ". It does not accept those of upstream_auth."
                    });
                }
                return Err(Failure::Connect(text.trim_end().into()));
            }
        }
    }
    Err(talk.failure("the upstream proxy sent too many interim responses"))
}

/// Makes the request that asks for a tunnel.
fn connect_request(settings: &Settings, destination: &Destination) -> Request {
    let host = url::to_ascii(&destination.host).unwrap_or_else(|| (&*destination.host).into());
    let port = destination.port;
    let authority =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut headers = Headers::new();
    if settings.http_connect_send_host_header {
        headers.add("Host", authority.clone());
    }
    Request {
        method: Bytes::from_static(b"CONNECT"),
        host: Arc::clone(&destination.host),
        port,
        authority: authority.into(),
        http_version: Bytes::from_static(b"HTTP/1.1"),
        headers,
        body: Body::empty(),
        timestamp_start: now(),
        timestamp_end: Some(now()),
        ..Request::default()
    }
}

/// Asks a SOCKS proxy for a connection (RFC 1928).
async fn socks(
    settings: &Settings,
    via: &Via,
    destination: &Destination,
    io: Io,
) -> Result<Io, Failure> {
    let mut talk = Talk::new(settings, via, io);
    let host = match via.proxy.scheme {
        UpstreamScheme::Socks5h => name(&destination.host),
        _ => resolve(&talk, destination).await.map(Host::Ip),
    };
    let host = host.map_err(|reason| Failure::Connect(reason.into()))?;

    let credentials = via.proxy.credentials.as_ref().or(settings.upstream_auth.as_ref());
    let credentials = credentials.filter(|credentials| credentials.fit_socks());
    let methods: &[u8] = match credentials {
        Some(_) => &[socks5::NO_AUTH, socks5::PASSWORD],
        None => &[socks5::NO_AUTH],
    };
    socks5::write_greeting(talk.writer.out(), methods);
    let method = talk.ask(socks5::read_choice).await?;
    match (method, credentials) {
        (socks5::NO_AUTH, _) => {}
        (socks5::PASSWORD, Some(Credentials { name, password })) => {
            socks5::write_login(talk.writer.out(), name, password);
            if !talk.ask(socks5::read_verdict).await? {
                return Err(talk.failure("the upstream proxy does not accept the credentials"));
            }
        }
        (socks5::NO_METHOD, None) => {
            let text = "the upstream proxy wants to know who is asking. Give its credentials by upstream_auth.";
            return Err(talk.failure(text));
        }
        (socks5::NO_METHOD, Some(_)) => {
            return Err(talk.failure("the upstream proxy takes no name and password"));
        }
        (method, _) => {
            let text =
                format_args!("the upstream proxy chose method {method}, which was not offered");
            return Err(talk.failure(text));
        }
    }
    socks5::write_request(talk.writer.out(), &host, destination.port);
    let reply = talk.ask(socks5::read_reply).await?;
    if reply.code != ReplyCode::Succeeded as u8 {
        let text = format!(
            "Upstream proxy {} refused to connect to {}: {}",
            via.address(),
            destination.address(),
            ReplyCode::describe(reply.code)
        );
        return Err(Failure::Connect(text.into()));
    }
    Ok(talk.end())
}

/// What is asked for where names are left to the proxy.
fn name(host: &str) -> Result<Host, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Host::Ip(ip));
    }
    let name = url::to_ascii(host).unwrap_or(host.into());
    match name.len() {
        1..=255 => Ok(Host::Name(name.into_owned().into())),
        _ => Err(format!("{name} is too long a name for SOCKS.")),
    }
}

/// Resolves the name of a server. A proxy is asked for one address only, so it is one that most can reach.
async fn resolve(talk: &Talk<'_>, destination: &Destination) -> Result<IpAddr, String> {
    let host = &*destination.host;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(ip);
    }
    let lookup = tokio::net::lookup_host((host, destination.port));
    let addresses: Vec<SocketAddr> = match timeout_at(talk.deadline, lookup).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(format!("Cannot resolve {host}: {error}")),
        Err(_) => return Err(format!("Cannot resolve {host}: timed out")),
    };
    let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    first.map(SocketAddr::ip).ok_or_else(|| format!("Cannot resolve {host}: no addresses"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(host: &str) -> Bytes {
        let destination = Destination::plain(host.into(), 443);
        let request = connect_request(&Settings::default(), &destination);
        assert_eq!(request.headers.get("host"), Some(&request.authority));
        request.authority
    }

    #[test]
    fn a_tunnel_is_asked_for_by_host_and_port() {
        assert_eq!(authority("example.com"), "example.com:443");
        assert_eq!(authority("127.0.0.1"), "127.0.0.1:443");
        assert_eq!(authority("::1"), "[::1]:443");
        assert_eq!(authority("bücher.example"), "xn--bcher-kva.example:443");
        let settings = Settings { http_connect_send_host_header: false, ..Settings::default() };
        let request = connect_request(&settings, &Destination::plain("h".into(), 1));
        assert!(request.headers.is_empty());
    }

    #[test]
    fn names_for_socks() {
        assert_eq!(name("::1"), Ok(Host::Ip("::1".parse().unwrap())));
        assert_eq!(name("a.example"), Ok(Host::Name("a.example".into())));
        assert_eq!(name("bücher.example"), Ok(Host::Name("xn--bcher-kva.example".into())));
        assert!(name(&"a".repeat(256)).is_err() && name("").is_err());
    }
}
