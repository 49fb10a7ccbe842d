//! The order of hooks in whole conversations, as scripts rely on it: a row per situation.

use std::sync::Arc;

use mitm_flow::{Headers, Response, Shared, Stream};
use mitm_proxy::{Event, Settings};
use mitm_testkit::{RawClient, RawServer, Step, net, tls, wait::until};
use mitm_tls::Verification;

use crate::harness::{Proxied, Setup, granting_proxy};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// What the client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// Asks the proxy for a page of the origin.
    Get,
    /// Sends this, with the origin's address in place of `ORIGIN`, and reads what comes.
    Says(&'static str),
    /// Asks in TLS in a tunnel.
    Tls,
    /// The same, but does not trust the proxy.
    Distrusts,
    /// The same, but trusts the origin only.
    TrustsOrigin,
    /// Asks for a tunnel only.
    Connect,
    /// Asks for a page as from a server.
    Page,
    /// Asks for a page by way of SOCKS.
    Socks,
    /// Says something and reads the answer.
    Chat,
    /// Begins a WebSocket connection.
    WebSocket,
    /// Only connects.
    Listens,
}

/// What there is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Http,
    Tls,
    /// Answers anything with `pong`.
    Echo,
    /// Sends one WebSocket message, and closes.
    WebSocket,
    /// A proxy: grants tunnels and is then the TLS origin.
    Proxy,
    Down,
}

