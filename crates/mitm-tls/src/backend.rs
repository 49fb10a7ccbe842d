//! [`backend_for`]: which TLS library can answer a client.
//!
//! Decided from the bytes of the hello before any library has seen them, since a handshake cannot be
//! handed over once begun. The rules repeat what rustls does with a hello: which version it picks, and
//! whether that leaves a suite, a group and a signature scheme.

use std::collections::HashSet;

use bytes::Bytes;
use rustls::{CipherSuite, SignatureScheme, SupportedProtocolVersion, version};
use rustls_pki_types::ServerName;

use crate::{
    options::{Profile, TlsOptions},
    store::KeyKind,
};

const P256: u16 = 0x0017;
const ECDSA_SCHEMES: [SignatureScheme; 1] = [SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA_SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// Who answers a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// rustls, with a leaf of this kind.
    Rustls(KeyKind),
    /// Nobody.
    Unsupported(Unsupported),
}

/// What makes it impossible to answer a client, naming the option that is behind it, if one is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

/// A client's hello, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct HelloFacts<'a> {
    /// The version of the message itself, 0x0303 since TLS 1.2.
    pub version: u16,
    pub cipher_suites: &'a [u16],
    pub compression_methods: &'a [u8],
    /// All of them, in the order sent.
    pub extensions: &'a [(u16, Bytes)],
}

/// Tells which library can answer a hello, and which kind of key it needs.
pub fn backend_for(hello: &HelloFacts<'_>, options: &TlsOptions) -> Backend {
    match options.profile().and_then(|profile| rustls_key(hello, options, &profile)) {
        Ok(key) => Backend::Rustls(key),
        Err(reason) => Backend::Unsupported(Unsupported(reason)),
    }
}

/// Walks the rules of rustls. Returns the kind of leaf it would succeed with.
fn rustls_key(
    hello: &HelloFacts<'_>,
    options: &TlsOptions,
    profile: &Profile,
) -> Result<KeyKind, String> {
    let offers = Offers::read(hello)?;
    if !hello.compression_methods.contains(&0) {
        return Err("the client insists on compression".into());
    }
    let tls13 = tls13(hello, &offers, options, profile)?;
    let Some(schemes) = &offers.signature_schemes else {
        return Err("the client names no signature algorithms".into());
    };
    if tls13 {
        if hello.compression_methods.len() != 1 {
            return Err("the client offers compression with TLS 1.3".into());
        }
        if !offers.key_shares {
            return Err("the client offers TLS 1.3 without a key share".into());
        }
    } else if offers.point_formats.is_some_and(|formats| !formats.contains(&0)) {
        return Err("the client takes compressed points only".into());
    }
    let groups = offers.groups.as_deref().unwrap_or_default();
    let version = if tls13 { &version::TLS13 } else { &version::TLS12 };
    let common_group = profile.provider.kx_groups.iter().any(|group| {
        group.usable_for_version(version.version) && groups.contains(&u16::from(group.name()))
    });
    if !common_group {
        return Err(match profile.group {
            Some(group) => {
                format!("the client does not offer the group of tls_ecdh_curve_client, {group:?}")
            }
            None => "the client and the proxy have no key exchange group in common".into(),
        });
    }
    let mut suite_found = false;
    for kind in [KeyKind::Ecdsa, KeyKind::Rsa] {
        if !has_suite(hello, profile, tls13, kind) {
            continue;
        }
        suite_found = true;
        let possible: &[SignatureScheme] = match kind {
            KeyKind::Ecdsa => &ECDSA_SCHEMES,
            KeyKind::Rsa => &RSA_SCHEMES,
        };
        let usable = possible.iter().filter(|scheme| !tls13 || !is_pkcs1(**scheme));
        let scheme = usable.map(|scheme| u16::from(*scheme)).any(|code| schemes.contains(&code));
        // Before TLS 1.3 the groups also say which curves a certificate may be on (RFC 8422 §5.1.1).
        let curve = tls13 || kind == KeyKind::Rsa || groups.contains(&P256);
        if scheme && curve {
            return Ok(kind);
        }
    }
    Err(if suite_found {
        "the client and the proxy have no signature algorithm in common".into()
    } else {
        "the client and the proxy have no cipher in common (see ciphers_client)".into()
    })
}

