//! HTTP/2 on either side, both, or one.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};
use http::{HeaderMap, Request, Response};
use mitm_flow::Stream;
use mitm_proxy::{Event, Hook, ListenDefaults, Mode, Settings, hooks::Need};
use mitm_testkit::{
    RawServer, Step, tls,
    wait::{until, within},
};
use mitm_tls::Verification;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::harness::{Proxied, Setup};

/// What an origin does with each stream.
type Handler = dyn Fn(Request<RecvStream>, SendResponse<Bytes>) -> JoinSet<()> + Send + Sync;

/// A server that speaks HTTP/2 only.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    connections: Arc<Mutex<usize>>,
    _tasks: JoinSet<()>,
}

impl Origin {
    pub(crate) async fn start<F, T>(is_tls: bool, handler: F) -> Self
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        Self::start_with(h2::server::Builder::new(), is_tls, handler).await
    }

    pub(crate) async fn start_with<F, T>(
        builder: h2::server::Builder,
        is_tls: bool,
        handler: F,
    ) -> Self
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let handler: Arc<Handler> = Arc::new(move |request, respond| {
            let mut tasks = JoinSet::new();
            tasks.spawn(handler(request, respond));
            tasks
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&connections);
        let identity = tls::self_signed(&["origin.test", "127.0.0.1"]);
        let acceptor = TlsAcceptor::from(identity.server_config(&["h2"]));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut all = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                *counted.lock() += 1;
                let (acceptor, handler) = (acceptor.clone(), Arc::clone(&handler));
                let builder = builder.clone();
                all.spawn(async move {
                    if is_tls {
                        if let Ok(tls) = acceptor.accept(tcp).await {
                            serve(&builder, tls, &*handler).await;
                        }
                    } else {
                        serve(&builder, tcp, &*handler).await;
                    }
                });
            }
        });
        Self { address, connections, _tasks: tasks }
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock()
    }
}

async fn serve(
    builder: &h2::server::Builder,
    io: impl AsyncRead + AsyncWrite + Unpin,
    handler: &Handler,
) {
    let Ok(mut connection) = builder.handshake(io).await else { return };
    let mut streams = Vec::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        streams.push(handler(request, respond));
    }
}

/// Answers with what it gets, as it comes, trailers included.
pub(crate) async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = request.into_body();
    let head = Response::builder().header("x-kind", "echo").body(()).unwrap();
    let Ok(mut out) = respond.send_response(head, false) else { return };
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        if send(&mut out, data).await.is_err() {
            return;
        }
    }
    let trailers = body.trailers().await.unwrap_or_default().unwrap_or_default();
    let _ = out.send_trailers(trailers);
}

pub(crate) async fn send(out: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        out.reserve_capacity(data.len());
        let Some(capacity) = poll_fn(|cx| out.poll_capacity(cx)).await else {
            return Err(Reason::CANCEL.into());
        };
        let len = capacity?.min(data.len());
        if len == 0 {
            continue;
        }
        out.send_data(data.split_to(len), false)?;
    }
    Ok(())
}

/// A client that speaks HTTP/2.
pub(crate) struct Client {
    requests: SendRequest<Bytes>,
    scheme: &'static str,
    _driver: JoinSet<()>,
}

