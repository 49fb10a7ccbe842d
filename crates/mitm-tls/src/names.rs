//! The names a leaf certificate is made for, and the forms under which custom certificates are found.
//!
//! Names come from up to three places, in this order, duplicates dropped: the server's certificate,
//! the name the client asked for (else the address it connected to), the server's address. The first
//! becomes the common name.

use std::{borrow::Cow, collections::HashSet, net::IpAddr, sync::Arc};

use bytes::Bytes;
use mitm_flow::Cert;
use x509_parser::prelude::{DistributionPointName, GeneralName, ParsedExtension};

use crate::der::{Elements, GENERAL_NAME_DNS, GENERAL_NAME_IP, SEQUENCE};

/// Names copied from one server certificate; what is beyond would make a leaf no client accepts.
const MAX_COPIED_NAMES: usize = 2_000;
const MAX_COPIED_BYTES: usize = 32 << 10;
/// An organisation beyond this is not copied.
const MAX_ORGANIZATION: usize = 256;
const MAX_HOST: usize = 255;

/// One name of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LeafName {
    /// A host name in its ASCII form, lower case, possibly with a wildcard.
    Dns(Box<str>),
    Ip(IpAddr),
    /// An alternative name of another kind, as a DER `GeneralName`.
    Other(Bytes),
    /// A common name that is no host name: shown in the subject, not an alternative name.
    Title(Box<str>),
}

impl LeafName {
    /// Reads a host name or IP address. `None` if it can be neither.
    pub fn from_host(host: &str) -> Option<Self> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Some(Self::Ip(ip));
        }
        ascii_host(host).map(|host| Self::Dns(host.into()))
    }

    /// Returns the text of the name, if it has one.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Dns(name) | Self::Title(name) => Some(Cow::Borrowed(name)),
            Self::Ip(ip) => Some(Cow::Owned(ip.to_string())),
            Self::Other(_) => None,
        }
    }

    pub(crate) fn is_alternative(&self) -> bool {
        !matches!(self, Self::Title(_))
    }

    fn size(&self) -> usize {
        match self {
            Self::Dns(name) | Self::Title(name) => name.len(),
            Self::Ip(_) => 16,
            Self::Other(der) => der.len(),
        }
    }
}

impl From<IpAddr> for LeafName {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

/// What of a server's certificate goes into ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamFacts {
    /// The common name, then the alternative names.
    pub names: Arc<[LeafName]>,
    pub organization: Option<Arc<str>>,
    /// Scheme and authority of the first place its revocation list is found at.
    pub crl_origin: Option<Arc<str>>,
}

impl UpstreamFacts {
    /// Reads a server's certificate. What cannot be parsed is left out.
    pub fn of(cert: &Cert) -> Self {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(cert.der()) else {
            return Self::default();
        };
        let mut names = Vec::new();
        let common_name = parsed.subject().iter_common_name().next();
        if let Some(name) = common_name.and_then(|name| name.as_str().ok())
            && !name.is_empty()
            && name.len() <= MAX_COPIED_BYTES
        {
            names.push(LeafName::from_host(name).unwrap_or_else(|| LeafName::Title(name.into())));
        }
        names.extend(alternative_names(&parsed));
        let organization = parsed
            .subject()
            .iter_organization()
            .next()
            .and_then(|name| name.as_str().ok())
            .filter(|name| !name.is_empty() && name.len() <= MAX_ORGANIZATION)
            .map(Into::into);
        Self { names: names.into(), organization, crl_origin: crl_origin(&parsed) }
    }
}

/// Returns the names of the leaf to show a client, the common name first.
///
/// `upstream` is the server's certificate, if it is known and to be looked at (`upstream_cert`);
/// `sni` the name the client sent; `local` the address it connected to; `host` the address of the
/// server. Texts that are neither host names nor addresses are left out.
pub fn names_for_leaf(
    upstream: Option<&UpstreamFacts>,
    sni: Option<&str>,
    local: Option<IpAddr>,
    host: Option<&str>,
) -> Vec<LeafName> {
    let copied = upstream.map(|facts| &*facts.names).unwrap_or_default();
    let asked = sni.and_then(LeafName::from_host).or(local.map(LeafName::Ip));
    let host = host.and_then(LeafName::from_host);

    let mut seen = HashSet::new();
    let mut names = Vec::with_capacity(copied.len() + 2);
    for name in copied.iter().cloned().chain(asked).chain(host) {
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    names
}

/// Returns the forms under which a certificate for `name` may be configured, the closest first:
/// itself, then with leading labels replaced by an asterisk.
pub fn asterisk_forms(name: &str) -> impl Iterator<Item = String> {
    let labels = if name.parse::<IpAddr>().is_ok() { "" } else { name };
    let shorter = labels
        .match_indices('.')
        .filter_map(move |(dot, _)| labels.get(dot..))
        .map(|tail| format!("*{tail}"));
    std::iter::once(name.to_owned()).chain(shorter)
}

/// Tells whether a text is a host name or an IP address: labels of letters, digits, `-` and `_` up
/// to 63 bytes, 255 in all, after IDNA encoding; one trailing dot is fine.
pub fn is_valid_host(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
        || ascii_host(host).is_some_and(|ascii| !ascii.bytes().any(|byte| byte == b'*'))
}

/// The lower-case ASCII form of a host name, which may hold a wildcard, without a trailing dot.
fn ascii_host(host: &str) -> Option<String> {
    if host.len() > 4 * MAX_HOST {
        return None;
    }
    let ascii = if host.is_ascii() {
        host.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(host).ok()?
    };
    let ascii = ascii.strip_suffix('.').unwrap_or(&ascii);
    let valid = ascii.len() <= MAX_HOST
        && ascii.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && (label == "*"
                    || label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
        });
    valid.then(|| ascii.to_owned())
}

