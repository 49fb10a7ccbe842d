//! The `ClientHello` of TLS (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2), as far as it can be read without a handshake.
//!
//! It is read before any TLS library sees a byte: to choose certificate, back end and ALPN, to show it to scripts,
//! and to find the name by which a connection is ignored. So the framing (records, handshake message, the
//! vectors of the hello) is checked, but the contents of extensions are not: one that can't be read counts as empty,
//! and the TLS library has the last word. DTLS and QUIC are not read here.

use bytes::Bytes;

use crate::http1::is_valid_host;

/// How large a hello may be. Post-quantum key shares take 2 KiB.
pub const MAX_HELLO_BYTES: usize = 64 * 1024;

/// Over how many records a hello may be spread.
pub const MAX_RECORDS: usize = 1024;

/// Numbers of extensions that have a meaning here.
pub mod extension {
    pub const SERVER_NAME: u16 = 0;
    pub const SUPPORTED_GROUPS: u16 = 10;
    pub const EC_POINT_FORMATS: u16 = 11;
    pub const SIGNATURE_ALGORITHMS: u16 = 13;
    pub const ALPN: u16 = 16;
    pub const SESSION_TICKET: u16 = 35;
    pub const PRE_SHARED_KEY: u16 = 41;
    pub const EARLY_DATA: u16 = 42;
    pub const SUPPORTED_VERSIONS: u16 = 43;
    pub const KEY_SHARE: u16 = 51;
}

/// What the first bytes of a stream look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    NotTls,
    /// All bytes so far fit, but there are fewer than three.
    NeedMore,
    /// A TLS record with a handshake message.
    Tls,
}

/// Tells whether a stream begins with a TLS handshake record.
pub fn sniff(buf: &[u8]) -> Sniff {
    match buf {
        [0x16, 0x03, 0x00..=0x03, ..] => Sniff::Tls,
        [] | [0x16] | [0x16, 0x03] => Sniff::NeedMore,
        _ => Sniff::NotTls,
    }
}

/// A `ClientHello`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The message without record and handshake headers.
    pub raw: Bytes,
    /// `legacy_version`: what is offered, unless [`supported_versions`](Self::supported_versions) says more.
    pub version: u16,
    pub random: [u8; 32],
    /// At most 32 bytes.
    pub session_id: Bytes,
    pub cipher_suites: Vec<u16>,
    pub compression_methods: Bytes,
    /// The server name, if there is exactly one entry, which is a valid host name.
    pub sni: Option<String>,
    /// The first entry of the type `host_name` as sent, valid or not.
    pub raw_sni: Option<Bytes>,
    pub alpn: Vec<Bytes>,
    /// All extensions in the order sent.
    pub extensions: Vec<(u16, Bytes)>,
    /// Empty before TLS 1.3.
    pub supported_versions: Vec<u16>,
    pub supported_groups: Vec<u16>,
    pub signature_schemes: Vec<u16>,
    /// The groups a key share was sent for.
    pub key_share_groups: Vec<u16>,
}

/// Why there is no `ClientHello`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    #[error("not a TLS handshake record: content type {content_type}, version {version:#06x}")]
    NotHandshake { content_type: u8, version: u16 },
    /// No handshake record is empty or longer than 2^14 bytes (RFC 8446 §5.1).
    #[error("TLS record of {len} bytes")]
    RecordLength { len: usize },
    #[error("handshake message of type {message_type} instead of a ClientHello")]
    NotClientHello { message_type: u8 },
    #[error("ClientHello of {len} bytes")]
    TooLong { len: usize },
    #[error("ClientHello spread over more than {limit} TLS records")]
    TooManyRecords { limit: usize },
    /// The named part doesn't fit into what is around it.
    #[error("malformed ClientHello: {part}")]
    Malformed { part: &'static str },
}