impl Client {
    async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &'static str,
    ) -> Self {
        Self::over_with(&h2::client::Builder::new(), io, scheme).await
    }

    async fn over_with(
        builder: &h2::client::Builder,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &'static str,
    ) -> Self {
        let (requests, connection) = builder.handshake(io).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        Self { requests, scheme, _driver: driver }
    }

    /// In TLS, in a tunnel.
    async fn in_tunnel(proxy: &Proxied, to: SocketAddr, trust: &str, alpn: &[&str]) -> Self {
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.write_all(format!("CONNECT {to} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = BytesMut::new();
        while !answer.ends_with(b"\r\n\r\n") {
            assert!(tcp.read_buf(&mut answer).await.unwrap() > 0);
        }
        let connector = TlsConnector::from(tls::client_config(trust, alpn));
        let name = "origin.test".try_into().unwrap();
        let tls = connector.connect(name, tcp).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(tls, "https").await
    }

    pub(crate) async fn plain(proxy: &Proxied) -> Self {
        Self::plain_with(&h2::client::Builder::new(), proxy).await
    }

    pub(crate) async fn plain_with(builder: &h2::client::Builder, proxy: &Proxied) -> Self {
        let address = proxy.proxy.listening()[0];
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self::over_with(builder, tcp, "http").await
    }

    pub(crate) async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        ended: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request =
            Request::builder().method(method).uri(format!("{}://origin.test{path}", self.scheme));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let requests = self.requests.clone().ready().await.unwrap();
        let mut requests = requests;
        requests.send_request(request.body(()).unwrap(), ended).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        let (response, _) = self.begin("GET", path, &[], true).await;
        receive(response).await.unwrap()
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        trailers: Option<HeaderMap>,
    ) -> Got {
        let (response, mut out) = self.begin("POST", path, headers, false).await;
        let sending = async {
            send(&mut out, body).await.unwrap();
            match trailers {
                Some(trailers) => out.send_trailers(trailers).unwrap(),
                None => out.send_data(Bytes::new(), true).unwrap(),
            }
        };
        let (got, ()) = tokio::join!(receive(response), sending);
        got.unwrap_or_else(|error| Got {
            head: Response::builder()
                .header("x-error", error.to_string())
                .status(599)
                .body(())
                .unwrap(),
            body: Bytes::new(),
            trailers: None,
        })
    }
}

pub(crate) struct Got {
    pub(crate) head: Response<()>,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

pub(crate) async fn receive(response: ResponseFuture) -> Result<Got, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut all = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?;
    Ok(Got { head: Response::from_parts(head, ()), body: all.freeze(), trailers })
}

fn trailers() -> HeaderMap {
    [(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("7"))]
        .into_iter()
        .collect()
}

pub(crate) async fn reverse(setup: Setup, scheme: &str, to: SocketAddr) -> Proxied {
    let proxy = setup.start().await;
    let mode = Mode::parse(&format!("reverse:{scheme}://{to}@127.0.0.1:0")).unwrap();
    let errors = proxy.proxy.listen(vec![mode], &ListenDefaults::default()).await;
    assert!(errors.is_empty(), "{errors:?}");
    proxy
}

#[tokio::test]
async fn both_sides_share_one_connection_and_keep_trailers() {
    for need in [Need::Nothing, Need::Tee, Need::Hold] {
        let origin = Origin::start(true, echo).await;
        let proxy = Setup::needing(need).start().await;
        let dir = tempfile::tempdir().unwrap();
        let trust = proxy.set_tls(dir.path(), Verification::Insecure);
        let client = Client::in_tunnel(&proxy, origin.address, &trust, &["h2", "http/1.1"]).await;
        for size in [0, 1, 64 << 10, 3 << 20] {
            let body = Bytes::from(vec![b'x'; size]);
            let posts = (0..3).map(|_| {
                client.post(
                    "/echo",
                    &[("cookie", "a=1"), ("cookie", "b=2")],
                    body.clone(),
                    Some(trailers()),
                )
            });
            let all = within("three streams", futures_join(posts)).await;
            let errors: Vec<_> =
                (0..proxy.flows()).filter_map(|at| proxy.flow(at).error()).collect();
            assert!(errors.is_empty(), "{errors:?}");
            for got in all {
                assert_eq!(got.head.headers()["x-kind"], "echo");
                assert_eq!(got.body, body, "{need:?} {size}");
                assert_eq!(got.trailers, Some(trailers()));
            }
        }
        let flow = proxy.flow(1);
        let (request, response) = (flow.request().unwrap().get(), flow.response().unwrap().get());
        assert_eq!(
            (&request.http_version[..], &response.http_version[..]),
            (&b"HTTP/2.0"[..], &b"HTTP/2.0"[..])
        );
        assert_eq!(&request.authority[..], b"origin.test");
        assert_eq!(request.headers.get_all("cookie").count(), 2);
        assert!(request.trailers.is_some() && response.trailers.is_some());
        assert_eq!(origin.connections(), 1);
        drop(client);
        proxy.wait_for_hook(Hook::ServerDisconnected).await;
    }
}

