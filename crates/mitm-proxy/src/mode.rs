//! Mode specifications: `MODE[:DATA][@[HOST:]PORT]`, as in the option `mode`.
//!
//! A specification is split at its last `@`: what follows says where to listen. Then at the first `:`: what follows is
//! the data of the mode, which for `reverse` and `upstream` is a server, `[SCHEME://]HOST[:PORT][/]`. This module only
//! reads; who listens is [`server`](crate::server), who connects [`upstream`](crate::upstream).
//!
//! Credentials in front of a SOCKS server are ours, and the one place where the last `@` may be meant otherwise:
//! in `upstream:socks5://NAME:SECRET@HOST:PORT` it belongs to the server, in `upstream:socks5://HOST:PORT@HOST:PORT` it
//! does not; `split_listen` tells them apart.

mod target;

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use thiserror::Error;

pub use self::target::{Credentials, ReverseScheme, ReverseTarget, UpstreamProxy, UpstreamScheme};

/// One entry of the option `mode`: what kind of proxy to be, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// The specification as given, but without credentials: it goes into logs and flows.
    pub spec: Arc<str>,
    pub kind: ModeKind,
    /// The host to listen on; `None`: that of `listen_host`.
    pub host: Option<String>,
    /// The port to listen on; `None`: that of `listen_port`, else the kind's own. 0 is any free port.
    pub port: Option<u16>,
}

/// The kinds of proxies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModeKind {
    /// Clients know that they use a proxy and name the server in each request.
    Regular,
    /// As regular, but all requests go through another proxy.
    Upstream(Arc<UpstreamProxy>),
    /// Clients take the proxy for the server.
    Reverse(ReverseTarget),
    /// Connections are redirected to the proxy by the network; the operating system knows where they were going.
    Transparent,
    /// Clients name the server in the SOCKS protocol, version 5.
    Socks5,
}

/// Why a specification is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("Invalid proxy mode specification: {spec} ({reason}). {}", GRAMMAR)]
pub struct ModeError {
    pub spec: String,
    pub reason: String,
    is_planned: bool,
}

impl ModeError {
    /// True if the mode exists in mitmproxy and is to come here.
    pub fn is_planned(&self) -> bool {
        self.is_planned
    }
}

/// What is valid, for messages.
pub const GRAMMAR: &str = "Valid is MODE[@[HOST:]PORT] with one of these modes: regular, transparent, socks5, \
                           reverse:[SCHEME://]HOST[:PORT] (https, http, tls or tcp), \
                           upstream:[SCHEME://]HOST[:PORT] (http, https, socks5 or socks5h).";

/// Kinds that exist in mitmproxy and are to come.
const PLANNED: &[&str] = &["dns", "wireguard", "local", "tun"];

impl Mode {
    /// Reads a specification.
    ///
    /// # Errors
    /// With the reason, naming the valid modes.
    pub fn parse(spec: &str) -> Result<Self, ModeError> {
        Self::read(spec).map_err(|Refusal { reason, is_planned }| {
            // It ends in logs, where a password has no place.
            let (spec, reason) = match password_in(spec) {
                Some(password) => (spec.replace(password, "***"), reason.replace(password, "***")),
                None => (spec.to_owned(), reason.into_owned()),
            };
            ModeError { spec, reason, is_planned }
        })
    }

    fn read(spec: &str) -> Result<Self, Refusal> {
        let (head, listen) = split_listen(spec)?;
        let (name, data) = head.split_once(':').unwrap_or((head, ""));
        let name = name.to_ascii_lowercase();
        let kind = match name.as_str() {
            "regular" | "transparent" | "socks5" if !data.is_empty() => {
                return Err("mode takes no arguments".into());
            }
            "regular" => ModeKind::Regular,
            "transparent" => ModeKind::Transparent,
            "socks5" => ModeKind::Socks5,
            "reverse" => ModeKind::Reverse(ReverseTarget::parse(data)?),
            "upstream" => ModeKind::Upstream(Arc::new(UpstreamProxy::parse(data)?)),
            "osproxy" => return Err("osproxy mode has been renamed to local".into()),
            name if PLANNED.contains(&name) => {
                return Err(Refusal::planned(format!("{name} mode is not supported yet")));
            }
            _ => return Err("unknown mode".into()),
        };
        let (host, port) = match listen {
            None => (None, None),
            Some(listen) => {
                let (host, port) = match listen.rsplit_once(':') {
                    Some((host, port)) => {
                        let host = host.strip_prefix('[').unwrap_or(host);
                        (Some(host.strip_suffix(']').unwrap_or(host).to_owned()), port)
                    }
                    None => (None, listen),
                };
                let port = port.parse().map_err(|_| format!("invalid port: {port}"))?;
                (host, Some(port))
            }
        };
        let spec = match &kind {
            ModeKind::Upstream(proxy) if proxy.credentials.is_some() => without_credentials(spec),
            _ => spec.into(),
        };
        Ok(Self { spec: spec.into(), kind, host, port })
    }

