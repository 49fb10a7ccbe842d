//! Messages that two parsers may read differently, sent through the proxy between raw sockets: each is refused, or
//! reaches the other side with exactly one framing, with the body forwarded as it comes as well as held.
//!
//! The cases are those of the request smuggling literature (CL.TE, TE.CL, TE.TE, chunk extensions and sizes, folding,
//! line ends, duplicate lengths, response splitting), in our own spelling.

use mitm_proxy::{Settings, hooks::Need};
use mitm_testkit::{
    RawServer, Step,
    naive::{self, Trust},
    wait::within,
};

use crate::harness::{Proxied, Setup};

/// What follows a head in many cases: a second request, if the first is taken to have no body.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";

/// Pairs of a name and what follows `POST http://ORIGIN/ HTTP/1.1\r\nHost: x\r\n`.
fn requests() -> Vec<(&'static str, String)> {
    let chunked =
        |lines: &str, body: &str| format!("{lines}Transfer-Encoding: chunked\r\n\r\n{body}");
    let hidden_chunk = format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len());
    let hidden_len = HIDDEN.len();
    vec![
        ("length and chunked", chunked("Content-Length: 4\r\n", &hidden_chunk)),
        (
            "chunked and length",
            format!(
                "Transfer-Encoding: chunked\r\nContent-Length: {hidden_len}\r\n\r\n0\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "two lengths",
            format!("Content-Length: 0\r\nContent-Length: {hidden_len}\r\n\r\n{HIDDEN}"),
        ),
        ("two equal lengths", "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc".into()),
        ("a list of lengths", format!("Content-Length: 0, {hidden_len}\r\n\r\n{HIDDEN}")),
        ("a signed length", format!("Content-Length: +{hidden_len}\r\n\r\n{HIDDEN}")),
        ("a negative length", format!("Content-Length: -1\r\n\r\n{HIDDEN}")),
        ("a length in hex", format!("Content-Length: 0x{hidden_len:x}\r\n\r\n{HIDDEN}")),
        ("a length with leading zeros", format!("Content-Length: 00{hidden_len}\r\n\r\n{HIDDEN}")),
        ("a length with a blank inside", format!("Content-Length: 1 0\r\n\r\n{HIDDEN}")),
        (
            "a length beyond 64 bits",
            format!("Content-Length: 18446744073709551617\r\n\r\n{HIDDEN}"),
        ),
        ("an empty length", format!("Content-Length: \r\n\r\n{HIDDEN}")),
        ("a blank before the colon", format!("Content-Length : {hidden_len}\r\n\r\n{HIDDEN}")),
        ("a folded header", format!("X: a\r\n Content-Length: {hidden_len}\r\n\r\n{HIDDEN}")),
        ("a header line that begins with a blank", format!(" Content-Length: 9\r\n\r\n{HIDDEN}")),
        ("a bare line feed", format!("X: a\nContent-Length: {hidden_len}\r\n\r\n{HIDDEN}")),
        ("a bare carriage return", format!("X: a\rContent-Length: {hidden_len}\r\n\r\n{HIDDEN}")),
        ("a zero byte in a name", format!("Content-\0Length: {hidden_len}\r\n\r\n{HIDDEN}")),
        ("an unknown coding", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".into()),
        ("chunked not last", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n".into()),
        (
            "chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n".into(),
        ),
        ("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n".into()),
        ("chunked after a tab", format!("Transfer-Encoding:\x0bchunked\r\n\r\n{hidden_chunk}")),
        ("a chunk size with a sign", chunked("", "+3\r\nabc\r\n0\r\n\r\n")),
        ("a chunk size with 0x", chunked("", "0x3\r\nabc\r\n0\r\n\r\n")),
        ("a chunk size beyond 64 bits", chunked("", "10000000000000003\r\nabc\r\n0\r\n\r\n")),
        ("a chunk line that ends in a line feed", chunked("", "3\nabc\r\n0\r\n\r\n")),
        ("chunk data without its line end", chunked("", "3\r\nabcd\r\n0\r\n\r\n")),
        ("a line feed in a chunk extension", chunked("", "3;a\nxx\r\nabc\r\n0\r\n\r\n")),
        ("a length in the trailers", chunked("", "3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n")),
        ("two hosts", "Host: y\r\nContent-Length: 0\r\n\r\n".into()),
        ("a chunk extension", chunked("", "3;a=b\r\nabc\r\n0\r\n\r\n")),
    ]
}

#[tokio::test]
async fn requests_are_refused_or_have_one_framing() {
    let mut refused = 0;
    for need in [Need::Nothing, Need::Hold] {
        for (name, rest) in requests() {
            let origin =
                RawServer::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            let proxy = Setup::needing(need).start().await;
            let mut client = proxy.client().await;
            let to = origin.address();
            client.send(format!("POST http://{to}/ HTTP/1.1\r\nHost: x\r\n{rest}")).await;
            client.finish().await;
            let answer = within(name, client.read_to_end()).await;
            let status = answer.get(9..12).unwrap_or_default();
            let received = origin.received().concat();
            let seen: Vec<usize> = [Trust::TransferEncoding, Trust::FirstLength, Trust::LastLength]
                .iter()
                .map(|&trust| naive::messages(&received, trust).0.len())
                .collect();
            if status == b"400" {
                refused += 1;
                // A head may be gone before its chunks turn out to be malformed; nothing complete may be.
                assert_eq!(origin.requests().len(), 0, "{name} ({need:?})");
            } else {
                assert_eq!(status, b"200", "{name} ({need:?}): {}", answer.escape_ascii());
                let head = received.split(|&b| b == b'\n').take_while(|line| line.len() > 1);
                let head: Vec<u8> = head.collect::<Vec<_>>().join(&b'\n');
                assert!(naive::framings(&head).len() <= 1, "{name} ({need:?})");
                assert!(seen[0] <= 2, "{name} ({need:?})");
            }
            let shown = String::from_utf8_lossy(&received);
            let smuggled = shown.contains("/hidden") && status == b"400";
            assert!(!smuggled || origin.requests().is_empty(), "{name} ({need:?}): {shown}");
        }
    }
    assert_eq!(refused, 2 * (requests().len() - 1), "only the chunk extension passes");
}

/// Pairs of a name and a whole response.
fn responses() -> Vec<(&'static str, String)> {
    let ok = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}");
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden";
    vec![
        (
            "length and chunked",
            ok("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("two lengths", ok("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")),
        ("two equal lengths", ok("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello")),
        ("a list of lengths", ok("Content-Length: 5, 6\r\n\r\nhello!")),
        ("a signed length", ok("Content-Length: +5\r\n\r\nhello")),
        ("a negative length", ok("Content-Length: -5\r\n\r\nhello")),
        ("a length in hex", ok("Content-Length: 0x5\r\n\r\nhello")),
        ("a length with zeros", ok("Content-Length: 05\r\n\r\nhello")),
        ("a length beyond 64 bits", ok("Content-Length: 18446744073709551621\r\n\r\nhello")),
        ("an empty length", ok("Content-Length:\r\n\r\nhello")),
        ("a blank before the colon", ok("Content-Length : 5\r\n\r\nhello")),
        ("a folded header", ok("X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello")),
        ("a bare line feed", ok("X: a\nContent-Length: 5\r\n\r\nhello")),
        ("a bare carriage return", ok("X: a\rY: b\r\nContent-Length: 5\r\n\r\nhello")),
        ("a zero byte in a value", ok("X: a\0b\r\nContent-Length: 5\r\n\r\nhello")),
        ("a line without a colon", ok("nonsense\r\nContent-Length: 5\r\n\r\nhello")),
        ("a line without a name", ok(": x\r\nContent-Length: 5\r\n\r\nhello")),
        ("an unknown coding", ok("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
        ("chunked not last", ok("Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n")),
        (
            "chunked twice",
            ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "chunked in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("chunked in 204", "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into()),
        ("no version", "200 OK\r\nContent-Length: 5\r\n\r\nhello".into()),
        ("an unknown version", "HTTP/3.7 200 OK\r\nContent-Length: 5\r\n\r\nhello".into()),
        ("no status", "HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello".into()),
        ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello".into()),
        ("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello".into()),
        ("a status with a sign", "HTTP/1.1 +20 OK\r\nContent-Length: 5\r\n\r\nhello".into()),
        ("garbage", "\x16\x03\x01 not at all\r\n\r\n".into()),
        ("a head beyond the limit", ok(&format!("X: {}\r\n\r\n", "a".repeat(70_000)))),
        (
            "a chunk size with a sign",
            ok("Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "a chunk without its line end",
            ok("Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n"),
        ),
        ("a second response", ok("Content-Length: 5\r\n\r\nhello") + second),
        ("a body after 304", format!("HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n{second}")),
    ]
}

#[tokio::test]
async fn responses_are_refused_or_have_one_framing() {
    for need in [Need::Nothing, Need::Hold] {
        for (name, answer) in responses() {
            let origin = RawServer::answering_once(answer.clone()).await;
            let proxy = Setup::needing(need).start().await;
            let mut client = proxy.client().await;
            let get = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address());
            client.send(&get).await;
            client.finish().await;
            let got = within(name, client.read_to_end()).await;
            let shown = String::from_utf8_lossy(&got);
            let status = got.get(9..12).unwrap_or_default();
            match name {
                // The first is what it says; the rest belongs to nobody.
                "a second response" => {
                    assert!(shown.ends_with("\r\n\r\nhello"), "{name}: {shown}");
                }
                "a body after 304" => assert!(shown.ends_with("\r\n\r\n"), "{name}: {shown}"),
                // The head was sent before the chunks turned out to be malformed; the end must be missing.
                _ if status == b"200" && name.starts_with("a chunk") => {
                    assert!(
                        need == Need::Nothing && !shown.ends_with("0\r\n\r\n"),
                        "{name}: {shown}"
                    );
                }
                _ => assert_eq!(status, b"502", "{name} ({need:?}): {shown}"),
            }
            assert!(!shown.contains("hidden"), "{name} ({need:?}): {shown}");
        }
    }
}

#[tokio::test]
async fn what_a_server_says_out_of_turn_reaches_no_client() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let origin = RawServer::start(move |connection| {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let first = if connection == 0 { format!("{answer}{poison}") } else { answer.into() };
        vec![Step::Request, Step::Send(first.into()), Step::Request, Step::Send(answer.into())]
    })
    .await;
    let proxy: Proxied = Setup { settings: Settings::default(), ..Setup::default() }.start().await;
    let get = format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address());
    for _ in 0..2 {
        let mut client = proxy.client().await;
        assert_eq!(client.request(&get).await.content(), b"ok");
        assert_eq!(client.request(&get).await.content(), b"ok");
    }
}