async fn futures_join<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = all.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn to_http1_a_request_is_lines_with_one_length() {
    let origin = RawServer::start(|_| {
        let answer = "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nConnection: x-secret\r\nX-Secret: 1\r\nX-A: 1\r\n\r\n\
                      2\r\nab\r\n0\r\nx-sum: 7\r\n\r\n";
        vec![Step::Request, Step::Send(answer.into()), Step::Again]
    })
    .await;
    for need in [Need::Nothing, Need::Hold] {
        let proxy = reverse(Setup::needing(need), "http", origin.address()).await;
        let client = Client::plain(&proxy).await;
        // What speaks HTTP/2 unasked is forwarded in HTTP/2 where the server understands it.
        assert_eq!(client.get("/").await.head.status(), 200);
        let headers = [("cookie", "a=1"), ("x", "1"), ("cookie", "b=2"), ("te", "trailers")];
        let got = client.post("/p?q=1", &headers, "hello".into(), Some(trailers())).await;
        assert_eq!(got.head.status(), 200);
        assert_eq!(got.body, "ab");
        assert_eq!(got.trailers, Some(trailers()));
        assert_eq!(got.head.headers().keys().collect::<Vec<_>>(), ["x-a"]);
    }
    let received: Vec<String> = origin
        .received()
        .iter()
        .filter(|bytes| !bytes.starts_with(b"PRI "))
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .map(|text| text.split_once("\r\n\r\n").unwrap().1.to_owned())
        .collect();
    let host = origin.address();
    let head = format!(
        "POST /p?q=1 HTTP/1.1\r\nHost: {host}\r\ncookie: a=1; b=2\r\nx: 1\r\nte: trailers\r\n"
    );
    assert_eq!(
        received[0],
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n")
    );
    assert!(received[1].starts_with(&head), "{}", received[1]);
}

#[tokio::test]
async fn interim_answers_and_those_without_body() {
    let origin = RawServer::start(|number| {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let first = format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
        let rest = [
            "HTTP/1.1 204 No\r\n\r\n",
            "HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ];
        if number == 0 {
            // The question whether it speaks HTTP/2.
            return vec![Step::Request, Step::Send("HTTP/1.1 400 No\r\n\r\n".into())];
        }
        let mut script = vec![Step::Request, Step::Send(first.into())];
        for answer in rest {
            script.extend([Step::Request, Step::Send(answer.into())]);
        }
        script
    })
    .await;
    let proxy = reverse(Setup::default(), "http", origin.address()).await;
    let client = Client::plain(&proxy).await;
    let (mut response, _) = client.begin("HEAD", "/", &[], true).await;
    let interim = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!(
        (interim.status().as_u16(), &interim.headers()["link"]),
        (103, &"</a>".parse().unwrap())
    );
    let got = receive(response).await.unwrap();
    assert_eq!(got.head.headers()["content-length"], "9");
    for status in [204, 304, 200] {
        let got = client.get("/").await;
        assert_eq!((got.head.status().as_u16(), got.body.len()), (status, 0));
    }
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn a_stream_that_waits_holds_up_no_other() {
    let origin = Origin::start(false, echo).await;
    let setup = Setup::reacting(|event| {
        if let Event::Request(flow) = event
            && flow.request().unwrap().with(|request| &request.path[..] == b"/held")
        {
            flow.intercept();
        }
    });
    let proxy = reverse(setup, "http", origin.address).await;
    let client = Client::plain(&proxy).await;
    let held = client.get("/held");
    let others = async {
        for _ in 0..5 {
            assert_eq!(client.get("/free").await.head.status(), 200);
        }
        until("the flow is held", || (0..proxy.flows()).any(|i| proxy.flow(i).is_intercepted()))
            .await;
        for i in 0..proxy.flows() {
            proxy.flow(i).resume();
        }
    };
    let (held, ()) = within("both", async { tokio::join!(held, others) }).await;
    assert_eq!(held.head.status(), 200);
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let origin = Origin::start(false, echo).await;
    let proxy = reverse(Setup::needing(Need::Tee), "http", origin.address).await;
    let client = Client::plain(&proxy).await;
    let (response, mut out) = client.begin("POST", "/chat", &[], false).await;
    let mut body = within("the head", response).await.unwrap().into_body();
    for word in ["one", "two", "three"] {
        send(&mut out, word.into()).await.unwrap();
        let said = within("the answer", body.data()).await.unwrap().unwrap();
        assert_eq!(said, word);
    }
    out.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none());
    proxy.wait_for_hook(Hook::Response).await;
    let flow = proxy.flow(0);
    assert_eq!(flow.request().unwrap().get().body.bytes().unwrap().unwrap(), "onetwothree");
}

#[tokio::test]
async fn resets_are_errors_of_one_flow() {
    let seen = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&seen);
    let origin = Origin::start(false, move |request, mut respond| {
        let noted = Arc::clone(&noted);
        async move {
            match request.uri().path() {
                "/hang" => *noted.lock() = poll_fn(|cx| respond.poll_reset(cx)).await.ok(),
                "/reset" => respond.send_reset(Reason::ENHANCE_YOUR_CALM),
                "/half" => {
                    let mut out = respond.send_response(Response::new(()), false).unwrap();
                    send(&mut out, "half".into()).await.unwrap();
                    out.send_reset(Reason::INTERNAL_ERROR);
                }
                _ => echo(request, respond).await,
            }
        }
    })
    .await;
    let proxy = reverse(Setup::default(), "http", origin.address).await;
    let client = Client::plain(&proxy).await;

    let (response, mut out) = client.begin("GET", "/hang", &[], true).await;
    proxy.wait_for_hook(Hook::Request).await;
    until("the server has the stream", || proxy.flow(0).server().get().timestamp_start.is_some())
        .await;
    out.send_reset(Reason::CANCEL);
    drop((response, out));
    proxy.wait_for_hook(Hook::Error).await;
    assert_eq!(&*proxy.flow(0).error().unwrap().msg, "stream reset by client (CANCEL)");

    let got = client.get("/reset").await;
    assert_eq!(got.head.status(), 502);
    assert_eq!(&*proxy.flow(1).error().unwrap().msg, "stream reset by server (ENHANCE_YOUR_CALM)");

    let (response, _) = client.begin("GET", "/half", &[], true).await;
    // Nothing may have been sent when the reset came.
    assert!(
        receive(response).await.is_ok_and(|got| got.head.status() == 502)
            || !proxy.flow(2).response().unwrap().get().body.is_empty()
    );
    assert_eq!(client.get("/fine").await.head.status(), 200);
    until("the server heard of the reset", || seen.lock().is_some()).await;
}

