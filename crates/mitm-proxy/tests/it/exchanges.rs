//! Requests and responses as they cross the proxy.

use std::time::Duration;

use mitm_flow::{Headers, Response, Shared};
use mitm_proxy::{Event, Hook, ListenDefaults, Mode, Settings, hooks::Need};
use mitm_testkit::{RawServer, Step, net, wait::within};

use crate::harness::Setup;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn an_unmodified_message_passes_byte_for_byte() {
    let answer =
        "HTTP/1.1 299 Odd  Reason\r\nx-B:1\r\nX-a:  2 \r\nx-b: 3\r\ncontent-LENGTH: 2\r\n\r\nhi";
    let origin = RawServer::answering(answer).await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let head =
        "GeT /p?q HTTP/1.1\r\nhOST: x\r\nX-Twice: 1\r\nx-twice:2\r\nProxy-Connection: a\r\n\r\n";
    client.send(head.replace("/p?q", &format!("http://{}/p?q", origin.address()))).await;
    assert_eq!(client.read_exactly(answer.len()).await, answer.as_bytes());
    assert_eq!(String::from_utf8_lossy(&origin.received()[0]), head);
}

#[tokio::test]
async fn both_connections_are_kept() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    for path in ["/1", "/2", "/3"] {
        let target = format!("GET http://{}{path} HTTP/1.1\r\nHost: x\r\n\r\n", origin.address());
        assert_eq!(client.request(target).await.content(), b"hello");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_idle_connection_serves_another_client_only_for_safe_requests() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::default().start().await;
    for (method, connections) in [("GET", 1), ("GET", 1), ("POST", 2), ("HEAD", 2)] {
        let mut client = proxy.client().await;
        let to = origin.address();
        client
            .send(format!("{method} http://{to}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"))
            .await;
        client.read_until(b"\r\n\r\n").await;
        drop(client);
        proxy.wait_for_hook(Hook::ClientDisconnected).await;
        assert_eq!(origin.connections(), connections, "{method}");
    }
}

#[tokio::test]
async fn a_server_that_closes_an_idle_connection_is_asked_again() {
    // The first connection ends with its first answer, though it promises to stay.
    let origin = RawServer::start(|_| {
        vec![Step::Request, Step::Send(OK.into()), Step::Request, Step::Reset]
    })
    .await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let request = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address());
    assert_eq!(client.request(&request).await.status(), 200);
    assert_eq!(client.request(&request).await.status(), 200);
    assert_eq!(origin.connections(), 2);
    let hooks = proxy.hooks();
    assert_eq!(hooks.iter().filter(|name| *name == "request").count(), 2, "{hooks:?}");
}

#[tokio::test]
async fn an_unreachable_server_is_a_502_that_says_so() {
    let (address, _socket) = net::refusing();
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let answer = client.request(format!("GET http://{address}/ HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert_eq!(answer.status(), 502);
    let page = String::from_utf8(answer.content()).unwrap();
    assert!(page.contains(&format!("Cannot connect to {address}: Connection refused")), "{page}");
    let error = proxy.flow(0).error().unwrap().msg;
    assert!(error.contains("Connection refused"), "{error}");
    assert_eq!(
        proxy.hooks(),
        [
            "client_connected",
            "next_layer",
            "requestheaders",
            "request",
            "server_connect",
            "server_connect_error",
            "error",
        ]
    );
}

#[tokio::test]
async fn the_proxy_does_not_connect_to_itself() {
    let proxy = Setup::default().start().await;
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let mut client = proxy.client().await;
        let port = proxy.address.port();
        let answer =
            client.request(format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(answer.status(), 502, "{host}");
    }
    // One connection per client of this test, none from the proxy.
    assert_eq!(proxy.hooks().iter().filter(|name| *name == "client_connected").count(), 3);
}

#[tokio::test]
async fn origin_form_needs_a_host() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address());
    assert_eq!(client.request(request).await.status(), 200);
    let mut client = proxy.client().await;
    assert_eq!(client.request("GET / HTTP/1.0\r\n\r\n").await.status(), 400);
    assert_eq!(proxy.flows(), 1);
}

#[tokio::test]
async fn the_name_of_the_certificate_page_is_never_resolved() {
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let answer = client.request("GET http://MITM.it/ HTTP/1.1\r\nHost: mitm.it\r\n\r\n").await;
    assert_eq!(answer.status(), 502);
    assert!(!proxy.hooks().contains(&"server_connect".to_owned()));
}

#[tokio::test]
async fn interim_responses_pass_and_the_final_one_follows() {
    let answer = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_owned() + OK;
    let origin = RawServer::answering(answer.clone()).await;
    for need in [Need::Nothing, Need::Hold] {
        let proxy = Setup::needing(need).start().await;
        let mut client = proxy.client().await;
        client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
        assert_eq!(client.read_exactly(answer.len()).await, answer.as_bytes());
    }
}

