//! HTTP/2 that would be another request, or other headers, if it were written as lines: sent frame by frame, to an origin
//! of raw HTTP/1 and to one of HTTP/2. Each case is refused, or the origin sees exactly one request, with exactly one
//! framing. The same the other way: what a hostile server says in HTTP/2 is one response to a client of HTTP/1, or none.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use mitm_proxy::{Settings, hooks::Need};
use mitm_testkit::{
    RawServer,
    naive::{self, Trust},
    tls,
    wait::within,
};
use mitm_tls::Verification;
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::{
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Peer, RST_STREAM, frame, get,
        h2_only, section,
    },
    harness::{Proxied, Setup},
    http2::{Origin, reverse},
};

type Field = (Vec<u8>, Vec<u8>);

/// What would be a second request.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
/// What would be a second header.
const LINE: &str = "\r\nx-smuggled: 1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Refused,
    Once,
}
use Expect::{Once, Refused};

/// One stream.
#[derive(Clone)]
struct Case {
    name: String,
    fields: Vec<Field>,
    /// DATA frames; without any, and without trailers, the head ends the stream.
    body: Vec<Bytes>,
    trailers: Option<Vec<Field>>,
    expect: Expect,
}

impl Case {
    fn new(name: impl Into<String>, expect: Expect) -> Self {
        Self { name: name.into(), fields: get("/"), body: Vec::new(), trailers: None, expect }
    }

    fn with(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Gives a pseudo header another value.
    fn set(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for (have, old) in &mut self.fields {
            if have == name.as_bytes() {
                *old = value.as_ref().into();
            }
        }
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(have, _)| have != name.as_bytes());
        self
    }

    fn body(self, data: &'static str) -> Self {
        let mut case = self.set(":method", "POST");
        case.body.push(data.into());
        case
    }

    fn trailer(mut self, name: &str, value: &str) -> Self {
        self = self.set(":method", "POST");
        self.trailers.get_or_insert_default().push((name.into(), value.into()));
        self
    }

    fn frames(&self) -> Vec<u8> {
        let is_all = self.body.is_empty() && self.trailers.is_none();
        let end = |is_last: bool| if is_last { END_STREAM } else { 0 };
        let mut out = frame(HEADERS, END_HEADERS | end(is_all), 1, &section(&self.fields));
        for (at, data) in self.body.iter().enumerate() {
            let is_last = at + 1 == self.body.len() && self.trailers.is_none();
            out.extend(frame(DATA, end(is_last), 1, data));
        }
        if let Some(trailers) = &self.trailers {
            out.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &section(trailers)));
        }
        out
    }

    fn content(&self) -> Vec<u8> {
        self.body.concat()
    }
}

fn of_names_and_values() -> Vec<Case> {
    let mut cases = Vec::new();
    for byte in [b'\r', b'\n', 0, b':', b' ', b'\t', b'A', 0x7f, 0x80, 0xff, b'(', b'"', b'/', b'@']
    {
        let shown = byte.escape_ascii();
        for name in [vec![b'x', byte, b'y'], vec![byte, b'x'], vec![b'x', byte]] {
            // In front it is a pseudo header.
            cases.push(Case::new(format!("{shown} in a name"), Refused).with(name, "1"));
        }
    }
    cases.push(Case::new("no name", Refused).with("", "1"));
    cases.push(Case::new("a header in a name", Refused).with("x: 1\r\nx-smuggled", "1"));
    for value in ["\r", "\n", "\0", "\r\n", "\x0b", "\x7f", "\r\n x", LINE] {
        let value = format!("a{value}");
        let shown = value.escape_debug().to_string();
        cases.push(Case::new(format!("value {shown}"), Refused).with("x", &value));
        cases.push(Case::new(format!("cookie {shown}"), Refused).with("cookie", &value));
    }
    cases.push(Case::new("a request in a value", Refused).with("x", format!("1\r\n\r\n{HIDDEN}")));
    for value in ["a\tb", "a:b", "a\u{e9}", "", "a  b"] {
        cases.push(Case::new(format!("value {value:?}"), Once).with("x", value));
    }
    for value in [" a", "a ", "\ta", "a\t"] {
        cases.push(Case::new(format!("value {value:?}"), Refused).with("x", value));
    }
    cases.push(Case::new("crumbs", Once).with("cookie", "a=1").with("cookie", "b=2"));
    cases
}

