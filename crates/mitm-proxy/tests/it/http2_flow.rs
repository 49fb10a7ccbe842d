//! Flow control of HTTP/2: large bodies through small windows, streams that nobody reads beside others, and what
//! streams leave behind.

use std::{future::pending, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{Request, Response};
use mitm_proxy::{Settings, hooks::Need};
use mitm_testkit::wait::{until, within};
use tokio::{net::TcpListener, runtime::Handle, time::timeout};

use crate::{
    frames::{
        DATA, END_HEADERS, END_STREAM, HEADERS, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
        section, word,
    },
    harness::Setup,
    http2::{Client, Origin, echo, receive, reverse, send},
};

const LARGE: usize = 16 << 20;
/// Enough for all streams of a connection.
const WIDE: u32 = 1 << 30;

fn client(stream: u32, connection: u32) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(stream).initial_connection_window_size(connection);
    builder
}

fn server(stream: u32, connection: u32) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(stream).initial_connection_window_size(connection);
    builder
}

/// Bytes that are not the same at two places.
fn body(len: usize) -> Bytes {
    let words = (0..u32::try_from(len / 4).unwrap())
        .flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_be_bytes());
    words.collect::<Vec<u8>>().into()
}

/// `/never` reads nothing, `/large` sends without end, and everything else is echoed.
async fn serve(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    match request.uri().path() {
        "/never" => {
            let _kept = (request, respond);
            pending::<()>().await;
        }
        "/large" => {
            let Ok(mut out) = respond.send_response(Response::new(()), false) else { return };
            let piece = Bytes::from(vec![b'x'; 64 << 10]);
            while send(&mut out, piece.clone()).await.is_ok() {}
        }
        _ => echo(request, respond).await,
    }
}

#[tokio::test]
async fn large_bodies_pass_through_small_windows() {
    for (window, len) in [(16 << 10, LARGE), (1 << 10, LARGE / 16), (1 << 20, LARGE / 4)] {
        for (mine, theirs) in [(window, 1 << 20), (1 << 20, window), (window, window)] {
            for need in [Need::Nothing, Need::Hold] {
                // The window of a connection cannot be made smaller than 64 KiB.
                let origin =
                    Origin::start_with(server(theirs, theirs.max(65_535)), false, serve).await;
                let proxy = reverse(Setup::needing(need), "http", origin.address).await;
                let client = Client::plain_with(&client(mine, mine.max(65_535)), &proxy).await;
                let sent = body(len);
                let got = within("the echo", client.post("/echo", &[], sent.clone(), None)).await;
                assert!(got.body == sent, "{mine} {theirs} {need:?}: {} bytes", got.body.len());
            }
        }
    }
}

/// A window that grows and shrinks at once is no news; the next that grows is.
#[tokio::test]
async fn a_window_that_shrank_again_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = reverse(Setup::default(), "http", listener.local_addr().unwrap()).await;
    let client = Client::plain(&proxy).await;
    let server = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut peer = Peer::over(tcp);
        peer.expect_preface().await;
        let window = |size: u32| Peer::settings(&[(4, size)]);
        let grow = |stream: u32, by: u32| frame(WINDOW_UPDATE, 0, stream, &word(by));
        peer.send(&[window(10_000), grow(0, 1 << 20)].concat()).await.unwrap();
        let mut got = 0;
        let mut is_over = false;
        while !is_over {
            let frame = peer.next().await.unwrap();
            if frame.kind == DATA {
                let was_stuck = got >= 10_000;
                got += frame.payload.len();
                is_over = frame.has(END_STREAM);
                if got == 10_000 && !was_stuck {
                    peer.send(&[grow(1, 1000), window(9000)].concat()).await.unwrap();
                    // Its answer shows that both were seen.
                    while peer.read().await.unwrap().kind != SETTINGS {}
                    peer.send(&grow(1, 50_000)).await.unwrap();
                }
            }
        }
        let ok = section(&[(":status", "200")]);
        peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &ok)).await.unwrap();
        while peer.next().await.is_some() {}
    };
    let body = Bytes::from(vec![b'x'; 50_000]);
    let asking = within("an answer", client.post("/", &[], body, None));
    tokio::select! {
        got = asking => assert_eq!(got.head.status(), 200),
        () = server => panic!("the proxy is gone"),
    }
}

