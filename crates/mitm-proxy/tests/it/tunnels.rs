//! CONNECT, and TLS inside of it.

use std::sync::Arc;

use mitm_flow::{Headers, Response, Shared};
use mitm_proxy::{Event, Hook, Settings};
use mitm_testkit::{RawClient, RawServer, net, tls, wait::within};
use mitm_tls::Verification;

use crate::harness::{Proxied, Setup};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

async fn tunnel(proxy: &Proxied, origin: &RawServer) -> RawClient {
    let mut client = proxy.client().await;
    client.tunnel(&origin.address().to_string()).await.expect("the tunnel is granted");
    client
}

#[tokio::test]
async fn plain_http_in_a_tunnel() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::default().start().await;
    let mut client = tunnel(&proxy, &origin).await;
    let answer = client.request("GET /x HTTP/1.1\r\nHost: other.test\r\n\r\n").await;
    assert_eq!(answer.content(), b"hello");
    let request = proxy.flow(1).request().unwrap().get();
    assert_eq!(request.url(), format!("http://{}/x", origin.address()));
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn tls_in_a_tunnel_with_the_servers_names() {
    for eager in [true, false] {
        let identity = tls::self_signed(&["origin.test", "127.0.0.1"]);
        let origin = RawServer::start_tls(identity.server_config(&["http/1.1"]), |_| {
            use mitm_testkit::Step::{Again, Request, Send};
            vec![Request, Send(OK.into()), Again]
        })
        .await;
        let settings = Settings { eager, ..Settings::default() };
        let proxy = Setup { settings, ..Setup::default() }.start().await;
        let dir = tempfile::tempdir().unwrap();
        let pem = proxy.set_tls(dir.path(), Verification::Insecure);
        let client = tunnel(&proxy, &origin).await;
        // Without asking the server, the client's first choice is taken.
        let offers: &[&str] = if eager { &["h2", "http/1.1"] } else { &["http/1.1", "h2"] };
        let config = tls::client_config(&pem, offers);
        let mut client = client.start_tls(config, "origin.test").await.unwrap();
        let answer = client.request("GET /x HTTP/1.1\r\nHost: origin.test\r\n\r\n").await;
        assert_eq!(answer.content(), b"hello");

        let flow = proxy.flow(1);
        let (server, client_conn) = (flow.server().get(), flow.client().get());
        assert!(server.tls && client_conn.tls);
        assert_eq!(client_conn.tls_facts.sni.as_deref(), Some("origin.test"));
        assert_eq!(client_conn.tls_facts.alpn.as_deref(), Some(&b"http/1.1"[..]));
        assert_eq!(server.tls_facts.certificate_list.len(), 1);
        assert!(client_conn.mitmcert.is_some());
        assert_eq!(flow.request().unwrap().with(|r| r.scheme.clone()), "https");

        drop(client);
        proxy.wait_for_hook(Hook::ClientDisconnected).await;
        let hooks = proxy.hooks();
        let server_hooks = ["server_connect", "server_connected"];
        let handshake = ["tls_start_server", "tls_established_server"];
        let expected: Vec<&str> = if eager {
            [
                &["client_connected", "next_layer", "http_connect"][..],
                &server_hooks,
                &["http_connected", "next_layer", "tls_clienthello"],
                &handshake,
                &["tls_start_client", "tls_established_client", "next_layer"],
                &["requestheaders", "request"],
            ]
            .concat()
        } else {
            [
                &["client_connected", "next_layer", "http_connect", "http_connected", "next_layer"]
                    [..],
                &["tls_clienthello", "tls_start_client", "tls_established_client", "next_layer"],
                &["requestheaders", "request"],
                &server_hooks,
                &handshake,
            ]
            .concat()
        };
        assert_eq!(hooks[..expected.len()], expected[..], "eager: {eager}");
        assert_eq!(
            hooks[expected.len()..],
            ["responseheaders", "response", "client_disconnected"],
            "eager: {eager}"
        );
    }
}

