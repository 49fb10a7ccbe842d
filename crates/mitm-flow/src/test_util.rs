//! Builders of flows for tests, with the values that the tests of mitmproxy use.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Address, Body, Client, FlowData, FlowError, FlowRef, Opcode, Request, Response, Server, Shared,
    TlsVersion, Transport, WebSocketData, WebSocketMessage,
    dns::{A, DnsMessage, IN, Question, ResourceRecord},
    websocket::StreamMessage,
};

/// A live GET of `http://address:22/path`, without a response.
pub fn http_flow() -> FlowRef {
    FlowRef::http(client().into(), server().into(), request())
}

/// [`http_flow`] with its [`response`].
pub fn http_flow_with_response() -> FlowRef {
    let flow = http_flow();
    flow.set_response(Some(response().into()));
    flow
}

/// [`http_flow`] that failed.
pub fn error_flow() -> FlowRef {
    let flow = http_flow();
    flow.set_error(Some(error()));
    flow
}

/// A live WebSocket conversation of three messages that was closed by the server.
pub fn websocket_flow() -> FlowRef {
    let request = Request {
        host: "example.com".into(),
        port: 80,
        authority: "example.com".into(),
        path: "/ws".into(),
        headers: [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "1234"),
        ]
        .into_iter()
        .collect(),
        body: Body::empty(),
        ..request()
    };
    let response = Response {
        status_code: 101,
        reason: "Switching Protocols".into(),
        headers: [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", ""),
        ]
        .into_iter()
        .collect(),
        body: Body::empty(),
        ..response()
    };
    let message = |opcode, from_client, content: &'static str, timestamp| {
        Shared::new(WebSocketMessage {
            opcode,
            from_client,
            content: Bytes::from(content).into(),
            timestamp,
            dropped: false,
            injected: false,
        })
    };
    let websocket = WebSocketData {
        messages: vec![
            message(Opcode::Binary, true, "hello binary", 946_681_203.0),
            message(Opcode::Text, true, "hello text", 946_681_204.0),
            message(Opcode::Text, false, "it's me", 946_681_205.0),
        ],
        closed_by_client: Some(false),
        close_code: Some(1000),
        close_reason: Some(String::new()),
        timestamp_end: Some(946_681_205.0),
    };
    let flow = FlowRef::http(client().into(), server().into(), request);
    flow.set_response(Some(response.into()));
    flow.set_websocket(Some(websocket.into()));
    flow
}

/// A live TCP conversation of two messages.
pub fn tcp_flow() -> FlowRef {
    FlowRef::new(client().into(), server().into(), FlowData::Tcp(messages()))
}

/// A live UDP conversation of two messages.
pub fn udp_flow() -> FlowRef {
    let (client, server) = (Client { proxy_mode: "regular".into(), ..udp_client() }, udp_server());
    FlowRef::new(client.into(), server.into(), FlowData::Udp(messages()))
}

/// A live DNS query for the address of `dns.google`, with its answers.
pub fn dns_flow() -> FlowRef {
    let data = FlowData::Dns {
        request: Shared::new(dns_request()),
        response: Some(Shared::new(dns_response())),
    };
    FlowRef::new(udp_client().into(), udp_server().into(), data)
}

/// One flow of each kind and state.
pub fn flows() -> Vec<FlowRef> {
    vec![
        http_flow(),
        http_flow_with_response(),
        error_flow(),
        websocket_flow(),
        tcp_flow(),
        udp_flow(),
        dns_flow(),
    ]
}

/// A client at 127.0.0.1:22.
pub fn client() -> Client {
    let mut client = Client::new(Address::new("127.0.0.1", 22), Address::new("", 0), 946_681_200.0);
    client.timestamp_end = Some(946_681_206.0);
    client.tls_facts.timestamp_setup = Some(946_681_201.0);
    client.tls_facts.alpn = Some(Bytes::from_static(b"http/1.1"));
    client.tls_facts.cipher = Some("cipher".into());
    client.tls_facts.version = Some(TlsVersion::Tls1_2);
    client.tls_facts.sni = Some("address".into());
    client
}

/// A server called `address`, at 192.168.0.1:22.
pub fn server() -> Server {
    let mut server = Server::new(Some(Address::new("address", 22)));
    server.peername = Some(Address::new("192.168.0.1", 22));
    server.sockname = Some(Address::new("address", 22));
    server.timestamp_start = Some(946_681_202.0);
    server.timestamp_tcp_setup = Some(946_681_203.0);
    server.timestamp_end = Some(946_681_205.0);
    server.tls_facts.timestamp_setup = Some(946_681_204.0);
    server.tls_facts.version = Some(TlsVersion::Tls1_2);
    server.tls_facts.sni = Some("address".into());
    server
}

fn udp_client() -> Client {
    Client { transport: Transport::Udp, proxy_mode: "dns".into(), ..client() }
}

fn udp_server() -> Server {
    Server { transport: Transport::Udp, ..server() }
}

/// The error of [`error_flow`].
pub fn error() -> FlowError {
    FlowError { msg: Arc::from("error"), timestamp: 946_681_207.0 }
}

/// A GET of `http://address:22/path` with two headers and a body.
pub fn request() -> Request {
    Request {
        host: "address".into(),
        port: 22,
        method: "GET".into(),
        scheme: "http".into(),
        path: "/path".into(),
        http_version: "HTTP/1.1".into(),
        headers: [("header", "qvalue"), ("content-length", "7")].into_iter().collect(),
        body: Bytes::from_static(b"content").into(),
        timestamp_start: 946_681_200.0,
        timestamp_end: Some(946_681_201.0),
        ..Request::default()
    }
}

/// A `200 OK` with two headers and a body.
pub fn response() -> Response {
    Response {
        http_version: "HTTP/1.1".into(),
        status_code: 200,
        reason: "OK".into(),
        headers: [("header-response", "svalue"), ("content-length", "7")].into_iter().collect(),
        body: Bytes::from_static(b"message").into(),
        timestamp_start: 946_681_202.0,
        timestamp_end: Some(946_681_203.0),
        ..Response::default()
    }
}

fn messages() -> Vec<Shared<StreamMessage>> {
    vec![
        StreamMessage::new(true, "hello", 946_681_204.2).into(),
        StreamMessage::new(false, "it's me", 946_681_204.5).into(),
    ]
}

/// The query of [`dns_flow`].
pub fn dns_request() -> DnsMessage {
    DnsMessage {
        id: 42,
        query: true,
        recursion_desired: true,
        questions: vec![Question { name: "dns.google".into(), kind: A, class: IN }],
        timestamp: Some(946_681_200.0),
        ..DnsMessage::default()
    }
}

/// The response of [`dns_flow`].
pub fn dns_response() -> DnsMessage {
    let answer = |data: &'static [u8]| ResourceRecord {
        name: "dns.google".into(),
        kind: A,
        class: IN,
        ttl: 32,
        data: Bytes::from_static(data),
    };
    DnsMessage {
        query: false,
        recursion_available: true,
        answers: vec![answer(&[8, 8, 8, 8]), answer(&[8, 8, 4, 4])],
        timestamp: Some(946_681_201.0),
        ..dns_request()
    }
}
