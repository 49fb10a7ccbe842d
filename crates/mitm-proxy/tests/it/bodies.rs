//! What becomes of bodies: streamed, teed, held, limited, cut off.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mitm_flow::{ChunkTransform, Stream, stream::TransformFuture};
use mitm_proxy::{Event, Hook, Settings, hooks::Need};
use mitm_testkit::{RawServer, Step, wait::within};

use crate::harness::Setup;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
    3;x=\"y\"\r\nabc\r\n00002\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n";

#[tokio::test]
async fn chunks_extensions_and_trailers_pass_as_they_came() {
    let origin = RawServer::answering(CHUNKED).await;
    for need in [Need::Nothing, Need::Tee] {
        let proxy = Setup::needing(need).start().await;
        let mut client = proxy.client().await;
        client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
        assert_eq!(client.read_exactly(CHUNKED.len()).await, CHUNKED.as_bytes(), "{need:?}");
        let response = proxy.flow(0).response().unwrap().get();
        assert_eq!(response.body.is_missing(), need == Need::Nothing);
        assert_eq!(response.body.len(), Some(5));
        assert_eq!(response.trailers.unwrap().get("x-sum").unwrap(), "1");
    }
}

#[tokio::test]
async fn a_held_chunked_body_is_sent_with_its_trailers() {
    let origin = RawServer::answering(CHUNKED).await;
    let proxy = Setup::needing(Need::Hold).start().await;
    let mut client = proxy.client().await;
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
    let got = client.read_until(b"X-Sum: 1\r\n\r\n").await;
    assert!(got.ends_with(b"5\r\nabcde\r\n0\r\nX-Sum: 1\r\n\r\n"), "{}", got.escape_ascii());
}

#[tokio::test]
async fn an_edited_body_gets_its_real_length() {
    let origin = RawServer::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let proxy = Setup {
        need: Need::Hold,
        ..Setup::reacting(|event| match event {
            Event::Request(flow) => {
                flow.request()
                    .unwrap()
                    .update(|r| r.body = Bytes::from("longer than before").into());
            }
            Event::Response(flow) => {
                flow.response().unwrap().update(|r| r.body = Bytes::from("hi").into());
            }
            _ => {}
        })
    }
    .start()
    .await;
    let mut client = proxy.client().await;
    let to = origin.address();
    let answer = client
        .request(format!("POST http://{to}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"))
        .await;
    assert_eq!(answer.content(), b"hi");
    assert_eq!(origin.requests()[0].content(), b"longer than before");
}