#[tokio::test]
async fn an_untrusted_server_is_a_502_that_names_the_option() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin =
        RawServer::start_tls(identity.server_config(&[]), |_| vec![mitm_testkit::Step::End]).await;
    let proxy = Setup::default().start().await;
    let dir = tempfile::tempdir().unwrap();
    let pem = proxy.set_tls(dir.path(), Verification::Roots);
    let client = tunnel(&proxy, &origin).await;
    let mut client = client.start_tls(tls::client_config(&pem, &[]), "origin.test").await.unwrap();
    let answer = client.request("GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n").await;
    assert_eq!(answer.status(), 502);
    let page = String::from_utf8(answer.content()).unwrap();
    assert!(page.contains("ssl_insecure") && page.contains("origin.test"), "{page}");
}

#[tokio::test]
async fn a_client_that_does_not_trust_us_is_told_about() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin =
        RawServer::start_tls(identity.server_config(&[]), |_| vec![mitm_testkit::Step::End]).await;
    let proxy = Setup::default().start().await;
    let dir = tempfile::tempdir().unwrap();
    proxy.set_tls(dir.path(), Verification::Insecure);
    let client = tunnel(&proxy, &origin).await;
    let foreign = tls::client_config(&tls::self_signed(&["x"]).trust_pem, &[]);
    assert!(client.start_tls(foreign, "origin.test").await.is_err());
    proxy.wait_for_hook(Hook::TlsFailedClient).await;
}

#[tokio::test]
async fn an_unreachable_tunnel_is_refused_and_the_connection_stays() {
    let (address, _socket) = net::refusing();
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let refused = client.tunnel(&address.to_string()).await.unwrap_err();
    assert_eq!(refused.status(), 502);
    let text = String::from_utf8(refused.content()).unwrap();
    assert!(text.contains("connection_strategy"), "{text}");
    assert!(proxy.hooks().contains(&"http_connect_error".to_owned()));
    let request = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address());
    assert_eq!(client.request(request).await.status(), 200);
}

#[tokio::test]
async fn a_hook_refuses_a_tunnel() {
    let proxy = Setup::reacting(|event| {
        if let Event::HttpConnect(flow) = event {
            flow.set_response(Some(Shared::new(Response::make(403, "no", Headers::new()))));
        }
    })
    .start()
    .await;
    let mut client = proxy.client().await;
    let refused = client.tunnel("nowhere.test:443").await.unwrap_err();
    assert_eq!((refused.status(), refused.content()), (403, b"no".to_vec()));
}

#[tokio::test]
async fn bytes_that_are_no_http_pass_untouched() {
    use mitm_testkit::Step::{Bytes, End, Send};
    let origin = RawServer::start(|_| vec![Bytes(6), Send(b"\x00pong\xff".to_vec()), End]).await;
    let proxy = Setup::default().start().await;
    let mut client = tunnel(&proxy, &origin).await;
    client.send(b"\x00ping\xfe").await;
    assert_eq!(client.read_exactly(6).await, b"\x00pong\xff");
    client.finish().await;
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    assert_eq!(origin.received()[0], b"\x00ping\xfe");
}

#[tokio::test]
async fn an_ignored_hello_reaches_the_server_as_it_was() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin = RawServer::start_tls(identity.server_config(&[]), |_| {
        use mitm_testkit::Step::{Again, Request, Send};
        vec![Request, Send(OK.into()), Again]
    })
    .await;
    let proxy = Setup::reacting(|event| {
        if let Event::TlsClienthello(data) = event {
            data.update(|data| data.ignore_connection = true);
        }
    })
    .start()
    .await;
    let client = tunnel(&proxy, &origin).await;
    // The client trusts the origin itself, not the proxy.
    let config: Arc<_> = tls::client_config(&identity.trust_pem, &[]);
    let mut client = client.start_tls(config, "origin.test").await.unwrap();
    assert_eq!(client.request("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.content(), b"hello");
}

#[tokio::test]
async fn an_upgrade_hands_over_the_raw_connections() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    let origin = RawServer::start(move |_| {
        use mitm_testkit::Step::{Bytes, End, Request, Send};
        vec![Request, Send(switch.into()), Bytes(120), Send("echo".into()), End]
    })
    .await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    client
        .send(format!(
            "GET http://{}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
            origin.address()
        ))
        .await;
    assert_eq!(client.read_until(b"\r\n\r\n").await, switch.as_bytes());
    client.send([b'z'; 120]).await;
    assert_eq!(client.read_exactly(4).await, b"echo");
}

