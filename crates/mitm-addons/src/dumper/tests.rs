use bytes::Bytes;
use mitm_addon::{Master, testing};
use mitm_flow::{
    Address, Body, Client, FlowData, FlowError, FlowRef, Headers, Opcode, Replay, Request,
    Response, Server, Shared, WebSocketMessage, dns, test_util, websocket::StreamMessage,
};

use super::*;
use crate::output::Capture;

struct Fixture {
    master: Master,
    addon: Arc<Dumper>,
    capture: Capture,
}

impl Fixture {
    fn new(specs: &[&str]) -> Self {
        Self::on(false, specs)
    }

    fn on(is_terminal: bool, specs: &[&str]) -> Self {
        let (output, capture) = Capture::output(is_terminal);
        let addon = Arc::new(Dumper::new(output));
        let master = testing::master_with(addon.clone()).unwrap();
        testing::set(&master, specs).unwrap();
        Self { master, addon, capture }
    }

    /// Plays a flow and returns what was printed.
    async fn dump(&self, flow: &FlowRef) -> String {
        testing::cycle(&self.master, flow).await;
        drop(self.addon.done());
        self.capture.take()
    }
}

async fn dump(specs: &[&str], flow: &FlowRef) -> String {
    Fixture::new(specs).dump(flow).await
}

/// A GET answered by a 200, both HTTP/1.1, with the headers and bodies given.
struct Exchange {
    client: Address,
    request: Request,
    response: Option<Response>,
    error: Option<&'static str>,
}

impl Exchange {
    fn new(client: &str, port: u16, url: &str) -> Self {
        let mut request = Request {
            method: "GET".into(),
            http_version: "HTTP/1.1".into(),
            body: Body::empty(),
            ..Request::default()
        };
        request.set_url(url).unwrap();
        let response = Response {
            http_version: "HTTP/1.1".into(),
            status_code: 200,
            reason: "OK".into(),
            body: Bytes::from("hello\n").into(),
            ..Response::default()
        };
        let client = Address::new(client, port);
        Self { client, request, response: Some(response), error: None }
    }

    fn failed(client: &str, port: u16, url: &str, error: &'static str) -> Self {
        let exchange = Self::new(client, port, url);
        Self { response: None, error: Some(error), ..exchange }
    }

    fn flow(&self) -> FlowRef {
        let client = Client::new(self.client.clone(), Address::new("", 0), 0.0);
        let server = Server::new(Some(Address::new(&*self.request.host, self.request.port)));
        let flow = FlowRef::http(client.into(), server.into(), self.request.clone());
        flow.set_response(self.response.clone().map(Shared::new));
        flow.set_error(self.error.map(FlowError::new));
        flow
    }
}

fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
    fields.iter().copied().collect()
}

#[tokio::test]
async fn one_line_each_for_request_and_response() {
    let one = Exchange::new("127.0.0.1", 51216, "http://127.0.0.1:18471/");
    assert_eq!(
        dump(&[], &one.flow()).await,
        "127.0.0.1:51216: GET http://127.0.0.1:18471/\n              << 200 OK 6b\n"
    );

    let mut failing = Exchange::new("127.0.0.1", 51306, "http://127.0.0.1:18471/500");
    let response = failing.response.as_mut().unwrap();
    response.status_code = 500;
    response.reason = "Internal Server Error".into();
    response.body = vec![b'x'; 2048].into();
    assert_eq!(
        dump(&[], &failing.flow()).await,
        "127.0.0.1:51306: GET http://127.0.0.1:18471/500\n              \
         << 500 Internal Server Error 2.0k\n"
    );

    let mut old = Exchange::new("127.0.0.1", 60364, "http://127.0.0.1:18471/http10");
    old.request.http_version = "HTTP/1.0".into();
    assert_eq!(
        dump(&[], &old.flow()).await,
        "127.0.0.1:60364: GET http://127.0.0.1:18471/http10 HTTP/1.0\n     \
         << HTTP/1.1 200 OK 6b\n"
    );
    old.response.as_mut().unwrap().http_version = "HTTP/1.0".into();
    assert!(!dump(&[], &old.flow()).await.contains("HTTP/"));

    assert_eq!(
        dump(&["flow_detail=1"], &test_util::http_flow_with_response()).await,
        "127.0.0.1:22: GET http://address:22/path\n           << 200 OK 7b\n"
    );
}

