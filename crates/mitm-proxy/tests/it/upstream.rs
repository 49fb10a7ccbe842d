//! The way through another proxy, which a script plays.

use std::{sync::Arc, time::Duration};

use mitm_flow::Address;
use mitm_proxy::{Credentials, Event, Settings};
use mitm_testkit::{RawClient, RawServer, Script, Step, naive::Message, net, tls};
use mitm_tls::Verification;
use parking_lot::Mutex;

use crate::harness::{Proxied, Setup};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const GRANTED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const SECRET: &str = "Basic dXNlcjpwYTpzcw==";

fn send(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Send(bytes.into())
}

fn credentials() -> Credentials {
    Credentials { name: (*b"user").into(), password: (*b"pa:ss").into() }
}

fn setup(scheme: &str, proxy: &RawServer) -> Setup {
    Setup { mode: format!("upstream:{scheme}://{}", proxy.address()), ..Setup::default() }
}

/// A proxy that grants a tunnel and is the server at its other end.
async fn granting(answer: &'static str) -> RawServer {
    RawServer::start(move |_| {
        vec![Step::Request, send(answer), Step::Request, send(OK), Step::Again]
    })
    .await
}

/// Asks for a page inside of a tunnel to `target`.
async fn in_tunnel(proxy: &Proxied, target: &str) -> (RawClient, Message) {
    let mut client = proxy.client().await;
    client.tunnel(target).await.expect("the tunnel is granted");
    let answer = client.request("GET /x HTTP/1.1\r\nHost: h.test\r\n\r\n").await;
    (client, answer)
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.content()).into_owned()
}

#[tokio::test]
async fn plain_requests_go_to_the_proxy_in_absolute_form() {
    let upstream = RawServer::answering(OK).await;
    let settings = Settings { upstream_auth: Some(credentials()), ..Settings::default() };
    let proxy = Setup { settings, ..setup("http", &upstream) }.start().await;
    let mut client = proxy.client().await;
    for path in ["/a", "/b?c"] {
        let request =
            format!("GET http://h.test:81{path} HTTP/1.1\r\nHost: h.test:81\r\nX: y\r\n\r\n");
        assert_eq!(client.request(request).await.content(), b"hello");
    }
    let received = String::from_utf8(upstream.received().concat()).unwrap();
    let expected = |path| {
        format!(
            "GET http://h.test:81{path} HTTP/1.1\r\nHost: h.test:81\r\nX: y\r\nProxy-Authorization: {SECRET}\r\n\r\n"
        )
    };
    assert_eq!(received, expected("/a") + &expected("/b?c"));
    assert_eq!(upstream.connections(), 1);

    let flow = proxy.flow(0);
    assert!(!flow.request().unwrap().with(|r| r.headers.contains("proxy-authorization")));
    let server = flow.server().get();
    assert_eq!(server.address, Some(Address::new("h.test", 81)));
    assert_eq!(server.via.unwrap().address, Address::from(upstream.address()));
    let hooks = proxy.hooks();
    assert!(!hooks.contains(&"http_connect_upstream".to_owned()), "{hooks:?}");
}

#[tokio::test]
async fn tunnels_are_asked_for_when_they_are_needed() {
    let upstream = granting(GRANTED).await;
    let servers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&servers);
    let setup = Setup {
        react: Box::new(move |event| match event {
            Event::ServerConnect(data) => {
                seen.lock().push(data.server.with(|server| server.address.clone()));
            }
            Event::HttpConnectUpstream(flow) => {
                assert!(!flow.is_live());
                flow.request().unwrap().update(|r| r.headers.set("Proxy-Authorization", "ours"));
            }
            _ => {}
        }),
        ..setup("http", &upstream)
    };
    let proxy = setup.start().await;
    let mut client = proxy.client().await;
    client.tunnel("h.test:81").await.unwrap();
    assert_eq!(upstream.connections(), 0, "the proxy is not asked for what may not be needed");
    let answer = client.request("GET /x HTTP/1.1\r\nHost: h.test\r\n\r\n").await;
    assert_eq!(answer.content(), b"hello");
    let received = String::from_utf8(upstream.received()[0].clone()).unwrap();
    assert_eq!(
        received,
        "CONNECT h.test:81 HTTP/1.1\r\nHost: h.test:81\r\nProxy-Authorization: ours\r\n\r\n\
         GET /x HTTP/1.1\r\nHost: h.test\r\n\r\n"
    );
    let hooks = proxy.hooks();
    let expected = [
        "client_connected",
        "next_layer",
        "http_connect",
        "http_connected",
        "next_layer",
        "requestheaders",
        "request",
        "server_connect",
        "server_connected",
        "http_connect_upstream",
        "responseheaders",
        "response",
    ];
    assert_eq!(hooks[..expected.len()], expected);
    assert_eq!(servers.lock()[0], Some(Address::from(upstream.address())));
    let server = proxy.flow(1).server().get();
    assert_eq!(server.address, Some(Address::new("h.test", 81)));
    assert!(server.peername.is_some() && server.timestamp_tcp_setup.is_some());
}