#[tokio::test]
async fn expect_continue_is_the_servers_business_unless_the_body_is_held() {
    let origin = RawServer::start(|_| {
        let head = Step::Bytes(10);
        vec![
            head,
            Step::Send("HTTP/1.1 100 Continue\r\n\r\n".into()),
            Step::Request,
            Step::Send(OK.into()),
        ]
    })
    .await;
    let head = |to| {
        format!(
            "POST http://{to}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    client.send(head(origin.address())).await;
    assert!(client.read_until(b"\r\n\r\n").await.starts_with(b"HTTP/1.1 100"));
    assert_eq!(client.request("abc").await.content(), b"hello");
    assert!(String::from_utf8_lossy(&origin.received()[0]).contains("Expect"));

    let origin = RawServer::answering(OK).await;
    let proxy = Setup::needing(Need::Hold).start().await;
    let mut client = proxy.client().await;
    client.send(head(origin.address())).await;
    assert!(client.read_until(b"\r\n\r\n").await.starts_with(b"HTTP/1.1 100"));
    assert_eq!(origin.connections(), 0);
    assert_eq!(client.request("abc").await.content(), b"hello");
    assert!(!String::from_utf8_lossy(&origin.received()[0]).contains("Expect"));
}

#[tokio::test]
async fn a_hook_answers_in_the_servers_place() {
    let proxy = Setup::reacting(|event| {
        if let Event::Request(flow) = event {
            let headers: Headers = [("X-From", "hook")].into_iter().collect();
            flow.set_response(Some(Shared::new(Response::make(418, "tea", headers))));
        }
    })
    .start()
    .await;
    let mut client = proxy.client().await;
    for _ in 0..2 {
        let answer = client.request("GET http://nowhere.test/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!((answer.status(), answer.content()), (418, b"tea".to_vec()));
    }
    let seen = &proxy.hooks()[2..6];
    assert_eq!(seen, ["requestheaders", "request", "responseheaders", "response"]);
}

#[tokio::test]
async fn killing_closes_without_an_answer() {
    for hook in [Hook::Requestheaders, Hook::Request, Hook::Responseheaders, Hook::Response] {
        let origin = RawServer::answering(OK).await;
        let proxy = Setup::reacting(move |event| {
            if event.hook() == hook
                && let Some(flow) = event.flow()
            {
                flow.kill().unwrap();
            }
        })
        .start()
        .await;
        let mut client = proxy.client().await;
        client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
        let got = within("the end", client.read_to_end()).await;
        assert!(!got.ends_with(b"hello"), "{hook:?}");
        let told = proxy.hooks().contains(&"error".to_owned());
        assert_eq!(told, hook != Hook::Response, "{hook:?}");
        assert!(proxy.flow(0).is_killed());
    }
}

#[tokio::test]
async fn an_intercepted_request_waits_for_its_resume() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::reacting(|event| {
        if let Event::Request(flow) = event {
            flow.intercept();
        }
    })
    .start()
    .await;
    let mut client = proxy.client().await;
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
    proxy.wait_for_hook(Hook::Request).await;
    assert_eq!(origin.connections(), 0);
    proxy.flow(0).resume();
    assert_eq!(client.response().await.content(), b"hello");

    let mut other = proxy.client().await;
    other.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
    mitm_testkit::wait::until("two flows", || proxy.flows() == 2).await;
    mitm_testkit::wait::until("interception", || proxy.flow(1).is_intercepted()).await;
    proxy.flow(1).kill().unwrap();
    assert_eq!(within("the end", other.read_to_end()).await, b"");
}

#[tokio::test]
async fn a_client_that_half_closes_still_gets_its_answer() {
    let origin = RawServer::start(|_| {
        vec![Step::Request, Step::Pause(Duration::from_millis(50)), Step::Send(OK.into())]
    })
    .await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
    client.finish().await;
    assert!(within("the end", client.read_to_end()).await.ends_with(b"hello"));
}

#[tokio::test]
async fn http_1_0_clients_are_closed_unless_they_ask() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let to = origin.address();
    client.request(format!("GET http://{to}/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")).await;
    client.send(format!("GET http://{to}/ HTTP/1.0\r\n\r\n")).await;
    assert!(within("the end", client.read_to_end()).await.ends_with(b"hello"));
}

#[tokio::test]
async fn idle_clients_are_closed_in_time() {
    let settings = Settings { idle_timeout: Duration::from_millis(30), ..Settings::default() };
    let proxy = Setup { settings, ..Setup::default() }.start().await;
    let mut client = proxy.client().await;
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    proxy.wait_for_hook(Hook::ClientDisconnected).await;
}

#[tokio::test]
async fn a_request_without_host_gets_the_one_of_its_target() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    client.request(format!("GET http://{}/ HTTP/1.0\r\nA: b\r\n\r\n", origin.address())).await;
    let sent = String::from_utf8(origin.received()[0].clone()).unwrap();
    assert_eq!(sent, format!("GET / HTTP/1.0\r\nHost: {}\r\nA: b\r\n\r\n", origin.address()));
}

