//! [`ClientHello`]: what a client offers, read before any TLS library has consumed a byte.
//!
//! Parses RFC 8446 §4.1.2 out of TLS records, tolerantly: the question here is what the client said,
//! not whether it should have. Hellos over 64 KiB, or cut into more than a thousand records, are
//! refused.

use std::sync::Arc;

use bytes::Bytes;

use crate::names::is_valid_host;

const MAX_HELLO: usize = 64 << 10;
const MAX_RECORDS: usize = 1024;

const RECORD_HANDSHAKE: u8 = 0x16;
const CLIENT_HELLO: u8 = 0x01;

mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const SUPPORTED_GROUPS: u16 = 10;
    pub(super) const EC_POINT_FORMATS: u16 = 11;
    pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(super) const ALPN: u16 = 16;
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
    pub(super) const KEY_SHARE: u16 = 51;
}

/// Why bytes are no `ClientHello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    #[error("not a TLS handshake record")]
    NotTls,
    #[error("the first handshake message is not a ClientHello")]
    NotHello,
    #[error("the ClientHello is malformed")]
    Malformed,
    #[error("the ClientHello is too large")]
    TooLarge,
}

/// What the `server_name` extension holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerNameOffer {
    Absent,
    /// Exactly one host name, and a valid one (or an IP address, which some clients send).
    Host(Arc<str>),
    /// Something else: several names, a name with a port, …
    Invalid,
}

/// A parsed `ClientHello`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The handshake message from its type byte on, without record headers.
    raw: Bytes,
    /// Version of the message itself; 0x0303 since TLS 1.2.
    pub legacy_version: u16,
    pub cipher_suites: Vec<u16>,
    pub compression_methods: Vec<u8>,
    /// In the order sent.
    pub extensions: Vec<(u16, Bytes)>,
    pub server_name: ServerNameOffer,
    pub alpn_protocols: Vec<Bytes>,
    /// `None` where the extension is missing.
    pub supported_versions: Option<Vec<u16>>,
    pub supported_groups: Option<Vec<u16>>,
    pub signature_schemes: Option<Vec<u16>>,
    pub(crate) point_formats: Option<Vec<u8>>,
    pub(crate) has_key_shares: bool,
}

impl ClientHello {
    /// Reads the records at the start of `bytes`. `Ok(None)` means that more bytes are needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, HelloError> {
        let Some(message) = first_message(bytes)? else { return Ok(None) };
        Self::parse_message(message).map(Some)
    }

    /// Reads a handshake message without record headers.
    pub fn parse_message(message: Bytes) -> Result<Self, HelloError> {
        let mut reader = Reader(&message);
        if reader.u8() != Some(CLIENT_HELLO) {
            return Err(HelloError::NotHello);
        }
        parse_body(&message).ok_or(HelloError::Malformed)
    }

    /// The handshake message; with a record header in front if `wrapped`, as it came on the wire.
    pub fn raw_bytes(&self, wrapped: bool) -> Bytes {
        if !wrapped {
            return self.raw.clone();
        }
        let mut bytes = Vec::with_capacity(self.raw.len() + 5);
        bytes.extend_from_slice(&[RECORD_HANDSHAKE, 3, 3]);
        bytes.extend_from_slice(&u16::try_from(self.raw.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(&self.raw);
        bytes.into()
    }

    /// The name the client asks for; `None` too if the extension is invalid.
    pub fn sni(&self) -> Option<&Arc<str>> {
        match &self.server_name {
            ServerNameOffer::Host(name) => Some(name),
            ServerNameOffer::Absent | ServerNameOffer::Invalid => None,
        }
    }

    /// Whether the client offers TLS 1.3.
    pub fn offers_tls13(&self) -> bool {
        self.supported_versions.as_ref().is_some_and(|versions| versions.contains(&0x0304))
    }

    /// Whether the client offers TLS 1.2.
    pub fn offers_tls12(&self) -> bool {
        match &self.supported_versions {
            Some(versions) => versions.contains(&0x0303),
            None => self.legacy_version >= 0x0303,
        }
    }
}

/// Tells whether bytes begin like a TLS record with a handshake message, of SSL 3.0 to TLS 1.3.
/// `None`: so far yes, but three bytes are needed.
pub fn starts_like_tls_record(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [] | [RECORD_HANDSHAKE] | [RECORD_HANDSHAKE, 3] => None,
        [RECORD_HANDSHAKE, 3, minor, ..] => Some(*minor <= 3),
        _ => Some(false),
    }
}

