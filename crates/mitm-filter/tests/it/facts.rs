//! Flows by hand: plain values that answer as a flow would, the same ones that `peer/evaluate.py` builds.

use std::borrow::Cow;

use mitm_flow::{
    Body, Facts, FlowKind, Headers, Replay, Value,
    dns::{DnsMessage, Question, ResourceRecord},
    facts::MessageFacts,
};

/// The facts of a flow. The default is an HTTP request with nothing in it.
#[derive(Clone, Debug)]
pub(crate) struct TestFlow {
    pub kind: FlowKind,
    pub method: Vec<u8>,
    pub host: String,
    pub pretty_host: String,
    pub url: String,
    pub request_headers: Headers,
    pub request_body: Body,
    pub response: Option<TestResponse>,
    pub websocket: bool,
    pub messages: Vec<MessageFacts>,
    pub dns_request: Option<DnsMessage>,
    pub dns_response: Option<DnsMessage>,
    pub error: bool,
    pub marked: String,
    pub comment: String,
    pub metadata: Vec<(Value, Value)>,
    pub replay: Option<Replay>,
    pub client: Option<String>,
    pub server: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct TestResponse {
    pub status: i64,
    pub headers: Headers,
    pub body: Body,
}

impl TestFlow {
    fn new(kind: FlowKind) -> Self {
        Self {
            kind,
            method: Vec::new(),
            host: String::new(),
            pretty_host: String::new(),
            url: String::new(),
            request_headers: Headers::new(),
            request_body: Body::missing(),
            response: None,
            websocket: false,
            messages: Vec::new(),
            dns_request: None,
            dns_response: None,
            error: false,
            marked: String::new(),
            comment: String::new(),
            metadata: Vec::new(),
            replay: None,
            client: Some("127.0.0.1:22".to_owned()),
            server: Some("address:22".to_owned()),
        }
    }

    /// The request of mitmproxy's `tflow`, without a response.
    pub(crate) fn get() -> Self {
        Self {
            method: b"GET".to_vec(),
            host: "address".to_owned(),
            pretty_host: "address".to_owned(),
            url: "http://address:22/path".to_owned(),
            request_headers: headers([("header", "qvalue"), ("content-length", "7")]),
            request_body: body(b"content"),
            ..Self::new(FlowKind::Http)
        }
    }

    /// The same with the response of `tflow`.
    pub(crate) fn answered() -> Self {
        let response = TestResponse {
            status: 200,
            headers: headers([("header-response", "svalue"), ("content-length", "7")]),
            body: body(b"message"),
        };
        Self { response: Some(response), ..Self::get() }
    }

    pub(crate) fn response_mut(&mut self) -> &mut TestResponse {
        self.response.as_mut().unwrap()
    }

    fn conversation(kind: FlowKind) -> Self {
        Self {
            messages: vec![message(true, b"hello"), message(false, b"it's me")],
            ..Self::new(kind)
        }
    }

    pub(crate) fn tcp() -> Self {
        Self::conversation(FlowKind::Tcp)
    }

    pub(crate) fn websocket() -> Self {
        let upgrade = ("upgrade", "websocket");
        Self {
            method: b"GET".to_vec(),
            host: "example.com".to_owned(),
            pretty_host: "example.com".to_owned(),
            url: "http://example.com/ws".to_owned(),
            request_headers: headers([
                ("connection", "upgrade"),
                upgrade,
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "1234"),
            ]),
            request_body: body(b""),
            response: Some(TestResponse {
                status: 101,
                headers: headers([
                    ("connection", "upgrade"),
                    upgrade,
                    ("sec-websocket-accept", ""),
                ]),
                body: body(b""),
            }),
            websocket: true,
            messages: vec![
                message(true, b"hello binary"),
                message(true, b"hello text"),
                message(false, b"it's me"),
            ],
            ..Self::new(FlowKind::Http)
        }
    }

    pub(crate) fn dns() -> Self {
        let question = Question { name: "dns.google".to_owned(), kind: 1, class: 1 };
        let request =
            DnsMessage { query: true, questions: vec![question], ..DnsMessage::default() };
        Self { dns_request: Some(request), ..Self::new(FlowKind::Dns) }
    }

    pub(crate) fn dns_answered() -> Self {
        let mut flow = Self::dns();
        let record = |data: [u8; 4]| ResourceRecord {
            name: "dns.google".to_owned(),
            kind: 1,
            class: 1,
            ttl: 32,
            data: data.to_vec().into(),
        };
        flow.dns_response = flow.dns_request.clone().map(|request| DnsMessage {
            query: false,
            answers: vec![record([8, 8, 8, 8]), record([8, 8, 4, 4])],
            ..request
        });
        flow
    }

