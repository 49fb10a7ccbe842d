//! The way to a server through another proxy.

use std::sync::Arc;

use mitm_flow::{Address, Client, Server, Shared};

use crate::{engine::Engine, error::Failure, io::Io, mode::UpstreamProxy, upstream::Destination};

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

/// Makes a connection to the proxy lead to the destination.
pub(crate) async fn reach(
    _engine: &Arc<Engine>,
    _client: &Shared<Client>,
    _hop: &Shared<Server>,
    via: &Via,
    _destination: &Destination,
    io: Io,
) -> Result<Io, Failure> {
    if via.forward {
        return Ok(io);
    }
    Err(Failure::Connect("Upstream proxies are not asked for tunnels yet.".into()))
}
