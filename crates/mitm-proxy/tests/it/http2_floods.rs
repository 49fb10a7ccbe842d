//! Peers of HTTP/2 that want to cost more than they pay, and those that break the protocol: each is sent away with a
//! GOAWAY and one line in the log, while another connection goes on as if nothing were.

use std::{future::pending, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response};
use mitm_proxy::{Settings, hooks::Need};
use mitm_testkit::wait::{until, within};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, Peer, RST_STREAM,
        SETTINGS, WINDOW_UPDATE, frame, get, section, word,
    },
    harness::{Proxied, Setup},
    http2::{Client, Origin, echo, reverse},
    log::Log,
};

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A proxy, an origin behind it, and a client that does nothing wrong.
struct Scene {
    proxy: Proxied,
    bystander: Client,
    log: Log,
    _origin: Origin,
}

impl Scene {
    async fn start(settings: Settings) -> Self {
        let log = Log::start();
        // It lets everything pass: who complains is the proxy.
        let mut builder = h2::server::Builder::new();
        builder.data_frame_budget(usize::MAX / 2);
        let origin = Origin::start_with(builder, false, serve).await;
        let setup = Setup { settings, need: Need::Tee, ..Setup::default() };
        let proxy = reverse(setup, "http", origin.address).await;
        let bystander = Client::plain(&proxy).await;
        let scene = Self { proxy, bystander, log, _origin: origin };
        scene.is_unharmed("at first").await;
        scene.log.take();
        scene
    }

    async fn peer(&self) -> Peer {
        self.peer_with(&[]).await
    }

    async fn peer_with(&self, settings: &[(u16, u32)]) -> Peer {
        Peer::connect(self.proxy.proxy.listening()[0], settings).await
    }

    async fn is_unharmed(&self, name: &str) {
        let got = within(name, self.bystander.post("/echo", &[], "hello".into(), None)).await;
        assert_eq!((got.head.status().as_u16(), &got.body[..]), (200, &b"hello"[..]), "{name}");
    }

    /// All that a peer had is gone, and the log said one thing about it.
    async fn is_rid_of_it(&self, name: &str) {
        self.is_unharmed(name).await;
        until("one connection is left", || self.proxy.proxy.connections() == 1).await;
        let lines = self.log.take();
        let lines: Vec<_> = lines.iter().filter(|line| line.starts_with("HTTP/2")).collect();
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        until("all flows have ended", || {
            (0..self.proxy.flows()).all(|at| !self.proxy.flow(at).is_live())
        })
        .await;
    }
}

async fn serve(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    match request.uri().path() {
        "/never" => {
            let _kept = (request, respond);
            pending::<()>().await;
        }
        "/large" => {
            let Ok(mut out) = respond.send_response(Response::new(()), false) else { return };
            for _ in 0..64 {
                if crate::http2::send(&mut out, Bytes::from(vec![b'x'; 256 << 10])).await.is_err() {
                    return;
                }
            }
        }
        _ => echo(request, respond).await,
    }
}

fn request(stream: u32, path: &'static str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &section(&get(path)))
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &word(8))
}

/// The streams that a client opens, in order.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

fn post(stream: u32, path: &'static str) -> Vec<u8> {
    let mut fields = get(path);
    fields[0].1 = b"POST".to_vec();
    frame(HEADERS, END_HEADERS, stream, &section(&fields))
}

/// One field that is worth 4,000 bytes and is kept, and many that take one byte to repeat it.
fn bomb(stream: u32) -> Vec<u8> {
    let mut head = section(&get("/"));
    // Literal with incremental indexing (RFC 7541 §6.2.1).
    head.extend_from_slice(&[0x40, 1, b'x', 127, 0xa1, 0x1e]);
    head.extend(vec![b'y'; 4000]);
    head.extend(vec![0xbe; 10_000]);
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head)
}