    /// Returns the port used if neither the specification nor an option names one.
    pub fn default_port(&self) -> u16 {
        match self.kind {
            ModeKind::Socks5 => 1080,
            ModeKind::Regular
            | ModeKind::Upstream(_)
            | ModeKind::Reverse(_)
            | ModeKind::Transparent => 8080,
        }
    }

    /// Returns what log lines call it.
    pub fn description(&self) -> Cow<'static, str> {
        match &self.kind {
            ModeKind::Regular => "HTTP(S) proxy".into(),
            ModeKind::Upstream(_) => "HTTP(S) proxy (upstream mode)".into(),
            ModeKind::Reverse(target) => format!("reverse proxy to {target}").into(),
            ModeKind::Transparent => "Transparent Proxy".into(),
            ModeKind::Socks5 => "SOCKS v5 proxy".into(),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec)
    }
}

/// The reason of a [`ModeError`].
struct Refusal {
    reason: Cow<'static, str>,
    is_planned: bool,
}

impl Refusal {
    fn planned(reason: String) -> Self {
        Self { reason: reason.into(), is_planned: true }
    }
}

impl From<&'static str> for Refusal {
    fn from(reason: &'static str) -> Self {
        Self { reason: reason.into(), is_planned: false }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self { reason: reason.into(), is_planned: false }
    }
}

/// Splits off where to listen: what follows the last `@`, if something precedes it.
///
/// With a SOCKS server there may be a single `@` that ends its credentials. It does if `NAME:SECRET` precedes it and
/// what follows is no port. If the secret could be a port and what follows a place, that is refused rather than guessed
/// at, unless the name is an address and hence none: to write it with the place to listen, or percent-encoded, says
/// what is meant.
fn split_listen(spec: &str) -> Result<(&str, Option<&str>), Refusal> {
    let (head, listen) = match spec.rsplit_once('@') {
        Some((head, listen)) if !head.is_empty() => (head, listen),
        Some((_, rest)) => return Ok((rest, None)),
        None => return Ok((spec, None)),
    };
    let as_place = Ok((head, Some(listen)));
    let Some(server) = target::socks_server(head) else { return as_place };
    let (host, port) = listen.rsplit_once(':').unwrap_or(("", listen));
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    // The place is certain, there are credentials already, or what has no place in them.
    if (host.is_empty() && is_port(port)) || server.contains(['@', '[', '/']) {
        return as_place;
    }
    match server.split_once(':') {
        Some((name, _)) if name == "localhost" || name.parse::<IpAddr>().is_ok() => as_place,
        Some((_, secret)) if is_port(secret) && is_port(port) => Err(
            "NAME:NUMBER@HOST:PORT may be credentials and a server, or a server and where to listen: \
             for the former add @PORT to listen on, for the latter put a / behind NUMBER"
                .into(),
        ),
        Some((_, secret)) if !secret.is_empty() => Ok((spec, None)),
        _ => as_place,
    }
}

/// Returns what looks like a password in a specification that cannot be read: between a colon and the last `@`, and no port.
fn password_in(spec: &str) -> Option<&str> {
    let (_, server) = spec.split_once("://")?;
    let (credentials, _) = server.rsplit_once('@')?;
    let (_, password) = credentials.split_once(':')?;
    let is_port = password.trim_end_matches('/').parse::<u16>().is_ok();
    (!password.is_empty() && !is_port).then_some(password)
}

/// Takes the credentials out of a specification that has some.
fn without_credentials(spec: &str) -> String {
    let Some((scheme, rest)) = spec.split_once("://") else { return spec.to_owned() };
    let server = rest.split_once('@').map_or(rest, |(_, server)| server);
    format!("{scheme}://{server}")
}

#[cfg(test)]
mod tests;
