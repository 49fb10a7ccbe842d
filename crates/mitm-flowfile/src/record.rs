//! [`RawRecord`]: one flow of a flow file, as bytes.
//!
//! When a record is read, one pass over its outermost dict and those of its request and response notes where each
//! value is; values are jumped over by their length and nothing is allocated. That is enough to answer single
//! questions ([`Facts`]): most flows that a filter refuses are never decoded. A record is always of the current version;
//! those of older ones were migrated when they were read.
//!
//! [`RawRecord::check`] looks at the rest. It must be passed before a flow is made or the record is copied to
//! another file; the methods of [`Facts`] can do without, what is not valid is simply absent for them.

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use mitm_flow::{
    Address, Body, Facts, FlowKind, FlowRef, FlowSnapshot, Headers, Replay, Value, dns::DnsMessage,
    facts::MessageFacts, flow::LazyState,
};

use crate::{
    decode::{self, Decoder},
    fault::{Fault, ReadError, ReadErrorKind, What, shortened},
    large::Place,
    migrate::Migrator,
    schema::{self, Kind, REQUEST_KEYS, RESPONSE_KEYS, Spans, TOP, request, response, top},
    tnetstring::{self, Items, Span},
};

/// The version of flow files that is written, and read without migration.
pub const CURRENT_VERSION: i64 = 21;

/// The version a record was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FormatVersion {
    /// Up to 3.0: the first two numbers of the mitmproxy release.
    Release(i64, i64),
    Number(i64),
}