fn floods() -> Vec<(&'static str, Vec<u8>, u32)> {
    let open = frame(HEADERS, END_STREAM, 1, &section(&get("/")));
    let filler = section(&[("x", "y")]);
    let endless =
        |piece: &[u8]| [&open[..], &frame(CONTINUATION, 0, 1, piece).repeat(50_000)].concat();
    let malformed = section(&[(":method", "GET"), ("x", "y")]);
    vec![
        (
            "streams that are reset at once",
            streams(20_000)
                .flat_map(|stream| [request(stream, "/never"), reset(stream)].concat())
                .collect(),
            ENHANCE_YOUR_CALM,
        ),
        ("a head that does not end", endless(&filler), ENHANCE_YOUR_CALM),
        ("a head of empty frames", endless(&[]), ENHANCE_YOUR_CALM),
        (
            "malformed heads",
            streams(5_000)
                .flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &malformed))
                .collect(),
            ENHANCE_YOUR_CALM,
        ),
        ("a head that is larger than it looks", bomb(1), ENHANCE_YOUR_CALM),
        (
            "a body in single bytes that nobody reads",
            [post(1, "/never"), frame(DATA, 0, 1, b"x").repeat(400_000)].concat(),
            ENHANCE_YOUR_CALM,
        ),
        (
            "a body of nothing",
            [post(1, "/never"), frame(DATA, 0, 1, b"").repeat(400_000)].concat(),
            ENHANCE_YOUR_CALM,
        ),
    ]
}

