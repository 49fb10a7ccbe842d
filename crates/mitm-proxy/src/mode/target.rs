//! Servers in mode specifications: `[SCHEME://]HOST[:PORT][/]`.

use std::{fmt, net::Ipv6Addr, sync::Arc};

use mitm_flow::{form, url};

use super::Refusal;

/// The server that a reverse proxy stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReverseTarget {
    pub scheme: ReverseScheme,
    /// A name, by IDNA in ASCII, or an address without brackets.
    pub host: Arc<str>,
    pub port: u16,
}

/// What a reverse proxy speaks with its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReverseScheme {
    Http,
    /// HTTP in TLS.
    Https,
    /// Anything, in plain.
    Tcp,
    /// Anything, in TLS.
    Tls,
}

/// The proxy behind a proxy in upstream mode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamProxy {
    pub scheme: UpstreamScheme,
    /// A name, by IDNA in ASCII, or an address without brackets.
    pub host: Arc<str>,
    pub port: u16,
    /// Only with SOCKS. For the others there is the option `upstream_auth`.
    pub credentials: Option<Credentials>,
}

/// What is spoken with the proxy behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamScheme {
    Http,
    /// An HTTP proxy reached by TLS.
    Https,
    /// SOCKS, version 5; names are resolved here.
    Socks5,
    /// SOCKS, version 5; names are resolved by the proxy.
    Socks5h,
}

/// Name and password for an upstream proxy. For SOCKS (RFC 1929) they have 1 to 255 bytes each.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub name: Box<[u8]>,
    pub password: Box<[u8]>,
}

/// All schemes there are, whichever mode takes them.
const SCHEMES: &[&str] =
    &["http", "https", "http3", "tls", "dtls", "tcp", "udp", "dns", "quic", "socks5", "socks5h"];

impl ReverseTarget {
    /// Reads the data of the mode `reverse`.
    pub(super) fn parse(data: &str) -> Result<Self, Refusal> {
        let server = ServerSpec::parse(data, "https")?;
        let (scheme, default_port) = match server.scheme.as_str() {
            "http" => (ReverseScheme::Http, Some(80)),
            "https" => (ReverseScheme::Https, Some(443)),
            "tcp" => (ReverseScheme::Tcp, None),
            "tls" => (ReverseScheme::Tls, None),
            "socks5" | "socks5h" => return Err(invalid_scheme(&server.scheme)),
            other => {
                return Err(Refusal::planned(format!("reverse:{other} is not supported yet")));
            }
        };
        let (host, port) = server.place(default_port)?;
        Ok(Self { scheme, host, port })
    }
}

impl ReverseScheme {
    /// True if the server is reached by TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// True if HTTP is spoken with the server.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

impl UpstreamProxy {
    /// Reads the data of the mode `upstream`.
    pub(super) fn parse(data: &str) -> Result<Self, Refusal> {
        let (scheme_given, rest) = data.split_once("://").unwrap_or(("", data));
        // A raw `@` in a secret is not taken for one: it has to be percent-encoded.
        let (credentials, server) = match rest.split_once('@') {
            Some((credentials, server)) if socks_server(scheme_given).is_some() => {
                (Some(credentials), format!("{scheme_given}://{server}"))
            }
            Some(_) => {
                return Err(
                    "credentials for an HTTP proxy are given by the option upstream_auth".into()
                );
            }
            None => (None, data.to_owned()),
        };
        let server = ServerSpec::parse(&server, "http")?;
        let (scheme, default_port) = match server.scheme.as_str() {
            "http" => (UpstreamScheme::Http, 80),
            "https" => (UpstreamScheme::Https, 443),
            "socks5" => (UpstreamScheme::Socks5, 1080),
            "socks5h" => (UpstreamScheme::Socks5h, 1080),
            _ => return Err("invalid upstream proxy scheme".into()),
        };
        let (host, port) = server.place(Some(default_port))?;
        let credentials = credentials.map(Credentials::parse).transpose()?;
        Ok(Self { scheme, host, port, credentials })
    }
}

impl UpstreamScheme {
    /// True if SOCKS is spoken with the proxy.
    pub fn is_socks(self) -> bool {
        matches!(self, Self::Socks5 | Self::Socks5h)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        }
    }
}

impl Credentials {
    /// Reads `NAME:PASSWORD` as it is. There may be colons in the password.
    pub(crate) fn of_basic(text: &str) -> Option<Self> {
        let (name, password) = text.split_once(':')?;
        Some(Self { name: name.as_bytes().into(), password: password.as_bytes().into() })
    }