#[tokio::test]
async fn a_killed_response_without_length_ends_in_a_reset() {
    let origin = RawServer::answering_once("HTTP/1.1 200 OK\r\n\r\nbody until close").await;
    let proxy = Setup::reacting(|event| {
        if let Event::Response(flow) = event {
            flow.kill().unwrap();
        }
    })
    .start()
    .await;
    let mut client = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    let request = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address());
    tokio::io::AsyncWriteExt::write_all(&mut client, request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let end = within("the end", tokio::io::AsyncReadExt::read_to_end(&mut client, &mut got)).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let origin = RawServer::start(|_| vec![Step::End]).await;
    let settings = Settings { idle_timeout: Duration::from_millis(40), ..Settings::default() };
    let proxy = Setup { settings, ..Setup::default() }.start().await;
    let mut client = proxy.client().await;
    let answer = client
        .request(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address()))
        .await;
    assert_eq!(answer.status(), 502);
    assert!(proxy.flow(0).error().unwrap().msg.contains("tcp_timeout"));
}

#[tokio::test]
async fn a_hook_sends_a_request_elsewhere() {
    let first = RawServer::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst").await;
    let second = RawServer::answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond").await;
    let port = second.port();
    let proxy = Setup::reacting(move |event| {
        if let Event::Request(flow) = event {
            flow.request().unwrap().update(|request| {
                if request.path.starts_with(b"/elsewhere") {
                    request.port = port;
                }
            });
        }
    })
    .start()
    .await;
    for path in ["/elsewhere", "/here", "/elsewhere"] {
        let mut client = proxy.client().await;
        let to = first.address();
        let answer =
            client.request(format!("GET http://{to}{path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let expected: &[u8] = if path == "/here" { b"first" } else { b"second" };
        assert_eq!(answer.content(), expected, "{path}");
    }
    let address = proxy.flow(0).server().get().address.unwrap();
    assert_eq!(address.port, port);
}

#[tokio::test]
async fn a_client_gets_what_it_asked_for_whatever_the_server_was_asked() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::reacting(|event| {
        if let Event::Request(flow) = event {
            flow.request().unwrap().update(|request| request.method = "GET".into());
        }
    })
    .start()
    .await;
    let mut client = proxy.client().await;
    let to = origin.address();
    client.send(format!("HEAD http://{to}/ HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert!(client.read_until(b"\r\n\r\n").await.starts_with(b"HTTP/1.1 200"));
    client.send(format!("GET http://{to}/ HTTP/1.0\r\nHost: x\r\n\r\n")).await;
    let got = within("the end", client.read_to_end()).await;
    assert!(got.starts_with(b"HTTP/1.1 200") && got.ends_with(b"hello"), "{}", got.escape_ascii());
}

#[tokio::test]
async fn one_client_keeps_few_idle_connections() {
    let mut origins = Vec::new();
    for _ in 0..12 {
        origins.push(RawServer::answering(OK).await);
    }
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    for origin in &origins {
        client
            .request(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address()))
            .await;
    }
    mitm_testkit::wait::until("the oldest to be closed", || {
        origins.iter().map(RawServer::open_connections).sum::<usize>() <= 8
    })
    .await;
}

#[tokio::test]
async fn a_kill_ends_the_wait_for_a_held_body() {
    let proxy = Setup::needing(Need::Hold).start().await;
    let mut client = proxy.client().await;
    client.send("POST http://x.test/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc").await;
    proxy.wait_for_hook(Hook::Requestheaders).await;
    proxy.flow(0).kill().unwrap();
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    proxy.wait_for_hook(Hook::Error).await;
    assert!(!proxy.hooks().contains(&"request".to_owned()));
    let body = proxy.flow(0).request().unwrap().get().body;
    assert!(body.is_partial() && body.len().is_some_and(|len| len <= 3));
}

#[tokio::test]
async fn listeners_move_and_their_clients_stay() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let get = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address());
    client.request(&get).await;
    let mode = || vec![Mode::parse("regular").unwrap()];
    for _ in 0..2 {
        let port = net::free_port();
        let defaults = ListenDefaults { host: "127.0.0.1".into(), port: Some(port) };
        assert!(proxy.proxy.listen(mode(), &defaults).await.is_empty());
        assert_eq!(proxy.proxy.listening(), [std::net::SocketAddr::from(([127, 0, 0, 1], port))]);
        assert_eq!(client.request(&get).await.status(), 200);
    }
    assert!(tokio::net::TcpStream::connect(proxy.address).await.is_err());
}
