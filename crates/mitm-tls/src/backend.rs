//! [`backend_for`]: which TLS library can answer a client.
//!
//! Decided from the bytes of the hello before any library has seen them, since a handshake cannot be
//! handed over once begun. The rules repeat what the libraries do with a hello: which version they pick,
//! and whether that leaves a suite, a group and a signature scheme. What OpenSSL has of these it is asked
//! ([`Offer`]), and only for clients that rustls cannot serve.

use std::collections::HashSet;

use bytes::Bytes;
use rustls::{CipherSuite, SignatureScheme, SupportedProtocolVersion, version};
use rustls_pki_types::ServerName;

use crate::{
    options::{Profile, TlsOptions, VersionLimit},
    ossl::{self, Auth, Exchange, Offer, Suite},
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
    /// OpenSSL, with a leaf of this kind.
    Openssl(KeyKind),
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
    let offers = match Offers::read(hello) {
        Ok(offers) => offers,
        Err(reason) => return Backend::Unsupported(Unsupported(reason)),
    };
    let key = options.profile().and_then(|profile| rustls_key(hello, &offers, options, &profile));
    if let Ok(key) = key {
        return Backend::Rustls(key);
    }
    // What OpenSSL misses, rustls misses too.
    match openssl_key(hello, &offers, options) {
        Ok(key) => Backend::Openssl(key),
        Err(reason) => Backend::Unsupported(Unsupported(reason)),
    }
}

/// Walks the rules of rustls. Returns the kind of leaf it would succeed with.
fn rustls_key(
    hello: &HelloFacts<'_>,
    offers: &Offers<'_>,
    options: &TlsOptions,
    profile: &Profile,
) -> Result<KeyKind, String> {
    if let Some(name) = &offers.odd_name {
        return Err(format!("the client asks for '{name}', which is no server name"));
    }
    if !hello.compression_methods.contains(&0) {
        return Err(COMPRESSION.into());
    }
    let tls13 = tls13(hello, offers, options, profile)?;
    let Some(schemes) = &offers.signature_schemes else {
        return Err("the client names no signature algorithms".into());
    };
    if tls13 {
        check_tls13(hello, offers)?;
    } else if offers.point_formats.is_some_and(|formats| !formats.contains(&0)) {
        return Err("the client takes compressed points only".into());
    }
    let groups = offers.groups.as_deref().unwrap_or_default();
    let version = if tls13 { &version::TLS13 } else { &version::TLS12 };
    let common_group = profile.provider.kx_groups.iter().any(|group| {
        group.usable_for_version(version.version) && groups.contains(&u16::from(group.name()))
    });
    if !common_group {
        return Err(no_group(options));
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
    Err(if suite_found { NO_SIGNATURE.into() } else { no_cipher() })
}

const COMPRESSION: &str = "the client insists on compression";
const NO_SIGNATURE: &str = "the client and the proxy have no signature algorithm in common (SHA-1 is \
    admitted by @SECLEVEL=0 in ciphers_client)";

fn no_cipher() -> String {
    "the client and the proxy have no cipher in common (ciphers_client names them; weak ones need \
     @SECLEVEL=0 in it)"
        .into()
}

fn no_group(options: &TlsOptions) -> String {
    match options.curve() {
        Some(curve) => {
            format!("the client does not offer the curve of tls_ecdh_curve_client, {curve}")
        }
        None => "the client and the proxy have no key exchange group in common".into(),
    }
}

fn no_version(options: &TlsOptions) -> String {
    format!(
        "the client and the proxy have no TLS version in common (tls_version_client_min {}, \
         tls_version_client_max {})",
        options.min, options.max
    )
}

/// What TLS 1.3 forbids.
fn check_tls13(hello: &HelloFacts<'_>, offers: &Offers<'_>) -> Result<(), String> {
    if hello.compression_methods.len() != 1 {
        return Err("the client offers compression with TLS 1.3".into());
    }
    if !offers.key_shares {
        return Err("the client offers TLS 1.3 without a key share".into());
    }
    Ok(())
}

/// Walks the rules of OpenSSL. Returns the kind of leaf it would succeed with.
fn openssl_key(
    hello: &HelloFacts<'_>,
    offers: &Offers<'_>,
    options: &TlsOptions,
) -> Result<KeyKind, String> {
    if let Some(name) = offers.odd_name.as_ref().filter(|_| offers.impossible_name) {
        return Err(format!("the client asks for '{name}', which is no server name"));
    }
    if !hello.compression_methods.contains(&0) {
        return Err(COMPRESSION.into());
    }
    let version = openssl_version(hello, offers, options)?;
    let offer = ossl::offer(options)?;
    let tls13 = version == VersionLimit::Tls1_3;
    if tls13 {
        check_tls13(hello, offers)?;
        if offers.signature_schemes.is_none() {
            return Err("the client names no signature algorithms".into());
        }
    }
    let common = Common { offers, offer: &offer, version };
    let suites: Vec<&Suite> = offer
        .suites
        .iter()
        .filter(|suite| {
            suite.since <= version
                && (suite.since == VersionLimit::Tls1_3) == tls13
                && hello.cipher_suites.contains(&suite.number)
        })
        .collect();
    if suites.is_empty() {
        return Err(no_cipher());
    }
    let suites: Vec<&Suite> =
        suites.into_iter().filter(|suite| common.has_group(suite.exchange)).collect();
    if suites.is_empty() {
        return Err(no_group(options));
    }
    // What is old knows RSA best.
    let kinds = if version < VersionLimit::Tls1_2 {
        [KeyKind::Rsa, KeyKind::Ecdsa]
    } else {
        [KeyKind::Ecdsa, KeyKind::Rsa]
    };
    kinds.into_iter().find(|kind| common.serves(&suites, *kind)).ok_or_else(|| NO_SIGNATURE.into())
}

/// The highest version that both sides have.
fn openssl_version(
    hello: &HelloFacts<'_>,
    offers: &Offers<'_>,
    options: &TlsOptions,
) -> Result<VersionLimit, String> {
    const VERSIONS: [(VersionLimit, u16); 5] = [
        (VersionLimit::Tls1_3, 0x0304),
        (VersionLimit::Tls1_2, 0x0303),
        (VersionLimit::Tls1_1, 0x0302),
        (VersionLimit::Tls1, 0x0301),
        (VersionLimit::Ssl3, 0x0300),
    ];
    let offered = |limit, number| match &offers.versions {
        Some(versions) => versions.contains(&number),
        None => limit != VersionLimit::Tls1_3 && number <= hello.version,
    };
    let mut possible = VERSIONS.iter().filter(|(limit, _)| options.allows(*limit));
    let found = possible.find(|(limit, number)| offered(*limit, *number));
    found.map(|(limit, _)| *limit).ok_or_else(|| no_version(options))
}

/// What there is to choose from once the version is settled.
struct Common<'a> {
    offers: &'a Offers<'a>,
    offer: &'a Offer,
    version: VersionLimit,
}

