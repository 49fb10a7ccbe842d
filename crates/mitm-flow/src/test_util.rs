//! Builders of flows for tests.

use crate::{Address, Client, FlowRef, Request, Server};

/// A live GET of `http://address:22/path`, without a response.
pub fn http_flow() -> FlowRef {
    let client = Client::new(Address::new("127.0.0.1", 22), Address::new("", 0), 946_681_200.0);
    let server = Server::new(Some(Address::new("address", 22)));
    FlowRef::http(client.into(), server.into(), request())
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
        body: bytes::Bytes::from_static(b"content").into(),
        timestamp_start: 946_681_200.0,
        timestamp_end: Some(946_681_201.0),
        ..Request::default()
    }
}
