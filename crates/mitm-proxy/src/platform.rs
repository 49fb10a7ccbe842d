//! What is particular to an operating system: limits, addresses, where redirected connections were going, and copying
//! without a copy.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "macos", target_os = "freebsd", test))]
mod pf;
pub(crate) mod splice;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use socket2::Socket;
use tokio::net::{TcpSocket, TcpStream};

/// Descriptors kept for files, listeners and the runtime, and for the pipes of [`splice`].
#[cfg(unix)]
const RESERVED: nix::sys::resource::rlim_t = 192;

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

/// True if the system tells where a redirected connection was going.
pub const SUPPORTS_TRANSPARENT_MODE: bool = cfg!(any(
    target_os = "linux",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "openbsd"
));

/// Returns where a redirected connection was going: what the network's redirection knows of it, see `linux` and
/// `pf`.
///
/// # Errors
/// The system does not tell.
pub(crate) async fn original_destination(tcp: &TcpStream) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    return std::future::ready(linux::original_destination(tcp)).await;
    #[cfg(any(target_os = "macos", target_os = "freebsd"))]
    return pf::original_destination(tcp).await;
    // Connections are diverted there: they keep their address, as with TPROXY.
    #[cfg(target_os = "openbsd")]
    return std::future::ready(tcp.local_addr()).await;
    #[cfg(not(any(
        target_os = "linux",
        target_os = "macos",
        target_os = "freebsd",
        target_os = "openbsd"
    )))]
    {
        let _ = std::future::ready(tcp).await;
        Err(io::Error::new(io::ErrorKind::Unsupported, "not supported on this platform"))
    }
}

/// Lets a listener accept connections to addresses that are not this machine's, if that is permitted. Redirection works
/// without, diversion (TPROXY) does not.
pub(crate) fn accept_foreign(socket: &Socket, family: IpAddr) {
    #[cfg(target_os = "linux")]
    if let Err(error) = linux::set_transparent(&socket.into(), family) {
        tracing::debug!("TPROXY cannot be used: {error}");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, family);
}

/// Binds a socket that is to be connected to a server to an address that need not be this machine's.
///
/// # Errors
/// It is not permitted, or not supported.
pub(crate) fn bind_foreign(socket: &TcpSocket, ip: IpAddr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        linux::set_transparent(&socket.into(), ip)?;
        socket.bind(SocketAddr::new(ip, 0))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (socket, ip);
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "spoof_source_address is not supported on this platform",
        ))
    }
}

/// Finds out whether connecting from an address that is not this machine's will be permitted.
///
/// # Errors
/// It will not: with the reason.
pub fn can_spoof() -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    bind_foreign(&socket, Ipv4Addr::UNSPECIFIED.into())
}
