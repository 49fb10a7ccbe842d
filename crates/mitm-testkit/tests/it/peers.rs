//! The scripted peers talk to each other.

use std::time::Duration;

use mitm_testkit::naive::Trust;
use mitm_testkit::wait::until;
use mitm_testkit::{Nginx, RawClient, RawServer, Step, nginx, tls};

#[tokio::test]
async fn an_origin_counts_and_answers_requests() {
    let server = RawServer::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut client = RawClient::connect(server.address()).await;
    for path in ["/a", "/b"] {
        let answer = client.request(format!("GET {path} HTTP/1.1\r\n\r\n")).await;
        assert_eq!((answer.status(), answer.content()), (200, b"ok".to_vec()));
    }
    server.wait_for_requests(2).await;
    assert_eq!(server.connections(), 1);
    assert_eq!(server.requests_by(Trust::FirstLength)[1].start_line(), "GET /b HTTP/1.1");
    drop(client);
    until("the connection is closed", || server.open_connections() == 0).await;
}

#[tokio::test]
async fn a_script_answers_in_pieces_and_resets() {
    let server = RawServer::start(|number| {
        let mut script = vec![Step::Bytes(3), Step::Send(b"one".to_vec())];
        script.push(Step::Pause(Duration::from_millis(20)));
        script.push(if number == 0 { Step::Reset } else { Step::Send(b"two".to_vec()) });
        script
    })
    .await;
    for expected in [b"one".as_slice(), b"onetwo"] {
        let mut client = RawClient::connect(server.address()).await;
        client.send("abc").await;
        assert_eq!(client.read_to_end().await, expected);
    }
    assert_eq!(server.received(), [b"abc", b"abc"]);
}

#[tokio::test]
async fn tls_peers_agree() {
    let authority = tls::Authority::new("test");
    let identity = authority.issue(&["localhost", "127.0.0.1"]);
    let server = RawServer::start_tls(identity.server_config(&["http/1.1"]), |_| {
        vec![Step::Request, Step::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()), Step::End]
    })
    .await;
    let client = RawClient::connect(server.address()).await;
    let trusting = tls::client_config(&authority.pem(), &["http/1.1"]);
    let mut client = client.start_tls(trusting, "localhost").await.unwrap();
    assert_eq!(client.request("GET / HTTP/1.1\r\n\r\n").await.status(), 204);
    assert_eq!(server.requests().len(), 1);

    let stranger = tls::client_config(&tls::self_signed(&["other"]).trust_pem, &[]);
    let client = RawClient::connect(server.address()).await;
    assert!(client.start_tls(stranger, "localhost").await.is_err());
}

#[tokio::test]
async fn nginx_serves_plain_and_tls() {
    let Some(server) = Nginx::start() else { return };
    let get = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", nginx::NAME);
    let plain = RawClient::connect(server.http()).await.request(&get).await;
    assert_eq!(plain.content(), nginx::HELLO.as_bytes());
    let trusting = tls::client_config(server.trust_pem(), &[]);
    let client = RawClient::connect(server.https()).await;
    let mut client = client.start_tls(trusting, nginx::NAME).await.unwrap();
    assert_eq!(client.request(&get).await.content(), nginx::HELLO.as_bytes());
    until("both requests are logged", || server.access_log() == ["GET / 200", "GET / 200"]).await;
}
