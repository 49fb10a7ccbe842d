//! Events reach the client one by one while they are recorded.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
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

use crate::support::{Home, PATIENCE, Proxy, curl, lines_with, note};

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

/// curl, which prints what it gets as it comes.
struct Follower {
    client: Child,
    source: EventSource,
    lines: mpsc::Receiver<(String, Instant)>,
    sent: String,
    slowest: Duration,
}

impl Follower {
    fn start(home: &Home, proxy: &Proxy, source: EventSource, url: &str) -> Self {
        let mut command = curl(home, proxy).unwrap();
        command.args(["-N", "--cacert", &home.ca(), url]).stdout(Stdio::piped());
        let mut client = command.spawn().unwrap();
        let stdout = BufReader::new(client.stdout.take().unwrap());
        let (arrived, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok).filter(|line| !line.is_empty()) {
                // after a failure nobody listens
                arrived.send((line, Instant::now())).ok();
            }
        });
        Self { client, source, lines, sent: String::new(), slowest: Duration::ZERO }
    }

    /// Sends events, the next only when curl has printed the one before.
    fn send(&mut self, events: usize) {
        for number in 0..events {
            thread::sleep(PAUSE);
            let event = format!("data: event {number}\n\n");
            let begin = Instant::now();
            self.source.send.send(event.clone()).unwrap();
            let (line, at) = self.lines.recv_timeout(PATIENCE).expect("the event arrives");
            assert_eq!(line, event.trim_end());
            self.slowest = self.slowest.max(at - begin);
            self.sent.push_str(&event);
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.client.kill().ok();
        self.client.wait().ok();
    }
}

/// The only flow of the file: its error, and what it has of the stream.
fn recorded(home: &Home) -> (Option<String>, String) {
    let mut reader = FlowReader::open(home.path("flows")).unwrap();
    let flow = reader.next_record().unwrap().expect("a flow").into_flow().unwrap();
    assert!(reader.next_record().unwrap().is_none(), "another flow");
    let body = flow.response().expect("a response").get().body.bytes().unwrap();
    let body = String::from_utf8(body.expect("it was kept").to_vec()).unwrap();
    (flow.error().map(|error| error.msg.to_string()), body)
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
    let mut follower = Follower::start(&home, &proxy, source, &url);
    follower.send(EVENTS);
    note(&format!("{url}: {EVENTS} events, the slowest took {:?}", follower.slowest));
    // the origin ends the stream when nobody can tell it to send
    follower.source.send = channel::unbounded_channel().0;
    assert!(follower.client.wait().unwrap().success());
    let output = proxy.finish();
    assert_eq!(lines_with(&output, "<< 200 OK"), 1, "{output}");
    assert_eq!(recorded(&home), (None, follower.sent.clone()));
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

/// What was recorded of a stream that has no end is not lost when the recording is ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_recorded_up_to_the_end_of_the_run() {
    if external("curl").is_none() {
        return;
    }
    let home = Home::new();
    let source = EventSource::start(None).await;
    let url = format!("http://localhost:{}/events", source.port);
    let proxy = home.start(&["-w", "flows"]);
    let mut follower = Follower::start(&home, &proxy, source, &url);
    follower.send(3);
    proxy.finish();
    let (error, body) = recorded(&home);
    assert_eq!(body, follower.sent);
    assert!(error.is_some_and(|error| error.contains("interrupted")));
    // and the client can tell
    assert_eq!(follower.client.wait().unwrap().code(), Some(18));
}