fn of_lengths() -> Vec<Case> {
    let post = |name: &str, length: &str, expect| {
        Case::new(format!("length {name}"), expect).body("hello").with("content-length", length)
    };
    let mut cases = vec![
        post("right", "5", Once),
        post("too short", "4", Refused),
        post("too long", "6", Refused),
        post("of nothing", "0", Refused),
        post("twice", "5", Once).with("content-length", "5"),
        post("of two minds", "5", Refused).with("content-length", "0"),
        post("in two frames", "11", Once).body(" world"),
        post("of the first frame", "5", Refused).body(HIDDEN),
        post("with trailers", "5", Once).trailer("x", "1"),
        post("too long before trailers", "6", Refused).trailer("x", "1"),
        Case::new("length of nothing", Once).with("content-length", "0"),
        Case::new("length without a body", Refused).with("content-length", "5"),
        Case::new("length of an empty body", Refused).body("").with("content-length", "5"),
        Case::new("no length", Once).body(HIDDEN),
        Case::new("no length, two frames", Once).body("0\r\n\r\n").body(HIDDEN),
    ];
    for length in [
        "+5",
        "-5",
        "0x5",
        "5, 5",
        "5,5",
        " 5",
        "5 ",
        "",
        "05",
        "5\t",
        "5;",
        "18446744073709551621",
        "٥",
    ] {
        cases.push(post(&format!("{length:?}"), length, Refused));
    }
    cases
}

fn of_connections() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("connection", "close"),
        ("connection", "content-length"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, chunked"),
    ] {
        let case = Case::new(format!("{name}: {value}"), Refused).with(name, value);
        cases.push(case.clone());
        cases.push(case.body("0\r\n\r\n").body(HIDDEN));
    }
    cases.push(Case::new("te: trailers", Once).with("te", "trailers"));
    cases.push(Case::new("expect", Once).body("hello").with("expect", "100-continue"));
    cases
}

fn of_paths() -> Vec<Case> {
    let of = |path: &str, expect| Case::new(format!("path {path:?}"), expect).set(":path", path);
    let mut cases = vec![
        of("/plain?q=1", Once),
        of("//host/x", Once),
        of("/..//\\x", Once),
        of("/a#fragment", Once),
        // What is behind it is for no server.
        of("#f", Once),
        of("/\u{e9}", Once),
        of("*", Refused),
        Case { name: "OPTIONS *".into(), ..of("*", Once).set(":method", "OPTIONS") },
        Case { name: "PRI *".into(), ..of("*", Refused).set(":method", "PRI") },
        Case::new("no path", Refused).without(":path"),
        Case::new("path of Latin-1", Refused).set(":path", b"/\xe9"),
        Case::new("two paths", Refused)
            .without(":path")
            .with(":path", "/")
            .with(":path", "/hidden"),
        of(&format!("/ HTTP/1.1\r\n\r\n{HIDDEN}"), Refused),
    ];
    for path in [
        "",
        " ",
        "plain",
        "?q",
        "http://origin.test/x",
        "https://other/",
        "origin.test:80",
        "/a b",
        "/ HTTP/1.1",
        "/\r",
        "/\n",
        "/\0",
        "/\t",
        "/\x7f",
        "/ ",
        " /",
        "\t/",
        "*/",
        "**",
    ] {
        cases.push(of(path, Refused));
    }
    cases.push(of(&format!("/{LINE}"), Refused));
    cases
}