impl fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release(major, minor) => write!(f, "({major}, {minor})"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// A flow as it stands in a file of the current version. Clones share the bytes.
#[derive(Clone)]
pub struct RawRecord {
    bytes: Bytes,
    /// The dict within `bytes`.
    span: Span,
    offset: u64,
    origin: FormatVersion,
    kind: FlowKind,
    /// Where the record is in a file, if `bytes` is only its skeleton; see [`crate::large`].
    place: Option<Arc<Place>>,
    top: Spans<TOP>,
    request: Spans<REQUEST_KEYS>,
    response: Spans<RESPONSE_KEYS>,
}

impl RawRecord {
    /// Scans a record, migrating it if it is of an older version.
    pub(crate) fn new(
        bytes: Bytes,
        offset: u64,
        place: Option<Arc<Place>>,
        migrator: &mut Migrator,
    ) -> Result<Self, ReadError> {
        let span = tnetstring::element(&bytes, 0)
            .map_err(|error| ReadError::new(offset, ReadErrorKind::Framing(error.problem)))?;
        Self::within(bytes, span, offset, place, migrator)
    }

    /// Scans the record that is the element `span` of `bytes`.
    pub(crate) fn within(
        bytes: Bytes,
        span: Span,
        offset: u64,
        place: Option<Arc<Place>>,
        migrator: &mut Migrator,
    ) -> Result<Self, ReadError> {
        if span.tag(&bytes) != b'}' {
            return Err(ReadError::new(offset, ReadErrorKind::NotADict));
        }
        let found = schema::find::<TOP>(&schema::HTTP, &bytes, span);
        if let Ok(found) = &found
            && found[top::VERSION].of(&bytes) == b"21"
        {
            let origin = FormatVersion::Number(CURRENT_VERSION);
            return Self::current(bytes, span, offset, origin, place, *found);
        }
        let version = version(&bytes, span)
            .map_err(|fault| ReadError::state(offset, &fault))?
            .ok_or_else(|| ReadError::new(offset, ReadErrorKind::NoVersion))?;
        if version == FormatVersion::Number(CURRENT_VERSION) {
            let found = found.map_err(|fault| ReadError::state(offset, &fault))?;
            return Self::current(bytes, span, offset, version, place, found);
        }
        let bytes = migrator.migrate(&bytes, span, version, offset)?;
        let span = tnetstring::element(&bytes, 0)
            .map_err(|error| ReadError::state(offset, &error.into()))?;
        let found = schema::find::<TOP>(&schema::HTTP, &bytes, span)
            .map_err(|fault| ReadError::state(offset, &fault))?;
        Self::current(bytes, span, offset, version, place, found)
    }

    fn current(
        bytes: Bytes,
        span: Span,
        offset: u64,
        origin: FormatVersion,
        place: Option<Arc<Place>>,
        top: Spans<TOP>,
    ) -> Result<Self, ReadError> {
        let kind = match top[top::TYPE].of(&bytes) {
            b"http" => FlowKind::Http,
            b"tcp" => FlowKind::Tcp,
            b"udp" => FlowKind::Udp,
            b"dns" => FlowKind::Dns,
            _ if top[top::TYPE].is_absent() => {
                let fault = Fault::new(span, What::Missing("type"));
                return Err(ReadError::state(offset, &fault));
            }
            other => {
                return Err(ReadError::new(offset, ReadErrorKind::Type(shortened(other))));
            }
        };
        let mut record = Self {
            bytes,
            span,
            offset,
            origin,
            kind,
            place,
            top,
            request: [Span::ABSENT; REQUEST_KEYS],
            response: [Span::ABSENT; RESPONSE_KEYS],
        };
        record.scan_messages().map_err(|fault| ReadError::state(offset, &fault))?;
        Ok(record)
    }

    fn scan_messages(&mut self) -> Result<(), Fault> {
        for (index, field) in schema::HTTP.fields.iter().enumerate() {
            let wanted = match (index, self.kind) {
                (top::BACKUP, _) => continue,
                (top::REQUEST | top::RESPONSE, FlowKind::Http | FlowKind::Dns)
                | (top::WEBSOCKET, FlowKind::Http)
                | (top::MESSAGES, FlowKind::Tcp | FlowKind::Udp) => true,
                (top::REQUEST | top::RESPONSE | top::WEBSOCKET | top::MESSAGES, _) => false,
                _ => true,
            };
            match self.top.get(index) {
                Some(value) if wanted && value.is_absent() => {
                    return Err(Fault::new(self.span, What::Missing(field.name)));
                }
                Some(value) if !wanted && !value.is_absent() => {
                    return Err(Fault::new(self.span, What::unknown(field.name.as_bytes())));
                }
                _ => {}
            }
        }
        if self.kind == FlowKind::Http {
            self.request = schema::scan(&schema::REQUEST, &self.bytes, self.top[top::REQUEST])
                .map_err(|fault| fault.within("request"))?;
            if self.top[top::RESPONSE].tag(&self.bytes) != b'~' {
                self.response =
                    schema::scan(&schema::RESPONSE, &self.bytes, self.top[top::RESPONSE])
                        .map_err(|fault| fault.within("response"))?;
            }
        }
        Ok(())
    }

    /// Returns where in the input the record begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the version the record had in the file.
    pub fn version(&self) -> FormatVersion {
        self.origin
    }

    /// Returns the flow's id, empty if it is not valid text.
    pub fn id(&self) -> &str {
        self.text(self.top[top::ID]).unwrap_or_default()
    }

    /// Returns the record as it is written to a file of the current version, or `None` if it is so large that
    /// only parts of it are in memory.
    pub fn bytes(&self) -> Option<&Bytes> {
        if self.place.is_none() { Some(&self.bytes) } else { None }
    }

    pub(crate) fn place(&self) -> Option<&Arc<Place>> {
        self.place.as_ref()
    }

    /// Returns the place of a large record of the current version in its file.
    pub(crate) fn verbatim_place(&self) -> Option<&Arc<Place>> {
        self.place.as_ref().filter(|_| self.origin == FormatVersion::Number(CURRENT_VERSION))
    }

    /// Checks everything that the first look passed over: all keys and types, bodies excepted.
    ///
    /// # Errors
    /// The first value that is not as the format wants it.
    pub fn check(&self) -> Result<(), ReadError> {
        self.check_all().map_err(|fault| ReadError::state(self.offset, &fault))
    }

    fn check_all(&self) -> Result<(), Fault> {
        let stored = self.place.is_some();
        for ((index, field), value) in schema::HTTP.fields.iter().enumerate().zip(&self.top) {
            if value.is_absent() {
                continue;
            }
            let kind = match (index, self.kind) {
                (top::REQUEST, FlowKind::Dns) => Kind::Dict(&schema::DNS_MESSAGE),
                (top::RESPONSE, FlowKind::Dns) => Kind::OptDict(&schema::DNS_MESSAGE),
                _ => field.kind,
            };
            schema::check(kind, &self.bytes, *value, stored)
                .map_err(|fault| fault.within(field.name))?;
        }
        Ok(())
    }

    /// Decodes the record.
    ///
    /// # Errors
    /// The first value that is not as the format wants it.
    pub fn snapshot(&self) -> Result<FlowSnapshot, ReadError> {
        self.check()?;
        decode::snapshot(self).map_err(|fault| ReadError::state(self.offset, &fault))
    }

    /// Makes a flow. It is decoded when somebody looks at it and until then written back as it is.
    ///
    /// # Errors
    /// The record is not valid: see [`check`](Self::check).
    pub fn into_flow(mut self) -> Result<FlowRef, ReadError> {
        if self.place.is_some() {
            return Ok(FlowRef::from_snapshot(self.snapshot()?));
        }
        self.check()?;
        // A record is a part of the reader's buffer, which would live as long as the flow.
        self.bytes = Bytes::copy_from_slice(&self.bytes);
        Ok(FlowRef::lazy(Box::new(Lazy(self))))
    }

    pub(crate) fn decoder(&self) -> Decoder<'_> {
        Decoder::new(&self.bytes, self.place.as_deref())
    }

    pub(crate) fn flow_kind(&self) -> FlowKind {
        self.kind
    }

    pub(crate) fn top(&self) -> &Spans<TOP> {
        &self.top
    }

    pub(crate) fn request_spans(&self) -> &Spans<REQUEST_KEYS> {
        &self.request
    }

    pub(crate) fn response_spans(&self) -> &Spans<RESPONSE_KEYS> {
        &self.response
    }

    fn text(&self, span: Span) -> Option<&str> {
        schema::text(&self.bytes, span).ok()
    }

    fn is_set(&self, index: usize) -> bool {
        self.top.get(index).is_some_and(|span| span.tag(&self.bytes) != b'~')
    }

    /// Returns the host and port of a list.
    fn address(&self, span: Span) -> Option<Address> {
        self.decoder().address(span).ok()?
    }
}