#[tokio::test]
async fn errors_follow_the_request() {
    let closed = "server closed connection";
    let flow = Exchange::failed("127.0.0.1", 60328, "http://127.0.0.1:18471/close", closed).flow();
    assert_eq!(
        dump(&[], &flow).await,
        "127.0.0.1:60328: GET http://127.0.0.1:18471/close\n << server closed connection\n"
    );
    let refused = "[Errno 111] Connect call failed ('127.0.0.1', 1)";
    let flow = Exchange::failed("127.0.0.1", 60348, "http://127.0.0.1:1/refused", refused).flow();
    assert_eq!(
        dump(&[], &flow).await,
        "127.0.0.1:60348: GET http://127.0.0.1:1/refused\n \
         << [Errno 111] Connect call failed ('127.0.0.1', 1)\n"
    );
    let fixture = Fixture::new(&[]);
    drop(fixture.addon.http_connect_error(&flow));
    assert!(fixture.capture.take().starts_with("127.0.0.1:60348: GET "));
}

#[tokio::test]
async fn long_urls_are_cut_at_detail_1_only() {
    let path = "x".repeat(400);
    let url = format!("http://127.0.0.1:18471/{path}");
    let flow = Exchange::new("127.0.0.1", 60338, &url).flow();
    let text = dump(&[], &flow).await;
    let shown = text.lines().next().unwrap().strip_prefix("127.0.0.1:60338: GET ").unwrap();
    // Where tests run may be a terminal of any width.
    let shown = shown.strip_suffix('…').unwrap();
    assert!(url.starts_with(shown) && shown.len() >= 50, "{shown}");
    assert!(dump(&["flow_detail=2"], &flow).await.contains(&path));
}

#[tokio::test]
async fn replays_and_other_versions() {
    let flow = test_util::http_flow_with_response();
    flow.client().update(|client| client.peername = Some(Address::new("::1", 1234)));
    assert_eq!(
        dump(&[], &flow).await,
        "[::1]:1234: GET http://address:22/path\n         << 200 OK 7b\n"
    );
    let flow = test_util::http_flow_with_response();
    flow.set_is_replay(Some(Replay::Request));
    assert_eq!(
        dump(&[], &flow).await,
        "[replay]: GET http://address:22/path\n           << 200 OK 7b\n"
    );
    flow.set_is_replay(Some(Replay::Response));
    assert_eq!(
        dump(&[], &flow).await,
        "127.0.0.1:22: GET http://address:22/path\n[replay]   << 200 OK 7b\n"
    );
    let flow = test_util::http_flow_with_response();
    flow.request().unwrap().update(|request| request.http_version = "HTTP/2.0".into());
    flow.response().unwrap().update(|response| {
        response.http_version = "HTTP/2.0".into();
        response.reason = "".into();
    });
    assert_eq!(
        dump(&[], &flow).await,
        "127.0.0.1:22: GET http://address:22/path HTTP/2.0\n  << HTTP/2.0 200 OK 7b\n"
    );
    flow.response().unwrap().update(|response| response.status_code = 299);
    assert!(dump(&[], &flow).await.ends_with("<< HTTP/2.0 299  7b\n"));
}