/// Sends until nobody takes more; returns how much that was.
async fn fill(out: &mut SendStream<Bytes>) -> usize {
    let piece = Bytes::from(vec![b'x'; 16 << 10]);
    let mut sent = 0;
    // That nothing happens can only be seen by waiting.
    while let Ok(ended) = timeout(Duration::from_millis(100), send(out, piece.clone())).await {
        ended.unwrap();
        sent += piece.len();
        assert!(sent < 64 << 20, "somebody takes it all");
    }
    sent
}

#[tokio::test]
async fn uploads_that_nobody_reads_hold_up_no_other() {
    let origin = Origin::start_with(server(65_535, WIDE), false, serve).await;
    let proxy = reverse(Setup::needing(Need::Tee), "http", origin.address).await;
    let client = Client::plain_with(&client(1 << 20, WIDE), &proxy).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (response, mut out) = client.begin("POST", "/never", &[], false).await;
        let sent = fill(&mut out).await;
        // What is on the way: the windows of both sides, and a little in between.
        assert!(sent < 2 << 20, "{sent}");
        kept.push((response, out));
    }
    // All that a client may have open.
    for _ in kept.len()..99 {
        let (response, mut out) = client.begin("POST", "/never", &[], false).await;
        out.send_data(Bytes::from(vec![b'x'; 600 << 10]), false).unwrap();
        kept.push((response, out));
    }
    let sent = body(2 << 20);
    let got = within("an echo", client.post("/echo", &[], sent.clone(), None)).await;
    assert!(got.body == sent);
}

#[tokio::test]
async fn downloads_that_nobody_reads_hold_up_no_other() {
    let origin = Origin::start_with(server(1 << 20, WIDE), false, serve).await;
    let proxy = reverse(Setup::needing(Need::Tee), "http", origin.address).await;
    let client = Client::plain_with(&client(65_535, WIDE), &proxy).await;
    let mut kept = Vec::new();
    for _ in 0..99 {
        let (response, _) = client.begin("GET", "/large", &[], true).await;
        kept.push(within("a head", response).await.unwrap());
    }
    let sent = body(2 << 20);
    let got = within("an echo", client.post("/echo", &[], sent.clone(), None)).await;
    assert!(got.body == sent);
    // Who gives up has all of it back.
    drop(kept);
    until("the rest has ended", || (0..proxy.flows()).all(|at| !proxy.flow(at).is_live())).await;
    assert_eq!(
        within("an echo", client.post("/echo", &[], "again".into(), None)).await.body,
        "again"
    );
}

#[tokio::test]
async fn a_held_upload_gives_its_window_back() {
    let settings = Settings { body_memory_limit: 1 << 20, ..Settings::default() };
    let origin = Origin::start_with(server(1 << 20, WIDE), false, serve).await;
    let setup = Setup { settings, need: Need::Hold, ..Setup::default() };
    let proxy = reverse(setup, "http", origin.address).await;
    let client = Client::plain_with(&client(1 << 20, WIDE), &proxy).await;
    // All of it goes somewhere before the server sees any.
    let sent = body(LARGE);
    let (response, mut out) = client.begin("POST", "/echo", &[], false).await;
    within("the upload", send(&mut out, sent.clone())).await.unwrap();
    assert_eq!(client.post("/echo", &[], "other".into(), None).await.body, "other");
    out.send_data(Bytes::new(), true).unwrap();
    assert!(within("the answer", receive(response)).await.unwrap().body == sent);
}

