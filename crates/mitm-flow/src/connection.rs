//! [`Client`] and [`Server`]: the two connections of a flow, and the facts known about them.

use std::{fmt, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use crate::Cert;

/// A host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub host: Arc<str>,
    pub port: u16,
    /// IPv6 flow information and scope, where a socket reported them.
    pub scope: Option<(u32, u32)>,
}

impl Address {
    pub fn new(host: impl Into<Arc<str>>, port: u16) -> Self {
        Self { host: host.into(), port, scope: None }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        // IPv4 clients of a dual-stack socket are shown as what they are.
        let scope = match addr {
            SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_none() => {
                Some((v6.flowinfo(), v6.scope_id()))
            }
            _ => None,
        };
        Self { host: addr.ip().to_canonical().to_string().into(), port: addr.port(), scope }
    }
}

/// As users see addresses: `host:port`, IPv6 in brackets, `*` for the unspecified address.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<std::net::IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ip.is_unspecified() => write!(f, "*:{}", self.port),
            Ok(std::net::IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Ok(std::net::IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The transport below a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
}

impl Transport {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The protocol version a TLS handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    Ssl3,
    Tls1,
    Tls1_1,
    Tls1_2,
    Tls1_3,
    Dtls0_9,
    Dtls1,
    Dtls1_2,
    QuicV1,
}

impl TlsVersion {
    const NAMES: [(Self, &'static str); 9] = [
        (Self::Ssl3, "SSLv3"),
        (Self::Tls1, "TLSv1"),
        (Self::Tls1_1, "TLSv1.1"),
        (Self::Tls1_2, "TLSv1.2"),
        (Self::Tls1_3, "TLSv1.3"),
        (Self::Dtls0_9, "DTLSv0.9"),
        (Self::Dtls1, "DTLSv1"),
        (Self::Dtls1_2, "DTLSv1.2"),
        (Self::QuicV1, "QUICv1"),
    ];

    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(version, _)| *version == self).map_or("", |(_, name)| name)
    }

    /// Reads the name used in flow files and scripts.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(version, _)| *version)
    }
}

/// What a TLS handshake revealed, the same on both sides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsFacts {
    /// The chain the peer presented, leaf first.
    pub certificate_list: Arc<[Cert]>,
    pub alpn: Option<Bytes>,
    pub alpn_offers: Arc<[Bytes]>,
    pub cipher: Option<Arc<str>>,
    pub cipher_list: Arc<[Arc<str>]>,
    pub version: Option<TlsVersion>,
    pub sni: Option<Arc<str>>,
    /// When the handshake was finished.
    pub timestamp_setup: Option<f64>,
}

/// A connection that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    pub id: Uuid,
    pub peername: Option<Address>,
    pub sockname: Option<Address>,
    pub transport: Transport,
    /// Set by a hook to refuse the connection, or by what went wrong on it.
    pub error: Option<Arc<str>>,
    /// True if the connection speaks TLS, or is about to.
    pub tls: bool,
    pub tls_facts: TlsFacts,
    pub timestamp_start: f64,
    pub timestamp_end: Option<f64>,
    /// The certificate we presented.
    pub mitmcert: Option<Cert>,
    /// The specification of the mode that accepted it, as in the `mode` option.
    pub proxy_mode: Arc<str>,
}

impl Client {
    pub fn new(peername: Address, sockname: Address, timestamp_start: f64) -> Self {
        Self {
            id: Uuid::new_v4(),
            peername: Some(peername),
            sockname: Some(sockname),
            transport: Transport::Tcp,
            error: None,
            tls: false,
            tls_facts: TlsFacts::default(),
            timestamp_start,
            timestamp_end: None,
            mitmcert: None,
            proxy_mode: "regular".into(),
        }
    }
}

/// An upstream proxy that a server is reached through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    pub scheme: Arc<str>,
    pub address: Address,
}

/// A connection to a server; before it is opened, the place it would lead to.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub id: Uuid,
    /// Where to connect, as named by the request.
    pub address: Option<Address>,
    /// The address the name was resolved to.
    pub peername: Option<Address>,
    pub sockname: Option<Address>,
    pub transport: Transport,
    pub error: Option<Arc<str>>,
    pub tls: bool,
    pub tls_facts: TlsFacts,
    /// When connecting began; `None` if the connection was never used.
    pub timestamp_start: Option<f64>,
    pub timestamp_tcp_setup: Option<f64>,
    pub timestamp_end: Option<f64>,
    pub via: Option<Via>,
}

impl Server {
    pub fn new(address: Option<Address>) -> Self {
        Self {
            id: Uuid::new_v4(),
            address,
            peername: None,
            sockname: None,
            transport: Transport::Tcp,
            error: None,
            tls: false,
            tls_facts: TlsFacts::default(),
            timestamp_start: None,
            timestamp_tcp_setup: None,
            timestamp_end: None,
            via: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_users_see_them() {
        for (host, shown) in [
            ("127.0.0.1", "127.0.0.1:80"),
            ("::1", "[::1]:80"),
            ("::ffff:1.2.3.4", "1.2.3.4:80"),
            ("::", "*:80"),
            ("example.com", "example.com:80"),
        ] {
            assert_eq!(Address::new(host, 80).to_string(), shown);
        }
    }

    #[test]
    fn tls_versions_round_trip_by_name() {
        for (version, name) in TlsVersion::NAMES {
            assert_eq!(TlsVersion::from_name(name), Some(version));
            assert_eq!(version.as_str(), name);
        }
    }
}