impl Common<'_> {
    fn has_group(&self, exchange: Exchange) -> bool {
        let possible = |group: u16| match self.version {
            // Without the curves that ended with TLS 1.2.
            VersionLimit::Tls1_3 => group >= P256 && !matches!(group, 26..=28),
            // Curves only, and not under their numbers for TLS 1.3.
            _ => group < 256 && !matches!(group, 31..=33),
        };
        if matches!(exchange, Exchange::Rsa | Exchange::Dhe) {
            return true;
        }
        match &self.offers.groups {
            Some(groups) => {
                groups.iter().any(|group| possible(*group) && self.offer.groups.contains(group))
            }
            None => false,
        }
    }

    /// Whether a leaf of this kind leads anywhere.
    fn serves(&self, suites: &[&Suite], kind: KeyKind) -> bool {
        let fits = suites.iter().any(|suite| match suite.auth {
            Auth::Any => true,
            Auth::Rsa => kind == KeyKind::Rsa,
            Auth::Ecdsa => kind == KeyKind::Ecdsa,
        });
        fits && self.takes_key(kind) && self.can_sign(kind)
    }

    fn takes_key(&self, kind: KeyKind) -> bool {
        if kind == KeyKind::Rsa || self.version == VersionLimit::Tls1_3 {
            return true;
        }
        self.offers.groups.as_ref().is_none_or(|groups| groups.contains(&P256))
            && self.offers.point_formats.is_none_or(|formats| formats.contains(&0))
    }

    /// Whether there is a signature scheme for a leaf of this kind. OpenSSL wants one even for suites that sign
    /// nothing.
    fn can_sign(&self, kind: KeyKind) -> bool {
        const RSA_SHA1: u16 = 0x0201;
        const ECDSA_SHA1: u16 = 0x0203;

        if self.version < VersionLimit::Tls1_2 {
            return true;
        }
        // Who says nothing means SHA-1.
        let Some(schemes) = &self.offers.signature_schemes else { return self.offer.sha1 };
        let shared = |scheme: &u16| self.offer.signature_schemes.contains(scheme);
        let tls13 = self.version == VersionLimit::Tls1_3;
        let (modern, sha1): (&[SignatureScheme], u16) = match kind {
            KeyKind::Ecdsa => (&ECDSA_SCHEMES, ECDSA_SHA1),
            KeyKind::Rsa => (&RSA_SCHEMES, RSA_SHA1),
        };
        let modern = modern.iter().filter(|scheme| !tls13 || !is_pkcs1(**scheme));
        let mut usable = modern.map(|scheme| u16::from(*scheme)).chain((!tls13).then_some(sha1));
        usable.any(|scheme| schemes.contains(&scheme) && shared(&scheme))
    }
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
        Err(no_version(options))
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
    /// A name that rustls takes for none.
    odd_name: Option<String>,
    /// And OpenSSL neither.
    impossible_name: bool,
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
            extension::SERVER_NAME => self.read_server_name(body)?,
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

    /// One host name is fine, and so is an address, which rustls passes over. OpenSSL takes any text.
    fn read_server_name(&mut self, body: &[u8]) -> Result<(), String> {
        let names = list16(body).unwrap_or_default();
        let name = match names.split_first() {
            Some((0, rest)) => list16(rest),
            _ => None,
        };
        let Some(name) = name else {
            return Err("the client asks for something other than one server name".into());
        };
        if ServerName::try_from(name).is_err() {
            let shown = name.escape_ascii().take(255).map(char::from).collect();
            self.odd_name = Some(shown);
            self.impossible_name = name.len() > 255 || name.contains(&0);
        }
        Ok(())
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
