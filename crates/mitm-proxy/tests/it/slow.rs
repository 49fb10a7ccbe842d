//! Clients that take their time on purpose.

use std::time::Duration;

use mitm_proxy::Settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Proxied, Setup};

const LIMIT: Duration = Duration::from_millis(200);
const BETWEEN: Duration = Duration::from_millis(20);
/// Far more than fit into the limit.
const DRIPS: usize = 500;

async fn proxy(mode: &str) -> Proxied {
    let settings = Settings { handshake_timeout: LIMIT, ..Settings::default() };
    Setup { mode: mode.into(), settings, ..Setup::default() }.start().await
}

/// Sends `start`, then one byte of `drips` after the other; true if the proxy closes before they are used up.
async fn is_closed(proxy: &Proxied, start: &[u8], drips: impl Iterator<Item = u8>) -> bool {
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(start).await.unwrap();
    for byte in drips.take(DRIPS) {
        match timeout(BETWEEN, client.read(&mut [0; 64])).await {
            Ok(Ok(0) | Err(_)) => return true,
            Err(_) if client.write_all(&[byte]).await.is_err() => return true,
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    false
}

#[tokio::test]
async fn a_head_is_not_waited_for_without_end() {
    let proxy = proxy("regular").await;
    let endless = || std::iter::repeat(b'x');
    assert!(is_closed(&proxy, b"GET http://a.test/", endless()).await);
    assert!(is_closed(&proxy, b"CONNECT a.test:443 HTTP/1.1\r\nX: ", endless()).await);
    assert!(is_closed(&proxy, b"GET http://a.test/", b"\r\n".iter().copied().cycle()).await);
}

#[tokio::test]
async fn empty_lines_do_not_put_it_off() {
    let proxy = proxy("reverse:http://127.0.0.1:9").await;
    assert!(is_closed(&proxy, b"\r\n", b"\r\n".iter().copied().cycle()).await);
}

#[tokio::test]
async fn neither_is_the_preface_of_http2() {
    let proxy = proxy("reverse:http://127.0.0.1:9").await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(&preface[..20]).await.unwrap();
    let mut rest = Vec::new();
    // Long before the limit of silence.
    let read = timeout(Duration::from_secs(10), client.read_to_end(&mut rest)).await;
    assert!(read.is_ok());
}

#[tokio::test]
async fn neither_is_a_client_hello() {
    let proxy = proxy("reverse:tls://127.0.0.1:9").await;
    let lengths = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03";
    assert!(is_closed(&proxy, lengths, std::iter::repeat(b'x')).await);
}

#[tokio::test]
async fn a_client_may_be_silent_before_it_begins() {
    let proxy = proxy("regular").await;
    let mut client = proxy.client().await;
    assert!(client.is_quiet_for(LIMIT * 3).await);
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    assert!(client.response().await.start_line().contains("400"));
}