/// What is against the protocol, and the code it gets: the library often says `PROTOCOL_ERROR` where the RFC has a word of
/// its own.
fn violations() -> Vec<(&'static str, Vec<u8>, u32)> {
    let large = vec![0; (128 << 10) + 1];
    let head = section(&get("/"));
    vec![
        (
            "a window that overflows",
            frame(WINDOW_UPDATE, 0, 0, &word(0x7fff_ffff)),
            FLOW_CONTROL_ERROR,
        ),
        ("a window that does not grow", frame(WINDOW_UPDATE, 0, 0, &word(0)), PROTOCOL_ERROR),
        ("a frame that is too large", frame(DATA, 0, 1, &large), FRAME_SIZE_ERROR),
        ("a stream of ours", request(2, "/"), PROTOCOL_ERROR),
        ("a stream from before", [request(5, "/never"), request(3, "/")].concat(), PROTOCOL_ERROR),
        ("headers of no stream", frame(HEADERS, END_HEADERS, 0, &head), PROTOCOL_ERROR),
        ("data of no stream", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("data of a stream to come", frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
        ("a reset of a stream to come", reset(1), PROTOCOL_ERROR),
        ("the rest of no head", frame(CONTINUATION, END_HEADERS, 1, &head), PROTOCOL_ERROR),
        (
            "another frame within a head",
            [frame(HEADERS, 0, 1, &head), frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "a head that breaks off",
            frame(HEADERS, END_HEADERS, 1, &head[..head.len() - 1]),
            PROTOCOL_ERROR,
        ),
        (
            "a field that nobody knows",
            frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0x03]),
            PROTOCOL_ERROR,
        ),
        ("settings that are too short", frame(SETTINGS, 0, 0, &[0; 5]), PROTOCOL_ERROR),
        ("settings that are none", Peer::settings(&[(4, 0x8000_0000)]), PROTOCOL_ERROR),
        ("a frame size that is none", Peer::settings(&[(5, 1)]), PROTOCOL_ERROR),
        ("a short ping", frame(PING, 0, 0, &[0; 7]), PROTOCOL_ERROR),
        ("a promise by a client", frame(5, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL_ERROR),
        ("padding that is longer than its frame", frame(DATA, 8, 1, &[5, 0]), PROTOCOL_ERROR),
        ("an answer without question", frame(SETTINGS, ACK, 0, &[0; 6]), PROTOCOL_ERROR),
    ]
}

#[tokio::test]
async fn floods_end_the_connection_they_come_on() {
    let scene = Scene::start(Settings::default()).await;
    for (name, frames, code) in floods() {
        let flows = scene.proxy.flows();
        let mut peer = scene.peer().await;
        let got = within(name, peer.pour(&frames)).await;
        assert_eq!(got, Some(code), "{name}");
        scene.is_rid_of_it(name).await;
        let flows = scene.proxy.flows() - flows;
        assert!(flows < 300, "{name}: {flows} flows");
    }
}

#[tokio::test]
async fn violations_end_the_connection_they_come_on() {
    let scene = Scene::start(Settings::default()).await;
    let mut wrong = Vec::new();
    for (name, frames, code) in violations() {
        let mut peer = scene.peer().await;
        let got = within(name, peer.pour(&frames)).await;
        if got != Some(code) {
            wrong.push((name, got));
        }
        scene.is_rid_of_it(name).await;
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test]
async fn streams_that_are_reset_a_little_later_are_a_flood_too() {
    let scene = Scene::start(Settings::default()).await;
    let mut peer = scene.peer().await;
    until("the connection is accepted", || scene.proxy.proxy.connections() == 2).await;
    let all: Vec<u32> = streams(1000).collect();
    let begun = scene.proxy.flows();
    let mut opened = 0;
    for some in all.chunks(50) {
        let open: Vec<u8> = some.iter().flat_map(|stream| request(*stream, "/never")).collect();
        if peer.send(&open).await.is_err() || scene.proxy.proxy.connections() == 1 {
            break;
        }
        opened += some.len();
        until("they are flows, or it is over", || {
            scene.proxy.flows() >= begun + opened || scene.proxy.proxy.connections() == 1
        })
        .await;
        let close: Vec<u8> = some.iter().flat_map(|stream| reset(*stream)).collect();
        if peer.send(&close).await.is_err() {
            break;
        }
    }
    assert_eq!(peer.ended().await, Some(ENHANCE_YOUR_CALM));
    assert!(scene.proxy.flows() < begun + 700, "{}", scene.proxy.flows());
    scene.is_rid_of_it("resets").await;
}

#[tokio::test]
async fn a_client_may_change_its_mind() {
    let scene = Scene::start(Settings::default()).await;
    let mut peer = scene.peer().await;
    for stream in streams(600) {
        if stream % 6 == 1 {
            peer.request(stream, "/never").await.unwrap();
            peer.send(&reset(stream)).await.unwrap();
            continue;
        }
        peer.request(stream, "/echo").await.unwrap();
        loop {
            let frame = peer.next().await.unwrap();
            assert_ne!(frame.kind, GOAWAY);
            if frame.stream == stream && frame.has(END_STREAM) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn pings_and_settings_are_answered_however_many() {
    let scene = Scene::start(Settings::default()).await;
    let mut peer = scene.peer().await;
    for _ in 0..20 {
        let some =
            [frame(PING, 0, 0, &[7; 8]).repeat(500), Peer::settings(&[(4, 70_000)]).repeat(500)]
                .concat();
        peer.send(&some).await.unwrap();
        let (mut pongs, mut acks) = (0, 0);
        while pongs < 500 || acks < 500 {
            let frame = within("an answer", peer.read()).await.unwrap();
            match frame.kind {
                PING if frame.has(ACK) => pongs += 1,
                SETTINGS if frame.has(ACK) => acks += 1,
                GOAWAY => panic!("{frame:?}"),
                _ => {}
            }
        }
        scene.is_unharmed("pings").await;
    }
    peer.request(1, "/echo").await.unwrap();
    assert_eq!(peer.next().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_stream_whose_window_overflows_is_reset_alone() {
    let scene = Scene::start(Settings::default()).await;
    let mut peer = scene.peer().await;
    let grow = frame(WINDOW_UPDATE, 0, 1, &word(0x7fff_ffff));
    peer.send(&[post(1, "/echo"), grow].concat()).await.unwrap();
    loop {
        let frame = peer.next().await.unwrap();
        if frame.kind == RST_STREAM {
            assert_eq!((frame.stream, frame.code()), (1, FLOW_CONTROL_ERROR));
            break;
        }
    }
    peer.request(3, "/echo").await.unwrap();
    loop {
        let frame = peer.next().await.unwrap();
        if frame.stream == 3 && frame.has(END_STREAM) {
            break;
        }
    }
}

#[tokio::test]
async fn who_never_reads_is_given_up() {
    let settings = Settings { idle_timeout: Duration::from_millis(400), ..Settings::default() };
    // One allows nothing to be sent; the other allows all of it, and leaves it in the sockets.
    for window in [0, 0x7fff_ffff] {
        let scene = Scene::start(settings.clone()).await;
        let begun = scene.proxy.flows();
        let mut peer = scene.peer_with(&[(4, window)]).await;
        let mut ask: Vec<u8> = streams(20).flat_map(|stream| request(stream, "/large")).collect();
        ask.extend(frame(WINDOW_UPDATE, 0, 0, &word(0x7000_0000)));
        peer.send(&ask).await.unwrap();
        until("all were asked", || scene.proxy.flows() >= begun + 20).await;
        until("all are given up", || {
            (0..scene.proxy.flows()).all(|at| !scene.proxy.flow(at).is_live())
        })
        .await;
        let failed =
            (begun..begun + 20).filter(|at| scene.proxy.flow(*at).error().is_some()).count();
        assert!(failed >= 18, "window {window}: {failed}");
        // Whoever asks for nothing more is not kept either.
        until("the connections are closed", || scene.proxy.proxy.connections() == 0).await;
    }
}

#[tokio::test]
async fn a_head_that_does_not_go_on_is_not_waited_for() {
    let settings = Settings { idle_timeout: Duration::from_millis(400), ..Settings::default() };
    let scene = Scene::start(settings).await;
    let mut peer = scene.peer().await;
    peer.send(&frame(HEADERS, END_STREAM, 1, &section(&get("/")))).await.unwrap();
    peer.ended().await;
    until("all are gone", || scene.proxy.proxy.connections() == 0).await;
}

/// What a hostile server sends instead of an answer on the first stream.
fn server_floods() -> Vec<(&'static str, Vec<u8>)> {
    let ok = section(&[(":status", "200")]);
    let open = frame(HEADERS, 0, 1, &ok);
    let answer = frame(HEADERS, END_HEADERS, 1, &ok);
    let mut bomb = ok.clone();
    bomb.extend_from_slice(&[0x40, 1, b'x', 127, 0xa1, 0x1e]);
    bomb.extend(vec![b'y'; 4000]);
    bomb.extend(vec![0xbe; 10_000]);
    let interim = frame(HEADERS, END_HEADERS, 1, &section(&[(":status", "103")]));
    vec![
        (
            "a head that does not end",
            [open, frame(CONTINUATION, 0, 1, &[]).repeat(50_000)].concat(),
        ),
        ("a head that is larger than it looks", frame(HEADERS, END_HEADERS, 1, &bomb)),
        ("interim answers without end", interim.repeat(20_000)),
        ("a body of nothing", [&answer[..], &frame(DATA, 0, 1, b"").repeat(400_000)].concat()),
        (
            "a window that overflows",
            [&answer[..], &frame(WINDOW_UPDATE, 0, 0, &word(0x7fff_ffff))].concat(),
        ),
        ("a promise", [&answer[..], &frame(5, END_HEADERS, 1, &[0, 0, 0, 2])].concat()),
        ("a stream of its own", [&answer[..], &frame(HEADERS, END_HEADERS, 2, &ok)].concat()),
        ("a frame that is too large", frame(DATA, 0, 1, &vec![0; (128 << 10) + 1])),
        ("a field that nobody knows", frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0x03])),
        ("settings that are none", Peer::settings(&[(4, 0x8000_0000)])),
        (
            "more than the window",
            [&answer[..], &frame(DATA, 0, 1, &[0; 64 << 10]).repeat(2000)].concat(),
        ),
        ("the end", Vec::new()),
    ]
}

#[tokio::test]
async fn servers_that_flood_fail_their_flows_only() {
    for need in [Need::Nothing, Need::Hold] {
        for (name, frames) in server_floods() {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut serving = JoinSet::new();
            serving.spawn(async move {
                let mut peers = JoinSet::new();
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    let frames = frames.clone();
                    peers.spawn(async move {
                        let mut peer = Peer::over(tcp);
                        peer.expect_preface().await;
                        peer.send(&Peer::settings(&[])).await.unwrap();
                        while let Some(frame) = peer.next().await {
                            if frame.kind == HEADERS && frames.is_empty() {
                                return;
                            }
                            if frame.kind == HEADERS {
                                // As long as anybody listens.
                                peer.pour(&frames).await;
                            }
                        }
                    });
                }
            });
            let setup = Setup { need, ..Setup::default() };
            let proxy = reverse(setup, "http", address).await;
            let client = Client::plain(&proxy).await;
            let (response, _) = client.begin("POST", "/", &[], true).await;
            let got = within(name, crate::http2::receive(response)).await;
            if let Ok(got) = got {
                assert_eq!(got.head.status(), 502, "{name} ({need:?})");
            }
            until("the flow has ended", || !proxy.flow(0).is_live()).await;
            assert!(proxy.flow(0).error().is_some(), "{name} ({need:?})");
            // The client's connection goes on.
            drop(serving);
            let (response, _) = client.begin("POST", "/", &[], true).await;
            let got = within(name, crate::http2::receive(response)).await.unwrap();
            assert_eq!(got.head.status(), 502, "{name} ({need:?})");
            assert_eq!(proxy.flows(), 2, "{name} ({need:?})");
        }
    }
}