#[tokio::test]
async fn hosts_and_sizes() {
    let flow = test_util::http_flow_with_response();
    flow.request().unwrap().update(|request| request.headers.add("Host", "example.com"));
    flow.response().unwrap().update(|response| response.body = Body::counted(2048));
    let text = dump(&["showhost"], &flow).await;
    assert!(text.contains("GET http://example.com/path\n") && text.ends_with("OK 2.0k\n"));
    flow.response().unwrap().update(|response| response.body = Body::missing());
    assert!(dump(&[], &flow).await.ends_with("OK (content missing)\n"));
    flow.client().update(|client| client.peername = None);
    assert!(dump(&[], &flow).await.starts_with(": GET "));
}

#[tokio::test]
async fn headers_at_detail_2() {
    let mut exchange = Exchange::new("127.0.0.1", 60434, "http://127.0.0.1:18471/");
    exchange.request.headers = headers(&[
        ("Host", "127.0.0.1:18471"),
        ("User-Agent", "curl/7.88.1"),
        ("Accept", "*/*"),
        ("Proxy-Connection", "Keep-Alive"),
    ]);
    let response = exchange.response.as_mut().unwrap();
    response.headers =
        headers(&[("Server", "BaseHTTP/0.6 Python/3.11.7"), ("Content-Length", "6")]);
    response.headers.add("X-Odd", Bytes::from_static(b"caf\xe9\\ 'q'"));
    assert_eq!(
        dump(&["flow_detail=2"], &exchange.flow()).await,
        "127.0.0.1:60434: GET http://127.0.0.1:18471/\n    \
         Host: 127.0.0.1:18471\n    \
         User-Agent: curl/7.88.1\n    \
         Accept: */*\n    \
         Proxy-Connection: Keep-Alive\n \
         << 200 OK 6b\n    \
         Server: BaseHTTP/0.6 Python/3.11.7\n    \
         Content-Length: 6\n    \
         X-Odd: caf\\xe9\\\\ 'q'\n"
    );
    exchange.response.as_mut().unwrap().trailers = Some(headers(&[("Checksum", "1")]));
    let text = dump(&["flow_detail=2"], &exchange.flow()).await;
    assert!(text.ends_with("'q'\n    --- HTTP Trailers\n    Checksum: 1\n"), "{text}");
    assert!(!dump(&["flow_detail=1"], &exchange.flow()).await.contains("Trailers"));
}

#[tokio::test]
async fn bodies_at_detail_3() {
    let mut exchange = Exchange::new("127.0.0.1", 42238, "http://127.0.0.1:18471/form");
    exchange.request.method = "POST".into();
    exchange.request.headers = headers(&[("Content-Type", "text/plain")]);
    exchange.request.body = Bytes::from("a: '1'\nb: '2'\n").into();
    exchange.response.as_mut().unwrap().headers = headers(&[("Content-Length", "6")]);
    assert_eq!(
        dump(&["flow_detail=3"], &exchange.flow()).await,
        "127.0.0.1:42238: POST http://127.0.0.1:18471/form\n    \
         Content-Type: text/plain\n\
         \n    a: '1'\n    b: '2'\n\n \
         << 200 OK 6b\n    \
         Content-Length: 6\n\
         \n    hello\n\n"
    );

    let mut empty = Exchange::new("127.0.0.1", 42270, "http://127.0.0.1:18471/304");
    empty.request.headers = headers(&[("Host", "127.0.0.1:18471")]);
    let response = empty.response.as_mut().unwrap();
    response.status_code = 304;
    response.reason = "Not Modified".into();
    response.headers = headers(&[("Content-Length", "0")]);
    response.body = Body::empty();
    assert_eq!(
        dump(&["flow_detail=3"], &empty.flow()).await,
        "127.0.0.1:42270: GET http://127.0.0.1:18471/304\n    \
         Host: 127.0.0.1:18471\n\n \
         << 304 Not Modified 0b\n    \
         Content-Length: 0\n\n"
    );
}

