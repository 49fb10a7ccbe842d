//! SOCKS5 with a client (RFC 1928, RFC 1929).

use crate::{
    exchange::Context,
    io::{Reader, Writer},
    upstream::Upstreams,
};

/// Finds out where the client wants to go; false if the connection is to be closed.
pub(crate) async fn serve(
    _ctx: &mut Context,
    _reader: &mut Reader,
    _writer: &mut Writer,
    _upstreams: &Upstreams,
) -> bool {
    false
}
