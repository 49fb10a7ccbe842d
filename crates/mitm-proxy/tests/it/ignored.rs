//! Connections that pass: the bytes of both sides as they came, and no flow.

use mitm_proxy::{Settings, hooks::Need, hosts::HostList};
use mitm_testkit::{
    RawClient, RawServer,
    Step::{Again, Bytes as Received, End, Request, Send},
    tls,
    wait::{until, within},
};
use mitm_tls::Verification;

use crate::harness::{Proxied, Setup, granting_proxy};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
/// A whole hello for `sni.test`, as no library writes it.
const HELLO: &[u8] = b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x02\x13\x01\x01\x00\
    \x00\x11\x00\x00\x00\x0d\x00\x0b\x00\x00\x08sni.test";

fn ignoring(pattern: &str) -> Setup {
    let ignore_hosts = HostList::new(&[pattern]).unwrap();
    Setup {
        settings: Settings { ignore_hosts, ..Settings::default() },
        ..Setup::needing(Need::Tee)
    }
}

async fn tunnel(proxy: &Proxied, origin: &RawServer) -> RawClient {
    let mut client = proxy.client().await;
    client.tunnel(&origin.address().to_string()).await.unwrap();
    client
}

fn has_flow(proxy: &Proxied) -> bool {
    proxy.hooks().iter().any(|name| {
        name.starts_with("tcp_") || name.starts_with("tls_") || name.starts_with("request")
    })
}

#[tokio::test]
async fn the_hello_reaches_the_server_byte_by_byte() {
    let origin =
        RawServer::start(|_| vec![Received(HELLO.len()), Send("\x15 no".into()), End]).await;
    for setup in [ignoring("^sni.test$"), ignoring(&origin.address().to_string())] {
        let before = origin.connections();
        let proxy = setup.start().await;
        let mut client = tunnel(&proxy, &origin).await;
        for piece in HELLO.chunks(10) {
            client.send(piece).await;
        }
        assert_eq!(client.read_exactly(4).await, b"\x15 no");
        client.finish().await;
        assert_eq!(within("the end", client.read_to_end()).await, b"");
        assert_eq!(origin.received()[before..], [HELLO]);
        assert!(!has_flow(&proxy));
    }
}

#[tokio::test]
async fn tls_of_ignored_hosts_is_between_the_client_and_the_server() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin = RawServer::start_tls(identity.server_config(&[]), |_| {
        vec![Request, Send(OK.into()), Again]
    })
    .await;
    let proxy = ignoring(r"origin\.test:").start().await;
    let client = tunnel(&proxy, &origin).await;
    // It trusts the origin only.
    let config = tls::client_config(&identity.trust_pem, &[]);
    let mut client = client.start_tls(config, "origin.test").await.unwrap();
    assert_eq!(client.request("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.content(), b"hello");
    assert!(!has_flow(&proxy));
}

#[tokio::test]
async fn what_is_not_allowed_passes() {
    let origin = RawServer::answering(OK).await;
    for (allowed, is_seen) in [("nobody", false), (r"^friend\.test:\d+$", true)] {
        let allow_hosts = HostList::new(&[allowed]).unwrap();
        let settings = Settings { allow_hosts, ..Settings::default() };
        let proxy = Setup { settings, ..Setup::default() }.start().await;
        let mut client = tunnel(&proxy, &origin).await;
        let request = "GET / HTTP/1.1\r\nHost: friend.test\r\n\r\n";
        assert_eq!(client.request(request).await.content(), b"hello");
        assert_eq!(has_flow(&proxy), is_seen);
        // Requests to the proxy itself are never ignored.
        let mut client = proxy.client().await;
        let to = origin.address();
        let request = format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n\r\n");
        assert_eq!(client.request(request).await.content(), b"hello");
        assert!(has_flow(&proxy));
    }
}

#[tokio::test]
async fn ignored_connections_are_shown_if_that_is_wanted() {
    let origin = RawServer::answering(OK).await;
    let mut setup = ignoring(r"^127\.0\.0\.1$");
    setup.settings.show_ignored_hosts = true;
    let proxy = setup.start().await;
    let mut client = tunnel(&proxy, &origin).await;
    assert_eq!(client.request("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.content(), b"hello");
    client.finish().await;
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    let is_over = || proxy.hooks().iter().any(|name| name == "tcp_end");
    until("the end of the flow", is_over).await;
    assert_eq!(proxy.flow(1).messages().len(), 2);
}

/// Reverse mode would begin TLS with the server.
#[tokio::test]
async fn what_passes_in_reverse_mode_is_not_wrapped() {
    let origin = RawServer::start(|_| vec![Received(3), Send("yes".into()), End]).await;
    for scheme in ["https", "tls", "http", "tcp"] {
        let before = origin.connections();
        let mode = format!("reverse:{scheme}://{}", origin.address());
        let proxy = Setup { mode, ..ignoring(r"^127\.") }.start().await;
        let mut client = proxy.client().await;
        client.send("\0?\n").await;
        assert_eq!(client.read_exactly(3).await, b"yes");
        assert_eq!(origin.received()[before..], [b"\0?\n"]);
        assert!(!has_flow(&proxy));
    }
}

/// A host that is ignored by what a request inside of intercepted TLS says: the server is spoken to in TLS all the same.
#[tokio::test]
async fn what_passes_inside_of_intercepted_tls_stays_encrypted() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin = RawServer::start_tls(identity.server_config(&[]), |_| {
        vec![Request, Send(OK.into()), Again]
    })
    .await;
    let proxy = ignoring("^inner.test$").start().await;
    let dir = tempfile::tempdir().unwrap();
    let pem = proxy.set_tls(dir.path(), Verification::Insecure);
    let client = tunnel(&proxy, &origin).await;
    let config = tls::client_config(&pem, &[]);
    let mut client = client.start_tls(config, "origin.test").await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: inner.test\r\n\r\n";
    assert_eq!(client.request(request).await.content(), b"hello");
    assert!(!proxy.hooks().contains(&"request".to_owned()));
}

#[tokio::test]
async fn what_passes_goes_through_an_upstream_proxy() {
    let origin =
        RawServer::start(|_| vec![Received(HELLO.len()), Send("\x15 no".into()), End]).await;
    let mode = format!("upstream:http://{}", granting_proxy(origin.address()).await);
    for (pattern, hello) in [(r"^far\.test:443$", HELLO), ("^sni.test$", HELLO)] {
        let before = origin.connections();
        let proxy = Setup { mode: mode.clone(), ..ignoring(pattern) }.start().await;
        let mut client = proxy.client().await;
        client.tunnel("far.test:443").await.unwrap();
        client.send(hello).await;
        assert_eq!(client.read_exactly(4).await, b"\x15 no");
        assert_eq!(origin.received()[before..], [hello]);
        assert!(!has_flow(&proxy));
    }
}

#[tokio::test]
async fn what_is_never_complete_is_decided_in_the_end() {
    let origin = RawServer::start(|_| vec![Received(4), Send("well".into()), End]).await;
    let mut setup = ignoring("nothing");
    setup.settings.handshake_timeout = std::time::Duration::from_millis(100);
    let proxy = setup.start().await;
    let mut client = tunnel(&proxy, &origin).await;
    // It might be a method.
    client.send("PING").await;
    assert_eq!(client.read_exactly(4).await, b"well");
    let mut client = tunnel(&proxy, &origin).await;
    client.send("\x16\x03").await;
    until("the decision", || has_flow(&proxy)).await;
    client.send("\x04!").await;
    assert_eq!(client.read_exactly(4).await, b"well");
}
