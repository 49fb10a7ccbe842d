//! The shape of a flow in format version 21, as tables, and the two walks over them.
//!
//! [`scan`] finds the values of one dict, [`check`] checks a value with everything in it. Both are strict:
//! a missing or unknown key and a value of another type are errors that name the key. Keys are listed in the
//! order in which writers leave them in the file, so that each is normally found at the first guess.
//!
//! What [`check`] accepts, [`crate::decode`] can decode: a flow is checked when it is read and decoded only
//! when somebody looks at it. Bodies are skipped by their length.

use crate::{
    fault::{Fault, What},
    tnetstring::{self, Items, Problem, STORED, Span},
};

/// The type of a value.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Text,
    OptText,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    OptOneOf(&'static [&'static str]),
    /// Text, or bytes in IDNA.
    Host,
    Bytes,
    OptBytes,
    /// From 0 up to this.
    Int(i64),
    OptAnyInt,
    Version,
    Number,
    OptNumber,
    Bool,
    OptBool,
    Fields,
    OptFields,
    ListOfBytes,
    ListOfText,
    OptAddress,
    OptVia,
    Dict(&'static Schema),
    OptDict(&'static Schema),
    ListOf(&'static Schema),
    WebSocketMessages,
    StreamMessages,
    /// A dict with any keys and values.
    AnyDict,
    /// Nothing is asked of it: see [`crate::decode`] on backups.
    Anything,
}

impl Kind {
    /// True if null will do.
    pub(crate) fn is_optional(self) -> bool {
        matches!(
            self,
            Self::OptText
                | Self::OptOneOf(_)
                | Self::OptBytes
                | Self::OptAnyInt
                | Self::OptNumber
                | Self::OptBool
                | Self::OptFields
                | Self::OptAddress
                | Self::OptVia
                | Self::OptDict(_)
        )
    }
}

/// One key of a dict: as it stands in the file, and what its value is.
pub(crate) struct Field {
    key: Key,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// The keys of a dict.
pub(crate) struct Schema {
    pub(crate) fields: &'static [Field],
}

/// A key with its length and tag, in three words: comparing keys is most of what a scan does.
struct Key {
    words: [u64; 3],
    masks: [u64; 3],
    encoded: &'static [u8],
}

impl Key {
    /// The longest key there may be.
    const MAX: usize = 24;

    const fn new(encoded: &'static str) -> Self {
        let encoded = encoded.as_bytes();
        assert!(encoded.len() <= Self::MAX);
        let (mut words, mut masks) = ([0; 3], [0; 3]);
        let mut i = 0;
        while i < encoded.len() {
            words[i / 8] |= (encoded[i] as u64) << (i % 8 * 8);
            masks[i / 8] |= 0xff << (i % 8 * 8);
            i += 1;
        }
        Self { words, masks, encoded }
    }

    /// True if the key stands at `at`.
    #[expect(clippy::inline_always, reason = "runs for each key of each record")]
    #[inline(always)]
    fn is_at(&self, buf: &[u8], at: usize) -> bool {
        let rest = buf.get(at..).unwrap_or_default();
        let Some(bytes) = rest.first_chunk::<{ Self::MAX }>() else {
            return rest.starts_with(self.encoded);
        };
        let ([a, b, c], _) = bytes.as_chunks::<8>() else {
            return false;
        };
        let differs = |i: usize, chunk: &[u8; 8]| {
            (u64::from_le_bytes(*chunk) ^ self.words[i]) & self.masks[i]
        };
        differs(0, a) | differs(1, b) | differs(2, c) == 0
    }
}

macro_rules! schema {
    ($schema:ident, $keys:ident, $count:ident, [$($constant:ident $encoded:literal $kind:expr;)*]) => {
        /// Positions in the table.
        pub(crate) mod $keys {
            #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "it only counts")]
            enum Position { $($constant,)* }
            $(pub(crate) const $constant: usize = Position::$constant as usize;)*
        }
        pub(crate) const $count: usize = [$($encoded,)*].len();
        pub(crate) static $schema: Schema = Schema {
            fields: &[$(Field {
                key: Key::new($encoded),
                name: key_name($encoded),
                kind: $kind,
            },)*],
        };
    };
}

/// Returns what is between `LENGTH:` and the tag.
const fn key_name(encoded: &'static str) -> &'static str {
    let mut rest = encoded;
    while let Some((_, after)) = rest.split_at_checked(1) {
        let at_colon = rest.as_bytes()[0] == b':';
        rest = after;
        if at_colon {
            break;
        }
    }
    match rest.split_at_checked(rest.len().saturating_sub(1)) {
        Some((name, _)) => name,
        None => rest,
    }
}

pub(crate) const TLS_VERSIONS: &[&str] = &[
    "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3", "DTLSv0.9", "DTLSv1", "DTLSv1.2", "QUICv1",
];
pub(crate) const TRANSPORTS: &[&str] = &["tcp", "udp"];
pub(crate) const REPLAYS: &[&str] = &["request", "response"];

const PORT: Kind = Kind::Int(0xffff);

schema!(HTTP, top, TOP, [
    MESSAGES "8:messages;" Kind::StreamMessages;
    WEBSOCKET "9:websocket;" Kind::OptDict(&WEBSOCKET);
    RESPONSE "8:response;" Kind::OptDict(&RESPONSE);
    REQUEST "7:request;" Kind::Dict(&REQUEST);
    BACKUP "6:backup;" Kind::Anything;
    TIMESTAMP_CREATED "17:timestamp_created;" Kind::Number;
    COMMENT "7:comment;" Kind::Text;
    METADATA "8:metadata;" Kind::AnyDict;
    MARKED "6:marked;" Kind::Text;
    IS_REPLAY "9:is_replay;" Kind::OptOneOf(REPLAYS);
    INTERCEPTED "11:intercepted;" Kind::Bool;
    SERVER_CONN "11:server_conn;" Kind::Dict(&SERVER);
    CLIENT_CONN "11:client_conn;" Kind::Dict(&CLIENT);
    ERROR "5:error;" Kind::OptDict(&ERROR);
    ID "2:id;" Kind::Text;
    TYPE "4:type;" Kind::Text;
    VERSION "7:version;" Kind::Version;
]);

schema!(CLIENT, client, CLIENT_KEYS, [
    PROXY_MODE "10:proxy_mode;" Kind::Text;
    MITMCERT "8:mitmcert;" Kind::OptBytes;
    TIMESTAMP_TLS_SETUP "19:timestamp_tls_setup;" Kind::OptNumber;
    TIMESTAMP_END "13:timestamp_end;" Kind::OptNumber;
    TIMESTAMP_START "15:timestamp_start;" Kind::Number;
    SNI "3:sni;" Kind::OptText;
    TLS_VERSION "11:tls_version;" Kind::OptOneOf(TLS_VERSIONS);
    CIPHER_LIST "11:cipher_list;" Kind::ListOfText;
    CIPHER "6:cipher;" Kind::OptText;
    ALPN_OFFERS "11:alpn_offers;" Kind::ListOfBytes;
    ALPN "4:alpn;" Kind::OptBytes;
    CERTIFICATE_LIST "16:certificate_list;" Kind::ListOfBytes;
    TLS "3:tls;" Kind::Bool;
    ERROR "5:error;" Kind::OptText;
    TRANSPORT_PROTOCOL "18:transport_protocol;" Kind::OneOf(TRANSPORTS);
    ID "2:id;" Kind::Text;
    SOCKNAME "8:sockname;" Kind::OptAddress;
    PEERNAME "8:peername;" Kind::OptAddress;
]);

schema!(SERVER, server, SERVER_KEYS, [
    VIA "3:via;" Kind::OptVia;
    TIMESTAMP_TCP_SETUP "19:timestamp_tcp_setup;" Kind::OptNumber;
    ADDRESS "7:address;" Kind::OptAddress;
    TIMESTAMP_TLS_SETUP "19:timestamp_tls_setup;" Kind::OptNumber;
    TIMESTAMP_END "13:timestamp_end;" Kind::OptNumber;
    TIMESTAMP_START "15:timestamp_start;" Kind::OptNumber;
    SNI "3:sni;" Kind::OptText;
    TLS_VERSION "11:tls_version;" Kind::OptOneOf(TLS_VERSIONS);
    CIPHER_LIST "11:cipher_list;" Kind::ListOfText;
    CIPHER "6:cipher;" Kind::OptText;
    ALPN_OFFERS "11:alpn_offers;" Kind::ListOfBytes;
    ALPN "4:alpn;" Kind::OptBytes;
    CERTIFICATE_LIST "16:certificate_list;" Kind::ListOfBytes;
    TLS "3:tls;" Kind::Bool;
    ERROR "5:error;" Kind::OptText;
    TRANSPORT_PROTOCOL "18:transport_protocol;" Kind::OneOf(TRANSPORTS);
    ID "2:id;" Kind::Text;
    SOCKNAME "8:sockname;" Kind::OptAddress;
    PEERNAME "8:peername;" Kind::OptAddress;
]);

// mitmproxy asks no type of HTTP messages; a start that is null occurs in files it wrote.
schema!(REQUEST, request, REQUEST_KEYS, [
    PATH "4:path;" Kind::Bytes;
    AUTHORITY "9:authority;" Kind::Bytes;
    SCHEME "6:scheme;" Kind::Bytes;
    METHOD "6:method;" Kind::Bytes;
    PORT "4:port;" PORT;
    HOST "4:host;" Kind::Host;
    TIMESTAMP_END "13:timestamp_end;" Kind::OptNumber;
    TIMESTAMP_START "15:timestamp_start;" Kind::OptNumber;
    TRAILERS "8:trailers;" Kind::OptFields;
    CONTENT "7:content;" Kind::OptBytes;
    HEADERS "7:headers;" Kind::Fields;
    HTTP_VERSION "12:http_version;" Kind::Bytes;
]);

schema!(RESPONSE, response, RESPONSE_KEYS, [
    REASON "6:reason;" Kind::Bytes;
    STATUS_CODE "11:status_code;" Kind::Int(0xffff);
    TIMESTAMP_END "13:timestamp_end;" Kind::OptNumber;
    TIMESTAMP_START "15:timestamp_start;" Kind::OptNumber;
    TRAILERS "8:trailers;" Kind::OptFields;
    CONTENT "7:content;" Kind::OptBytes;
    HEADERS "7:headers;" Kind::Fields;
    HTTP_VERSION "12:http_version;" Kind::Bytes;
]);

schema!(WEBSOCKET, websocket, WEBSOCKET_KEYS, [
    TIMESTAMP_END "13:timestamp_end;" Kind::OptNumber;
    CLOSE_REASON "12:close_reason;" Kind::OptText;
    CLOSE_CODE "10:close_code;" Kind::OptAnyInt;
    CLOSED_BY_CLIENT "16:closed_by_client;" Kind::OptBool;
    MESSAGES "8:messages;" Kind::WebSocketMessages;
]);

schema!(ERROR, error, ERROR_KEYS, [
    TIMESTAMP "9:timestamp;" Kind::Number;
    MSG "3:msg;" Kind::Text;
]);

schema!(DNS_MESSAGE, dns, DNS_KEYS, [
    ADDITIONALS "11:additionals;" Kind::ListOf(&RECORD);
    AUTHORITIES "11:authorities;" Kind::ListOf(&RECORD);
    ANSWERS "7:answers;" Kind::ListOf(&RECORD);
    QUESTIONS "9:questions;" Kind::ListOf(&QUESTION);
    RESPONSE_CODE "13:response_code;" Kind::Int(0xff);
    RESERVED "8:reserved;" Kind::Int(0xff);
    RECURSION_AVAILABLE "19:recursion_available;" Kind::Bool;
    RECURSION_DESIRED "17:recursion_desired;" Kind::Bool;
    TRUNCATION "10:truncation;" Kind::Bool;
    AUTHORITATIVE_ANSWER "20:authoritative_answer;" Kind::Bool;
    OP_CODE "7:op_code;" Kind::Int(0xff);
    QUERY "5:query;" Kind::Bool;
    ID "2:id;" Kind::Int(0xffff);
    TIMESTAMP "9:timestamp;" Kind::OptNumber;
]);

schema!(QUESTION, question, QUESTION_KEYS, [
    CLASS "6:class_;" Kind::Int(0xffff);
    TYPE "4:type;" Kind::Int(0xffff);
    NAME "4:name;" Kind::Text;
]);

schema!(RECORD, record, RECORD_KEYS, [
    DATA "4:data;" Kind::Bytes;
    TTL "3:ttl;" Kind::Int(0xffff_ffff);
    CLASS "6:class_;" Kind::Int(0xffff);
    TYPE "4:type;" Kind::Int(0xffff);
    NAME "4:name;" Kind::Text;
]);

/// Where the values of a dict with `N` keys are.
pub(crate) type Spans<const N: usize> = [Span; N];

/// Finds the values of the dict `span`, which must be of the type `schema`.
pub(crate) fn scan<const N: usize>(
    schema: &'static Schema,
    buf: &[u8],
    span: Span,
) -> Result<Spans<N>, Fault> {
    let spans = find(schema, buf, span)?;
    for (field, value) in schema.fields.iter().zip(&spans) {
        if value.is_absent() {
            return Err(Fault::new(span, What::Missing(field.name)));
        }
    }
    Ok(spans)
}

/// Finds those values of a dict that are there.
pub(crate) fn find<const N: usize>(
    schema: &'static Schema,
    buf: &[u8],
    span: Span,
) -> Result<Spans<N>, Fault> {
    let mut spans = [Span::ABSENT; N];
    walk(schema, buf, span, |index, value| {
        if let Some(slot) = spans.get_mut(index) {
            *slot = value;
        }
        Ok(())
    })?;
    Ok(spans)
}

/// Calls `found` with the position of each key and its value.
#[inline]
fn walk(
    schema: &'static Schema,
    buf: &[u8],
    span: Span,
    mut found: impl FnMut(usize, Span) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if span.tag(buf) != b'}' {
        return Err(Fault::new(span, What::Expected("a dict")));
    }
    let inside = buf.get(..span.end as usize).unwrap_or_default();
    let mut at = span.start as usize;
    let mut guess = 0;
    while at < inside.len() {
        let is_at =
            |index: usize| schema.fields.get(index).is_some_and(|f| f.key.is_at(inside, at));
        let index = if is_at(guess) {
            guess
        } else if is_at(guess + 1) {
            guess + 1
        } else {
            position(schema, inside, at, guess)?
        };
        at += schema.fields.get(index).map_or(0, |field| field.key.encoded.len());
        let value = tnetstring::element(inside, at)?;
        at = value.next();
        guess = index + 1;
        found(index, value)?;
    }
    Ok(())
}

/// Returns the position of a key that is not the expected one.
#[cold]
fn position(schema: &'static Schema, buf: &[u8], at: usize, guess: usize) -> Result<usize, Fault> {
    let (before, after) = schema.fields.split_at_checked(guess).unwrap_or((schema.fields, &[]));
    let is = |field: &Field| field.key.is_at(buf, at);
    if let Some(index) = after.iter().position(is) {
        return Ok(guess + index);
    }
    if let Some(index) = before.iter().position(is) {
        return Ok(index);
    }
    let key = tnetstring::element(buf, at)?;
    Err(Fault::new(key, What::unknown(key.of(buf))))
}

/// Checks a value and everything in it. `stored` says whether strings may be left in the file.
pub(crate) fn check(kind: Kind, buf: &[u8], span: Span, stored: bool) -> Result<(), Fault> {
    let tag = span.tag(buf);
    if tag == b'~' && kind.is_optional() {
        return null(buf, span);
    }
    let expected = |what| Err(Fault::new(span, What::Expected(what)));
    let is_bytes = tag == b',' || (tag == STORED && stored);
    match kind {
        Kind::Host | Kind::Bytes | Kind::OptBytes if is_bytes => Ok(()),
        Kind::Bytes | Kind::OptBytes => expected("bytes"),
        Kind::Text | Kind::OptText | Kind::Host => text(buf, span).map(drop),
        Kind::OneOf(choices) | Kind::OptOneOf(choices) => {
            let text = text(buf, span)?;
            if choices.contains(&text) {
                return Ok(());
            }
            Err(Fault::new(span, What::NoChoice { found: text.into(), choices }))
        }
        Kind::Int(max) => int(buf, span, max).map(drop),
        Kind::OptAnyInt | Kind::Version => any_int(buf, span).map(drop),
        Kind::Number | Kind::OptNumber => check_number(buf, span),
        Kind::Bool | Kind::OptBool => boolean(buf, span).map(drop),
        Kind::Fields | Kind::OptFields => check_fields(buf, span, stored),
        Kind::ListOfBytes => each(buf, span, |item| check(Kind::Bytes, buf, item, stored)),
        Kind::ListOfText => each(buf, span, |item| text(buf, item).map(drop)),
        Kind::OptAddress => check_address(buf, span),
        Kind::OptVia => {
            let mut items = list(buf, span)?;
            let (Some(scheme), Some(address), None) = (items.next()?, items.next()?, items.next()?)
            else {
                return expected("a scheme and an address");
            };
            text(buf, scheme)?;
            check_address(buf, address)
        }
        Kind::Dict(schema) | Kind::OptDict(schema) => check_dict(schema, buf, span, stored),
        Kind::ListOf(schema) => each(buf, span, |item| check_dict(schema, buf, item, stored)),
        Kind::WebSocketMessages => each(buf, span, |item| tuple(buf, item, WS_MESSAGE, stored)),
        Kind::StreamMessages => each(buf, span, |item| tuple(buf, item, MESSAGE, stored)),
        Kind::AnyDict if tag == b'}' => Ok(tnetstring::check_any(buf, span, stored, 0)?),
        Kind::AnyDict => expected("a dict"),
        Kind::Anything => Ok(()),
    }
}

/// Opcode, `from_client`, content, timestamp, dropped, injected. Opcodes are those of RFC 6455.
const WS_MESSAGE: &[Kind] =
    &[Kind::Int(10), Kind::Bool, Kind::Bytes, Kind::Number, Kind::Bool, Kind::Bool];
/// `from_client`, content, timestamp.
const MESSAGE: &[Kind] = &[Kind::Bool, Kind::Bytes, Kind::Number];

/// Checks a dict: all keys, no others, the right types.
pub(crate) fn check_dict(
    schema: &'static Schema,
    buf: &[u8],
    span: Span,
    stored: bool,
) -> Result<(), Fault> {
    let mut seen = 0u32;
    walk(schema, buf, span, |index, value| {
        seen |= 1 << index;
        let Some(field) = schema.fields.get(index) else { return Ok(()) };
        check(field.kind, buf, value, stored).map_err(|fault| fault.within(field.name))
    })?;
    if seen.count_ones() as usize == schema.fields.len() {
        return Ok(());
    }
    let missing = schema.fields.iter().enumerate().find(|(i, _)| seen & (1 << i) == 0);
    match missing {
        Some((_, field)) => Err(Fault::new(span, What::Missing(field.name))),
        None => Ok(()),
    }
}

fn tuple(buf: &[u8], span: Span, kinds: &[Kind], stored: bool) -> Result<(), Fault> {
    let mut items = list(buf, span)?;
    for kind in kinds {
        let Some(item) = items.next()? else {
            return Err(Fault::new(span, What::Expected("a message of more elements")));
        };
        check(*kind, buf, item, stored)?;
    }
    if items.next()?.is_some() {
        return Err(Fault::new(span, What::Expected("a message of fewer elements")));
    }
    Ok(())
}

fn each(
    buf: &[u8],
    span: Span,
    mut check: impl FnMut(Span) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut items = list(buf, span)?;
    while let Some(item) = items.next()? {
        check(item)?;
    }
    Ok(())
}

/// Returns the elements of a list.
pub(crate) fn list(buf: &[u8], span: Span) -> Result<Items<'_>, Fault> {
    if span.tag(buf) == b']' {
        Ok(Items::new(buf, span))
    } else {
        Err(Fault::new(span, What::Expected("a list")))
    }
}

fn null(buf: &[u8], span: Span) -> Result<(), Fault> {
    if span.of(buf).is_empty() { Ok(()) } else { Err(Fault::new(span, Problem::Null.into())) }
}

pub(crate) fn text(buf: &[u8], span: Span) -> Result<&str, Fault> {
    if span.tag(buf) != b';' {
        return Err(Fault::new(span, What::Expected("text")));
    }
    std::str::from_utf8(span.of(buf)).map_err(|_| Fault::new(span, Problem::Text.into()))
}

pub(crate) fn boolean(buf: &[u8], span: Span) -> Result<bool, Fault> {
    if span.tag(buf) != b'!' {
        return Err(Fault::new(span, What::Expected("a boolean")));
    }
    tnetstring::parse_bool(span.of(buf)).map_err(|problem| Fault::new(span, problem.into()))
}

pub(crate) fn any_int(buf: &[u8], span: Span) -> Result<i64, Fault> {
    if span.tag(buf) != b'#' {
        return Err(Fault::new(span, What::Expected("an integer")));
    }
    match tnetstring::parse_int(span.of(buf)) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(Fault::new(span, What::Expected("an integer of at most 64 bits"))),
        Err(problem) => Err(Fault::new(span, problem.into())),
    }
}

pub(crate) fn int(buf: &[u8], span: Span, max: i64) -> Result<i64, Fault> {
    let value = any_int(buf, span)?;
    if (0..=max).contains(&value) {
        Ok(value)
    } else {
        Err(Fault::new(span, What::Range { found: value, max }))
    }
}

/// Reads a timestamp, which Python code may have stored as an integer.
pub(crate) fn number(buf: &[u8], span: Span) -> Result<f64, Fault> {
    let payload = span.of(buf);
    match span.tag(buf) {
        b'^' => {
            tnetstring::parse_float(payload).map_err(|problem| Fault::new(span, problem.into()))
        }
        b'#' => {
            tnetstring::parse_int(payload).map_err(|problem| Fault::new(span, problem.into()))?;
            // A valid integer is a valid float.
            tnetstring::parse_float(payload).map_err(|problem| Fault::new(span, problem.into()))
        }
        _ => Err(Fault::new(span, What::Expected("a number"))),
    }
}

fn check_number(buf: &[u8], span: Span) -> Result<(), Fault> {
    // Digits, a dot, digits: no need to compute the value.
    let payload = span.of(buf);
    let mut dots = 0;
    let mut plain = payload.len() > 1;
    for &byte in payload {
        dots += usize::from(byte == b'.');
        plain &= byte.is_ascii_digit() || byte == b'.';
    }
    if span.tag(buf) == b'^' && plain && dots == 1 {
        return Ok(());
    }
    number(buf, span).map(drop)
}

/// Checks a list of pairs of byte strings: half of all values of a flow.
fn check_fields(buf: &[u8], span: Span, stored: bool) -> Result<(), Fault> {
    let is_bytes = |tag: u8| tag == b',' || (tag == STORED && stored);
    let mut fields = list(buf, span)?;
    while let Some(field) = fields.next()? {
        let inside = buf.get(..field.end as usize).unwrap_or_default();
        let name = tnetstring::element(inside, field.start as usize)?;
        let value = tnetstring::element(inside, name.next())?;
        let pair = field.tag(buf) == b']' && value.next() == inside.len();
        if !(pair && is_bytes(name.tag(buf)) && is_bytes(value.tag(buf))) {
            return Err(Fault::new(field, What::Expected("a name and a value, both bytes")));
        }
    }
    Ok(())
}

fn check_address(buf: &[u8], span: Span) -> Result<(), Fault> {
    let mut items = list(buf, span)?;
    let (Some(host), Some(port)) = (items.next()?, items.next()?) else {
        return Err(Fault::new(span, What::Expected("a host and a port")));
    };
    check(Kind::Host, buf, host, false)?;
    int(buf, port, 0xffff)?;
    for _ in 0..2 {
        if let Some(number) = items.next()? {
            int(buf, number, 0xffff_ffff)?;
        }
    }
    if items.next()?.is_some() {
        return Err(Fault::new(span, What::Expected("at most four elements")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_right() {
        let schemas = [&HTTP, &CLIENT, &SERVER, &REQUEST, &RESPONSE, &WEBSOCKET, &ERROR];
        for schema in schemas.into_iter().chain([&DNS_MESSAGE, &QUESTION, &RECORD]) {
            assert!(schema.fields.len() < 32);
            for field in schema.fields {
                let mut encoded = format!("{}:{};", field.name.len(), field.name).into_bytes();
                assert!(field.key.is_at(&encoded, 0));
                encoded.resize(2 * Key::MAX, b'x');
                assert!(field.key.is_at(&encoded, 0));
                encoded[3] ^= 1;
                assert!(!field.key.is_at(&encoded, 0));
            }
        }
    }
}