#[tokio::test]
async fn any_2xx_grants_and_has_no_body() {
    for answer in [
        "HTTP/1.0 200\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 299 Fine\r\nX: y\r\n\r\n",
    ] {
        let upstream = granting(answer).await;
        let settings = Settings { http_connect_send_host_header: false, ..Settings::default() };
        let proxy = Setup { settings, ..setup("http", &upstream) }.start().await;
        let (_client, page) = in_tunnel(&proxy, "[::1]:81").await;
        assert_eq!(page.content(), b"hello", "{answer}");
        let received = String::from_utf8(upstream.received()[0].clone()).unwrap();
        assert!(received.starts_with("CONNECT [::1]:81 HTTP/1.1\r\n\r\n"), "{received}");
    }
}

#[tokio::test]
async fn bytes_of_the_server_that_come_with_the_answer_are_not_lost() {
    let upstream = RawServer::start(|_| {
        vec![Step::Request, send(format!("{GRANTED}220 ready\r\n")), Step::Bytes(1), Step::End]
    })
    .await;
    let proxy = setup("http", &upstream).start().await;
    let mut client = proxy.client().await;
    client.tunnel("mail.test:25").await.unwrap();
    client.send(b"\x00raw").await;
    assert_eq!(client.read_exactly(11).await, b"220 ready\r\n");
}

