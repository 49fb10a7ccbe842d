//! From the bytes of a record to a [`FlowSnapshot`].
//!
//! Byte strings share the record's memory; those that were left in the file become stored bodies, or are read
//! where only bytes will do. Some values of a file have no place in the model and are brought nearer to it:
//!
//! | in the file | here |
//! |---|---|
//! | a connection's id that is not a UUID | a UUID computed from it |
//! | a certificate that is not PEM | kept as it is, as if it were DER |
//! | a WebSocket opcode other than 1 (text) | binary |
//! | a request or response whose start is null | 0.0 |
//! | a backup that is not valid | no backup; one of an older version is migrated |

use std::{
    cell::Cell,
    fmt::Write as _,
    hash::{BuildHasher, RandomState},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use mitm_flow::{
    Address, Body, Cert, Client, Extent, FlowError, FlowKind, FlowSnapshot, Headers, Opcode,
    Replay, Request, Response, Server, SnapshotData, TlsVersion, Transport, Value, Via,
    WebSocketMessage,
    connection::TlsFacts,
    dns::{DnsMessage, Question, ResourceRecord},
    facts::MessageFacts,
    snapshot::WebSocketSnapshot,
    stream::Stream,
    websocket::StreamMessage,
};
use uuid::Uuid;

use crate::{
    fault::{Fault, What},
    large::Place,
    migrate::Migrator,
    record::RawRecord,
    schema::{
        self, CLIENT_KEYS, DNS_KEYS, ERROR_KEYS, QUESTION_KEYS, RECORD_KEYS, REQUEST_KEYS,
        RESPONSE_KEYS, SERVER_KEYS, Spans, TOP, WEBSOCKET_KEYS, client, dns, error, question,
        record, request, response, server, top, websocket,
    },
    tnetstring::{self, Problem, STORED, Span},
};

/// How many bytes that were left in the file may be read for values other than bodies, per record.
const STORED_VALUES: u64 = 64 * 1024 * 1024;

/// Decodes a record.
pub(crate) fn snapshot(record: &RawRecord) -> Result<FlowSnapshot, Fault> {
    record.decoder().snapshot(record, true)
}

/// Stands for a flow whose record turned out to be invalid after it was checked.
pub(crate) fn broken(id: &str, fault: &Fault) -> FlowSnapshot {
    FlowSnapshot {
        id: id.into(),
        client: Client::new(Address::new("", 0), Address::new("", 0), 0.0),
        server: Server::new(None),
        error: Some(FlowError { msg: format!("invalid flow: {fault}").into(), timestamp: 0.0 }),
        intercepted: false,
        is_replay: None,
        marked: "".into(),
        comment: "".into(),
        metadata: Arc::default(),
        timestamp_created: 0.0,
        backup: None,
        data: SnapshotData::Tcp(Vec::new()),
    }
}

/// Reads typed values out of a record.
pub(crate) struct Decoder<'a> {
    buf: &'a Bytes,
    place: Option<&'a Place>,
    /// What may still be read of [`STORED_VALUES`].
    left: Cell<u64>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(buf: &'a Bytes, place: Option<&'a Place>) -> Self {
        Self { buf, place, left: Cell::new(STORED_VALUES) }
    }

    fn snapshot(&self, record: &RawRecord, with_backup: bool) -> Result<FlowSnapshot, Fault> {
        let top = record.top();
        let data = match record.flow_kind() {
            FlowKind::Http => SnapshotData::Http {
                request: Box::new(
                    self.request(record.request_spans()).map_err(|f| f.within("request"))?,
                ),
                response: if self.is_null(top[top::RESPONSE]) {
                    None
                } else {
                    let response = self.response(record.response_spans());
                    Some(Box::new(response.map_err(|f| f.within("response"))?))
                },
                websocket: if self.is_null(top[top::WEBSOCKET]) {
                    None
                } else {
                    let data = self.websocket(top[top::WEBSOCKET]);
                    Some(data.map_err(|f| f.within("websocket"))?)
                },
            },
            FlowKind::Tcp => SnapshotData::Tcp(self.stream_messages(top[top::MESSAGES])?),
            FlowKind::Udp => SnapshotData::Udp(self.stream_messages(top[top::MESSAGES])?),
            FlowKind::Dns => SnapshotData::Dns {
                request: Box::new(self.dns_message(top[top::REQUEST])?),
                response: if self.is_null(top[top::RESPONSE]) {
                    None
                } else {
                    Some(Box::new(self.dns_message(top[top::RESPONSE])?))
                },
            },
        };
        Ok(FlowSnapshot {
            id: self.text(top[top::ID])?.into(),
            client: self.client(top[top::CLIENT_CONN]).map_err(|f| f.within("client_conn"))?,
            server: self.server(top[top::SERVER_CONN]).map_err(|f| f.within("server_conn"))?,
            error: self.error(top[top::ERROR])?,
            intercepted: schema::boolean(self.buf, top[top::INTERCEPTED])?,
            is_replay: match self.opt_text(top[top::IS_REPLAY])? {
                None => None,
                Some("request") => Some(Replay::Request),
                Some(_) => Some(Replay::Response),
            },
            marked: self.text(top[top::MARKED])?.into(),
            comment: self.text(top[top::COMMENT])?.into(),
            metadata: Arc::new(self.metadata(top[top::METADATA])?),
            timestamp_created: schema::number(self.buf, top[top::TIMESTAMP_CREATED])?,
            backup: if with_backup { self.backup(record, top[top::BACKUP]) } else { None },
            data,
        })
    }

    /// Decodes a backup, which is a state of its own. mitmproxy does not look at it before it is wanted, and carries
    /// one of an older version along; a backup that is not valid is no reason to refuse the flow.
    fn backup(&self, record: &RawRecord, span: Span) -> Option<Arc<FlowSnapshot>> {
        if span.is_absent() || span.tag(self.buf) != b'}' {
            return None;
        }
        let place = record.place().cloned();
        let migrator = &mut Migrator::new();
        let state =
            RawRecord::within(self.buf.clone(), span, record.offset(), place, migrator).ok()?;
        state.check().ok()?;
        state.decoder().snapshot(&state, false).ok().map(Arc::new)
    }

    fn is_null(&self, span: Span) -> bool {
        span.tag(self.buf) == b'~'
    }

    fn text(&self, span: Span) -> Result<&'a str, Fault> {
        schema::text(self.buf, span)
    }

    fn opt_text(&self, span: Span) -> Result<Option<&'a str>, Fault> {
        if self.is_null(span) { Ok(None) } else { self.text(span).map(Some) }
    }

    fn opt_arc(&self, span: Span) -> Result<Option<Arc<str>>, Fault> {
        Ok(self.opt_text(span)?.map(Arc::from))
    }

    fn opt_number(&self, span: Span) -> Result<Option<f64>, Fault> {
        if self.is_null(span) { Ok(None) } else { schema::number(self.buf, span).map(Some) }
    }

    /// Reads an integer whose range the type gives.
    fn int<T: TryFrom<i64>>(&self, span: Span) -> Result<T, Fault> {
        let value = schema::any_int(self.buf, span)?;
        T::try_from(value).map_err(|_| Fault::new(span, What::Expected("a smaller integer")))
    }

    fn bytes(&self, span: Span) -> Result<Bytes, Fault> {
        match span.tag(self.buf) {
            b',' => Ok(self.buf.slice(span.start as usize..span.end as usize)),
            STORED if self.place.is_some() => self.stored_bytes(span.of(self.buf), span),
            _ => Err(Fault::new(span, What::Expected("bytes"))),
        }
    }

    fn stored_bytes(&self, payload: &[u8], span: Span) -> Result<Bytes, Fault> {
        let part = self.place.and_then(|place| place.part(payload));
        let part = part.ok_or_else(|| Fault::new(span, Problem::Tag(STORED).into()))?;
        let len = Extent::len(&part);
        let left = self.left.get().checked_sub(len);
        self.left.set(left.ok_or_else(|| Fault::new(span, What::TooLarge { len }))?);
        let bytes = Body::stored(Arc::new(part)).bytes();
        let bytes = bytes.map_err(|error| Fault::new(span, What::Stored(error)))?;
        Ok(bytes.unwrap_or_default())
    }

    fn opt_bytes(&self, span: Span) -> Result<Option<Bytes>, Fault> {
        if self.is_null(span) { Ok(None) } else { self.bytes(span).map(Some) }
    }

    pub(crate) fn body(&self, span: Span) -> Result<Body, Fault> {
        match (span.tag(self.buf), self.place) {
            (STORED, Some(place)) => place
                .body(span.of(self.buf))
                .ok_or_else(|| Fault::new(span, Problem::Tag(STORED).into())),
            (b'~', _) if !span.is_absent() => Ok(Body::missing()),
            _ => self.bytes(span).map(Body::from),
        }
    }

    /// Reads every element of a list.
    fn list<T>(
        &self,
        span: Span,
        mut read: impl FnMut(Span) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let mut items = schema::list(self.buf, span)?;
        let mut list = Vec::new();
        while let Some(item) = items.next()? {
            list.push(read(item)?);
        }
        Ok(list)
    }

    /// Reads a list of a fixed number of elements.
    fn tuple<const N: usize>(&self, span: Span) -> Result<[Span; N], Fault> {
        let mut items = schema::list(self.buf, span)?;
        let mut tuple = [Span::ABSENT; N];
        for slot in &mut tuple {
            let item = items.next()?;
            *slot = item.ok_or_else(|| Fault::new(span, What::Expected("more elements")))?;
        }
        Ok(tuple)
    }

    pub(crate) fn headers(&self, span: Span) -> Result<Headers, Fault> {
        let fields = self.list(span, |field| {
            let [name, value] = self.tuple(field)?;
            Ok((self.bytes(name)?, self.bytes(value)?))
        })?;
        Ok(Headers::from_fields(fields))
    }

    fn opt_headers(&self, span: Span) -> Result<Option<Headers>, Fault> {
        if self.is_null(span) { Ok(None) } else { self.headers(span).map(Some) }
    }

    /// Reads a host that may have been stored as bytes in IDNA, as old releases did.
    pub(crate) fn host(&self, span: Span) -> Result<Arc<str>, Fault> {
        if span.tag(self.buf) == b';' {
            return self.text(span).map(Arc::from);
        }
        let bytes = self.bytes(span)?;
        Ok(idna_to_text(&bytes).into())
    }

    fn request(&self, spans: &Spans<REQUEST_KEYS>) -> Result<Request, Fault> {
        Ok(Request {
            host: self.host(spans[request::HOST])?,
            port: self.int(spans[request::PORT])?,
            method: self.bytes(spans[request::METHOD])?,
            scheme: self.bytes(spans[request::SCHEME])?,
            authority: self.bytes(spans[request::AUTHORITY])?,
            path: self.bytes(spans[request::PATH])?,
            http_version: self.bytes(spans[request::HTTP_VERSION])?,
            headers: self.headers(spans[request::HEADERS])?,
            body: self.body(spans[request::CONTENT])?,
            trailers: self.opt_headers(spans[request::TRAILERS])?,
            timestamp_start: self.opt_number(spans[request::TIMESTAMP_START])?.unwrap_or(0.0),
            timestamp_end: self.opt_number(spans[request::TIMESTAMP_END])?,
            stream: Stream::No,
        })
    }

    /// Reads what a request's URL is made of; of its headers only `Host`.
    pub(crate) fn request_line(&self, spans: &Spans<REQUEST_KEYS>) -> Result<Request, Fault> {
        let mut host_header = Vec::new();
        let mut items = schema::list(self.buf, spans[request::HEADERS])?;
        while let Some(field) = items.next()? {
            let [name, value] = self.tuple(field)?;
            if name.of(self.buf).eq_ignore_ascii_case(b"host") {
                host_header.push((self.bytes(name)?, self.bytes(value)?));
            }
        }
        Ok(Request {
            host: self.host(spans[request::HOST])?,
            port: self.int(spans[request::PORT])?,
            method: self.bytes(spans[request::METHOD])?,
            scheme: self.bytes(spans[request::SCHEME])?,
            authority: self.bytes(spans[request::AUTHORITY])?,
            path: self.bytes(spans[request::PATH])?,
            http_version: self.bytes(spans[request::HTTP_VERSION])?,
            headers: Headers::from_fields(host_header),
            ..Request::default()
        })
    }

    fn response(&self, spans: &Spans<RESPONSE_KEYS>) -> Result<Response, Fault> {
        Ok(Response {
            http_version: self.bytes(spans[response::HTTP_VERSION])?,
            status_code: self.int(spans[response::STATUS_CODE])?,
            reason: self.bytes(spans[response::REASON])?,
            headers: self.headers(spans[response::HEADERS])?,
            body: self.body(spans[response::CONTENT])?,
            trailers: self.opt_headers(spans[response::TRAILERS])?,
            timestamp_start: self.opt_number(spans[response::TIMESTAMP_START])?.unwrap_or(0.0),
            timestamp_end: self.opt_number(spans[response::TIMESTAMP_END])?,
            stream: Stream::No,
        })
    }

    fn websocket(&self, span: Span) -> Result<WebSocketSnapshot, Fault> {
        let spans: Spans<WEBSOCKET_KEYS> = schema::scan(&schema::WEBSOCKET, self.buf, span)?;
        let closed_by_client = spans[websocket::CLOSED_BY_CLIENT];
        let close_code = spans[websocket::CLOSE_CODE];
        Ok(WebSocketSnapshot {
            messages: self.list(spans[websocket::MESSAGES], |message| {
                let [opcode, from_client, content, timestamp, dropped, injected] =
                    self.tuple(message)?;
                Ok(WebSocketMessage {
                    opcode: match self.int::<i64>(opcode)? {
                        1 => Opcode::Text,
                        _ => Opcode::Binary,
                    },
                    from_client: schema::boolean(self.buf, from_client)?,
                    content: self.body(content)?,
                    timestamp: schema::number(self.buf, timestamp)?,
                    dropped: schema::boolean(self.buf, dropped)?,
                    injected: schema::boolean(self.buf, injected)?,
                })
            })?,
            closed_by_client: if self.is_null(closed_by_client) {
                None
            } else {
                Some(schema::boolean(self.buf, closed_by_client)?)
            },
            close_code: if self.is_null(close_code) { None } else { Some(self.int(close_code)?) },
            close_reason: self.opt_text(spans[websocket::CLOSE_REASON])?.map(str::to_owned),
            timestamp_end: self.opt_number(spans[websocket::TIMESTAMP_END])?,
        })
    }

    fn stream_messages(&self, span: Span) -> Result<Vec<StreamMessage>, Fault> {
        self.list(span, |message| {
            let [from_client, content, timestamp] = self.tuple(message)?;
            Ok(StreamMessage {
                from_client: schema::boolean(self.buf, from_client)?,
                content: self.body(content)?,
                timestamp: schema::number(self.buf, timestamp)?,
            })
        })
    }

    /// Reads only what filters ask of messages.
    pub(crate) fn message_facts(
        &self,
        kind: FlowKind,
        top: &Spans<TOP>,
    ) -> Result<Vec<MessageFacts>, Fault> {
        match kind {
            FlowKind::Tcp | FlowKind::Udp => self.list(top[top::MESSAGES], |message| {
                let [from_client, content] = self.tuple(message)?;
                self.message_fact(from_client, content)
            }),
            FlowKind::Http if !self.is_null(top[top::WEBSOCKET]) => {
                let data = top[top::WEBSOCKET];
                let spans: Spans<WEBSOCKET_KEYS> =
                    schema::scan(&schema::WEBSOCKET, self.buf, data)?;
                self.list(spans[websocket::MESSAGES], |message| {
                    let [_opcode, from_client, content] = self.tuple(message)?;
                    self.message_fact(from_client, content)
                })
            }
            FlowKind::Http | FlowKind::Dns => Ok(Vec::new()),
        }
    }

    fn message_fact(&self, from_client: Span, content: Span) -> Result<MessageFacts, Fault> {
        Ok(MessageFacts {
            from_client: schema::boolean(self.buf, from_client)?,
            content: self.body(content)?,
        })
    }

    pub(crate) fn dns_message(&self, span: Span) -> Result<DnsMessage, Fault> {
        let spans: Spans<DNS_KEYS> = schema::scan(&schema::DNS_MESSAGE, self.buf, span)?;
        let boolean = |index: usize| schema::boolean(self.buf, spans[index]);
        Ok(DnsMessage {
            id: self.int(spans[dns::ID])?,
            query: boolean(dns::QUERY)?,
            op_code: self.int(spans[dns::OP_CODE])?,
            authoritative_answer: boolean(dns::AUTHORITATIVE_ANSWER)?,
            truncation: boolean(dns::TRUNCATION)?,
            recursion_desired: boolean(dns::RECURSION_DESIRED)?,
            recursion_available: boolean(dns::RECURSION_AVAILABLE)?,
            reserved: self.int(spans[dns::RESERVED])?,
            response_code: self.int(spans[dns::RESPONSE_CODE])?,
            questions: self.list(spans[dns::QUESTIONS], |item| self.question(item))?,
            answers: self.list(spans[dns::ANSWERS], |item| self.resource(item))?,
            authorities: self.list(spans[dns::AUTHORITIES], |item| self.resource(item))?,
            additionals: self.list(spans[dns::ADDITIONALS], |item| self.resource(item))?,
            timestamp: self.opt_number(spans[dns::TIMESTAMP])?,
        })
    }

    fn question(&self, span: Span) -> Result<Question, Fault> {
        let spans: Spans<QUESTION_KEYS> = schema::scan(&schema::QUESTION, self.buf, span)?;
        Ok(Question {
            name: self.text(spans[question::NAME])?.to_owned(),
            kind: self.int(spans[question::TYPE])?,
            class: self.int(spans[question::CLASS])?,
        })
    }

    fn resource(&self, span: Span) -> Result<ResourceRecord, Fault> {
        let spans: Spans<RECORD_KEYS> = schema::scan(&schema::RECORD, self.buf, span)?;
        Ok(ResourceRecord {
            name: self.text(spans[record::NAME])?.to_owned(),
            kind: self.int(spans[record::TYPE])?,
            class: self.int(spans[record::CLASS])?,
            ttl: self.int(spans[record::TTL])?,
            data: self.bytes(spans[record::DATA])?,
        })
    }

    fn error(&self, span: Span) -> Result<Option<FlowError>, Fault> {
        if self.is_null(span) {
            return Ok(None);
        }
        let spans: Spans<ERROR_KEYS> = schema::scan(&schema::ERROR, self.buf, span)?;
        Ok(Some(FlowError {
            msg: self.text(spans[error::MSG])?.into(),
            timestamp: schema::number(self.buf, spans[error::TIMESTAMP])?,
        }))
    }

    pub(crate) fn metadata(&self, span: Span) -> Result<Vec<(Value, Value)>, Fault> {
        let mut value = tnetstring::decode_span(self.buf, span, self.place.is_some())?;
        if self.place.is_some() {
            tnetstring::load_stored(&mut value, &mut |payload| self.stored_bytes(payload, span))?;
        }
        match value {
            Value::Map(entries) => Ok(entries),
            _ => Err(Fault::new(span, What::Expected("a dict"))),
        }
    }

    pub(crate) fn address(&self, span: Span) -> Result<Option<Address>, Fault> {
        if self.is_null(span) {
            return Ok(None);
        }
        let [host, port] = self.tuple(span)?;
        let mut items = schema::list(self.buf, span)?;
        items.next()?;
        items.next()?;
        let scope = match (items.next()?, items.next()?) {
            (Some(flow), Some(scope)) => Some((self.int(flow)?, self.int(scope)?)),
            _ => None,
        };
        Ok(Some(Address { host: self.host(host)?, port: self.int(port)?, scope }))
    }

    fn certificates(&self, span: Span) -> Result<Arc<[Cert]>, Fault> {
        let list = self.list(span, |item| Ok(certificate(self.bytes(item)?)))?;
        Ok(list.into())
    }

    fn transport(&self, span: Span) -> Result<Transport, Fault> {
        Ok(match self.text(span)? {
            "udp" => Transport::Udp,
            _ => Transport::Tcp,
        })
    }

    fn tls_version(&self, span: Span) -> Result<Option<TlsVersion>, Fault> {
        let Some(name) = self.opt_text(span)? else { return Ok(None) };
        let version = TlsVersion::from_name(name);
        version.map(Some).ok_or_else(|| Fault::new(span, What::Expected("a TLS version")))
    }

    fn client(&self, span: Span) -> Result<Client, Fault> {
        let spans: Spans<CLIENT_KEYS> = schema::scan(&schema::CLIENT, self.buf, span)?;
        Ok(Client {
            id: connection_id(self.text(spans[client::ID])?),
            peername: self.address(spans[client::PEERNAME])?,
            sockname: self.address(spans[client::SOCKNAME])?,
            transport: self.transport(spans[client::TRANSPORT_PROTOCOL])?,
            error: self.opt_arc(spans[client::ERROR])?,
            tls: schema::boolean(self.buf, spans[client::TLS])?,
            tls_facts: TlsFacts {
                certificate_list: self.certificates(spans[client::CERTIFICATE_LIST])?,
                alpn: self.opt_bytes(spans[client::ALPN])?,
                alpn_offers: self.list(spans[client::ALPN_OFFERS], |s| self.bytes(s))?.into(),
                cipher: self.opt_arc(spans[client::CIPHER])?,
                cipher_list: self
                    .list(spans[client::CIPHER_LIST], |s| self.text(s).map(Arc::from))?
                    .into(),
                version: self.tls_version(spans[client::TLS_VERSION])?,
                sni: self.opt_arc(spans[client::SNI])?,
                timestamp_setup: self.opt_number(spans[client::TIMESTAMP_TLS_SETUP])?,
            },
            timestamp_start: schema::number(self.buf, spans[client::TIMESTAMP_START])?,
            timestamp_end: self.opt_number(spans[client::TIMESTAMP_END])?,
            mitmcert: self.opt_bytes(spans[client::MITMCERT])?.map(certificate),
            proxy_mode: self.text(spans[client::PROXY_MODE])?.into(),
        })
    }

    fn server(&self, span: Span) -> Result<Server, Fault> {
        let spans: Spans<SERVER_KEYS> = schema::scan(&schema::SERVER, self.buf, span)?;
        Ok(Server {
            id: connection_id(self.text(spans[server::ID])?),
            address: self.address(spans[server::ADDRESS])?,
            peername: self.address(spans[server::PEERNAME])?,
            sockname: self.address(spans[server::SOCKNAME])?,
            transport: self.transport(spans[server::TRANSPORT_PROTOCOL])?,
            error: self.opt_arc(spans[server::ERROR])?,
            tls: schema::boolean(self.buf, spans[server::TLS])?,
            tls_facts: TlsFacts {
                certificate_list: self.certificates(spans[server::CERTIFICATE_LIST])?,
                alpn: self.opt_bytes(spans[server::ALPN])?,
                alpn_offers: self.list(spans[server::ALPN_OFFERS], |s| self.bytes(s))?.into(),
                cipher: self.opt_arc(spans[server::CIPHER])?,
                cipher_list: self
                    .list(spans[server::CIPHER_LIST], |s| self.text(s).map(Arc::from))?
                    .into(),
                version: self.tls_version(spans[server::TLS_VERSION])?,
                sni: self.opt_arc(spans[server::SNI])?,
                timestamp_setup: self.opt_number(spans[server::TIMESTAMP_TLS_SETUP])?,
            },
            timestamp_start: self.opt_number(spans[server::TIMESTAMP_START])?,
            timestamp_tcp_setup: self.opt_number(spans[server::TIMESTAMP_TCP_SETUP])?,
            timestamp_end: self.opt_number(spans[server::TIMESTAMP_END])?,
            via: if self.is_null(spans[server::VIA]) {
                None
            } else {
                let [scheme, address] = self.tuple(spans[server::VIA])?;
                let scheme = self.text(scheme)?.into();
                self.address(address)?.map(|address| Via { scheme, address })
            },
        })
    }
}