/// Returns what is printed of a response's body, with the lines around it.
async fn body(specs: &[&str], body: impl Into<Body>, headers: Headers) -> String {
    let mut exchange = Exchange::new("127.0.0.1", 1, "http://a/");
    let response = exchange.response.as_mut().unwrap();
    response.body = body.into();
    response.headers = headers;
    let text = dump(specs, &exchange.flow()).await;
    let (_, response) = text.split_once(" << ").unwrap();
    response.split_once('\n').unwrap().1.to_owned()
}

#[tokio::test]
async fn what_is_shown_of_a_body() {
    let none = Headers::new;
    let detail3 = &["flow_detail=3"][..];
    assert_eq!(body(detail3, Bytes::from(" \n "), none()).await, "\n\n\n");
    assert_eq!(body(detail3, Body::missing(), none()).await, "\n    Content is missing.\n\n");
    let text = Bytes::from("\n one \r\n\ntwo\x1b[31m\rthree \n");
    assert_eq!(body(detail3, text, none()).await, "\n    one \n    \n    two.[31m\n    three\n\n");
    let gzip = mitm_flow::coding::encode(b"gzip", b"packed").unwrap();
    let coded = headers(&[("content-encoding", "gzip")]);
    assert!(body(detail3, gzip, coded.clone()).await.ends_with("\n\n    packed\n\n"));
    assert!(body(detail3, Bytes::from("plain"), coded).await.ends_with("\n\n    plain\n\n"));
    assert_eq!(
        body(
            &["flow_detail=3", "dumper_default_contentview=hex stream"],
            Bytes::from("ab"),
            none()
        )
        .await,
        "\n    6162\n\n"
    );
}

#[tokio::test]
async fn long_bodies_are_cut_off_at_detail_3() {
    let specs = |detail: &'static str| [detail, "content_view_lines_cutoff=2"];
    let (three, four) = (specs("flow_detail=3"), specs("flow_detail=4"));
    let none = Headers::new;
    let lines = || Bytes::from("1\n2\n3\n4");
    assert_eq!(body(&three, lines(), none()).await, "\n    1\n    2\n    (cut off)\n\n");
    assert_eq!(body(&four, lines(), none()).await, "\n    1\n    2\n    3\n    4\n\n");
    assert_eq!(body(&three, Bytes::from("1\n2\n"), none()).await, "\n    1\n    2\n\n");
    let binary = || Bytes::from(vec![0; 40]);
    let text = body(&three, binary(), none()).await;
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(text.contains("\n    0010:   00") && text.ends_with("    (cut off)\n\n"));
    assert!(!body(&four, binary(), none()).await.contains("cut off"));
    let endless = Bytes::from(vec![b'x'; 3 << 20]);
    let text = body(&three, endless, none()).await;
    assert!(text.len() < 2 << 20 && text.ends_with("\n    (cut off)\n\n"));
}

fn message(from_client: bool, opcode: Opcode, content: &'static str) -> Shared<WebSocketMessage> {
    Shared::new(WebSocketMessage {
        opcode,
        from_client,
        content: Bytes::from(content).into(),
        timestamp: 0.0,
        dropped: false,
        injected: false,
    })
}

#[tokio::test]
async fn websocket_lines() {
    let flow = test_util::websocket_flow();
    let set_close = |code, reason: &str| {
        flow.websocket().unwrap().update(|data| {
            data.messages = vec![
                message(true, Opcode::Binary, "hello"),
                message(false, Opcode::Text, "it's me"),
            ];
            data.close_code = code;
            data.close_reason = Some(reason.to_owned());
        });
    };
    set_close(Some(1001), "bye");
    let text = dump(&[], &flow).await;
    let lines: Vec<_> = text.lines().skip(2).collect();
    assert_eq!(
        lines,
        [
            "127.0.0.1:22 -> WebSocket binary message -> address:22/ws",
            "127.0.0.1:22 <- WebSocket text message <- address:22/ws",
            "WebSocket connection closed by server: 1001 bye",
        ]
    );
    let last = async || dump(&[], &flow).await.lines().last().unwrap().to_owned();
    set_close(Some(1011), "why");
    assert_eq!(
        last().await,
        "Error in WebSocket connection to address:22: WebSocket Error: INTERNAL_ERROR (reason: why)"
    );
    set_close(Some(4000), "");
    assert_eq!(
        last().await,
        "Error in WebSocket connection to address:22: WebSocket Error: UNKNOWN_ERROR=4000"
    );
    set_close(None, "");
    assert!(last().await.ends_with("WebSocket Error: ABNORMAL_CLOSURE"));
    set_close(Some(1000), "");
    assert_eq!(last().await, "WebSocket connection closed by server: 1000 ");
    assert!(dump(&["flow_detail=3"], &flow).await.contains("/ws\n\n    it's me\n\n"));
}