/// Joins the fragments of the first handshake message.
fn first_message(bytes: &[u8]) -> Result<Option<Bytes>, HelloError> {
    let mut reader = Reader(bytes);
    let mut message = Vec::new();
    for _ in 0..MAX_RECORDS {
        if starts_like_tls_record(reader.0) == Some(false) {
            return Err(HelloError::NotTls);
        }
        let Some(fragment) = reader.record() else { return Ok(None) };
        if fragment.is_empty() {
            return Err(HelloError::Malformed);
        }
        message.extend_from_slice(fragment);
        match *message.as_slice() {
            [kind, ..] if kind != CLIENT_HELLO => return Err(HelloError::NotHello),
            [_, a, b, c, ..] => {
                let length = u32::from_be_bytes([0, a, b, c]) as usize + 4;
                if length > MAX_HELLO {
                    return Err(HelloError::TooLarge);
                }
                if message.len() >= length {
                    message.truncate(length);
                    return Ok(Some(message.into()));
                }
            }
            _ => {}
        }
    }
    Err(HelloError::TooLarge)
}

fn parse_body(message: &Bytes) -> Option<ClientHello> {
    let mut reader = Reader(message.get(4..)?);
    let legacy_version = reader.u16()?;
    reader.take(32)?;
    reader.list8()?;
    let cipher_suites = Reader(reader.list16()?).u16s()?;
    let compression_methods = reader.list8()?.to_vec();
    let mut hello = ClientHello {
        raw: message.clone(),
        legacy_version,
        cipher_suites,
        compression_methods,
        extensions: Vec::new(),
        server_name: ServerNameOffer::Absent,
        alpn_protocols: Vec::new(),
        supported_versions: None,
        supported_groups: None,
        signature_schemes: None,
        point_formats: None,
        has_key_shares: false,
    };
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.list16()?);
    if !reader.0.is_empty() {
        return None;
    }
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.list16()?;
        hello.extensions.push((kind, message.slice_ref(body)));
        hello.read_extension(kind, body, message)?;
    }
    Some(hello)
}

impl ClientHello {
    fn read_extension(&mut self, kind: u16, body: &[u8], message: &Bytes) -> Option<()> {
        let mut reader = Reader(body);
        match kind {
            extension::SERVER_NAME => self.server_name = server_name(body),
            extension::ALPN => {
                let mut protocols = Reader(reader.list16()?);
                while !protocols.0.is_empty() {
                    self.alpn_protocols.push(message.slice_ref(protocols.list8()?));
                }
            }
            extension::SUPPORTED_VERSIONS => {
                self.supported_versions = Some(Reader(reader.list8()?).u16s()?);
            }
            extension::SUPPORTED_GROUPS => {
                self.supported_groups = Some(Reader(reader.list16()?).u16s()?);
            }
            extension::SIGNATURE_ALGORITHMS => {
                self.signature_schemes = Some(Reader(reader.list16()?).u16s()?);
            }
            extension::EC_POINT_FORMATS => self.point_formats = Some(reader.list8()?.to_vec()),
            extension::KEY_SHARE => self.has_key_shares = true,
            _ => {}
        }
        Some(())
    }
}

fn server_name(body: &[u8]) -> ServerNameOffer {
    let read = || {
        let mut reader = Reader(body);
        let mut names = Reader(reader.list16()?);
        let kind = names.u8()?;
        let name = std::str::from_utf8(names.list16()?).ok()?;
        (kind == 0 && names.0.is_empty() && is_valid_host(name)).then_some(name)
    };
    read().map_or(ServerNameOffer::Invalid, |name| ServerNameOffer::Host(name.into()))
}