#[tokio::test]
async fn what_is_no_http_inside_of_tls_reaches_the_server_in_tls() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin = RawServer::start_tls(identity.server_config(&[]), |_| {
        use mitm_testkit::Step::{Bytes, End, Send};
        vec![Bytes(6), Send(b"\x00pong\xff".to_vec()), End]
    })
    .await;
    for eager in [true, false] {
        let settings = Settings { eager, ..Settings::default() };
        let proxy = Setup { settings, ..Setup::default() }.start().await;
        let dir = tempfile::tempdir().unwrap();
        let pem = proxy.set_tls(dir.path(), Verification::Insecure);
        let client = tunnel(&proxy, &origin).await;
        let mut client =
            client.start_tls(tls::client_config(&pem, &[]), "origin.test").await.unwrap();
        client.send(b"\x00ping\xfe").await;
        assert_eq!(client.read_exactly(6).await, b"\x00pong\xff");
    }
    // The origin ends TLS itself, so what it noted came to it in TLS.
    assert_eq!(origin.received(), [b"\x00ping\xfe", b"\x00ping\xfe"]);
}

#[tokio::test]
async fn tls_within_tls_is_the_servers_business() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin =
        RawServer::start_tls(identity.server_config(&[]), |_| vec![mitm_testkit::Step::End]).await;
    let proxy = Setup::default().start().await;
    let dir = tempfile::tempdir().unwrap();
    let pem = proxy.set_tls(dir.path(), Verification::Insecure);
    let client = tunnel(&proxy, &origin).await;
    let mut client = client.start_tls(tls::client_config(&pem, &[]), "origin.test").await.unwrap();
    let hello = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00";
    client.send(hello).await;
    mitm_testkit::wait::until("the inner hello", || {
        origin.received().first().is_some_and(|bytes| bytes == hello)
    })
    .await;
    let hellos = proxy.hooks().iter().filter(|name| *name == "tls_clienthello").count();
    assert_eq!(hellos, 1);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    use mitm_testkit::Step::{Bytes, End, Send};
    let origin = RawServer::start(|_| vec![Send("220 hello\r\n".into()), Bytes(6), End]).await;
    let proxy = Setup::default().start().await;
    let mut client = tunnel(&proxy, &origin).await;
    assert_eq!(within("the greeting", client.read_exactly(11)).await, b"220 hello\r\n");
    client.send("QUIT\r\n").await;
    mitm_testkit::wait::until("the farewell", || origin.received()[0] == b"QUIT\r\n").await;
}

#[tokio::test]
async fn what_follows_a_refused_connect_is_no_request() {
    let (address, _socket) = net::refusing();
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let inner = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address());
    client
        .send(format!(
            "CONNECT {address} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{inner}",
            inner.len()
        ))
        .await;
    let got = within("the end", client.read_to_end()).await;
    assert!(got.starts_with(b"HTTP/1.1 502") && !got.ends_with(b"hello"));
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_server_does_not_switch_protocols_unasked() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let origin = RawServer::answering(switch).await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let request = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address());
    assert_eq!(client.request(request).await.status(), 502);
}

#[tokio::test]
async fn a_hook_refuses_to_switch_protocols() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let origin = RawServer::answering(switch).await;
    let proxy = Setup::reacting(|event| {
        if let Event::Response(flow) = event {
            flow.set_response(Some(Shared::new(Response::make(403, "no", Headers::new()))));
        }
    })
    .start()
    .await;
    let mut client = proxy.client().await;
    let ask = |to| {
        format!("GET http://{to}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    };
    assert_eq!(client.request(ask(origin.address())).await.status(), 403);
    // The connection is still HTTP.
    assert_eq!(client.request(ask(origin.address())).await.status(), 403);
    assert_eq!(proxy.flows(), 2);
}