#[tokio::test]
async fn tcp_and_udp_lines() {
    let flow = test_util::tcp_flow();
    assert_eq!(
        dump(&[], &flow).await,
        "127.0.0.1:22 -> tcp -> address:22\n127.0.0.1:22 <- tcp <- address:22\n"
    );
    flow.set_error(Some(FlowError::new("gone")));
    let text = dump(&[], &flow).await;
    assert_eq!(text.lines().last(), Some("Error in TCP connection to address:22: gone"));
    let text = dump(&[], &test_util::udp_flow()).await;
    assert_eq!(text.lines().next(), Some("127.0.0.1:22 -> udp -> address:22"));

    let client = Client::new(Address::new("127.0.0.1", 59398), Address::new("", 0), 0.0);
    let server = Server::new(Some(Address::new("127.0.0.1", 18481)));
    let content = Bytes::from_static(b"hello\0\x01\xff\xfe\n");
    let messages = vec![StreamMessage::new(true, content, 0.0).into()];
    let flow = FlowRef::new(client.into(), server.into(), FlowData::Tcp(messages));
    assert_eq!(
        dump(&["flow_detail=3"], &flow).await,
        "127.0.0.1:59398 -> tcp -> 127.0.0.1:18481\n\n    \
         0000:   68 65 6c 6c  6f 00 01 ff  fe 0a                      hello.....\n\n"
    );
    flow.server().update(|server| server.address = None);
    assert!(dump(&[], &flow).await.ends_with(" -> <no address>\n"));
}

#[tokio::test]
async fn dns_lines() {
    let flow = test_util::dns_flow();
    assert_eq!(
        dump(&[], &flow).await,
        "127.0.0.1:22: DNS QUERY (A) dns.google\n << 8.8.8.8, 8.8.4.4\n"
    );
    let FlowData::Dns { request, response } = flow.data() else { panic!() };
    response.unwrap().update(|response| {
        response.answers.clear();
        response.response_code = 3;
    });
    request.update(|request| request.questions[0].kind = dns::AAAA);
    assert_eq!(dump(&[], &flow).await, "127.0.0.1:22: DNS QUERY (AAAA) dns.google\n << NXDOMAIN\n");
    request.update(|request| request.questions.clear());
    flow.set_dns_response(None);
    flow.set_error(Some(FlowError::new("no answer")));
    assert_eq!(dump(&[], &flow).await, "127.0.0.1:22: DNS QUERY () \n << no answer\n");
}