#[tokio::test]
async fn a_server_behind_may_speak_first() {
    let asked = "CONNECT mail.test:25 HTTP/1.1\r\nHost: mail.test:25\r\n\r\nQUIT\n";
    let upstream = RawServer::start(|_| {
        let greeting = [Step::Request, send(GRANTED), send("220 ready\r\n")];
        [&greeting[..], &[Step::Bytes(asked.len()), send("221 bye\r\n")]].concat()
    })
    .await;
    let proxy = setup("http", &upstream).start().await;
    let mut client = proxy.client().await;
    client.tunnel("mail.test:25").await.unwrap();
    assert_eq!(client.read_exactly(11).await, b"220 ready\r\n");
    client.send("QUIT\n").await;
    assert_eq!(client.read_to_end().await, b"221 bye\r\n");
    assert_eq!(upstream.received()[0], asked.as_bytes());

    // One that waits for a server which cannot be reached does not wait in vain.
    let refusing = RawServer::answering("HTTP/1.1 403 Not you\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = setup("http", &refusing).start().await;
    let mut client = proxy.client().await;
    client.tunnel("mail.test:25").await.unwrap();
    assert_eq!(client.read_to_end().await, b"");
    // Without connecting ahead, servers do not speak first.
    let settings = Settings { eager: false, ..Settings::default() };
    let proxy = Setup { settings, ..setup("http", &upstream) }.start().await;
    let mut client = proxy.client().await;
    client.tunnel("mail.test:25").await.unwrap();
    assert!(client.is_quiet_for(Duration::from_millis(1500)).await);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn what_the_proxy_says_against_it_is_told() {
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(100_000));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
    let cases: [(Script, &str); 9] = [
        (
            vec![Step::Request, send("HTTP/1.1 403 Not you\r\nContent-Length: 1\r\n\r\nx")],
            "refused HTTP CONNECT request: 403 Not you",
        ),
        (
            vec![Step::Request, send("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")],
            "refused HTTP CONNECT request: 407 Proxy Authentication Required. Give its credentials by upstream_auth.",
        ),
        (vec![Step::Request, send("HTTP/1.1 502\r\n\r\n")], "refused HTTP CONNECT request: 502"),
        (
            vec![Step::Request, send("SSH-2.0-OpenSSH_9\r\n\r\n")],
            "Bad HTTP response line: b&#x27;SSH-2.0",
        ),
        (vec![Step::Request, send("HTTP/1.1 200 OK\r\nno colon\r\n\r\n")], "Invalid header line"),
        (vec![Step::Request, send(endless)], "HTTP head"),
        (vec![Step::Request, send(interim)], "too many interim responses"),
        (vec![Step::Request, Step::Close], "the upstream proxy closed the connection"),
        (
            vec![Step::Request, send("HTTP/1.1 200 O"), Step::Reset],
            "the upstream proxy closed the connection",
        ),
    ];
    for (script, expected) in cases {
        let upstream = RawServer::start(move |_| script.clone()).await;
        let proxy = setup("http", &upstream).start().await;
        let (_client, page) = in_tunnel(&proxy, "h.test:81").await;
        let (status, page) = (page.status(), text(&page));
        assert!(status == 502 && page.contains(expected), "{expected}: {status} {page}");
        assert!(page.contains(&upstream.address().to_string()), "{page}");
        assert!(proxy.flow(1).error().is_some());
        let hooks = proxy.hooks();
        assert!(hooks.contains(&"server_disconnected".to_owned()), "{hooks:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_or_silent_is_not_waited_for() {
    let (address, _guard) = net::refusing();
    let mode = format!("upstream:http://{address}");
    let proxy = Setup { mode, ..Setup::default() }.start().await;
    let (_client, page) = in_tunnel(&proxy, "h.test:81").await;
    assert!(page.status() == 502 && text(&page).contains(&address.to_string()), "{}", text(&page));
    let mut client = proxy.client().await;
    let page = client.request("GET http://h.test/ HTTP/1.1\r\nHost: h.test\r\n\r\n").await;
    assert_eq!(page.status(), 502);

    for scheme in ["http", "socks5h"] {
        let silent = RawServer::start(|_| vec![Step::Bytes(1), Step::End]).await;
        let settings =
            Settings { connect_timeout: Duration::from_millis(100), ..Settings::default() };
        let proxy = Setup { settings, ..setup(scheme, &silent) }.start().await;
        let (_client, page) = in_tunnel(&proxy, "h.test:81").await;
        assert!(page.status() == 502 && text(&page).contains("did not answer"), "{}", text(&page));
    }
}

#[tokio::test]
async fn proxies_may_be_reached_by_tls() {
    let identity = tls::self_signed(&["127.0.0.1"]);
    let upstream = RawServer::start_tls(identity.server_config(&["h2", "http/1.1"]), |_| {
        vec![Step::Request, send(GRANTED), Step::Request, send(OK), Step::End]
    })
    .await;
    let proxy = setup("https", &upstream).start().await;
    let dir = tempfile::tempdir().unwrap();
    proxy.set_tls(dir.path(), Verification::Insecure);
    let (_client, page) = in_tunnel(&proxy, "h.test:81").await;
    assert_eq!(page.content(), b"hello");
    let received = String::from_utf8(upstream.received()[0].clone()).unwrap();
    assert!(received.starts_with("CONNECT h.test:81 HTTP/1.1\r\n"), "{received}");
    let hooks = proxy.hooks();
    let at = |name: &str| hooks.iter().position(|hook| hook == name).unwrap();
    assert!(at("server_connected") < at("tls_start_server"), "{hooks:?}");
    assert!(at("tls_established_server") < at("http_connect_upstream"), "{hooks:?}");

    // In absolute form, too; and a proxy that is not trusted is not told anything.
    let upstream = RawServer::start_tls(identity.server_config(&[]), |_| {
        vec![Step::Request, send(OK), Step::Again]
    })
    .await;
    for (verification, status) in [(Verification::Insecure, 200), (Verification::Roots, 502)] {
        let proxy = setup("https", &upstream).start().await;
        proxy.set_tls(dir.path(), verification);
        let mut client = proxy.client().await;
        let page = client.request("GET http://h.test/ HTTP/1.1\r\nHost: h.test\r\n\r\n").await;
        assert_eq!(page.status(), status, "{}", text(&page));
    }
    let received = String::from_utf8(upstream.received().concat()).unwrap();
    assert_eq!(received, "GET http://h.test/ HTTP/1.1\r\nHost: h.test\r\n\r\n");
}

#[tokio::test]
async fn tls_goes_through_a_proxy_to_its_server() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin = RawServer::start_tls(identity.server_config(&["http/1.1"]), |_| {
        vec![Step::Request, send(OK), Step::Again]
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    for scheme in ["http", "socks5", "socks5h"] {
        // The second one is as good a proxy as any, and lets TLS pass to the same authority.
        let mode = if scheme == "http" { "regular" } else { "socks5" };
        let second = Setup { mode: mode.into(), ..Setup::default() }.start().await;
        let authority = second.set_tls(dir.path(), Verification::Insecure);
        let trusted = dir.path().join("trusted.pem");
        std::fs::write(&trusted, &authority).unwrap();
        let mode = format!("upstream:{scheme}://{}", second.address);
        let first = Setup { mode, ..Setup::default() }.start().await;
        let trust = Verification::Trusted { file: Some(trusted), dir: None };
        let pem = first.set_tls(dir.path(), trust);

        let mut client = first.client().await;
        client.tunnel(&origin.address().to_string()).await.unwrap();
        let config = tls::client_config(&pem, &["http/1.1"]);
        let mut client = client.start_tls(config, "origin.test").await.unwrap();
        let page = client.request("GET /x HTTP/1.1\r\nHost: origin.test\r\n\r\n").await;
        assert_eq!(page.content(), b"hello", "{scheme}");
        let flow = first.flow(1);
        assert_eq!(&*flow.server().with(|server| server.via.clone()).unwrap().scheme, scheme);
        let hooks = first.hooks();
        let order: Vec<_> = hooks
            .iter()
            .filter(|hook| {
                hook.starts_with("server_")
                    || hook.contains("tls_start_server")
                    || hook.contains("upstream")
            })
            .map(String::as_str)
            .collect();
        let expected: &[&str] = if scheme == "http" {
            &["server_connect", "server_connected", "http_connect_upstream", "tls_start_server"]
        } else {
            &["server_connect", "server_connected", "tls_start_server"]
        };
        assert_eq!(order, expected, "{scheme}");
    }
    assert_eq!(origin.requests().len(), 3);
}

/// What a SOCKS proxy answers to a request that it serves.
const SERVED: &[u8] = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00";

#[tokio::test]
async fn socks_proxies_are_asked_in_their_way() {
    let port = 81_u16.to_be_bytes();
    let by_name = [&b"\x05\x01\x00\x03\x06h.test"[..], &port].concat();
    let localhost = [&b"\x05\x01\x00\x01\x7f\x00\x00\x01"[..], &port].concat();
    let v6 = [&b"\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"[..], &port].concat();
    for (scheme, target, asked) in [
        ("socks5h", "h.test:81", &by_name),
        ("socks5", "localhost:81", &localhost),
        ("socks5h", "127.0.0.1:81", &localhost),
        ("socks5", "[::1]:81", &v6),
    ] {
        let len = asked.len();
        let upstream = RawServer::start(move |_| {
            let page = [SERVED, b""].concat();
            vec![
                Step::Bytes(3),
                send(b"\x05\x00"),
                Step::Bytes(3 + len),
                send(page),
                Step::Bytes(3 + len + 20),
                send(OK),
                Step::End,
            ]
        })
        .await;
        let proxy = setup(scheme, &upstream).start().await;
        let (_client, page) = in_tunnel(&proxy, target).await;
        assert_eq!(page.content(), b"hello", "{scheme} {target}");
        let received = upstream.received().concat();
        let expected = [b"\x05\x01\x00", &asked[..], b"GET /x HTTP/1.1\r\n"].concat();
        assert!(received.starts_with(&expected), "{scheme} {target}: {received:?}");
    }
    // Plain requests are asked for in origin form: the proxy does not read them.
    let upstream = RawServer::start(|_| {
        vec![
            Step::Bytes(3),
            send(b"\x05\x00"),
            Step::Bytes(16),
            send(SERVED),
            Step::Bytes(50),
            send(OK),
        ]
    })
    .await;
    let proxy = setup("socks5h", &upstream).start().await;
    let mut client = proxy.client().await;
    let page = client.request("GET http://h.test:81/y HTTP/1.1\r\nHost: h.test:81\r\n\r\n").await;
    assert_eq!(page.content(), b"hello");
    let received = upstream.received().concat();
    assert!(
        received.ends_with(b"\x00\x51GET /y HTTP/1.1\r\nHost: h.test:81\r\n\r\n"),
        "{received:?}"
    );
}

#[tokio::test]
async fn socks_proxies_are_told_the_password_if_they_ask() {
    let login = b"\x01\x04user\x05pa:ss";
    let script = || {
        vec![
            Step::Bytes(4),
            send(b"\x05\x02"),
            Step::Bytes(4 + 12),
            send(b"\x01\x00"),
            Step::Bytes(4 + 12 + 13),
            send(SERVED),
            Step::Bytes(4 + 12 + 13 + 20),
            send(OK),
            Step::End,
        ]
    };
    for in_mode in [true, false] {
        let upstream = RawServer::start(move |_| script()).await;
        let setup = if in_mode {
            let mode = format!("upstream:socks5h://user:pa%3Ass@{}", upstream.address());
            Setup { mode, ..Setup::default() }
        } else {
            let settings = Settings { upstream_auth: Some(credentials()), ..Settings::default() };
            Setup { settings, ..setup("socks5h", &upstream) }
        };
        let proxy = setup.start().await;
        let (_client, page) = in_tunnel(&proxy, "h.test:81").await;
        assert_eq!(page.content(), b"hello", "{}", text(&page));
        let received = upstream.received().concat();
        assert!(received.starts_with(&[b"\x05\x02\x00\x02", &login[..]].concat()), "{received:?}");
        assert!(!String::from_utf8_lossy(&received).contains("Authorization"));
        let flow = proxy.flow(1);
        let client = flow.client().get();
        assert!(!client.proxy_mode.contains("pa%3Ass"), "{}", client.proxy_mode);
    }
}

#[tokio::test]
async fn what_a_socks_proxy_says_against_it_is_told() {
    let with_auth = [false, true];
    let cases: [(Script, &str); 9] = [
        (
            vec![
                Step::Bytes(3),
                send(b"\x05\x00"),
                Step::Bytes(16),
                send(b"\x05\x05\x00\x01\0\0\0\0\0\0"),
            ],
            "refused to connect to h.test:81: connection refused",
        ),
        (
            vec![Step::Bytes(3), send(b"\x05\x00"), Step::Bytes(16), send(b"\x05\x63")],
            "refused to connect to h.test:81: unknown reason",
        ),
        (vec![Step::Bytes(3), send(b"\x05\xff")], "upstream proxy"),
        (vec![Step::Bytes(3), send(b"\x05\x01")], "chose method 1, which was not offered"),
        (vec![Step::Bytes(3), send(b"\x04\x00")], "does not speak SOCKS5"),
        (vec![Step::Bytes(3), send("HTTP/1.1 400 Bad Request\r\n\r\n")], "does not speak SOCKS5"),
        (vec![Step::Bytes(3), Step::Close], "the upstream proxy closed the connection"),
        (
            vec![Step::Bytes(3), send(b"\x05\x00"), Step::Bytes(16), send(b"\x05\x00\x00\x07")],
            "address type 7",
        ),
        (
            vec![Step::Bytes(3), send(b"\x05\x02"), Step::Bytes(4), send(b"\x01\x01")],
            "upstream proxy",
        ),
    ];
    for (script, expected) in cases {
        for with_auth in with_auth {
            let script = script.clone();
            let upstream = RawServer::start(move |_| script.clone()).await;
            let upstream_auth = with_auth.then(credentials);
            let settings = Settings { upstream_auth, ..Settings::default() };
            let proxy = Setup { settings, ..setup("socks5h", &upstream) }.start().await;
            let (_client, page) = in_tunnel(&proxy, "h.test:81").await;
            let (status, page) = (page.status(), text(&page));
            assert!(status == 502 && page.contains(expected), "{expected}: {status} {page}");
            assert!(page.contains(&upstream.address().to_string()), "{page}");
            assert!(!page.contains("pa:ss"));
        }
    }
}