/// Reads the `ClientHello` at the start of a TLS stream. It may span records; `Ok(None)` if it isn't complete.
///
/// Until it is, a call looks at record headers only.
pub fn parse(buf: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    let mut rest = buf;
    let mut fragments: Vec<&[u8]> = Vec::new();
    let mut available = 0;
    let mut header = [0_u8; HANDSHAKE_HEADER];
    loop {
        if fragments.len() == MAX_RECORDS {
            return Err(HelloError::TooManyRecords { limit: MAX_RECORDS });
        }
        let Some((fragment, after)) = next_record(rest)? else { return Ok(None) };
        if let Some(open) = header.get_mut(available.min(HANDSHAKE_HEADER)..) {
            for (to, from) in open.iter_mut().zip(fragment) {
                *to = *from;
            }
        }
        available += fragment.len();
        fragments.push(fragment);
        let [message_type, len @ ..] = header;
        if message_type != CLIENT_HELLO {
            return Err(HelloError::NotClientHello { message_type });
        }
        if available >= HANDSHAKE_HEADER {
            let len = len.iter().fold(0, |len, &b| len << 8 | usize::from(b));
            if len > MAX_HELLO_BYTES {
                return Err(HelloError::TooLong { len });
            }
            if available >= HANDSHAKE_HEADER + len {
                let message = fragments.concat();
                let body = message.get(HANDSHAKE_HEADER..HANDSHAKE_HEADER + len);
                return ClientHello::from_body(Bytes::copy_from_slice(body.unwrap_or_default()))
                    .map(Some);
            }
        }
        // A record that isn't there completely ends the list, and is judged by its header alone.
        let Some(after) = after else { return Ok(None) };
        rest = after;
    }
}

impl ClientHello {
    /// Reads a hello without record and handshake headers.
    pub fn from_body(raw: Bytes) -> Result<Self, HelloError> {
        let mut reader = Reader { rest: &raw };
        let version = reader.u16().ok_or(malformed("version"))?;
        let random = reader.array().ok_or(malformed("random"))?;
        let session_id =
            reader.vec8().filter(|id| id.len() <= 32).ok_or(malformed("session id"))?;
        let cipher_suites = reader.vec16().and_then(numbers).ok_or(malformed("cipher suites"))?;
        let compression = reader.vec8().ok_or(malformed("compression methods"))?;
        let mut extensions = Vec::new();
        // TLS 1.0 and 1.1 know hellos without extensions.
        if !reader.rest.is_empty() {
            let block = reader.vec16().ok_or(malformed("extensions"))?;
            let mut block = Reader { rest: block };
            while !block.rest.is_empty() {
                let (number, content) =
                    block.u16().zip(block.vec16()).ok_or(malformed("extension"))?;
                extensions.push((number, raw.slice_ref(content)));
            }
        }
        if !reader.rest.is_empty() {
            return Err(malformed("bytes after the extensions"));
        }
        let mut hello = Self {
            version,
            random,
            session_id: raw.slice_ref(session_id),
            cipher_suites,
            compression_methods: raw.slice_ref(compression),
            sni: None,
            raw_sni: None,
            alpn: Vec::new(),
            extensions,
            supported_versions: Vec::new(),
            supported_groups: Vec::new(),
            signature_schemes: Vec::new(),
            key_share_groups: Vec::new(),
            raw,
        };
        hello.read_extensions();
        Ok(hello)
    }

    /// Returns the content of the first extension with this number.
    pub fn extension(&self, number: u16) -> Option<&Bytes> {
        self.extensions.iter().find(|(n, _)| *n == number).map(|(_, content)| content)
    }

    /// True if `version` (such as 0x0304) is among those offered.
    pub fn offers_version(&self, version: u16) -> bool {
        if self.extension(extension::SUPPORTED_VERSIONS).is_some() {
            self.supported_versions.contains(&version)
        } else {
            version <= self.version.min(0x0303)
        }
    }

