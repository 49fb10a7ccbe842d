//! Clients of SOCKS5, byte by byte.

use std::time::Duration;

use mitm_proxy::{Event, Hook, Settings};
use mitm_testkit::{RawClient, RawServer, Step, net, tls};
use mitm_tls::Verification;

use crate::harness::{Proxied, Setup};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const GREETING: &[u8] = b"\x05\x01\x00";
const SUCCESS: &[u8] = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00";

fn setup(settings: Settings) -> Setup {
    Setup { mode: "socks5".into(), settings, ..Setup::default() }
}

/// A request for 127.0.0.1.
fn request(port: u16) -> Vec<u8> {
    [&b"\x05\x01\x00\x01\x7f\x00\x00\x01"[..], &port.to_be_bytes()].concat()
}

fn request_by_name(name: &str, port: u16) -> Vec<u8> {
    let len = u8::try_from(name.len()).unwrap();
    [&[5, 1, 0, 3, len], name.as_bytes(), &port.to_be_bytes()].concat()
}

fn get(origin: &RawServer) -> String {
    format!("GET /x HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address())
}

/// A client that was told that it is connected.
async fn connected(proxy: &Proxied, request: &[u8]) -> RawClient {
    let mut client = proxy.client().await;
    client.send(GREETING).await;
    assert_eq!(client.read_exactly(2).await, b"\x05\x00");
    client.send(request).await;
    assert_eq!(client.read_exactly(SUCCESS.len()).await, SUCCESS);
    client
}

#[tokio::test]
async fn servers_are_named_by_address_and_by_name() {
    let origin = RawServer::answering(OK).await;
    for eager in [true, false] {
        let proxy = setup(Settings { eager, ..Settings::default() }).start().await;
        let port = origin.port();
        let mapped =
            [&b"\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01"[..], &port.to_be_bytes()];
        let requests = [
            request(port),
            request_by_name("127.0.0.1", port),
            request_by_name("localhost", port),
            mapped.concat(),
        ];
        for request in requests {
            let mut client = connected(&proxy, &request).await;
            assert_eq!(client.request(get(&origin)).await.content(), b"hello");
        }
        let url = |index| proxy.flow(index).request().unwrap().get().url();
        let address = origin.address();
        assert_eq!(url(0), format!("http://{address}/x"));
        assert_eq!(url(2), format!("http://localhost:{port}/x"));
        assert_eq!(url(3), format!("http://{address}/x"));
        let connect = ["server_connect", "server_connected"];
        let expected = if eager {
            [&["client_connected"][..], &connect, &["next_layer", "requestheaders", "request"]]
                .concat()
        } else {
            [&["client_connected", "next_layer", "requestheaders", "request"][..], &connect]
                .concat()
        };
        assert_eq!(proxy.hooks()[..expected.len()], expected, "eager: {eager}");
    }
}

#[tokio::test]
async fn a_client_may_send_everything_at_once_or_byte_by_byte() {
    let origin = RawServer::answering(OK).await;
    let proxy = setup(Settings::default()).start().await;
    let all = [GREETING, &request(origin.port()), get(&origin).as_bytes()].concat();
    let expected = [b"\x05\x00", SUCCESS].concat();
    let mut client = proxy.client().await;
    client.send(&all).await;
    assert_eq!(client.read_exactly(expected.len()).await, expected);
    assert_eq!(client.response().await.content(), b"hello");

    let mut client = proxy.client().await;
    for byte in &all {
        client.send([*byte]).await;
    }
    assert_eq!(client.read_exactly(expected.len()).await, expected);
    assert_eq!(client.response().await.content(), b"hello");
}

#[tokio::test]
async fn tls_is_intercepted() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin = RawServer::start_tls(identity.server_config(&[]), |_| {
        vec![Step::Request, Step::Send(OK.into()), Step::Again]
    })
    .await;
    let proxy = setup(Settings::default()).start().await;
    let dir = tempfile::tempdir().unwrap();
    let pem = proxy.set_tls(dir.path(), Verification::Insecure);
    let client = connected(&proxy, &request(origin.port())).await;
    let mut client = client.start_tls(tls::client_config(&pem, &[]), "origin.test").await.unwrap();
    assert_eq!(client.request(get(&origin)).await.content(), b"hello");
    assert_eq!(origin.connections(), 1, "the one that was made ahead is used");
    assert_eq!(proxy.flow(0).request().unwrap().with(|request| request.scheme.clone()), "https");
}