#[tokio::test]
async fn events_arrive_one_by_one_even_if_somebody_would_hold_them() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    let origin = RawServer::start(move |_| {
        vec![
            Step::Request,
            Step::Send(head.into()),
            Step::Send("data: 1\n\n".into()),
            Step::Request,
            Step::Close,
        ]
    })
    .await;
    for need in [Need::Tee, Need::Hold] {
        let proxy = Setup::needing(need).start().await;
        let mut client = proxy.client().await;
        client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
        // The origin waits for another request, so the end is far.
        let got = within("the first event", client.read_until(b"data: 1\n\n")).await;
        assert!(got.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_large_body_is_streamed_and_not_kept() {
    let body = "x".repeat(100);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{body}");
    let chunked =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n{body}\r\n0\r\n\r\n");
    for (answer, store) in [(answer.clone(), false), (answer, true), (chunked, false)] {
        let origin = RawServer::answering(answer).await;
        let settings = Settings {
            stream_large_bodies: Some(99),
            store_streamed_bodies: store,
            ..Settings::default()
        };
        let proxy = Setup { settings, ..Setup::needing(Need::Hold) }.start().await;
        let mut client = proxy.client().await;
        let answer = client
            .request(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address()))
            .await;
        assert_eq!(answer.content(), body.as_bytes());
        let response = proxy.flow(0).response().unwrap().get();
        assert_eq!(response.body.is_missing(), !store);
        assert!(response.stream.is_set());
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    let settings = || Settings { body_size_limit: Some(4), ..Settings::default() };
    for need in [Need::Nothing, Need::Hold] {
        let origin =
            RawServer::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        let proxy = Setup { settings: settings(), ..Setup::needing(need) }.start().await;
        let to = origin.address();
        let mut client = proxy.client().await;
        let post =
            format!("POST http://{to}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(client.request(post).await.status(), 413);
        let mut client = proxy.client().await;
        let get = format!("GET http://{to}/ HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.request(get).await.status(), 502);
        let error = proxy.flow(1).error().unwrap().msg;
        assert!(error.contains("body_size_limit"), "{error}");
    }
    // Of unknown length: cut off at the limit.
    let origin = RawServer::answering(CHUNKED).await;
    let proxy = Setup { settings: settings(), ..Setup::needing(Need::Tee) }.start().await;
    let mut client = proxy.client().await;
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
    let got = within("the end", client.read_to_end()).await;
    assert!(!got.ends_with(b"0\r\n\r\n"));
    assert!(proxy.flow(0).error().is_some());
}

struct Upper;

impl ChunkTransform for Upper {
    fn transform(&self, chunk: Bytes) -> TransformFuture {
        let out =
            if chunk.is_empty() { Bytes::from("!") } else { chunk.to_ascii_uppercase().into() };
        Box::pin(async move { Ok(vec![out]) })
    }
}

#[tokio::test]
async fn a_stream_function_sees_pieces_and_the_end() {
    let origin = RawServer::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let settings = Settings { store_streamed_bodies: true, ..Settings::default() };
    let proxy = Setup {
        settings,
        ..Setup::reacting(|event| match event {
            Event::Requestheaders(flow) => flow
                .request()
                .unwrap()
                .update(|request| request.stream = Stream::Transform(Arc::new(Upper))),
            Event::Responseheaders(flow) => flow
                .response()
                .unwrap()
                .update(|response| response.stream = Stream::Transform(Arc::new(Upper))),
            _ => {}
        })
    }
    .start()
    .await;
    let mut client = proxy.client().await;
    let to = origin.address();
    let answer = client
        .request(format!("POST http://{to}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"))
        .await;
    assert_eq!(answer.content(), b"HELLO!");
    assert_eq!(origin.requests()[0].content(), b"ABC!");
    let response = proxy.flow(0).response().unwrap().get();
    assert_eq!(response.body.bytes().unwrap().unwrap(), "HELLO!");
}

#[tokio::test]
async fn an_early_answer_arrives_while_the_request_is_still_sent() {
    let refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
    let origin =
        RawServer::start(move |_| vec![Step::Bytes(50), Step::Send(refusal.into()), Step::End])
            .await;
    let proxy = Setup::needing(Need::Tee).start().await;
    let mut client = proxy.client().await;
    let to = origin.address();
    client
        .send(format!("POST http://{to}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nbegin"))
        .await;
    assert_eq!(within("the answer", client.response()).await.status(), 413);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_seen_to_break_off() {
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial";
    for (need, begins) in
        [(Need::Nothing, "HTTP/1.1 200"), (Need::Tee, "HTTP/1.1 200"), (Need::Hold, "HTTP/1.1 502")]
    {
        let origin = RawServer::answering_once(part).await;
        let proxy = Setup::needing(need).start().await;
        let mut client = proxy.client().await;
        client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
        let got = within("the end", client.read_to_end()).await;
        assert!(got.starts_with(begins.as_bytes()), "{need:?}: {}", got.escape_ascii());
        proxy.wait_for_hook(Hook::Error).await;
        let flow = proxy.flow(0);
        assert!(flow.error().unwrap().msg.contains('7'), "{:?}", flow.error());
        let body = flow.response().unwrap().get().body;
        assert!(body.is_partial());
        assert_eq!(body.len(), Some(7));
        assert!(!proxy.hooks().contains(&"response".to_owned()));
    }
}

#[tokio::test]
async fn a_client_that_leaves_within_its_body_ends_the_flow() {
    let origin = RawServer::start(|_| vec![Step::End]).await;
    for need in [Need::Nothing, Need::Hold] {
        let proxy = Setup::needing(need).start().await;
        let mut client = proxy.client().await;
        let to = origin.address();
        client
            .send(format!("POST http://{to}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"))
            .await;
        client.finish().await;
        proxy.wait_for_hook(Hook::Error).await;
        assert_eq!(&*proxy.flow(0).error().unwrap().msg, "Client disconnected.");
        drop(client);
    }
}

#[tokio::test]
async fn a_slow_client_slows_the_server() {
    let big = vec![b'x'; 64 << 20];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", big.len());
    let origin = RawServer::start(move |_| {
        vec![Step::Request, Step::Send([head.as_bytes(), &big].concat()), Step::End]
    })
    .await;
    let proxy = Setup::default().start().await;
    let mut client = proxy.client().await;
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.address())).await;
    client.read_until(b"\r\n\r\n").await;
    // Nothing is read here for a while; the proxy must not read ahead without bound meanwhile.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let counted = proxy.flow(0).response().unwrap().get().body;
    assert!(counted.is_missing() && counted.len().is_none(), "the body has not passed");
    client.read_exactly(64 << 20).await;
}

#[tokio::test]
async fn an_early_answer_does_not_cut_an_upload_that_is_wanted() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let origin = RawServer::start(move |_| {
        vec![Step::Bytes(50), Step::Send(ok.into()), Step::Request, Step::End]
    })
    .await;
    let proxy = Setup::needing(Need::Tee).start().await;
    let mut client = proxy.client().await;
    let to = origin.address();
    client
        .send(format!("POST http://{to}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nbegin"))
        .await;
    assert_eq!(within("the answer", client.response()).await.content(), b"ok");
    client.send("ended").await;
    origin.wait_for_requests(1).await;
    assert_eq!(origin.requests()[0].content(), b"beginended");
    mitm_testkit::wait::until("the body", || {
        proxy.flow(0).request().unwrap().with(|r| r.body.len()) == Some(10)
    })
    .await;
}