#[tokio::test]
async fn a_server_that_goes_away_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        for last in [false, true] {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let mut respond = respond;
                if last {
                    tokio::spawn(echo(request, respond));
                } else if request.uri().path() == "/refused" {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    connection.graceful_shutdown();
                } else {
                    tokio::spawn(echo(request, respond));
                }
            }
        }
    });
    let proxy = reverse(Setup::default(), "http", address).await;
    let client = Client::plain(&proxy).await;
    assert_eq!(client.get("/one").await.head.status(), 200);
    // What is refused was not touched.
    let got = within("an answer", client.get("/refused")).await;
    assert_eq!(got.head.status(), 200, "{:?}", got.body);
    assert_eq!(client.get("/two").await.head.status(), 200);
    drop((client, served));
}

#[tokio::test]
async fn an_http1_client_of_an_http2_server() {
    let origin = Origin::start(true, echo).await;
    let settings = Settings { eager: false, ..Settings::default() };
    let proxy = Setup { settings, need: Need::Tee, ..Setup::default() }.start().await;
    let dir = tempfile::tempdir().unwrap();
    let trust = proxy.set_tls(dir.path(), Verification::Insecure);
    let mut client = proxy.client().await;
    client.tunnel(&origin.address.to_string()).await.unwrap();
    let config = tls::client_config(&trust, &["http/1.1", "h2"]);
    let mut client = client.start_tls(config, "origin.test").await.unwrap();
    let answer = client
        .request("POST /x HTTP/1.1\r\nHost: origin.test\r\nConnection: x\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n\
                  5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n")
        .await;
    assert_eq!(answer.content(), b"hello");
    let flow = proxy.flow(1);
    let response = flow.response().unwrap().get();
    assert_eq!((&response.http_version[..], &response.reason[..]), (&b"HTTP/2.0"[..], &b""[..]));
    assert_eq!(response.trailers.unwrap().get("x-sum").unwrap(), "7");
    let again = client.request("GET /y HTTP/1.1\r\nHost: origin.test\r\n\r\n").await;
    assert_eq!(again.status(), 200);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn streams_are_transformed_and_killed() {
    struct Upper;
    impl mitm_flow::ChunkTransform for Upper {
        fn transform(&self, data: Bytes) -> mitm_flow::stream::TransformFuture {
            Box::pin(async move { Ok(vec![data.to_ascii_uppercase().into()]) })
        }
    }
    let origin = Origin::start(false, echo).await;
    let setup = Setup::reacting(|event| match event {
        Event::Responseheaders(flow) => flow
            .response()
            .unwrap()
            .update(|response| response.stream = Stream::Transform(Arc::new(Upper))),
        Event::Request(flow) if flow.request().unwrap().with(|r| &r.path[..] == b"/kill") => {
            flow.kill().unwrap();
        }
        _ => {}
    });
    let proxy = reverse(setup, "http", origin.address).await;
    let client = Client::plain(&proxy).await;
    assert_eq!(client.post("/", &[], "hello".into(), None).await.body, "HELLO");
    let (response, _) = client.begin("GET", "/kill", &[], true).await;
    assert!(within("the end", receive(response)).await.is_err());
    assert_eq!(client.post("/", &[], "again".into(), None).await.body, "AGAIN");
}

#[tokio::test]
async fn tunnels_in_streams() {
    let origin = RawServer::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let proxy = Setup::default().start().await;
    let client = Client::plain(&proxy).await;
    let request =
        Request::builder().method("CONNECT").uri(origin.address().to_string()).body(()).unwrap();
    let mut requests = client.requests.clone().ready().await.unwrap();
    let (response, mut out) = requests.send_request(request, false).unwrap();
    let mut body = within("the tunnel", response).await.unwrap().into_body();
    send(&mut out, "GET /in HTTP/1.1\r\nHost: x\r\n\r\n".into()).await.unwrap();
    let mut all = BytesMut::new();
    while !all.ends_with(b"hello") {
        all.extend_from_slice(&within("the answer", body.data()).await.unwrap().unwrap());
    }
    assert_eq!(
        proxy.flow(1).request().unwrap().get().url(),
        format!("http://{}/in", origin.address())
    );
    // And requests to the proxy itself go where they say.
    let uri = format!("http://{}/out", origin.address());
    let (response, _) = requests
        .ready()
        .await
        .unwrap()
        .send_request(Request::get(uri).body(()).unwrap(), true)
        .unwrap();
    assert_eq!(receive(response).await.unwrap().body, "hello");
}

#[tokio::test]
async fn websockets_in_streams() {
    let origin = RawServer::start(|_| {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
        vec![Step::Request, Step::Send(answer.into()), Step::Send(b"\x81\x02hi".to_vec()), Step::End]
    })
    .await;
    let proxy = reverse(Setup::default(), "http", origin.address()).await;
    let client = Client::plain(&proxy).await;
    let mut request = Request::builder()
        .method("CONNECT")
        .uri("http://origin.test/ws")
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    until("the proxy's settings came", || client.requests.is_extended_connect_protocol_enabled())
        .await;
    let mut requests = client.requests.clone().ready().await.unwrap();
    let (response, out) = requests.send_request(request, false).unwrap();
    let response = within("the upgrade", response).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut body = response.into_body();
    assert_eq!(within("a frame", body.data()).await.unwrap().unwrap(), &b"\x81\x02hi"[..]);
    let received = String::from_utf8(origin.received()[1].clone()).unwrap();
    assert!(
        received.starts_with("GET /ws HTTP/1.1\r\nHost: ")
            && received.contains("sec-websocket-key: "),
        "{received}"
    );
    drop(out);
}

/// Servers send their settings at once, and the connection that was made for their certificate is used all the same.
#[tokio::test]
async fn a_server_that_begins_is_not_asked_again() {
    use mitm_testkit::Step::{End, Send};
    let identity = tls::self_signed(&["origin.test"]);
    let settings = b"\0\0\0\x04\0\0\0\0\0".to_vec();
    let origin = RawServer::start_tls(identity.server_config(&["h2"]), move |_| {
        vec![Send(settings.clone()), End]
    })
    .await;
    let proxy = Setup::default().start().await;
    let dir = tempfile::tempdir().unwrap();
    let trust = proxy.set_tls(dir.path(), Verification::Insecure);
    let client = Client::in_tunnel(&proxy, origin.address(), &trust, &["h2"]).await;
    let _answer = client.begin("GET", "/", &[], true).await;
    until("the request", || origin.received()[0].starts_with(b"PRI * HTTP/2.0\r\n")).await;
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_upload_goes_to_another_connection_if_the_first_takes_no_more_streams() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut first = true;
        let mut all = JoinSet::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let is_first = std::mem::take(&mut first);
            all.spawn(async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                let mut streams = JoinSet::new();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    streams.spawn(echo(request, respond));
                    if is_first {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    let proxy = reverse(Setup::default(), "http", address).await;
    let client = Client::plain(&proxy).await;
    // A stream that goes on keeps the connection open, which takes no others.
    let (response, mut open) = client.begin("POST", "/long", &[], false).await;
    let mut long = within("the first answer", response).await.unwrap().into_body();
    for _ in 0..3 {
        let got = within("an answer", client.post("/", &[], "hello".into(), None)).await;
        assert_eq!((got.head.status().as_u16(), &got.body[..]), (200, &b"hello"[..]));
    }
    send(&mut open, "end".into()).await.unwrap();
    open.send_data(Bytes::new(), true).unwrap();
    assert_eq!(within("the rest", long.data()).await.unwrap().unwrap(), "end");
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let origin = Origin::start(false, echo).await;
    let proxy = reverse(Setup::needing(Need::Hold), "http", origin.address).await;
    let client = Client::plain(&proxy).await;
    let (mut response, mut out) = client
        .begin("POST", "/", &[("expect", "100-continue"), ("content-length", "5")], false)
        .await;
    let interim = within("100", poll_fn(|cx| response.poll_informational(cx))).await;
    assert_eq!(interim.unwrap().unwrap().status(), 100);
    send(&mut out, "hello".into()).await.unwrap();
    out.send_data(Bytes::new(), true).unwrap();
    assert_eq!(within("the answer", receive(response)).await.unwrap().body, "hello");
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_a_long_body() {
    let setup = Setup::reacting(|event| {
        if let Event::Requestheaders(flow) = event {
            let response = mitm_flow::Response::make(407, "who?", mitm_flow::Headers::new());
            flow.set_response(Some(mitm_flow::Shared::new(response)));
        }
    });
    let proxy = reverse(setup, "http", "127.0.0.1:9".parse().unwrap()).await;
    let client = Client::plain(&proxy).await;
    let (response, out) = client.begin("POST", "/", &[], false).await;
    let got = within("the answer", receive(response)).await.unwrap();
    assert_eq!((got.head.status().as_u16(), &got.body[..]), (407, &b"who?"[..]));
    drop(out);
    let names = proxy.hooks();
    assert!(
        names.ends_with(
            &["requestheaders", "request", "responseheaders", "response"].map(String::from)
        ),
        "{names:?}"
    );
}

/// Once an exchange waited for the rest of its request to be sent, which the server had declined.
#[tokio::test]
async fn an_exchange_ends_whose_server_answers_without_reading() {
    let origin = Origin::start(false, |request, mut respond| async move {
        // Dropping the body resets the stream with NO_ERROR.
        drop(request);
        let mut out = respond.send_response(Response::new(()), false).unwrap();
        send(&mut out, "enough".into()).await.unwrap();
        out.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let proxy = reverse(Setup::needing(Need::Hold), "http", origin.address).await;
    let client = Client::plain(&proxy).await;
    for index in 0..5 {
        let body = Bytes::from(vec![b'x'; 3 << 20]);
        let got = within("the answer", client.post("/", &[], body, None)).await;
        assert_eq!((got.head.status().as_u16(), &got.body[..]), (200, &b"enough"[..]));
        until("the exchange ends", || !proxy.flow(index).is_live()).await;
    }
    drop(client);
    until("the client is gone", || proxy.proxy.connections() == 0).await;
}

#[tokio::test]
async fn a_server_that_neither_reads_nor_answers_is_given_up() {
    let origin = Origin::start(false, |request, respond| async move {
        let _kept = (request, respond);
        std::future::pending::<()>().await;
    })
    .await;
    let settings = Settings { idle_timeout: Duration::from_millis(200), ..Settings::default() };
    let setup = Setup { settings, ..Setup::needing(Need::Hold) };
    let proxy = reverse(setup, "http", origin.address).await;
    let client = Client::plain(&proxy).await;
    let body = Bytes::from(vec![b'x'; 3 << 20]);
    let got = within("an error page", client.post("/", &[], body, None)).await;
    assert_eq!(got.head.status(), 502);
}