    /// Returns the hello as a client would send it: handshake header, and records with the version TLS 1.2.
    pub fn to_records(&self) -> Vec<u8> {
        let len = u32::try_from(self.raw.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut message = vec![CLIENT_HELLO];
        message.extend_from_slice(len.get(1..).unwrap_or_default());
        message.extend_from_slice(&self.raw);
        let mut out = Vec::with_capacity(message.len() + RECORD_HEADER);
        for fragment in message.chunks(MAX_RECORD_BYTES) {
            out.extend_from_slice(&[HANDSHAKE, 3, 3]);
            out.extend_from_slice(&u16::try_from(fragment.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(fragment);
        }
        out
    }

    fn read_extensions(&mut self) {
        let of = |number| self.extension(number).cloned().unwrap_or_default();
        let (names, alpn) = (of(extension::SERVER_NAME), of(extension::ALPN));
        let list = |content: Bytes| {
            let mut reader = Reader { rest: &content };
            reader.vec16().and_then(numbers).unwrap_or_default()
        };
        let supported_groups = list(of(extension::SUPPORTED_GROUPS));
        let signature_schemes = list(of(extension::SIGNATURE_ALGORITHMS));
        let versions = of(extension::SUPPORTED_VERSIONS);
        let supported_versions =
            Reader { rest: &versions }.vec8().and_then(numbers).unwrap_or_default();
        let key_share_groups = key_share_groups(&of(extension::KEY_SHARE));
        (self.sni, self.raw_sni) = server_name(&names);
        self.alpn = protocols(&alpn).unwrap_or_default();
        self.supported_groups = supported_groups;
        self.signature_schemes = signature_schemes;
        self.supported_versions = supported_versions;
        self.key_share_groups = key_share_groups;
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const MAX_RECORD_BYTES: usize = 1 << 14;

type Record<'a> = (&'a [u8], Option<&'a [u8]>);

/// Splits the first record off: its content, as far as it is there, and what follows if it is complete. `None` if
/// not even a byte of the content is there.
fn next_record(buf: &[u8]) -> Result<Option<Record<'_>>, HelloError> {
    if sniff(buf) == Sniff::NotTls {
        let content_type = buf.first().copied().unwrap_or_default();
        let version = buf.get(1..3).and_then(|v| v.try_into().ok()).map_or(0, u16::from_be_bytes);
        return Err(HelloError::NotHandshake { content_type, version });
    }
    let Some((&[_, _, _, high, low], rest)) = buf.split_first_chunk::<RECORD_HEADER>() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if !(1..=MAX_RECORD_BYTES).contains(&len) {
        return Err(HelloError::RecordLength { len });
    }
    Ok(match rest.split_at_checked(len) {
        Some((content, after)) => Some((content, Some(after))),
        None if rest.is_empty() => None,
        None => Some((rest, None)),
    })
}

fn malformed(part: &'static str) -> HelloError {
    HelloError::Malformed { part }
}

/// Reads `server_name_list` (RFC 6066 §3): the name if it is the only entry and valid, and the first one as sent.
fn server_name(content: &Bytes) -> (Option<String>, Option<Bytes>) {
    let mut raw = None;
    let mut entries = 0;
    let mut whole = false;
    if let Some(list) = (Reader { rest: content }).vec16() {
        let mut list = Reader { rest: list };
        while let Some((name_type, name)) = list.u8().zip(list.vec16()) {
            entries += 1;
            if name_type == 0 && raw.is_none() {
                raw = Some(content.slice_ref(name));
            }
        }
        whole = list.rest.is_empty();
    }
    let sni = raw
        .as_deref()
        .filter(|name| whole && entries == 1 && is_valid_host(name))
        .and_then(|name| std::str::from_utf8(name).ok())
        .map(str::to_owned);
    (sni, raw)
}

/// Reads `ProtocolNameList` (RFC 7301 §3.1); `None` if it is malformed.
fn protocols(content: &Bytes) -> Option<Vec<Bytes>> {
    let mut list = Reader { rest: Reader { rest: content }.vec16()? };
    let mut protocols = Vec::new();
    while !list.rest.is_empty() {
        protocols.push(content.slice_ref(list.vec8()?));
    }
    Some(protocols)
}

fn key_share_groups(content: &[u8]) -> Vec<u16> {
    let mut list = Reader { rest: Reader { rest: content }.vec16().unwrap_or_default() };
    std::iter::from_fn(|| list.u16().zip(list.vec16()).map(|(group, _)| group)).collect()
}

fn numbers(bytes: &[u8]) -> Option<Vec<u16>> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
}

/// Takes numbers and vectors off the front of a slice, and never more than there is.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A vector with a length of one byte.
    fn vec8(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// A vector with a length of two bytes.
    fn vec16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}
