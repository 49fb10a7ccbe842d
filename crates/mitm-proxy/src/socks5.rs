//! SOCKS5 with a client (RFC 1928, RFC 1929): finds out where it wants to go, and leaves the stream to the next layer.
//!
//! 1. Greeting. If the option `proxyauth` is set the client must be able to say a name and a password, else it must be
//!    content with not being asked.
//! 2. Name and password, which the hook `socks5_auth` judges. If nobody listens to it they are wrong.
//! 3. Request: CONNECT to an address or a name. Nothing else is served.
//! 4. With the eager strategy the server is connected before the client is told that it is; otherwise the client is
//!    told at once, and learns about a failure in the protocol it then speaks.
//!
//! All of it has to arrive within the time for a handshake.

use std::{net::IpAddr, sync::Arc};

use mitm_codec::{
    http1::is_valid_host,
    socks5::{self, Host, ReplyCode, Socks5Error},
};
use mitm_flow::{Server, Shared};
use tokio::time::{Instant, timeout_at};
use tracing::info;

use crate::{
    client::wants_connection,
    exchange::Context,
    hooks::{Event, Socks5AuthData},
    io::{Reader, Writer},
    upstream::{Destination, Upstreams, client_name},
};

/// How much a client may send before it knows that it is connected.
const EARLY_BYTES: usize = 64 << 10;

/// Finds out where the client wants to go; false if the connection is to be closed.
pub(crate) async fn serve(
    ctx: &mut Context,
    reader: &mut Reader,
    writer: &mut Writer,
    upstreams: &Upstreams,
) -> bool {
    writer.set_patience(ctx.settings.handshake_timeout);
    match negotiate(ctx, reader, writer, upstreams).await {
        Ok(target) => {
            ctx.target = Some(target);
            true
        }
        Err(Refused(reason)) => {
            if let Some(reason) = reason {
                info!(client = %client_name(&ctx.client), "{reason}");
            }
            // The connection is closed next, whether or not the client reads the answer.
            let _ = writer.flush().await;
            false
        }
    }
}

/// The client is not served; the answer, if it gets one, is in the writer. The reason is for the log.
struct Refused(Option<String>);

impl Refused {
    fn because(reason: impl Into<String>) -> Self {
        Self(Some(reason.into()))
    }
}

