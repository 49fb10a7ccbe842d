//! [`Cert`]: an X.509 certificate and what it says.
//!
//! A certificate is the bytes that a peer sent, whatever they are. They are looked into when somebody asks, once; what
//! cannot be parsed says nothing. Nothing here verifies signatures or chains.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use data_encoding::BASE64;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::{
    extensions::{DistributionPointName, GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
    x509::{AttributeTypeAndValue, X509Name},
};

/// A certificate, kept as DER. Equal if the bytes are. Cloning shares it.
#[derive(Clone)]
pub struct Cert(Arc<Inner>);

struct Inner {
    der: Bytes,
    facts: OnceLock<Option<Box<CertFacts>>>,
}

/// The text has no certificate in PEM form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a certificate in PEM form")]
pub struct InvalidPem;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFacts {
    /// Short name (`CN`, `O`, …; a dotted number if it has none) and value of each attribute, in order.
    pub subject: Vec<(String, String)>,
    pub issuer: Vec<(String, String)>,
    /// In decimal digits; of a serial number longer than any that is valid, hexadecimal ones after `0x`.
    pub serial: String,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    /// True if the certificate may issue others.
    pub is_ca: bool,
    /// `RSA`, `DSA`, `EC (curve)` or the name of another algorithm.
    pub key_kind: String,
    /// The length of the key, if its algorithm has keys of different lengths.
    pub key_bits: Option<u32>,
    pub altnames: Vec<AltName>,
    /// URLs of revocation lists.
    pub crl_distribution_points: Vec<String>,
}

/// One of the names that a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AltName {
    Dns(String),
    Ip(IpAddr),
    Email(String),
    Uri(String),
    /// A readable form of a name of another kind.
    Other(String),
}

/// The name without its kind.
impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Dns(name) | Self::Email(name) | Self::Uri(name) | Self::Other(name) => {
                name.fmt(f)
            }
        }
    }
}

impl Cert {
    pub fn from_der(der: impl Into<Bytes>) -> Self {
        Self(Arc::new(Inner { der: der.into(), facts: OnceLock::new() }))
    }

    /// Reads the first certificate of a PEM text; other things in it are skipped.
    ///
    /// # Errors
    /// There is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, InvalidPem> {
        let der = CertificateDer::from_pem_slice(pem).map_err(|_| InvalidPem)?;
        Ok(Self::from_der(der.to_vec()))
    }

    /// Reads all certificates of a PEM text in order.
    ///
    /// # Errors
    /// There is none, or one of them is malformed.
    pub fn chain_from_pem(pem: &[u8]) -> Result<Vec<Self>, InvalidPem> {
        let chain: Vec<Self> = CertificateDer::pem_slice_iter(pem)
            .map(|der| der.map(|der| Self::from_der(der.to_vec())).map_err(|_| InvalidPem))
            .collect::<Result<_, _>>()?;
        if chain.is_empty() { Err(InvalidPem) } else { Ok(chain) }
    }

    /// Returns the certificate in PEM form.
    pub fn to_pem(&self) -> String {
        let base64 = BASE64.encode(self.der());
        let mut out = String::with_capacity(base64.len() + base64.len() / 64 + 64);
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        for (i, digit) in base64.chars().enumerate() {
            if i > 0 && i % 64 == 0 {
                out.push('\n');
            }
            out.push(digit);
        }
        out.push_str("\n-----END CERTIFICATE-----\n");
        out
    }

    pub fn der(&self) -> &Bytes {
        &self.0.der
    }

    /// Returns the SHA-256 hash of the DER form.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.der()).into()
    }

    /// Returns what the certificate says; `None` if it cannot be parsed.
    pub fn facts(&self) -> Option<&CertFacts> {
        self.0.facts.get_or_init(|| read_facts(self.der()).map(Box::new)).as_deref()
    }

    /// Returns the common name of the subject.
    pub fn cn(&self) -> Option<&str> {
        self.subject_attribute("CN")
    }

    /// Returns the organisation of the subject.
    pub fn organization(&self) -> Option<&str> {
        self.subject_attribute("O")
    }

    fn subject_attribute(&self, wanted: &str) -> Option<&str> {
        let subject = &self.facts()?.subject;
        subject.iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value)
    }

    /// Returns the alternative names of the subject.
    pub fn altnames(&self) -> &[AltName] {
        self.facts().map_or(&[], |facts| &facts.altnames)
    }

    /// True if the certificate has expired at `now`, in Unix seconds.
    pub fn has_expired(&self, now: f64) -> bool {
        self.facts().is_some_and(|facts| (facts.not_after as f64) < now)
    }
}