#[tokio::test]
async fn terminals_get_colours() {
    let flow = test_util::http_flow_with_response();
    assert_eq!(
        Fixture::on(true, &[]).dump(&flow).await,
        "127.0.0.1:22: \x1b[32m\x1b[1mGET\x1b[0m \x1b[1mhttp://address:22/path\x1b[0m\n          \
         \x1b[1m <<\x1b[0m \x1b[32m\x1b[1m\x1b[25m200\x1b[0m \x1b[32m\x1b[1mOK\x1b[0m \
         \x1b[1m7b\x1b[0m\n"
    );
    flow.response().unwrap().update(|response| response.status_code = 418);
    let text = Fixture::on(true, &["flow_detail=2"]).dump(&flow).await;
    assert!(text.contains("\x1b[31m\x1b[1m\x1b[5m418\x1b[0m"));
    assert!(text.contains("    \x1b[34mheader\x1b[0m: qvalue\n"));
    let text = Fixture::on(true, &[]).dump(&test_util::error_flow()).await;
    assert!(text.ends_with("\x1b[31m\x1b[1m << error\x1b[0m\n"));
    let text = Fixture::on(true, &[]).dump(&test_util::dns_flow()).await;
    assert!(text.contains("\x1b[32mDNS QUERY (A)\x1b[0m \x1b[1mdns.google\x1b[0m\n"));
    assert!(text.contains("\x1b[94m8.8.8.8\x1b[0m, \x1b[94m8.8.4.4\x1b[0m\n"));
}

#[tokio::test]
async fn the_wire_does_not_control_the_terminal() {
    let flow = test_util::http_flow_with_response();
    flow.request().unwrap().update(|request| {
        request.method = "G\x1bT".into();
        request.path = "/\x1b[2J\n".into();
        request.headers.add("a", "\x1b[0m");
    });
    flow.response().unwrap().update(|response| response.reason = "\u{9b}0m\x07".into());
    flow.set_error(Some(FlowError::new("bad\x1b]0;x\x07")));
    let text = dump(&["flow_detail=4"], &flow).await;
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.contains("http://address:22/.[2J.\n"));
}

#[tokio::test]
async fn nothing_at_detail_0_or_for_others() {
    let flow = test_util::http_flow_with_response();
    let fixture = Fixture::new(&["flow_detail=0"]);
    assert_eq!((fixture.dump(&flow).await.as_str(), fixture.addon.hooks()), ("", HookSet::NONE));
    assert_eq!(dump(&["dumper_filter=~m post"], &flow).await, "");
    assert_ne!(dump(&["dumper_filter=~m get"], &flow).await, "");
    let error = testing::set(&fixture.master, &["dumper_filter=~bad("]).unwrap_err().to_string();
    assert!(error.contains("Invalid filter expression: '~bad('"), "{error}");
}

#[test]
fn bodies_are_asked_for_if_they_are_shown_or_decide() {
    let flow = test_util::http_flow();
    let need = |specs: &[&str], direction| {
        let fixture = Fixture::new(specs);
        fixture.master.options().set(&SHOWHOST, false).unwrap();
        fixture.addon.need(&flow, direction)
    };
    assert_eq!(need(&[], Direction::Response), Need::Nothing);
    assert_eq!(need(&["flow_detail=2"], Direction::Response), Need::Nothing);
    assert_eq!(need(&["flow_detail=3"], Direction::Response), Need::Tee);
    assert_eq!(
        need(&["flow_detail=3", "dumper_filter=~m post"], Direction::Request),
        Need::Nothing
    );
    assert_eq!(need(&["dumper_filter=~b x"], Direction::Request), Need::Tee);
    assert_eq!(need(&["dumper_filter=~m post & ~b x"], Direction::Request), Need::Nothing);
    assert_eq!(need(&["dumper_filter=~c 200"], Direction::Request), Need::Nothing);
}

#[test]
fn earlier_messages_of_tcp_flows_are_asked_for_if_they_decide() {
    let flow = test_util::tcp_flow();
    let need = |specs: &[&str]| Fixture::new(specs).addon.need(&flow, Direction::Request);
    assert_eq!(need(&["flow_detail=3"]), Need::Nothing);
    assert_eq!(need(&["flow_detail=3", "dumper_filter=~tcp"]), Need::Nothing);
    assert_eq!(need(&["dumper_filter=~b not.yet"]), Need::Tee);
    assert_eq!(need(&["dumper_filter=~http & ~b x"]), Need::Nothing);
}