fn alternative_names(cert: &x509_parser::certificate::X509Certificate<'_>) -> Vec<LeafName> {
    let id = x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
    let Some(extension) = cert.iter_extensions().find(|extension| extension.oid == id) else {
        return Vec::new();
    };
    let Some(sequence) = Elements::new(extension.value).expect(SEQUENCE) else {
        return Vec::new();
    };
    let mut room = MAX_COPIED_BYTES;
    Elements::new(sequence.content)
        .take(MAX_COPIED_NAMES)
        .filter_map(|element| match element.tag {
            GENERAL_NAME_DNS => {
                std::str::from_utf8(element.content).ok().and_then(LeafName::from_host)
            }
            GENERAL_NAME_IP => match *element.content {
                [a, b, c, d] => Some(LeafName::Ip(IpAddr::from([a, b, c, d]))),
                ref bytes => {
                    <[u8; 16]>::try_from(bytes).ok().map(|ip| LeafName::Ip(IpAddr::from(ip)))
                }
            },
            // The kinds of RFC 5280; anything else would make a certificate nobody can parse.
            0x80..=0x88 | 0xa0..=0xa8 => Some(LeafName::Other(Bytes::copy_from_slice(element.raw))),
            _ => None,
        })
        .map_while(|name| {
            room = room.checked_sub(name.size())?;
            Some(name)
        })
        .collect()
}

fn crl_origin(cert: &x509_parser::certificate::X509Certificate<'_>) -> Option<Arc<str>> {
    let url = cert.iter_extensions().find_map(|extension| {
        let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() else {
            return None;
        };
        points.iter().find_map(|point| match &point.distribution_point {
            Some(DistributionPointName::FullName(names)) => {
                names.iter().find_map(|name| match name {
                    GeneralName::URI(url) => Some(*url),
                    _ => None,
                })
            }
            _ => None,
        })
    })?;
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    (plain(scheme) && plain(authority) && authority.len() <= MAX_HOST)
        .then(|| format!("{scheme}://{authority}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[LeafName]) -> Vec<String> {
        names.iter().filter_map(|name| name.text().map(Cow::into_owned)).collect()
    }

    #[test]
    fn hosts_become_names() {
        for (host, expected) in [
            ("Example.COM", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("bücher.example", Some("xn--bcher-kva.example")),
            ("*.example.com", Some("*.example.com")),
            ("a_b.example", Some("a_b.example")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("[::1]", Some("::1")),
            ("::1", Some("::1")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("host:80", None),
            ("My Server", None),
            ("f*.example", None),
        ] {
            let name = LeafName::from_host(host);
            assert_eq!(name.as_ref().and_then(LeafName::text).as_deref(), expected, "{host}");
        }
        assert!(LeafName::from_host(&"a".repeat(64)).is_none());
        assert!(LeafName::from_host(&"ü".repeat(5000)).is_none());
    }

    #[test]
    fn names_are_collected_in_order_without_duplicates() {
        let facts = UpstreamFacts {
            names: [
                LeafName::Title("My Server".into()),
                LeafName::Dns("a.example".into()),
                LeafName::Dns("b.example".into()),
            ]
            .into(),
            ..UpstreamFacts::default()
        };
        let local = Some(IpAddr::from([10, 0, 0, 1]));
        let names = names_for_leaf(Some(&facts), Some("B.example"), local, Some("192.0.2.1"));
        assert_eq!(texts(&names), ["My Server", "a.example", "b.example", "192.0.2.1"]);
        let names = names_for_leaf(None, None, local, Some("192.0.2.1"));
        assert_eq!(texts(&names), ["10.0.0.1", "192.0.2.1"]);
        assert!(names_for_leaf(None, None, None, None).is_empty());
    }

    #[test]
    fn asterisk_forms_go_from_close_to_far() {
        let forms = |name| asterisk_forms(name).collect::<Vec<_>>();
        assert_eq!(forms("www.example.com"), ["www.example.com", "*.example.com", "*.com"]);
        assert_eq!(forms("localhost"), ["localhost"]);
        assert_eq!(forms("192.0.2.1"), ["192.0.2.1"]);
    }

    #[test]
    fn host_validity_follows_the_rules_for_sni() {
        for host in ["example.com", "example.com.", "::1", "1.2.3.4", "a_b.c-d", "ünï.example"] {
            assert!(is_valid_host(host), "{host}");
        }
        for host in ["", "*.example.com", "a b", "a:1", "a/b", "x\0y"] {
            assert!(!is_valid_host(host), "{host}");
        }
    }
}