/// Decides between TLS 1.3 and 1.2.
fn tls13(
    hello: &HelloFacts<'_>,
    offers: &Offers<'_>,
    options: &TlsOptions,
    profile: &Profile,
) -> Result<bool, String> {
    let enabled = |wanted: &SupportedProtocolVersion| profile.versions.contains(&wanted);
    let (offers_tls13, offers_tls12) = match &offers.versions {
        Some(versions) => (versions.contains(&0x0304), versions.contains(&0x0303)),
        None => (false, hello.version >= 0x0303),
    };
    if offers_tls13 && enabled(&version::TLS13) {
        Ok(true)
    } else if offers_tls12 && enabled(&version::TLS12) {
        Ok(false)
    } else {
        Err(format!(
            "the client and the proxy have no TLS version in common (tls_version_client_min {}, \
             tls_version_client_max {})",
            options.min, options.max
        ))
    }
}

/// The extensions that decide, read as strictly as rustls reads them.
#[derive(Debug, Default)]
struct Offers<'a> {
    versions: Option<Vec<u16>>,
    groups: Option<Vec<u16>>,
    signature_schemes: Option<Vec<u16>>,
    point_formats: Option<&'a [u8]>,
    key_shares: bool,
}

impl<'a> Offers<'a> {
    fn read(hello: &HelloFacts<'a>) -> Result<Self, String> {
        let mut offers = Self::default();
        let mut seen = HashSet::new();
        for (kind, body) in hello.extensions {
            if !seen.insert(*kind) {
                return Err(format!("the client sends extension {kind} twice"));
            }
            offers.read_extension(*kind, body)?;
        }
        Ok(offers)
    }

    fn read_extension(&mut self, kind: u16, body: &'a [u8]) -> Result<(), String> {
        let malformed = || format!("the client sends a malformed extension {kind}");
        match kind {
            extension::SERVER_NAME => check_server_name(body)?,
            extension::SUPPORTED_GROUPS => {
                self.groups =
                    Some(numbers(list16(body).ok_or_else(malformed)?).ok_or_else(malformed)?);
            }
            extension::EC_POINT_FORMATS => {
                self.point_formats = Some(list8(body).ok_or_else(malformed)?);
            }
            extension::SIGNATURE_ALGORITHMS => {
                let schemes = numbers(list16(body).ok_or_else(malformed)?).ok_or_else(malformed)?;
                self.signature_schemes = Some(schemes);
            }
            extension::SUPPORTED_VERSIONS => {
                self.versions =
                    Some(numbers(list8(body).ok_or_else(malformed)?).ok_or_else(malformed)?);
            }
            extension::KEY_SHARE => self.key_shares = true,
            _ => {}
        }
        Ok(())
    }
}

/// One host name is fine, and so is an address, which rustls passes over.
fn check_server_name(body: &[u8]) -> Result<(), String> {
    let names = list16(body).unwrap_or_default();
    let name = match names.split_first() {
        Some((0, rest)) => list16(rest),
        _ => None,
    };
    let Some(name) = name else {
        return Err("the client asks for something other than one server name".into());
    };
    match ServerName::try_from(name) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "the client asks for '{}', which is no server name",
            name.escape_ascii().take(255).map(char::from).collect::<String>()
        )),
    }
}

/// The content of a list that fills `body`, its length in front.
fn list16(body: &[u8]) -> Option<&[u8]> {
    let (length, list) = body.split_first_chunk::<2>()?;
    (usize::from(u16::from_be_bytes(*length)) == list.len()).then_some(list)
}

fn list8(body: &[u8]) -> Option<&[u8]> {
    let (length, list) = body.split_first()?;
    (usize::from(*length) == list.len()).then_some(list)
}

fn numbers(list: &[u8]) -> Option<Vec<u16>> {
    let (pairs, rest) = list.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
}

/// Whether there is a suite both sides have that goes with a kind of key.
fn has_suite(hello: &HelloFacts<'_>, profile: &Profile, tls13: bool, kind: KeyKind) -> bool {
    let algorithm = match kind {
        KeyKind::Ecdsa => rustls::SignatureAlgorithm::ECDSA,
        KeyKind::Rsa => rustls::SignatureAlgorithm::RSA,
    };
    profile.provider.cipher_suites.iter().any(|suite| {
        suite.tls13().is_some() == tls13
            && suite.usable_for_signature_algorithm(algorithm)
            && hello.cipher_suites.iter().any(|offer| CipherSuite::from(*offer) == suite.suite())
    })
}

fn is_pkcs1(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const SUPPORTED_GROUPS: u16 = 10;
    pub(super) const EC_POINT_FORMATS: u16 = 11;
    pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
    pub(super) const KEY_SHARE: u16 = 51;
}