#[tokio::test]
async fn finished_streams_leave_nothing_behind() {
    let origin = Origin::start(false, serve).await;
    let proxy = reverse(Setup::needing(Need::Tee), "http", origin.address).await;
    let client = Client::plain(&proxy).await;
    let one = |number: usize| {
        let client = &client;
        async move {
            match number % 4 {
                0 => assert_eq!(client.get("/a").await.head.status(), 200),
                1 => {
                    // Given up with the answer on the way.
                    let (response, _) = client.begin("GET", "/large", &[], true).await;
                    drop(response.await.unwrap());
                }
                2 => {
                    // Given up before its end was sent.
                    let (response, mut out) = client.begin("POST", "/echo", &[], false).await;
                    out.send_data("part".into(), false).unwrap();
                    drop(response.await.unwrap());
                }
                _ => assert_eq!(client.post("/b", &[], "x".into(), None).await.body, "x"),
            }
        }
    };
    for number in 0..8 {
        one(number).await;
    }
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let all_ended = || (0..proxy.flows()).all(|at| !proxy.flow(at).is_live());
    until("the first have ended", all_ended).await;
    let before = tasks();
    for number in 0..1000 {
        within("a stream", one(number)).await;
    }
    until("all have ended", all_ended).await;
    until("their tasks are gone", || tasks() <= before).await;
    assert_eq!((proxy.flows(), origin.connections()), (1008, 1));
    // A stream that is over is nobody's any more.
    let idle = (0..1008).filter(|at| proxy.flow(*at).error().is_some()).count();
    assert!(idle >= 250, "{idle}");
}

/// A server may answer before it has the whole request, and want no more of it (RFC 9113 §8.1).
#[tokio::test]
async fn an_early_answer_comes_before_the_end_of_its_stream() {
    for need in [Need::Nothing, Need::Tee] {
        let origin = Origin::start(false, |request, mut respond| async move {
            drop(request);
            let head = Response::builder().status(405).body(()).unwrap();
            let mut out = respond.send_response(head, false).unwrap();
            out.send_data("no".into(), true).unwrap();
        })
        .await;
        let proxy = reverse(Setup::needing(need), "http", origin.address).await;
        let mut peer = Peer::connect(proxy.proxy.listening()[0], &[]).await;
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "origin.test"),
            (":path", "/"),
            ("content-length", "16777216"),
        ];
        let head = frame(HEADERS, END_HEADERS, 1, &section(&fields));
        peer.send(&[head, frame(DATA, 0, 1, &[b'x'; 16 << 10])].concat()).await.unwrap();
        let mut frames = Vec::new();
        while !frames.contains(&(RST_STREAM, false)) {
            let frame = peer.next().await.unwrap();
            assert!(frame.kind != RST_STREAM || frame.code() == 0, "{frame:?}");
            // It goes on sending until it is told that nobody listens.
            if frame.kind == DATA {
                peer.send(&crate::frames::frame(DATA, 0, 1, &[b'x'; 16 << 10])).await.unwrap();
            }
            let is_end = frame.kind == DATA && frame.has(END_STREAM);
            frames.push((frame.kind, is_end));
        }
        assert_eq!(frames[0], (HEADERS, false));
        assert!(frames.contains(&(DATA, true)), "{frames:?}");
        until("the flow has ended", || !proxy.flow(0).is_live()).await;
        assert!(proxy.flow(0).error().is_none());
    }
}

/// What a server does not take is kept for those who still want to send it, not longer.
#[tokio::test]
async fn uploads_that_are_given_up_end_although_nobody_reads_them() {
    for need in [Need::Tee, Need::Hold] {
        let origin = Origin::start(false, serve).await;
        let proxy = reverse(Setup::needing(need), "http", origin.address).await;
        let client = Client::plain(&proxy).await;
        let (response, mut out) = client.begin("POST", "/never", &[], false).await;
        within("the upload", send(&mut out, vec![b'x'; 300 << 10].into())).await.unwrap();
        out.send_data(Bytes::new(), true).unwrap();
        until("it is asked", || proxy.hooks().iter().any(|name| name == "server_connected")).await;
        drop((response, out));
        until("the flow has ended", || !proxy.flow(0).is_live()).await;
        assert_eq!(proxy.flow(0).error().unwrap().msg.as_ref(), "stream reset by client (CANCEL)");
        // And those of a connection that is gone.
        let (_response, mut out) = client.begin("POST", "/never", &[], false).await;
        within("the upload", send(&mut out, vec![b'x'; 300 << 10].into())).await.unwrap();
        until("it is a flow", || proxy.flows() == 2).await;
        drop(client);
        until("nothing is left", || proxy.proxy.connections() == 0 && !proxy.flow(1).is_live())
            .await;
    }
}