fn certificate(bytes: Bytes) -> Cert {
    Cert::from_pem(&bytes).unwrap_or_else(|_| Cert::from_der(bytes))
}

/// Reads the id of a connection. One that is not a UUID always becomes the same UUID within this process.
fn connection_id(text: &str) -> Uuid {
    Uuid::try_parse(text).unwrap_or_else(|_| uuid_of(text.as_bytes()))
}

/// Computes a UUID from data: the same for the same data within this process.
pub(crate) fn uuid_of(data: &[u8]) -> Uuid {
    static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
    let [low, high] = KEYS.get_or_init(|| [RandomState::new(), RandomState::new()]);
    let number = u128::from(low.hash_one(data)) | u128::from(high.hash_one(data)) << 64;
    uuid::Builder::from_random_bytes(number.to_be_bytes()).into_uuid()
}

/// Returns a host name as text; what is not ASCII is escaped.
pub(crate) fn idna_to_text(bytes: &[u8]) -> String {
    let text = escape_non_utf8(bytes);
    if text
        .split('.')
        .any(|label| label.len() >= 4 && label.as_bytes()[..4].eq_ignore_ascii_case(b"xn--"))
    {
        let (unicode, result) = idna::domain_to_unicode(&text);
        if result.is_ok() {
            return unicode;
        }
    }
    text
}

/// Decodes UTF-8; other bytes become `\xNN`.
pub(crate) fn escape_non_utf8(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_bytes_become_text() {
        for (bytes, text) in [
            (&b"example.com"[..], "example.com"),
            (b"xn--mnchen-3ya.de", "münchen.de"),
            (b"caf\xc3\xa9", "café"),
            (b"a\xffb", "a\\xffb"),
        ] {
            assert_eq!(idna_to_text(bytes), text);
        }
    }

    #[test]
    fn connection_ids_are_stable() {
        let id = "6f849605-227c-41eb-b926-b4e832843a0e";
        assert_eq!(connection_id(id).to_string(), id);
        assert_eq!(connection_id("x"), connection_id("x"));
        assert_ne!(connection_id("x"), connection_id("y"));
    }
}
