//! Loopback addresses.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

/// Returns a port on which nothing listens right now.
///
/// Another program may take it before it is used; whoever starts a server with it tries again.
pub fn free_port() -> u16 {
    bound().1
}

/// Returns an address on which a connection is refused for as long as the guard lives.
///
/// The port is bound but does not listen, so that nobody else can start listening there meanwhile.
pub fn refusing() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a loopback port");
    let address = socket.local_addr().expect("a bound socket has an address");
    (address.as_socket().expect("an internet address"), socket)
}

/// Closes with a reset (RST) rather than a clean end.
///
/// # Errors
/// When the socket option is refused.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
    drop(stream);
    Ok(())
}

fn bound() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    (listener, port)
}