impl PartialEq for Cert {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.der == other.0.der
    }
}

impl Eq for Cert {}

impl Hash for Cert {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.der.hash(state);
    }
}

impl fmt::Debug for Cert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.facts() {
            Some(_) => write!(f, "Cert(cn={:?}, altnames={:?})", self.cn(), self.altnames()),
            None => write!(f, "Cert({} bytes)", self.der().len()),
        }
    }
}

/// Serial numbers have up to 20 octets (RFC 5280 §4.1.2.2); some more are tolerated.
const MAX_SERIAL: usize = 64;

fn read_facts(der: &[u8]) -> Option<CertFacts> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let raw_serial = cert.raw_serial();
    let serial = if raw_serial.len() <= MAX_SERIAL {
        cert.serial.to_string()
    } else {
        // Decimal digits of a number of megabytes would take forever.
        format!("0x{}", data_encoding::HEXLOWER.encode(raw_serial))
    };
    let mut facts = CertFacts {
        subject: name_attributes(cert.subject()),
        issuer: name_attributes(cert.issuer()),
        serial,
        not_before: cert.validity().not_before.timestamp(),
        not_after: cert.validity().not_after.timestamp(),
        is_ca: false,
        key_kind: String::new(),
        key_bits: None,
        altnames: Vec::new(),
        crl_distribution_points: Vec::new(),
    };
    (facts.key_kind, facts.key_bits) = key_facts(&cert);
    for extension in cert.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => facts.is_ca = constraints.ca,
            ParsedExtension::SubjectAlternativeName(names) => {
                facts.altnames.extend(names.general_names.iter().map(alt_name));
            }
            ParsedExtension::CRLDistributionPoints(points) => {
                for point in points.iter() {
                    let Some(DistributionPointName::FullName(names)) = &point.distribution_point
                    else {
                        continue;
                    };
                    facts.crl_distribution_points.extend(names.iter().filter_map(
                        |name| match name {
                            GeneralName::URI(uri) => Some((*uri).to_owned()),
                            _ => None,
                        },
                    ));
                }
            }
            _ => {}
        }
    }
    Some(facts)
}

fn name_attributes(name: &X509Name<'_>) -> Vec<(String, String)> {
    name.iter_attributes().map(|attr| (attribute_name(attr), attribute_value(attr))).collect()
}

/// Returns the short name by RFC 4514 §3, else the dotted number.
fn attribute_name(attribute: &AttributeTypeAndValue<'_>) -> String {
    const NAMES: [(&str, &str); 9] = [
        ("2.5.4.3", "CN"),
        ("2.5.4.6", "C"),
        ("2.5.4.7", "L"),
        ("2.5.4.8", "ST"),
        ("2.5.4.9", "STREET"),
        ("2.5.4.10", "O"),
        ("2.5.4.11", "OU"),
        ("0.9.2342.19200300.100.1.1", "UID"),
        ("0.9.2342.19200300.100.1.25", "DC"),
    ];
    let oid = attribute.attr_type().to_id_string();
    NAMES.iter().find(|(known, _)| *known == oid).map_or(oid, |(_, name)| (*name).to_owned())
}