async fn negotiate(
    ctx: &Context,
    reader: &mut Reader,
    writer: &mut Writer,
    upstreams: &Upstreams,
) -> Result<Destination, Refused> {
    let deadline = Instant::now() + ctx.settings.handshake_timeout;
    let methods = read(reader, deadline, socks5::read_greeting).await?;
    let methods = methods.map_err(|error| no_greeting(error, &reader.buf))?;
    let method = if ctx.settings.auth { socks5::PASSWORD } else { socks5::NO_AUTH };
    if !methods.contains(&method) {
        // Longer than the answer is by the RFC, as mitmproxy sends it; nobody reads further.
        writer.out().extend_from_slice(&[
            socks5::VERSION,
            socks5::NO_METHOD,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        return Err(Refused::because(if ctx.settings.auth {
            "The SOCKS client cannot say a name and a password, which proxyauth asks for."
        } else {
            "The SOCKS client insists on authentication. Set proxyauth to ask for it."
        }));
    }
    socks5::write_choice(writer.out(), method);
    flush(writer).await?;

    if method == socks5::PASSWORD {
        let login = read(reader, deadline, socks5::read_login).await?;
        let login = login.map_err(|error| Refused::because(format!("Client sent {error}.")))?;
        let is_right = judge(ctx, &login).await;
        socks5::write_verdict(writer.out(), is_right);
        if !is_right {
            return Err(Refused(None));
        }
        flush(writer).await?;
    }

    // A hook that judges may have taken its time.
    let deadline = deadline.max(Instant::now() + ctx.settings.handshake_timeout / 2);
    let (host, port) = read(reader, deadline, socks5::read_request).await?.map_err(|error| {
        let code = match error {
            Socks5Error::AddressType(_) => ReplyCode::AddressTypeNotSupported,
            Socks5Error::EmptyName => ReplyCode::Failure,
            _ => ReplyCode::CommandNotSupported,
        };
        socks5::write_reply(writer.out(), code);
        Refused::because(format!("SOCKS request refused: {error}."))
    })?;
    let Some(host) = host_of(&host) else {
        socks5::write_reply(writer.out(), ReplyCode::Failure);
        return Err(Refused::because("SOCKS request refused: its server name is invalid."));
    };
    let target = Destination { via: ctx.via(false), ..Destination::plain(host, port) };

    if wants_connection(ctx, &target) && !ctx.settings.is_reserved(&target.host) {
        let server = Server::new(Some(target.address()));
        let conn = tokio::select! {
            biased;
            conn = upstreams.fresh(&target, server.into()) => conn,
            () = closes(reader) => return Err(Refused(None)),
        };
        let Ok(conn) = conn else {
            // It was logged.
            socks5::write_reply(writer.out(), ReplyCode::HostUnreachable);
            return Err(Refused(None));
        };
        upstreams.put_new(conn);
    }
    socks5::write_reply(writer.out(), ReplyCode::Succeeded);
    flush(writer).await?;
    Ok(target)
}

/// Reads a message. What is wrong with it is for the caller to answer.
async fn read<T>(
    reader: &mut Reader,
    deadline: Instant,
    take: impl Fn(&mut bytes::BytesMut) -> socks5::Read<T>,
) -> Result<Result<T, Socks5Error>, Refused> {
    loop {
        match take(&mut reader.buf) {
            Ok(Some(message)) => return Ok(Ok(message)),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        match timeout_at(deadline, reader.fill()).await {
            Ok(Ok(1..)) => {}
            // A connection that was only tried out.
            Ok(Ok(0)) if reader.buf.is_empty() => return Err(Refused(None)),
            Ok(Ok(0)) => {
                return Err(Refused::because(
                    "Client closed connection within the SOCKS handshake.",
                ));
            }
            Ok(Err(_)) => return Err(Refused(None)),
            Err(_) => {
                return Err(Refused::because("Closing connection: no SOCKS request in time."));
            }
        }
    }
}

async fn flush(writer: &mut Writer) -> Result<(), Refused> {
    writer.flush().await.map_err(|_| Refused(None))
}

/// Says what is wrong with a greeting. Such a client gets no answer.
fn no_greeting(error: Socks5Error, said: &[u8]) -> Refused {
    let is_http =
        said.first_chunk::<3>().is_some_and(|start| start.iter().all(u8::is_ascii_uppercase));
    let hint =
        if is_http { " Probably not a SOCKS request but a regular HTTP request." } else { "" };
    Refused::because(format!("Invalid SOCKS greeting: {error}.{hint}"))
}

/// Asks those who know whether name and password are right.
async fn judge(ctx: &Context, login: &socks5::Login) -> bool {
    let data = Shared::new(Socks5AuthData {
        client: ctx.client.clone(),
        username: String::from_utf8_lossy(&login.name).into_owned(),
        password: String::from_utf8_lossy(&login.password).into_owned(),
        valid: false,
    });
    ctx.engine.fire(Event::Socks5Auth(data.clone())).await;
    data.with(|data| data.valid)
}

/// Returns the host of a request, unless it is none.
fn host_of(host: &Host) -> Option<Arc<str>> {
    match host {
        Host::Ip(ip) => Some(ip.to_canonical().to_string().into()),
        Host::Name(name) if is_valid_host(name) => {
            let name = std::str::from_utf8(name).ok()?;
            // Some clients send addresses as names.
            Some(match name.parse::<IpAddr>() {
                Ok(ip) => ip.to_canonical().to_string().into(),
                Err(_) => name.into(),
            })
        }
        Host::Name(_) => None,
    }
}

/// Waits until the client is gone. What it sends meanwhile is kept, up to a limit.
async fn closes(reader: &mut Reader) {
    while reader.buf.len() < EARLY_BYTES {
        if !matches!(reader.fill().await, Ok(1..)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_requests() {
        let of = |name: &'static str| host_of(&Host::Name(name.into()));
        assert_eq!(of("example.com").as_deref(), Some("example.com"));
        assert_eq!(of("127.0.0.1").as_deref(), Some("127.0.0.1"));
        assert_eq!(of("::1").as_deref(), Some("::1"));
        for bad in ["a b", "a\r\nb", "a/b", "\u{fc}", "a..b", "[::1]"] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
        let mapped = Host::Ip("::ffff:127.0.0.1".parse().unwrap());
        assert_eq!(host_of(&mapped).as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn a_greeting_of_http_is_recognised() {
        let text = |said: &[u8]| no_greeting(Socks5Error::Version(b'G'), said).0.unwrap();
        assert!(text(b"GET / HTTP/1.1\r\n").ends_with("but a regular HTTP request."));
        assert!(!text(b"\x16\x03\x01").contains("HTTP"));
    }
}