/// Takes values off the front of bytes; `None` at their end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn list8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn list16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }

    fn u16s(mut self) -> Option<Vec<u16>> {
        let mut values = Vec::with_capacity(self.0.len() / 2);
        while !self.0.is_empty() {
            values.push(self.u16()?);
        }
        Some(values)
    }

    fn record(&mut self) -> Option<&'a [u8]> {
        let header = self.take(3)?;
        debug_assert!(header.len() == 3);
        self.list16()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A hello with these extensions, as one record.
    pub(crate) fn hello(
        version: u16,
        suites: &[u16],
        compression: &[u8],
        extensions: &[(u16, Vec<u8>)],
    ) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0);
        body.extend(list16(
            &suites.iter().flat_map(|suite| suite.to_be_bytes()).collect::<Vec<_>>(),
        ));
        body.push(compression.len() as u8);
        body.extend(compression);
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, body)| [kind.to_be_bytes().to_vec(), list16(body)].concat())
            .collect();
        body.extend(list16(&extensions));
        let mut message = vec![1, 0];
        message.extend(list16(&body));
        [vec![0x16, 3, 1], list16(&message)].concat()
    }

    pub(crate) fn list16(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u16).to_be_bytes(), body].concat()
    }

    pub(crate) fn sni(name: &str) -> (u16, Vec<u8>) {
        (0, list16(&[&[0][..], &list16(name.as_bytes())].concat()))
    }

    #[test]
    fn a_hello_is_read_once_it_is_whole() {
        let alpn = (16, list16(b"\x02h2\x08http/1.1"));
        let bytes =
            hello(0x0303, &[0x1301, 0xc02f], &[0], &[sni("a.example"), alpn, (43, vec![2, 3, 4])]);
        for cut in 0..bytes.len() {
            assert_eq!(ClientHello::parse(&bytes[..cut]), Ok(None), "{cut}");
        }
        let parsed = ClientHello::parse(&bytes).unwrap().unwrap();
        assert_eq!(parsed.sni().map(|name| &**name), Some("a.example"));
        assert_eq!(parsed.alpn_protocols, ["h2", "http/1.1"].map(Bytes::from));
        assert_eq!(parsed.cipher_suites, [0x1301, 0xc02f]);
        assert!(parsed.offers_tls13() && !parsed.offers_tls12());
        assert_eq!(parsed.extensions.len(), 3);
        assert_eq!(&parsed.raw_bytes(true)[5..], &bytes[5..]);
    }

    #[test]
    fn fragments_are_joined() {
        let bytes = hello(0x0303, &[0x1301], &[0], &[sni("a.example")]);
        let fragmented: Vec<u8> = bytes[5..]
            .chunks(3)
            .flat_map(|part| [vec![0x16, 3, 3], list16(part)].concat())
            .collect();
        let parsed = ClientHello::parse(&fragmented).unwrap().unwrap();
        assert_eq!(parsed.raw_bytes(false), bytes[5..]);
        let tiny: Vec<u8> = [0x16, 3, 3, 0, 1, 1].repeat(1);
        assert_eq!(ClientHello::parse(&tiny), Ok(None));
    }

    #[test]
    fn other_things_are_told_apart() {
        for (bytes, error) in [
            (&b"GET / HTTP/1.1\r\n"[..], HelloError::NotTls),
            (&[0x16, 3, 9, 0, 1, 1][..], HelloError::NotTls),
            (&[0x16, 3, 3, 0, 4, 2, 0, 0, 0][..], HelloError::NotHello),
            (&[0x16, 3, 3, 0, 4, 1, 0xff, 0, 0][..], HelloError::TooLarge),
            (&[0x16, 3, 3, 0, 0][..], HelloError::Malformed),
            (&[0x16, 3, 3, 0, 5, 1, 0, 0, 1, 0][..], HelloError::Malformed),
        ] {
            assert_eq!(ClientHello::parse(bytes), Err(error), "{bytes:x?}");
        }
        assert_eq!(starts_like_tls_record(b"\x16\x03"), None);
        assert_eq!(starts_like_tls_record(b"\x16\x03\x01"), Some(true));
        assert_eq!(starts_like_tls_record(b"G"), Some(false));
    }

    #[test]
    fn odd_server_names_are_invalid() {
        for name in ["host:80", "", "a b"] {
            let bytes = hello(0x0303, &[0x1301], &[0], &[sni(name)]);
            let parsed = ClientHello::parse(&bytes).unwrap().unwrap();
            assert_eq!(parsed.server_name, ServerNameOffer::Invalid, "{name}");
            assert_eq!(parsed.sni(), None);
        }
        let two = [&[0][..], &list16(b"a.example"), &[0], &list16(b"b.example")].concat();
        let bytes = hello(0x0303, &[0x1301], &[0], &[(0, list16(&two))]);
        let parsed = ClientHello::parse(&bytes).unwrap().unwrap();
        assert_eq!(parsed.server_name, ServerNameOffer::Invalid);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(ClientHello::parse(&bytes));
            drop(ClientHello::parse_message([&[1, 0, 1, 44], bytes.as_slice()].concat().into()));
        }
    }
}