    /// Returns the value of a `Proxy-Authorization` header (RFC 7617).
    pub(crate) fn to_basic(&self) -> String {
        let text = [&self.name[..], b":", &self.password].concat();
        format!("Basic {}", data_encoding::BASE64.encode(&text))
    }

    /// True if both have a length that SOCKS can say.
    pub(crate) fn fit_socks(&self) -> bool {
        [&self.name, &self.password].iter().all(|part| (1..=255).contains(&part.len()))
    }

    /// Reads `NAME:PASSWORD`, each percent-encoded where need be.
    fn parse(text: &str) -> Result<Self, Refusal> {
        const INVALID: &str =
            "credentials are NAME:PASSWORD, 1 to 255 bytes each; @, : and / percent-encoded";
        let (name, password) = text.split_once(':').ok_or(INVALID)?;
        let part = |text: &str| {
            let bytes = form::unquote(text.as_bytes()).into_owned();
            let fits = (1..=255).contains(&bytes.len()) && !text.contains(['/', '@']);
            fits.then(|| bytes.into_boxed_slice()).ok_or(INVALID)
        };
        Ok(Self { name: part(name)?, password: part(password)? })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl fmt::Display for ReverseTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_server(f, self.scheme.as_str(), &self.host, self.port)
    }
}

/// Without the credentials.
impl fmt::Display for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_server(f, self.scheme.as_str(), &self.host, self.port)
    }
}

fn write_server(f: &mut fmt::Formatter<'_>, scheme: &str, host: &str, port: u16) -> fmt::Result {
    if host.contains(':') {
        write!(f, "{scheme}://[{host}]:{port}")
    } else {
        write!(f, "{scheme}://{host}:{port}")
    }
}

/// Returns what follows the scheme of a SOCKS server in `upstream:SCHEME://…`; the mode may be left out.
pub(super) fn socks_server(text: &str) -> Option<&str> {
    let (scheme, server) = text.split_once("://").unwrap_or((text, ""));
    let scheme = match scheme.split_once(':') {
        Some((mode, scheme)) if mode.eq_ignore_ascii_case("upstream") => scheme,
        Some(_) => return None,
        None => scheme,
    };
    let is_socks = ["socks5", "socks5h"].iter().any(|name| scheme.eq_ignore_ascii_case(name));
    is_socks.then_some(server)
}

/// A server specification, taken apart.
struct ServerSpec {
    /// In lower case.
    scheme: String,
    host: Arc<str>,
    port: Option<u16>,
}

impl ServerSpec {
    fn parse(text: &str, default_scheme: &str) -> Result<Self, Refusal> {
        let invalid = || Refusal::from(format!("Invalid server specification: {text}"));
        let (scheme, rest) = text.split_once("://").unwrap_or((default_scheme, text));
        let scheme = scheme.to_ascii_lowercase();
        if scheme.is_empty() {
            return Err(invalid());
        }
        if !SCHEMES.contains(&scheme.as_str()) {
            return Err(invalid_scheme(&scheme));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(invalid)?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(invalid)?),
            };
            if host.parse::<Ipv6Addr>().is_err() {
                return Err(format!("Invalid hostname: {host}").into());
            }
            (host, port)
        } else {
            let (host, port) = match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            };
            // Neither an address of IPv6 without brackets nor a path.
            let is_server = !host.is_empty()
                && !host.contains('/')
                && !port.is_some_and(|port| port.contains([':', '/']));
            if !is_server {
                return Err(invalid());
            }
            (host, port)
        };
        let port = port
            .map(|port| match port.parse() {
                Ok(number @ 1..) if !port.starts_with('+') => Ok(number),
                _ => Err(Refusal::from(format!("Invalid port: {port}"))),
            })
            .transpose()?;
        let ascii = url::to_ascii(host).filter(|host| mitm_tls::is_valid_host(host));
        let host = ascii.ok_or_else(|| format!("Invalid hostname: {host}"))?;
        Ok(Self { scheme, host: host.into(), port })
    }

    /// Returns host and port.
    fn place(self, default_port: Option<u16>) -> Result<(Arc<str>, u16), Refusal> {
        let port = self.port.or(default_port).ok_or("Port specification missing.")?;
        Ok((self.host, port))
    }
}

fn invalid_scheme(scheme: &str) -> Refusal {
    format!("Invalid server scheme: {scheme}").into()
}