fn of_authorities() -> Vec<Case> {
    let of = |authority: &str, expect| {
        Case::new(format!("authority {authority:?}"), expect).set(":authority", authority)
    };
    let missing = |name: &str, expect| Case::new(name, expect).without(":authority");
    let mut cases = vec![
        of("origin.test:80", Once),
        of("127.0.0.1", Once),
        of("[::1]:80", Once),
        missing("no authority, a host", Once).with("host", "origin.test"),
        missing("no authority, no host", Once),
        missing("no authority, two hosts", Refused).with("host", "a").with("host", "b"),
        missing("no authority, the same host twice", Refused).with("host", "a").with("host", "a"),
        missing("no authority, a host with a user", Refused).with("host", "u@a"),
        missing("no authority, a host with a path", Refused).with("host", "a/b"),
        missing("no authority, a host with blanks", Refused).with("host", "a b"),
        missing("no authority, an empty host", Refused).with("host", ""),
        Case::new("a host as well", Once).with("host", "origin.test"),
        Case::new("a host in other case", Once).with("host", "ORIGIN.test"),
        Case::new("another host", Refused).with("host", "other.test"),
        Case::new("a host with a port", Refused).with("host", "origin.test:81"),
        Case::new("an empty host", Refused).with("host", ""),
        Case::new("two hosts", Refused).with("host", "origin.test").with("host", "origin.test"),
        Case::new("two authorities", Refused)
            .without(":path")
            .with(":authority", "b")
            .with(":path", "/"),
    ];
    for authority in [
        "",
        "u@origin.test",
        "u:p@origin.test",
        "@origin.test",
        "origin.test:",
        "origin.test:x",
        "origin.test:80x",
        "origin.test:99999",
        "origin.test:-1",
        "origin.test:80:80",
        "origin.test/",
        "origin.test/x",
        "origin.test?x",
        "origin.test#x",
        "a,b",
        "a b",
        " a",
        "a ",
        "a\tb",
        "a\r\n",
        "a\0",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]:x",
        "a\\b",
        "a%20b",
        "http://origin.test",
        "\u{e9}",
        "*",
        "a..b",
        ".",
    ] {
        cases.push(of(authority, Refused));
    }
    cases.push(of(&format!("a{LINE}"), Refused));
    cases.push(of(&format!("a\r\n\r\n{HIDDEN}"), Refused));
    cases
}

fn of_pseudo_headers() -> Vec<Case> {
    let method = |method: &str, expect| {
        Case::new(format!("method {method:?}"), expect).set(":method", method)
    };
    let scheme = |scheme: &str, expect| {
        Case::new(format!("scheme {scheme:?}"), expect).set(":scheme", scheme)
    };
    let mut cases = vec![
        method("get", Once),
        method("X-ANY", Once),
        scheme("https", Once),
        Case::new("no method", Refused).without(":method"),
        Case::new("no scheme", Refused).without(":scheme"),
        Case::new("two methods", Refused)
            .without(":path")
            .with(":method", "POST")
            .with(":path", "/"),
        Case::new("two schemes", Refused)
            .without(":path")
            .with(":scheme", "https")
            .with(":path", "/"),
        Case::new("a late path", Refused).without(":path").with("x", "1").with(":path", "/"),
        Case::new("a late method", Refused)
            .without(":method")
            .with("x", "1")
            .with(":method", "GET"),
        Case::new("a late authority", Refused)
            .without(":authority")
            .with("x", "1")
            .with(":authority", "a"),
        Case::new("an unknown pseudo header", Refused).with(":x", "1"),
        Case::new("a pseudo header without name", Refused).with(":", "1"),
        Case::new("a pseudo header of responses", Refused).with(":status", "200"),
        Case::new("a protocol without CONNECT", Refused).with(":protocol", "websocket"),
        Case::new("CONNECT with a path", Refused)
            .set(":method", "CONNECT")
            .set(":authority", "a:80"),
        Case::new("CONNECT", Refused)
            .set(":method", "CONNECT")
            .set(":authority", "a:80")
            .without(":path")
            .without(":scheme"),
        Case::new("CONNECT for h2c", Refused).set(":method", "CONNECT").with(":protocol", "h2c"),
        // The library leaves them out.
        Case::new("a pseudo header in trailers", Once).body("hello").trailer(":path", "/hidden"),
        Case::new("a status in trailers", Once).body("hello").trailer(":status", "200"),
        // The answer is no 101: what follows is for nobody.
        Case::new("a refused WebSocket", Refused)
            .set(":method", "CONNECT")
            .with(":protocol", "websocket"),
    ];
    for wrong in ["", " ", "GET ", "GET /hidden", "G\0T", "GET\r\n", "GET\t", "G:T", "\u{e9}"] {
        cases.push(method(wrong, Refused));
    }
    for wrong in
        ["", "ftp", "http ", "http\r\n", "http:", "http://a/", "ht tp", "\0", "h\u{e9}", "file"]
    {
        cases.push(scheme(wrong, Refused));
    }
    cases.push(method(&format!("GET / HTTP/1.1{LINE}"), Refused));
    cases.push(scheme(&format!("http{LINE}"), Refused));
    cases
}