impl fmt::Debug for RawRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawRecord({} at {})", self.kind.as_str(), self.offset)
    }
}

/// Returns the version that a record of any version has, `None` if it has none.
fn version(buf: &[u8], span: Span) -> Result<Option<FormatVersion>, Fault> {
    let mut items = Items::new(buf, span);
    let mut version = None;
    while let (Some(key), Some(value)) = (items.next()?, items.next()?) {
        if key.of(buf) == b"version" && matches!(key.tag(buf), b';' | b',') {
            version = Some(value);
        }
    }
    let Some(version) = version else { return Ok(None) };
    if version.tag(buf) == b']' {
        let mut numbers = Items::new(buf, version);
        let mut number = || match numbers.next()? {
            Some(number) => schema::any_int(buf, number),
            None => Err(Fault::new(version, What::Expected("a version"))),
        };
        return Ok(Some(FormatVersion::Release(number()?, number()?)));
    }
    schema::any_int(buf, version)
        .map(|number| Some(FormatVersion::Number(number)))
        .map_err(|fault| fault.within("version"))
}

struct Lazy(RawRecord);

impl LazyState for Lazy {
    fn load(&self) -> FlowSnapshot {
        // What `check` accepts can be decoded (a property test holds it to that).
        decode::snapshot(&self.0).unwrap_or_else(|fault| decode::broken(self.0.id(), &fault))
    }

    fn record(&self) -> &[u8] {
        &self.0.bytes
    }

    fn facts(&self) -> Option<&dyn Facts> {
        Some(&self.0)
    }

