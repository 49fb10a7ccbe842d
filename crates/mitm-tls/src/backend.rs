//! [`backend_for`]: which TLS library can answer a client.
//!
//! Decided from the bytes of the hello before any library has seen them, since a handshake cannot be
//! handed over once begun. The rules repeat what rustls does with a hello: which version it picks, and
//! whether that leaves a suite, a group and a signature scheme.

use rustls::{CipherSuite, SignatureScheme, SupportedProtocolVersion, version};
use rustls_pki_types::DnsName;

use crate::{
    hello::{ClientHello, ServerNameOffer},
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

/// Tells which library can answer a hello, and which kind of key it needs.
pub fn backend_for(hello: &ClientHello, options: &TlsOptions) -> Backend {
    match options.profile().and_then(|profile| rustls_key(hello, options, &profile)) {
        Ok(key) => Backend::Rustls(key),
        Err(reason) => Backend::Unsupported(Unsupported(reason)),
    }
}

/// Walks the rules of rustls. Returns the kind of leaf it would succeed with.
fn rustls_key(
    hello: &ClientHello,
    options: &TlsOptions,
    profile: &Profile,
) -> Result<KeyKind, String> {
    if let Some(duplicate) = duplicate_extension(hello) {
        return Err(format!("the client sends extension {duplicate} twice"));
    }
    if !hello.compression_methods.contains(&0) {
        return Err("the client insists on compression".into());
    }
    match &hello.server_name {
        ServerNameOffer::Absent => {}
        ServerNameOffer::Host(name) => {
            if name.parse::<std::net::IpAddr>().is_err() && DnsName::try_from(&**name).is_err() {
                return Err(format!("the client asks for '{name}', which is no server name"));
            }
        }
        ServerNameOffer::Invalid => {
            return Err("the client asks for something that is no server name".into());
        }
    }
    let Some(schemes) = &hello.signature_schemes else {
        return Err("the client names no signature algorithms".into());
    };
    let enabled = |wanted: &SupportedProtocolVersion| profile.versions.contains(&wanted);
    let tls13 = if hello.offers_tls13() && enabled(&version::TLS13) {
        true
    } else if hello.offers_tls12() && enabled(&version::TLS12) {
        false
    } else {
        return Err(format!(
            "the client and the proxy have no TLS version in common (tls_version_client_min {}, \
             tls_version_client_max {})",
            options.min, options.max
        ));
    };
    if tls13 {
        if hello.compression_methods.len() != 1 {
            return Err("the client offers compression with TLS 1.3".into());
        }
        if !hello.has_key_shares {
            return Err("the client offers TLS 1.3 without a key share".into());
        }
    } else if hello.point_formats.as_ref().is_some_and(|formats| !formats.contains(&0)) {
        return Err("the client takes compressed points only".into());
    }
    let groups = hello.supported_groups.as_deref().unwrap_or_default();
    let common_group = profile.provider.kx_groups.iter().any(|group| {
        let version =
            if tls13 { rustls::ProtocolVersion::TLSv1_3 } else { rustls::ProtocolVersion::TLSv1_2 };
        group.usable_for_version(version) && groups.contains(&u16::from(group.name()))
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

/// Whether there is a suite both sides have that goes with a kind of key.
fn has_suite(hello: &ClientHello, profile: &Profile, tls13: bool, kind: KeyKind) -> bool {
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

fn duplicate_extension(hello: &ClientHello) -> Option<u16> {
    let mut kinds: Vec<u16> = hello.extensions.iter().map(|(kind, _)| *kind).collect();
    kinds.sort_unstable();
    kinds.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some(*a),
        _ => None,
    })
}
