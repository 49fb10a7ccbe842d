//! [`Facts`]: what filters ask of a flow, answered by a flow in memory or by a record of a flow file.
//!
//! Each method is one fact, so that a source which has to decode them pays only for those asked for.

use std::{borrow::Cow, sync::Arc};

use crate::{Address, Body, FlowData, FlowKind, FlowRef, Headers, Replay, Value, dns::DnsMessage};

/// One message of a WebSocket, TCP or UDP conversation.
#[derive(Clone, Debug)]
pub struct MessageFacts {
    pub from_client: bool,
    pub content: Body,
}

/// The facts of one flow. Those of another kind of flow are `None`, `false` or empty.
pub trait Facts {
    fn kind(&self) -> FlowKind;

    /// The request's method as sent (HTTP).
    fn method(&self) -> Option<Cow<'_, [u8]>>;
    /// `request.host` (HTTP).
    fn host(&self) -> Option<Cow<'_, str>>;
    /// The host of the Host header or authority, else `request.host` (HTTP).
    fn pretty_host(&self) -> Option<Cow<'_, str>>;
    /// The URL with the host of the Host header (HTTP).
    fn pretty_url(&self) -> Option<Cow<'_, str>>;
    fn request_headers(&self) -> Option<Headers>;
    fn request_body(&self) -> Option<Body>;

    /// True if there is a response (HTTP, DNS).
    fn has_response(&self) -> bool;
    fn status_code(&self) -> Option<i64>;
    fn response_headers(&self) -> Option<Headers>;
    fn response_body(&self) -> Option<Body>;

    fn is_websocket(&self) -> bool;
    /// WebSocket, TCP and UDP messages in order.
    fn messages(&self) -> Vec<MessageFacts>;
    fn dns_request(&self) -> Option<DnsMessage>;
    fn dns_response(&self) -> Option<DnsMessage>;

    fn has_error(&self) -> bool;
    fn marked(&self) -> Cow<'_, str>;
    fn comment(&self) -> Cow<'_, str>;
    fn metadata(&self) -> Vec<(Value, Value)>;
    fn replay(&self) -> Option<Replay>;
    /// `ip:port` of the client.
    fn client_address(&self) -> Option<String>;
    /// `host:port` of the server as named by the request.
    fn server_address(&self) -> Option<String>;
}

/// Each fact is read from the cells when it is asked for.
impl Facts for FlowRef {
    fn kind(&self) -> FlowKind {
        FlowRef::kind(self)
    }

    fn method(&self) -> Option<Cow<'_, [u8]>> {
        let method = self.request()?.with(|request| request.method.clone());
        Some(Cow::Owned(method.to_vec()))
    }

    fn host(&self) -> Option<Cow<'_, str>> {
        let host = self.request()?.with(|request| Arc::clone(&request.host));
        Some(Cow::Owned(host.as_ref().to_owned()))
    }

    fn pretty_host(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Owned(self.request()?.get().pretty_host().into_owned()))
    }

    fn pretty_url(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Owned(self.request()?.get().pretty_url()))
    }

    fn request_headers(&self) -> Option<Headers> {
        Some(self.request()?.with(|request| request.headers.clone()))
    }

    fn request_body(&self) -> Option<Body> {
        Some(self.request()?.with(|request| request.body.clone()))
    }

    fn has_response(&self) -> bool {
        FlowRef::has_response(self)
    }

    fn status_code(&self) -> Option<i64> {
        Some(self.response()?.with(|response| i64::from(response.status_code)))
    }

    fn response_headers(&self) -> Option<Headers> {
        Some(self.response()?.with(|response| response.headers.clone()))
    }

    fn response_body(&self) -> Option<Body> {
        Some(self.response()?.with(|response| response.body.clone()))
    }

    fn is_websocket(&self) -> bool {
        self.websocket().is_some()
    }

    fn messages(&self) -> Vec<MessageFacts> {
        match self.data() {
            FlowData::Http { websocket: Some(websocket), .. } => {
                let messages = websocket.with(|data| data.messages.clone());
                let facts = |message: &crate::WebSocketMessage| MessageFacts {
                    from_client: message.from_client,
                    content: message.content.clone(),
                };
                messages.iter().map(|message| message.with(facts)).collect()
            }
            FlowData::Tcp(messages) | FlowData::Udp(messages) => {
                let facts = |message: &crate::websocket::StreamMessage| MessageFacts {
                    from_client: message.from_client,
                    content: message.content.clone(),
                };
                messages.iter().map(|message| message.with(facts)).collect()
            }
            FlowData::Http { .. } | FlowData::Dns { .. } => Vec::new(),
        }
    }

    fn dns_request(&self) -> Option<DnsMessage> {
        match self.data() {
            FlowData::Dns { request, .. } => Some(request.get()),
            _ => None,
        }
    }

    fn dns_response(&self) -> Option<DnsMessage> {
        match self.data() {
            FlowData::Dns { response, .. } => response.map(|response| response.get()),
            _ => None,
        }
    }

    fn has_error(&self) -> bool {
        self.error().is_some()
    }

    fn marked(&self) -> Cow<'_, str> {
        Cow::Owned(FlowRef::marked(self).as_ref().to_owned())
    }

    fn comment(&self) -> Cow<'_, str> {
        Cow::Owned(FlowRef::comment(self).as_ref().to_owned())
    }

    fn metadata(&self) -> Vec<(Value, Value)> {
        FlowRef::metadata(self).to_vec()
    }

    fn replay(&self) -> Option<Replay> {
        self.is_replay()
    }

    fn client_address(&self) -> Option<String> {
        plain_address(self.client().with(|client| client.peername.clone()))
    }

    fn server_address(&self) -> Option<String> {
        plain_address(self.server().with(|server| server.address.clone()))
    }
}