#[tokio::test]
async fn who_cannot_be_reached_is_told_now_or_later() {
    let (address, _guard) = net::refusing();
    let proxy = setup(Settings::default()).start().await;
    let mut client = proxy.client().await;
    client.send([GREETING, &request(address.port())].concat()).await;
    assert_eq!(client.read_to_end().await, b"\x05\x00\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00");
    assert!(proxy.hooks().contains(&"server_connect_error".to_owned()));

    let proxy = setup(Settings { eager: false, ..Settings::default() }).start().await;
    let mut client = connected(&proxy, &request(address.port())).await;
    let answer = client.request("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(answer.status(), 502);
}

#[tokio::test]
async fn passwords_are_asked_for_if_they_are_to_be() {
    let origin = RawServer::answering(OK).await;
    let settings = Settings { auth: true, ..Settings::default() };
    let react = |event: &Event| {
        if let Event::Socks5Auth(data) = event {
            data.update(|data| data.valid = data.username == "user" && data.password == "pa:ss");
        }
    };
    let setup = Setup { mode: "socks5".into(), settings, ..Setup::reacting(react) };
    let proxy = setup.start().await;
    let log_in = async |login: &[u8]| {
        let mut client = proxy.client().await;
        client.send(b"\x05\x02\x00\x02").await;
        assert_eq!(client.read_exactly(2).await, b"\x05\x02");
        client.send(login).await;
        client
    };
    let mut client = log_in(b"\x01\x04user\x05pa:ss").await;
    assert_eq!(client.read_exactly(2).await, b"\x01\x00");
    client.send(request(origin.port())).await;
    assert_eq!(client.read_exactly(SUCCESS.len()).await, SUCCESS);
    assert_eq!(client.request(get(&origin)).await.content(), b"hello");

    for wrong in [&b"\x01\x04user\x04pass"[..], b"\x01\x00\x00", b"\x01\x04User\x05pa:ss"] {
        // Whatever follows is not looked at.
        let mut client = log_in(&[wrong, &request(origin.port())].concat()).await;
        assert_eq!(client.read_to_end().await, b"\x01\x01", "{wrong:?}");
    }
    // No password exchange at all.
    assert_eq!(log_in(b"\x05\x01\x00\x01").await.read_to_end().await, b"");
    for unable in [GREETING, b"\x05\x00", b"\x05\x02\x00\x01"] {
        let mut client = proxy.client().await;
        client.send(unable).await;
        assert_eq!(client.read_to_end().await, b"\x05\xff\x00\x01\x00\x00\x00\x00\x00\x00");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn without_anybody_to_judge_passwords_are_wrong() {
    let settings = Settings { auth: true, ..Settings::default() };
    let proxy = setup(settings).start().await;
    let mut client = proxy.client().await;
    client.send(b"\x05\x01\x02\x01\x01u\x01p").await;
    assert_eq!(client.read_to_end().await, b"\x05\x02\x01\x01");
}

#[tokio::test]
async fn who_insists_on_a_password_where_none_is_asked_for_is_refused() {
    let proxy = setup(Settings::default()).start().await;
    let mut client = proxy.client().await;
    client.send(b"\x05\x01\x02").await;
    assert_eq!(client.read_to_end().await, b"\x05\xff\x00\x01\x00\x00\x00\x00\x00\x00");
}

#[tokio::test]
async fn what_is_no_socks_gets_no_answer() {
    let proxy = setup(Settings::default()).start().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x00",
    ] {
        let mut client = proxy.client().await;
        client.send(garbage).await;
        assert_eq!(client.read_to_end().await, b"", "{garbage:?}");
    }
    assert_eq!(proxy.flows(), 0);
}

#[tokio::test]
async fn what_is_not_served_is_refused_by_its_code() {
    let proxy = setup(Settings::default()).start().await;
    let cases: [(&[u8], u8); 8] = [
        // BIND, UDP ASSOCIATE, another command, another version, a reserved byte.
        (b"\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", 7),
        (b"\x05\x03\x00\x01\x7f\x00\x00\x01\x00\x50", 7),
        (b"\x05\x00\x00", 7),
        (b"\x04\x01\x00", 7),
        (b"\x05\x01\x01", 7),
        (b"\x05\x01\x00\x02", 8),
        (b"\x05\x01\x00\x03\x00", 1),
        (b"\x05\x01\x00\x03\x05a\r\nb \x00\x50", 1),
    ];
    for (request, code) in cases {
        let mut client = proxy.client().await;
        client.send([GREETING, request].concat()).await;
        let expected = [&b"\x05\x00\x05"[..], &[code], &b"\x00\x01\x00\x00\x00\x00\x00\x00"[..]];
        assert_eq!(client.read_to_end().await, expected.concat(), "{request:?}");
    }
    assert!(!proxy.hooks().contains(&"server_connect".to_owned()));
}

#[tokio::test]
async fn nobody_is_waited_for_without_end() {
    let settings =
        Settings { handshake_timeout: Duration::from_millis(100), ..Settings::default() };
    let proxy = setup(settings).start().await;
    for part in [&b""[..], b"\x05", b"\x05\x02\x00", GREETING] {
        let mut client = proxy.client().await;
        client.send(part).await;
        let end = client.read_to_end().await;
        assert!(end.is_empty() || end == b"\x05\x00", "{part:?}: {end:?}");
    }
    proxy.wait_for_hook(Hook::ClientDisconnected).await;
}

#[tokio::test]
async fn the_proxy_itself_is_no_server() {
    let proxy = setup(Settings::default()).start().await;
    let mut client = proxy.client().await;
    client.send([GREETING, &request(proxy.address.port())].concat()).await;
    assert_eq!(client.read_to_end().await[..4], *b"\x05\x00\x05\x04");
}