    fn record_bytes(&self) -> Bytes {
        self.0.bytes.clone()
    }
}

impl Facts for RawRecord {
    fn kind(&self) -> FlowKind {
        self.kind
    }

    fn method(&self) -> Option<Cow<'_, [u8]>> {
        let method = self.request[request::METHOD];
        (method.tag(&self.bytes) == b',').then(|| Cow::Borrowed(method.of(&self.bytes)))
    }

    fn host(&self) -> Option<Cow<'_, str>> {
        let host = self.request[request::HOST];
        match self.text(host) {
            Some(text) => Some(Cow::Borrowed(text)),
            None => Some(Cow::Owned(self.decoder().host(host).ok()?.to_string())),
        }
    }

    fn pretty_host(&self) -> Option<Cow<'_, str>> {
        let request = self.decoder().request_line(&self.request).ok()?;
        Some(Cow::Owned(request.pretty_host().into_owned()))
    }

    fn pretty_url(&self) -> Option<Cow<'_, str>> {
        let request = self.decoder().request_line(&self.request).ok()?;
        Some(Cow::Owned(request.pretty_url()))
    }

    fn request_headers(&self) -> Option<Headers> {
        self.decoder().headers(self.request[request::HEADERS]).ok()
    }

    fn request_body(&self) -> Option<Body> {
        self.decoder().body(self.request[request::CONTENT]).ok()
    }

    fn has_response(&self) -> bool {
        self.is_set(top::RESPONSE)
    }

    fn status_code(&self) -> Option<i64> {
        schema::any_int(&self.bytes, self.response[response::STATUS_CODE]).ok()
    }

    fn response_headers(&self) -> Option<Headers> {
        self.decoder().headers(self.response[response::HEADERS]).ok()
    }

    fn response_body(&self) -> Option<Body> {
        self.decoder().body(self.response[response::CONTENT]).ok()
    }

    fn is_websocket(&self) -> bool {
        self.is_set(top::WEBSOCKET)
    }

    fn messages(&self) -> Vec<MessageFacts> {
        self.decoder().message_facts(self.kind, &self.top).unwrap_or_default()
    }

    fn dns_request(&self) -> Option<DnsMessage> {
        if self.kind != FlowKind::Dns {
            return None;
        }
        self.decoder().dns_message(self.top[top::REQUEST]).ok()
    }

    fn dns_response(&self) -> Option<DnsMessage> {
        if self.kind != FlowKind::Dns || !self.is_set(top::RESPONSE) {
            return None;
        }
        self.decoder().dns_message(self.top[top::RESPONSE]).ok()
    }

    fn has_error(&self) -> bool {
        self.is_set(top::ERROR)
    }

    fn marked(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.text(self.top[top::MARKED]).unwrap_or_default())
    }

    fn comment(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.text(self.top[top::COMMENT]).unwrap_or_default())
    }

    fn metadata(&self) -> Vec<(Value, Value)> {
        self.decoder().metadata(self.top[top::METADATA]).unwrap_or_default()
    }

    fn replay(&self) -> Option<Replay> {
        match self.text(self.top[top::IS_REPLAY])? {
            "request" => Some(Replay::Request),
            "response" => Some(Replay::Response),
            _ => None,
        }
    }

    fn client_address(&self) -> Option<String> {
        let connection = self.top[top::CLIENT_CONN];
        let spans: Spans<{ schema::CLIENT_KEYS }> =
            schema::find(&schema::CLIENT, &self.bytes, connection).ok()?;
        let address = self.address(spans[schema::client::PEERNAME])?;
        Some(format!("{}:{}", address.host, address.port))
    }

    fn server_address(&self) -> Option<String> {
        let connection = self.top[top::SERVER_CONN];
        let spans: Spans<{ schema::SERVER_KEYS }> =
            schema::find(&schema::SERVER, &self.bytes, connection).ok()?;
        let address = self.address(spans[schema::server::ADDRESS])?;
        Some(format!("{}:{}", address.host, address.port))
    }
}