fn attribute_value(attribute: &AttributeTypeAndValue<'_>) -> String {
    const TELETEX: u32 = 20;
    const UNIVERSAL: u32 = 28;
    const BMP: u32 = 30;
    let value = attribute.attr_value();
    let charset = match value.tag().0 {
        BMP => "utf-16be",
        UNIVERSAL => "utf-32be",
        TELETEX => "latin-1",
        _ => "utf-8",
    };
    crate::charset::decode_lenient(charset, value.data).into_owned()
}

fn alt_name(name: &GeneralName<'_>) -> AltName {
    match name {
        GeneralName::DNSName(name) => AltName::Dns((*name).to_owned()),
        GeneralName::RFC822Name(name) => AltName::Email((*name).to_owned()),
        GeneralName::URI(uri) => AltName::Uri((*uri).to_owned()),
        GeneralName::IPAddress(ip) => {
            let v4 = <[u8; 4]>::try_from(*ip).map(IpAddr::from);
            match v4.or_else(|_| <[u8; 16]>::try_from(*ip).map(IpAddr::from)) {
                Ok(ip) => AltName::Ip(ip),
                Err(_) => AltName::Other(format!("invalid IP address {ip:02x?}")),
            }
        }
        other => AltName::Other(other.to_string()),
    }
}

fn key_facts(cert: &X509Certificate<'_>) -> (String, Option<u32>) {
    let key = cert.public_key();
    let bits = |bits: usize| u32::try_from(bits).ok();
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let modulus = rsa.modulus.iter().position(|byte| *byte != 0);
            let modulus = modulus.and_then(|start| rsa.modulus.get(start..)).unwrap_or_default();
            let zeros = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
            ("RSA".into(), bits(modulus.len() * 8 - zeros))
        }
        Ok(PublicKey::EC(point)) => {
            let oid = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
            let oid = oid.map(|oid| oid.to_id_string()).unwrap_or_default();
            let known = CURVES.iter().find(|(known, ..)| *known == oid);
            match known {
                Some((_, name, size)) => (format!("EC ({name})"), Some(*size)),
                None => (format!("EC ({oid})"), bits(point.key_size())),
            }
        }
        Ok(PublicKey::DSA(_)) => {
            // The size is that of the prime, the first of the parameters.
            let prime = key.algorithm.parameters.as_ref().and_then(|any| {
                let (_, integer) =
                    x509_parser::der_parser::der::parse_der_integer(any.data).ok()?;
                let digits = integer.as_slice().ok()?;
                let start = digits.iter().position(|byte| *byte != 0)?;
                Some((digits.len() - start) * 8)
            });
            ("DSA".into(), prime.and_then(bits))
        }
        _ => {
            let oid = key.algorithm.algorithm.to_id_string();
            let name = match oid.as_str() {
                "1.3.101.110" => "X25519",
                "1.3.101.111" => "X448",
                "1.3.101.112" => "Ed25519",
                "1.3.101.113" => "Ed448",
                oid => oid,
            };
            (name.to_owned(), None)
        }
    }
}