/// As filters see addresses: no brackets, nothing abbreviated.
fn plain_address(address: Option<Address>) -> Option<String> {
    address.map(|address| format!("{}:{}", address.host, address.port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util;

    #[test]
    fn facts_of_an_exchange() {
        let flow = test_util::http_flow_with_response();
        let request = flow.request().unwrap();
        request.update(|request| request.headers.add("Host", "example.com"));
        assert_eq!(Facts::kind(&flow), FlowKind::Http);
        assert_eq!(Facts::method(&flow).unwrap(), &b"GET"[..]);
        assert_eq!(Facts::host(&flow).unwrap(), "address");
        assert_eq!(flow.pretty_host().unwrap(), "example.com");
        assert_eq!(flow.pretty_url().unwrap(), "http://example.com/path");
        assert_eq!(flow.request_headers().unwrap().get("header").unwrap(), "qvalue");
        assert_eq!(flow.request_body().unwrap().in_memory().unwrap(), "content");
        assert_eq!((Facts::has_response(&flow), flow.status_code()), (true, Some(200)));
        assert_eq!(flow.response_headers().unwrap().get("header-response").unwrap(), "svalue");
        assert_eq!(flow.response_body().unwrap().in_memory().unwrap(), "message");
        assert_eq!(flow.server_address().unwrap(), "address:22");
        let client = flow.client();
        assert_eq!(flow.client_address().unwrap(), "127.0.0.1:22");
        client.update(|client| client.peername = Some(Address::new("::1", 80)));
        assert_eq!(flow.client_address().unwrap(), "::1:80");
        assert!(!flow.has_error() && !flow.is_websocket() && Facts::messages(&flow).is_empty());
        assert!(flow.dns_request().is_none() && flow.dns_response().is_none());
    }

    #[test]
    fn facts_of_other_kinds() {
        let sides = |flow: &FlowRef| {
            Facts::messages(flow).iter().map(|message| message.from_client).collect::<Vec<_>>()
        };
        for flow in [test_util::tcp_flow(), test_util::udp_flow()] {
            assert_eq!(sides(&flow), [true, false]);
            assert!(flow.pretty_url().is_none() && Facts::method(&flow).is_none());
        }
        let flow = test_util::websocket_flow();
        assert!(flow.is_websocket());
        assert_eq!(sides(&flow), [true, true, false]);
        let flow = test_util::dns_flow();
        assert_eq!(flow.dns_request().unwrap().questions.len(), 1);
        assert_eq!(flow.dns_response().unwrap().answers.len(), 2);
        let flow = test_util::error_flow();
        assert!(flow.has_error() && !Facts::has_response(&flow) && flow.status_code().is_none());
    }
}
