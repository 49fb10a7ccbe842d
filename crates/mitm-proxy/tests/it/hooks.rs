//! The order of hooks, as scripts rely on it.

use mitm_proxy::{Event, Hook};
use mitm_testkit::RawServer;

use crate::harness::Setup;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn plain_http() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    client.request(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
    drop(client);
    proxy.wait_for_hook(Hook::ClientDisconnected).await;
    assert_eq!(
        proxy.hooks(),
        [
            "client_connected",
            "next_layer",
            "requestheaders",
            "request",
            "server_connect",
            "server_connected",
            "responseheaders",
            "response",
            "client_disconnected",
        ]
    );
}

#[tokio::test]
async fn a_streamed_request_is_sent_before_its_hook() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::reacting(|event| {
        if let Event::Requestheaders(flow) = event {
            flow.request().unwrap().update(|request| request.stream = mitm_flow::Stream::Pass);
        }
    })
    .start()
    .await;
    let mut client = proxy.client().await;
    let to = origin.address();
    client
        .request(format!("POST http://{to}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"))
        .await;
    assert_eq!(
        proxy.hooks()[2..],
        [
            "requestheaders",
            "server_connect",
            "server_connected",
            "request",
            "responseheaders",
            "response",
        ]
    );
}

#[tokio::test]
async fn refused_framing_is_told_to_addons() {
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    let both = "POST http://x.test/ HTTP/1.1\r\nHost: x.test\r\nContent-Length: 3\r\n\
                Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(client.request(both).await.status(), 400);
    assert_eq!(proxy.hooks()[2..], ["requestheaders", "error"]);

    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    assert_eq!(client.request("GET\r\n\r\n").await.status(), 400);
    assert_eq!(proxy.flows(), 0);
}

#[tokio::test]
async fn a_refused_client_is_not_served() {
    let proxy = Setup::reacting(|event| {
        if let Event::ClientConnected(client) = event {
            client.update(|client| client.error = Some("no".into()));
        }
    })
    .start()
    .await;
    let mut client = proxy.client().await;
    assert_eq!(client.read_to_end().await, b"");
    proxy.wait_for_hook(Hook::ClientDisconnected).await;
    assert_eq!(proxy.hooks(), ["client_connected", "client_disconnected"]);
}

#[tokio::test]
async fn a_refused_server_is_not_connected() {
    let origin = RawServer::answering(OK).await;
    let proxy = Setup::reacting(|event| {
        if let Event::ServerConnect(data) = event {
            data.server.update(|server| server.error = Some("not there".into()));
        }
    })
    .start()
    .await;
    let mut client = proxy.client().await;
    let answer = client
        .request(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address()))
        .await;
    assert_eq!(answer.status(), 502);
    assert!(String::from_utf8(answer.content()).unwrap().contains("Connection killed: not there"));
    assert_eq!(origin.connections(), 0);
}