fn of_trailers() -> Vec<Case> {
    let mut cases = vec![
        Case::new("trailers", Once).body("hello").trailer("x-sum", "1"),
        Case::new("trailers without body", Once).trailer("x-sum", "1"),
    ];
    for (name, value) in [
        ("content-length", "5"),
        ("content-length", "50"),
        ("transfer-encoding", "chunked"),
        ("host", "origin.test"),
        ("host", "other"),
        ("connection", "close"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("upgrade", "websocket"),
        ("X-Upper", "1"),
        ("x y", "1"),
        ("x:", "1"),
        ("x", LINE),
        ("x", "\0"),
    ] {
        cases.push(
            Case::new(format!("trailer {name:?}: {value:?}"), Refused)
                .body("hello")
                .trailer(name, value),
        );
    }
    cases
}

fn cases() -> Vec<Case> {
    [
        of_names_and_values(),
        of_lengths(),
        of_connections(),
        of_paths(),
        of_authorities(),
        of_pseudo_headers(),
        of_trailers(),
    ]
    .concat()
}

/// Sends the frames and tells what comes back.
async fn send(client: &mut Peer, frames: &[u8], name: &str) -> Expect {
    // The proxy may have had enough before all is sent.
    let _ = client.send(frames).await;
    loop {
        match client.next().await {
            Some(frame) if frame.kind == HEADERS => {
                let status = frame.status();
                match status {
                    100 => {}
                    200 => break Once,
                    400 | 431 | 502 => break Refused,
                    _ => panic!("{name}: {status}"),
                }
            }
            Some(frame) if matches!(frame.kind, RST_STREAM | GOAWAY) => break Refused,
            Some(_) => {}
            None => break Refused,
        }
    }
}

/// Reads the answer to its end, so that the request is sent to its end.
async fn read_to_end(client: &mut Peer) {
    while let Some(frame) = client.next().await {
        if frame.stream == 1 && (frame.has(END_STREAM) || frame.kind == RST_STREAM) {
            break;
        }
    }
}

fn settings() -> Settings {
    // So that the name is what the client says.
    Settings { keep_host_header: true, ..Settings::default() }
}

/// Asks in plain HTTP/2, or in TLS.
async fn connect(proxy: &Proxied, trust: Option<&str>) -> Peer {
    let address = proxy.proxy.listening()[0];
    match trust {
        Some(trust) => Peer::connect_tls(address, h2_only(trust)).await,
        None => Peer::connect(address, &[]).await,
    }
}

#[tokio::test]
async fn http1_origins_see_one_request_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (need, is_tls) in [(Need::Nothing, false), (Need::Hold, false), (Need::Tee, true)] {
        for case in cases() {
            let name = format!("{} ({need:?})", case.name);
            // Not Connection: close, since what is smuggled would be on the same connection.
            let origin =
                RawServer::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            let setup = Setup { settings: settings(), need, ..Setup::default() };
            let proxy = reverse(setup, "http", origin.address()).await;
            let trust = is_tls.then(|| proxy.set_tls(dir.path(), Verification::Insecure));
            let mut client = connect(&proxy, trust.as_deref()).await;
            let got = send(&mut client, &case.frames(), &name).await;
            if got == Once {
                read_to_end(&mut client).await;
            }
            if got != case.expect {
                wrong.push(format!("{name}: {got:?}"));
            }
            // The question whether it speaks HTTP/2 is no request.
            let received: Vec<Vec<u8>> =
                origin.received().into_iter().filter(|bytes| !bytes.starts_with(b"PRI ")).collect();
            let requests: Vec<_> = received
                .iter()
                .map(|bytes| naive::messages(bytes, Trust::TransferEncoding))
                .inspect(|(found, rest)| {
                    assert!(
                        rest.is_empty() || found.is_empty() && got == Refused,
                        "{name}: {}",
                        rest.escape_ascii()
                    );
                })
                .flat_map(|(found, _)| found)
                .collect();
            let shown = received.concat().escape_ascii().to_string();
            if got == Refused {
                assert!(
                    requests.is_empty() || case.name == "a refused WebSocket",
                    "{name}: {shown}"
                );
                continue;
            }
            assert_eq!(requests.len(), 1, "{name}: {shown}");
            let request = &requests[0];
            assert!(naive::framings(&request.head).len() <= 1, "{name}: {shown}");
            assert_eq!(request.content(), case.content(), "{name}: {shown}");
            assert_eq!(request.header("host").len(), 1, "{name}: {shown}");
            assert!(request.header("cookie").len() <= 1, "{name}: {shown}");
            assert_eq!(request.header("x-smuggled"), Vec::<String>::new(), "{name}: {shown}");
            assert_eq!(request.start_line().split(' ').count(), 3, "{name}: {shown}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn http2_origins_see_one_request_or_none() {
    let mut wrong = Vec::new();
    for need in [Need::Nothing, Need::Hold] {
        for case in cases() {
            let name = format!("{} ({need:?})", case.name);
            let seen: Arc<Mutex<Vec<Request<()>>>> = Arc::default();
            let bodies: Arc<Mutex<Vec<Bytes>>> = Arc::default();
            let (noted, complete) = (Arc::clone(&seen), Arc::clone(&bodies));
            let origin = Origin::start(false, move |request, mut respond| {
                let (noted, complete) = (Arc::clone(&noted), Arc::clone(&complete));
                async move {
                    let (head, mut body) = request.into_parts();
                    noted.lock().push(Request::from_parts(head, ()));
                    let mut all = Vec::new();
                    while let Some(data) = body.data().await {
                        let Ok(data) = data else { return };
                        all.extend_from_slice(&data);
                    }
                    if body.trailers().await.is_ok() {
                        complete.lock().push(all.into());
                        let _ = respond.send_response(http::Response::new(()), true);
                    }
                }
            })
            .await;
            let setup = Setup { settings: settings(), need, ..Setup::default() };
            let proxy = reverse(setup, "http", origin.address).await;
            let mut client = connect(&proxy, None).await;
            let got = send(&mut client, &case.frames(), &name).await;
            if got != case.expect {
                wrong.push(format!("{name}: {got:?}"));
            }
            let (seen, bodies) = (seen.lock(), bodies.lock());
            assert!(seen.len() <= 1, "{name}: {seen:?}");
            if got == Refused {
                assert!(
                    bodies.is_empty() || case.name == "a refused WebSocket",
                    "{name}: {seen:?}"
                );
                continue;
            }
            assert_eq!(bodies.concat(), case.content(), "{name}");
            let request = &seen[0];
            assert!(request.headers().get_all("host").iter().count() <= 1, "{name}: {request:?}");
            assert!(
                request.headers().get_all("content-length").iter().count() <= 1,
                "{name}: {request:?}"
            );
            assert!(!request.headers().contains_key("x-smuggled"), "{name}: {request:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a server answers on the first stream.
fn answers() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let head = |fields: &[(&str, &str)], flags: u8| {
        frame(HEADERS, END_HEADERS | flags, 1, &section(fields))
    };
    let body = |data: &str| frame(DATA, END_STREAM, 1, data.as_bytes());
    let hello = |fields: &[(&str, &str)]| {
        let all = [&[(":status", "200")], fields].concat();
        [head(&all, 0), body("hello")].concat()
    };
    let trailers = |name: &str, value: &str| {
        let end = frame(HEADERS, END_HEADERS | END_STREAM, 1, &section(&[(name, value)]));
        [head(&[(":status", "200")], 0), frame(DATA, 0, 1, b"hello"), end].concat()
    };
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden";
    vec![
        ("plain", hello(&[]), Once),
        ("a length", hello(&[("content-length", "5")]), Once),
        ("two equal lengths", hello(&[("content-length", "5"), ("content-length", "5")]), Once),
        ("two lengths", hello(&[("content-length", "5"), ("content-length", "6")]), Refused),
        ("a long length", hello(&[("content-length", "6")]), Refused),
        ("a short length", hello(&[("content-length", "4")]), Refused),
        // Its end is not waited for.
        ("a length of nothing", hello(&[("content-length", "0")]), Once),
        (
            "no body, but a length",
            head(&[(":status", "200"), ("content-length", "5")], END_STREAM),
            Refused,
        ),
        ("a list of lengths", hello(&[("content-length", "5, 5")]), Refused),
        ("a signed length", hello(&[("content-length", "+5")]), Refused),
        ("a length with zeros", hello(&[("content-length", "05")]), Refused),
        ("an encoding", hello(&[("transfer-encoding", "chunked")]), Refused),
        ("a connection", hello(&[("connection", "close")]), Refused),
        ("an upgrade", hello(&[("upgrade", "h2c")]), Refused),
        ("a line in a value", hello(&[("x", "1\r\nx-smuggled: 1")]), Refused),
        ("a response in a value", hello(&[("x", &format!("1\r\n\r\n{second}"))]), Refused),
        ("a zero in a value", hello(&[("x", "\0")]), Refused),
        ("a line feed in a name", hello(&[("x\ny", "1")]), Refused),
        ("a colon in a name", hello(&[("x:y", "1")]), Refused),
        ("a blank in a name", hello(&[("x y", "1")]), Refused),
        ("upper case", hello(&[("X", "1")]), Refused),
        ("no status", [head(&[("x", "1")], 0), body("hello")].concat(), Refused),
        ("two states", hello(&[(":status", "404")]), Refused),
        (
            "a late status",
            [head(&[("x", "1"), (":status", "200")], 0), body("hello")].concat(),
            Refused,
        ),
        (
            "a status of words",
            [head(&[(":status", "200 OK\r\nx: y")], 0), body("hello")].concat(),
            Refused,
        ),
        (
            "a status of two digits",
            [head(&[(":status", "20")], 0), body("hello")].concat(),
            Refused,
        ),
        // The library leaves it out.
        ("a pseudo header of requests", hello(&[(":path", "/")]), Once),
        ("an unknown pseudo header", hello(&[(":x", "1")]), Refused),
        ("a body of a response", [head(&[(":status", "200")], 0), body(second)].concat(), Once),
        ("101", [head(&[(":status", "101"), ("upgrade", "x")], 0), body(second)].concat(), Refused),
        ("101 alone", [head(&[(":status", "101")], 0), body(second)].concat(), Refused),
        ("204 with a body", [head(&[(":status", "204")], 0), body(second)].concat(), Once),
        ("304 with a body", [head(&[(":status", "304")], 0), body(second)].concat(), Once),
        (
            "304 with a length",
            head(&[(":status", "304"), ("content-length", "5")], END_STREAM),
            Once,
        ),
        ("trailers", trailers("x", "1"), Once),
        ("a length in trailers", trailers("content-length", "50"), Refused),
        ("an encoding in trailers", trailers("transfer-encoding", "chunked"), Refused),
        ("a pseudo header in trailers", trailers(":status", "200"), Once),
        ("a line in trailers", trailers("x", "1\r\n\r\nHTTP/1.1"), Refused),
        (
            "interim, then an answer",
            [head(&[(":status", "103"), ("link", "x")], 0), hello(&[])].concat(),
            Once,
        ),
        (
            "a line in an interim answer",
            [head(&[(":status", "103"), ("x", "\r\n")], 0), hello(&[])].concat(),
            Refused,
        ),
        (
            "an interim answer that ends",
            [head(&[(":status", "103")], END_STREAM), hello(&[])].concat(),
            Refused,
        ),
        ("an answer within one", [&hello(&[])[..], &hello(&[])].concat(), Once),
        ("data first", [body("hello"), hello(&[])].concat(), Refused),
        ("a split head", split_head(), Once),
        ("a reset", frame(RST_STREAM, 0, 1, &[0, 0, 0, 2]), Refused),
    ]
}

fn split_head() -> Vec<u8> {
    let all = section(&[(":status", "200"), ("x", "1")]);
    let (first, second) = all.split_at(5);
    let parts = [
        frame(HEADERS, END_STREAM, 1, first),
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, END_HEADERS, 1, second),
    ];
    parts.concat()
}

#[tokio::test]
async fn http1_clients_see_one_response_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    let acceptor =
        TlsAcceptor::from(tls::self_signed(&["origin.test", "127.0.0.1"]).server_config(&["h2"]));
    for need in [Need::Nothing, Need::Hold] {
        for (name, answer, expect) in answers() {
            let name = format!("{name} ({need:?})");
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let to = listener.local_addr().unwrap();
            let acceptor = acceptor.clone();
            let mut serving = JoinSet::new();
            serving.spawn(async move {
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    let Ok(tls) = acceptor.accept(tcp).await else { continue };
                    let mut peer = Peer::over(tls);
                    peer.expect_preface().await;
                    if peer.send(&Peer::settings(&[])).await.is_err() {
                        continue;
                    }
                    let mut is_answered = false;
                    while let Some(frame) = peer.next().await {
                        if frame.kind == HEADERS && !is_answered {
                            is_answered = true;
                            let _ = peer.send(&answer).await;
                        }
                    }
                }
            });
            let settings = Settings { eager: false, ..Settings::default() };
            let proxy = Setup { settings, need, ..Setup::default() }.start().await;
            let trust = proxy.set_tls(dir.path(), Verification::Insecure);
            let mut client = proxy.client().await;
            client.tunnel(&to.to_string()).await.unwrap();
            let config = tls::client_config(&trust, &["http/1.1", "h2"]);
            let mut client = client.start_tls(config, "origin.test").await.unwrap();
            client.send("GET / HTTP/1.1\r\nHost: origin.test\r\nConnection: close\r\n\r\n").await;
            let all = within(&name, client.read_to_end()).await;
            let shown = all.escape_ascii().to_string();
            let interim = all.starts_with(b"HTTP/1.1 103");
            let start = if interim { naive::find(&all, b"\r\n\r\n").unwrap() + 4 } else { 0 };
            if all[start..].starts_with(b"HTTP/1.1 304") {
                // Whatever its head says, nothing follows it.
                assert!(expect == Once && all.ends_with(b"\r\n\r\n"), "{name}: {shown}");
                continue;
            }
            let Some((message, used)) = naive::first(&all[start..], Trust::TransferEncoding) else {
                // Its framing says that something is missing.
                if expect != Refused {
                    wrong.push(format!("{name}: {shown}"));
                }
                continue;
            };
            assert!(naive::framings(&message.head).len() <= 1, "{name}: {shown}");
            assert_eq!(message.header("x-smuggled"), Vec::<String>::new(), "{name}: {shown}");
            assert_eq!(start + used, all.len(), "{name}: {shown}");
            let got = if message.status() == 502 { Refused } else { Once };
            if got != expect {
                wrong.push(format!("{name}: {shown}"));
            }
            drop(serving);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
