//! Events reach the client one by one while they are recorded.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use mitm_flowfile::FlowReader;
use mitm_testkit::{
    external,
    tls::{Authority, Identity},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc as channel,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{Home, PATIENCE, Proxy, curl, lines_with, note, text};

const EVENTS: usize = 10;
/// How long the origin is silent between two events.
const PAUSE: Duration = Duration::from_millis(200);

/// An origin that sends an event whenever it is told to, and ends the stream when nobody can tell it any more.
struct EventSource {
    port: u16,
    send: channel::UnboundedSender<String>,
}

impl EventSource {
    async fn start(identity: Option<&Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = identity.map(|identity| TlsAcceptor::from(identity.server_config(&[])));
        let (send, events) = channel::unbounded_channel();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            match acceptor {
                None => serve(stream, events).await,
                Some(acceptor) => serve(acceptor.accept(stream).await.unwrap(), events).await,
            }
        });
        Self { port, send }
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut events: channel::UnboundedReceiver<String>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut request).await.unwrap() > 0);
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    while let Some(event) = events.recv().await {
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        stream.write_all(chunk.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
}

/// Sends the next event only when curl has printed the one before. Returns the whole stream.
fn follow(home: &Home, proxy: &Proxy, source: EventSource, url: &str) -> String {
    let mut command = curl(home, proxy).unwrap();
    command.args(["-N", "--cacert", &home.ca(), url]).stdout(Stdio::piped());
    let mut client = command.spawn().unwrap();
    let stdout = BufReader::new(client.stdout.take().unwrap());
    let (arrived, arrivals) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in stdout.lines() {
            let line = line.unwrap();
            if !line.is_empty() {
                arrived.send((line, Instant::now())).unwrap();
            }
        }
    });
    let mut sent = String::new();
    let mut slowest = Duration::ZERO;
    for number in 0..EVENTS {
        thread::sleep(PAUSE);
        let event = format!("data: event {number}\n\n");
        let begin = Instant::now();
        source.send.send(event.clone()).unwrap();
        let Ok((line, at)) = arrivals.recv_timeout(PATIENCE) else {
            client.kill().unwrap();
            client.wait().unwrap();
            panic!("event {number} does not arrive: {proxy:?}");
        };
        assert_eq!(line, event.trim_end());
        slowest = slowest.max(at - begin);
        sent.push_str(&event);
    }
    drop(source);
    assert!(client.wait().unwrap().success());
    reader.join().unwrap();
    note(&format!("{url}: {EVENTS} events, the slowest took {slowest:?}"));
    sent
}

async fn events_arrive(words: &[&str], identity: Option<Identity>) {
    if external("curl").is_none() {
        return;
    }
    let home = Home::new();
    let source = EventSource::start(identity.as_ref()).await;
    let scheme = if identity.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://localhost:{}/events", source.port);
    let trust = identity.map(|identity| identity.trust_pem).unwrap_or_default();
    let trust = home.write("trust.pem", trust);
    let mut all = vec!["-w", "flows"];
    if scheme == "https" {
        all.extend(["--upstream-trusted-ca", &trust]);
    }
    let proxy = home.start(&[&all, words].concat());
    let sent = follow(&home, &proxy, source, &url);
    let output = proxy.finish();
    assert_eq!(lines_with(&output, "<< 200 OK"), 1, "{output}");

    let mut reader = FlowReader::open(text(&home.path("flows"))).unwrap();
    let flow = reader.next_record().unwrap().expect("the flow").into_flow().unwrap();
    let response = flow.response().expect("it has a response").get();
    let body = response.body.bytes().unwrap().expect("it was kept");
    assert_eq!(String::from_utf8_lossy(&body), sent);
    assert!(!response.body.is_partial());
    assert!(reader.next_record().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one_over_http() {
    events_arrive(&[], None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one_over_https() {
    let identity = Authority::new("events").issue(&["localhost"]);
    events_arrive(&[], Some(identity)).await;
}

/// All that may look at bodies does: the dumper prints them, and a filter searches them.
#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one_when_bodies_are_looked_at() {
    events_arrive(&["--flow-detail", "4", "~bs event"], None).await;
}
