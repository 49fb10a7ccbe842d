//! Transparent mode on Linux.
//!
//! - REDIRECT (iptables, nftables) changes the address of a connection to the proxy's; connection tracking knows what it
//!   was, and tells anybody.
//! - TPROXY leaves the address as it is: it is that of the accepted socket. The listener needs `IP_TRANSPARENT` for it,
//!   and for that the program needs `CAP_NET_ADMIN` (or `CAP_NET_RAW`).
//! - A connection to a server from the client's address needs the same. Its answers have to be routed to this machine, as
//!   the documentation of transparent mode shows.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::SockRef;
use tokio::net::TcpStream;

/// Asks connection tracking. If it knows nothing, the address is taken for the original one.
pub(super) fn original_destination(tcp: &TcpStream) -> io::Result<SocketAddr> {
    let local = tcp.local_addr()?;
    let socket = SockRef::from(tcp);
    let tracked = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    Ok(tracked.ok().and_then(|address| address.as_socket()).unwrap_or(local))
}

/// Lets a socket use addresses that are not this machine's.
pub(super) fn set_transparent(socket: &SockRef<'_>, family: IpAddr) -> io::Result<()> {
    let set = match family {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true),
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true),
    };
    set.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            "to use the addresses of others, the program needs root or the capability CAP_NET_ADMIN",
        ),
        _ => error,
    })
}