/// Number, name and key length of the curves in certificates.
const CURVES: [(&str, &str, u32); 8] = [
    ("1.2.840.10045.3.1.1", "secp192r1", 192),
    ("1.3.132.0.33", "secp224r1", 224),
    ("1.2.840.10045.3.1.7", "secp256r1", 256),
    ("1.3.132.0.10", "secp256k1", 256),
    ("1.3.132.0.34", "secp384r1", 384),
    ("1.3.132.0.35", "secp521r1", 521),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1", 256),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1", 384),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Made by `openssl req -x509`, with the names that the tests expect.
    const EC: &[u8] = include_bytes!("../tests/data/ec.pem");
    const RSA: &[u8] = include_bytes!("../tests/data/rsa.pem");
    const ED25519: &[u8] = include_bytes!("../tests/data/ed.pem");

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn facts_are_read() {
        let cert = Cert::from_pem(EC).unwrap();
        let mut facts = cert.facts().unwrap().clone();
        let other = facts.altnames.pop().unwrap();
        assert!(matches!(other, AltName::Other(text) if !text.is_empty()));
        let subject = [
            ("C", "DE"),
            ("O", "Acme Ü"),
            ("CN", "example.com"),
            ("1.2.840.113549.1.9.1", "a@b.c"),
        ];
        let expected = CertFacts {
            subject: pairs(&subject),
            issuer: pairs(&subject),
            serial: "303857647824136505520997166636254524283402015895".into(),
            not_before: 1_795_524_436,
            not_after: 4_949_124_436,
            is_ca: true,
            key_kind: "EC (secp256r1)".into(),
            key_bits: Some(256),
            altnames: vec![
                AltName::Dns("example.com".into()),
                AltName::Dns("*.example.com".into()),
                AltName::Ip("1.2.3.4".parse().unwrap()),
                AltName::Ip("::1".parse().unwrap()),
                AltName::Email("x@y.z".into()),
                AltName::Uri("http://u/".into()),
            ],
            crl_distribution_points: vec!["http://crl/x.crl".into()],
        };
        assert_eq!(facts, expected);
        assert_eq!((cert.cn(), cert.organization()), (Some("example.com"), Some("Acme Ü")));
        assert_eq!(
            data_encoding::HEXLOWER.encode(&cert.fingerprint()),
            "75498411df8e00ec0f2ff5ba6f0823bcfab1c5ef8333dac5bc72ba3e8455805d"
        );
        let end = facts.not_after as f64;
        assert!(!cert.has_expired(end) && cert.has_expired(end + 1.0));
    }

    #[test]
    fn other_keys_are_named() {
        let facts = |pem| Cert::from_pem(pem).unwrap().facts().unwrap().clone();
        let rsa = facts(RSA);
        assert_eq!((&*rsa.key_kind, rsa.key_bits, rsa.is_ca), ("RSA", Some(2048), false));
        assert_eq!(rsa.serial, "82309555519374848965261892099905843953919");
        let ed25519 = facts(ED25519);
        assert_eq!((&*ed25519.key_kind, ed25519.key_bits), ("Ed25519", None));
        assert_eq!(ed25519.subject, pairs(&[("OU", "x")]));
    }

    #[test]
    fn pem_round_trips() {
        let text = [&b"# comment\n"[..], EC, b"between\n", RSA].concat();
        let chain = Cert::chain_from_pem(&text).unwrap();
        assert_eq!(chain, [Cert::from_pem(EC).unwrap(), Cert::from_pem(RSA).unwrap()]);
        assert_eq!(chain[0].to_pem().as_bytes(), EC);
        assert_eq!(Cert::from_pem(b"nothing"), Err(InvalidPem));
        assert_eq!(Cert::chain_from_pem(b""), Err(InvalidPem));
    }

    #[test]
    fn junk_says_nothing() {
        let junk = Cert::from_der("junk");
        assert_eq!((junk.facts(), junk.cn(), junk.altnames()), (None, None, &[][..]));
        assert!(!junk.has_expired(f64::INFINITY));
        assert_eq!(format!("{junk:?}"), "Cert(4 bytes)");
    }

    proptest! {
        #[test]
        fn damage_does_no_harm(at in 0..600_usize, byte: u8, cut in 0..600_usize) {
            for pem in [EC, RSA, ED25519] {
                let mut der = Cert::from_pem(pem).unwrap().der().to_vec();
                der.truncate(der.len().max(cut) - cut);
                if let Some(place) = der.get_mut(at) {
                    *place = byte;
                }
                let cert = Cert::from_der(der);
                let _ = format!("{cert:?}");
                let mut damaged = Cert::from_pem(pem).unwrap().der().to_vec();
                if let Some(place) = damaged.get_mut(at) {
                    *place = byte;
                }
                let _ = format!("{:?}", Cert::from_der(damaged));
            }
        }
    }
}
