//! Mode specifications: `MODE[:DATA][@[HOST:]PORT]`, as in the option `mode`.

use std::{fmt, sync::Arc};

use thiserror::Error;

/// One entry of the option `mode`: what kind of proxy to be, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// The specification as given.
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
}

/// Why a specification is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("Invalid proxy mode specification: {spec} ({reason})")]
pub struct ModeError {
    pub spec: String,
    pub reason: String,
}

impl ModeError {
    /// True if the mode exists in mitmproxy and is to come here.
    pub fn is_planned(&self) -> bool {
        let name = self.spec.split([':', '@']).next().unwrap_or_default();
        PLANNED.contains(&name.to_ascii_lowercase().as_str())
    }
}

/// Kinds that exist in mitmproxy and are to come.
const PLANNED: &[&str] =
    &["transparent", "upstream", "reverse", "socks5", "dns", "wireguard", "local", "tun"];

impl Mode {
    /// Reads a specification.
    ///
    /// # Errors
    /// With the reason, naming the valid modes.
    pub fn parse(spec: &str) -> Result<Self, ModeError> {
        let error = |reason: String| ModeError { spec: spec.to_owned(), reason };
        let (head, listen) = match spec.rsplit_once('@') {
            Some((head, listen)) if !head.is_empty() => (head, Some(listen)),
            Some((_, rest)) => (rest, None),
            None => (spec, None),
        };
        let (name, data) = head.split_once(':').unwrap_or((head, ""));
        let name = name.to_ascii_lowercase();
        let kind = match name.as_str() {
            "regular" if !data.is_empty() => return Err(error("mode takes no arguments".into())),
            "regular" => ModeKind::Regular,
            "osproxy" => return Err(error("osproxy mode has been renamed to local".into())),
            name if PLANNED.contains(&name) => {
                return Err(error(format!("{name} mode is not supported yet, only regular is")));
            }
            _ => return Err(error("unknown mode".into())),
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
                let port = port.parse().map_err(|_| error(format!("invalid port: {port}")))?;
                (host, Some(port))
            }
        };
        Ok(Self { spec: spec.into(), kind, host, port })
    }

    /// Returns the port used if neither the specification nor an option names one.
    pub fn default_port(&self) -> u16 {
        match self.kind {
            ModeKind::Regular => 8080,
        }
    }

    /// Returns what log lines call it.
    pub fn description(&self) -> &'static str {
        match self.kind {
            ModeKind::Regular => "HTTP(S) proxy",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications() {
        let mode = |spec: &str| Mode::parse(spec).map(|mode| (mode.host, mode.port));
        assert_eq!(mode("regular"), Ok((None, None)));
        assert_eq!(mode("REGULAR@8081"), Ok((None, Some(8081))));
        assert_eq!(mode("regular@127.0.0.1:0"), Ok((Some("127.0.0.1".into()), Some(0))));
        assert_eq!(mode("regular@[::1]:80"), Ok((Some("::1".into()), Some(80))));
        assert_eq!(mode("regular@::1:80"), Ok((Some("::1".into()), Some(80))));
        for (spec, reason) in [
            ("bogus", "unknown mode"),
            ("@x", "unknown mode"),
            ("regular:x", "mode takes no arguments"),
            ("regular@x", "invalid port: x"),
            ("regular@70000", "invalid port: 70000"),
        ] {
            assert_eq!(mode(spec).unwrap_err().reason, reason, "{spec}");
        }
    }
}