/// What an addon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addon {
    Nothing,
    RespondsTo(&'static str),
    Kills(&'static str),
    Streams,
    RefusesTunnel,
    IgnoresHello,
}

struct Row {
    what: &'static str,
    /// `ORIGIN` is its address.
    mode: &'static str,
    lazy: bool,
    client: Client,
    origin: Origin,
    addon: Addon,
    body_size_limit: Option<u64>,
    hooks: &'static str,
}

const ROW: Row = Row {
    what: "",
    mode: "regular",
    lazy: false,
    client: Client::Get,
    origin: Origin::Http,
    addon: Addon::Nothing,
    body_size_limit: None,
    hooks: "",
};

const ROWS: &[Row] = &[
    Row {
        what: "HTTP",
        hooks: "client_connected next_layer requestheaders request server_connect server_connected \
                responseheaders response client_disconnected server_disconnected",
        ..ROW
    },
    Row {
        what: "HTTPS, eager",
        client: Client::Tls,
        origin: Origin::Tls,
        hooks: "client_connected next_layer http_connect server_connect server_connected \
                http_connected next_layer tls_clienthello tls_start_server tls_established_server \
                tls_start_client tls_established_client next_layer requestheaders request \
                responseheaders response client_disconnected server_disconnected",
        ..ROW
    },
    Row {
        what: "HTTPS, lazy",
        lazy: true,
        client: Client::Tls,
        origin: Origin::Tls,
        hooks: "client_connected next_layer http_connect http_connected next_layer tls_clienthello \
                tls_start_client tls_established_client next_layer requestheaders request \
                server_connect server_connected tls_start_server tls_established_server \
                responseheaders response client_disconnected server_disconnected",
        ..ROW
    },
    Row {
        what: "the client does not trust us",
        client: Client::Distrusts,
        origin: Origin::Tls,
        hooks: "client_connected next_layer http_connect server_connect server_connected \
                http_connected next_layer tls_clienthello tls_start_server tls_established_server \
                tls_start_client tls_failed_client client_disconnected server_disconnected",
        ..ROW
    },
    Row {
        what: "an ignored ClientHello",
        client: Client::TrustsOrigin,
        origin: Origin::Tls,
        addon: Addon::IgnoresHello,
        hooks: "client_connected next_layer http_connect server_connect server_connected \
                http_connected next_layer tls_clienthello server_disconnected client_disconnected",
        ..ROW
    },
    Row {
        what: "reverse http, eager",
        mode: "reverse:http://ORIGIN",
        client: Client::Page,
        hooks: "client_connected server_connect server_connected next_layer requestheaders request \
                responseheaders response client_disconnected server_disconnected",
        ..ROW
    },
    Row {
        what: "SOCKS5",
        mode: "socks5",
        client: Client::Socks,
        hooks: "client_connected server_connect server_connected next_layer requestheaders request \
                responseheaders response client_disconnected server_disconnected",
        ..ROW
    },
    Row {
        what: "HTTP by an upstream proxy",
        mode: "upstream:http://ORIGIN",
        hooks: "client_connected next_layer requestheaders request server_connect server_connected \
                responseheaders response client_disconnected server_disconnected",
        ..ROW
    },
    Row {
        what: "HTTPS by an upstream proxy",
        mode: "upstream:http://ORIGIN",
        client: Client::Tls,
        origin: Origin::Proxy,
        hooks: "client_connected next_layer http_connect http_connected next_layer tls_clienthello \
                server_connect server_connected http_connect_upstream tls_start_server \
                tls_established_server tls_start_client tls_established_client next_layer \
                requestheaders request responseheaders response client_disconnected \
                server_disconnected",
        ..ROW
    },
    Row {
        what: "reverse tcp",
        mode: "reverse:tcp://ORIGIN",
        client: Client::Chat,
        origin: Origin::Echo,
        hooks: "client_connected server_connect server_connected next_layer tcp_start tcp_message \
                tcp_message tcp_end server_disconnected client_disconnected",
        ..ROW
    },
    Row {
        what: "reverse tcp, the server is down",
        mode: "reverse:tcp://ORIGIN",
        client: Client::Listens,
        origin: Origin::Down,
        hooks: "client_connected server_connect server_connect_error client_disconnected",
        ..ROW
    },
    Row {
        what: "WebSocket",
        client: Client::WebSocket,
        origin: Origin::WebSocket,
        hooks: "client_connected next_layer requestheaders request server_connect server_connected \
                responseheaders response websocket_start websocket_message websocket_end \
                server_disconnected client_disconnected",
        ..ROW
    },
    Row {
        what: "a response set in requestheaders",
        addon: Addon::RespondsTo("requestheaders"),
        hooks: "client_connected next_layer requestheaders request responseheaders response \
                client_disconnected",
        ..ROW
    },
    Row {
        what: "a response set in request",
        addon: Addon::RespondsTo("request"),
        hooks: "client_connected next_layer requestheaders request responseheaders response \
                client_disconnected",
        ..ROW
    },
    Row {
        what: "a kill in requestheaders",
        addon: Addon::Kills("requestheaders"),
        hooks: "client_connected next_layer requestheaders error client_disconnected",
        ..ROW
    },
    Row {
        what: "a kill in request",
        addon: Addon::Kills("request"),
        hooks: "client_connected next_layer requestheaders request error client_disconnected",
        ..ROW
    },
    Row {
        what: "a kill in responseheaders",
        addon: Addon::Kills("responseheaders"),
        hooks: "client_connected next_layer requestheaders request server_connect server_connected \
                responseheaders server_disconnected error client_disconnected",
        ..ROW
    },
    Row {
        what: "a kill in response",
        addon: Addon::Kills("response"),
        hooks: "client_connected next_layer requestheaders request server_connect server_connected \
                responseheaders response server_disconnected client_disconnected",
        ..ROW
    },
    Row {
        what: "a kill in tcp_message",
        mode: "reverse:tcp://ORIGIN",
        client: Client::Chat,
        origin: Origin::Echo,
        addon: Addon::Kills("tcp_message"),
        hooks: "client_connected server_connect server_connected next_layer tcp_start tcp_message \
                tcp_error server_disconnected client_disconnected",
        ..ROW
    },
    Row {
        what: "the server is down",
        origin: Origin::Down,
        hooks: "client_connected next_layer requestheaders request server_connect \
                server_connect_error error client_disconnected",
        ..ROW
    },
    Row {
        what: "the server of a tunnel is down",
        client: Client::Connect,
        origin: Origin::Down,
        hooks: "client_connected next_layer http_connect server_connect server_connect_error \
                http_connect_error client_disconnected",
        ..ROW
    },
    Row {
        what: "a tunnel that an addon refuses",
        client: Client::Connect,
        addon: Addon::RefusesTunnel,
        hooks: "client_connected next_layer http_connect http_connect_error client_disconnected",
        ..ROW
    },
    Row {
        what: "a streamed request",
        client: Client::Says(
            "POST http://ORIGIN/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi",
        ),
        addon: Addon::Streams,
        hooks: "client_connected next_layer requestheaders server_connect server_connected request \
                responseheaders response client_disconnected server_disconnected",
        ..ROW
    },
    Row {
        what: "a malformed request line",
        client: Client::Says("GET\r\n\r\n"),
        hooks: "client_connected next_layer client_disconnected",
        ..ROW
    },
    Row {
        what: "a relative request without Host",
        client: Client::Says("GET / HTTP/1.1\r\n\r\n"),
        hooks: "client_connected next_layer client_disconnected",
        ..ROW
    },
    Row {
        what: "a relative request with Host",
        client: Client::Says("GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"),
        hooks: "client_connected next_layer requestheaders request server_connect server_connected \
                responseheaders response client_disconnected server_disconnected",
        ..ROW
    },
    Row {
        what: "a bad Content-Length",
        client: Client::Says(
            "POST http://ORIGIN/ HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        ),
        hooks: "client_connected next_layer requestheaders error client_disconnected",
        ..ROW
    },
    Row {
        what: "a request that is too large",
        client: Client::Says(
            "POST http://ORIGIN/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        ),
        body_size_limit: Some(4),
        hooks: "client_connected next_layer requestheaders error client_disconnected",
        ..ROW
    },
    Row {
        what: "a response that is too large",
        body_size_limit: Some(4),
        hooks: "client_connected next_layer requestheaders request server_connect server_connected \
                responseheaders server_disconnected error client_disconnected",
        ..ROW
    },
];

#[tokio::test]
async fn hooks_fire_in_their_order() {
    for row in ROWS {
        let hooks = run(row).await;
        let expected: Vec<&str> = row.hooks.split_ascii_whitespace().collect();
        assert_eq!(hooks, expected, "{}", row.what);
    }
}

/// Plays a row, and returns the hooks when there are as many as expected, or as there come.
async fn run(row: &Row) -> Vec<String> {
    let identity = tls::self_signed(&["origin.test"]);
    // Both live as long as the row is played.
    let (origin, _socket, address);
    match row.origin {
        Origin::Down => {
            (address, _socket) = net::refusing();
        }
        Origin::Proxy => {
            origin = tls_origin(&identity).await;
            address = granting_proxy(origin.address()).await;
        }
        Origin::Tls => {
            origin = tls_origin(&identity).await;
            address = origin.address();
        }
        Origin::Http => {
            origin = RawServer::answering(OK).await;
            address = origin.address();
        }
        Origin::WebSocket => {
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                        Upgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            let answer = [head.as_bytes(), b"\x81\x02hi\x88\x02\x03\xe8"].concat();
            origin = RawServer::start(move |_| {
                vec![Step::Request, Step::Send(answer.clone()), Step::End]
            })
            .await;
            address = origin.address();
        }
        Origin::Echo => {
            use Step::{Bytes, End, Send};
            origin = RawServer::start(|_| vec![Bytes(4), Send("pong".into()), End]).await;
            address = origin.address();
        }
    }
    let addon = row.addon;
    let settings =
        Settings { eager: !row.lazy, body_size_limit: row.body_size_limit, ..Settings::default() };
    let proxy = Setup {
        mode: row.mode.replace("ORIGIN", &address.to_string()),
        watches_servers: true,
        settings,
        ..Setup::reacting(move |event| react(addon, event))
    }
    .start()
    .await;
    let dir = tempfile::tempdir().unwrap();
    // Keys take long to make.
    let pem = matches!(row.client, Client::Tls | Client::Distrusts)
        .then(|| proxy.set_tls(dir.path(), Verification::Insecure));
    let trusted = match row.client {
        Client::TrustsOrigin => identity.trust_pem.clone(),
        Client::Distrusts => tls::self_signed(&["x"]).trust_pem,
        _ => pem.unwrap_or_default(),
    };
    play(row.client, &proxy, &address.to_string(), &trusted).await;
    let expected = row.hooks.split_ascii_whitespace().count();
    until(row.what, || proxy.hooks().len() >= expected).await;
    // What comes too late would be too much.
    tokio::task::yield_now().await;
    proxy.hooks()
}

async fn play(client: Client, proxy: &Proxied, origin: &str, trusted: &str) {
    let mut connection = proxy.client().await;
    match client {
        Client::Get => {
            let text = format!("GET http://{origin}/ HTTP/1.1\r\nHost: x\r\n\r\n");
            answered(&mut connection, text).await;
        }
        Client::Page => {
            answered(&mut connection, "GET / HTTP/1.1\r\nHost: x\r\n\r\n".into()).await;
        }
        Client::Says(text) => answered(&mut connection, text.replace("ORIGIN", origin)).await,
        Client::Socks => {
            let port = origin.rsplit_once(':').unwrap().1.parse::<u16>().unwrap().to_be_bytes();
            connection.send([5, 1, 0]).await;
            assert_eq!(connection.read_exactly(2).await, [5, 0]);
            connection.send([5, 1, 0, 1, 127, 0, 0, 1, port[0], port[1]]).await;
            assert_eq!(connection.read_exactly(10).await[..2], [5, 0]);
            answered(&mut connection, "GET / HTTP/1.1\r\nHost: x\r\n\r\n".into()).await;
        }
        Client::Chat => {
            connection.send("ping").await;
            connection.read_exactly(4).await;
        }
        Client::WebSocket => {
            let text = format!(
                "GET http://{origin}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            connection.send(text).await;
            connection.read_until(b"\x88\x02\x03\xe8").await;
            // The same, masked with zeros.
            connection.send(b"\x88\x82\0\0\0\0\x03\xe8").await;
        }
        Client::Listens => {
            connection.read_to_end().await;
        }
        Client::Connect => {
            connection.tunnel(origin).await.unwrap_err();
        }
        Client::Tls | Client::Distrusts | Client::TrustsOrigin => {
            connection.tunnel(origin).await.unwrap();
            let config: Arc<_> = tls::client_config(trusted, &["http/1.1"]);
            let Ok(mut inner) = connection.start_tls(config, "origin.test").await else {
                assert_eq!(client, Client::Distrusts);
                return;
            };
            answered(&mut inner, "GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n".into()).await;
        }
    }
}

/// Sends a request and reads as much as the origin answers, or whatever comes instead until the end.
async fn answered(connection: &mut RawClient, text: String) {
    connection.send(text).await;
    connection.read_exactly(OK.len()).await;
}

async fn tls_origin(identity: &tls::Identity) -> RawServer {
    use Step::{Again, Request, Send};
    let config = identity.server_config(&["http/1.1"]);
    RawServer::start_tls(config, |_| vec![Request, Send(OK.into()), Again]).await
}

fn react(addon: Addon, event: &Event) {
    let name = event.hook().name();
    match (addon, event) {
        (Addon::RespondsTo(at), Event::Requestheaders(flow) | Event::Request(flow))
            if at == name =>
        {
            let response = Response::make(200, vec![b'x'; OK.len()], Headers::new());
            flow.set_response(Some(Shared::new(response)));
        }
        (Addon::Kills(at), event) if at == name => event.flow().unwrap().kill().unwrap(),
        (Addon::Streams, Event::Requestheaders(flow)) => {
            flow.request().unwrap().update(|request| request.stream = Stream::Pass);
        }
        (Addon::RefusesTunnel, Event::HttpConnect(flow)) => {
            flow.set_response(Some(Shared::new(Response::make(403, "no", Headers::new()))));
        }
        (Addon::IgnoresHello, Event::TlsClienthello(data)) => {
            data.update(|data| data.ignore_connection = true);
        }
        _ => {}
    }
}