    /// The flows of `peer/evaluate.py`, in its order.
    pub(crate) fn peer_flows() -> Vec<(&'static str, Self)> {
        let mut done = Self::answered();
        done.method = b"POST".to_vec();
        done.pretty_host = "example.com".into();
        done.url = "http://example.com:8080/a/b.php?q=1&r=%20".into();
        done.request_headers = headers([
            ("Host", "example.com:8080"),
            ("Content-Type", "application/json"),
            ("X-Dup", "one"),
            ("x-dup", "two"),
            ("content-length", "13"),
        ]);
        done.request_body = body("{\"café\": 1}\n".as_bytes());
        done.response_mut().status = 404;
        done.response_mut().headers.add("Content-Type", "text/html; charset=utf-8");
        done.marked = ":grapes:".into();
        done.comment = "first line\nsecond LINE".into();
        done.metadata = vec![
            ("key".into(), "value".into()),
            ("n".into(), Value::Int(7)),
            ("f".into(), Value::Float(1.5)),
            ("none".into(), Value::Null),
            ("list".into(), Value::List(vec!["a".into(), Value::Bytes("b".into())])),
        ];

        let mut packed = Self::answered();
        packed.host = "10.0.0.1".into();
        packed.pretty_host = "10.0.0.1".into();
        packed.url = "http://10.0.0.1:22/path".into();
        let content = gzip(b"compressed MESSAGE \x00\xff\n");
        let response = packed.response_mut();
        // The length of what mitmproxy's compressor makes of it.
        response.headers = headers([
            ("header-response", "svalue"),
            ("content-length", "42"),
            ("content-encoding", "gzip"),
            ("content-type", "image/png"),
        ]);
        response.body = content.into();
        packed.replay = Some(Replay::Request);

        let mut failed = Self::get();
        failed.error = true;
        failed.request_body = Body::missing();
        failed.replay = Some(Replay::Response);
        failed.server = None;
        failed.marked = ":default:".into();

        vec![
            ("get", Self::get()),
            ("done", done),
            ("packed", packed),
            ("failed", failed),
            ("websocket", Self::websocket()),
            ("tcp", Self::tcp()),
            ("tcp_err", Self { error: true, ..Self::tcp() }),
            ("udp", Self::conversation(FlowKind::Udp)),
            ("dns", Self::dns()),
            ("dns_answered", Self::dns_answered()),
        ]
    }
}

pub(crate) fn headers<const N: usize>(fields: [(&'static str, &'static str); N]) -> Headers {
    fields.into_iter().collect()
}

pub(crate) fn body(bytes: &[u8]) -> Body {
    bytes.to_vec().into()
}

pub(crate) fn message(from_client: bool, content: &[u8]) -> MessageFacts {
    MessageFacts { from_client, content: body(content) }
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    mitm_flow::coding::encode(b"gzip", content).unwrap().to_vec()
}

impl Facts for TestFlow {
    fn kind(&self) -> FlowKind {
        self.kind
    }

    fn method(&self) -> Option<Cow<'_, [u8]>> {
        (self.kind == FlowKind::Http).then(|| self.method.as_slice().into())
    }

    fn host(&self) -> Option<Cow<'_, str>> {
        (self.kind == FlowKind::Http).then(|| self.host.as_str().into())
    }

    fn pretty_host(&self) -> Option<Cow<'_, str>> {
        (self.kind == FlowKind::Http).then(|| self.pretty_host.as_str().into())
    }

    fn pretty_url(&self) -> Option<Cow<'_, str>> {
        (self.kind == FlowKind::Http).then(|| self.url.as_str().into())
    }

    fn request_headers(&self) -> Option<Headers> {
        (self.kind == FlowKind::Http).then(|| self.request_headers.clone())
    }

    fn request_body(&self) -> Option<Body> {
        (self.kind == FlowKind::Http).then(|| self.request_body.clone())
    }

    fn has_response(&self) -> bool {
        self.response.is_some() || self.dns_response.is_some()
    }

    fn status_code(&self) -> Option<i64> {
        self.response.as_ref().map(|response| response.status)
    }

    fn response_headers(&self) -> Option<Headers> {
        self.response.as_ref().map(|response| response.headers.clone())
    }

    fn response_body(&self) -> Option<Body> {
        self.response.as_ref().map(|response| response.body.clone())
    }

    fn is_websocket(&self) -> bool {
        self.websocket
    }

    fn messages(&self) -> Vec<MessageFacts> {
        self.messages.clone()
    }

    fn dns_request(&self) -> Option<DnsMessage> {
        self.dns_request.clone()
    }

    fn dns_response(&self) -> Option<DnsMessage> {
        self.dns_response.clone()
    }

    fn has_error(&self) -> bool {
        self.error
    }

    fn marked(&self) -> Cow<'_, str> {
        self.marked.as_str().into()
    }

    fn comment(&self) -> Cow<'_, str> {
        self.comment.as_str().into()
    }

    fn metadata(&self) -> Vec<(Value, Value)> {
        self.metadata.clone()
    }

    fn replay(&self) -> Option<Replay> {
        self.replay
    }

    fn client_address(&self) -> Option<String> {
        self.client.clone()
    }

    fn server_address(&self) -> Option<String> {
        self.server.clone()
    }
}
