//! What is particular to an operating system.

use std::net::IpAddr;

/// Descriptors kept for files, listeners and the runtime.
const RESERVED: u64 = 64;

/// Raises the limit of open files as far as allowed and returns how many client connections fit: each may need a
/// connection to a server as well.
#[cfg(unix)]
pub(crate) fn client_connections() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        // A larger soft limit is a wish; the present one serves too.
        Ok((soft, hard)) if soft < hard => {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard)
        }
        Ok((soft, _)) => soft,
        Err(_) => 1024,
    };
    let connections = limit.saturating_sub(RESERVED) / 2;
    usize::try_from(connections).unwrap_or(usize::MAX).clamp(16, 1 << 20)
}

/// Elsewhere descriptors are no scarce resource.
#[cfg(not(unix))]
pub(crate) fn client_connections() -> usize {
    1 << 16
}

/// True if the address is one of this machine's. Asked only for ports that we listen on.
#[cfg(unix)]
pub(crate) fn is_own_ip(ip: IpAddr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return false };
    interfaces.filter_map(|interface| interface.address).any(|address| {
        address.as_sockaddr_in().is_some_and(|v4| IpAddr::V4(v4.ip()) == ip)
            || address.as_sockaddr_in6().is_some_and(|v6| IpAddr::V6(v6.ip()).to_canonical() == ip)
    })
}

/// Elsewhere only the loopback addresses and those listened on are known.
#[cfg(not(unix))]
pub(crate) fn is_own_ip(_: IpAddr) -> bool {
    false
}

/// Returns where a redirected connection was going.
///
/// # Errors
/// The system does not tell.
pub(crate) fn original_destination(
    tcp: &tokio::net::TcpStream,
) -> std::io::Result<std::net::SocketAddr> {
    tcp.local_addr()
}
